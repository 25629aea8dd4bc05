"""How far one cloud of particles is from another: by index, by nearest point, by transport.

    by index   (1/N) Σ_i |x_i − y_i|²
    Chamfer    (1/N) Σ_i min_j |x_i − y_j|² + (1/M) Σ_j min_i |x_i − y_j|²
    Sinkhorn   S = T(x, y) − ½ T(x, x) − ½ T(y, y),
               T = min_P Σ P_ij |x_i − y_j|² + ε Σ P_ij log(P_ij / a_i b_j),  P 1 = a, Pᵀ 1 = b

The first needs a target recorded with the same particles; the others compare shapes. Chamfer is blind to
how many particles lie where; Sinkhorn moves every share of mass, sees targets far away, and costs most.
For a cloud that is moved as a whole, x = y + t, S = |t|² for every ε.

All take positions (B, N, D) and (B, M, D), give (B,) in m², and are differentiable once in the positions
(Sinkhorn also in the weights).

Sinkhorn is our own: geomloss runs a fixed number of iterations and does not say whether they converged,
POT does not take batches of clouds; neither carries the exact derivative at the solution with a check.

Source: Fan et al. 2017 (Chamfer); Feydy et al. 2019 (divergence); Schmitzer 2019 (stabilization);
Lehmann et al. 2022 (over-relaxation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...sim.core.errors import ConvergenceError, InputError, check_finite, message
from ...sim.core.neighbors import nearest

__all__ = ["chamfer", "sinkhorn", "squared_distance"]

ABSORB = 30.0
"""Scalings beyond e^±30 are moved into the potentials: what underflows in float32 stays below e^−27."""
SWEEPS = 100
"""Most cheap iterations between two evaluations of the kernel."""


def squared_distance(x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared distance of particles with the same index.

    Args:
        x: Positions [m], (B, N, D).
        y: Positions [m], (B, N, D).
        weights: Masses or volumes, (N,) or (B, N), in any unit; default equal.

    Returns:
        Mean [m²], (B,).

    Raises:
        InputError: wrong shapes, no particles, or weights that are negative or sum to zero.

    Differentiable in all three.
    """
    check_clouds("squared_distance", x, y)
    if x.shape != y.shape:
        fix = "Clouds without common particles: use chamfer or sinkhorn"
        raise InputError(message("squared_distance", f"y of shape {tuple(x.shape)}", y, fix))
    a = shares("squared_distance", weights, x)
    return (a * (x - y).square().sum(-1)).sum(-1)


def chamfer(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance to the nearest point of the other cloud, in both directions.

    Nearest points are exact; where two are equally near, one is taken.

    Args:
        x: Positions [m], (B, N, D), D ≤ 3.
        y: Positions [m], (B, M, D).

    Returns:
        Sum of both means [m²], (B,).

    Raises:
        InputError: wrong shapes or no particles.

    Differentiable in x and y. Cost: N log M; 2 000 points take some milliseconds.
    Source: Fan et al. 2017, Eq. 1.
    """
    check_clouds("chamfer", x, y)
    return _one_way(x, y) + _one_way(y, x)


def _one_way(x: Tensor, y: Tensor) -> Tensor:
    """Mean over x of the squared distance to the nearest of y, (B,)."""
    B, N, D = x.shape
    scenes = torch.arange(B, device=x.device)
    flat = y.reshape(-1, D)
    index, _ = nearest(
        x.detach().reshape(-1, D),
        flat.detach(),
        1,
        scenes.repeat_interleave(N),
        scenes.repeat_interleave(y.shape[1]),
    )
    return (x - flat[index[:, 0]].reshape(B, N, D)).square().sum(-1).mean(-1)


def sinkhorn(
    x: Tensor,
    y: Tensor,
    epsilon: float,
    weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    *,
    tol: float = 1e-3,
    n_iterations: int = 5000,
) -> Tensor:
    """Sinkhorn divergence S_ε(x, y): 0 only for equal clouds, close to W₂² for small ε.

    Args:
        x: Positions [m], (B, N, D).
        y: Positions [m], (B, M, D).
        epsilon: Entropic blur ε [m²]: details below √ε are not seen. The spacing of particles squared
            is as sharp as makes sense, and iterations grow like extent²/ε.
        weights: Masses of x, (N,) or (B, N), in any unit; zeros are left out. Default equal.
        target_weights: Masses of y, (M,) or (B, M); both sides are normalized to total 1.
        tol: Mass that may still be in the wrong place, Σ|P 1 − a| + Σ|Pᵀ 1 − b| [-]. The value is off
            by its square, the gradient in proportion.
        n_iterations: Most iterations.

    Returns:
        S [m²], (B,).

    Raises:
        InputError: wrong shapes, no particles, ε or tol not positive, bad weights.
        ConvergenceError: the tolerance is not reached.

    Differentiable once in x, y and weights: ∂T/∂x_i = 2 Σ_j P_ij (x_i − y_j), ∂T/∂a = f at the
    solution, not by unrolling. Memory N·M numbers per scene.
    Source: Feydy et al. 2019, Eq. 3; envelope theorem.
    """
    where = "sinkhorn"
    check_clouds(where, x, y)
    for name, value in (("epsilon [m²]", epsilon), ("tol", tol)):
        if not 0 < value < math.inf:
            raise InputError(message(where, f"{name} > 0", value, "Start with (spacing)² and 1e-3"))
    a, b = shares(where, weights, x), shares(where, target_weights, y)
    # With |x − y|² means separate exactly; without them round-off does not grow with the offset.
    mean_x = (a.unsqueeze(-1) * x).sum(1, keepdim=True)
    mean_y = (b.unsqueeze(-1) * y).sum(1, keepdim=True)
    x, y = x - mean_x, y - mean_y
    options = (float(epsilon), float(tol), int(n_iterations))
    between = _Transport.apply(x, y, a, b, options, False)
    within = _Transport.apply(x, x, a, a, options, True) + _Transport.apply(
        y, y, b, b, options, True
    )
    return (mean_x - mean_y).square().sum((-1, -2)) + between - 0.5 * within


class _Transport(torch.autograd.Function):
    """T of the module docstring with its derivative at the solution."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, options: tuple, same: bool
    ) -> Tensor:
        epsilon, tol, limit = options
        C = _cost(x, y)
        f, g = _potentials(C, a, b, epsilon, tol, limit, same)
        mass = (_kernel(C, f, g, a, b, epsilon) @ b.unsqueeze(-1))[..., 0].mul(a).sum(-1)
        ctx.save_for_backward(x, y, a, b, f, g)
        ctx.epsilon = epsilon
        return (a * f).sum(-1) + (b * g).sum(-1) - epsilon * (mass - 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, a, b, f, g = ctx.saved_tensors
        P = _kernel(_cost(x, y), f, g, a, b, ctx.epsilon) * a.unsqueeze(-1) * b.unsqueeze(-2)
        scale = grad[:, None, None]
        grad_x = 2 * scale * (P.sum(-1, keepdim=True) * x - P @ y)
        grad_y = 2 * scale * (P.sum(-2).unsqueeze(-1) * y - P.mT @ x)
        return grad_x, grad_y, grad[:, None] * f, grad[:, None] * g, None, None


def _cost(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances [m²], (B, N, M); by differences, which keep near pairs accurate."""
    C = torch.zeros(*x.shape[:2], y.shape[1], dtype=x.dtype, device=x.device)
    for p, q in zip(x.unbind(-1), y.unbind(-1), strict=True):
        C += (p.unsqueeze(-1) - q.unsqueeze(-2)).square_()
    return C


def _kernel(C: Tensor, f: Tensor, g: Tensor, a: Tensor, b: Tensor, epsilon: float) -> Tensor:
    """K = exp((f + g − C)/ε), (B, N, M); zero where a point has no mass and so no bound on f + g."""
    K = (f.unsqueeze(-1) + g.unsqueeze(-2) - C).div_(epsilon).exp_()
    if not bool((a > 0).all() and (b > 0).all()):
        K.masked_fill_((a == 0).unsqueeze(-1) | (b == 0).unsqueeze(-2), 0.0)
    return K


@torch.no_grad()
def _potentials(
    C: Tensor, a: Tensor, b: Tensor, epsilon: float, tol: float, limit: int, same: bool
) -> tuple[Tensor, Tensor]:
    """Potentials f (B, N), g (B, M) [m²] of T; `same`: of a cloud with itself, where f = g.

    Sweeps are products with K; its logarithm is evaluated when the scalings have grown and at each of
    the falling ε the search starts from: then columns sum to one, whatever underflowed before.
    """
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    log_a, log_b = a.log(), b.log()

    def rows(g: Tensor, level: float) -> Tensor:
        return -level * torch.sub((g / level + log_b).unsqueeze(-2), C, alpha=1 / level).logsumexp(
            -1
        )

    def columns(f: Tensor, level: float) -> Tensor:
        return -level * torch.sub((f / level + log_a).unsqueeze(-1), C, alpha=1 / level).logsumexp(
            -2
        )

    # With itself a cloud needs no search: mass stays near where it is, whatever ε.
    level, used, error, omega = epsilon if same else max(float(C.amax()), epsilon), 0, math.inf, 1.0
    while used < limit:
        if level > epsilon:
            level, omega = max(0.25 * level, epsilon), 1.0
        last = level == epsilon
        if same:
            f = g = 0.5 * (f + rows(f, level))
        else:
            f = rows(g, level)
            g = columns(f, level)
        K = _kernel(C, f, g, a, b, level)
        u, v, spent, error, omega = _scalings(K, a, b, tol if last else 0.1, same, omega)
        f, g = f + level * u.log(), g + level * v.log()
        used += spent
        if not math.isfinite(error):
            break
        if last and error <= tol:
            free_f, free_g = a == 0, b == 0
            if bool(free_f.any() or free_g.any()):
                f = torch.where(free_f, rows(g, level), f)
                g = torch.where(free_g, columns(f, level), g)
            return f, g
    raise ConvergenceError(
        message(
            "sinkhorn",
            f"mass in the wrong place ≤ {tol:.1e} after {limit} iterations",
            f"{error:.1e}",
            f"Raise epsilon = {epsilon:.2e} m² (largest squared distance {float(C.amax()):.2e} m²), "
            "tol or n_iterations; in float32 a tol below 1e-5 is out of reach",
        ),
        iterations=used,
        residual=error,
        tol=tol,
    )


def _scalings(
    K: Tensor, a: Tensor, b: Tensor, tol: float, same: bool, omega: float
) -> tuple[Tensor, Tensor, int, float, float]:
    """u, v with u (K b v) = 1 and v (Kᵀ a u) = 1: factors, sweeps, error before the last, relaxation.

    Where the error falls steadily by μ per sweep, the slowest mode has s = (μ + ω − 1)²/(μ ω²), and
    ω = 2/(1 + √(1 − s)) is best for it (Young 1954).
    """
    u, v = torch.ones_like(a), torch.ones_like(b)
    error, ratio, waited, best = math.inf, 0.0, 0, math.inf
    for sweep in range(1, SWEEPS + 1):  # noqa: B007
        row = torch.where(a > 0, (K @ (b * v).unsqueeze(-1))[..., 0], 1 / u)
        wrong = (a * (u * row - 1).abs()).sum(-1)
        if same:
            u = v = (u / row).sqrt()
            wrong = 2 * wrong
        else:
            new = u * (u * row) ** -omega
            column = torch.where(b > 0, (K.mT @ (a * new).unsqueeze(-1))[..., 0], 1 / v)
            wrong = wrong + (b * (v * column - 1).abs()).sum(-1)
            u, v = new, v * (v * column) ** -omega
        before, error = error, float(wrong.max())
        if error <= tol or not math.isfinite(error):
            break
        earlier, ratio, waited = ratio, error / before, waited + 1
        best = min(best, error)
        steady = abs(ratio - earlier) < 0.1 * (1 - ratio)
        if waited >= 6 and steady and ratio > omega - 1:
            slow = min((ratio + omega - 1) ** 2 / (ratio * omega**2), 0.9999)
            omega, waited = max(omega, 2 / (1 + math.sqrt(1 - slow))), 0
        elif error > 20 * best:
            omega, best = 1.0, error
        if max(float(u.log().abs().max()), float(v.log().abs().max())) > ABSORB:
            break
    return u, v, sweep, error, omega


def check_clouds(where: str, *clouds: Tensor) -> None:
    """Raise unless clouds are finite, floating, (B, N ≥ 1, D ≥ 1), with one B, D, dtype and device."""
    first = clouds[0]
    for x in clouds:
        if x.ndim != 3 or not x.is_floating_point() or 0 in x.shape:
            fix = "Give at least one particle; one scene is x.unsqueeze(0)"
            raise InputError(message(where, "floating positions (B, N ≥ 1, D) [m]", x, fix))
        if (x.shape[0], x.shape[2], x.dtype, x.device) != (
            first.shape[0], first.shape[2], first.dtype, first.device,
        ):  # fmt: skip
            fix = "Expand the target over scenes: y.expand(B, -1, -1)"
            expected = f"clouds (B = {first.shape[0]}, ·, D = {first.shape[2]}) {first.dtype}"
            raise InputError(message(where, expected, x, fix))
    check_finite(where, **{f"cloud {i + 1}": x for i, x in enumerate(clouds)})


def shares(where: str, weights: Tensor | Sequence[float] | None, x: Tensor) -> Tensor:
    """Weights (N,) or (B, N) of the particles of x as shares (B, N) that sum to 1 per scene."""
    B, N = x.shape[:2]
    if weights is None:
        return torch.full((B, N), 1.0 / N, dtype=x.dtype, device=x.device)
    w = torch.as_tensor(weights, dtype=x.dtype, device=x.device)
    if w.shape not in ((N,), (B, N)):
        raise InputError(message(where, f"weights ({N},) or ({B}, {N})", w, "One per particle"))
    w = w.expand(B, N)
    total = w.sum(-1, keepdim=True)
    if not bool((w.detach() >= 0).all() and (total.detach() > 0).all()):
        fix = "Masses are not negative, and some are positive"
        raise InputError(message(where, "weights >= 0 with a positive sum", w, fix))
    return w / total
