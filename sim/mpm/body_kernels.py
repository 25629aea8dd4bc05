"""Warp kernels by which nodes and rigid bodies exchange momentum: the formulas of `bodies`.

    begin → (collect → system → solve) twice per body → couple;  then contact, see `contact_kernels`

Adjoints are generated. Arrays of bodies are flat: 7 numbers per pose, 6 per twist and per velocity, scene
by scene.
"""

# No postponed annotations here: Warp evaluates them, and cannot see types of a closure in text.

import functools
from types import SimpleNamespace
from typing import Any

from ..core.backend import warp
from ..core.colliders import CONTACT_MODES
from ..core.colliders_warp import CONTACT_STRIDE, INVERTED, functions
from .bodies import TINY_SPEED
from .grid_kernels import grid_kernels
from .kernels import transfer_kernels

__all__ = ["body_kernels"]


@functools.cache
def body_kernels(real: Any, D: int, track: bool) -> SimpleNamespace:
    """Kernels of bodies that fit `grid_kernels(real, D, track)`."""
    wp = warp()
    k = transfer_kernels(real, D, track)
    g = grid_kernels(real, D, track)
    vec, node, Space, Box = k.vec, k.node, k.Space, g.Box
    node_coordinates, node_index, mask = g.node_coordinates, g.node_index, g.mask
    vec3, vec4 = g.vec3, g.vec4
    mat33 = wp.types.matrix((3, 3), real)
    f = functions(real, D)
    world_distance, influence, turn = f.world_distance, f.influence, f.turn
    zero, one = real(0.0), real(1.0)
    stride_kind, flag = wp.constant(CONTACT_STRIDE), wp.constant(INVERTED)
    slip = wp.constant(CONTACT_MODES.index("slip"))
    sticky = wp.constant(CONTACT_MODES.index("sticky"))
    tiny = real(TINY_SPEED**2)

    @wp.func
    def vector(a: wp.array(dtype=real), i: int) -> vec3:
        return vec3(a[i], a[i + 1], a[i + 2])

    @wp.func
    def quaternion(a: wp.array(dtype=real), i: int) -> vec4:
        return vec4(a[i], a[i + 1], a[i + 2], a[i + 3])

    @wp.func
    def rotated(q: vec4, v: vec3) -> vec3:
        return turn(q[0], vec3(q[1], q[2], q[3]), v)

    @wp.func
    def cross_matrix(r: vec3) -> mat33:
        return mat33(zero, -r[2], r[1], r[2], zero, -r[0], -r[1], r[0], zero)

    @wp.func
    def velocity_at(V: wp.array(dtype=real), i: int, arm: vec3) -> vec3:
        return vector(V, i) + wp.cross(vector(V, i + 3), arm)

    @wp.func
    def blend(n: vec3, s: real, share: real) -> mat33:
        nn = wp.outer(n, n)
        return s * nn + share * (wp.identity(n=3, dtype=real) - nn)

    @wp.func
    def response(rel: vec3, n: vec3, mu: real, mode: int) -> mat33:
        """K of the collider law at a relative velocity."""
        along = wp.dot(rel, n)
        approach = wp.where(along < zero, along, zero)
        s = wp.where(along < zero or mode == slip, one, zero)
        tangent = rel - along * n
        speed = wp.sqrt(wp.dot(tangent, tangent) + tiny)
        share = -mu * approach / speed
        if mode == sticky:
            s = one
            share = one
        return blend(n, s, wp.where(share < one, share, one))

    @wp.func
    def position(s: Space, b: Box, t: int) -> vec3:
        scene = t / b.volume
        n = node_coordinates(b, t - scene * b.volume)
        if wp.static(D == 3):
            return vec3(
                s.origin[0] + s.dx * real(n[0]),
                s.origin[1] + s.dx * real(n[1]),
                s.origin[2] + s.dx * real(n[2]),
            )
        else:
            return vec3(s.origin[0] + s.dx * real(n[0]), zero, s.origin[1] + s.dx * real(n[1]))

    @wp.func
    def reach(softness: real) -> real:
        """Farthest distance of influence."""
        return wp.where(softness > zero, real(4.0) / wp.max(softness, real(1e-12)), zero)

    @wp.func
    def lift(v: vec) -> vec3:
        if wp.static(D == 3):
            return vec3(v[0], v[1], v[2])
        else:
            return vec3(v[0], zero, v[1])

    @wp.kernel(module="unique")
    def begin(
        bodies: int,
        dt: real,
        pull: vec3,
        centers: wp.array(dtype=vec3),
        pose: wp.array(dtype=real),
        twist: wp.array(dtype=real),
        center: wp.array(dtype=vec3),
        V: wp.array(dtype=real),
    ):
        i = wp.tid()
        arm = rotated(quaternion(pose, 7 * i + 3), centers[i % bodies])
        spin = vector(twist, 6 * i + 3)
        v = vector(twist, 6 * i) + wp.cross(spin, arm) + dt * pull
        center[i] = vector(pose, 7 * i) + arm
        for a in range(3):
            V[6 * i + a] = v[a]
            V[6 * i + 3 + a] = spin[a]

    @wp.kernel(module="unique")
    def collect(
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
        body: int,
        bodies: int,
        copy: int,
        bound: real,
        rubs: real,
        pose: wp.array(dtype=real),
        center: wp.array(dtype=vec3),
        base: wp.array(dtype=real),
        at: wp.array(dtype=real),
        friction: wp.array(dtype=real),
        softness: wp.array(dtype=real),
        sums: wp.array(dtype=mat33),
        pushes: wp.array(dtype=vec3),
    ):
        t = wp.tid() + start
        scene = t / b.volume
        i = scene * s.nodes + node_index(s, node_coordinates(b, t - scene * b.volume))
        m = total[i][D]
        if m > s.empty:
            q = scene * bodies + body
            x = position(s, b, t)
            soft = softness[tool]
            if wp.length(x - vector(pose, 7 * q)) < bound + reach(soft):
                d, n = world_distance(
                    x, vector(pose, 7 * q), quaternion(pose, 7 * q + 3), kind, size, volume,
                    volume_origin, volume_dx,
                )  # fmt: skip
                a = influence(d, soft)
                if a > zero:
                    arm = x - center[q]
                    u = lift(velocity[i])
                    mode = (kind % flag) // stride_kind
                    W = (m * a) * response(
                        u - velocity_at(at, 6 * q, arm), n, rubs * friction[tool], mode
                    )
                    push = W * (u - velocity_at(base, 6 * q, arm))
                    r = cross_matrix(arm)
                    o = copy + q
                    wp.atomic_add(sums, 3 * o, W)
                    wp.atomic_add(sums, 3 * o + 1, r * W)
                    wp.atomic_add(sums, 3 * o + 2, -(r * W * r))
                    wp.atomic_add(pushes, 2 * o, push)
                    wp.atomic_add(pushes, 2 * o + 1, wp.cross(arm, push))

    @wp.kernel(module="unique")
    def couple(
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
        body: int,
        bodies: int,
        bound: real,
        pose: wp.array(dtype=real),
        center: wp.array(dtype=vec3),
        at: wp.array(dtype=real),
        V: wp.array(dtype=real),
        friction: wp.array(dtype=real),
        softness: wp.array(dtype=real),
        result: wp.array(dtype=vec),
    ):
        t = wp.tid() + start
        scene = t / b.volume
        coordinates = node_coordinates(b, t - scene * b.volume)
        i = scene * s.nodes + node_index(s, coordinates)
        if total[i][D] > s.empty:
            q = scene * bodies + body
            x = position(s, b, t)
            soft = softness[tool]
            u1 = lift(velocity[i])
            if wp.length(x - vector(pose, 7 * q)) < bound + reach(soft):
                d, n = world_distance(
                    x, vector(pose, 7 * q), quaternion(pose, 7 * q + 3), kind, size, volume,
                    volume_origin, volume_dx,
                )  # fmt: skip
                a = influence(d, soft)
                arm = x - center[q]
                u = lift(velocity[i])
                mode = (kind % flag) // stride_kind
                K = response(u - velocity_at(at, 6 * q, arm), n, friction[tool], mode)
                u1 = u - a * (K * (u - velocity_at(V, 6 * q, arm)))
            if wp.static(D == 3):
                r = vec(u1[0], u1[1], u1[2])
                result[i] = wp.cw_mul(r, mask(s, b, coordinates, r))
            else:
                r = vec(u1[0], u1[2])
                result[i] = wp.cw_mul(r, mask(s, b, coordinates, r))
        else:
            result[i] = vec()

    @wp.kernel(module="unique", enable_backward=False)
    def add_mass(
        s: Space,
        b: Box,
        start: int,
        extra: wp.array(dtype=node),
        adj_total: wp.array(dtype=node),
    ):
        """Adjoint of the node masses that bodies have felt, which empties it."""
        t = wp.tid() + start
        scene = t / b.volume
        i = scene * s.nodes + node_index(s, node_coordinates(b, t - scene * b.volume))
        adj_total[i] = adj_total[i] + extra[i]
        extra[i] = node()

    return SimpleNamespace(
        vec3=vec3,
        mat33=mat33,
        vector=vector,
        quaternion=quaternion,
        rotated=rotated,
        cross_matrix=cross_matrix,
        velocity_at=velocity_at,
        blend=blend,
        response=response,
        lift=lift,
        begin=begin,
        collect=collect,
        couple=couple,
        add_mass=add_mass,
    )
