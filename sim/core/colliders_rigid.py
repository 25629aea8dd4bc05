"""Rigid bodies: colliders that move freely, with the mass, inertia and contact points of their shape.

    m = ρ V,   I = ρ ∫ (|r|² 1 − r rᵀ) dV   about the center of mass c = ∫ r dV / V

In a 2-D scene a body is its section y = 0, one metre deep, and turns about y only.

Source: closed forms of the solids; Tonon 2005 (tetrahedra) for meshes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from .colliders import Collider, _numbers
from .errors import InputError, message
from .mesh_shape import MeshShape
from .shapes import Box, Capsule, Cylinder, Plane, Shape, Sphere, Torus

__all__ = ["MassProperties", "RigidBody", "contact_points", "mass_properties"]

MOST_POINTS = 512
"""Contact points per body: beyond, the direct contact would cost more than the fluid."""

SECTION_CELLS = 400
"""Cells along the longer side in the quadrature of a mesh's section; its error is about 1e-4."""


@dataclass(frozen=True)
class RigidBody(Collider):
    """A collider that moves by Newton–Euler under gravity, contact and what the material gives back.

    `position` and `orientation` are initial values; `softness`, `friction` and `contact` act as on any
    collider. Contact with walls, colliders and other bodies is hard and does not bounce.
    """

    rho: float = 1000.0
    """Density [kg/m³], uniform; that of water. A hollow body takes its mass over its volume."""
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Initial velocity of the shape's origin [m/s]; at rest."""
    angular_velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Initial angular velocity in world axes [rad/s]; at rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"RigidBody({self.name!r})" if self.name else "RigidBody"
        object.__setattr__(self, "rho", float(self.rho))
        if not 0 < self.rho < math.inf:
            raise InputError(
                message(
                    where, "rho > 0 kg/m³ and finite", self.rho, "Use a Collider to hold it still"
                )
            )
        for name, unit in (("velocity", "m/s"), ("angular_velocity", "rad/s")):
            numbers = _numbers(where, name, getattr(self, name), 3, unit)
            object.__setattr__(self, name, numbers)
        if isinstance(self.shape, Plane) or self.inverted:
            got = "a Plane" if isinstance(self.shape, Plane) else "an inverted one"
            raise InputError(message(where, "a bounded solid", got, "Use a Collider"))


@dataclass(frozen=True)
class MassProperties:
    """What a solid of density 1 weighs."""

    volume: float
    """[m³]; in 2-D area times 1 m."""
    center: tuple[float, float, float]
    """Center of mass in the frame of the shape [m]."""
    moment: np.ndarray
    """Moment of inertia about it over density [m⁵], (3, 3); in 2-D that about y times identity."""


def mass_properties(shape: Shape, dim: int = 3) -> MassProperties:
    """Volume, center and moment of inertia of a shape of density 1.

    Args:
        shape: A bounded shape.
        dim: 3, or 2 for the section y = 0.

    Returns:
        `MassProperties`; closed forms, but a quadrature for the section of a mesh.

    Raises:
        InputError: unbounded shape, or empty section.

    Differentiable in nothing: shapes are constants. Source: closed forms; Tonon 2005.
    """
    if isinstance(shape, MeshShape):
        return _mesh_section(shape) if dim == 2 else _mesh_solid(shape)
    volume = shape.area() if dim == 2 else shape.volume()
    per_volume = _plane_moment(shape) if dim == 2 else _solid_moments(shape)
    return MassProperties(volume, (0.0, 0.0, 0.0), volume * np.diag(per_volume))


def _solid_moments(shape: Shape) -> list[float]:
    """Principal moments over volume [m²]."""
    a, b, c = shape.size()
    if isinstance(shape, Sphere):
        return [0.4 * a * a] * 3
    if isinstance(shape, Box):
        return [(b * b + c * c) / 3, (a * a + c * c) / 3, (a * a + b * b) / 3]
    if isinstance(shape, Capsule):
        tube, caps = 2 * b, 4 / 3 * a  # volumes over πr²
        across = tube * (a * a / 4 + b * b / 3) + caps * (0.4 * a * a + b * b + 0.75 * a * b)
        along = tube * a * a / 2 + caps * 0.4 * a * a
        return [across / (tube + caps)] * 2 + [along / (tube + caps)]
    if isinstance(shape, Cylinder):
        return [a * a / 4 + b * b / 3] * 2 + [a * a / 2]
    if isinstance(shape, Torus):
        return [a * a / 2 + 0.625 * b * b] * 2 + [a * a + 0.75 * b * b]
    raise _unknown(shape)


def _plane_moment(shape: Shape) -> list[float]:
    """Polar moment of the section over its area [m²], three times."""
    a, b, c = shape.size()
    if isinstance(shape, Sphere):
        return [0.5 * a * a] * 3
    if isinstance(shape, Box):
        return [(a * a + c * c) / 3] * 3
    if isinstance(shape, Capsule):
        rectangle, disk = 4 * b, math.pi * a  # areas over r
        moment = rectangle * (a * a + b * b) / 3
        moment += disk * (a * a / 2 + b * b + 8 * a * b / (3 * math.pi))
        return [moment / (rectangle + disk)] * 3
    if isinstance(shape, Cylinder):
        return [(a * a + b * b) / 3] * 3
    if isinstance(shape, Torus):
        return [b * b / 2 + a * a] * 3
    raise _unknown(shape)


def _unknown(shape: Shape) -> InputError:
    fix = "Use Sphere, Box, Capsule, Cylinder, Torus or MeshShape"
    return InputError(message("mass_properties", "a bounded shape", type(shape).__name__, fix))


def _mesh_solid(shape: MeshShape) -> MassProperties:
    """Sums over the tetrahedra (origin, a, b, c): ∫ r rᵀ = V/20 (Σ r rᵀ + (Σ r)(Σ r)ᵀ)."""
    middle = shape.vertices.mean(0)  # less cancellation than about the origin
    corners = (shape.vertices - middle)[shape.faces]
    volumes = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    total = corners.sum(1)
    V = float(volumes.sum())
    center = np.einsum("f,fi->i", volumes, total) / (4 * V)
    second = np.einsum("f,fki,fkj->ij", volumes, corners, corners)
    second = (second + np.einsum("f,fi,fj->ij", volumes, total, total)) / 20
    second -= V * np.outer(center, center)
    moment = np.trace(second) * np.eye(3) - second
    place = center + middle
    return MassProperties(V, (float(place[0]), float(place[1]), float(place[2])), moment)


def _mesh_section(shape: MeshShape) -> MassProperties:
    lower, upper = shape.bounds()
    h = max(upper[0] - lower[0], upper[2] - lower[2]) / SECTION_CELLS
    x, z = (np.arange(lower[a] - h, upper[a] + h, h) for a in (0, 2))
    points = np.stack([*np.meshgrid(x, [0.0], z, indexing="ij")], -1).reshape(-1, 3)
    d = shape.signed_distance(torch.from_numpy(points))[0].numpy()
    share = np.clip(0.5 - d / h, 0.0, 1.0) * h * h
    area = float(share.sum())
    if area <= 0:
        fix = "Move the mesh onto the plane y = 0"
        raise InputError(message("mass_properties", "a section at y = 0", "none", fix))
    center = (share[:, None] * points).sum(0) / area
    moment = float((share * ((points - center) ** 2).sum(-1)).sum())
    exact = shape.area()
    place = (float(center[0]), 0.0, float(center[2]))
    return MassProperties(exact, place, moment * exact / area * np.eye(3))


def contact_points(shape: Shape, spacing: float, dim: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Balls that stand for a shape where it touches other solids.

    Round shapes are a few balls of their own radius, so they roll smoothly; others are points of
    their surface, edges and corners included.

    Args:
        shape: A bounded shape.
        spacing: Distance of neighbors [m]; grows where there would be more than 512.
        dim: 3, or 2 for the section y = 0.

    Returns:
        Centers in the frame of the shape [m], (n, 3), and radii [m], (n,).
    """
    a, b, _ = shape.size()
    if isinstance(shape, Sphere):
        return np.zeros((1, 3)), np.array([a])
    if isinstance(shape, Capsule):
        z = np.linspace(-b, b, min(MOST_POINTS, 2 + math.ceil(2 * b / spacing)))
        return z[:, None] * np.array([0.0, 0.0, 1.0]), np.full(len(z), a)
    if isinstance(shape, Torus):
        n = 2 if dim == 2 else min(MOST_POINTS, max(8, math.ceil(2 * math.pi * a / spacing)))
        angle = 2 * math.pi * np.arange(n) / n
        ring = a * np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
        return ring * (np.array([1.0, 0.0, 1.0]) if dim == 2 else 1.0), np.full(n, b)
    points = _surface(shape, spacing, dim)
    while len(points) > MOST_POINTS:
        spacing *= 1.25
        points = _surface(shape, spacing, dim)
    return points, np.zeros(len(points))


def _surface(shape: Shape, spacing: float, dim: int) -> np.ndarray:
    """Lattice points near the surface, moved onto it and thinned; points beyond a corner fall on it."""
    lower, upper = shape.bounds()
    axes = []
    for axis, (lo, hi) in enumerate(zip(lower, upper, strict=True)):
        n = math.ceil((hi - lo) / spacing) + 2
        middle = 0.5 * (lo + hi)
        axes.append(middle + spacing * (np.arange(n) - (n - 1) / 2))
        if dim == 2 and axis == 1:
            axes[-1] = np.zeros(1)
    points = torch.tensor(list(itertools.product(*axes)), dtype=torch.float64)
    d, _ = shape.signed_distance(points)
    near = d.abs() < 0.9 * spacing
    points = points[near]
    outside = d[near].numpy() > 0
    for _ in range(4):
        d, n = shape.signed_distance(points)
        points = points - d[:, None] * n
        if dim == 2:
            points[:, 1] = 0.0
    flat = points.numpy()
    # Corners first, so that thinning keeps them: they lie farthest out.
    order = np.lexsort((-np.linalg.norm(flat - flat.mean(0), axis=1), ~outside))
    flat = flat[order]
    kept = np.ones(len(flat), dtype=bool)
    for i, near_by in enumerate(cKDTree(flat).query_ball_point(flat, 0.6 * spacing)):
        if kept[i]:
            kept[[j for j in near_by if j > i]] = False
    return flat[kept]
