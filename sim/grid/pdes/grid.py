"""Boxes of equal cells for PDEs, and what holds at their sides.

A field u is (B, C, *cells) and lives at cell centres, x_i = origin + (i + ½) dx: one rule for spectral,
finite-difference and finite-volume methods. The last axis is up: axes are x; x, z; x, y, z.
At a wall with outward normal n, where k is what multiplies ∇u in the PDE,

    α u + β k ∂u/∂n = γ      Dirichlet: (1, 0, value),  Neumann: (0, 1, flux into the box),  Robin: any
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ...core.errors import InputError, message
from ..poisson.problem import AXES

__all__ = ["Grid", "Side", "dirichlet", "neumann", "robin"]


@dataclasses.dataclass(frozen=True)
class Side:
    """Boundary condition α u + β k ∂u/∂n = γ of one wall, n outward."""

    alpha: float
    """Weight of the value [-]."""
    beta: float
    """Weight of the flux k ∂u/∂n into the box."""
    gamma: float = 0.0
    """Right-hand side, unit of u; a solver's params may replace it under the side's name, "x-"."""

    def __post_init__(self) -> None:
        # With α and β of one sign a wall takes energy out; of opposite signs, exp(x α / β k) grows.
        if self.alpha * self.beta < 0 or self.alpha == self.beta == 0:
            got = f"alpha = {self.alpha:g}, beta = {self.beta:g}"
            fix = "Opposite signs make the problem ill-posed; n points out of the domain"
            raise InputError(message("Side", "alpha, beta >= 0, not both zero", got, fix))


def dirichlet(value: float = 0.0) -> Side:
    """u = value at the wall."""
    return Side(1.0, 0.0, value)


def neumann(flux: float = 0.0) -> Side:
    """k ∂u/∂n = flux into the box."""
    return Side(0.0, 1.0, flux)


def robin(alpha: float, beta: float, gamma: float = 0.0) -> Side:
    """α u + β k ∂u/∂n = γ at the wall, n outward."""
    return Side(alpha, beta, gamma)


WORDS = {"periodic": None, "dirichlet": dirichlet(), "neumann": neumann()}
"""What may stand for a side: zero value, zero slope, or the other end of the axis."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """A box [origin, origin + lengths] of equal cells in 1-D, 2-D or 3-D."""

    cells: tuple[int, ...]
    """Cells per axis; a number in 1-D."""
    lengths: tuple[float, ...] = ()
    """Lengths of the box [m]; default 1 per axis."""
    sides: str | Side | Mapping[str, str | Side] = "periodic"
    """"periodic", "dirichlet", "neumann" or a `Side`; for all, or per side {"x-": ..., "x+": ...}."""
    origin: tuple[float, ...] = ()
    """Lower corner [m]; default zero."""

    def __post_init__(self) -> None:
        cells = (self.cells,) if isinstance(self.cells, int) else tuple(int(n) for n in self.cells)
        if not 1 <= len(cells) <= 3 or min(cells) < 2:
            fix = "Give at least 2 cells per axis"
            raise InputError(message("Grid", "cells of 1 to 3 axes", f"{self.cells}", fix))
        object.__setattr__(self, "cells", cells)
        for name, default in (("lengths", 1.0), ("origin", 0.0)):
            given = getattr(self, name)
            given = (given,) if isinstance(given, (int, float)) else tuple(given)
            values = tuple(float(x) for x in given) or (default,) * len(cells)
            if len(values) != len(cells) or not all(math.isfinite(x) for x in values):
                fix = "Give one finite number per axis"
                raise InputError(message("Grid", f"{name} of {len(cells)}", f"{given}", fix))
            object.__setattr__(self, name, values)
        if min(self.lengths) <= 0:
            raise InputError(message("Grid", "lengths > 0", f"{self.lengths}", "Give metres"))
        _ = self.walls

    @property
    def dim(self) -> int:
        return len(self.cells)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes."""
        return AXES[self.dim]

    @property
    def dx(self) -> tuple[float, ...]:
        """Lengths of a cell [m]."""
        return tuple(length / n for length, n in zip(self.lengths, self.cells, strict=True))

    @property
    def cell_count(self) -> int:
        return math.prod(self.cells)

    @property
    def volume(self) -> float:
        """Of a cell [m^D]."""
        return math.prod(self.dx)

    @functools.cached_property
    def walls(self) -> dict[str, Side]:
        """Condition of each wall by name, "x-" first; periodic axes have none."""
        names = [f"{axis}{end}" for axis in self.axes for end in "-+"]
        one = isinstance(self.sides, (str, Side))
        given = dict.fromkeys(names, self.sides) if one else dict(self.sides)
        wrong = [name for name in given if name not in names]
        wrong += [s for s in given.values() if not isinstance(s, Side) and s not in WORDS]
        missing = [name for name in names if name not in given]
        if wrong or missing:
            expected = f"sides {names}, each a Side or out of {list(WORDS)}"
            got = f"unknown {wrong}" if wrong else f"no {missing}"
            raise InputError(message("Grid", expected, got, "Name every side's condition"))
        found = {k: s if isinstance(s, Side) else WORDS[s] for k, s in given.items()}
        for axis in self.axes:
            pair = [found[f"{axis}-"], found[f"{axis}+"]]
            if pair.count(None) == 1:
                got = f"sides of {axis}: {given[axis + '-']}, {given[axis + '+']}"
                fix = "An axis is periodic on both sides or on none"
                raise InputError(message("Grid", "both sides periodic", got, fix))
        return {name: found[name] for name in names if found[name] is not None}

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Which axes wrap around."""
        return tuple(f"{axis}-" not in self.walls for axis in self.axes)

    def points(self, like: Tensor) -> Tensor:
        """Cell centres [m], (*cells, D), dtype and device of `like`."""
        axes = [
            start + (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) * h
            for n, h, start in zip(self.cells, self.dx, self.origin, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    def check(self, where: str, u: Tensor, channels: int, name: str = "u") -> None:
        """Raise `InputError` unless u is (B, channels, *cells) in float32 or float64."""
        shape = (channels, *self.cells)
        fits = isinstance(u, Tensor) and u.ndim == self.dim + 2 and tuple(u.shape[1:]) == shape
        if not fits or u.dtype not in (torch.float32, torch.float64):
            expected = f"{name} of shape (B, {', '.join(map(str, shape))}), float32 or float64"
            fix = "Fields are (B, C, *cells), also with one scene and one channel"
            raise InputError(message(where, expected, u, fix))
