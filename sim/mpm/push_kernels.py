"""Warp kernels that put particles back onto the surface of a collider: the formulas of `push_out`.

The adjoint is generated. Old places and old poses enter the swept test only, so they get no adjoint.
"""

# No postponed annotations here: Warp evaluates them, and cannot see types of a closure in text.

import functools
from types import SimpleNamespace
from typing import Any

from ..core.backend import warp
from ..core.colliders_warp import CONTACT_STRIDE, INVERTED, functions
from .body_kernels import body_kernels
from .kernels import transfer_kernels
from .push_out import CLOSE, TINY

__all__ = ["push_kernels"]


@functools.cache
def push_kernels(real: Any, D: int, track: bool) -> SimpleNamespace:
    """Kernels that fit `transfer_kernels(real, D, track)`."""
    wp = warp()
    k = transfer_kernels(real, D, track)
    b = body_kernels(real, D, track)
    vec, Space, watch = k.vec, k.Space, k.watch
    vec3 = b.vec3
    vec4 = wp.types.vector(4, real)
    vector, quaternion, velocity_at = b.vector, b.quaternion, b.velocity_at
    response, lift = b.response, b.lift
    f = functions(real, D)
    world_distance, turn = f.world_distance, f.turn
    zero, tiny, close = real(0.0), real(TINY), real(CLOSE)
    stride_kind, flag = wp.constant(CONTACT_STRIDE), wp.constant(INVERTED)

    @wp.func
    def section(v: vec3) -> vec:
        if wp.static(D == 3):
            return vec(v[0], v[1], v[2])
        else:
            return vec(v[0], v[2])

    @wp.func
    def rotated(q: vec4, v: vec3) -> vec3:
        return turn(q[0], vec3(q[1], q[2], q[3]), v)

    @wp.func
    def back(q: vec4, v: vec3) -> vec3:
        return turn(q[0], -vec3(q[1], q[2], q[3]), v)

    @wp.kernel(module="unique")
    def push(
        s: Space,
        first: int,
        count: int,
        start: int,
        step: int,
        birth: wp.array(dtype=wp.int32),
        x0: wp.array(dtype=vec),
        x: wp.array(dtype=vec),
        v: wp.array(dtype=vec),
        kind: int,
        size: vec3,
        volume: wp.array3d(dtype=real),
        volume_origin: vec3,
        volume_dx: real,
        tool: int,
        tools: int,
        row: int,
        rows: int,
        free: int,
        pose0: wp.array(dtype=real),
        pose1: wp.array(dtype=real),
        twist: wp.array(dtype=real),
        friction: wp.array(dtype=real),
        x1: wp.array(dtype=vec),
        v1: wp.array(dtype=vec),
    ):
        """Poses are row `row` of `rows` per scene; a free body (free = 1) leaves velocities alone."""
        j = wp.tid() + start
        scene = j / count
        local = first + j - scene * count
        i = scene * s.particles + local
        moved = x[i]
        speed = v[i]
        if birth[local] <= step:
            o = 7 * (scene * rows + row)
            place = vector(pose1, o)
            q = quaternion(pose1, o + 3)
            p = lift(x[i])
            d, n = world_distance(p, place, q, kind, size, volume, volume_origin, volume_dx)
            # Nothing can have been passed by a particle that is farther out than it came.
            old = lift(x0[i])
            q0 = quaternion(pose0, o + 3)
            local0 = back(q0, old - vector(pose0, o))
            local1 = back(q, p - place)
            depth = d
            path = wp.length(local1 - local0)
            if d < path:
                d0, n0 = world_distance(
                    old, vector(pose0, o), q0, kind, size, volume, volume_origin, volume_dx
                )
                m0 = back(q0, n0)
                edge = wp.dot(local0, m0) - d0
                ahead = wp.max(d0, zero)
                share = ahead / (ahead + wp.max(d, tiny))
                middle = place + rotated(q, local0 + share * (local1 - local0))
                between, unused = world_distance(
                    middle, place, q, kind, size, volume, volume_origin, volume_dx
                )
                m = rotated(q, m0)
                if wp.dot(m, n) < zero and (d < zero or between < close * path):
                    depth = wp.dot(p - place, m) - edge
                    n = m
            if depth < zero:
                y = p - depth * n
                moved = section(y)
                if free == 0:
                    moving = velocity_at(twist, 6 * (scene * tools + tool), y - place)
                    rel = lift(v[i] - section(moving))
                    mode = (kind % flag) // stride_kind
                    speed = v[i] - section(response(rel, n, friction[tool], mode) * rel)
        x1[i] = moved
        v1[i] = speed

    @wp.kernel(module="unique", enable_backward=False)
    def bounds(
        s: Space,
        first: int,
        count: int,
        start: int,
        x: wp.array(dtype=vec),
        shard: int,
        status: wp.array2d(dtype=wp.int32),
    ):
        j = wp.tid() + start
        scene = j / count
        i = scene * s.particles + first + j - scene * count
        watch(s, x[i], i, shard, status)

    return SimpleNamespace(push=push, bounds=bounds)
