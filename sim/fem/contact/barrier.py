"""The barrier: energy per area that rises without bound as a distance goes to zero.

    b(s) = −d̂ (z − 1)² ln z,   z = s/d̂²,   s = d²;      0 for s ≥ d̂²

b is in metres, so κ b is an energy per area with κ in pascal, whatever the mesh: a patch of area A at
distance d is pushed with κ A g(d/d̂), where g(y) = d/dy[(y² − 1)² ln y²] falls to 0 at y = 1.
With two continuous derivatives at s = d̂²; the third jumps.

Source: Li et al. 2020 (Incremental Potential Contact), Eq. 6; in physical units as in Li et al. 2023
(Convergent Incremental Potential Contact).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FLOOR", "barrier", "pressure", "wall"]

FLOOR = 0.05
"""Distance, in d̂, below which `wall` goes on as a parabola."""


def barrier(s: Tensor, d_hat: float) -> tuple[Tensor, Tensor, Tensor]:
    """b(s), ∂b/∂s, ∂²b/∂s².

    Args:
        s: squared distances [m²], any shape, > 0; at s ≤ 0 the values are infinite or not a number.
        d_hat: distance d̂ at which the barrier begins [m].

    Returns:
        b ≥ 0 [m], b' ≤ 0 [1/m], b'' ≥ 0 [1/m³]; zero beyond d̂.

    Differentiable in s. Source: Li et al. 2020, Eq. 6.
    """
    scale = d_hat * d_hat
    active = s < scale
    z = torch.where(active, s, torch.full_like(s, scale)) / scale
    log, y = torch.log(z), z - 1
    value = -d_hat * y * y * log
    first = -(d_hat / scale) * y * (2 * log + y / z)
    second = -(d_hat / scale**2) * (2 * log + 4 * y / z - (y / z) ** 2)
    zero = torch.zeros_like(z)
    return value, torch.where(active, first, zero), torch.where(active, second, zero)


def pressure(d: Tensor, d_hat: float) -> Tensor:
    """−∂b/∂d [-] at the distance d [m]: the pressure in units of κ. Differentiable in d.

    Source: chain rule on `barrier`.
    """
    return -2 * d * barrier(d * d, d_hat)[1]


def wall(d: Tensor, d_hat: float) -> tuple[Tensor, Tensor, Tensor]:
    """The barrier of signed distances, with a finite value inside: b, ∂b/∂d, ∂²b/∂d².

    Below δ = `FLOOR` d̂ the barrier is replaced by its parabola at δ, so it stays convex and keeps two
    continuous derivatives; the pressure reaches 41 κ at δ and 82 κ at d = 0. Positions that an obstacle
    has just moved into thus have an energy to descend from, and Newton's first step leads to 2 δ.

    Args:
        d: signed distances [m], any shape.
        d_hat: distance d̂ at which it begins [m].

    Returns:
        b ≥ 0 [m], ∂b/∂d ≤ 0 [-], ∂²b/∂d² ≥ 0 [1/m].

    Differentiable in d. Source: Hauser & Saccon 2006 (relaxed logarithmic barrier).
    """
    low = FLOOR * d_hat
    under = d < low
    x = torch.where(under, torch.full_like(d, low), d)
    value, first, second = barrier(x * x, d_hat)
    first, second = 2 * x * first, 4 * x * x * second + 2 * first
    depth = torch.where(under, d - low, torch.zeros_like(d))
    return value + depth * (first + 0.5 * depth * second), first + depth * second, second
