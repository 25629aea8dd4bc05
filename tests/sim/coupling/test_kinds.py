"""A gel against every kind of object: elastic, plastic, liquid material; a rod, a sheet, a hinged lid."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.colliders_rigid import RigidBody
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.laws import FixedCorotated, Liquid, VonMises
from rheograd.sim.core.rollout import rollout
from rheograd.sim.core.sampling import sample_shape
from rheograd.sim.core.shapes import Box, Plane
from rheograd.sim.coupling import (
    AffineBody,
    CoupledControl,
    CoupledSolver,
    Joint,
    ParticleContact,
    RigidContact,
    body_samples,
    point_samples,
)
from rheograd.sim.fem import (
    FEMConfig,
    FEMControl,
    FEMModel,
    Handle,
    Rod,
    Sheet,
    Solid,
    SolverFEM,
)
from rheograd.sim.fem.contact import (
    Surface,
    SurfaceContact,
    boundary_triangles,
)
from rheograd.sim.fem.meshes import box, rectangle
from rheograd.sim.mpm import Grid, Group, MPMConfig, MPMModel, SolverMPM

DT, DX = 1e-3, 2e-3
HALF = 4e-3
"""Half a side of the material, a cube."""
LAWS = {
    "elastic": FixedCorotated(E=3e4, nu=0.3, rho=1000.0),
    "plastic": VonMises(E=3e4, nu=0.3, rho=1000.0, yield_stress=600.0),
    "liquid": Liquid(bulk=3e4, eos="linear", eta=1.0, rho=1000.0),
}


def block(size, place, cells=(2, 2, 1)):
    """Points, cells and held points of a gel whose lower face is about a place [m]."""
    X, tets = box(cells, size)
    X = X.double() - X.mean(0) + torch.tensor(place).double()
    X[:, 2] += size[2] / 2
    return X, tets, (X[:, 2] > X[:, 2].max() - 1e-9).nonzero()[:, 0]


def mount_of(X, top):
    return Handle("mount", top, position=tuple(X[top].mean(0).tolist()))


@functools.lru_cache
def over_material(kind, tol=1e-7):
    """A gel 0.1 mm above a cube of material on the ground; liquid is in a well that the gel fills."""
    x, volume = sample_shape(Box((HALF, HALF, HALF)), DX / 2, position=(0.0, 0.0, HALF))[:2]
    wide = HALF if kind == "liquid" else 6 * DX
    grid = Grid((-wide, -wide, 0.0), (wide, wide, 16e-3), DX)
    walls = "separate" if kind == "liquid" else "sticky"
    model = MPMModel(grid=grid, groups=[Group("matter", LAWS[kind], x, volume)], walls=walls)
    side = 2 * HALF if kind == "liquid" else 5e-3
    X, tets, top = block((side, side, 4e-3), (0.0, 0.0, 8.1e-3))
    gel = Solid(name="gel", cells=tets, E=1e5, nu=0.3, rho=1000.0)
    fem = SolverFEM(FEMModel(X, [gel], handles=[mount_of(X, top)]), FEMConfig(dt=DT, tol=tol))
    contact = ParticleContact(torch.as_tensor(boundary_triangles(tets)), k_n=3e7, k_t=2e7)
    solver = CoupledSolver(fem, SolverMPM(model, MPMConfig(dt=1e-4, substeps=1)), contact)
    matter = model.initial_state(dtype=torch.float64)
    return solver, solver.initial_state(fem.model.initial_state(), matter), top


def move(solver, state, steps, speed):
    """Along z, step by step; the states."""
    twist = torch.tensor([[[0.0, 0, speed, 0, 0, 0]]]).double()
    states = [state]
    with torch.no_grad():
        for _ in range(steps):
            states.append(solver.step(states[-1], CoupledControl(FEMControl(twist))))
    return states


def dent(state, start):
    """How much lower the material under the middle of the gel is than at the start [m]."""
    z, rest = state.mpm.x[0], start.mpm.x[0]
    under = (rest[:, :2].abs() < 1.5e-3).all(1) & (rest[:, 2] > 2 * HALF - DX / 2)
    return float((rest[under, 2] - z[under, 2]).mean())


@pytest.mark.parametrize("kind", ["elastic", "plastic"])
def test_what_is_plastic_keeps_the_dent(kind):
    solver, start, _ = over_material(kind)
    pressed = move(solver, start, 22, -0.05)
    deep = dent(pressed[-1], start)
    assert 6e-4 < deep < 1.1e-3
    after = dent(move(solver, pressed[-1], 28, 0.05)[-1], start)
    if kind == "plastic":
        assert after > 0.5 * deep
    else:
        assert after < 0.2 * deep


def test_a_liquid_in_a_well_carries_its_pressure():
    """Pressed by δ of its height H: K δ/H on the face; what the gel feels is what the liquid gets."""
    solver, start, top = over_material("liquid")
    way = 4e-4
    states = move(solver, start, 10, -way / (10 * DT))
    rest = move(solver, states[-1], 24, 0.0)[12:]
    force = sum(float(s.force[0, :, 2].sum()) for s in rest) / len(rest)
    lower = [float(s.fem.x[0, :, 2].min()) for s in rest]
    pressed = 2 * HALF - sum(lower) / len(lower)
    expected = 3e4 * pressed / (2 * HALF) * (2 * HALF) ** 2
    assert force == pytest.approx(expected, rel=0.25)
    carried = sum(float(solver.fem.forces(s.fem)[0, top, 2].sum()) for s in rest) / len(rest)
    weight = 1000 * 9.81 * (2 * HALF) ** 2 * 4e-3
    assert carried == pytest.approx(force - weight, abs=0.1 * force)


@pytest.mark.parametrize("kind, name", [("plastic", "yield_stress"), ("liquid", "bulk")])
def test_gradients_in_the_material(kind, name):
    """Of the force on the mount, two steps into the press."""
    solver, start, top = over_material(kind, 1e-11)
    state = move(solver, start, 8, -0.05)[-1]
    value = float(getattr(LAWS[kind], name))

    def f(p):
        params = {"matter": {name: value * p["scale"]}}
        controls = [CoupledControl(FEMControl(p["twist"])) for _ in range(2)]
        end = rollout(solver, state, controls, params, save_every=10).final
        return solver.fem.forces(end.fem)[0, top].sum() + 10 * end.mpm.v.square().mean()

    point = {
        "scale": torch.ones((), dtype=torch.float64),
        "twist": torch.tensor([[[0.0, 0, -0.05, 0, 0, 0]]]).double(),
    }
    for wrt in point:
        report = taylor_test(f, point, wrt=[wrt], eps0=1e-3, levels=3)
        assert report.passed(), (wrt, report)


@functools.lru_cache
def over_thin(kind):
    """A gel over a rod or a sheet that bridges a gap between two held ends."""
    if kind == "rod":
        thin = torch.zeros(9, 3, dtype=torch.float64)
        thin[:, 0] = torch.linspace(-0.012, 0.012, 9)
        cells = torch.stack((torch.arange(8), torch.arange(1, 9)), 1)
        part = Rod(name="thin", cells=cells, E=2e7, r=5e-4, rho=1100.0)
        ends = torch.tensor([0, 1, 7, 8])
    else:
        thin, cells = rectangle((8, 2), (0.024, 0.006))
        thin = thin.double() - thin.double().mean(0)
        part = Sheet(name="thin", cells=cells, E=2e7, nu=0.3, h=4e-4, rho=1100.0)
        ends = (thin[:, 0].abs() > 8.9e-3).nonzero()[:, 0]
    n = len(thin)
    X, tets, top = block((5e-3, 5e-3, 4e-3), (0.3e-3, 0.2e-3, 6e-4), (1, 1, 1))
    x, skin = torch.cat((thin, X)), torch.as_tensor(boundary_triangles(tets)) + n
    gel = Solid(name="gel", cells=tets + n, E=1e5, nu=0.3, rho=1000.0)
    driven = torch.zeros(len(x), dtype=torch.bool)
    driven[top + n] = driven[ends] = True
    area = None
    if kind == "rod":
        area = torch.zeros(len(x)).double()
        area[:n] = 3e-3 * 1e-3
    surface = Surface(
        x, skin if kind == "rod" else torch.cat((cells, skin)), rods=cells if kind == "rod" else (),
        groups=("thin", "gel"), group=(torch.arange(len(x)) >= n).long(), driven=driven, area=area,
        ignore=[("thin", "thin"), ("gel", "gel")],
    )  # fmt: skip
    contact = SurfaceContact(surface, 5e-4, 1e4, {("thin", "gel"): 0.5}, eps_v=5e-3)
    handles = [mount_of(x, top + n), Handle("ends", ends, position=(0.0, 0.0, 0.0))]
    model = FEMModel(x, [part, gel], handles=handles, contacts=[contact], gravity=(0, 0, 0))
    return SolverFEM(model, FEMConfig(scheme="static", tol=1e-10)), top + n, ends


@pytest.mark.parametrize("kind", ["rod", "sheet"])
def test_a_gel_bends_what_is_thin(kind):
    """It bends down; the ends carry what the mount gives; exact gradients in command and stiffness."""
    solver, top, ends = over_thin(kind)

    def felt(p):
        state = solver.model.initial_state()
        down = torch.zeros(1, 2, 6, dtype=torch.float64)
        down[0, 0, 2] = -1.0
        control = FEMControl(p["way"] / 2 / solver.step_time * down)
        params = {"thin": {"E": p["E"]}}
        for _ in range(2):
            state = solver.step(state, control, params)
        return state, solver.forces(state, params)[0]

    point = {"way": torch.tensor(1.2e-3).double(), "E": torch.tensor(2e7).double()}
    with torch.no_grad():
        state, forces = felt(point)
    push, carried = forces[top].sum(0), forces[ends].sum(0)
    assert float(push[2]) > 1e-3
    torch.testing.assert_close(push, -carried, atol=1e-6 * float(push[2]) + 1e-9, rtol=0)
    middle = len(solver.model.parts[0].where) // 2
    assert float(state.x[0, middle, 2]) < -1e-4
    for wrt in point:
        report = taylor_test(
            lambda p: 10 * felt(p)[1][top, 2].sum(), point, wrt=[wrt], eps0=1e-3, levels=3
        )
        assert report.passed(), (wrt, report)


def test_a_gel_lifts_a_hinged_lid():
    """The angle is that of the gel's height over its arm; one derivative more says the same."""
    lid = AffineBody(
        RigidBody(Box((0.012, 0.006, 1e-3)), (0.012, 0.0, 1e-3), rho=1200.0, name="lid"), 0
    )
    hinge = Joint.hinge("hinge", lid, None, (0, 0, 0), (0, -1, 0), 0.012, damping=1e-3)
    X, tets, _ = block((4e-3, 4e-3, 4e-3), (0.02, 0.0, -4.2e-3), (1, 1, 1))
    held = (X[:, 2] < X[:, 2].min() + 1e-9).nonzero()[:, 0]
    n = len(lid.X)
    gel = Solid(name="gel", cells=tets + n, E=1e5, nu=0.3, rho=1000.0)
    x = torch.cat((lid.X, X))
    skin = torch.as_tensor(boundary_triangles(tets)) + n
    floor = Collider(Plane(), (0, 0, -2e-4), name="floor")
    contact = RigidContact(
        [point_samples("skin", x, skin), body_samples(lid, 3e-3)], [lid, floor],
        d_hat=4e-4, stiffness=2e4, friction=0.5, ignore=[("skin", "floor")],
    )  # fmt: skip
    model = FEMModel(x, [lid.part, gel], handles=[mount_of(x, held + n)], contacts=[hinge, contact])
    solver = SolverFEM(model, FEMConfig(dt=4e-3, tol=1e-9))
    rise = torch.tensor(4e-3, dtype=torch.float64, requires_grad=True)
    up = torch.zeros(1, 1, 6, dtype=torch.float64)
    up[..., 2] = 1.0
    steps = 12
    state = lid.start(model.initial_state())
    for _ in range(steps):
        state = solver.step(state, FEMControl(rise / (steps * solver.step_time) * up))
    angle = hinge.angle(state.x)[0]
    arm = 0.019
    assert float(angle.detach()) == pytest.approx(math.atan(4e-3 / arm), rel=0.12)
    angle.backward()
    assert float(rise.grad) == pytest.approx(1 / arm, rel=0.25)
