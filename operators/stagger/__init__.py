"""NeuralStagger: PDE steps by coarse networks trained on the fine residual; see docs/neuralstagger.md.

Source: Huang et al. 2023, "NeuralStagger: Accelerating Physics-constrained Neural PDE Solver with
Spatial-temporal Decomposition", ICML, arXiv 2302.10255.
"""

from __future__ import annotations

from .groups import Group
from .solver import StaggerSolver
from .split import SpaceSplit, TimeSplit

__all__ = ["Group", "SpaceSplit", "StaggerSolver", "TimeSplit"]
