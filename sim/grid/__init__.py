"""PDEs on staggered grids, in torch: incompressible gas with smoke, heat and obstacles."""

from __future__ import annotations

from .advect import advect_scalars, advect_velocity, departure, sample
from .forces import Nozzle
from .mac import MacGrid
from .model import GasControl, GasModel, GasState
from .pressure import PressureSystem, project
from .solids import Solids, solid_velocity, solids_of
from .solver import GasConfig, GasSolver

__all__ = [
    "GasConfig",
    "GasControl",
    "GasModel",
    "GasSolver",
    "GasState",
    "MacGrid",
    "Nozzle",
    "PressureSystem",
    "Solids",
    "advect_scalars",
    "advect_velocity",
    "departure",
    "project",
    "sample",
    "solid_velocity",
    "solids_of",
]
