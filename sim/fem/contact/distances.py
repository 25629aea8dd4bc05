"""Squared distances of point–triangle and edge–edge pairs by closest feature, with derivatives.

Whatever the features are, the closest points are where a quadratic has its minimum:

    s(X) = min_β |r|²,   r = Σ_i c_i x_i,   c = c⁰ + Γ β,   E_a = ∂r/∂β_a = Σ_i Γ_ia x_i
    β = −G⁻¹ E r⁰,       G_ab = E_a·E_b

with constants c⁰ (4) and Γ (4, 0…2) per kind: no free β between two points, one on an edge, two on a
triangle or on two edges. The envelope theorem gives the derivatives of all kinds at once,

    ∂s/∂x_i = 2 c_i r,     ∂²s = 2 (c cᵀ ⊗ I − Σ_ab G⁻¹_ab w_a w_bᵀ),   w_a,i = c_i E_a + Γ_ia r

Kinds of four points (p, t0, t1, t2): 0…2 point p and corner t_k; 3…5 point and edge (t0 t1), (t1 t2),
(t2 t0); 6 point and plane. Of (a0, a1, b0, b1): 7 line and line; 8, 9 point a_i and edge b; 10, 11 point
b_j and edge a; 12…15 points a_i and b_j, 12 + 2 i + j. Which one is nearest is found without derivative;
s and its gradient are continuous where the kind changes, the Hessian is not. Two edges near parallel
are the exception (closest points jump along them): `cross_mollifier` fades them out.

Everything is differentiable in the positions except the kinds.

Source: Li et al. 2020 (Incremental Potential Contact), Sec. 4 and supplement; derivatives our own.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from .kernels import EDGES, FACE, kinds

__all__ = [
    "Nearest",
    "cross_mollifier",
    "dot",
    "edge_edge_kind",
    "nearest",
    "point_triangle_kind",
    "squared_distance_gradient",
    "squared_distance_hessian",
]

PLANE, LINES = 6, 7


@dataclass(frozen=True)
class Nearest:
    """Closest points of P pairs. Differentiable in the positions they were made from."""

    weights: Tensor
    """c, (P, 4); Σ_i c_i = 0, so r = Σ c_i x_i is the vector between the closest points."""
    r: Tensor
    """Vector from the second to the first closest point [m], (P, 3)."""
    squared: Tensor
    """s = |r|² [m²], (P,)."""
    free: Tensor
    """E_a [m], (P, 2, 3); zero where β_a is not free."""
    slopes: Tensor
    """Γ, (P, 4, 2)."""
    inverse: Tensor
    """G⁻¹ [1/m²], (P, 2, 2); zero rows where β_a is not free."""

    def rows(self, which: slice) -> Nearest:
        """Some of the pairs."""
        values = (self.weights, self.r, self.squared, self.free, self.slopes, self.inverse)
        return Nearest(*(v[which] for v in values))


def _tables() -> tuple[list[list[float]], list[list[list[float]]]]:
    """c⁰ and Γ of the sixteen kinds."""
    c = [[0.0] * 4 for _ in range(16)]
    g = [[[0.0, 0.0] for _ in range(4)] for _ in range(16)]

    def pair(kind: int, i: int, j: int) -> None:
        c[kind][i], c[kind][j] = 1.0, -1.0

    def along(kind: int, column: int, start: int, end: int, sign: float) -> None:
        g[kind][start][column], g[kind][end][column] = -sign, sign

    for k in range(3):
        pair(k, 0, 1 + k)
        pair(3 + k, 0, 1 + k)
        along(3 + k, 0, 1 + k, 1 + (k + 1) % 3, -1.0)
    pair(PLANE, 0, 1)
    along(PLANE, 0, 1, 2, -1.0)
    along(PLANE, 1, 1, 3, -1.0)
    pair(LINES, 0, 2)
    along(LINES, 0, 0, 1, 1.0)
    along(LINES, 1, 2, 3, -1.0)
    for i in range(2):
        pair(8 + i, i, 2)
        along(8 + i, 0, 2, 3, -1.0)
        pair(10 + i, 0, 2 + i)
        along(10 + i, 0, 0, 1, 1.0)
        for j in range(2):
            pair(12 + 2 * i + j, i, 2 + j)
    return c, g


def dot(a: Tensor, b: Tensor) -> Tensor:
    """a·b over a last axis of three, (...); several times faster than a sum over so short an axis."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


@functools.lru_cache(maxsize=8)
def _constants(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    c, g = (torch.tensor(t, dtype=dtype, device=device) for t in _tables())
    return c, g, (g != 0).any(1)


def nearest(X: Tensor, kind: Tensor) -> Nearest:
    """Closest points of pairs of known kind.

    Args:
        X: the four points of each pair [m], (P, 4, 3); points that a kind does not use are ignored.
        kind: 0…15, int64 (P,).

    Differentiable in X, any number of times. Source: module docstring.
    """
    table_c, table_g, table_free = _constants(X.dtype, X.device)
    c0, slopes, free = table_c[kind], table_g[kind], table_free[kind]
    # The weights sum to zero: positions relative to one point keep the digits.
    X = X - X[:, :1]
    r0 = (c0.unsqueeze(1) @ X).squeeze(1)
    E = slopes.mT @ X
    G, fixed = E @ E.mT, (~free).to(X.dtype)
    g00, g11, g01 = G[:, 0, 0] + fixed[:, 0], G[:, 1, 1] + fixed[:, 1], G[:, 0, 1]
    cross = torch.linalg.cross(E[:, 0], E[:, 1])
    # For two directions det G = |E_0 × E_1|², which does not cancel when they are near parallel.
    det = torch.where(free[:, 1], dot(cross, cross), g00 * g11)
    inverse = torch.stack((g11, -g01, -g01, g00), dim=-1).unflatten(-1, (2, 2)) / det[:, None, None]
    inverse = inverse * (free[:, :, None] & free[:, None, :])
    beta = -inverse @ (E @ r0.unsqueeze(-1))
    weights = c0 + (slopes @ beta).squeeze(-1)
    r = r0 + (beta.mT @ E).squeeze(1)
    return Nearest(weights, r, dot(r, r), E, slopes, inverse)


def squared_distance_gradient(n: Nearest) -> Tensor:
    """∂s/∂x_i = 2 c_i r [m], (P, 4, 3). Differentiable. Source: module docstring."""
    return 2 * n.weights[..., None] * n.r[:, None]


def squared_distance_hessian(n: Nearest) -> Tensor:
    """∂²s/∂x² [-], (P, 12, 12), ordered (point, axis). Differentiable. Source: module docstring."""
    eye = torch.eye(3, dtype=n.r.dtype, device=n.r.device)
    w = torch.einsum("pi,pax->pixa", n.weights, n.free)
    w = w + torch.einsum("pia,px->pixa", n.slopes, n.r)
    w = w.flatten(1, 2)
    outer = torch.einsum("pi,pj,xy->pixjy", n.weights, n.weights, eye).flatten(3, 4).flatten(1, 2)
    return 2 * (outer - w @ n.inverse @ w.transpose(1, 2))


def point_triangle_kind(X: Tensor) -> Tensor:
    """Nearest feature of triangle (t0, t1, t2) to p, 0…6.

    Args:
        X: p, t0, t1, t2 [m], (P, 4, 3). A degenerate triangle counts as its edges.

    Returns:
        Kinds, int64 (P,). No derivative. Source: Ericson 2005, Sec. 5.1.5, with distances compared.
    """
    return _kinds(X, FACE)


def edge_edge_kind(X: Tensor) -> Tensor:
    """Nearest features of edges (a0, a1) and (b0, b1), 7…15.

    Args:
        X: a0, a1, b0, b1 [m], (P, 4, 3).

    Returns:
        Kinds, int64 (P,). Parallel edges count as a point and an edge. No derivative.
        Source: minimum over the interior and the four ends.
    """
    return _kinds(X, EDGES)


def _kinds(X: Tensor, feature: int) -> Tensor:
    count, k = X.shape[:2]
    rows = torch.arange(count * k, device=X.device).view(count, k)
    return kinds(X.reshape(-1, 3).to(torch.float64), rows, feature)


def cross_mollifier(X: Tensor, eps: Tensor, order: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """What fades out pairs of near parallel edges, and its derivatives.

        m = (2 − q) q,   q = min(c/ε, 1),   c = |u × v|²,   u = a1 − a0,  v = b1 − b0

    Args:
        X: a0, a1, b0, b1 [m], (P, 4, 3).
        eps: ε [m⁴], (P,); 0 means no mollifier (m = 1). Li et al. take 1e-3 |u|²|v|² at rest.
        order: 1 leaves out the Hessian (returns a zero of shape (P, 12, 12) without memory).

    Returns:
        m (P,), ∂m/∂x (P, 4, 3) [1/m] and ∂²m/∂x² (P, 12, 12) [1/m²]; m has one continuous derivative.

    Differentiable in X. Source: Li et al. 2020, Eq. 24; derivatives by hand.
    """
    u, v = X[:, 1] - X[:, 0], X[:, 3] - X[:, 2]
    uu, vv, uv = dot(u, u), dot(v, v), dot(u, v)
    n = torch.linalg.cross(u, v)
    c = dot(n, n)
    active = (c < eps) & (eps > 0)
    safe = torch.where(active, eps, torch.ones_like(eps))
    q = torch.where(active, c / safe, torch.ones_like(c))
    m = (2 - q) * q
    slope = torch.where(active, 2 * (1 - q) / safe, torch.zeros_like(q))
    du = 2 * (vv[:, None] * u - uv[:, None] * v)
    dv = 2 * (uu[:, None] * v - uv[:, None] * u)
    dc = torch.stack((-du, du, -dv, dv), dim=1)
    gradient = slope[:, None, None] * dc
    if order < 2:
        return m, gradient, m.new_zeros(1, 1, 1).expand(len(m), 12, 12)
    eye = torch.eye(3, dtype=X.dtype, device=X.device)

    def outer(a: Tensor, b: Tensor) -> Tensor:
        return a[:, :, None] * b[:, None, :]

    huu = 2 * (vv[:, None, None] * eye - outer(v, v))
    hvv = 2 * (uu[:, None, None] * eye - outer(u, u))
    huv = 2 * (2 * outer(u, v) - outer(v, u) - uv[:, None, None] * eye)
    hvu = huv.transpose(1, 2)
    rows = [
        torch.cat((huu, -huu, huv, -huv), dim=2),
        torch.cat((-huu, huu, -huv, huv), dim=2),
        torch.cat((hvu, -hvu, hvv, -hvv), dim=2),
        torch.cat((-hvu, hvu, -hvv, hvv), dim=2),
    ]
    flat = dc.flatten(1)
    curvature = torch.where(active, -2 / (safe * safe), torch.zeros_like(q))
    hessian = slope[:, None, None] * torch.cat(rows, dim=1)
    return m, gradient, hessian + curvature[:, None, None] * outer(flat, flat)
