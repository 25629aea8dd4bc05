"""Warp kernels on grid nodes: momentum to velocity, gravity, walls, tools; and their adjoints.

All of them visit a box of nodes of every scene; on a CPU that is the box the particles occupy, which
matters more than any other saving in sparse scenes.
"""

# No postponed annotations here: Warp evaluates them, and cannot see types of a closure in text.

import functools
from types import SimpleNamespace
from typing import Any

from ..core.backend import warp
from ..core.colliders_warp import functions
from .kernels import transfer_kernels

__all__ = ["grid_kernels"]


@functools.cache
def grid_kernels(real: Any, D: int, track: bool) -> SimpleNamespace:
    """Node kernels that fit `transfer_kernels(real, D, track)`."""
    wp = warp()
    k = transfer_kernels(real, D, track)
    vec, node, ivec, Space = k.vec, k.node, k.ivec, k.Space
    vec3 = wp.types.vector(3, real)
    vec4 = wp.types.vector(4, real)
    contact_velocity = functions(real, D).contact_velocity
    options = {"module": "unique", "enable_backward": False}
    walls_type = wp.types.vector(2 * D, wp.int32)

    @wp.struct
    class Box:
        lower: ivec
        size: ivec
        volume: int
        padding: int
        walls: walls_type

    @wp.func
    def node_coordinates(b: Box, t: int) -> ivec:
        n = ivec()
        if wp.static(D == 3):
            n[2] = t % b.size[2]
            n[1] = (t / b.size[2]) % b.size[1]
            n[0] = t / (b.size[2] * b.size[1])
        else:
            n[1] = t % b.size[1]
            n[0] = t / b.size[1]
        return n + b.lower

    @wp.func
    def node_index(s: Space, n: ivec) -> int:
        if wp.static(D == 3):
            return (n[0] * s.shape[1] + n[1]) * s.shape[2] + n[2]
        return n[0] * s.shape[1] + n[1]

    @wp.func
    def free(s: Space, b: Box, n: ivec, v: vec, axis: int) -> real:
        """1 where the walls leave this component of the velocity alone, else 0."""
        for a in range(D):
            for side in range(2):
                hit = n[a] <= b.padding
                inward = v[a] < real(0.0)
                if side == 1:
                    hit = n[a] >= s.shape[a] - 1 - b.padding
                    inward = v[a] > real(0.0)
                if hit:
                    wall = b.walls[2 * a + side]
                    if wall == 2:
                        return real(0.0)
                    if axis == a and (wall == 1 or inward):
                        return real(0.0)
        return real(1.0)

    @wp.func
    def mask(s: Space, b: Box, n: ivec, v: vec) -> vec:
        r = vec()
        for a in range(D):
            r[a] = free(s, b, n, v, a)
        return r

    @wp.kernel(**options)
    def update(
        s: Space,
        b: Box,
        start: int,
        copies: int,
        stride: int,
        gravity: wp.array(dtype=vec),
        grid: wp.array(dtype=node),
        total: wp.array(dtype=node),
        velocity: wp.array(dtype=vec),
    ):
        t = wp.tid() + start
        scene = t / b.volume
        n = node_coordinates(b, t - scene * b.volume)
        i = scene * s.nodes + node_index(s, n)
        q = grid[i]
        grid[i] = node()
        for c in range(1, copies):
            q += grid[c * stride + i]
            grid[c * stride + i] = node()
        total[i] = q
        v = vec()
        if q[D] > s.empty:
            for a in range(D):
                v[a] = q[a] / q[D] + s.dt * gravity[scene][a]
            v = wp.cw_mul(v, mask(s, b, n, v))
        velocity[i] = v

    @wp.kernel(**options)
    def sum_adjoint(
        s: Space,
        b: Box,
        start: int,
        copies: int,
        stride: int,
        partial: wp.array(dtype=vec),
        adj_velocity: wp.array(dtype=vec),
    ):
        t = wp.tid() + start
        scene = t / b.volume
        i = scene * s.nodes + node_index(s, node_coordinates(b, t - scene * b.volume))
        g = partial[i]
        partial[i] = vec()
        for c in range(1, copies):
            g += partial[c * stride + i]
            partial[c * stride + i] = vec()
        adj_velocity[i] = g

    @wp.kernel(**options)
    def clear(s: Space, b: Box, start: int, values: wp.array(dtype=vec)):
        t = wp.tid() + start
        scene = t / b.volume
        values[scene * s.nodes + node_index(s, node_coordinates(b, t - scene * b.volume))] = vec()

    @wp.kernel(**options)
    def update_adjoint(
        s: Space,
        b: Box,
        start: int,
        gravity: wp.array(dtype=vec),
        total: wp.array(dtype=node),
        adj_velocity: wp.array(dtype=vec),
        adj_total: wp.array(dtype=node),
    ):
        t = wp.tid() + start
        scene = t / b.volume
        n = node_coordinates(b, t - scene * b.volume)
        i = scene * s.nodes + node_index(s, n)
        q = total[i]
        g = adj_velocity[i]
        r = node()
        if q[D] > s.empty:
            v = vec()
            for a in range(D):
                v[a] = q[a] / q[D] + s.dt * gravity[scene][a]
            g = wp.cw_mul(g, mask(s, b, n, v))
            slope = real(0.0)
            for a in range(D):
                r[a] = g[a] / q[D]
                slope += g[a] * (q[a] / q[D])
            r[D] = -slope / q[D]  # the square of a small mass would underflow in float32
        adj_total[i] = r

    @wp.kernel(module="unique")
    def collide(
        s: Space,
        b: Box,
        start: int,
        total: wp.array(dtype=node),
        velocity: wp.array(dtype=vec),
        kind: int,
        size: vec3,
        volume: wp.array3d(dtype=real),
        volume_origin: vec3,
        volume_dx: real,
        tool: int,
        tools: int,
        pose: wp.array(dtype=real),
        twist: wp.array(dtype=real),
        friction: wp.array(dtype=real),
        softness: wp.array(dtype=real),
        result: wp.array(dtype=vec),
    ):
        t = wp.tid() + start
        scene = t / b.volume
        n = node_coordinates(b, t - scene * b.volume)
        i = scene * s.nodes + node_index(s, n)
        if total[i][D] > s.empty:
            p = 7 * (scene * tools + tool)
            q = 6 * (scene * tools + tool)
            x = vec3()
            v = vec3()
            u = velocity[i]
            if wp.static(D == 3):
                x = vec3(
                    s.origin[0] + s.dx * real(n[0]),
                    s.origin[1] + s.dx * real(n[1]),
                    s.origin[2] + s.dx * real(n[2]),
                )
                v = vec3(u[0], u[1], u[2])
            else:
                x = vec3(
                    s.origin[0] + s.dx * real(n[0]), real(0.0), s.origin[1] + s.dx * real(n[1])
                )
                v = vec3(u[0], real(0.0), u[1])
            v1 = contact_velocity(
                v,
                x,
                vec3(pose[p], pose[p + 1], pose[p + 2]),
                vec4(pose[p + 3], pose[p + 4], pose[p + 5], pose[p + 6]),
                vec3(twist[q], twist[q + 1], twist[q + 2]),
                vec3(twist[q + 3], twist[q + 4], twist[q + 5]),
                kind,
                size,
                friction[tool],
                softness[tool],
                volume,
                volume_origin,
                volume_dx,
            )
            if wp.static(D == 3):
                r = vec(v1[0], v1[1], v1[2])
                result[i] = wp.cw_mul(r, mask(s, b, n, r))
            else:
                r = vec(v1[0], v1[2])
                result[i] = wp.cw_mul(r, mask(s, b, n, r))
        else:
            result[i] = vec()

    return SimpleNamespace(
        Box=Box,
        walls_type=walls_type,
        node_coordinates=node_coordinates,
        node_index=node_index,
        mask=mask,
        vec3=vec3,
        vec4=vec4,
        update=update,
        sum_adjoint=sum_adjoint,
        clear=clear,
        update_adjoint=update_adjoint,
        collide=collide,
    )
