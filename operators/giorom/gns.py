"""Graph network simulator: the baseline that sees every particle and passes many messages.

Source: Sanchez-Gonzalez et al. 2020, "Learning to Simulate Complex Physics with Graph Networks".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..data.particles import ParticleBatch, Statistics
from .base import Graph, ParticleStepper
from .layers import InteractionLayer

__all__ = ["GNS", "GNSConfig"]


@dataclasses.dataclass(frozen=True)
class GNSConfig:
    """Sizes; the defaults are the published ones."""

    hidden: int = 128
    """Width of nodes and edges."""
    steps: int = 10
    """Message-passing steps, each with its own weights."""
    kinds: int = 9
    """Number of particle kinds."""
    embedding: int = 16
    """Width of the embedding of a kind."""
    window: int = 6
    """Positions in the window."""
    reference: bool = False
    """Whether edges see how far they are from their undeformed state, see `GioromConfig`."""

    @classmethod
    def small(cls) -> GNSConfig:
        """For one CPU core: width 64, 5 steps."""
        return cls(hidden=64, steps=5)


class GNS(ParticleStepper):
    """Encode, process with `steps` interaction networks (summed messages, residuals), decode.

    Args, raises: as for `ParticleStepper`, with a `GNSConfig`.
    """

    def __init__(
        self,
        config: GNSConfig,
        statistics: Statistics,
        radius: float,
        dim: int,
        *,
        prior: Callable[[ParticleBatch], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, statistics, radius, dim, prior=prior)
        self.layers = nn.ModuleList(
            InteractionLayer(config.hidden, "sum") for _ in range(config.steps)
        )
        self._initialize(generator)

    def process(self, graph: Graph, batch: ParticleBatch) -> Tensor:
        x, e, index, damping = graph
        for layer in self.layers:
            x, e = layer(x, e, index, damping)
        return x
