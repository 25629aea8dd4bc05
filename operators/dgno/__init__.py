"""Latent generative models of PDE inputs and solutions, trained on residuals, and their inversion.

Source: Zang & Koutsourelakis 2025, "DGenNO: a novel physics-aware neural operator for solving forward and
inverse PDE problems based on deep, generative probabilistic modeling", J. Comput. Phys. 538, 114137.
"""

from __future__ import annotations

from .bounds import EnergyBounds, energy_bounds
from .burgers import Burgers1D
from .csrbf import TEST_FUNCTIONS, Particles, TestFunctions, wendland
from .darcy import Darcy2D, sine_mollifier
from .data import (
    burgers_inputs,
    burgers_solutions,
    darcy_fluxes,
    darcy_inputs,
    darcy_solutions,
)
from .discrepancy import Discrepancy
from .encoders import Encoder, at_points
from .evaluate import (
    coverage,
    cross_correlation,
    generate,
    logistic_phases,
    pixel_accuracy,
    predict,
    r_squared,
    relative_error,
    residual_rms,
)
from .helmholtz import Helmholtz2D, helmholtz_solutions
from .inverse import Observation, Posterior, Target, noise_level, sensors
from .model import DGNO, DGNOConfig
from .multionet import MultiONet
from .nuts import nuts
from .priors import Bounded, CubePrior, NormalPrior, Prior, RealNVP, ZukoPrior, fit_prior
from .problem import FieldSpec, Problem
from .sampling import Samples, hamiltonian
from .scattered import PointEncoder, Scattered
from .stokes import StokesCylinder, inflows
from .stokes_reference import StokesReference
from .weights import dgno_names, load_dgno, save_dgno

__all__ = [
    "TEST_FUNCTIONS",
    "DGNO",
    "Bounded",
    "Burgers1D",
    "CubePrior",
    "DGNOConfig",
    "Darcy2D",
    "Discrepancy",
    "Encoder",
    "EnergyBounds",
    "FieldSpec",
    "Helmholtz2D",
    "MultiONet",
    "NormalPrior",
    "Observation",
    "Particles",
    "PointEncoder",
    "Posterior",
    "Prior",
    "Problem",
    "RealNVP",
    "Samples",
    "Scattered",
    "StokesCylinder",
    "StokesReference",
    "Target",
    "TestFunctions",
    "ZukoPrior",
    "at_points",
    "burgers_inputs",
    "burgers_solutions",
    "coverage",
    "cross_correlation",
    "darcy_fluxes",
    "darcy_inputs",
    "darcy_solutions",
    "dgno_names",
    "energy_bounds",
    "fit_prior",
    "generate",
    "hamiltonian",
    "helmholtz_solutions",
    "inflows",
    "load_dgno",
    "logistic_phases",
    "noise_level",
    "nuts",
    "pixel_accuracy",
    "predict",
    "r_squared",
    "relative_error",
    "residual_rms",
    "save_dgno",
    "sensors",
    "sine_mollifier",
    "wendland",
]
