"""Implicit steps by sweeps: the fixed point of a map that contracts for small steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...core.errors import ConvergenceError, message
from ...core.implicit import Solution, SolveInfo, implicit_solve
from ...core.linalg import GMRES
from ...core.roots import anderson

__all__ = ["swept"]


def swept(
    where: str, sweep: Callable[[Tensor, Any], Tensor], x0: Tensor, params: Any, *, bound: Tensor,
    tol: float, max_iterations: int, dt: float, rate: Callable[[], float], info: SolveInfo,
) -> Tensor:  # fmt: skip
    """x = sweep(x, θ) by accelerated sweeps.

    Args:
        where: name of the step, for messages.
        sweep: (x, θ) ↦ x, (B, ...) in torch operations.
        x0: first guess.
        params: θ, a tree.
        bound: on ‖x − sweep(x, θ)‖ per scene, (B,).
        tol: relative tolerance of the step, which bounds that of the adjoint solve.
        max_iterations: sweeps.
        dt: step [s].
        rate: gives the rate [1/s] that sweeps resolve, dt · rate < 2; asked where they fail.
        info: filled.

    Raises:
        ConvergenceError: after too many sweeps.

    Differentiable in θ, at the root, by one adjoint solve. Source: Walker & Ni 2011 (acceleration).
    """

    def solve(residual: Any, x0: Tensor, theta: Any) -> Solution:
        def step(rows: Tensor) -> Tensor:
            return sweep(rows.reshape(x0.shape), theta).flatten(1)

        rows, count = anderson(step, x0.flatten(1), 0.5 * bound, max_iterations)
        return Solution(rows.reshape(x0.shape), iterations=count)

    try:
        return implicit_solve(
            lambda x, theta: x - sweep(x, theta), solve, x0, params,
            adjoint_solver=GMRES(tol=max(tol, 1e-11)), tol=float(bound.max()), batch_dims=1, info=info,
        )  # fmt: skip
    except ConvergenceError as error:
        most = rate()
        got = f"a residual of {error.residual:.2e} (tolerance {error.tol:.2e}) at dt = {dt:g} s"
        fix = f"Sweeps converge for dt below about {2 / most if most else 0:.3g} s; lower dt"
        raise ConvergenceError(
            message(where, f"convergence in {max_iterations} sweeps", got, fix),
            iterations=error.iterations, residual=error.residual, tol=error.tol,
        ) from error  # fmt: skip
