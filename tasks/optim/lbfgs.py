"""L-BFGS through time, with bounds on the actions.

    d = −H g on the free entries;   u(α) = P(u + α d);   f(u(α)) ≤ f(u) + c gᵀ(u(α) − u)

H is the inverse Hessian of the last `memory` steps (two-loop recursion), P the projection onto
[−1, 1]. Entries at a bound that the gradient pushes outwards are held; the others follow the projected
arc, shortened until the decrease is sufficient. Pairs without positive curvature are left out. One
iteration is one rollout with its adjoint, line searches included, so a budget is exact and a run can
be resumed in the middle of a line search.

Source: Liu & Nocedal 1989 (L-BFGS); Bertsekas 1982 (projected Newton methods), §2.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ..core import Task
from .records import Budget
from .through_time import ThroughTimeConfig, ThroughTimeOptimizer

__all__ = ["LBFGSConfig", "LBFGSOptimizer"]


@dataclasses.dataclass(frozen=True)
class LBFGSConfig(ThroughTimeConfig):
    """Settings of `LBFGSOptimizer`."""

    expand: bool = False
    """Expanding horizon; off, as each stage has to learn its curvature anew."""
    memory: int = 10
    """Steps that the curvature is estimated from."""
    first_step: float = 0.2
    """Largest change of the first step, in units of `action_limit` [-]."""
    max_step: float = 1.0
    """Largest change of any step, in units of `action_limit` [-]."""
    armijo: float = 1e-4
    """Share of the linear decrease that a step has to reach [-]."""
    backtracks: int = 10
    """Shortenings after which the curvature is forgotten; after as many more, it has converged."""
    tolerance: float = 1e-5
    """Largest entry of the projected gradient, relative to the first, that counts as zero [-]."""


class LBFGSOptimizer(ThroughTimeOptimizer):
    """L-BFGS with projection onto the action limits; see the module docstring.

    Raises:
        InputError: settings out of their range.
    """

    config: LBFGSConfig

    def __init__(
        self, task: Task, config: LBFGSConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        c = config
        if not (c.memory >= 1 and c.first_step > 0 and c.max_step > 0 and 0 < c.armijo < 0.5):
            raise InputError(
                "LBFGSConfig: memory ≥ 1, first_step > 0, max_step > 0, armijo in (0, 0.5); got "
                f"{c.memory}, {c.first_step}, {c.max_step}, {c.armijo}. Correct them."
            )
        super().__init__(task, config, budget, seed, **options)

    def _restart(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []
        # The accepted point, its value and gradient; None before the first evaluation.
        self.point: Tensor | None = None
        self.value = math.inf
        self.slope = self.direction = torch.zeros_like(self.actions)
        self.alpha, self.shortened, self.scale = 1.0, 0, 0.0

    def _stage_over(self, value: float) -> bool:
        # Only accepted points tell of progress; trial points are judged in `_update`.
        return False

    def _update(self, value: float, gradient: Tensor) -> None:
        u = (self.actions / self.limit).double()
        gradient = gradient.double()
        if self.point is None:
            self.scale = float(self._projected(u, gradient).abs().max())
            self._accept(u, value, gradient)
            return
        predicted = float((self.slope * (u - self.point)).sum())
        if value <= self.value + self.config.armijo * predicted:
            s, y = u - self.point, gradient - self.slope
            if float((s * y).sum()) > 1e-10 * float(s.norm() * y.norm()):
                self.pairs = [*self.pairs, (s, y)][-self.config.memory :]
            self._accept(u, value, gradient)
            return
        # The minimum of the parabola through both values and the slope, kept within a safe share.
        bend = value - self.value - predicted
        share = -0.5 * predicted / bend if bend > 0 else 0.5
        self._shorten(min(0.5, max(0.1, share)))

    def _accept(self, u: Tensor, value: float, gradient: Tensor) -> None:
        self.point, self.value, self.slope, self.shortened = u, value, gradient, 0
        small = float(self._projected(u, gradient).abs().max()) <= (
            self.config.tolerance * self.scale
        )
        if self.plateau.update(value) or small:
            self._advance()
        else:
            self._search()

    def _search(self) -> None:
        """A new line search from the accepted point."""
        self.direction = self._descent()
        first = not self.pairs
        largest = float(self.direction.abs().max())
        if largest == 0:
            self._advance()
            return
        bound = self.config.first_step if first else self.config.max_step
        self.alpha = bound / largest if first else min(1.0, bound / largest)
        self._propose()

    def _propose(self) -> None:
        assert self.point is not None
        u = (self.point + self.alpha * self.direction).clamp(-1, 1)
        self.actions = self.clamp(u.float() * self.limit)

    def _shorten(self, share: float) -> None:
        self.alpha *= share
        self.shortened += 1
        if self.shortened < self.config.backtracks:
            self._propose()
        elif self.pairs:
            self.pairs, self.shortened = [], 0
            self._search()
        else:
            self._advance()

    def _too_far(self) -> None:
        self._shorten(0.25)

    def _exhausted_stage(self) -> None:
        self.converged = True

    def _projected(self, u: Tensor, gradient: Tensor) -> Tensor:
        """Change of u along the negative gradient that the bounds allow, per unit of step."""
        held = ((u <= -1) & (gradient > 0)) | ((u >= 1) & (gradient < 0))
        return gradient.masked_fill(held, 0.0)

    def _descent(self) -> Tensor:
        """−H g on the free entries, 0 elsewhere."""
        assert self.point is not None
        q = self._projected(self.point, self.slope)
        free = (q != 0).to(q)
        g, used = q.clone(), []
        for s, y in reversed(self.pairs):
            s, y = s * free, y * free
            curvature = float((s * y).sum())
            if curvature <= 1e-10 * float(s.norm() * y.norm()):
                continue
            weight = float((s * q).sum()) / curvature
            used.append((s, y, curvature, weight))
            q = q - weight * y
        if used:
            s, y, curvature, _ = used[0]
            q = q * (curvature / float(y.square().sum()))
        for s, y, curvature, weight in reversed(used):
            q = q + (weight - float((y * q).sum()) / curvature) * s
        return -q * free if float((q * g).sum()) > 0 else -g

    def _own_state(self) -> dict[str, Any]:
        numbers = ("value", "alpha", "shortened", "scale")
        own = {
            "pairs": [[s.clone(), y.clone()] for s, y in self.pairs],
            "point": None if self.point is None else self.point.clone(),
            "slope": self.slope.clone(),
            "direction": self.direction.clone(),
            **{name: getattr(self, name) for name in numbers},
        }
        return {**super()._own_state(), "lbfgs": own}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        own = dict(state["lbfgs"])
        self.pairs = [(s.clone(), y.clone()) for s, y in own.pop("pairs")]
        for name, value in own.items():
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)
