"""The gel sensor: exact commands, momentum balance, read-outs, gradients, batch."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers import relative_error
from rheograd.sim.core import rotations
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.rollout import rollout
from rheograd.sim.core.shapes import Plane, Sphere
from rheograd.sim.fem import FEMConfig
from rheograd.sim.tactile import GelSensor, dome, pad

DOWN = (0.0, 1.0, 0.0, 0.0)
"""Sensing direction −z."""
TABLE = Collider(Plane(), name="table", friction=0.6)
HEIGHT = 0.0153


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@functools.lru_cache
def fingertip(scheme="euler", gravity=-9.81, tol=1e-9, **changes):
    """A small dome above a table."""
    config = FEMConfig(dt=5e-3, scheme=scheme, tol=tol)
    return GelSensor(dome(cuts=3, layers=1), obstacles=[TABLE], position=(0, 0, HEIGHT), d_hat=2e-4,
                     orientation=DOWN, gravity=(0.0, 0.0, gravity), config=config, **changes)  # fmt: skip


@functools.lru_cache
def slide(sensor, steps=6):
    """States of a press that turns into a slide with a twist."""
    states = [sensor.start()]
    for k in range(steps):
        twist = vector(0, 0, -0.06, 0, 0, 0) if k < 3 else vector(0.05, 0.02, -0.01, 0, 0.3, 1.0)
        states.append(sensor.step(states[-1], twist=twist))
    return states


def test_the_mount_arrives_where_it_is_told():
    sensor = fingertip()
    state = sensor.start()
    turn = rotations.from_rotation_vector(vector(0.3, -0.2, 0.9))
    goal = torch.cat((vector(1e-3, -2e-3, 0.016), rotations.multiply(turn, vector(*DOWN))))
    state = sensor.step(state, pose=goal)
    assert float((state.pose[0, 0] - goal).abs().max()) < 1e-14
    held = sensor.mesh.sets["mount"]
    assert float((state.x - sensor.rigid(state))[0, held].abs().max()) < 1e-16 * 100
    assert float((sensor.in_frame(state) - sensor.mesh.X)[0, held].abs().max()) < 1e-16 * 100


def test_twists_of_the_sensor_and_of_the_world():
    sensor = fingertip()
    state = sensor.start()
    own = sensor.control(state, twist=vector(1e-3, 2e-3, 3e-3, 0.1, 0.2, 0.3), frame="sensor")
    # The sensor is turned by half a turn about x.
    assert (
        float((own.twist[0, 0] - vector(1e-3, -2e-3, -3e-3, 0.1, -0.2, -0.3)).abs().max()) < 1e-15
    )


@pytest.mark.parametrize("eta", [0.0, 50.0])
def test_momentum_balance(eta):
    """Mount and contact differ by what accelerates and holds up the gel: force and moment."""
    sensor = fingertip(eta=eta)
    states = slide(sensor)
    mass = sensor.solver.prepare(None, states[0]).mass[0][:, None]
    free = torch.ones(len(mass), dtype=torch.bool)
    free[sensor.mesh.sets["mount"]] = False
    for before, after in zip(states[2:], states[3:], strict=False):
        reading = sensor.read(before, after)
        a = (after.v - before.v) / sensor.dt
        loss = (mass * (vector(0, 0, -9.81) - a[0]))[free]
        arm = (after.x[0] - after.pose[0, 0, :3])[free]
        scale = float(reading.contact_force.norm())
        assert scale > 0.01
        off = reading.force[0] - reading.contact_force[0] - loss.sum(0)
        assert float(off.norm()) < 1e-6 * scale
        turn = reading.torque[0] - reading.contact_torque[0] - torch.linalg.cross(arm, loss).sum(0)
        assert float(turn.norm()) < 1e-6 * scale * 0.015


def test_at_rest_the_mount_carries_the_contact():
    """Without weight and inertia both are equal to the tolerance of the solver."""
    sensor = fingertip("static", 0.0)
    states = slide(sensor)
    reading = sensor.read(*states[-2:])
    scale = float(reading.contact_force.norm())
    assert scale > 0.1
    assert float((reading.force - reading.contact_force).norm()) < 1e-6 * scale
    assert float((reading.torque - reading.contact_torque).norm()) < 1e-6 * 0.015 * scale
    # It pushes up, and drags against the way, with no more than Coulomb's share.
    push, drag = reading.force[0, 2], reading.force[0, :2].norm()
    assert float(push) > 0 and 0.1 < float(drag / push) < 0.6 * 1.01
    assert float(reading.force[0, 0]) < 0


def test_weight_hangs_on_the_mount():
    sensor = fingertip("static")
    state = sensor.start()
    after = sensor.step(state)
    mass = sensor.solver.prepare(None, state).mass[0]
    free = torch.ones(len(mass), dtype=torch.bool)
    free[sensor.mesh.sets["mount"]] = False
    reading = sensor.read(state, after)
    assert float(reading.force[0, 2]) == pytest.approx(-9.81 * float(mass[free].sum()), rel=1e-6)
    assert float(reading.node_force.abs().max()) == 0


def test_tractions_add_up_to_the_force():
    sensor = fingertip()
    before, after = slide(sensor)[-2:]
    reading = sensor.read(before, after)
    points = sensor.mesh.sets["surface"]
    area = torch.as_tensor(sensor.surface.vertex_area)[points]
    total = (area[:, None] * reading.traction[0]).sum(0)
    assert relative_error(total, reading.contact_force[0]) < 1e-12
    split = reading.shear - reading.pressure.unsqueeze(-1) * reading.normal
    assert relative_error(split, reading.traction) < 1e-12
    assert float((reading.shear * reading.normal).sum(-1).abs().max()) < 1e-9 * float(
        reading.pressure.max()
    )
    assert float((reading.normal.norm(dim=-1) - 1).abs().max()) < 1e-12
    local = reading.local()
    assert float(local.force[0, 2]) < 0 < float(reading.force[0, 2])  # +z points out of the sensor
    assert relative_error(local.pressure, reading.pressure) < 1e-12


def test_a_tool_presses_a_pad():
    """A moving ball: what it does to the pad arrives at the back."""
    ball = Collider(Sphere(5e-3), position=(0, 0, 9.15e-3), name="ball")
    sensor = GelSensor(pad(cells=(4, 4, 1)), tools=[ball], d_hat=1e-4, gravity=(0.0, 0.0, 0.0),
                       config=FEMConfig(scheme="static", tol=1e-9))  # fmt: skip
    state = sensor.start()
    for _ in range(3):
        before, state = state, sensor.step(state, tools=vector(0, 0, -0.04, 0, 0, 0)[None, None])
    reading = sensor.read(before, state)
    assert float(reading.contact_force[0, 2]) < -0.05
    assert relative_error(reading.force, reading.contact_force) < 1e-6
    assert float(reading.pressure.min()) >= 0


def test_scenes_of_a_batch_are_independent():
    """Two sensors with poses, commands and materials of their own are what each is alone."""
    sensor = fingertip()
    turn = rotations.from_rotation_vector(vector(0.0, 0.4, 0.0))
    tilted = torch.cat((vector(0, 0, HEIGHT), rotations.multiply(turn, vector(*DOWN))))
    poses = torch.stack((torch.cat((vector(0, 0, HEIGHT), vector(*DOWN))), tilted))
    twists = torch.stack((vector(0, 0, -0.1, 0, 0, 0), vector(0.02, 0, -0.08, 0, 1, 0)))
    E = vector(1e5, 2e5)[:, None]

    def run(rows):
        state, params = sensor.start(len(rows), pose=poses[rows]), {"gel": {"E": E[rows]}}
        for _ in range(2):
            before, state = state, sensor.step(state, twist=twists[rows], params=params)
        return sensor.read(before, state, params)

    both = run([0, 1])
    for b in range(2):
        alone = run([b])
        assert float(alone.force.norm()) > 1e-3
        assert relative_error(both.force[b], alone.force[0]) < 1e-6
        assert relative_error(both.torque[b], alone.torque[0]) < 1e-5


@functools.lru_cache
def problem():
    """Forces, moments and displacements after three steps, and a point."""
    config = FEMConfig(dt=5e-3, tol=1e-11)
    sensor = GelSensor(dome(cuts=2, layers=1), obstacles=[TABLE], position=(0, 0, HEIGHT), d_hat=2e-4,
                       orientation=DOWN, config=config)  # fmt: skip
    twists = torch.zeros(2, 6, dtype=torch.float64)
    twists[0, 2] = -0.14
    twists[1] = vector(0.05, 0.02, -0.01, 0.2, 0.1, 0.5)
    goal = torch.cat((vector(1e-3, 0, HEIGHT - 1.0e-3), vector(0.02, 1.0, 0.03, 0.0)))
    point = {
        "E": vector(1.2e5),
        "nu": vector(0.47),
        "stiffness": vector(1e4),
        "friction": vector(0.5),
        "twist": twists,
        "goal": torch.cat((goal[:3], goal[3:] / goal[3:].norm())),
        "start": torch.cat((vector(0, 0, HEIGHT), vector(*DOWN))),
        "X": sensor.model.X.clone(),
    }
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(sensor.model.point_count, 3, generator=generator, dtype=torch.float64)

    def f(p):
        friction = {"friction_gel_table": p["friction"]}
        params = {"gel": {"E": p["E"], "nu": p["nu"]}, "scene": {"X": p["X"]},
                  "contact": {"stiffness": p["stiffness"], **friction}}  # fmt: skip
        state = sensor.start(pose=p["start"])
        for twist in p["twist"]:
            state = sensor.step(state, twist=twist, params=params)
        after = sensor.step(state, pose=p["goal"], params=params)
        reading = sensor.read(state, after, params)
        moved = (weight * (after.x - sensor.rigid(after))).sum()
        felt = reading.force.sum() + 50 * reading.torque.sum() + reading.contact_force[0, 2]
        return felt + 100 * moved + 1e-5 * reading.pressure.square().mean().sqrt()

    return f, point


@pytest.mark.parametrize("wrt", ["E", "nu", "stiffness", "friction", "twist", "goal", "start", "X"])
def test_gradients(wrt):
    """Through three steps and the read-out, the command of the first step included."""
    f, point = problem()
    eps = {"twist": 2e-3, "goal": 2e-6, "start": 2e-6, "X": 2e-6}.get(wrt, 2e-3)
    report = taylor_test(f, point, wrt=[wrt], eps0=eps, levels=3)
    assert report.passed(), report


def test_the_command_of_the_first_step_counts():
    f, point = problem()
    twist = point["twist"].clone().requires_grad_()
    f(point | {"twist": twist}).backward()
    step = torch.zeros_like(twist.detach())
    step[0, 0] = 1e-4
    high, low = (float(f(point | {"twist": point["twist"] + s * step})) for s in (1, -1))
    assert abs(float(twist.grad[0, 0])) > 1e-6
    assert float(twist.grad[0, 0]) == pytest.approx((high - low) / 2e-4, rel=1e-3)


def test_rollouts_take_its_solver():
    sensor = fingertip()
    state = sensor.start()
    controls = [sensor.control(state, twist=vector(0, 0, -0.06, 0, 0, 0))] * 3
    end = rollout(sensor.solver, state, controls, checkpoint="uniform").final
    assert torch.equal(end.x, slide(sensor)[3].x)


def test_refusals():
    sensor = fingertip()
    state = sensor.start()
    with pytest.raises(InputError, match="a twist or a pose"):
        sensor.step(state, twist=torch.zeros(6), pose=state.pose[0, 0])
    with pytest.raises(InputError, match=r"shape \(6,\)"):
        sensor.step(state, twist=torch.zeros(5))
    with pytest.raises(InputError, match=r"tools: expected shape \(1, 0, 6\)"):
        sensor.step(state, tools=torch.zeros(1, 2, 6))
    with pytest.raises(InputError, match="frame"):
        sensor.step(state, twist=torch.zeros(6), frame="camera")
    with pytest.raises((InputError, StateError), match="inside|outside"):
        sensor.start(pose=torch.cat((vector(0, 0, 0.01), vector(*DOWN))))
    with pytest.raises(InputError, match="orientation"):
        GelSensor(pad(cells=(1, 1, 1)), orientation=(0, 0, 0, 0))
    with pytest.raises(InputError, match="scheme"):
        GelSensor(pad(cells=(1, 1, 1)), config=FEMConfig(scheme="midpoint"))
