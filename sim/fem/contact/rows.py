"""From candidates to the pairs that act at given positions, each closest feature once, with its weight.

    E_barrier = κ [ ¾ Σ_v ½ A_v Σ_f e_f b(s_vf) + ¼ Σ_{e<e'} (π/2) (A_e/ℓ_e)(A_e'/ℓ_e') m_ee' b(s_ee') ]

Points against features f carry three quarters, from both sides half each; pairs of edges one quarter. Two
long lines of lengths ℓ, ℓ' per area in random directions cross (2/π) ℓ ℓ' times per area, so with the
product of widths the edges of two sheets add up to one quarter whatever the sizes of the two meshes.
Two flat parallel sheets at the distance d then push with the pressure κ g(d/d̂) on average.

Source: Li et al. 2023 (Convergent Incremental Potential Contact) for weights by area and inclusion–
exclusion; the weights of edge pairs are our own (Buffon's needle).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .candidates import Candidates
from .distances import PLANE, dot, nearest
from .kernels import EDGES, FACE, ROD, kinds
from .surface import Surface

__all__ = ["Rows", "active_rows", "closest_squared"]

POINT_SHARE, EDGE_SHARE = 0.75, 0.25
FADE = 1e-3
"""Edge pairs fade where sin² of their angle is below this, at rest lengths."""


@dataclass(frozen=True)
class Rows:
    """Pairs nearer than d̂, in a fixed order; the last ones are edges that fade. No graph."""

    stencil: Tensor
    """Flattened points, int64 (S, 4)."""
    kind: Tensor
    """Closest features, (S,), see `distances`."""
    weight: Tensor
    """Area the pair stands for [m²], (S,); negative where features overlap."""
    fade: Tensor
    """ε of the last Z rows [m⁴], (Z,)."""

    @property
    def plain(self) -> int:
        """Number of rows without mollifier, S − Z."""
        return len(self.kind) - len(self.fade)


@torch.no_grad()
def active_rows(surface: Surface, found: Candidates, x: Tensor, d_hat: float) -> Rows:
    """Pairs at a distance below d̂ [m] in the state x (M, 3), merged by closest feature.

    Source: module docstring.
    """
    stencil, kind, weight = _point_rows(surface, found, x, d_hat)
    edge_kind = kinds(x, found.edges, EDGES, d_hat)
    near = (edge_kind >= 0).nonzero()[:, 0]
    pairs, edge, edge_kind = found.edges[near], found.edge[near], edge_kind[near]
    X = x[pairs]
    width = surface.tensor("edge_width", x.device)[edge].to(x.dtype)
    length = surface.tensor("edge_length", x.device)[edge].to(x.dtype)
    edge_weight = EDGE_SHARE * 0.5 * math.pi * width.prod(1)
    eps = FADE * (length * length).prod(1)
    n = torch.linalg.cross(X[:, 1] - X[:, 0], X[:, 3] - X[:, 2])
    fades = dot(n, n) < eps
    order = torch.cat(((~fades).nonzero()[:, 0], fades.nonzero()[:, 0]))
    return Rows(
        torch.cat((stencil, pairs[order])),
        torch.cat((kind, edge_kind[order])),
        torch.cat((weight, edge_weight[order])),
        eps[fades],
    )


def _point_rows(
    surface: Surface, found: Candidates, x: Tensor, d_hat: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Points against triangles, edges and points: stencil, kind, weight."""
    device = x.device
    n, n_edges, n_faces = surface.point_count, len(surface.edges), len(surface.triangles)
    stride = n_faces + n_edges + n
    kind = kinds(x, found.faces, FACE, d_hat)
    near = (kind >= 0).nonzero()[:, 0]
    kind, faces, triangle = kind[near], found.faces[near], found.triangle[near]
    v = faces[:, 0]
    corners = surface.tensor("triangles", device)[triangle]
    sides = surface.tensor("triangle_edges", device)[triangle]
    # Number of the closest feature: triangles, then edges, then points of the scene.
    part = torch.cat((n_faces + n_edges + corners, n_faces + sides, triangle[:, None]), dim=1)
    keys = [v * stride + part.gather(1, kind[:, None])[:, 0]]
    signs = [torch.ones_like(v)]

    edge_sign = surface.tensor("edge_sign", device)
    point_sign = surface.tensor("vertex_sign", device)
    pairs = (v[:, None] * n_edges + sides)[edge_sign[sides] != 0]
    lone = found.lone[found.lone_edge >= 0]
    number = found.lone_edge[found.lone_edge >= 0]
    pairs = torch.unique(torch.cat((pairs, lone[:, 0] * n_edges + number)))
    w, e = _split(pairs, n_edges)
    ends = surface.tensor("edges", device)[e]
    first = w // n * n
    edge_kind = kinds(x, torch.cat((w[:, None], first[:, None] + ends), dim=1), ROD, d_hat)
    near = edge_kind >= 0
    part = torch.where(edge_kind == 3, n_faces + e, 0)
    for k in range(2):
        part = torch.where(edge_kind == k, n_faces + n_edges + ends[:, k], part)
    keys.append((w * stride + part)[near])
    signs.append(edge_sign[e][near])

    dots = (v[:, None] * n + corners)[point_sign[corners] != 0]
    at_edge = lone[:, :1] * n + surface.tensor("edges", device)[number]
    at_edge = at_edge[point_sign[surface.tensor("edges", device)[number]] != 0]
    single = found.lone[found.lone_edge < 0]
    dots = torch.unique(torch.cat((dots, at_edge, single[:, 0] * n + single[:, 1] % n)))
    w, p = _split(dots, n)
    r = x[w] - x[w // n * n + p]
    near = dot(r, r) < d_hat * d_hat
    keys.append((w * stride + n_faces + n_edges + p)[near])
    signs.append(point_sign[p][near])

    key, place = torch.unique(torch.cat(keys), return_inverse=True)
    sign = torch.zeros_like(key).index_add(0, place, torch.cat(signs))
    key, sign = key[sign != 0], sign[sign != 0]
    v, part = _split(key, stride)
    corners = torch.cat(
        (
            surface.tensor("triangles", device),
            surface.tensor("edges", device)[:, [0, 1, 1]],
            torch.arange(n, device=device)[:, None].expand(n, 3),
        )
    )[part]
    kind = torch.where(part < n_faces, PLANE, torch.where(part < n_faces + n_edges, 3, 0))
    area = surface.tensor("vertex_area", device).to(x.dtype)[v % n]
    stencil = torch.cat((v[:, None], (v // n * n)[:, None] + corners), dim=1)
    return stencil, kind, 0.5 * POINT_SHARE * area * sign


def _split(key: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    stride = max(stride, 1)
    return key // stride, key % stride


@torch.no_grad()
def closest_squared(found: Candidates, x: Tensor) -> tuple[Tensor, Tensor]:
    """Stencils (P, 4) of all candidates and their squared distances [m²], (P,); no derivative."""
    lone = torch.cat((found.lone, found.lone[:, -1:]), dim=1)
    stencil = torch.cat((found.faces, lone, found.edges))
    sets = (found.faces, FACE), (found.lone, ROD), (found.edges, EDGES)
    kind = torch.cat([kinds(x, rows, feature) for rows, feature in sets])
    return stencil, nearest(x[stencil], kind).squared
