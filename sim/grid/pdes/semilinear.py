"""Semi-linear PDEs whose stiff part is diagonal in Fourier or cosine modes.

    ∂u/∂t = L u + N(u) + f,      L diagonal

    "etdrk4"          L exactly, N by Runge–Kutta: fourth order; explicit, bounded by N alone
    "crank_nicolson"  u₁ − u₀ = ½ dt [rhs(u₀) + rhs(u₁)]: second order, A-stable, its residual is local
                      in time; solved by accelerated fixed-point sweeps, differentiated at the root

Source: Cox & Matthews 2002, Eqs. 26–29; Kassam & Trefethen 2005.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import InputError, message
from ...core.implicit import SolveInfo
from .base import Evolution, Parameter, Prepared
from .grid import Grid
from .spectral import Cosine, Fourier, phi_functions
from .sweeps import swept

__all__ = ["Scheme", "Semilinear"]

Scheme = Literal["etdrk4", "crank_nicolson"]
SCHEMES = ("etdrk4", "crank_nicolson")
EXPLICIT_LIMIT = 2.8
"""Classical Runge–Kutta is stable for |λ| dt up to 2.83 on the imaginary axis, 2.79 on the real one."""
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
"""‖error of an implicit step‖ / ‖u‖ to reach: close to round-off of the transforms."""


class Semilinear(Evolution):
    """Steps of ∂u/∂t = L u + N(u) + f; subclasses give `linear` and `nonlinear`.

    Args:
        grid: all sides periodic, or all walls with zero slope.
        dt: step [s].
        parameters: declarations by name.
        scheme: "etdrk4" or "crank_nicolson".
        max_iterations: sweeps of an implicit step.

    Raises:
        InputError: unknown scheme, sides without a diagonal basis.
    """

    def __init__(
        self,
        grid: Grid,
        dt: float,
        parameters: Mapping[str, Parameter],
        scheme: Scheme = "etdrk4",
        max_iterations: int = 200,
    ) -> None:
        super().__init__(grid, dt, parameters)
        if scheme not in SCHEMES:
            raise InputError(message(self.name, f"scheme out of {SCHEMES}", scheme, "Choose one"))
        sides = grid.walls.values()
        if not sides:
            self.basis: Fourier | Cosine = Fourier(grid)
        elif not any(grid.periodic) and all(s.alpha == s.gamma == 0 for s in sides):
            self.basis = Cosine(grid)
            for name in grid.walls:  # a slope has no place in a basis of cosines
                del self.parameters[name]
        else:
            expected = 'sides all "periodic" or all "neumann"'
            fix = "Other sides have no diagonal basis; use a finite-volume PDE"
            raise InputError(message(self.name, expected, f"{grid.sides}", fix))
        self.scheme, self.max_iterations = scheme, max_iterations
        self.info = SolveInfo()
        """Iterations and residual of the last implicit step."""

    @abc.abstractmethod
    def linear(self, values: dict[str, Tensor], like: Tensor) -> Tensor:
        """Eigenvalues of L [1/s], real, broadcastable to (B, C, *modes)."""

    @abc.abstractmethod
    def nonlinear(self, hat: Tensor, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """N in modes, from u in modes; and its rate [1/s], which bounds explicit steps."""

    def source(self, forcing: Tensor) -> Tensor:
        """Forcing in modes."""
        full = forcing.expand(*forcing.shape[:2], *self.grid.cells)
        return self.basis.forward(full)

    def rhs(self, u: Tensor, p: Prepared) -> Tensor:
        """L u + N(u) + f [unit of u / s], (B, C, *cells)."""
        hat = self.basis.forward(u)
        total = p.derived["L"] * hat + self.nonlinear(hat, p.values)[0]
        return self.basis.inverse(total + self.source(p.values["forcing"]))

    def derive(self, values: dict[str, Tensor], like: Tensor) -> dict[str, Tensor]:
        L = self.linear(values, like)
        if self.scheme == "crank_nicolson":
            return {"L": L}
        z = L * self.dt
        one, two, three = phi_functions(z)
        half = phi_functions(0.5 * z)[0]
        return {
            "L": L,
            "full": torch.exp(z),
            "half": torch.exp(0.5 * z),
            "inner": 0.5 * self.dt * half,
            "first": self.dt * (one - 3 * two + 4 * three),
            "middle": self.dt * (2 * two - 4 * three),
            "last": self.dt * (4 * three - two),
        }

    def advance(self, u: Tensor, p: Prepared) -> Tensor:
        if self.scheme == "etdrk4":
            return self._explicit(u, p, check=True)
        return self._implicit(u, p)

    def defect(self, u0: Tensor, u1: Tensor, p: Prepared) -> Tensor:
        if self.scheme == "etdrk4":
            return u1 - self._explicit(u0, p, check=False)
        return u1 - u0 - 0.5 * self.dt * (self.rhs(u0, p) + self.rhs(u1, p))

    def _explicit(self, u: Tensor, p: Prepared, check: bool) -> Tensor:
        c, f = p.derived, self.source(p.values["forcing"])
        v = self.basis.forward(u)
        Nv, rate = self.nonlinear(v, p.values)
        if check:
            self.require_stable(rate.detach(), EXPLICIT_LIMIT, "the explicit part")
        Nv = Nv + f
        a = c["half"] * v + c["inner"] * Nv
        Na = self.nonlinear(a, p.values)[0] + f
        b = c["half"] * v + c["inner"] * Na
        Nb = self.nonlinear(b, p.values)[0] + f
        d = c["half"] * a + c["inner"] * (2 * Nb - Nv)
        Nd = self.nonlinear(d, p.values)[0] + f
        out = c["full"] * v + c["first"] * Nv + c["middle"] * (Na + Nb) + c["last"] * Nd
        return self.basis.inverse(out)

    def _implicit(self, u: Tensor, p: Prepared) -> Tensor:
        """Root of x − (1 − ½ dt L)⁻¹ [u + ½ dt rhs(u) + ½ dt (N(x) + f)]: near identity."""

        def sweep(x: Tensor, theta: tuple[Tensor, Prepared]) -> Tensor:
            start, p = theta
            f = self.source(p.values["forcing"])
            v, w = self.basis.forward(start), self.basis.forward(x)
            old = self.nonlinear(v, p.values)[0] + p.derived["L"] * v
            new = self.nonlinear(w, p.values)[0]
            right = v + 0.5 * self.dt * (old + new + 2 * f)
            return self.basis.inverse(right / (1 - 0.5 * self.dt * p.derived["L"]))

        tol = TOLERANCE[u.dtype]
        bound = tol * u.detach().flatten(1).norm(dim=1)
        bound = bound + tol * self.dt * self.rhs(u, p).detach().flatten(1).norm(dim=1)

        return swept(
            f"{self.name}.step", sweep, u, (u, p), bound=bound, tol=tol, dt=self.dt, info=self.info,
            max_iterations=self.max_iterations,
            rate=lambda: float(self.nonlinear(self.basis.forward(u), p.values)[1]),
        )  # fmt: skip
