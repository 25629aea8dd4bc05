"""Poisson problems on cell-centred grids: −∇·(k ∇u) = f with sides, obstacles and coefficients.

    Σ_faces c (u_i − u_j) = f_i      c = k_face / h²      inside, k_face the mean of both cells
                                     c = 2 k_i / h²       on a Dirichlet side, half a cell away
                                     c = 0                on a Neumann side and around obstacles

Second order in h for smooth k; a harmonic mean keeps fluxes right across jumps of k.

Differentiable in k and in the values of sides.
Source: Patankar 1980, section 4.2 (harmonic mean of finite volumes).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, message
from .stencil import Faces, StencilMap

__all__ = ["AXES", "SIDES", "PoissonProblem"]

AXES = {1: ("x",), 2: ("x", "z"), 3: ("x", "y", "z")}
SIDES = ("dirichlet", "neumann", "periodic")
"""dirichlet: u is given; neumann: the flux k ∂u/∂n into the box is given; periodic: both sides."""
MEANS = ("harmonic", "arithmetic")


@dataclasses.dataclass(frozen=True)
class PoissonProblem:
    """Everything about a Poisson problem but its right-hand side."""

    cells: tuple[int, ...]
    """Cells per axis, 1 to 3 numbers; the last axis is up, a 2-D grid is the plane (x, z)."""
    h: float | tuple[float, ...] = 1.0
    """Length of a cell [m], one number or one per axis."""
    sides: str | Mapping[str, str] = "dirichlet"
    """One of SIDES for all sides, or per side {"x-": "neumann", "z+": "dirichlet"}; sides that are not
    named are Dirichlet ones."""
    k: Tensor | float | tuple[Tensor, ...] = 1.0
    """Coefficient [unit of your flux]: a number, (B, *cells) at cells, or one (B, *faces) per axis."""
    mask: Tensor | None = None
    """Cells that take part, bool (*cells) or (B, *cells); no flux goes into the others, where u = 0.
    None: all."""
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What sides are given, per side: u, or the flux into the box k ∂u/∂n; a number or a tensor that
    broadcasts to (B, cells of the side). Default 0."""
    mean: str = "harmonic"
    """How k of two cells makes that of their face: "harmonic" or "arithmetic"."""

    def __post_init__(self) -> None:
        cells = tuple(int(n) for n in self.cells)
        object.__setattr__(self, "cells", cells)
        if len(cells) not in AXES or min(cells) < 1:
            fix = "Give whole numbers >= 1 per axis"
            raise InputError(
                message("PoissonProblem", "cells of 1 to 3 axes", f"{self.cells}", fix)
            )
        h = self.h if isinstance(self.h, tuple) else (float(self.h),) * len(cells)
        object.__setattr__(self, "h", h)
        if len(h) != len(cells) or not all(0 < x < math.inf for x in h):
            fix = "Give one length per axis in metres"
            raise InputError(message("PoissonProblem", f"h > 0 m, {len(cells)} axes", f"{h}", fix))
        if self.mean not in MEANS:
            raise InputError(message("PoissonProblem", f"mean out of {MEANS}", self.mean))
        for axis, pair in zip(AXES[self.dim], self.pairs, strict=True):
            if pair.count("periodic") == 1:
                got = f"{axis}-: {pair[0]}, {axis}+: {pair[1]}"
                fix = "An axis is periodic on both sides or on none"
                raise InputError(message("PoissonProblem", "both sides periodic", got, fix))
        self._check_values()
        self._check_tensors()

    @property
    def dim(self) -> int:
        return len(self.cells)

    @functools.cached_property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(lower, upper) side of each axis."""
        names = [axis + end for axis in AXES[self.dim] for end in "-+"]
        given = (
            dict.fromkeys(names, self.sides) if isinstance(self.sides, str) else dict(self.sides)
        )
        wrong = [f"{n}: {s}" for n, s in given.items() if n not in names or s not in SIDES]
        if wrong:
            expected = f"sides {tuple(names)} out of {SIDES}"
            fix = "Correct the names"
            raise InputError(message("PoissonProblem", expected, ", ".join(wrong), fix))
        kinds = [given.get(name, "dirichlet") for name in names]
        return tuple(zip(kinds[::2], kinds[1::2], strict=True))

    @functools.cached_property
    def periodic(self) -> tuple[bool, ...]:
        """Which axes wrap around."""
        return tuple(lower == "periodic" for lower, _ in self.pairs)

    @property
    def separable(self) -> bool:
        """Whether the axes separate: no mask, and a k that is one number."""
        return self.mask is None and not isinstance(self.k, (Tensor, tuple))

    def face_shape(self, axis: int) -> tuple[int, ...]:
        """Faces of one axis."""
        shape = list(self.cells)
        shape[axis] += not self.periodic[axis]
        return tuple(shape)

    def active(self, device: Any = None) -> Tensor:
        """Cells that take part, bool (b, *cells)."""
        if self.mask is None:
            return torch.ones(1, *self.cells, dtype=torch.bool, device=device)
        return self.mask.reshape(-1, *self.cells).to(device)

    def faces(self, like: Tensor) -> Faces:
        """c of the equation above, one (b, *faces) per axis, in float64 on the device of `like`.

        Differentiable in k.
        """
        place = {"device": like.device, "dtype": torch.float64}
        active = self.active(like.device)
        out = []
        for a in range(self.dim):
            dim, wraps = a - self.dim, self.periodic[a]
            if isinstance(self.k, tuple):
                c = self.k[a].to(**place)
            else:
                k = torch.as_tensor(self.k).to(**place)
                k = k if k.dim() else k.expand(1, *self.cells)
                c = _face_mean(k, dim, wraps, self.mean)
            weight = _both(active, dim, wraps).to(c) / self.h[a] ** 2
            if not wraps:
                ends = torch.ones(self.cells[a] + 1).to(c)
                ends[0], ends[-1] = (2.0 * (side == "dirichlet") for side in self.pairs[a])
                weight = weight * ends.reshape([-1 if b == a else 1 for b in range(self.dim)])
            out.append(weight * c)
        batch = max(len(c) for c in out)
        return tuple(c.expand(batch, *c.shape[1:]) for c in out)

    def given(self, faces: Faces, like: Tensor) -> Tensor | float:
        """What the values of the sides add to f, (B, *cells), or 0. Differentiable in them and in k."""
        total: Tensor | float = 0.0
        for name, value in self.values.items():
            a = AXES[self.dim].index(name[0])
            dim, upper = a - self.dim, name[1] == "+"
            g = torch.as_tensor(value).to(device=like.device, dtype=torch.float64)
            if self.pairs[a][upper] == "dirichlet":
                layer = faces[a].narrow(dim, self.cells[a] if upper else 0, 1).squeeze(dim) * g
            else:
                cells = self.active(like.device).narrow(dim, -1 if upper else 0, 1).squeeze(dim)
                layer = cells / self.h[a] * g
            rest = self.cells[a] - 1
            pad = (0, 0) * (self.dim - 1 - a) + ((rest, 0) if upper else (0, rest))
            total = total + torch.nn.functional.pad(layer.unsqueeze(dim), pad)
        return total

    def residual(self, b: Tensor, u: Tensor) -> Tensor:
        """Defect of the discrete equation, ∇·(k ∇u) + b, (B, *cells): what a network would minimize.

            R_i = b_i + what the sides give − Σ_faces c (u_i − u_j);   0 in masked cells

        It vanishes at what `solve_poisson` gives; in regions that no Dirichlet side reaches for any
        constant added to u, where no u does if b has a net source.

        Args:
            b: right-hand side, (B, *cells) or (*cells).
            u: (B, *cells) or (*cells); one scene of u, b and k goes with many of the others.

        Raises:
            InputError: shapes.

        Differentiable in u, b, k and the values of the sides; computed in float64.
        Source: `StencilMap`.
        """
        for name, value in (("b", b), ("u", u)):
            if value.shape[-self.dim :] != self.cells or value.dim() > self.dim + 1:
                expected = f"{name} of (B, *{self.cells}) or {self.cells}"
                raise InputError(message("PoissonProblem.residual", expected, value))
        faces = self.faces(u)
        f = b.reshape(-1, *self.cells).double() + self.given(faces, u)
        v = u.reshape(-1, *self.cells).double()
        v = v.expand(max(len(v), len(faces[0])), *self.cells)
        flux = StencilMap(self.cells, self.periodic).matvec(v, faces)
        R = torch.where(self.active(u.device), f - flux, 0.0)
        return (R[0] if b.dim() == u.dim() == self.dim and len(R) == 1 else R).to(u.dtype)

    def _check_values(self) -> None:
        names = [axis + end for axis in AXES[self.dim] for end in "-+"]
        for name in self.values:
            if name not in names:
                raise InputError(message("PoissonProblem", f"values of sides {names}", name))
            a, upper = AXES[self.dim].index(name[0]), name[1] == "+"
            if self.pairs[a][upper] == "periodic":
                fix = "Remove the value or change the side"
                raise InputError(
                    message("PoissonProblem", "no value on a periodic side", name, fix)
                )

    def _check_tensors(self) -> None:
        mask, k = self.mask, self.k
        if mask is not None and (mask.shape[-self.dim :] != self.cells or mask.dtype != torch.bool):
            expected = f"mask bool of (B, *{self.cells}) or {self.cells}"
            raise InputError(message("PoissonProblem", expected, mask))
        if mask is not None and not bool(mask.reshape(-1, *self.cells).flatten(1).any(1).all()):
            fix = "True marks cells that take part"
            raise InputError(
                message("PoissonProblem", "a mask with active cells", "none active", fix)
            )
        parts = k if isinstance(k, tuple) else (k,) if isinstance(k, Tensor) else ()
        if isinstance(k, tuple):
            shapes = [self.face_shape(a) for a in range(self.dim)]
            if [tuple(c.shape[1:]) for c in k] != shapes:
                got = ", ".join(str(tuple(c.shape)) for c in k)
                raise InputError(message("PoissonProblem", f"k of (B, *faces), {shapes}", got))
        elif isinstance(k, Tensor) and k.shape[1:] != self.cells and k.dim():
            raise InputError(message("PoissonProblem", f"k of (B, *{self.cells})", k))
        rows = [c.detach().flatten() for c in parts] or [torch.as_tensor(k).flatten()]
        wrong = [c[~((c > 0) & c.isfinite())] for c in rows]
        bad = [c for c in wrong if len(c)]
        if bad:
            fix = "Exclude cells by the mask, not by k = 0"
            got = f"{float(bad[0][0]):.3g}"
            raise InputError(message("PoissonProblem", "finite k > 0 everywhere", got, fix))


def _face_mean(k: Tensor, dim: int, periodic: bool, mean: str) -> Tensor:
    """k at faces; outer faces take that of their cell."""
    n = k.shape[dim]
    if periodic:
        low, high = k.roll(1, dim), k
    else:
        wide = torch.cat((k.narrow(dim, 0, 1), k, k.narrow(dim, -1, 1)), dim)
        low, high = wide.narrow(dim, 0, n + 1), wide.narrow(dim, 1, n + 1)
    return 0.5 * (low + high) if mean == "arithmetic" else 2 * low * high / (low + high)


def _both(active: Tensor, dim: int, periodic: bool) -> Tensor:
    """Faces with active cells on both sides; behind outer sides counts as active."""
    if periodic:
        return active & active.roll(1, dim)
    n, first = active.shape[dim], torch.ones_like(active.narrow(dim, 0, 1))
    wide = torch.cat((first, active, first), dim)
    return wide.narrow(dim, 0, n + 1) & wide.narrow(dim, 1, n + 1)
