"""Distances from which `csg` builds solids: each rule gives d [m] and ∇d, finite everywhere.

Differentiable in the points. Source: Quilez 2008 (Distance functions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .shape_base import corner_rule, direction

__all__ = ["arc", "arc_bounds", "box", "nearest", "segment", "smooth_min"]

Slope = tuple[Tensor, Tensor]


def smooth_min(a: Tensor, m: Tensor, b: Tensor, n: Tensor, blend: float) -> Slope:
    """Minimum of two distances with gradients m and n, blended over the width k = `blend` [m].

    The derivative of w cancels, so ∇d = w m + (1 − w) n.
    """
    if blend == 0:
        first = a <= b
        return torch.where(first, a, b), torch.where(first[..., None], m, n)
    w = (0.5 + (b - a) / (2 * blend)).clamp(0, 1)
    d = w * a + (1 - w) * b - blend * w * (1 - w)
    return d, w[..., None] * m + (1 - w[..., None]) * n


def nearest(parts: Sequence[Slope]) -> Slope:
    """The least of several distances with its gradient; the first one where several are equal."""
    d, n = parts[0]
    for other, m in parts[1:]:
        d, n = smooth_min(d, n, other, m, 0.0)
    return d, n


def segment(p: Tensor, a: Sequence[float], b: Sequence[float], half: float) -> Slope:
    """Distance to the thick line from a to b, points (..., D); equal ends make a ball."""
    start = p.new_tensor(a)
    way = p.new_tensor(b) - start
    squared = float((way * way).sum())
    t = ((p - start) @ way / (squared or 1.0)).clamp(0, 1)
    length, n = direction(p - start - t[..., None] * way, _across(way))
    return length - half, n


def arc(p: Tensor, row: Sequence[float]) -> Slope:
    """Distance to the thick arc (x, y, radius, from, to, half thickness), points (..., 2)."""
    x, y, radius, start, stop, half = row
    q = p - p.new_tensor((x, y))
    length, n = direction(q, (math.cos(start), math.sin(start)))
    side = torch.where(length < radius, -torch.ones_like(length), torch.ones_like(length))
    along = side * (length - radius)
    ends = [radius * p.new_tensor((math.cos(t), math.sin(t))) for t in (start, stop)]
    first, last = (direction(q - end, (0.0, 1.0)) for end in ends)
    d, m = nearest([first, last])
    angle = torch.atan2(q[..., 1].detach(), q[..., 0].detach())
    within = torch.remainder(angle - start, 2 * math.pi) <= stop - start
    normal = torch.where(within[..., None], side[..., None] * n, m)
    return torch.where(within, along, d) - half, normal


def arc_bounds(row: Sequence[float]) -> tuple[float, float, float, float]:
    """Left, right, low and high of an arc's center line [m]."""
    x, y, radius, start, stop, _ = row
    quarter = 0.5 * math.pi
    turns = range(math.ceil(start / quarter), math.floor(stop / quarter) + 1)
    angles = [start, stop, *(k * quarter for k in turns)]
    xs = [x + radius * math.cos(t) for t in angles]
    ys = [y + radius * math.sin(t) for t in angles]
    return min(xs), max(xs), min(ys), max(ys)


def box(points: Tensor, center: Sequence[float], half: Sequence[float]) -> Slope:
    """Distance to an axis-aligned box, points (..., 3)."""
    p = points - points.new_tensor(center)
    sign = torch.where(p < 0, -torch.ones_like(p), torch.ones_like(p))
    d, n = corner_rule(sign * p - points.new_tensor(half))
    return d, sign * n


def _across(way: Tensor) -> tuple[float, ...]:
    """Some unit vector perpendicular to a direction: the normal of points on the line itself."""
    axis = int(way.abs().argmin())
    unit = torch.zeros_like(way)
    unit[axis] = 1.0
    squared = (way * way).sum()
    if squared > 0:
        unit = unit - (unit @ way) / squared * way
    return tuple((unit / unit.norm()).tolist())
