"""What optimizers that compare candidates share: search space, batches, processes, failures.

    a(t) = action_limit · Σ_k N_k(t) q_k,   q ∈ [−1, 1]^(K × A)

With `knots` = K the actions are piecewise linear between K knots, evenly spaced in time: a search
space of tens of numbers, where sampling is at its best. `knots=None` searches the whole table.

A generation is cut into chunks of at most `batch` candidates; a chunk is one launch along the batch
axis of the simulator. With an executor the chunks run on its workers.
"""

from __future__ import annotations

import abc
import dataclasses
import logging
import math
from concurrent.futures import Executor, Future
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, StateError
from ..core import Task
from .base import Optimizer
from .records import Budget
from .workers import evaluate, evaluate_remotely, pack_task, process_pool

__all__ = ["PopulationConfig", "PopulationOptimizer", "hat_basis"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PopulationConfig:
    """Settings that all optimizers of populations share."""

    knots: int | None = 10
    """Knots in time; None, or more than there are actions, optimizes every action on its own."""
    batch: int = 32
    """Scenes that run at once; bounds memory."""
    jobs: int = 1
    """Processes that share a generation; with an executor of your own, pieces it is cut into."""


class PopulationOptimizer(Optimizer):
    """Base of optimizers of populations: a subclass asks for candidates and is told their losses.

    A candidate that breaks the simulation counts as worst.

    Raises:
        InputError: fewer than two knots, batch or jobs below 1.
    """

    config: PopulationConfig
    population: int
    """Candidates per generation."""

    def __init__(
        self, task: Task, config: PopulationConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        T, where = self.task.horizon, type(config).__name__
        if config.knots is not None and config.knots < 2:
            raise InputError(f"{where}: knots ≥ 2; got {config.knots}. Use None for all actions.")
        if config.batch < 1 or config.jobs < 1:
            raise InputError(
                f"{where}: batch ≥ 1 and jobs ≥ 1; got {config.batch} and {config.jobs}. "
                "Raise them."
            )
        fewer = config.knots is not None and config.knots < T
        self.basis = hat_basis(T, config.knots if fewer else None)
        first = torch.linalg.lstsq(self.basis, self.start_actions() / self.limit).solution
        self.first = first.clamp(-1, 1)
        """Start of the search in knots, (K, A)."""
        self.generator = torch.Generator().manual_seed(seed)
        self.best_loss = math.inf
        self._best = self.decode(self.first[None])[0]
        self._pool: Executor | None = None
        self._packed: bytes | None = None
        self._stuck = False

    @abc.abstractmethod
    def _ask(self) -> Tensor:
        """Candidates of the next generation, (P, K, A) in [−1, 1]."""

    @abc.abstractmethod
    def _tell(self, points: Tensor, losses: list[float]) -> None:
        """Losses of what was asked for, finite."""

    def decode(self, points: Tensor) -> Tensor:
        """Actions (B, T, A) of search points (B, K, A)."""
        return self.clamp((self.basis @ points.to(torch.float32)) * self.limit)

    @property
    def best_actions(self) -> Tensor:
        return self._best

    def next_cost(self) -> int:
        return self.population * self.rollout_cost

    def exhausted(self) -> str:
        return "simulator_steps" if self._stuck else super().exhausted()

    def _iterate(self) -> tuple[float, float, int]:
        points = self._ask()
        actions = self.decode(points)
        losses, ends = self.evaluate(actions)
        worst = max((v for v in losses if math.isfinite(v)), default=None)
        if broken := sum(map(math.isinf, losses)):
            logger.warning("%d of %d candidates broke the simulation", broken, len(losses))
        if worst is None:
            if self._retry():
                raise StateError(
                    f"{type(self).__name__}: at least one candidate that simulates; got none in a "
                    f"generation of {len(points)}. Lower sigma or the task's action limit."
                )
            self._stuck = True  # no steps left to find out which of them broke it
            return math.inf, math.nan, self.task.horizon
        losses = [v if math.isfinite(v) else worst + abs(worst) for v in losses]
        k = min(range(len(losses)), key=losses.__getitem__)
        self._tell(points, losses)
        if losses[k] < self.best_loss:
            self.best_loss, self._best = losses[k], actions[k].clone()
        return losses[k], ends[k], self.task.horizon

    def _retry(self) -> bool:
        """Whether the budget allows to run the candidates of broken chunks once more, alone."""
        return self.spare_steps >= 2 * self.next_cost()

    def evaluate(self, actions: Tensor) -> tuple[list[float], list[float]]:
        """Losses and distances of candidates (P, T, A), in their order; infinite where the simulation
        breaks."""
        executor, retry = self._executor(), self._retry()
        size = self.config.batch
        if executor is None:
            rows = [evaluate(self.task, part, retry) for part in actions.split(size)]
        else:
            width = self.config.jobs
            if width == 1:
                width = getattr(executor, "_max_workers", None) or 2
            size = min(size, math.ceil(len(actions) / width))
            if self._packed is None:
                self._packed = pack_task(self.task)
            futures: list[Future] = []
            try:
                for part in actions.split(size):
                    chunk = part.contiguous().numpy()
                    futures.append(executor.submit(evaluate_remotely, self._packed, chunk, retry))
                rows = [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()
            self.task.simulated_steps += sum(row[2] for row in rows)
        return [v for row in rows for v in row[0]], [v for row in rows for v in row[1]]

    def _executor(self) -> Executor | None:
        if self.executor is not None:
            return self.executor
        if self.config.jobs > 1 and self._pool is None:
            self._pool = process_pool(self.config.jobs)
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _own_state(self) -> dict[str, Any]:
        return {
            "best": self._best.clone(),
            "best_loss": self.best_loss,
            "generator": self.generator.get_state(),
        }

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self._best, self.best_loss = state["best"].clone(), state["best_loss"]
        self.generator.set_state(state["generator"])


def hat_basis(T: int, knots: int | None) -> Tensor:
    """Piecewise linear weights, (T, K); rows sum to 1. The identity without knots."""
    if knots is None:
        return torch.eye(T)
    place = torch.linspace(0, knots - 1, T)
    return (1 - (place[:, None] - torch.arange(knots)).abs()).clamp(min=0)
