"""What the learned steppers share: inputs, normalization and the checks at their border."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, check_finite
from ...sim.core.neighbors import radius_graph
from ..data.particles import ParticleBatch, Statistics
from ..layers import MLP, initialize

__all__ = ["Graph", "ParticleStepper"]


class Graph(NamedTuple):
    """Encoded particles and their edges."""

    x: Tensor
    """(M, hidden) nodes."""
    e: Tensor
    """(E, hidden) edges."""
    index: Tensor
    """(2, E) rows (source, target)."""
    damping: Tensor
    """(E, 1) 1/(1 + d), d the length of the edge in radii."""


class ParticleStepper(nn.Module):
    """Learned acceleration of particles from a window of W positions:

        a = prior + μ_a + σ_a · decode(process(encode(kind, velocities, walls, edges)))

    Nodes see an embedding of their kind, the W − 1 velocities normalized by the statistics, and the
    distances to the 2D walls in units of the radius, cut at ±1. Edges join particles of one sample
    within the radius, themselves included, and see (x_j − x_i)/r and its norm; with
    `config.reference` also what both have gained since the undeformed state X, (x_j − x_i − X_j +
    X_i)/r and (|x_j − x_i| − |X_j − X_i|)/r. No absolute position enters. A subclass gives `process`.

    Args:
        config: has `hidden`, `kinds`, `embedding`, `window` and `reference`.
        statistics: of the training data, with its noise (`Statistics.with_noise`); frame units.
        radius: of the graph [m]. The attribute `radius` may be changed later for another particle
            density; the range of the walls stays.
        dim: D, 2 or 3.
        prior: batch → acceleration (M, D) [m/frame²] which the network corrects, such as one coarse
            simulation step; then `statistics.acceleration_*` are those of a − prior.
        generator: source of the initial weights; default torch's global one.

    Raises:
        InputError: wrong dimension, or radius or statistics that do not fit.

    Source: Sanchez-Gonzalez et al. 2020 (GNS), §4 and §C; Viswanath et al. 2024 (GIOROM).
    """

    def __init__(
        self,
        config: Any,
        statistics: Statistics,
        radius: float,
        dim: int,
        *,
        prior: Callable[[ParticleBatch], Tensor] | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if dim not in (2, 3):
            raise InputError(
                f"{name}: dim 2 or 3; got {dim}. Particles live in a plane or in space."
            )
        if not radius > 0:
            raise InputError(f"{name}: radius > 0 m; got {radius:g}. Use about 2 spacings.")
        if statistics.velocity_std.shape != (dim,):
            raise InputError(
                f"{name}: statistics of {dim} axes; got {tuple(statistics.velocity_std.shape)}. "
                "Pool them over the data that the model is for."
            )
        for key, value in statistics.tensors().items():
            value = value.to(torch.get_default_dtype())
            self.register_buffer(key, value.clone())
        self.config, self.dim, self.radius = config, dim, float(radius)
        self.wall_range, self.prior = float(radius), prior
        h = config.hidden
        inputs = config.embedding + (config.window - 1) * dim + 2 * dim
        self.kinds = nn.Embedding(config.kinds, config.embedding)
        self.encode_nodes = MLP([inputs, h, h, h], norm=True)
        self.encode_edges = MLP([(dim + 1) * (1 + config.reference), h, h, h], norm=True)
        self.decode = MLP([h, h, h, dim])

    def _initialize(self, generator: torch.Generator | None) -> None:
        initialize(self, generator)
        # Near the mean acceleration (or the prior) at the start, and still sensitive to every weight.
        with torch.no_grad():
            self.decode.layers[-1].weight.mul_(0.1)

    def process(self, graph: Graph, batch: ParticleBatch) -> Tensor:
        """Encoded graph → node features (M, hidden)."""
        raise NotImplementedError

    def forward(self, batch: ParticleBatch) -> Tensor:
        """Normalized acceleration (a − prior − μ_a)/σ_a, (M, D).

        Differentiable in `batch.positions`, `batch.reference`, `batch.bounds` and the weights; the
        graph is fixed.

        Raises:
            InputError: a batch of another dimension, window or dtype, with unknown kinds or no walls.
            StateError: positions that are not finite.
        """
        self.check(batch)
        return self.decode(self.process(self.encode(batch), batch))

    def acceleration(self, batch: ParticleBatch) -> Tensor:
        """Acceleration (M, D) [m/frame²]; see `forward`."""
        a = self(batch) * self.acceleration_std + self.acceleration_mean
        return a if self.prior is None else a + self.prior(batch)

    def encode(self, batch: ParticleBatch) -> Graph:
        """Features of nodes and edges, and the graph of the current positions."""
        now = batch.positions[:, -1]
        velocity = (batch.positions.diff(dim=1) - self.velocity_mean) / self.velocity_std
        low, high = batch.bounds.index_select(0, batch.scene).unbind(-1)
        walls = (torch.cat([now - low, high - now], -1) / self.wall_range).clamp(-1, 1)
        x = self.encode_nodes(torch.cat([self.kinds(batch.kind), velocity.flatten(1), walls], -1))
        index = radius_graph(now, self.radius, batch.scene)
        offset, distance = self._edges(now, index)
        features = [offset, distance]
        if self.config.reference:
            assert batch.reference is not None
            rest, length = self._edges(batch.reference, index)
            features += [offset - rest, distance - length]
        return Graph(x, self.encode_edges(torch.cat(features, -1)), index, 1 / (1 + distance))

    def _edges(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (E, D) and distances (E, 1) along the edges, in radii."""
        offset = (x.index_select(0, index[0]) - x.index_select(0, index[1])) / self.radius
        return offset, torch.linalg.vector_norm(offset, dim=-1, keepdim=True)

    def check(self, batch: ParticleBatch) -> None:
        """Raise what `forward` documents."""
        name, x, c = type(self).__name__, batch.positions, self.config
        if x.ndim != 3 or x.shape[1:] != (c.window, self.dim):
            raise InputError(
                f"{name}: positions (M, {c.window}, {self.dim}); got {tuple(x.shape)}. Cut the "
                "window to the model's, or build the model for these data."
            )
        if x.dtype != self.velocity_std.dtype:
            raise InputError(
                f"{name}: positions in {self.velocity_std.dtype}, as the weights; got {x.dtype}. "
                "Convert with batch.to(dtype) or model.to(dtype)."
            )
        if len(x) and not 0 <= int(batch.kind.min()) <= int(batch.kind.max()) < c.kinds:
            raise InputError(
                f"{name}: kinds in [0, {c.kinds}); got {int(batch.kind.min())} to "
                f"{int(batch.kind.max())}. Set `kinds` in the config."
            )
        low, high = batch.bounds.unbind(-1)
        if not bool((torch.isfinite(high - low) & (low < high)).all()):
            raise InputError(
                f"{name}: finite walls, lower below upper; got {batch.bounds.tolist()}. Give every "
                "sample a box, a large one where there are no walls."
            )
        if c.reference and batch.reference is None:
            raise InputError(
                f"{name}: a batch with the undeformed positions; got none. Make it with "
                "ParticleWindows(reference=True), or set batch.reference."
            )
        check_finite(name, positions=x)
