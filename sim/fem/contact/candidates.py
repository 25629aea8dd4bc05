"""Pairs that may touch anywhere on the way between two states, kept while they stay valid.

Boxes around every feature hold it on the whole way, in coordinates relative to the scene's mean (a
common motion moves no pair). They are grown by half the reach of the contact plus a skin, so that the
pairs found serve all states that stay in the skin.

Source: linked lists with a skin as in molecular dynamics (Verlet 1967).
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .broad import Boxes, box_pairs
from .surface import Surface

__all__ = ["Candidates", "find_candidates", "relative"]


@dataclass(frozen=True)
class Candidates:
    """Pairs of features over all scenes, sorted; stencils are rows of flattened points."""

    lower: Tensor
    """Corner of what is covered, (M, 3): any state with relative positions between serves."""
    upper: Tensor
    """Other corner, (M, 3)."""
    faces: Tensor
    """Point and triangle, int64 (P, 4)."""
    triangle: Tensor
    """Triangle of each of them in its scene, (P,)."""
    edges: Tensor
    """Two edges, int64 (Q, 4)."""
    edge: Tensor
    """Their numbers in the scene, (Q, 2)."""
    lone: Tensor
    """Point and edge without triangle, or point and lone point twice, int64 (L, 3)."""
    lone_edge: Tensor
    """Number of that edge, or −1, (L,)."""

    def cover(self, y: Tensor) -> bool:
        """Whether relative positions (M, 3) lie within."""
        return bool(((y >= self.lower) & (y <= self.upper)).all())


def relative(x: Tensor, points: int) -> Tensor:
    """Positions relative to the mean of each scene, (M, 3)."""
    y = x.detach().reshape(-1, points, 3)
    return (y - y.mean(1, keepdim=True)).reshape(-1, 3)


@torch.no_grad()
def find_candidates(
    surface: Surface, x_start: Tensor, x_end: Tensor, reach: float, skin: float | None = None
) -> Candidates:
    """All pairs that come within `reach` on the straight way from x_start to x_end.

    Args:
        surface: what collides.
        x_start, x_end: flattened positions [m], (M, 3).
        reach: distance [m].
        skin: how far points may leave that way with the pairs still valid [m]; None: the larger of
            half the reach and half the largest relative motion.

    Returns:
        Pairs without shared points, without two driven features and without groups that ignore each
        other.
    """
    n = surface.point_count
    device = x_start.device
    y0, y1 = (relative(x, n).cpu().numpy() for x in (x_start, x_end))
    scenes = len(y0) // n
    lower, upper = np.minimum(y0, y1), np.maximum(y0, y1)
    if skin is None:
        skin = max(0.5 * reach, 0.5 * float((upper - lower).max(initial=0.0)))
    lower, upper = lower - skin, upper + skin

    def boxes(features: np.ndarray) -> Boxes:
        lo, hi = lower.reshape(scenes, n, 3), upper.reshape(scenes, n, 3)
        columns = range(features.shape[1])
        lo = np.min([lo[:, features[:, c]] for c in columns], 0).reshape(-1, 3)
        hi = np.max([hi[:, features[:, c]] for c in columns], 0).reshape(-1, 3)
        return Boxes(
            lo - 0.5 * reach, hi + 0.5 * reach, np.repeat(np.arange(scenes), len(features))
        )

    v, t, e = surface.vertices[:, None], surface.triangles, surface.edges
    points = boxes(v)
    faces, triangle = _meet(surface, v, t, *box_pairs(points, boxes(t)))
    edges, edge = _meet(surface, e, e, *box_pairs(boxes(e)))
    rods = e[surface.lone_edges]
    lone, rod = _meet(surface, v, rods, *box_pairs(points, boxes(rods)))
    number = surface.lone_edges[rod[:, 1]]
    single = surface.lone_vertices[:, None].repeat(2, 1)
    dots, _ = _meet(surface, v, single, *box_pairs(points, boxes(single)))
    lone = np.concatenate((lone, dots))
    number = np.concatenate((number, np.full(len(dots), -1)))

    def out(a: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(a)).to(device)

    return Candidates(
        out(lower), out(upper), out(faces), out(triangle[:, 1]), out(edges), out(edge),
        out(lone), out(number),
    )  # fmt: skip


def _meet(
    surface: Surface, a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Stencils (P, ·) and feature numbers (P, 2) of box pairs that may touch."""
    scene = i // max(len(a), 1)
    i, j = i - scene * len(a), j - scene * len(b)
    p, q = [a[i, c] for c in range(a.shape[1])], [b[j, c] for c in range(b.shape[1])]
    apart = np.ones(len(i), bool)
    for u, v in itertools.product(p, q):
        apart &= u != v
    driven = surface.driven
    if driven.any():
        still = functools.reduce(np.logical_and, [driven[u] for u in (*p, *q)])
        apart &= ~still
    if surface.ignored.any():
        apart &= ~surface.ignored[surface.group[p[0]], surface.group[q[0]]]
    rows = np.flatnonzero(apart)
    shift = scene[rows] * surface.point_count
    stencil = np.stack([u[rows] + shift for u in (*p, *q)], 1)
    return stencil, np.stack((i[rows], j[rows]), 1)
