"""Burgers' equation between walls as virtual observables; the input is the first frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid
from .csrbf import Particles, TestFunctions, jittered
from .problem import Decode, FieldSpec, Problem
from .scattered import Scattered

__all__ = ["Burgers1D"]

FORMS = ("weak", "energy")
SLOW = 0.05
"""Of `speed`, added to each sample's own where residuals are relative: a sample at rest has none."""


class Burgers1D(Problem):
    """u_t + u u_x = ν u_xx on (−1, 1) × (0, 1), u(±1) = 0, u(x, 0) = a(x); points are (x, t):

        "weak"     r = Σ w (u_t + u u_x) + ν Σ g u_x     test functions in x, each at a time of its own;
                   in units of the speed per second; u = cos(πx/2) · net, as published
        "energy"   r = (ψ_t + ½ ψ_x² − ν ψ_xx)/√ν, u = ψ_x     at points; in units of the speed;
                   ψ = net(sin(πx/2), t)

    Walls are exact in both; the first frame is a likelihood of the input: its misfit is the relative mean
    square at t = 0. "energy" is the equation integrated once in x. For an error w of small u it says

        ∫∫ r² = ∫∫ [ν w_x² + (∫ w_t)²/ν] + ∫ w(x, 1)² − ∫ w(x, 0)²

    so that the residual and the misfit of the first frame, weighted by 1 or more, bound the errors of
    energy and last frame. The weak residual asks for w_xx, which is largest in shocks.

    Args:
        cells: of the first frame.
        viscosity: ν [m²/s], positive in "energy".
        speed: root mean square of first frames [m/s].
        count: particles per update; in "energy" points, one in each of √count² boxes.
        points: m of `TestFunctions`.
        radius: R [m], a number or an interval.
        frames: labels and comparisons are at t = 0, 1/frames, …, 1.
        corrected, ends, test: see `TestFunctions`; test is its `kind`.
        relative: residuals and misfits in units of each sample's own speed, the root mean square of
            its first frame, so that slow samples count as much as fast ones.
        form: see above.

    Raises:
        InputError: a viscosity, speed or number of frames out of range, an unknown form.

    Source: Zang & Koutsourelakis 2025 (DGenNO), released code; Brezis & Ekeland 1976 (energies of
    parabolic equations).
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
        form: str = "weak",
    ) -> None:
        if form not in FORMS:
            raise InputError(message("Burgers1D", f"form out of {FORMS}", form, "Choose one"))
        if (
            not viscosity >= 0
            or (form == "energy" and viscosity == 0)
            or not speed > 0
            or frames < 1
        ):
            expected = 'viscosity >= 0 (> 0 for "energy"), speed > 0, frames >= 1'
            got = f"{viscosity}, {speed}, {frames}"
            raise InputError(message("Burgers1D", expected, got, "Correct them"))
        self.grid, self.viscosity, self.speed = (
            Grid(cells, 2.0, "dirichlet", -1.0),
            viscosity,
            speed,
        )
        self.count, self.radius, self.frames, self.relative = count, radius, frames, relative
        self.tests = TestFunctions(1, points, corrected, ends, test)
        self.form = form
        if form == "weak":
            self.fields = {"u": FieldSpec(scale=speed, branch="silu_id")}
        else:
            self.fields = {"psi": FieldSpec(scale=speed, branch="silu_id")}

    def mollifier(self, name: str, x: Tensor, order: int) -> Tensor | None:
        if name != "u":
            return None
        value = torch.cos(0.5 * math.pi * x[..., 0])
        slope = -0.5 * math.pi * torch.sin(0.5 * math.pi * x[..., 0])
        zero = torch.zeros_like(value)
        rows = [value, slope, zero, -((0.5 * math.pi) ** 2) * value, zero, zero]
        return torch.stack(rows[: (1, 3, 6)[order]])

    def sample(self, generator: torch.Generator | None, like: Tensor) -> Particles:
        options = {"dtype": like.dtype, "device": like.device}
        if self.form == "energy":
            side = max(1, round(math.sqrt(self.count)))
            corners = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 1.0])
            return Particles.single(jittered((side, side), *corners, generator).to(**options))
        return self.tests.sample(
            self.count, (-1.0, 0.0), (1.0, 1.0), self.radius, generator, **options
        )

    def residuals(self, decode: Decode, where: Particles, a: Tensor | None) -> dict[str, Tensor]:
        if self.form == "energy":
            u, slope, rate = self._potential(decode, where.points)
            r = (rate + 0.5 * u.square() - self.viscosity * slope) / math.sqrt(self.viscosity)
            return {"residual": self._own(r, decode, a)}
        u = decode(where.points, 1, ("u",))["u"][:, :, 0]
        r = where.average(u[2] + u[0] * u[1]) + self.viscosity * where.against([u[1]])
        return {"residual": self._own(r, decode, a)}

    def _own(self, r: Tensor, decode: Decode, a: Tensor | None) -> Tensor:
        """Rows (B, m) in the unit of speed of each sample."""
        if not self.relative:
            return r / self.speed
        if a is None:
            a = self.inputs(decode, self.grid.points(r).reshape(-1, 1))
        # The root has no slope where a decoded frame is at rest; SLOW is far above this floor.
        own = a.flatten(1).square().mean(1, keepdim=True).clamp_min(1e-30).sqrt()
        return r / (own + SLOW * self.speed)

    def _potential(self, decode: Decode, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u = ∂ψ/∂x, ∂u/∂x and ∂ψ/∂t at points, (B, n) each; ψ is a function of sin(πx/2) and t."""
        angle = 0.5 * math.pi * x[..., 0]
        at = torch.stack([torch.sin(angle), x[..., 1]], -1)
        psi = decode(at, 2, ("psi",))["psi"][:, :, 0]
        first = 0.5 * math.pi * torch.cos(angle)
        second = -((0.5 * math.pi) ** 2) * torch.sin(angle)
        return psi[1] * first, psi[3] * first.square() + psi[1] * second, psi[2]

    def solution(self, decode: Decode, x: Tensor) -> Tensor:
        if self.form == "weak":
            return super().solution(decode, x)
        angle = 0.5 * math.pi * x[..., 0]
        at = torch.stack([torch.sin(angle), x[..., 1]], -1)
        slope = decode(at, 1, ("psi",))["psi"][1]
        return slope * (0.5 * math.pi * torch.cos(angle)).unsqueeze(-2)

    @property
    def observables(self) -> tuple[str, ...]:
        return ("u",)

    def misfit(self, decode: Decode, a: Tensor | Scattered) -> Tensor:
        known = self.known(a)
        off = known.average((self.inputs(decode, known.x) - known.value).square())
        if not self.relative:
            return off / self.speed**2
        return off / (known.average(known.value.square()).sqrt() + SLOW * self.speed) ** 2

    def inputs(self, decode: Decode, x: Tensor) -> Tensor:
        return self.solution(decode, torch.cat([x, torch.zeros_like(x)], -1))[:, 0]

    def points(self, like: Tensor) -> Tensor:
        x = self.grid.points(like).flatten()
        t = torch.arange(self.frames + 1).to(x) / self.frames
        t, x = torch.meshgrid(t, x, indexing="ij")
        return torch.stack([x.flatten(), t.flatten()], -1)
