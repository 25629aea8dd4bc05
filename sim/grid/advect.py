"""Transport of fields on a MAC grid: back along the flow, or by fluxes.

    x_d = x − dt (2/9 k₁ + 1/3 k₂ + 4/9 k₃),  k₁ = u(x), k₂ = u(x − dt k₁/2), k₃ = u(x − ¾ dt k₂)
    semi_lagrangian:  q' = q(x_d), linear interpolation             first order, any Courant number
    maccormack:       q' = q̂ + ½ (q − Aᴿ q̂),  q̂ = q(x_d), Aᴿ forward in time, kept within the
                      values that q̂ was made from                   second order on smooth fields
    conservative:     q' = q − dt/dx Σ (F_{i+½} − F_{i−½}), F = u (q_upwind + ½ (1 − |c|) slope),
                      van Leer's slope                              keeps Σ q; needs Σ |c| <= 1

Interpolation uses the points that touch gas only, with weights that add up to one again; where all
are solid it gives the point's own value. Derivatives are those of the formulas; they jump where a
departure point crosses a cell border and where a limiter switches.

Source: Ralston 1962; Stam 1999; Selle et al. 2008 (MacCormack, limiter); van Leer 1977.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..core.errors import InputError, StabilityError, message
from .mac import Faces, MacGrid
from .solids import Solids, faces_of

__all__ = ["SCHEMES", "advect_fluxes", "advect_scalars", "advect_velocity", "departure", "sample"]

SCHEMES = ("semi_lagrangian", "maccormack", "conservative")
"""Schemes of scalars; velocities take the first two."""

# Of an interpolation weight: below it nothing but solids is near.
NO_WEIGHT = 1e-6


def sample(
    grid: MacGrid,
    q: Tensor,
    points: Tensor,
    axis: int | None = None,
    *,
    valid: Tensor | None = None,
    own: Tensor | None = None,
    outside: Tensor | None = None,
) -> Tensor:
    """Linear interpolation of cell or face values, clamped at the sides, around periodic ones.

    Args:
        grid: the grid.
        q: values, (B, C, *cells), or (B, C, *faces) of `axis`.
        points: where [m], (B, M, D).
        axis: axis of the faces; None for cells.
        valid: which values may be used, bool (b, *cells or faces); None: all.
        own: values where none may be used, (B, C, M); default zero.
        outside: value behind open sides, (B, C); default the value inside.

    Returns:
        (B, C, M).

    Differentiable in q and points (jumps at cell borders), own and outside.
    Source: multilinear interpolation.
    """
    place = _Lattice(grid, axis, outside is not None)
    if valid is None:
        return _linear(place.extend(q, outside), place.scaled(points))
    mask = valid[:, None].to(q).expand(len(q), 1, *q.shape[2:])
    ones = None if outside is None else torch.ones_like(outside[:, :1])
    both = torch.cat((place.extend(q * mask, outside), place.extend(mask, ones)), 1)
    values = _linear(both, place.scaled(points))
    weight = values[:, -1:]
    some = weight > NO_WEIGHT
    inside = values[:, :-1] / torch.where(some, weight, 1.0)
    return torch.where(some, inside, 0.0 if own is None else own)


def departure(
    grid: MacGrid, u: Faces, points: Tensor, dt: float, valid: Faces | None = None
) -> Tensor:
    """Where gas at `points` was dt ago, by Ralston's third-order scheme; dt < 0: where it goes.

    Args:
        grid: the grid.
        u: velocities on faces [m/s], (B, *faces) per axis.
        points: [m], (B, M, D) or (M, D).
        dt: time [s].
        valid: faces that touch gas; None: all.

    Returns:
        Points [m], (B, M, D), not wrapped around periodic sides.

    Differentiable in u and points. Source: Ralston 1962.
    """
    points = points.expand(len(u[0]), *points.shape[-2:])
    return _ralston(grid, u, points, None, dt, valid)


def _ralston(
    grid: MacGrid, u: Faces, points: Tensor, k1: Tensor | None, dt: float, valid: Faces | None
) -> Tensor:
    """`departure`, with the velocity at `points` where it is known."""

    def velocity(x: Tensor) -> Tensor:
        parts = []
        for a, f in enumerate(u):
            known = None if valid is None else valid[a]
            parts.append(sample(grid, f[:, None], x, a, valid=known)[:, 0])
        return torch.stack(parts, -1)

    k1 = velocity(points) if k1 is None else k1
    k2 = velocity(points - 0.5 * dt * k1)
    k3 = velocity(points - 0.75 * dt * k2)
    return points - dt * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)


def advect_velocity(
    grid: MacGrid, u: Faces, dt: float, solids: Solids, scheme: str = "semi_lagrangian"
) -> Faces:
    """u carried by itself for dt [s]; arguments as in `departure`.

    Differentiable in u. Source: Stam 1999; Selle et al. 2008.
    """
    if scheme not in SCHEMES[:2]:
        raise InputError(
            message("advect_velocity", f"scheme out of {SCHEMES[:2]}", scheme, "Choose one")
        )
    axes = tuple(range(grid.dim))
    back = _from_lattices(grid, u, axes, dt, solids.valid)
    there = None
    if scheme == "maccormack":
        there = _from_lattices(grid, u, axes, -dt, solids.valid)
    out = []
    for a, f in enumerate(u):
        valid = None if solids.valid is None else solids.valid[a]
        ahead = None if there is None else there[a]
        out.append(_carry(grid, f[:, None], back[a], ahead, a, valid, None)[:, 0])
    return tuple(out)


def advect_scalars(
    grid: MacGrid,
    q: Tensor,
    u: Faces,
    dt: float,
    solids: Solids,
    outside: Tensor,
    scheme: str = "semi_lagrangian",
) -> Tensor:
    """Scalars carried by u for dt.

    Args:
        grid: the grid.
        q: C scalars at cells, (B, C, *cells), any unit.
        u: velocities without divergence [m/s], on faces.
        dt: time [s].
        solids: walls and obstacles.
        outside: values that enter through open sides, (B, C).
        scheme: one of SCHEMES.

    Returns:
        Like q.

    Raises:
        StabilityError: "conservative" with Σ |c| > 1.
        InputError: unknown scheme.

    Differentiable in q, u and outside. Source: Stam 1999; Selle et al. 2008; van Leer 1977.
    """
    if scheme == "conservative":
        return advect_fluxes(grid, q, u, dt, solids, outside)
    if scheme not in SCHEMES:
        raise InputError(
            message("advect_scalars", f"scheme out of {SCHEMES}", scheme, "Choose one")
        )
    valid = None if solids.empty else solids.fluid
    (back,) = _from_lattices(grid, u, (None,), dt, solids.valid)
    ahead = None
    if scheme == "maccormack":
        (ahead,) = _from_lattices(grid, u, (None,), -dt, solids.valid)
    return _carry(grid, q, back, ahead, None, valid, outside)


def advect_fluxes(
    grid: MacGrid, q: Tensor, u: Faces, dt: float, solids: Solids, outside: Tensor
) -> Tensor:
    """Scalars moved by fluxes through open faces: what leaves a cell enters the next one.

    Σ q over gas cells changes by what passes open sides only, and a constant stays constant.
    Arguments and errors as in `advect_scalars`.

    Differentiable in q, u and outside. Source: van Leer 1977; one-step Lax–Wendroff slopes.
    """
    total, courant = torch.zeros_like(q), torch.zeros_like(q[:, :1])
    wide = outside.reshape(*outside.shape, *(1,) * grid.dim)
    for a, f in enumerate(u):
        dim, w = a - grid.dim, solids.open[a]
        flow = (f * w * (dt / grid.dx))[:, None]
        c = flow.abs()
        inner = (w > 0).to(q)[:, None]
        low, high = _sides_of(grid, q, a, wide)
        d = (high - low) * inner
        if not grid.periodic[a]:
            ends = torch.ones(d.shape[dim], dtype=d.dtype, device=d.device)
            ends[0] = ends[-1] = 0  # slopes next to a side: upwind there
            d = d * ends.reshape(-1, *(1,) * (-dim - 1))
        before, after = faces_of(grid, d, a)
        same = before * after > 0
        slope = torch.where(same, 2 * before * after / torch.where(same, before + after, 1.0), 0.0)
        s_low, s_high = _sides_of(grid, slope, a, torch.zeros_like(wide))
        upwind = torch.where(flow >= 0, low, high)
        slope = torch.where(flow >= 0, s_low, -s_high)
        total = total + grid.outflow(flow * (upwind + 0.5 * (1 - c) * slope), a)
        courant = courant + torch.stack(faces_of(grid, c.detach(), a)).amax(0)
    worst = float(courant.max())
    if worst > 1:
        raise StabilityError(
            message(
                "advect_fluxes",
                "Σ |u| dt / dx <= 1",
                worst,
                f"Lower dt below {dt / worst:.2g} s, or use a scheme that goes back along the flow",
            )
        )
    return q - total


def _from_lattices(
    grid: MacGrid, u: Faces, axes: tuple[int | None, ...], dt: float, valid: Faces | None
) -> tuple[Tensor, ...]:
    """Departure points of whole lattices of faces or cells, where the first stage is an average."""
    points = [grid.points(a, u[0]).reshape(-1, grid.dim) for a in axes]
    known = []
    for a in axes:
        parts = []
        for b, f in enumerate(u):
            if valid is None:
                parts.append(_onto(grid, f, b, a))
                continue
            weight = _onto(grid, valid[b].to(f), b, a)
            some = weight > NO_WEIGHT
            mean = _onto(grid, f * valid[b], b, a) / torch.where(some, weight, 1.0)
            parts.append(torch.where(some, mean, 0.0))
        known.append(torch.stack(parts, -1))
    every = torch.cat(points).expand(len(u[0]), -1, -1)
    back = _ralston(grid, u, every, torch.cat(known, 1), dt, valid)
    return back.split([len(p) for p in points], 1)


def _onto(grid: MacGrid, f: Tensor, b: int, a: int | None) -> Tensor:
    """Face values of axis b at the points of another lattice, flat; what `sample` gives there."""
    if a != b:
        lower, upper = faces_of(grid, f, b)
        f = 0.5 * (lower + upper)
        f = f if a is None else grid.mean(f, a)
    return f.flatten(1)


class _Lattice:
    """The lattice of cells or faces: positions to array indices, and ghosts."""

    def __init__(self, grid: MacGrid, axis: int | None, ghosts: bool) -> None:
        self.grid = grid
        self.shape = grid.cells if axis is None else grid.face_shape(axis)
        self.shift = [0.0 if a == axis else 0.5 for a in range(grid.dim)]
        self.ghosts = [[int(ghosts and side == "open") for side in pair] for pair in grid.sides]
        self.sizes = [
            n + sum(g) + p for n, g, p in zip(self.shape, self.ghosts, grid.periodic, strict=True)
        ]

    def index(self, points: Tensor) -> Tensor:
        grid = self.grid
        first = [o + grid.dx * s for o, s in zip(grid.origin, self.shift, strict=True)]
        index = (points - points.new_tensor(first)) / grid.dx
        if any(grid.periodic):
            wrapped = torch.remainder(index, points.new_tensor(self.shape))
            index = torch.where(_flags(tuple(grid.periodic), points.device), wrapped, index)
        if any(g[0] for g in self.ghosts):
            index = index + points.new_tensor([g[0] for g in self.ghosts])
        return index

    def extend(self, q: Tensor, outside: Tensor | None) -> Tensor:
        for a, (low, high) in enumerate(self.ghosts):
            dim = a - self.grid.dim
            if self.grid.periodic[a]:
                q = torch.cat((q, q.narrow(dim, 0, 1)), dim)
            elif low or high:
                ghost = outside.reshape(*outside.shape, *(1,) * self.grid.dim)
                ghost = ghost.expand_as(q.narrow(dim, 0, 1))
                q = torch.cat([ghost] * low + [q] + [ghost] * high, dim)
        return q

    def scaled(self, points: Tensor) -> Tensor:
        """Points as torch's grid_sample wants them: −1 … 1 over the indices."""
        grid = self.grid
        scale = [2 / (n - 1) if n > 1 else 0.0 for n in self.sizes]
        if any(grid.periodic):
            return self.index(points) * points.new_tensor(scale) - 1.0
        rows = zip(scale, grid.origin, self.shift, self.ghosts, strict=True)
        first = [s * (g[0] - h - o / grid.dx) - 1 for s, o, h, g in rows]
        scale = [s / grid.dx for s in scale]
        return torch.addcmul(points.new_tensor(first), points, points.new_tensor(scale))


@functools.lru_cache(maxsize=16)
def _flags(values: tuple[bool, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


def _linear(q: Tensor, scaled: Tensor) -> Tensor:
    """(B, C, *n) at (B, M, D) -> (B, C, M)."""
    B, M, D = scaled.shape
    where = scaled.reshape(B, *(1,) * (D - 1), M, D)
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}
    q = q.transpose(2, -1)  # it counts axes from the last one
    return torch.nn.functional.grid_sample(q, where, **options).reshape(B, -1, M)


def _carry(
    grid: MacGrid,
    q: Tensor,
    back: Tensor,
    ahead: Tensor | None,
    axis: int | None,
    valid: Tensor | None,
    outside: Tensor | None,
) -> Tensor:
    """Semi-Lagrangian values, corrected where `ahead` is given; q (B, C, *n)."""
    own = q.flatten(2)
    options = {"valid": valid, "own": own, "outside": outside}
    first = sample(grid, q, back, axis, **options)
    if ahead is None:
        return first.reshape(q.shape)
    again = sample(grid, first.reshape(q.shape), ahead, axis, **{**options, "own": first})
    second = first + 0.5 * (own - again)
    low, high = _bounds(grid, q, back, axis, valid, outside)
    known = low <= high  # no gas among the corners: nothing to correct with
    kept = torch.minimum(torch.maximum(second, low), high)
    return torch.where(known, kept, first).reshape(q.shape)


def _bounds(
    grid: MacGrid,
    q: Tensor,
    points: Tensor,
    axis: int | None,
    valid: Tensor | None,
    outside: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Least and largest of the 2^D values that interpolation at `points` uses."""
    place = _Lattice(grid, axis, outside is not None)
    index = place.index(points).detach()
    results = []
    for sign in (1.0, -1.0):
        m = sign * q
        if valid is not None:
            m = torch.where(valid[:, None], m, torch.inf)
        m = place.extend(m, None if outside is None else sign * outside)
        for a, n in enumerate(place.sizes):
            dim = a - grid.dim
            m = torch.minimum(m, torch.cat((m.narrow(dim, 1, n - 1), m.narrow(dim, n - 1, 1)), dim))
        top = index.new_tensor([n - 1 for n in place.sizes])
        cell = torch.minimum(index.floor().clamp_min(0), top).long()
        flat = cell[..., 0]
        for a in range(1, grid.dim):
            flat = flat * place.sizes[a] + cell[..., a]
        found = m.flatten(2).gather(2, flat[:, None].expand(-1, m.shape[1], -1))
        results.append(sign * found)
    return results[0], results[1]


def _sides_of(grid: MacGrid, q: Tensor, axis: int, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Value below and above each face; `outside` behind the sides."""
    dim = axis - grid.dim
    if grid.periodic[axis]:
        return q.roll(1, dim), q
    ghost = outside.expand_as(q.narrow(dim, 0, 1))
    return torch.cat((ghost, q), dim), torch.cat((q, ghost), dim)
