"""Motion: free fall, momenta, energy, order in dt, drag and viscosity, handles."""

from __future__ import annotations

import math

import pytest
import torch
from fem_scenes import at, gel, rope, strip
from helpers import slope
from rheograd.sim.core.rollout import rollout
from rheograd.sim.fem import FEMConfig, FEMControl, FEMModel, Handle, Solid, SolverFEM
from rheograd.sim.fem.meshes import box

NONE = (0.0, 0.0, 0.0)


def block(gravity=NONE, **changes):
    """A free block of jelly."""
    X, tets = box((2, 2, 2), (0.1, 0.1, 0.1))
    values = dict(name="gel", cells=tets, E=1e4, nu=0.3, rho=1000.0) | changes
    return FEMModel(X, [Solid(**values)], gravity=gravity)


def tossed(model, generator, speed=0.3):
    """A state that moves, turns and shakes."""
    shake = speed * torch.randn(model.X.shape, generator=generator, dtype=torch.float64)
    turn = torch.linalg.cross(torch.tensor([[2.0, -1.0, 3.0]]).double().expand_as(model.X), model.X)
    return model.initial_state(v=shake + turn)


def momenta(model, state):
    mass = SolverFEM(model).prepare(None, state).mass[0, :, None]
    p = (mass * state.v[0]).sum(0)
    return p, torch.linalg.cross(state.x[0], mass * state.v[0]).sum(0)


@pytest.mark.parametrize("scheme, order", [("euler", 1), ("bdf2", 2), ("midpoint", 2)])
def test_free_fall(scheme, order):
    """Rigid motion is what the scheme makes of x'' = g: exact for midpoint."""
    model = block(gravity=(0.0, 0.0, -9.81))
    errors = []
    for steps in (10, 20):
        solver = SolverFEM(model, FEMConfig(dt=0.2 / steps, scheme=scheme))
        x = rollout(solver, model.initial_state(), steps, save_every=steps).final.x
        drop = model.X - x[0]
        assert float((drop - drop[0]).abs().max()) < 1e-9  # nothing deforms
        errors.append(abs(float(drop[0, 2]) - 0.5 * 9.81 * 0.04))
    if scheme == "midpoint":
        assert max(errors) < 1e-12
    else:
        assert abs(math.log2(errors[0] / errors[1]) - order) < 0.2


@pytest.mark.parametrize("scheme", ["euler", "bdf2", "midpoint"])
def test_momenta_of_a_free_body(scheme, generator):
    model = block(eta=0.5)
    solver = SolverFEM(model, FEMConfig(dt=5e-3, scheme=scheme, tol=1e-10))
    start = tossed(model, generator)
    end = rollout(solver, start, 10, save_every=10).final
    (p0, l0), (p1, l1) = momenta(model, start), momenta(model, end)
    assert float((p1 - p0).abs().max()) < 1e-10
    if scheme == "midpoint":
        assert float((l1 - l0).abs().max()) < 1e-11
    else:
        assert float((l1 - l0).norm() / l0.norm()) < 0.2


def test_energy_decays_or_stays(generator):
    """Euler takes energy out, midpoint keeps it: 12 steps of 5 ms of a shaken block."""
    model = block()
    start = tossed(model, generator)

    def energies(scheme):
        solver = SolverFEM(model, FEMConfig(dt=5e-3, scheme=scheme, tol=1e-9))
        run = rollout(solver, start, 12)
        return [sum(float(e) for e in solver.energy(s).values()) for s in run]

    euler, bdf2, midpoint = (energies(s) for s in ("euler", "bdf2", "midpoint"))
    assert all(b <= a + 1e-12 for a, b in zip(euler, euler[1:], strict=False))
    assert euler[-1] < 0.8 * euler[0]
    assert euler[-1] < bdf2[-1] < bdf2[0]
    assert max(abs(e - midpoint[0]) for e in midpoint) < 0.02 * midpoint[0]


SOFT = [(gel, {"E": 2e4}), (strip, {"E": 2e4, "h": 2e-3}), (rope, {"E": 1e5, "r": 5e-3})]


ORDERS = [(*SOFT[0], "euler", 1), (*SOFT[0], "midpoint", 2), (*SOFT[0], "bdf2", 2)]
ORDERS += [(*SOFT[1], "bdf2", 2), (*SOFT[2], "midpoint", 2)]


@pytest.mark.parametrize("make, soft, scheme, order", ORDERS)
def test_order_in_time(make, soft, scheme, order):
    """Bending under gravity while the grip moves; so soft that the steps resolve every mode."""
    model = make(**soft)
    state = model.initial_state()
    twist = torch.zeros(1, 1, 6, dtype=torch.float64)
    twist[..., 2], twist[..., 4] = 0.05, 1.0
    T = 0.02 if make is not rope else 0.04

    def end(steps):
        solver = SolverFEM(model, FEMConfig(dt=T / steps, scheme=scheme, tol=1e-10))
        return rollout(solver, state, [FEMControl(twist)] * steps, save_every=steps).final.x

    levels = (4, 8, 16)
    exact = (2**order * end(2 * levels[-1]) - end(levels[-1])) / (2**order - 1)
    errors = [float((end(n) - exact).norm()) for n in levels[:-1]]
    assert abs(-slope(list(levels[:-1]), errors) - order) < 0.25, errors


def test_drag_slows_all_motion_alike():
    """v' = v/(1 + c dt) in every step of euler."""
    model = FEMModel(block().X, block().parts, gravity=NONE, drag=3.0)
    solver = SolverFEM(model, FEMConfig(dt=0.01))
    v = torch.tensor([0.3, 0.1, -0.2], dtype=torch.float64).expand(model.X.shape)
    state = rollout(solver, model.initial_state(v=v), 10, save_every=10).final
    assert float((state.v - v / 1.03**10).abs().max()) < 1e-10


def test_viscosity_damps_shaking_but_not_turning(generator):
    model, thick = block(), block(eta=20.0)
    axis = torch.tensor([[0.0, 0.0, 1.0]]).double()
    turning = torch.linalg.cross(axis.expand_as(model.X), model.X)
    config = FEMConfig(dt=1e-3, scheme="midpoint", tol=1e-10)

    def lost(scene, state):
        solver = SolverFEM(scene, config)
        energy = [
            solver.energy(s) for s in (state, rollout(solver, state, 10, save_every=10).final)
        ]
        before, after = (sum(float(v) for v in e.values()) for e in energy)
        return 1 - after / before

    shaken = tossed(model, generator)
    assert lost(thick, shaken) > 0.2 > 20 * abs(lost(model, shaken))
    spin = model.initial_state(v=turning)
    assert abs(lost(thick, spin)) < 1e-3


def test_handles_move_rigidly():
    """Driven points follow position and rotation; velocities are those of the motion."""
    X, tets = box((2, 1, 1), (0.2, 0.1, 0.1))
    solid = Solid(name="gel", cells=tets, E=1e4, nu=0.3, rho=1000.0)
    grip = Handle("grip", at(X, 0, 0.0), position=(0.0, 0.05, 0.05))
    model = FEMModel(X, [solid], [grip], gravity=NONE)
    twist = torch.tensor([[[0.1, 0.0, -0.2, 0.0, 2.0, 1.0]]], dtype=torch.float64)
    for scheme in ("euler", "bdf2", "midpoint", "static"):
        solver = SolverFEM(model, FEMConfig(dt=0.01, scheme=scheme))
        run = rollout(solver, model.initial_state(), [FEMControl(twist)] * 10)
        x = run.final.x[0, model.handle_points[0]]
        centre = torch.tensor([0.01, 0.05, 0.03], dtype=torch.float64)
        assert float((run.final.pose[0, 0, :3] - centre).abs().max()) < 1e-14
        angle = torch.tensor([0.0, 0.2, 0.1], dtype=torch.float64)
        eye = torch.eye(3, dtype=torch.float64)
        generator = torch.linalg.cross(angle.expand(3, 3), eye).mT
        rest = X[model.handle_points[0]] - torch.tensor([0.0, 0.05, 0.05], dtype=torch.float64)
        assert float((x - centre - rest @ torch.matrix_exp(generator).mT).abs().max()) < 1e-12
        exact = torch.linalg.cross(angle.expand_as(x) * 10, x - centre) + twist[0, 0, :3]
        # One-sided differences over a step see the rotation half a step late.
        v = run.final.v[0, model.handle_points[0]]
        assert float((v - exact).abs().max()) < 5e-3


def test_every_point_driven():
    """Nothing to solve is no problem."""
    X, tets = box((1, 1, 1), (0.1, 0.1, 0.1))
    solid = Solid(name="gel", cells=tets, E=1e4, nu=0.3, rho=1000.0)
    model = FEMModel(X, [solid], [Handle("all", torch.arange(8))])
    twist = torch.tensor([[[0.1, 0, 0, 0, 0, 0]]], dtype=torch.float64)
    state = SolverFEM(model).step(model.initial_state(), FEMControl(twist))
    assert float((state.x[0] - X - torch.tensor([5e-4, 0, 0])).abs().max()) < 1e-9
