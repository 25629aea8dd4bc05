"""Heat conduction.

Source: Crank & Nicolson 1947; LeVeque 2002, Finite Volume Methods, chapter 4.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Parameter
from .finite_volume import FiniteVolume, Stepper
from .grid import Grid
from .volumes import diffusion

__all__ = ["Heat"]


class Heat(FiniteVolume):
    """∂u/∂t = ∇·(k ∇u) + f with any sides in 1-D, 2-D, 3-D; second order in space.

    Args:
        grid: the box with its sides.
        dt: step [s].
        diffusivity: k [m²/s], number, (B,), or field (B, 1, *cells); it may jump between cells.
        forcing: f [unit of u / s], number or field.
        scheme: see `FiniteVolume`; all of order 2 in time but "implicit_euler" (1) and "rk4" (4).

    Raises:
        InputError: k not positive.
        StabilityError: "rk4" with dt above its bound.

    Differentiable in u, diffusivity, forcing, right-hand sides of walls and control.
    Source: Crank & Nicolson 1947.
    """

    linear = True

    def __init__(
        self,
        grid: Grid,
        dt: float,
        diffusivity: Any = 1.0,
        forcing: Any = 0.0,
        scheme: Stepper = "crank_nicolson",
        max_iterations: int = 30,
    ) -> None:
        parameters = {
            "diffusivity": Parameter(diffusivity, least=0.0, strict=True, field=True),
            "forcing": Parameter(forcing, field=True),
        }
        super().__init__(grid, dt, parameters, scheme, max_iterations)

    def rhs(self, u: Tensor, values) -> Tensor:
        return diffusion(self.grid, u, values["diffusivity"], values) + values["forcing"]

    def product(self, v: Tensor, values) -> Tensor:
        still = dict.fromkeys(self.grid.walls, v.new_zeros((1,) * v.ndim))
        return diffusion(self.grid, v, values["diffusivity"], still)

    def rate(self, u, values):
        return 4 * values["diffusivity"].max() * sum(1 / h**2 for h in self.grid.dx)
