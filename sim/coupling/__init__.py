"""Bodies of different kinds in one scene: rigid bodies, joints and contact inside the implicit solver."""

from __future__ import annotations

from .bodies import AffineBody
from .contact import RigidContact
from .joints import Joint
from .samples import Samples, body_samples, point_samples, surface_samples

__all__ = [
    "AffineBody",
    "Joint",
    "RigidContact",
    "Samples",
    "body_samples",
    "point_samples",
    "surface_samples",
]
