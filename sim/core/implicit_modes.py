"""A solve as one differentiable node: reverse and forward mode, `torch.func`, of any order.

    F(x, θ) = 0:   x̄ ↦ θ̄ = −Bᵀ A⁻ᵀ x̄,   θ̇ ↦ ẋ = −A⁻¹ B θ̇,   A = ∂F/∂x,  B = ∂F/∂θ

The linear solve is itself the root of A v − b, so its node is the same one and derivatives of any order
and mix follow. A is factored at most once for each root. Under `torch.vmap` the systems are solved one
after the other, which leaves solvers free to branch.

Differentiable in the leaves. Source: Blondel et al. 2022, section 2.1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .errors import ConvergenceError, InputError, message
from .factors import DenseFactor, Factor
from .implicit import SolveInfo, check_root, residual_bound
from .linalg import CG, GMRES, LinearSolver, default_solver
from .linear_map import alias
from .roots import RootProblem

__all__ = ["Node", "transformed"]

Leaves = Sequence[Tensor]
Find = Callable[[RootProblem, Tensor], tuple[Tensor, "Factor | None", "int | None"]]
"""(problem, bound on ‖F‖ per system) -> root (B, n), factor of A near it, iterations."""


class Node:
    """F(x, θ) = 0 with its solver and everything its derivatives need; one for each call.

    Args:
        problem: shapes and residual; its x0 and θ are replaced by the tensors of the call.
        find: the solver, called without graph.
        starts: how many of the leaves are the first guess.
        tol, throw, info, solver: as in `implicit_root`; `solver` is the linear one.
    """

    def __init__(
        self,
        problem: RootProblem,
        find: Find,
        starts: int,
        tol: float | None = None,
        throw: bool = True,
        info: SolveInfo | None = None,
        solver: LinearSolver | None = None,
    ):
        self.problem, self.find_root, self.starts = problem, find, starts
        self.tol, self.throw, self.info, self.solver = tol, throw, info, solver
        self.near: Factor | None = None
        self.kept: Factor | None = None

    def __call__(self, *leaves: Tensor) -> Tensor:
        """The root as rows (B, n), from the leaves of x0 and of θ."""
        if transformed() or forward_ad._current_level >= 0:
            self._check_closure([_value(t) for t in leaves])
        return _Implicit.apply(self, *leaves)

    def _check_closure(self, values: Leaves) -> None:
        """What f closes over cannot be seen by `torch.func` and forward mode: refuse, not lose it."""
        F = self.residual(self.problem.pack(self.problem.rebuild_x(values[: self.starts])), values)
        functorch = torch._C._functorch
        foreign = forward_ad.unpack_dual(F).tangent is not None
        while functorch.is_functorch_wrapped_tensor(F) and not foreign:
            foreign = F.requires_grad or functorch.is_batchedtensor(F)
            F = functorch.get_unwrapped(F)
        if foreign:
            got = "F that is differentiated or batched through a tensor it closes over"
            fix = "Pass that tensor as one of the params"
            raise InputError(message(self.problem.where, "F that depends on params only", got, fix))

    def fresh(self) -> Node:
        """The same node for other tensors: without their factors."""
        node = copy.copy(self)
        node.near = node.kept = None
        return node

    def find(self, leaves: Leaves) -> Tensor:
        problem = copy.copy(self.problem)
        starts, problem.theta = leaves[: self.starts], list(leaves[self.starts :])
        problem.x0 = problem.pack(problem.rebuild_x(starts)).detach()
        _check_start(problem)
        bound = residual_bound(problem, self.tol)
        x, self.near, iterations = self.find_root(problem, bound)
        x = x.detach()
        with torch.enable_grad():
            check_root(problem, x, bound, iterations, self.throw, self.info)
        return x.clone()

    def residual(self, x: Tensor, leaves: Leaves) -> Tensor:
        return self.problem.residual(x, leaves[self.starts :])

    def pull(self, x: Tensor, leaves: Leaves, wanted: Sequence[bool], u: Tensor) -> list:
        """Bᵀ u for the wanted leaves."""
        if not self.problem.engine:
            return _pull(lambda some: self.residual(x, some), leaves, wanted, u)
        if torch.is_grad_enabled() or transformed([x, u, *leaves]):
            raise self._engine_error()
        grads = self.problem.vjp_theta(x, leaves[self.starts :], wanted[self.starts :], u)
        return [None] * self.starts + grads

    def push(self, x: Tensor, leaves: Leaves, tangents: Sequence) -> Tensor | None:
        """B θ̇, None without tangents."""
        if self.problem.engine:
            raise self._engine_error()
        return _push(lambda some: self.residual(x, some), leaves, tangents)

    def _engine_error(self) -> InputError:
        fix = "Write the residual in torch operations for other derivatives"
        expected = "one derivative in reverse mode of an engine's residual"
        return InputError(message(self.problem.where, expected, "another one", fix))

    def solve(self, transpose: bool, b: Tensor, x: Tensor, leaves: Leaves) -> Tensor:
        """A⁻¹ b or A⁻ᵀ b, differentiable in everything."""
        return _Implicit.apply(_Linear(self, transpose), b, x, *leaves)

    def product(self, transpose: bool, v: Tensor, x: Tensor, leaves: Leaves) -> Tensor:
        """A v or Aᵀ v, differentiable in everything."""
        if transformed([v, x, *leaves]):

            def pulled(u: Tensor) -> Tensor:
                return torch.func.vjp(lambda y: self.residual(y, leaves), x)[1](u)[0]

            # Reversing twice, since torch.func.jvp cannot be opened within torch's own dual level.
            return pulled(v) if transpose else torch.func.vjp(pulled, torch.zeros_like(v))[1](v)[0]
        jacobian, arguments = self.problem.jacobian(), [x, *leaves[self.starts :]]
        return (jacobian.rmatvec if transpose else jacobian.matvec)(v, arguments)

    def factor(self, b: Tensor, x: Tensor, leaves: Leaves) -> Factor:
        """A at the root, ready to solve; made once."""
        if self.kept is not None:
            return self.kept
        where, solver = self.problem.where, self.solver
        if solver is None and self.near is not None:
            iterative = CG if self.problem.structure == "spd" else GMRES
            solver = iterative(preconditioner=self.near)
        if solver is None:
            solver = default_solver(self.problem.structure, b.shape[1], b.shape[0])
        operator = self.problem.jacobian().operator(b, [x, *leaves[self.starts :]])
        try:
            self.kept = solver.factor(operator, like=b)
        except ConvergenceError as error:
            raise _singular(where, "a singular one") from error
        except InputError as error:
            fix = (
                "A smooth minimum has such a Hessian: this is a saddle, a maximum or a flat valley"
            )
            expected = f"∂F/∂x at x* that is {self.problem.structure}"
            raise InputError(message(where, expected, "another one", f"{fix}. {error}")) from error
        if isinstance(self.kept, DenseFactor):
            small = _smallest_pivot(self.kept)
            if not small > 4 * b.shape[1] ** 0.5 * torch.finfo(b.dtype).eps:
                self.kept = None
                raise _singular(where, f"one with a pivot of {small:.1e} of its column")
        return self.kept


class _Linear:
    """The node of A v = b or Aᵀ v = b; its leaves are b, x and those of the root."""

    problem: RootProblem

    def __init__(self, root: Node, transpose: bool):
        self.root, self.transpose = root, transpose

    def fresh(self) -> _Linear:
        return _Linear(self.root.fresh(), self.transpose)

    def find(self, leaves: Leaves) -> Tensor:
        b, x, *rest = leaves
        factor, info = self.root.factor(b, x, rest), self.root.info or SolveInfo()
        guess = info.adjoint if self.transpose else None
        guess = guess if guess is not None and guess.shape == b.shape else None
        try:
            result = factor.solve(b, x0=guess, transpose=self.transpose)
        except ConvergenceError as error:
            where = f"{self.root.problem.where}, {'adjoint' if self.transpose else 'tangent'}"
            expected = f"a linear solve to {error.tol:.1e}"
            got = f"{error.residual:.3e} ‖b‖ after {error.iterations} iterations of {factor.name}"
            fix = (
                "If ∂F/∂x is nearly singular the root has no derivative here; otherwise give a "
                "linear_solver with more iterations, a preconditioner or a larger tol"
            )
            raise ConvergenceError(
                message(where, expected, got, fix),
                iterations=error.iterations,
                residual=error.residual,
                tol=error.tol,
            ) from error
        if self.transpose:
            info.record(result)
        return result.x

    def residual(self, v: Tensor, leaves: Leaves) -> Tensor:
        b, x, *rest = leaves
        return self.root.product(self.transpose, v, x, rest) - b

    def pull(self, v: Tensor, leaves: Leaves, wanted: Sequence[bool], u: Tensor) -> list:
        return _pull(lambda some: self.residual(v, some), leaves, wanted, u)

    def push(self, v: Tensor, leaves: Leaves, tangents: Sequence) -> Tensor | None:
        return _push(lambda some: self.residual(v, some), leaves, tangents)

    def solve(self, transpose: bool, b: Tensor, v: Tensor, leaves: Leaves) -> Tensor:
        _, x, *rest = leaves
        return _Implicit.apply(_Linear(self.root, transpose != self.transpose), b, x, *rest)


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(node, *leaves):
        return node.find(leaves)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.node = inputs[0]
        ctx.save_for_backward(output, *inputs[1:])
        ctx.save_for_forward(output, *inputs[1:])

    @staticmethod
    def backward(ctx, grad):
        x, *leaves = ctx.saved_tensors
        if not torch.is_grad_enabled() and not transformed([grad, x, *leaves]):
            x, leaves = x.detach(), [t.detach() for t in leaves]
        u = ctx.node.solve(True, grad, x, leaves)
        return None, *ctx.node.pull(x, leaves, ctx.needs_input_grad[1:], -u)

    @staticmethod
    def jvp(ctx, _, *tangents):
        # torch runs this with forward mode switched off, which would lose the tangents of outer levels
        # of torch.func; those of this level must go instead.
        with forward_ad._set_fwd_grad_enabled(transformed()):
            x, *leaves = (forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors)
            change = ctx.node.push(x, leaves, tangents)
            if change is None:
                return torch.zeros_like(x)
            return ctx.node.solve(False, -change, x, leaves)

    @staticmethod
    def vmap(info, in_dims, node, *leaves):
        # Right-hand sides of one matrix share its factor; other systems need their own.
        shared = isinstance(node, _Linear) and all(dim is None for dim in in_dims[2:])
        found = []
        for k in range(info.batch_size):
            pairs = zip(leaves, in_dims[1:], strict=True)
            part = [t if dim is None else t.select(dim, k) for t, dim in pairs]
            found.append(_Implicit.apply(node if shared else node.fresh(), *part))
        return torch.stack(found), 0


def transformed(tensors: Leaves = ()) -> bool:
    """Whether `torch.func` is at work, or one of the tensors carries a forward-mode tangent.

    The reverse mode of torch cannot be entered by hand then; `torch.func` can.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def _pull(function: Callable[[Leaves], Tensor], leaves: Leaves, wanted, u: Tensor) -> list:
    """⟨u, ∂function/∂leaf⟩ of the wanted leaves; None also where the function does not use one."""

    def fill(some: Leaves) -> list[Tensor]:
        rest = iter(some)
        return [next(rest) if w else t for t, w in zip(leaves, wanted, strict=True)]

    if not any(wanted):
        return [None] * len(leaves)
    chosen = [t for t, w in zip(leaves, wanted, strict=True) if w]
    if transformed([u, *leaves]):
        grads = torch.func.vjp(lambda *some: function(fill(some)), *chosen)[1](u)
    else:
        create = torch.is_grad_enabled()
        with torch.enable_grad():
            aliases = [alias(t) for t in chosen]
            value = function(fill(aliases))
        if not value.requires_grad:
            return [None] * len(leaves)
        grads = torch.autograd.grad(value, aliases, u, create_graph=create, allow_unused=True)
    found = iter(grads)
    return [next(found) if w else None for w in wanted]


def _push(function: Callable[[Leaves], Tensor], leaves: Leaves, tangents) -> Tensor | None:
    """(∂function/∂leaves) · tangents; None when there are none."""
    wanted = [
        t is not None and leaf.is_floating_point() for leaf, t in zip(leaves, tangents, strict=True)
    ]
    if not any(wanted):
        return None
    chosen = [t for t, w in zip(leaves, wanted, strict=True) if w]
    speeds = [t for t, w in zip(tangents, wanted, strict=True) if w]

    def part(*some: Tensor) -> Tensor:
        rest = iter(some)
        return function([next(rest) if w else t for t, w in zip(leaves, wanted, strict=True)])

    if transformed():
        return torch.func.jvp(part, tuple(chosen), tuple(speeds))[1]
    # Within a dual level of torch no second one can be opened: reverse the reverse mode instead.
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [alias(t) for t in chosen]
        value = part(*aliases)
        if not value.requires_grad:
            return torch.zeros_like(value)
        zero = torch.zeros_like(value, requires_grad=True)
        grads = torch.autograd.grad(value, aliases, zero, create_graph=True, allow_unused=True)
        total = sum((g * s).sum() for g, s in zip(grads, speeds, strict=True) if g is not None)
    return torch.autograd.grad(total, zero, create_graph=create)[0]


def _check_start(problem: RootProblem) -> None:
    """F at the first guess is finite and of the precision of x."""
    F = problem.residual(problem.x0, problem.detached())
    if F.dtype != problem.x0.dtype:
        fix = "Bring params and modules to the precision of x0"
        raise InputError(
            message(problem.where, f"F of {problem.x0.dtype}, as x0", str(F.dtype), fix)
        )
    if not bool(torch.isfinite(F).all()):
        got = f"{int((~torch.isfinite(F)).sum())} of {F.numel()} values that are not"
        fix = "Start where F is defined, and check the params"
        raise InputError(message(problem.where, "finite F(x0, params)", got, fix))


def _value(t: Tensor) -> Tensor:
    """What torch.func has wrapped, the first entry of a batch, without derivatives."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(t):
        batch = functorch.maybe_get_bdim(t) if functorch.is_batchedtensor(t) else -1
        t = functorch.get_unwrapped(t)
        t = t if batch < 0 else t.select(batch, 0)
    return t.detach()


def _singular(where: str, got: str) -> ConvergenceError:
    fix = (
        "The root is no differentiable function of params here: fix the null space (a constant, a rigid "
        "motion, a redundant constraint), regularize, or move away from the double root"
    )
    return ConvergenceError(message(where, "a regular ∂F/∂x at x*", got, fix))


def _smallest_pivot(factor: DenseFactor) -> float:
    """Smallest share of a pivot in its column, over the batch: what is left of it after elimination.

    Units of the unknowns cancel, so that a badly scaled but regular matrix passes.
    """
    if factor.spd:
        column = factor.lower.square().sum(-1)
        share = factor.lower.diagonal(dim1=-2, dim2=-1).square() / column
    else:
        upper = factor.lu.triu().abs()
        share = upper.diagonal(dim1=-2, dim2=-1) / upper.amax(-2)
    return float(share.min())
