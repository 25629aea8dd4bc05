"""CMA-ES finds the basin, the gradient finds its bottom.

    first `share` of the budget: CMA-ES on knots;   the rest: gradient through time from its best

Evolution sees past walls, plateaus and local minima, but closes in slowly; a gradient closes in fast
and sees none of them.

Source: combination of Hansen 2016 with `gradient` or `lbfgs`; our own.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from torch import Tensor

from ...sim.core.errors import InputError
from ..core import Task
from .base import Optimizer
from .cma import CMAConfig, CMAOptimizer
from .gradient import GradientConfig, GradientOptimizer
from .lbfgs import LBFGSConfig, LBFGSOptimizer
from .records import Budget
from .staged import StagedOptimizer

__all__ = ["HybridConfig", "HybridOptimizer"]


@dataclasses.dataclass(frozen=True)
class HybridConfig:
    """Settings of `HybridOptimizer`."""

    share: float = 0.5
    """Part of the budget that CMA-ES may spend [-]; what it leaves goes to the gradient."""
    inner: Literal["gradient", "lbfgs"] = "gradient"
    """What follows."""
    cma: CMAConfig = CMAConfig()
    """Settings of CMA-ES."""
    gradient: GradientConfig = GradientConfig(expand=False, lr=0.1)
    """Settings of the gradient; on the full horizon, as the basin has been chosen."""
    lbfgs: LBFGSConfig = LBFGSConfig()
    """Settings of L-BFGS."""


class HybridOptimizer(StagedOptimizer):
    """CMA-ES, then a gradient; see the module docstring.

    Raises:
        InputError: a share outside (0, 1), and as the two methods.
    """

    config: HybridConfig

    def __init__(
        self, task: Task, config: HybridConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        if not 0 < config.share < 1:
            raise InputError(f"HybridConfig: share in (0, 1); got {config.share}. Give a share.")
        self.shares = (config.share, 1 - config.share)
        super().__init__(task, config, budget, seed, **options)

    def _make(self, stage: int, initial: Tensor, budget: Budget) -> Optimizer:
        c = self.config
        if stage == 0:
            return CMAOptimizer(
                self.task, c.cma, budget, self.seed, initial=initial, executor=self.executor
            )
        if c.inner == "lbfgs":
            return LBFGSOptimizer(self.task, c.lbfgs, budget, self.seed, initial=initial)
        return GradientOptimizer(self.task, c.gradient, budget, self.seed, initial=initial)
