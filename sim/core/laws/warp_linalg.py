"""Polar and spectral decompositions of 3×3 matrices as Warp functions, with hand-written adjoints.

The mathematics is that of `decompositions`. Each decomposition is split in two: an iteration that
counts as constant in differentiation, and a function that attaches the exact derivative using the
stored result, so that a reverse pass never repeats the iteration.
"""

# No postponed annotations here: Warp cannot see the types of a closure in text.
import functools
from types import SimpleNamespace
from typing import Any

from ..backend import warp

__all__ = ["linalg"]


@functools.cache
def linalg(real: Any) -> SimpleNamespace:
    """Warp functions for one precision.

    Args:
        real: `wp.float32` or `wp.float64`.

    Returns:
        A namespace of Warp functions, differentiable unless noted:

        * `polar_rotation(F) -> R`; NaN where det F ≤ 0.
        * `left_stretch(F) -> b = F Fᵀ`; NaN where det F ≤ 0.
        * `eigen(b) -> (U, λ)`, constant in differentiation.
        * `spectral_values(b, U, λ) -> λ` with its derivative in b.
        * `spectral_compose(b, U, f, slopes) -> U diag(f) Uᵀ`, differentiable in b and f.
        * `log_slopes(λ)`, `stretch_slopes(λ, g, k)`: divided differences, constant in
            differentiation.
        * `log_strain(F) -> ½ log(F Fᵀ)`.
        * `stretch_by(F, b, U, λ, ε, k, q) -> exp(k dev E + q I) F`, differentiable in F, b, ε, k,
            q.
    """
    polar = _polar(real)
    spectral = _spectral(real)
    return SimpleNamespace(**polar, **spectral, **_logarithmic(real, spectral))


def _polar(real: Any) -> dict[str, Any]:
    wp = warp()
    mat33, vec3 = wp.types.matrix((3, 3), real), wp.types.vector(3, real)
    tag = real.__name__
    half, one, zero, quarter = real(0.5), real(1.0), real(0.0), real(0.25)
    nan = real(float("nan"))
    # The error is squared by each step, so a last change of √ε means convergence to round-off.
    settled = real(1e-8 if real is wp.float32 else 1e-17)

    @wp.func(name=f"polar_newton_{tag}")
    def newton(F: mat33) -> mat33:
        R = F
        change = one
        for _ in range(16):
            if change > settled:
                Y = wp.transpose(wp.inverse(R))
                g = wp.pow(wp.ddot(Y, Y) / wp.ddot(R, R), quarter)
                new = (half * g) * R + (half / g) * Y
                change = wp.ddot(new - R, new - R)
                R = new
        if not (wp.determinant(F) > zero):
            R = mat33(nan, nan, nan, nan, nan, nan, nan, nan, nan)
        return R

    @wp.func_grad(newton)
    def newton_adjoint(F: mat33, adj_R: mat33):
        pass

    @wp.func(name=f"polar_attach_{tag}")
    def attach(F: mat33, R: mat33) -> mat33:
        return R

    @wp.func_grad(attach)
    def attach_adjoint(F: mat33, R: mat33, adj_out: mat33):
        A = wp.transpose(R) * adj_out
        S = wp.transpose(R) * F
        t = wp.trace(S)
        k01 = -half * (S[0, 1] + S[1, 0])
        k02 = -half * (S[0, 2] + S[2, 0])
        k12 = -half * (S[1, 2] + S[2, 1])
        K = mat33(t - S[0, 0], k01, k02, k01, t - S[1, 1], k12, k02, k12, t - S[2, 2])
        w = wp.inverse(K) * vec3(A[2, 1] - A[1, 2], A[0, 2] - A[2, 0], A[1, 0] - A[0, 1])
        wp.adjoint[F] += R * wp.skew(w)

    @wp.func(name=f"polar_rotation_{tag}")
    def polar_rotation(F: mat33) -> mat33:
        return attach(F, newton(F))

    return {"polar_rotation": polar_rotation}


def _spectral(real: Any) -> dict[str, Any]:
    wp = warp()
    mat33, vec3 = wp.types.matrix((3, 3), real), wp.types.vector(3, real)
    tag = real.__name__
    half, one, zero = real(0.5), real(1.0), real(0.0)
    nan = real(float("nan"))
    # Squared ratio of off-diagonal to diagonal below which A counts as diagonal: half a unit of
    # round-off.
    settled = real(1e-15 if real is wp.float32 else 1e-32)

    @wp.func(name=f"left_stretch_{tag}")
    def left_stretch(F: mat33) -> mat33:
        b = F * wp.transpose(F)
        if not (wp.determinant(F) > zero):
            b = mat33(nan, nan, nan, nan, nan, nan, nan, nan, nan)
        return b

    @wp.func(name=f"jacobi_angle_{tag}")
    def angle(p: real, q: real, off: real):
        """Tangent, cosine and sine of the rotation that removes `off` between diagonal p and q."""
        t = zero
        if off != zero:
            theta = half * (q - p) / off
            t = one / (wp.abs(theta) + wp.sqrt(theta * theta + one))
            if theta < zero:
                t = -t
        cos = one / wp.sqrt(t * t + one)
        return t, cos, t * cos

    @wp.func(name=f"jacobi_eigen_{tag}")
    def eigen(A: mat33):
        """Cyclic Jacobi: eigenvectors as columns and eigenvalues, not sorted."""
        a, b, c = A[0, 0], A[1, 1], A[2, 2]
        ab, ac, bc = A[0, 1], A[0, 2], A[1, 2]
        u, v, w = vec3(one, zero, zero), vec3(zero, one, zero), vec3(zero, zero, one)
        for _ in range(8):
            if ab * ab + ac * ac + bc * bc > settled * (a * a + b * b + c * c):
                t, co, si = angle(a, b, ab)
                a, b = a - t * ab, b + t * ab
                ab = zero
                ac, bc = co * ac - si * bc, si * ac + co * bc
                u, v = co * u - si * v, si * u + co * v
                t, co, si = angle(a, c, ac)
                a, c = a - t * ac, c + t * ac
                ac = zero
                ab, bc = co * ab - si * bc, si * ab + co * bc
                u, w = co * u - si * w, si * u + co * w
                t, co, si = angle(b, c, bc)
                b, c = b - t * bc, c + t * bc
                bc = zero
                ab, ac = co * ab - si * ac, si * ab + co * ac
                v, w = co * v - si * w, si * v + co * w
        return wp.matrix_from_cols(u, v, w), vec3(a, b, c)

    @wp.func_grad(eigen)
    def eigen_adjoint(A: mat33, adj_U: mat33, adj_lam: vec3):
        pass

    @wp.func(name=f"spectral_values_{tag}")
    def spectral_values(A: mat33, U: mat33, lam: vec3) -> vec3:
        return lam

    @wp.func_grad(spectral_values)
    def spectral_values_adjoint(A: mat33, U: mat33, lam: vec3, adj: vec3):
        wp.adjoint[A] += U * wp.diag(adj) * wp.transpose(U)

    @wp.func(name=f"spectral_compose_{tag}")
    def spectral_compose(A: mat33, U: mat33, f: vec3, slopes: vec3) -> mat33:
        return U * wp.diag(f) * wp.transpose(U)

    @wp.func_grad(spectral_compose)
    def spectral_compose_adjoint(A: mat33, U: mat33, f: vec3, slopes: vec3, adj: mat33):
        M = wp.transpose(U) * adj * U
        wp.adjoint[f] += vec3(M[0, 0], M[1, 1], M[2, 2])
        m01 = half * slopes[0] * (M[0, 1] + M[1, 0])
        m02 = half * slopes[1] * (M[0, 2] + M[2, 0])
        m12 = half * slopes[2] * (M[1, 2] + M[2, 1])
        N = mat33(zero, m01, m02, m01, zero, m12, m02, m12, zero)
        wp.adjoint[A] += U * N * wp.transpose(U)

    return {
        "left_stretch": left_stretch,
        "eigen": eigen,
        "spectral_values": spectral_values,
        "spectral_compose": spectral_compose,
    }


def _logarithmic(real: Any, spectral: dict[str, Any]) -> dict[str, Any]:
    wp = warp()
    mat33, vec3 = wp.types.matrix((3, 3), real), wp.types.vector(3, real)
    tag = real.__name__
    half, one, near_log, near_sinh = real(0.5), real(1.0), real(0.01), real(0.0625)
    r3, r5, r7, r9 = real(1 / 3), real(1 / 5), real(1 / 7), real(1 / 9)
    r11, r13, r15, r17 = real(1 / 11), real(1 / 13), real(1 / 15), real(1 / 17)
    r6, r20, r42, r72, r110 = real(1 / 6), real(1 / 20), real(1 / 42), real(1 / 72), real(1 / 110)
    left_stretch, eigen = spectral["left_stretch"], spectral["eigen"]
    spectral_values, compose = spectral["spectral_values"], spectral["spectral_compose"]

    @wp.func(name=f"log_slope_{tag}")
    def log_slope(a: real, b: real) -> real:
        z = (a - b) / (a + b)
        y = z * z
        tail = r11 + y * (r13 + y * (r15 + y * r17))
        ratio = one + y * (r3 + y * (r5 + y * (r7 + y * (r9 + y * tail))))
        if y >= near_log:
            ratio = half * wp.log((one + z) / (one - z)) / z
        return ratio / (a + b)

    @wp.func(name=f"log_slopes_{tag}")
    def log_slopes(lam: vec3) -> vec3:
        return vec3(
            log_slope(lam[0], lam[1]), log_slope(lam[0], lam[2]), log_slope(lam[1], lam[2])
        )

    @wp.func_grad(log_slopes)
    def log_slopes_adjoint(lam: vec3, adj: vec3):
        pass

    @wp.func(name=f"stretch_slope_{tag}")
    def stretch_slope(a: real, b: real, ga: real, gb: real, k: real) -> real:
        ell = log_slope(a, b)
        x = half * k * ell * (a - b)
        y = x * x
        tail = one + y * r42 * (one + y * r72 * (one + y * r110))
        ratio = one + y * r6 * (one + y * r20 * tail)
        if y >= near_sinh:
            ratio = wp.sinh(x) / x
        return wp.sqrt(ga * gb) * k * ell * ratio

    @wp.func(name=f"stretch_slopes_{tag}")
    def stretch_slopes(lam: vec3, g: vec3, k: real) -> vec3:
        return vec3(
            stretch_slope(lam[0], lam[1], g[0], g[1], k),
            stretch_slope(lam[0], lam[2], g[0], g[2], k),
            stretch_slope(lam[1], lam[2], g[1], g[2], k),
        )

    @wp.func_grad(stretch_slopes)
    def stretch_slopes_adjoint(lam: vec3, g: vec3, k: real, adj: vec3):
        pass

    @wp.func(name=f"principal_logs_{tag}")
    def principal_logs(b: mat33, U: mat33, lam: vec3) -> vec3:
        values = spectral_values(b, U, lam)
        return half * vec3(wp.log(values[0]), wp.log(values[1]), wp.log(values[2]))

    @wp.func(name=f"log_strain_{tag}")
    def log_strain(F: mat33) -> mat33:
        b = left_stretch(F)
        U, lam = eigen(b)
        return compose(b, U, principal_logs(b, U, lam), log_slopes(lam))

    @wp.func(name=f"stretch_by_{tag}")
    def stretch_by(F: mat33, b: mat33, U: mat33, lam: vec3, eps: vec3, k: real, q: real) -> mat33:
        shift = q - k * (eps[0] + eps[1] + eps[2]) * r3
        g = vec3(
            wp.exp(k * eps[0] + shift), wp.exp(k * eps[1] + shift), wp.exp(k * eps[2] + shift)
        )
        return compose(b, U, g, stretch_slopes(lam, g, k)) * F

    return {
        "log_slopes": log_slopes,
        "stretch_slopes": stretch_slopes,
        "principal_logs": principal_logs,
        "log_strain": log_strain,
        "stretch_by": stretch_by,
    }
