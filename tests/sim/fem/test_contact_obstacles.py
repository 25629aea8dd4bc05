"""Points against rigid obstacles: derivatives, adjoint, sweeps, and a block on an incline."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rheograd.sim.core import rotations
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.poses import integrate_pose
from rheograd.sim.core.shapes import Box, Capsule, Cylinder, MeshShape, Plane, Sphere, Torus
from rheograd.sim.fem.contact import ObstacleContact, Surface
from rheograd.sim.fem.contact.ccd import KEEP
from rheograd.sim.fem.contact.sweep import distance_field, safe_share
from rheograd.sim.fem.terms import StepInput, assemble

DT = 5e-3
TETRAHEDRON = (
    np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]]) * 0.02,
    [[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]],
)
SHAPES = {
    "sphere": Sphere(0.03),
    "box": Box((0.02, 0.03, 0.025)),
    "capsule": Capsule(0.015, 0.02),
    "plane": Plane(),
    "cylinder": Cylinder(0.02, 0.03),
    "torus": Torus(0.03, 0.01),
    "mesh": MeshShape(*TETRAHEDRON, resolution=24),
    "bowl": Sphere(0.1),
}


def collider(name, **options):
    return Collider(SHAPES[name], inverted=name == "bowl", name=name, **options)


def around(shape, inverted, reach, g, count=40):
    """Points within reach of the surface, outside, in the frame of the shape."""
    x = 0.04 * torch.randn(20000, 3, dtype=torch.float64, generator=g)
    c = Collider(shape, inverted=inverted)
    pose = torch.tensor([0, 0, 0, 1, 0, 0, 0], dtype=x.dtype).expand(len(x), 7)
    d = distance_field(x, c, pose).d
    near = (d > 0.05 * reach) & (d < 0.9 * reach)
    assert near.sum() >= count
    return x[near][:count]


def scene(name, g, reach=2e-3):
    """Handle poses (1, 1, 7), positions (N, 3) near the obstacle there, contact."""
    x = around(SHAPES[name], name == "bowl", reach, g)
    pose = torch.tensor([[[0.1, -0.05, 0.2, 0.8, 0.3, -0.4, 0.2]]], dtype=x.dtype)
    x = rotations.rotate(pose[0, :, 3:], x) + pose[0, :, :3]
    surface = Surface(x, points=np.arange(len(x)), area=np.full(len(x), 1e-6))
    contact = ObstacleContact(
        surface, [collider(name)], reach, 1e4, handles=[0], friction={("body", name): 0.5}
    )
    return pose, x, contact


def numbers(contact, scenes=1):
    values = contact.default_params()
    return {k: torch.full((scenes,), v, dtype=torch.float64) for k, v in values.items()}


def total(term, x):
    return assemble([term.gradient(x)], x)


def error(got, want):
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("name", SHAPES)
def test_derivatives_and_adjoint(name, generator):
    """Energy → gradient → Hessian, and the reverse pass to positions, poses, stiffness, friction."""
    pose, x, contact = scene(name, generator)

    def normal(like):
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    inputs = {"x": x, "start": x + 2e-6 * normal(x), "lag": x + 1e-6 * normal(x)}
    inputs |= {"pose0": pose + 1e-6 * normal(pose), "pose1": pose, **numbers(contact)}
    names = ("x", "start", "lag", "pose0", "pose1")

    def bind(v):
        params = {k: w for k, w in v.items() if k not in names}
        step = StepInput(v["start"][None], v["lag"][None], v["pose0"], v["pose1"], DT)
        return contact.term(params, step)

    term = bind(inputs)
    assert len(term.lag.force) > 30 and float(term.lag.force.min()) > 0
    d = torch.nn.functional.normalize(normal(x))
    h = 1e-9
    one, two = (term.energy(x + k * h * d) - term.energy(x - k * h * d) for k in (1, 2))
    g = total(term, x)
    assert float((8 * one - two) / (12 * h)) == pytest.approx(float((g * d).sum()), rel=1e-5)
    # Differences of energies round at 1e-6; tighter: the energy's own derivative.
    y = x.clone().requires_grad_()
    assert error(g, torch.autograd.grad(term.energy(y).sum(), y)[0]) < 1e-7
    stencil, blocks = term.hessian(x, project=False)
    product = torch.zeros_like(x).index_add(
        0, stencil[:, 0], (blocks @ d[stencil[:, 0], :, None])[..., 0]
    )
    one, two = (total(term, x + k * h * d) - total(term, x - k * h * d) for k in (1, 2))
    assert error((8 * one - two) / (12 * h), product) < 1e-5
    _, projected = term.hessian(x)
    assert torch.linalg.eigvalsh(projected).min() > -1e-9 * projected.abs().max()

    u = normal(x)
    leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
    product = (total(bind(leaves), leaves["x"]) * u).sum()
    grads = torch.autograd.grad(product, list(leaves.values()))
    for (key, value), grad in zip(inputs.items(), grads, strict=True):
        d = normal(value)
        h = 4e-9 if key in names else 1e-4 * float(value.abs().max())

        def function(t, key=key, value=value, d=d):
            v = inputs | {key: value + t * d}
            return float((total(bind(v), v["x"]) * u).sum())

        slope = (8 * (function(h) - function(-h)) - function(2 * h) + function(-2 * h)) / (12 * h)
        assert slope == pytest.approx(float((grad * d).sum()), rel=2e-5), key


@pytest.mark.parametrize("name", SHAPES)
def test_sweeps_never_enter_and_use_the_room(name, generator):
    """Points and obstacle move and turn; distances sampled all the way."""
    x = around(SHAPES[name], name == "bowl", 0.05, generator, 60)
    c = collider(name)
    n = len(x)
    still = torch.tensor([0, 0, 0, 1, 0, 0, 0], dtype=x.dtype).expand(n, 7)
    turned = torch.tensor([0.02, -0.01, 0.0, 0.9, 0.3, 0.1, -0.2], dtype=x.dtype)
    turned = torch.cat((turned[:3], rotations.normalize(turned[3:]))).expand(n, 7)
    dx = -1.5 * x + 0.03 * torch.randn(n, 3, dtype=x.dtype, generator=generator)
    if name == "bowl":
        dx = -dx
    for end in (still, turned):
        time = safe_share(x, dx, c, still, end)
        turn = rotations.to_rotation_vector(end[:, 3:])
        start = distance_field(x, c, still).d
        for s in torch.linspace(0, 1, 41, dtype=x.dtype):
            t = (s * time)[:, None]
            pose = torch.cat((t * end[:, :3], rotations.from_rotation_vector(t * turn)), 1)
            d = distance_field(x + t * dx, c, pose).d
            assert (d >= KEEP * start * (1 - 1e-6)).all()
        assert (time < 1).sum() > 10 and ((time < 1) & (d > 0.2 * start)).sum() == 0


def test_obstacles_of_a_batch_move_with_handles_or_rest():
    x = torch.zeros(2, 3, dtype=torch.float64)
    x[1, 0] = 1.0
    surface = Surface(x, points=[0, 1], area=[1e-4, 1e-4], driven=np.array([False, True]))
    table = Collider(Plane(), position=(0, 0, -5e-4), friction=0.2, name="table")
    lid = Collider(Plane(), friction=0.4, name="lid")
    contact = ObstacleContact(surface, [table, lid], 1e-3, 1e4, handles=[None, 1])
    assert contact.default_params() == {
        "stiffness": 1e4, "friction_body_table": 0.2, "friction_body_lid": 0.4
    }  # fmt: skip
    handles = torch.tensor([0, 0, 0, 1, 0, 0, 0], dtype=x.dtype).repeat(2, 2, 1)
    handles[0, 1] = torch.tensor([0, 0, 7e-4, 0, 1, 0, 0])
    handles[1, 1] = torch.tensor([0, 0, 2e-3, 0, 1, 0, 0])
    both = x.expand(2, 2, 3).clone()
    d = contact.distances(both, handles)
    assert d[0, 0].tolist() == pytest.approx([5e-4, 7e-4])
    assert contact.min_distance(both, handles).tolist() == pytest.approx([5e-4, 5e-4])
    term = contact.term(numbers(contact, 2), StepInput(both, both, handles, handles, DT))
    force = -total(term, both.reshape(-1, 3)).view(2, 2, 3)
    assert 0 < force[0, 0, 2] < force[1, 0, 2] and force[:, 1].abs().max() == 0
    up = torch.zeros_like(both)
    up[:, 0, 2] = 1e-3
    share = term.max_step(both.reshape(-1, 3), up.reshape(-1, 3))
    assert share.tolist() == pytest.approx([0.63, 1.0], rel=0.02)
    apart = ObstacleContact(
        surface, [table, lid], 1e-3, 1e4, handles=[None, 1], ignore=[("body", "table")]
    )
    assert apart.min_distance(both, handles).tolist() == pytest.approx([7e-4, 2e-3])


def test_a_moving_obstacle_drags_by_friction():
    """A belt (a plane that moves in itself) and a turntable carry points; the force is Coulomb's."""
    x = torch.tensor([[0.1, 0.0, 4e-4]], dtype=torch.float64)
    surface = Surface(x, points=[0], area=[1e-4])
    contact = ObstacleContact(
        surface, [Collider(Plane(), name="belt")], 1e-3, 1e4, handles=[0], friction=0.5
    )
    pose = torch.tensor([[[0, 0, 0, 1, 0, 0, 0]]], dtype=x.dtype)
    for twist, way in (((0.2, 0, 0, 0, 0, 0), (1, 0)), ((0, 0, 0, 0, 0, 3.0), (0, 1))):
        end = integrate_pose(pose, torch.tensor([[twist]], dtype=x.dtype), DT, 1)[1]
        term = contact.term(numbers(contact), StepInput(x[None], x[None], pose, end, DT))
        force = -total(term, x)[0]
        assert force[:2].norm() == pytest.approx(0.5 * float(force[2]), rel=1e-9)
        assert (force[:2] / force[:2].norm()).tolist() == pytest.approx(way, abs=0.01)


def test_points_inside_and_wrong_names_are_refused():
    x = torch.tensor([[0, 0, -1e-3], [0, 0, 1.0]], dtype=torch.float64)
    surface = Surface(x, points=[0, 1], area=[1e-4, 1e-4])
    floor = Collider(Plane(), name="floor")
    contact = ObstacleContact(surface, [floor], 1e-3, 1e4)
    none = torch.zeros(1, 0, 7, dtype=x.dtype)
    with pytest.raises(InputError, match="point 0 of scene 0 0.001 m inside"):
        contact.check(x[None], none)
    with pytest.raises(StateError, match="inside of floor"):
        contact.term(numbers(contact), StepInput(x[None], x[None], none, none, DT))
    x[0, 2] = 5e-4
    term = contact.term(numbers(contact), StepInput(x[None], x[None], none, none, DT))
    under = x - torch.tensor([0, 0, 1e-3], dtype=x.dtype)
    assert float(term.energy(under)) > 1e2 * float(term.energy(x))
    assert -float(total(term, under)[0, 2]) > 41 * 1e4 * 1e-4
    with pytest.raises(InputError, match="handle"):
        ObstacleContact(surface, [floor], 1e-3, 1e4, handles=[])
    with pytest.raises(InputError, match="ignore"):
        ObstacleContact(surface, [floor], 1e-3, 1e4, ignore=[("body", "roof")])


def test_obstacles_push_what_they_move_into_and_never_pass_it():
    """A piston at 0.4 m/s, twice the barrier's reach per step; a plate that jumps over a point."""
    x = torch.tensor([[0, 0, 6e-4], [5e-3, 0, 9e-4]], dtype=torch.float64)
    surface = Surface(x, points=[0, 1], area=[1e-4, 1e-4])
    contact = ObstacleContact(surface, [collider("box")], 1e-3, 1e4, handles=[0])
    pose = torch.tensor([[[0, 0, -0.025, 1, 0, 0, 0]]], dtype=x.dtype)
    twist = torch.tensor([[[0, 0, 0.4, 0, 0, 0]]], dtype=x.dtype)
    mass, v = 1e-3, torch.zeros_like(x)
    for _ in range(8):
        end = integrate_pose(pose, twist, DT, 1)[1]
        term = contact.term(numbers(contact), StepInput(x[None], x[None], pose, end, DT))
        y, ahead = x.clone(), x + DT * v
        for _ in range(20):
            g = total(term, y) + mass / DT**2 * (y - ahead)
            if g.norm() < 1e-9:
                break
            stencil, blocks = term.hessian(y)
            H = mass / DT**2 * torch.eye(3, dtype=x.dtype).repeat(2, 1, 1)
            p = -torch.linalg.solve(H.index_add(0, stencil[:, 0], blocks), g)
            y = y + float(term.max_step(y, p)) * p
        assert g.norm() < 1e-9
        assert float(contact.min_distance(y[None], end)) > 0
        x, v, pose = y, (y - x) / DT, end
    assert v[:, 2].min() > 0.3
    plate = Collider(Box((0.05, 0.05, 1e-3)), name="plate")
    thin = ObstacleContact(surface, [plate], 1e-3, 1e4, handles=[0])
    below, above = (torch.tensor([[[0, 0, z, 1, 0, 0, 0]]], dtype=x.dtype) for z in (-5e-3, 5e-3))
    x = x.detach() * 0
    with pytest.raises(StateError, match="passed by plate"):
        thin.term(numbers(thin), StepInput(x[None], x[None], below, above, DT))


@pytest.mark.parametrize("ratio", [0.97, 1.03])
def test_a_block_on_an_incline_sticks_below_the_angle_of_friction_and_slips_above(ratio):
    """Four points with the weight of a block, Newton's method; creep stays below eps_v."""
    mu, mass, dt = 0.4, 0.05, 0.01
    angle = math.atan(ratio * mu)
    tilt = (math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0)
    ground = Collider(Plane(), orientation=tilt, name="ground")
    turn = torch.tensor(tilt, dtype=torch.float64)
    base = torch.tensor([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]], dtype=turn.dtype) * 0.01
    down = rotations.rotate(turn, torch.tensor([1.0, 0, 0], dtype=turn.dtype))
    surface = Surface(base, points=range(4), area=[1e-4] * 4)
    contact = ObstacleContact(surface, [ground], 1e-3, 4e3, friction=mu)
    none = torch.zeros(1, 0, 7, dtype=turn.dtype)
    gravity = torch.tensor([0, 0, -9.81], dtype=turn.dtype)
    x = rotations.rotate(turn, base + torch.tensor([0, 0, 6.4e-4], dtype=turn.dtype))
    v, speeds = torch.zeros_like(x), []
    for _ in range(28):
        step = StepInput(x[None], x[None], none, none, dt)
        term = contact.term(numbers(contact), step)
        y, ahead = x.clone(), x + dt * v + dt * dt * gravity
        for _ in range(50):
            g = total(term, y) + mass / dt**2 * (y - ahead)
            if g.norm() < 1e-9:
                break
            H = mass / dt**2 * torch.eye(3, dtype=x.dtype).repeat(4, 1, 1)
            stencil, blocks = term.hessian(y)
            H = H.index_add(0, stencil[:, 0], blocks)
            p = -torch.linalg.solve(H, g)
            term.update(y, y + p)
            t = float(term.max_step(y, p))

            def energy(z, ahead=ahead, term=term):
                return float(term.energy(z)) + 0.5 * mass / dt**2 * float(((z - ahead) ** 2).sum())

            while energy(y + t * p) > energy(y) + 1e-15:
                t *= 0.5
            y = y + t * p
        assert g.norm() < 1e-9
        x, v = y, (y - x) / dt
        speeds.append(float((v @ down).mean()))
    if ratio < 1:
        assert 0 <= speeds[-1] < contact.eps_v and abs(speeds[-1] - speeds[-5]) < 1e-5
    else:
        pull = 9.81 * (math.sin(angle) - mu * math.cos(angle))
        assert (speeds[-1] - speeds[17]) / (10 * dt) == pytest.approx(pull, rel=0.02)
