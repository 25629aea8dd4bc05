"""One implicit solver for deformable bodies: solids, sheets and rods, with contact; differentiable."""

from .bending import hinge_angle
from .model import FEMControl, FEMModel, FEMState, Handle
from .parts import Rod, Sheet, Solid
from .quadratic import quadratic, split_triangles
from .solver import FEMConfig, SolverFEM
from .terms import Contact, StepInput, Term
from .twist import sections, twist_angle

__all__ = [
    "Contact",
    "FEMConfig",
    "FEMControl",
    "FEMModel",
    "FEMState",
    "Handle",
    "Rod",
    "Sheet",
    "Solid",
    "SolverFEM",
    "StepInput",
    "Term",
    "hinge_angle",
    "quadratic",
    "sections",
    "split_triangles",
    "twist_angle",
]
