"""Transport on a circle of length 2π: the equations, their exact or spectral solutions, the error.

    u_t + a(u) u_x = ν u_xx,   x ∈ [0, 2π) periodic,   t ∈ [0, T];   a = c (convection) or u (Burgers)

Source: Mojgani, Balajewicz & Hassanzadeh 2023 (convection–diffusion and Burgers with u₀ = c + sin x).
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["Burgers", "Convection", "TransportProblem", "relative_error"]


@dataclasses.dataclass(frozen=True)
class TransportProblem(abc.ABC):
    """What networks solve; every length and time is in the unit of the equation."""

    c: float = 30.0
    """Wave speed, or the mean of u₀ for Burgers."""
    nu: float = 0.01
    """Diffusivity ν ≥ 0."""
    duration: float = 1.0
    """T > 0."""

    def __post_init__(self):
        if not (math.isfinite(self.c) and 0 <= self.nu < math.inf and 0 < self.duration < math.inf):
            got = f"{self.c}, {self.nu} and {self.duration}"
            expected = "finite c, nu >= 0 and duration > 0"
            raise InputError(message(type(self).__name__, expected, got))

    @abc.abstractmethod
    def start(self, x: Tensor) -> Tensor:
        """u₀(x), shape of x."""

    @abc.abstractmethod
    def speed(self, u: Tensor) -> Tensor:
        """a(u), shape of u."""

    @abc.abstractmethod
    def reference(self, times: Tensor, n: int = 512) -> Tensor:
        """u on x_i = 2π i/n at the times, (T, n) float64."""


@dataclasses.dataclass(frozen=True)
class Convection(TransportProblem):
    """u_t + c u_x = ν u_xx with u₀ = sin x; solved by its Fourier factor exp(−(ν k² + i c k) t)."""

    def start(self, x):
        return torch.sin(x)

    def speed(self, u):
        return torch.full_like(u, self.c)

    def reference(self, times, n=512):
        x = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
        t = times.double()[:, None]
        return torch.exp(-self.nu * t) * torch.sin(x - self.c * t)


@dataclasses.dataclass(frozen=True)
class Burgers(TransportProblem):
    """u_t + u u_x = ν u_xx with u₀ = c + sin x, ν > 0.

    The reference is pseudo-spectral (2/3 rule) with an integrating factor and RK4 in the frame that
    moves with c, where u − c solves the same equation.
    """

    def start(self, x):
        return self.c + torch.sin(x)

    def speed(self, u):
        return u

    def reference(self, times, n=512):
        x = 2 * np.pi * np.arange(n) / n
        k = np.fft.rfftfreq(n, 1 / n)
        keep = k < n / 3
        w = np.fft.rfft(np.sin(x))

        def rate(w: Any) -> Any:
            return -0.5j * k * np.fft.rfft(np.fft.irfft(w * keep, n) ** 2) * keep

        found, now = [], 0.0
        for t in times.tolist():
            steps = max(1, math.ceil((t - now) / 1e-3))
            h = (t - now) / steps
            half = np.exp(-self.nu * k**2 * h / 2)
            for _ in range(steps):
                r1 = rate(w)
                r2 = rate(half * (w + h / 2 * r1))
                r3 = rate(half * w + h / 2 * r2)
                r4 = rate(half**2 * w + h * half * r3)
                w = half**2 * w + h / 6 * (half**2 * r1 + 2 * half * (r2 + r3) + r4)
            now = t
            found.append(self.c + np.fft.irfft(w * np.exp(-1j * k * self.c * t), n))
        return torch.as_tensor(np.stack(found))


@torch.no_grad()
def relative_error(model: Any, problem: TransportProblem, times: int = 41, n: int = 512) -> float:
    """‖û − u‖₂ / ‖u − ū‖₂ over all times and cells, ū the mean of u [-].

    Args:
        model: gives scattered points by `trace(t, n)`: positions (T, n) and values (T, n).
        problem: what it solves.
        times: number of times, equally spaced over [0, T].
        n: cells, and points that are interpolated linearly to them.

    Raises:
        InputError: values that are not finite.
    """
    t = torch.linspace(0, problem.duration, times, dtype=torch.float64)
    exact = problem.reference(t, n).numpy()
    x, u = (v.double().cpu().numpy() for v in model.trace(t, n))
    if not (np.isfinite(x).all() and np.isfinite(u).all()):
        raise InputError(message("relative_error", "finite positions and values", "others"))
    grid = 2 * np.pi * np.arange(n) / n
    found = [np.interp(grid, a, b, period=2 * np.pi) for a, b in zip(x, u, strict=True)]
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact - exact.mean()))
