"""Values of random decision processes: V(s) = max_a r(s, a) + γ V(s'), a graph with one edge per action.

Source: Park, Choo & Park 2022, section 5.2 (graph value iteration).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from .graphs import Graphs

__all__ = ["policy_accuracy", "value_graph"]


def value_graph(
    generator: torch.Generator,
    states: tuple[int, int] = (20, 50),
    actions: tuple[int, int] = (5, 10),
    discount: float = 0.9,
) -> Graphs:
    """A random deterministic process with its optimal values, solved to 1e-12.

    Args:
        generator: source of the process.
        states, actions: smallest and largest numbers.
        discount: γ in [0, 1).

    Returns:
        Nodes (S, 1) of ones; edges (S A, 1): rewards in (−1, 1), from the next state to the one that
        acts, as values flow; y (S, 1): values; float32.

    Raises:
        InputError: a discount that has no values.
    """
    if not 0 <= discount < 1:
        raise InputError(message("value_graph", "discount in [0, 1)", discount))
    sizes = [torch.randint(a, b + 1, (), generator=generator) for a, b in (states, actions)]
    S, A = (int(v) for v in sizes)
    following = torch.randint(0, S, (S, A), generator=generator)
    reward = 2 * torch.rand(S, A, generator=generator, dtype=torch.float64) - 1
    V = torch.zeros(S, dtype=torch.float64)
    change = 1.0
    while change > 1e-12:
        new = (reward + discount * V[following]).amax(1)
        change, V = float((new - V).abs().max()), new
    return Graphs(
        nodes=torch.ones(S, 1),
        edges=reward.reshape(-1, 1).float(),
        source=following.reshape(-1),
        target=torch.arange(S).repeat_interleave(A),
        y=V[:, None].float(),
        graph=torch.zeros(S, dtype=torch.long),
    )


def policy_accuracy(values: Tensor, g: Graphs, discount: float = 0.9) -> float:
    """Share of states whose best action by `values` (N, 1) is the optimal one [-]."""
    best = []
    for V in (values, g.y):
        worth = g.edges[:, 0] + discount * V[g.source, 0]
        top = torch.full((len(V),), -torch.inf, dtype=worth.dtype, device=worth.device)
        top = top.scatter_reduce(0, g.target, worth, "amax")
        best.append(worth >= top[g.target])
    hits = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    hits[g.target[best[0] & best[1]]] = True
    return float(hits.double().mean())
