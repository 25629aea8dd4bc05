"""Implicit differentiation: any solver of F(x, θ) = 0 becomes a differentiable operation.

    F(x*(θ), θ) = 0   ⇒   Aᵀ u = dL/dx*,   dL/dθ = −(∂F/∂θ)ᵀ u,   A = ∂F/∂x at (x*, θ)

The solver runs without a graph, however many iterations it takes; backward is one linear solve.
The gradient is that of the exact root: its error grows linearly with ‖x − x*‖, so the solver's
tolerance is the gradient's.

Source: Blondel et al. 2022, "Efficient and Modular Implicit Differentiation", section 2.1.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import ConvergenceError, InputError, message
from .factors import Factor, LinearResult
from .implicit_check import ImplicitReport, check_implicit
from .linalg import CG, GMRES, LinearSolver, apply_solve, default_solver
from .linear_map import LinearMap, alias
from .roots import EngineResidual, GaussNewton, Residual, RootProblem, newton
from .trees import flatten

__all__ = [
    "EngineResidual",
    "ImplicitReport",
    "Solution",
    "SolveInfo",
    "check_implicit",
    "implicit_least_squares",
    "implicit_solve",
    "stationary",
]

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Solution:
    """What a solver may return instead of a bare x."""

    x: Any
    """Root, tree like x0."""
    factor: Factor | None = None
    """Factor of A near the root, acting on x packed as (B, n); preconditions the adjoint solve."""
    iterations: int | None = None
    """Iterations done, for the record."""


@dataclasses.dataclass
class SolveInfo:
    """Filled by the solve it is given to; backward fills the adjoint part."""

    iterations: int | None = None
    """Iterations of the forward solver, where it tells."""
    residual: float | None = None
    """Largest ‖F(x*, θ)‖ over the batch, in the unit of F."""
    adjoint_iterations: int | None = None
    """Largest number of iterations of the adjoint solve; 0 for a direct one."""
    adjoint_residual: float | None = None
    """Largest ‖Aᵀ u − g‖ / ‖g‖ over the batch [-]."""
    warm_start: bool = False
    """Start the next adjoint iteration from the last u: fewer iterations along an optimization
    or a time series; give every solve of the series its own info."""
    adjoint: Tensor | None = None
    """Last u, (B, n), kept for `warm_start` only."""

    def record(self, result: LinearResult) -> None:
        """Take down an adjoint solve."""
        self.adjoint = result.x if self.warm_start else None
        self.adjoint_iterations = int(result.iterations.max())
        self.adjoint_residual = float(result.residual.max())


def implicit_solve(
    residual: Residual | EngineResidual,
    solver: Callable[[Residual, Any, Any], Any] | None,
    x0: Any,
    params: Any,
    *,
    structure: str = "general",
    adjoint_solver: LinearSolver | None = None,
    tol: float | None = None,
    batch_dims: int = 0,
    throw: bool = True,
    info: SolveInfo | None = None,
) -> Any:
    """Solve F(x, θ) = 0 for x and differentiate the root x*(θ) through one adjoint solve.

    Args:
        residual: `(x, params) -> F`, tree of the shapes of x. It must depend on everything to be
            differentiated through `params`; the weights of a module m go in as
            `dict(m.named_parameters())` and come back by `torch.func.functional_call`.
        solver: `(residual, x0, params) -> x*` or `Solution`; runs without a graph and may be
            anything. None: Newton's method with backtracking.
        x0: first guess, tree of tensors; carries no gradient.
        params: tree of tensors θ (nested tuples, dicts, dataclasses); not tensors: constants.
        structure: of A = ∂F/∂x: "spd", "symmetric" or "general".
        adjoint_solver: linear solver for Aᵀ u = g; default: with the factor of the forward solve
            as preconditioner, else dense up to 512 unknowns, else CG (spd) or GMRES.
        tol: bound on ‖F(x*)‖₂ per system in the unit of F. Default 1e-8 ‖F(x0)‖ + 1e-10 in
            float64, 1e-4 ‖F(x0)‖ + 1e-5 in float32, for equations scaled to order one.
        batch_dims: 1 when the first axis of x counts independent systems, 0 for one system.
        throw: raise when ‖F(x*)‖ > tol; otherwise log a warning: the gradient is then biased.
        info: filled with residuals and iterations.

    Returns:
        x*, tree like x0.

    Raises:
        ConvergenceError: when ‖F(x*)‖ > tol, or the adjoint solve fails in backward.
        InputError: when F has the wrong shape, depends on tensors with gradient outside `params`,
            or A contradicts `structure`.

    Differentiable in params, any number of times (once for an `EngineResidual`).
    Source: Blondel et al. 2022, Eq. 2.
    """
    problem = RootProblem("implicit_solve", residual, x0, params, batch_dims, structure)
    with torch.no_grad():
        bound = residual_bound(problem, tol)
        if solver is None:
            x, factor, iterations = newton(problem, bound)
        else:
            frozen = problem.rebuild(problem.detached())
            found = solver(residual, problem.unpack(problem.x0), frozen)
            found = found if isinstance(found, Solution) else Solution(found)
            x, factor, iterations = problem.pack(found.x), found.factor, found.iterations
    x = x.detach()
    check_root(problem, x, bound, iterations, throw, info)
    root = _attach(problem, x, problem.jacobian(), factor, adjoint_solver, info)
    return problem.unpack(root)


def implicit_least_squares(
    function: Callable[[Any, Any], Tensor],
    w: Any,
    params: Any,
    *,
    hessian: str = "full",
    adjoint_solver: LinearSolver | None = None,
    tol: float | None = None,
    batch_dims: int = 0,
    throw: bool = True,
    info: SolveInfo | None = None,
) -> Any:
    """Differentiate a minimizer w* of ½ ‖r(w, θ)‖² that some solver has found.

        F = Jᵀ r,   A = Jᵀ J + Σ r ∇²r ("full")  or  A ≈ Jᵀ J ("gauss_newton"),   J = ∂r/∂w

    Args:
        function: r `(w, params) -> residuals`, tensor of any shape, (B, ...) for a batch.
        w: the minimizer, tree of tensors.
        params: tree of tensors θ.
        hessian: "full" is exact; "gauss_newton" needs no second derivatives of r in A and is
            exact only where r vanishes at the minimum.
        adjoint_solver, batch_dims, throw, info: as in `implicit_solve`.
        tol: bound on ‖Jᵀ r‖; default 1e-6 in float64, 1e-3 in float32, as there is no first
            guess to measure against.

    Returns:
        w*, tree like w, with gradient to params.

    Raises:
        ConvergenceError: when w is not stationary to `tol`.
        InputError: when A is not positive definite, i.e. w is a saddle.

    Differentiable in params. Source: Blondel et al. 2022, section 2.2 (stationary points).
    """
    if hessian not in ("full", "gauss_newton"):
        expected = 'hessian "full" or "gauss_newton"'
        raise InputError(message("implicit_least_squares", expected, hessian))
    residual = stationary(lambda x, theta: 0.5 * function(x, theta).square().sum())
    problem = RootProblem("implicit_least_squares", residual, w, params, batch_dims, "spd")
    if tol is None:
        tol = 1e-6 if problem.x0.dtype == torch.float64 else 1e-3
    check_root(problem, problem.x0, residual_bound(problem, tol), None, throw, info)
    jacobian = problem.jacobian()
    if hessian == "gauss_newton":
        jacobian = GaussNewton(problem, function)
    return problem.unpack(_attach(problem, problem.x0, jacobian, None, adjoint_solver, info))


def stationary(energy: Callable[[Any, Any], Tensor]) -> Residual:
    """The residual ∂energy/∂x, to find and differentiate a minimum: `structure="spd"`.

    Args:
        energy: `(x, params) -> scalar`, or one value per system; joules or any other unit.
    """

    def residual(x: Any, params: Any) -> Any:
        tensors, rebuild = flatten(x)
        leaves = list(tensors.values())
        outside = [t for t in [*leaves, *flatten(params)[0].values()] if t.requires_grad]
        with torch.enable_grad():
            if not outside and torch.is_grad_enabled():
                outside = energy(x, params).requires_grad
            aliases = [alias(t) for t in leaves]
            value = energy(rebuild(aliases), params).sum()
        if not value.requires_grad:
            fix = "Write it in torch operations on x"
            raise InputError(
                message("stationary", "an energy that depends on x", "a constant", fix)
            )
        create = bool(outside) and torch.is_grad_enabled()
        grads = torch.autograd.grad(value, aliases, create_graph=create, allow_unused=True)
        pairs = zip(grads, leaves, strict=True)
        return rebuild([torch.zeros_like(t) if g is None else g for g, t in pairs])

    return residual


class _Root(torch.autograd.Function):
    """Identity on x* whose backward is the adjoint solve."""

    @staticmethod
    def forward(ctx, problem, jacobian, solver, info, x, *theta):
        ctx.problem, ctx.jacobian, ctx.solver, ctx.info = problem, jacobian, solver, info
        root = x.clone()
        ctx.save_for_backward(root, *theta)
        return root

    @staticmethod
    def backward(ctx, grad):
        x, *theta = ctx.saved_tensors
        problem = ctx.problem
        if torch.is_grad_enabled() and problem.engine:
            fix = "Write the residual in torch operations for second derivatives"
            raise InputError(message(problem.where, "one derivative", "a second one", fix))
        if not torch.is_grad_enabled():
            x, theta = x.detach(), [t.detach() for t in theta]
        info = ctx.info or SolveInfo()
        x0 = info.adjoint
        x0 = x0 if x0 is not None and x0.shape == grad.shape else None
        u = apply_solve(ctx.jacobian, ctx.solver, True, grad, [x, *theta], x0, info.record)
        grads = problem.vjp_theta(x, theta, ctx.needs_input_grad[5:], -u)
        return None, None, None, None, None, *grads


def _attach(
    problem: RootProblem,
    x: Tensor,
    jacobian: LinearMap,
    factor: Factor | None,
    solver: LinearSolver | None,
    info: SolveInfo | None,
) -> Tensor:
    """x* with its derivative in θ."""
    if solver is None and factor is not None:
        preconditioned = CG if problem.structure == "spd" else GMRES
        solver = preconditioned(preconditioner=factor)
    if solver is None:
        solver = default_solver(problem.structure, x.shape[1], x.shape[0])
    return _Root.apply(problem, jacobian, solver, info, x, *problem.theta)


def residual_bound(problem: RootProblem, tol: float | None) -> Tensor:
    """Bound on ‖F‖ per system, (B,)."""
    x0 = problem.x0
    if tol is not None and not tol >= 0:  # 0: fields at rest are exact
        fix = "Leave it out for the default, or give it in the unit of F"
        raise InputError(message(problem.where, "tol >= 0", tol, fix))
    if tol is not None:
        return torch.full((len(x0),), float(tol), dtype=x0.dtype, device=x0.device)
    relative, absolute = (1e-8, 1e-10) if x0.dtype == torch.float64 else (1e-4, 1e-5)
    return relative * problem.norm(x0) + absolute


def check_root(
    problem: RootProblem,
    x: Tensor,
    bound: Tensor,
    iterations: int | None,
    throw: bool,
    info: SolveInfo | None,
) -> None:
    # Evaluated with gradients on and everything detached: a graph then comes from a tensor that
    # the residual closes over, whose gradient would be lost without a word.
    F = problem.residual(x, problem.detached())
    if F.requires_grad and not problem.engine:
        fix = "Pass it in params; for the gradient of an energy in x use stationary()"
        got = "F that requires grad through a tensor it closes over"
        raise InputError(message(problem.where, "F that depends on params only", got, fix))
    norm = F.detach().norm(dim=1)
    if info is not None:
        info.iterations, info.residual = iterations, float(norm.max())
    failed = ~(norm <= bound)
    if not bool(failed.any()):
        return
    worst = int(torch.where(failed, norm / bound, 0.0).argmax())
    after = "" if iterations is None else f" after {iterations} iterations"
    got = f"{float(norm[worst]):.3e}{after} ({int(failed.sum())} of "
    fix = "Improve x0, give tol in the unit of F, or another solver; the gradient would be biased"
    if len(norm) > 1:
        fix += ". Systems of a batch must not read one another"
    text = message(
        problem.where,
        f"‖F(x*)‖ <= {float(bound[worst]):.3e}",
        got + f"{len(norm)} systems failed)",
        fix,
    )
    if throw:
        raise ConvergenceError(
            text, iterations=iterations, residual=float(norm[worst]), tol=float(bound[worst])
        )
    log.warning(text)
