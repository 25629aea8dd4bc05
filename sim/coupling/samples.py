"""What touches: points that hang on the points of a scene, each with an area.

    y = Σ_i w_i x_i,   Σ w_i = 1,   area A,   radius a of a ball around y (0: the point itself)

Sums over samples approximate integrals over surfaces, so forces do not depend on how finely one samples.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.colliders_rigid import contact_points
from ..core.errors import InputError, message
from ..core.shapes import Capsule, Sphere, Torus
from ..core.triangle_rules import DEGREES, triangle_rule
from .bodies import AffineBody

__all__ = ["Samples", "body_samples", "point_samples", "surface_samples"]


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """n places that touch, each fixed to k points of the scene."""

    name: str
    """Key of friction pairs."""
    stencil: Tensor
    """Points, int64 (n, k)."""
    weights: Tensor
    """w, float64 (n, k), rows sum to 1."""
    area: Tensor
    """A [m²], (n,)."""
    radius: Tensor
    """a [m], (n,)."""
    body: AffineBody | None = None
    """The body they belong to, None for deformable surfaces."""

    def __post_init__(self) -> None:
        n = len(self.stencil)
        shapes = [tuple(t.shape) for t in (self.stencil, self.weights, self.area, self.radius)]
        right = n > 0 and self.stencil.ndim == 2 and shapes[1:] == [shapes[0], (n,), (n,)]
        if not right or self.stencil.is_floating_point():
            expected = "stencil int (n, k), weights (n, k), area (n,) and radius (n,), n > 0"
            raise InputError(message(f"Samples {self.name!r}", expected, f"{shapes}", "Match them"))
        if not bool((self.area > 0).all()) or not bool((self.radius >= 0).all()):
            got = f"{float(self.area.min()):.3g} m², {float(self.radius.min()):.3g} m"
            fix = "Drop samples without area"
            raise InputError(message(f"Samples {self.name!r}", "area > 0, radius >= 0", got, fix))

    def __len__(self) -> int:
        return len(self.stencil)


def surface_samples(name: str, X: Tensor, triangles: Any, per_triangle: int = 3) -> Samples:
    """Quadrature points of a surface.

    Args:
        name: of the samples.
        X: rest positions of the scene [m], (N, 3).
        triangles: (F, 3).
        per_triangle: n, 1 (the middle), 3, 6 or 12; the contact gets finer and the mesh stays.

    Returns:
        n F samples with a share of the rest area each.

    Raises:
        InputError: another number.

    Source: `core.triangle_rules`.
    """
    if per_triangle not in DEGREES:
        expected = f"per_triangle out of {list(DEGREES)}"
        fix = "Use point_samples for the corners"
        raise InputError(message("surface_samples", expected, per_triangle, fix))
    cells = torch.as_tensor(triangles).long()
    rule, share = triangle_rule(per_triangle)
    n = len(rule)
    area = _areas(X, cells)
    return Samples(
        name,
        cells.repeat_interleave(n, 0),
        rule.repeat(len(cells), 1),
        (area[:, None] * share).flatten(),
        torch.zeros(n * len(cells), dtype=torch.float64),
    )


def point_samples(name: str, X: Tensor, triangles: Any) -> Samples:
    """The corners of a surface, each with a third of the area of its triangles."""
    cells = torch.as_tensor(triangles).long()
    share = (_areas(X, cells) / 3).repeat_interleave(3)
    points, owner = cells.reshape(-1).unique(return_inverse=True)
    area = torch.zeros(len(points), dtype=torch.float64).index_add(0, owner, share)
    one = torch.ones(len(points), 1, dtype=torch.float64)
    return Samples(name, points[:, None], one, area, torch.zeros_like(area))


def body_samples(body: AffineBody, spacing: float, name: str = "") -> Samples:
    """The surface of a rigid body; round ones are a few balls of their own radius, so they roll smoothly.

    Args:
        body: of the scene.
        spacing: distance of neighbors [m].
        name: default that of the body.

    Returns:
        Samples that share the surface of the body, or for balls a disk of a tenth of their radius: what
        touches a plane is a spot.

    Source: `core.colliders_rigid.contact_points`.
    """
    if not 0 < spacing < math.inf:
        raise InputError(message("body_samples", "spacing > 0 m", spacing, "Give it in m"))
    shape = body.body.shape
    Y, radius = contact_points(shape, spacing)
    if isinstance(shape, Sphere | Capsule | Torus):
        area = math.pi * (0.1 * radius) ** 2
    else:
        area = np.full(len(Y), _surface_area(shape, spacing) / len(Y))
    places = torch.from_numpy(np.ascontiguousarray(Y)).double()
    rows = torch.arange(body.first, body.first + 4).expand(len(Y), 4)
    return Samples(
        name or body.name,
        rows.clone(),
        body.weights(places),
        torch.from_numpy(np.asarray(area)).double(),
        torch.from_numpy(np.asarray(radius)).double(),
        body,
    )


def _surface_area(shape: Any, spacing: float) -> float:
    """dV/da of the shape grown by a, from a lattice of distances; its error is of order spacing."""
    lower, upper = shape.bounds()
    size = max(b - a for a, b in zip(lower, upper, strict=True))
    h = min(spacing, size / 40)
    axes = [
        torch.arange(a - 2 * h, b + 2 * h, h, dtype=torch.float64)
        for a, b in zip(lower, upper, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    d = shape.signed_distance(grid)[0].abs()
    # A hat of width 2 h integrates to the area of the level set d = 0.
    return float((1 - d / (1.5 * h)).clamp(min=0).sum() * h**3 / (1.5 * h))


def _areas(X: Tensor, cells: Tensor) -> Tensor:
    corners = torch.as_tensor(X, dtype=torch.float64)[cells]
    edges = corners[:, 1:] - corners[:, :1]
    return 0.5 * torch.linalg.cross(edges[:, 0], edges[:, 1]).norm(dim=-1)
