"""Transform once: operators that live on the coefficients of fields in a basis that fits the boundary.

Source: Poli et al. 2022, "Transform Once: Efficient Operator Learning in Frequency Domain",
arXiv 2211.14453.
"""

from __future__ import annotations

from .basis import BOUNDARIES, Basis1D, SeparableTransform
from .layers import ModeMixing, T1Layer, mode_std
from .model import T1, CoefficientOperator, T1Config
from .unet import T1U, T1UConfig

__all__ = [
    "BOUNDARIES",
    "T1",
    "T1U",
    "Basis1D",
    "CoefficientOperator",
    "ModeMixing",
    "SeparableTransform",
    "T1Config",
    "T1Layer",
    "T1UConfig",
    "mode_std",
]
