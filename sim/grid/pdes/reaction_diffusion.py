"""Reaction and diffusion of two species.

Source: Takamoto et al. 2022 (PDEBench), section D.6; Klaasen & Troy 1984 (FitzHugh–Nagumo).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Parameter
from .grid import Grid
from .semilinear import Scheme, Semilinear

__all__ = ["FitzHughNagumo"]


class FitzHughNagumo(Semilinear):
    """Activator u and inhibitor v, 1-D to 3-D, between walls without flow or on a periodic box.

        ∂u/∂t = D_u ∇²u + u − u³ − k − v,     ∂v/∂t = D_v ∇²v + u − v

    PDEBench's problem is `Grid((128, 128), (2, 2), "neumann", origin=(-1, -1))`, t up to 5 s, from
    standard normal noise. Second order in space (finite volumes), 4 in time ("crank_nicolson": 2).

    Args:
        grid: sides all "neumann" or all "periodic".
        dt: step [s].
        diffusivity_u, diffusivity_v: D_u, D_v [m²/s], numbers or (B,).
        threshold: k [-], number or (B,).
        forcing: added to both [1/s], number or field (B, 2, *cells) or (2, *cells).
        scheme: see `Semilinear`.

    Raises:
        InputError: other sides; negative diffusivities.

    Differentiable in u, parameters, forcing and control.
    Source: Takamoto et al. 2022 (PDEBench), Eqs. 24 to 26.
    """

    channels = ("activator", "inhibitor")

    def __init__(
        self,
        grid: Grid,
        dt: float,
        diffusivity_u: float | Tensor = 1e-3,
        diffusivity_v: float | Tensor = 5e-3,
        threshold: float | Tensor = 5e-3,
        forcing: float | Tensor = 0.0,
        scheme: Scheme = "etdrk4",
        max_iterations: int = 200,
    ) -> None:
        parameters = {
            "diffusivity_u": Parameter(diffusivity_u, least=0.0),
            "diffusivity_v": Parameter(diffusivity_v, least=0.0),
            "threshold": Parameter(threshold),
            "forcing": Parameter(forcing, field=True),
        }
        super().__init__(grid, dt, parameters, scheme, max_iterations)

    def source(self, forcing):
        return super().source(forcing.expand(-1, 2, *forcing.shape[2:]))

    def linear(self, values, like):
        both = torch.cat((values["diffusivity_u"], values["diffusivity_v"]), 1)
        return -both * self.basis.symbol(like, "difference")

    def nonlinear(self, hat, values):
        u, v = self.basis.inverse(hat).split(1, 1)
        rate = 3 * u.detach().abs().amax() ** 2 + 2  # row sum of the reaction's Jacobian
        reaction = torch.cat((u - u**3 - values["threshold"] - v, u - v), 1)
        return self.basis.forward(reaction), rate
