"""Root finding on rows (B, n): packing of trees, Jacobian as a linear map, Newton, Anderson."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import ConvergenceError, InputError, message
from .factors import DenseFactor, Factor, IterativeFactor
from .linalg import STRUCTURES, LinearSolver
from .linear_map import LinearMap, Operator, as_operator, transpose, vjp
from .trees import flatten

DENSE_LIMIT = 512
"""Unknowns up to which a dense Jacobian is cheaper than a Krylov iteration."""


Residual = Callable[[Any, Any], Any]
"""(x, params) -> F, a tree of the shapes of x, in torch operations."""


class EngineResidual(Protocol):
    """A residual whose engine supplies its own adjoints; first derivatives only.

    All trees are those of x and params; the methods see tensors without graph.
    """

    def __call__(self, x: Any, params: Any) -> Any:
        """F(x, θ)."""

    def vjp_x(self, x: Any, params: Any, u: Any) -> Any:
        """(∂F/∂x)ᵀ u, a tree like x."""

    def vjp_params(self, x: Any, params: Any, u: Any) -> Any:
        """(∂F/∂θ)ᵀ u, a tree like params."""


class RootProblem:
    """F(x, θ) = 0 with x packed as rows (B, n) and θ as a list of tensors."""

    def __init__(
        self, where: str, residual: Any, x0: Any, params: Any, batch_dims: int, structure: str
    ):
        if batch_dims not in (0, 1):
            raise InputError(message(where, "batch_dims 0 or 1", batch_dims))
        if structure not in STRUCTURES:
            raise InputError(message(where, f"a structure of {STRUCTURES}", structure))
        self.where, self.function, self.structure = where, residual, structure
        tensors, self.rebuild_x = flatten(x0)
        self.shapes = [t.shape for t in tensors.values()]
        if not tensors:
            fix = "Give torch.tensor(…), or a tuple, dict or dataclass of tensors"
            raise InputError(message(where, "x0 of tensors", type(x0).__name__, fix))
        leads = {tuple(s[:batch_dims]) for s in self.shapes}
        if len(leads) > 1 or any(len(lead) < batch_dims or 0 in lead for lead in leads):
            expected = f"x0 with {batch_dims} common batch axes, none of length 0"
            raise InputError(message(where, expected, str([tuple(s) for s in self.shapes])))
        self.rows = self.shapes[0][0] if batch_dims else 1
        theta, self.rebuild = flatten(params)
        self.theta = list(theta.values())
        self.x0 = self.pack(x0).detach()
        self.engine = hasattr(residual, "vjp_x") and hasattr(residual, "vjp_params")

    def pack(self, tree: Any) -> Tensor:
        """Tree of the shapes of x as (B, n)."""
        tensors = list(flatten(tree)[0].values())
        shapes = [t.shape for t in tensors]
        if shapes != self.shapes:
            expected = f"tensors of the shapes of x, {[tuple(s) for s in self.shapes]}"
            raise InputError(message(self.where, expected, str([tuple(s) for s in shapes])))
        return torch.cat([t.reshape(self.rows, -1) for t in tensors], dim=1)

    def unpack(self, rows: Tensor) -> Any:
        """(B, n) as a tree like x."""
        counts = [shape.numel() // self.rows for shape in self.shapes]
        parts = rows.split(counts, dim=1)
        return self.rebuild_x([p.reshape(s) for p, s in zip(parts, self.shapes, strict=True)])

    def residual(self, x: Tensor, theta: Sequence[Tensor]) -> Tensor:
        """F as (B, n)."""
        return self.pack(self.function(self.unpack(x), self.rebuild(theta)))

    def norm(self, x: Tensor) -> Tensor:
        """‖F‖₂ per system, (B,), without graph."""
        with torch.no_grad():
            return self.residual(x, self.detached()).norm(dim=1)

    def detached(self) -> list[Tensor]:
        """θ without graph."""
        return [t.detach() for t in self.theta]

    def vjp_theta(
        self, x: Tensor, theta: Sequence[Tensor], wanted: Sequence[bool], u: Tensor
    ) -> list[Tensor | None]:
        """(∂F/∂θ)ᵀ u for the wanted leaves."""
        if not self.engine:
            return vjp(lambda aliases: self.residual(x, aliases), theta, wanted, u)
        tree = self.function.vjp_params(self.unpack(x), self.rebuild(theta), self.unpack(u))
        grads = flatten(tree)[0].values()
        return [g if w else None for g, w in zip(grads, wanted, strict=True)]

    def jacobian(self) -> LinearMap:
        """∂F/∂x as a map whose parameters are [x, *θ]."""
        return EngineJacobian(self) if self.engine else Jacobian(self)


class Jacobian(LinearMap):
    """∂F/∂x from the reverse mode of torch; products with A itself reverse it twice."""

    def __init__(self, problem: RootProblem):
        self.problem = problem

    def rmatvec(self, v, leaves):
        x, *theta = leaves
        return vjp(lambda a: self.problem.residual(a[0], theta), [x], [True], v)[0]

    def matvec(self, v, leaves):
        return transpose(lambda u: self.rmatvec(u, leaves), v)

    def operator(self, like, leaves):
        x, *theta = (leaf.detach() for leaf in leaves)
        with torch.enable_grad():
            x.requires_grad_()
            value = self.problem.residual(x, theta)
        if not value.requires_grad:
            fix = "Write F in torch operations, or give it vjp_x and vjp_params"
            raise InputError(message(self.problem.where, "F that depends on x", "none", fix))

        def rmatvec(u: Tensor) -> Tensor:
            return _grad(value, x, u, retain_graph=True)

        @functools.cache
        def reversed_once() -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                zero = torch.zeros_like(value, requires_grad=True)
                return zero, _grad(value, x, zero, create_graph=True)

        def matvec(v: Tensor) -> Tensor:
            zero, product = reversed_once()
            return _grad(product, zero, v, retain_graph=True)

        return Operator(matvec, rmatvec, like, make_dense=lambda: _dense(value, x, rmatvec))


class GaussNewton(Jacobian):
    """A ≈ JᵀJ for F = Jᵀ r, with J = ∂r/∂x; symmetric, and no second derivative of r."""

    def __init__(self, problem: RootProblem, function: Callable[[Any, Any], Tensor]):
        super().__init__(problem)
        self.function = function

    def rmatvec(self, v, leaves):
        x, *theta = leaves
        params = self.problem.rebuild(theta)

        def r(aliases: Sequence[Tensor]) -> Tensor:
            return self.function(self.problem.unpack(aliases[0]), params)

        Jv = transpose_of_vjp(r, x, v)
        return vjp(r, [x], [True], Jv)[0]

    def matvec(self, v, leaves):
        return self.rmatvec(v, leaves)

    def operator(self, like, leaves):
        leaves = [leaf.detach() for leaf in leaves]

        def product(v: Tensor) -> Tensor:
            with torch.no_grad():
                return self.rmatvec(v, leaves)

        return Operator(product, product, like)


class EngineJacobian(LinearMap):
    """∂F/∂x of a residual that brings its own adjoints."""

    def __init__(self, problem: RootProblem):
        self.problem = problem

    def rmatvec(self, v, leaves):
        problem, (x, *theta) = self.problem, (leaf.detach() for leaf in leaves)
        tree = problem.function.vjp_x(
            problem.unpack(x), problem.rebuild(theta), problem.unpack(v.detach())
        )
        return problem.pack(tree)

    def matvec(self, v, leaves):
        if self.problem.structure != "general":
            return self.rmatvec(v, leaves)
        fix = "Declare the structure if A is symmetric, or use a direct solver"
        raise InputError(message(self.problem.where, "a product A v", "only vjp_x", fix))

    def operator(self, like, leaves):
        @functools.cache
        def dense() -> Tensor:
            eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
            return torch.stack([self.rmatvec(e.expand_as(like), leaves) for e in eye], dim=1)

        def matvec(v: Tensor) -> Tensor:
            if self.problem.structure == "general" and like.shape[1] <= DENSE_LIMIT:
                return (dense() @ v.unsqueeze(-1)).squeeze(-1)
            return self.matvec(v, leaves)

        return Operator(matvec, lambda v: self.rmatvec(v, leaves), like, dense)


def newton(
    problem: RootProblem, bound: Tensor, max_iterations: int = 50
) -> tuple[Tensor, Factor | None, int]:
    """Newton's method, x ← x − t A⁻¹ F, with t halved until ‖F‖ falls; per system.

    Dense Jacobian up to 512 unknowns, else Newton-GMRES. Returns x (B, n), the last dense factor
    and the iterations. It stops early where no step lowers ‖F‖; the caller checks the result.
    """
    x, theta, jacobian = problem.x0, problem.detached(), problem.jacobian()
    F = problem.residual(x, theta)
    norm, factor = F.norm(dim=1), None
    for iteration in range(max_iterations):
        active = ~(norm <= bound)
        if not bool(active.any()):
            return x, factor, iteration
        operator = jacobian.operator(x, [x, *theta])
        if x.shape[1] <= DENSE_LIMIT:
            factor = _dense_factor(problem, operator, norm, iteration)
            step = -factor.solve(F, throw=False).x
        else:
            # Solving to 1e-4 costs at most one more Newton step than solving exactly.
            step = -IterativeFactor("GMRES", operator, 1e-4).solve(F, throw=False).x
        step = torch.where(active[:, None], step, 0.0)
        t = torch.ones_like(norm)
        accepted = ~active
        for _ in range(30):
            trial = x + t[:, None] * step
            F_trial = problem.residual(trial, theta)
            accepted = ~active | (F_trial.norm(dim=1) <= (1 - 1e-4 * t) * norm)
            if bool(accepted.all()):
                break
            t = torch.where(accepted, t, 0.5 * t)
        if not bool((accepted & active).any()):
            return x, factor, iteration
        x = torch.where(accepted[:, None], trial, x)
        F = torch.where(accepted[:, None], F_trial, F)
        norm = F.norm(dim=1)
    return x, factor, max_iterations


def anderson(
    step: Callable[[Tensor], Tensor], x: Tensor, bound: Tensor, max_iterations: int, memory: int = 5
) -> tuple[Tensor, int]:
    """Iterate x ← T(x) with Anderson acceleration over `memory` steps (0: plain) on rows (B, n).

    Stops when ‖T(x) − x‖ <= bound for every system, or nothing is finite any more; returns x and
    the iterations done. Source: Walker & Ni 2011, Eq. 2.2 (differences form).
    """
    xs: list[Tensor] = []
    fs: list[Tensor] = []
    best = math.inf
    for iteration in range(max_iterations):
        f = step(x) - x
        norm = f.norm(dim=1)
        if bool((norm <= bound).all()) or not bool(torch.isfinite(norm).all()):
            return x, iteration
        if float(norm.max()) > 10 * best:
            xs, fs = [], []
        best = min(best, float(norm.max()))
        xs, fs = [*xs, x][-memory - 1 :], [*fs, f][-memory - 1 :]
        new = x + f
        if len(xs) > 1:
            dX = torch.stack([b - a for a, b in zip(xs, xs[1:], strict=False)], dim=1)
            dF = torch.stack([b - a for a, b in zip(fs, fs[1:], strict=False)], dim=1)
            gram = dF @ dF.mT
            # Round-off makes nearly parallel differences singular; the shift is below it.
            trace = gram.diagonal(dim1=1, dim2=2).sum(1)
            shift = (10 * torch.finfo(x.dtype).eps * trace).clamp_min(torch.finfo(x.dtype).tiny)
            gram = gram + shift[:, None, None] * torch.eye(gram.shape[1]).to(gram)
            weights = torch.linalg.solve(gram, dF @ f.unsqueeze(2))
            new = new - ((dX + dF).mT @ weights).squeeze(2)
        x = torch.where((norm > bound)[:, None], new, x)
    return x, max_iterations


class FixedPoint(LinearSolver):
    """Solves A x = b for A = I − M by x ← b + M x, accelerated over `memory` steps (0: plain)."""

    def __init__(self, memory: int = 0, max_iterations: int = 1000, tol: float | None = None):
        self.memory, self.max_iterations, self.tol = memory, max_iterations, tol

    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        return _FixedPointFactor(as_operator(A, like), self)


class _FixedPointFactor(Factor):
    def __init__(self, operator: Operator, settings: FixedPoint):
        self.name = "Anderson" if settings.memory else "Picard"
        self.operator, self.tol, self.settings = operator, settings.tol, settings

    def _solve(self, b, x0, transpose, tol):
        apply = self.operator.rmatvec if transpose else self.operator.matvec
        x = torch.zeros_like(b) if x0 is None else x0
        bound, limit = tol * b.norm(dim=1), self.settings.max_iterations
        found, count = anderson(
            lambda v: v + b - apply(v), x, bound, limit, memory=self.settings.memory
        )
        return found, torch.full((len(b),), count, dtype=torch.long, device=b.device)


def transpose_of_vjp(
    function: Callable[[Sequence[Tensor]], Tensor], x: Tensor, v: Tensor
) -> Tensor:
    """J v for J = ∂function/∂x, as the transpose of u ↦ Jᵀ u."""
    create = torch.is_grad_enabled()
    with torch.no_grad():
        like = function([x])
    with torch.enable_grad():
        zero = torch.zeros_like(like, requires_grad=True)
        product = vjp(function, [x], [True], zero)[0]
    return torch.autograd.grad(product, zero, v, create_graph=create)[0]


def _dense_factor(problem: RootProblem, operator: Operator, norm: Tensor, iteration: int) -> Factor:
    try:
        return DenseFactor(as_operator(operator.dense(), problem.x0))
    except ConvergenceError as error:
        got = f"a singular one at iteration {iteration}"
        fix = "Start elsewhere, fix the null space, or bring a solver that can cross it"
        raise ConvergenceError(
            message(problem.where, "a regular Jacobian", got, fix),
            iterations=iteration,
            residual=float(norm.max()),
        ) from error


def _grad(value: Tensor, x: Tensor, u: Tensor, **kwargs: bool) -> Tensor:
    grad = torch.autograd.grad(value, x, u, allow_unused=True, **kwargs)[0]
    return torch.zeros_like(x) if grad is None else grad


def _dense(value: Tensor, x: Tensor, rmatvec: Callable[[Tensor], Tensor]) -> Tensor:
    """Jacobian (B, n, n) row by row; all rows at once where every operation can be batched."""
    count, n = x.shape
    eye = torch.eye(n, dtype=x.dtype, device=x.device)
    basis = eye[:, None, :].expand(n, count, n)
    try:
        rows = torch.autograd.grad(value, x, basis, retain_graph=True, is_grads_batched=True)[0]
    except RuntimeError:
        rows = torch.stack([rmatvec(e) for e in basis])
    return rows.transpose(0, 1)
