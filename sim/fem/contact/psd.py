"""Nearest positive semidefinite blocks of pair contacts, in the few motions that they act on.

A block f ∂²s + k ∂s ∂sᵀ of a squared distance acts on five motions only: the gap moves as a whole,
c ⊗ e_x, and the closest points shift, Γ_a ⊗ r. In an orthonormal basis of those its eigenvalues are
those of a 5×5 matrix.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .distances import Nearest, dot

__all__ = ["project_blocks", "project_pairs"]


@functools.lru_cache(maxsize=4)
def _differences(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal basis of the motions of four points without a common translation, (12, 9)."""
    rows = [(1, -1, 0, 0), (1, 1, -2, 0), (1, 1, 1, -3)]
    basis = torch.tensor(
        [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows],
        dtype=dtype,
        device=device,
    )
    eye = torch.eye(3, dtype=dtype, device=device)
    return torch.einsum("ai,xy->ixay", basis, eye).reshape(12, 9)


def project_blocks(blocks: Tensor) -> Tensor:
    """Blocks (S, 12, 12) with negative eigenvalues set to zero; translations must be in the kernel.

    Source: Higham 1988 (nearest symmetric positive semidefinite matrix).
    """
    if len(blocks) == 0:
        return blocks
    q = _differences(blocks.dtype, blocks.device)
    values, vectors = torch.linalg.eigh(q.T @ blocks @ q)
    v = q @ (vectors * values.clamp(min=0).sqrt()[:, None])
    return v @ v.transpose(1, 2)


def project_pairs(n: Nearest, first: Tensor, second: Tensor) -> Tensor:
    """f ∂²s + k ∂s ∂sᵀ (S, 12, 12) with negative eigenvalues set to zero, for f, k (S,).

    Distances must not vanish. The same as `project_blocks` of those blocks, at less than half the cost.
    Source: Higham 1988; derivatives as in `distances`.
    """
    if len(first) == 0:
        return n.r.new_zeros(0, 12, 12)
    c, r = n.weights, n.r
    size, length = (c * c).sum(1, keepdim=True).sqrt(), dot(r, r).sqrt()
    unit, along = c / size, r / length[:, None]
    # Γ without its part along c, and orthonormal; zero where a parameter is not free.
    shift = n.slopes - unit[:, :, None] * (unit[:, :, None] * n.slopes).sum(1, keepdim=True)
    one = _normalized(shift[..., 0])
    two = _normalized(shift[..., 1] - one * (one * shift[..., 1]).sum(1, keepdim=True))
    eye = torch.eye(3, dtype=c.dtype, device=c.device)
    basis = torch.cat(
        (
            torch.einsum("si,xy->sixy", unit, eye),
            torch.einsum("sai,sx->sixa", torch.stack((one, two), 1), along),
        ),
        dim=3,
    ).flatten(1, 2)
    w = torch.einsum("si,sax->sixa", c, n.free) + torch.einsum("sia,sx->sixa", n.slopes, r)
    w = basis.mT @ w.flatten(1, 2)
    g = torch.nn.functional.pad(2 * size * r, (0, 2))
    local = second[:, None, None] * g[:, :, None] * g[:, None, :]
    spread = torch.nn.functional.pad(eye, (0, 2, 0, 2)) * (size * size)[:, :, None]
    local = local + 2 * first[:, None, None] * (spread - w @ n.inverse @ w.mT)
    values, vectors = torch.linalg.eigh(local)
    v = basis @ (vectors * values.clamp(min=0).sqrt()[:, None])
    return v @ v.mT


def _normalized(a: Tensor) -> Tensor:
    """Rows of length one, (S, 4); zero rows stay."""
    length = (a * a).sum(1, keepdim=True).sqrt()
    return a / torch.where(length > 0, length, torch.ones_like(length))
