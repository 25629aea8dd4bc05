"""Local Hessians as Warp kernels: curvature of hinges, tangents of densities, blocks of simplices.

    hinge      f ∂²θ/∂x²                                     θ of `bending.hinge_angle`
    solid      C = w₀ 1 + w₁ F ⊗ F + w₂ A ⊗ A + w₃ ∂A/∂F     A = ∂J/∂F, the cofactors of F
    venant     C_iK,jL = δ_ij S_KL + μ (F_iL F_jK + δ_KL (F Fᵀ)_ij) + λ F_iK F_jL
    simplex    H_ai,bj = Σ_q w Σ_KL G_aK C_iK,jL G_bL        C = ∂P/∂F of `densities`

Each is some dozens of products of 3×3 matrices, which one thread per element does in registers; as torch
operations the intermediate results cost ten times the arithmetic. float64, CPU and CUDA; nothing here has
a derivative.
"""

# No postponed annotations here: Warp evaluates them, and cannot see types of a closure in text.

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor

from ..core.backend import as_array, warp
from ..core.errors import InputError, message

__all__ = ["hinge_blocks", "launch", "simplex_blocks", "solid_tangent", "venant_tangent"]


@functools.cache
def _hinge() -> Any:
    wp = warp()
    f64, vec3, mat33 = wp.float64, wp.vec3d, wp.mat33d
    two, half = f64(2.0), f64(0.5)

    @wp.func
    def slope(normal: vec3):
        """∂(N/|N|²)/∂N."""
        size = wp.dot(normal, normal)
        eye = wp.identity(n=3, dtype=f64)
        return (eye - (two / size) * wp.outer(normal, normal)) / size

    @wp.func
    def put(out: wp.array2d(dtype=f64), n: int, a: int, b: int, block: mat33):
        for i in range(3):
            for j in range(3):
                out[n, 12 * (3 * a + i) + 3 * b + j] = block[i, j]

    @wp.kernel(module="unique", enable_backward=False)
    def hinge(x: wp.array2d(dtype=vec3), factor: wp.array(dtype=f64), out: wp.array2d(dtype=f64)):
        n = wp.tid()
        e = x[n, 1] - x[n, 0]
        u = x[n, 2] - x[n, 0]
        w = x[n, 3] - x[n, 0]
        first, second = wp.cross(e, u), wp.cross(w, e)
        m1, m2 = first / wp.dot(first, first), second / wp.dot(second, second)
        length = wp.length(e)
        unit = e / length
        q1, q2, turn = slope(first), slope(second), wp.skew(e)
        m1_e, m1_u = -q1 * wp.skew(u), q1 * turn
        m2_e, m2_w = q2 * wp.skew(w), -q2 * turn
        uu, ww = length * m1_u, length * m2_w
        ue, we = wp.outer(m1, unit) + length * m1_e, wp.outer(m2, unit) + length * m2_e
        a, b = wp.dot(u, e), wp.dot(w, e)
        ee = wp.outer((a * m1 + b * m2) / (length * length), unit)
        ee = ee - (wp.outer(m1, u) + a * m1_e + wp.outer(m2, w) + b * m2_e) / length
        f = factor[n]
        ee = half * f * (ee + wp.transpose(ee))
        uu = half * f * (uu + wp.transpose(uu))
        ww = half * f * (ww + wp.transpose(ww))
        ue, we = f * ue, f * we
        eu, ew = wp.transpose(ue), wp.transpose(we)
        # From (e, u, w) to the four points: x₀ enters all three with −1.
        e0, u0, w0 = -(ee + eu + ew), -(ue + uu), -(we + ww)
        put(out, n, 0, 0, -(e0 + u0 + w0))
        put(out, n, 1, 0, e0)
        put(out, n, 0, 1, wp.transpose(e0))
        put(out, n, 2, 0, u0)
        put(out, n, 0, 2, wp.transpose(u0))
        put(out, n, 3, 0, w0)
        put(out, n, 0, 3, wp.transpose(w0))
        put(out, n, 1, 1, ee)
        put(out, n, 2, 1, ue)
        put(out, n, 1, 2, eu)
        put(out, n, 3, 1, we)
        put(out, n, 1, 3, ew)
        put(out, n, 2, 2, uu)
        put(out, n, 3, 3, ww)
        zero = mat33()
        put(out, n, 2, 3, zero)
        put(out, n, 3, 2, zero)

    return hinge


@functools.cache
def _solid() -> Any:
    wp = warp()
    f64, mat33, vec4 = wp.float64, wp.mat33d, wp.vec4d

    @wp.kernel(module="unique", enable_backward=False)
    def solid(F: wp.array(dtype=mat33), w: wp.array(dtype=vec4), out: wp.array2d(dtype=f64)):
        n = wp.tid()
        f, share = F[n], w[n]
        a, b, c = f[0], f[1], f[2]
        cofactor = wp.matrix_from_rows(wp.cross(b, c), wp.cross(c, a), wp.cross(a, b))
        for i in range(3):
            for j in range(3):
                # ∂A_i/∂F_j = ε_ijk [F_k]×, up to its sign
                turn = mat33()
                if i != j:
                    sign = wp.where((j - i + 3) % 3 == 1, f64(-1.0), f64(1.0))
                    turn = sign * wp.skew(f[3 - i - j])
                for K in range(3):
                    for L in range(3):
                        value = share[1] * f[i, K] * f[j, L] + share[3] * turn[K, L]
                        value += share[2] * cofactor[i, K] * cofactor[j, L]
                        if i == j and K == L:
                            value += share[0]
                        out[n, 9 * (3 * i + K) + 3 * j + L] = value

    return solid


@functools.cache
def _venant(d: int) -> Any:
    wp = warp()
    f64 = wp.float64
    size = wp.constant(d)
    tall = wp.types.matrix(shape=(3, d), dtype=f64)
    square = wp.types.matrix(shape=(d, d), dtype=f64)

    @wp.kernel(module="unique", enable_backward=False)
    def venant(
        F: wp.array(dtype=tall),
        S: wp.array(dtype=square),
        mu: wp.array(dtype=f64),
        lam: wp.array(dtype=f64),
        out: wp.array2d(dtype=f64),
    ):
        n = wp.tid()
        f, s = F[n], S[n]
        m, lame = mu[n], lam[n]
        for i in range(3):
            for j in range(3):
                inner = m * wp.dot(f[i], f[j])
                for K in range(size):
                    for L in range(size):
                        value = m * f[i, L] * f[j, K] + lame * f[i, K] * f[j, L]
                        if K == L:
                            value += inner
                        if i == j:
                            value += s[K, L]
                        out[n, 3 * size * (size * i + K) + size * j + L] = value

    return venant


@functools.cache
def _simplex(d: int) -> Any:
    wp = warp()
    f64 = wp.float64
    size = wp.constant(d)
    row = wp.types.vector(length=d, dtype=f64)

    @wp.kernel(module="unique", enable_backward=False)
    def simplex(
        C: wp.array2d(dtype=f64),
        shape: wp.array2d(dtype=row),
        weight: wp.array2d(dtype=f64),
        out: wp.array2d(dtype=f64),
    ):
        n = wp.tid()
        points, corners = weight.shape[1], shape.shape[1]
        side = 3 * corners
        for q in range(points):
            at = n * points + q
            s = at % shape.shape[0]
            w = weight[n % weight.shape[0], q]
            for b in range(corners):
                G_b = w * shape[s, b]
                for i in range(3):
                    for j in range(3):
                        # Σ_L C_iK,jL G_bL for all K
                        moved = row()
                        for K in range(size):
                            first = 3 * size * (size * i + K) + size * j
                            total = f64(0.0)
                            for L in range(size):
                                total += C[at, first + L] * G_b[L]
                            moved[K] = total
                        for a in range(b, corners):
                            here = side * (3 * a + i) + 3 * b + j
                            out[n, here] = out[n, here] + wp.dot(shape[s, a], moved)
        for r in range(side):
            for c in range(r):
                out[n, side * c + r] = out[n, side * r + c]

    return simplex


def launch(kernel: Any, dim: int, device: torch.device, *arguments: Any) -> None:
    """Run a kernel over `dim` threads on the current stream of a torch device."""
    wp = warp()
    where: Any = contextlib.nullcontext()
    if device.type == "cuda":
        where = wp.ScopedStream(wp.stream_from_torch(torch.cuda.current_stream(device)))
    with where:
        on = wp.device_from_torch(device) if device.type == "cuda" else "cpu"
        wp.launch(kernel, dim=dim, inputs=arguments, device=on)


def _view(t: Tensor, kind: Any, ndim: int = 1) -> Any:
    """Warp view of float64 numbers without graph."""
    if t.dtype != torch.float64:
        raise InputError(message("sim.fem", "float64", str(t.dtype), "Convert by .double()"))
    return as_array(t.detach().contiguous(), kind, ndim=ndim)


def hinge_blocks(x: Tensor, factor: Tensor) -> Tensor:
    """f ∂²θ/∂x², symmetric (H, 12, 12), of hinges x (H, 4, 3) and factors f (H,)."""
    out = x.new_empty(len(x), 144)
    if len(x):
        wp = warp()
        points = _view(x, wp.vec3d, 2)
        numbers = _view(factor, wp.float64)
        launch(_hinge(), len(x), x.device, points, numbers, _view(out, wp.float64, 2))
    return out.unflatten(-1, (12, 12))


def simplex_blocks(C: Tensor, shape: Tensor, weight: Tensor) -> Tensor:
    """Symmetric blocks (B S, 3 k, 3 k) of tangents C (B, S, Q, 3 d, 3 d), rows and columns (i, K).

    Args:
        shape: G (1 or B, S, Q, k, d).
        weight: w (1 or B, S, Q).
    """
    k, d = shape.shape[-2:]
    count = C.shape[0] * C.shape[1]
    out = C.new_zeros(count, 9 * k * k)
    if count:
        wp = warp()
        row = wp.types.vector(length=d, dtype=wp.float64)
        tangents = _view(C.flatten(0, 2).flatten(1), wp.float64, 2)
        rows = _view(shape.flatten(0, 2), row, 2)
        shares = _view(weight.flatten(0, 1), wp.float64, 2)
        last = _view(out, wp.float64, 2)
        launch(_simplex(d), count, C.device, tangents, rows, shares, last)
    return out.unflatten(-1, (3 * k, 3 * k))


def solid_tangent(F: Tensor, weights: Tensor) -> Tensor:
    """C (..., 9, 9) of F (..., 3, 3) with the four weights (..., 4)."""
    out = F.new_empty(F.shape[:-2].numel(), 81)
    if len(out):
        wp = warp()
        given = _view(F, wp.mat33d), _view(weights, wp.vec4d)
        launch(_solid(), len(out), F.device, *given, _view(out, wp.float64, 2))
    return out.view(*F.shape[:-2], 9, 9)


def venant_tangent(F: Tensor, S: Tensor, mu: Tensor, lam: Tensor) -> Tensor:
    """C (..., 3 d, 3 d) of F (..., 3, d), S (..., d, d) and the coefficients μ and λ (...)."""
    d = F.shape[-1]
    out = F.new_empty(F.shape[:-2].numel(), 9 * d * d)
    if len(out):
        wp = warp()
        shapes = (3, d), (d, d)
        types = [wp.types.matrix(shape=shape, dtype=wp.float64) for shape in shapes]
        given = [_view(t, kind) for t, kind in zip((F, S), types, strict=True)]
        numbers = [_view(t.expand(F.shape[:-2]), wp.float64) for t in (mu, lam)]
        launch(_venant(d), len(out), F.device, *given, *numbers, _view(out, wp.float64, 2))
    return out.view(*F.shape[:-2], 3 * d, 3 * d)
