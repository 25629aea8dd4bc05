"""GIOROM's time-stepper: messages on a sparse graph around a latent grid with linear attention.

Source: Viswanath et al. 2024 (GIOROM), arXiv 2407.03925, and the released time-stepper. What differs
from the release, on purpose: normalized velocities; integral transforms that see the offset from
particle to node; one grid per sample, between its walls, in (i, j, k) order; a ball that reaches a
node from everywhere; the linear map which the release's degenerate graph convolution amounts to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.particles import ParticleBatch, Statistics
from ..layers import MLP, GNOTBlock, ResidualMLP
from .base import Graph, ParticleStepper
from .layers import GridToParticles, InteractionLayer, LatentGrid, ParticlesToGrid

__all__ = ["GioromConfig", "GioromStepper"]


@dataclasses.dataclass(frozen=True)
class GioromConfig:
    """Sizes of the time-stepper; the defaults are the published model's (2,387,669 weights in 3-D)."""

    hidden: int = 128
    """Width of nodes and edges."""
    layers_in: int = 2
    """Interaction layers before the latent grid."""
    layers_out: int = 2
    """Interaction layers after it."""
    operator: bool = True
    """Whether there is a latent grid; without it only the interaction layers remain."""
    grid: int = 16
    """Grid nodes per axis."""
    ball: float = 2.0
    """Ball radius of the integral transforms [grid cells]; published 0.125 in a unit box of 16³."""
    channels: int = 64
    """Channels that the particles give to the grid."""
    width: int = 256
    """Width of the grid's tokens."""
    heads: int = 4
    """Attention heads."""
    experts: int = 2
    """Experts of each gated layer."""
    blocks: int = 1
    """Attention blocks."""
    dropout: float = 0.3
    """Dropout in the blocks, drawn from torch's global generator."""
    kinds: int = 9
    """Number of particle kinds."""
    embedding: int = 16
    """Width of the embedding of a kind."""
    window: int = 6
    """Positions in the window, one more than velocities."""

    @classmethod
    def paper(cls) -> GioromConfig:
        """The published sizes."""
        return cls()

    @classmethod
    def small(cls) -> GioromConfig:
        """For one CPU core: width 64, 8 nodes per axis, no dropout."""
        return cls(hidden=64, grid=8, ball=1.25, channels=32, width=64, dropout=0.0)


class GioromStepper(ParticleStepper):
    """Acceleration from interaction layers, a latent grid and interaction layers.

        z(q) = particles → grid;  z ← blocks(trunk(z), branch(q), gate(z));  x ← x + W grid → particles

    Args, raises: as for `ParticleStepper`, with a `GioromConfig`.
    """

    def __init__(
        self,
        config: GioromConfig,
        statistics: Statistics,
        radius: float,
        dim: int,
        *,
        prior: Callable[[ParticleBatch], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, statistics, radius, dim, prior=prior)
        c = config
        self.layers_in = nn.ModuleList(InteractionLayer(c.hidden) for _ in range(c.layers_in))
        self.operator = GridOperator(c, dim) if c.operator else None
        self.layers_out = nn.ModuleList(InteractionLayer(c.hidden) for _ in range(c.layers_out))
        self._initialize(generator)

    def process(self, graph: Graph, batch: ParticleBatch) -> Tensor:
        x, e, index, damping = graph
        for layer in self.layers_in:
            x, e = layer(x, e, index, damping)
        if self.operator is not None:
            x = x + self.operator(x, batch)
        for layer in self.layers_out:
            x, e = layer(x, e, index, damping)
        return x


class GridOperator(nn.Module):
    """Particles → latent grid → attention over its nodes → particles, (M, hidden) → (M, hidden).

    Args:
        config: sizes.
        dim: D.
    """

    def __init__(self, config: GioromConfig, dim: int) -> None:
        super().__init__()
        c, w = config, config.width
        self.grid = LatentGrid(c.grid, c.ball, dim)
        self.gather = ParticlesToGrid(dim, c.hidden, c.channels)
        self.trunk = ResidualMLP(c.channels, w, w)
        self.branch = ResidualMLP(dim, w, w)
        self.gates = nn.ModuleList(
            MLP([c.channels, w, w, c.experts], F.gelu) for _ in range(c.blocks)
        )
        self.blocks = nn.ModuleList(
            GNOTBlock(w, c.heads, c.experts, c.dropout) for _ in range(c.blocks)
        )
        self.readout = ResidualMLP(w, w, c.hidden)
        self.spread = GridToParticles(dim, c.hidden)
        self.project = nn.Linear(c.hidden, c.hidden)

    def forward(self, x: Tensor, batch: ParticleBatch) -> Tensor:
        samples = len(batch.bounds)
        pairs = self.grid.pairs(batch.positions[:, -1], batch.scene, batch.bounds)
        f = self.gather(x, pairs, samples * self.grid.nodes).unflatten(0, (samples, -1))
        branch = self.branch(self.grid.coordinates(f)).expand(samples, -1, -1)
        z = self.trunk(f)
        for gate, block in zip(self.gates, self.blocks, strict=True):
            z = block(z, branch, gate(f).softmax(-1))
        return self.project(self.spread(self.readout(z).flatten(0, 1), pairs, len(x)))
