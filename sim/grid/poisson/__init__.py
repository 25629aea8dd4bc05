"""Poisson problems on cell-centred grids, and every solver for them behind one call."""

from __future__ import annotations

from .cholesky import IncompleteCholesky
from .cycle import VCycle
from .problem import PoissonProblem
from .solve import METHODS, PoissonSolution, PoissonSystem, solve_poisson
from .spectral import AxisTransform, SpectralFactor, axis_transform
from .stencil import Faces, Stencil, StencilMap
from .system import FaceSystem

__all__ = [
    "METHODS",
    "AxisTransform",
    "FaceSystem",
    "Faces",
    "IncompleteCholesky",
    "PoissonProblem",
    "PoissonSolution",
    "PoissonSystem",
    "SpectralFactor",
    "Stencil",
    "StencilMap",
    "VCycle",
    "axis_transform",
    "solve_poisson",
]
