"""Differentiable MLS-MPM: liquids, elastic, plastic and granular matter, tools and emitters."""

from __future__ import annotations

from .model import WALLS, Emitter, Grid, Group, MPMControl, MPMModel, MPMState
from .solver import MPMConfig, Prepared, SolverMPM

__all__ = [
    "WALLS",
    "Emitter",
    "Grid",
    "Group",
    "MPMConfig",
    "MPMControl",
    "MPMModel",
    "MPMState",
    "Prepared",
    "SolverMPM",
]
