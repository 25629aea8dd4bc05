"""The convergent graph solver: an encoder writes linear contractions, their fixed points are decoded.

    z_h* = γ A_h z_h* + b_h,   h = 1 … H,   Σ |A_h[e]| ≤ 1 over the edges e that leave one node
    ŷ = decoder(z_1* … z_H*)                          (or, with "sink", over those that enter one)

The 1-norm (∞-norm) of γ A_h is at most γ < 1, so each fixed point exists, is unique and is reached by
iteration from anywhere: after k steps the error is γᵏ of the first. A is sparse, on the edges of the
graph. The gradient is implicit: memory does not grow with iterations, forward and adjoint.

Source: Park, Choo & Park 2022, "Convergent Graph Solvers", section 4.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from ...sim.core.implicit import SolveInfo
from ...sim.core.implicit_layers import implicit_fixed_point
from ...sim.core.root_solvers import Anderson
from ..layers.mlp import MLP
from ..layers.scatter import scatter_sum
from .graphs import Graphs

__all__ = ["CGSConfig", "ConvergentGraphSolver", "Encoder"]

GAMMA = 0.99
"""Bound of a learned γ [-]."""


@dataclasses.dataclass(frozen=True)
class CGSConfig:
    """Sizes and form of graph networks."""

    node_channels: int
    """Features of a node."""
    edge_channels: int
    """Features of an edge."""
    out_channels: int = 1
    """What is predicted at each node."""
    heads: int = 16
    """H, fixed points."""
    hidden_channels: int = 32
    """Width of embeddings; the perceptrons between them are twice as wide."""
    n_layers: int = 1
    """Message-passing layers of the encoder; for `GraphNetwork` all there are."""
    gamma: float | None = 0.5
    """γ in (0, 1), the paper's 0.5; None learns one in (0, 0.99) for each head, from `gamma_start`."""
    gamma_start: float = 0.5
    """First γ in (0, 0.99) where it is learned; a fixed point reaches about 1/(1 − γ) edges."""
    weights: str = "clip"
    """Edge logits a to weights: "clip" min(max(a, 0), 1)/n_out (the paper's), "softmax" over the edges
    that leave a node, "signed" tanh(a)/n_out, whose gradient vanishes nowhere; "sink" eᵃ/(eˢ + Σ eᵃ) over
    the edges that enter a node with logit s, a mean of the neighbours that a node with large s does
    without: Σ_j k_ij (p_j − p_i) = 0 with given values at some nodes is such a fixed point for γ → 1."""
    tol: float = 1e-6
    """‖z − γ A z − b‖ / ‖b‖ to reach [-]."""
    max_iterations: int = 2000
    """Most steps; γ = 0.99 needs 1400 for tol = 1e-6 without `anderson`."""
    anderson: int = 0
    """Steps combined by Anderson acceleration; 0 iterates plainly, which γ bounds in advance."""

    def __post_init__(self):
        if self.weights not in ("clip", "softmax", "signed", "sink"):
            expected = 'weights "clip", "softmax", "signed" or "sink"'
            raise InputError(message("CGSConfig", expected, self.weights))
        if self.gamma is not None and not 0 < self.gamma < 1:
            fix = "γ ≥ 1 is no contraction"
            raise InputError(message("CGSConfig", "gamma in (0, 1) or None", self.gamma, fix))
        if not 0 < self.gamma_start < GAMMA:
            expected = f"gamma_start in (0, {GAMMA})"
            raise InputError(message("CGSConfig", expected, self.gamma_start))
        if min(self.heads, self.hidden_channels, self.n_layers) < 1:
            got = f"{self.heads}, {self.hidden_channels}, {self.n_layers}"
            raise InputError(message("CGSConfig", "heads, hidden_channels, n_layers >= 1", got))
        if not self.tol > 0 or self.max_iterations < 1 or self.anderson < 0:
            got = f"{self.tol}, {self.max_iterations}, {self.anderson}"
            raise InputError(
                message("CGSConfig", "tol > 0, max_iterations >= 1, anderson >= 0", got)
            )


class Encoder(nn.Module):
    """Attention message passing: (node, edge) features to (node, edge) embeddings.

        e' = φ([e, h_s, h_t]),   α = softmax over the edges into t of ψ([e, h_s, h_t]),
        h' = ρ([Σ α e', h])

    Args:
        config: sizes.
        nodes, edges: widths of the last layer's outputs; default `hidden_channels`.
    """

    def __init__(self, config: CGSConfig, nodes: int | None = None, edges: int | None = None):
        super().__init__()
        width, self.layers = config.hidden_channels, nn.ModuleList()
        self.channels = sizes = (config.node_channels, config.edge_channels)
        for k in range(config.n_layers):
            last = k == config.n_layers - 1
            out = ((nodes if last else None) or width, (edges if last else None) or width)
            both = sizes[1] + 2 * sizes[0]
            parts = {
                "edge": MLP([both, 2 * width, out[1]], nn.functional.leaky_relu),
                "score": MLP([both, width, 1], nn.functional.leaky_relu),
                "node": MLP([out[1] + sizes[0], 2 * width, out[0]], nn.functional.leaky_relu),
            }
            self.layers.append(nn.ModuleDict(parts))
            sizes = out

    def forward(self, g: Graphs) -> tuple[Tensor, Tensor]:
        h, e = g.nodes, g.edges
        if (h.shape[1], e.shape[1]) != self.channels:
            expected = (
                f"graphs with {self.channels[0]} features of nodes and {self.channels[1]} of edges"
            )
            got = f"{h.shape[1]} and {e.shape[1]}"
            raise InputError(message("Encoder", expected, got, "Build the model for these graphs"))
        weight = next(self.parameters())
        if h.dtype != weight.dtype or h.device != weight.device:
            fix = "Use graphs.to(…) or model.to(…)"
            raise InputError(message("Encoder", f"{weight.dtype} on {weight.device}", h, fix))
        for layer in self.layers:
            parts = [e, h[g.source], h[g.target]]
            both = torch.cat(parts, dim=1)
            e, score = layer["edge"](both), layer["score"](both)
            alpha = edge_softmax(score, g.target, len(h))
            h = layer["node"](torch.cat([scatter_sum(alpha * e, g.target, len(h)), h], dim=1))
        return h, e


def edge_softmax(score: Tensor, index: Tensor, size: int, sink: Tensor | None = None) -> Tensor:
    """exp(score) over its sum among edges with one index, (E, H), plus exp(sink), (N, H), if given."""
    place = index[:, None].expand_as(score)
    if sink is None:
        top = score.new_full((size, score.shape[1]), -math.inf)
    else:
        top = sink.detach()
    top = top.scatter_reduce(0, place, score.detach(), "amax")
    weight = torch.exp(score - top[index])
    total = scatter_sum(weight, index, size)
    if sink is not None:
        total = total + torch.exp(sink - top)
    return weight / total[index]


class ConvergentGraphSolver(nn.Module):
    """Predicts a stationary state of a graph of any size, (N, K) from `Graphs`.

    Args:
        config: sizes and form.
    """

    def __init__(self, config: CGSConfig):
        super().__init__()
        self.config = config
        nodes = (2 if config.weights == "sink" else 1) * config.heads
        self.encoder = Encoder(config, nodes=nodes, edges=config.heads)
        self.decoder = MLP(
            [config.heads, 2 * config.hidden_channels, config.hidden_channels, config.out_channels],
            nn.functional.leaky_relu,
        )
        if config.gamma is None:
            start = math.log(config.gamma_start / (GAMMA - config.gamma_start))
            self.gamma_logit = nn.Parameter(torch.full((config.heads,), start))
        if config.weights == "clip":
            with torch.no_grad():  # in the middle of [0, 1], where the clip lets gradients through
                self.encoder.layers[-1]["edge"].layers[-1].bias.fill_(0.5)

    @property
    def gamma(self) -> Tensor | float:
        """γ, a number or (H,)."""
        if self.config.gamma is not None:
            return self.config.gamma
        return GAMMA * torch.sigmoid(self.gamma_logit)

    def contraction(self, g: Graphs) -> tuple[Tensor, Tensor]:
        """γ A on the edges, (E, H), and b at the nodes, (N, H)."""
        b, logits = self.encoder(g)
        if self.config.weights == "sink":
            b, sink = b.chunk(2, dim=1)
            A = edge_softmax(logits, g.target, len(b), sink)
        elif self.config.weights == "softmax":
            A = edge_softmax(logits, g.source, len(b))
        else:
            leaving = torch.bincount(g.source, minlength=len(b)).to(b)[g.source]
            bounded = torch.tanh(logits) if self.config.weights == "signed" else logits.clamp(0, 1)
            A = bounded / leaving[:, None]
        return self.gamma * A, b

    def certificate(self, g: Graphs) -> float:
        """Largest Σ |γ A| over the edges that leave (with "sink": enter) a node: a bound on the rate,
        ≤ max γ < 1 [-]."""
        with torch.no_grad():
            A, b = self.contraction(g)
            end = g.target if self.config.weights == "sink" else g.source
            return float(scatter_sum(A.abs(), end, len(b)).max())

    def forward(self, g: Graphs, info: SolveInfo | None = None) -> Tensor:
        """ŷ (N, K).

        Args:
            g: one or more graphs.
            info: filled with iterations and residuals of the fixed points.

        Raises:
            ConvergenceError: `max_iterations` that are too few for γ and tol.

        Differentiable in all weights and in the features.
        """
        c = self.config
        A, b = self.contraction(g)

        def step(z: Tensor, A: Tensor, b: Tensor) -> Tensor:
            return b + scatter_sum(A * z[g.source], g.target, len(z))

        tol = c.tol * max(float(b.detach().norm()), torch.finfo(b.dtype).tiny)
        z = implicit_fixed_point(
            step,
            b.detach(),
            A,
            b,
            solver=Anderson(c.max_iterations, memory=c.anderson),
            adjoint="anderson" if c.anderson else "picard",
            max_iterations=c.max_iterations,
            tol=tol,
            info=info,
        )
        return self.decoder(z)
