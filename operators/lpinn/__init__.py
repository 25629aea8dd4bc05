"""Lagrangian physics-informed networks: convection solved along its characteristics."""

from .fit import FitReport, fit
from .model import EulerianPINN, LagrangianPINN, PINNConfig
from .problem import Burgers, Convection, TransportProblem, relative_error

__all__ = [
    "Burgers",
    "Convection",
    "EulerianPINN",
    "FitReport",
    "LagrangianPINN",
    "PINNConfig",
    "TransportProblem",
    "fit",
    "relative_error",
]
