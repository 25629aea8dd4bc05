"""Shapes as signed distance functions, in metres, in the frame of the shape.

    d(p) > 0 outside, d(p) < 0 inside, n = ∇d / |∇d|, |∇d| = 1 for the analytic shapes

Axial shapes stand along the local z axis. In a 2-D scene a shape is its section y = 0.
Differentiable in the points: d everywhere (on edges and medial axes a one-sided choice is made),
n wherever it is smooth. Every value and every derivative is finite, also at the center of a sphere
and on the axis of a cylinder, where n is some fixed unit vector.

Source: Quilez 2008 (Distance functions), written here with normals and without singularities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .errors import InputError, message
from .mesh_shape import MeshShape
from .shape_base import (
    E_X,
    E_Z,
    Bounds,
    Shape,
    beyond,
    centered,
    corner_rule,
    cylindrical,
    direction,
    require_points,
    require_positive,
)

__all__ = ["Box", "Capsule", "Cylinder", "MeshShape", "Plane", "Shape", "Sphere", "Torus"]


@dataclass(frozen=True)
class Sphere(Shape):
    """Ball, d = |p| − r."""

    kind: ClassVar[int] = 0
    radius: float = 1.0
    """Radius [m]; one metre, the unit ball."""

    def __post_init__(self) -> None:
        require_positive("Sphere", radius=self.radius)

    def signed_distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        require_points("Sphere", points)
        length, n = direction(points, E_Z)
        return length - self.radius, n

    def bounds(self) -> Bounds:
        return centered(self.radius, self.radius, self.radius)

    def volume(self) -> float:
        return 4 / 3 * math.pi * self.radius**3

    def area(self) -> float:
        return math.pi * self.radius**2

    def size(self) -> tuple[float, float, float]:
        return float(self.radius), 0.0, 0.0


@dataclass(frozen=True)
class Box(Shape):
    """Axis-aligned box, d = |max(q, 0)| outside and max(q) inside, q = |p| − h."""

    kind: ClassVar[int] = 1
    half_extents: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Half side lengths along x, y, z [m]; the unit cube."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "half_extents", tuple(float(h) for h in self.half_extents))
        if len(self.half_extents) != 3:
            raise InputError(
                message(
                    "Box",
                    "three half extents [m]",
                    f"{self.half_extents}",
                    "In a 2-D scene give any positive y half extent",
                )
            )
        require_positive("Box", **dict(zip("xyz", self.half_extents, strict=True)))

    def signed_distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        require_points("Box", points)
        sign = torch.where(points < 0, -torch.ones_like(points), torch.ones_like(points))
        q = sign * points - points.new_tensor(self.half_extents)
        d, n = corner_rule(q)
        return d, sign * n

    def bounds(self) -> Bounds:
        return centered(*self.half_extents)

    def volume(self) -> float:
        return 8 * math.prod(self.half_extents)

    def area(self) -> float:
        return 4 * self.half_extents[0] * self.half_extents[2]

    def size(self) -> tuple[float, float, float]:
        return self.half_extents


@dataclass(frozen=True)
class Capsule(Shape):
    """Ball swept along z, d = |p − c e_z| − r with c = clamp(z, −l, l)."""

    kind: ClassVar[int] = 2
    radius: float = 0.5
    """Radius [m]; half a metre, as wide as the unit cube."""
    half_length: float = 0.5
    """Half the distance between the centers of the caps [m]; half a metre."""

    def __post_init__(self) -> None:
        require_positive("Capsule", radius=self.radius, half_length=self.half_length)

    def signed_distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        require_points("Capsule", points)
        x, y, z = points.unbind(-1)
        length, n = direction(torch.stack((x, y, beyond(z, self.half_length)), dim=-1), E_X)
        return length - self.radius, n

    def bounds(self) -> Bounds:
        return centered(self.radius, self.radius, self.radius + self.half_length)

    def volume(self) -> float:
        return math.pi * self.radius**2 * (2 * self.half_length + 4 / 3 * self.radius)

    def area(self) -> float:
        return self.radius * (4 * self.half_length + math.pi * self.radius)

    def size(self) -> tuple[float, float, float]:
        return float(self.radius), float(self.half_length), 0.0


@dataclass(frozen=True)
class Plane(Shape):
    """Half space z < 0, d = z."""

    kind: ClassVar[int] = 3

    def signed_distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        require_points("Plane", points)
        return points[..., 2], points.new_tensor(E_Z).expand(points.shape)

    def bounds(self) -> Bounds:
        return (-math.inf, -math.inf, -math.inf), (math.inf, math.inf, 0.0)

    def volume(self) -> float:
        return math.inf

    def area(self) -> float:
        return math.inf

    def size(self) -> tuple[float, float, float]:
        return 0.0, 0.0, 0.0


@dataclass(frozen=True)
class Cylinder(Shape):
    """Solid cylinder along z: the box rule in (√(x² + y²), |z|)."""

    kind: ClassVar[int] = 4
    radius: float = 0.5
    """Radius [m]; half a metre, as wide as the unit cube."""
    half_height: float = 0.5
    """Half the height [m]; half a metre, as high as the unit cube."""

    def __post_init__(self) -> None:
        require_positive("Cylinder", radius=self.radius, half_height=self.half_height)

    def signed_distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        require_points("Cylinder", points)
        rho, radial, z = cylindrical(points)
        sign = torch.where(z < 0, -torch.ones_like(z), torch.ones_like(z))
        q = torch.stack((rho - self.radius, sign * z - self.half_height), dim=-1)
        d, m = corner_rule(q)
        return d, torch.cat((m[..., :1] * radial, (sign * m[..., 1])[..., None]), dim=-1)

    def bounds(self) -> Bounds:
        return centered(self.radius, self.radius, self.half_height)

    def volume(self) -> float:
        return 2 * math.pi * self.radius**2 * self.half_height

    def area(self) -> float:
        return 4 * self.radius * self.half_height

    def size(self) -> tuple[float, float, float]:
        return float(self.radius), float(self.half_height), 0.0


@dataclass(frozen=True)
class Torus(Shape):
    """Ring around z, d = |(√(x² + y²) − R, z)| − r."""

    kind: ClassVar[int] = 5
    major: float = 1.0
    """Radius of the center line R [m]; one metre."""
    minor: float = 0.25
    """Radius of the tube r [m], below `major`; a quarter of it."""

    def __post_init__(self) -> None:
        require_positive("Torus", major=self.major, minor=self.minor)
        if self.minor >= self.major:
            raise InputError(
                message(
                    "Torus",
                    f"minor < major = {self.major} m",
                    f"{self.minor} m",
                    "Use a Sphere or a thinner tube",
                )
            )

    def signed_distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        require_points("Torus", points)
        rho, radial, z = cylindrical(points)
        q = torch.stack((rho - self.major, z), dim=-1)
        length, m = direction(q, (0.0, 1.0))
        return length - self.minor, torch.cat((m[..., :1] * radial, m[..., 1:]), dim=-1)

    def bounds(self) -> Bounds:
        return centered(self.major + self.minor, self.major + self.minor, self.minor)

    def volume(self) -> float:
        return 2 * math.pi**2 * self.major * self.minor**2

    def area(self) -> float:
        return 2 * math.pi * self.minor**2

    def size(self) -> tuple[float, float, float]:
        return float(self.major), float(self.minor), 0.0
