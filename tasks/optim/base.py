"""What all optimizers share: a task, a budget, records, a result, and a state to resume from.

    minimize J(a) = (1/T) Σ_t ℓ(x_t(a), t)   over a (T, A),   |a| ≤ action_limit

or over the weights of a policy a_t = π(observation_t). See `records` for how cost is counted.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ...sim.core.state import State
from ..core import Task
from .records import Budget, OptimResult, Record

__all__ = ["Optimizer", "distances", "pack_state", "unpack_state"]


class Optimizer(abc.ABC):
    """One optimization in progress; `iterate` until `exhausted`, then `result`.

    Args:
        task: What to optimize; the result is judged by it.
        config: Settings of the method.
        budget: When to stop.
        seed: Of everything random.
        initial: Where to start, (T, A); default `task.initial_actions()`.
        executor: Runs populations; optimizers without one ignore it.
        objective: Turns the task into the one that is searched, e.g. with an attraction.
    """

    def __init__(
        self,
        task: Task,
        config: Any,
        budget: Budget,
        seed: int = 0,
        *,
        initial: Tensor | None = None,
        executor: Executor | None = None,
        objective: Callable[[Task], Task] | None = None,
    ) -> None:
        self.judge = task
        self.task = task if objective is None else objective(task)
        self.config, self.budget, self.seed = config, budget, seed
        self.executor, self.initial = executor, initial
        self.history: list[Record] = []
        self.iteration = self.steps = self.forward_steps = self.adjoint_steps = 0
        self.wall_s = 0.0
        self.converged = False
        self._adjoint_steps = 0
        self.limit = task.action_limit.to(torch.float32)

    @abc.abstractmethod
    def _iterate(self) -> tuple[float, float, int]:
        """One iteration; returns loss, distance and the horizon they belong to. Substeps whose
        adjoint it runs go into `_adjoint_steps`."""

    @abc.abstractmethod
    def next_cost(self) -> int:
        """Simulator steps of the coming iteration, at most."""

    @property
    @abc.abstractmethod
    def best_actions(self) -> Tensor:
        """Best actions so far, (T, A)."""

    @abc.abstractmethod
    def _own_state(self) -> dict[str, Any]:
        """Tensors, numbers, strings and containers of them that continue the method."""

    @abc.abstractmethod
    def _load_own_state(self, state: dict[str, Any]) -> None: ...

    def start_actions(self) -> Tensor:
        """Where the search starts, (T, A) within the limits, float32.

        Raises:
            InputError: `initial` of another shape.
        """
        first = self.task.initial_actions() if self.initial is None else self.initial
        expected = (self.task.horizon, self.task.action_size)
        if tuple(first.shape) != expected:
            raise InputError(
                f"{type(self).__name__}: initial actions of shape {expected}; got "
                f"{tuple(first.shape)}. Pass one row per action."
            )
        return self.clamp(first.detach().to("cpu", torch.float32))

    def clamp(self, actions: Tensor) -> Tensor:
        """The nearest actions within `action_limit`; same shape, (..., A)."""
        return torch.minimum(torch.maximum(actions, -self.limit), self.limit)

    @property
    def rollout_cost(self) -> int:
        """Simulator steps of one full rollout."""
        return self.task.horizon * self.task.substeps

    @property
    def final_cost(self) -> int:
        """Simulator steps of `result`."""
        return self.rollout_cost

    @property
    def spare_steps(self) -> float:
        """Simulator steps left for iterations; infinite without a limit."""
        limit = self.budget.simulator_steps
        return math.inf if limit is None else limit - self.steps - self.final_cost

    def exhausted(self) -> str:
        """Why to stop now, or "". The final evaluation always fits."""
        limit = self.budget
        if self.converged:
            return "converged"
        if limit.simulator_steps is not None and self.next_cost() > self.spare_steps:
            return "simulator_steps"
        if limit.wall_s is not None and self.wall_s >= limit.wall_s:
            return "wall_s"
        if limit.iterations is not None and self.iteration >= limit.iterations:
            return "iterations"
        return ""

    def iterate(self) -> Record:
        """One gradient step or generation. What an interrupted one has simulated counts too."""
        before, start = self.task.simulated_steps, time.perf_counter()
        self._adjoint_steps = 0
        try:
            loss, distance, horizon = self._iterate()
        finally:
            forward = self.task.simulated_steps - before
            self.forward_steps += forward
            self.adjoint_steps += self._adjoint_steps
            self.steps += forward + math.ceil(self._adjoint_steps * self.budget.adjoint_cost)
            self.wall_s += time.perf_counter() - start
        self.iteration += 1
        record = Record(
            self.iteration, self.steps, loss, distance, horizon, self.wall_s,
            self.forward_steps, self.adjoint_steps,
        )  # fmt: skip
        self.history.append(record)
        return record

    def result(self, stopped: str = "") -> OptimResult:
        """The best actions, evaluated over the full horizon on the task itself."""
        before, start = self.judge.simulated_steps, time.perf_counter()
        actions, extra = self._conclude()
        with torch.no_grad():
            loss, final = self.judge.evaluate(actions)
        spent = self.judge.simulated_steps - before
        return OptimResult(
            actions=actions,
            history=list(self.history),
            loss=float(loss[0]),
            distance=distances(self.judge, final)[0],
            success=bool(self.judge.success(final)[0]),
            steps_used=self.steps + spent,
            wall_s=self.wall_s + time.perf_counter() - start,
            stopped=stopped,
            forward_steps=self.forward_steps + spent,
            adjoint_steps=self.adjoint_steps,
            **extra,
        )

    def _conclude(self) -> tuple[Tensor, dict[str, Any]]:
        """Final actions (T, A) and further fields of the result; simulates at most `final_cost`, the
        rollout of the actions included."""
        return self.best_actions.detach().clone(), {}

    def close(self) -> None:  # noqa: B027  most optimizers hold nothing
        """Let go of processes that the optimizer has started."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that continues this run bit by bit; loads with `torch.load(weights_only=True)`."""
        names = ("iteration", "steps", "forward_steps", "adjoint_steps", "wall_s", "converged")
        return {
            "method": type(self).__name__,
            **{name: getattr(self, name) for name in names},
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
        for name in ("iteration", "steps", "wall_s", "converged"):
            setattr(self, name, state[name])
        self.forward_steps = state.get("forward_steps", 0)
        self.adjoint_steps = state.get("adjoint_steps", 0)
        self.history = [Record(*r) for r in state["history"]]
        self._load_own_state(state["own"])


def distances(task: Task, state: Any) -> list[float]:
    """`metrics()["distance"]` of each scene [m]; NaN where the task has none."""
    values = task.metrics(state.detach()).get("distance")
    return [math.nan] * state.batch_size if values is None else values.tolist()


def pack_state(state: State | None) -> dict[str, Any] | None:
    """Tensors and plain counters of a simulator's state, for `state_dict`."""
    if state is None:
        return None
    plain = (int, float, str, bool)
    tensors = {name: value.detach().clone() for name, value in state.tensors().items()}
    # States inside of states come as "field.name", which `State.replace` understands.
    return tensors | {k: v for k, v in state.counters().items() if isinstance(v, plain)}


def unpack_state(task: Task, packed: dict[str, Any] | None) -> Any:
    """The state that `pack_state` has packed."""
    return None if packed is None else task.reset().replace(**packed)
