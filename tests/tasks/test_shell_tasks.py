"""Every task with sheets in its nano size: start, gradient, batch, seeds, and what a search gains.

New tasks are picked up by their name, `shell/NAME-nano`.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.tasks import shell  # noqa: F401  registers the built-in tasks
from rheograd.tasks.core import TASKS, task_by_name
from rheograd.tasks.optim import Budget, optimize
from rheograd.tasks.shell.inverse import InverseTask

NANO = sorted(n for n in TASKS if n.startswith("shell/") and n.endswith("-nano"))
LONG = ("balancing", "card", "forming", "pick-folding", "separating", "sliding", "throwing")
"""Tasks that take ten to thirty seconds to settle and to move, for the slow tests."""
SHORT = 3
"""Actions that the quick tests run, and steps of an episode whose action is a parameter."""


def make(name, **overrides):
    cls = TASKS[name]()
    if issubclass(cls, InverseTask):
        overrides = {"steps": SHORT} | overrides
    return task_by_name(name, **overrides)


def marked(name):
    slow = name.removeprefix("shell/").removesuffix("-nano") in LONG
    return pytest.param(name, marks=pytest.mark.slow) if slow else name


@pytest.fixture(params=[marked(name) for name in NANO], scope="module")
def task(request):
    # Scenes of a batch stop at different residuals; a small one leaves little to differ in.
    return make(request.param, tol=1e-9)


def some_actions(task, batch=1, seed=0):
    """About the usual start, so that fingers touch, and smooth in time."""
    generator = torch.Generator().manual_seed(seed)
    count = min(SHORT, task.horizon)
    ends = 0.2 * (2 * torch.rand(2, batch, 1, task.action_size, generator=generator) - 1)
    time = torch.linspace(0, 1, count)[None, :, None]
    actions = task.initial_actions()[:count] + (ends[0] + time * ends[1]) * task.action_limit
    return torch.maximum(torch.minimum(actions, task.action_limit), -task.action_limit).double()


def test_a_full_size_exists_beside_each_nano_size():
    assert NANO and all(name.removesuffix("-nano") in TASKS for name in NANO)


def test_gradient_shapes_and_batch(task):
    """One batch of two, forward and backward, against its second scene alone."""
    actions = some_actions(task, batch=2).requires_grad_()
    loss, final = task.evaluate(actions)
    (gradient,) = torch.autograd.grad(loss.sum(), actions)
    assert loss.shape == (2,) and bool((loss > 0).all()) and bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any((1, 2)).all())
    with torch.no_grad():
        alone, end = task.evaluate(actions[1])
    torch.testing.assert_close(alone[0], loss[1].detach(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(end.x[0], final.x[1].detach(), rtol=0, atol=1e-8)
    start = task.reset()
    assert task.success(final).dtype == torch.bool and not bool(task.success(start).any())
    for numbers in (
        task.metrics(final),
        task.metrics(start.map(lambda t: t.repeat_interleave(2, 0))),
    ):
        assert all(v.shape == (2,) and bool(torch.isfinite(v).all()) for v in numbers.values())
    seen = task.observation(final)
    assert seen.shape == (2, task.observation(start).shape[1]) and bool(torch.isfinite(seen).all())


def test_start(task):
    first = task.initial_actions()
    assert first.shape == (task.horizon, task.action_size)
    assert bool((first.abs() <= task.action_limit).all())
    state = task.reset(batch_size=2)
    assert state.batch_size == 2 and state.x.dtype == torch.float64
    assert float(state.v.abs().max()) == 0.0
    assert float(task.loss(state, 0).abs().max()) < 10


@pytest.mark.parametrize("name", ["bouncing", "folding-l", "lifting"])
def test_gradient_against_differences(name):
    """Along a direction smooth in time; the residual is so small that differences see no rounding."""
    task = make(f"shell/{name}-nano", tol=1e-9)
    actions, direction = some_actions(task), some_actions(task, seed=1) - some_actions(task, seed=2)
    actions.requires_grad_()
    (gradient,) = torch.autograd.grad(task.total_loss(actions).sum(), actions)
    predicted = float((gradient * direction).sum())
    eps = 1e-4
    with torch.no_grad():
        both = torch.cat([actions + s * eps * direction for s in (1, -1)])
        high, low = task.total_loss(both).tolist()
    assert abs(predicted) > 1e-6 * abs(high)  # or nothing is compared
    # Contact rows appear within a step of differences: second derivatives jump there.
    assert predicted == pytest.approx((high - low) / (2 * eps), rel=2e-3)


def test_cma_searches_for_a_single_number():
    """Which its library alone refuses."""
    pytest.importorskip("cma")
    task = make("shell/bouncing-nano")
    found = optimize(task, "cma", budget=Budget(iterations=2), seed=1)
    first = float(task.total_loss(task.initial_actions()))
    assert found.actions.shape == (1, 1) and found.loss < 0.9 * first


def test_seeds():
    few = {"settle": 0, "closing_steps": 1, "squeeze": 6e-4}
    task = make("shell/lifting-nano", jitter=5e-4, **few)
    starts = [task.reset(seed=s).tensors() for s in (3, 3, 4)]
    assert all(torch.equal(a, starts[1][k]) for k, a in starts[0].items())
    assert not torch.equal(starts[0]["x"], starts[2]["x"])
    calm = make("shell/lifting-nano", **few)
    assert torch.equal(calm.reset(seed=3).x, calm.reset(seed=4).x)


def test_forces_are_a_constraint_on_the_whole_episode():
    """Squeezed and let go again: the end alone would not tell. `tolerance` takes the goal away."""
    few = {"settle": 0, "closing_steps": 1, "squeeze": 6e-4, "tolerance": 1.0, "horizon": 2}
    free = make("shell/lifting-nano", **few)
    actions = torch.zeros(2, 9)
    actions[:, 2] = torch.tensor([-0.15, 0.15])
    with torch.no_grad():
        states = free.rollout(actions).states
    now = torch.stack([free.force_now(s) for s in states])[:, 0]
    peak, end = float(now.max()), float(now[-1])
    assert float(free.peak_force(states[-1])) == peak > 1.2 * end > 0
    assert float(free.metrics(states[-1])["force"]) == peak and bool(free.success(states[-1]))
    strict = make("shell/lifting-nano", **few, max_force=0.5 * (peak + end))
    assert bool(strict.reached(states[-1])) and not bool(strict.success(states[-1]))
    # The squeeze costs where it happens, and the cost begins before the limit.
    cost = [float(strict.costs(s)["force"]) for s in states]
    assert cost[1] > 0 == cost[2] and float(free.costs(states[1])["force"]) == 0.0
    near = make("shell/lifting-nano", **few, max_force=1.05 * peak)
    assert float(near.costs(states[1])["force"]) > 0 and bool(near.success(states[-1]))
    with pytest.raises(InputError, match="max_force"):
        make("shell/lifting-nano", max_force=0.0)


@pytest.mark.filterwarnings("ignore:.*infinity.*")  # observations are physical and unbounded
def test_gymnasium():
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env
    from rheograd.tasks.gym import environment_name

    id = environment_name("shell/lifting-nano")
    env = gymnasium.make(id, disable_env_checker=True, settle=1, closing_steps=2)
    try:
        check_env(env.unwrapped, skip_render_check=True)
    finally:
        env.close()


def test_gymnasium_of_parameters():
    """An episode is one action, which the library's checker refuses; it works all the same."""
    pytest.importorskip("gymnasium")
    from rheograd.tasks.gym import TaskEnv

    env = TaskEnv("shell/bouncing-nano", steps=SHORT)
    env.reset(seed=0)
    seen, reward, ended, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(seen) and reward < 0 and truncated and not ended
    assert info["k_bend"] > 0 and not info["is_success"]


def test_refusals():
    with pytest.raises(InputError, match="odd number"):
        task_by_name("shell/folding-u-nano", spacing=0.01)
    with pytest.raises(InputError, match="span"):
        task_by_name("shell/bouncing-nano", span=2.0)
    with pytest.raises(InputError, match="horizon = 1"):
        task_by_name("shell/bouncing-nano", horizon=2)
    with pytest.raises(InputError, match="jitter"):
        task_by_name("shell/lifting-nano", jitter=-1.0)
    task = make("shell/bouncing-nano")
    with pytest.raises(InputError, match="finite actions; got 1 NaN"):
        task.rollout(torch.full((1, task.action_size), torch.nan))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n.removesuffix("-nano") for n in NANO])
def test_full_size_runs(name):
    cls = TASKS[name]()
    short = {"steps": 2} if issubclass(cls, InverseTask) else {"horizon": 2}
    fields = {f.name for f in dataclasses.fields(cls.Config)}
    task = task_by_name(name, **{k: v for k, v in short.items() if k in fields})
    with torch.no_grad():
        final = task.rollout(torch.zeros(task.horizon, task.action_size)).final
    assert all(bool(torch.isfinite(v).all()) for v in final.tensors().values())


GAINS = {
    "balancing": 0.3,
    "bouncing": 1e-3,
    "card": 0.01,
    "folding-l": 0.1,
    "folding-u": 0.3,
    "following": 0.2,
    "forming": 0.15,
    "lifting": 0.5,  # its start follows the goal already
    "pick-folding": 0.1,
    "separating": 0.5,
    "sliding": 0.05,
    "throwing": 0.8,
}
"""Largest share left of the loss at the usual start, after 12 iterations at the settings of the task."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(GAINS))
def test_gradients_gain(name):
    task = task_by_name(f"shell/{name}-nano")
    with torch.no_grad():
        first = float(task.total_loss(task.initial_actions()))
    found = optimize(task, budget=Budget(iterations=12))
    print(name, round(first, 5), round(found.loss, 6), found.success)
    assert found.loss < GAINS[name] * first
