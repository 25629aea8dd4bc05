"""Particles that got into a collider are put back onto its surface, in torch.

    x'' = x' − min(δ, 0) n,   v'' = v' − K (v' − V)      V = velocity of a prescribed collider at x''

δ and n are depth and normal of the surface at x'. Where the nearest surface is not the one in front of
which the particle was (a plate passed, or entered beyond its middle), they are those of the tangent
plane at the particle's old place in the frame of the collider: the swept test. K is the collider law.

The grid acts on nodes only, so a plate without nodes inside stops nothing without this. Rigid bodies move
particles but leave their velocity to the grid, which shares momentum with them exactly: the total
momentum is unchanged.

Source: position projection of Müller et al. 2007 (PBD), Sec. 3.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.colliders import embed, project, signed_distance
from ..core.colliders_rigid import RigidBody
from ..core.rotations import rotate, rotate_inverse
from .bodies import node_response
from .model import MPMModel

__all__ = ["CLOSE", "TINY", "push_out"]

CLOSE = 1e-3
"""How near to the collider, over the length of its path, a particle counts as passing through it."""

TINY = 1e-12
"""Least distance [m] that counts as outside in the swept test, so that no division is by zero."""


def push_out(
    model: MPMModel,
    x0: Tensor,
    x: Tensor,
    v: Tensor,
    pose0: Tensor,
    pose1: Tensor,
    twist: Tensor,
    friction: Tensor,
) -> tuple[Tensor, Tensor]:
    """Positions and velocities after the push-out, collider by collider.

    Args:
        model: The scene; only colliders with `push_out` act.
        x0: Particles at the start of the substep [m], (B, N, D).
        x: At its end [m], (B, N, D).
        v: Their velocities [m/s], (B, N, D).
        pose0: Colliders at the start, (B, K, 7).
        pose1: At the end, (B, K, 7).
        twist: Twists of prescribed colliders, (B, K, 6).
        friction: (K,) [-].

    Differentiable in x, v, pose1, twist and friction; the tangent planes of the swept test are
    constants, which is exact for flat faces.
    """
    dim = model.dim
    for k, collider in enumerate(model.colliders):
        if not collider.push_out:
            continue
        place, q = pose1[:, k, None, :3], pose1[:, k, None, 3:]
        one = slice(k, k + 1)
        end = signed_distance(x, [collider], pose1[:, one])
        d, n = end.distance[..., 0], end.normal[..., 0, :]
        with torch.no_grad():
            start = signed_distance(x0, [collider], pose0[:, one])
            q0 = pose0[:, k, None, 3:]
            local = rotate_inverse(q0, embed(x0) - pose0[:, k, None, :3])
            n0 = rotate_inverse(q0, start.normal[..., 0, :])
            edge = (local * n0).sum(-1) - start.distance[..., 0]
            local1 = rotate_inverse(q, embed(x) - place)
            # Between parallel faces this point of the path lies inside.
            ahead, behind = start.distance[..., 0].clamp(min=0), d.clamp(min=TINY)
            share = (ahead / (ahead + behind))[..., None]
            middle = place + rotate(q, local + share * (local1 - local))
            between = signed_distance(project(middle, dim), [collider], pose1[:, one])
            turned = (rotate(q, n0) * n).sum(-1) < 0
            near = CLOSE * (local1 - local).norm(dim=-1)  # it may start on the surface
            crossed = turned & ((d < 0) | (between.distance[..., 0] < near))
        n0 = rotate(q, n0)
        behind = ((embed(x) - place) * n0).sum(-1) - edge
        depth = torch.where(crossed, behind, d)
        n = torch.where(crossed[..., None], n0, n)
        hit = depth < 0
        moved = embed(x) - torch.where(hit, depth, torch.zeros_like(depth))[..., None] * n
        if not isinstance(collider, RigidBody):
            arm = moved - place
            moving = twist[:, k, None, :3] + torch.linalg.cross(
                twist[:, k, None, 3:].expand_as(arm), arm
            )
            rel = embed(v - project(moving, dim))
            K = node_response(rel, n, friction[k], collider.contact)
            change = project((K @ rel[..., None])[..., 0], dim)
            v = torch.where(hit[..., None], v - change, v)
        x = torch.where(hit[..., None], project(moved, dim), x)
    return x, v
