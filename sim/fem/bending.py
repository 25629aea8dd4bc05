"""Bending: the angle of a hinge between two triangles, and the bend of two segments of a rod.

    hinge   θ = atan2(ê·(N₂×N₁), N₁·N₂),   e = x₁ − x₀,  N₁ = e×(x₂ − x₀),  N₂ = (x₃ − x₀)×e
    bend    q = 4 (1 − c)/(1 + c) = 4 tan²(φ/2),   c = cos φ = ê·f̂,  e = x₁ − x₀,  f = x₂ − x₁
            E = k/2 (√q − κ_ref)²,   k = B/ℓ,  ℓ = (|e| + |f|)/2   on the rest shape

θ is positive where the sheet folds towards its normals, x₂ lies left of the edge and x₃ right of it,
seen from the side the normals point to. It is exact from −π to π (excluded). Energies of angles are in
`elements.Plates`.

All functions take stencils x (..., 4, 3) or (..., 3, 3) and are made of torch operations.
Differentiable in x (once) and in all coefficients. The Hessian of θ is in `kernels.hinge_blocks`.
Source: Tamstorf & Grinspun 2013 for the derivatives of θ, re-derived; Bergou et al. 2008 (Discrete
Elastic Rods), Eq. 1 and 4, for the bend.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "bend_derivatives",
    "bend_energy",
    "hinge_angle",
    "hinge_angle_gradient",
    "hinge_angle_turn",
]


def _edges(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x[..., 1, :] - x[..., 0, :], x[..., 2, :] - x[..., 0, :], x[..., 3, :] - x[..., 0, :]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def hinge_angle(x: Tensor) -> Tensor:
    """θ [rad], shape (...), of hinges x (..., 4, 3)."""
    e, u, w = _edges(x)
    first, second = torch.linalg.cross(e, u), torch.linalg.cross(w, e)
    length = e.square().sum(-1).sqrt()
    sine = (e * torch.linalg.cross(second, first)).sum(-1) / length
    return torch.atan2(sine, (first * second).sum(-1))


def hinge_angle_gradient(x: Tensor) -> Tensor:
    """∂θ/∂x [rad/m], shape (..., 4, 3).

    The outer points count along the normals, |e| N/|N|²; invariance under motions gives the rest.
    """
    e, u, w = _edges(x)
    first, second = torch.linalg.cross(e, u), torch.linalg.cross(w, e)
    m1, m2 = first / _dot(first, first), second / _dot(second, second)
    length = _dot(e, e).sqrt()
    by_u, by_w = length * m1, length * m2
    by_e = -(_dot(u, e) * m1 + _dot(w, e) * m2) / length
    return torch.stack((-(by_e + by_u + by_w), by_e, by_u, by_w), dim=-2)


def hinge_angle_turn(x: Tensor, v: Tensor) -> Tensor:
    """∂²θ/∂x² v (..., 4, 3) for v (..., 4, 3), without the Hessian."""
    (e, u, w), (e_v, u_v, w_v) = _edges(x), _edges(v)
    cross = torch.linalg.cross

    def normal(N: Tensor, N_v: Tensor) -> tuple[Tensor, Tensor]:
        """N/|N|² and its change."""
        square = _dot(N, N)
        m = N / square
        return m, (N_v - 2 * _dot(N, N_v) * m) / square

    m1, m1_v = normal(cross(e, u), cross(e_v, u) + cross(e, u_v))
    m2, m2_v = normal(cross(w, e), cross(w_v, e) + cross(w, e_v))
    length = _dot(e, e).sqrt()
    length_v = _dot(e, e_v) / length
    by_u, by_w = length_v * m1 + length * m1_v, length_v * m2 + length * m2_v
    a, b = _dot(u, e), _dot(w, e)
    by_e = (_dot(u_v, e) + _dot(u, e_v)) * m1 + (_dot(w_v, e) + _dot(w, e_v)) * m2
    by_e = by_e + a * m1_v + b * m2_v - (a * m1 + b * m2) * (length_v / length)
    by_e = -by_e / length
    return torch.stack((-(by_e + by_u + by_w), by_e, by_u, by_w), dim=-2)


def _bend(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    e, f = x[..., 1, :] - x[..., 0, :], x[..., 2, :] - x[..., 1, :]
    a, b = _dot(e, e).sqrt(), _dot(f, f).sqrt()
    unit_e, unit_f = e / a, f / b
    # 1 − c without cancellation: |ê − f̂|²/2
    gap = 0.5 * _dot(unit_e - unit_f, unit_e - unit_f)
    return unit_e, unit_f, a, b, gap


def _slopes(gap: Tensor, stiffness: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Energy and its first and second derivative in c."""
    q = 4 * gap / (2 - gap)
    q1, q2 = -8 / (2 - gap) ** 2, 16 / (2 - gap) ** 3
    curved = curvature != 0
    root = torch.where(curved, q, 1.0).sqrt()
    ratio = torch.where(curved, curvature / root, 0.0)
    energy = 0.5 * stiffness * (q - 2 * curvature * torch.where(curved, root, 0.0) + curvature**2)
    first = 0.5 * stiffness * (1 - ratio)
    second = 0.25 * stiffness * ratio / torch.where(curved, q, 1.0)
    return energy, first * q1, second * q1**2 + first * q2


def bend_energy(x: Tensor, stiffness: Tensor, curvature: Tensor) -> Tensor:
    """E [J], shape (...), of rod stencils x (..., 3, 3); `curvature` is κ_ref ≥ 0 [-].

    A rest curvature other than 0 has a kink where the rod is straight.
    """
    gap = _bend(x)[-1]
    return _slopes(gap, stiffness.unsqueeze(-1), curvature.unsqueeze(-1))[0].squeeze(-1)


def bend_derivatives(
    x: Tensor, stiffness: Tensor, curvature: Tensor, second: bool = True
) -> tuple[Tensor, Tensor | None]:
    """∂E/∂x (..., 3, 3) [N] and, where asked for, ∂²E/∂x² (..., 9, 9) [N/m]."""
    e, f, a, b, gap = _bend(x)
    _, by_c, by_cc = _slopes(gap, stiffness.unsqueeze(-1), curvature.unsqueeze(-1))
    c = 1 - gap
    c_e, c_f = (f - c * e) / a, (e - c * f) / b
    g = torch.stack((-c_e, c_e - c_f, c_f), dim=-2)
    gradient = by_c.unsqueeze(-1) * g
    if not second:
        return gradient, None
    eye = torch.eye(3, dtype=x.dtype, device=x.device)

    def outer(p: Tensor, q: Tensor) -> Tensor:
        return p.unsqueeze(-1) * q.unsqueeze(-2)

    wide_a, wide_b, wide_c = a.unsqueeze(-1), b.unsqueeze(-1), c.unsqueeze(-1)
    mixed = outer(e, f)
    ee = (wide_c * (3 * outer(e, e) - eye) - mixed - mixed.mT) / wide_a**2
    ff = (wide_c * (3 * outer(f, f) - eye) - mixed - mixed.mT) / wide_b**2
    ef = (eye - outer(f, f) - outer(e, e) + wide_c * mixed) / (wide_a * wide_b)
    rows = (
        (ee, -ee + ef, -ef),
        (-ee + ef.mT, ee - ef - ef.mT + ff, ef - ff),
        (-ef.mT, ef.mT - ff, ff),
    )
    curve = torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)
    flat = g.flatten(-2)
    return gradient, by_cc.unsqueeze(-1) * outer(flat, flat) + by_c.unsqueeze(-1) * curve
