"""Different kinds of bodies in one scene: rigid bodies and joints inside the implicit solver, and
material points that touch its bodies."""

from __future__ import annotations

from .bodies import AffineBody
from .contact import RigidContact
from .joints import Joint
from .samples import Samples, body_samples, point_samples, surface_samples
from .staggered import CoupledControl, CoupledSolver, CoupledState, ParticleContact

__all__ = [
    "AffineBody",
    "CoupledControl",
    "CoupledSolver",
    "CoupledState",
    "Joint",
    "ParticleContact",
    "RigidContact",
    "Samples",
    "body_samples",
    "point_samples",
    "surface_samples",
]
