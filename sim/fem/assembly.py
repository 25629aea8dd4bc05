"""The Hessian of all terms on the free points: assembly, products, factors.

Local blocks (S, 3 k, 3 k) of elements go to fixed places of a block-sparse matrix whose pattern and
elimination order are found once; blocks of contact are added where they come. Each scene of a batch is
its own matrix.

A factor says for each scene whether the matrix is positive definite: LU without pivoting has the signs
of LDLᵀ on its diagonal (Sylvester's law of inertia), so Newton's method learns from the factor it
needs anyway whether its direction goes down.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse
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
        rows: stencils of one scene per term, integers (S, k).
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
        self.order = _elimination_order(row, col, self.size)
        """Place of each free point in the matrix, (F,)."""
        self.place = torch.full((points,), -1).long()
        self.place[free] = self.order
        self.keys = torch.sort(self.order[col] * self.size + self.order[row]).values
        self.count = len(self.keys)
        # Blocks with a driven point go to one more, unused slot.
        self.slots = [self._slots(stencil) for stencil in rows]
        self.diagonal = torch.searchsorted(self.keys, self.order * (self.size + 1))
        self._csc()

    def _slots(self, stencil: Tensor) -> Tensor:
        local = self.place[stencil]
        row, col = local.unsqueeze(2), local.unsqueeze(1)
        found = torch.searchsorted(self.keys, (col * self.size + row).clamp_min(0))
        return torch.where((row < 0) | (col < 0), self.count, found).reshape(-1)

    def _csc(self) -> None:
        """Index arrays of the scalar matrix, and where each block entry lies in its data."""
        row, col = (self.keys % self.size).numpy(), (self.keys // self.size).numpy()
        per_column = np.bincount(col, minlength=self.size)
        start = np.concatenate(([0], np.cumsum(per_column)))
        within = np.arange(self.count) - start[col]
        axis = np.arange(3)
        # Entry (r, c) of block p: after all earlier columns, then c columns of this one, then rows.
        at = 9 * start[col][:, None, None] + 3 * axis * per_column[col][:, None, None]
        at = at + 3 * within[:, None, None] + axis[:, None]
        source = np.empty(9 * self.count, dtype=np.int64)
        source[at.reshape(-1)] = np.arange(9 * self.count)
        self.source = torch.from_numpy(source)
        rows = np.broadcast_to(3 * row[:, None, None] + axis[:, None], at.shape)
        indices = np.empty(9 * self.count, dtype=np.int32)
        indices[at.reshape(-1)] = rows.reshape(-1)
        pointers = np.repeat(9 * start[:-1], 3) + np.tile(axis, self.size) * np.repeat(
            3 * per_column, 3
        )
        self.indices, self.pointers = indices, np.append(pointers, 9 * self.count).astype(np.int32)
        self.scalars = (3 * self.order[:, None] + torch.arange(3)).reshape(-1)

    def values(self, blocks: Blocks) -> Tensor:
        """Sums of the fixed blocks per slot, (B, count, 3, 3)."""
        diagonal = blocks.diagonal
        B = len(diagonal)
        out = diagonal.new_zeros(B, self.count + 1, 9)
        axes = torch.tensor([0, 4, 8], device=out.device)
        place = self.diagonal.to(out.device)
        out[:, place[:, None], axes] = diagonal[:, self.free.to(out.device), None]
        for slots, (stencil, local) in zip(self.slots, blocks.fixed, strict=True):
            k = stencil.shape[1]
            local = local.reshape(B, -1, k, 3, k, 3).transpose(3, 4).reshape(B, -1, 9)
            out.index_add_(1, slots.to(out.device), local)
        return out[:, :-1]

    def matrix(self, data: Tensor) -> scipy.sparse.csc_matrix:
        """The matrix of one scene from its values (count, 9), in elimination order."""
        data = data.reshape(-1)[self.source].numpy()
        size = 3 * self.size
        return scipy.sparse.csc_matrix((data, self.indices, self.pointers), shape=(size, size))


def _elimination_order(row: Tensor, col: Tensor, size: int) -> Tensor:
    """Place of each point in an order with little fill: minimum degree on the graph of points."""
    if size < 3:
        return torch.arange(size)
    weight = np.where(row.numpy() == col.numpy(), float(len(row)), -1.0)
    graph = scipy.sparse.csc_matrix((weight, (row.numpy(), col.numpy())), shape=(size, size))
    lu = scipy.sparse.linalg.splu(graph, **_SYMMETRIC)
    return torch.from_numpy(lu.perm_c.astype(np.int64))


_SYMMETRIC = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.0,
    "options": {"SymmetricMode": True},
}
_ORDERED = _SYMMETRIC | {"permc_spec": "NATURAL"}


class Factor(abc.ABC):
    """Solves with the Hessian on the free points, right-hand sides (B, 3 F)."""

    positive: Tensor
    """Whether the matrix of each scene is positive definite, (B,)."""

    @abc.abstractmethod
    def solve(self, b: Tensor) -> Tensor:
        """H⁻¹ b."""


class SparseFactor(Factor):
    """SuperLU of each scene, on the CPU."""

    def __init__(self, blocks: Blocks, pattern: Pattern, scenes: Sequence[int]):
        values = pattern.values(blocks).cpu()
        self.pattern, self.parts = pattern, {}
        positive = torch.zeros(len(values), dtype=torch.bool)
        contact = _contact_matrices(blocks, pattern, scenes)
        for b in scenes:
            A, options = pattern.matrix(values[b]), _ORDERED
            if contact.get(b) is not None:
                A, options = A + contact[b], _SYMMETRIC
            try:
                lu = scipy.sparse.linalg.splu(A, **options)
            except RuntimeError:  # exactly singular
                continue
            pivoted = not np.array_equal(lu.perm_r, lu.perm_c)
            positive[b] = not pivoted and bool((lu.U.diagonal() > 0).all())
            self.parts[b] = lu
        self.positive = positive.to(blocks.diagonal.device)

    def solve(self, b):
        place = self.pattern.scalars
        rhs = b.detach().cpu()
        out = torch.zeros_like(rhs)
        for scene, lu in self.parts.items():
            ordered = torch.empty_like(rhs[scene])
            ordered[place] = rhs[scene]
            out[scene] = torch.from_numpy(lu.solve(ordered.numpy()))[place]
        return out.to(b.device)


def _contact_matrices(blocks: Blocks, pattern: Pattern, scenes: Sequence[int]) -> dict:
    """Sum of the moving blocks of each scene, in elimination order."""
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
) -> Factor:
    """Factor of the Hessian by "sparse", "dense" or "cg" (to the relative tolerance `tol`).

    `scenes` names those that will be solved for; the rows of the others are meaningless.
    """
    wanted = range(len(blocks.diagonal)) if scenes is None else scenes
    if linear == "cg":
        limit = 10 * 3 * pattern.size if max_iterations is None else max_iterations
        return CGFactor(blocks, pattern.free, tol, limit)
    return (SparseFactor if linear == "sparse" else DenseFactor)(blocks, pattern, wanted)
