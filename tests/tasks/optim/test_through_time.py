"""Optimizers through time: known optima, bounds, masks, and the rule of the growing horizon."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import InputError, StateError
from rheograd.tasks.optim import Budget, make_optimizer, optimize
from rheograd.tasks.optim.schedules import ExpandingHorizon, Plateau
from toy_tasks import Fragile, FragileConfig, Tracking, TrackingConfig


def rest(task):
    with torch.no_grad():
        return float(task.total_loss(task.initial_actions()))


@pytest.mark.parametrize(
    ("method", "options", "factor"),
    [("gradient", {"expand": False}, 1e-3), ("gradient", {}, 5e-3), ("lbfgs", {}, 1e-7)],
)
def test_reach_the_known_optimum(method, options, factor):
    """Loss 0 within 20 000 steps, 230 rollouts with their gradients, in 100 dimensions."""
    task = Tracking()
    result = optimize(task, method, budget=Budget(simulator_steps=20_000), **options)
    assert result.loss < factor * rest(task)
    if method == "lbfgs":
        assert float((result.actions - task.optimum).abs().max()) < 0.01


def test_gradients_beat_evolution_in_many_dimensions():
    """100 dimensions, smooth; the same simulator steps for both, adjoints charged 2.5."""
    pytest.importorskip("cma")
    task, budget = Tracking(), Budget(simulator_steps=10_000)
    evolution = min(
        optimize(task, "cma", budget=budget, knots=knots, sigma=sigma).loss
        for knots, sigma in ((None, 0.1), (10, 0.3))
    )  # fmt: skip
    assert optimize(task, "gradient", budget=budget, expand=False).loss < 0.2 * evolution
    assert optimize(task, "lbfgs", budget=budget).loss < 1e-4 * evolution


def test_lbfgs_meets_the_bounded_optimum():
    """Where limits bind, the result is that of scipy's L-BFGS-B in float64."""
    from scipy.optimize import minimize

    task = Tracking(TrackingConfig(horizon=10, reach=2.0))

    def value(flat):
        actions = torch.from_numpy(flat.reshape(10, 4)).requires_grad_()
        # Wrong only in the slack that the task's own check leaves.
        loss = task.total_loss(actions).sum()
        (gradient,) = torch.autograd.grad(loss, actions)
        return float(loss.detach()), gradient.numpy().ravel()

    truth = minimize(
        value, np.zeros(40), jac=True, method="L-BFGS-B", bounds=[(-1, 1)] * 40,
        options={"ftol": 1e-15, "gtol": 1e-10},
    )  # fmt: skip
    assert int((np.abs(truth.x) > 0.999).sum()) >= 5  # limits do bind
    found = optimize(task, "lbfgs", budget=Budget(iterations=300), patience=20, progress=0.0)
    assert found.loss == pytest.approx(truth.fun, rel=1e-4)
    assert found.loss >= truth.fun * (1 - 1e-5)


def test_lbfgs_takes_no_worse_point():
    optimizer = make_optimizer(Tracking(), "lbfgs")
    accepted = []
    for _ in range(40):
        optimizer.iterate()
        accepted.append(optimizer.value)
        if optimizer.converged:
            break
    assert all(b <= a for a, b in itertools.pairwise(accepted))
    # Mostly one rollout per step: curvature makes the unit step fit.
    assert len(set(accepted)) > 0.6 * len(accepted)


@pytest.mark.parametrize("method", ["gradient", "lbfgs"])
def test_masked_actions_stay(method):
    task = Tracking()
    first = 0.1 * torch.ones(25, 4)
    result = optimize(
        task, method, budget=Budget(iterations=30), initial=first, rows=(5, 20), columns=(0, 3),
        expand=False,
    )  # fmt: skip
    moved = result.actions != first
    assert not bool(moved[:5].any() or moved[20:].any() or moved[:, 1:3].any())
    assert bool(moved[5:20][:, [0, 3]].all())
    assert result.loss < float(task.total_loss(first).detach())
    for bad in ({"rows": (5, 30)}, {"rows": (5,)}, {"columns": (4,)}, {"columns": ()}):
        with pytest.raises(InputError, match="rows|columns"):
            make_optimizer(task, method, **bad)


def test_clipping_bounds_what_a_spike_does():
    """Moments after a spike of 10⁶ equal those after a gradient of the bound's norm."""
    moments = []
    for size in (1e6, 2.0):
        optimizer = make_optimizer(Tracking(), "gradient", clip=2.0, expand=False)
        direction = torch.zeros(25, 4)
        direction[3, 1] = size
        optimizer._update(1.0, direction)
        moments.append(optimizer.moments.clone())
    torch.testing.assert_close(moments[0], moments[1])
    assert float(moments[0][0, 3, 1]) == pytest.approx(0.1 * 2.0)


@pytest.mark.parametrize("method", ["gradient", "lbfgs"])
def test_steps_that_break_the_simulation_are_taken_back(method):
    task = Fragile(FragileConfig(reach=0.45))
    result = optimize(
        task, method, budget=Budget(iterations=120), expand=False,
        **({"lr": 0.6} if method == "gradient" else {"first_step": 0.9}),
    )  # fmt: skip
    assert any(r.loss == float("inf") for r in result.history)
    assert result.loss < 0.1 * rest(task)
    broken = Fragile(FragileConfig(limit=-1.0))
    with pytest.raises(StateError):
        optimize(broken, method, budget=Budget(iterations=3))


def test_a_plateau_is_patience_iterations_without_progress():
    plateau = Plateau(patience=3, relative=0.01)
    assert [plateau.update(v) for v in (1.0, 0.995, 0.98, 0.979)] == [False] * 4
    assert [plateau.update(v) for v in (0.978, 0.977)] == [False, True]
    plateau = Plateau(patience=2, relative=0.0, absolute=0.1)
    assert [plateau.update(v) for v in (1.0, 0.8, 0.75, 0.71)] == [False, False, False, True]
    plateau.reset()
    assert not plateau.update(5.0) and plateau.best == 5.0


@pytest.mark.parametrize("start", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("growth", [0.07, 0.3, 1.0])
@pytest.mark.parametrize("window", [0.01, 0.2, 1.0])
def test_every_row_is_optimized_before_it_freezes(start, growth, window):
    """Rows join the objective while they are free, and the last stage frees and counts all."""
    T = 57
    horizon = ExpandingHorizon(T, start, growth, window)
    free, stages = set(range(horizon.begin, horizon.end)), []
    while kind := horizon.advance():
        assert set(range(horizon.begin)) <= free  # frozen rows have been free, counted, before
        free |= set(range(horizon.begin, horizon.end))
        stages.append(kind)
        assert len(stages) < 100
    assert (horizon.begin, horizon.end) == (0, T) and free == set(range(T))
    assert stages.count("released") == (window < 1 and start < 1 and stages[-1] == "released")
    fixed = ExpandingHorizon(T, start, growth, window, expand=False)
    assert (fixed.begin, fixed.end) == (0, T) and fixed.advance() == ""


def test_the_horizon_grows_when_progress_ends():
    task = Tracking()
    optimizer = make_optimizer(
        task, "gradient", start=0.2, growth=0.2, window=0.4, patience=3, progress=0.05, lr_min=0.05
    )
    windows, losses = [], []
    while not optimizer.converged and optimizer.iteration < 300:
        span, frozen = (
            (optimizer.begin, optimizer.end),
            optimizer.actions[: optimizer.begin].clone(),
        )
        before = task.simulated_steps
        record = optimizer.iterate()
        if windows and windows[-1] == span:
            # Within a stage frozen rows neither move nor are simulated again.
            assert task.simulated_steps - before == span[1] - span[0]
        assert torch.equal(optimizer.stage_best[: span[0]], frozen) or optimizer.begin != span[0]
        assert record.horizon == span[1]
        windows.append(span)
        losses.append(record.loss)
    stages = [span for span, _ in itertools.groupby(windows)]
    assert stages == [(0, 5), (0, 10), (5, 15), (10, 20), (15, 25), (0, 25)]
    first = losses[: windows.count((0, 5))]
    best = [min(first[: k + 1]) for k in range(len(first))]
    # The stage ended at the third stalled iteration in a row, no sooner.
    stalled = [k > 0 and first[k] >= 0.95 * best[k - 1] for k in range(len(first))]
    assert all(stalled[-3:]) and not any(all(stalled[k - 3 : k]) for k in range(3, len(stalled)))
