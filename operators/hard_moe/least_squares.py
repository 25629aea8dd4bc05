"""Many small nonlinear least-squares problems at once: weights of basis functions that fit a PDE.

A field u = g + Σ_n w_n b_n is fitted on M rows of a residual ρ, which at each row reads Q numbers that
are affine in u (values, derivatives, values at other times), and on L linear rows:

    z_q = a_q + T_q w,    r_i = ρ(z_1i, …, z_Qi),    cost = ½ Σ r² + ½ ‖C w − d‖²
    J = Σ_q diag(∂ρ/∂z_q) T_q,    G = JᵀJ + CᵀC,    H = G + Σ_kl T_kᵀ diag(r ∂²ρ/∂z_k∂z_l) T_l

Every PDE operator is applied to the basis once, before the iteration, which then never sees the grid.
Differentiable in everything but the start. Source: Chalapathi et al. 2024 (PI-HC-MoE), §3;
Nocedal & Wright 2006, §10.3.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import ConvergenceError, InputError, message
from ...sim.core.trees import flatten
from . import band
from .rows import Residual, Rows

__all__ = ["Fit", "FitConfig", "Rows", "fit", "gradient", "hessian", "residuals"]


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How to fit."""

    max_iterations: int = 50
    """Trial steps at most."""
    tol: float | None = None
    """Largest cosine between the residual and a column of its Jacobian at the end; default 1e-9 in
    float64, 1e-4 in float32. The error of the gradient is proportional to it."""
    curvature: str = "full"
    """"full" takes H where it is positive definite, "gauss_newton" always G."""
    damping: float = 1e-3
    """First λ of Levenberg and Marquardt, in units of the diagonal of G."""
    sweeps: int = 0
    """Linear fits with frozen coefficients before the first step, for residuals with `frozen`."""
    start: str = "zero"
    """First weights where none are given: "linear" fits the linear rows alone, such as those of the first
    frame and the walls."""
    orthonormal: bool = False
    """Fit in weights of functions orthonormal on the rows, see `orthonormal`: the same minimum, and what
    single precision needs."""

    def __post_init__(self) -> None:
        if self.curvature not in ("full", "gauss_newton"):
            expected = "curvature full or gauss_newton"
            raise InputError(message("FitConfig", expected, self.curvature, "Choose one"))
        if self.start not in ("zero", "linear"):
            raise InputError(message("FitConfig", "start zero or linear", self.start, "Choose one"))
        if self.max_iterations < 1 or self.sweeps < 0 or not self.damping >= 0:
            got = f"{self.max_iterations}, {self.sweeps}, {self.damping}"
            expected = "max_iterations >= 1, sweeps >= 0, damping >= 0"
            raise InputError(message("FitConfig", expected, got, "Correct them"))
        if self.tol is not None and not self.tol > 0:
            raise InputError(message("FitConfig", "tol > 0", self.tol, "Take 1e-9 in float64"))


@dataclasses.dataclass
class Fit:
    """What a fit gave, per system."""

    w: Tensor
    """Weights (S, N)."""
    cost: Tensor
    """½ ‖residual‖², (S,)."""
    cosine: Tensor
    """Largest cosine between residual and a column of the Jacobian, (S,) [-]."""
    iterations: Tensor
    """Trial steps, (S,)."""
    converged: Tensor
    """Whether the cosine is below the tolerance, or round-off allows no further step, (S,)."""
    curvature: Tensor
    """What the last step was made with, H or G at w, in a layout of `band`; without graph."""

    def detach(self) -> Fit:
        """Without graph."""
        return Fit(*(v.detach() for v in vars(self).values()))

    def require(self, where: str, tol: float) -> None:
        """Raise `ConvergenceError` unless all have converged."""
        if bool(self.converged.all()):
            return
        worst = int(torch.where(self.converged, 0.0, self.cosine).argmax())
        count, most = int((~self.converged).sum()), int(self.iterations.max())
        value = float(self.cosine[worst])
        got = (
            f"{value:.2e} after {most} iterations in system {worst}, ‖residual‖ = "
            f"{math.sqrt(2 * float(self.cost[worst])):.3e} ({count} of {len(self.w)} failed)"
        )
        fix = "Raise max_iterations or tol, start nearer, add a ridge, or pass throw=False"
        raise ConvergenceError(
            message(where, f"a cosine of residual and Jacobian <= {tol:.1e}", got, fix),
            iterations=most, residual=value, tol=tol,
        )  # fmt: skip


def residuals(residual: Residual, rows: Rows, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z (S, Q, M), r (S, M) and C w − d (S, L) at weights w (S, N)."""
    z = rows.numbers(w)
    return z, residual(z, rows.params), rows.excess(w)


def gradient(residual: Residual, rows: Rows, w: Tensor) -> Tensor:
    """Jᵀ r + Cᵀ (C w − d), (S, N). Differentiable in w and all of rows."""
    z, _, e = residuals(residual, rows, w)
    r, slope, _ = _expand(residual, z, rows.params, False)
    return rows.pull_terms(r[:, None] * slope, e)


def hessian(residual: Residual, rows: Rows, w: Tensor, full: bool = True) -> Tensor:
    """H, or G where not `full`, in a layout of `band`."""
    z = residuals(residual, rows, w)[0]
    return _matrices(rows, *_expand(residual, z, rows.params, full))[0]


def fit(residual: Residual, rows: Rows, start: Tensor, config: FitConfig) -> Fit:
    """Levenberg–Marquardt on all systems at once; each is damped, accepted and stopped by itself.

    Differentiable as far as the iteration goes (unrolled), if gradients are on.
    """
    dtype = start.dtype
    tol = config.tol or (1e-9 if dtype == torch.float64 else 1e-4)
    eps, full = torch.finfo(dtype).eps, config.curvature == "full"
    w = _sweep(residual, rows, start, config.sweeps)
    S, here, mine = len(w), torch.arange(len(w), device=w.device), rows
    lam = torch.full((S,), float(config.damping), dtype=dtype, device=w.device)
    count = torch.zeros(S, dtype=torch.long, device=w.device)
    done = torch.zeros(S, dtype=torch.bool, device=w.device)
    refused = done.clone()
    cosine = torch.full_like(lam, math.inf)
    cost, g, A, G = _expansion(residual, rows, w, full)
    kept = torch.empty_like(A).detach()
    noise, M = _noise(residual, rows, w), rows.known().shape[2]
    for _ in range(config.max_iterations + 1):
        kept = kept.index_put((here,), A.detach())
        D = band.diagonal(G)
        D = torch.maximum(D, eps * D.amax(1, keepdim=True)).detach()
        size = (D * 2 * cost.detach()[:, None]).sqrt()
        angle = g.detach().abs() / size.clamp_min(torch.finfo(dtype).tiny)
        cosine = cosine.index_put((here,), angle.amax(1))
        step = _step(A, G, D, lam[here], g)
        # ½ gᵀA⁻¹g is what is left to gain; below round-off of the cost nothing can be seen of it.
        left = -(g * step).sum(1).detach()
        now, off = cost.detach(), noise[here]
        # Round-off of rows moves the cost by r·δr, a sum with random signs.
        quiet = (left <= 4 * eps * now + off * (2 * now).sqrt() / M**0.5) & refused[here]
        quiet = quiet | (now <= 50 * off.square())
        stop = (angle.amax(1) <= tol) | quiet
        done = done.index_put((here,), stop)
        if bool(done.all()) or int(count.max()) >= config.max_iterations:
            break
        trial = w[here] + step
        new = _expansion(residual, mine, trial, full)
        # Near the minimum costs differ by round-off only; gradients still tell.
        level = (new[0] <= cost * (1 + 8 * eps)) & (
            (new[1].square() / D).sum(1) < (g.square() / D).sum(1)
        )
        better = ~stop & ((new[0] < cost) | level).detach()
        w = w.index_put((here,), torch.where(better[:, None], trial, w[here]))
        # Nielsen's rule: damping falls as far as the gain was foreseen, and so does not swing.
        foreseen = 0.5 * (left + lam[here] * (D * step.detach().square()).sum(1))
        gain = ((cost - new[0]).detach() / foreseen).clamp(0, 1)
        fall = (1 - (2 * gain - 1) ** 3).clamp_min(0.1)
        fall = torch.where(new[0] < cost, fall, 1.0)
        lam = lam.index_put((here,), (lam[here] * torch.where(better, fall, 4.0)).clamp_max(1e14))
        refused = refused.index_put((here,), ~better)
        count = count.index_put((here,), count[here] + (~stop).long())
        old = (cost, g, A, G)
        cost, g, A, G = (
            torch.where(better.reshape(-1, *[1] * (b.ndim - 1)), b, a)
            for a, b in zip(old, new, strict=True)
        )
        open_ = (~stop).nonzero()[:, 0]
        if 2 * len(open_) <= len(
            here
        ):  # those that go on, apart: copies cost less than their steps
            here = here[open_]
            mine, (cost, g, A, G) = mine.select(open_), (v[open_] for v in (cost, g, A, G))
    _, r, e = residuals(residual, rows, w)
    final = 0.5 * (r.square().sum(1) + e.square().sum(1))
    return Fit(w, final.detach(), cosine, count, done & torch.isfinite(w).all(1), kept)


def _noise(residual: Residual, rows: Rows, w: Tensor) -> Tensor:
    """Norm of what round-off alone adds to the rows, (S,)."""
    with torch.no_grad():
        z = residuals(residual, rows, w)[0]
        slope = _expand(residual, z, rows.params, False)[1]
        size = z.abs() + rows.known().abs()
        terms = (slope * size).abs().sum(1).square().sum(1) + rows.excess(0 * w).square().sum(1)
        return torch.finfo(w.dtype).eps * terms.sqrt()


def _expand(
    residual: Residual, z: Tensor, params: Any, second: bool
) -> tuple[Tensor, Tensor, list[tuple[int, int, Tensor]]]:
    """ρ (S, M), ∂ρ/∂z (S, Q, M), and the second derivatives that do not vanish, by their indices."""
    wanted = [z, *flatten(params)[0].values()]
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in wanted)
    with torch.enable_grad():
        at = z if graph and z.requires_grad else z.detach().requires_grad_()
        r = residual(at, params)
        slope = torch.autograd.grad(r.sum(), at, create_graph=graph or second)[0]
        curves = []
        for k in range(z.shape[1] if second and slope.requires_grad else 0):
            row = torch.autograd.grad(
                slope[:, k].sum(), at, create_graph=graph, retain_graph=True, allow_unused=True
            )[0]
            if row is not None:
                used = row.detach().abs().amax((0, 2)) > 0
                curves += [(k, m, row[:, m]) for m in range(z.shape[1]) if bool(used[m])]
    if not graph:
        return r.detach(), slope.detach(), [(k, m, v.detach()) for k, m, v in curves]
    return r, slope, curves


def _matrices(rows: Rows, r: Tensor, slope: Tensor, curves: list) -> tuple[Tensor, Tensor, Tensor]:
    """H (or G without curves), G and J."""
    J = rows.combine(slope)
    A = G = rows.gram(J)
    for k, m, value in curves:
        A = A + rows.cross(k, m, r * value)
    return A, G, J


def _expansion(residual: Residual, rows: Rows, w: Tensor, full: bool) -> tuple[Tensor, ...]:
    """Cost (S,), gradient (S, N), H or G, and G."""
    z, _, e = residuals(residual, rows, w)
    r, slope, curves = _expand(residual, z, rows.params, full)
    A, G, J = _matrices(rows, r, slope, curves)
    cost = 0.5 * (r.square().sum(1) + e.square().sum(1))
    return torch.where(torch.isfinite(cost), cost, math.inf), rows.pull(J, r, e), A, G


def _step(A: Tensor, G: Tensor, D: Tensor, lam: Tensor, g: Tensor) -> Tensor:
    """−(A + λ D)⁻¹ g, with G for A where that is indefinite; in units where D is one."""
    s, shift = D.rsqrt(), lam[:, None].expand_as(D)
    with torch.no_grad():
        bad = band.cholesky(band.rescale(A, s, shift))[1] != 0
    floor = 1e3 * torch.finfo(g.dtype).eps
    chosen = torch.where(bad.reshape(-1, *[1] * (A.ndim - 1)), G, A)
    lower, _ = band.cholesky(band.rescale(chosen, s, shift + floor * bad[:, None].to(D)))
    step = -s * band.solve(lower, s * g)
    return torch.where(torch.isfinite(step), step, 0.0)


def _sweep(residual: Any, rows: Rows, w: Tensor, sweeps: int) -> Tensor:
    """Linear fits with the coefficients c_q of ρ ≈ Σ c_q z_q frozen: Picard's iteration."""
    for _ in range(sweeps):
        z = residuals(residual, rows, w)[0]
        c = residual.frozen(z, rows.params)
        J = rows.combine(c)
        G = rows.gram(J)
        right = rows.pull(J, (c * rows.known()).sum(1), rows.excess(0 * w))
        D = band.diagonal(G)
        D = torch.maximum(D, torch.finfo(w.dtype).eps * D.amax(1, keepdim=True))
        tiny = torch.full_like(w[:, 0], 1e3 * torch.finfo(w.dtype).eps)
        w = _step(G, G, D, tiny, right)
    return w
