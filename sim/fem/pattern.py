"""Where blocks of elements and of contact go in the matrix of the free points.

The matrix is symmetric: only entries on and below its diagonal are summed. Rows are numbered as the free
points are, (point, axis); a band orders them anew. Places of elements are found once, those of contact
for every matrix.

Of three kinds of orders the one with the narrowest band is taken: as the points are numbered, which is
row by row on grids; along an axis of the body, which also keeps what touches together; and reverse
Cuthill–McKee, which knows curved ways.

Source: George & Liu 1981 (band orders); Cuthill & McKee 1969.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from torch import Tensor

__all__ = ["Blocks", "Entries", "Order", "Pattern"]


SMALL = 200_000
"""Numbers in blocks up to which a product with all of them is as fast as a choice."""


@dataclasses.dataclass
class Blocks:
    """The Hessian of B scenes of N points as local blocks, and a diagonal."""

    diagonal: Tensor
    """Of inertia and drag [N/m], (B, N), the same on the three axes."""
    fixed: list[tuple[Tensor, Tensor]]
    """Stencils and blocks of elements, in the order of the pattern."""
    moving: list[tuple[Tensor, Tensor]]
    """Stencils and blocks of contact."""
    x: Tensor | None = None
    """Positions [m], (B, N, 3), by which a matrix with contact may be ordered."""

    def product(self, v: Tensor, only: Tensor | None = None) -> Tensor:
        """H v for v (B, N, 3); right at the points `only` of every scene (n,) if these are given."""
        flat = v.reshape(-1, 3)
        out = self.diagonal.reshape(-1, 1) * flat
        wanted = None
        if only is not None:
            wanted = torch.zeros(v.shape[:2], dtype=torch.bool, device=v.device)
            wanted[:, only] = True
            wanted = wanted.reshape(-1)
        for stencil, blocks in (*self.fixed, *self.moving):
            if wanted is not None and blocks.numel() > SMALL:
                near = wanted[stencil].any(1).nonzero()[:, 0]
                stencil, blocks = stencil[near], blocks[near]
            if len(stencil):
                local = blocks @ flat[stencil].flatten(1).unsqueeze(-1)
                out = out.index_add(0, stencil.reshape(-1), local.reshape(-1, 3))
        return out.view_as(v)


@dataclasses.dataclass(frozen=True)
class Entries:
    """Entries on and below the diagonal of one matrix; places may repeat."""

    row: np.ndarray
    col: np.ndarray
    value: np.ndarray


@dataclasses.dataclass(frozen=True)
class Order:
    """An order of the free points in which the matrix is a narrow band."""

    place: np.ndarray
    """Place of each free point, (F,)."""
    width: int
    """Diagonals on and below the main one."""

    def scalars(self) -> np.ndarray:
        """Place of each free coordinate, (3 F,)."""
        return (3 * self.place[:, None] + np.arange(3)).reshape(-1)

    def slots(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
        """Where entries stand in (3 F, width), the transpose of LAPACK's lower band."""
        scalars = self.scalars()
        a, b = scalars[row], scalars[col]
        low = np.minimum(a, b)
        return low * self.width + np.maximum(a, b) - low


class Pattern:
    """Which entries of the matrix of one scene the elements have.

    Args:
        rows: stencils of one scene per set of blocks, integers (S, k).
        free: points that are solved for, integers (F,).
        points: N.
        x: positions at rest [m], (N, 3), for the order.
    """

    def __init__(self, rows: Sequence[Tensor], free: Tensor, points: int, x: Tensor | None = None):
        self.free, self.points, self.size = free, points, len(free)
        self.number = np.full(points, -1)
        """Number of each point among the free ones, (N,); −1 for driven ones."""
        self.number[free.numpy()] = np.arange(self.size)
        n = self.count = 3 * self.size
        """Rows of the matrix."""
        own = np.arange(n)
        sets = [self._lower(stencil.numpy()) for stencil in rows]
        keys = np.unique(np.concatenate([own * n + own, *(row * n + col for _, row, col in sets)]))
        self.row, self.col = keys // max(n, 1), keys % max(n, 1)
        """Places of the entries, (E,) each, row by row."""
        self._starts = np.searchsorted(self.row, np.arange(n + 1))
        self.own = np.searchsorted(keys, own * n + own)
        """Entries of the diagonal, (3 F,)."""
        self.take = [(take, np.searchsorted(keys, row * n + col)) for take, row, col in sets]
        """Of each set of blocks, which numbers of a scene's blocks go to which entries."""
        self._sums: list[scipy.sparse.csr_matrix] | None = None
        i, j = self.row[self.row % 3 == 0] // 3, self.col[self.row % 3 == 0] // 3
        ends = np.concatenate((i, j)), np.concatenate((j, i))
        shape = (self.size, self.size)
        self.graph = scipy.sparse.csr_matrix((np.ones(len(ends[0]), np.int8), ends), shape=shape)
        """Which free points share an element."""
        self.order = self._order(self.graph, i, j, None if x is None else x[free].numpy())
        """The order without contact."""
        self.slots = self.order.slots(self.row, self.col)

    @property
    def work(self) -> float:
        """Products of a banded factor without contact, n width²."""
        return self.count * float(self.order.width) ** 2

    def _lower(self, stencil: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of blocks (S, 3 k, 3 k) on and below the diagonal, their rows and columns."""
        local = self.number[stencil]
        scalar = np.where(local < 0, -1, 3 * local)[:, :, None] + (local >= 0)[
            ..., None
        ] * np.arange(3)
        scalar = scalar.reshape(len(stencil), 3 * stencil.shape[1])
        row, col = np.broadcast_arrays(scalar[:, :, None], scalar[:, None, :])
        take = np.flatnonzero((row >= col) & (col >= 0))
        return take, row.reshape(-1)[take], col.reshape(-1)[take]

    def _order(
        self, graph: scipy.sparse.csr_matrix, i: np.ndarray, j: np.ndarray, x: np.ndarray | None
    ) -> Order:
        """The narrowest order found for a graph with edges i to j, of points at x (F, 3)."""
        found = [np.arange(self.size)]
        if self.size:
            found.append(scipy.sparse.csgraph.reverse_cuthill_mckee(graph, symmetric_mode=True))
        if x is not None and self.size:
            centered = x - x.mean(0)
            axes = np.linalg.eigh(centered.T @ centered)[1]
            found += [np.argsort(along, kind="stable") for along in (centered @ axes).T]
        orders = []
        for sequence in found:
            place = np.empty(self.size, dtype=np.int64)
            place[sequence] = np.arange(self.size)
            orders.append(Order(place, _width(place, i, j)))
        return min(orders, key=lambda order: order.width)

    def lower(self, blocks: Blocks) -> Tensor:
        """Sums of the fixed blocks and the diagonal per entry, (B, E)."""
        diagonal = blocks.diagonal
        B, device = len(diagonal), diagonal.device
        local = [matrix.reshape(B, -1) for _, matrix in blocks.fixed]
        if device.type == "cpu":
            out = torch.from_numpy(self._summed(local, B))
        else:
            out = diagonal.new_zeros(B, len(self.row))
            for (take, to), values in zip(self.take, local, strict=True):
                if values.shape[1]:
                    picked = values[:, torch.from_numpy(take).to(device)]
                    out.index_add_(1, torch.from_numpy(to).to(device), picked)
        own = diagonal[:, self.free.to(device)].repeat_interleave(3, dim=1)
        out[:, torch.from_numpy(self.own).to(device)] += own
        return out

    def _summed(self, local: Sequence[Tensor], B: int) -> np.ndarray:
        """Sums by products with matrices of ones: one pass over the blocks, in a fixed order."""
        if self._sums is None:
            self._sums = []
            for take, to in self.take:
                shape = (len(self.row), int(take.max(initial=-1)) + 1)
                self._sums.append(
                    scipy.sparse.csr_matrix((np.ones(len(take)), (to, take)), shape=shape)
                )
        out = np.zeros((B, len(self.row)))
        for ones, values in zip(self._sums, local, strict=True):
            if values.shape[1]:
                for b in range(B):
                    out[b] += ones @ values[b].numpy()[: ones.shape[1]]
        return out

    def contact(self, blocks: Blocks, scenes: Sequence[int]) -> dict[int, Entries]:
        """Entries of the moving blocks of each scene that has any."""
        found: dict[int, list[tuple[np.ndarray, ...]]] = {}
        for stencil, local in blocks.moving:
            if not len(stencil):
                continue
            points, values = stencil.cpu().numpy(), local.cpu().numpy()
            scene = points[:, 0] // self.points
            take, row, col = self._lower(points % self.points)
            values, owner = values.reshape(-1)[take], None
            if len(blocks.diagonal) > 1:
                owner = scene[take // (9 * points.shape[1] ** 2)]
            for b in scenes:
                if owner is None:
                    found.setdefault(b, []).append((row, col, values))
                elif (ours := owner == b).any():
                    found.setdefault(b, []).append((row[ours], col[ours], values[ours]))
        return {b: Entries(*map(np.concatenate, zip(*p, strict=True))) for b, p in found.items()}

    def order_with(self, extra: Entries, x: Tensor | None) -> Order:
        """An order for the elements together with contact, of points at x (N, 3)."""
        i, j = extra.row // 3, extra.col // 3
        if _width(self.order.place, i, j) <= self.order.width:
            return self.order
        pairs = np.unique(i * self.size + j)
        i, j = pairs // self.size, pairs % self.size
        ends = np.concatenate((i, j)), np.concatenate((j, i))
        ones = np.ones(len(ends[0]), np.int8)
        graph = self.graph + scipy.sparse.csr_matrix((ones, ends), shape=self.graph.shape)
        row, col = graph.nonzero()
        return self._order(graph, row, col, None if x is None else x[self.free].numpy())

    def band(self, values: np.ndarray, extra: Entries | None, order: Order) -> np.ndarray:
        """Lower band (width, 3 F) of one scene from its entries (E,) and those of contact."""
        flat = np.zeros(self.count * order.width)
        slots = self.slots if order is self.order else order.slots(self.row, self.col)
        flat[slots] = values
        if extra is not None:
            np.add.at(flat, order.slots(extra.row, extra.col), extra.value)
        return flat.reshape(self.count, order.width).T

    def product(self, values: np.ndarray, extra: Entries | None, v: np.ndarray) -> np.ndarray:
        """The matrix of one scene times v (3 F,)."""
        shape = (self.count, self.count)
        below = scipy.sparse.csr_matrix((values, self.col, self._starts), shape=shape)
        out = below @ v + below.T @ v - values[self.own] * v
        if extra is not None:
            off = extra.row != extra.col
            row, col, value = extra.row, extra.col, extra.value
            out += np.bincount(row, value * v[col], self.count)
            out += np.bincount(col[off], value[off] * v[row[off]], self.count)
        return out

    def matrix(self, values: np.ndarray, extra: Entries | None) -> scipy.sparse.csc_matrix:
        """The whole matrix of one scene from its entries (E,) and those of contact."""
        row, col = self.row, self.col
        if extra is not None:
            row, col = np.concatenate((row, extra.row)), np.concatenate((col, extra.col))
            values = np.concatenate((values, extra.value))
        below = row > col
        ends = np.concatenate((row, col[below])), np.concatenate((col, row[below]))
        shape = (self.count, self.count)
        return scipy.sparse.csc_matrix((np.concatenate((values, values[below])), ends), shape=shape)


def _width(place: np.ndarray, i: np.ndarray, j: np.ndarray) -> int:
    """Diagonals on and below the main one of a matrix with entries at pairs of points."""
    return 3 * (int(np.abs(place[i] - place[j]).max(initial=0)) + 1)
