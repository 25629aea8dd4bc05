"""Analytic policy gradient: backpropagation through the closed loop.

    θ ← θ − Adam(∇_θ (1/(B n)) Σ_b Σ_{t < n} ℓ(x_t, t)),   a_t = π_θ(o(x_t))

With `window` shorter than the episode the gradient is cut there and what comes later is not seen; `shac`
puts a learned value at the cut instead.

Source: Freeman et al. 2021 (Brax), analytic policy gradient.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from .policy import ClosedLoop
from .policy_search import GradientPolicyConfig, GradientPolicyOptimizer

__all__ = ["APGConfig", "APGOptimizer"]


@dataclasses.dataclass(frozen=True)
class APGConfig(GradientPolicyConfig):
    """Settings of `APGOptimizer`."""


class APGOptimizer(GradientPolicyOptimizer):
    """Analytic policy gradient; see the module docstring."""

    config: APGConfig

    def _objective(self, run: ClosedLoop, end: bool) -> Tensor:
        return run.losses.mean()
