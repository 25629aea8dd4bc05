"""Building blocks that several learned systems share."""

from __future__ import annotations

from .attention import GNOTBlock, LinearAttention
from .grid import GridOperator, cell_positions, load_operator, operator_names
from .mlp import MLP, ResidualMLP, initialize
from .norms import h1_norm, lp_norm, relative_h1, relative_l2, relative_lp
from .scatter import scatter_mean, scatter_sum

__all__ = [
    "MLP",
    "GNOTBlock",
    "GridOperator",
    "LinearAttention",
    "ResidualMLP",
    "cell_positions",
    "h1_norm",
    "initialize",
    "load_operator",
    "lp_norm",
    "operator_names",
    "relative_h1",
    "relative_l2",
    "relative_lp",
    "scatter_mean",
    "scatter_sum",
]
