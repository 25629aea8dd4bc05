"""Rigid bodies in the MPM: how they take part in one substep, as torch functions.

Unknown of a body: V = (v_c, ω) at its center of mass; velocity at a point G V = v_c + ω × (x − x_c).

    V₀ = V + dt (g, 0)
    nodes:   V₁ = V₀ + (𝓜 + Σ a m Gᵀ K G)⁻¹ Σ a m Gᵀ K (u − G V₀),   u' = u − a K (u − G V₁)
    contact: V₂ = V₁ + (𝓜 + Σ w Gᵀ K G)⁻¹ Σ w Gᵀ (n (t − n·G V₁) − f P G V₁)
    motion:  L = I ω constant;  q' = exp(dt ω(½)) q,  x_c' = x_c + dt v_c

The collider law u' = u − a K (u − V), K = s n nᵀ + f P with P = 1 − n nᵀ, is linear in the velocity V of
the collider once s (approaching or not) and f (share of the tangential motion that friction takes) are
fixed; solving it together with the body's own balance of momentum is what keeps a light body in a
heavy liquid stable (an explicit exchange diverges once the touched liquid outweighs the body twice).
What the body receives is exactly what the nodes give. s and f come from a first, frictionless solve.

Direct contact with walls, colliders and other bodies is the same solve over points of the surface, with
weights w far above the body's mass and with the speed t at which the gap may close: gap/dt.

In the limit ρ → ∞ a body is a collider.

Source: Newton–Euler; Coulomb contact with lagged normal force, Kaufman et al. 2008; speculative contact,
Catto 2013; midpoint rule on rotations, Munthe-Kaas 1998.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.colliders import Collider, embed, influence, project, signed_distance
from ..core.colliders_rigid import RigidBody, contact_points, mass_properties
from ..core.rotations import from_rotation_vector, multiply, rotate, to_matrix

__all__ = [
    "RECOVERY",
    "TINY_SPEED",
    "WEIGHT",
    "Bodies",
    "Motion",
    "advance",
    "begin",
    "couple",
    "node_response",
]

WEIGHT = 10.0
"""Weight of a contact point over the mass of the body: what is left of an approach is below 1/11."""
RECOVERY = 0.02
"""Share of an overlap that is undone per substep; more would throw bodies apart."""
TINY_SPEED = 1e-12
"""Regularization of the tangential speed [m/s], as in the collider law."""


@dataclass(frozen=True, eq=False)
class Bodies:
    """Constants of the rigid bodies of a scene, R of them, in the order of its colliders."""

    colliders: tuple[Collider, ...]
    """All colliders, K of them."""
    index: list[int]
    """Place of each body among the colliders."""
    volume: np.ndarray
    """(R,) [m³]."""
    center: np.ndarray
    """Centers of mass in the frames of the shapes, (R, 3) [m]."""
    moment: np.ndarray
    """Moments of inertia over density, (R, 3, 3) [m⁵]."""
    points: list[np.ndarray]
    """Contact points per body, (n, 3) [m]."""
    radii: list[np.ndarray]
    """Their radii, (n,) [m]."""
    planes: np.ndarray
    """Walls: a point and the inward normal, (2 D, 2, 3)."""
    gravity: tuple[float, float, float]
    """[m/s²]."""

    @classmethod
    def of(
        cls,
        colliders: Sequence[Collider],
        lower: Sequence[float],
        upper: Sequence[float],
        dx: float,
        gravity: Sequence[float],
    ) -> Bodies:
        """Constants for a box `lower … upper` with grid spacing dx [m]."""
        dim = len(lower)
        index = [k for k, c in enumerate(colliders) if isinstance(c, RigidBody)]
        shapes = [colliders[k].shape for k in index]
        mass = [mass_properties(s, dim) for s in shapes]
        touch = [contact_points(s, dx, dim) for s in shapes]
        axes = (0, 1, 2) if dim == 3 else (0, 2)
        planes = np.zeros((2 * dim, 2, 3))
        for face in range(2 * dim):
            a, side = axes[face // 2], face % 2
            planes[face, 0, a] = (upper if side else lower)[face // 2]
            planes[face, 1, a] = -1.0 if side else 1.0
        pull = np.zeros(3)
        pull[list(axes)] = gravity
        return cls(
            colliders=tuple(colliders),
            index=index,
            volume=np.array([m.volume for m in mass]),
            center=np.array([m.center for m in mass]).reshape(-1, 3),
            moment=np.array([m.moment for m in mass]).reshape(-1, 3, 3),
            points=[t[0] for t in touch],
            radii=[t[1] for t in touch],
            planes=planes,
            gravity=(float(pull[0]), float(pull[1]), float(pull[2])),
        )

    @functools.cached_property
    def rows(self) -> dict[int, int]:
        """Body index per collider index."""
        return {k: r for r, k in enumerate(self.index)}

    def mass(self, pose: Tensor, rho: Tensor) -> Tensor:
        """Generalized mass diag(m 1, R I Rᵀ), (B, R, 6, 6)."""
        R = to_matrix(pose[..., 3:])
        moment = rho[:, None, None] * torch.as_tensor(self.moment).to(pose)
        result = pose.new_zeros(*pose.shape[:-1], 6, 6)
        m = rho * torch.as_tensor(self.volume).to(pose)
        result[..., :3, :3] = m[:, None, None] * torch.eye(3).to(pose)
        result[..., 3:, 3:] = R @ moment @ R.mT
        return result


@dataclass
class Motion:
    """Bodies within one substep."""

    pose: Tensor
    """At its start, (B, R, 7)."""
    center: Tensor
    """Centers of mass [m], (B, R, 3)."""
    mass: Tensor
    """Generalized mass, (B, R, 6, 6)."""
    V: Tensor
    """Velocity at the center of mass and angular velocity, (B, R, 6)."""


def begin(bodies: Bodies, pose: Tensor, twist: Tensor, rho: Tensor, dt: float) -> Motion:
    """Bodies after gravity; pose (B, R, 7), twist (B, R, 6) about the shapes' origins, rho (R,)."""
    arm = rotate(pose[..., 3:], torch.as_tensor(bodies.center).to(pose))
    spin = twist[..., 3:]
    v = twist[..., :3] + torch.linalg.cross(spin, arm) + dt * pose.new_tensor(bodies.gravity)
    V = torch.cat([v, spin], dim=-1)
    return Motion(pose, pose[..., :3] + arm, bodies.mass(pose, rho), V)


def _at(V: Tensor, arm: Tensor) -> Tensor:
    """Velocity at points: V (B, 6), arm (B, M, 3)."""
    return V[:, None, :3] + torch.linalg.cross(V[:, None, 3:].expand_as(arm), arm)


def _map(arm: Tensor) -> Tensor:
    """G = [1, −[r]×], (..., 3, 6)."""
    x, y, z = arm.unbind(-1)
    o = torch.zeros_like(x)
    rows = torch.stack([o, z, -y, -z, o, x, y, -x, o], dim=-1).unflatten(-1, (3, 3))
    return torch.cat([torch.eye(3).to(arm).expand_as(rows), rows], dim=-1)


def _response(normal: Tensor, s: Tensor, f: Tensor) -> Tensor:
    """K = s n nᵀ + f (1 − n nᵀ), (..., 3, 3)."""
    nn = normal[..., :, None] * normal[..., None, :]
    return s[..., None, None] * nn + f[..., None, None] * (torch.eye(3).to(normal) - nn)


def node_response(rel: Tensor, n: Tensor, friction: Tensor, contact: str) -> Tensor:
    """K of the collider law at relative velocities (..., 3), (..., 3, 3)."""
    along = (rel * n).sum(-1)
    one, zero = torch.ones_like(along), torch.zeros_like(along)
    if contact == "sticky":
        return _response(n, one, one)
    approach = torch.where(along < 0, along, zero)
    s = torch.where(along < 0, one, zero) if contact == "separate" else one
    tangent = rel - along[..., None] * n
    speed = ((tangent * tangent).sum(-1) + TINY_SPEED**2).sqrt()
    share = -friction * approach / speed
    return _response(n, s, torch.where(share < 1, share, one))


def couple(
    bodies: Bodies,
    r: int,
    motion: Motion,
    u: Tensor,
    x: Tensor,
    mass: Tensor,
    friction: Tensor,
    softness: Tensor,
) -> tuple[Tensor, Motion]:
    """Exchange of momentum between the nodes and body r.

    Args:
        bodies: Constants.
        r: The body.
        motion: All bodies; that of body r changes.
        u: Node velocities [m/s], (B, G, D).
        x: Node positions [m], (G, D).
        mass: Node masses [kg], (B, G).
        friction: Of all colliders, (K,) [-].
        softness: Of all colliders, (K,) [1/m].

    Returns:
        Node velocities after it, and the motion.

    Differentiable in u, mass, motion, friction and softness.
    """
    k = bodies.index[r]
    collider, dim = bodies.colliders[k], x.shape[-1]
    where = signed_distance(x, [collider], motion.pose[:, r : r + 1])
    d, n = where.distance[..., 0], where.normal[..., 0, :]
    a = influence(d, softness[k])
    arm = embed(x) - motion.center[:, r, None]
    G, v = _map(arm), embed(u)
    start = motion.V[:, r]
    V = start
    rel = v - _at(start, arm)
    K = v.new_zeros(())
    for mu in (torch.zeros_like(friction[k]), friction[k]):
        K = a[..., None, None] * node_response(v - _at(V, arm), n, mu, collider.contact)
        W = mass[..., None, None] * K
        system = motion.mass[:, r] + (G.mT @ W @ G).sum(1)
        rhs = (G.mT @ (W @ rel[..., None])).sum(1)
        V = start + torch.linalg.solve(system, rhs)[..., 0]
    after = v - (K @ (v - _at(V, arm))[..., None])[..., 0]
    return project(after, dim), _exchange(motion, r, V)


def _exchange(motion: Motion, r: int, V: Tensor) -> Motion:
    parts = list(motion.V.unbind(1))
    parts[r] = V
    return Motion(motion.pose, motion.center, motion.mass, torch.stack(parts, 1))


def advance(
    bodies: Bodies,
    motion: Motion,
    pose: Tensor,
    twist: Tensor,
    friction: Tensor,
    dt: float,
    dim: int,
) -> tuple[Tensor, Tensor]:
    """Direct contact, then motion over dt.

    Args:
        bodies: Constants.
        motion: After the exchange with the nodes.
        pose: Of all colliders, (B, K, 7).
        twist: Of all colliders, (B, K, 6); those of bodies are not read.
        friction: Of all colliders, (K,).
        dt: Substep [s].
        dim: 2 or 3.

    Returns:
        Poses (B, R, 7) and twists (B, R, 6) about the shapes' origins.
    """
    base = V = motion.V
    for rubs in (False, True):
        V = _contact(bodies, motion, base, V, pose, twist, friction * rubs, dt, dim)
    return _move(bodies, motion, V, dt)


def _contact(
    bodies: Bodies,
    motion: Motion,
    base: Tensor,
    at: Tensor,
    pose: Tensor,
    twist: Tensor,
    friction: Tensor,
    dt: float,
    dim: int,
) -> Tensor:
    """Velocities after contact whose state is judged at the velocities `at`."""
    B, R = base.shape[:2]
    system = base.new_zeros(B, R, 6, R, 6)
    for r in range(R):
        system[:, r, :, r] = motion.mass[:, r]
    rhs = base.new_zeros(B, R, 6)
    planes = torch.as_tensor(bodies.planes).to(base)
    m = motion.mass[0, :, 0, 0]
    for r, k in enumerate(bodies.index):
        local = torch.as_tensor(bodies.points[r]).to(base)
        radius = torch.as_tensor(bodies.radii[r]).to(base)
        q = motion.pose[:, r, None, 3:]
        centers = motion.pose[:, r, None, :3] + rotate(q, local)
        centers = embed(project(centers, dim))
        for obstacle in range(len(planes) + len(bodies.colliders)):
            other = obstacle - len(planes)
            if other == k:
                continue
            partner = bodies.rows.get(other, -1)
            if other < 0:
                n = planes[obstacle, 1].expand_as(centers)
                d = ((centers - planes[obstacle, 0]) * n).sum(-1)
                mu = friction[k]
            else:
                where = signed_distance(
                    project(centers, dim), [bodies.colliders[other]], pose[:, other : other + 1]
                )
                d, n = where.distance[..., 0], where.normal[..., 0, :]
                mu = 0.5 * (friction[k] + friction[other])
            gap = d - radius
            y = centers - radius[:, None] * n
            arm = y - motion.center[:, r, None]
            rel0, rel = _at(base[:, r], arm), _at(at[:, r], arm)
            w = WEIGHT * m[r]
            other_arm = y
            if partner >= 0:
                other_arm = y - motion.center[:, partner, None]
                rel0 = rel0 - _at(base[:, partner], other_arm)
                rel = rel - _at(at[:, partner], other_arm)
                w = w * m[partner] / (m[r] + m[partner])
            elif other >= 0:
                moving = _at(twist[:, other], y - pose[:, other, None, :3])
                moving = embed(project(moving, dim))
                rel0, rel = rel0 - moving, rel - moving
            target = -torch.where(gap > 0, gap, RECOVERY * gap) / dt
            load = target - (rel * n).sum(-1)
            zero = torch.zeros_like(load)
            s = torch.where(load > 0, torch.ones_like(load), zero)
            load = torch.where(load > 0, load, zero)
            tangent = rel - (rel * n).sum(-1, keepdim=True) * n
            speed = ((tangent * tangent).sum(-1) + TINY_SPEED**2).sqrt()
            share = mu * load / speed
            K = w * _response(n, s, torch.where(share < 1, share, torch.ones_like(share)))
            push = (w * s * target)[..., None] * n - (K @ rel0[..., None])[..., 0]
            G = _map(arm)
            system[:, r, :, r] += (G.mT @ K @ G).sum(1)
            rhs[:, r] += (G.mT @ push[..., None]).sum(1)[..., 0]
            if partner >= 0:
                H = _map(other_arm)
                cross = (G.mT @ K @ H).sum(1)
                system[:, r, :, partner] -= cross
                system[:, partner, :, r] -= cross.mT
                system[:, partner, :, partner] += (H.mT @ K @ H).sum(1)
                rhs[:, partner] -= (H.mT @ push[..., None]).sum(1)[..., 0]
    change = torch.linalg.solve(system.flatten(3).flatten(1, 2), rhs.flatten(1))
    return base + change.unflatten(1, (R, 6))


def _move(bodies: Bodies, motion: Motion, V: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    q, w = motion.pose[..., 3:], V[..., 3:]
    moment = torch.as_tensor(bodies.moment).to(V)
    inverse = torch.linalg.inv(moment)

    def turn(matrix: Tensor, q: Tensor, vector: Tensor) -> Tensor:
        R = to_matrix(q)
        return (R @ matrix @ R.mT @ vector[..., None])[..., 0]

    L = turn(moment, q, w)
    middle = multiply(from_rotation_vector(0.5 * dt * w), q)
    q1 = multiply(from_rotation_vector(dt * turn(inverse, middle, L)), q)
    w1 = turn(inverse, q1, L)
    arm = rotate(q1, torch.as_tensor(bodies.center).to(V))
    place = motion.center + dt * V[..., :3] - arm
    v = V[..., :3] - torch.linalg.cross(w1, arm)
    return torch.cat([place, q1], dim=-1), torch.cat([v, w1], dim=-1)
