"""What all optimizers of action sequences share: budget, record, result, resume.

    minimize J(a) = (1/T) Σ_t ℓ(x_t(a), t)   over a (T, A),   |a| ≤ action_limit

Cost is counted in simulator steps: one substep of one scene forward is 1, wherever it happens
(line searches, recomputation for checkpoints and final evaluations included), and its adjoint is
`Budget.adjoint_cost` more. Wall time depends on batching and on the machine; this number does not.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ..core import Task

__all__ = ["METHODS", "Budget", "OptimResult", "Optimizer", "Record", "make_optimizer", "optimize"]

logger = logging.getLogger(__name__)

METHODS = {
    "gradient": ("gradient", "GradientOptimizer", "GradientConfig"),
    "cma": ("cma", "CMAOptimizer", "CMAConfig"),
}
"""Optimizers by name: module, class and configuration."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """When to stop; whichever limit is reached first. None is no limit."""

    simulator_steps: int | None = None
    """Substeps × scenes, see the module docstring."""
    wall_s: float | None = None
    """Wall time [s]."""
    iterations: int | None = None
    """Gradient steps or generations."""
    adjoint_cost: float = 2.5
    """Cost of the adjoint of a substep in forward substeps [-]; measured on MPM in 2-D: 1.4 to 2.7,
    the more the busier the machine."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One iteration."""

    iteration: int
    """Gradient steps or generations so far."""
    steps: int
    """Simulator steps spent so far."""
    loss: float
    """Objective of this iteration over its horizon [-]; of a generation, its best."""
    distance: float
    """`metrics()["distance"]` at the end of that horizon [m]; NaN if the task has none."""
    horizon: int
    """Actions that the objective covers."""
    wall_s: float
    """Wall time so far [s]."""


@dataclasses.dataclass
class OptimResult:
    """What an optimizer found."""

    actions: Tensor
    """Best actions, (T, A)."""
    history: list[Record]
    """One record per iteration."""
    loss: float
    """Objective of `actions` over the full horizon."""
    distance: float
    """Distance at the end of `actions` [m]; NaN if the task has none."""
    success: bool
    """Whether the task counts the end of `actions` as solved."""
    steps_used: int
    """Simulator steps spent, the final evaluation included."""
    wall_s: float
    """Wall time spent [s]."""
    stopped: str
    """Why: "simulator_steps", "wall_s", "iterations", "converged" or "interrupted"."""

    @property
    def best(self) -> tuple[float, float]:
        """(loss, distance) of `actions`."""
        return self.loss, self.distance


class Optimizer(abc.ABC):
    """One optimization in progress; `iterate` until `exhausted`, then `result`.

    Args:
        task: What to optimize.
        config: Settings of the method.
        budget: When to stop.
        seed: Of everything random.
    """

    def __init__(self, task: Task, config: Any, budget: Budget, seed: int = 0) -> None:
        self.task, self.config, self.budget, self.seed = task, config, budget, seed
        self.history: list[Record] = []
        self.iteration = 0
        self.steps = 0
        self.wall_s = 0.0
        self.converged = False

    @abc.abstractmethod
    def _iterate(self) -> tuple[float, float, int]:
        """One iteration; returns loss, distance and the horizon they belong to."""

    @abc.abstractmethod
    def next_cost(self) -> int:
        """Simulator steps of the coming iteration."""

    @property
    @abc.abstractmethod
    def best_actions(self) -> Tensor:
        """Best actions so far, (T, A)."""

    @abc.abstractmethod
    def _own_state(self) -> dict[str, Any]:
        """Tensors, numbers, strings and containers of them that continue the method."""

    @abc.abstractmethod
    def _load_own_state(self, state: dict[str, Any]) -> None: ...

    @property
    def rollout_cost(self) -> int:
        """Simulator steps of one full rollout."""
        return self.task.horizon * self.task.substeps

    def exhausted(self) -> str:
        """Why to stop now, or "". The final evaluation always fits."""
        limit = self.budget
        if self.converged:
            return "converged"
        if limit.simulator_steps is not None:
            if self.steps + self.next_cost() + self.rollout_cost > limit.simulator_steps:
                return "simulator_steps"
        if limit.wall_s is not None and self.wall_s >= limit.wall_s:
            return "wall_s"
        if limit.iterations is not None and self.iteration >= limit.iterations:
            return "iterations"
        return ""

    def iterate(self) -> Record:
        """One gradient step or generation."""
        before, start = self.task.simulated_steps, time.perf_counter()
        adjoint = self._adjoint_steps = 0
        loss, distance, horizon = self._iterate()
        adjoint = math.ceil(self._adjoint_steps * self.budget.adjoint_cost)
        self.steps += self.task.simulated_steps - before + adjoint
        self.wall_s += time.perf_counter() - start
        self.iteration += 1
        record = Record(self.iteration, self.steps, loss, distance, horizon, self.wall_s)
        self.history.append(record)
        return record

    def result(self, stopped: str = "") -> OptimResult:
        """The best actions, evaluated over the full horizon."""
        before, start = self.task.simulated_steps, time.perf_counter()
        actions = self.best_actions.detach().clone()
        with torch.no_grad():
            loss, final = self.task.evaluate(actions)
        return OptimResult(
            actions=actions,
            history=list(self.history),
            loss=float(loss[0]),
            distance=distances(self.task, final)[0],
            success=bool(self.task.success(final)[0]),
            steps_used=self.steps + self.task.simulated_steps - before,
            wall_s=self.wall_s + time.perf_counter() - start,
            stopped=stopped,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that continues this run bit by bit; loads with `torch.load(weights_only=True)`."""
        return {
            "method": type(self).__name__,
            "iteration": self.iteration,
            "steps": self.steps,
            "wall_s": self.wall_s,
            "converged": self.converged,
            "history": [dataclasses.astuple(r) for r in self.history],
            "own": self._own_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            InputError: state of another method.
        """
        if state["method"] != type(self).__name__:
            raise InputError(
                f"{type(self).__name__}.load_state_dict: a state of the same method; got "
                f"{state['method']}. Resume with the method that wrote it."
            )
        self.iteration, self.steps = state["iteration"], state["steps"]
        self.wall_s, self.converged = state["wall_s"], state["converged"]
        self.history = [Record(*r) for r in state["history"]]
        self._load_own_state(state["own"])


def make_optimizer(
    task: Task,
    method: str = "gradient",
    *,
    config: Any = None,
    budget: Budget | None = None,
    seed: int = 0,
    **options: Any,
) -> Optimizer:
    """Optimizer by name.

    Args:
        task: What to optimize.
        method: One of `METHODS`.
        config: Settings of the method; default its own.
        budget: When to stop; default 90 s.
        seed: Of everything random.
        options: Fields of the settings to change.

    Raises:
        InputError: unknown method or option.
        ImportError: the method needs an extra that is not installed.
    """
    if method not in METHODS:
        raise InputError(f"optimize: method out of {sorted(METHODS)}; got {method!r}. Choose one.")
    module = importlib.import_module(f".{METHODS[method][0]}", __package__)
    settings = getattr(module, METHODS[method][2])
    config = settings() if config is None else config
    known = {f.name for f in dataclasses.fields(settings)}
    if unknown := sorted(set(options) - known):
        raise InputError(
            f"optimize: options of {method!r} out of {sorted(known)}; got {unknown}. Correct them."
        )
    config = dataclasses.replace(config, **options)
    return getattr(module, METHODS[method][1])(task, config, budget or Budget(wall_s=90.0), seed)


def optimize(
    task: Task,
    method: str = "gradient",
    *,
    config: Any = None,
    budget: Budget | None = None,
    seed: int = 0,
    on_iteration: Callable[[dict[str, Any]], None] | None = None,
    state: dict[str, Any] | None = None,
    **options: Any,
) -> OptimResult:
    """Search actions (T, A) that minimize `task.total_loss`.

    Args:
        task, method, config, budget, seed, options: see `make_optimizer`.
        on_iteration: Called after each iteration with the fields of `Record` and "optimizer", whose
            `state_dict()` can be saved, and `best_actions` looked at.
        state: A saved `state_dict()` to continue from; its spending counts against the budget.

    Returns:
        Best actions and history. An interrupt (Ctrl-C) ends the search and keeps the best so far.
    """
    optimizer = make_optimizer(
        task, method, config=config, budget=budget, seed=seed, **options
    )
    if state is not None:
        optimizer.load_state_dict(state)
    try:
        while not (stopped := optimizer.exhausted()):
            record = optimizer.iterate()
            logger.debug("%s: %s", method, record)
            if on_iteration is not None:
                on_iteration({**dataclasses.asdict(record), "optimizer": optimizer})
    except KeyboardInterrupt:
        stopped = "interrupted"
    return optimizer.result(stopped)


def distances(task: Task, state: Any) -> list[float]:
    """`metrics()["distance"]` of each scene [m]; NaN where the task has none."""
    values = task.metrics(state.detach()).get("distance")
    return [math.nan] * state.batch_size if values is None else values.tolist()
