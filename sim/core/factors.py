"""What a linear solver keeps of a matrix: factors and hierarchies that serve A and Aᵀ."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

import scipy.sparse.linalg
import torch
from torch import Tensor

from .errors import ConvergenceError, InputError, message
from .krylov import Monitor, cg, check_symmetric, fcg, gmres
from .linear_map import Operator

__all__ = ["DenseFactor", "Factor", "IterativeFactor", "LinearResult"]
__all__ += ["MultigridFactor", "Preconditioner", "SparseFactor"]

Preconditioner = Callable[[Tensor], Tensor]
"""v ↦ M⁻¹ v for v of the shape of b; it may vary from call to call, as a network does."""


@dataclasses.dataclass(frozen=True)
class LinearResult:
    """What a linear solve gave. Tensors have the batch shape of b: () or (B,)."""

    x: Tensor
    """Solution, shape of b, without graph."""
    iterations: Tensor
    """Iterations done per system; 0 for a direct solve."""
    residual: Tensor
    """‖b − A x‖ / ‖b‖ per system [-]; recomputed, not the recursive estimate."""
    converged: Tensor
    """Whether the residual reached the tolerance, per system."""


class Factor(abc.ABC):
    """Everything about A that a solve needs, ready for several right-hand sides."""

    operator: Operator
    tol: float | None
    name: str
    project: Callable[[Tensor], Tensor] | None = None

    def solve(
        self, b: Tensor, *, x0: Tensor | None = None, transpose: bool = False, throw: bool = True
    ) -> LinearResult:
        """Solve A x = b, or Aᵀ x = b with `transpose`.

        Args:
            b: right-hand side, shape (n,) or (B, n).
            x0: first guess of the same shape; direct solvers do not need it.
            transpose: solve with Aᵀ.
            throw: raise when a system did not converge.

        Raises:
            ConvergenceError: when ‖b − A x‖ > tol ‖b‖ for any system and `throw`.
        """
        with torch.no_grad():
            rows = b.detach().reshape(-1, b.shape[-1])
            rows = rows if self.project is None else self.project(rows)
            tol = default_tol(b.dtype) if self.tol is None else self.tol
            guess = None if x0 is None else x0.detach().reshape(rows.shape)
            x, iterations = self._solve(rows, guess, transpose, tol)
            apply = self.operator.rmatvec if transpose else self.operator.matvec
            norm = rows.norm(dim=1)
            residual = (rows - apply(x)).norm(dim=1) / torch.where(norm > 0, norm, 1.0)
        # The recursive residual of an iteration drifts from the true one by round-off; ten times
        # the tolerance separates drift from failure.
        converged = residual <= 10 * tol
        shape = b.shape[:-1]
        if throw and not bool(converged.all()):
            worst, count = float(residual.max()), int((~converged).sum())
            raise ConvergenceError(
                message(
                    f"{self.name}.solve",
                    f"‖b − A x‖ <= {tol:.1e} ‖b‖",
                    f"{worst:.3e} ‖b‖ after {int(iterations.max())} iterations "
                    f"({count} of {len(residual)} systems failed)",
                    "Raise max_iterations or tol, give a preconditioner, or use a direct solver",
                ),
                iterations=int(iterations.max()),
                residual=worst,
                tol=tol,
            )
        return LinearResult(
            x.reshape(b.shape), *(t.reshape(shape) for t in (iterations, residual, converged))
        )

    @abc.abstractmethod
    def _solve(
        self, b: Tensor, x0: Tensor | None, transpose: bool, tol: float
    ) -> tuple[Tensor, Tensor]:
        """Solve for b of shape (B, n); return x (B, n) and iterations (B,)."""


class IterativeFactor(Factor):
    """CG, FCG or GMRES bound to one operator; `preconditioner` may be that of another factor.

    FCG keeps `history` directions and takes any preconditioner, see `core.krylov.fcg`.
    """

    monitor: Monitor | None = None

    def __init__(
        self,
        name: str,
        operator: Operator,
        tol: float | None = None,
        max_iterations: int | None = None,
        preconditioner: Preconditioner | Factor | None = None,
        *,
        restart: int = 50,
        check: bool = True,
        null_space: Tensor | None = None,
        history: int | None = 2,
    ):
        self.name, self.operator, self.tol, self.history = name, operator, tol, history
        if null_space is not None:
            self.project, self.operator = _without(null_space, operator)
        self.max_iterations, self.preconditioner = max_iterations, preconditioner
        self.restart, self.unchecked = restart, check

    def _solve(self, b, x0, transpose, tol):
        apply = self.operator.rmatvec if transpose else self.operator.matvec
        x = torch.zeros_like(b) if x0 is None else x0
        M = self.preconditioner
        if isinstance(M, Factor):
            near = M
            low = near.operator.like.dtype
            M = lambda v: near._solve(v.to(low), None, transpose, tol)[0].to(v)  # noqa: E731
        if self.name == "FCG":
            limit = 10 * b.shape[1] if self.max_iterations is None else self.max_iterations
            return fcg(apply, b, x, tol, limit, M or (lambda v: v), self.history, self.monitor)
        if self.name == "CG":
            if self.unchecked:
                check_symmetric("CG.solve", apply, b)
                self.unchecked = False
            limit = 10 * b.shape[1] if self.max_iterations is None else self.max_iterations
            return cg(apply, b, x, tol, limit, M, self.monitor)
        restart = min(self.restart, b.shape[1])
        limit = 10 * max(b.shape[1], restart)
        limit = limit if self.max_iterations is None else self.max_iterations
        return gmres(apply, b, x, tol, limit, M, restart)


class DenseFactor(Factor):
    """LU or Cholesky of dense A, batched."""

    name = "DenseDirect"

    def __init__(self, operator: Operator, structure: str = "general", tol: float | None = None):
        self.operator, self.tol = operator, tol
        A = operator.dense()
        self.spd = structure == "spd"
        if structure != "general":
            _check_dense_symmetric(A)
        if self.spd:
            self.lower, info = torch.linalg.cholesky_ex(A)
            if bool((info != 0).any()):
                fix = "Declare structure='symmetric' or 'general'"
                raise InputError(message("DenseDirect", "A positive definite", A, fix))
        else:
            self.lu, self.pivots, info = torch.linalg.lu_factor_ex(A)
            if bool((info != 0).any()):
                fix = "Fix the null space (rigid motion, constant pressure) first"
                raise ConvergenceError(message("DenseDirect", "a regular A", "a singular one", fix))

    def _solve(self, b, x0, transpose, tol):
        rhs = b.unsqueeze(-1)
        if self.spd:
            x = torch.cholesky_solve(rhs, self.lower)
        else:
            x = torch.linalg.lu_solve(self.lu, self.pivots, rhs, adjoint=transpose)
        return x.squeeze(-1), torch.zeros(len(b), dtype=torch.long, device=b.device)


class SparseFactor(Factor):
    """SuperLU of a sparse A on the CPU."""

    name = "DirectSparse"

    def __init__(self, operator: Operator, structure: str = "general", tol: float | None = None):
        self.operator, self.tol = operator, tol
        A = _sparse_of(operator, self.name)
        symmetric = structure != "general"
        kwargs = {"permc_spec": "MMD_AT_PLUS_A", "options": {"SymmetricMode": True}}
        if symmetric:
            defect, scale = abs(A - A.T).max(), abs(A).max()
            if defect > 1e-6 * scale:
                got = f"max|A − Aᵀ| = {defect:.3e}, max|A| = {scale:.3e}"
                raise InputError(message(self.name, "a symmetric A", got, "Use 'general'"))
        try:
            self.lu = scipy.sparse.linalg.splu(A, **(kwargs if symmetric else {}))
        except RuntimeError as error:
            fix = "Fix the null space (rigid motion, constant pressure) first"
            raise ConvergenceError(message(self.name, "a regular A", str(error), fix)) from error

    def _solve(self, b, x0, transpose, tol):
        rhs = b.cpu().numpy().astype(self.lu.L.dtype, copy=False)
        trans = "T" if transpose else "N"
        block = self.lu.shape[0] != b.shape[1]
        x = self.lu.solve(rhs.reshape(-1) if block else rhs.T.copy(), trans)
        x = torch.as_tensor(x.reshape(b.shape) if block else x.T.copy())
        return x.to(b), torch.zeros(len(b), dtype=torch.long, device=b.device)


class MultigridFactor(Factor):
    """Multigrid hierarchies of A, and of Aᵀ where it differs."""

    name = "AMG"

    def __init__(
        self,
        operator: Operator,
        structure: str = "spd",
        tol: float | None = None,
        max_iterations: int | None = None,
        near_null_space: Tensor | None = None,
    ):
        try:
            import pyamg
        except ImportError as error:
            raise ImportError(
                'AMG: expected the package pyamg; got none. pip install "rheograd[amg]".'
            ) from error
        self.operator, self.tol = operator, tol
        A = _sparse_of(operator, self.name).tocsr()
        B = None if near_null_space is None else near_null_space.detach().cpu().numpy()
        mode = "nonsymmetric" if structure == "general" else "symmetric"
        outer = "CG" if structure == "spd" else "GMRES"
        self.parts = {}
        for transpose in (False,) if mode == "symmetric" else (False, True):
            matrix = A.T.tocsr() if transpose else A
            levels = pyamg.smoothed_aggregation_solver(matrix, B=B, symmetry=mode)
            cycle = _on_host(levels.aspreconditioner(cycle="V"))
            self.parts[transpose] = IterativeFactor(outer, operator, tol, max_iterations, cycle)

    def _solve(self, b, x0, transpose, tol):
        return self.parts.get(transpose, self.parts[False])._solve(b, x0, transpose, tol)


def _without(null_space: Tensor, operator: Operator) -> tuple[Callable[[Tensor], Tensor], Operator]:
    """The projector P = I − N Nᵀ for the rows (k, n) of the null space, and P A P."""
    N = torch.linalg.qr(null_space.detach().reshape(-1, null_space.shape[-1]).mT).Q.mT

    def project(v: Tensor) -> Tensor:
        return v - (v @ N.mT) @ N

    def forward(v: Tensor) -> Tensor:
        return project(operator.matvec(project(v)))

    def backward(v: Tensor) -> Tensor:
        return project(operator.rmatvec(project(v)))

    return project, Operator(forward, backward, operator.like)


def _on_host(cycle: scipy.sparse.linalg.LinearOperator) -> Preconditioner:
    def apply(v: Tensor) -> Tensor:
        flat = v.cpu().numpy()
        if cycle.shape[0] != v.shape[1]:
            return torch.as_tensor(cycle.matvec(flat.reshape(-1)).reshape(v.shape)).to(v)
        return torch.stack([torch.as_tensor(cycle.matvec(row)) for row in flat]).to(v)

    return apply


def _sparse_of(operator: Operator, name: str) -> scipy.sparse.csc_matrix:
    if operator.make_sparse is None:
        expected = "A as SparseMatrix, sparse tensor or scipy matrix"
        raise InputError(message(name, expected, "a function or a dense batch", "Use CG or GMRES"))
    return operator.make_sparse().tocsc()


def _check_dense_symmetric(A: Tensor) -> None:
    defect, scale = float((A - A.mT).abs().max()), float(A.abs().max())
    if defect > torch.finfo(A.dtype).eps ** 0.5 * scale:
        got = f"max|A − Aᵀ| = {defect:.3e}, max|A| = {scale:.3e}"
        raise InputError(message("DenseDirect", "a symmetric A", got, "Use structure='general'"))


def default_tol(dtype: torch.dtype) -> float:
    """What an iteration reaches in a well-scaled system: float32 stalls near 1e-6."""
    return 1e-10 if dtype == torch.float64 else 1e-5
