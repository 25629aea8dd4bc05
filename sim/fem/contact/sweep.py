"""Signed distances of moving obstacles: value, exact derivatives, and how far points may move.

    t' = t + max( (d − g) / speed,  (d − g) / (−n·p)⁺ )

`speed` bounds how fast d can fall: the largest slope of d times the largest relative speed of the point
and the obstacle. The second bound holds for convex obstacles that do not turn, whose d is convex: d stays
above its tangent.

Source: Hart 1996 (Sphere tracing); Mirtich 1996 (conservative advancement).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core import rotations
from ...core.colliders import Collider, signed_distance
from ...core.mesh_shape import MeshShape
from ...core.shape_base import Shape
from ...core.shapes import Box, Capsule, Cylinder, Plane, Sphere
from .ccd import KEEP, SLACK

__all__ = ["Field", "distance_field", "field_hessian", "passed_by", "safe_share", "slope_bound"]

_CONVEX = (Box, Capsule, Cylinder, Plane, Sphere)
_STEPS = 1000


@dataclass(frozen=True)
class Field:
    """Distances of S points."""

    d: Tensor
    """Signed distance [m], (S,)."""
    slope: Tensor
    """∇d in the world frame [-], (S, 3)."""


def _distance(x: Tensor, collider: Collider, pose: Tensor) -> Tensor:
    """Signed distances of points (S, 3) to a collider at poses (S, 7)."""
    return signed_distance(x[:, None], [collider], pose[:, None]).distance[:, 0, 0]


def distance_field(x: Tensor, collider: Collider, pose: Tensor, slope: bool = True) -> Field:
    """Distance and its exact derivative, also where the shape's normal is a normalized one.

    Args:
        x: points [m], (S, 3).
        collider: the obstacle.
        pose: its pose for each point, (S, 7).
        slope: whether ∇d is wanted; if not it is empty.

    Differentiable in x and pose. Source: chain rule (autograd).
    """
    if not slope:
        return Field(_distance(x, collider, pose), x.new_zeros(0, 3))
    graph = torch.is_grad_enabled() and (x.requires_grad or pose.requires_grad)
    with torch.enable_grad():
        p = x if graph and x.requires_grad else x.detach().requires_grad_()
        place = pose if graph else pose.detach()
        d = _distance(p, collider, place)
        (g,) = torch.autograd.grad(d.sum(), p, create_graph=graph)
    return Field(d, g) if graph else Field(d.detach(), g)


def field_hessian(x: Tensor, collider: Collider, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """d (S,), ∇d (S, 3) and ∇²d (S, 3, 3) [1/m], without graph. Source: chain rule (autograd)."""
    with torch.enable_grad():
        p = x.detach().requires_grad_()
        d = _distance(p, collider, pose.detach())
        (g,) = torch.autograd.grad(d.sum(), p, create_graph=True)
        rows = []
        for axis in range(3):
            row = None
            if g.requires_grad:
                total = g[:, axis].sum()
                (row,) = torch.autograd.grad(total, p, retain_graph=True, allow_unused=True)
            rows.append(torch.zeros_like(p) if row is None else row)
    bend = torch.stack(rows, dim=1).detach()
    return d.detach(), g.detach(), 0.5 * (bend + bend.transpose(1, 2))


@functools.lru_cache(maxsize=64)
def slope_bound(shape: Shape) -> float:
    """Upper bound of |∇d| [-]: 1 for exact distances, from the grid for sampled ones."""
    if not isinstance(shape, MeshShape):
        return 1.0
    grid = shape.distances
    total = np.zeros(tuple(n - 1 for n in grid.shape))
    for axis in range(3):
        step = np.abs(np.diff(grid, axis=axis)) / shape.dx
        for other in (a for a in range(3) if a != axis):
            low = [slice(None)] * 3
            high = [slice(None)] * 3
            low[other], high[other] = slice(None, -1), slice(1, None)
            step = np.maximum(step[tuple(low)], step[tuple(high)])
        total += step**2
    # Beyond the grid the distance to the grid's box comes on top, in other directions.
    return float(np.sqrt(total.max() + 1.0))


@torch.no_grad()
def safe_share(x: Tensor, dx: Tensor, collider: Collider, pose: Tensor, pose_end: Tensor) -> Tensor:
    """Share of a motion in which each point keeps `KEEP` of its distance to the obstacle.

    Args:
        x, dx: points and displacements [m], (S, 3).
        collider: the obstacle.
        pose, pose_end: its pose at both ends for each point, (S, 7); in between it moves on a line and
            turns at constant rate.

    Returns:
        Share in [0, 1], (S,); exactly 1 if the whole motion is safe, 0 for points inside.

    No derivative. Source: module docstring.
    """
    time = x.new_zeros(len(x))
    move = pose_end[:, :3] - pose[:, :3]
    turn = rotations.to_rotation_vector(
        rotations.multiply(pose_end[:, 3:], rotations.inverse(pose[:, 3:]))
    )
    rate = turn.norm(dim=-1)
    p = dx - move
    arm = torch.maximum((x - pose[:, :3]).norm(dim=-1), (x + dx - pose_end[:, :3]).norm(dim=-1))
    speed = slope_bound(collider.shape) * (p.norm(dim=-1) + rate * arm)
    flat = isinstance(collider.shape, Plane)
    convex = flat or (isinstance(collider.shape, _CONVEX) and not collider.inverted)
    rows = torch.arange(len(x), device=x.device)
    goal = None
    for _ in range(_STEPS):
        if len(rows) == 0:
            break
        t = time[rows][:, None]
        spin = rotations.from_rotation_vector(t * turn[rows])
        place = torch.cat(
            (pose[rows, :3] + t * move[rows], rotations.multiply(spin, pose[rows, 3:])), dim=1
        )
        field = distance_field(x[rows] + t * dx[rows], collider, place, slope=convex)
        d = field.d
        if goal is None:
            goal = KEEP * d.clamp(min=0)
            going = d > 0
        else:
            going = d > (1 + SLACK) * goal
        fall = torch.where(speed[rows] > 0, speed[rows], torch.full_like(d, 1e-300))
        ahead = (d - goal) / fall
        if convex:
            closing = -(field.slope * p[rows]).sum(-1)
            plane = (d - goal) / torch.where(closing > 0, closing, torch.full_like(d, 1e-300))
            ahead = torch.where(rate[rows] == 0, torch.maximum(ahead, plane), ahead)
        left = 1 - time[rows]
        done = ahead >= left
        time[rows] += torch.where(going, torch.where(done, left, ahead), torch.zeros_like(d))
        time[rows[going & done]] = 1.0
        keep_on = going & ~done & (ahead > 0)
        rows, goal = rows[keep_on], goal[keep_on]
    return time


@torch.no_grad()
def passed_by(x: Tensor, collider: Collider, pose: Tensor, pose_end: Tensor) -> Tensor:
    """Resting points that an obstacle leaves on its other side while it moves, rows of x.

    Args:
        x: points [m], (S, 3).
        collider: the obstacle.
        pose, pose_end: its pose at both ends for each point, (S, 7).
    """
    hit = (safe_share(x, torch.zeros_like(x), collider, pose, pose_end) < 1).nonzero()[:, 0]
    if len(hit) == 0:
        return hit
    before, after = (distance_field(x[hit], collider, p[hit]).slope for p in (pose, pose_end))
    return hit[(before * after).sum(-1) <= 0]
