"""PDEs on grids with steps, residuals and derivatives: see docs/pdes.md."""

from __future__ import annotations

from .base import Evolution, FieldControl, FieldState, Parameter, Pde
from .burgers import Burgers, BurgersFV
from .darcy import Darcy
from .diffusion_sorption import DiffusionSorption, sorption_sides
from .finite_volume import FiniteVolume
from .grid import Grid, Side, dirichlet, neumann, robin
from .heat import Heat
from .mac_flow import MacFlow2D
from .mac_step import MacFlowSolver, body_force
from .navier_stokes import NavierStokes2D, NavierStokes3D, arakawa_jacobian
from .reaction_diffusion import FitzHughNagumo
from .samplers import GaussianField, fourier_series, two_phases
from .semilinear import Semilinear
from .spectral import energy_spectrum

__all__ = [
    "Burgers",
    "BurgersFV",
    "Darcy",
    "DiffusionSorption",
    "Evolution",
    "FieldControl",
    "FieldState",
    "FiniteVolume",
    "FitzHughNagumo",
    "GaussianField",
    "Grid",
    "Heat",
    "MacFlow2D",
    "MacFlowSolver",
    "NavierStokes2D",
    "NavierStokes3D",
    "Parameter",
    "Pde",
    "Semilinear",
    "Side",
    "arakawa_jacobian",
    "body_force",
    "dirichlet",
    "energy_spectrum",
    "fourier_series",
    "neumann",
    "robin",
    "sorption_sides",
    "two_phases",
]
