"""Burgers' equation: on a circle with Fourier modes, between walls with finite volumes.

Source: Hopf 1950, Cole 1951; Tadmor 2003 (entropy conservation); Godunov 1959.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ...core.errors import InputError, message
from .base import Parameter
from .finite_volume import FiniteVolume, Stepper
from .grid import Grid
from .navier_stokes import _periodic
from .semilinear import Scheme, Semilinear
from .volumes import diffusion, wall_value

__all__ = ["Burgers", "BurgersFV"]


class Burgers(Semilinear):
    """∂u/∂t + ∂(u²/2)/∂x = ν ∂²u/∂x² + f on a periodic interval; spectral, 2/3 rule.

    Args:
        grid: periodic, 1-D.
        dt: step [s].
        viscosity: ν [m²/s], number or (B,).
        forcing: f [m/s²], number or field (B, 1, n) or (1, n).
        scheme: see `Semilinear`.

    Raises:
        InputError: grid not periodic or not 1-D; negative viscosity.

    Differentiable in u, viscosity, forcing and control. Order: spectral in space; 4 in time
    ("crank_nicolson": 2). Fronts have width ν / |u|: it should not be below a cell.
    Source: Li et al. 2021 (FNO, section 5.1).
    """

    def __init__(
        self,
        grid: Grid,
        dt: float,
        viscosity: float | Tensor = 1e-2,
        forcing: Any = 0.0,
        scheme: Scheme = "etdrk4",
        max_iterations: int = 200,
    ) -> None:
        _periodic("Burgers", grid, 1)
        parameters = {
            "viscosity": Parameter(viscosity, least=0.0),
            "forcing": Parameter(forcing, field=True),
        }
        super().__init__(grid, dt, parameters, scheme, max_iterations)

    def linear(self, values, like):
        return -values["viscosity"] * self.basis.symbol(like)

    def nonlinear(self, hat, values):
        like = hat.real
        kept, ddx = self.basis.kept(like), self.basis.slope(0, like)
        u = self.basis.inverse(hat * kept)
        rate = u.detach().abs().amax() * self.basis.highest(0, like)
        return -0.5 * ddx * kept * self.basis.forward(u.square()), rate


class BurgersFV(FiniteVolume):
    """∂u/∂t + ∂(u²/2)/∂x = ν ∂²u/∂x² + f in 1-D with any sides; finite volumes.

    Fluxes: "central", (u_l² + u_l u_r + u_r²) / 6, second order, adds or removes no energy; "godunov",
    the exact flux of the jump between cells, first order, without wiggles at fronts below a cell.

    Args:
        grid: 1-D, any sides; values at walls enter by their flux.
        dt: step [s].
        viscosity: ν [m²/s], number or (B,).
        forcing: f [m/s²], number or field (B, 1, n) or (1, n).
        flux: see above.
        scheme: see `FiniteVolume`.

    Raises:
        InputError: grid not 1-D; unknown flux; negative viscosity.
        StabilityError: "rk4" with dt above its bound.

    Differentiable in u, viscosity, forcing, right-hand sides of walls and control ("godunov" has kinks
    where u changes sign). Source: Tadmor 2003, Eq. 4.5; Godunov 1959.
    """

    def __init__(
        self,
        grid: Grid,
        dt: float,
        viscosity: float | Tensor = 1e-2,
        forcing: Any = 0.0,
        flux: Literal["central", "godunov"] = "central",
        scheme: Stepper = "crank_nicolson",
        max_iterations: int = 30,
    ) -> None:
        if grid.dim != 1 or flux not in ("central", "godunov"):
            expected = 'a 1-D grid, flux "central" or "godunov"'
            got = f"{grid.dim}-D, {flux!r}"
            raise InputError(message("BurgersFV", expected, got, "Correct them"))
        # Without viscosity no wall can hold a slope.
        sloped = any(side.beta > 0 for side in grid.walls.values())
        parameters = {
            "viscosity": Parameter(viscosity, least=0.0, strict=sloped),
            "forcing": Parameter(forcing, field=True),
        }
        super().__init__(grid, dt, parameters, scheme, max_iterations)
        self.flux = flux

    def rhs(self, u: Tensor, values) -> Tensor:
        h = self.grid.dx[0]
        if self.grid.periodic[0]:
            flux = self._flux(u.roll(1, -1), u)
            carried = (flux.roll(-1, -1) - flux) / h
        else:
            nu = values["viscosity"][..., 0]
            ends = [
                wall_value(self.grid, u[..., i], nu, "x" + e, values["x" + e][..., 0])
                for i, e in ((0, "-"), (-1, "+"))
            ]
            left, right = (0.5 * v.square()[..., None] for v in ends)
            flux = torch.cat((left, self._flux(u[..., :-1], u[..., 1:]), right), -1)
            carried = flux.diff(dim=-1) / h
        return diffusion(self.grid, u, values["viscosity"], values) - carried + values["forcing"]

    def rate(self, u, values):
        h = self.grid.dx[0]
        return u.abs().max() / h + 4 * values["viscosity"].max() / h**2

    def _flux(self, left: Tensor, right: Tensor) -> Tensor:
        if self.flux == "central":
            return (left.square() + left * right + right.square()) / 6
        forward, backward = left.clamp(min=0), right.clamp(max=0)
        return torch.maximum(0.5 * forward.square(), 0.5 * backward.square())
