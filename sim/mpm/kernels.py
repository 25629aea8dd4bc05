"""Warp kernels of one MLS-MPM substep and their adjoints.

Transfers and the grid update have hand-written adjoints: they are 1.4 times faster than generated ones
and need no tape. Law and contact kernels use generated adjoints, so that any law function plugs in.

    scatter   m_i v_i = Σ w (m v + A d),  m_i = Σ w m            d = x_i − x
    grid      v_i = m_i v_i / m_i + dt g, then walls
    gather    v' = Σ w v_i,  C' = (4/dx²) Σ w v_i dᵀ,  x' = x + dt v'

Weights are quadratic B-splines; the base node is a constant in differentiation (the spline is C¹).
On a CPU each shard scatters into its own copy of the grid, because Warp's CPU atomics are plain adds.

Source: Hu et al. 2018 (MLS-MPM), Alg. 1 and Eq. 16–17; Jiang et al. 2015 (APIC), Eq. 8–9.
"""

# No postponed annotations here: Warp evaluates them, and cannot see types of a closure in text.

import functools
from types import SimpleNamespace
from typing import Any

from ..core.backend import warp

__all__ = ["STATUS", "transfer_kernels"]

STATUS = {"non_finite": 0, "outside": 1, "too_fast": 2}
"""Flags a gather raises, as columns of the status array; the box of base nodes follows."""


@functools.cache
def transfer_kernels(real: Any, D: int, track: bool) -> SimpleNamespace:
    """Kernels for one precision and dimension; `track` also records the bounding box (CPU only)."""
    wp = warp()
    vec = wp.types.vector(D, real)
    mat = wp.types.matrix((D, D), real)
    weights = wp.types.matrix((3, D), real)
    node = wp.types.vector(D + 1, real)
    ivec = wp.types.vector(D, wp.int32)
    columns = 3 ** (D - 1)
    last = D - 1
    options = {"module": "unique", "enable_backward": False, "module_options": {"max_unroll": 0}}

    @wp.struct
    class Space:
        origin: vec
        dx: real
        dt: real
        shape: ivec
        nodes: int  # per scene
        particles: int  # per scene
        empty: real  # nodes with less mass take no part

    @wp.func
    def spline(f: vec) -> weights:
        w = weights()
        for a in range(D):
            w[0, a] = real(0.5) * (real(1.5) - f[a]) * (real(1.5) - f[a])
            w[1, a] = real(0.75) - (f[a] - real(1.0)) * (f[a] - real(1.0))
            w[2, a] = real(0.5) * (f[a] - real(0.5)) * (f[a] - real(0.5))
        return w

    @wp.func
    def slope(f: vec) -> weights:
        w = weights()
        for a in range(D):
            w[0, a] = f[a] - real(1.5)
            w[1, a] = real(-2.0) * (f[a] - real(1.0))
            w[2, a] = f[a] - real(0.5)
        return w

    @wp.func
    def base_node(s: Space, x: vec) -> ivec:
        b = ivec()
        for a in range(D):
            # Kept inside for memory safety only: gather flags such a particle and the solver raises.
            cell = int((x[a] - s.origin[a]) / s.dx - real(0.5))
            b[a] = wp.clamp(cell, 0, s.shape[a] - 3)
        return b

    @wp.func
    def fraction(s: Space, x: vec, b: ivec) -> vec:
        f = vec()
        for a in range(D):
            f[a] = (x[a] - s.origin[a]) / s.dx - real(b[a])
        return f

    @wp.func
    def column(s: Space, b: ivec, c: int) -> int:
        """First node of a column of the stencil along the last axis."""
        if wp.static(D == 3):
            return ((b[0] + c / 3) * s.shape[1] + b[1] + c % 3) * s.shape[2] + b[2]
        return (b[0] + c) * s.shape[1] + b[1]

    @wp.func
    def column_offset(c: int) -> vec:
        o = vec()
        if wp.static(D == 3):
            o[0] = real(c / 3)
            o[1] = real(c % 3)
        else:
            o[0] = real(c)
        return o

    @wp.func
    def column_weight(w: weights, c: int) -> real:
        if wp.static(D == 3):
            return w[c / 3, 0] * w[c % 3, 1]
        return w[c, 0]

    @wp.func
    def axis_unit(k: int) -> vec:
        e = vec()
        e[last] = real(k)
        return e

    @wp.func
    def watch(s: Space, x: vec, i: int, shard: int, status: wp.array2d(dtype=wp.int32)):
        """Flag a particle that leaves the grid; extend the box of base nodes."""
        for a in range(D):
            cell = int(wp.floor((x[a] - s.origin[a]) / s.dx - real(0.5)))
            if cell < 0 or cell > s.shape[a] - 3:
                status[shard, 1] = 1 + i
            if wp.static(track):
                if cell < status[shard, 3 + a]:
                    status[shard, 3 + a] = cell
                if cell > status[shard, 3 + D + a]:
                    status[shard, 3 + D + a] = cell

    @wp.kernel(**options)
    def scatter(
        s: Space,
        first: int,
        count: int,
        start: int,
        step: int,
        x: wp.array(dtype=vec),
        v: wp.array(dtype=vec),
        A: wp.array(dtype=mat),
        mass: wp.array(dtype=real),
        birth: wp.array(dtype=wp.int32),
        copy: int,
        grid: wp.array(dtype=node),
    ):
        j = wp.tid() + start
        scene = j / count
        local = first + j - scene * count
        if birth[local] > step:
            return
        i = scene * s.particles + local
        b = base_node(s, x[i])
        f = fraction(s, x[i], b)
        w = spline(f)
        m = mass[i]
        Ai = A[i]
        momentum = m * v[i] - s.dx * (Ai * f)
        along = s.dx * (Ai * axis_unit(1))
        offset = copy + scene * s.nodes
        for c in range(columns):
            wc = column_weight(w, c)
            n = offset + column(s, b, c)
            p = momentum + s.dx * (Ai * column_offset(c))
            for k in range(3):
                value = node()
                wk = wc * w[k, last]
                for a in range(D):
                    value[a] = wk * (p[a] + real(k) * along[a])
                value[D] = wk * m
                wp.atomic_add(grid, n + k, value)

    @wp.kernel(**options)
    def scatter_adjoint(
        s: Space,
        first: int,
        count: int,
        start: int,
        step: int,
        x: wp.array(dtype=vec),
        v: wp.array(dtype=vec),
        A: wp.array(dtype=mat),
        mass: wp.array(dtype=real),
        birth: wp.array(dtype=wp.int32),
        adj_grid: wp.array(dtype=node),
        adj_x: wp.array(dtype=vec),
        adj_v: wp.array(dtype=vec),
        adj_A: wp.array(dtype=mat),
        adj_mass: wp.array(dtype=real),
    ):
        j = wp.tid() + start
        scene = j / count
        local = first + j - scene * count
        i = scene * s.particles + local
        if birth[local] > step:
            adj_A[i] = mat()
            return
        b = base_node(s, x[i])
        f = fraction(s, x[i], b)
        w = spline(f)
        dw = slope(f)
        m = mass[i]
        Ai = A[i]
        mv = m * v[i]
        g_sum = vec()
        gA = mat()
        gx = vec()
        gm = real(0.0)
        for c in range(columns):
            wc = column_weight(w, c)
            n = scene * s.nodes + column(s, b, c)
            for k in range(3):
                q = adj_grid[n + k]
                g = vec()
                for a in range(D):
                    g[a] = q[a]
                h = q[D]
                d = s.dx * (column_offset(c) + axis_unit(k) - f)
                wk = wc * w[k, last]
                inner = wp.dot(g, mv + Ai * d) + h * m
                g_sum += wk * g
                gA += wk * wp.outer(g, d)
                gm += wk * (wp.dot(g, v[i]) + h)
                if wp.static(D == 3):
                    gx[0] += inner * dw[c / 3, 0] * w[c % 3, 1] * w[k, last]
                    gx[1] += inner * w[c / 3, 0] * dw[c % 3, 1] * w[k, last]
                else:
                    gx[0] += inner * dw[c, 0] * w[k, last]
                gx[last] += inner * wc * dw[k, last]
        adj_x[i] = adj_x[i] + gx / s.dx - wp.transpose(Ai) * g_sum
        adj_v[i] = adj_v[i] + m * g_sum
        adj_A[i] = gA
        adj_mass[i] = adj_mass[i] + gm

    @wp.kernel(**options)
    def gather(
        s: Space,
        first: int,
        count: int,
        start: int,
        step: int,
        x: wp.array(dtype=vec),
        v: wp.array(dtype=vec),
        C: wp.array(dtype=mat),
        birth: wp.array(dtype=wp.int32),
        velocity: wp.array(dtype=vec),
        x1: wp.array(dtype=vec),
        v1: wp.array(dtype=vec),
        C1: wp.array(dtype=mat),
        shard: int,
        status: wp.array2d(dtype=wp.int32),
    ):
        j = wp.tid() + start
        scene = j / count
        local = first + j - scene * count
        i = scene * s.particles + local
        moved = x[i]
        u_sum = vec()
        if birth[local] > step:
            v1[i] = v[i]
            C1[i] = C[i]
        else:
            b = base_node(s, x[i])
            f = fraction(s, x[i], b)
            w = spline(f)
            B = mat()
            for c in range(columns):
                wc = column_weight(w, c)
                n = scene * s.nodes + column(s, b, c)
                line = vec()
                line_k = vec()
                for k in range(3):
                    u = velocity[n + k]
                    wk = wc * w[k, last]
                    line += wk * u
                    line_k += (wk * real(k)) * u
                u_sum += line
                B += wp.outer(line, column_offset(c) - f) + wp.outer(line_k, axis_unit(1))
            moved = x[i] + s.dt * u_sum
            v1[i] = u_sum
            C1[i] = (real(4.0) / s.dx) * B
            if not wp.isfinite(wp.ddot(B, B) + wp.dot(moved, moved)):
                status[shard, 0] = 1 + i
        x1[i] = moved
        watch(s, moved, i, shard, status)
        for a in range(D):
            if wp.abs(u_sum[a]) * s.dt > s.dx:
                status[shard, 2] = 1 + i

    @wp.kernel(**options)
    def gather_adjoint(
        s: Space,
        first: int,
        count: int,
        start: int,
        step: int,
        x: wp.array(dtype=vec),
        birth: wp.array(dtype=wp.int32),
        velocity: wp.array(dtype=vec),
        adj_x1: wp.array(dtype=vec),
        adj_v1: wp.array(dtype=vec),
        adj_C1: wp.array(dtype=mat),
        copy: int,
        adj_velocity: wp.array(dtype=vec),
        adj_x: wp.array(dtype=vec),
        adj_v: wp.array(dtype=vec),
        adj_C: wp.array(dtype=mat),
    ):
        j = wp.tid() + start
        scene = j / count
        local = first + j - scene * count
        i = scene * s.particles + local
        if birth[local] > step:
            adj_x[i] = adj_x1[i]
            adj_v[i] = adj_v1[i]
            adj_C[i] = adj_C[i] + adj_C1[i]
            return
        b = base_node(s, x[i])
        f = fraction(s, x[i], b)
        w = spline(f)
        dw = slope(f)
        p0 = adj_v1[i] + s.dt * adj_x1[i]
        B = (real(4.0) / s.dx) * adj_C1[i]
        base = p0 - B * f
        along = B * axis_unit(1)
        u_sum = vec()
        gx = vec()
        offset = scene * s.nodes
        for c in range(columns):
            wc = column_weight(w, c)
            n = offset + column(s, b, c)
            q0 = base + B * column_offset(c)
            for k in range(3):
                u = velocity[n + k]
                q = q0 + real(k) * along
                wk = wc * w[k, last]
                inner = wp.dot(u, q)
                u_sum += wk * u
                wp.atomic_add(adj_velocity, copy + n + k, wk * q)
                if wp.static(D == 3):
                    gx[0] += inner * dw[c / 3, 0] * w[c % 3, 1] * w[k, last]
                    gx[1] += inner * w[c / 3, 0] * dw[c % 3, 1] * w[k, last]
                else:
                    gx[0] += inner * dw[c, 0] * w[k, last]
                gx[last] += inner * wc * dw[k, last]
        adj_x[i] = adj_x1[i] + (gx - wp.transpose(B) * u_sum) / s.dx
        adj_v[i] = vec()

    return SimpleNamespace(
        vec=vec,
        mat=mat,
        node=node,
        ivec=ivec,
        Space=Space,
        watch=watch,
        scatter=scatter,
        scatter_adjoint=scatter_adjoint,
        gather=gather,
        gather_adjoint=gather_adjoint,
    )
