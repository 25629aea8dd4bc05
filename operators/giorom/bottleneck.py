"""The latent grid: particles → nodes between the walls → particles, and what happens on the nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...sim.core.errors import InputError
from ..data.particles import ParticleBatch
from ..layers import MLP, GNOTBlock, ResidualMLP
from .layers import GridToParticles, LatentGrid, ParticlesToGrid

__all__ = ["AttentionBottleneck", "ConvolutionBottleneck", "GridOperator"]


class GridOperator(nn.Module):
    """x → W spread(bottleneck(gather(x))), (M, hidden) → (M, hidden); see `GioromConfig` for sizes.

    Args:
        config: a `GioromConfig`.
        dim: D.

    Raises:
        InputError: an unknown bottleneck.

    Source: Viswanath et al. 2024 (GIOROM), §3.
    """

    def __init__(self, config: Any, dim: int) -> None:
        super().__init__()
        c, kinds = config, {"convolution": ConvolutionBottleneck, "attention": AttentionBottleneck}
        if c.bottleneck not in kinds:
            raise InputError(
                f"GioromConfig: bottleneck convolution, attention or none; got {c.bottleneck!r}. "
                "Choose one."
            )
        self.grid = LatentGrid(c.grid, c.ball, dim)
        self.gather = ParticlesToGrid(dim, c.hidden, c.channels)
        self.bottleneck = kinds[c.bottleneck](c, dim)
        self.spread = GridToParticles(dim, c.hidden)
        self.project = nn.Linear(c.hidden, c.hidden)

    def forward(self, x: Tensor, batch: ParticleBatch) -> Tensor:
        grid, samples = self.grid, batch.count
        pairs = grid.pairs(batch.positions[:, -1], batch.scene, batch.bounds)
        f = self.gather(x, pairs, samples * grid.nodes).unflatten(0, (samples, -1))
        count = torch.bincount(pairs.node, minlength=samples * grid.nodes).view(samples, -1, 1)
        # Relative to the sample's mean, so that it does not depend on the number of sensors.
        density = count.to(f) / count.to(f).mean(1, keepdim=True).clamp(min=1 / grid.nodes)
        z = self.bottleneck(f, density, grid.coordinates(f))
        return self.project(self.spread(z.flatten(0, 1), pairs, len(x)))


class ConvolutionBottleneck(nn.Module):
    """Residual pairs of convolutions between neighbouring nodes, as a solver on a grid has:

        z = f + w ρ;   z ← z + K₂ gelu(K₁ gelu(z)), `blocks` times;   output W z + b

    K are kernels of 3 nodes per axis, zero outside the walls, which is how nodes know of walls; ρ is
    how many particles a node has, relative to the mean, which the mean of the gathering forgets.

    Args:
        config: a `GioromConfig`: channels, blocks, grid, hidden.
        dim: D.
    """

    def __init__(self, config: Any, dim: int) -> None:
        super().__init__()
        c, kernel = config, {2: nn.Conv2d, 3: nn.Conv3d}[dim]
        self.shape = (c.grid,) * dim
        self.density = nn.Linear(1, c.channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GELU(),
                kernel(c.channels, c.channels, 3, padding=1),
                nn.GELU(),
                kernel(c.channels, c.channels, 3, padding=1),
            )
            for _ in range(c.blocks)
        )
        self.readout = nn.Linear(c.channels, c.hidden)

    def forward(self, f: Tensor, density: Tensor, coordinates: Tensor) -> Tensor:
        """Node features (S, nodes, channels), ρ (S, nodes, 1) → (S, nodes, hidden)."""
        z = (f + self.density(density)).transpose(1, 2).unflatten(2, self.shape)
        for block in self.blocks:
            z = z + block(z)
        return self.readout(z.flatten(2).transpose(1, 2))


class AttentionBottleneck(nn.Module):
    """The published transformer: z ← blocks(trunk(f), branch(q), gate(f)); output readout(z).

    Args:
        config: a `GioromConfig`: channels, width, heads, experts, blocks, dropout, hidden.
        dim: D.

    Source: Viswanath et al. 2024 (GIOROM), released time-stepper; Hao et al. 2023 (GNOT), §3.
    """

    def __init__(self, config: Any, dim: int) -> None:
        super().__init__()
        c, w = config, config.width
        self.trunk = ResidualMLP(c.channels, w, w)
        self.branch = ResidualMLP(dim, w, w)
        self.gates = nn.ModuleList(
            MLP([c.channels, w, w, c.experts], F.gelu) for _ in range(c.blocks)
        )
        self.blocks = nn.ModuleList(
            GNOTBlock(w, c.heads, c.experts, c.dropout) for _ in range(c.blocks)
        )
        self.readout = ResidualMLP(w, w, c.hidden)

    def forward(self, f: Tensor, density: Tensor, coordinates: Tensor) -> Tensor:
        """Node features (S, nodes, channels), coordinates (nodes, D) → (S, nodes, hidden)."""
        branch, z = self.branch(coordinates).expand(len(f), -1, -1), self.trunk(f)
        for gate, block in zip(self.gates, self.blocks, strict=True):
            z = block(z, branch, gate(f).softmax(-1))
        return self.readout(z)
