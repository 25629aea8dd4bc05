"""The formulas of `colliders` and `shapes` as Warp functions, for kernels and their adjoints.

`functions(real, dim)` makes them for one precision. They branch on an integer kind, hold no loops
and no in-place updates, and take the same one-sided derivatives as the torch reference, so a kernel
that calls them may be launched with `adjoint=True`.

    kind = shape + 16 contact + 64 inverted
    shape: 0 Sphere … 6 MeshShape;  contact: index in CONTACT_MODES;  inverted: 0 or 1

Source: as in `colliders` and `shapes`.
"""

# No postponed annotations here: Warp evaluates them, and cannot see the types of a closure in text.
import functools
from typing import Any, NamedTuple

import numpy as np

from .backend import warp
from .colliders import CONTACT_MODES, TINY_SPEED_SQUARED, Collider
from .mesh_shape import MeshShape
from .shape_base import TINY

__all__ = ["CONTACT_STRIDE", "INVERTED", "Functions", "Packed", "functions", "pack"]

CONTACT_STRIDE = 16
"""Contact mode times this plus shape kind is the engine's `kind` of a collider."""
INVERTED = 64
"""Added to `kind` for an inverted collider."""


class Functions(NamedTuple):
    """Warp functions of one precision and dimension."""

    shape_distance: Any
    """(kind, size, p, volume, origin, dx) -> (d [m], n), p in the frame of the shape [m]."""
    world_distance: Any
    """(x, pose_p, pose_q, kind, size, volume, origin, dx) -> (d [m], n), x in the world [m]."""
    contact_velocity: Any
    """(v, x, pose_p, pose_q, lin, ang, kind, size, friction, softness, volume, origin, dx) -> v',
    all in the world frame [m, -, m/s, rad/s, 1/m]."""
    influence: Any
    """(d, softness) -> a."""
    turn: Any
    """(w, u, v) -> v turned by the quaternion (w, u) of any length except 0."""


class Packed(NamedTuple):
    """A collider as arguments of the engine functions."""

    kind: int
    """Shape kind + 16 contact mode + 64 if inverted."""
    size: Any
    """Lengths of the shape [m], vec3."""
    volume: Any
    """Signed distances of a mesh [m], array3d; 2×2×2 zeros for analytic shapes."""
    origin: Any
    """Position of the volume's first node [m], vec3."""
    dx: Any
    """Spacing of the volume [m]."""


def pack(collider: Collider, real: Any, device: str = "cpu") -> Packed:
    """A collider's shape and contact mode as engine arguments; its pose and coefficients stay out.

    Args:
        collider: The collider.
        real: Warp scalar type, wp.float32 or wp.float64.
        device: Warp device of the volume.

    Returns:
        `Packed`, in the order in which the engine functions take the values.

    Differentiable in nothing: shapes are constants. Source: none, a change of representation.
    """
    wp = warp()
    shape = collider.shape
    vec3 = wp.types.vector(length=3, dtype=real)
    grid, origin, dx = np.zeros((2, 2, 2)), (0.0, 0.0, 0.0), 1.0
    if isinstance(shape, MeshShape):
        grid, origin, dx = shape.distances, shape.origin, shape.dx
    return Packed(
        kind=shape.kind
        + CONTACT_STRIDE * CONTACT_MODES.index(collider.contact)
        + INVERTED * collider.inverted,
        size=vec3(*shape.size()),
        volume=wp.array(grid, dtype=real, device=device),
        origin=vec3(*origin),
        dx=real(dx),
    )


@functools.lru_cache(maxsize=8)
def functions(real: Any, dim: int = 3) -> Functions:
    """Warp functions for one precision; with dim = 2 normals and motion lose their y component.

    Args:
        real: Warp scalar type, wp.float32 or wp.float64.
        dim: 2 for a scene in the plane (x, z), else 3.

    Returns:
        `Functions`; quaternions are plain vec4 (w, x, y, z) of any length except 0.

    Differentiable in v, x, pose, twist, friction and softness through Warp's generated adjoint.
    Source: Stomakhin et al. 2013, Sec. 8; Xian et al. 2023 (FluidLab); Quilez 2008.
    """
    wp = warp()
    vec3 = wp.types.vector(length=3, dtype=real)
    vec4 = wp.types.vector(length=4, dtype=real)
    tiny, tiny_speed = real(TINY), real(TINY_SPEED_SQUARED)
    zero, one, two, quarter = real(0.0), real(1.0), real(2.0), real(0.25)
    planar = wp.constant(1 if dim == 2 else 0)
    stride, flag = wp.constant(CONTACT_STRIDE), wp.constant(INVERTED)
    slip = wp.constant(CONTACT_MODES.index("slip"))
    sticky = wp.constant(CONTACT_MODES.index("sticky"))

    @wp.func
    def unit(p: vec3, fallback: vec3):
        squared = wp.dot(p, p)
        regular = squared > tiny
        length = wp.sqrt(wp.where(regular, squared, one))
        return wp.where(regular, length, zero), wp.where(regular, p / length, fallback)

    @wp.func
    def sign_of(a: real):
        return wp.where(a < zero, -one, one)

    @wp.func
    def corner_rule(q: vec3):
        outer = vec3(
            wp.where(q[0] > zero, q[0], zero),
            wp.where(q[1] > zero, q[1], zero),
            wp.where(q[2] > zero, q[2], zero),
        )
        squared = wp.dot(outer, outer)
        outside = squared > tiny
        length = wp.sqrt(wp.where(outside, squared, one))
        first = q[0] >= q[1] and q[0] >= q[2]
        second = (not first) and q[1] >= q[2]
        nearest = wp.where(
            first,
            vec3(one, zero, zero),
            wp.where(second, vec3(zero, one, zero), vec3(zero, zero, one)),
        )
        d = wp.where(outside, length, wp.dot(nearest, q))
        return d, wp.where(outside, outer / length, nearest)

    @wp.func
    def sphere(size: vec3, p: vec3):
        length, n = unit(p, vec3(zero, zero, one))
        return length - size[0], n

    @wp.func
    def box(size: vec3, p: vec3):
        sign = vec3(sign_of(p[0]), sign_of(p[1]), sign_of(p[2]))
        d, m = corner_rule(wp.cw_mul(sign, p) - size)
        return d, wp.cw_mul(sign, m)

    @wp.func
    def capsule(size: vec3, p: vec3):
        half = size[1]
        inner = wp.where(p[2] < -half, p[2] + half, zero)
        height = wp.where(p[2] > half, p[2] - half, inner)
        length, n = unit(vec3(p[0], p[1], height), vec3(one, zero, zero))
        return length - size[0], n

    @wp.func
    def cylinder(size: vec3, p: vec3):
        rho, radial = unit(vec3(p[0], p[1], zero), vec3(one, zero, zero))
        sign = sign_of(p[2])
        # The unused middle entry lies far below every face, so it never decides.
        below = zero - size[0] - size[1] - rho - wp.where(p[2] < zero, -p[2], p[2])
        d, m = corner_rule(vec3(rho - size[0], below, sign * p[2] - size[1]))
        return d, m[0] * radial + vec3(zero, zero, sign * m[2])

    @wp.func
    def torus(size: vec3, p: vec3):
        rho, radial = unit(vec3(p[0], p[1], zero), vec3(one, zero, zero))
        length, m = unit(vec3(rho - size[0], zero, p[2]), vec3(zero, zero, one))
        return length - size[1], m[0] * radial + vec3(zero, zero, m[2])

    @wp.func
    def inside(a: real, lower: real, upper: real):
        return wp.where(a < lower, lower, wp.where(a > upper, upper, a))

    @wp.func
    def within(a: real, lower: real, upper: real):
        return wp.where(a >= lower and a <= upper, one, zero)

    @wp.func
    def cell(u: real, count: int):
        return wp.max(wp.min(int(wp.floor(u)), count - 2), 0)

    @wp.func
    def mesh(p: vec3, volume: wp.array3d(dtype=real), origin: vec3, dx: real):
        upper = origin + dx * vec3(
            real(volume.shape[0] - 1), real(volume.shape[1] - 1), real(volume.shape[2] - 1)
        )
        c = vec3(
            inside(p[0], origin[0], upper[0]),
            inside(p[1], origin[1], upper[1]),
            inside(p[2], origin[2], upper[2]),
        )
        beyond, outward = unit(p - c, vec3(zero, zero, zero))
        u = (c - origin) / dx
        i = cell(u[0], volume.shape[0])
        j = cell(u[1], volume.shape[1])
        k = cell(u[2], volume.shape[2])
        x = u[0] - real(i)
        y = u[1] - real(j)
        z = u[2] - real(k)
        slope00 = volume[i + 1, j, k] - volume[i, j, k]
        slope10 = volume[i + 1, j + 1, k] - volume[i, j + 1, k]
        slope01 = volume[i + 1, j, k + 1] - volume[i, j, k + 1]
        slope11 = volume[i + 1, j + 1, k + 1] - volume[i, j + 1, k + 1]
        row00 = volume[i, j, k] + x * slope00
        row10 = volume[i, j + 1, k] + x * slope10
        row01 = volume[i, j, k + 1] + x * slope01
        row11 = volume[i, j + 1, k + 1] + x * slope11
        low = row00 + y * (row10 - row00)
        high = row01 + y * (row11 - row01)
        slope_low = slope00 + y * (slope10 - slope00)
        slope_high = slope01 + y * (slope11 - slope01)
        gradient = vec3(
            within(p[0], origin[0], upper[0]) * (slope_low + z * (slope_high - slope_low)),
            within(p[1], origin[1], upper[1])
            * (row10 - row00 + z * ((row11 - row01) - (row10 - row00))),
            within(p[2], origin[2], upper[2]) * (high - low),
        )
        length, n = unit(gradient / dx + outward, vec3(zero, zero, one))
        return low + z * (high - low) + beyond, n

    @wp.func
    def shape_distance(
        kind: int,
        size: vec3,
        p: vec3,
        volume: wp.array3d(dtype=real),
        origin: vec3,
        dx: real,
    ):
        shape = kind % stride
        d = p[2]
        n = vec3(zero, zero, one)
        if shape == 0:
            d, n = sphere(size, p)
        if shape == 1:
            d, n = box(size, p)
        if shape == 2:
            d, n = capsule(size, p)
        if shape == 4:
            d, n = cylinder(size, p)
        if shape == 5:
            d, n = torus(size, p)
        if shape == 6:
            d, n = mesh(p, volume, origin, dx)
        return d, n

    @wp.func
    def rotate(w: real, u: vec3, v: vec3):
        cross = wp.cross(u, v)
        return v + (two / (w * w + wp.dot(u, u))) * (w * cross + wp.cross(u, cross))

    @wp.func
    def world_distance(
        x: vec3,
        pose_p: vec3,
        pose_q: vec4,
        kind: int,
        size: vec3,
        volume: wp.array3d(dtype=real),
        origin: vec3,
        dx: real,
    ):
        w = pose_q[0]
        axis = vec3(pose_q[1], pose_q[2], pose_q[3])
        local = rotate(w, -axis, x - pose_p)
        d, m = shape_distance(kind, size, local, volume, origin, dx)
        side = wp.where(kind >= flag, -one, one)
        turned = rotate(w, axis, side * m)
        length, flat = unit(vec3(turned[0], zero, turned[2]), vec3(zero, zero, one))
        return side * d, wp.where(planar == 1, flat, turned)

    @wp.func
    def influence(d: real, softness: real):
        u = one - quarter * softness * d
        kept = wp.where(u > zero and softness > zero, u, zero)
        squared = kept * kept
        return wp.where(d <= zero, one, squared * squared)

    @wp.func
    def contact_velocity(
        v: vec3,
        x: vec3,
        pose_p: vec3,
        pose_q: vec4,
        lin: vec3,
        ang: vec3,
        kind: int,
        size: vec3,
        friction: real,
        softness: real,
        volume: wp.array3d(dtype=real),
        origin: vec3,
        dx: real,
    ):
        d, n = world_distance(x, pose_p, pose_q, kind, size, volume, origin, dx)
        mode = (kind % flag) // stride
        moving = lin + wp.cross(ang, x - pose_p)
        flat = vec3(moving[0], zero, moving[2])
        rel = v - wp.where(planar == 1, flat, moving)
        along = wp.dot(rel, n)
        approach = wp.where(along < zero, along, zero)
        removed = wp.where(mode == slip, along, approach)
        tangent = rel - removed * n
        speed = wp.sqrt(wp.dot(tangent, tangent) + tiny_speed)
        margin = one + friction * approach / speed
        keep = wp.where(mode == sticky or margin <= zero, zero, margin)
        return v + influence(d, softness) * (keep * tangent - rel)

    return Functions(shape_distance, world_distance, contact_velocity, influence, rotate)
