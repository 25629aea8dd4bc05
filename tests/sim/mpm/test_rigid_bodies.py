"""Rigid bodies: momentum, closed forms of rigid motion and contact, floating, and bad input."""

from __future__ import annotations

import math

import pytest
import torch
from body_scenes import alone, body_momentum
from helpers import slope
from mpm_scenes import F64, lattice, shaken
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.laws import Liquid, NeoHookean
from rheograd.sim.core.rotations import to_matrix
from rheograd.sim.core.sampling import sample_shape
from rheograd.sim.core.shapes import Box, Capsule, MeshShape, Sphere
from rheograd.sim.mpm import (
    Emitter,
    Grid,
    Group,
    MPMConfig,
    MPMControl,
    MPMModel,
    RigidBody,
    SolverMPM,
)
from torch import Tensor


def run(solver: SolverMPM, steps: int, control: MPMControl | None = None) -> list:
    states = [solver.model.initial_state(dtype=F64)]
    with torch.no_grad():
        for _ in range(steps):
            states.append(solver.step(states[-1], control))
    return states


@pytest.mark.parametrize("engine", ["warp", "torch"])
def test_a_free_scene_keeps_both_momenta(engine: str) -> None:
    """Soft and hard bodies with friction in an elastic cloud, one of them ten times as heavy."""
    x = lattice(0.3, 0.7, 8, 3)
    box = RigidBody(
        Box((0.1, 0.08, 0.06)),
        (0.5, 0.48, 0.52),
        rho=300.0,
        softness=20.0,
        friction=0.3,
        velocity=(0.5, 0.0, 1.0),
        angular_velocity=(1.0, 3.0, -2.0),
    )
    capsule = RigidBody(
        Capsule(0.05, 0.1), (0.5, 0.5, 0.69), rho=3000.0, friction=0.2, velocity=(0.0, 0.0, -3.0)
    )
    group = Group("cloud", NeoHookean(E=1e4, nu=0.3), x, (0.4 / 8) ** 3)
    grid = Grid((0.0,) * 3, (1.0,) * 3, 0.1)
    model = MPMModel(grid, [group], gravity=(0.0, 0.0, -1e-30), colliders=[box, capsule])
    solver = SolverMPM(
        model, MPMConfig(dt=2e-4, substeps=60 if engine == "warp" else 12, engine=engine)
    )
    state = shaken(model)
    mass = solver.prepare(None, state).mass[..., None]

    def momenta(s) -> tuple[Tensor, Tensor]:
        spin = torch.stack(
            [s.C[..., b, a] - s.C[..., a, b] for a, b in ((1, 2), (2, 0), (0, 1))], -1
        )
        orbit = torch.linalg.cross(s.x, s.v) + 0.25 * grid.dx**2 * spin
        P, L = body_momentum(model, s)
        return (mass * s.v).sum(1) + P, (mass * orbit).sum(1) + L

    end = solver.step(state)
    for before, after in zip(momenta(state), momenta(end), strict=True):
        assert float((after - before).norm() / before.norm()) < 1e-10
    given = body_momentum(model, end)[0] - body_momentum(model, state)[0]
    assert float(given.norm() / momenta(state)[0].norm()) > 0.03  # much was exchanged


@pytest.mark.parametrize("dim", [2, 3])
def test_a_free_body_falls_on_a_parabola(dim: int) -> None:
    v = (0.3, 0.2 if dim == 3 else 0.0, 1.0)
    body = RigidBody(Box((0.1, 0.2, 0.15)), (0.7, 0.5 if dim == 3 else 0.0, 1.0), velocity=v)
    model = alone(body, dim=dim, gravity=(0.0,) * (dim - 1) + (-9.81,))
    end = run(SolverMPM(model, MPMConfig(dt=1e-3, substeps=100)), 2)[-1]
    n, dt = 200, 1e-3
    g, start = torch.tensor([0, 0, 9.81], dtype=F64), torch.tensor(body.position, dtype=F64)
    v0 = torch.tensor(v, dtype=F64)
    torch.testing.assert_close(end.body_twist[0, 0, :3], v0 - n * dt * g, rtol=0, atol=1e-12)
    place = start + n * dt * v0 - g * dt**2 * n * (n + 1) / 2  # symplectic Euler
    torch.testing.assert_close(end.tool_pose[0, 0, :3], place, rtol=0, atol=1e-12)


def test_torque_free_rotation_keeps_angular_momentum_and_energy_to_second_order() -> None:
    """Spin about the middle axis, which tumbles; the energy error of the midpoint rule is O(dt²)."""
    body = RigidBody(Box((0.1, 0.2, 0.3)), (1.0, 1.0, 1.0), angular_velocity=(1.0, 4.0, 0.5))
    model = alone(body)
    errors, steps = [], [0.02, 0.01, 0.005, 0.0025]
    for dt in steps:
        states = run(SolverMPM(model, MPMConfig(dt=dt, substeps=round(0.1 / dt))), 20)
        L = torch.stack([body_momentum(model, s)[1][0] for s in states])
        assert float((L - L[0]).norm(dim=-1).max() / L[0].norm()) < 1e-12
        R = to_matrix(torch.stack([s.tool_pose[0, 0, 3:] for s in states]))
        w = torch.stack([s.body_twist[0, 0, 3:] for s in states])
        moment = body.rho * torch.as_tensor(model.bodies.moment[0])
        energy = 0.5 * torch.einsum("ti,tij,tj->t", w, R @ moment @ R.mT, w)
        errors.append(float((energy / energy[0] - 1).abs().max()))
        assert float(R[:, 1, 1].min()) < -0.5  # it did tumble
    assert abs(slope(steps, errors) - 2) < 0.2, errors


def test_the_origin_of_the_shape_need_not_be_the_center_of_mass() -> None:
    """A mesh off its origin spins about its center of mass, and its pose follows the origin."""
    half, offset = 0.1, 0.15
    corners = [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    mesh = MeshShape(
        half * torch.tensor(corners) + torch.tensor([offset, 0, 0]), faces, resolution=8
    )
    w = 2.0
    body = RigidBody(
        mesh, (1.0, 1.0, 1.0), velocity=(0.0, -w * offset, 0.0), angular_velocity=(0, 0, w)
    )
    end = run(SolverMPM(alone(body), MPMConfig(dt=1e-3, substeps=100)), 5)[-1]
    angle = w * 0.5
    expected = [1 + offset * (1 - math.cos(angle)), 1 - offset * math.sin(angle), 1.0]
    torch.testing.assert_close(
        end.tool_pose[0, 0, :3], torch.tensor(expected, dtype=F64), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("mu", [0.1, 0.5])
def test_a_ball_on_a_slope_rolls_or_slides_as_coulomb_says(dim: int, mu: float) -> None:
    """a = g sin θ / (1 + k), k = I/(m r²), while μ ≥ k/(1 + k) tan θ, else g (sin θ − μ cos θ)."""
    theta, g, k = math.radians(25), 9.81, 0.4 if dim == 3 else 0.5
    pull = (g * math.sin(theta), *([0.0] * (dim - 2)), -g * math.cos(theta))
    ball = RigidBody(Sphere(0.1), (0.4, 1.0 if dim == 3 else 0.0, 0.1), friction=mu)
    states = run(
        SolverMPM(alone(ball, dim=dim, gravity=pull), MPMConfig(dt=5e-4, substeps=100)), 10
    )
    v0, v1 = (float(s.body_twist[0, 0, 0]) for s in (states[4], states[-1]))
    acceleration = (v1 - v0) / 0.3
    rolls = mu >= k / (1 + k) * math.tan(theta)
    expected = math.sin(theta) / (1 + k) if rolls else math.sin(theta) - mu * math.cos(theta)
    assert rolls == (mu > 0.2)
    assert acceleration == pytest.approx(g * expected, rel=2e-3)
    slip = float(states[-1].body_twist[0, 0, 0] - 0.1 * states[-1].body_twist[0, 0, 4])
    assert abs(slip) < 1e-2 if rolls else slip > 0.1
    # The overlap at which recovery carries the weight: g cos θ dt² / (10 · 0.02).
    assert 0 <= 0.1 - float(states[-1].tool_pose[0, 0, 2]) < 1.2e-5


def test_a_stack_rests_and_a_thrown_box_stays_inside() -> None:
    low = RigidBody(Box((0.1, 0.1, 0.1)), (1.0, 1.0, 0.1), friction=0.3)
    top = RigidBody(Box((0.08, 0.08, 0.1)), (1.02, 1.0, 0.3), friction=0.3, rho=2000.0)
    thrown = RigidBody(
        Box((0.1, 0.05, 0.08)),
        (0.5, 0.5, 1.0),
        velocity=(-8.0, -6.0, 1.0),
        angular_velocity=(3.0, 4.0, 5.0),
    )
    model = alone(low, top, thrown, gravity=(0.0, 0.0, -9.81))
    states = run(SolverMPM(model, MPMConfig(dt=1e-3, substeps=50)), 20)
    moved = states[-1].tool_pose[0, :2] - states[0].tool_pose[0, :2]
    assert float(moved.abs().max()) < 1e-3
    points = torch.as_tensor(model.bodies.points[2])
    for state in states:
        pose = state.tool_pose[0, 2]
        corners = pose[:3] + points @ to_matrix(pose[3:]).T
        assert float(corners.min()) > -5e-3 and float(corners.max()) < 2.005
    assert float(states[-1].body_twist[0, 2].norm()) < float(states[0].body_twist[0, 2].norm())


def pool(rho: float, dx: float = 0.05, **body: object) -> tuple[SolverMPM, float, float]:
    """A box of 0.3 m set into a pool of 1 m × 0.5 m at its draft by Archimedes, which is returned with
    the water level."""
    level, half, bulk = 0.5, 0.15, 5e4
    draft = 2 * half * rho / 1000.0
    x, volume = sample_shape(
        Box((0.5, 1.0, 0.35)), dx / 2, position=(0.5, 0.0, 0.35), dim=2, dtype=F64
    )
    center = torch.tensor([0.5, level - draft + half], dtype=F64)
    x = x[((x - center).abs().amax(-1) > half) & (x[:, 1] < level)]
    duck = RigidBody(
        Box((half, 1.0, half)), (0.5, 0.0, float(center[1])), rho=rho, softness=2 / dx, **body
    )
    water = Group("water", Liquid(bulk=bulk, eta=5.0), x, volume)
    model = MPMModel(Grid((0.0, 0.0), (1.0, 1.0), dx), [water], colliders=[duck])
    dt = 0.24 * dx / math.sqrt(bulk / 1000)
    return SolverMPM(model, MPMConfig(dt=dt, substeps=20)), draft, half


@pytest.mark.parametrize("rho", [100.0, 300.0, 500.0])
def test_a_floating_box_is_immersed_as_archimedes_says(rho: float) -> None:
    """Also for a body ten times lighter than water, where an explicit exchange would explode."""
    solver, draft, half = pool(rho)
    steps = round(1.5 / solver.step_time)
    states = run(solver, steps)[-steps // 2 :]
    depth = []
    for s in states:
        far = (s.x[0, :, 0] - 0.5).abs() > half + 0.1
        level = torch.quantile(s.x[0, far, 1], 0.98) + 0.25 * solver.model.grid.dx
        depth.append(float(level - s.tool_pose[0, 0, 2]) + half)
        assert float(s.body_twist.abs().max()) < 1.0  # it bobs with the sloshing pool
    assert abs(sum(depth) / len(depth) - draft) < solver.model.grid.dx


def test_a_very_light_box_rises_from_under_water_without_blowing_up() -> None:
    """The touched liquid outweighs it 27 times; an explicit exchange is NaN after 14 substeps."""
    dx, half = 0.05, 0.1
    x, volume = sample_shape(
        Box((0.5, 1.0, 0.25)), dx / 2, position=(0.5, 0.0, 0.25), dim=2, dtype=F64
    )
    x = x[(x - torch.tensor([0.5, 0.2], dtype=F64)).abs().amax(-1) > half]
    box = RigidBody(Box((half, 1.0, half)), (0.5, 0.0, 0.2), rho=30.0, softness=2 / dx)
    water = Group("water", Liquid(bulk=5e4, eta=5.0), x, volume)
    model = MPMModel(Grid((0.0, 0.0), (1.0, 1.0), dx), [water], colliders=[box])
    states = run(SolverMPM(model, MPMConfig(dt=1e-3, substeps=10)), 50)
    assert max(float(s.body_twist.abs().max()) for s in states) < 1.5
    assert float(states[-1].tool_pose[0, 0, 2]) > 0.3


def test_a_heavy_box_sinks_and_rests_on_the_floor() -> None:
    solver, _, half = pool(950.0)
    body = solver.model.colliders[0]
    heavy = {"colliders": {"rho": torch.tensor([3000.0], dtype=F64)}}
    state = solver.model.initial_state(dtype=F64)
    with torch.no_grad():
        for _ in range(round(0.8 / solver.step_time)):
            state = solver.step(state, None, heavy)
    assert float(state.tool_pose[0, 0, 2]) == pytest.approx(half, abs=2e-3)
    assert body.position[2] > 0.3


def test_a_plate_pushes_a_body_through_water() -> None:
    solver, _, half = pool(600.0)
    plate = Collider(Box((0.03, 1.0, 0.4)), (0.25, 0.0, 0.5), softness=40.0, push_out=True)
    water = solver.model.groups[0]
    x = water.x[(water.x[:, 0] - 0.25).abs() > 0.03]
    water = Group("water", water.law, x, water.volume)
    model = MPMModel(solver.model.grid, [water], colliders=[*solver.model.colliders, plate])
    solver = SolverMPM(model, solver.config)
    twist = torch.zeros(1, 2, 6, dtype=F64)
    twist[0, 1, 0] = 0.4
    states = run(solver, round(0.4 / solver.step_time), MPMControl(tool_twist=twist))
    gaps = [float(s.tool_pose[0, 0, 0] - s.tool_pose[0, 1, 0]) - half - 0.03 for s in states]
    assert float(states[-1].tool_pose[0, 0, 0]) > 0.55  # moved by water and plate
    assert min(gaps) > -2e-3  # and never overlapped
    assert (
        float(states[len(states) // 4].tool_pose[0, 0, 0]) > 0.5005
    )  # before they touch: by water


def test_bad_scenes() -> None:
    tilted = RigidBody(Sphere(0.1), (0.5, 0.1, 0.5))
    with pytest.raises(InputError, match="turns about y"):
        alone(tilted, dim=2)
    x = torch.zeros(3, 3)
    jet = Group(
        "jet", Liquid(bulk=1e4), x, 1e-3,
        emitter=Emitter((0.0, 0.0, 0.0), (0.0, 0.0, -1.0), 0.01, 10.0, tool="boat"),
    )  # fmt: skip
    boat = RigidBody(Sphere(0.1), (0.5, 0.5, 0.5), name="boat")
    with pytest.raises(InputError, match="Mount it on a Collider"):
        MPMModel(Grid((0.0,) * 3, (1.0,) * 3, 0.1), [jet], colliders=[boat])
    solver = SolverMPM(alone(RigidBody(Sphere(0.1), (0.5, 0.5, 0.5))))
    state = solver.model.initial_state()
    with pytest.raises(InputError, match="body_twist of shape"):
        solver.step(state.replace(body_twist=None))
    with pytest.raises(StateError, match="non-finite body_twist"):
        solver.step(state.replace(body_twist=state.body_twist * math.nan))
    with pytest.raises(InputError, match="rho > 0"):
        solver.step(state, None, {"colliders": {"rho": 0.0}})
    with pytest.raises(InputError, match="Give one number per rigid body"):
        solver.step(state, None, {"colliders": {"rho": torch.ones(3)}})
