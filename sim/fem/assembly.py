"""The Hessian of all terms on the free points: assembly, products, factors.

Local blocks (S, 3 k, 3 k) of elements go to fixed places of a block-sparse matrix whose pattern and
elimination order are found once; blocks of contact are added where they come. Each scene of a batch is
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
import scipy.linalg
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
import torch
from torch import Tensor

from ..core.krylov import cg

__all__ = ["Blocks", "CGFactor", "DenseFactor", "Factor", "Pattern", "SparseFactor", "factorize"]

LINEAR = ("sparse", "dense", "cg")


@dataclasses.dataclass
class Blocks:
    """The Hessian of B scenes of N points as local blocks, and a diagonal."""

    diagonal: Tensor
    """Of inertia and drag [N/m], (B, N), the same on the three axes."""
    fixed: list[tuple[Tensor, Tensor]]
    """Stencils and blocks of elements, in the order of the pattern."""
    moving: list[tuple[Tensor, Tensor]]
    """Stencils and blocks of contact."""

    def product(self, v: Tensor) -> Tensor:
        """H v for v (B, N, 3)."""
        flat = v.reshape(-1, 3)
        out = self.diagonal.reshape(-1, 1) * flat
        for stencil, blocks in (*self.fixed, *self.moving):
            if len(stencil):
                local = blocks @ flat[stencil].flatten(1).unsqueeze(-1)
                out = out.index_add(0, stencil.reshape(-1), local.reshape(-1, 3))
        return out.view_as(v)


class Pattern:
    """Where element blocks go in the matrix of the free points of one scene.

    Args:
        rows: stencils of one scene per set of blocks, integers (S, k).
        free: points that are solved for, integers (F,).
        points: N.
    """

    def __init__(self, rows: Sequence[Tensor], free: Tensor, points: int):
        self.free, self.points, self.size = free, points, len(free)
        number = torch.full((points,), -1).long()
        number[free] = torch.arange(self.size)
        keys = [torch.arange(self.size) * (self.size + 1)]
        for stencil in rows:
            local = number[stencil]
            row, col = local.unsqueeze(2), local.unsqueeze(1)
            keys.append(torch.where((row < 0) | (col < 0), -1, col * self.size + row).reshape(-1))
        used = torch.unique(torch.cat(keys))
        used = used[used >= 0]
        row, col = used % self.size, used // self.size
        order = _band_order(row.numpy(), col.numpy(), self.size)
        self.place = torch.full((points,), -1).long()
        """Place of each point in the matrix, (N,); −1 for driven ones."""
        self.place[free] = order
        self.keys = torch.sort(order[col] * self.size + order[row]).values
        self.count = len(self.keys)
        # Blocks with a driven point go to one more, unused slot.
        self.slots = [self._slots(stencil) for stencil in rows]
        self.diagonal = torch.searchsorted(self.keys, order * (self.size + 1))
        self.scalars = (3 * order[:, None] + torch.arange(3)).reshape(-1)
        """Place of each free coordinate, (3 F,)."""
        axis = torch.arange(3)
        row, col = (3 * (k[:, None, None]) for k in (self.keys % self.size, self.keys // self.size))
        shape = (self.count, 3, 3)
        self.entries = (row + axis[:, None]).expand(shape), (col + axis).expand(shape)
        """Row and column of every entry of every slot."""
        lower = (self.entries[0] >= self.entries[1]).reshape(-1).nonzero()[:, 0]
        row, col = (e.reshape(-1)[lower] for e in self.entries)
        self.width = int((row - col).max()) + 1 if len(row) else 1
        self.band = lower, col * self.width + row - col
        """Entries of the lower triangle, and their places in (3 F, width) of LAPACK's banded form."""

    def _slots(self, stencil: Tensor) -> Tensor:
        local = self.place[stencil]
        row, col = local.unsqueeze(2), local.unsqueeze(1)
        found = torch.searchsorted(self.keys, (col * self.size + row).clamp_min(0))
        return torch.where((row < 0) | (col < 0), self.count, found).reshape(-1)

    def values(self, blocks: Blocks) -> Tensor:
        """Sums of the fixed blocks per slot, (B, count, 9)."""
        diagonal = blocks.diagonal
        B = len(diagonal)
        out = diagonal.new_zeros(B, self.count + 1, 9)
        axes = torch.tensor([0, 4, 8], device=out.device)
        place = self.diagonal.to(out.device)
        out[:, place[:, None], axes] = diagonal[:, self.free.to(out.device), None]
        for slots, (stencil, local) in zip(self.slots, blocks.fixed, strict=True):
            if len(stencil):
                k = stencil.shape[1]
                local = local.reshape(B, -1, k, 3, k, 3).transpose(3, 4).reshape(B, -1, 9)
                out.index_add_(1, slots.to(out.device), local)
        return out[:, :-1]

    def banded(self, values: Tensor) -> np.ndarray:
        """Lower band (width, 3 F) of one scene from its values (count, 9)."""
        source, target = self.band
        flat = values.new_zeros(3 * self.size * self.width)
        flat[target] = values.reshape(-1)[source]
        return flat.view(3 * self.size, self.width).numpy().T

    def matrix(self, values: Tensor) -> scipy.sparse.csc_matrix:
        """The matrix of one scene from its values (count, 9)."""
        row, col = (e.reshape(-1).numpy() for e in self.entries)
        shape = (3 * self.size, 3 * self.size)
        return scipy.sparse.csc_matrix((values.reshape(-1).numpy(), (row, col)), shape=shape)


def _band_order(row: np.ndarray, col: np.ndarray, size: int) -> Tensor:
    """Place of each point in an order of small bandwidth (reverse Cuthill–McKee)."""
    if not size:
        return torch.zeros(0).long()
    graph = scipy.sparse.csr_matrix((np.ones(len(row)), (row, col)), shape=(size, size))
    sequence = scipy.sparse.csgraph.reverse_cuthill_mckee(graph, symmetric_mode=True)
    order = np.empty(size, dtype=np.int64)
    order[sequence] = np.arange(size)
    return torch.from_numpy(order)


class Factor(abc.ABC):
    """Solves with the Hessian on the free points, right-hand sides (B, 3 F)."""

    positive: Tensor
    """Whether the matrix of each scene is positive definite, (B,)."""

    @abc.abstractmethod
    def solve(self, b: Tensor) -> Tensor:
        """H⁻¹ b."""


BAND_WORK = 4e9
"""Products of a banded factor, n width², up to which it beats a general sparse one."""

Solve = Callable[[np.ndarray], np.ndarray]


class SparseFactor(Factor):
    """Direct factors of each scene on the CPU: banded Cholesky, else sparse LU.

    Bands beat general fill at these sizes because all work is in dense blocks, and Cholesky tells
    whether the matrix is positive definite.
    """

    def __init__(
        self, blocks: Blocks, pattern: Pattern, scenes: Sequence[int], definite: bool = True
    ):
        values = pattern.values(blocks).cpu()
        self.pattern = pattern
        self.parts: dict[int, Solve] = {}
        positive = torch.zeros(len(values), dtype=torch.bool)
        contact = _contact_matrices(blocks, pattern, scenes)
        n = 3 * pattern.size
        for b in scenes:
            solve: Solve | None = None
            if b in contact:
                A = (pattern.matrix(values[b]) + contact[b]).tocsc()
                solve, ok = _reordered(A)
            elif n * pattern.width**2 <= BAND_WORK:
                solve, ok = _cholesky(pattern.banded(values[b]))
            else:
                solve, ok = _lu(pattern.matrix(values[b]), symmetric=True)
            if not ok and not definite:
                A = pattern.matrix(values[b]) + contact.get(b, 0)
                solve = _lu(A.tocsc(), symmetric=False)[0]
            positive[b] = ok
            if solve is not None:
                self.parts[b] = solve
        self.positive = positive.to(blocks.diagonal.device)

    def solve(self, b):
        place = self.pattern.scalars
        rhs = b.detach().cpu()
        out = torch.zeros_like(rhs)
        for scene, solve in self.parts.items():
            ordered = torch.empty_like(rhs[scene])
            ordered[place] = rhs[scene]
            out[scene] = torch.from_numpy(solve(ordered.numpy()))[place]
        return out.to(b.device)


def _cholesky(band: np.ndarray) -> tuple[Solve | None, bool]:
    try:
        lower = scipy.linalg.cholesky_banded(band, True, lower=True, check_finite=False)
    except scipy.linalg.LinAlgError:
        return None, False
    return lambda b: scipy.linalg.cho_solve_banded((lower, True), b, check_finite=False), True


def _reordered(A: scipy.sparse.csc_matrix) -> tuple[Solve | None, bool]:
    """Factor of a matrix whose pattern contact has changed."""
    sequence = scipy.sparse.csgraph.reverse_cuthill_mckee(A, symmetric_mode=True)
    place = np.empty_like(sequence)
    place[sequence] = np.arange(len(sequence))
    coo = A.tocoo()
    row, col = place[coo.row], place[coo.col]
    below = row >= col
    row, col, data = row[below], col[below], coo.data[below]
    n, width = len(place), int((row - col).max()) + 1
    if n * width**2 > BAND_WORK:
        return _lu(A, symmetric=True)
    band = np.zeros((n, width))
    band[col, row - col] = data
    inner, ok = _cholesky(band.T)
    if inner is None:
        return None, False

    def solve(b: np.ndarray) -> np.ndarray:
        return inner(b[sequence])[place]

    return solve, ok


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
    return lu.solve, positive


def _contact_matrices(blocks: Blocks, pattern: Pattern, scenes: Sequence[int]) -> dict:
    """Sum of the moving blocks of each scene, in the order of the pattern."""
    found: dict[int, list] = {}
    for stencil, local in blocks.moving:
        if not len(stencil):
            continue
        stencil, local = stencil.cpu(), local.cpu()
        scene = stencil[:, 0] // pattern.points
        place = pattern.place[stencil % pattern.points]
        k = stencil.shape[1]
        scalar = (3 * place[:, :, None] + torch.arange(3)).reshape(-1, 3 * k)
        fixed = (place < 0).repeat_interleave(3, dim=1)
        row, col = (t.expand(-1, 3 * k, 3 * k) for t in (scalar[:, :, None], scalar[:, None, :]))
        keep = ~(fixed[:, :, None] | fixed[:, None, :])
        for b in scene.unique().tolist():
            ours = keep & (scene == b)[:, None, None]
            found.setdefault(b, []).append((row[ours], col[ours], local[ours]))
    size = 3 * pattern.size
    result = {}
    for b in scenes:
        if b in found:
            row, col, value = (torch.cat(t).numpy() for t in zip(*found[b], strict=True))
            result[b] = scipy.sparse.csc_matrix((value, (row, col)), shape=(size, size))
    return result


class DenseFactor(Factor):
    """Cholesky of all scenes at once, LDLᵀ where that fails; CPU and CUDA."""

    def __init__(self, blocks: Blocks, pattern: Pattern, scenes: Sequence[int]):
        device = blocks.diagonal.device
        values = pattern.values(blocks)
        B, size = len(values), pattern.size
        place = pattern.keys.to(device)
        row, col = place % size, place // size
        A = values.new_zeros(B, size, size, 3, 3)
        A[:, row, col] = values.unflatten(-1, (3, 3))
        A = A.transpose(2, 3).reshape(B, 3 * size, 3 * size)
        for b, matrix in _contact_matrices(blocks, pattern, scenes).items():
            A[b] += torch.from_numpy(matrix.toarray()).to(device)
        self.place = pattern.scalars.to(device)
        self.lower, info = torch.linalg.cholesky_ex(A)
        self.positive = info == 0
        self.rest = None
        if not bool(self.positive.all()):
            self.rest = torch.linalg.ldl_factor(A)

    def solve(self, b):
        ordered = torch.empty_like(b)
        ordered[:, self.place] = b
        rhs = ordered.unsqueeze(-1)
        x = torch.cholesky_solve(rhs, self.lower)
        if self.rest is not None:
            general = torch.linalg.ldl_solve(*self.rest, rhs)
            x = torch.where(self.positive[:, None, None], x, general)
        return x.squeeze(-1)[:, self.place]


class CGFactor(Factor):
    """Conjugate gradients with the 3×3 diagonal blocks as preconditioner; CPU and CUDA.

    `positive` is not known before the solve: the caller gives blocks that are.
    """

    def __init__(self, blocks: Blocks, free: Tensor, tol: float, max_iterations: int):
        self.blocks, self.tol, self.max_iterations = blocks, tol, max_iterations
        self.free = free.to(blocks.diagonal.device)
        diagonal = torch.diag_embed(blocks.diagonal.reshape(-1, 1).expand(-1, 3)).clone()
        for stencil, local in (*blocks.fixed, *blocks.moving):
            k = stencil.shape[1]
            own = local.reshape(-1, k, 3, k, 3).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
            diagonal.index_add_(0, stencil.reshape(-1), own.reshape(-1, 3, 3))
        chosen = diagonal.unflatten(0, blocks.diagonal.shape)[:, self.free]
        self.inverse = torch.linalg.inv(chosen)
        self.positive = torch.ones(len(chosen), dtype=torch.bool, device=chosen.device)
        self.iterations = 0

    def _product(self, v: Tensor) -> Tensor:
        full = v.new_zeros(*self.blocks.diagonal.shape, 3)
        full[:, self.free] = v.unflatten(1, (-1, 3))
        return self.blocks.product(full)[:, self.free].flatten(1)

    def _precondition(self, v: Tensor) -> Tensor:
        return (self.inverse @ v.unflatten(1, (-1, 3)).unsqueeze(-1)).flatten(1)

    def solve(self, b):
        x, iterations = cg(
            self._product, b, torch.zeros_like(b), self.tol, self.max_iterations, self._precondition
        )
        self.iterations = int(iterations.max())
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
        limit = 10 * 3 * pattern.size if max_iterations is None else max_iterations
        return CGFactor(blocks, pattern.free, tol, limit)
    if linear == "dense":
        return DenseFactor(blocks, pattern, wanted)
    return SparseFactor(blocks, pattern, wanted, definite)
