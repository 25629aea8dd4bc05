"""Checks of a residual and its adjoints at a root, before implicit differentiation trusts them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .linalg import default_solver
from .roots import EngineResidual, Residual, RootProblem

__all__ = ["ImplicitReport", "check_implicit"]


@dataclasses.dataclass(frozen=True)
class ImplicitReport:
    """What `check_implicit` found; errors are relative [-]."""

    residual: float
    """Largest ‖F(x*, θ)‖, in the unit of F."""
    distance: float
    """‖A⁻¹ F‖ / ‖x*‖: estimated relative distance to the exact root, hence gradient error."""
    vjp_x_error: float
    """⟨u, A v⟩ by finite differences against (∂F/∂x)ᵀ u."""
    vjp_params_error: float
    """⟨u, (∂F/∂θ) d⟩ by finite differences against (∂F/∂θ)ᵀ u; 0 without parameters."""
    asymmetry: float
    """|⟨u, A v⟩ − ⟨v, A u⟩|; must be round-off for "spd" and "symmetric"."""

    def passed(self, tol: float = 1e-5) -> bool:
        """Whether both adjoints and the root are right to `tol` [-]."""
        return max(self.distance, self.vjp_x_error, self.vjp_params_error) <= tol


def check_implicit(
    residual: Residual | EngineResidual, x: Any, params: Any, *, batch_dims: int = 0
) -> ImplicitReport:
    """Check a residual and its adjoints at a root x by central differences along random vectors.

    Args:
        residual, params, batch_dims: as in `implicit_solve`.
        x: the root, tree of tensors; float64 is advised.

    Returns:
        Residual norm, estimated distance to the root, errors of both adjoints and asymmetry.

    Raises:
        ConvergenceError: when A is singular.
    """
    problem = RootProblem("check_implicit", residual, x, params, batch_dims, "general")
    rows, theta = problem.x0, problem.detached()
    generator = torch.Generator().manual_seed(0)

    def noise(t: Tensor) -> Tensor:
        rms = t.square().mean().sqrt()
        sample = torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device)
        return sample * torch.where(rms > 0, rms, 1.0)

    u, v = noise(rows), noise(rows)
    wanted = [t.is_floating_point() for t in theta]
    d = [noise(t) if w else torch.zeros_like(t) for t, w in zip(theta, wanted, strict=True)]
    # Truncation and round-off of central differences balance at the cube root of the precision.
    h = torch.finfo(rows.dtype).eps ** (1 / 3)
    with torch.no_grad():
        F = problem.residual(rows, theta)
        at = problem.residual
        Av = (at(rows + h * v, theta) - at(rows - h * v, theta)) / (2 * h)
        ahead, back = ([t + s * h * e for t, e in zip(theta, d, strict=True)] for s in (1, -1))
        Bd = (at(rows, ahead) - at(rows, back)) / (2 * h)
        jacobian, leaves = problem.jacobian(), [rows, *theta]
        Atu, Atv = jacobian.rmatvec(u, leaves), jacobian.rmatvec(v, leaves)
        grads = problem.vjp_theta(rows, theta, wanted, u)
        pairs = [(g * e).sum() for g, e in zip(grads, d, strict=True) if g is not None]
        factor = default_solver("general", *reversed(rows.shape)).factor(
            jacobian.operator(rows, leaves), like=rows
        )
        distance = factor.solve(F).x.norm() / rows.norm().clamp_min(torch.finfo(rows.dtype).tiny)
    return ImplicitReport(
        residual=float(F.norm(dim=1).max()),
        distance=float(distance),
        vjp_x_error=_relative((u * Av).sum(), (Atu * v).sum()),
        vjp_params_error=_relative((u * Bd).sum(), sum(pairs, torch.zeros(()).to(rows))),
        asymmetry=_relative((Atu * v).sum(), (Atv * u).sum()),
    )


def _relative(a: Tensor, b: Tensor) -> float:
    scale = max(abs(float(a)), abs(float(b)))
    return abs(float(a) - float(b)) / scale if scale > 0 else 0.0
