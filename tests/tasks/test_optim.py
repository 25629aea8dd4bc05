"""Optimizers: they improve, count honestly, resume exactly, and stop when told."""

from __future__ import annotations

import io

import pytest
import torch
from rheograd.sim.core.errors import InputError, StateError
from rheograd.tasks.core import task_by_name
from rheograd.tasks.optim import Budget, make_optimizer, optimize
from rheograd.tasks.optim.population import hat_basis

SMALL = {"horizon": 16, "substeps": 10}


@pytest.fixture(scope="module")
def task():
    return task_by_name("fluid/gathering-nano", **SMALL)


@pytest.fixture(scope="module")
def resting(task):
    with torch.no_grad():
        return float(task.total_loss(task.initial_actions()))


def options(method):
    return {"knots": 4, "population": 6} if method == "cma" else {"start": 0.5}


@pytest.mark.parametrize("method, factor", [("gradient", 0.8), ("cma", 0.9)])
def test_the_loss_falls(task, resting, method, factor):
    if method == "cma":
        pytest.importorskip("cma")
    result = optimize(task, method, budget=Budget(simulator_steps=4000), **options(method))
    assert result.loss < factor * resting
    assert result.steps_used <= 4000
    with torch.no_grad():
        assert float(task.total_loss(result.actions)) == pytest.approx(result.loss, rel=1e-6)
    assert bool((result.actions.abs() <= task.action_limit).all())
    assert [r.iteration for r in result.history] == list(range(1, len(result.history) + 1))


@pytest.mark.parametrize("method", ["gradient", "cma"])
def test_resume_equals_uninterrupted(task, method):
    if method == "cma":
        pytest.importorskip("cma")
    whole = optimize(task, method, budget=Budget(iterations=4), seed=3, **options(method))
    first = make_optimizer(task, method, budget=Budget(iterations=4), seed=3, **options(method))
    for _ in range(2):
        first.iterate()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = optimize(
        task, method, budget=Budget(iterations=4), seed=3, state=saved, **options(method)
    )
    assert torch.equal(again.actions, whole.actions)
    assert [r.loss for r in again.history] == [r.loss for r in whole.history]
    assert again.steps_used == whole.steps_used


def test_another_methods_state_is_refused(task):
    state = make_optimizer(task, "gradient").state_dict()
    state["method"] = "Annealing"
    with pytest.raises(InputError, match="Annealing"):
        make_optimizer(task, "gradient").load_state_dict(state)


def test_gradient_steps_are_counted(task):
    """Full horizon: T · substeps forward, the same times `adjoint_cost` backward; recomputed ones too."""
    one = task.horizon * task.substeps
    for checkpoint, runs in (("none", 1), ("uniform", 2)):
        budget = Budget(iterations=1, adjoint_cost=3.0)
        optimizer = make_optimizer(
            task, "gradient", budget=budget, expand=False, checkpoint=checkpoint
        )
        assert optimizer.next_cost() == (runs + 3) * one
        assert optimizer.iterate().steps == (runs + 3) * one


def test_frozen_rows_wait(task):
    """With a window of half the horizon, early rows keep their values and are not simulated again."""
    optimizer = make_optimizer(task, "gradient", start=0.5, growth=0.5, window=0.5, patience=1)
    while optimizer.end < task.horizon:
        optimizer.iterate()
    rows = optimizer.actions[:8].clone()
    before = task.simulated_steps
    optimizer.iterate()
    assert task.simulated_steps - before == 16 * task.substeps  # 8 frozen once, 8 of the window
    before = task.simulated_steps
    optimizer.iterate()
    assert optimizer.begin == 0 or task.simulated_steps - before == 8 * task.substeps
    assert torch.equal(optimizer.stage_best[:8], rows)


def test_an_interrupt_keeps_the_best(task, resting):
    def stop(info):
        assert {"loss", "distance", "steps", "wall_s", "optimizer"} <= set(info)
        if info["iteration"] == 3:
            raise KeyboardInterrupt

    result = optimize(task, "gradient", budget=Budget(iterations=9), on_iteration=stop, expand=False)
    assert result.stopped == "interrupted" and len(result.history) == 3
    assert result.loss < resting


def test_candidates_that_break_count_as_worst(task, monkeypatch):
    pytest.importorskip("cma")
    rollout = task.rollout

    def fragile(actions, **kwargs):
        if float(actions.max()) > 0.2:
            raise StateError("a wall of water")
        return rollout(actions, **kwargs)

    monkeypatch.setattr(task, "rollout", fragile)
    optimizer = make_optimizer(task, "cma", seed=1, **options("cma"))
    record = optimizer.iterate()
    assert record.loss < float("inf") and max(optimizer._values[0]) < float("inf")
    assert float(optimizer.best_actions.max()) <= 0.2


def test_wrong_settings_are_refused(task):
    with pytest.raises(InputError, match="method"):
        optimize(task, "annealing")
    with pytest.raises(InputError, match="lr"):
        optimize(task, "gradient", learning_rate=1.0)
    with pytest.raises(InputError, match="share"):
        make_optimizer(task, "gradient", start=0.0)
    with pytest.raises(InputError, match="knots"):
        make_optimizer(task, "cma", knots=1)


def test_knots_are_linear_in_between():
    basis = hat_basis(7, 3)
    expected = [[1, 0, 0], [2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 0], [0, 1, 0]]
    torch.testing.assert_close(basis[:4], torch.tensor(expected))
    torch.testing.assert_close(basis.sum(1), torch.ones(7))


@pytest.mark.slow
def test_an_expanding_horizon_beats_the_full_one():
    """Same pool, same simulator steps; the full horizon with the step that suits it best."""
    pool = task_by_name("fluid/gathering")
    budget = Budget(simulator_steps=60_000)
    expanding = optimize(pool, "gradient", budget=budget)
    full = optimize(pool, "gradient", budget=budget, expand=False, lr=0.1)
    assert expanding.success
    assert expanding.loss < 0.9 * full.loss
