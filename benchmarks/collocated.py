"""The projection that smoke demonstrations often use, as the baseline of the exact one.

Velocity and pressure at cell centres, central differences over two cells for div and grad, but the
compact Laplacian between them, and a fixed number of Jacobi sweeps. The three do not belong
together: even a converged pressure leaves divergence.

Source: Stam 1999; the smoke field of Xian et al. 2023 (FluidLab) has this form.
"""

from __future__ import annotations

import torch
from torch import Tensor


def neighbors(q: Tensor, free: Tensor, axis: int, behind: Tensor) -> tuple[Tensor, Tensor]:
    """Values below and above along an axis of (*cells); `behind` where a cell is blocked."""
    out = []
    for shift in (1, -1):
        value, open_ = q.roll(shift, axis), free.roll(shift, axis).clone()
        open_.narrow(axis, 0 if shift == 1 else -1, 1).fill_(False)
        out.append(torch.where(open_, value, behind))
    return out[0], out[1]


def divergence(v: Tensor, free: Tensor) -> Tensor:
    """½ Σ (v_{i+1} − v_{i−1}) per cell; walls mirror the normal component. v (*cells, D)."""
    total = torch.zeros_like(v[..., 0])
    for a in range(v.shape[-1]):
        low, high = neighbors(v[..., a], free, a, -v[..., a])
        total = total + 0.5 * (high - low)
    return total * free


def jacobi_projection(v: Tensor, free: Tensor, sweeps: int = 50) -> tuple[Tensor, Tensor]:
    """v − ½ (p_{i+1} − p_{i−1}) after Jacobi sweeps p ← (Σ p_neighbours − div) / 2 D."""
    div, D = divergence(v, free), v.shape[-1]
    p = torch.zeros_like(div)
    for _ in range(sweeps):
        total = sum(sum(neighbors(p, free, a, p)) for a in range(D))
        p = (total - div) / (2 * D) * free
    gradient = [0.5 * (h - lo) for lo, h in (neighbors(p, free, a, p) for a in range(D))]
    return (v - torch.stack(gradient, -1)) * free[..., None], p
