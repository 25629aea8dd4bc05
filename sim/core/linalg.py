"""Linear solves A x = b that know their adjoint.

    dL/db = u,    dL/dA = −u xᵀ  (on the pattern of A only),    Aᵀ u = dL/dx

One interface for iterative and direct solvers: `solver.factor(A)` does the work that does not
depend on b, and the factor solves with A and with Aᵀ. `linear_solve` is the differentiable form;
it calls a solver once forward and once backward, with the same factor, and can be differentiated
any number of times. The solvers themselves run without a graph.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, message
from .factors import (
    DenseFactor,
    Factor,
    IterativeFactor,
    LinearResult,
    MultigridFactor,
    Preconditioner,
    SparseFactor,
)
from .linear_map import LinearMap, SparseMatrix, as_map, as_operator, vjp

__all__ = [
    "AMG",
    "CG",
    "FCG",
    "GMRES",
    "DenseDirect",
    "DirectSparse",
    "Factor",
    "LinearResult",
    "LinearSolver",
    "SparseMatrix",
    "default_solver",
    "jacobi",
    "linear_solve",
]

STRUCTURES = ("spd", "symmetric", "general")


class LinearSolver(abc.ABC):
    """A way to solve A x = b. Frozen settings only: one solver serves any number of matrices."""

    @abc.abstractmethod
    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        """Prepare A: dense tensor (n, n) or (B, n, n), sparse tensor, `SparseMatrix`, scipy
        sparse matrix, `Operator`, or a function v ↦ A v of the shape of b.

        `like` gives dtype, device and shape of the right-hand sides where A cannot.
        """

    def solve(self, A: Any, b: Tensor, **kwargs: Any) -> LinearResult:
        """Solve A x = b once; arguments as in `factor` and `Factor.solve`."""
        return self.factor(A, like=b).solve(b, **kwargs)


@dataclasses.dataclass(frozen=True)
class CG(LinearSolver):
    """Preconditioned conjugate gradients for symmetric positive definite A, batched.

    Each system of a batch stops by itself. With a preconditioner the flexible form is used,
    β = ⟨z', r' − r⟩ / ⟨z, r⟩, so that the preconditioner may be nonlinear.

    Source: Hestenes & Stiefel 1952; Notay 2000 for the flexible form.
    """

    tol: float | None = None
    """‖b − A x‖ / ‖b‖ to reach [-]; default 1e-10 in float64, 1e-5 in float32."""
    max_iterations: int | None = None
    """Default 10 n, which leaves room for round-off in ill-conditioned systems."""
    preconditioner: Preconditioner | Factor | None = None
    """v ↦ M⁻¹ v on (B, n), symmetric positive definite; or the factor of a nearby matrix."""
    null_space: Tensor | None = None
    """Vectors (k, n) that A annihilates, such as ones for a pressure without Dirichlet boundary:
    b and x are projected orthogonally to them, which makes the solve regular and differentiable."""
    check: bool = True
    """Test symmetry with one more product, ⟨q, A p⟩ = ⟨p, A q⟩ for a random q: CG returns wrong
    answers for non-symmetric A without complaint."""

    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        return IterativeFactor(
            "CG",
            as_operator(A, like),
            self.tol,
            self.max_iterations,
            self.preconditioner,
            check=self.check,
            null_space=self.null_space,
        )


@dataclasses.dataclass(frozen=True)
class FCG(LinearSolver):
    """Flexible conjugate gradients for symmetric positive definite A, batched, with any preconditioner.

    It may vary, be nonsymmetric or a network: each direction is made A-orthogonal to the last ones and
    followed by an exact line search, so the error in the norm of A never grows.

    Source: Notay 2000; Kaneda et al. 2023.
    """

    tol: float | None = None
    """‖b − A x‖ / ‖b‖ to reach [-]; default 1e-10 in float64, 1e-5 in float32."""
    max_iterations: int | None = None
    """Default 10 n."""
    preconditioner: Preconditioner | Factor | None = None
    """v ↦ q on (B, n), of any kind; or the factor of a nearby matrix."""
    history: int | None = 2
    """Directions kept; 2 are enough for a symmetric linear preconditioner. None: all, 0: none."""

    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        return IterativeFactor(
            "FCG",
            as_operator(A, like),
            self.tol,
            self.max_iterations,
            self.preconditioner,
            history=self.history,
        )


@dataclasses.dataclass(frozen=True)
class GMRES(LinearSolver):
    """Restarted flexible GMRES for any regular A, batched; memory grows with `restart` vectors.

    Source: Saad & Schultz 1986; Saad 1993 for the flexible form.
    """

    tol: float | None = None
    """‖b − A x‖ / ‖b‖ to reach [-]; default 1e-10 in float64, 1e-5 in float32."""
    max_iterations: int | None = None
    """Default 10 n, at least ten cycles."""
    preconditioner: Preconditioner | Factor | None = None
    """v ↦ M⁻¹ v on (B, n), applied from the right, so the residual is the true one; or the factor
    of a nearby matrix, possibly in lower precision."""
    null_space: Tensor | None = None
    """Vectors (k, n) that A annihilates, such as ones for a pressure without Dirichlet boundary:
    b and x are projected orthogonally to them, which makes the solve regular and differentiable."""
    restart: int = 50
    """Basis vectors per cycle: 50 solves most preconditioned systems in one cycle."""

    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        return IterativeFactor(
            "GMRES",
            as_operator(A, like),
            self.tol,
            self.max_iterations,
            self.preconditioner,
            restart=self.restart,
            null_space=self.null_space,
        )


@dataclasses.dataclass(frozen=True)
class DenseDirect(LinearSolver):
    """LU, or Cholesky for `structure="spd"`, of dense A; batched, CPU and CUDA."""

    structure: str = "general"
    """"spd" uses Cholesky and raises InputError if A is not symmetric positive definite."""
    tol: float | None = None
    """Residual accepted [-]; default as for the iterative solvers."""

    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        return DenseFactor(as_operator(A, like), self.structure, self.tol)


@dataclasses.dataclass(frozen=True)
class DirectSparse(LinearSolver):
    """Sparse LU (SuperLU) on the CPU; tensors on other devices are copied there and back."""

    structure: str = "general"
    """"spd" and "symmetric" choose an ordering for symmetric patterns, which fills in less."""
    tol: float | None = None
    """Residual accepted [-]; default as for the iterative solvers."""

    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        return SparseFactor(as_operator(A, like), self.structure, self.tol)


@dataclasses.dataclass(frozen=True)
class AMG(LinearSolver):
    """Algebraic multigrid (pyamg, on the CPU) as preconditioner of CG (spd) or GMRES.

    The hierarchy is built once per matrix and serves A; Aᵀ gets its own unless A is symmetric.
    """

    structure: str = "spd"
    """"spd": smoothed aggregation with CG; otherwise GMRES around it."""
    tol: float | None = None
    """‖b − A x‖ / ‖b‖ to reach [-]; default as for CG."""
    max_iterations: int | None = None
    """Default as for CG; a working hierarchy needs 10 to 30."""
    near_null_space: Tensor | None = None
    """Vectors A almost annihilates, shape (n, k): rigid motions for elasticity."""

    def factor(self, A: Any, *, like: Tensor | None = None) -> Factor:
        return MultigridFactor(
            as_operator(A, like),
            self.structure,
            self.tol,
            self.max_iterations,
            self.near_null_space,
        )


def default_solver(structure: str, n: int, systems: int = 1) -> LinearSolver:
    """Dense factors up to 512 unknowns (and 128 MiB of them), then CG or GMRES by structure."""
    if structure not in STRUCTURES:
        raise InputError(message("default_solver", f"a structure of {STRUCTURES}", structure))
    if n <= 512 and systems * n * n <= 2**24:
        return DenseDirect(structure)
    return CG() if structure == "spd" else GMRES()


def jacobi(diagonal: Tensor) -> Preconditioner:
    """Preconditioner v ↦ v / diag(A) from the diagonal, shape (n,) or (B, n)."""
    if not bool((diagonal != 0).all()):
        raise InputError(message("jacobi", "a diagonal without zeros", diagonal, "Use another"))
    inverse = 1.0 / diagonal.detach()
    return lambda v: inverse * v


def linear_solve(
    A: Any,
    b: Tensor,
    *,
    params: Any = (),
    solver: LinearSolver | Factor | None = None,
    structure: str = "general",
    transpose: bool = False,
) -> Tensor:
    """Solve A x = b as a differentiable operation.

    Args:
        A: dense tensor (n, n) or (B, n, n), `SparseMatrix`, or a torch function
            `(v, params) -> A(params) v`, linear in v.
        b: right-hand side, shape (n,) or (B, n).
        params: tree of tensors that a function A depends on; whatever else it closes over is a
            constant.
        solver: solver, or a factor of this very A that is at hand; default by `structure`, n.
        structure: "spd", "symmetric" or "general"; chooses the default solver.
        transpose: solve with Aᵀ.

    Returns:
        x, shape of b.

    Raises:
        ConvergenceError: forward or backward, when the solver did not reach its tolerance.
        InputError: when A contradicts the declared structure, or shapes do not fit.

    Differentiable in b and in A (its tensor, its values on the pattern, or `params`), any number
    of times; each derivative costs one solve with the factor of the forward pass.
    Source: Giles 2008, "Collected matrix derivative results", section 2.3.
    """
    rows = b.reshape(-1, b.shape[-1])
    linear_map, leaves = as_map(A, params, batched=b.dim() > 1)
    _check_shape(rows, A)
    solver = solver or default_solver(structure, rows.shape[1], rows.shape[0])
    return apply_solve(linear_map, solver, transpose, rows, leaves).reshape(b.shape)


def apply_solve(
    linear_map: LinearMap,
    solver: LinearSolver | Factor,
    transpose: bool,
    b: Tensor,
    leaves: Sequence[Tensor],
    x0: Tensor | None = None,
    record: Callable[[LinearResult], None] | None = None,
) -> Tensor:
    """The differentiable solve for b of shape (B, n) that everything else is built on."""
    if isinstance(solver, LinearSolver):
        with torch.no_grad():
            solver = solver.factor(linear_map.operator(b, leaves), like=b)
    return _Solve.apply(linear_map, solver, transpose, x0, record, b, *leaves)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, linear_map, factor, transpose, x0, record, b, *leaves):
        result = factor.solve(b, x0=x0, transpose=transpose)
        if record is not None:
            record(result)
        ctx.linear_map, ctx.factor, ctx.transpose = linear_map, factor, transpose
        ctx.save_for_backward(result.x, *leaves)
        return result.x

    @staticmethod
    def backward(ctx, grad):
        x, *leaves = ctx.saved_tensors
        back = not ctx.transpose
        u = _Solve.apply(ctx.linear_map, ctx.factor, back, None, None, grad, *leaves)
        apply = ctx.linear_map.rmatvec if ctx.transpose else ctx.linear_map.matvec
        x = x if torch.is_grad_enabled() else x.detach()
        grads = vjp(lambda aliases: apply(x, aliases), leaves, ctx.needs_input_grad[6:], -u)
        return None, None, None, None, None, u, *grads


def _check_shape(rows: Tensor, A: Any) -> None:
    n = A.n if isinstance(A, SparseMatrix) else A.shape[-1] if isinstance(A, Tensor) else None
    if n is not None and n != rows.shape[1]:
        raise InputError(message("linear_solve", f"b of shape (..., {n})", rows))
