"""Optimizers by sampling: they reach what is known, and their formulae are what they say."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.core.errors import InputError, StateError
from rheograd.tasks.optim import Budget, make_optimizer, optimize
from rheograd.tasks.optim.mppi import path_integral_weights
from rheograd.tasks.optim.population import hat_basis
from toy_tasks import Fragile, FragileConfig, Push, Tracking, TrackingConfig

BEST_PUSH = (5 * 0.3**2 + 0.2**2 + 0.1**2) / 12
"""The finger at full speed touches after 5 actions and needs 3 more; nothing is faster."""


@pytest.mark.parametrize(
    ("method", "options", "excess"),
    [
        ("cma", {"knots": 4, "sigma": 0.6}, 0.03),
        ("cem", {"knots": 4}, 0.06),
        ("mppi", {"knots": 4, "sigma": 0.6}, 0.03),
        ("random", {"knots": 4}, 0.35),
        ("mppi-receding", {"lookahead": 12, "knots": 4, "sigma": 0.6}, 0.2),
    ],
)
def test_solve_hard_contact(method, options, excess):
    """No gradient, known optimum: the finger has to find the block. 6 000 steps, 500 rollouts."""
    if method == "cma":
        pytest.importorskip("cma")
    losses = []
    for seed in range(3):
        result = optimize(Push(), method, budget=Budget(simulator_steps=6000), seed=seed, **options)
        losses.append(result.loss)
        assert result.loss >= BEST_PUSH * (1 - 1e-5)
    assert sorted(losses)[1] <= (1 + excess) * BEST_PUSH, losses


@pytest.mark.parametrize(
    ("method", "factor"), [("cem", 0.4), ("mppi", 0.25), ("mppi-receding", 0.25)]
)
def test_beat_random_search_in_many_dimensions(method, factor):
    """100 dimensions, the same simulator steps."""
    budget, options = Budget(simulator_steps=15_000), {} if "-" in method else {"knots": None}
    found = optimize(Tracking(), method, budget=budget, **options)
    baseline = min(
        optimize(Tracking(), "random", budget=budget, knots=k, seed=1).loss for k in (None, 10)
    )
    assert found.loss < factor * baseline


def test_path_integral_weights():
    losses = torch.tensor([3.0, 1.0, 2.0])
    weights = path_integral_weights(losses, 0.5)
    scale = 0.5 * math.sqrt(2 / 3)
    expected = torch.tensor([math.exp(-2 / scale), 1.0, math.exp(-1 / scale)], dtype=torch.float64)
    torch.testing.assert_close(weights, expected / expected.sum())
    torch.testing.assert_close(path_integral_weights(1e6 * losses + 7, 0.5), weights)
    torch.testing.assert_close(
        path_integral_weights(torch.ones(4), 0.5), torch.full((4,), 0.25).double()
    )
    assert float(path_integral_weights(losses, 1e-3)[1]) == 1.0


def test_mppi_moves_to_the_weighted_mean():
    task = Tracking(TrackingConfig(horizon=5))
    optimizer = make_optimizer(task, "mppi", knots=None, population=6, temperature=0.3)
    points = optimizer._ask()
    assert torch.equal(points[0], optimizer.mean)
    losses, _ = optimizer.evaluate(optimizer.decode(points))
    weights = path_integral_weights(torch.tensor(losses), 0.3).float()
    optimizer._tell(points, losses)
    torch.testing.assert_close(optimizer.mean, (weights[:, None, None] * points).sum(0))


def test_cem_follows_its_elites():
    optimizer = make_optimizer(Tracking(), "cem", knots=2, population=4, elites=2, rate=1.0)
    points = torch.arange(4.0)[:, None, None].expand(4, 2, 4) / 10
    optimizer._tell(points, [3.0, 1.0, 2.0, 4.0])
    torch.testing.assert_close(optimizer.mean, torch.full((2, 4), 0.15))
    torch.testing.assert_close(optimizer.std, torch.full((2, 4), 0.1 / math.sqrt(2)))
    # The elite of before, 0.1 with loss 1, takes part again.
    optimizer._tell(points + 0.5, [5.0, 6.0, 7.0, 0.5])
    torch.testing.assert_close(optimizer.mean, torch.full((2, 4), (0.8 + 0.1) / 2))


def test_receding_actions_are_those_taken():
    """The rows already taken never change again, and their loss is what the run has shown."""
    task = Push()
    optimizer = make_optimizer(task, "mppi-receding", lookahead=4, population=16)
    for t in range(task.horizon):
        taken = optimizer.plan[:t].clone()
        record = optimizer.iterate()
        assert torch.equal(optimizer.plan[:t], taken)
        assert record.horizon == t + 1
    assert optimizer.exhausted() == "converged"
    result = optimizer.result()
    assert result.loss == pytest.approx(record.loss, rel=1e-5)


def test_knots_stay_linear_and_inside():
    basis = hat_basis(9, 4)
    torch.testing.assert_close(basis.sum(1), torch.ones(9))
    first = 0.3 * torch.ones(25, 4)
    optimizer = make_optimizer(Tracking(), "cem", knots=5, initial=first)
    torch.testing.assert_close(optimizer.best_actions, first)


@pytest.mark.parametrize("method", ["cma", "cem", "mppi", "mppi-receding", "random"])
def test_candidates_that_break_count_as_worst(method):
    if method == "cma":
        pytest.importorskip("cma")
    task = Fragile(FragileConfig(limit=0.45))
    options = {"population": 12, "sigma": 0.12, "knots": 3}
    if method == "random":
        task, options = Fragile(FragileConfig(limit=0.8)), {"population": 60, "knots": 2}
    result = optimize(task, method, budget=Budget(iterations=3), **options)
    assert all(math.isfinite(r.loss) for r in result.history)
    assert math.isfinite(result.loss)
    broken = Fragile(FragileConfig(limit=-1.0))
    with pytest.raises(StateError, match="at least one candidate"):
        make_optimizer(broken, method, **options).iterate()


def test_a_broken_chunk_is_not_run_again_beyond_the_budget():
    task = Fragile(FragileConfig(limit=-1.0))
    optimizer = make_optimizer(task, "cem", budget=Budget(simulator_steps=40 * 25))
    assert not optimizer.exhausted()
    record = optimizer.iterate()
    assert record.loss == math.inf and record.steps <= 32 * 25
    assert optimizer.exhausted() == "simulator_steps"


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("cem", {"elites": 1}),
        ("cem", {"rate": 0.0}),
        ("cem", {"batch": 0}),
        ("mppi", {"population": 1}),
        ("mppi", {"knots": 1}),
        ("random", {"population": 0}),
        ("random", {"jobs": 0}),
        ("mppi-receding", {"lookahead": 0}),
        ("mppi-receding", {"temperature": 0.0}),
        ("lbfgs", {"memory": 0}),
        ("gradient", {"clip": 0.0}),
        ("gradient", {"window": 1.5}),
        ("hybrid", {"share": 1.0}),
        ("continuation", {"levels": ()}),
        ("continuation", {"field": "softnes"}),
    ],
)
def test_impossible_settings_are_refused(method, options):
    if method == "hybrid":
        pytest.importorskip("cma")
    with pytest.raises(InputError) as error:
        make_optimizer(Push(), method, **options)
    assert "; got" in str(error.value)


def test_more_knots_than_actions_are_the_actions():
    budget, found = Budget(simulator_steps=2_000), {}
    for knots in (None, 40):
        found[knots] = optimize(Tracking(), "cma", budget=budget, knots=knots, seed=2).actions
    assert Tracking().horizon < 40 and torch.equal(found[None], found[40])
