"""Polar and spectral decompositions of 3×3 matrices in torch, with derivatives that have no gaps.

    F = R S          R̄ ↦ F̄ = R [w]ₓ,   (tr S · I − S) w = axial(RᵀR̄ − R̄ᵀR)
    Y(A) = U diag(f) Uᵀ     Ȳ ↦ Ā = U (Θ ∘ UᵀȲU) Uᵀ,   Θ_ij = (f_i − f_j)/(λ_i − λ_j)

The derivative of eigenvectors is singular where eigenvalues meet, and the rest state F = I is such
a point. Isotropic functions have no singularity there: only divided differences Θ enter, which the
caller computes in a form without cancellation (`log_slopes`, `stretch_slopes`).

A matrix with det F ≤ 0 (an inverted particle) has no rotation and no logarithm: results are NaN,
which the solver reports as a non-finite state, rather than the values of a mirrored material.

Source: polar, Higham 1986 (scaled Newton), Chen & Wheeler 1993 (derivative); spectral, Daleckii &
Krein 1965.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import RheogradError, message

__all__ = [
    "LogFrame",
    "isotropic_function",
    "log_frame",
    "log_slopes",
    "log_strain",
    "polar_rotation",
    "spectral_compose",
    "spectral_values",
    "stretch_by",
    "stretch_slopes",
    "symmetric_eigen",
]

_PAIRS = ((0, 1), (0, 2), (1, 2))


def polar_rotation(F: Tensor) -> Tensor:
    """Rotation R of the polar decomposition F = R S, by the scaled Newton iteration.

        R ← ½ (g R + R⁻ᵀ/g),  g = √(‖R⁻ᵀ‖/‖R‖)

    Args:
        F: shape (…, 3, 3), det F > 0.

    Returns:
        R, shape (…, 3, 3), det R = 1; NaN where det F ≤ 0.

    Differentiable in F, twice; finite for repeated singular values.
    Source: Higham 1986, Algorithm Polar.
    """
    return _Polar.apply(F)


class _Polar(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(F: Tensor) -> Tensor:
        # The scaled iteration squares its error; eight steps serve condition numbers up to 1e6.
        R = F
        for _ in range(8):
            Y = _inverse_transpose(R)
            g = (_square(Y) / _square(R)).pow(0.25)
            R = 0.5 * (g * R + Y / g)
        return torch.where(_determinant(F)[..., None, None] > 0, R, math.nan)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        F, R = ctx.saved_tensors
        A = R.mT @ grad
        S = R.mT @ F
        eye = torch.eye(3, dtype=F.dtype, device=F.device)
        trace = S.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        K = trace * eye - 0.5 * (S + S.mT)
        A = A - A.mT
        axial = torch.stack([A[..., 2, 1], A[..., 0, 2], A[..., 1, 0]], -1)
        w = (_inverse_transpose(K) @ axial[..., None])[..., 0]
        return R @ _cross_matrix(w)


def symmetric_eigen(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (…, 3) and eigenvectors (…, 3, 3, columns) of symmetric A, as constants.

    Derivatives come from `spectral_values` and `spectral_compose`. NaN where A is not finite.
    """
    A = A.detach()
    bad = ~torch.isfinite(A).all(-1, keepdim=True).all(-2, keepdim=True)
    eye = torch.eye(3, dtype=A.dtype, device=A.device)
    lam, U = torch.linalg.eigh(torch.where(bad, eye, A))
    return torch.where(bad[..., 0], math.nan, lam), U


def spectral_values(A: Tensor, U: Tensor, lam: Tensor) -> Tensor:
    """The eigenvalues λ of A again, now differentiable in A: Ā = U diag(λ̄) Uᵀ."""
    return _SpectralValues.apply(A, U, lam)


class _SpectralValues(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, U: Tensor, lam: Tensor) -> Tensor:
        return lam.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], inputs[1])

    @staticmethod
    def backward(ctx, grad: Tensor):
        A, U = ctx.saved_tensors
        return _first_order((U * grad[..., None, :]) @ U.mT, A, grad), None, None


def spectral_compose(A: Tensor, U: Tensor, f: Tensor, slopes: Tensor) -> Tensor:
    """Y = U diag(f) Uᵀ, an isotropic function of the symmetric matrix A = U diag(λ) Uᵀ.

    Args:
        A: shape (…, 3, 3).
        U: eigenvectors of A as columns, from `symmetric_eigen`.
        f: principal values of Y, shape (…, 3), differentiable in A through `spectral_values`.
        slopes: divided differences (f_i − f_j)/(λ_i − λ_j) of the pairs 01, 02, 12, shape (…, 3).

    Returns:
        Y, shape (…, 3, 3).

    Differentiable in A and f, once.
    Source: Daleckii & Krein 1965.
    """
    return _SpectralCompose.apply(A, U, f, slopes)


class _SpectralCompose(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, U: Tensor, f: Tensor, slopes: Tensor) -> Tensor:
        return (U * f[..., None, :]) @ U.mT

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], inputs[1], inputs[3])

    @staticmethod
    def backward(ctx, grad: Tensor):
        A, U, slopes = ctx.saved_tensors
        M = U.mT @ grad @ U
        M = 0.5 * (M + M.mT)
        d01, d02, d12 = slopes.unbind(-1)
        zero = torch.zeros_like(d01)
        theta = torch.stack([zero, d01, d02, d01, zero, d12, d02, d12, zero], -1)
        theta = theta.reshape(*theta.shape[:-1], 3, 3)
        A_bar = _first_order(U @ (theta * M) @ U.mT, A, grad)
        return A_bar, None, _first_order(M.diagonal(dim1=-2, dim2=-1), A, grad), None


def _first_order(value: Tensor, *sources: Tensor) -> Tensor:
    """`value`, a first derivative whose own derivative in `sources` raises.

    `once_differentiable` cuts the graph instead: `torch.autograd.grad` then silently returns the
    second derivative without this contribution.
    """
    return _FirstOrder.apply(value, *sources) if torch.is_grad_enabled() else value


class _FirstOrder(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *sources: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad: Tensor):
        raise RheogradError(
            message("spectral functions", "first derivatives only", "a second derivative",
                    "Use NeoHookean or FixedCorotated where a Hessian is needed")
        )


@dataclasses.dataclass(frozen=True)
class LogFrame:
    """Spectral form of the left Cauchy–Green tensor b = F Fᵀ = U diag(λ) Uᵀ and ε = ½ log λ."""

    b: Tensor
    """F Fᵀ, (…, 3, 3)."""
    U: Tensor
    """Eigenvectors as columns, constant in differentiation, (…, 3, 3)."""
    lam: Tensor
    """Eigenvalues of b, constant in differentiation, (…, 3)."""
    eps: Tensor
    """Principal logarithmic strains, differentiable in F, (…, 3)."""


def log_frame(F: Tensor) -> LogFrame:
    """Principal logarithmic strains of F; NaN where det F ≤ 0. Differentiable in F through
    `eps`."""
    F = torch.where(_determinant(F)[..., None, None] > 0, F, math.nan)
    b = F @ F.mT
    lam, U = symmetric_eigen(b)
    return LogFrame(b, U, lam, 0.5 * torch.log(spectral_values(b, U, lam)))


def log_strain(F: Tensor) -> Tensor:
    """Hencky strain E = ½ log(F Fᵀ), shape (…, 3, 3).

    Differentiable in F, once; finite and exact at repeated stretches. NaN where det F ≤ 0.
    Source: Hencky 1928.
    """
    frame = log_frame(F)
    return spectral_compose(frame.b, frame.U, frame.eps, log_slopes(frame.lam))


def stretch_by(F: Tensor, frame: LogFrame, k: Tensor, q: Tensor) -> Tensor:
    """exp(k dev E + q I) F: scales the deviator of the logarithmic strain by 1 + k and adds q to
    each.

    Args:
        F: shape (…, 3, 3).
        frame: `log_frame(F)`.
        k: change of the deviator relative to it [-], shape (…).
        q: added principal logarithmic strain [-], shape (…).

    Differentiable in F, k, q, once.
    """
    deviator = frame.eps - frame.eps.mean(-1, keepdim=True)
    g = torch.exp(k[..., None] * deviator + q[..., None])
    slopes = stretch_slopes(frame.lam, g.detach(), k.detach())
    return spectral_compose(frame.b, frame.U, g, slopes) @ F


def log_slopes(lam: Tensor) -> Tensor:
    """Divided differences of ½ log λ for the pairs 01, 02, 12: artanh(z)/(z (λ_i + λ_j)).

    z = (λ_i − λ_j)/(λ_i + λ_j); full precision for equal and for distinct λ.
    """
    slopes = []
    for i, j in _PAIRS:
        total = lam[..., i] + lam[..., j]
        z = (lam[..., i] - lam[..., j]) / total
        y = z * z
        near = 1 / 15 + y / 17
        for n in (13, 11, 9, 7, 5, 3, 1):
            near = 1 / n + y * near
        far_z = torch.where(y < 0.01, 0.5, z)
        far = 0.5 * torch.log((1 + far_z) / (1 - far_z)) / far_z
        slopes.append(torch.where(y < 0.01, near, far) / total)
    return torch.stack(slopes, -1)


def stretch_slopes(lam: Tensor, g: Tensor, k: Tensor) -> Tensor:
    """Divided differences of g(λ) = c λ^(k/2) for the pairs 01, 02, 12, without cancellation.

    g_i − g_j = 2 √(g_i g_j) sinh(x), x = ½ k (ε_i − ε_j).
    """
    ell = log_slopes(lam)
    slopes = []
    for m, (i, j) in enumerate(_PAIRS):
        x = 0.5 * k * ell[..., m] * (lam[..., i] - lam[..., j])
        y = x * x
        near = 1 + y / 6 * (1 + y / 20 * (1 + y / 42 * (1 + y / 72 * (1 + y / 110))))
        far_x = torch.where(y < 0.0625, 1.0, x)
        ratio = torch.where(y < 0.0625, near, torch.sinh(far_x) / far_x)
        slopes.append(torch.sqrt(g[..., i] * g[..., j]) * k * ell[..., m] * ratio)
    return torch.stack(slopes, -1)


def isotropic_function(F: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """P(F) = U diag(f(s)) Vᵀ for any torch function f of the principal stretches s of F = U
    diag(s) Vᵀ.

    Args:
        F: shape (…, 3, 3), det F > 0.
        function: maps stretches (…, 3) to values (…, 3), item by item, and commutes with
            permutations;
            it may contain a network, whose weights then receive gradients.

    Returns:
        P, shape (…, 3, 3); NaN where det F ≤ 0.

    Differentiable in F and in whatever `function` depends on, once. Where two stretches agree to
    1e-6 (float32: 1e-3) the divided difference is replaced by the mean of its one-sided
    derivatives.
    Source: Xu et al. 2015, appendix (limits of the divided differences).
    """
    frame = log_frame(F)
    stretch = torch.exp(frame.eps)
    ratio = function(stretch) / stretch
    with torch.enable_grad():
        lam = frame.lam.detach().requires_grad_()
        s = lam.sqrt()
        probe = function(s) / s
        if probe.requires_grad:
            rows = [
                torch.autograd.grad(probe[..., i].sum(), lam, retain_graph=i < 2)[0] for i in
                range(3)
            ]
        else:
            rows = [torch.zeros_like(lam)] * 3
    tolerance = 1e-3 if F.dtype == torch.float32 else 1e-6
    slopes = []
    for i, j in _PAIRS:
        gap = frame.lam[..., i] - frame.lam[..., j]
        close = gap.abs() <= tolerance * (frame.lam[..., i] + frame.lam[..., j])
        limit = 0.5 * (rows[i][..., i] - rows[i][..., j] + rows[j][..., j] - rows[j][..., i])
        quotient = (probe[..., i] - probe[..., j]) / torch.where(close, 1.0, gap)
        slopes.append(torch.where(close, limit, quotient))
    slopes = torch.stack(slopes, -1).detach()
    return spectral_compose(frame.b, frame.U, ratio, slopes) @ F


def _determinant(F: Tensor) -> Tensor:
    """det F by expansion; exact zeros stay zero, unlike with a factorization."""
    return (F[..., 0] * torch.linalg.cross(F[..., 1], F[..., 2], dim=-1)).sum(-1)


def _inverse_transpose(F: Tensor) -> Tensor:
    """F⁻ᵀ = cof F / det F, shape (…, 3, 3)."""
    a, b, c = F.unbind(-1)
    bc = torch.linalg.cross(b, c, dim=-1)
    columns = [bc, torch.linalg.cross(c, a, dim=-1), torch.linalg.cross(a, b, dim=-1)]
    return torch.stack(columns, -1) / (a * bc).sum(-1)[..., None, None]


def _square(F: Tensor) -> Tensor:
    """‖F‖², shape (…, 1, 1)."""
    return F.square().sum((-2, -1), keepdim=True)


def _cross_matrix(w: Tensor) -> Tensor:
    """[w]ₓ, the matrix of w × ·, shape (…, 3, 3)."""
    x, y, z = w.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*w.shape[:-1], 3, 3)
