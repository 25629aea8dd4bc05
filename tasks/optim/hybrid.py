"""Gradient descent and CMA-ES in turns, each for as long as it pays; or CMA-ES first, as published.

    adaptive    descent from the start (see `descent`)        until ρ < worth
                CMA-ES around the best so far                 until contracted, or `share` of what is left
                descent from its best sample                  until it converges, or will not get below
                … and again, while the budget lasts           the best so far

    ρ = (what the last `window` trials have gained, per simulator step) · (steps that are left) / |f|

A gradient closes in fast and sees no other valley; evolution sees past walls, plateaus and local minima,
but closes in slowly. Which of both is needed shows in what is gained per simulator step: ρ is what the
rest of the budget would still bring at the present pace, so that a small budget is spent where there
is progress and a large one looks for other valleys once there is none.

    handover    CMA-ES on knots,   until `share` of the budget is spent, or its spread s = σ √(tr C/n) has
                                   fallen to `contraction` times the initial one;
                gradient through time from the best so far,   with a first step of s at most

Source: Wang et al. 2024 (ThinShellLab), the hand-over from CMA-ES (Hansen 2016) to Adam; when it happens,
its steps that are taken back, and the adaptive schedule are our own.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
from typing import Any, Literal

import torch
from torch import Tensor

from ...sim.core.errors import ConvergenceError, InputError, StabilityError, StateError
from ..core import Task
from .base import Optimizer
from .cma import CMAConfig, CMAOptimizer
from .descent import DescentConfig, DescentOptimizer
from .gradient import GradientConfig, GradientOptimizer
from .lbfgs import LBFGSConfig, LBFGSOptimizer
from .records import Budget
from .staged import StagedOptimizer

__all__ = ["HybridConfig", "HybridOptimizer"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class HybridConfig:
    """Settings of `HybridOptimizer`."""

    schedule: Literal["adaptive", "handover"] = "adaptive"
    """Descent and CMA-ES in turns, or CMA-ES once and a gradient after it."""
    share: float = 0.5
    """Part of the budget that CMA-ES may spend [-]: of all with "handover", of what is left with
    "adaptive"."""
    contraction: float = 0.1
    """Spread of CMA-ES over the initial one at which a basin has been chosen [-]; the best of some
    generations without progress tells less, as that is usual while CMA-ES still explores."""
    worth: float = 0.1
    """"adaptive": relative gain that the rest of the budget must promise for a descent to go on [-]."""
    window: int = 6
    """"adaptive": trials that the pace of a descent is taken from."""
    descent: DescentConfig = DescentConfig()
    """"adaptive": settings of the descent."""
    inner: Literal["gradient", "lbfgs"] = "gradient"
    """"handover": what follows CMA-ES."""
    cma: CMAConfig = CMAConfig()
    """Settings of CMA-ES."""
    gradient: GradientConfig = GradientConfig(expand=False, lr=0.1, patience=1, progress=0.0)
    """"handover": settings of the gradient; on the full horizon, as the basin has been chosen."""
    lbfgs: LBFGSConfig = LBFGSConfig()
    """"handover": settings of L-BFGS."""


class HybridOptimizer(StagedOptimizer):
    """Gradient descent and CMA-ES; see the module docstring.

    Raises:
        ImportError: without the extra `opt`.
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
        if config.worth < 0 or config.window < 1 or config.descent.expand:
            raise InputError(
                "HybridConfig: worth ≥ 0, window ≥ 1, and a descent on the full horizon; got "
                f"{config.worth}, {config.window}, expand = {config.descent.expand}. Correct them."
            )
        if importlib.util.find_spec("cma") is None:  # told now, not after the first descent
            raise ImportError(
                'HybridOptimizer: needs the library cma. Run pip install "rheograd[opt]".'
            )
        self.adaptive = config.schedule == "adaptive"
        self.shares = (1.0,) if self.adaptive else (config.share, 1 - config.share)
        self.spread = math.inf
        """Of CMA-ES at its end, in units of `action_limit` [-]; infinite before."""
        super().__init__(task, config, budget, seed, **options)

    @property
    def explores(self) -> bool:
        """Whether the present stage is CMA-ES."""
        return self.stage % 2 == 1 if self.adaptive else self.stage == 0

    @property
    def verifies(self) -> bool:
        # On the full horizon, every loss of a stage is that of the task.
        c = self.config
        if self.adaptive:
            return False
        return c.gradient.expand if c.inner == "gradient" else c.lbfgs.expand

    def next_cost(self) -> int:
        known = self.adaptive or self.stage > 0
        return super().next_cost() + (0 if known else self.rollout_cost)

    def _enough(self, loss: float) -> str:
        if isinstance(self._inner, CMAOptimizer):
            small = self.config.contraction * self.config.cma.sigma
            return "contracted" if self._inner.spread <= small else ""
        if not self.adaptive or self.stage % 2:
            return ""
        return self._stalled()

    # Adaptive.

    def _stalled(self) -> str:
        """Why a descent is not worth to go on, or ""."""
        rows, n = self._inner.history, self.config.window
        first = self.config.descent.doublings + self.config.descent.samples + 1
        if len(rows) <= n + (first if self.stage == 0 else 0):
            return ""
        now = min(r.loss for r in rows)
        gained = min(r.loss for r in rows[:-n]) - now
        left, cost = self._left(), rows[-1].steps - rows[-1 - n].steps
        promise = math.inf if gained > 0 and math.isinf(left) else gained * left / max(cost, 1)
        if self.stage and now - promise >= self.best_loss:
            return "behind"
        if promise > self.config.worth * abs(now) or not self._affords_more():
            return ""
        return "stalled"

    def _left(self) -> float:
        """Simulator steps that are left, as far as the budget tells."""
        b, (steps, turns) = self.budget, self._spent()
        left = [math.inf]
        if b.simulator_steps is not None:
            left.append(b.simulator_steps - steps - self.final_cost)
        if b.iterations is not None:
            left.append((b.iterations - turns) * steps / max(turns, 1))
        if b.wall_s is not None and self.wall_s > 0:
            left.append((b.wall_s - self.wall_s) * steps / self.wall_s)
        return max(0.0, min(left))

    def _affords_more(self) -> bool:
        """Whether a generation of CMA-ES within its share, and a descent after it, can be paid for."""
        c, b = self.config, self.budget
        n = min(c.cma.knots or math.inf, self.task.horizon) * self.task.action_size
        size = c.cma.population or 4 + math.floor(3 * math.log(max(n, 2)))
        (_, turns), left = self._spent(), self._left()
        generation, step = size * self.rollout_cost, (1 + b.adjoint_cost) * self.rollout_cost
        if b.iterations is not None and b.iterations - turns < 2 + c.window:
            return False
        return c.share * left >= generation and left - generation >= c.window * step

    def _share(self) -> float:
        if not self.adaptive:
            return super()._share()
        return self.config.share if self.explores else 1.0

    def _over(self, reason: str) -> bool:
        """After a descent: whether the search ends with it."""
        if not self.adaptive:
            return super()._over(reason)
        if self.explores:
            return False
        if reason in ("converged", "stalled", "behind", "broken"):
            return not self._affords_more()
        return True

    def _handover(self, ended: Optimizer) -> Tensor:
        """Where the next stage begins: around the best so far, at the best sample of CMA-ES; with
        "handover" at the start of the search where that is better."""
        if isinstance(ended, CMAOptimizer):
            self.spread = ended.spread
        if self.adaptive:
            return ended.best_actions if isinstance(ended, CMAOptimizer) else self._best
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
        if self.adaptive:
            return self._make_adaptive(stage, initial, budget)
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

    def _make_adaptive(self, stage: int, initial: Tensor, budget: Budget) -> Optimizer:
        c, seed = self.config, self.seed + stage // 2
        if stage % 2:
            return _AroundOptimizer(
                self.task, c.cma, budget, seed, initial=initial, executor=self.executor
            )
        d = c.descent
        if stage:  # from a sample: no longer than what is left of the spread, and no samples again
            reach = min(d.first_step, max(self.spread, 1e-3))
            d = dataclasses.replace(d, first_step=reach, doublings=0, samples=0)
        return DescentOptimizer(self.task, d, budget, seed, initial=initial)

    def _own_state(self) -> dict[str, Any]:
        return {**super()._own_state(), "spread": self.spread}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self.spread = state.get("spread", math.inf)
        super()._load_own_state(state)


class _AroundOptimizer(CMAOptimizer):
    """CMA-ES on changes of given actions, a = a₀ + limit · Σ N_k q_k; knots cannot say all of a₀."""

    def __init__(
        self, task: Task, config: CMAConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        self.center = options["initial"]
        options["initial"] = torch.zeros_like(self.center)
        super().__init__(task, config, budget, seed, **options)

    def decode(self, points: Tensor) -> Tensor:
        return self.clamp(self.center + (self.basis @ points.to(torch.float32)) * self.limit)
