"""Fits in weights of orthonormal functions, for bases whose functions are nearly dependent.

    [J; C] = Q R at the start of a fit,   w = X v,   X = R⁻¹:   rows T X and C X of weights v

JᵀJ of the new rows is the identity there, where in the old weights it has the squared condition of the
basis; then single precision holds what the fit needs. X is a constant: min_v ½ ‖r(X v)‖² is the minimum
in w for every X, the ridge stays that of the old weights, and so dw*/dθ = X dv*/dθ is exact, too.

Source: Golub & Van Loan 2013, §5.2 (Householder QR); Demmel et al. 2012 (QR of stacked parts).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rows import Residual, Rows

__all__ = ["by_blocks", "orthonormal"]


def by_blocks(X: Tensor, v: Tensor) -> Tensor:
    """X v for blocks X (S, K, n, n) and v (S, K n)."""
    return (X @ v.unflatten(1, X.shape[1:3])[..., None]).flatten(1)


@torch.no_grad()
def orthonormal(residual: Residual, rows: Rows, start: Tensor) -> Tensor:
    """X by blocks (S, K, n, n): K windows for rows of windows, else one.

    A block whose functions the rows cannot tell apart in this precision is the identity: its columns
    would be round-off.

    Args:
        residual: of the rows.
        rows: without graph.
        start: weights (S, N) at which the rows are taken as linear.
    """
    with torch.enable_grad():
        z = rows.numbers(start).detach().requires_grad_()
        slope = torch.autograd.grad(residual(z, rows.params).sum(), z)[0]
    # Rows without a slope at the start have no say: any X is a change of weights.
    R = rows.triangles(rows.combine(torch.where(torch.isfinite(slope), slope, 0.0)))
    n = R.shape[-1]
    size = R.norm(dim=-2)
    level = 2 * n**0.5 * torch.finfo(R.dtype).eps
    told = (R.diagonal(dim1=-2, dim2=-1).abs() > level * size).all(-1)[..., None, None]
    eye = torch.eye(n, dtype=R.dtype, device=R.device)
    return torch.linalg.solve_triangular(torch.where(told, R, eye), eye.expand_as(R), upper=True)
