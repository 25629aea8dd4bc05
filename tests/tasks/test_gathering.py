"""The pool: at rest it stays at rest, the block floats, the paddle moves water, contact is soft."""

from __future__ import annotations

import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.tasks.core import task_by_name

F64 = torch.float64
HOVER = {
    "dx": 0.0125, "dt": 6e-4, "substeps": 5, "horizon": 4, "depth": 0.1, "tank": (0.4, 0.1, 0.4),
    "body": (0.05, 0.05, 0.05), "start": (0.2, 0.05), "target": (0.3, 0.05), "settle": 0.02,
    "paddle": (0.1, 0.1, 0.1), "paddle_start": (0.1, 0.05, 0.17), "travel": (0.1, 0.1, 0.1),
    "axes": "xz",
}  # fmt: skip
"""A plate that hangs 0.02 m above the water: fine cells, so that no particle's stencil reaches it."""


@pytest.fixture(scope="module")
def nano():
    return task_by_name("fluid/gathering-nano")


def test_the_pool_starts_at_rest(nano):
    """Archimedes: the block floats with the share of its densities under water, and stays there."""
    c = nano.config
    with torch.no_grad():
        run = nano.rollout(nano.initial_actions())
    first, last = run.states[0], run.final
    drift = (nano.body_center(last) - nano.body_center(first))[0].abs()
    assert float(drift.max()) < 0.2 * c.dx
    expected = c.depth + (0.5 - c.body_rho / 1000) * c.body[2]
    # Half a cell: the free surface of a particle pool is not sharper than that.
    assert abs(float(nano.metrics(last)["height"]) - expected) < 0.5 * c.dx
    wave = (9.81 * c.depth) ** 0.5
    assert float(last.v.norm(dim=-1).mean()) < 0.05 * wave


def test_pressure_carries_the_water(nano):
    state = nano.reset()
    z = state.x[0, nano._water, -1]
    J = state.J[0]
    low, high = J[z < 0.25 * nano.config.depth].mean(), J[z > 0.75 * nano.config.depth].mean()
    # ρ g h/K over half the depth: 1000 · 9.81 · 0.1/1e5 = 1 %, less the scatter of particles.
    assert 0.003 < float(high - low) < 0.03


def test_nothing_leaks_or_is_lost(nano):
    """A full stroke: every particle stays in the tank and out of the paddle."""
    c = nano.config
    actions = torch.full((1, nano.horizon, 1), 0.5)
    with torch.no_grad():
        states = nano.rollout(actions).states
    x = torch.stack([s.x[0] for s in states])
    assert bool(torch.isfinite(x).all())
    size = torch.tensor([c.tank[0], c.tank[2]])
    assert float((-x).max()) < 0.5 * c.dx and float((x - size).amax()) < 0.5 * c.dx
    half = 0.5 * torch.tensor([c.paddle[0], c.paddle[2]])
    place = torch.stack([s.tool_pose[0, 0, :3:2] for s in states])[:, None]
    depth = (half - (x - place).abs()).amin(-1)
    # Contact acts on nodes, so a particle may sink in by less than a cell; to pass it would have to
    # get beyond the middle, which is one cell deep.
    assert float(depth.max()) < 0.85 * c.dx


def test_the_paddle_moves_the_block_without_touching_it(nano):
    c = nano.config
    with torch.no_grad():
        final = nano.rollout(torch.full((1, nano.horizon, 1), 0.3)).final
    moved = float(nano.body_center(final)[0, 0]) - c.start[0]
    paddle = float(final.tool_pose[0, 0, 0])
    assert moved > 0.05
    gap = c.start[0] + moved - 0.5 * c.body[0] - (paddle + 0.5 * c.paddle[0])
    assert gap > 0


def test_stops_end_the_travel(nano):
    c = nano.config
    with torch.no_grad():
        final = nano.rollout(torch.full((1, nano.horizon, 1), 0.5)).final
    end = c.paddle_start[0] + c.travel[0] + c.overrun
    assert float(final.tool_pose[0, 0, 0]) == pytest.approx(end, abs=1e-6)
    assert float(nano.metrics(final)["excess"]) == pytest.approx(c.overrun, abs=1e-6)
    assert float(nano.loss(final, 0)) > 1.0


@pytest.mark.parametrize("softness", [100.0, 0.0])
def test_soft_contact_is_felt_before_touch(softness):
    """∂(final position of the block)/∂(first displacement of the plate), plate 0.02 m away.

    The window of s = 100/m reaches 4/s = 0.04 m, hard contact reaches nothing: its gradient is an
    exact zero, since no term of the sum exists.
    """
    task = task_by_name("fluid/gathering", softness=softness, **HOVER)
    actions = torch.zeros(1, task.horizon, 2, dtype=F64)
    actions[..., 1] = -0.05  # toward the water, by 0.6 mm in all
    actions.requires_grad_()
    final = task.rollout(actions).final
    water_top = float(task.reset().x[0, task._water, -1].max())
    plate = float(final.tool_pose[0, 0, 2].detach()) - 0.05
    assert 0.015 < plate - water_top < 0.03
    (gradient,) = torch.autograd.grad(task.body_center(final)[0].sum(), actions)
    first = gradient[0, 0] / task.solver.step_time  # per metre instead of per m/s
    if softness:
        assert float(first.abs().max()) > 1e-9
    else:
        assert float(gradient.abs().max()) == 0.0


def test_the_pool_in_3d():
    task = task_by_name("fluid/gathering-3d", dx=0.1, dt=5e-3, substeps=5, settle=0.1, horizon=3,
                        body=(0.2, 0.2, 0.2), paddle=(0.2, 0.4, 0.3), axes="xy")  # fmt: skip
    actions = torch.full((1, 3, 2), 0.2)
    final = task.rollout(actions).final
    assert task.body_center(final).shape == (1, 3)
    moved = final.tool_pose[0, 0, :3] - torch.tensor(task.config.paddle_start)
    # Three actions of 25 ms at 0.2 m/s along x and y.
    torch.testing.assert_close(moved, torch.tensor([0.015, 0.015, 0.0]), atol=1e-6, rtol=0)
    assert task.observation(final).shape[0] == 1


def test_impossible_scenes_are_refused():
    for change, text in (
        ({"dim": 4}, "dim"), ({"axes": "y"}, "axes"), ({"paddle": (0.01, 0.3, 0.3)}, "thick"),
        ({"body_rho": 1200.0}, "sinks"), ({"horizon": 0}, "horizon"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=text):
            task_by_name("fluid/gathering", **change)
