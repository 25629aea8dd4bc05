"""Differentiable MLS-MPM: liquids, elastic, plastic and granular matter, bodies, tools, emitters."""

from __future__ import annotations

from ..core.colliders_rigid import RigidBody
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
    "RigidBody",
    "SolverMPM",
]
