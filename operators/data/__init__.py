"""Particle trajectories as training data: batches of unequal scenes, windows and statistics."""

from __future__ import annotations

from .particles import KINDS, ParticleBatch, Statistics, collate

__all__ = ["KINDS", "ParticleBatch", "Statistics", "collate"]
