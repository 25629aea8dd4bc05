"""Networks for transport on a circle: along characteristics, and on fixed points as the baseline.

    Lagrangian:  x = X + v t + t δ(cos X, sin X, t),   u = u₀(X) + t w(cos X, sin X, t)
                 x_t = a(u),   u_t = ν (1/J) ∂_X((1/J) u_X),   J = ∂x/∂X
    Eulerian:    u = u₀(x) + t w(cos x, sin x, t),     u_t + a(u) u_x = ν u_xx

Both start exactly at u₀ and are exactly periodic, so no terms of the loss have to be weighed against the
equations. Labels X and positions x differ by a periodic function, which the network can represent; x
itself as an output would jump at the seam. Diffusion acts on x: dropping J is right only while J = 1.

Source: Mojgani, Balajewicz & Hassanzadeh 2023; exact initial values as in Lagaris et al. 1998.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, StateError, message
from ..layers.mlp import MLP
from .problem import TransportProblem

__all__ = ["EulerianPINN", "LagrangianPINN", "PINNConfig"]


@dataclasses.dataclass(frozen=True)
class PINNConfig:
    """Size and form of a network."""

    hidden_channels: int = 24
    """Width; 24 resolves one period of each mode that these problems need."""
    n_layers: int = 3
    """Hidden layers."""
    drift: float | None = None
    """v, mean speed of the frame of the labels; default c of the problem, 0 leaves all of it to δ."""
    physical_diffusion: bool = True
    """Whether diffusion sees J; False is the form ν u_XX of the paper's code."""

    def __post_init__(self):
        if self.hidden_channels < 1 or self.n_layers < 1:
            got = f"{self.hidden_channels} and {self.n_layers}"
            raise InputError(message("PINNConfig", "hidden_channels and n_layers >= 1", got))


class _Circle(nn.Module):
    """A tanh network of (cos X, sin X, t) with `outputs` functions of (X, t)."""

    def __init__(self, problem: TransportProblem, config: PINNConfig | None, outputs: int):
        super().__init__()
        self.problem, self.config = problem, config or PINNConfig()
        widths = [self.config.hidden_channels] * self.config.n_layers
        self.net = MLP([3, *widths, outputs], activation=torch.tanh)
        with torch.no_grad():
            for layer in self.net.layers:
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def values(self, X: Tensor, t: Tensor) -> Tensor:
        s = t / self.problem.duration
        return self.net(torch.stack([torch.cos(X), torch.sin(X), s], dim=-1))

    def _labels(self, t: Tensor, n: int) -> tuple[Tensor, Tensor]:
        like = next(self.parameters())
        t = t.to(like)
        X = (2 * math.pi * torch.arange(n) / n).to(like)
        return X.expand(len(t), n), t[:, None].expand(len(t), n)


class LagrangianPINN(_Circle):
    """Trajectories and values along them.

    Args:
        problem: the equation.
        config: size and form.
    """

    def __init__(self, problem: TransportProblem, config: PINNConfig | None = None):
        super().__init__(problem, config, 2)

    def forward(self, X: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Position x and value u of label X at time t, shapes of X."""
        delta, w = self.values(X, t).unbind(-1)
        drift = self.problem.c if self.config.drift is None else self.config.drift
        return X + t * (drift + delta), self.problem.start(X) + t * w

    @torch.enable_grad()
    def residuals(self, X: Tensor, t: Tensor) -> dict[str, Tensor]:
        """x_t − a(u) and u_t − ν u_xx at points (N,), both zero for the solution.

        Raises:
            StateError: trajectories that cross, J ≤ 0, where diffusion needs J.
        """
        X, t = (v.detach().requires_grad_() for v in (X, t))
        x, u = self(X, t)
        J, x_t = _slopes(x, X, t)
        u_X, u_t = _slopes(u, X, t)
        if not self.config.physical_diffusion:
            return {
                "path": x_t - self.problem.speed(u),
                "value": u_t - self.problem.nu * _d(u_X, X),
            }
        if not bool((J > 0).all()):
            fix = "Give more updates, a larger nu or a shorter duration: a shock has no labels"
            got = f"J down to {float(J.detach().min()):.3g}"
            raise StateError(message("LagrangianPINN", "trajectories that do not cross", got, fix))
        u_xx = _d(u_X / J, X) / J
        return {"path": x_t - self.problem.speed(u), "value": u_t - self.problem.nu * u_xx}

    def trace(self, t: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Positions and values of n labels at the times, both (T, n)."""
        return self(*self._labels(t, n))


class EulerianPINN(_Circle):
    """Values on fixed points: the usual physics-informed network, with its best boundary treatment.

    Args:
        problem: the equation.
        config: size; `drift` and `physical_diffusion` mean nothing here.
    """

    def __init__(self, problem: TransportProblem, config: PINNConfig | None = None):
        super().__init__(problem, config, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """u at position x and time t, shape of x."""
        return self.problem.start(x) + t * self.values(x, t)[..., 0]

    @torch.enable_grad()
    def residuals(self, x: Tensor, t: Tensor) -> dict[str, Tensor]:
        """u_t + a(u) u_x − ν u_xx at points (N,)."""
        x, t = (v.detach().requires_grad_() for v in (x, t))
        u = self(x, t)
        u_x, u_t = _slopes(u, x, t)
        return {"value": u_t + self.problem.speed(u) * u_x - self.problem.nu * _d(u_x, x)}

    def trace(self, t: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Positions and values of n points at the times, both (T, n)."""
        x, t = self._labels(t, n)
        return x, self(x, t)


def _d(value: Tensor, x: Tensor) -> Tensor:
    """∂value_i/∂x_i."""
    return torch.autograd.grad(value.sum(), x, create_graph=True, materialize_grads=True)[0]


def _slopes(value: Tensor, X: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.autograd.grad(value.sum(), (X, t), create_graph=True, materialize_grads=True)
