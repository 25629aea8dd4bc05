"""Diffusion of a solute that a porous medium holds back.

Source: Takamoto et al. 2022 (PDEBench), section D.4; Limousin et al. 2007 (Freundlich isotherm).
"""

from __future__ import annotations

from torch import Tensor

from ...core.errors import InputError, message
from .base import Parameter
from .finite_volume import FiniteVolume, Stepper
from .grid import Grid, Side, dirichlet, robin
from .volumes import diffusion

__all__ = ["DiffusionSorption", "sorption_sides"]

SHIFT = 1e-6
"""Added to u in the isotherm, whose slope is infinite at 0; of PDEBench [-]."""


def sorption_sides() -> dict[str, Side]:
    """Sides of PDEBench's problem: u = 1 at x = 0, and u + D ∂u/∂x = 0 at x = 1.

    The data set's text has u = D ∂u/∂x there, which lets exp(x / D) grow; what its code computes, and
    what physics asks for, is this sign.
    """
    return {"x-": dirichlet(1.0), "x+": robin(1.0, 1.0)}


class DiffusionSorption(FiniteVolume):
    """R(u) ∂u/∂t = D ∂²u/∂x² + f with the retardation of Freundlich's isotherm.

        R(u) = 1 + (1 − φ)/φ ρ k n (u + ε)^{n−1} = m'(u),    m(u) = u + (1 − φ)/φ ρ k (u + ε)ⁿ

    The step conserves the solute m, dissolved and sorbed. Below u = 0, which diffusion cannot reach, m
    goes on as a straight line. Second order in space.

    Args:
        grid: 1-D; `Grid(n, sides=sorption_sides())` is PDEBench's.
        dt: step [s].
        diffusivity: D [m²/s].
        porosity: φ [-], between 0 and 1.
        density: bulk density ρ [kg/m³].
        freundlich: Freundlich's k.
        exponent: Freundlich's n [-].
        forcing: f, source of solute [unit of u / s].
        scheme: "implicit_euler" (order 1, default because u jumps at the wall at first) or
            "crank_nicolson" (2).

    Raises:
        InputError: grid not 1-D; parameters out of range.

    Differentiable in u, all parameters, forcing and control.
    Source: Takamoto et al. 2022 (PDEBench), Eqs. 20 and 21.
    """

    schemes = ("implicit_euler", "crank_nicolson")

    def __init__(
        self,
        grid: Grid,
        dt: float,
        diffusivity: float | Tensor = 5e-4,
        porosity: float | Tensor = 0.29,
        density: float | Tensor = 2880.0,
        freundlich: float | Tensor = 3.5e-4,
        exponent: float | Tensor = 0.874,
        forcing: float | Tensor = 0.0,
        scheme: Stepper = "implicit_euler",
        max_iterations: int = 30,
    ) -> None:
        if grid.dim != 1:
            got = f"{grid.dim}-D"
            raise InputError(message("DiffusionSorption", "a 1-D grid", got, "Give one axis"))
        parameters = {
            "diffusivity": Parameter(diffusivity, least=0.0, strict=True),
            "porosity": Parameter(porosity, least=0.0, strict=True),
            "density": Parameter(density, least=0.0),
            "freundlich": Parameter(freundlich, least=0.0),
            "exponent": Parameter(exponent, least=0.0, strict=True),
            "forcing": Parameter(forcing, field=True),
        }
        super().__init__(grid, dt, parameters, scheme, max_iterations)

    def rhs(self, u: Tensor, values) -> Tensor:
        return diffusion(self.grid, u, values["diffusivity"], values) + values["forcing"]

    def rate(self, u, values):
        return 4 * values["diffusivity"].max() / self.grid.dx[0] ** 2

    def storage(self, u: Tensor, values) -> Tensor:
        """Solute per pore volume m(u), dissolved and sorbed. Differentiable in u and values."""
        n, c = values["exponent"], self._capacity(values)
        wet = u.clamp(min=0.0) + SHIFT
        dry = c * n * SHIFT ** (n - 1) * u.clamp(max=0.0)
        return u + c * wet**n + dry

    def retardation(self, u: Tensor, values) -> Tensor:
        """R(u) [-]. Differentiable in u and values."""
        n = values["exponent"]
        return 1 + self._capacity(values) * n * (u.clamp(min=0.0) + SHIFT) ** (n - 1)

    def _capacity(self, values) -> Tensor:
        pores = values["porosity"]
        return (1 - pores) / pores * values["density"] * values["freundlich"]
