"""Rigid colliders: what a velocity field does where it meets moving shapes.

    rel = v − (v_c + ω × (x − p)),   v_n = rel·n,   r = min(v_n, 0)
    t   = rel − r n,                 t' = max(0, 1 + μ r / |t|) t          (separate, Coulomb)
    v'  = v + a (t' − rel)

with the influence a of the signed distance d [m] to the collider

    hard, s = 0:   a = 1 for d ≤ 0, else 0
    soft, s > 0:   a = 1 for d ≤ 0, else max(0, 1 − s d/4)⁴

Soft contact acts before touch, so a gradient exists before touch. FluidLab's min(exp(−s d), 1) is
cut at 0.1, which makes the response jump; the window here has the value 1 and slope −s of exp(−s d)
at the surface, stays within 0.08 of it, and ends at d = 4/s with three continuous derivatives. What
is left are kinks (at d = 0, v_n = 0 and the edge of the friction cone), where the derivative is
one-sided.

Contact modes: "separate" removes approach only; "slip" removes all normal motion (no lift-off);
"sticky" carries the material along.

A 2-D scene is the plane (x, z) at y = 0: vectors are lifted to (x, 0, z), the normal loses its
y component and is rescaled to unit length.

Source: Stomakhin et al. 2013 (MPM snow), Sec. 8; Xian et al. 2023 (FluidLab), soft contact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import rotations
from .errors import InputError, message
from .poses import integrate_pose, twists_from_poses
from .shape_base import E_Z, Shape, direction

__all__ = [
    "CONTACT_MODES",
    "Collider",
    "Contact",
    "collide",
    "contact_response",
    "embed",
    "influence",
    "integrate_pose",
    "poses_of",
    "project",
    "push_out",
    "signed_distance",
    "twists_from_poses",
]

CONTACT_MODES = ("separate", "slip", "sticky")

# Regularization of |t| [m²/s²]: far below any speed, and its inverse is a float32 number.
TINY_SPEED_SQUARED = 1e-24


@dataclass(frozen=True)
class Collider:
    """A rigid shape that pushes material; its motion is prescribed through poses and twists."""

    shape: Shape
    """Geometry in its own frame [m]."""
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Initial position of the shape's origin [m]; the origin."""
    orientation: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """Initial orientation, quaternion (w, x, y, z) [-]; unturned."""
    friction: float = 0.0
    """Coulomb coefficient [-]; frictionless, the simplest wall."""
    softness: float = 0.0
    """Rate s at which influence decays before touch [1/m]; 0 is hard contact. It reaches 4/s."""
    contact: str = "separate"
    """Contact mode: "separate", "slip" or "sticky"; material may lift off by default."""
    inverted: bool = False
    """Whether the solid is the outside of the shape, which then is a container; False."""
    push_out: bool = False
    """Whether particles that get inside are put back onto the surface: for plates thinner than dx."""
    name: str = ""
    """Name in messages and in parameters; empty if nothing refers to it."""

    def __post_init__(self) -> None:
        where = f"Collider({self.name!r})" if self.name else "Collider"
        if not isinstance(self.shape, Shape):
            raise InputError(
                message(where, "a Shape", type(self.shape).__name__, "Use shapes.Sphere, Box, …")
            )
        position = _numbers(where, "position", self.position, 3, "m")
        orientation = _numbers(where, "orientation", self.orientation, 4, "-")
        length = math.hypot(*orientation)
        if length < 1e-6:
            raise InputError(
                message(
                    where, "a quaternion that is not zero", f"{orientation}", "Use (1, 0, 0, 0)"
                )
            )
        object.__setattr__(self, "position", position)
        object.__setattr__(self, "orientation", tuple(q / length for q in orientation))
        for name, unit in (("friction", "-"), ("softness", "1/m")):
            value = float(getattr(self, name))
            object.__setattr__(self, name, value)
            if not 0 <= value < math.inf:
                fix = 'For full adhesion use contact="sticky"'
                raise InputError(message(where, f"{name} >= 0 [{unit}] and finite", value, fix))
        if self.contact not in CONTACT_MODES:
            raise InputError(
                message(where, f"contact in {CONTACT_MODES}", self.contact, "Choose one of them")
            )

    @property
    def reach(self) -> float:
        """Distance at which contact begins [m]: 4/s, or 0 for hard contact."""
        return 4.0 / self.softness if self.softness > 0 else 0.0

    def pose(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
        """Initial pose (position 3 [m], quaternion 4 [-]), shape (7,)."""
        return torch.tensor(self.position + self.orientation, dtype=dtype, device=device)


@dataclass(frozen=True)
class Contact:
    """Where material stands to each of K colliders."""

    distance: Tensor
    """Signed distance [m], shape (B, M, K)."""
    normal: Tensor
    """Outward unit normal in the world frame [-], shape (B, M, K, 3)."""


def embed(points: Tensor) -> Tensor:
    """Lift 2-D points or vectors (x, z) to (x, 0, z); 3-D ones pass.

    Args:
        points: Shape (..., 2) or (..., 3), any unit.

    Returns:
        Shape (..., 3), same unit.

    Differentiable in points. Source: plane-strain convention of the package.
    """
    if points.shape[-1] == 3:
        return points
    if points.shape[-1] != 2:
        raise InputError(
            message("embed", "last axis of 2 or 3", f"{tuple(points.shape)}", "Transpose it")
        )
    x, z = points.unbind(-1)
    return torch.stack((x, torch.zeros_like(x), z), dim=-1)


def project(vectors: Tensor, dim: int) -> Tensor:
    """Inverse of `embed`: (x, y, z) to (x, z) for dim = 2; for dim = 3 nothing changes."""
    return vectors if dim == 3 else vectors[..., ::2]


def poses_of(
    colliders: Sequence[Collider],
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Tensor:
    """Initial poses of the colliders [m, -], shape (B, K, 7)."""
    rows = [c.position + c.orientation for c in colliders]
    poses = torch.tensor(rows, dtype=dtype, device=device).reshape(len(rows), 7)
    return poses.expand(batch, -1, -1).clone()


def signed_distance(x: Tensor, colliders: Sequence[Collider], pose: Tensor) -> Contact:
    """Signed distances and world normals, d_k(x) = d_shape(R(q)ᵀ (x − p)), n = R(q) ∇d_shape.

    Args:
        x: Points [m], shape (M, D) or (B, M, D), D = 2 or 3.
        colliders: K colliders.
        pose: Positions and quaternions [m, -], shape (B, K, 7).

    Returns:
        Contact with distance (B, M, K) and normal (B, M, K, 3); normals have y = 0 in 2-D.

    Differentiable in x and pose.
    Source: rigid motion of a distance field.
    """
    _check("signed_distance", x, colliders, pose)
    parts = [
        _locate(embed(x), c, pose[:, k], planar=x.shape[-1] == 2) for k, c in enumerate(colliders)
    ]
    if not parts:
        shape = (pose.shape[0], x.shape[-2], 0)
        return Contact(x.new_zeros(shape), x.new_zeros((*shape, 3)))
    d, n = zip(*parts, strict=True)
    return Contact(torch.stack(d, dim=-1), torch.stack(n, dim=-2))


def influence(distance: Tensor, softness: Tensor | float) -> Tensor:
    """Share a of the contact response at a distance: 1 inside, max(0, 1 − s d/4)⁴ outside.

    Args:
        distance: Signed distance d [m], shape (...).
        softness: s [1/m], broadcastable to (...); 0 is hard contact, a = 0 outside.

    Returns:
        a [-] in [0, 1], shape (...).

    Differentiable in distance and softness; kink at d = 0.
    Source: compact replacement of Xian et al. 2023 (FluidLab), soft contact; see module docstring.
    """
    softness = torch.as_tensor(softness, dtype=distance.dtype, device=distance.device)
    u = 1 - 0.25 * softness * distance
    active = (u > 0) & (softness > 0)
    u = torch.where(active, u, torch.zeros_like(u))
    soft = (u * u) * (u * u)
    return torch.where(distance <= 0, torch.ones_like(soft), soft)


def contact_response(
    v: Tensor,
    velocity: Tensor,
    distance: Tensor,
    normal: Tensor,
    friction: Tensor | float,
    softness: Tensor | float,
    contact: str = "separate",
) -> Tensor:
    """Velocity after contact, v' = v + a (t' − rel); symbols as in the module docstring.

    Args:
        v: Velocity before [m/s], shape (..., 3).
        velocity: Velocity of the collider at the point [m/s], shape (..., 3).
        distance: Signed distance d [m], shape (...).
        normal: Outward unit normal n [-], shape (..., 3).
        friction: Coulomb coefficient μ [-], broadcastable to (...).
        softness: Decay rate s [1/m], broadcastable to (...); 0 is hard contact.
        contact: One of `CONTACT_MODES`.

    Returns:
        v' [m/s], shape (..., 3).

    Differentiable in all tensors; finite at v = 0, rel = 0 and d = 0.
    Source: Stomakhin et al. 2013, Sec. 8; Xian et al. 2023.
    """
    friction = torch.as_tensor(friction, dtype=v.dtype, device=v.device)
    rel = v - velocity
    if contact == "sticky":
        after = torch.zeros_like(rel)
    else:
        along = (rel * normal).sum(-1)
        approach = torch.where(along < 0, along, torch.zeros_like(along))
        removed = along if contact == "slip" else approach
        tangent = rel - removed[..., None] * normal
        speed = ((tangent * tangent).sum(-1) + TINY_SPEED_SQUARED).sqrt()
        keep = 1 + friction * approach / speed
        keep = torch.where(keep > 0, keep, torch.zeros_like(keep))
        after = keep[..., None] * tangent
    return v + influence(distance, softness)[..., None] * (after - rel)


def collide(
    v: Tensor,
    x: Tensor,
    colliders: Sequence[Collider],
    pose: Tensor,
    twist: Tensor,
    friction: Tensor | None = None,
    softness: Tensor | None = None,
) -> Tensor:
    """Velocities after contact with K colliders, one after the other in their order.

    Args:
        v: Velocities [m/s], shape (B, M, D), D = 2 or 3.
        x: Points, such as grid nodes [m], shape (M, D) or (B, M, D).
        colliders: K colliders.
        pose: Positions and quaternions [m, -], shape (B, K, 7).
        twist: Linear and angular velocities in the world frame [m/s, rad/s], shape (B, K, 6).
        friction: Coulomb coefficients [-], shape (K,) or (B, K); default the colliders' own.
        softness: Decay rates [1/m], shape (K,) or (B, K); default the colliders' own.

    Returns:
        v' [m/s], shape (B, M, D).

    Raises:
        InputError: on mismatched shapes.

    Differentiable in v, x, pose, twist, friction and softness.
    Source: Stomakhin et al. 2013, Sec. 8; Xian et al. 2023 (FluidLab).
    """
    _check("collide", x, colliders, pose, twist)
    dim = x.shape[-1]
    if v.ndim != 3 or v.shape[-1] != dim or v.shape[1] != x.shape[-2]:
        raise _shape_error("collide", f"v of shape (B, {x.shape[-2]}, {dim}) [m/s]", v)
    friction = _per_collider(friction, [c.friction for c in colliders], v, "friction")
    softness = _per_collider(softness, [c.softness for c in colliders], v, "softness")
    points, velocity = embed(x), embed(v)
    for k, collider in enumerate(colliders):
        d, n = _locate(points, collider, pose[:, k], planar=dim == 2)
        arm = points - pose[:, None, k, :3]
        spin = twist[:, None, k, 3:].expand_as(arm)
        moving = twist[:, None, k, :3] + torch.linalg.cross(spin, arm)
        if dim == 2:
            moving = moving * moving.new_tensor((1.0, 0.0, 1.0))
        velocity = contact_response(
            velocity,
            moving,
            d,
            n,
            friction[..., k, None],
            softness[..., k, None],
            collider.contact,
        )
    return project(velocity, dim)


def push_out(x: Tensor, colliders: Sequence[Collider], pose: Tensor) -> Tensor:
    """Positions moved to the surface of each collider they are in, x' = x − min(d, 0) n.

    Grid contact changes velocities only, so a thin or fast collider may be passed; applied to
    particles after a step this puts them back.

    Args:
        x: Particles [m], shape (B, N, D) or (N, D), D = 2 or 3.
        colliders: K colliders, treated one after the other.
        pose: Positions and quaternions [m, -], shape (B, K, 7).

    Returns:
        x' [m], shape (B, N, D).

    Differentiable in x and pose.
    Source: position projection of Müller et al. 2007 (PBD), Sec. 3.4.
    """
    _check("push_out", x, colliders, pose)
    dim = x.shape[-1]
    points = embed(x).expand(pose.shape[0], -1, -1)
    for k, collider in enumerate(colliders):
        d, n = _locate(points, collider, pose[:, k], planar=dim == 2)
        points = points - torch.where(d < 0, d, torch.zeros_like(d))[..., None] * n
    return project(points, dim)


def _locate(
    points: Tensor, collider: Collider, pose: Tensor, *, planar: bool
) -> tuple[Tensor, Tensor]:
    """Distance (B, M) and world normal (B, M, 3) of 3-D points for one collider's poses (B, 7)."""
    position, orientation = pose[:, None, :3], pose[:, None, 3:]
    local = rotations.rotate_inverse(orientation, points - position)
    d, n = collider.shape.signed_distance(local)
    if collider.inverted:
        d, n = -d, -n
    n = rotations.rotate(orientation, n)
    if planar:
        n = direction(n * n.new_tensor((1.0, 0.0, 1.0)), E_Z)[1]
    return d, n


def _per_collider(value: Tensor | None, own: list[float], like: Tensor, name: str) -> Tensor:
    """Coefficients as a tensor (..., K) that broadcasts over scenes."""
    if value is None:
        return like.new_tensor(own)
    count = len(own)
    if value.shape[-1:] != (count,) or value.ndim > 2:
        raise _shape_error("collide", f"{name} of shape ({count},) or (B, {count})", value)
    return value


def _check(
    where: str,
    x: Tensor,
    colliders: Sequence[Collider],
    pose: Tensor,
    twist: Tensor | None = None,
) -> None:
    """Raise on shapes that do not fit."""
    if x.ndim not in (2, 3) or x.shape[-1] not in (2, 3):
        raise _shape_error(where, "points of shape (M, D) or (B, M, D) [m], D = 2 or 3", x)
    count = len(colliders)
    for name, tensor, width in (("pose", pose, 7), ("twist", twist, 6)):
        if tensor is not None and (tensor.ndim != 3 or tensor.shape[1:] != (count, width)):
            raise _shape_error(where, f"{name} of shape (B, {count}, {width})", tensor)


def _shape_error(where: str, expected: str, got: Tensor) -> InputError:
    """The error for a tensor of the wrong shape."""
    fix = "poses_of(colliders, batch) gives initial poses; twists are zeros for a resting collider"
    return InputError(message(where, expected, f"shape {tuple(got.shape)}", fix))


def _numbers(
    where: str, name: str, value: Sequence[float], count: int, unit: str
) -> tuple[float, ...]:
    """A tuple of finite floats, or an error."""
    numbers = tuple(float(v) for v in value)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        expected = f"{name} of {count} finite numbers [{unit}]"
        fix = "In a 2-D scene the position is (x, 0, z)"
        raise InputError(message(where, expected, f"{numbers}", fix))
    return numbers
