"""Directed graphs with features and targets, many of them as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["Graphs", "collate"]


@dataclasses.dataclass(frozen=True)
class Graphs:
    """One graph, or several without edges between them."""

    nodes: Tensor
    """Features (N, C)."""
    edges: Tensor
    """Features (E, D)."""
    source: Tensor
    """Node that each edge leaves, int64 (E,)."""
    target: Tensor
    """Node that each edge enters, int64 (E,)."""
    y: Tensor
    """What is to be predicted at nodes, (N, K)."""
    graph: Tensor
    """Graph of each node, int64 (N,)."""

    def __post_init__(self):
        n, e = len(self.nodes), len(self.edges)
        fits = (
            self.source.shape == self.target.shape == (e,) and len(self.y) == len(self.graph) == n
        )
        if min(self.nodes.dim(), self.edges.dim(), self.y.dim()) != 2 or not fits:
            got = str([tuple(getattr(self, f.name).shape) for f in dataclasses.fields(self)])
            expected = "nodes (N, C), edges (E, D), source and target (E,), y (N, K), graph (N,)"
            raise InputError(message("Graphs", expected, got))
        ends = torch.cat([self.source, self.target])
        if ends.is_floating_point() or self.graph.is_floating_point():
            raise InputError(message("Graphs", "source, target and graph of whole numbers", ends))
        if e and not (int(ends.min()) >= 0 and int(ends.max()) < n):
            raise InputError(message("Graphs", f"edges between nodes 0 … {n - 1}", ends))

    @property
    def count(self) -> int:
        """Number of graphs."""
        return int(self.graph.max()) + 1

    def to(self, *args, **kwargs) -> Graphs:
        """On another device or in another precision; indices keep theirs."""
        moved = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in moved.items():
            like = value.to(*args, **kwargs)
            moved[name] = like if value.is_floating_point() else value.to(like.device)
        return Graphs(**moved)


def collate(graphs: Sequence[Graphs]) -> Graphs:
    """Several graphs as one.

    Raises:
        InputError: no graphs, or features of several widths.
    """
    if not graphs:
        raise InputError(message("collate", "at least one graph", "none"))
    widths = {(g.nodes.shape[1], g.edges.shape[1], g.y.shape[1]) for g in graphs}
    if len(widths) > 1:
        raise InputError(message("collate", "features of one width", f"{sorted(widths)}"))
    nodes = torch.tensor([0, *(len(g.nodes) for g in graphs)]).cumsum(0).tolist()
    parts = torch.tensor([0, *(g.count for g in graphs)]).cumsum(0).tolist()
    shifted = list(zip(graphs, nodes, parts, strict=False))
    return Graphs(
        nodes=torch.cat([g.nodes for g in graphs]),
        edges=torch.cat([g.edges for g in graphs]),
        source=torch.cat([g.source + shift for g, shift, _ in shifted]),
        target=torch.cat([g.target + shift for g, shift, _ in shifted]),
        y=torch.cat([g.y for g in graphs]),
        graph=torch.cat([g.graph + shift for g, _, shift in shifted]),
    )
