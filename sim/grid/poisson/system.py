"""One geometry, ready for any number of solves: what all Poisson solvers have in common.

A region that no side with a given value reaches has a solution up to a constant, chosen with mean
zero, and only if its right-hand side sums up to zero. The iterations run in float64 (multigrid and
networks inside them in float32): u of a smooth problem is so much larger than its second differences
that float32 would stop at 1e-5 of the right-hand side.

Differentiable in b and in the faces by one adjoint solve with the same factor.
Source: `sim.core.linalg.linear_solve`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ...core.errors import InputError, message
from ...core.factors import (
    Factor,
    IterativeFactor,
    LinearResult,
    MultigridFactor,
    Preconditioner,
    SparseFactor,
)
from ...core.linalg import apply_solve, jacobi
from ...core.linear_map import SparseMatrix, as_operator
from .cholesky import IncompleteCholesky
from .cycle import VCycle
from .spectral import AxisTransform, SpectralFactor
from .stencil import Faces, Stencil, StencilMap

__all__ = ["FaceSystem", "Method", "SOLVERS", "TOLERANCE"]

SOLVERS = ("multigrid", "ic", "jacobi", "cg", "direct", "amg")
"""multigrid, ic, jacobi, cg: conjugate gradients with a V-cycle, an incomplete Cholesky factor (CPU),
the diagonal or nothing; amg: with pyamg's hierarchy (CPU); direct: sparse LU (CPU)."""

Method = str | Callable[["FaceSystem"], Preconditioner | Factor]
"""A name, or a function that makes, for one geometry, a preconditioner of CG on rows (B, n), such as
a network (it need not be linear), or a whole `Factor`."""

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
"""‖b − A x‖ / ‖b‖, by the precision of the right-hand side."""


class FaceSystem:
    """A(c) on one grid, or one per scene, with its regions and its solver.

    Args:
        stencil: A, (b, *faces), in float64.
        active: cells that take part, bool (b, *cells); u is 0 in the others, whose faces are closed.
        method: one of SOLVERS, or a function of this system; a label where there are `axes`.
        tol: ‖b − A x‖ / ‖b‖ to reach [-].
        max_iterations: of CG; default 10 n.
        axes: transforms and scales of the axes, which then solve exactly.
    """

    def __init__(
        self,
        stencil: Stencil,
        active: Tensor,
        method: Method,
        tol: float,
        max_iterations: int | None = None,
        axes: tuple[Sequence[AxisTransform], Sequence[float]] | None = None,
    ) -> None:
        self.stencil, self.active, self.method = stencil, active, method
        self.tol, self.max_iterations = tol, max_iterations
        self.cells, self.periodic = stencil.cells, stencil.periodic
        self.map = StencilMap(self.cells, self.periodic)
        self._label()
        with torch.no_grad():
            like = stencil.diagonal.new_empty(1, stencil.diagonal[0].numel())
            self.operator = self.map.operator(like, stencil.c)
            factor = self._factor(axes)
        self.iteration = factor if isinstance(factor, IterativeFactor) else None
        self.factor = _Centred(factor, self.centre)

    def solve_rows(
        self,
        rows: Tensor,
        faces: Faces | None = None,
        guess: Tensor | None = None,
        record: Callable[[LinearResult], None] | None = None,
    ) -> Tensor:
        """x with A(c) x = rows, (B, n), float64; `faces` with their graph to differentiate in."""
        leaves = self.stencil.c
        if faces is not None and any(c.requires_grad for c in faces):
            leaves = tuple(c.double() for c in faces)
        direct = isinstance(self.factor.inner, (SpectralFactor, SparseFactor))
        if guess is not None:
            guess = None if direct else self._better(rows.detach(), guess.detach().double())
        return apply_solve(self.map, self.factor, False, rows.double(), leaves, guess, record)

    def sums(self, rows: Tensor) -> Tensor:
        """Sum over the active cells of each region, (B, regions)."""
        out = rows.new_zeros(len(rows), self.regions)
        part = rows * self.active.flatten(1)
        return out.scatter_add(1, self.labels.expand(len(rows), -1), part)

    def centre(self, rows: Tensor) -> Tensor:
        """Active cells only, and mean zero in every closed region: removes the null space of A."""
        active = self.active.flatten(1)
        rows = rows * active
        if not self.closed_count:
            return rows
        means = torch.where(self.closed, self.sums(rows) / self.counts.to(rows), 0.0)
        return rows - means.gather(1, self.labels.expand(len(rows), -1)) * active

    def _better(self, rows: Tensor, guess: Tensor) -> Tensor:
        """The guess where it beats zero: else CG would chase digits that round-off ate."""
        with torch.no_grad():
            guess = self.centre(guess)
            left = (rows - self.operator.matvec(guess)).norm(dim=1)
            return torch.where((left < rows.norm(dim=1))[:, None], guess, 0.0)

    def _label(self) -> None:
        """Number the connected regions of each geometry and find those that no given value reaches."""
        cells_of = self.active.flatten(1).cpu().numpy()
        A = self.stencil.sparse().scipy().tocoo()
        bonds = (A.data < 0).nonzero()[0]
        graph = scipy.sparse.csr_matrix((-A.data[bonds], (A.row[bonds], A.col[bonds])), A.shape)
        reached = np.zeros(cells_of.size)
        np.add.at(reached, A.row, A.data)  # what is left of a region's row sums is its openings
        labels = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
        labels = labels.reshape(cells_of.shape)
        labels = labels - labels.min(1, keepdims=True)
        self.regions = int(labels.max()) + 1
        opening = np.zeros((len(labels), self.regions))
        cells = np.zeros_like(opening)
        for b, row in enumerate(labels):
            np.add.at(opening[b], row, reached.reshape(labels.shape)[b])
            np.add.at(cells[b], row, cells_of[b])
        place = self.active.device
        self.labels = torch.as_tensor(labels, dtype=torch.long, device=place)
        closed = (cells > 0) & (opening < 1e-6 * abs(A.data).max(initial=0.0))
        self.closed_count = int(closed.sum())
        self.closed = torch.as_tensor(closed, device=place)
        self.counts = torch.as_tensor(np.maximum(cells, 1), device=place)

    def _factor(self, axes: tuple[Sequence[AxisTransform], Sequence[float]] | None) -> Factor:
        if axes is not None:
            transforms, scales = axes
            factor: Factor = SpectralFactor(self.operator, self.cells, transforms, scales, self.tol)
        elif self.method in ("direct", "amg"):
            pinned = as_operator(self._pinned(), None)
            if self.method == "direct":
                factor = SparseFactor(pinned, "spd", self.tol)
            else:
                factor = MultigridFactor(pinned, "spd", self.tol, self.max_iterations).parts[False]
            factor.operator = self.operator
        else:
            M = self._preconditioner()
            if isinstance(M, Factor):
                return M
            factor = IterativeFactor(
                "CG", self.operator, self.tol, self.max_iterations, M, check=False
            )
        if isinstance(factor, IterativeFactor) and factor.preconditioner is not None:
            near = factor.preconditioner
            factor.preconditioner = lambda v: self.centre(near(v))
        return factor

    def _preconditioner(self) -> Preconditioner | Factor | None:
        if callable(self.method):
            return self.method(self)
        if self.method == "multigrid":
            return VCycle(self.stencil.to(torch.float32))
        if self.method == "ic":
            return IncompleteCholesky(self.stencil)
        diagonal = self.stencil.diagonal.flatten(1)
        return jacobi(torch.where(diagonal > 0, diagonal, 1.0)) if self.method == "jacobi" else None

    def _pinned(self) -> SparseMatrix:
        """A with one diagonal entry per closed region raised: regular, same solution up to the mean."""
        matrix = self.stencil.sparse()
        values = matrix.values.reshape(len(self.labels), -1)
        flat = self.active.flatten(1)
        size = float(self.stencil.diagonal.max())
        raised = (~flat).to(values) * size
        for b, region in self.closed.nonzero().tolist():
            inside = (self.labels[b] == region) & flat[b]
            raised[b, int(inside.nonzero()[0])] = size
        values = torch.cat((values, raised), 1)
        at = torch.arange(matrix.n, device=values.device)
        rows, cols = torch.cat((matrix.rows, at)), torch.cat((matrix.cols, at))
        values = values[0] if len(values) == 1 else values
        return SparseMatrix(values, rows, cols, matrix.n)


class _Centred(Factor):
    """A factor whose solutions have mean zero in closed regions, as the pseudo-inverse's have."""

    def __init__(self, inner: Factor, centre: Callable[[Tensor], Tensor]) -> None:
        self.inner, self.centre, self.project = inner, centre, centre
        self.operator, self.tol, self.name = inner.operator, inner.tol, inner.name

    def _solve(self, b, x0, transpose, tol):
        x, iterations = self.inner._solve(b, x0, transpose, tol)
        return self.centre(x), iterations


def unknown_method(where: str, method: Any, names: Sequence[str]) -> InputError:
    """The error for a method that is no name and no function."""
    return InputError(message(where, f"method out of {tuple(names)} or a function", method))
