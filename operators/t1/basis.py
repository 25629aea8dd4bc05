"""Real orthonormal bases that fit boundary conditions, and transforms to their coefficients.

On the unit interval with samples x_j, coefficients are those of the function and not of the samples:

    c_k = (1/n) Σ_j φ_k(x_j) u(x_j),    u(x) = Σ_k c_k φ_k(x),    Σ_k c_k² = mean_j u(x_j)²

for all n modes (Parseval), so the same function has the same coefficients on every grid that resolves
it. √n times the analysis matrix is the orthonormal DCT-II, DST-II or real Fourier matrix.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ..layers.grid import OFFSETS, cell_positions

__all__ = ["BOUNDARIES", "Basis1D", "SeparableTransform"]

BOUNDARIES = {"periodic": "rfourier", "neumann": "dct", "dirichlet": "dst"}
"""Basis of each boundary condition; "neumann" is also right where nothing is known."""


@dataclasses.dataclass(frozen=True)
class Basis1D:
    """The first m functions of an orthonormal basis of the unit interval, x ∈ [0, 1]:

        dct       1, √2 cos πkx                    even beyond the ends: zero slope
        dst       √2 sin π(k + 1)x                 odd beyond the ends: zero value
        rfourier  1, √2 cos 2πx, √2 sin 2πx, √2 cos 4πx, …    periodic

    With an even number of rfourier modes the last cosine has no sine beside it; with m = n its place
    holds what alternates in sign from sample to sample.
    """

    kind: str
    """dct, dst or rfourier."""
    m: int
    """Number of functions."""
    sampling: str = "cells"
    """"cells": x_j = (j + ½)/n; "points": x_j = j/n, for rfourier only."""

    def __post_init__(self) -> None:
        def check(fine: bool, expected: str, got: object, fix: str) -> None:
            if not fine:
                raise InputError(message("Basis1D", expected, got, fix))

        kinds = BOUNDARIES.values()
        check(self.kind in kinds, "kind dct, dst or rfourier", repr(self.kind), "Choose one")
        check(self.m >= 1, "m >= 1", self.m, "Keep at least one mode")
        check(self.sampling in OFFSETS, "sampling cells or points", self.sampling, "Choose one")
        check(
            self.sampling == "cells" or self.kind == "rfourier", "sampling cells for dct and dst",
            self.sampling, "Average to cells, or choose a periodic boundary",
        )  # fmt: skip

    def wavenumbers(self) -> Tensor:
        """Half waves per domain of each function, (m,)."""
        k = torch.arange(self.m, dtype=torch.float64)
        return {"dct": k, "dst": k + 1, "rfourier": 2 * torch.ceil(k / 2)}[self.kind]

    def evaluate(self, x: Tensor) -> Tensor:
        """Functions at any places x (n,) of the unit interval, (n, m)."""
        phase = math.pi * x[:, None] * self.wavenumbers().to(x)
        k = torch.arange(self.m, device=x.device)
        if self.kind == "dst":
            return math.sqrt(2) * torch.sin(phase)
        sine = (k % 2 == 0) & (k > 0) & (self.kind == "rfourier")
        wave = math.sqrt(2) * torch.where(sine, torch.sin(phase), torch.cos(phase))
        return torch.where(k == 0, 1.0, wave)

    def synthesis(self, n: int) -> Tensor:
        """Functions at n samples, (n, m) float64; its transpose over n is the analysis.

        Raises:
            InputError: fewer samples than functions.
        """
        if n < self.m:
            raise InputError(
                message("Basis1D", f"at least {self.m} samples for {self.m} modes", n,
                        "Keep fewer modes or refine the grid")
            )  # fmt: skip
        S = self.evaluate(cell_positions(n, self.sampling, dtype=torch.float64))
        if n == self.m and self.kind == "dst":
            S[:, -1] /= math.sqrt(2)  # ±√2 at every cell
        if n == self.m and self.kind == "rfourier" and n % 2 == 0:
            S[:, -1] = 1 - 2.0 * (torch.arange(n) % 2)
        return S


class SeparableTransform:
    """Coefficients of fields in a product of one basis for each axis; matrices are kept per grid.

    Args:
        bases: one for each axis.
    """

    def __init__(self, bases: Sequence[Basis1D]) -> None:
        self.bases = tuple(bases)
        self.m = tuple(basis.m for basis in self.bases)
        self._kept: dict[tuple, Tensor] = {}

    def analyze(self, f: Tensor) -> Tensor:
        """Fields (B, C, *cells) → coefficients (B, C, *m). Linear, differentiable in f.

        Raises:
            InputError: fewer cells than modes, or another number of axes.
        """
        self._check(f.shape[2:], "cells")
        for axis, basis in enumerate(self.bases):
            S = self._matrix(basis, f.shape[axis + 2], f)
            f = _along(f, S / f.shape[axis + 2], axis + 2)
        return f

    def synthesize(self, c: Tensor, cells: Sequence[int]) -> Tensor:
        """Coefficients (B, C, *m) → fields (B, C, *cells) on any grid. Linear, differentiable in c.

        Raises:
            InputError: fewer cells than modes, or another number of axes.
        """
        self._check(cells, "cells")
        for axis, (basis, n) in enumerate(zip(self.bases, cells, strict=True)):
            c = _along(c, self._matrix(basis, n, c).T, axis + 2)
        return c

    def _check(self, shape: Sequence[int], what: str) -> None:
        if len(shape) != len(self.bases):
            raise InputError(
                message("SeparableTransform", f"{what} of {len(self.bases)} axes", str(tuple(shape)),
                        "Give one basis for each axis")
            )  # fmt: skip

    def _matrix(self, basis: Basis1D, n: int, like: Tensor) -> Tensor:
        key = (basis, n, like.dtype, like.device)
        if key not in self._kept:
            # Outside of inference mode, since training may read the same matrix later.
            with torch.inference_mode(False):
                self._kept[key] = basis.synthesis(n).to(like)
        return self._kept[key]

    def __deepcopy__(self, memo: dict) -> SeparableTransform:
        return SeparableTransform(self.bases)

    def __reduce__(self) -> tuple:
        return SeparableTransform, (self.bases,)


def _along(f: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Σ_j f[…, j, …] matrix[j, k] along one axis."""
    if axis == f.ndim - 1:
        return f @ matrix
    if axis == f.ndim - 2:
        return matrix.T @ f
    return (f.movedim(axis, -1) @ matrix).movedim(-1, axis)
