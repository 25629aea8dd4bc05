"""Material points against a gel: contact law, momentum, independence of sampling, stick, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.laws import FixedCorotated
from rheograd.sim.core.rollout import rollout
from rheograd.sim.core.sampling import sample_shape
from rheograd.sim.core.shapes import Box
from rheograd.sim.coupling import CoupledControl, CoupledSolver, ParticleContact
from rheograd.sim.coupling.particles import nearest_triangles, touch
from rheograd.sim.fem import FEMConfig, FEMControl, FEMModel, Handle, Solid, SolverFEM
from rheograd.sim.fem.contact import boundary_triangles
from rheograd.sim.fem.meshes import box
from rheograd.sim.mpm import Grid, Group, MPMConfig, MPMModel, SolverMPM

DT = 1e-3


def scene(cells=(3, 3, 2), dx=2e-3, E=1e5, rho=1000.0, tol=1e-7, friction=0.5):
    """A gel held at its top, 0.4 mm above a soft block that sticks to the ground."""
    x, volume = sample_shape(Box((0.005, 0.005, 0.004)), dx / 2)[:2]
    law = FixedCorotated(E=E, nu=0.3, rho=rho)
    x = x + torch.tensor([0.0, 0.0, 0.004])
    grid = Grid((-0.012, -0.012, 0.0), (0.012, 0.012, 0.024), dx)
    material = MPMModel(grid=grid, groups=[Group("block", law, x, volume)], walls="sticky")
    X, tets = box(cells, (0.01, 0.01, 0.004))
    X = X - X.mean(0) + torch.tensor([0.0, 0.0, 0.0104])
    top = (X[:, 2] > X[:, 2].max() - 1e-9).nonzero()[:, 0]
    mount = Handle("mount", top, position=tuple(X[top].mean(0).tolist()))
    gel = Solid(name="gel", cells=tets, E=3e4, nu=0.4, rho=1000.0)
    fem = SolverFEM(FEMModel(X, [gel], handles=[mount]), FEMConfig(dt=DT, tol=tol))
    skin = torch.as_tensor(boundary_triangles(tets))
    contact = ParticleContact(skin, k_n=3e7, k_t=2e7, friction=friction)
    solver = CoupledSolver(fem, SolverMPM(material, MPMConfig(dt=1e-4, substeps=1)), contact)
    start = solver.initial_state(
        fem.model.initial_state(), material.initial_state(dtype=torch.float64)
    )
    return solver, start, top


def press(solver, state, steps, speed=(0.0, 0.0, -0.04)):
    twist = torch.tensor([[[*speed, 0, 0, 0]]]).double()
    for _ in range(steps):
        state = solver.step(state, CoupledControl(FEMControl(twist)))
    return state


@pytest.fixture(scope="module")
def pressed():
    solver, state, top = scene()
    with torch.no_grad():
        return solver, press(solver, state, 25), top


def small(generator):
    """Eight particles around two triangles."""
    surface = torch.tensor([[0.0, 0, 0], [1, 0, 0.1], [0, 1, 0], [1, 1, 0.2]]).double()[None]
    triangles = torch.tensor([[0, 1, 2], [1, 3, 2]])
    x = torch.rand(1, 8, 3, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    x[..., 2] = 0.2 * x[..., 2] + 0.05
    return x, surface, triangles


def test_forces_and_reactions_cancel_with_their_moments():
    generator = torch.Generator().manual_seed(0)
    x, surface, triangles = small(generator)
    v, u = (torch.randn(t.shape, generator=generator).double() for t in (x, surface))
    slip = 0.01 * torch.randn(x.shape, generator=generator).double()
    one = torch.ones(1).double()
    near = nearest_triangles(x, surface, triangles)
    volume = torch.full((8,), 0.4**3).double()
    found = touch(x, v, slip, volume, surface, u, triangles, 0.01, 3 * one, 2 * one, one, near)
    assert int((found.force.norm(dim=-1) > 0).sum()) >= 4
    total = found.force.sum(1) + found.reaction.sum(1)
    assert float(total.abs().max()) < 1e-14
    # Each pair acts along a line of length gap + r only, which bounds the moment.
    moment = torch.linalg.cross(x, found.force).sum(1)
    moment = moment + torch.linalg.cross(surface, found.reaction).sum(1)
    reach = 0.2 + float((x[..., 2]).abs().max())
    assert float(moment.norm()) <= reach * float(found.force.norm(dim=-1).sum())


@pytest.mark.parametrize("wrt", ["x", "v", "slip", "surface", "velocity", "k_n", "k_t", "friction"])
def test_contact_law_is_differentiated(wrt):
    generator = torch.Generator().manual_seed(1)
    x, surface, triangles = small(generator)
    near = nearest_triangles(x, surface, triangles)
    volume = torch.full((8,), 0.4**3).double()
    point = {
        "x": x,
        "v": torch.randn(x.shape, generator=generator).double(),
        "slip": 0.1 * torch.randn(x.shape, generator=generator).double(),
        "surface": surface,
        "velocity": torch.randn(surface.shape, generator=generator).double(),
        "k_n": torch.tensor([3.0]).double(),
        "k_t": torch.tensor([2.0]).double(),
        "friction": torch.tensor([0.3]).double(),
    }
    weight = torch.randn(x.shape, generator=generator).double()
    other = torch.randn(surface.shape, generator=generator).double()

    def f(p):
        found = touch(
            p["x"], p["v"], p["slip"], volume, p["surface"], p["velocity"], triangles, 0.01,
            p["k_n"], p["k_t"], p["friction"], near,
        )  # fmt: skip
        total = (weight * (found.force + found.slip)).sum() + (other * found.reaction).sum()
        return total + (other[..., 0] * found.stiffness).sum()

    report = taylor_test(f, point, wrt=[wrt], eps0=1e-3)
    assert report.passed(), (wrt, report)


def test_the_mount_carries_what_the_particles_press(pressed):
    """m dv/dt = contact + weight + what the mount gives, over the free points."""
    solver, before, top = pressed
    with torch.no_grad():
        state = press(solver, before, 1)
    mass = solver.fem.prepare({}, state.fem).mass[0]
    free = torch.ones(len(mass), dtype=torch.bool)
    free[top] = False
    change = (mass[:, None] * (state.fem.v - before.fem.v)[0])[free].sum(0) / DT
    weight = mass[free].sum() * torch.tensor([0, 0, -9.81]).double()
    contact = state.force[0].sum(0) - state.missing[0]
    carried = solver.fem.forces(state.fem)[0, top].sum(0)
    assert float(contact[2]) > 0.1
    torch.testing.assert_close(carried, contact + weight - change, atol=1e-5, rtol=0)
    # What the two sides do not exchange swings around zero.
    missing, total = state.missing[0], state.force[0].sum(0)
    with torch.no_grad():
        for _ in range(15):
            state = press(solver, state, 1, (0, 0, 0))
            missing, total = missing + state.missing[0], total + state.force[0].sum(0)
    assert float(missing.norm() / total.norm()) < 0.03


def test_force_does_not_depend_on_how_finely_either_side_is_meshed():
    """Same press with finer gel and finer particles: penetration changes little, so does the force."""
    forces = []
    with torch.no_grad():
        for cells, dx in (((3, 3, 2), 2e-3), ((6, 6, 2), 2e-3), ((3, 3, 2), 1.5e-3)):
            solver, state, top = scene(cells, dx, E=5e4)
            state = press(solver, state, 20)
            forces.append(float(solver.fem.forces(state.fem)[0, top].sum(0)[2]))
    assert forces[1] == pytest.approx(forces[0], rel=0.15)
    assert forces[2] == pytest.approx(forces[0], rel=0.25)


@pytest.mark.parametrize("factor", [0.95, 1.1])
def test_a_loaded_particle_sticks_without_creep_or_slides(factor):
    """Below μ N the displacement swings around T/(k_t a); above, a = (T − μ N)/m."""
    mass, load, mu, h = 1e-6, 1e-3, 0.4, 1e-5
    surface = torch.tensor([[[-1.0, -1, 0], [1, -1, 0], [0, 2, 0]]]).double()
    rest, triangles = torch.zeros_like(surface), torch.tensor([[0, 1, 2]])
    volume, one = torch.tensor([1e-9]).double(), torch.ones(1).double()
    k_n, k_t = 1e8, 5e7
    depth = load / (k_n * 1e-6)
    x = torch.tensor([[[0.0, 0.0, 0.5e-3 - depth]]]).double()
    v, slip = torch.zeros_like(x), torch.zeros_like(x)
    pull = factor * mu * load
    outer = torch.tensor([pull, 0.0, -load]).double()
    # A pull that comes up slowly leaves little to swing.
    places, near = [], torch.zeros(1, 1).long()
    for step in range(4000):
        share = min(1.0, step / 2000)
        found = touch(x, v, slip, volume, surface, rest, triangles, h, k_n * one, k_t * one,
                      mu * one, near)  # fmt: skip
        force = found.force + outer * torch.tensor([share, 0.0, 1.0]).double()
        v, slip = v + h * force / mass, found.slip
        x = x + h * v
        places.append(float(x[0, 0, 0]))
    if factor < 1:
        expected = pull / (k_t * 1e-6)
        third, fourth = sum(places[2000:3000]) / 1e3, sum(places[3000:]) / 1e3
        assert third == pytest.approx(expected, rel=0.02)
        assert fourth == pytest.approx(third, rel=1e-3)
    else:
        assert float(v[0, 0, 0]) > 0.5 * (pull - mu * load) / mass * 2000 * h


def test_what_slips_pulls_with_mu():
    slippery, state, _ = scene(friction=0.05)
    ratios = []
    with torch.no_grad():
        state = press(slippery, state, 25)
        for _ in range(25):
            state = press(slippery, state, 1, (0.05, 0, 0))
            force = state.force[0].sum(0)
            ratios.append(float(-force[0] / force[2]))
    assert max(ratios) < 0.05 * 1.05  # Coulomb's bound, at every instant
    assert sum(ratios[5:]) / 20 > 0.025  # mean; gel and block swing, so not all slips all the time


def test_heavy_and_stiff_material_stays_stable():
    solver, state, top = scene(E=4e5, rho=4000.0)
    with torch.no_grad():
        state = press(solver, state, 30)
        forces = []
        for _ in range(10):
            state = press(solver, state, 1, (0, 0, 0))
            forces.append(float(solver.fem.forces(state.fem)[0, top].sum(0)[2]))
    assert max(forces) < 1.5 * min(forces) and min(forces) > 0


@pytest.mark.parametrize("wrt", ["twist", "E", "block", "k_n", "friction"])
def test_gradients_through_both_solvers(pressed, wrt):
    solver, state, top = pressed
    point = {
        "twist": torch.tensor([[[[0.02, 0, -0.03, 0, 0.3, 0]]]]).double().repeat(2, 1, 1, 1),
        "E": torch.tensor(3e4).double(),
        "block": torch.tensor(1e5).double(),
        "k_n": torch.tensor(3e7).double(),
        "friction": torch.tensor(0.02).double(),
    }
    solver = CoupledSolver(
        SolverFEM(solver.fem.model, FEMConfig(dt=DT, tol=1e-11)), solver.mpm, solver.contact
    )

    def f(p):
        params = {
            "gel": {"E": p["E"]},
            "block": {"E": p["block"]},
            "particles": {"k_n": p["k_n"], "friction": p["friction"]},
        }
        controls = [CoupledControl(FEMControl(t)) for t in p["twist"]]
        end = rollout(solver, state, controls, params, save_every=10).final
        force = solver.fem.forces(end.fem, {"gel": {"E": p["E"]}})[0, top].sum(0)
        return (force * force.new_tensor([1.0, 0.5, 1.0])).sum() + 1e3 * end.mpm.v.square().mean()

    # Within larger steps some particle begins to slip, which is a kink.
    eps0 = 1e-4 if wrt == "friction" else 1e-3
    report = taylor_test(f, point, wrt=[wrt], eps0=eps0, levels=3)
    assert report.passed(), (wrt, report)


def test_checkpointed_rollouts_equal_stored_ones(pressed):
    solver, state, _ = pressed
    gradients = []
    for checkpoint in ("none", "uniform", "revolve"):
        twist = torch.tensor([[[0.02, 0, -0.03, 0, 0, 0]]]).double().requires_grad_()
        controls = [CoupledControl(FEMControl(twist)) for _ in range(4)]
        end = rollout(solver, state, controls, checkpoint=checkpoint, save_every=10).final
        assert end.fem.steps == state.fem.steps + 4
        assert end.t == pytest.approx(state.t + 4 * DT)
        (gradient,) = torch.autograd.grad(1e3 * end.mpm.x.sum() + end.fem.v.sum(), twist)
        gradients.append(gradient)
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-9, atol=1e-12)


def test_errors():
    solver, state, _ = scene()
    skin = solver.contact.triangles
    material = SolverMPM(solver.mpm.model, MPMConfig(dt=1e-4, substeps=10))
    with pytest.raises(InputError, match="steps that fit"):
        CoupledSolver(solver.fem, material, solver.contact)
    with pytest.raises(InputError, match=r"k_n to .* Pa/m"):
        CoupledSolver(solver.fem, solver.mpm, ParticleContact(skin, k_n=1e12))
    with pytest.raises(InputError, match="integers"):
        ParticleContact(skin.double())
    with pytest.raises(InputError, match="names out of"):
        solver.step(state, None, {"jelly": {"E": 1.0}})
    with pytest.raises(InputError, match="points below"):
        CoupledSolver(solver.fem, solver.mpm, ParticleContact(skin + 1000))
    assert math.isfinite(solver.step(state).t)
