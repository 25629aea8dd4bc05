"""Taichi kernels of the MLS-MPM transfers and their hand-written adjoints.

    scatter   P_i = Σ w (m v + A d),  m_i = Σ w m                     d = x_i − x
    gather    v' = Σ w u_i,  C' = (4/dx²) Σ w u_i dᵀ

    scatter*  with incoming g_i, h_i:  v̄ = m Σ w g,  Ā = Σ w g dᵀ,  m̄ = Σ w (g·v + h),
              x̄ = Σ ∇w (g·(m v + A d) + h m) − Aᵀ Σ w g
    gather*   with incoming p, C̄ and B = (4/dx²) C̄:  q_i = p + B d,  ū_i = Σ w q_i,
              x̄ = Σ ∇w (u_i·q_i) − Bᵀ Σ w u_i

Taichi's own differentiation of the 27-node stencil compiles for minutes; these adjoints compile in
seconds. Weights are quadratic B-splines; the base node is a constant in differentiation (the spline
is C¹).

Source: Hu et al. 2018 (MLS-MPM), Alg. 1 and Eq. 16–17; Jiang et al. 2015 (APIC), Eq. 8–9.
"""

# No postponed annotations here: Taichi reads annotations as values of this closure.

import functools
import itertools
from types import SimpleNamespace

import torch

from ..core.backend import taichi

__all__ = ["transfer_kernels"]


@functools.cache
def transfer_kernels(dtype: torch.dtype, D: int, atomic: bool) -> SimpleNamespace:
    """Kernels for one precision and dimension.

    Args:
        dtype: torch.float32 or torch.float64.
        D: 2 or 3.
        atomic: Writes to nodes are atomic and run in parallel over particles (GPUs). Otherwise each
            of `shards` threads adds into its own copy of the nodes, which on a CPU is faster than
            atomics and gives the same bits in every run.

    Returns:
        Namespace of scatter, scatter_adjoint, gather and gather_adjoint. All arrays are flat; sizes
        and lengths are arguments, so no scene compiles anything anew.
    """
    ti = taichi()
    real = {torch.float32: ti.f32, torch.float64: ti.f64}[dtype]
    vec = ti.types.vector(D, real)
    mat = ti.types.matrix(D, D, real)
    ivec = ti.types.vector(D, ti.i32)
    array = ti.types.ndarray(dtype=real, ndim=1)
    # The first axis is a loop of the kernel, the others are unrolled: a third of the compile time.
    slab = tuple(itertools.product(range(3), repeat=D - 1))

    @ti.func
    def spline(f):
        return [0.5 * (1.5 - f) ** 2, 0.75 - (f - 1.0) ** 2, 0.5 * (f - 0.5) ** 2]

    @ti.func
    def slope(f):
        return [f - 1.5, -2.0 * (f - 1.0), f - 0.5]

    @ti.func
    def pick(values: ti.template(), k):
        """Entry k of the first axis, k known only at run time."""
        return ti.select(k == 0, values[0][0], ti.select(k == 1, values[1][0], values[2][0]))

    @ti.func
    def weight(w0, w: ti.template(), o: ti.template()):
        product = w0
        for a in ti.static(range(1, D)):
            product *= w[o[a - 1]][a]
        return product

    @ti.func
    def weight_gradient(w0, dw0, w: ti.template(), dw: ti.template(), o: ti.template()):
        """Times dx."""
        gradient = vec(0.0)
        gradient[0] = weight(dw0, w, o)
        for a in ti.static(range(1, D)):
            product = w0 * dw[o[a - 1]][a]
            for b in ti.static(range(1, D)):
                if ti.static(b != a):
                    product *= w[o[b - 1]][b]
            gradient[a] = product
        return gradient

    @ti.func
    def along(start, M: ti.template(), o: ti.template()):
        """start + M o for the unrolled axes; skips the zeros of o."""
        value = start
        for a in ti.static(range(1, D)):
            if ti.static(o[a - 1] == 1):
                value += M[:, a]
            elif ti.static(o[a - 1] == 2):
                value += 2.0 * M[:, a]
        return value

    @ti.func
    def add_moment(moment: ti.template(), value, k, o: ti.template()):
        """moment += value oᵀ; skips the zeros of o."""
        for b in ti.static(range(D)):
            moment[b, 0] += value[b] * k
            for a in ti.static(range(1, D)):
                if ti.static(o[a - 1] != 0):
                    moment[b, a] += value[b] * o[a - 1]

    @ti.func
    def load_vec(source: ti.template(), i, stride: ti.template()):
        value = vec(0.0)
        for a in ti.static(range(D)):
            value[a] = source[i * stride + a]
        return value

    @ti.func
    def load_mat(source: ti.template(), i):
        value = mat(0.0)
        for a, b in ti.static(ti.ndrange(D, D)):
            value[a, b] = source[(i * D + a) * D + b]
        return value

    @ti.func
    def base_node(xi, origin, dx, shape):
        base = ivec(0)
        for a in ti.static(range(D)):
            # Kept inside for memory safety only: the solver checks positions and raises.
            cell = ti.cast(ti.floor((xi[a] - origin[a]) / dx - 0.5), ti.i32)
            base[a] = ti.max(0, ti.min(cell, shape[a] - 3))
        return base

    @ti.func
    def node_index(base, shape, k, o: ti.template()):
        n = base[0] + k
        for a in ti.static(range(1, D)):
            n = n * shape[a] + base[a] + o[a - 1]
        return n

    @ti.func
    def fraction(xi, base, origin, dx):
        return (xi - origin) / dx - ti.cast(base, real)

    @ti.func
    def add(target: ti.template(), i, value):
        if ti.static(atomic):
            ti.atomic_add(target[i], value)
        else:
            # Each shard owns its copy: a store instead of `+=`, which Taichi makes atomic.
            target[i] = target[i] + value

    @ti.func
    def scatter_one(
        i, offset, x: ti.template(), v: ti.template(), A: ti.template(), mass: ti.template(),
        nodes: ti.template(), origin, dx, shape,
    ):  # fmt: skip
        xi = load_vec(x, i, D)
        base = base_node(xi, origin, dx, shape)
        f = fraction(xi, base, origin, dx)
        w = spline(f)
        m = mass[i]
        Ai = load_mat(A, i) * dx
        momentum = m * load_vec(v, i, D) - Ai @ f
        for k in range(3):
            w0 = pick(w, k)
            first = momentum + k * Ai[:, 0]
            for o in ti.static(slab):
                n = (offset + node_index(base, shape, k, o)) * (D + 1)
                wo = weight(w0, w, o)
                p = wo * along(first, Ai, o)
                for a in ti.static(range(D)):
                    add(nodes, n + a, p[a])
                add(nodes, n + D, wo * m)

    @ti.kernel
    def scatter(
        x: array, v: array, A: array, mass: array, nodes: array,
        origin: vec, dx: real, shape: ivec, scenes: ti.i32, particles: ti.i32, size: ti.i32,
        shards: ti.i32,
    ):  # fmt: skip
        if ti.static(atomic):
            for i in range(scenes * particles):
                scatter_one(i, i // particles * size, x, v, A, mass, nodes, origin, dx, shape)
        else:
            ti.loop_config(block_dim=1)
            for s in range(shards):
                share = (scenes * particles + shards - 1) // shards
                for i in range(s * share, ti.min((s + 1) * share, scenes * particles)):
                    offset = (s * scenes + i // particles) * size
                    scatter_one(i, offset, x, v, A, mass, nodes, origin, dx, shape)

    @ti.kernel
    def scatter_adjoint(
        x: array, v: array, A: array, mass: array, adj_nodes: array,
        adj_x: array, adj_v: array, adj_A: array, adj_mass: array,
        origin: vec, dx: real, shape: ivec, scenes: ti.i32, particles: ti.i32, size: ti.i32,
    ):  # fmt: skip
        for i in range(scenes * particles):
            xi = load_vec(x, i, D)
            vi = load_vec(v, i, D)
            Ai = load_mat(A, i)
            m = mass[i]
            base = base_node(xi, origin, dx, shape)
            f = fraction(xi, base, origin, dx)
            w = spline(f)
            dw = slope(f)
            Ad = Ai * dx
            momentum = m * vi - Ad @ f
            g_sum = vec(0.0)
            g_moment = mat(0.0)
            gx = vec(0.0)
            h_sum = ti.cast(0.0, real)
            for k in range(3):
                w0 = pick(w, k)
                dw0 = pick(dw, k)
                first = momentum + k * Ad[:, 0]
                for o in ti.static(slab):
                    n = i // particles * size + node_index(base, shape, k, o)
                    g = load_vec(adj_nodes, n, D + 1)
                    h = adj_nodes[n * (D + 1) + D]
                    wo = weight(w0, w, o)
                    g_sum += wo * g
                    add_moment(g_moment, wo * g, k, o)
                    h_sum += wo * h
                    gx += weight_gradient(w0, dw0, w, dw, o) * (g.dot(along(first, Ad, o)) + h * m)
            x_bar = gx / dx - Ai.transpose() @ g_sum
            gA = dx * (g_moment - g_sum.outer_product(f))
            for a in ti.static(range(D)):
                adj_x[i * D + a] = x_bar[a]
                adj_v[i * D + a] = m * g_sum[a]
                for b in ti.static(range(D)):
                    adj_A[(i * D + a) * D + b] = gA[a, b]
            adj_mass[i] = g_sum.dot(vi) + h_sum

    @ti.kernel
    def gather(
        x: array, u: array, v: array, C: array,
        origin: vec, dx: real, shape: ivec, scenes: ti.i32, particles: ti.i32, size: ti.i32,
    ):  # fmt: skip
        for i in range(scenes * particles):
            xi = load_vec(x, i, D)
            base = base_node(xi, origin, dx, shape)
            f = fraction(xi, base, origin, dx)
            w = spline(f)
            total = vec(0.0)
            moment = mat(0.0)
            for k in range(3):
                w0 = pick(w, k)
                for o in ti.static(slab):
                    n = i // particles * size + node_index(base, shape, k, o)
                    line = weight(w0, w, o) * load_vec(u, n, D)
                    total += line
                    add_moment(moment, line, k, o)
            moment -= total.outer_product(f)
            for a in ti.static(range(D)):
                v[i * D + a] = total[a]
                for b in ti.static(range(D)):
                    C[(i * D + a) * D + b] = 4.0 / dx * moment[a, b]

    @ti.func
    def gather_adjoint_one(
        i, offset, copy, x: ti.template(), u: ti.template(), adj_v: ti.template(),
        adj_C: ti.template(), adj_x: ti.template(), adj_u: ti.template(), origin, dx, shape,
    ):  # fmt: skip
        xi = load_vec(x, i, D)
        base = base_node(xi, origin, dx, shape)
        f = fraction(xi, base, origin, dx)
        w = spline(f)
        dw = slope(f)
        B = load_mat(adj_C, i) * (4.0 / dx)
        q0 = load_vec(adj_v, i, D) - B @ f
        u_sum = vec(0.0)
        gx = vec(0.0)
        for k in range(3):
            w0 = pick(w, k)
            dw0 = pick(dw, k)
            first = q0 + k * B[:, 0]
            for o in ti.static(slab):
                n = node_index(base, shape, k, o)
                ui = load_vec(u, offset + n, D)
                q = along(first, B, o)
                wo = weight(w0, w, o)
                u_sum += wo * ui
                gx += weight_gradient(w0, dw0, w, dw, o) * ui.dot(q)
                for a in ti.static(range(D)):
                    add(adj_u, (copy + n) * D + a, wo * q[a])
        x_bar = (gx - B.transpose() @ u_sum) / dx
        for a in ti.static(range(D)):
            adj_x[i * D + a] = x_bar[a]

    @ti.kernel
    def gather_adjoint(
        x: array, u: array, adj_v: array, adj_C: array, adj_x: array, adj_u: array,
        origin: vec, dx: real, shape: ivec, scenes: ti.i32, particles: ti.i32, size: ti.i32,
        shards: ti.i32,
    ):  # fmt: skip
        if ti.static(atomic):
            for i in range(scenes * particles):
                offset = i // particles * size
                gather_adjoint_one(
                    i, offset, offset, x, u, adj_v, adj_C, adj_x, adj_u, origin, dx, shape
                )
        else:
            ti.loop_config(block_dim=1)
            for s in range(shards):
                share = (scenes * particles + shards - 1) // shards
                for i in range(s * share, ti.min((s + 1) * share, scenes * particles)):
                    offset = i // particles * size
                    gather_adjoint_one(
                        i, offset, s * scenes * size + offset,
                        x, u, adj_v, adj_C, adj_x, adj_u, origin, dx, shape,
                    )  # fmt: skip

    return SimpleNamespace(
        scatter=scatter,
        scatter_adjoint=scatter_adjoint,
        gather=gather,
        gather_adjoint=gather_adjoint,
    )
