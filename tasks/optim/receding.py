"""MPPI with a receding horizon: plan a short way ahead, take one action, plan again.

    at every t:  μ[t : t+L] ← Σ_k w_k q_k from the present state, `iterations` times;  a_t = μ_t

One iteration is one action taken, so the search ends with the episode. Long tasks whose gradient or
whose sampling over the whole length is hopeless are where it belongs; it is blind beyond `lookahead`.

Source: Williams et al. 2017 (Information-theoretic MPC), alg. 2.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, StateError
from ..core import Task
from .base import Optimizer, distances, pack_state, unpack_state
from .mppi import path_integral_weights
from .population import hat_basis
from .records import Budget
from .workers import evaluate

__all__ = ["RecedingConfig", "RecedingOptimizer"]


@dataclasses.dataclass(frozen=True)
class RecedingConfig:
    """Settings of `RecedingOptimizer`."""

    lookahead: int = 15
    """Actions that are simulated ahead."""
    iterations: int = 1
    """Updates of the plan per action taken."""
    population: int = 32
    """Candidates per update, the plan itself among them."""
    knots: int | None = 5
    """Knots of the candidates' deviation within the lookahead; None: each action on its own."""
    sigma: float = 0.3
    """Standard deviation of the candidates, in units of `action_limit` [-]."""
    temperature: float = 0.2
    """λ relative to the standard deviation of the losses [-]; small: only the best counts."""
    batch: int = 32
    """Scenes that run at once; bounds memory."""


class RecedingOptimizer(Optimizer):
    """MPPI with a receding horizon; see the module docstring. Runs in this process.

    Raises:
        InputError: settings out of their range.
    """

    config: RecedingConfig

    def __init__(
        self, task: Task, config: RecedingConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        c = config
        if min(c.lookahead, c.iterations, c.batch) < 1 or c.population < 2:
            raise InputError(
                "RecedingConfig: lookahead, iterations, batch ≥ 1 and population ≥ 2; got "
                f"{c.lookahead}, {c.iterations}, {c.batch}, {c.population}. Raise them."
            )
        if not (c.sigma > 0 and c.temperature > 0 and (c.knots is None or c.knots >= 2)):
            raise InputError(
                "RecedingConfig: sigma > 0, temperature > 0, knots ≥ 2 or none; got "
                f"{c.sigma}, {c.temperature}, {c.knots}. Correct them."
            )
        self.plan = self.start_actions().clone()
        self.generator = torch.Generator().manual_seed(seed)
        self.t, self.total = 0, 0.0
        self.state: Any = None

    @property
    def best_actions(self) -> Tensor:
        return self.plan

    def _ahead(self) -> int:
        return min(self.config.lookahead, self.task.horizon - self.t)

    def next_cost(self) -> int:
        c = self.config
        return (c.population * self._ahead() * c.iterations + 1) * self.task.substeps

    @torch.no_grad()
    def _iterate(self) -> tuple[float, float, int]:
        if self.state is None:
            self.state = self.task.reset(device=self.task.device or "cpu")
        for _ in range(self.config.iterations):
            self._improve()
        action = self.plan[self.t][None].to(self.task.device or "cpu")
        self.state, reward = self.task.step(self.state, action, t=self.t)
        self.total -= float(reward[0])
        self.t += 1
        self.converged = self.t == self.task.horizon
        return self.total / self.t, distances(self.task, self.state)[0], self.t

    def _improve(self) -> None:
        """One update of the plan ahead."""
        c, ahead = self.config, self._ahead()
        rows = slice(self.t, self.t + ahead)
        knots = None if c.knots is None or c.knots >= ahead else c.knots
        basis = hat_basis(ahead, knots)
        noise = torch.randn(
            c.population, basis.shape[1], self.task.action_size, generator=self.generator
        )
        noise[0] = 0.0
        candidates = self.clamp(self.plan[rows] + c.sigma * self.limit * (basis @ noise))
        losses: list[float] = []
        retry = self.spare_steps >= 2 * self.next_cost()
        for part in candidates.split(c.batch):
            losses += evaluate(self.task, part, retry, self.state, self.t)[0]
        fine = [k for k, loss in enumerate(losses) if math.isfinite(loss)]
        if not fine:
            raise StateError(
                "RecedingOptimizer: at least one candidate that simulates; got none of "
                f"{len(losses)} at action {self.t}. Lower sigma."
            )
        weights = path_integral_weights(torch.tensor([losses[k] for k in fine]), c.temperature)
        mean = torch.einsum("p,pta->ta", weights.to(candidates), candidates[fine])
        self.plan[rows] = self.clamp(mean)

    def _own_state(self) -> dict[str, Any]:
        return {
            "plan": self.plan.clone(),
            "t": self.t,
            "total": self.total,
            "state": pack_state(self.state),
            "generator": self.generator.get_state(),
        }

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self.plan, self.t, self.total = state["plan"].clone(), state["t"], state["total"]
        self.state = unpack_state(self.task, state["state"])
        self.generator.set_state(state["generator"])
