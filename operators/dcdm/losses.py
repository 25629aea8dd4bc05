"""What a direction network is trained to minimize; no solutions are needed, only residuals.

Every loss is blind to the scale of q. r, q (B, *cells); `apply` is v ↦ A v.

Differentiable in q, and in the weights behind `direction`.
Source: Kaneda et al. 2023, Eq. 9 (`one_step_loss`); the others are ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["alignment_loss", "energy_loss", "one_step_loss", "unrolled_loss"]

Map = Callable[[Tensor], Tensor]


def one_step_loss(r: Tensor, q: Tensor, apply: Map) -> Tensor:
    """‖r − α A q‖², α = ⟨r, q⟩ / ⟨q, A q⟩: the squared residual after one step from r, mean over B."""
    Aq = apply(q)
    alpha = _dot(r, q) / _dot(q, Aq).clamp_min(torch.finfo(r.dtype).tiny)
    return (r - alpha * Aq).flatten(1).square().sum(1).mean()


def alignment_loss(r: Tensor, q: Tensor, apply: Map) -> Tensor:
    """1 − ⟨r, A q⟩² / ‖A q‖² for ‖r‖ = 1: what the best step length would leave of ‖r‖²; in [0, 1]."""
    Aq = apply(q)
    share = _dot(r, Aq) ** 2 / _dot(Aq, Aq).clamp_min(torch.finfo(r.dtype).tiny)
    return 1 - share.mean()


def energy_loss(r: Tensor, q: Tensor, apply: Map) -> Tensor:
    """−log ⟨r, q⟩² / ⟨q, A q⟩, mean over B: what the step takes off the energy of the error.

    Lowest, −log ⟨r, A⁻¹ r⟩, where q is the solution. Smooth errors hold the energy but little residual.
    """
    tiny = torch.finfo(r.dtype).tiny
    gain = _dot(r, q) ** 2 / _dot(q, apply(q)).clamp_min(tiny)
    return -gain.clamp_min(tiny).log().mean()


def unrolled_loss(
    r: Tensor, direction: Map, apply: Map, steps: int = 3, history: int = 2
) -> tuple[Tensor, list[Tensor]]:
    """Mean of log ‖r_k‖ / ‖r_0‖ after `steps` steps of the solver, per step, and the residuals met.

    The logarithm gives every halving the same weight.
    """
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    met, start = [], r
    for _ in range(steps):
        size = r.flatten(1).norm(dim=1).reshape(-1, *(1,) * (r.dim() - 1))
        q = direction(r / size)
        p = q
        for pj, Aj, cj in kept:
            p = p - _dot(q, Aj) / cj * pj
        Ap = apply(p)
        curvature = _dot(p, Ap).clamp_min(torch.finfo(r.dtype).tiny)
        r = r - _dot(p, r) / curvature * Ap
        met.append(r)
        kept = [*kept, (p, Ap, curvature)][-history:] if history else []
    left = r.flatten(1).norm(dim=1) / start.flatten(1).norm(dim=1)
    return left.log().mean() / steps, met


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ per vector, shaped to multiply (B, *cells)."""
    return (a * b).flatten(1).sum(1).reshape(-1, *(1,) * (a.dim() - 1))
