"""Roots, fixed points and minima as layers: any solver, derivatives in reverse and forward mode.

    F(x*, θ) = 0,   x* = T(x*, θ),   x* = argmin_x f(x, θ)   ⇒   dx*/dθ = −(∂F/∂x)⁻¹ ∂F/∂θ

with F = x − T or F = ∇f, x − prox(x − η ∇f), or the KKT conditions. What the solver did is not on the
tape: memory is that of one evaluation of F, and each derivative costs one linear solve. The error of the
derivative is proportional to ‖x − x*‖, so the solver's tolerance is the derivative's.

Source: Blondel et al. 2022, "Efficient and Modular Implicit Differentiation", section 2 and table 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, message
from .implicit import Solution, SolveInfo, stationary
from .implicit_modes import Node, transformed
from .lifting import lift
from .linalg import LinearSolver
from .root_solvers import MINIMIZERS, ROOT_SOLVERS, Minimizer, Minimum, Newton, RootSolver
from .roots import FixedPoint, RootProblem
from .trees import flatten

__all__ = ["implicit_argmin", "implicit_fixed_point", "implicit_root"]


def _anywhere(layer: Callable[..., Any]) -> Callable[..., Any]:
    """Also within `torch.inference_mode`, where torch records nothing: solvers need slopes of F."""

    @functools.wraps(layer)
    def call(*args: Any, **options: Any) -> Any:
        if not torch.is_inference_mode_enabled():
            return layer(*args, **options)
        with torch.inference_mode(False), torch.no_grad():
            tensors, rebuild = flatten((args[1:], options.get("x0")))
            rest, x0 = rebuild([t.clone() for t in tensors.values()])
            if "x0" in options:
                options["x0"] = x0
            return layer(*args[:1], *rest, **options)

    return call


@_anywhere
def implicit_root(
    f: Callable[..., Any],
    x0: Any,
    *params: Any,
    solver: str | RootSolver | Callable[..., Any] = "newton",
    structure: str = "general",
    linear_solver: LinearSolver | None = None,
    tol: float | None = None,
    batch_dims: int = 0,
    throw: bool = True,
    info: SolveInfo | None = None,
) -> Any:
    """Solve F(x, θ) = 0 and differentiate the root: A ẋ = −B θ̇ forward, Aᵀ u = −x̄, θ̄ = Bᵀ u in reverse.

    Args:
        f: F, `(x, *params) -> tree of the shapes of x`: a function or an `nn.Module`. Modules that it
            uses, by closure, as globals or among `params`, are differentiated in their weights; any
            other tensor to be differentiated in must be in `params`. Or one `EngineResidual` with one
            tree of params, for first derivatives in reverse mode.
        x0: first guess, tree of tensors (tuples, dicts, dataclasses); carries no derivative.
        params: θ, trees of tensors; what is no tensor is a constant.
        solver: "newton", "krylov", "broyden", "anderson", "picard", a `RootSolver` with its settings, or
            any function `(f, x0, *params) -> x` or `Solution`, which runs without graph.
        structure: of A = ∂F/∂x, "spd", "symmetric" or "general".
        linear_solver: for the derivatives; default: with the factor of the solver as preconditioner,
            else dense up to 512 unknowns, else CG (spd) or GMRES. It has its own tolerance.
        tol: bound on ‖F(x*)‖₂ per system in the unit of F. Default 1e-8 ‖F(x0)‖ + 1e-10 in
            float64, 1e-4 ‖F(x0)‖ + 1e-5 in float32.
        batch_dims: 1 when the first axis of x counts independent systems, 0 for one system.
        throw: raise when ‖F(x*)‖ > tol; otherwise log a warning: derivatives are then biased.
        info: filled with iterations and residuals, of the linear solves too.

    Returns:
        x*, tree like x0.

    Raises:
        ConvergenceError: with iterations and residual, when ‖F(x*)‖ > tol; when A is singular; when a
            linear solve of a derivative fails.
        InputError: F of other shapes or precision than x, not finite at x0, independent of x, drawing
            random numbers, or depending on tensors to be differentiated in that are not in `params`.

    Differentiable in params and the weights of modules, in any mode and order, under `torch.func` too.
    Source: Blondel et al. 2022, Eq. 2.
    """
    where = "implicit_root"
    chosen = _choose(where, solver, ROOT_SOLVERS, RootSolver)
    setup = _Setup(where, f, x0, params, batch_dims, structure)
    find = _finder(chosen, f, setup)
    return setup.node(setup.function, find, tol, throw, info, linear_solver)


@_anywhere
def implicit_fixed_point(
    g: Callable[..., Any],
    x0: Any,
    *params: Any,
    solver: str | RootSolver | Callable[..., Any] = "anderson",
    adjoint: str = "solve",
    linear_solver: LinearSolver | None = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    batch_dims: int = 0,
    throw: bool = True,
    info: SolveInfo | None = None,
) -> Any:
    """Solve x = T(x, θ) and differentiate the fixed point: (I − ∂T/∂x) ẋ = (∂T/∂θ) θ̇ and its transpose.

    Args:
        g: T, `(x, *params) -> tree of the shapes of x`: function or `nn.Module`, see `implicit_root`.
        x0, params, linear_solver, batch_dims, throw, info: as in `implicit_root`.
        solver: "anderson", "picard", "broyden", "newton", "krylov", a `RootSolver` for F = x − T(x), or
            any function `(g, x0, *params) -> x` or `Solution`.
        adjoint: "solve" uses `linear_solver`; "picard" iterates u ← x̄ + (∂T/∂x)ᵀ u, for contractions;
            "anderson" accelerates that.
        tol: bound on ‖x − T(x)‖₂ per system; default as in `implicit_root`.
        max_iterations: of "anderson" and "picard", forward and adjoint.

    Returns:
        x*, tree like x0.

    Raises:
        ConvergenceError, InputError: as `implicit_root`.

    Differentiable in params and weights, in any mode and order. Source: Blondel et al. 2022, section 2.2.
    """
    where = "implicit_fixed_point"
    if adjoint not in ("solve", "picard", "anderson"):
        expected = 'adjoint "solve", "picard" or "anderson"'
        raise InputError(message(where, expected, adjoint))
    if adjoint != "solve":
        if linear_solver is not None:
            got = f"both, adjoint={adjoint!r}"
            raise InputError(message(where, "linear_solver or an iterated adjoint", got))
        linear_solver = FixedPoint(5 if adjoint == "anderson" else 0, max_iterations)
    chosen = _choose(where, solver, ROOT_SOLVERS, RootSolver)
    if solver in ("anderson", "picard"):
        chosen = type(chosen)(max_iterations=max_iterations)
    setup = _Setup(where, g, x0, params, batch_dims, "general")

    def residual(x: Any, weights: Any, *rest: Any) -> Any:
        return _difference(where, x, setup.function(x, weights, *rest))

    find = _finder(chosen, g, setup)
    return setup.node(residual, find, tol, throw, info, linear_solver)


@_anywhere
def implicit_argmin(
    objective: Callable[..., Tensor],
    x0: Any,
    *params: Any,
    projection: Callable[..., Any] | None = None,
    proximal: Callable[..., Any] | None = None,
    equality: Callable[..., Any] | None = None,
    solver: str | Minimizer | Newton | Callable[..., Any] | None = None,
    step: float = 1.0,
    linear_solver: LinearSolver | None = None,
    tol: float | None = None,
    batch_dims: int = 0,
    throw: bool = True,
    info: SolveInfo | None = None,
) -> Any:
    """Minimize f(x, θ) and differentiate the minimizer through its optimality condition.

        ∇f = 0;   x = P(x − η ∇f);   x = prox_ηg(x − η ∇f);   ∇f + (∂h/∂x)ᵀ λ = 0, h = 0

    Args:
        objective: f, `(x, *params) -> ()`, or `(B,)` with batch_dims = 1; modules as in `implicit_root`.
        x0, params, linear_solver, batch_dims, throw, info: as in `implicit_root`.
        projection: P onto a convex set, `(x, *params) -> x`, such as `Simplex()` or `Box(0, 1)`.
        proximal: `(x, step, *params) -> argmin_y ½‖y − x‖² + step g(y)` for a minimum of f + g.
        equality: h, `(x, *params) -> tree`, constraints h = 0, found by Newton's method on x and λ from
            λ = 0; gradients of h must be linearly independent.
        solver: "lbfgs" (default without constraints), "gradient" (accelerated, projected or proximal;
            default with them), "newton", a `Minimizer`, or any function `(objective, x0, *params) -> x`.
        step: η [-] of the condition with P or prox. It changes neither minimum nor derivative, only the
            condition of the linear solve: 1/L, L the largest curvature of f, is best.
        tol: bound on the norm of the condition; default as in `implicit_root`.

    Returns:
        x*, tree like x0.

    Raises:
        ConvergenceError: as `implicit_root`; also when constraints are redundant.
        InputError: as `implicit_root`; f of a wrong shape; in backward, a smooth minimum whose Hessian is
            not positive definite: a saddle.

    Differentiable in params and weights, in any mode and order, while the active constraints stay.
    Source: Blondel et al. 2022, Eq. 4 (stationary), 7 (proximal), 9 (projected), 6 (KKT).
    """
    where = "implicit_argmin"
    if sum(option is not None for option in (projection, proximal, equality)) > 1:
        fix = "Combine them into one projection, or move one into the objective"
        raise InputError(message(where, "at most one kind of constraint", "several", fix))
    structure = "symmetric" if equality else "general" if projection or proximal else "spd"
    extras = (projection, proximal, equality)
    setup = _Setup(where, objective, x0, params, batch_dims, structure, extras)
    default = "gradient" if structure == "general" else "newton" if equality else "lbfgs"
    chosen = _choose(where, solver or default, MINIMIZERS, (Minimizer, Newton))

    def energy(x: Any, weights: Any, *rest: Any) -> Tensor:
        value = setup.function(x, weights, *rest)
        lead = next(iter(flatten(x)[0].values())).shape[:batch_dims]
        if not isinstance(value, Tensor) or value.shape != lead:
            expected = f"an objective of shape {tuple(lead)}"
            fix = "Sum or average over the other axes"
            got = tuple(value.shape) if isinstance(value, Tensor) else value
            raise InputError(message(where, expected, str(got), fix))
        return value

    def gradient(x: Any, *rest: Any) -> Any:
        leaves, rebuild = flatten(x)
        if transformed([*leaves.values(), *flatten(rest)[0].values()]):
            parts = list(leaves.values())
            total = torch.func.grad(lambda some: energy(rebuild(some), *rest).sum())
            return rebuild(total(parts))
        return stationary(lambda y, others: energy(y, *others))(x, rest)

    if equality is not None:
        if isinstance(chosen, Minimizer):
            fix = 'Use solver="newton" or a function of your own'
            raise InputError(message(where, "a solver for equality constraints", str(chosen), fix))
        return _constrained(setup, gradient, equality, chosen, tol, throw, info, linear_solver)
    move = None
    if projection is not None or proximal is not None:

        def move(x: Any, eta: Any, *rest: Any) -> Any:
            return proximal(x, eta, *rest) if proximal else projection(x, *rest)

    def condition(x: Any, weights: Any, *rest: Any) -> Any:
        slope = gradient(x, weights, *rest)
        if move is None:
            return slope
        ahead = _combine(x, slope, lambda a, b: a - step * b)
        moved = setup.run(weights, lambda: move(ahead, step, *rest))
        gap = _difference(where, x, moved)
        return _combine(gap, gap, lambda a, b: a / step)

    def find(problem: RootProblem, bound: Tensor):
        if isinstance(chosen, Newton):
            return chosen.root(problem, bound)
        if not isinstance(chosen, Minimizer):
            return _ask(chosen, objective, problem, setup)
        theta = problem.rebuild(problem.detached())

        def prox(rows: Tensor, eta: Tensor) -> Tensor:
            sizes = eta if batch_dims else eta.reshape(())
            if batch_dims:  # one step per system, for every shape of x
                sizes = eta.reshape(-1, *[1] * (len(problem.shapes[0]) - 1))
            return problem.pack(move(problem.unpack(rows), sizes, *theta[1:]))

        task = Minimum(
            problem,
            lambda rows: energy(problem.unpack(rows), *theta).reshape(-1),
            lambda rows: problem.pack(gradient(problem.unpack(rows), *theta)),
            None if move is None else prox,
        )
        return chosen.minimum(task, bound)

    return setup.node(condition, find, tol, throw, info, linear_solver)


class _Setup:
    """The tensors of a call, taken apart, and its function with weights as an argument."""

    def __init__(self, where, f, x0, params, batch_dims, structure, extras=()):
        self.where, self.batch_dims, self.structure = where, batch_dims, structure
        if not callable(f):
            raise InputError(message(where, "a function (x, *params)", type(f).__name__))
        self.x0, self.engine = x0, hasattr(f, "vjp_x") and hasattr(f, "vjp_params")
        for leaf in flatten(x0)[0].values():
            if not leaf.is_floating_point():
                raise InputError(message(where, "x0 of floating-point tensors", leaf))
        if self.engine:
            if len(params) != 1:
                raise InputError(
                    message(where, "an engine's residual with one tree of params", len(params))
                )
            self.function, self.theta = f, params[0]
            return
        run, weights = lift(where, f, params, extras)
        self.run, self.theta = run, (weights, *params)
        self.function = lambda x, weights, *rest: run(weights, lambda: f(x, *rest))

    def node(self, residual, find, tol, throw, info, linear_solver, x0=None, keep=lambda x: x):
        """The differentiable solve, as a tree like x0."""
        x0 = self.x0 if x0 is None else x0
        starts, rebuild = flatten(x0)
        blank = [torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in starts.values()]
        function = residual if self.engine else lambda x, theta: residual(x, *theta)
        problem = RootProblem(
            self.where, function, rebuild(blank), self.theta, self.batch_dims, self.structure
        )
        node = Node(problem, find, len(starts), tol, throw, info, linear_solver)
        leaves, problem.theta = problem.theta, []
        return keep(problem.unpack(node(*starts.values(), *leaves)))


def _choose(where: str, solver: Any, named: dict[str, Any], kind: Any) -> Any:
    if isinstance(solver, str):
        if solver not in named:
            raise InputError(message(where, f"a solver of {sorted(named)} or a function", solver))
        return named[solver]
    if not isinstance(solver, kind) and not callable(solver):
        raise InputError(message(where, "a solver, its name or a function", type(solver).__name__))
    return solver


def _finder(chosen: Any, f: Any, setup: _Setup) -> Callable[[RootProblem, Tensor], Any]:
    if isinstance(chosen, RootSolver):
        return chosen.root
    return lambda problem, bound: _ask(chosen, f, problem, setup)


def _ask(solver: Callable[..., Any], f: Any, problem: RootProblem, setup: _Setup):
    """The root by the user's own solver, called as they wrote it."""
    theta = problem.rebuild(problem.detached())
    params = (theta,) if setup.engine else theta[1:]
    found = solver(f, problem.unpack(problem.x0), *params)
    found = found if isinstance(found, Solution) else Solution(found)
    return problem.pack(found.x), found.factor, found.iterations


def _combine(x: Any, y: Any, rule: Callable[[Tensor, Tensor], Tensor]) -> Any:
    ours, rebuild = flatten(x)
    return rebuild([rule(a, b) for a, b in zip(ours.values(), flatten(y)[0].values(), strict=True)])


def _difference(where: str, x: Any, y: Any) -> Any:
    """x − y for trees of the same shapes."""
    ours, theirs = ([tuple(t.shape) for t in flatten(v)[0].values()] for v in (x, y))
    if ours != theirs:
        raise InputError(message(where, f"a function onto the shapes of x, {ours}", str(theirs)))
    return _combine(x, y, torch.sub)


def _constrained(setup, gradient, equality, chosen, tol, throw, info, linear_solver):
    """The minimum on h = 0, from the KKT conditions in (x, λ)."""
    with torch.no_grad():
        weights, *params = setup.theta
        shapes = equality(setup.x0, *params)
    multipliers = _combine(shapes, shapes, lambda a, b: torch.zeros_like(a))
    if setup.batch_dims and any(t.dim() < 1 for t in flatten(shapes)[0].values()):
        raise InputError(message(setup.where, "equality of shape (B, …)", "a scalar"))

    def condition(z: Any, weights: Any, *rest: Any) -> Any:
        x, lam = z

        def force(y: Any) -> Tensor:
            h = setup.run(weights, lambda: equality(y, *rest))
            pairs = zip(flatten(h)[0].values(), flatten(lam)[0].values(), strict=True)
            return sum((a * b).sum() for a, b in pairs)

        leaves, rebuild = flatten(x)
        parts = list(leaves.values())
        if transformed([*parts, *flatten((lam, weights, rest))[0].values()]):
            push = rebuild(torch.func.grad(lambda some: force(rebuild(some)))(parts))
        else:
            push = stationary(lambda y, _: force(y))(x, (lam, weights, rest))
        h = setup.run(weights, lambda: equality(x, *rest))
        return _combine(gradient(x, weights, *rest), push, torch.add), h

    def find(problem: RootProblem, bound: Tensor):
        if isinstance(chosen, Newton):
            return chosen.root(problem, bound)
        raise InputError(message(setup.where, 'solver="newton" with equality', str(chosen)))

    return setup.node(
        condition, find, tol, throw, info, linear_solver, (setup.x0, multipliers), lambda z: z[0]
    )
