"""Two-dimensional Navier–Stokes equations as rows of a fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import NavierStokes2D
from ...sim.grid.pdes.base import FieldState
from .problems import Problem

__all__ = ["FlowProblem"]


class FlowProblem(Problem):
    """Vorticity in a periodic box, by the midpoint rule between frames and Fourier modes in space:

        ω̄ = ½ (ω_j + ω_{j−1}),   ∇²ψ̄ = −ω̄,   ū = (∂ψ̄/∂z, −∂ψ̄/∂x)
        ρ = ω_j − ω_{j−1} + Δt (ū·∇ω̄ − ν ∇²ω̄ + μ ω̄ − f)                      [unit of ω]

    Five numbers a row: the linear part, ū and ∇ω̄; each transform acts on the basis once. Products are
    taken at points, without dealiasing. ω = ω₀ + (t / T) b·w with b of mean zero in every frame, so the
    first frame and the mean hold exactly, and there are no linear rows. Velocity is that of the whole
    box, so rows are not local. Order: 2 in Δt, spectral in space.

    Args:
        pde: with dt the time between frames [s]; its scheme and discretization play no part.
        frames: F.

    Raises:
        InputError: another PDE, fewer than two frames, parameters that differ between samples.

    Differentiable in fields. Source: Chalapathi et al. 2024, §4.2 (the first frame by lifting); Hairer,
    Lubich & Wanner 2006, §IV.2 (the midpoint rule keeps quadratic invariants).
    """

    numbers = 5

    def __init__(self, pde: NavierStokes2D, frames: int) -> None:
        if not isinstance(pde, NavierStokes2D) or frames < 2:
            got = f"{type(pde).__name__}, {frames} frames"
            expected = "NavierStokes2D and frames >= 2"
            raise InputError(message("FlowProblem", expected, got, "Give these"))
        super().__init__(frames, pde.grid.cells)
        self.pde = pde
        self.values(torch.zeros(1, dtype=torch.float64))  # raises if they differ between samples

    def values(self, like: Tensor) -> dict[str, Tensor]:
        """Parameters of the PDE in the precision of `like`."""
        return self.pde.prepare(None, FieldState(like.new_zeros(1, 1, *self.cells))).values

    def base(self, u0: Tensor) -> Tensor:
        return u0[:, None].expand(-1, self.frames + 1, -1, -1)

    def shape(self, b: Tensor) -> Tensor:
        t = torch.arange(self.frames + 1, dtype=b.dtype, device=b.device) / self.frames
        return t[:, None, None] * (b - b.mean((-2, -1), keepdim=True))

    def project(self, u: Tensor, g: Tensor) -> Tensor:
        """Boxes of zero mean together need not have one."""
        return u - (u - g).mean((-2, -1), keepdim=True)

    def terms(self, f: Tensor, known: bool = False) -> Tensor:
        basis, values = self.pde.basis, self.values(f)
        step, mean = (
            f[..., 1:, :, :] - f[..., :-1, :, :],
            0.5 * (f[..., 1:, :, :] + f[..., :-1, :, :]),
        )
        hat = basis.forward(mean)
        like = hat.real
        psi = hat * basis.inverse_symbol(like)
        ddx, ddz = basis.slope(0, like), basis.slope(1, like)
        decay = (values["viscosity"] * basis.symbol(like) + values["drag"]).squeeze((0, 1))
        parts = torch.stack([decay * hat, ddz * psi, -ddx * psi, ddx * hat, ddz * hat], 1)
        rate, *others = basis.inverse(parts).unbind(1)
        if known:
            rate = rate - values["forcing"].squeeze((0, 1))
        return torch.stack([step + self.pde.dt * rate, *others], 1)

    def residual(self, z: Tensor, params: Any = ()) -> Tensor:
        line, u, v, slope_x, slope_z = z.unbind(1)
        return line + self.pde.dt * (u * slope_x + v * slope_z)

    def frozen(self, z: Tensor, params: Any = ()) -> Tensor:
        """Coefficients c (S, Q, M) of ρ ≈ Σ c_q z_q: ω̄ carried by the velocity of the last sweep."""
        zero = torch.zeros_like(z[:, 0])
        u, v = self.pde.dt * z[:, 1], self.pde.dt * z[:, 2]
        return torch.stack([zero + 1, zero, zero, u, v], 1)

    def loss(self, u: Tensor, u0: Tensor) -> Tensor:
        """Root mean square of ρ, over that of ω₀."""
        scale = u0.square().mean((1, 2)).sqrt()
        return self.defect(u).square().mean((1, 2, 3)).sqrt() / scale
