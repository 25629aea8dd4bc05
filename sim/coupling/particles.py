"""Contact of material points with the surface of a deformable body.

    gap    g = n·(x_p − c) − r_p,   c the nearest place of the surface, n = ±(x_p − c)/|x_p − c| outward
    normal f_n = k_n a_p (−g)⁺ n
    slip   s' = T (s + h u),  cut to |s| ≤ μ |f_n| / (k_t a_p);   f_t = −k_t a_p s

A particle of volume V stands for an area a = V^⅔ and has the radius r = V^⅓/2, so one layer touches and
the force per area does not depend on how finely the body or the surface is meshed. Slip is kept between
steps, so there is a static regime: what sticks does not creep (Cundall & Strack 1979).

The surface gets the opposite forces at the three corners of the touched triangle, by the weights of c, so
momentum is conserved to the last bit.
Source: Si et al. 2024 (DiffTactile), section 3, with areas, weights and a static regime.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

__all__ = ["Touch", "nearest_triangles", "touch"]

_CANDIDATES = 8


@dataclass(frozen=True)
class Touch:
    """Contact forces of one instant."""

    force: Tensor
    """On the particles [N], (B, N, 3)."""
    reaction: Tensor
    """On the points of the surface [N], (B, M, 3)."""
    stiffness: Tensor
    """Σ k_n a over what presses on each point of the surface [N/m], (B, M)."""
    slip: Tensor
    """s of the particles after this instant [m], (B, N, 3)."""


@torch.no_grad()
def nearest_triangles(points: Tensor, surface: Tensor, triangles: Tensor) -> Tensor:
    """The triangle nearest to each point.

    Args:
        points: (B, N, 3) [m].
        surface: (B, M, 3) [m].
        triangles: (F, 3).

    Returns:
        int64 (B, N). No derivative: the choice jumps, what it chooses is continuous.
    """
    out = torch.empty(points.shape[:2], dtype=torch.long, device=points.device)
    count = min(_CANDIDATES, len(triangles))
    for b in range(len(points)):
        corners = surface[b][triangles]
        centers = corners.mean(1).cpu().numpy()
        found = cKDTree(centers).query(points[b].cpu().numpy(), k=count)[1]
        near = torch.from_numpy(np.asarray(found).reshape(len(points[b]), count)).to(out.device)
        x = points[b][:, None].expand(-1, count, 3)
        c = (_weights(x, corners[near])[..., None] * corners[near]).sum(-2)
        best = (x - c).square().sum(-1).argmin(1, keepdim=True)
        out[b] = near.gather(1, best)[:, 0]
    return out


def _weights(x: Tensor, corners: Tensor) -> Tensor:
    """Barycentric weights of the nearest place of triangles (..., 3, 3) to x (..., 3), (..., 3)."""
    a, b, c = corners.unbind(-2)
    e, f, away = b - a, c - a, x - a
    ee, ff, ef = (e * e).sum(-1), (f * f).sum(-1), (e * f).sum(-1)
    ae, af = (away * e).sum(-1), (away * f).sum(-1)
    det = ee * ff - ef * ef
    v, w = (ff * ae - ef * af) / det, (ee * af - ef * ae) / det
    inner = torch.stack((1 - v - w, v, w), dim=-1)
    best, size = inner, torch.full_like(v, torch.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        p, q = corners[..., i, :], corners[..., j, :]
        side = q - p
        t = (((x - p) * side).sum(-1) / (side * side).sum(-1)).clamp(0, 1)
        place = p + t[..., None] * side
        d = (x - place).square().sum(-1).detach()
        weights = torch.zeros_like(corners[..., 0])
        weights[..., i], weights[..., j] = 1 - t, t
        nearer = d < size
        best = torch.where(nearer[..., None], weights, best)
        size = torch.minimum(size, d)
    inside = (inner > 0).all(-1, keepdim=True)
    return torch.where(inside, inner, best)


def _normals(surface: Tensor, triangles: Tensor) -> Tensor:
    """Area-weighted normals of the points (B, M, 3), not of unit length."""
    corners = surface[:, triangles]
    face = torch.linalg.cross(
        corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    )
    out = torch.zeros_like(surface)
    for k in range(3):
        out = out.index_add(1, triangles[:, k], face)
    return out


def _outward(away: Tensor, w: Tensor, corners: Tensor, normals: Tensor) -> Tensor:
    """Unit normal n (..., 3) at the nearest place.

    Above a face it is that of the face; beside edges and corners it points from there to the particle, or
    back where the particle is inside, which the normals around tell.
    """
    face = torch.linalg.cross(corners[..., 1, :] - corners[..., 0, :],
                              corners[..., 2, :] - corners[..., 0, :])  # fmt: skip
    face = face / face.square().sum(-1, keepdim=True).sqrt()
    mean = (w.detach()[..., None] * normals.detach()).sum(-2)
    squared = away.square().sum(-1, keepdim=True)
    beside = (w <= 0).any(-1, keepdim=True) & (squared > 0)
    length = torch.where(beside, squared, torch.ones_like(squared)).sqrt()
    sign = torch.where((away * mean).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return torch.where(beside, sign * away / length, face)


def touch(
    x: Tensor,
    v: Tensor,
    slip: Tensor,
    volume: Tensor,
    surface: Tensor,
    velocity: Tensor,
    triangles: Tensor,
    h: float,
    k_n: Tensor,
    k_t: Tensor,
    friction: Tensor,
    nearest: Tensor,
) -> Touch:
    """Forces between particles and a surface.

    Args:
        x, v: particles [m], [m/s], (B, N, 3).
        slip: s of the instant before [m], (B, N, 3).
        volume: V [m³], (N,).
        surface, velocity: points of the surface [m], [m/s], (B, M, 3).
        triangles: outward, (F, 3).
        h: time since the instant before [s].
        k_n, k_t: normal and tangential stiffness [Pa/m], (B,).
        friction: μ [-], (B,).
        nearest: triangle of each particle, (B, N), from `nearest_triangles`.

    Differentiable in everything but volume, h and nearest; the force has a kink where contact begins and
    where slip does.
    """
    radius, area = 0.5 * volume ** (1 / 3), volume ** (2 / 3)
    batch = torch.arange(len(x), device=x.device)[:, None]
    index = triangles[nearest]  # (B, N, 3)
    corners = surface[batch[..., None], index]
    w = _weights(x, corners)
    place = (w[..., None] * corners).sum(-2)
    away = x - place
    normal = _outward(away, w, corners, _normals(surface, triangles)[batch[..., None], index])
    gap = (away * normal).sum(-1) - radius
    touching = gap < 0
    push = k_n[:, None] * area * torch.where(touching, -gap, torch.zeros_like(gap))
    rate = v - (w[..., None] * velocity[batch[..., None], index]).sum(-2)
    moved = slip + h * rate
    moved = moved - (moved * normal).sum(-1, keepdim=True) * normal
    limit = friction[:, None] * push / (k_t[:, None] * area)
    squared = moved.square().sum(-1)
    length = torch.where(squared > 0, squared, torch.ones_like(squared)).sqrt()
    share = torch.where(length > limit, limit / length, torch.ones_like(limit))
    moved = torch.where(touching[..., None], share[..., None] * moved, torch.zeros_like(moved))
    force = push[..., None] * normal - (k_t[:, None] * area)[..., None] * moved
    # It grows from zero within a fiftieth of the radius: a jump would make the next step jump.
    depth = push / (k_n[:, None] * area)
    stiff = k_n[:, None] * area * depth / (depth + 0.02 * radius)
    shares = w[..., None] * force[..., None, :]
    flat = (index + batch[..., None] * surface.shape[1]).reshape(-1)
    reaction = torch.zeros_like(surface).reshape(-1, 3)
    reaction = reaction.index_add(0, flat, -shares.reshape(-1, 3)).view_as(surface)
    stiffness = torch.zeros_like(surface[..., 0]).reshape(-1)
    stiffness = stiffness.index_add(0, flat, (w * stiff[..., None]).reshape(-1))
    return Touch(force, reaction, stiffness.view_as(surface[..., 0]), moved)
