"""Random search: uniform candidates, the baseline that every method has to beat.

Source: Bergstra & Bengio 2012 (random search).
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

__all__ = ["RandomConfig", "RandomOptimizer"]


@dataclasses.dataclass(frozen=True)
class RandomConfig(PopulationConfig):
    """Settings of `RandomOptimizer`."""

    population: int = 32
    """Candidates per iteration."""


class RandomOptimizer(PopulationOptimizer):
    """Candidates uniform in [−1, 1] at the knots; the first is the start itself.

    Raises:
        InputError: a population below 1, and as `PopulationOptimizer`.
    """

    config: RandomConfig

    def __init__(
        self, task: Task, config: RandomConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        if config.population < 1:
            raise InputError(f"RandomConfig: population ≥ 1; got {config.population}. Raise it.")
        self.population = config.population

    def _ask(self) -> Tensor:
        points = 2 * torch.rand(self.population, *self.first.shape, generator=self.generator) - 1
        if self.iteration == 0:
            points[0] = self.first
        return points

    def _tell(self, points: Tensor, losses: list[float]) -> None:
        pass
