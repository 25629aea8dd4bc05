"""Contact that never lets surfaces pass through each other, with friction; two terms of the solver."""

from __future__ import annotations

from .obstacles import ObstacleContact
from .pairs_term import SurfaceContact
from .surface import Surface, boundary_triangles

__all__ = ["ObstacleContact", "Surface", "SurfaceContact", "boundary_triangles"]
