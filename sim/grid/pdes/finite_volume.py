"""Time steps of finite-volume PDEs with walls.

    ∂m(u)/∂t = rhs(u)

    "implicit_euler"   m(u₁) − m(u₀) = dt rhs(u₁)                      first order, damps everything stiff
    "crank_nicolson"   m(u₁) − m(u₀) = ½ dt [rhs(u₀) + rhs(u₁)]       second order, A-stable
    "rk4"              classical Runge–Kutta, m(u) = u only            fourth order, bounded by the grid

Implicit steps are Newton's; their derivative is one linear solve at the root. One field in 1-D with walls
has a tridiagonal Jacobian; others use Krylov iterations.

Source: Hairer & Wanner 1996, section IV.3.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import ConvergenceError, InputError, message
from ...core.factors import IterativeFactor
from ...core.implicit import Solution, SolveInfo, implicit_solve
from ...core.linalg import CG, GMRES
from ...core.linear_map import Operator
from ...core.roots import RootProblem
from .base import Evolution, Parameter, Prepared
from .grid import Grid
from .tridiagonal import Tridiagonal

__all__ = ["FiniteVolume", "Stepper"]

Stepper = Literal["implicit_euler", "crank_nicolson", "rk4"]
IMPLICITNESS = {"implicit_euler": 1.0, "crank_nicolson": 0.5}
EXPLICIT_LIMIT = 2.78
"""Classical Runge–Kutta is stable for real λ dt down to −2.785."""
ROUND_OFF = 30.0
"""Defect to reach, in units in the last place of the terms it is the sum of."""


class FiniteVolume(Evolution):
    """Steps of ∂m(u)/∂t = rhs(u); subclasses give `rhs`, perhaps `storage` and `rate`.

    Args:
        grid: any sides.
        dt: step [s].
        parameters: declarations by name.
        scheme: one of `schemes`.
        max_iterations: Newton iterations of an implicit step.
    """

    schemes: tuple[str, ...] = ("implicit_euler", "crank_nicolson", "rk4")
    linear = False
    """Whether rhs is linear in u and symmetric; then `product` gives its linear part."""

    def __init__(
        self,
        grid: Grid,
        dt: float,
        parameters: Mapping[str, Parameter],
        scheme: Stepper,
        max_iterations: int = 30,
    ) -> None:
        super().__init__(grid, dt, parameters)
        if scheme not in self.schemes:
            expected = f"scheme out of {self.schemes}"
            raise InputError(message(self.name, expected, scheme, "Choose one"))
        self.scheme, self.max_iterations = scheme, max_iterations
        self.info = SolveInfo()
        """Newton iterations and residual of the last implicit step."""

    @abc.abstractmethod
    def rhs(self, u: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Right-hand side [unit of m / s], (B, C, *cells)."""

    def storage(self, u: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """m(u)."""
        return u

    @abc.abstractmethod
    def rate(self, u: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Bound on the eigenvalues of ∂rhs/∂u [1/s]: of explicit steps, and of round-off."""

    def product(self, v: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """(∂rhs/∂u) v of a linear PDE, without walls' right-hand sides and sources."""
        raise NotImplementedError

    def advance(self, u: Tensor, p: Prepared) -> Tensor:
        if self.scheme == "rk4":
            with torch.no_grad():
                self.require_stable(self.rate(u, p.values).max(), EXPLICIT_LIMIT, self.scheme)
            return self._explicit(u, p)
        return self._implicit(u, p)

    def defect(self, u0: Tensor, u1: Tensor, p: Prepared) -> Tensor:
        if self.scheme == "rk4":
            return u1 - self._explicit(u0, p)
        theta = IMPLICITNESS[self.scheme]
        rate = theta * self.rhs(u1, p.values)
        if theta < 1:
            rate = rate + (1 - theta) * self.rhs(u0, p.values)
        return self.storage(u1, p.values) - self.storage(u0, p.values) - self.dt * rate

    def _explicit(self, u: Tensor, p: Prepared) -> Tensor:
        h = self.dt
        a = self.rhs(u, p.values)
        b = self.rhs(u + 0.5 * h * a, p.values)
        c = self.rhs(u + 0.5 * h * b, p.values)
        d = self.rhs(u + h * c, p.values)
        return u + h / 6 * (a + 2 * b + 2 * c + d)

    def _implicit(self, u: Tensor, p: Prepared) -> Tensor:
        def solve(residual, x, theta):
            # Graphs inside the solve are its own: hooks of a checkpoint around it would run the whole
            # segment again for each of them.
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
                return self._newton(residual, x, theta)

        krylov = (CG if self.linear else GMRES)(tol=max(10 * torch.finfo(u.dtype).eps, 1e-12))
        return implicit_solve(
            lambda x, theta: self.defect(theta[0], x, theta[1]),
            solve,
            u,
            (u, p),
            structure="spd" if self.linear else "general",
            adjoint_solver=Tridiagonal() if self._tridiagonal else krylov,
            tol=math.inf,  # Newton's method below knows what round-off allows, and raises
            batch_dims=1,
            info=self.info,
        )

    def _terms(self, u: Tensor, p: Prepared) -> Tensor:
        """Size of what the defect at u is the sum of, (B,)."""
        stiff = 1 + self.dt * float(self.rate(u, p.values).max())
        parts = (self.storage(u, p.values), self.dt * self.rhs(u, p.values), stiff * u)
        return sum(v.flatten(1).norm(dim=1) for v in parts)

    @property
    def _tridiagonal(self) -> bool:
        return self.grid.dim == 1 and not self.grid.periodic[0] and len(self.channels) == 1

    def _newton(self, residual, x: Tensor, theta) -> Solution:
        """Newton's method with halved steps where the defect does not fall."""
        problem = RootProblem(self.name, residual, x, theta, 1, "general")
        eps, tiny = torch.finfo(x.dtype).eps, torch.finfo(x.dtype).tiny
        rows, iteration = problem.x0, 0
        F = problem.residual(rows, problem.theta)
        norm, bound = F.norm(dim=1), ROUND_OFF * eps * self._terms(x, theta[1]) + tiny
        # Convergence is quadratic: a last step of √ε has left an error of ε.
        done = torch.zeros_like(norm, dtype=torch.bool)
        while iteration < self.max_iterations and not bool(done.all()):
            iteration += 1
            if self._tridiagonal:
                operator = problem.jacobian().operator(rows, [rows, *problem.theta])
                step = Tridiagonal().factor(operator).solve(F).x
            else:
                step = self._krylov(problem, rows, F, theta[1])
            t = torch.ones_like(norm)[:, None]
            for _ in range(20):
                trial = rows - t * step
                F_trial = problem.residual(trial, problem.theta)
                better = F_trial.norm(dim=1) < norm
                if bool((better | (norm <= bound)).all()):
                    break
                t = torch.where(better[:, None], t, 0.5 * t)
            moved = (t * step).norm(dim=1) / rows.norm(dim=1).clamp_min(tiny)
            rows = torch.where(better[:, None], trial, rows)
            F = torch.where(better[:, None], F_trial, F)
            norm = F.norm(dim=1)
            now = ROUND_OFF * eps * self._terms(problem.unpack(rows), theta[1])
            bound = torch.maximum(bound, now)
            settled = (moved <= eps**0.5) | ~better | self.linear
            done = (norm <= bound) & settled
            if not bool(better.any()):
                break
        if not bool((norm <= bound).all()):
            worst = int((norm / bound).argmax())
            got = f"a defect of {float(norm[worst]):.2e} in scene {worst} at dt = {self.dt:g} s"
            expected = f"‖defect‖ <= {float(bound[worst]):.2e} in {self.max_iterations} iterations"
            raise ConvergenceError(
                message(f"{self.name}.step", expected, got, "Lower dt"),
                iterations=iteration,
                residual=float(norm[worst]),
                tol=float(bound[worst]),
            )
        return Solution(problem.unpack(rows), iterations=iteration)

    def _krylov(self, problem: RootProblem, rows: Tensor, F: Tensor, p: Prepared) -> Tensor:
        eps = torch.finfo(F.dtype).eps
        if self.linear:
            implicit = self.dt * IMPLICITNESS[self.scheme]

            def product(v: Tensor) -> Tensor:
                u = v.reshape(-1, len(self.channels), *self.grid.cells)
                return (u - implicit * self.product(u, p.values)).reshape(v.shape)

            operator = Operator(product, product, F)
            return IterativeFactor("CG", operator, 30 * eps, check=False).solve(F, throw=False).x
        operator = problem.jacobian().operator(rows, [rows, *problem.theta])
        # Each Newton step cuts the defect by the accuracy of its solve; two or three suffice.
        return IterativeFactor("GMRES", operator, eps**0.5).solve(F, throw=False).x
