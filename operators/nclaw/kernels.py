"""Warp kernels between deformation gradients and networks, with hand-written adjoints.

    features   F = U diag(s) Vᵀ ↦ h = [s − 1, vec(FᵀF − I), det F − 1],  R = U Vᵀ
    elastic    (y, R, F) ↦ τ = R Y Fᵀ,          Y = ½ (y + yᵀ)
    plastic    (y, R, F) ↦ F₊ = F + α R Y

One pass per particle replaces some fifty tensor operations on 3×3 matrices, which would cost more
than the networks. V diagonalizes FᵀF; U follows from F V by orthogonalization, with det U = det V
= 1, so that an inverted particle has a negative third value instead of a reflection. No division
by differences of singular values occurs:

    s̄ ↦ U diag(s̄) Vᵀ        R̄ ↦ R [w]ₓ,  (tr S · I − S) w = axial(RᵀR̄ − R̄ᵀR)

Source: Ma et al. 2023 (NCLaw), §3.2 (invariants); Chen & Wheeler 1993 (derivative of R).
"""

# No postponed annotations here: Warp evaluates them, and cannot see types of a closure in text.

import functools
from types import SimpleNamespace
from typing import Any

from ...sim.core.backend import warp
from ...sim.core.laws.warp_linalg import linalg

__all__ = ["invariant_kernels"]


@functools.cache
def invariant_kernels(real: Any) -> SimpleNamespace:
    """Kernels for one precision; each works on `count` particles from `start`."""
    wp = warp()
    mat33, vec3 = wp.types.matrix((3, 3), real), wp.types.vector(3, real)
    vec13 = wp.types.vector(13, real)
    eigen = linalg(real).eigen
    half, one = real(0.5), real(1.0)
    options = {"module": "unique", "enable_backward": False}

    @wp.func
    def swap(V: mat33, s: vec3, i: int, j: int):
        """Exchange two columns and values so that the larger value comes first."""
        if s[i] < s[j]:
            a, b = s[i], s[j]
            s[i] = b
            s[j] = a
            for k in range(3):
                a, b = V[k, i], V[k, j]
                V[k, i] = b
                V[k, j] = a
        return V, s

    @wp.func
    def column(V: mat33, j: int) -> vec3:
        return vec3(V[0, j], V[1, j], V[2, j])

    @wp.func
    def outer(a: vec3, b: vec3) -> mat33:
        return wp.outer(a, b)

    @wp.func
    def symmetric(y: mat33) -> mat33:
        return half * (y + wp.transpose(y))

    @wp.kernel(**options)
    def features(
        start: int,
        F: wp.array(dtype=mat33),
        h: wp.array(dtype=vec13),
        R: wp.array(dtype=mat33),
        V: wp.array(dtype=mat33),
    ):
        i = wp.tid() + start
        Fi = F[i]
        G = wp.transpose(Fi) * Fi
        W, lam = eigen(G)
        W, lam = swap(W, lam, 0, 1)
        W, lam = swap(W, lam, 1, 2)
        W, lam = swap(W, lam, 0, 1)
        v0, v1 = column(W, 0), column(W, 1)
        v2 = wp.cross(v0, v1)
        f0, f1, f2 = Fi * v0, Fi * v1, Fi * v2
        s0 = wp.length(f0)
        u0 = f0 / s0
        f1 = f1 - wp.dot(f1, u0) * u0
        s1 = wp.length(f1)
        u1 = f1 / s1
        u2 = wp.cross(u0, u1)
        s2 = wp.dot(u2, f2)
        R[i] = outer(u0, v0) + outer(u1, v1) + outer(u2, v2)
        V[i] = wp.matrix_from_cols(v0, v1, v2)
        out = vec13()
        out[0] = s0 - one
        out[1] = s1 - one
        out[2] = s2 - one
        for a in range(3):
            for b in range(3):
                out[3 + 3 * a + b] = G[a, b]
            out[3 + 4 * a] = G[a, a] - one
        out[12] = wp.determinant(Fi) - one
        h[i] = out

    @wp.kernel(**options)
    def features_adjoint(
        start: int,
        F: wp.array(dtype=mat33),
        R: wp.array(dtype=mat33),
        V: wp.array(dtype=mat33),
        adj_h: wp.array(dtype=vec13),
        adj_R: wp.array(dtype=mat33),
        adj_F: wp.array(dtype=mat33),
    ):
        i = wp.tid() + start
        Fi, Ri, Vi, g = F[i], R[i], V[i], adj_h[i]
        Ui = Ri * Vi
        fv = Fi * Vi
        s = vec3()
        for k in range(3):
            s[k] = wp.dot(column(Ui, k), column(fv, k))
        gG = mat33()
        for a in range(3):
            for b in range(3):
                gG[a, b] = g[3 + 3 * a + b] + g[3 + 3 * b + a]
        # The cofactor of F is U diag(s₁s₂, s₀s₂, s₀s₁) Vᵀ.
        d = vec3(g[0] + g[12] * s[1] * s[2], g[1] + g[12] * s[0] * s[2], g[2] + g[12] * s[0] * s[1])
        A = wp.transpose(Ri) * adj_R[i]
        axial = vec3(A[2, 1] - A[1, 2], A[0, 2] - A[2, 0], A[1, 0] - A[0, 1])
        q = wp.transpose(Vi) * axial
        w = Vi * vec3(q[0] / (s[1] + s[2]), q[1] / (s[0] + s[2]), q[2] / (s[0] + s[1]))
        adj_F[i] = Ui * wp.diag(d) * wp.transpose(Vi) + Fi * gG + Ri * wp.skew(w)

    @wp.kernel(**options)
    def elastic(
        start: int,
        y: wp.array(dtype=mat33),
        R: wp.array(dtype=mat33),
        F: wp.array(dtype=mat33),
        tau: wp.array(dtype=mat33),
    ):
        i = wp.tid() + start
        tau[i] = R[i] * symmetric(y[i]) * wp.transpose(F[i])

    @wp.kernel(**options)
    def elastic_adjoint(
        start: int,
        y: wp.array(dtype=mat33),
        R: wp.array(dtype=mat33),
        F: wp.array(dtype=mat33),
        adj_tau: wp.array(dtype=mat33),
        adj_y: wp.array(dtype=mat33),
        adj_R: wp.array(dtype=mat33),
        adj_F: wp.array(dtype=mat33),
    ):
        i = wp.tid() + start
        Y = symmetric(y[i])
        gF = adj_tau[i] * F[i]
        adj_y[i] = symmetric(wp.transpose(R[i]) * gF)
        adj_R[i] = gF * Y
        adj_F[i] = wp.transpose(adj_tau[i]) * R[i] * Y

    @wp.kernel(**options)
    def plastic(
        start: int,
        alpha: real,
        y: wp.array(dtype=mat33),
        R: wp.array(dtype=mat33),
        F: wp.array(dtype=mat33),
        F1: wp.array(dtype=mat33),
    ):
        i = wp.tid() + start
        F1[i] = F[i] + alpha * (R[i] * symmetric(y[i]))

    @wp.kernel(**options)
    def plastic_adjoint(
        start: int,
        alpha: real,
        y: wp.array(dtype=mat33),
        R: wp.array(dtype=mat33),
        adj_F1: wp.array(dtype=mat33),
        adj_y: wp.array(dtype=mat33),
        adj_R: wp.array(dtype=mat33),
    ):
        i = wp.tid() + start
        g = alpha * adj_F1[i]
        adj_y[i] = symmetric(wp.transpose(R[i]) * g)
        adj_R[i] = g * symmetric(y[i])

    return SimpleNamespace(
        mat33=mat33,
        vec13=vec13,
        features=features,
        features_adjoint=features_adjoint,
        elastic=elastic,
        elastic_adjoint=elastic_adjoint,
        plastic=plastic,
        plastic_adjoint=plastic_adjoint,
    )
