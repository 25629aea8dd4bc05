"""Continuous collision detection that never lets a pair come closer than a share of its distance.

From the distance d and direction n of the closest points of two convex features A and B, moving linearly
by p over unit time, two bounds say how far the pair may move with a distance of at least g left:

    speed:  (d − g) / (max_A |p| + max_B |p|)               with the mean motion of the pair taken off
    plane:  min over a ∈ A, b ∈ B of (n·(a − b) − g) / (n·(p_b − p_a))⁺

The second holds because n·(a − b) over the corners bounds the distance from below at any time; it is
exact for head-on motion and does not slow down where features slide along each other. The larger one is
taken, and again, until d ≤ (1 + slack) g or the time is up. The motion up to the answer is safe whatever
the number of steps.

Source: Li et al. 2021 (Codimensional IPC), Sec. 5 (additive CCD, first bound); Mirtich 1996
(conservative advancement along a direction).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .kernels import safe_times

__all__ = ["KEEP", "SLACK", "safe_time"]

KEEP = 0.1
"""Share of the start distance that is kept."""
SLACK = 0.1
"""A pair stops when it is within (1 + slack) of the distance to keep."""


def safe_time(
    X: Tensor, P: Tensor, edges: Tensor, keep: float = KEEP, slack: float = SLACK
) -> Tensor:
    """Largest time found up to which each pair keeps the distance `keep` d(0).

    Args:
        X: positions [m], (P, 4, 3): point and triangle, or the ends of two edges.
        P: displacements over unit time [m], (P, 4, 3).
        edges: whether a row is a pair of edges, bool (P,).
        keep: share of d(0) kept, in (0, 1).
        slack: see module docstring, > 0.

    Returns:
        t in [0, 1], (P,); exactly 1 if the whole motion is safe, 0 if the features touch at the start.

    No derivative. Source: module docstring.
    """
    rows = torch.arange(4 * len(X), device=X.device).view(-1, 4)
    flat = X.reshape(-1, 3), P.reshape(-1, 3)
    return safe_times(*flat, rows, edges, keep, slack, math.inf)[0]
