"""NeuralStagger: PDE steps by coarse networks trained on the fine residual; see docs/neuralstagger.md.

Source: Huang et al. 2023, "NeuralStagger: Accelerating Physics-constrained Neural PDE Solver with
Spatial-temporal Decomposition", ICML, arXiv 2302.10255.
"""

from __future__ import annotations

from .control import FittedForcing, fit_forcing, fourier_waves, shedding_frequency
from .groups import Group
from .hybrid import Corrected, corrected_rollout
from .pool import EnvPool
from .residuals import MacStreamPressure, PdeResidual, PhysicsResidual
from .solver import StaggerSolver
from .split import SpaceSplit, TimeSplit
from .train import PhysicsTraining, train_physics
from .weights import load_solver, save_solver, solver_names, warm_start

__all__ = [
    "Corrected",
    "EnvPool",
    "FittedForcing",
    "Group",
    "MacStreamPressure",
    "PdeResidual",
    "PhysicsResidual",
    "PhysicsTraining",
    "SpaceSplit",
    "StaggerSolver",
    "TimeSplit",
    "corrected_rollout",
    "fit_forcing",
    "fourier_waves",
    "load_solver",
    "save_solver",
    "shedding_frequency",
    "solver_names",
    "train_physics",
    "warm_start",
]
