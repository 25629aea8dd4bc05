"""Warp kernels of rigid bodies among themselves: their balance of momentum, contact and motion.

    (system → touch → solve) → move

All adjoints are generated but that of `solve`, which is one more solve with the same factor.
"""

# No postponed annotations here: Warp evaluates them, and cannot see types of a closure in text.

import functools
from types import SimpleNamespace
from typing import Any

from ..core.backend import warp
from ..core.colliders_warp import functions
from .bodies import RECOVERY, TINY_SPEED, WEIGHT
from .body_kernels import body_kernels

__all__ = ["contact_kernels"]


@functools.cache
def contact_kernels(real: Any, D: int, track: bool) -> SimpleNamespace:
    """Kernels that fit `body_kernels(real, D, track)`."""
    wp = warp()
    k = body_kernels(real, D, track)
    vec3, mat33 = k.vec3, k.mat33
    vec4 = wp.types.vector(4, real)
    vector, quaternion, rotated = k.vector, k.quaternion, k.rotated
    cross_matrix, velocity_at, blend = k.cross_matrix, k.velocity_at, k.blend
    f = functions(real, D)
    world_distance, turn = f.world_distance, f.turn
    zero, one, half = real(0.0), real(1.0), real(0.5)
    tiny, weight, recovery = real(TINY_SPEED**2), real(WEIGHT), real(RECOVERY)

    @wp.func
    def back(q: vec4, v: vec3) -> vec3:
        return turn(q[0], -vec3(q[1], q[2], q[3]), v)

    @wp.func
    def product(p: vec4, q: vec4) -> vec4:
        return vec4(
            p[0] * q[0] - p[1] * q[1] - p[2] * q[2] - p[3] * q[3],
            p[0] * q[1] + p[1] * q[0] + p[2] * q[3] - p[3] * q[2],
            p[0] * q[2] - p[1] * q[3] + p[2] * q[0] + p[3] * q[1],
            p[0] * q[3] + p[1] * q[2] - p[2] * q[1] + p[3] * q[0],
        )

    @wp.func
    def exponential(h: vec3) -> vec4:
        """Quaternion of a rotation vector; a series below 0.1 rad."""
        t = wp.dot(h, h)
        small = t < real(1e-2)
        length = wp.sqrt(wp.where(small, one, t))
        tail = one - t / real(168.0) * (one - t / real(288.0))
        series = half * (one - t / real(24.0) * (one - t / real(80.0) * tail))
        ratio = wp.where(small, series, wp.sin(half * length) / length)
        tail = one - t / real(120.0) * (one - t / real(224.0))
        series = one - t / real(8.0) * (one - t / real(48.0) * tail)
        scalar = wp.where(small, series, wp.cos(half * length))
        return vec4(scalar, ratio * h[0], ratio * h[1], ratio * h[2])

    @wp.func
    def matrix(q: vec4) -> mat33:
        x = rotated(q, vec3(one, zero, zero))
        y = rotated(q, vec3(zero, one, zero))
        z = rotated(q, vec3(zero, zero, one))
        return mat33(x[0], y[0], z[0], x[1], y[1], z[1], x[2], y[2], z[2])

    @wp.func
    def add(A: wp.array(dtype=real), o: int, n: int, M: mat33):
        for i in range(3):
            for j in range(3):
                wp.atomic_add(A, o + i * n + j, M[i, j])

    @wp.kernel(module="unique")
    def system(
        first: int,
        count: int,
        bodies: int,
        n: int,
        copies: int,
        per_copy: int,
        volume: wp.array(dtype=real),
        moment: wp.array(dtype=mat33),
        rho: wp.array(dtype=real),
        pose: wp.array(dtype=real),
        sums: wp.array(dtype=mat33),
        pushes: wp.array(dtype=vec3),
        A: wp.array(dtype=real),
        rhs: wp.array(dtype=real),
    ):
        """Mass of a body plus what its nodes add, on the diagonal of a system of size n per scene (or
        6 per body), which must be empty."""
        t = wp.tid()
        scene = t / count
        body = first + t - scene * count
        q = scene * bodies + body
        R = matrix(quaternion(pose, 7 * q + 3))
        linear = (rho[body] * volume[body]) * wp.identity(n=3, dtype=real)
        angular = rho[body] * (R * moment[body] * wp.transpose(R))
        mixed = mat33()
        force = vec3()
        torque = vec3()
        for c in range(copies):
            o = c * per_copy + q
            linear += sums[3 * o]
            mixed += sums[3 * o + 1]
            angular += sums[3 * o + 2]
            force += pushes[2 * o]
            torque += pushes[2 * o + 1]
        row = 6 * q  # of the unknowns of all scenes, n of which form a system
        corner = row * n + row % n
        add(A, corner, n, linear)
        add(A, corner + 3, n, wp.transpose(mixed))
        add(A, corner + 3 * n, n, mixed)
        add(A, corner + 3 * n + 3, n, angular)
        for i in range(3):
            rhs[row + i] = force[i]
            rhs[row + 3 + i] = torque[i]

    @wp.kernel(module="unique")
    def touch(
        bodies: int,
        points_per_body: int,
        obstacles: int,
        dt: real,
        rubs: real,
        own: wp.array(dtype=wp.int32),
        counts: wp.array(dtype=wp.int32),
        points: wp.array(dtype=vec3),
        radii: wp.array(dtype=real),
        body_volume: wp.array(dtype=real),
        rho: wp.array(dtype=real),
        friction: wp.array(dtype=real),
        pose: wp.array(dtype=real),
        center: wp.array(dtype=vec3),
        base: wp.array(dtype=real),
        at: wp.array(dtype=real),
        kind: int,
        size: vec3,
        volume: wp.array3d(dtype=real),
        volume_origin: vec3,
        volume_dx: real,
        tool: int,
        partner: int,
        other_first: int,
        other_stride: int,
        other_pose: wp.array(dtype=real),
        other_twist: wp.array(dtype=real),
        A: wp.array(dtype=real),
        rhs: wp.array(dtype=real),
    ):
        """Contact of the points of all bodies with one obstacle: a collider (tool ≥ 0), of which body
        `partner` is one, or the walls, several planes at once."""
        t = wp.tid()
        obstacle = t % obstacles
        t = t / obstacles
        point = t % points_per_body
        q = t / points_per_body
        scene = q / bodies
        body = q % bodies
        if point >= counts[body] or body == partner:
            return
        j = body * points_per_body + point
        ball = vector(pose, 7 * q) + rotated(quaternion(pose, 7 * q + 3), points[j])
        if wp.static(D == 2):
            ball = vec3(ball[0], zero, ball[2])
        o = scene * other_stride + other_first + obstacle
        p = vector(other_pose, 7 * o)
        d, n = world_distance(
            ball, p, quaternion(other_pose, 7 * o + 3), kind, size, volume, volume_origin, volume_dx
        )
        gap = d - radii[j]
        y = ball - radii[j] * n
        arm = y - center[q]
        rel0 = velocity_at(base, 6 * q, arm)
        rel = velocity_at(at, 6 * q, arm)
        m = rho[body] * body_volume[body]
        w = weight * m
        mu = friction[own[body]]
        arm1 = y
        q1 = scene * bodies + partner
        if tool >= 0:
            mu = half * (mu + friction[tool])
            if partner >= 0:
                m1 = rho[partner] * body_volume[partner]
                w = weight * m * m1 / (m + m1)
                arm1 = y - center[q1]
                rel0 = rel0 - velocity_at(base, 6 * q1, arm1)
                rel = rel - velocity_at(at, 6 * q1, arm1)
            else:
                moving = velocity_at(other_twist, 6 * o, y - p)
                if wp.static(D == 2):
                    moving = vec3(moving[0], zero, moving[2])
                rel0 = rel0 - moving
                rel = rel - moving
        target = -wp.where(gap > zero, gap, recovery * gap) / dt
        along = wp.dot(rel, n)
        load = target - along
        if load > zero:
            tangent = rel - along * n
            speed = wp.sqrt(wp.dot(tangent, tangent) + tiny)
            share = rubs * mu * load / speed
            K = w * blend(n, one, wp.where(share < one, share, one))
            push = (w * target) * n - K * rel0
            r = cross_matrix(arm)
            size_n = 6 * bodies
            row = 6 * q
            o1 = row * size_n + row % size_n
            rK = r * K
            add(A, o1, size_n, K)
            add(A, o1 + 3, size_n, -(K * r))
            add(A, o1 + 3 * size_n, size_n, rK)
            add(A, o1 + 3 * size_n + 3, size_n, -(rK * r))
            torque = wp.cross(arm, push)
            for i in range(3):
                wp.atomic_add(rhs, row + i, push[i])
                wp.atomic_add(rhs, row + 3 + i, torque[i])
            if partner >= 0:
                h = cross_matrix(arm1)
                row1 = 6 * q1
                hK = h * K
                o2 = row * size_n + row1 % size_n
                add(A, o2, size_n, -K)
                add(A, o2 + 3, size_n, K * h)
                add(A, o2 + 3 * size_n, size_n, -rK)
                add(A, o2 + 3 * size_n + 3, size_n, rK * h)
                o3 = row1 * size_n + row % size_n
                add(A, o3, size_n, -K)
                add(A, o3 + 3, size_n, K * r)
                add(A, o3 + 3 * size_n, size_n, -hK)
                add(A, o3 + 3 * size_n + 3, size_n, hK * r)
                o4 = row1 * size_n + row1 % size_n
                add(A, o4, size_n, K)
                add(A, o4 + 3, size_n, -(K * h))
                add(A, o4 + 3 * size_n, size_n, hK)
                add(A, o4 + 3 * size_n + 3, size_n, -(hK * h))
                torque1 = wp.cross(arm1, push)
                for i in range(3):
                    wp.atomic_add(rhs, row1 + i, -push[i])
                    wp.atomic_add(rhs, row1 + 3 + i, -torque1[i])

    @wp.kernel(module="unique")
    def move(
        bodies: int,
        dt: real,
        centers: wp.array(dtype=vec3),
        moment: wp.array(dtype=mat33),
        inverse: wp.array(dtype=mat33),
        pose: wp.array(dtype=real),
        center: wp.array(dtype=vec3),
        V: wp.array(dtype=real),
        pose1: wp.array(dtype=real),
        twist1: wp.array(dtype=real),
    ):
        i = wp.tid()
        body = i % bodies
        q = quaternion(pose, 7 * i + 3)
        w = vector(V, 6 * i + 3)
        L = rotated(q, moment[body] * back(q, w))
        middle = product(exponential(half * dt * w), q)
        mean = rotated(middle, inverse[body] * back(middle, L))
        q1 = product(exponential(dt * mean), q)
        w1 = rotated(q1, inverse[body] * back(q1, L))
        arm = rotated(q1, centers[body])
        v = vector(V, 6 * i)
        p1 = center[i] + dt * v - arm
        v1 = v - wp.cross(w1, arm)
        for a in range(3):
            pose1[7 * i + a] = p1[a]
            twist1[6 * i + a] = v1[a]
            twist1[6 * i + 3 + a] = w1[a]
        for a in range(4):
            pose1[7 * i + 3 + a] = q1[a]

    options = {"module": "unique", "enable_backward": False}

    @wp.kernel(**options)
    def solve(
        n: int,
        first: int,
        stride: int,
        A: wp.array(dtype=real),
        rhs: wp.array(dtype=real),
        base: wp.array(dtype=real),
        factor: wp.array(dtype=real),
        V: wp.array(dtype=real),
    ):
        """V = base + A⁻¹ rhs by Cholesky, one system of size n per thread."""
        system = wp.tid() * stride + first
        o = system * n * n
        v = system * n
        for i in range(n):
            for j in range(i + 1):
                x = A[o + i * n + j]
                for c in range(j):
                    x = x - factor[o + i * n + c] * factor[o + j * n + c]
                if i == j:
                    factor[o + i * n + i] = wp.sqrt(x)
                else:
                    factor[o + i * n + j] = x / factor[o + j * n + j]
        for i in range(n):
            x = rhs[v + i]
            for c in range(i):
                x = x - factor[o + i * n + c] * V[v + c]
            V[v + i] = x / factor[o + i * n + i]
        for e in range(n):
            i = n - 1 - e
            x = V[v + i]
            for c in range(i + 1, n):
                x = x - factor[o + c * n + i] * V[v + c]
            V[v + i] = x / factor[o + i * n + i]
        for i in range(n):
            V[v + i] = V[v + i] + base[v + i]

    @wp.kernel(**options)
    def solve_adjoint(
        n: int,
        first: int,
        stride: int,
        factor: wp.array(dtype=real),
        base: wp.array(dtype=real),
        V: wp.array(dtype=real),
        adj_V: wp.array(dtype=real),
        adj_base: wp.array(dtype=real),
        adj_rhs: wp.array(dtype=real),
        adj_A: wp.array(dtype=real),
    ):
        """λ = A⁻¹ V̄;  rhs̄ = λ,  Ā = −λ (V − base)ᵀ,  basē += V̄."""
        system = wp.tid() * stride + first
        o = system * n * n
        v = system * n
        for i in range(n):
            x = adj_V[v + i]
            for c in range(i):
                x = x - factor[o + i * n + c] * adj_rhs[v + c]
            adj_rhs[v + i] = x / factor[o + i * n + i]
        for e in range(n):
            i = n - 1 - e
            x = adj_rhs[v + i]
            for c in range(i + 1, n):
                x = x - factor[o + c * n + i] * adj_rhs[v + c]
            adj_rhs[v + i] = x / factor[o + i * n + i]
        for i in range(n):
            for j in range(n):
                adj_A[o + i * n + j] = -adj_rhs[v + i] * (V[v + j] - base[v + j])
            adj_base[v + i] = adj_base[v + i] + adj_V[v + i]

    return SimpleNamespace(
        system=system, touch=touch, move=move, solve=solve, solve_adjoint=solve_adjoint
    )
