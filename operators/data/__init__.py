"""Particle trajectories as training data: windows, batches of unequal scenes, statistics."""

from __future__ import annotations

from .batches import EpochBatches
from .particles import KINDS, ParticleBatch, Statistics, collate
from .sources import farthest_points
from .windows import ParticleWindows

__all__ = [
    "KINDS",
    "EpochBatches",
    "ParticleBatch",
    "ParticleWindows",
    "Statistics",
    "collate",
    "farthest_points",
]
