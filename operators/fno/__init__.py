"""Fourier neural operators, the baseline of every learned operator on grids.

Source: Li et al. 2021, "Fourier Neural Operator for Parametric Partial Differential Equations",
arXiv 2010.08895.
"""

from __future__ import annotations

from .model import FNO, FNOConfig
from .spectral import SpectralConv

__all__ = ["FNO", "FNOConfig", "SpectralConv"]
