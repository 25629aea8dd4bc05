"""Stokes flow past a cylinder in a channel as virtual observables; the input is the inflow."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid
from .csrbf import Particles, TestFunctions, jittered
from .problem import Decode, FieldSpec, Problem
from .scattered import Scattered

__all__ = ["StokesCylinder", "StokesPoints", "inflows"]


FORMS = ("mixed", "energy")
NEAR = 0.4
"""Share of the squares of "energy" around the disc."""


def inflows(count: int, cells: int = 64, generator: torch.Generator | None = None) -> Tensor:
    """Speeds along the inlet (S, 1, cells): 2 sin(πy) (1 + sin(β₁ y) + cos(β₂ y)), β in (0, π)."""
    y = (torch.arange(cells) + 0.5) / cells
    beta = math.pi * torch.rand(2, count, 1, generator=generator)
    return (2 * torch.sin(math.pi * y) * (1 + torch.sin(beta[0] * y) + torch.cos(beta[1] * y)))[
        :, None
    ]


@dataclasses.dataclass(frozen=True)
class StokesPoints:
    """Where the residuals of one update are taken."""

    particles: Particles
    """Of the momentum; single points in the form "energy"."""
    walls: Tensor
    """Points without flow (n, 2)."""
    outlet: Tensor
    """Points of the outlet (n, 2)."""
    weight: Tensor | None = None
    """Area of each single point over the mean, (n,)."""


class StokesCylinder(Problem):
    """−∇·σ = 0, σ = −p I + μ (∇v + ∇vᵀ), ∇·v = 0 in [0, 2] × [0, 1] without a disc. The stream function ψ
    leaves no divergence, v = (∂ψ/∂y, −∂ψ/∂x). Stresses have a decoder of their own:

        "mixed"    Σ g·(s11, s12) = Σ g·(s12, s22) = 0 by test functions, as published, and
                   s11 = −p + 2μ ∂v₁/∂x,   s22 = −p + 2μ ∂v₂/∂y,   s12 = μ (∂v₁/∂y + ∂v₂/∂x)
        "energy"   s = (∂²A/∂y², ∂²A/∂x², −∂²A/∂x∂y) + (f·d)/(π d⁴) d dᵀ + torque τ/(2π d²)
                   in balance for any Airy function A, force f and torque τ on the disc, d from its
                   centre; p = −(s11 + s22)/2, and the law of the deviator at points, one in each of
                   `count` squares, four in ten of them within two radii of the centre

    Where v and s keep the values at the sides, the integral of the squared gap of the law is the sum of
    both squared errors of energy (Prager & Synge), as in `Darcy2D`: the two do not disturb each other.

    v = (a(y), 0) at the inlet x = 0, v = 0 at y = 0, y = 1 and on the disc, v₂ = s11 = 0 at the outlet
    x = 2, all by penalties. Momentum in units of the mean pressure drop per metre, speeds in `speed`.

    Args:
        cells: of the inflow.
        viscosity: μ [Pa s].
        centre, radius: of the disc [m].
        speed: unit of speed [m/s].
        count: particles, or points of "energy", per update.
        points: m of `TestFunctions`.
        support: R [m], a number or an interval.
        weight_walls: of the squared speeds on walls.
        test, corrected, ends: see `TestFunctions`; test is its `kind`.
        form: see above.

    Raises:
        InputError: a disc that does not lie inside, an unknown form.

    Source: Zang & Koutsourelakis 2025 (DGenNO), released code; its outlet is not known, this one is ours.
    "energy": Prager & Synge 1947; Muskhelishvili 1953 (stresses around a hole that carries a load).
    """

    dim = 2

    def __init__(
        self,
        cells: int = 64,
        viscosity: float = 0.01,
        centre: tuple[float, float] = (0.5, 0.6),
        radius: float = 0.1,
        speed: float = 3.0,
        count: int = 150,
        points: int = 4,
        support: float | tuple[float, float] = 1e-2,
        weight_walls: float = 10.0,
        test: str = "wendland",
        corrected: bool = True,
        ends: bool = False,
        form: str = "mixed",
    ) -> None:
        if form not in FORMS:
            raise InputError(message("StokesCylinder", f"form out of {FORMS}", form, "Choose one"))
        gap = min(centre[0], 2 - centre[0], centre[1], 1 - centre[1]) - radius
        if not (radius > 0 and gap > 0):
            got = f"centre {centre}, radius {radius}"
            raise InputError(message("StokesCylinder", "a disc in [0, 2] × [0, 1]", got, "Move it"))
        self.grid = Grid(cells, 1.0, "dirichlet")
        self.viscosity, self.centre, self.radius, self.speed = viscosity, centre, radius, speed
        self.count, self.support, self.weight_walls = count, support, weight_walls
        self.form = form
        self.tests = TestFunctions(2, points, corrected, ends, test)
        self.stress = 12 * viscosity * speed
        """Unit of stress [Pa]: drop of pressure over one metre of the empty channel."""
        self.fields = {"psi": FieldSpec(scale=speed / 3)}
        if form == "mixed":
            self.fields["p"] = FieldSpec(scale=self.stress)
            self.fields["s"] = FieldSpec(3, scale=self.stress)
        else:
            self.fields["airy"] = FieldSpec(scale=self.stress / 3)
            self.fields["load"] = FieldSpec(3, scale=self.stress)

    def distance(self, x: Tensor) -> Tensor:
        """Signed distance from the disc, (..., 2) → (...) [m]."""
        return torch.linalg.vector_norm(x - x.new_tensor(self.centre), dim=-1) - self.radius

    def sample(self, generator: torch.Generator | None, like: Tensor) -> StokesPoints:
        options: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
        weight = None
        if self.form == "mixed":
            particles = self.tests.sample(
                self.count,
                (0.0, 0.0),
                (2.0, 1.0),
                self.support,
                generator,
                self.distance,
                **options,
            )
        else:
            x, weight = (v.to(**options) for v in self._inside(generator))
            particles = Particles.single(x)
        place = "cpu" if generator is None else generator.device
        n = max(self.count // 4, 8)
        r = torch.rand(4, n, generator=generator, device=place).to(**options)
        angle = 2 * math.pi * r[0]
        disc = torch.stack([torch.cos(angle), torch.sin(angle)], -1) * self.radius
        sides = torch.stack([2 * r[1], (torch.arange(n) % 2).to(r)], -1)
        outlet = torch.stack([torch.full_like(r[2], 2.0), r[2]], -1)
        walls = torch.cat([disc + disc.new_tensor(self.centre), sides])
        return StokesPoints(particles, walls, outlet, weight)

    def _inside(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Points of the fluid, one in each square of a coarse grid and of a fine one around the disc, and
        the areas that they stand for over their mean."""
        place = "cpu" if generator is None else generator.device
        whole = torch.tensor([[0.0, 0.0], [2.0, 1.0]], device=place)
        middle = whole.new_tensor(self.centre)
        low = torch.maximum(middle - 2 * self.radius, whole[0])
        high = torch.minimum(middle + 2 * self.radius, whole[1])
        parts = []
        for fine, start, end in ((False, *whole), (True, low, high)):
            squares = (NEAR if fine else 1 - NEAR) * self.count
            n = ((end - start) * (squares / (end - start).prod()).sqrt()).round().clamp(min=1)
            x = jittered(n.tolist(), start, end, generator)
            near = ((x > low) & (x < high)).all(1)
            x = x[(near == fine) & (self.distance(x) > 0)]
            parts.append((x, ((end - start) / n).prod().expand(len(x))))
        x, area = (torch.cat(v) for v in zip(*parts, strict=True))
        return x, area / area.mean()

    def residuals(self, decode: Decode, where: StokesPoints, a: Tensor | None) -> dict[str, Tensor]:
        if self.form == "energy":
            return self._energies(decode, where)
        P = where.particles
        s = decode(P.points, 0, ("s",))["s"][0]
        momentum = [P.against([s[:, 0], s[:, 2]]), P.against([s[:, 2], s[:, 1]])]
        x = P.x[:, ::4].flatten(0, 1)
        psi = decode(x, 2, ("psi",))["psi"][:, :, 0]
        p = decode(x, 0, ("p",))["p"][0, :, 0]
        s = s.unflatten(-1, P.x.shape[:2])[..., ::4].flatten(2)
        strain, mu = psi[4], self.viscosity
        laws = [
            s[:, 0] + p - 2 * mu * strain,
            s[:, 1] + p + 2 * mu * strain,
            s[:, 2] - mu * (psi[5] - psi[3]),
        ]
        return {
            "momentum": torch.cat(momentum, -1) / self.stress,
            "stress": torch.cat(laws, -1) / self.stress,
            **self._sides(decode, where),
        }

    def _energies(self, decode: Decode, where: StokesPoints) -> dict[str, Tensor]:
        assert where.weight is not None
        x, mu = where.particles.points, self.viscosity
        psi = decode(x, 2, ("psi",))["psi"][:, :, 0]
        s = self.stresses(decode, x)
        gaps = [0.5 * (s[:, 0] - s[:, 1]) - 2 * mu * psi[4], s[:, 2] - mu * (psi[5] - psi[3])]
        size = where.weight.sqrt() * (2**0.5 / self.stress)
        return {"stress": torch.cat([gap * size for gap in gaps], -1), **self._sides(decode, where)}

    def _sides(self, decode: Decode, where: StokesPoints) -> dict[str, Tensor]:
        still = decode(where.walls, 1, ("psi",))["psi"][1:, :, 0]
        end = decode(where.outlet, 1, ("psi",))["psi"][1, :, 0]
        normal = self.stresses(decode, where.outlet)[:, 0]
        weight = math.sqrt(self.weight_walls) / self.speed
        return {
            "walls": weight * torch.cat([still[0], still[1], end], -1),
            "outlet": normal / self.stress,
        }

    def stresses(self, decode: Decode, x: Tensor) -> Tensor:
        """s11, s22, s12, (B, 3, n) [Pa]."""
        if self.form == "mixed":
            return decode(x, 0, ("s",))["s"][0]
        airy = decode(x, 2, ("airy",))["airy"][:, :, 0]
        d = x - x.new_tensor(self.centre)
        d1, d2 = d.unbind(-1)
        square = d.square().sum(-1)
        f1, f2, t = self.load(decode, x).unsqueeze(-1).unbind(1)
        push = (f1 * d1 + f2 * d2) / (math.pi * square.square())
        turn = t / (2 * math.pi * square.square())
        return torch.stack(
            [
                airy[5] + push * d1 * d1 - turn * 2 * d1 * d2,
                airy[3] + push * d2 * d2 + turn * 2 * d1 * d2,
                -airy[4] + push * d1 * d2 + turn * (d1 * d1 - d2 * d2),
            ],
            1,
        )

    def load(self, decode: Decode, like: Tensor) -> Tensor:
        """Force [N/m] and torque [N] of the fluid on the disc, per metre of its length, (B, 3).

        In "energy" they are decoded, in "mixed" they are integrals of the stresses around it.

        Args:
            decode: fields of codes.
            like: of the precision and device of the weights.
        """
        if self.form == "mixed":
            angle = 2 * math.pi / 128 * torch.arange(128).to(like)
            n = torch.stack([angle.cos(), angle.sin()], -1)
            s11, s22, s12 = self.stresses(
                decode, like.new_tensor(self.centre) + self.radius * n
            ).unbind(1)
            t1, t2 = s11 * n[:, 0] + s12 * n[:, 1], s12 * n[:, 0] + s22 * n[:, 1]
            turn = self.radius * (n[:, 0] * t2 - n[:, 1] * t1)
            return torch.stack([t1, t2, turn], 1).mean(-1) * (2 * math.pi * self.radius)
        scale = like.new_tensor([1.0, 1.0, self.radius])
        at = like.new_tensor(self.centre)[None]
        return decode(at, 0, ("load",))["load"][0, :, :, 0] * scale

    def misfit(self, decode: Decode, a: Tensor | Scattered) -> Tensor:
        known = self.known(a)
        y = known.x
        v = self.solution(decode, torch.cat([torch.zeros_like(y), y], -1))
        off = torch.stack([v[:, 0] - known.value, v[:, 1]]).square().sum(0)
        return self.weight_walls * known.average(off) / self.speed**2

    def inputs(self, decode: Decode, x: Tensor) -> Tensor:
        return self.solution(decode, torch.cat([torch.zeros_like(x), x], -1))[:, 0]

    def points(self, like: Tensor) -> Tensor:
        """Centres of 96 × 48 cells that are a cell's length away from the disc."""
        x = Grid((96, 48), (2.0, 1.0)).points(like).reshape(-1, 2)
        return x[self.distance(x) > 1 / 48]

    def solution(self, decode: Decode, x: Tensor) -> Tensor:
        """Velocity, (B, 2, n)."""
        psi = decode(x, 1, ("psi",))["psi"][:, :, 0]
        return torch.stack([psi[2], -psi[1]], 1)

    @property
    def observables(self) -> tuple[str, ...]:
        """Velocity "u" (2), pressure "p" (1), stresses "s" (s11, s22, s12)."""
        return ("u", "p", "s")

    def pressure(self, decode: Decode, x: Tensor) -> Tensor:
        """p, (B, n) [Pa]."""
        if self.form == "mixed":
            return decode(x, 0, ("p",))["p"][0, :, 0]
        return -0.5 * self.stresses(decode, x)[:, :2].sum(1)

    def observe(self, name: str, decode: Decode, x: Tensor) -> Tensor:
        if name == "p":
            return self.pressure(decode, x)[:, None]
        return self.stresses(decode, x) if name == "s" else super().observe(name, decode, x)
