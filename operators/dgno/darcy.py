"""Darcy flow −∇·(a ∇u) = f on the unit square, as virtual observables."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from .cell_input import CellInput, sine_mollifier
from .csrbf import Particles, TestFunctions, jittered
from .problem import Decode, FieldSpec

__all__ = ["FORMS", "Darcy2D", "sine_mollifier"]

FORMS = ("primal", "mixed", "energy", "strong")
FLUX_STRIDE = 4
"""Every so many points of a particle the flux law is asked for."""


class Darcy2D(CellInput):
    """Darcy flow in one of four forms, with dimensionless residuals:

        "primal"   r = Σ g·(a ∇u) − Σ w f                      first derivatives of u; smooth a
        "mixed"    r = Σ g·s − Σ w f,   R = |s − a ∇u|²/a      flux s of its own: a may jump
        "energy"   R = |s − a ∇u|²/a   with −∇·s = f exactly, s = −f (x − c)/2 + (∂χ/∂y, −∂χ/∂x)
        "strong"   r = −a Δu − ∇a·∇u − f at points             PI-DeepONet; where a jumps, its slope is
                                                               lost, which is what fails

    r/F, and R in units of 0.1 F²/ā, F = f or `unit`, ā the middle of a. As −∇·s = f holds exactly in
    "energy", ∫ R is there the sum of the squared energy errors of u and of s: u is the best solution
    the decoder has, however far s is from its own, and no test function and no weight is needed.

    Fields: "u"; "a" as log a ("smooth") or as the logit of the upper phase ("phases"); "s" in the mixed
    form; χ, "stream", in "energy". Both have the flux "s" as an observable.

    Args:
        cells: grid of a.
        form: see above.
        phases: (low, high) for two-phase a; None for smooth positive a.
        forcing: f.
        count: particles per update; points in the strong form and, one in each of √count² squares, in
            "energy".
        points: m of `TestFunctions`.
        radius: R [m], a number or an interval.
        balance: weight of the r² of the mixed form.
        middle: ā of smooth fields; of two phases it is √(low·high).
        corrected, ends, test: see `TestFunctions`; test is its `kind`.
        walls: values of u around the square, see `CellInput`; None: 0.
        unit: F [unit of f]; default |f|, which then is not 0.

    Raises:
        InputError: unknown form, phases or a unit that are not positive.

    Source: Zang & Koutsourelakis 2025 (DGenNO), released code; Prager & Synge 1947.
    """

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
        walls: Callable[[Tensor], Tensor] | None = None,
        unit: float | None = None,
    ) -> None:
        if form not in FORMS:
            raise InputError(message("Darcy2D", f"form out of {FORMS}", form, "Choose one"))
        unit = abs(forcing) if unit is None else unit
        if not unit > 0:
            fix = "Without forcing give the size of a |∇u| over a metre"
            raise InputError(message("Darcy2D", "unit > 0", unit, fix))
        super().__init__(cells, phases, middle, walls)
        self.form, self.forcing, self.unit = form, forcing, unit
        self.count, self.radius, self.balance = count, radius, balance
        self.tests = TestFunctions(2, points, corrected, ends, test)
        self.fields = {"u": FieldSpec(scale=0.1 * unit / self.middle), "a": self.input_field}
        if form == "mixed":
            self.fields["s"] = FieldSpec(2, 0.3 * unit)
        if form == "energy":
            self.fields["stream"] = FieldSpec(scale=0.1 * unit)

    def sample(self, generator: torch.Generator | None, like: Tensor) -> Particles:
        options = {"dtype": like.dtype, "device": like.device}
        if self.form in ("primal", "mixed"):
            ends = ((0.0, 0.0), (1.0, 1.0))
            return self.tests.sample(self.count, *ends, self.radius, generator, **options)
        if self.form == "energy":
            side = max(1, round(math.sqrt(self.count)))
            x = jittered((side, side), torch.zeros(2), torch.ones(2), generator)
        else:
            place = "cpu" if generator is None else generator.device
            x = torch.rand(self.count, 2, generator=generator, device=place)
        return Particles.single(x.to(**options))

    def residuals(self, decode: Decode, where: Particles, a: Tensor | None) -> dict[str, Tensor]:
        f, unit = self.forcing, self.unit
        if self.form == "mixed":
            s = decode(where.points, 0, ("s",))["s"][0]
            r = where.against([s[:, 0], s[:, 1]]) - f
            # Points of a particle are near one another: some of them are enough for the flux law.
            x = where.x[:, ::FLUX_STRIDE].flatten(0, 1)
            u = decode(x, 1, ("u",))["u"][:, :, 0]
            k = self.permeability_at(decode, x, a)
            s = s.unflatten(-1, where.x.shape[:2])[..., ::FLUX_STRIDE].flatten(2)
            return {"residual": math.sqrt(self.balance) / unit * r, "flux": self._gap(s, u, k)}
        x = where.points
        if self.form == "energy":
            u, k = decode(x, 1, ("u",))["u"][:, :, 0], self.permeability_at(decode, x, a)
            return {"flux": self._gap(self._balanced(decode, x), u, k)}
        u = decode(x, 2 if self.form == "strong" else 1, ("u",))["u"][:, :, 0]
        k = self.permeability_at(decode, x, a)
        if self.form == "primal":
            r = where.against([k * u[1], k * u[2]]) - f
        else:
            r = -k * (u[3] + u[5]) - f
            if self.smooth:
                slope = self._slopes(decode, x, a)
                r = r - slope[0] * u[1] - slope[1] * u[2]
        return {"residual": r / unit}

    def _gap(self, s: Tensor, u: Tensor, k: Tensor) -> Tensor:
        """(s − a ∇u)/√a of points, two rows each, in units with which its mean square is that of R."""
        gap = torch.cat([s[:, 0] - k * u[1], s[:, 1] - k * u[2]], -1)
        return gap * torch.cat([k, k], -1).mul(0.05 * self.unit**2 / self.middle).rsqrt()

    def _balanced(self, decode: Decode, x: Tensor) -> Tensor:
        """Fluxes (B, 2, n) with −∇·s = f."""
        stream = decode(x, 1, ("stream",))["stream"][:, :, 0]
        curl = torch.stack([stream[2], -stream[1]], 1)
        return curl - 0.5 * self.forcing * (x - 0.5).mT

    @property
    def observables(self) -> tuple[str, ...]:
        return ("u", "s") if self.form in ("mixed", "energy") else ("u",)

    def observe(self, name: str, decode: Decode, x: Tensor) -> Tensor:
        if name == "s" and self.form == "energy":
            return self._balanced(decode, x)
        return super().observe(name, decode, x)

    def _slopes(self, decode: Decode, x: Tensor, a: Tensor | None) -> Tensor:
        """∇a, (2, B, n), by central differences."""
        h = 1e-3
        steps = h * torch.eye(2, dtype=x.dtype, device=x.device)
        sides = [
            self.permeability_at(decode, x + s, a) - self.permeability_at(decode, x - s, a)
            for s in steps
        ]
        return torch.stack(sides) / (2 * h)
