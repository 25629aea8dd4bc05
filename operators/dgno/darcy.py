"""Darcy flow −∇·(a ∇u) = f on the unit square, u = 0 around it, as virtual observables."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid
from .csrbf import Particles, TestFunctions
from .encoders import at_points
from .jets import pairs
from .problem import Decode, FieldSpec, Problem
from .scattered import Scattered

__all__ = ["FORMS", "Darcy2D", "sine_mollifier"]

FORMS = ("primal", "mixed", "strong")
FLUX_STRIDE = 4
"""Every so many points of a particle the flux law is asked for."""


def sine_mollifier(x: Tensor, order: int) -> Tensor:
    """Jet (S, ...) of Π_d sin(π x_d) at points (..., D). Differentiable in x."""
    D = x.shape[-1]
    tables = [torch.sin(math.pi * x), math.pi * torch.cos(math.pi * x)]
    tables.append(-(math.pi**2) * tables[0])

    def row(times: list[int]) -> Tensor:
        factors = [tables[k][..., d] for d, k in enumerate(times)]
        return torch.stack(factors).prod(0)

    rows = [row([0] * D)]
    if order > 0:
        rows += [row([int(d == i) for d in range(D)]) for i in range(D)]
    if order > 1:
        rows += [row([int(d == i) + int(d == j) for d in range(D)]) for i, j in pairs(D)]
    return torch.stack(rows)


class Darcy2D(Problem):
    """Darcy flow in one of three forms, with dimensionless residuals:

        "primal"   r = Σ g·(a ∇u) − Σ w f                      first derivatives of u; smooth a
        "mixed"    r = Σ g·s − Σ w f,   R = |s − a ∇u|²/a      flux s of its own: a may jump
        "strong"   r = −a Δu − ∇a·∇u − f at points             PI-DeepONet; where a jumps, its slope is
                                                               lost, which is what fails

    r/f, and R in units of 0.1 f²/ā, ā the middle of a. If ∇·s = −f held exactly, ∫ |s − a ∇u|²/a would be
    the sum of the squared energy errors of u and s.

    Fields: "u"; "a" as log a ("smooth") or as the logit of the upper phase ("phases"); "s" in the mixed
    form.

    Args:
        cells: grid of a.
        form: see above.
        phases: (low, high) for two-phase a; None for smooth positive a.
        forcing: f.
        count: particles, or points of the strong form, per update.
        points: m of `TestFunctions`.
        radius: R [m], a number or an interval.
        balance: weight of the r² of the mixed form.
        middle: ā of smooth fields; of two phases it is √(low·high).
        corrected, ends, test: see `TestFunctions`; test is its `kind`.

    Raises:
        InputError: unknown form, phases that are not positive.

    Source: Zang & Koutsourelakis 2025 (DGenNO), released code; Prager & Synge 1947.
    """

    dim = 2

    def __init__(
        self,
        cells: tuple[int, int] = (32, 32),
        form: str = "primal",
        phases: tuple[float, float] | None = None,
        forcing: float = 10.0,
        count: int = 200,
        points: int = 4,
        radius: float | tuple[float, float] = 1e-2,
        balance: float = 1.0,
        middle: float = 1.0,
        corrected: bool = True,
        ends: bool = False,
        test: str = "wendland",
    ) -> None:
        if form not in FORMS:
            raise InputError(message("Darcy2D", f"form out of {FORMS}", form, "Choose one"))
        if phases is not None and not 0 < phases[0] < phases[1]:
            raise InputError(message("Darcy2D", "phases 0 < low < high", f"{phases}", "Correct"))
        self.grid, self.form, self.phases = Grid(cells, sides="dirichlet"), form, phases
        self.smooth, self.forcing, self.count, self.radius = phases is None, forcing, count, radius
        self.balance, self.middle = balance, middle
        self.straight = False  # whether decoded phases are binary
        self.tests = TestFunctions(2, points, corrected, ends, test)
        if phases is not None:
            self.middle = math.sqrt(phases[0] * phases[1])
        self.fields = {"u": FieldSpec(scale=0.1 * forcing / self.middle)}
        if phases is None:
            self.fields["a"] = FieldSpec()
        else:
            self.fields["a"] = FieldSpec(scale=3.0, trunk="silu_sin", branch="silu_id")
        if form == "mixed":
            self.fields["s"] = FieldSpec(2, 0.3 * forcing)

    def mollifier(self, name: str, x: Tensor, order: int) -> Tensor | None:
        return sine_mollifier(x, order) if name == "u" else None

    def scaled(self, a: Tensor) -> Tensor:
        return torch.log(a)

    def sample(self, generator: torch.Generator | None, like: Tensor) -> Particles:
        options = {"dtype": like.dtype, "device": like.device}
        if self.form != "strong":
            ends = ((0.0, 0.0), (1.0, 1.0))
            return self.tests.sample(self.count, *ends, self.radius, generator, **options)
        place = "cpu" if generator is None else generator.device
        x = torch.rand(self.count, 1, 2, generator=generator, device=place).to(**options)
        return Particles(x, x.new_ones(1), x.new_zeros(*x.shape))

    def permeability(self, raw: Tensor) -> Tensor:
        """a from what its decoder gives."""
        if self.phases is None:
            return self.middle * torch.exp(raw)
        low, high = self.phases
        share = torch.sigmoid(raw)
        if self.straight:  # the value of the nearest phase, the slope of the chance
            share = (raw > 0).to(share) + (share - share.detach())
        return low + (high - low) * share

    def binary(self) -> Darcy2D:
        if self.phases is None:
            return super().binary()  # type: ignore[return-value]  # raises
        other = copy.copy(self)
        other.straight = True
        return other

    def residuals(self, decode: Decode, where: Particles, a: Tensor | None) -> dict[str, Tensor]:
        f = self.forcing
        if self.form == "mixed":
            s = decode(where.points, 0, ("s",))["s"][0]
            r = where.against([s[:, 0], s[:, 1]]) - f
            # Points of a particle are near one another: some of them are enough for the flux law.
            x = where.x[:, ::FLUX_STRIDE].flatten(0, 1)
            u = decode(x, 1, ("u",))["u"][:, :, 0]
            k = self._permeability_at(decode, x, a)
            s = s.unflatten(-1, where.x.shape[:2])[..., ::FLUX_STRIDE].flatten(2)
            gap = torch.cat([s[:, 0] - k * u[1], s[:, 1] - k * u[2]], -1)
            unit = (
                torch.cat([k, k], -1).mul(0.05 * f**2 / self.middle).rsqrt()
            )  # two rows per point
            return {"residual": math.sqrt(self.balance) / f * r, "flux": gap * unit}
        x = where.points
        u = decode(x, 2 if self.form == "strong" else 1, ("u",))["u"][:, :, 0]
        k = self._permeability_at(decode, x, a)
        if self.form == "primal":
            r = where.against([k * u[1], k * u[2]]) - f
        else:
            r = -k * (u[3] + u[5]) - f
            if self.smooth:
                slope = self._slopes(decode, x, a)
                r = r - slope[0] * u[1] - slope[1] * u[2]
        return {"residual": r / f}

    def _permeability_at(self, decode: Decode, x: Tensor, a: Tensor | None) -> Tensor:
        """a (B, n) of the data or, without, of the code."""
        if a is not None:
            return at_points(a, self.grid_of(a), x, self.smooth)
        return self.permeability(decode(x, 0, ("a",))["a"][0, :, 0])

    def misfit(self, decode: Decode, a: Tensor | Scattered) -> Tensor:
        known = self.known(a)
        raw, given = decode(known.x, 0, ("a",))["a"][0, :, 0], known.value
        if self.phases is None:
            return known.average((raw - torch.log(given / self.middle)).square())
        high = (given > self.middle).to(raw)
        return known.average(F.binary_cross_entropy_with_logits(raw, high, reduction="none"))

    def inputs(self, decode: Decode, x: Tensor) -> Tensor:
        return self.permeability(decode(x, 0, ("a",))["a"][0, :, 0])

    def points(self, like: Tensor) -> Tensor:
        return self.grid.points(like).reshape(-1, 2)

    def _slopes(self, decode: Decode, x: Tensor, a: Tensor | None) -> Tensor:
        """∇a, (2, B, n), by central differences."""
        h = 1e-3
        steps = h * torch.eye(2, dtype=x.dtype, device=x.device)
        sides = [
            self._permeability_at(decode, x + s, a) - self._permeability_at(decode, x - s, a)
            for s in steps
        ]
        return torch.stack(sides) / (2 * h)
