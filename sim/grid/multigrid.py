"""Two ways to invert a pressure operator almost or exactly: a multigrid cycle and separation of axes.

Both act on rows (B, n) and are built without a graph.

Source: Braess 1995 (piecewise constant coarsening, rescaled); Lynch, Rice & Thomas 1964 (tensor
products); McAdams, Sifakis & Teran 2010 (a multigrid cycle as preconditioner of CG).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.factors import Factor
from ..core.linear_map import Operator
from .mac import Faces, MacGrid

__all__ = ["SpectralFactor", "Stencil", "VCycle", "axis_matrix"]

COARSEST = 64
"""Cells of the level that is inverted densely."""
DAMPING = 0.8
"""Of the Jacobi smoother; below 1 the cycle is positive definite."""


class Stencil:
    """(A v)_i = Σ_faces c (v_i − v_j), v = 0 behind open sides; c (b, *faces) per axis."""

    def __init__(self, cells: tuple[int, ...], periodic: tuple[bool, ...], c: Faces) -> None:
        self.cells, self.periodic, self.c = cells, periodic, c
        self.dim = len(cells)
        diagonal = torch.zeros(len(c[0]), *cells, dtype=c[0].dtype, device=c[0].device)
        self.inner = []
        for a, w in enumerate(c):
            dim, n = a - self.dim, cells[a]
            diagonal = diagonal + w.narrow(dim, 0, n)
            diagonal = diagonal + (w.roll(-1, dim) if periodic[a] else w.narrow(dim, 1, n))
            if periodic[a] and n == 1:
                diagonal = diagonal - 2 * w  # a cell is its own neighbour
            self.inner.append(w.narrow(dim, 1, n - 1))
        self.diagonal = diagonal

    def __call__(self, v: Tensor) -> Tensor:
        """A v for v (B, *cells)."""
        out = self.diagonal * v
        for a, w in enumerate(self.inner):
            dim, n = a - self.dim, self.cells[a]
            if n > 1:
                low, high = v.narrow(dim, 0, n - 1), v.narrow(dim, 1, n - 1)
                out.narrow(dim, 1, n - 1).addcmul_(w, low, value=-1)
                out.narrow(dim, 0, n - 1).addcmul_(w, high, value=-1)
                if self.periodic[a]:
                    seam = self.c[a].narrow(dim, 0, 1)
                    out.narrow(dim, 0, 1).addcmul_(seam, v.narrow(dim, n - 1, 1), value=-1)
                    out.narrow(dim, n - 1, 1).addcmul_(seam, v.narrow(dim, 0, 1), value=-1)
        return out

    def to(self, dtype: torch.dtype) -> Stencil:
        """The stencil in another precision."""
        return Stencil(self.cells, self.periodic, tuple(w.to(dtype) for w in self.c))

    def dense(self) -> Tensor:
        """A as (b, n, n)."""
        n = self.diagonal[0].numel()
        eye = torch.eye(n).to(self.diagonal).reshape(n, 1, *self.cells)
        columns = [self(e.expand_as(self.diagonal)).reshape(-1, n) for e in eye]
        return torch.stack(columns, dim=2)

    def coarse(self) -> Stencil:
        """The stencil of blocks of two cells per axis.

        Face coefficients add up over a block's side and are halved along coarsened axes, which
        makes the coarse operator that of the doubled cell in empty space.
        """
        c = list(self.c)
        for a, n in enumerate(self.cells):
            if n < 2:
                continue
            for b in range(self.dim):
                c[b] = self._sparse_faces(c[b], a) if b == a else pair_sum(c[b], a - self.dim)
        cells = tuple((n + 1) // 2 for n in self.cells)
        return Stencil(cells, self.periodic, tuple(c))

    def _sparse_faces(self, w: Tensor, axis: int) -> Tensor:
        dim, n = axis - self.dim, self.cells[axis]
        index = list(range(0, n, 2)) + ([] if self.periodic[axis] else [n])
        return 0.5 * w.index_select(dim, torch.tensor(index, device=w.device))


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


class SpectralFactor(Factor):
    """Exact inverse in a box without obstacles: the axes separate.

        A = Σ_a I ⊗ … ⊗ T_a ⊗ … ⊗ I,   T_a = V_a Λ_a V_aᵀ,   A⁻¹ = V (Σ_a Λ_a)⁻¹ Vᵀ

    T_a holds any mix of walls, openings and periodicity; the constant of a closed box is left out.
    One step of refinement takes round-off of the bases away. Work n^{D+1} products.
    """

    name = "Spectral"

    def __init__(self, operator: Operator, grid: MacGrid, tol: float | None = None) -> None:
        self.operator, self.tol, self.cells = operator, tol, grid.cells
        like = operator.like
        pairs = [np.linalg.eigh(axis_matrix(grid, a)) for a in range(grid.dim)]
        total = np.zeros(grid.cells)
        for a, (values, _) in enumerate(pairs):
            total += values.reshape([-1 if b == a else 1 for b in range(grid.dim)])
        regular = total > 1e-10 * total.max() if total.max() > 0 else total > 0
        scale = np.where(regular, 1.0 / np.where(regular, total, 1.0), 0.0)
        self.scale = torch.as_tensor(scale).to(like)
        self.bases = [torch.as_tensor(V).to(like) for _, V in pairs]

    def _solve(self, b, x0, transpose, tol):
        x = self._inverse(b)
        x = x + self._inverse(b - self.operator.matvec(x))
        return x, torch.zeros(len(b), dtype=torch.long, device=b.device)

    def _inverse(self, rows: Tensor) -> Tensor:
        x = rows.reshape(-1, *self.cells)
        for a, V in enumerate(self.bases):
            x = (x.movedim(a + 1, -1) @ V).movedim(-1, a + 1)
        x = x * self.scale
        for a, V in enumerate(self.bases):
            x = (x.movedim(a + 1, -1) @ V.T).movedim(-1, a + 1)
        return x.reshape(rows.shape)


def axis_matrix(grid: MacGrid, axis: int) -> np.ndarray:
    """Minus the second difference along one axis, (n, n), with its sides."""
    n = grid.cells[axis]
    T = np.zeros((n, n))
    for i in range(n - 1):
        T[i : i + 2, i : i + 2] += [[1.0, -1.0], [-1.0, 1.0]]
    if grid.periodic[axis] and n > 1:
        seam = [0, n - 1]
        T[np.ix_(seam, seam)] += [[1.0, -1.0], [-1.0, 1.0]]
    for end, side in zip((0, n - 1), grid.sides[axis], strict=True):
        T[end, end] += side == "open"
    return T


def pair_sum(v: Tensor, dim: int) -> Tensor:
    """Sums of neighbours 2 i and 2 i + 1 along an axis; an odd last one stays alone."""
    n = v.shape[dim]
    even = n // 2 * 2
    pairs = v.narrow(dim, 0, even).unflatten(dim, (even // 2, 2)).sum(dim - 1 if dim >= 0 else dim)
    return torch.cat((pairs, v.narrow(dim, even, 1)), dim) if n % 2 else pairs
