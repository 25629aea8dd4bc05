"""CMA-ES over action sequences, the population run as one batch of scenes.

    a(t) = action_limit · Σ_k N_k(t) q_k,   q ∈ [−1, 1]^(K × A)

With `knots` = K the actions are piecewise linear between K knots, evenly spaced in time: a search
space of tens of numbers, where evolution is at its best. `knots=None` searches the whole table.

Source: Hansen 2016 (The CMA Evolution Strategy: A Tutorial), through the library `cma`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...sim.core.errors import InputError, StabilityError, StateError
from ..core import Task
from .base import Budget, Optimizer, distances

__all__ = ["CMAConfig", "CMAOptimizer"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CMAConfig:
    """Settings of `CMAOptimizer`."""

    knots: int | None = 10
    """Knots in time; None optimizes every action on its own."""
    sigma: float = 0.3
    """Initial standard deviation, in units of `action_limit` [-]; the library's advice for [−1, 1]."""
    population: int | None = None
    """Candidates per generation; None: 4 + 3 ln n, the library's default."""
    batch: int = 32
    """Scenes that run at once; bounds memory."""


class CMAOptimizer(Optimizer):
    """CMA-ES; see the module docstring. A candidate that breaks the simulation counts as worst.

    Raises:
        ImportError: without the extra `opt`.
        InputError: fewer than two knots.
    """

    def __init__(self, task: Task, config: CMAConfig, budget: Budget, seed: int = 0) -> None:
        super().__init__(task, config, budget, seed)
        T = task.horizon
        if config.knots is not None and not 2 <= config.knots <= T:
            raise InputError(
                f"CMAConfig: knots from 2 to the horizon {T}; got {config.knots}. Use None for all "
                "actions."
            )
        self.basis = _hat_basis(T, config.knots)
        self.limit = task.action_limit.to(torch.float32)
        initial = task.initial_actions().to(torch.float32) / self.limit
        at_knots = torch.linalg.lstsq(self.basis, initial).solution
        self._first = at_knots.clamp(-1, 1).double().flatten().numpy()
        self._values: list[list[float]] = []
        self._start()
        if self._es.popsize < 2:
            raise InputError(f"CMAConfig: population ≥ 2; got {config.population}. Raise it.")
        self.best_loss = math.inf
        self._best = self._decode([self._first])[0]

    def _start(self) -> None:
        try:
            import cma
        except ImportError as error:
            raise ImportError(
                'CMAOptimizer: needs the library cma. Run pip install "rheograd[opt]".'
            ) from error
        # A generator of its own: the library would seed and use numpy's global one.
        options = {
            "bounds": [-1, 1],
            "randn": np.random.RandomState(self.seed).randn,
            "seed": math.nan,
            "verbose": -9,
            "verb_log": 0,
            "maxiter": math.inf,
            "tolfun": 0,
            "tolx": 1e-8,
        }
        if self.config.population is not None:
            options["popsize"] = self.config.population
        self._es = cma.CMAEvolutionStrategy(self._first, self.config.sigma, options)

    def _decode(self, points: list[np.ndarray]) -> Tensor:
        """Actions (B, T, A) of search points."""
        q = torch.from_numpy(np.stack(points)).to(torch.float32)
        q = q.reshape(len(points), -1, self.task.action_size)
        actions = (self.basis @ q) * self.limit
        return torch.minimum(torch.maximum(actions, -self.limit), self.limit)

    @property
    def best_actions(self) -> Tensor:
        return self._best

    def next_cost(self) -> int:
        return self._es.popsize * self.rollout_cost

    def _iterate(self) -> tuple[float, float, int]:
        points = self._es.ask()
        actions = self._decode(points)
        losses, ends = [], []
        for part in actions.split(self.config.batch):
            loss, distance = self._evaluate(part)
            losses += loss
            ends += distance
        worst = max((v for v in losses if math.isfinite(v)), default=None)
        if worst is None:
            raise StateError(
                "CMAOptimizer: at least one candidate that simulates; got none in a generation of "
                f"{len(points)}. Lower sigma or the task's action limit."
            )
        losses = [v if math.isfinite(v) else worst + abs(worst) for v in losses]
        self._es.tell(points, losses)
        self._values.append(losses)
        k = int(np.argmin(losses))
        if losses[k] < self.best_loss:
            self.best_loss, self._best = losses[k], actions[k].clone()
        self.converged = bool(self._es.stop())
        return losses[k], ends[k], self.task.horizon

    @torch.no_grad()
    def _evaluate(self, actions: Tensor) -> tuple[list[float], list[float]]:
        try:
            loss, final = self.task.evaluate(actions)
            return loss.tolist(), distances(self.task, final)
        except (StateError, StabilityError) as error:
            if len(actions) == 1:
                logger.warning("cma: a candidate broke the simulation: %s", error)
                return [math.inf], [math.nan]
            parts = [self._evaluate(one) for one in actions.split(1)]
            return [p[0][0] for p in parts], [p[1][0] for p in parts]

    def _own_state(self) -> dict[str, Any]:
        # The search is deterministic, so its seed and what it was told are its whole state.
        values = [list(row) for row in self._values]
        return {"values": values, "best": self._best.clone(), "best_loss": self.best_loss}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self._start()
        self._values = [list(row) for row in state["values"]]
        for row in self._values:
            self._es.tell(self._es.ask(), row)
        self._best, self.best_loss = state["best"].clone(), state["best_loss"]


def _hat_basis(T: int, knots: int | None) -> Tensor:
    """Piecewise linear weights, (T, K); rows sum to 1. The identity without knots."""
    if knots is None:
        return torch.eye(T)
    place = torch.linspace(0, knots - 1, T)
    return (1 - (place[:, None] - torch.arange(knots)).abs()).clamp(min=0)
