"""What every registered task promises: shapes, seeds, batches, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error, some_actions
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.tasks import fluid  # noqa: F401  registers the built-in tasks
from rheograd.tasks.core import TASKS, register_task, task_by_name

F64 = torch.float64
TINY = {
    "fluid/gathering": {"horizon": 4, "dx": 0.05, "dt": 2.5e-3, "substeps": 4, "settle": 0.05,
                        "body": (0.15, 0.15, 0.15), "paddle": (0.1, 0.3, 0.3), "agitation": 0.05},
    "fluid/gathering-3d": {"horizon": 3, "substeps": 2, "settle": 0.02, "depth": 0.15,
                           "tank": (0.7, 0.4, 0.3), "start": (0.35, 0.2), "target": (0.5, 0.2),
                           "paddle_start": (0.15, 0.2, 0.2), "paddle": (0.1, 0.2, 0.3),
                           "agitation": 0.05, "axes": "xyz"},
    "fluid/gathering-nano": {"horizon": 4, "substeps": 4, "agitation": 0.05, "axes": "xz"},
}  # fmt: skip
"""Sizes at which a task's contract takes a second."""


@pytest.fixture(params=sorted(TINY), scope="module")
def task(request):
    return task_by_name(request.param, **TINY[request.param])


def test_every_registered_task_of_the_package_is_tested():
    """Here the pool, in all detail; the nano preset of every other task in test_fluid_tasks.py."""
    others = {name for name in TASKS if name.startswith("fluid/")} - set(TINY)
    full = {name for name in others if not name.endswith("-nano")}
    assert {f"{name}-nano" for name in full} == others - full


def test_shapes(task):
    state = task.reset(batch_size=2)
    assert state.batch_size == 2
    assert task.initial_actions().shape == (task.horizon, task.action_size)
    assert task.action_limit.shape == (task.action_size,) and bool((task.action_limit > 0).all())
    assert task.loss(state, 0).shape == (2,)
    assert task.success(state).dtype == torch.bool and task.success(state).shape == (2,)
    assert all(value.shape == (2,) for value in task.metrics(state).values())
    assert task.observation(state).shape == task.observation(task.reset(batch_size=2)).shape
    assert bool(torch.isfinite(task.observation(state)).all())
    after, reward = task.step(state, some_actions(task, 2, dtype=torch.float32)[:, 0])
    assert reward.shape == (2,) and torch.equal(reward, -task.loss(after, 0))


def test_a_seed_gives_one_state(task):
    first, again, other = (task.reset(seed=s) for s in (3, 3, 4))
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, getattr(again, name)), name
    assert not torch.equal(first.v, other.v)
    assert torch.equal(first.x, task.reset(seed=3, dtype=F64).x.float())


def test_batch_equals_loop(task):
    actions = some_actions(task, 3)
    with torch.no_grad():
        together = task.rollout(actions).final
        for b in range(3):
            alone = task.rollout(actions[b]).final
            # Scenes share no sums; shards of a batch may add in another order.
            assert relative_error(together.x[b], alone.x[0]) < 1e-12


def test_evaluate_is_the_mean_of_losses(task):
    actions = some_actions(task, 2)
    with torch.no_grad():
        state, losses = task.reset(batch_size=2, dtype=F64), []
        for t in range(task.horizon):
            state, reward = task.step(state, actions[:, t], t=t)
            losses.append(-reward)
        before = task.simulated_steps
        loss, final = task.evaluate(actions)
        assert task.simulated_steps - before == 2 * task.horizon * task.substeps
        torch.testing.assert_close(loss, torch.stack(losses).mean(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(final.x, state.x, rtol=1e-12, atol=0)
        split = task.rollout(actions, horizon=1).final
        rest, _ = task.evaluate(actions[:, 1:], state=split, start=1)
        mean = (losses[0] + rest * (task.horizon - 1)) / task.horizon
        torch.testing.assert_close(mean, loss, rtol=1e-12, atol=0)
    with torch.enable_grad():
        torch.testing.assert_close(task.total_loss(actions), loss, rtol=1e-12, atol=0)


def test_gradient_in_the_actions(task):
    if task.config.dim == 3:
        return _directional(task)  # the Taylor test's levels cost too much in 3-D
    report = taylor_test(lambda a: task.total_loss(a).sum(), some_actions(task))
    assert report.passed(), report


def _directional(task):
    actions = some_actions(task).requires_grad_()
    task.total_loss(actions).sum().backward()
    direction, eps = some_actions(task, seed=1), 1e-5
    with torch.no_grad():
        high, low = (task.total_loss(actions + s * eps * direction) for s in (1, -1))
    predicted = (actions.grad * direction).sum()
    assert predicted != 0
    # Central differences: relative error (ε a'''/a') ~ 1e-8 and round-off 1e-16/(ε |a'|) ~ 1e-6.
    assert relative_error(predicted, ((high - low) / (2 * eps)).sum()) < 1e-5


def test_checkpoints_leave_the_gradient_alone(task):
    gradients = []
    for policy in ("none", "uniform", "revolve"):
        actions = some_actions(task).requires_grad_()
        task.total_loss(actions, checkpoint=policy).sum().backward()
        gradients.append(actions.grad)
    assert relative_error(gradients[1], gradients[0]) < 1e-12
    assert relative_error(gradients[2], gradients[0]) < 1e-12


def test_refuses_wrong_actions(task):
    good = some_actions(task)
    with pytest.raises(InputError, match="shape"):
        task.rollout(torch.zeros(1, task.horizon, task.action_size + 1))
    with pytest.raises(InputError, match="Clip them"):
        task.rollout(good * 10)
    with pytest.raises(InputError, match="finite"):
        task.rollout(good * float("nan"))
    with pytest.raises(InputError, match="at least one action"):
        task.evaluate(good, horizon=0)
    with pytest.raises(InputError, match="shape"):
        task.step(task.reset(), good)


def test_unknown_names_are_answered():
    with pytest.raises(InputError, match="fluid/gathering"):
        task_by_name("fluid/gatering")
    with pytest.raises(InputError, match="horizon"):
        task_by_name("fluid/gathering", horizont=3)


def test_own_tasks_register():
    cls = TASKS["fluid/gathering-nano"]()
    register_task("mine", lambda: cls)
    try:
        assert isinstance(task_by_name("mine", horizon=2), cls)
    finally:
        del TASKS["mine"]
