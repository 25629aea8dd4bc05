"""Stages, softened contacts and shared gradients."""

from __future__ import annotations

import pytest
import torch
from rheograd.sim.core.gradients import taylor_test
from rheograd.tasks.optim import (
    Attraction,
    Budget,
    CMAConfig,
    GradientConfig,
    LBFGSConfig,
    TaskWrapper,
    make_optimizer,
    optimize,
)
from toy_tasks import Push, PushConfig, Tracking, TrackingConfig, Valley

BEST_PUSH = (5 * 0.3**2 + 0.2**2 + 0.1**2) / 12


def test_soft_contact_is_solved_where_hard_contact_has_no_gradient():
    task = Push()
    actions = torch.zeros(12, 1, requires_grad=True)
    task.total_loss(actions).sum().backward()
    assert not actions.grad.any()  # hard: exactly nothing
    soft = torch.zeros(12, 1, requires_grad=True)
    # At rest the finger does not move; a touch of motion shows the pull.
    Push(PushConfig(softness=3.0)).total_loss(soft + 0.01).sum().backward()
    assert bool((soft.grad < 0).all())
    budget = Budget(simulator_steps=4000)
    first = 0.01 * torch.ones(12, 1)
    hard = optimize(task, "gradient", budget=budget, expand=False, initial=first)
    assert not hard.success and hard.loss == pytest.approx(0.09)
    found = optimize(task, "continuation", budget=budget, levels=(3.0, 10.0, 30.0), initial=first)
    assert found.success and found.loss < 1.1 * BEST_PUSH  # judged by hard contact


def test_continuation_keeps_what_hard_contact_likes_best():
    task = Push()
    optimizer = make_optimizer(
        task, "continuation", levels=(3.0, 10.0, 30.0), budget=Budget(simulator_steps=4000),
        initial=0.01 * torch.ones(12, 1), gradient=GradientConfig(expand=False, patience=2),
    )  # fmt: skip
    assert optimizer.level_task(1).config.softness == 10.0 and task.config.softness == 0.0
    verified = []
    while not optimizer.exhausted():
        stage = optimizer.stage
        optimizer.iterate()
        if optimizer.stage != stage or optimizer.exhausted():
            verified.append(optimizer.best_loss)
    assert len(verified) == 3 and verified == sorted(verified, reverse=True)
    assert optimizer.result().loss == verified[-1]


def test_hybrid_finds_the_basin_and_its_bottom():
    """Gradients stay in the first ripple, evolution is slow along the path; both together do it."""
    pytest.importorskip("cma")
    task, budget = Valley(), Budget(simulator_steps=24_000)
    alone = [
        optimize(task, "gradient", budget=budget, expand=False),
        optimize(task, "lbfgs", budget=budget),
        optimize(task, "cma", budget=budget, knots=10, seed=1),
    ]
    together = optimize(
        task, "hybrid", budget=budget, seed=1, schedule="handover", inner="lbfgs",
        cma=CMAConfig(knots=10),
    )  # fmt: skip
    in_turns = optimize(task, "hybrid", budget=budget, seed=1)
    for found in (together, in_turns):
        assert found.loss < 1e-3 * min(r.loss for r in alone)
        assert found.steps_used <= 24_000


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_the_budget_is_split(share):
    pytest.importorskip("cma")
    task = Valley()
    optimizer = make_optimizer(
        task, "hybrid", schedule="handover", share=share, budget=Budget(simulator_steps=20_000),
        cma=CMAConfig(knots=6, population=6), lbfgs=LBFGSConfig(), inner="lbfgs",
    )  # fmt: skip
    spent = {0: 0, 1: 0}
    while not optimizer.exhausted():
        stage, before = optimizer.stage, optimizer.steps
        optimizer.iterate()
        spent[stage] += optimizer.steps - before
    usable = 20_000 - optimizer.final_cost
    generation = 6 * 30
    assert share * usable - generation - 60 <= spent[0] <= share * usable
    assert optimizer.adjoint_steps > 0 and optimizer.result().steps_used <= 20_000


def test_hybrid_hands_over_when_evolution_has_contracted():
    """Long before half of the budget, and with a first step no longer than what is left of it."""
    pytest.importorskip("cma")
    optimizer = make_optimizer(
        Tracking(TrackingConfig(horizon=2)), "hybrid", budget=Budget(simulator_steps=20_000),
        schedule="handover", cma=CMAConfig(knots=None, population=8), contraction=0.2,
    )  # fmt: skip
    while optimizer.stage == 0:
        optimizer.iterate()
    assert optimizer.steps < 5000 and 0 < optimizer.spread <= 0.2 * 0.3
    assert optimizer._inner.config.lr == optimizer.spread


def test_hybrid_begins_its_gradient_at_the_start_if_no_sample_is_better():
    pytest.importorskip("cma")
    task = Tracking()
    near = (0.98 * task.optimum).float()
    optimizer = make_optimizer(
        task, "hybrid", budget=Budget(iterations=4), initial=near, schedule="handover",
        cma=CMAConfig(population=4),
    )  # fmt: skip
    with torch.no_grad():
        first = float(task.total_loss(near))
    while optimizer.stage == 0:
        optimizer.iterate()
    assert optimizer.best_loss == first and torch.equal(optimizer._inner.actions, near)
    while not optimizer.exhausted():
        optimizer.iterate()
    assert optimizer.result().loss <= first


def test_a_task_may_suggest_parts_of_nested_settings():
    pytest.importorskip("cma")

    class Hinted(Tracking):
        search_defaults = {"hybrid": {"share": 0.2, "cma": {"population": 6}}}

    config = make_optimizer(
        Hinted(), "hybrid", budget=Budget(iterations=9), lbfgs={"memory": 3}
    ).config
    assert config.share == 0.2 and config.lbfgs.memory == 3
    assert config.cma == CMAConfig(population=6) and not config.gradient.expand


def test_steps_that_gain_nothing_are_taken_back_at_no_cost():
    """No rollout is spent on actions that are known, and the next step is half as long."""
    task = Tracking()
    start = task.optimum.float() + 0.01
    optimizer = make_optimizer(
        task, "gradient", budget=Budget(iterations=3), initial=start,
        expand=False, lr=0.5, patience=1, progress=0.0,
    )  # fmt: skip
    losses = [optimizer.iterate().loss for _ in range(3)]
    assert losses[1] > losses[0] and losses[2] not in losses[:2]
    moved = (optimizer.actions - start).abs().max()
    assert optimizer.lr <= 0.25 and float(moved) <= 0.25 + 1e-6
    assert task.simulated_steps == 3 * 25


def test_a_stage_that_cannot_afford_anything_is_skipped():
    pytest.importorskip("cma")
    optimizer = make_optimizer(
        Valley(), "hybrid", schedule="handover", share=0.01, budget=Budget(simulator_steps=3000)
    )
    assert optimizer.stage == 1 and not optimizer.exhausted()


class Crowd(TaskWrapper):
    """`Tracking`, its four numbers seen as points on a line."""


def points(state):
    return state.x[..., None]


def far(state):
    return torch.full_like(state.x[:, :1], 2.0)


def low(state):
    return state.x < 1.0


def test_attraction_pulls_the_nearest_idle_points():
    task = Tracking()
    state = task.reset(dtype=torch.float64).replace(
        x=torch.tensor([[0.5, 0.9, 1.2, -1.0]], dtype=torch.float64, requires_grad=True)
    )
    wrapped = Attraction(task, points, far, idle=low, k=2, weight=4.0)
    added = wrapped.attraction(state)
    # Idle: 0.5, 0.9, −1.0, three of four; the two nearest to 2 are 1.5 and 1.1 away.
    assert float(added.detach()) == pytest.approx(4.0 * 0.75 * (1.5 + 1.1) / 2, rel=2e-3)
    (pull,) = torch.autograd.grad(added.sum(), state.x)
    torch.testing.assert_close(
        pull, torch.tensor([[-1.5, -1.5, 0.0, 0.0]], dtype=torch.float64), rtol=1e-5, atol=0
    )
    total = wrapped.loss(state, 3)
    torch.testing.assert_close(total, task.loss(state, 3) + added)
    nothing = Attraction(task, points, far, idle=lambda s: s.x > 9, k=2)
    assert float(nothing.attraction(state.detach())) == 0.0


def test_gradient_of_the_attraction():
    task = Attraction(Tracking(), points, far, k=2, weight=3.0)
    generator = torch.Generator().manual_seed(1)
    actions = 0.5 * torch.rand(1, 25, 4, generator=generator, dtype=torch.float64)
    report = taylor_test(lambda a: task.total_loss(a).sum(), actions)
    assert report.passed(), report


def test_shared_gradients_move_what_the_task_does_not_see():
    """A task that rewards a number only beyond 1 gives no gradient at rest; the attraction does."""

    class Threshold(TaskWrapper):
        def loss(self, state, t):
            return (2.0 - state.x.clamp(min=1.0)).square().mean(-1)

    task = Threshold(Tracking())
    alone = optimize(task, "gradient", budget=Budget(iterations=40), expand=False)
    assert alone.loss == 1.0
    helped = optimize(
        task, "gradient", budget=Budget(iterations=40), expand=False,
        objective=lambda t: Attraction(t, points, far, idle=low, k=2),
    )  # fmt: skip
    assert helped.loss < 0.3  # by the task itself, without the attraction
    with torch.no_grad():
        assert helped.loss == float(task.total_loss(helped.actions))


def test_wrappers_answer_as_their_task():
    task = Tracking()
    outer = TaskWrapper(Crowd(task))
    assert outer.horizon == 25 and outer.action_size == 4 and outer.config is task.config
    actions = 0.1 * torch.ones(25, 4)
    with torch.no_grad():
        assert torch.equal(outer.total_loss(actions), task.total_loss(actions))
    assert task.simulated_steps == outer.simulated_steps == 50
    assert torch.equal(outer.optimum, task.optimum)
