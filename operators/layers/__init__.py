"""Building blocks that several learned systems share."""

from __future__ import annotations

from .attention import GNOTBlock, LinearAttention
from .mlp import MLP, ResidualMLP, initialize
from .scatter import scatter_mean, scatter_sum

__all__ = [
    "MLP",
    "GNOTBlock",
    "LinearAttention",
    "ResidualMLP",
    "initialize",
    "scatter_mean",
    "scatter_sum",
]
