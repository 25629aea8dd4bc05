"""Every task with gel sensors in its nano size: start, gradients through time, batch, seeds, refusals.

New tasks are picked up by their name, `tactile/NAME-nano`.
"""

from __future__ import annotations

import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.tasks import tactile  # noqa: F401  registers the built-in tasks
from rheograd.tasks.core import TASKS, task_by_name
from rheograd.tasks.optim import Budget, optimize

NANO = sorted(n for n in TASKS if n.startswith("tactile/") and n.endswith("-nano"))
LONG = (
    "cable-straightening",
    "grasp-elastic",
    "grasp-plastic",
    "object-reposing",
    "peg-insertion",
)
"""Tasks whose tests take more than some seconds, for the slow tests."""
SHORT = 4
"""Actions that the tests run."""


def marked(name):
    slow = name.removeprefix("tactile/").removesuffix("-nano") in LONG
    return pytest.param(name, marks=pytest.mark.slow) if slow else name


@pytest.fixture(params=[marked(name) for name in NANO], scope="module")
def task(request):
    # Scenes of a batch stop at different residuals; a small one leaves little to differ in.
    return task_by_name(request.param, tol=1e-9)


def nominal(task, batch=1, seed=0, size=0.1):
    """Near the nominal command, so that sensors touch, and smooth in time."""
    generator = torch.Generator().manual_seed(seed)
    ends = size * (2 * torch.rand(2, batch, 1, task.action_size, generator=generator) - 1)
    time = torch.linspace(0, 1, SHORT)[None, :, None]
    actions = task.initial_actions()[:SHORT] + (ends[0] + time * ends[1]) * task.action_limit
    return torch.maximum(torch.minimum(actions, task.action_limit), -task.action_limit).double()


def last_force(task, actions):
    """A sum of all components of force of the last frame [N], (B,)."""
    force = task.wrenches(task.rollout(actions).final)[..., :3].flatten(1)
    return force @ torch.linspace(0.5, 1.5, force.shape[1], dtype=force.dtype)


def test_a_full_size_exists_beside_each_nano_size():
    assert NANO and all(name.removesuffix("-nano") in TASKS for name in NANO)


def test_last_force_against_differences(task):
    """The last frame's force felt by the first step's command, all steps in between included; and by
    that of the last step."""
    actions = nominal(task).requires_grad_()
    (gradient,) = torch.autograd.grad(last_force(task, actions).sum(), actions)
    direction = torch.linspace(1.0, 0.3, task.action_size) * task.action_limit
    # Material points, and the peg at the rounded rim, begin to touch with kinks within larger ones.
    kinks = hasattr(task, "clay") or hasattr(task, "peg")
    eps, rows = 1e-6 if kinks else 1e-4, (0, SHORT - 1)
    shift = torch.zeros(2, *actions.shape[1:], dtype=actions.dtype)
    shift[[0, 1], list(rows)] = direction.to(actions)
    with torch.no_grad():
        forces = last_force(task, torch.cat([actions + s * eps * shift for s in (1, -1)]))
    measured = (forces[:2] - forces[2:]) / (2 * eps)
    for k, row in enumerate(rows):
        predicted = float(gradient[0, row] @ direction.to(gradient))
        assert abs(predicted) > 1e-6  # or nothing is compared
        # Contact rows appear within a step of differences: second derivatives jump there.
        assert predicted == pytest.approx(float(measured[k]), rel=1e-3), row


def test_gradient_shapes_and_batch(task):
    """One batch of two, forward and backward, against its second scene alone."""
    actions = nominal(task, batch=2).requires_grad_()
    loss, final = task.evaluate(actions)
    (gradient,) = torch.autograd.grad(loss.sum(), actions)
    assert loss.shape == (2,) and bool((loss > 0).all()) and bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any((1, 2)).all())
    with torch.no_grad():
        alone, end = task.evaluate(actions[1])
    torch.testing.assert_close(alone[0], loss[1].detach(), rtol=1e-5, atol=1e-10)
    torch.testing.assert_close(
        task.bodies(end).x[0], task.bodies(final).x[1].detach(), rtol=0, atol=1e-7
    )
    start = task.reset()
    assert task.success(final).dtype == torch.bool and not bool(task.success(start).any())
    numbers = task.metrics(final)
    assert all(v.shape == (2,) and bool(torch.isfinite(v).all()) for v in numbers.values())
    assert bool((numbers["peak_force"] > 0).all())
    seen = task.observation(final)
    assert seen.shape == (2, task.observation(start).shape[1]) and bool(torch.isfinite(seen).all())


def test_start(task):
    first = task.initial_actions()
    assert first.shape == (task.horizon, task.action_size) and bool((first != 0).any())
    assert bool((first.abs() <= task.action_limit).all())
    state = task.reset(batch_size=2)
    assert state.batch_size == 2 and task.bodies(state).x.dtype == torch.float64
    assert float(task.bodies(state).v.abs().max()) == 0.0
    assert float(task.excess(state).max()) == 0.0  # every sensor begins within its range


def test_forces_and_positions_are_switched_on_separately(task):
    with torch.no_grad():
        state = task.rollout(nominal(task)).final
    felt, placed = (f(state, SHORT - 1) for f in (task.tactile_terms, task.state_terms))
    assert felt and placed and not set(felt) & set(placed)
    name = next(n for n in NANO if isinstance(task, TASKS[n]()))
    for weights, kept in (({"tactile": 0.0}, placed), ({"state": 0.0}, felt)):
        only = task_by_name(name, tol=1e-9, **weights).terms(state, SHORT - 1)
        assert set(only) == {*kept, "force"}
        torch.testing.assert_close({k: only[k] for k in kept}, kept)


def test_seeds():
    task = task_by_name("tactile/surface-following-nano", jitter=5e-4)
    starts = [task.reset(seed=s).tensors() for s in (3, 3, 4)]
    assert all(torch.equal(a, starts[1][k]) for k, a in starts[0].items())
    assert not torch.equal(starts[0]["x"], starts[2]["x"])


def test_forces_are_a_constraint_on_the_whole_episode():
    """Pressed and let go again; the end alone would not tell."""
    easy = {"horizon": 4, "angle_error": 90.0}
    free = task_by_name("tactile/case-opening-nano", **easy)
    actions = torch.zeros(4, free.action_size)
    actions[:, 1] = torch.tensor([0.1, 0.1, -0.1, -0.1])
    with torch.no_grad():
        states = free.rollout(actions).states
    now = torch.stack([free.wrenches(s)[:, 0, :3].norm(dim=-1) for s in states])[:, 0]
    peak, end = float(now.max()), float(now[-1])
    assert float(free.peak_force(states[-1])) == pytest.approx(peak, rel=1e-12) and peak > 1.2 * end
    assert bool(free.success(states[-1]))
    strict = task_by_name("tactile/case-opening-nano", **easy, max_force=0.5 * (peak + end))
    assert bool(strict.reached(states[-1])) and not bool(strict.success(states[-1]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*infinity.*")  # observations are physical and unbounded
def test_gymnasium():
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env
    from rheograd.tasks.gym import environment_name

    id = environment_name("tactile/surface-following-nano")
    env = gymnasium.make(id, disable_env_checker=True, settle=1, horizon=3)
    try:
        check_env(env.unwrapped, skip_render_check=True)
    finally:
        env.close()


def test_pictures(task):
    drawn = task.picture(task.reset())
    assert len(drawn.meshes) >= len(task.scene.gels)


def test_refusals():
    with pytest.raises(InputError, match="max_force"):
        task_by_name("tactile/case-opening-nano", max_force=0.0)
    with pytest.raises(InputError, match="Switch one on"):
        task_by_name("tactile/case-opening-nano", tactile=0.0, state=0.0)
    task = task_by_name("tactile/case-opening-nano", horizon=1)
    with pytest.raises(InputError, match="finite actions; got 1 NaN"):
        task.rollout(torch.where(torch.arange(task.action_size) == 0, torch.nan, 0.0)[None])


GAINS = {"case-opening": 0.5, "grasp-elastic": 0.3, "object-reposing": 0.6}
"""Largest share left of the loss of the nominal command after 5 iterations."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(GAINS))
def test_gradients_gain(name):
    task = task_by_name(f"tactile/{name}-nano")
    with torch.no_grad():
        first = float(task.total_loss(task.initial_actions()))
    assert optimize(task, budget=Budget(iterations=5)).loss < GAINS[name] * first


@pytest.mark.slow
@pytest.mark.parametrize("name", [n.removesuffix("-nano") for n in NANO])
def test_full_size_runs(name):
    task = task_by_name(name, horizon=2, settle=1)
    with torch.no_grad():
        final = task.rollout(torch.zeros(2, task.action_size)).final
    assert all(bool(torch.isfinite(v).all()) for v in final.tensors().values())
