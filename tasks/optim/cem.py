"""Cross-entropy method: a Gaussian that follows the best candidates.

    q_k ~ clip N(μ, σ²);   μ ← μ + β (mean of elites − μ),   σ ← σ + β (std of elites − σ)

The standard deviations are independent per knot and component. The best candidate so far takes part in
every generation as one of its elites.

Source: Rubinstein & Kroese 2004 (The Cross-Entropy Method); Pinneri et al. 2020 (iCEM), kept elites.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ..core import Task
from .population import PopulationConfig, PopulationOptimizer
from .records import Budget

__all__ = ["CEMConfig", "CEMOptimizer"]


@dataclasses.dataclass(frozen=True)
class CEMConfig(PopulationConfig):
    """Settings of `CEMOptimizer`."""

    population: int = 32
    """Candidates per generation."""
    elites: int = 6
    """Best candidates that the Gaussian follows."""
    sigma: float = 0.5
    """Initial standard deviation, in units of `action_limit` [-]; CEM only ever narrows."""
    rate: float = 0.8
    """Share of the way to the elites' mean and deviation, β [-]."""
    sigma_min: float = 1e-3
    """Standard deviation at which the search has converged, in units of `action_limit` [-]."""


class CEMOptimizer(PopulationOptimizer):
    """Cross-entropy method; see the module docstring.

    Raises:
        InputError: elites that are no part of the population, rates outside (0, 1].
    """

    config: CEMConfig

    def __init__(
        self, task: Task, config: CEMConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        c = config
        if not (2 <= c.elites <= c.population and 0 < c.rate <= 1 and c.sigma > 0):
            raise InputError(
                "CEMConfig: 2 ≤ elites ≤ population, rate in (0, 1], sigma > 0; got "
                f"{c.elites}, {c.population}, {c.rate}, {c.sigma}. Correct them."
            )
        self.population = c.population
        self.mean = self.first.clone()
        self.std = torch.full_like(self.mean, c.sigma)
        self.elite: Tensor | None = None
        self.elite_loss = math.inf

    def _ask(self) -> Tensor:
        noise = torch.randn(self.population, *self.mean.shape, generator=self.generator)
        points = (self.mean + self.std * noise).clamp(-1, 1)
        if self.iteration == 0:
            points[0] = self.mean
        return points

    def _tell(self, points: Tensor, losses: list[float]) -> None:
        values = torch.tensor(losses, dtype=torch.float64)
        if self.elite is not None:
            points = torch.cat([points, self.elite[None]])
            values = torch.cat([values, values.new_tensor([self.elite_loss])])
        order = values.argsort(stable=True)[: self.config.elites]
        chosen = points[order]
        self.elite, self.elite_loss = chosen[0].clone(), float(values[order[0]])
        self.mean = self.mean + self.config.rate * (chosen.mean(0) - self.mean)
        self.std = self.std + self.config.rate * (chosen.std(0) - self.std)
        self.converged = float(self.std.max()) < self.config.sigma_min

    def _own_state(self) -> dict[str, Any]:
        own = {
            "mean": self.mean.clone(),
            "std": self.std.clone(),
            "elite": None if self.elite is None else self.elite.clone(),
            "elite_loss": self.elite_loss,
        }
        return {**super()._own_state(), "cem": own}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        for name, value in state["cem"].items():
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)
