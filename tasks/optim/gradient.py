"""Gradient through time: Adam on the table of actions, with a temporally expanding horizon.

    g = ∇_u (1/n) Σ_{t < T_k} ℓ(x_t, t);   u ← clip(u − Adam(g));   T_k grows when progress ends

With `window` < 1, actions that lie further before the end are frozen; when the full horizon has
converged, all actions are released. Steps get shorter from stage to stage, so that a new one does not
undo what the last has found. When the full horizon no longer improves, the search goes on from its best
actions with half the step; their gradient is known, and the averages, which have led away from them, are
forgotten.

Source: Xian et al. 2023 (FluidLab), optimization schemes; Kingma & Ba 2015 (Adam).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ..core import Task
from .records import Budget
from .through_time import ThroughTimeConfig, ThroughTimeOptimizer

__all__ = ["GradientConfig", "GradientOptimizer"]


@dataclasses.dataclass(frozen=True)
class GradientConfig(ThroughTimeConfig):
    """Settings of `GradientOptimizer`."""

    lr: float = 0.2
    """First step of Adam in units of `action_limit` [-]; five steps cross half of the range."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of Adam's averages [-]."""
    eps: float = 0.1
    """Entries of the gradient below this share of the largest move less than `lr` [-]. Adam's usual
    1e-8 moves actions that hardly matter as far as those that do."""
    clip: float | None = None
    """Bound on the norm of the gradient in actions / `action_limit`, in the unit of the loss; a
    spike then weighs no more than this in Adam's averages."""
    decay: float = 0.5
    """Factor of the step at the end of a stage, and when the full horizon no longer improves [-]."""
    lr_min: float = 0.005
    """Step at which the search has converged, in units of `action_limit` [-]."""


class GradientOptimizer(ThroughTimeOptimizer):
    """Adam through the simulator; see the module docstring.

    Raises:
        InputError: shares outside (0, 1], non-positive steps.
    """

    config: GradientConfig

    def __init__(
        self, task: Task, config: GradientConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        clip_ok = config.clip is None or config.clip > 0
        if not (config.lr > 0 and 0 < config.decay < 1 and clip_ok):
            raise InputError(
                f"GradientConfig: lr > 0, decay in (0, 1), clip > 0; got {config.lr}, "
                f"{config.decay}, {config.clip}. Correct them."
            )
        self.lr = config.lr
        super().__init__(task, config, budget, seed, **options)

    def _restart(self) -> None:
        self.moment_count = 0
        self.moments = torch.zeros(2, *self.actions.shape)
        self.best_gradient: Tensor | None = None

    def _found(self, gradient: Tensor) -> None:
        self.best_gradient = self._clipped(gradient).clone()

    def _clipped(self, gradient: Tensor) -> Tensor:
        if self.config.clip is None:
            return gradient
        return gradient * min(1.0, self.config.clip / (float(gradient.norm()) + 1e-30))

    def _update(self, value: float, gradient: Tensor) -> None:
        b1, b2 = self.config.betas
        gradient = self._clipped(gradient)
        rows = slice(self.begin, self.end)
        self.moment_count += 1
        self.moments[0, rows] += (1 - b1) * (gradient[rows] - self.moments[0, rows])
        self.moments[1, rows] += (1 - b2) * (gradient[rows].square() - self.moments[1, rows])
        mean = self.moments[0] / (1 - b1**self.moment_count)
        scale = (self.moments[1] / (1 - b2**self.moment_count)).sqrt()
        # Relative to the largest entry, so that units of the loss do not matter.
        step = mean / (scale + self.config.eps * scale.max() + 1e-30)
        self.actions = self.clamp(self.actions - self.lr * self.limit * step)

    def _next_stage(self, kind: str) -> None:
        if kind == "grown":
            self.lr *= self.config.decay

    def _exhausted_stage(self) -> None:
        """From the best actions with a shorter step."""
        self.actions, self.plateau.stalled = self.stage_best.clone(), 0
        self.lr *= self.config.decay
        self.converged = self.lr < self.config.lr_min
        known = self.best_gradient
        self._restart()
        if known is not None:
            self._found(known)
            self._update(self.best_loss, known)

    def _too_far(self) -> None:
        self._exhausted_stage()

    def _own_state(self) -> dict[str, Any]:
        own = {"lr": self.lr, "moment_count": self.moment_count, "moments": self.moments.clone()}
        best = None if self.best_gradient is None else self.best_gradient.clone()
        return {**super()._own_state(), **own, "best_gradient": best}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        self.lr, self.moment_count = state["lr"], state["moment_count"]
        self.moments = state["moments"].clone()
        best = state.get("best_gradient")
        self.best_gradient = None if best is None else best.clone()
