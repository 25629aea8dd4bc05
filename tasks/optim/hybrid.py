"""CMA-ES finds the basin, the gradient finds its bottom.

    CMA-ES on knots,   until `share` of the budget is spent, or its spread s = σ √(tr C/n) has fallen to
                       `contraction` times the initial one;
    gradient through time from the best so far,   with a first step of s at most

Evolution sees past walls, plateaus and local minima, but closes in slowly; a gradient closes in fast
and sees none of them. The basin has been chosen when the gradient begins, so steps that gain nothing
are taken back and halved, and the start of the search is one more candidate: where no sample is better,
the gradient begins there.

Source: combination of Hansen 2016 with `gradient` or `lbfgs`; our own.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor

from ...sim.core.errors import ConvergenceError, InputError, StabilityError, StateError
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
    contraction: float = 0.1
    """Spread of CMA-ES over the initial one at which a basin has been chosen [-]; the best of some
    generations without progress tells less, as that is usual while CMA-ES still explores."""
    inner: Literal["gradient", "lbfgs"] = "gradient"
    """What follows."""
    cma: CMAConfig = CMAConfig()
    """Settings of CMA-ES."""
    gradient: GradientConfig = GradientConfig(expand=False, lr=0.1, patience=1, progress=0.0)
    """Settings of the gradient; on the full horizon, as the basin has been chosen."""
    lbfgs: LBFGSConfig = LBFGSConfig()
    """Settings of L-BFGS."""


class HybridOptimizer(StagedOptimizer):
    """CMA-ES, then a gradient; see the module docstring.

    Raises:
        InputError: a share outside (0, 1), a contraction outside [0, 1), and as the two methods.
    """

    config: HybridConfig

    def __init__(
        self, task: Task, config: HybridConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        if not 0 < config.share < 1:
            raise InputError(f"HybridConfig: share in (0, 1); got {config.share}. Give a share.")
        if not 0 <= config.contraction < 1:
            raise InputError(
                f"HybridConfig: contraction in [0, 1); got {config.contraction}. Use 0 for none."
            )
        self.shares = (config.share, 1 - config.share)
        self.spread = math.inf
        """Of CMA-ES at its end, in units of `action_limit` [-]; infinite before."""
        super().__init__(task, config, budget, seed, **options)

    @property
    def verifies(self) -> bool:
        # On the full horizon, every loss of a stage is that of the task.
        c = self.config
        return c.gradient.expand if c.inner == "gradient" else c.lbfgs.expand

    def next_cost(self) -> int:
        return super().next_cost() + (self.rollout_cost if self.stage == 0 else 0)

    def _enough(self, loss: float) -> str:
        if not isinstance(self._inner, CMAOptimizer):
            return ""
        small = self.config.contraction * self.config.cma.sigma
        return "contracted" if self._inner.spread <= small else ""

    def _handover(self, ended: Optimizer) -> Tensor:
        """The best of CMA-ES, or the start of the search where that is better."""
        assert isinstance(ended, CMAOptimizer)
        self.spread = ended.spread
        start = self.start_actions()
        try:
            with torch.no_grad():
                loss = float(self.task.evaluate(start)[0][0])
        except (ConvergenceError, StateError, StabilityError):
            loss = math.inf
        if loss < self.best_loss:
            self._best, self.best_loss = start, loss
        return self._best

    def _make(self, stage: int, initial: Tensor, budget: Budget) -> Optimizer:
        c = self.config
        if stage == 0:
            return CMAOptimizer(
                self.task, c.cma, budget, self.seed, initial=initial, executor=self.executor
            )
        if c.inner == "lbfgs":
            short = dataclasses.replace(c.lbfgs, first_step=min(c.lbfgs.first_step, self.spread))
            return LBFGSOptimizer(self.task, short, budget, self.seed, initial=initial)
        g = c.gradient
        short_g = dataclasses.replace(g, lr=min(g.lr, max(self.spread, g.lr_min)))
        return GradientOptimizer(self.task, short_g, budget, self.seed, initial=initial)

    def _own_state(self) -> dict[str, Any]:
        return {**super()._own_state(), "spread": self.spread}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self.spread = state.get("spread", math.inf)
        super()._load_own_state(state)
