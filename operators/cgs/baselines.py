"""What a convergent graph solver is measured against: plain message passing, and an implicit network.

Source: Gu et al. 2020, "Implicit Graph Neural Networks", section 4 (κ < 1 keeps the map a contraction).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...sim.core.implicit import SolveInfo
from ...sim.core.implicit_layers import implicit_fixed_point
from ..layers.mlp import MLP
from ..layers.scatter import scatter_sum
from .graphs import Graphs
from .model import CGSConfig, Encoder

__all__ = ["GraphNetwork", "ImplicitGraphNetwork"]


def _decoder(config: CGSConfig, inputs: int) -> MLP:
    width = config.hidden_channels
    return MLP([inputs, 2 * width, width, config.out_channels], nn.functional.leaky_relu)


class GraphNetwork(nn.Module):
    """`n_layers` of message passing and a decoder: sees no further than that many edges.

    Args:
        config: sizes; those of fixed points mean nothing here.
    """

    def __init__(self, config: CGSConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = _decoder(config, config.hidden_channels)

    def forward(self, g: Graphs) -> Tensor:
        """ŷ (N, K)."""
        return self.decoder(self.encoder(g)[0])


class ImplicitGraphNetwork(nn.Module):
    """Z = tanh(Â Z W + b(G)) with ‖W‖_∞ ≤ κ, Â the adjacency with rows of sum one: one W for all edges.

    Args:
        config: sizes, tol and max_iterations.
        kappa: κ in (0, 1).
    """

    def __init__(self, config: CGSConfig, kappa: float = 0.9):
        super().__init__()
        self.config, self.kappa = config, kappa
        self.encoder = Encoder(config, nodes=config.heads)
        self.weight = nn.Parameter(torch.randn(config.heads, config.heads) / config.heads)
        self.decoder = _decoder(config, config.heads)

    def forward(self, g: Graphs, info: SolveInfo | None = None) -> Tensor:
        """ŷ (N, K).

        Raises:
            ConvergenceError: `max_iterations` that are too few.

        Differentiable in all weights and in the features.
        """
        b, _ = self.encoder(g)
        # Columns, since W multiplies from the right: |Z W|_∞ ≤ max_j Σ_i |W_ij| |Z|_∞.
        W = self.kappa * self.weight / self.weight.abs().sum(0).clamp_min(1.0)
        entering = torch.bincount(g.target, minlength=len(b)).clamp(min=1).to(b)[g.target]

        def step(Z: Tensor, W: Tensor, b: Tensor) -> Tensor:
            gathered = scatter_sum(Z[g.source] / entering[:, None], g.target, len(Z))
            return torch.tanh(gathered @ W + b)

        Z = implicit_fixed_point(
            step,
            torch.zeros_like(b),
            W,
            b,
            adjoint="anderson",
            max_iterations=self.config.max_iterations,
            tol=self.config.tol * len(b) ** 0.5,
            info=info,
        )
        return self.decoder(Z)
