"""The hybrid that goes by progress, and the descent it is made of."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.core.errors import InputError, StateError
from rheograd.tasks.optim import Budget, CMAConfig, make_optimizer, optimize
from rheograd.tasks.optim.descent import DescentConfig, DescentOptimizer
from toy_tasks import Fragile, Toy, Tracking, TrackingConfig, Valley


def run(optimizer):
    """Best loss after each iteration, and stages."""
    best, stages = [], []
    while not optimizer.exhausted():
        stages.append(getattr(optimizer, "stage", 0))
        optimizer.iterate()
        best.append(min(optimizer.best_loss, optimizer._inner.best_loss)
                    if hasattr(optimizer, "_inner") else optimizer.best_loss)  # fmt: skip
    return best, stages


def descent(task, steps, **fields):
    return DescentOptimizer(task, DescentConfig(**fields), Budget(simulator_steps=steps))


def test_no_evolution_where_descent_goes_on():
    """A convex objective whose descent still gains at the end of the budget."""
    pytest.importorskip("cma")
    optimizer = make_optimizer(Tracking(), "hybrid", budget=Budget(simulator_steps=2000))
    _, stages = run(optimizer)
    assert set(stages) == {0} and optimizer.best_actions.abs().max() <= 1
    known = optimize(Tracking(), "gradient", budget=Budget(simulator_steps=2000), expand=False)
    assert optimizer.result().loss < 0.3 * known.loss


def test_evolution_begins_when_the_rest_of_the_budget_promises_nothing():
    pytest.importorskip("cma")
    optimizer = make_optimizer(Valley(), "hybrid", budget=Budget(simulator_steps=24_000))
    best, stages = run(optimizer)
    first = stages.count(0)
    assert {0, 1, 2} <= set(stages) and first < 0.3 * len(stages)
    # The descent was at the end of its valley, and the next one is lower.
    assert best[first - 1] > 0.99 * best[first - 3] and best[-1] < 1e-3 * best[first - 1]
    result = optimizer.result()
    assert result.loss == best[-1] and result.steps_used <= 24_000


def test_a_search_of_all_stages_goes_on_where_it_was_stopped():
    pytest.importorskip("cma")
    for schedule in ("adaptive", "handover"):
        options = {"schedule": schedule, "cma": CMAConfig(population=6), "seed": 3}
        budget = Budget(simulator_steps=9000)
        whole = make_optimizer(Valley(), "hybrid", budget=budget, **options)
        run(whole)
        half = make_optimizer(Valley(), "hybrid", budget=budget, **options)
        while not half.exhausted():
            half.iterate()
            if half.iteration < 10 or half.iteration % 7 == 0:
                state = half.state_dict()
                half = make_optimizer(Valley(), "hybrid", budget=budget, **options)
                half.load_state_dict(state)
        strip = [(r.steps, r.loss, r.horizon) for r in whole.history]
        assert [(r.steps, r.loss, r.horizon) for r in half.history] == strip
        assert torch.equal(half.best_actions, whole.best_actions)


def test_evolution_around_given_actions_keeps_what_knots_cannot_say():
    pytest.importorskip("cma")
    from rheograd.tasks.optim.hybrid import _AroundOptimizer

    task = Tracking()
    given = task.optimum.float()
    around = _AroundOptimizer(
        task, CMAConfig(knots=3, sigma=1e-3), Budget(iterations=1), initial=given
    )
    torch.testing.assert_close(around.best_actions, given)
    around.iterate()
    assert around.best_loss < 1e-2


def test_descent_only_goes_down_and_counts_what_it_runs():
    task = Tracking()
    optimizer = descent(task, 3000)
    values = []
    while not optimizer.exhausted():
        optimizer.iterate()
        values.append(optimizer.value)
    assert values == sorted(values, reverse=True)
    assert task.simulated_steps == optimizer.forward_steps
    # Trials without their adjoint: those of the beginning, and the last ones.
    assert optimizer.forward_steps > optimizer.adjoint_steps + 25 * 5
    assert optimizer.result().steps_used <= 3000 < optimizer.steps + 25 + 25


def test_samples_lie_downhill_and_the_better_one_is_taken():
    """Far from the goal a short first line gains less than a sample."""
    optimizer = descent(Tracking(), 3000, first_step=1e-5, doublings=1, samples=6, spread=0.01)
    optimizer.iterate()  # start
    slope = optimizer.slope.clone()
    optimizer.iterate()  # line
    center, trials = optimizer.found[0], []
    while optimizer.mode == "sample":
        trials.append((optimizer.actions.double(), optimizer.iterate().loss))
    assert len(trials) == 6
    for actions, _ in trials:
        assert float(((actions - center) * slope).sum()) <= 0
    best = min(trials, key=lambda t: t[1])
    assert optimizer.mode == "jump"
    optimizer.iterate()
    assert optimizer.value == best[1] and not optimizer.pairs


class Parabola(Toy):
    """One number, far from a quadratic in it."""

    def __init__(self):
        super().__init__(TrackingConfig(horizon=1))

    def loss(self, state, t):
        return (torch.exp(state.x[:, 0]) - math.exp(0.4778)).square()

    def metrics(self, state):
        return {"distance": (state.x[:, 0] - 0.4778).abs()}


def test_one_number_is_found_to_its_last_digits():
    """Superlinear, where steps of a fixed length hop around the goal."""
    ours = descent(Parabola(), 50)
    run(ours)
    adam = optimize(Parabola(), "gradient", budget=Budget(simulator_steps=50), expand=False, lr=0.2)
    assert ours.best_loss < 1e-11 and ours.best_loss < 1e-3 * adam.loss


def test_steps_that_break_the_simulation_are_taken_back():
    optimizer = descent(Fragile(), 3000, first_step=0.4)
    best, _ = run(optimizer)
    assert math.isinf(max(r.loss for r in optimizer.history)) and best[-1] < 0.3 * best[0]

    class Broken(Tracking):
        def move(self, state, action):
            raise StateError("always")

    with pytest.raises(StateError, match="always"):
        descent(Broken(), 3000).iterate()


def test_masks_hold_in_trials_and_steps():
    optimizer = descent(Tracking(), 1500, rows=(2, 9), columns=(0, 3))
    run(optimizer)
    moved = optimizer.best_actions != 0
    assert moved[2:9, [0, 3]].any() and moved.sum() == moved[2:9][:, [0, 3]].sum()


def test_an_expanding_horizon_ends_at_the_full_one():
    optimizer = descent(Tracking(), 6000, expand=True, patience=1, progress=0.5)
    first = optimizer.end
    run(optimizer)
    assert first < 25 == optimizer.end


@pytest.mark.parametrize(
    "fields", [{"samples": -1}, {"spread": 0.0}, {"doublings": -1}, {"turns": 0}]
)
def test_impossible_settings_of_a_descent_are_refused(fields):
    with pytest.raises(InputError, match="DescentConfig"):
        descent(Tracking(), 1000, **fields)


def test_impossible_settings_of_the_schedule_are_refused():
    pytest.importorskip("cma")
    for fields in ({"worth": -0.1}, {"window": 0}, {"descent": DescentConfig(expand=True)}):
        with pytest.raises(InputError, match="HybridConfig"):
            make_optimizer(Tracking(), "hybrid", budget=Budget(iterations=3), **fields)
