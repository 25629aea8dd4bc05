"""Every fluid task in its nano size: start, gradient, seeds, Gymnasium, and what a search gains.

New tasks are picked up by their name, `fluid/NAME-nano`.
"""

from __future__ import annotations

import pytest
import torch
from rheograd.tasks import fluid  # noqa: F401  registers the built-in tasks
from rheograd.tasks.core import TASKS, task_by_name

NANO = sorted(n for n in TASKS if n.startswith("fluid/") and n.endswith("-nano"))
SHORT = 20
"""Actions that the quick tests run; a task's horizon where that is shorter."""


@pytest.fixture(params=NANO, scope="module")
def task(request):
    return task_by_name(request.param)


def some_actions(task, seed=0):
    generator = torch.Generator().manual_seed(seed)
    count = min(SHORT, task.horizon)
    unit = 2 * torch.rand(1, count, task.action_size, generator=generator) - 1
    return 0.3 * unit * task.action_limit


def test_a_spec_size_exists_beside_each_nano_size():
    assert all(name.removesuffix("-nano") in TASKS for name in NANO)


def test_gradient_of_a_short_rollout(task):
    actions = some_actions(task).requires_grad_()
    loss = task.total_loss(actions)
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(actions.grad).all()) and bool((actions.grad != 0).any())


def test_shapes_and_do_nothing(task):
    idle = torch.zeros(2, min(SHORT, task.horizon), task.action_size)
    with torch.no_grad():
        loss, final = task.evaluate(idle)
    assert loss.shape == (2,) and bool((loss > 0).all())
    assert task.success(final).shape == (2,) and task.success(final).dtype == torch.bool
    assert not bool(task.success(task.reset()).any())
    assert all(
        v.shape == (2,) and bool(torch.isfinite(v).all()) for v in task.metrics(final).values()
    )
    seen = task.observation(final)
    assert seen.shape == (2, task.observation(task.reset()).shape[1])
    assert bool(torch.isfinite(seen).all())
    first = task.initial_actions()
    assert first.shape == (task.horizon, task.action_size)
    assert bool((first.abs() <= task.action_limit * (1 + 1e-5)).all())


def test_seeds(task):
    name = next(n for n in NANO if type(task) is TASKS[n]())
    spread = "jitter" if hasattr(task.config, "jitter") else "agitation"
    moved = task_by_name(name, **{spread: 0.003})
    starts = [moved.reset(seed=s).tensors() for s in (3, 3, 4)]
    assert all(torch.equal(a, starts[1][k]) for k, a in starts[0].items())
    assert any(not torch.equal(a, starts[2][k]) for k, a in starts[0].items())
    same = [task.reset(seed=s).tensors() for s in (3, 4)]
    assert all(torch.equal(a, same[1][k]) for k, a in same[0].items())


@pytest.mark.filterwarnings("ignore:.*infinity.*")  # observations are physical and unbounded
@pytest.mark.parametrize("name", NANO)
def test_gymnasium(name):
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env
    from rheograd.tasks.gym import environment_name

    env = gymnasium.make(environment_name(name), horizon=2, disable_env_checker=True)
    try:
        check_env(env.unwrapped, skip_render_check=True)
    finally:
        env.close()
