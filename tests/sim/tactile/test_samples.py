"""Contact by quadrature points of the face: rules, tractions, derivatives; density does not matter."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.shapes import Box, Plane, Sphere
from rheograd.sim.core.triangle_rules import DEGREES, triangle_rule
from rheograd.sim.coupling import surface_samples
from rheograd.sim.fem import FEMConfig
from rheograd.sim.fem.terms import StepInput, assemble
from rheograd.sim.tactile import GelSensor, dome, pad
from rheograd.sim.tactile.samples import face_samples

DOWN = (0.0, 1.0, 0.0, 0.0)
GAP = 2e-5
SIZE = (48e-3, 48e-3, 24e-3)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("n", DEGREES)
def test_rules_are_exact(n):
    """∫ λ₁^i λ₂^j dA = 2 A i! j!/(i + j + 2)!"""
    lam, w = triangle_rule(n)
    assert lam.shape == (n, 3) and bool((lam > 0).all()) and bool((w > 0).all())
    degree = DEGREES[n]
    for i in range(degree + 1):
        for j in range(degree + 1 - i):
            exact = 2 * math.factorial(i) * math.factorial(j) / math.factorial(i + j + 2)
            assert float((w * lam[:, 0] ** i * lam[:, 1] ** j).sum()) == pytest.approx(
                exact, rel=1e-13
            )
    i = degree + 1
    exact = 2 * math.factorial(i) / math.factorial(i + 2)
    assert float((w * lam[:, 0] ** i).sum()) != pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("n", [3, 6, 12])
@pytest.mark.parametrize("order", [1, 2])
def test_samples_of_a_face(order, n):
    """Areas and moments of a pad are exact, those of a dome as good as its curved sides."""
    mesh = pad((4e-3, 6e-3, 2e-3), (2, 3, 1), order=order)
    rows, w, area, hats = face_samples(mesh, n)
    assert len(rows) == n * len(mesh.faces)
    y = (w[..., None] * mesh.X[rows]).sum(1)
    assert float(area.sum()) == pytest.approx(24e-6, rel=1e-12)
    assert float((area * y[:, 0] ** 2).sum()) == pytest.approx(24e-6 * 4e-3**2 / 12, rel=1e-12)
    assert torch.allclose(w.sum(1), torch.ones(len(w)).double())
    assert bool((hats >= 0).all())
    # Hats are linear on every quarter: they give straight places back.
    assert torch.allclose((hats[..., None] * mesh.X[rows]).sum(1), y, atol=1e-17)

    errors = []
    for cuts in (3, 6):
        mesh = dome(cuts=cuts, layers=1, order=order)
        rows, w, area, _ = face_samples(mesh, n)
        y = (w[..., None] * mesh.X[rows]).sum(1)
        errors.append(float(area.sum()) / (2 * math.pi * 15e-3**2) - 1)
        normal = y / y.norm(dim=1, keepdim=True)
        assert float((normal * y).sum(1).sub(15e-3).abs().max()) < (8e-5 if order == 2 else 2e-3)
    assert abs(errors[1]) < (5e-4 if order == 2 else 3e-2)
    assert abs(errors[0]) > 3.5 * abs(errors[1])


def test_surfaces_of_other_bodies_have_the_same_rules():
    X = torch.rand(3, 3, dtype=torch.float64)
    fine, coarse = (surface_samples("s", X, [[0, 1, 2]], n) for n in (12, 1))
    assert float(fine.area.sum()) == pytest.approx(float(coarse.area[0]))
    places = (fine.weights[..., None] * X[fine.stencil]).sum(1)
    assert torch.allclose((fine.area[:, None] * places).sum(0) / fine.area.sum(), X.mean(0))


@functools.lru_cache
def pressed(tool, samples):
    """Force and reaction of a ball or a punch, 0.4 and 0.2 mm deep, and the reading."""
    if tool == "ball":
        mesh, shape, high, deep = pad(SIZE, (6, 6, 3), focus=8), Sphere(60e-3), 60e-3, 4e-4
    else:  # its edge is a line between cells
        mesh = pad(SIZE, (6, 6, 2), focus=3)
        line = mesh.X[mesh.sets["surface"], 0].unique()[::2]
        half = float(line[(line - 9e-3).abs().argmin()])
        shape, high, deep = Box((half, half, 5e-3)), 5e-3, 2e-4
    body = Collider(shape, position=(0, 0, SIZE[2] + high + GAP), name="tool")
    sensor = GelSensor(mesh, tools=[body], d_hat=GAP, stiffness=1e4, gravity=(0.0, 0.0, 0.0), E=1e5,
                       nu=0.45, samples=samples, config=FEMConfig(scheme="static", tol=1e-7))  # fmt: skip
    state = sensor.start()
    move = torch.zeros(1, 1, 6, dtype=torch.float64)
    move[..., 2] = -deep / sensor.dt
    after = sensor.step(state, tools=move)
    return sensor, sensor.read(state, after)


@pytest.mark.parametrize("tool", ["ball", "punch"])
def test_density_of_samples_does_not_matter(tool):
    """Force within 5 % at three densities, and always what the mount carries."""
    forces = []
    for samples in (3, 6, 12):
        felt = pressed(tool, samples)[1]
        forces.append(-float(felt.contact_force[0, 2]))
        assert float(-felt.force[0, 2]) == pytest.approx(forces[-1], rel=1e-4)
    assert max(forces) / min(forces) < 1.05, forces


def test_tractions_of_samples():
    """They add up to the force, and no point of a pressed face is pulled."""
    sensor, felt = pressed("punch", 6)
    area = sensor.model.contacts[0].area[sensor.mesh.sets["surface"]]
    total = (area[:, None] * felt.traction[0]).sum(0)
    assert torch.allclose(total, felt.contact_force[0], rtol=1e-9, atol=1e-12)
    assert float(felt.pressure.min()) > -1e-6 * float(felt.pressure.max())
    assert float(felt.node_force[..., 2].max()) > 0  # corners of curved sides are, by their weights


def fingertip(**changes):
    table = Collider(Plane(), name="table", friction=0.6)
    config = FEMConfig(dt=5e-3, tol=1e-11)
    return GelSensor(dome(cuts=2, layers=1, rim=True), obstacles=[table], position=(0, 0, 15.2e-3),
                     orientation=DOWN, d_hat=2e-4, samples=3, config=config, **changes)  # fmt: skip


def slide(sensor, twists, params=None, batch=1):
    state = sensor.start(batch)
    for twist in twists:
        before, state = state, sensor.step(state, twist=twist, params=params)
    return before, state


TWISTS = vector([0, 0, -0.08, 0, 0, 0], [0, 0, -0.08, 0, 0, 0], [0.05, 0.02, 0, 0, 0.3, 1.0])


def test_energy_gradient_and_hessian_belong_together(generator):
    sensor = fingertip()
    states = [*slide(sensor, TWISTS[:2])]
    contact = sensor.model.contacts[0]
    params = {k: vector(v) for k, v in contact.default_params().items()}
    moved = states[1].pose.clone()
    term = contact.term(
        params, StepInput(states[0].x, states[1].x, states[0].pose, moved, sensor.dt)
    )
    x = states[1].x[0] + 1e-6 * torch.randn(states[1].x[0].shape, generator=generator).double()
    way = torch.randn(x.shape, generator=generator).double()
    gradient = assemble([term.gradient(x)], x)
    assert float(gradient.norm()) > 0.1
    h = 1e-9
    slope = float(term.energy(x + h * way) - term.energy(x - h * way)) / (2 * h)
    assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-5)
    rows, blocks = term.hessian(x, project=False)
    local = (blocks @ way[rows].flatten(1)[..., None]).view(*rows.shape, 3)
    product = assemble([(rows, local)], x)
    change = assemble([term.gradient(x + h * way)], x) - assemble([term.gradient(x - h * way)], x)
    assert float((product - change / (2 * h)).norm()) < 1e-5 * float(product.norm())


@pytest.mark.parametrize("wrt", ["twists", "E", "stiffness", "friction_gel_table"])
def test_gradients_through_steps_and_reading(wrt):
    sensor = fingertip()
    values = {"twists": TWISTS, "E": vector(1.18e5), "stiffness": vector(1.2e4),
              "friction_gel_table": vector(0.6)}  # fmt: skip

    def value(v):
        contact = {k: v[k] for k in ("stiffness", "friction_gel_table")}
        params = {"gel": {"E": v["E"]}, "contact": contact}
        felt = sensor.read(*slide(sensor, v["twists"], params), params)
        side = (felt.force + 100 * felt.torque) @ vector(1.0, 0.7, -0.5)
        return side.sum() + 1e-4 * felt.pressure.mean()

    report = taylor_test(value, values, wrt=[wrt], eps0=1e-3)
    assert report.passed(), report


def test_what_the_mount_carries_includes_its_own_rim():
    """Sides that are held in part touch, too; momentum balances to the tolerance of the solver."""
    sensor = fingertip(gravity=(0.0, 0.0, 0.0))
    before, after = slide(sensor, TWISTS)
    felt = sensor.read(before, after)
    mass = sensor.solver.prepare(None, after).mass[0][:, None]
    free = torch.ones(len(mass), dtype=torch.bool)
    free[sensor.mesh.sets["mount"]] = False
    loss = (mass * (after.v - before.v)[0] / sensor.dt)[free].sum(0)
    off = felt.force[0] - felt.contact_force[0] + loss
    assert float(off.norm()) < 1e-6 * float(felt.contact_force.norm())


def test_wrong_input():
    with pytest.raises(InputError, match="out of"):
        GelSensor(pad(), obstacles=[Collider(Plane(), name="t")], samples=5)
    with pytest.raises(InputError, match="bend past"):
        GelSensor(pad(), obstacles=[Collider(Plane(), name="t")], samples=1)
    inside = [Collider(Sphere(2e-3), position=(0, 0, 5e-3), name="ball")]
    with pytest.raises(InputError, match="outside of ball"):
        GelSensor(pad(), obstacles=inside, samples=3).start()
    mesh = pad()
    with pytest.raises(InputError, match="fours"):
        face_samples(type(mesh)(mesh.X, mesh.cells, mesh.triangles.flip(0), mesh.sets), 3)
