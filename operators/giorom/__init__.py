"""Reduced-order learning of Lagrangian dynamics on sampled particles (GIOROM).

Two parts, trained separately: a time-stepper moves n sampled particles, a full-field map gives the
positions of all N particles from theirs.

Source: Viswanath et al. 2024, "Reduced-Order Neural Operators: Learning Lagrangian Dynamics on Highly
Sparse Graphs", arXiv 2407.03925.
"""

from __future__ import annotations

from .gns import GNS, GNSConfig
from .kernel_rom import KernelROM, SplineCorrection
from .losses import StepperLoss, random_walk_noise
from .reconstruct import AffineMLS, FieldMap, InverseDistance, LocalSpline, follow
from .rollout import AccelerationModel, ConstantVelocity, one_step_mse, rollout, rollout_mse, step
from .stepper import GioromConfig, GioromStepper

__all__ = [
    "GNS",
    "AccelerationModel",
    "AffineMLS",
    "ConstantVelocity",
    "FieldMap",
    "GNSConfig",
    "GioromConfig",
    "GioromStepper",
    "InverseDistance",
    "KernelROM",
    "LocalSpline",
    "SplineCorrection",
    "StepperLoss",
    "follow",
    "one_step_mse",
    "random_walk_noise",
    "rollout",
    "rollout_mse",
    "step",
]
