"""Burgers' equation between walls as virtual observables; the input is the first frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid
from .csrbf import Particles, TestFunctions
from .problem import Decode, FieldSpec, Problem
from .scattered import Scattered

__all__ = ["Burgers1D"]

SLOW = 0.05
"""Of `speed`, added to each sample's own where residuals are relative: a sample at rest has none."""


class Burgers1D(Problem):
    """u_t + u u_x = ν u_xx on (−1, 1) × (0, 1), u(±1) = 0, u(x, 0) = a(x); points are (x, t):

        r = Σ w (u_t + u u_x) + ν Σ g u_x        test functions in x, each at a time of its own

    in units of the speed per second. u = cos(πx/2) · net, so walls are exact; the first frame is a
    likelihood of the input: its misfit is the relative mean square at t = 0.

    Args:
        cells: of the first frame.
        viscosity: ν [m²/s].
        speed: root mean square of first frames [m/s].
        count: particles per update.
        points: m of `TestFunctions`.
        radius: R [m], a number or an interval.
        frames: labels and comparisons are at t = 0, 1/frames, …, 1.
        corrected, ends, test: see `TestFunctions`; test is its `kind`.
        relative: residuals and misfits in units of each sample's own speed, the root mean square of
            its first frame, so that slow samples count as much as fast ones.

    Raises:
        InputError: a viscosity, speed or number of frames out of range.

    Source: Zang & Koutsourelakis 2025 (DGenNO), released code.
    """

    dim = 2

    def __init__(
        self,
        cells: int = 128,
        viscosity: float = 0.1 / math.pi,
        speed: float = 0.3,
        count: int = 300,
        points: int = 5,
        radius: float | tuple[float, float] = 1e-2,
        frames: int = 20,
        corrected: bool = True,
        ends: bool = False,
        test: str = "wendland",
        relative: bool = False,
    ) -> None:
        if not viscosity >= 0 or not speed > 0 or frames < 1:
            expected, got = (
                "viscosity >= 0, speed > 0, frames >= 1",
                f"{viscosity}, {speed}, {frames}",
            )
            raise InputError(message("Burgers1D", expected, got, "Correct them"))
        self.grid, self.viscosity, self.speed = (
            Grid(cells, 2.0, "dirichlet", -1.0),
            viscosity,
            speed,
        )
        self.count, self.radius, self.frames, self.relative = count, radius, frames, relative
        self.tests = TestFunctions(1, points, corrected, ends, test)
        self.fields = {"u": FieldSpec(scale=speed, branch="silu_id")}

    def mollifier(self, name: str, x: Tensor, order: int) -> Tensor | None:
        value = torch.cos(0.5 * math.pi * x[..., 0])
        slope = -0.5 * math.pi * torch.sin(0.5 * math.pi * x[..., 0])
        zero = torch.zeros_like(value)
        rows = [value, slope, zero, -((0.5 * math.pi) ** 2) * value, zero, zero]
        return torch.stack(rows[: (1, 3, 6)[order]])

    def sample(self, generator: torch.Generator | None, like: Tensor) -> Particles:
        options = {"dtype": like.dtype, "device": like.device}
        return self.tests.sample(
            self.count, (-1.0, 0.0), (1.0, 1.0), self.radius, generator, **options
        )

    def residuals(self, decode: Decode, where: Particles, a: Tensor | None) -> dict[str, Tensor]:
        u = decode(where.points, 1, ("u",))["u"][:, :, 0]
        r = where.average(u[2] + u[0] * u[1]) + self.viscosity * where.against([u[1]])
        if not self.relative:
            return {"residual": r / self.speed}
        if a is None:
            a = self.inputs(decode, self.grid.points(u).reshape(-1, 1))
        own = a.flatten(1).square().mean(1, keepdim=True).sqrt()
        return {"residual": r / (own + SLOW * self.speed)}

    def misfit(self, decode: Decode, a: Tensor | Scattered) -> Tensor:
        known = self.known(a)
        off = known.average((self.inputs(decode, known.x) - known.value).square())
        if not self.relative:
            return off / self.speed**2
        return off / (known.average(known.value.square()).sqrt() + SLOW * self.speed) ** 2

    def inputs(self, decode: Decode, x: Tensor) -> Tensor:
        return decode(torch.cat([x, torch.zeros_like(x)], -1), 0, ("u",))["u"][0, :, 0]

    def points(self, like: Tensor) -> Tensor:
        x = self.grid.points(like).flatten()
        t = torch.arange(self.frames + 1).to(x) / self.frames
        t, x = torch.meshgrid(t, x, indexing="ij")
        return torch.stack([x.flatten(), t.flatten()], -1)
