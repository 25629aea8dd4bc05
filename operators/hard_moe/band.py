"""Symmetric matrices of fits, full or block-tridiagonal: the few things that a fit does with them.

    full   A (S, N, N)
    band   A (S, K, 2, n, n):  A[:, k, 0] = A_kk,  A[:, k, 1] = A_{k, k−1} (zero for k = 0),  N = K n

Cholesky's factor of a band is a band, so K n³ operations solve it and K n² numbers hold it, in place of
K³ n³ and K² n². Differentiable. Source: Golub & Van Loan 2013, §4.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cholesky", "dense", "diagonal", "product", "rescale", "solve"]


def diagonal(A: Tensor) -> Tensor:
    """Its diagonal, (S, N)."""
    if A.ndim == 3:
        return A.diagonal(dim1=1, dim2=2)
    return A[:, :, 0].diagonal(dim1=2, dim2=3).flatten(1)


def rescale(A: Tensor, s: Tensor, shift: Tensor | None = None) -> Tensor:
    """s_i A_ij s_j + δ_ij shift_i; s and shift (S, N)."""
    if A.ndim == 3:
        A = A * (s[:, :, None] * s[:, None, :])
        return A if shift is None else A + torch.diag_embed(shift)
    s = s.unflatten(1, (A.shape[1], -1))
    before = torch.cat([s[:, :1], s[:, :-1]], 1)
    A = A * (s[:, :, None, :, None] * torch.stack([s, before], 2)[:, :, :, None, :])
    if shift is None:
        return A
    more = torch.diag_embed(shift.unflatten(1, (A.shape[1], -1)))
    return A + torch.stack([more, torch.zeros_like(more)], 2)


def product(A: Tensor, v: Tensor) -> Tensor:
    """A v, (S, N)."""
    if A.ndim == 3:
        return (A @ v[..., None])[..., 0]
    v = v.unflatten(1, (A.shape[1], -1))[..., None]
    off, zero = A[:, 1:, 1], torch.zeros_like(v[:, :1])
    below = torch.cat([zero, off @ v[:, :-1]], 1)
    above = torch.cat([off.mT @ v[:, 1:], zero], 1)
    return (A[:, :, 0] @ v + below + above).flatten(1)


def cholesky(A: Tensor) -> tuple[Tensor, Tensor]:
    """Lower factor in the layout of A, and for each system 0 where A is positive definite, (S,)."""
    if A.ndim == 3:
        return torch.linalg.cholesky_ex(A)
    lower, info = torch.linalg.cholesky_ex(A[:, 0, 0])
    rows = [torch.stack([lower, torch.zeros_like(lower)], 1)]
    for k in range(1, A.shape[1]):
        # A_{k,k−1} = L_{k,k−1} L_{k−1}ᵀ,  A_kk = L_{k,k−1} L_{k,k−1}ᵀ + L_k L_kᵀ
        off = torch.linalg.solve_triangular(lower.mT, A[:, k, 1], upper=True, left=False)
        lower, bad = torch.linalg.cholesky_ex(A[:, k, 0] - off @ off.mT)
        rows.append(torch.stack([lower, off], 1))
        info = torch.maximum(info, bad)
    return torch.stack(rows, 1), info


def solve(lower: Tensor, b: Tensor) -> Tensor:
    """A⁻¹ b from the factor, (S, N)."""
    if lower.ndim == 3:
        return torch.cholesky_solve(b[..., None], lower)[..., 0]
    K = lower.shape[1]
    b = b.unflatten(1, (K, -1))[..., None]
    y: list[Tensor] = []
    for k in range(K):
        right = b[:, k] - lower[:, k, 1] @ y[-1] if k else b[:, k]
        y.append(torch.linalg.solve_triangular(lower[:, k, 0], right, upper=False))
    x: list[Tensor] = []
    for k in reversed(range(K)):
        right = y[k] - lower[:, k + 1, 1].mT @ x[-1] if x else y[k]
        x.append(torch.linalg.solve_triangular(lower[:, k, 0].mT, right, upper=True))
    return torch.stack(x[::-1], 1).flatten(1)


def dense(A: Tensor) -> Tensor:
    """The same matrix in full."""
    if A.ndim == 3:
        return A
    S, K, _, n, _ = A.shape
    out = A.new_zeros(S, K, n, K, n)
    k = torch.arange(K, device=A.device)
    out[:, k, :, k] = A[:, :, 0].transpose(0, 1)
    out[:, k[1:], :, k[:-1]] = A[:, 1:, 1].transpose(0, 1)
    out[:, k[:-1], :, k[1:]] = A[:, 1:, 1].mT.transpose(0, 1)
    return out.reshape(S, K * n, K * n)
