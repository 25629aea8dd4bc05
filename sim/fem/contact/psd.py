"""Nearest positive semidefinite blocks of pair contacts, without their translations."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

__all__ = ["project_blocks"]


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
