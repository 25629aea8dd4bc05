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

import torch
from torch import Tensor

from .distances import dot, edge_edge_kind, nearest, point_triangle_kind

__all__ = ["KEEP", "SLACK", "safe_time"]

KEEP = 0.1
"""Share of the start distance that is kept."""
SLACK = 0.1
"""A pair stops when it is within (1 + slack) of the distance to keep."""
_STEPS = 500


@torch.no_grad()
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
    time = X.new_zeros(len(X))
    rows = torch.arange(len(X), device=X.device)
    P = P - P.mean(1, keepdim=True)
    first = torch.zeros(len(X), 4, dtype=torch.bool, device=X.device)
    first[:, 0] = True
    first[:, 1] = edges
    length = dot(P, P).sqrt()
    speed = (length * first).amax(1) + (length * ~first).amax(1)
    goal = None
    for _ in range(_STEPS):
        if len(rows) == 0:
            break
        r, d = _closest(X, edges)
        if goal is None:
            goal = keep * d
            going = d > 0
        else:
            going = d > (1 + slack) * goal
        ahead = (d - goal) / torch.where(speed > 0, speed, torch.full_like(speed, 1e-300))
        left = 1 - time[rows]
        hard = (going & (ahead < left)).nonzero()[:, 0]
        if len(hard):
            n = r[hard] / d[hard, None]
            bound = _plane_bound(X[hard], P[hard], n, first[hard], goal[hard])
            ahead[hard] = torch.maximum(ahead[hard], bound).clamp(min=0)
        done = ahead >= left
        step = torch.where(going, torch.where(done, left, ahead), torch.zeros_like(ahead))
        time[rows] += step
        time[rows[going & done]] = 1.0
        keep_on = going & ~done & (step > 0)
        rows, edges, first, speed, goal = (v[keep_on] for v in (rows, edges, first, speed, goal))
        X, P = X[keep_on] + step[keep_on, None, None] * P[keep_on], P[keep_on]
    return time


def _closest(X: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Vector between closest points (P, 3) and distance (P,)."""
    kind = torch.empty(len(X), dtype=torch.int64, device=X.device)
    kind[edges] = edge_edge_kind(X[edges])
    kind[~edges] = point_triangle_kind(X[~edges])
    n = nearest(X, kind)
    return n.r, n.squared.sqrt()


def _plane_bound(X: Tensor, P: Tensor, n: Tensor, first: Tensor, goal: Tensor) -> Tensor:
    """Time until the slab normal to n between the features is as thin as the goal, (P,)."""
    X = X - X[:, :1]
    h, v = dot(X, n[:, None]), dot(P, n[:, None])
    both = first[:, :, None] & ~first[:, None, :]
    gap = h[:, :, None] - h[:, None, :] - goal[:, None, None]
    closing = v[:, None, :] - v[:, :, None]
    closes = both & (closing > 0)
    bound = gap / torch.where(closes, closing, torch.ones_like(closing))
    bound = torch.where(closes, bound, torch.full_like(bound, torch.inf)).flatten(1).amin(1)
    # Corners already inside the slab: the bound says nothing.
    apart = (~both | (gap >= 0)).flatten(1).all(1)
    return torch.where(apart, bound, torch.zeros_like(bound))
