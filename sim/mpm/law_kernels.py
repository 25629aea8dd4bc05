"""Warp kernels that apply one constitutive law to the particles of one group.

    stress   A = −dt V₀ (4/dx²) τ(F, L) + m C
    flow     F' = flow((I + dt L') F);   liquids: J' = (1 + dt tr L') J

One generic pair for all laws; adjoints are generated, so a law that a user registers is differentiable
in everything it reads. In 2-D the velocity gradient is embedded in the plane (x, z).
"""

# No postponed annotations here: Warp evaluates them, and cannot see types of a closure in text.

import functools
from types import SimpleNamespace
from typing import Any

from ..core.backend import warp
from ..core.laws import Law
from .kernels import transfer_kernels

__all__ = ["law_kernels"]


def law_kernels(law: Law, real: Any, D: int) -> SimpleNamespace:
    """Stress and flow kernels of a law that has engine functions."""
    functions = law.engine_functions(real)
    assert functions is not None, "the solver runs laws without engine functions in torch"
    return _build(*functions, law.storage, law.n_coefficients, law.hardening, real, D)


@functools.cache
def _build(
    stress_function: Any,
    flow_function: Any,
    storage: str,
    n_coefficients: int,
    hardening: bool,
    real: Any,
    D: int,
) -> SimpleNamespace:
    wp = warp()
    mat = transfer_kernels(real, D, True).mat
    mat33 = wp.types.matrix((3, 3), real)
    coefficients = wp.types.vector(n_coefficients, real)
    stored = mat33 if storage == "F" else real
    up = D - 1
    has_flow = flow_function is not None

    @wp.func
    def embed(C: mat) -> mat33:
        if wp.static(D == 3):
            return mat33(
                C[0, 0], C[0, 1], C[0, 2], C[1, 0], C[1, 1], C[1, 2], C[2, 0], C[2, 1], C[2, 2]
            )
        else:
            zero = real(0.0)
            return mat33(C[0, 0], zero, C[0, up], zero, zero, zero, C[up, 0], zero, C[up, up])

    @wp.func
    def section(T: mat33) -> mat:
        if wp.static(D == 3):
            return mat(
                T[0, 0], T[0, 1], T[0, 2], T[1, 0], T[1, 1], T[1, 2], T[2, 0], T[2, 1], T[2, 2]
            )
        else:
            return mat(T[0, 0], T[0, 2], T[2, 0], T[2, 2])

    @wp.kernel(module="unique")
    def stress(
        particles: int,
        first: int,
        count: int,
        start: int,
        stored_count: int,
        stored_first: int,
        alpha_count: int,
        alpha_first: int,
        theta: wp.array2d(dtype=real),
        dt: real,
        scale: real,
        volume: wp.array(dtype=real),
        mass: wp.array(dtype=real),
        F: wp.array(dtype=stored),
        C: wp.array(dtype=mat),
        A: wp.array(dtype=mat),
    ):
        j = wp.tid() + start
        scene = j / count
        local = j - scene * count
        i = scene * particles + first + local
        k = scene * stored_count + stored_first + local
        c = coefficients()
        for n in range(wp.static(n_coefficients)):
            c[n] = theta[n, j]
        tau = stress_function(F[k], embed(C[i]), c)
        A[i] = (-dt * volume[first + local] * scale) * section(tau) + mass[i] * C[i]

    @wp.kernel(module="unique")
    def flow(
        particles: int,
        first: int,
        count: int,
        start: int,
        stored_count: int,
        stored_first: int,
        alpha_count: int,
        alpha_first: int,
        theta: wp.array2d(dtype=real),
        dt: real,
        F: wp.array(dtype=stored),
        alpha: wp.array(dtype=real),
        C1: wp.array(dtype=mat),
        F1: wp.array(dtype=stored),
        alpha1: wp.array(dtype=real),
    ):
        j = wp.tid() + start
        scene = j / count
        local = j - scene * count
        i = scene * particles + first + local
        k = scene * stored_count + stored_first + local
        L = embed(C1[i])
        if wp.static(storage == "J"):
            F1[k] = (real(1.0) + dt * wp.trace(L)) * F[k]
        elif wp.static(not has_flow):
            F1[k] = F[k] + dt * (L * F[k])
        else:
            c = coefficients()
            for n in range(wp.static(n_coefficients)):
                c[n] = theta[n, j]
            trial = F[k] + dt * (L * F[k])
            if wp.static(hardening):
                q = scene * alpha_count + alpha_first + local
                new_F, new_alpha = flow_function(trial, alpha[q], c, dt)
                F1[k] = new_F
                alpha1[q] = new_alpha
            else:
                new_F, new_alpha = flow_function(trial, real(0.0), c, dt)
                F1[k] = new_F

    return SimpleNamespace(stress=stress, flow=flow, storage=storage)
