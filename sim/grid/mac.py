"""Staggered (MAC) grids: scalars at cell centres, velocity components at the faces they cross.

    (div u)_i = Σ_a (u_{a, i+½} − u_{a, i−½}) / dx        (grad p)_{a, i+½} = (p_{i+1} − p_i) / dx

div and grad are compact and adjoint to each other, ⟨p, div u⟩ = −⟨grad p, u⟩, when p = 0 is kept
behind open sides and u = 0 in walls: that is what makes a projection exact.

Arrays: cells (B, *cells); faces of axis a have n_a + 1 layers along a, n_a on a periodic axis (face i
is the lower one of cell i). The last axis is up; a 2-D grid is the plane (x, z).

Source: Harlow & Welch 1965.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.errors import InputError, message
from .poisson.stencil import Faces, jump, outflow

__all__ = ["AXES", "Faces", "MacGrid", "SIDES"]

AXES = {2: ("x", "z"), 3: ("x", "y", "z")}
SIDES = ("wall", "slip", "open", "periodic")
"""wall: no flow through, no slip where there is viscosity; slip: no flow through, free along it;
open: pressure 0 outside; periodic: both sides of an axis."""


@dataclasses.dataclass(frozen=True)
class MacGrid:
    """A box of equal cubic cells and what its sides are."""

    cells: tuple[int, ...]
    """Cells per axis, D = 2 (x, z) or 3 (x, y, z) numbers."""
    dx: float
    """Length of a cell [m]."""
    origin: tuple[float, ...] = ()
    """Lower corner of the box [m]; default zero."""
    walls: str | Mapping[str, str] = "wall"
    """One of SIDES for all sides, or per side {"x-": "open", "z+": "slip"}; others are walls."""

    def __post_init__(self) -> None:
        cells = tuple(int(n) for n in self.cells)
        object.__setattr__(self, "cells", cells)
        if len(cells) not in AXES or min(cells) < 1:
            fix = "Give whole numbers >= 1 per axis"
            raise InputError(message("MacGrid", "cells of 2 or 3 axes", f"{self.cells}", fix))
        if not 0 < self.dx < math.inf:
            raise InputError(message("MacGrid", "dx > 0 m", self.dx, "Give the cell in metres"))
        origin = tuple(float(x) for x in self.origin) or (0.0,) * len(cells)
        object.__setattr__(self, "origin", origin)
        if len(origin) != len(cells):
            fix = "Give one coordinate per axis"
            raise InputError(message("MacGrid", f"origin of {len(cells)} m", f"{origin}", fix))
        for axis, pair in zip(AXES[self.dim], self.sides, strict=True):
            if pair.count("periodic") == 1:
                got = f"{axis}-: {pair[0]}, {axis}+: {pair[1]}"
                fix = "An axis is periodic on both sides or on none"
                raise InputError(message("MacGrid", "both sides periodic", got, fix))

    @property
    def dim(self) -> int:
        return len(self.cells)

    @property
    def cell_count(self) -> int:
        return math.prod(self.cells)

    @functools.cached_property
    def sides(self) -> tuple[tuple[str, str], ...]:
        """(lower, upper) side of each axis, words of SIDES."""
        names = [f"{axis}{side}" for axis in AXES[self.dim] for side in "-+"]
        given = dict.fromkeys(names, self.walls) if isinstance(self.walls, str) else self.walls
        wrong = [s for s in given if s not in names] + [w for w in given.values() if w not in SIDES]
        if wrong:
            expected = f"walls out of {SIDES} on sides {names}"
            raise InputError(message("MacGrid", expected, f"{wrong}", "Correct the names"))
        kinds = [given.get(name, "wall") for name in names]
        return tuple(zip(kinds[::2], kinds[1::2], strict=True))

    @functools.cached_property
    def periodic(self) -> tuple[bool, ...]:
        """Which axes wrap around."""
        return tuple(lower == "periodic" for lower, _ in self.sides)

    def face_shape(self, axis: int) -> tuple[int, ...]:
        """Faces per axis that the velocity component `axis` lives on."""
        shape = list(self.cells)
        shape[axis] += not self.periodic[axis]
        return tuple(shape)

    def points(self, axis: int | None, like: Tensor) -> Tensor:
        """Centres of the faces of `axis`, or of the cells for None [m], (*faces, D)."""
        shape = self.cells if axis is None else self.face_shape(axis)
        rows = [
            self.origin[a] + self.dx * (torch.arange(n).to(like) + (0.0 if a == axis else 0.5))
            for a, n in enumerate(shape)
        ]
        return torch.stack(torch.meshgrid(*rows, indexing="ij"), -1)

    def zeros(self, batch: int, like: Tensor) -> Faces:
        """A velocity field at rest."""
        return tuple(like.new_zeros(batch, *self.face_shape(a)) for a in range(self.dim))

    def jump(self, q: Tensor, axis: int) -> Tensor:
        """Undivided difference across each face, q_{i+1} − q_i, with q = 0 behind the sides."""
        return jump(q, axis - self.dim, self.periodic[axis])

    def outflow(self, f: Tensor, axis: int) -> Tensor:
        """Undivided difference across each cell, f_{i+½} − f_{i−½}; minus the adjoint of `jump`."""
        return outflow(f, axis - self.dim, self.periodic[axis])

    def divergence(self, u: Faces) -> Tensor:
        """div u [1/s] of velocities [m/s] on faces, (B, *cells). Differentiable in u."""
        self.check("MacGrid.divergence", u)
        total = self.outflow(u[0], 0)
        for a in range(1, self.dim):
            total = total + self.outflow(u[a], a)
        return total / self.dx

    def gradient(self, p: Tensor) -> Faces:
        """grad p on faces [unit of p per m], p = 0 behind the sides. Differentiable in p."""
        return tuple(self.jump(p, a) / self.dx for a in range(self.dim))

    def mean(self, q: Tensor, axis: int) -> Tensor:
        """Cell values averaged onto the faces of `axis`; sides take the value inside."""
        dim = axis - self.dim
        if self.periodic[axis]:
            return 0.5 * (q + q.roll(1, dim))
        first, last = q.narrow(dim, 0, 1), q.narrow(dim, -1, 1)
        wide = torch.cat((first, q, last), dim)
        n = wide.shape[dim]
        return 0.5 * (wide.narrow(dim, 0, n - 1) + wide.narrow(dim, 1, n - 1))

    def at_cells(self, u: Faces) -> Tensor:
        """Velocity at cell centres [m/s], (B, *cells, D), for pictures and observations."""
        parts = []
        for a, f in enumerate(u):
            dim = a - self.dim
            n = self.cells[a]
            upper = f.roll(-1, dim) if self.periodic[a] else f.narrow(dim, 1, n)
            parts.append(0.5 * (f.narrow(dim, 0, n) + upper))
        return torch.stack(parts, -1)

    def check(self, where: str, u: Faces) -> None:
        """Raise `InputError` unless u holds one tensor (B, *faces) per axis."""
        shapes = [tuple(f.shape[1:]) for f in u]
        expected = [self.face_shape(a) for a in range(self.dim)]
        if shapes != expected or len({(f.dtype, f.device, len(f)) for f in u}) != 1:
            text = f"one tensor per axis of (B, *faces) with faces {expected}, one dtype and B"
            got = ", ".join(f"{tuple(f.shape)} {f.dtype}" for f in u)
            raise InputError(
                message(where, text, got, "MacGrid.zeros(batch, like) shows the layout")
            )
