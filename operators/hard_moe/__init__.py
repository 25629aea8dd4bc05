"""Physics as a hard constraint on learned basis functions, and a mixture of such experts over boxes.

Source: Chalapathi, Du, Krishnapriyan 2024, "Scaling physics-informed hard constraints with
mixture-of-experts", arXiv 2402.13412.
"""

from __future__ import annotations

from .constraint import GRADIENTS, HardConstraint
from .least_squares import Fit, FitConfig, Rows, fit

__all__ = ["GRADIENTS", "Fit", "FitConfig", "HardConstraint", "Rows", "fit"]
