"""What operators learn from: windows of particle trajectories, statistics; rows of fields, symmetries."""

from __future__ import annotations

from .batches import EpochBatches
from .fields import RowBatch, RowBatches
from .pairs import FieldPairs, PairBatches
from .particles import KINDS, ParticleBatch, Statistics, collate
from .sources import farthest_points
from .symmetries import RandomShift, RandomTurn
from .windows import ParticleWindows

__all__ = [
    "KINDS",
    "EpochBatches",
    "FieldPairs",
    "PairBatches",
    "ParticleBatch",
    "ParticleWindows",
    "RandomShift",
    "RandomTurn",
    "RowBatch",
    "RowBatches",
    "Statistics",
    "collate",
    "farthest_points",
]
