"""What every shape shares: the protocol, and the distance rules without singular derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .errors import InputError, message

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]

# Squared lengths below this [m²] count as zero when a direction is formed (1e-12 m; the square is
# still a normal float32 number).
TINY = 1e-24
E_X = (1.0, 0.0, 0.0)
E_Z = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Shape:
    """Base of all shapes: a solid with `signed_distance`, `bounds`, `volume` and `area`."""

    kind: ClassVar[int] = -1

    def signed_distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance d and outward unit normal n = ∇d.

        Args:
            points: Points in the frame of the shape [m], shape (..., 3).

        Returns:
            d [m], shape (...), positive outside; n [-], shape (..., 3).

        Differentiable in points. Source: Quilez 2008.
        """
        raise NotImplementedError

    def bounds(self) -> Bounds:
        """Lower and upper corner of the axis-aligned bounding box [m]."""
        raise NotImplementedError

    def volume(self) -> float:
        """Volume [m³]."""
        raise NotImplementedError

    def area(self) -> float:
        """Area of the section y = 0 [m²]: the shape as a 2-D scene sees it."""
        raise NotImplementedError

    def size(self) -> tuple[float, float, float]:
        """Lengths of the shape [m] as the engine's three numbers."""
        raise NotImplementedError


def direction(p: Tensor, fallback: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Length |p| and direction p/|p|; (0, fallback) with zero derivatives at p = 0."""
    squared = (p * p).sum(-1)
    regular = squared > TINY
    length = torch.where(regular, squared, torch.ones_like(squared)).sqrt()
    unit = torch.where(regular[..., None], p / length[..., None], p.new_tensor(fallback))
    return torch.where(regular, length, torch.zeros_like(length)), unit


def corner_rule(q: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the corner region q ≤ 0 and its gradient: |max(q, 0)| outside, max(q) inside.

    Where two faces are equally near, the first one is taken.
    """
    outer = torch.where(q > 0, q, torch.zeros_like(q))
    squared = (outer * outer).sum(-1)
    outside = squared > TINY
    length = torch.where(outside, squared, torch.ones_like(squared)).sqrt()
    nearest = torch.zeros_like(q).scatter(-1, q.argmax(-1, keepdim=True), 1.0)
    d = torch.where(outside, length, (nearest * q).sum(-1))
    return d, torch.where(outside[..., None], outer / length[..., None], nearest)


def cylindrical(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to the z axis, radial direction (..., 2) (x on the axis), and height."""
    rho, radial = direction(points[..., :2], (1.0, 0.0))
    return rho, radial, points[..., 2]


def beyond(z: Tensor, half: float) -> Tensor:
    """Signed excess of z over the interval [−half, half]."""
    inner = torch.where(z < -half, z + half, torch.zeros_like(z))
    return torch.where(z > half, z - half, inner)


def centered(x: float, y: float, z: float) -> Bounds:
    """Bounds of a shape that reaches x, y, z on both sides of its origin."""
    x, y, z = float(x), float(y), float(z)
    return (-x, -y, -z), (x, y, z)


def require_points(where: str, points: Tensor) -> None:
    """Raise unless points are floating and end in three coordinates."""
    if points.ndim == 0 or points.shape[-1] != 3 or not points.is_floating_point():
        raise InputError(
            message(
                f"{where}.signed_distance",
                "floating points of shape (..., 3) [m]",
                f"{tuple(points.shape)} {points.dtype}",
                "Lift 2-D points with colliders.embed",
            )
        )


def require_positive(where: str, **lengths: float) -> None:
    """Raise unless every length is positive and finite."""
    for name, value in lengths.items():
        if not 0 < value < float("inf"):
            raise InputError(
                message(where, f"{name} > 0 m and finite", value, "Give the length in metres")
            )
