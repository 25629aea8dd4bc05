"""A PDE as a hard constraint: a layer that fits weights of basis functions, and its exact derivative.

    w* = argmin ½ ‖r(w, θ)‖²,    F = ∂_w ½ ‖r‖² = 0    ⇒    dw*/dθ = −H⁻¹ ∂F/∂θ,    H = ∂F/∂w

θ is everything the rows hold, and through it the network that made the basis. With more rows than
unknowns r does not vanish, so H needs the second derivatives of r: JᵀJ alone gives a wrong gradient.

Source: Chalapathi et al. 2024 (PI-HC-MoE), §3.2; Negiar et al. 2023; Blondel et al. 2022.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from ...sim.core.factors import Factor
from ...sim.core.implicit import SolveInfo, implicit_solve
from ...sim.core.linear_map import Operator
from . import band
from .least_squares import Fit, FitConfig, fit, gradient, hessian
from .orthonormal import by_blocks, orthonormal
from .rows import Rows
from .transforms import transformed, with_steps

__all__ = ["GRADIENTS", "HardConstraint"]

log = logging.getLogger(__name__)

GRADIENTS = ("full", "gauss_newton", "unroll", "none")
"""How a constraint may be differentiated."""


class HardConstraint(nn.Module):
    """Weights w (S, N) that fit S systems of rows; see `Rows` for what they hold.

    Memory does not depend on the iterations, but for "unroll". Backward is one Cholesky factorization
    of the matrix that the fit ended with, and one pass through the rows.

    Args:
        residual: ρ, (z (S, Q, M), params) → (S, M), each row from its own numbers.
        config: of the fit.
        grad: "full" takes H and is exact; "gauss_newton" takes JᵀJ, which is exact only where the
            residual vanishes; "unroll" differentiates the iteration; "none" gives constants.
        throw: raise when a fit has not converged; otherwise its gradient is biased by what is left, and
            systems whose H is indefinite take JᵀJ, with a warning.

    Raises:
        InputError: unknown `grad`.

    Differentiable in all of the rows, once by "unroll", any number of times by "full", also under
    `torch.func` (grad, vjp, jvp, jacrev, jacfwd, hessian, vmap).
    """

    def __init__(
        self, residual: Any, config: FitConfig | None = None, grad: str = "full", throw: bool = True
    ) -> None:
        super().__init__()
        if grad not in GRADIENTS:
            expected = f"grad out of {GRADIENTS}"
            raise InputError(message("HardConstraint", expected, grad, "Choose one"))
        self.residual, self.config = residual, config or FitConfig()
        self.grad, self.throw = grad, throw
        self.last: Fit | None = None
        """The last fit: cost, iterations, cosine of every system."""
        self.info = SolveInfo()
        """Residual of the last backward solve."""

    def forward(self, rows: Rows, start: Tensor | None = None) -> Tensor:
        """Weights (S, N).

        Args:
            rows: what to fit.
            start: first guess (S, N), without gradient; default as `FitConfig.start` says.

        Raises:
            InputError: shapes that do not fit, fewer rows than unknowns, numbers that are not finite, a
                residual that does not depend on z, reads other rows or closes over tensors with
                gradient; in backward: H not positive definite, i.e. basis functions that the rows
                cannot tell apart, or a saddle.
            ConvergenceError: with iterations and residual, if `throw`.
        """
        where = "HardConstraint"
        if torch.is_inference_mode_enabled():  # slopes of the residual need autograd
            with torch.inference_mode(False), torch.no_grad():
                return self(rows.map(Tensor.clone), None if start is None else start.clone())
        if orders := transformed():
            if self.grad == "unroll":
                fix = 'Take "full"'
                raise InputError(message(where, "grad full under torch.func", self.grad, fix))
            steps = {"full": orders, "gauss_newton": 1, "none": 0}[self.grad]
            return with_steps(self._found, self.residual, rows, start, steps)
        start = self._checked(where, rows, start)
        if self.grad in ("full", "gauss_newton") and torch.is_grad_enabled():
            rows.closed(where, self.residual)
        if not self.config.orthonormal:
            return self._solve(where, rows, start)
        # A constant: the minimum does not depend on the variables that it is found in.
        X, first = self._turned(rows, start)
        w = by_blocks(X, self._solve(where, rows.turn(X), first))
        assert self.last is not None
        self.last = dataclasses.replace(self.last, w=w.detach())
        return w

    def _checked(self, where: str, rows: Rows, start: Tensor | None) -> Tensor:
        """The start, where everything is as it should be."""
        rows.check(where, self.residual)
        if self.config.sweeps and not hasattr(self.residual, "frozen"):
            fix = "Take sweeps=0, or an object with residual and frozen(z, params)"
            raise InputError(message(where, "a residual with frozen() for sweeps", "none", fix))
        S, N = len(rows.terms), rows.unknowns
        if start is None:
            linear = self.config.start == "linear"
            start = rows.projected() if linear else rows.terms.new_zeros(S, N)
        if start.shape != (S, N) or start.device != rows.terms.device:
            expected = f"a start of shape {(S, N)} on {rows.terms.device}"
            raise InputError(message(where, expected, start, "Match it"))
        start = start.detach().to(rows.terms)
        with torch.no_grad():
            first = self.residual(rows.numbers(start), rows.params)
        bad = int((~torch.isfinite(first)).sum())
        if bad:
            got = f"{bad} of {first.numel()} values that are not"
            fix = "Give a start at which it is defined, or leave those rows out"
            raise InputError(message(where, "a finite residual at the start", got, fix))
        return start

    def _turned(self, rows: Rows, start: Tensor) -> tuple[Tensor, Tensor]:
        """X of `orthonormal` and the start v in the new weights."""
        X = orthonormal(self.residual, rows.detach(), start)
        right = start.unflatten(1, X.shape[1:3])[..., None]
        return X, torch.linalg.solve_triangular(X, right, upper=True).flatten(1)

    def _found(self, rows: Rows, start: Tensor | None) -> tuple[Tensor, ...]:
        """What `with_steps` asks for."""
        where = "HardConstraint"
        start = self._checked(where, rows, start)
        X = start.new_zeros(len(start), 0, 0, 0)
        if self.config.orthonormal:
            X, start = self._turned(rows, start)
            rows = rows.turn(X)
        result = fit(self.residual, rows, start, self.config)
        self._keep(where, result)
        normal = self._normal(rows, result)
        normal.ready()
        assert normal.lower is not None
        return result.w, normal.lower, normal.s, X

    def _solve(self, where: str, rows: Rows, start: Tensor) -> Tensor:
        if self.grad == "unroll":
            result = fit(self.residual, rows, start, self.config)
            self._keep(where, result)
            return result.w
        frozen = rows.detach()
        with torch.no_grad():
            result = fit(self.residual, frozen, start, self.config)
        self._keep(where, result)
        w = result.w
        if self.grad == "none" or not torch.is_grad_enabled():
            return w
        return implicit_solve(
            lambda x, theta: gradient(self.residual, theta, x),
            lambda *_: w,
            w,
            rows,
            structure="spd",
            adjoint_solver=self._normal(frozen, result),
            tol=math.inf,  # the fit knows what it has reached, and has raised
            batch_dims=1,
            info=self.info,
        )

    def _normal(self, rows: Rows, found: Fit) -> _Normal:
        full = self.grad == "full"
        known = found.curvature if full == (self.config.curvature == "full") else None
        return _Normal(self.residual, rows, found.w, full, self.throw, known)

    def _keep(self, where: str, result: Fit) -> None:
        self.last = result.detach()
        tol = self.config.tol or (1e-9 if result.w.dtype == torch.float64 else 1e-4)
        if self.throw:
            self.last.require(where, tol)


class _Normal(Factor):
    """Cholesky factors of H or G, scaled to a unit diagonal, made when first needed; one refinement.

    `known` is that matrix where the fit has made it.
    """

    name = "HardConstraint.backward"

    def __init__(
        self,
        residual: Any,
        rows: Rows,
        w: Tensor,
        full: bool,
        throw: bool,
        known: Tensor | None = None,
    ) -> None:
        self.tol = 1e-6 if w.dtype == torch.float64 else 1e-2
        self.make, self.lower = lambda exact: hessian(residual, rows, w, full and exact), None
        self.throw, self.known = throw, known
        self.operator = Operator(self._product, self._product, w)

    def _product(self, v: Tensor) -> Tensor:
        return band.product(self.A, v)

    def _solve(self, b, x0, transpose, tol):
        if self.lower is None:
            self.ready()
        x = self._once(b)
        x = x + self._once(b - self._product(x))
        return x, torch.zeros(len(b), dtype=torch.long, device=b.device)

    def ready(self) -> None:
        """Factorize, or raise `InputError`."""
        self._factorize(True, self.known)
        bad = self.info != 0
        if bool(bad.any()) and not self.throw:
            # Not a minimum yet, as `throw=False` allows: its gradient is approximate anyway.
            log.warning(
                "%s: %d of %d systems by JᵀJ, H is indefinite", self.name, bad.sum(), len(bad)
            )
            exact = self.A
            self._factorize(False)
            self._factorize(
                True, torch.where(bad.reshape(-1, *[1] * (exact.ndim - 1)), self.A, exact)
            )
        count = int((self.info != 0).sum())
        if count:
            first = int((self.info != 0).nonzero()[0])
            got = f"{count} of {len(bad)} that are not, the first system {first}"
            fix = "Add a ridge, sample more points, or use fewer basis functions"
            raise InputError(message(self.name, "H positive definite", got, fix))

    def _factorize(self, exact: bool, A: Tensor | None = None) -> None:
        self.A = self.make(exact) if A is None else A
        D = band.diagonal(self.A)
        self.s = D.clamp_min(torch.finfo(D.dtype).tiny).rsqrt()
        self.lower, self.info = band.cholesky(band.rescale(self.A, self.s))
        # What elimination leaves of a column: round-off alone, where functions are alike.
        pivot = band.diagonal(self.lower).square().amin(1)
        level = 4 * D.shape[1] ** 0.5 * torch.finfo(D.dtype).eps
        self.info = torch.where(pivot > level, self.info, self.info.clamp_min(1))

    def _once(self, b: Tensor) -> Tensor:
        return self.s * band.solve(self.lower, self.s * b)
