"""What label-free training minimizes: the defect of predicted frames in a discretized PDE.

A residual is any object with `channels`, `dt` and `loss`; `residual` gives the fields it is made of.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import FieldState, Semilinear
from ...sim.grid.pdes.mac_flow import MacFlow2D

__all__ = ["MacStreamPressure", "PdeResidual", "PhysicsResidual"]


@runtime_checkable
class PhysicsResidual(Protocol):
    """Defect of a discretized PDE between consecutive fine frames."""

    channels: int
    """Of the state."""
    dt: float
    """Step between frames [s]."""

    def residual(
        self, before: Tensor, after: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Fields R (B, *, *cells) and a mask of the cells that count, or None."""

    def loss(self, frames: Tensor, context: Tensor | None) -> Tensor:
        """Loss (B,) of frames (B, T, C, *cells), T >= 2, the first of them known."""


class PdeResidual:
    """Residual of any PDE of `sim.grid.pdes` with `step` and `residual`:

        loss = mean over steps, channels and cells of (R / (σ 1 s⁻¹))²

    With `NavierStokes2D(discretization="arakawa", scheme="crank_nicolson")` this is periodic vorticity,
    with `NavierStokes3D(scheme="crank_nicolson")` velocity in three dimensions; its minimizer is the
    solver's own step, so errors against that solver are errors of learning alone.

    Args:
        pde: the solver; only its `residual`, `dt` and, with Crank–Nicolson, `rhs` are used.
        sigma: typical size σ of the state.
        params: of the PDE; the context of a frame, where there is one, is its forcing.

    Raises:
        InputError: something without a residual in time.

    Differentiable in frames and context. Source: Huang et al. 2023 (NeuralStagger), section 3.
    """

    def __init__(self, pde: Any, sigma: float = 1.0, params: dict[str, Any] | None = None) -> None:
        if not hasattr(pde, "residual") or not hasattr(pde, "dt"):
            fix = "Give a PDE that steps in time, such as NavierStokes2D"
            raise InputError(message("PdeResidual", "residual and dt", type(pde).__name__, fix))
        if not sigma > 0:
            raise InputError(message("PdeResidual", "sigma > 0", sigma, "Give the size of u"))
        self.pde, self.sigma, self.params = pde, float(sigma), dict(params or {})
        self.channels, self.dt = len(pde.channels), float(pde.dt)

    def residual(
        self, before: Tensor, after: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """R (B, C, *cells) [unit of u / s]; every cell counts."""
        return self.pde.residual(before, after, self._params(context)), None

    def loss(self, frames: Tensor, context: Tensor | None = None) -> Tensor:
        B, T = frames.shape[:2]
        if context is not None:
            context = context.expand(B, *context.shape[1:])
        if isinstance(self.pde, Semilinear) and self.pde.scheme == "crank_nicolson":
            # Each frame's right-hand side enters two residuals and is computed once.
            given = None if context is None else context.repeat_interleave(T, 0)
            u = frames.flatten(0, 1)
            rhs = self.pde.rhs(u, self.pde.prepare(self._params(given), FieldState(u)))
            rhs = rhs.view_as(frames)
            R = frames.diff(dim=1) / self.dt - 0.5 * (rhs[:, 1:] + rhs[:, :-1])
        else:
            given = None if context is None else context.repeat_interleave(T - 1, 0)
            R, _ = self.residual(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1), given)
        return (R / self.sigma).square().view(B, -1).mean(1)

    def _params(self, context: Tensor | None) -> dict[str, Any]:
        return self.params if context is None else {**self.params, "forcing": context}


class MacStreamPressure:
    """Residual of flow past bodies by stream function and pressure, see `MacFlow2D`:

        ℓ = w · mean over faces of prescribed velocity ((v' − v_d) / U)²
              + mean over faces in fluid (R Δt / ρ U)²

    Velocities of the stream function have no divergence, so nothing weighs continuity. Train with
    `PhysicsTraining(log=True)`: scenes with slow and with fast streams then count the same.

    Args:
        flow: the discretization.
        speed: typical velocity U [m/s].
        weight: w of prescribed velocities.

    Raises:
        InputError: speed or weight not positive.

    Differentiable in frames and context. Source: Wandel et al. 2021, section 3 (w = 20 there too).
    """

    channels = 2

    def __init__(self, flow: MacFlow2D, speed: float = 1.0, weight: float = 20.0) -> None:
        if not (speed > 0 and weight > 0):
            got = f"speed = {speed}, weight = {weight}"
            raise InputError(message("MacStreamPressure", "numbers > 0", got, "Correct them"))
        self.flow, self.speed, self.weight, self.dt = flow, float(speed), float(weight), flow.dt

    def residual(
        self, before: Tensor, after: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Defects of momentum [Pa/m] and of prescribed velocities [m/s], (B, 4, *cells), and masks."""
        if context is None:
            fix = "Give solid, v_x, v_z, as MacFlow2D.channel makes them"
            raise InputError(message("MacStreamPressure", "context (B, 3, *cells)", "none", fix))
        return self.flow.residual(before, after, context)

    def loss(self, frames: Tensor, context: Tensor | None) -> Tensor:
        parts = self.parts(frames, context)
        return self.weight * parts[:, 1] + parts[:, 0]

    def parts(self, frames: Tensor, context: Tensor | None) -> Tensor:
        """Mean squares of momentum and of prescribed velocities without units, (B, 2)."""
        B, T = frames.shape[:2]
        if context is not None:
            context = context.expand(B, *context.shape[1:]).repeat_interleave(T - 1, 0)
        R, mask = self.residual(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1), context)
        momentum = R[:, :2] * (self.dt / (self.flow.rho * self.speed))
        both = torch.stack((momentum, R[:, 2:] / self.speed), 1)  # (B T, 2, 2, *cells)
        mask = mask.unflatten(1, (2, 2))
        sums = (both.square() * mask).flatten(2).sum(2) / mask.flatten(2).sum(2).clamp(min=1.0)
        return sums.view(B, T - 1, 2).mean(1)


def log_mean(loss: Tensor) -> Tensor:
    """Mean of log ℓ: easy and hard samples weigh the same. Source: Wandel et al. 2021."""
    return torch.log(loss).mean()
