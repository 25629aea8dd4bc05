"""Rows of windows: every row reads the few windows around it, so no matrix meets more than neighbours.

Windows of even and of odd boxes are two colours. Between the middles of two neighbouring boxes one
window of each colour is at work, so the basis in two colours, 2 N functions, stands for all K N:

    patch p, half a box:  rows (M, 2 N),  unknowns of windows k(p, even), k(p, odd)
    JᵀJ = Σ_p of blocks (2 N)², block-tridiagonal where one axis is cut;   cost 4 N² per row, not (K N)²
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from .orthonormal import by_blocks
from .rows import Residual, Rows

__all__ = ["Layout", "LocalRows"]


class Layout:
    """Which windows are at work in which half box.

    Args:
        counts: boxes per axis; an axis with one box stays whole.
        cells: grid.
        reach: how many cells away a row looks.

    `patches` per axis, `colour` (K,) of each window, `window` (P, C): number of the window of each
    colour in each patch. `fits` tells whether the middles of boxes leave the reach to one window.
    """

    def __init__(self, counts: Sequence[int], cells: Sequence[int], reach: int) -> None:
        self.counts, self.boxes = tuple(counts), math.prod(counts)
        self.fits = self.boxes > 1 and all(
            k == 1 or (n % (2 * k) == 0 and n // k >= 4 * reach)
            for n, k in zip(cells, counts, strict=True)
        )
        self.patches = tuple(1 if k == 1 else 2 * k for k in counts)
        self.chain = sum(k > 1 for k in counts) == 1
        """Whether one axis alone is cut, so that neighbours form a chain."""
        colours = [min(k, 2) for k in counts]
        strides = [math.prod(colours[i + 1 :]) for i in range(len(counts))]
        self.colour = torch.tensor(
            [
                sum(i % c * s for i, c, s in zip(at, colours, strides, strict=True))
                for at in itertools.product(*(range(k) for k in counts))
            ]
        )
        self.window = torch.tensor(
            [
                [self._window(patch, colour) for colour in itertools.product(*map(range, colours))]
                for patch in itertools.product(*(range(p) for p in self.patches))
            ]
        )
        i, j = (self.window[:, :, None] + 0 * self.window[:, None]), self.window[:, None]
        j = j.expand_as(i)
        place = i * self.boxes + j
        if self.chain:  # slot 1 of a band has no use: pairs above the diagonal go there
            place = torch.where(i == j, 2 * i, torch.where(i == j + 1, 2 * i + 1, 1))
        self.place = place.flatten()

    def _window(self, patch: Sequence[int], colour: Sequence[int]) -> int:
        number = 0
        for h, c, k in zip(patch, colour, self.counts, strict=True):
            first = min(max((h - 1) // 2, 0), max(k - 2, 0))
            number = number * k + (first if k == 1 or first % 2 == c else first + 1)
        return number

    def gather(self, w: Tensor) -> Tensor:
        """Weights of all windows (S, K N) → those of each patch (S, P, C N)."""
        return w.unflatten(1, (self.boxes, -1))[:, self.window.to(w.device)].flatten(2)

    def scatter(self, v: Tensor) -> Tensor:
        """The transpose: (S, P, C N) → (S, K N)."""
        P, C = self.window.shape
        v = v.unflatten(2, (C, -1)).flatten(1, 2)
        out = v.new_zeros(len(v), self.boxes, v.shape[2])
        return out.index_add(1, self.window.flatten().to(v.device), v).flatten(1)

    def assemble(self, A: Tensor) -> Tensor:
        """Sum of symmetric blocks of patches (S, P, C N, C N): a band for a chain, else full."""
        S, C, K = len(A), self.window.shape[1], self.boxes
        blocks = A.unflatten(3, (C, -1)).unflatten(2, (C, -1)).transpose(3, 4).flatten(1, 3)
        n = blocks.shape[-1]
        out = A.new_zeros(S, 2 * K if self.chain else K * K, n, n)
        out = out.index_add(1, self.place.to(A.device), blocks)
        if not self.chain:
            return out.unflatten(1, (K, K)).transpose(2, 3).reshape(S, K * n, K * n)
        used = torch.ones(2 * K, 1, 1, dtype=A.dtype, device=A.device)
        used[1] = 0
        return (out * used).unflatten(1, (K, 2))


@dataclasses.dataclass
class LocalRows(Rows):
    """`Rows` of S samples in P patches whose unknowns are the weights of a few windows each.

    terms (S, P, Q, M, C N), offset (S, P, Q, M); linear and target empty.
    """

    layout: Any = None
    """`Layout` of windows."""
    ridge: float = 0.0
    """Weight of the rows ridge · w = 0."""
    ridges: Tensor | None = None
    """Their blocks (S, K, N, N) in weights of another basis, see `turn`."""

    @property
    def unknowns(self) -> int:
        return self.layout.boxes * (self.terms.shape[4] // self.layout.window.shape[1])

    def check(self, where: str, residual: Residual) -> None:
        S, P, Q, M, _ = self.terms.shape
        if not self.ridge and P * M < self.unknowns:
            fix = "Sample more points, add a ridge, or use fewer basis functions"
            expected = f"at least {self.unknowns} rows for {self.unknowns} unknowns"
            raise InputError(message(where, expected, P * M, fix))
        self.together(where)
        self.finite(where)
        self.probe(where, residual, S, P * M)

    def known(self) -> Tensor:
        return self.offset.transpose(1, 2).flatten(2)

    def numbers(self, w: Tensor) -> Tensor:
        S, P, Q, M, n = self.terms.shape
        local = self.layout.gather(w)[..., None]
        z = self.offset + (self.terms.reshape(S, P, Q * M, n) @ local).reshape(S, P, Q, M)
        return z.transpose(1, 2).flatten(2)

    def excess(self, w: Tensor) -> Tensor:
        return self.ridge * w if self.ridges is None else by_blocks(self.ridges, w)

    def combine(self, c: Tensor) -> Tensor:
        c, T = self._cut(c), self.terms
        J = c[:, :, 0, :, None] * T[:, :, 0]
        for q in range(1, T.shape[2]):
            J = torch.addcmul(J, c[:, :, q, :, None], T[:, :, q])
        return J

    def gram(self, J: Tensor) -> Tensor:
        A, K = self.layout.assemble(J.mT @ J), self.layout.boxes
        more = (
            self.ridge**2 * torch.eye(self.unknowns // K, dtype=A.dtype, device=A.device)
            if self.ridges is None
            else self.ridges.mT @ self.ridges
        ).expand(len(A), K, -1, -1)
        if A.ndim == 3:
            return A + torch.stack([torch.block_diag(*blocks) for blocks in more])
        return A + torch.stack([more, torch.zeros_like(more)], 2)

    def triangles(self, J: Tensor) -> Tensor:
        """R of the columns of each window and its ridge, (S, K, N, N)."""
        C, n = self.layout.window.shape[1], self.unknowns // self.layout.boxes
        parts = torch.linalg.qr(J.unflatten(3, (C, n)).transpose(2, 3), mode="r").R
        eye = torch.eye(n, dtype=J.dtype, device=J.device).expand(len(J), n, n)
        out = []
        for k in range(self.layout.boxes):
            at = (self.layout.window == k).nonzero().unbind(1)
            stack = torch.cat([parts[:, at[0], at[1]].flatten(1, 2), self.ridge * eye], 1)
            out.append(torch.linalg.qr(stack, mode="r").R)
        return torch.stack(out, 1)

    def turn(self, X: Tensor) -> LocalRows:
        """The same rows of weights v, where w_k = X_k v_k in each window."""
        C = self.layout.window.shape[1]
        local = X[:, self.layout.window.to(X.device)]  # (S, P, C, N, N)
        T = [t @ local[:, :, c, None] for c, t in enumerate(self.terms.chunk(C, 4))]
        return dataclasses.replace(self, terms=torch.cat(T, 4), ridges=self.ridge * X)

    def select(self, index: Tensor) -> LocalRows:
        return self._with(super().select(index), lambda t: t[index])

    def map(self, rule: Callable[[Tensor], Tensor]) -> LocalRows:
        return self._with(super().map(rule), rule)

    def _with(self, rows: Rows, rule: Callable[[Tensor], Tensor]) -> LocalRows:
        assert isinstance(rows, LocalRows)
        ridges = None if self.ridges is None else rule(self.ridges)
        return dataclasses.replace(rows, ridges=ridges)

    def cross(self, k: int, m: int, v: Tensor) -> Tensor:
        v = v.unflatten(1, self.terms.shape[1:4:2])
        A = self.terms[:, :, k].mT @ (v[..., None] * self.terms[:, :, m])
        return self.layout.assemble(A)

    def pull(self, J: Tensor, r: Tensor, e: Tensor) -> Tensor:
        r = r.unflatten(1, self.terms.shape[1:4:2])
        return self.layout.scatter((r[:, :, None] @ J)[:, :, 0]) + self._lift(e)

    def pull_terms(self, c: Tensor, e: Tensor) -> Tensor:
        S, P, Q, M, n = self.terms.shape
        c = self._cut(c).reshape(S, P, 1, Q * M)
        v = (c @ self.terms.reshape(S, P, Q * M, n))[:, :, 0]
        return self.layout.scatter(v) + self._lift(e)

    def _lift(self, e: Tensor) -> Tensor:
        return self.ridge * e if self.ridges is None else by_blocks(self.ridges.mT, e)

    def _cut(self, c: Tensor) -> Tensor:
        """(S, Q, P M) → (S, P, Q, M)."""
        return c.unflatten(2, self.terms.shape[1:4:2]).transpose(1, 2)
