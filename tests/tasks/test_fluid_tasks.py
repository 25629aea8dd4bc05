"""Every fluid task in its nano size: start, gradient, seeds, Gymnasium, and what a search gains.

New tasks are picked up by their name, `fluid/NAME-nano`.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from rheograd.tasks import fluid  # noqa: F401  registers the built-in tasks
from rheograd.tasks.core import TASKS, task_by_name
from rheograd.tasks.optim import Budget, optimize

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


@pytest.mark.slow
@pytest.mark.parametrize("name", [n.removesuffix("-nano") for n in NANO])
def test_spec_size_runs(name):
    cls = TASKS[name]()
    fields = {f.name for f in dataclasses.fields(cls.Config)}
    short = {"settle": 0.0, "substeps": 1, "horizon": 2}
    task = task_by_name(name, **{k: v for k, v in short.items() if k in fields})
    with torch.no_grad():
        final = task.rollout(torch.zeros(2, task.action_size)).final
    assert all(bool(torch.isfinite(v).all()) for v in final.tensors().values())


GAINS = {
    "fluid/circulation-nano": (0.95, {"lr": 0.1}),
    "fluid/gathering-nano": (0.8, {"expand": True}),
    "fluid/latte-art-nano": (0.05, {"lr": 0.05}),
    "fluid/latte-art-stir-nano": (0.2, {"lr": 0.05}),
    "fluid/mixing-nano": (0.9, {"lr": 0.15}),
}
"""Largest share of the start's loss that is left after 60 iterations, and options of the search."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(GAINS))
def test_gradients_solve(name):
    share, options = GAINS[name]
    task = task_by_name(name)
    with torch.no_grad():
        first = float(task.total_loss(task.initial_actions()))
    found = optimize(task, budget=Budget(iterations=60), **{"expand": False, **options})
    assert found.loss < share * first and found.success


@pytest.mark.slow
def test_latte_art_is_for_gradients():
    """As the specification asks: at least 80 % less in 60 iterations, and CMA-ES, with as many
    simulator steps, less than half of that."""
    pytest.importorskip("cma")
    task = task_by_name("fluid/latte-art-nano")
    with torch.no_grad():
        first = float(task.total_loss(task.initial_actions()))
    by_gradient = optimize(task, budget=Budget(iterations=60), expand=False, lr=0.05)
    gained = 1 - by_gradient.loss / first
    assert gained >= 0.8 and by_gradient.success
    by_cma = optimize(task, "cma", budget=Budget(simulator_steps=by_gradient.steps_used))
    assert 1 - by_cma.loss / first < 0.5 * gained
