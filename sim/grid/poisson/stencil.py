"""The operator of every Poisson solver here: fluxes through faces, as torch operations.

    (A v)_i = Σ_faces c (v_i − v_j),   v = 0 behind sides with c > 0

c (b, *faces) holds everything that a problem is made of: coefficient, spacing, obstacles (c = 0) and
sides (c = 0 for Neumann). Axis a has n_a + 1 layers of faces, n_a on a periodic axis, where face i is
the lower one of cell i. A is symmetric, positive semidefinite, and an M-matrix.

Differentiable in v and c as `StencilMap`; the fast form `Stencil` is built without a graph.
Source: Patankar 1980, chapter 4 (finite volumes).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ...core.linear_map import LinearMap, Operator, SparseMatrix

__all__ = ["Faces", "Stencil", "StencilMap", "jump", "outflow", "pair_sum"]

Faces = tuple[Tensor, ...]
"""One tensor (B, *faces) per axis."""


def jump(q: Tensor, dim: int, periodic: bool) -> Tensor:
    """Difference across each face along a (negative) dimension, with q = 0 behind the sides."""
    if periodic:
        return q - q.roll(1, dim)
    zero = torch.zeros_like(q.narrow(dim, 0, 1))
    return torch.diff(q, dim=dim, prepend=zero, append=zero)


def outflow(f: Tensor, dim: int, periodic: bool) -> Tensor:
    """Difference across each cell, f_{i+½} − f_{i−½}; minus the adjoint of `jump`."""
    return f.roll(-1, dim) - f if periodic else torch.diff(f, dim=dim)


@dataclasses.dataclass
class StencilMap(LinearMap):
    """A(c) as the differentiable form: leaves are the faces."""

    cells: tuple[int, ...]
    """Cells per axis."""
    periodic: tuple[bool, ...]
    """Which axes wrap around."""

    def matvec(self, v, leaves):
        q = v.reshape(-1, *self.cells)
        total = 0.0
        for a, c in enumerate(leaves):
            dim, wraps = a - len(self.cells), self.periodic[a]
            total = total - outflow(c * jump(q, dim, wraps), dim, wraps)
        return total.reshape(v.shape)

    rmatvec = matvec

    def operator(self, like, leaves):
        stencil = Stencil(self.cells, self.periodic, tuple(c.detach() for c in leaves))
        apply = lambda v: stencil(v.reshape(-1, *self.cells)).reshape(v.shape)  # noqa: E731
        return Operator(apply, apply, like)


class Stencil:
    """A at fixed faces c, fast."""

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

    def sparse(self) -> SparseMatrix:
        """A as entries, (K,) or (b, K)."""
        count = self.diagonal[0].numel()
        index = torch.arange(count).reshape(self.cells)
        rows, cols, values = [], [], []
        for a, w in enumerate(self.c):
            dim, n = a - self.dim, self.cells[a]
            if self.periodic[a]:
                low, high, c = index.roll(1, dim), index, w
            else:
                low, high = index.narrow(dim, 0, n - 1), index.narrow(dim, 1, n - 1)
                c = w.narrow(dim, 1, n - 1)
                for end in (0, n):
                    at = index.narrow(dim, min(end, n - 1), 1).reshape(-1)
                    rows.append(at)
                    cols.append(at)
                    values.append(w.narrow(dim, end, 1).flatten(1))
            i, j, c = low.reshape(-1), high.reshape(-1), c.flatten(1)
            rows += [i, j, i, j]
            cols += [i, j, j, i]
            values += [c, c, -c, -c]
        entries = torch.cat(values, 1)
        entries = entries[0] if len(entries) == 1 else entries
        place = entries.device
        return SparseMatrix(entries, torch.cat(rows).to(place), torch.cat(cols).to(place), count)

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


def pair_sum(v: Tensor, dim: int) -> Tensor:
    """Sums of neighbours 2 i and 2 i + 1 along an axis; an odd last one stays alone."""
    n = v.shape[dim]
    even = n // 2 * 2
    pairs = v.narrow(dim, 0, even).unflatten(dim, (even // 2, 2)).sum(dim - 1 if dim >= 0 else dim)
    return torch.cat((pairs, v.narrow(dim, even, 1)), dim) if n % 2 else pairs
