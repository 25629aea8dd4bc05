"""A multigrid cycle as preconditioner of CG, for any coefficients and any mask of cells.

It acts on rows (B, n) and is built without a graph.

Source: Braess 1995 (piecewise constant coarsening, rescaled); McAdams, Sifakis & Teran 2010 (a
multigrid cycle as preconditioner of CG).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .stencil import Stencil, pair_sum

__all__ = ["VCycle"]

COARSEST = 64
"""Cells of the level that is inverted densely."""
DAMPING = 0.8
"""Of the Jacobi smoother; below 1 the cycle is positive definite."""


class VCycle:
    """One symmetric V-cycle v ↦ M⁻¹ v: a preconditioner for any mask of solid cells.

    Damped Jacobi before and after; restriction sums over blocks, prolongation repeats; the coarsest
    level is inverted up to its null space. Symmetric and positive definite on gas cells.
    """

    def __init__(self, stencil: Stencil, sweeps: int = 2) -> None:
        self.levels, self.sweeps = [stencil], sweeps
        while np.prod(self.levels[-1].cells) > COARSEST:
            self.levels.append(self.levels[-1].coarse())
        self.inverse = [
            torch.where(s.diagonal > 0, DAMPING / s.diagonal.clamp_min(1e-30), 0.0)
            for s in self.levels
        ]
        self.bottom = torch.linalg.pinv(self.levels[-1].dense(), hermitian=True, rtol=1e-5)

    def __call__(self, rows: Tensor) -> Tensor:
        # Scaled to one, so that a cycle in lower precision does not run out of exponents.
        size = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        b = (rows / size).to(self.bottom).reshape(-1, *self.levels[0].cells)
        return self._cycle(0, b).reshape(rows.shape).to(rows) * size

    def _cycle(self, level: int, b: Tensor) -> Tensor:
        A, inverse = self.levels[level], self.inverse[level]
        if level == len(self.levels) - 1:
            return (self.bottom @ b.flatten(1).unsqueeze(-1)).reshape(b.shape)
        x = inverse * b
        for _ in range(self.sweeps - 1):
            x = x + inverse * (b - A(x))
        r = b - A(x)
        for a, n in enumerate(A.cells):
            r = pair_sum(r, a - A.dim) if n > 1 else r
        e = self._cycle(level + 1, r)
        for a, n in enumerate(A.cells):
            if n > 1:
                dim = a - A.dim
                e = e.repeat_interleave(2, dim).narrow(dim, 0, n)
        x = x + e
        for _ in range(self.sweeps):
            x = x + inverse * (b - A(x))
        return x
