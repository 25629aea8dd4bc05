"""Factors of the Hessian of all terms on the free points.

Local blocks (S, 3 k, 3 k) of elements go to fixed places of a sparse matrix whose pattern and elimination
order are found once; blocks of contact are added where they come (`pattern.py`). Each scene of a batch is
its own matrix.

A factor says for each scene whether the matrix is positive definite, so Newton's method learns from the
factor it needs anyway whether its direction goes down.

Source: George & Liu 1981 (band and minimum-degree orders); Sylvester's law of inertia for the signs.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from scipy.linalg.lapack import dpbtrf as pbtrf
from scipy.linalg.lapack import dpbtrs as pbtrs
from torch import Tensor

from .krylov import BlockMatrix
from .pattern import Blocks, Order, Pattern

__all__ = ["Blocks", "CGFactor", "DenseFactor", "Factor", "Pattern", "SparseFactor", "factorize"]

LINEAR = ("sparse", "dense", "cg")


BAND_WORK = 4e10
"""Products of a banded factor, n width², up to which it beats a general sparse one."""


@dataclasses.dataclass(frozen=True)
class Solve:
    """b ↦ A⁻¹ b of one scene, (n,)."""

    run: Callable[[np.ndarray], np.ndarray]
    size: int
    """Memory of the factor [bytes]."""

    def __call__(self, b: np.ndarray) -> np.ndarray:
        return self.run(b)


class Factor(abc.ABC):
    """Solves with the Hessian on the free points, right-hand sides (B, 3 F)."""

    positive: Tensor
    """Whether the matrix of each scene is positive definite, (B,)."""
    parts: dict[int, Solve]
    """Factors by scene, of those that are kept one by one."""

    @abc.abstractmethod
    def solve(self, b: Tensor) -> Tensor:
        """H⁻¹ b."""

    @abc.abstractmethod
    def product(self, v: Tensor) -> Tensor:
        """H v."""


class SparseFactor(Factor):
    """Direct factors of each scene on the CPU: banded Cholesky, else sparse LU.

    Bands beat general fill at these sizes because all work is in dense blocks, and Cholesky tells
    whether the matrix is positive definite.
    """

    def __init__(
        self, blocks: Blocks, pattern: Pattern, scenes: Sequence[int], definite: bool = True
    ):
        values = pattern.lower(blocks).cpu().numpy()
        self.pattern, self.values = pattern, values
        self.parts = {}
        positive = torch.zeros(len(values), dtype=torch.bool)
        contact = self.contact = pattern.contact(blocks, scenes)
        for b in scenes:
            extra = contact.get(b)
            order = pattern.order
            if extra is not None:
                x = None if blocks.x is None else blocks.x[b].detach().cpu()
                order = pattern.order_with(extra, x)
            if pattern.count * order.width**2 <= BAND_WORK:
                solve, ok = _cholesky(pattern.band(values[b], extra, order), order)
            else:
                solve, ok = _lu(pattern.matrix(values[b], extra), symmetric=True)
            if not ok and not definite:
                solve = _lu(pattern.matrix(values[b], extra), symmetric=False)[0]
            positive[b] = ok
            if solve is not None:
                self.parts[b] = solve
        self.positive = positive.to(blocks.diagonal.device)

    def solve(self, b):
        rhs = b.detach().cpu()
        out = torch.zeros_like(rhs)
        for scene, solve in self.parts.items():
            out[scene] = torch.from_numpy(solve(rhs[scene].numpy()))
        return out.to(b.device)

    def product(self, v):
        given = v.detach().cpu()
        out = torch.zeros_like(given)
        for b in self.parts:
            found = self.pattern.product(self.values[b], self.contact.get(b), given[b].numpy())
            out[b] = torch.from_numpy(found)
        return out.to(v.device)


def _cholesky(band: np.ndarray, order: Order) -> tuple[Solve | None, bool]:
    lower, info = pbtrf(band, lower=1, overwrite_ab=1)
    if info != 0:
        return None, False
    place = order.scalars()

    def solve(b: np.ndarray) -> np.ndarray:
        ordered = np.empty_like(b)
        ordered[place] = b
        return pbtrs(lower, ordered, lower=1, overwrite_b=1)[0][place]

    return Solve(solve, lower.nbytes), True


def _lu(A: scipy.sparse.csc_matrix, symmetric: bool) -> tuple[Solve | None, bool]:
    """LU; without pivoting for symmetric A, where its signs are those of the eigenvalues."""
    options: dict[str, Any] = {"permc_spec": "MMD_AT_PLUS_A"}
    if symmetric:
        options |= {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    try:
        lu = scipy.sparse.linalg.splu(A, **options)
    except RuntimeError:  # exactly singular
        return None, False
    positive = np.array_equal(lu.perm_r, lu.perm_c) and bool((lu.U.diagonal() > 0).all())
    return Solve(lu.solve, 12 * lu.nnz), positive


class DenseFactor(Factor):
    """Cholesky of all scenes at once, LDLᵀ where that fails; CPU and CUDA."""

    def __init__(self, blocks: Blocks, pattern: Pattern, scenes: Sequence[int]):
        values = pattern.lower(blocks)
        B, n = len(values), pattern.count
        A = values.new_zeros(B, n * n)
        contact = pattern.contact(blocks, scenes)
        row, col = (torch.from_numpy(t).to(A.device) for t in (pattern.row, pattern.col))
        A[:, row * n + col] = values
        A[:, col * n + row] = values
        A = A.view(B, n, n)
        for b, extra in contact.items():
            shape = (n, n)
            below = scipy.sparse.csr_matrix((extra.value, (extra.row, extra.col)), shape=shape)
            full = below + scipy.sparse.tril(below, -1).T
            A[b] += torch.from_numpy(full.toarray()).to(A.device)
        self.A, self.parts = A, {}
        self.lower, info = torch.linalg.cholesky_ex(A)
        self.positive = info == 0
        self.rest = None
        if not bool(self.positive.all()):
            self.rest = torch.linalg.ldl_factor(A)

    def solve(self, b):
        rhs = b.unsqueeze(-1)
        x = torch.cholesky_solve(rhs, self.lower)
        if self.rest is not None:
            general = torch.linalg.ldl_solve(*self.rest, rhs)
            x = torch.where(self.positive[:, None, None], x, general)
        return x.squeeze(-1)

    def product(self, v):
        return (self.A @ v.unsqueeze(-1)).squeeze(-1)


class CGFactor(Factor):
    """Conjugate gradients in Warp with the inverse 3×3 blocks of the diagonal; CPU and CUDA.

    `positive` is not known before the solve: the caller gives blocks that are.
    """

    def __init__(self, blocks: Blocks, pattern: Pattern, tol: float, max_iterations: int):
        self.matrix, self.tol, self.max_iterations = (
            BlockMatrix(blocks, pattern),
            tol,
            max_iterations,
        )
        self.positive = torch.ones_like(blocks.diagonal[:, 0], dtype=torch.bool)
        self.iterations, self.parts = 0, {}

    def product(self, v):
        return self.matrix.product(v)

    def solve(self, b):
        x, self.iterations = self.matrix.solve(b, self.tol, self.max_iterations)
        return x


def factorize(
    blocks: Blocks,
    pattern: Pattern,
    linear: str,
    tol: float = 1e-10,
    scenes: Sequence[int] | None = None,
    max_iterations: int | None = None,
    definite: bool = True,
) -> Factor:
    """Factor of the Hessian by "sparse", "dense" or "cg" (to the relative tolerance `tol`).

    `scenes` names those that will be solved for; the rows of the others are meaningless. Without
    `definite`, direct factors serve any regular matrix.
    """
    wanted = range(len(blocks.diagonal)) if scenes is None else scenes
    if linear == "cg":
        limit = 10 * pattern.count if max_iterations is None else max_iterations
        return CGFactor(blocks, pattern, tol, limit)
    if linear == "dense":
        return DenseFactor(blocks, pattern, wanted)
    return SparseFactor(blocks, pattern, wanted, definite)
