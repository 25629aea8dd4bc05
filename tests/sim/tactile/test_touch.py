"""What a sensor feels: moments of presses beside the axis, stick and slip, long gradients."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.shapes import Plane, Sphere
from rheograd.sim.fem import FEMConfig
from rheograd.sim.tactile import GelSensor, dome, fibonacci_markers, pad
from rheograd.sim.tactile.camera import dome_camera

DOWN = (0.0, 1.0, 0.0, 0.0)
GAP = 5e-5


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def press_pad(shape, place, motion, *, cells, friction=0.0, **start):
    """Readings of a pad of 20 × 20 × 6 mm while a tool makes ways (T, 3) [m]."""
    tool = Collider(shape, position=place, name="tool", friction=friction, **start)
    sensor = GelSensor(pad((20e-3, 20e-3, 6e-3), cells), tools=[tool], d_hat=GAP, nu=0.45,
                       gravity=(0.0, 0.0, 0.0), config=FEMConfig(scheme="static", tol=1e-8))  # fmt: skip
    state, readings = sensor.start(), []
    for way in motion:
        twist = torch.cat((vector(*way) / sensor.dt, torch.zeros(3))).view(1, 1, 6)
        before, state = state, sensor.step(state, tools=twist)
        readings.append(sensor.read(before, state))
    return readings


@pytest.mark.parametrize("place", [(0.0, 0.0), (4e-3, -2e-3)])
def test_a_press_beside_the_axis_turns_the_mount(place):
    """Without friction every force of a ball points at its centre: τ = c × F, on the mount too.

    So force and moment tell where a pad is pressed, without looking.
    """
    radius, depth = 6e-3, 6e-4
    top = 6e-3 + radius + GAP
    motion = [(0.0, 0.0, -depth / 2)] * 2
    (*_, felt) = press_pad(Sphere(radius), (*place, top), motion, cells=(5, 5, 1))
    force, torque = felt.force[0], felt.torque[0]
    assert float(force[2]) < -0.1
    expected = torch.linalg.cross(vector(*place, top - depth), force)
    assert float((torque - expected).norm()) < 1e-5 * 0.01 * float(force.norm())
    x, y = -float(torque[1] / force[2]), float(torque[0] / force[2])
    # Side forces have an arm, too, and a mesh that is not the same on both sides makes some.
    assert math.hypot(x - place[0], y - place[1]) < 3e-4


def test_stick_then_slip():
    """A plate on a pad is dragged: the side force grows with the way, then stays at μ F_n; and back.

    Friction takes its normal forces from the solve before, hence half a percent.
    """
    mu, way = 0.4, 1.5e-4
    motion = [(0.0, 0.0, -3e-4 - GAP)] + [(way, 0.0, 0.0)] * 8 + [(-2 * way, 0.0, 0.0)] * 5
    readings = press_pad(
        Plane(), (0.0, 0.0, 6e-3 + GAP), motion, cells=(3, 3, 1), friction=mu, orientation=DOWN
    )
    ratio = [float(r.force[0, 0] / -r.force[0, 2]) for r in readings]
    there, back = ratio[1:9], ratio[9:]
    # While it sticks in proportion to the way, and rising until all of it slips.
    assert there[1] == pytest.approx(2 * there[0], rel=0.05) and there[0] < 0.35 * mu
    assert all(b > a - 1e-6 for a, b in zip(there, there[1:], strict=False))
    assert there[-1] == pytest.approx(mu, rel=5e-3) and max(there) <= mu * (1 + 5e-3)
    # Going back it sticks first, along a line of the same slope.
    assert there[-1] - back[0] == pytest.approx(2 * there[0], rel=0.1)
    assert back[-1] == pytest.approx(-mu, rel=1e-2)
    # Coulomb's law holds at every point, as far as the surface is still the plane of the plate.
    last = readings[8]
    pressed = last.pressure[0] > 0.05 * last.pressure[0].max()
    share = last.shear[0].norm(dim=-1)[pressed] / last.pressure[0][pressed]
    assert int(pressed.sum()) >= 25 and float((share - mu).abs().max()) < 0.1 * mu


@functools.lru_cache
def long_press(tol=1e-11):
    """A dome that presses for 5 steps, then slides 2 mm in 15; forces and mean flow of the markers."""
    mesh = dome(cuts=2, layers=1)
    table = Collider(Plane(), name="table", friction=0.5)
    sensor = GelSensor(mesh, obstacles=[table], position=(0, 0, 15.2e-3), orientation=DOWN,
                       d_hat=2e-4, config=FEMConfig(dt=5e-3, tol=tol))  # fmt: skip
    camera, markers = dome_camera(), fibonacci_markers(mesh.X, mesh.triangles, 24)
    twists = torch.zeros(20, 6, dtype=torch.float64)
    twists[:5, 2] = -1.2e-3 / (5 * sensor.dt)
    twists[5:, 0] = 2e-3 / (15 * sensor.dt)

    def run(commands, **material):
        """Commands (S, 20, 6) to (S, 5): force [N] and mean flow [px] of the last frame."""
        contact = {
            "stiffness": material.get("stiffness"), "friction_gel_table": material.get("friction"),
        }  # fmt: skip
        gel = {k: v for k in ("E", "nu") if (v := material.get(k)) is not None}
        params = {"gel": gel, "contact": {k: v for k, v in contact.items() if v is not None}}
        state = sensor.start(len(commands))
        for t in range(20):
            before, state = state, sensor.step(state, twist=commands[:, t], params=params)
        flow = markers.flow(camera, state.x, mesh.X, pose=state.pose[:, 0]).mean(1)
        return torch.cat((sensor.read(before, state, params).force, 0.02 * flow), dim=1)

    return run, twists


WEIGHT = vector(1.0, 0.7, -0.5, 0.8, -0.6)


def test_gradients_of_the_last_frame_reach_the_first_command():
    """20 steps of press and slide against central differences: the first command, and all together."""
    run, twists = long_press()
    leaf = twists.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((run(leaf[None]) @ WEIGHT).sum(), leaf)
    ways = torch.zeros(3, 20, 6, dtype=torch.float64)
    ways[0, 0, 2] = ways[1, 0, 0] = 1.0
    generator = torch.Generator().manual_seed(5)
    ways[2] = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    # Angular speeds turn a dome of 15 mm: what moves its face by as much as linear ones.
    ways[2, :, 3:] *= 60
    ways[2] /= 5
    step = 2e-4
    with torch.no_grad():
        moved = run(torch.cat((twists + step * ways, twists - step * ways))) @ WEIGHT
    differences = (moved[:3] - moved[3:]) / (2 * step)
    for way, expected in zip(ways, differences.tolist(), strict=True):
        assert float((gradient * way).sum()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name, value", [
    ("E", 1.18e5), ("nu", 0.47), ("stiffness", 1.18e4), ("friction", 0.5),
])  # fmt: skip
def test_gradients_of_the_last_frame_in_the_material(name, value):
    run, twists = long_press()
    p = vector(value).requires_grad_()
    (gradient,) = torch.autograd.grad((run(twists[None], **{name: p}) @ WEIGHT).sum(), p)
    step = 1e-4 * value
    with torch.no_grad():
        high, low = (
            float(run(twists[None], **{name: vector(value + s * step)}) @ WEIGHT) for s in (1, -1)
        )
    assert float(gradient) == pytest.approx((high - low) / (2 * step), rel=1e-3)
