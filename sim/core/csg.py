"""Solids put together from parts, as expressions whose signed distance torch evaluates.

    union      d = min(d₁, d₂),  blended over k:  d = w d₁ + (1 − w) d₂ − k w (1 − w),
                                                  w = clamp(½ + (d₂ − d₁)/2k, 0, 1)
    intersection  d = −union(−d₁, −d₂)            difference  d = intersection(d₁, −d₂)
    rounded    d = d₁ − r                         shell       d = |d₁| − h/2

The parts are expressions in torch. Outside a sharp union, and inside a sharp intersection or difference,
d is the exact distance if that of the parts is; on the other side, and within k of a blend, it is a bound
with the right sign and the right zero. `Turned` and `Strokes` are exact outside.

The engines know no expressions: `sampled_shape.Sampled` turns one into a shape for colliders.

Differentiable in the points, with one-sided derivatives where two parts are equally near.
Source: Quilez 2008 (Distance functions; smooth minimum, quadratic).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import rotations
from .csg_rules import arc, arc_bounds, box, nearest, segment, smooth_min
from .errors import InputError, message
from .shape_base import E_Z, Bounds, Shape, cylindrical, direction, require_points

__all__ = [
    "Difference",
    "Intersection",
    "Moved",
    "OpenBox",
    "Part",
    "Rounded",
    "Shell",
    "Strokes",
    "Turned",
    "Union",
]

Numbers = tuple[float, ...]


class Part(Shape):
    """Base of expressions: they know distance, gradient and bounds; a `Sampled` copy
    measures the rest."""

    def slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """d [m] (...) and ∇d [-] (..., 3) of points (..., 3); |∇d| may be below 1 in a blend."""
        raise NotImplementedError

    def signed_distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        require_points(type(self).__name__, points)
        d, gradient = self.slope(points)
        return d, direction(gradient, E_Z)[1]

    def volume(self) -> float:
        """Volume [m³] of the sampled surface."""
        return self._sampled().volume()

    def area(self) -> float:
        """Area of the section y = 0 [m²] of the sampled surface."""
        return self._sampled().area()

    def size(self) -> tuple[float, float, float]:
        return 0.0, 0.0, 0.0

    def _sampled(self) -> Shape:
        from .sampled_shape import Sampled

        return Sampled(self, resolution=96)


@dataclass(frozen=True)
class Union(Part):
    """Whatever is in one of two solids, with a fillet of width `blend` where they meet."""

    a: Shape
    """First solid."""
    b: Shape
    """Second solid."""
    blend: float = 0.0
    """Width k of the fillet [m]: it adds at most k/4 of material; 0 is a sharp seam."""

    def __post_init__(self) -> None:
        _require("Union", ">= 0", blend=self.blend)

    def slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return smooth_min(*_slope(self.a, points), *_slope(self.b, points), self.blend)

    def bounds(self) -> Bounds:
        (a, b), (c, d) = self.a.bounds(), self.b.bounds()
        grow = 0.25 * self.blend
        return (
            tuple(min(p, q) - grow for p, q in zip(a, c, strict=True)),
            tuple(max(p, q) + grow for p, q in zip(b, d, strict=True)),
        )


@dataclass(frozen=True)
class Intersection(Part):
    """Whatever is in both of two solids, with its edge rounded over `blend`."""

    a: Shape
    """First solid."""
    b: Shape
    """Second solid."""
    blend: float = 0.0
    """Width k of the rounding [m]: it removes at most k/4; 0 is a sharp edge."""

    def __post_init__(self) -> None:
        _require("Intersection", ">= 0", blend=self.blend)

    def slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        (a, m), (b, n) = _slope(self.a, points), _slope(self.b, points)
        d, gradient = smooth_min(-a, -m, -b, -n, self.blend)
        return -d, -gradient

    def bounds(self) -> Bounds:
        (a, b), (c, d) = self.a.bounds(), self.b.bounds()
        return (
            tuple(max(p, q) for p, q in zip(a, c, strict=True)),
            tuple(min(p, q) for p, q in zip(b, d, strict=True)),
        )


@dataclass(frozen=True)
class Difference(Part):
    """The first solid without the second, with its edge rounded over `blend`."""

    a: Shape
    """What is cut."""
    b: Shape
    """What is taken away."""
    blend: float = 0.0
    """Width k of the rounding [m]: it removes at most k/4; 0 is a sharp edge."""

    def __post_init__(self) -> None:
        _require("Difference", ">= 0", blend=self.blend)

    def slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        (a, m), (b, n) = _slope(self.a, points), _slope(self.b, points)
        d, gradient = smooth_min(-a, -m, b, n, self.blend)
        return -d, -gradient

    def bounds(self) -> Bounds:
        return self.a.bounds()


@dataclass(frozen=True)
class Rounded(Part):
    """A solid grown by `radius` on all sides, which rounds its outer edges."""

    part: Shape
    """The solid."""
    radius: float
    """Growth r [m]; negative shrinks and rounds inner edges instead."""

    def slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        d, gradient = _slope(self.part, points)
        return d - self.radius, gradient

    def bounds(self) -> Bounds:
        return _grown(self.part.bounds(), self.radius)


@dataclass(frozen=True)
class Shell(Part):
    """The skin of a solid, half of its thickness on each side of the surface: it is closed."""

    part: Shape
    """The solid."""
    thickness: float
    """Thickness h [m]."""

    def __post_init__(self) -> None:
        _require("Shell", "> 0", thickness=self.thickness)

    def slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        d, gradient = _slope(self.part, points)
        side = torch.where(d < 0, -torch.ones_like(d), torch.ones_like(d))
        return side * d - 0.5 * self.thickness, side[..., None] * gradient

    def bounds(self) -> Bounds:
        return _grown(self.part.bounds(), 0.5 * self.thickness)


@dataclass(frozen=True)
class Moved(Part):
    """A solid at another place, d(p) = d₁(R(q)ᵀ (p − t))."""

    part: Shape
    """The solid."""
    position: Numbers = (0.0, 0.0, 0.0)
    """Where its origin goes, t [m]."""
    orientation: Numbers = (1.0, 0.0, 0.0, 0.0)
    """Quaternion q (w, x, y, z) [-]."""

    def slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        turn = points.new_tensor(self.orientation)
        local = rotations.rotate_inverse(turn, points - points.new_tensor(self.position))
        d, gradient = _slope(self.part, local)
        return d, rotations.rotate(turn, gradient)

    def bounds(self) -> Bounds:
        low, high = self.part.bounds()
        corners = torch.tensor(
            [[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1])
             for z in (low[2], high[2])], dtype=torch.float64)  # fmt: skip
        turn = torch.tensor(self.orientation, dtype=torch.float64)
        moved = rotations.rotate(turn, corners) + corners.new_tensor(self.position)
        return tuple(moved.amin(0).tolist()), tuple(moved.amax(0).tolist())


@dataclass(frozen=True)
class Turned(Part):
    """A surface of revolution about z: thick lines and arcs of the half plane (ρ, z), turned.

    Around the axis a stroke keeps its distance, so d is the planar distance of (ρ, z): exact outside,
    and inside where one stroke is nearest and the wall is not at a bend.
    """

    lines: tuple[Numbers, ...] = ()
    """Straight strokes (ρ₀, z₀, ρ₁, z₁, half thickness) [m], ρ >= 0."""
    arcs: tuple[Numbers, ...] = ()
    """Circular strokes (ρ, z of the center, radius [m], from, to [rad], half thickness [m]),
    counterclockwise from +ρ."""

    def __post_init__(self) -> None:
        if not self.lines and not self.arcs:
            raise InputError(message("Turned", "a line or an arc", "none", "Give a profile"))
        for row in self.lines:
            ends = min(row[0], row[2]) if len(row) == 5 else -1.0
            if not (ends >= 0 and row[4] > 0):
                raise _stroke_error("Turned", "lines (ρ₀ >= 0, z₀, ρ₁ >= 0, z₁, half > 0)", row)
        for row in self.arcs:
            good = len(row) == 6 and row[2] > 0 and row[5] > 0
            if not (good and 0 < row[4] - row[3] <= 2 * math.pi):
                raise _stroke_error(
                    "Turned", "arcs (ρ, z, radius > 0, from < to <= from + 2π, half > 0)", row
                )
            if arc_bounds(row)[0] < -1e-12:
                raise _stroke_error("Turned", "arcs that stay at ρ >= 0", row)

    def slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        rho, radial, z = cylindrical(points)
        p = torch.stack((rho, z), dim=-1)
        parts = [segment(p, row[:2], row[2:4], row[4]) for row in self.lines]
        parts += [arc(p, row) for row in self.arcs]
        d, m = nearest(parts)
        return d, torch.cat((m[..., :1] * radial, m[..., 1:]), dim=-1)

    def bounds(self) -> Bounds:
        boxes = [
            (min(r[0], r[2]) - r[4], max(r[0], r[2]) + r[4],
             min(r[1], r[3]) - r[4], max(r[1], r[3]) + r[4]) for r in self.lines
        ]  # fmt: skip
        for row in self.arcs:
            left, right, low, high = arc_bounds(row)
            h = row[5]
            boxes.append((left - h, right + h, low - h, high + h))
        side = max(b[1] for b in boxes)
        return (-side, -side, min(b[2] for b in boxes)), (side, side, max(b[3] for b in boxes))


@dataclass(frozen=True)
class Strokes(Part):
    """Round rods between points of space: a handle, a wire, a stick. Exact outside."""

    rods: tuple[Numbers, ...]
    """Rods (x₀, y₀, z₀, x₁, y₁, z₁, radius) [m]."""

    def __post_init__(self) -> None:
        for row in self.rods:
            if len(row) != 7 or not row[6] > 0:
                raise _stroke_error("Strokes", "rods (x₀, y₀, z₀, x₁, y₁, z₁, radius > 0)", row)
        if not self.rods:
            raise InputError(message("Strokes", "at least one rod", "none", "Give rods"))

    def slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return nearest([segment(points, row[:3], row[3:6], row[6]) for row in self.rods])

    def bounds(self) -> Bounds:
        low = [min(min(r[i], r[i + 3]) - r[6] for r in self.rods) for i in range(3)]
        high = [max(max(r[i], r[i + 3]) + r[6] for r in self.rods) for i in range(3)]
        return tuple(low), tuple(high)


@dataclass(frozen=True)
class OpenBox(Part):
    """A box-shaped tank without a lid, its floor on z = 0: exact on both sides.

    Outside it is the union of a floor and four walls, inside the outer box without the inner one.
    """

    half_extents: Numbers = (0.5, 0.25)
    """Half of the inner sides along x and y [m]."""
    depth: float = 0.5
    """Inner height [m]."""
    wall: float = 0.02
    """Thickness of walls and floor [m]; the floor reaches down to −wall."""

    def __post_init__(self) -> None:
        x, y = self.half_extents
        _require("OpenBox", "> 0", x=x, y=y, depth=self.depth, wall=self.wall)

    def slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.half_extents
        h, depth = self.wall, self.depth
        level = points.new_tensor((1.0, 1.0, 0.0))
        sign = torch.where((points < 0) & (level > 0), -torch.ones_like(points), 1.0)
        points = sign * points  # the quarter x, y >= 0, where one wall of each pair is nearer
        outside, outward = nearest(
            [
                box(points, (x + h / 2, 0.0, (depth - h) / 2), (h / 2, y + h, (depth + h) / 2)),
                box(points, (0.0, y + h / 2, (depth - h) / 2), (x + h, h / 2, (depth + h) / 2)),
                box(points, (0.0, 0.0, -h / 2), (x + h, y + h, h / 2)),
            ]
        )
        solid, m = box(points, (0.0, 0.0, (depth - h) / 2), (x + h, y + h, (depth + h) / 2))
        hollow, n = box(points, (0.0, 0.0, depth), (x, y, depth))
        inner = solid >= -hollow
        inside = torch.where(inner, solid, -hollow)
        inward = torch.where(inner[..., None], m, -n)
        out = outside > 0
        return (
            torch.where(out, outside, inside),
            sign * torch.where(out[..., None], outward, inward),
        )

    def bounds(self) -> Bounds:
        x, y = (float(s) + self.wall for s in self.half_extents)
        return (-x, -y, -float(self.wall)), (x, y, float(self.depth))


def _slope(shape: Shape, points: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and its gradient, which is the normal for shapes that are not expressions."""
    return shape.slope(points) if isinstance(shape, Part) else shape.signed_distance(points)


def _grown(bounds: Bounds, by: float) -> Bounds:
    low, high = bounds
    return tuple(v - by for v in low), tuple(v + by for v in high)


def _require(where: str, rule: str, **lengths: float) -> None:
    """Raise unless all lengths are finite and > 0, or >= 0 where the rule says so."""
    for name, value in lengths.items():
        if not (0 <= value < math.inf) or (rule == "> 0" and value == 0):
            raise InputError(
                message(where, f"{name} {rule} m and finite", value, "Give the length in metres")
            )


def _stroke_error(where: str, expected: str, row: Numbers) -> InputError:
    return InputError(message(where, expected, f"{row}", "Correct this stroke, in metres"))
