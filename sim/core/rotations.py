"""Quaternions (w, x, y, z) as batched, differentiable torch functions.

    R(q) v = v + 2/|q|² (w u×v + u×(u×v)),   q = (w, u)

`rotate` divides by |q|², so it is a rotation for every q ≠ 0: a quaternion that drifted from unit
length, or one that an optimizer moved freely in R⁴, needs no projection.

Source: Diebel 2006 (Representing attitude), Sec. 6; Shoemake 1985.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "conjugate",
    "from_matrix",
    "from_rotation_vector",
    "inverse",
    "multiply",
    "normalize",
    "rotate",
    "rotate_inverse",
    "slerp",
    "to_matrix",
    "to_rotation_vector",
]

# Below these arguments the power series replace sin(h)/θ, cos(h) and atan(√t)/√t; the first
# neglected term is then under 1e-16 relative, also after one differentiation.
_SERIES_ANGLE_SQUARED = 1e-2
_SERIES_TANGENT_SQUARED = 1e-4


def multiply(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton product p q: the rotation q followed by the rotation p.

    Args:
        p: Quaternion [-], shape (..., 4), (w, x, y, z).
        q: Quaternion [-], shape (..., 4), broadcastable with p.

    Returns:
        p q [-], shape (..., 4).

    Differentiable in p and q.
    Source: Shoemake 1985, Sec. 3.
    """
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    return torch.stack(
        (
            pw * qw - px * qx - py * qy - pz * qz,
            pw * qx + px * qw + py * qz - pz * qy,
            pw * qy - px * qz + py * qw + pz * qx,
            pw * qz + px * qy - py * qx + pz * qw,
        ),
        dim=-1,
    )


def conjugate(q: Tensor) -> Tensor:
    """Conjugate (w, −x, −y, −z) of q, shape (..., 4). Differentiable in q.

    Source: Shoemake 1985, Sec. 3.
    """
    return torch.cat((q[..., :1], -q[..., 1:]), dim=-1)


def inverse(q: Tensor) -> Tensor:
    """Inverse q⁻¹ = q* / |q|², shape (..., 4); q must not be zero. Differentiable in q.

    Source: Shoemake 1985, Sec. 3.
    """
    return conjugate(q) / (q * q).sum(-1, keepdim=True)


def normalize(q: Tensor) -> Tensor:
    """Unit quaternion q / |q|, shape (..., 4); q must not be zero. Differentiable in q.

    Source: Shoemake 1985, Sec. 3.
    """
    return q / (q * q).sum(-1, keepdim=True).sqrt()


def rotate(q: Tensor, v: Tensor) -> Tensor:
    """Rotate vectors, R(q) v = v + 2/|q|² (w u×v + u×(u×v)).

    Args:
        q: Quaternion [-], shape (..., 4), any length except 0.
        v: Vector [any unit], shape (..., 3), broadcastable with q.

    Returns:
        R(q) v, unit of v, shape (..., 3); |R v| = |v|.

    Differentiable in q and v; the derivative along q itself is 0.
    Source: Diebel 2006, Eq. 117–125.
    """
    w, u = q[..., :1], q[..., 1:]
    u, v = torch.broadcast_tensors(u, v)
    cross = torch.linalg.cross(u, v)
    twice = 2.0 / (q * q).sum(-1, keepdim=True)
    return v + twice * (w * cross + torch.linalg.cross(u, cross))


def rotate_inverse(q: Tensor, v: Tensor) -> Tensor:
    """Rotate vectors back, R(q)ᵀ v; shapes and differentiability as in `rotate`.

    Source: Diebel 2006, Eq. 117–125.
    """
    return rotate(conjugate(q), v)


def from_rotation_vector(r: Tensor) -> Tensor:
    """Unit quaternion of a rotation vector, q = (cos θ/2, sin(θ/2)/θ r), θ = |r|.

    Args:
        r: Axis times angle [rad], shape (..., 3).

    Returns:
        q [-], shape (..., 4).

    Differentiable in r, any number of times, with finite derivatives at r = 0.
    Source: Grassia 1998 (Exponential map), Eq. 1–3.
    """
    s = (r * r).sum(-1, keepdim=True)
    small = s < _SERIES_ANGLE_SQUARED
    angle = torch.where(small, torch.ones_like(s), s).sqrt()
    cosine_series = 1 + s * (-1 / 8 + s * (1 / 384 + s * (-1 / 46080 + s / 10321920)))
    sine_series = 0.5 + s * (-1 / 48 + s * (1 / 3840 + s * (-1 / 645120 + s / 185794560)))
    w = torch.where(small, cosine_series, torch.cos(0.5 * angle))
    k = torch.where(small, sine_series, torch.sin(0.5 * angle) / angle)
    return torch.cat((w, k * r), dim=-1)


def to_rotation_vector(q: Tensor) -> Tensor:
    """Shortest rotation vector of a quaternion, r = 2 atan2(|u|, |w|) sign(w) u/|u|.

    Args:
        q: Quaternion [-], shape (..., 4), any length except 0.

    Returns:
        r [rad], shape (..., 3), |r| ≤ π.

    Differentiable in q, finite at the identity; jumps at |r| = π, where the shortest way is not
    unique.
    Source: Grassia 1998, Sec. 3 (inverse of Eq. 1).
    """
    w, u = q[..., :1], q[..., 1:]
    sign = torch.where(w < 0, -torch.ones_like(w), torch.ones_like(w))
    w, u = sign * w, sign * u
    s = (u * u).sum(-1, keepdim=True)
    small = s < _SERIES_TANGENT_SQUARED * w * w
    w_safe = torch.where(small, w, torch.ones_like(w))
    t = s / (w_safe * w_safe)
    series = 2 / w_safe * (1 + t * (-1 / 3 + t * (1 / 5 + t * (-1 / 7 + t / 9))))
    length = torch.where(small, torch.ones_like(s), s).sqrt()
    ratio = torch.where(small, series, 2 * torch.atan2(length, w) / length)
    return ratio * u


def to_matrix(q: Tensor) -> Tensor:
    """Rotation matrix R(q), shape (..., 3, 3), of a quaternion (..., 4) of any length except 0.

    Differentiable in q. Source: Diebel 2006, Eq. 125.
    """
    eye = torch.eye(3, dtype=q.dtype, device=q.device)
    return rotate(q.unsqueeze(-2), eye).transpose(-1, -2)


def from_matrix(matrix: Tensor) -> Tensor:
    """Unit quaternion of a rotation matrix (Shepperd's branch with the largest pivot).

    Args:
        matrix: Rotation matrix [-], shape (..., 3, 3), orthonormal with determinant 1.

    Returns:
        q [-], shape (..., 4), with w ≥ 0 in the branch where w is the pivot.

    Differentiable in matrix, except where the pivot changes and the sign of q may flip.
    Source: Shepperd 1978.
    """
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    diagonal = torch.stack((m[0][0], m[1][1], m[2][2]), dim=-1)
    trace = diagonal.sum(-1, keepdim=True)
    # Four times the outer product q qᵀ; its row with the largest diagonal entry is q up to scale.
    squares = torch.cat((1 + trace, 1 + 2 * diagonal - trace), dim=-1)
    rows = torch.stack(
        (
            squares[..., 0], m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1],
            m[2][1] - m[1][2], squares[..., 1], m[1][0] + m[0][1], m[0][2] + m[2][0],
            m[0][2] - m[2][0], m[1][0] + m[0][1], squares[..., 2], m[2][1] + m[1][2],
            m[1][0] - m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2], squares[..., 3],
        ),
        dim=-1,
    ).unflatten(-1, (4, 4))  # fmt: skip
    pivot = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    return normalize(rows.gather(-2, pivot).squeeze(-2))


def slerp(p: Tensor, q: Tensor, t: Tensor | float) -> Tensor:
    """Constant-rate rotation from p (t = 0) to q (t = 1), exp(t log(q p⁻¹)) p, the shorter way.

    Args:
        p: Start quaternion [-], shape (..., 4).
        q: End quaternion [-], shape (..., 4).
        t: Fraction of the way [-], broadcastable to (...).

    Returns:
        Quaternion of the length of p [-], shape (..., 4).

    Differentiable in p, q and t, except for p and q half a turn apart.
    Source: Shoemake 1985, Sec. 3.3.
    """
    t = torch.as_tensor(t, dtype=p.dtype, device=p.device).unsqueeze(-1)
    return multiply(from_rotation_vector(t * to_rotation_vector(multiply(q, inverse(p)))), p)
