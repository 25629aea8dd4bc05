"""Projections onto simple convex sets, for constrained minima that are differentiated.

Each is called as `projection(x, *params)`, ignores the params, and acts on every tensor of a tree x.
Differentiable in x where the set of active bounds does not change.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, message
from .trees import flatten

__all__ = ["Ball", "Box", "NonNegative", "Projection", "Simplex", "soft_threshold"]


class Projection:
    """P(x) = argmin ‖y − x‖ over a convex set; a subclass says what happens to one tensor."""

    def __call__(self, x: Any, *params: Any) -> Any:
        tensors, rebuild = flatten(x)
        return rebuild([self.tensor(t) for t in tensors.values()])

    def tensor(self, x: Tensor) -> Tensor:
        """The projection of one tensor."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Box(Projection):
    """lower ≤ x ≤ upper, numbers or constant tensors; for learned bounds write a function of params."""

    lower: Any
    """Smallest value, that broadcasts with x."""
    upper: Any
    """Largest value, that broadcasts with x."""

    def tensor(self, x):
        lower, upper = (
            torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in (self.lower, self.upper)
        )
        if not bool((lower <= upper).all()):
            raise InputError(message("Box", "lower <= upper", f"{self.lower} and {self.upper}"))
        return torch.minimum(torch.maximum(x, lower), upper)


@dataclasses.dataclass(frozen=True)
class NonNegative(Projection):
    """x ≥ 0."""

    def tensor(self, x):
        return torch.relu(x)


@dataclasses.dataclass(frozen=True)
class Simplex(Projection):
    """x ≥ 0 with the sum `total` along an axis. Source: Held, Wolfe & Crowder 1974."""

    total: float = 1.0
    """Sum of the entries, > 0."""
    dim: int = -1
    """Axis of the sum."""

    def __post_init__(self):
        if not self.total > 0:
            raise InputError(message("Simplex", "total > 0", self.total))

    def tensor(self, x):
        # x_i = max(v_i − τ, 0) with τ from the k largest entries that stay positive.
        ordered = x.sort(dim=self.dim, descending=True).values.movedim(self.dim, -1)
        count = torch.arange(1, ordered.shape[-1] + 1, dtype=x.dtype, device=x.device)
        tau = (ordered.cumsum(-1) - self.total) / count
        k = (ordered > tau).sum(-1, keepdim=True) - 1
        return torch.relu(x - tau.gather(-1, k).movedim(-1, self.dim))


@dataclasses.dataclass(frozen=True)
class Ball(Projection):
    """‖x‖₂ ≤ radius along an axis."""

    radius: float = 1.0
    """Largest length, > 0."""
    dim: int = -1
    """Axis of the norm."""

    def tensor(self, x):
        square = x.square().sum(self.dim, keepdim=True)
        outside = square > self.radius**2
        length = torch.where(outside, square, 1.0).sqrt()
        return torch.where(outside, self.radius * x / length, x)


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    """argmin_y ½ (y − x)² + threshold |y|, the proximal operator of the 1-norm; shapes broadcast."""
    return torch.sign(x) * torch.relu(x.abs() - threshold)
