"""Physics as a hard constraint on learned basis functions, and a mixture of such experts over boxes.

Source: Chalapathi, Du, Krishnapriyan 2024, "Scaling physics-informed hard constraints with
mixture-of-experts", arXiv 2402.13412.
"""

from __future__ import annotations

from .boxes import BoxRouter, sample_points, windows
from .constraint import GRADIENTS, HardConstraint
from .data import (
    FlowData,
    SorptionData,
    evaluate,
    first_frames,
    flow_data,
    flow_frames,
    sorption_data,
)
from .flow import FlowProblem
from .least_squares import Fit, FitConfig, Rows, fit
from .local import Layout, LocalRows
from .model import MODES, HardOperator
from .problems import IntegralProblem, PointProblem, Problem, StepProblem
from .shards import entering, share_out
from .weights import hard_names, load_hard, save_hard

__all__ = [
    "GRADIENTS",
    "MODES",
    "BoxRouter",
    "Fit",
    "FitConfig",
    "FlowData",
    "FlowProblem",
    "HardConstraint",
    "HardOperator",
    "IntegralProblem",
    "Layout",
    "LocalRows",
    "PointProblem",
    "Problem",
    "Rows",
    "SorptionData",
    "StepProblem",
    "entering",
    "evaluate",
    "first_frames",
    "fit",
    "flow_data",
    "flow_frames",
    "hard_names",
    "load_hard",
    "sample_points",
    "save_hard",
    "share_out",
    "sorption_data",
    "windows",
]
