"""What every optimizer promises: budget, resume, interrupt, limits, honest numbers."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.tasks.optim import (
    OPTIMIZERS,
    Budget,
    CMAConfig,
    DescentConfig,
    GradientConfig,
    make_optimizer,
    optimize,
    settings_class,
)
from toy_tasks import Cart, CartConfig, Push, Tracking, TrackingConfig

POLICIES = {"apg", "shac", "ppo", "sac"}
SMALL_POLICY = {"envs": 2, "hidden": (8,), "validation": 1, "tests": 1, "evaluate_every": 2}
OPTIONS = {
    "gradient": {"start": 0.25, "growth": 0.25, "window": 0.25, "patience": 1, "noise": 0.1},
    "lbfgs": {"memory": 3},
    "continuation": {"levels": (3.0, 10.0), "gradient": GradientConfig(patience=2)},
    "cma": {"knots": 4, "population": 5},
    "cem": {"knots": 4, "population": 8, "elites": 3},
    "mppi": {"knots": 4, "population": 8},
    "mppi-receding": {"lookahead": 3, "population": 4},
    "random": {"knots": 4, "population": 4, "batch": 3},
    "hybrid": {
        "cma": CMAConfig(knots=4, population=5), "window": 1, "worth": 1e9,
        "descent": DescentConfig(doublings=1, samples=1),
    },
    "apg": {**SMALL_POLICY, "window": 4, "noise": 0.1},
    "shac": {**SMALL_POLICY, "window": 4, "critic_updates": 2, "noise": 0.1},
    "ppo": {**SMALL_POLICY, "steps": 5, "epochs": 2},
    "sac": {**SMALL_POLICY, "steps": 5, "updates": 1, "batch": 8, "warmup": 6, "buffer": 24},
}
"""Settings at which every part of a method is in use after a few iterations."""
NEEDS = {"cma": "cma", "hybrid": "cma", "ppo": "stable_baselines3", "sac": "stable_baselines3"}


@pytest.fixture(params=sorted(OPTIMIZERS))
def method(request):
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return request.param


def task_of(method):
    if method in POLICIES:
        return Cart(CartConfig(horizon=8))
    return Push() if method == "continuation" else Tracking(TrackingConfig(horizon=8))


def test_every_optimizer_is_tested():
    assert set(OPTIONS) == set(OPTIMIZERS)


def test_resume_equals_uninterrupted(method, tmp_path):
    """Stopped after 4 of 8 iterations, in the middle of whatever goes on then; bit by bit."""
    options = OPTIONS[method]
    budget = Budget(iterations=8)
    whole = optimize(task_of(method), method, budget=budget, seed=3, **options)

    def stop(event):
        if event["iteration"] == 4:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    first = optimize(
        task_of(method), method, budget=budget, seed=3, resume=folder, on_iteration=stop, **options
    )
    assert first.stopped == "interrupted" and len(first.history) == 4
    again = optimize(task_of(method), method, budget=budget, seed=3, resume=folder, **options)
    assert len(again.history) == 8
    assert [r.loss for r in again.history] == [r.loss for r in whole.history]
    assert [r.steps for r in again.history] == [r.steps for r in whole.history]
    assert torch.equal(again.actions, whole.actions)
    assert again.loss == whole.loss and again.steps_used == whole.steps_used
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["iteration"] for r in rows] == list(range(1, 9))
    assert [r["steps"] for r in rows] == [r.steps for r in whole.history]


def test_an_interrupt_in_the_middle_of_an_iteration(method, tmp_path):
    """Ctrl-C while something simulates: that iteration is spent but not kept, and resume redoes it."""
    plain, options, budget = task_of(method), OPTIONS[method], Budget(iterations=5)

    class Interrupted(type(plain)):
        left = -1

        def move(self, state, action):
            cls = type(self)
            cls.left -= 1
            if cls.left == 0:
                raise KeyboardInterrupt
            return super().move(state, action)

    whole = optimize(plain, method, budget=budget, seed=4, **options)
    task = Interrupted(plain.config)

    def soon(event):
        if event["iteration"] == 3:
            Interrupted.left = 2

    folder = tmp_path / "run"
    first = optimize(
        task, method, budget=budget, seed=4, resume=folder, on_iteration=soon, **options
    )
    assert first.stopped == "interrupted" and len(first.history) == 3
    assert first.steps_used > first.history[-1].steps
    again = optimize(plain, method, budget=budget, seed=4, resume=folder, **options)
    assert again.history[:3] == first.history
    assert [r.loss for r in again.history] == [r.loss for r in whole.history]
    assert torch.equal(again.actions, whole.actions) and again.steps_used == whole.steps_used


@pytest.mark.parametrize("factor", [1.0, 2.7, 9.3])
def test_the_budget_holds_and_every_step_is_counted(method, factor):
    task = task_of(method)
    probe = make_optimizer(task, method, budget=Budget(iterations=1), **OPTIONS[method])
    limit = probe.final_cost + int(factor * probe.next_cost())
    task.simulated_steps = 0
    result = optimize(task, method, budget=Budget(simulator_steps=limit), seed=1, **OPTIONS[method])
    assert result.history and result.steps_used <= limit
    # Continuation's levels are tasks of their own, whose steps it adds here.
    assert result.forward_steps == task.simulated_steps
    charged = result.forward_steps + 2.5 * result.adjoint_steps
    # The charge of each iteration is rounded up.
    assert charged <= result.steps_used <= charged + len(result.history)
    assert (result.adjoint_steps > 0) == (method in
        {"gradient", "lbfgs", "continuation", "apg", "shac"}) or method == "hybrid"  # fmt: skip


def test_the_result_is_what_the_task_says(method):
    task = task_of(method)
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    result = optimize(task, method, budget=Budget(iterations=6), seed=2, **OPTIONS[method])
    after = (random.getstate(), np.random.get_state()[1], torch.get_rng_state())
    assert before[0] == after[0] and (before[1] == after[1]).all()
    assert torch.equal(before[2], after[2])  # nobody else's random numbers were used
    assert result.actions.shape == (task.horizon, task.action_size)
    assert bool((result.actions.abs() <= task.action_limit).all())
    with torch.no_grad():
        loss, final = task.evaluate(result.actions)
    assert float(loss[0]) == result.loss
    assert float(task.metrics(final)["distance"][0]) == result.distance
    assert bool(task.success(final)[0]) == result.success
    assert (result.policy is not None) == (method in POLICIES) == bool(result.unseen)


def test_a_budget_without_room_for_the_result_is_refused(method):
    with pytest.raises(InputError, match="simulator_steps ≥"):
        make_optimizer(task_of(method), method, budget=Budget(simulator_steps=3), **OPTIONS[method])


def test_settings_are_plain_and_documented():
    from rheograd.tasks.runs.configs import dump_toml, field_help, from_dict, to_dict

    for method in OPTIMIZERS:
        settings = settings_class(method)
        assert {f.name for f in dataclasses.fields(settings)} <= set(field_help(settings)), method
        plain = to_dict(settings())
        assert dump_toml(plain) is not None
        assert from_dict(settings, plain) == settings()


def test_the_command_line_knows_every_optimizer():
    import typing

    from rheograd.tasks.runs.learning_config import PlanConfig

    names = typing.get_args(typing.get_type_hints(PlanConfig)["method"])
    assert sorted(names) == sorted(OPTIMIZERS)


def test_an_extended_run_goes_on(tmp_path):
    pytest.importorskip("cma")
    for method in ("gradient", "hybrid"):
        task, folder = task_of(method), tmp_path / method
        short = optimize(
            task, method, budget=Budget(simulator_steps=500), resume=folder, **OPTIONS[method]
        )
        long = optimize(
            task, method, budget=Budget(simulator_steps=1500), resume=folder, **OPTIONS[method]
        )
        assert len(long.history) > len(short.history) and long.steps_used <= 1500
        assert long.history[: len(short.history)] == short.history
        assert long.loss < short.loss


def test_start_actions_of_another_shape_are_refused():
    with pytest.raises(InputError, match="initial actions"):
        make_optimizer(Tracking(), "gradient", initial=torch.zeros(3, 4))
