"""Smooth friction that lags: normal forces and tangent planes are those of a given configuration.

    D(x) = μ λ f₀(|u|),   u = T (r(x) − r(x_start) − w),   T = I − n nᵀ,   r(x) = Σ_i c_i x_i
    f₀(y) = y for y ≥ ε, else −y³/(3 ε²) + y²/ε + ε/3,     ε = eps_v h

with the force λ [N], the normal n and the weights c of the lagged configuration, and the displacement w
of what is touched and is not among the points (an obstacle) during the step of length h. Slip (|u| ≥ ε)
pulls with μ λ; below, friction is a stiff viscosity, so a body at rest under load creeps with less than
eps_v. The projection T replaces a tangent basis: nothing depends on how a basis would be chosen, and
everything is differentiable in λ, n, c, w and μ.

Source: Li et al. 2020 (Incremental Potential Contact), Sec. 5, Eq. 12–16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Lag", "friction_energy", "friction_gradient", "friction_hessian", "slip_potential"]


@dataclass(frozen=True)
class Lag:
    """Lagged contacts; S rows of k points. All but the stencil may carry a graph."""

    stencil: Tensor
    """Points, int64 (S, k)."""
    weights: Tensor
    """c [-], (S, k)."""
    normal: Tensor
    """Unit normal n [-], (S, 3)."""
    force: Tensor
    """μ λ [N], (S,), ≥ 0."""
    start: Tensor
    """r(x_start) + w [m], (S, 3): where no slip would put r."""


def slip_potential(y: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """f₀(y), f₀'(y)/y and (f₀'(y)/y)'/y.

    Args:
        y: tangential displacements [m], ≥ 0, any shape.
        eps: ε = eps_v h [m], > 0.

    Returns:
        f₀ [m], f₀'/y [1/m], its derivative over y [1/m³] (0 at y = 0, where it has no limit but is
        only ever multiplied by two displacements).

    Differentiable in y. Source: Li et al. 2020, Eq. 14.
    """
    slip = y >= eps
    inner = torch.where(slip, torch.full_like(y, eps), y)
    outer = torch.where(slip, y, torch.full_like(y, eps))
    moving = torch.where(inner > 0, inner, torch.ones_like(y))
    stick0 = -(inner**3) / (3 * eps**2) + inner * inner / eps + eps / 3
    value = torch.where(slip, outer, stick0)
    first = torch.where(slip, 1 / outer, 2 / eps - inner / eps**2)
    stick2 = torch.where(inner > 0, -1 / (eps**2 * moving), torch.zeros_like(y))
    return value, first, torch.where(slip, -1 / outer**3, stick2)


def _slide(lag: Lag, x: Tensor) -> tuple[Tensor, Tensor]:
    """Tangential displacement u (S, 3) and its length, with a zero derivative at u = 0."""
    r = (lag.weights[..., None] * x[lag.stencil]).sum(1) - lag.start
    u = r - (r * lag.normal).sum(-1, keepdim=True) * lag.normal
    squared = (u * u).sum(-1)
    regular = squared > 0
    length = torch.where(regular, squared, torch.ones_like(squared)).sqrt()
    return u, torch.where(regular, length, torch.zeros_like(length))


def friction_energy(lag: Lag, x: Tensor, eps: float) -> Tensor:
    """D of each row [J], (S,); x (M, 3). Differentiable in x and the lag. Source: Eq. 12."""
    return lag.force * slip_potential(_slide(lag, x)[1], eps)[0]


def friction_gradient(lag: Lag, x: Tensor, eps: float) -> Tensor:
    """∂D/∂x [N] of each row, (S, k, 3). Differentiable in x and the lag. Source: Eq. 15."""
    u, y = _slide(lag, x)
    pull = (lag.force * slip_potential(y, eps)[1])[:, None] * u
    return lag.weights[..., None] * pull[:, None]


def friction_hessian(lag: Lag, x: Tensor, eps: float) -> Tensor:
    """∂²D/∂x² [N/m] of each row, (S, 3 k, 3 k); positive semidefinite, as f₀ is convex.

    Differentiable in x and the lag. Source: Li et al. 2020, Eq. 16.
    """
    u, y = _slide(lag, x)
    _, first, second = slip_potential(y, eps)
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    n = lag.normal
    block = first[:, None, None] * (eye - n[:, :, None] * n[:, None, :])
    block = block + second[:, None, None] * u[:, :, None] * u[:, None, :]
    block = lag.force[:, None, None] * block
    full = torch.einsum("pi,pj,pxy->pixjy", lag.weights, lag.weights, block)
    return full.flatten(3, 4).flatten(1, 2)
