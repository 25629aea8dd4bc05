"""Incompressible Navier–Stokes equations on periodic boxes: vorticity in 2-D, velocity in 3-D.

Source: Arakawa 1966 (Jacobian); Orszag 1971 (2/3 rule); Canuto et al. 2007, Spectral Methods, vol. 2.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ...core.errors import InputError, message
from .base import FieldState, Parameter
from .grid import Grid
from .semilinear import Scheme, Semilinear

__all__ = ["NavierStokes2D", "NavierStokes3D", "arakawa_jacobian"]


class NavierStokes2D(Semilinear):
    """Vorticity of an incompressible flow in a periodic box.

        ∂ω/∂t + u·∇ω = ν ∇²ω − μ ω + f,     ∇²ψ = −ω,     u = (∂ψ/∂z, −∂ψ/∂x)

    `discretization="spectral"`: derivatives of Fourier modes, products without aliasing (2/3 rule).
    "arakawa": second differences and Arakawa's Jacobian, which keeps mean vorticity, energy and
    enstrophy; with `scheme="crank_nicolson"` these are the residual and the reference step of
    NeuralStagger. The mean velocity is zero; so has to be the mean vorticity.

    Args:
        grid: periodic, 2-D.
        dt: step [s].
        viscosity: kinematic, ν [m²/s], number or (B,).
        drag: linear friction μ [1/s], number or (B,).
        forcing: f [1/s²], number or field (B, 1, *cells) or (1, *cells).
        discretization, scheme: see above and `Semilinear`.

    Raises:
        InputError: grid not periodic or not 2-D; unknown words; negative parameters.

    Differentiable in ω, viscosity, drag, forcing and control. Order: spectral in space ("arakawa": 2);
    4 in time ("crank_nicolson": 2).
    Source: Huang et al. 2023 (NeuralStagger); Li et al. 2021 (FNO, section 5.3).
    """

    channels = ("vorticity",)

    def __init__(
        self,
        grid: Grid,
        dt: float,
        viscosity: float | Tensor = 1e-3,
        drag: float | Tensor = 0.0,
        forcing: Any = 0.0,
        discretization: Literal["spectral", "arakawa"] = "spectral",
        scheme: Scheme = "etdrk4",
        max_iterations: int = 200,
    ) -> None:
        _periodic("NavierStokes2D", grid, 2)
        parameters = {
            "viscosity": Parameter(viscosity, least=0.0),
            "drag": Parameter(drag, least=0.0),
            "forcing": Parameter(forcing, field=True),
        }
        super().__init__(grid, dt, parameters, scheme, max_iterations)
        if discretization not in ("spectral", "arakawa"):
            expected = 'discretization "spectral" or "arakawa"'
            raise InputError(message(self.name, expected, discretization, "Choose one"))
        self.discretization = discretization

    def initial_state(self, u: Tensor, t: float = 0.0) -> FieldState:
        """State from vorticity (B, 1, *cells) [1/s] of mean zero."""
        state = super().initial_state(u, t)
        mean, size = u.detach().mean((-2, -1)).abs().max(), u.detach().abs().max()
        if float(mean) > 1e-3 * float(size):
            fix = "No velocity in a periodic box has it: subtract the mean"
            expected = "vorticity of mean zero"
            raise InputError(message(f"{self.name}.initial_state", expected, float(mean), fix))
        return state

    def stream_function(self, u: Tensor) -> Tensor:
        """ψ [m²/s] of vorticity u, both (B, 1, *cells). Differentiable in u."""
        return self.basis.inverse(self._psi(self.basis.forward(u)))

    def velocity(self, u: Tensor) -> Tensor:
        """Velocity [m/s] of vorticity u, (B, 2, *cells). Differentiable in u."""
        psi = self._psi(self.basis.forward(u))
        if self.discretization == "arakawa":
            return self._differences(self.basis.inverse(psi))
        ddx, ddz = self.basis.slope(0, u), self.basis.slope(1, u)
        return self.basis.inverse(torch.cat((ddz * psi, -ddx * psi), 1))

    def linear(self, values, like):
        return -values["viscosity"] * self.basis.symbol(like, self._kind) - values["drag"]

    def nonlinear(self, hat, values):
        if self.discretization == "arakawa":
            psi, w = self.basis.inverse(torch.cat((self._psi(hat), hat), 1)).split(1, 1)
            u, (hx, hz) = self._differences(psi.detach()), self.grid.dx
            rate = u[:, 0].abs().amax() / hx + u[:, 1].abs().amax() / hz
            return self.basis.forward(arakawa_jacobian(psi, w, self.grid.dx)), rate
        like = hat.real
        kept = self.basis.kept(like)
        ddx, ddz = self.basis.slope(0, like), self.basis.slope(1, like)
        hat = hat * kept
        psi = self._psi(hat)
        u, v, w = self.basis.inverse(torch.cat((ddz * psi, -ddx * psi, hat), 1)).split(1, 1)
        rate = sum(
            f.detach().abs().amax() * self.basis.highest(a, like) for a, f in enumerate((u, v))
        )
        fluxes = self.basis.forward(torch.cat((u * w, v * w), 1)) * kept
        return -(ddx * fluxes[:, :1] + ddz * fluxes[:, 1:]), rate

    @property
    def _kind(self) -> str:
        return "spectral" if self.discretization == "spectral" else "difference"

    def _psi(self, hat: Tensor) -> Tensor:
        return hat * self.basis.inverse_symbol(hat.real, self._kind)

    def _differences(self, psi: Tensor) -> Tensor:
        hx, hz = self.grid.dx
        u = (psi.roll(-1, -1) - psi.roll(1, -1)) / (2 * hz)
        v = -(psi.roll(-1, -2) - psi.roll(1, -2)) / (2 * hx)
        return torch.cat((u, v), 1)


def arakawa_jacobian(psi: Tensor, w: Tensor, dx: tuple[float, float]) -> Tensor:
    """J(ψ, ω) = ψ_x ω_z − ψ_z ω_x = −u·∇ω on 9 points, with Σ J = Σ ψ J = Σ ω J = 0.

    Args:
        psi: stream function [m²/s], (..., n_x, n_z), periodic.
        w: vorticity [1/s], same shape.
        dx: lengths of a cell [m].

    Returns:
        J [1/s²], same shape; second order.

    Differentiable in psi and w. Source: Arakawa 1966, Eq. 45.
    """

    def at(q: Tensor, i: int, j: int) -> Tensor:
        return q.roll((-i, -j), (-2, -1))

    p10, p_10, p01, p0_1 = at(psi, 1, 0), at(psi, -1, 0), at(psi, 0, 1), at(psi, 0, -1)
    w10, w_10, w01, w0_1 = at(w, 1, 0), at(w, -1, 0), at(w, 0, 1), at(w, 0, -1)
    p11, p_11, p1_1, p_1_1 = at(psi, 1, 1), at(psi, -1, 1), at(psi, 1, -1), at(psi, -1, -1)
    w11, w_11, w1_1, w_1_1 = at(w, 1, 1), at(w, -1, 1), at(w, 1, -1), at(w, -1, -1)
    plain = (p10 - p_10) * (w01 - w0_1) - (p01 - p0_1) * (w10 - w_10)
    energy = p10 * (w11 - w1_1) - p_10 * (w_11 - w_1_1) - p01 * (w11 - w_11) + p0_1 * (w1_1 - w_1_1)
    mixed = w01 * (p11 - p_11) - w0_1 * (p1_1 - p_1_1) - w10 * (p11 - p1_1) + w_10 * (p_11 - p_1_1)
    return (plain + energy + mixed) / (12 * dx[0] * dx[1])


class NavierStokes3D(Semilinear):
    """Velocity of an incompressible flow in a periodic box; spectral, 2/3 rule, rotational form.

        ∂u/∂t = P[u × ω + f] + ν ∇²u − μ u,     ω = ∇ × u,     P: the part without divergence

    Args:
        grid: periodic, 3-D.
        dt: step [s].
        viscosity: kinematic, ν [m²/s], number or (B,).
        drag: linear friction μ [1/s], number or (B,).
        forcing: f [m/s²], number or field (B, 3, *cells) or (3, *cells).
        scheme: see `Semilinear`.

    Raises:
        InputError: grid not periodic or not 3-D; negative parameters.

    Differentiable in u, viscosity, drag, forcing and control. Order: spectral in space; 4 in time
    ("crank_nicolson": 2).
    Source: Canuto et al. 2007, Spectral Methods, vol. 2, section 3.3.
    """

    channels = ("velocity_x", "velocity_y", "velocity_z")

    def __init__(
        self,
        grid: Grid,
        dt: float,
        viscosity: float | Tensor = 1e-3,
        drag: float | Tensor = 0.0,
        forcing: Any = 0.0,
        scheme: Scheme = "etdrk4",
        max_iterations: int = 200,
    ) -> None:
        _periodic("NavierStokes3D", grid, 3)
        parameters = {
            "viscosity": Parameter(viscosity, least=0.0),
            "drag": Parameter(drag, least=0.0),
            "forcing": Parameter(forcing, field=True),
        }
        super().__init__(grid, dt, parameters, scheme, max_iterations)

    def initial_state(self, u: Tensor, t: float = 0.0) -> FieldState:
        """State from velocity (B, 3, *cells) [m/s], of which the part without divergence is taken."""
        state = super().initial_state(u, t)
        return state.replace(u=self.project(state.u))

    def project(self, u: Tensor) -> Tensor:
        """The part of u without divergence, (B, 3, *cells). Differentiable in u."""
        return self.basis.inverse(self._project(self.basis.forward(u)))

    def vorticity(self, u: Tensor) -> Tensor:
        """∇ × u [1/s], (B, 3, *cells). Differentiable in u."""
        return self.basis.inverse(self._curl(self.basis.forward(u)))

    def divergence(self, u: Tensor) -> Tensor:
        """∇·u [1/s], (B, 1, *cells). Differentiable in u."""
        hat, k = self.basis.forward(u), self.basis.gradient(u)
        return self.basis.inverse((hat * k).sum(1, keepdim=True))

    def source(self, forcing):
        return self._project(super().source(forcing.expand(-1, 3, *forcing.shape[2:])))

    def linear(self, values, like):
        return -values["viscosity"] * self.basis.symbol(like) - values["drag"]

    def nonlinear(self, hat, values):
        like = hat.real
        kept = self.basis.kept(like)
        hat = hat * kept
        u, w = self.basis.inverse(torch.cat((hat, self._curl(hat)), 1)).split(3, 1)
        rate = sum(u[:, a].detach().abs().amax() * self.basis.highest(a, like) for a in range(3))
        push = self.basis.forward(torch.linalg.cross(u, w, dim=1)) * kept
        return self._project(push), rate

    def _curl(self, hat: Tensor) -> Tensor:
        return torch.linalg.cross(self.basis.gradient(hat.real).expand_as(hat), hat, dim=1)

    def _project(self, hat: Tensor) -> Tensor:
        k, inverse = self.basis.gradient(hat.real), self.basis.inverse_square(hat.real)
        return hat + k * ((k * hat).sum(1, keepdim=True) * inverse)


def _periodic(name: str, grid: Grid, dim: int) -> None:
    if grid.dim != dim or not all(grid.periodic):
        got = f"{grid.dim}-D, sides {grid.sides}"
        fix = "For walls and obstacles see GasSolver" if dim > 1 else "For walls take BurgersFV"
        raise InputError(message(name, f"a periodic {dim}-D grid", got, fix))
