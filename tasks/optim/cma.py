"""CMA-ES over action sequences, the population run as one batch of scenes.

    q_k ~ N(m, σ² C),   m, σ, C adapted to the ranks of J(q_k)

Source: Hansen 2016 (The CMA Evolution Strategy: A Tutorial), through the library `cma`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ..core import Task
from .population import PopulationConfig, PopulationOptimizer
from .records import Budget

__all__ = ["CMAConfig", "CMAOptimizer"]


@dataclasses.dataclass(frozen=True)
class CMAConfig(PopulationConfig):
    """Settings of `CMAOptimizer`."""

    sigma: float = 0.3
    """Initial standard deviation, in units of `action_limit` [-]; the library's advice for [−1, 1]."""
    population: int | None = None
    """Candidates per generation; None: 4 + 3 ln n, the library's default."""


class CMAOptimizer(PopulationOptimizer):
    """CMA-ES; see the module docstring.

    Raises:
        ImportError: without the extra `opt`.
        InputError: a population below 2, and as `PopulationOptimizer`.
    """

    config: CMAConfig

    def __init__(
        self, task: Task, config: CMAConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        self._values: list[list[float]] = []
        self._start()
        if self._es.popsize < 2:
            raise InputError(f"CMAConfig: population ≥ 2; got {config.population}. Raise it.")
        self.population = self._es.popsize

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
            # Equal losses are a plateau to cross, such as a contact not found yet, not the end.
            "tolfun": 0,
            "tolfunhist": 0,
            "tolflatfitness": math.inf,
            "tolx": 1e-8,
        }
        if self.config.population is not None:
            options["popsize"] = self.config.population
        first = self.first.double().flatten().numpy()
        if first.size == 1:  # the library wants two numbers; nothing depends on the second
            first = np.append(first, 0.0)
        self._es = cma.CMAEvolutionStrategy(first, self.config.sigma, options)

    @property
    def spread(self) -> float:
        """Standard deviation of the present distribution, σ √(tr C/n), root mean square over the
        search space, in units of `action_limit` [-]."""
        return float(np.sqrt(np.mean(np.square(self._es.stds))))

    def _ask(self) -> Tensor:
        self._points = self._es.ask()
        points = torch.from_numpy(np.stack(self._points)).to(torch.float32)
        points = points[:, : self.first.numel()]
        return points.reshape(len(points), *self.first.shape)

    def _tell(self, points: Tensor, losses: list[float]) -> None:
        self._es.tell(self._points, losses)
        self._values.append(losses)
        self.converged = bool(self._es.stop())

    def _own_state(self) -> dict[str, Any]:
        # The search is deterministic, so its seed and what it was told are its whole state.
        return {**super()._own_state(), "values": [list(row) for row in self._values]}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        self._start()
        self._values = [list(row) for row in state["values"]]
        for row in self._values:
            self._es.tell(self._es.ask(), row)
