"""Layers of the particle steppers: messages on the graph, and transforms to a latent grid and back.

Source: Viswanath et al. 2024 (GIOROM), arXiv 2407.03925, with relative coordinates in both integral
transforms, so that they are kernels: the released code overwrites the query coordinate.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...sim.core.errors import InputError
from ..layers import MLP, scatter_mean, scatter_sum

__all__ = ["GridToParticles", "InteractionLayer", "LatentGrid", "Pairs", "ParticlesToGrid"]

KERNEL_WIDTHS = (32, 64)
"""Hidden widths of both integral transforms, as published."""


class InteractionLayer(nn.Module):
    """One exchange of messages over the edges j → i:

        m_ij = MLP([x_i, x_j, e_ij]);  e_ij ← e_ij + m_ij
        "mean"  a_i = mean_j m_ij / (1 + d_ij);  x_i ← x_i + MLP([x_i, a_i]) + W x_i + b
        "sum"   a_i = Σ_j m_ij;                  x_i ← x_i + MLP([x_i, a_i])

    "mean" is GIOROM's layer: d_ij is the distance in radii. W x_i is what its graph-Laplacian
    convolution computes: a Laplacian's rows sum to zero, the convolution divides by that degree and
    drops every edge. The linear map stays because the published accuracy is that of this map and
    because the mean already diffuses. "sum" is the interaction network of GNS.

    Args:
        hidden: width of nodes, edges and hidden layers.
        aggregation: "mean" or "sum".
    """

    def __init__(self, hidden: int, aggregation: str = "mean") -> None:
        super().__init__()
        if aggregation not in ("mean", "sum"):
            raise InputError(
                f"InteractionLayer: aggregation 'mean' or 'sum'; got {aggregation!r}. Choose one."
            )
        self.message = MLP([3 * hidden, hidden, hidden, hidden], norm=True)
        self.update = MLP([2 * hidden, hidden, hidden, hidden], norm=True)
        self.skip = nn.Linear(hidden, hidden) if aggregation == "mean" else None

    def forward(
        self, x: Tensor, e: Tensor, index: Tensor, damping: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Nodes x (M, h), edges e (E, h), rows (source j, target i) of index, damping 1/(1 + d)."""
        source, target = index
        first = self.message.layers[0]
        to, of, along = first.weight.chunk(3, dim=1)
        # In place on fresh tensors: on the CPU the edges' memory traffic is what a step costs.
        y = F.linear(e, along)
        y.add_(F.linear(x, to, first.bias).index_select(0, target))
        y.add_(F.linear(x, of).index_select(0, source))
        m = self.message.after_first(y)
        if self.skip is None:
            a = scatter_sum(m, target, len(x))
            return x + self.update(torch.cat([x, a], -1)), e + m
        a = scatter_mean(m * damping, target, len(x))
        return x + self.update(torch.cat([x, a], -1)) + self.skip(x), e + m


class Pairs(NamedTuple):
    """Pairs (particle, grid node of the same sample) that lie in one ball."""

    particle: Tensor
    """(P,) index of the particle."""
    node: Tensor
    """(P,) index of the node: sample · nodes per sample + node."""
    offset: Tensor
    """(P, D) particle minus node, in ball radii."""


class LatentGrid:
    """Regular grid of `size`^D nodes between the walls of each sample, at the centres of its cells.

    Everything is measured in cells from the lower wall, so a sample keeps its grid when its walls and
    particles move together, and samples never share nodes. Nodes are in C order of (i, j, k). In a box
    that is not a cube the cells, and with them the balls, are stretched like the box.

    Args:
        size: nodes per axis.
        ball: ball radius in cells, at least √D/2: then every particle inside the walls has a node.
        dim: D.

    Raises:
        InputError: a ball too small to reach a node from everywhere.
    """

    def __init__(self, size: int, ball: float, dim: int) -> None:
        if size < 1 or ball < 0.5 * dim**0.5:
            raise InputError(
                f"LatentGrid: size ≥ 1 and ball ≥ √{dim}/2 = {0.5 * dim**0.5:.3g} cells; got {size} "
                f"and {ball:g}. A smaller ball leaves particles without a grid node."
            )
        self.size, self.ball, self.dim = size, float(ball), dim

    @property
    def nodes(self) -> int:
        """Nodes per sample."""
        return self.size**self.dim

    def coordinates(self, like: Tensor) -> Tensor:
        """Nodes in [−1, 1] between the walls, (nodes, D), with the dtype and device of `like`."""
        axis = (torch.arange(self.size, dtype=like.dtype, device=like.device) + 0.5) / self.size
        axes = torch.meshgrid(*([2 * axis - 1] * self.dim), indexing="ij")
        return torch.stack(axes, -1).flatten(0, -2)

    def pairs(self, x: Tensor, scene: Tensor, bounds: Tensor) -> Pairs:
        """All pairs within the ball; nodes lie on a lattice, so no search is needed.

        Args:
            x: (M, D) positions [m].
            scene: (M,) sample of each particle.
            bounds: (S, D, 2) walls [m].

        Returns:
            The pairs; `offset` is differentiable in `x` and `bounds`. A particle outside the walls may
            have none.
        """
        low, high = bounds.index_select(0, scene).unbind(-1)
        u = (x - low) / (high - low) * self.size - 0.5
        reach = int(self.ball)
        steps = list(product(range(-reach, reach + 2), repeat=self.dim))
        base = u.detach().floor().long()
        node = base[:, None] + torch.tensor(steps, device=x.device)
        near = (u.detach()[:, None] - node).square().sum(-1) <= self.ball**2
        inside = ((node >= 0) & (node < self.size)).all(-1)
        particle, which = (near & inside).nonzero(as_tuple=True)
        node = node[particle, which]
        flat = scene.index_select(0, particle)
        for axis in range(self.dim):
            flat = flat * self.size + node[:, axis]
        return Pairs(particle, flat, (u.index_select(0, particle) - node) / self.ball)


class ParticlesToGrid(nn.Module):
    """Integral transform f(q) = mean_{y: |y − q| ≤ R} κ([(y − q)/R, x_y]); an empty ball gives 0.

    Args:
        dim: D.
        inputs: channels of x.
        outputs: channels of f.
    """

    def __init__(self, dim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dim = dim
        self.kernel = MLP([dim + inputs, *KERNEL_WIDTHS, outputs], F.gelu)

    def forward(self, x: Tensor, pairs: Pairs, nodes: int) -> Tensor:
        """Particle features (M, inputs) → node features (nodes, outputs)."""
        first = self.kernel.layers[0]
        where, what = first.weight.split([self.dim, x.shape[1]], dim=1)
        y = F.linear(pairs.offset, where)
        y = y + F.linear(x, what, first.bias).index_select(0, pairs.particle)
        return scatter_mean(self.kernel.after_first(y), pairs.node, nodes)


class GridToParticles(nn.Module):
    """Integral transform g(x) = mean_{q: |q − x| ≤ R} κ((x − q)/R) ⊙ z(q); an empty ball gives 0.

    Args:
        dim: D.
        channels: channels of z and g.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.kernel = MLP([dim, *KERNEL_WIDTHS, channels], F.gelu)

    def forward(self, z: Tensor, pairs: Pairs, particles: int) -> Tensor:
        """Node features (nodes, channels) → particle features (particles, channels)."""
        values = self.kernel(pairs.offset) * z.index_select(0, pairs.node)
        return scatter_mean(values, pairs.particle, particles)
