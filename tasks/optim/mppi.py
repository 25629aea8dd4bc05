"""Model-predictive path integral control (MPPI) on the whole action sequence.

    q_k = clip(μ + σ ε_k),   w_k ∝ exp(−(J_k − min J) / λ),   μ ← Σ_k w_k q_k

All candidates count, the better the more. λ is `temperature` times the standard deviation of the
losses, so that units of the loss do not matter; σ falls by `decay` per iteration, so that the
mean settles.

Source: Williams et al. 2017 (Information-theoretic MPC), eq. 34; adaptive λ as in common practice.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ..core import Task
from .population import PopulationConfig, PopulationOptimizer
from .records import Budget

__all__ = ["MPPIConfig", "MPPIOptimizer", "path_integral_weights"]


@dataclasses.dataclass(frozen=True)
class MPPIConfig(PopulationConfig):
    """Settings of `MPPIOptimizer`."""

    population: int = 32
    """Candidates per iteration, the mean itself among them."""
    sigma: float = 0.3
    """Initial standard deviation, in units of `action_limit` [-]."""
    temperature: float = 0.2
    """λ relative to the standard deviation of the losses [-]; small: only the best counts."""
    decay: float = 0.95
    """Factor of the standard deviation per iteration [-]."""
    sigma_min: float = 1e-3
    """Standard deviation at which the search has converged, in units of `action_limit` [-]."""


class MPPIOptimizer(PopulationOptimizer):
    """MPPI, open loop; see the module docstring.

    Raises:
        InputError: a population below 2, settings out of their range.
    """

    config: MPPIConfig

    def __init__(
        self, task: Task, config: MPPIConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        c = config
        if not (c.population >= 2 and c.sigma > 0 and c.temperature > 0 and 0 < c.decay <= 1):
            raise InputError(
                "MPPIConfig: population ≥ 2, sigma > 0, temperature > 0, decay in (0, 1]; got "
                f"{c.population}, {c.sigma}, {c.temperature}, {c.decay}. Correct them."
            )
        self.population = c.population
        self.mean, self.sigma = self.first.clone(), c.sigma

    def _ask(self) -> Tensor:
        noise = torch.randn(self.population, *self.mean.shape, generator=self.generator)
        noise[0] = 0.0
        return (self.mean + self.sigma * noise).clamp(-1, 1)

    def _tell(self, points: Tensor, losses: list[float]) -> None:
        weights = path_integral_weights(torch.tensor(losses), self.config.temperature)
        self.mean = torch.einsum("p,pka->ka", weights.to(points), points)
        self.sigma *= self.config.decay
        self.converged = self.sigma < self.config.sigma_min

    def _own_state(self) -> dict[str, Any]:
        return {**super()._own_state(), "mean": self.mean.clone(), "sigma": self.sigma}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        self.mean, self.sigma = state["mean"].clone(), state["sigma"]


def path_integral_weights(losses: Tensor, temperature: float) -> Tensor:
    """w_k ∝ exp(−(J_k − min J)/λ) with λ = temperature · std(J), (P,); they sum to 1.

    Args:
        losses: J, (P,), finite.
        temperature: λ relative to the standard deviation of the losses [-].

    Source: Williams et al. 2017, eq. 34.
    """
    losses = losses.double()
    scale = temperature * losses.std(unbiased=False)
    return torch.softmax(-(losses - losses.min()) / (scale + 1e-30), 0)
