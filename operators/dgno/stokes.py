"""Stokes flow past a cylinder in a channel as virtual observables; the input is the inflow."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid
from .csrbf import Particles, TestFunctions
from .problem import Decode, FieldSpec, Problem
from .scattered import Scattered

__all__ = ["StokesCylinder", "StokesPoints", "inflows"]


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
    """Of the momentum."""
    walls: Tensor
    """Points without flow (n, 2)."""
    outlet: Tensor
    """Points of the outlet (n, 2)."""


class StokesCylinder(Problem):
    """−∇·σ = 0, σ = −p I + μ (∇v + ∇vᵀ), ∇·v = 0 in [0, 2] × [0, 1] without a disc, by first derivatives
    of stresses in weak form:

        v = (∂ψ/∂y, −∂ψ/∂x)         stream function ψ: no divergence, exactly
        Σ g·(s11, s12) = Σ g·(s12, s22) = 0
        s11 = −p + 2μ ∂v₁/∂x,   s22 = −p + 2μ ∂v₂/∂y,   s12 = μ (∂v₁/∂y + ∂v₂/∂x)

    v = (a(y), 0) at the inlet x = 0, v = 0 at y = 0, y = 1 and on the disc, v₂ = s11 = 0 at the outlet
    x = 2, all by penalties. Momentum in units of the mean pressure drop per metre, speeds in `speed`.

    Args:
        cells: of the inflow.
        viscosity: μ [Pa s].
        centre, radius: of the disc [m].
        speed: unit of speed [m/s].
        count: particles per update.
        points: m of `TestFunctions`.
        support: R [m], a number or an interval.
        weight_walls: of the squared speeds on walls.
        test, corrected, ends: see `TestFunctions`; test is its `kind`.

    Raises:
        InputError: a disc that does not lie inside.

    Source: Zang & Koutsourelakis 2025 (DGenNO), released code; its outlet is not known, this one is ours.
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
    ) -> None:
        gap = min(centre[0], 2 - centre[0], centre[1], 1 - centre[1]) - radius
        if not (radius > 0 and gap > 0):
            got = f"centre {centre}, radius {radius}"
            raise InputError(message("StokesCylinder", "a disc in [0, 2] × [0, 1]", got, "Move it"))
        self.grid = Grid(cells, 1.0, "dirichlet")
        self.viscosity, self.centre, self.radius, self.speed = viscosity, centre, radius, speed
        self.count, self.support, self.weight_walls = count, support, weight_walls
        self.tests = TestFunctions(2, points, corrected, ends, test)
        self.stress = 12 * viscosity * speed
        """Unit of stress [Pa]: drop of pressure over one metre of the empty channel."""
        self.fields = {
            "psi": FieldSpec(scale=speed / 3),
            "p": FieldSpec(scale=self.stress),
            "s": FieldSpec(3, scale=self.stress),
        }

    def distance(self, x: Tensor) -> Tensor:
        """Signed distance from the disc, (..., 2) → (...) [m]."""
        return torch.linalg.vector_norm(x - x.new_tensor(self.centre), dim=-1) - self.radius

    def sample(self, generator: torch.Generator | None, like: Tensor) -> StokesPoints:
        options = {"dtype": like.dtype, "device": like.device}
        particles = self.tests.sample(
            self.count, (0.0, 0.0), (2.0, 1.0), self.support, generator, self.distance, **options
        )
        place = "cpu" if generator is None else generator.device
        n = max(self.count // 4, 8)
        r = torch.rand(4, n, generator=generator, device=place).to(**options)
        angle = 2 * math.pi * r[0]
        disc = torch.stack([torch.cos(angle), torch.sin(angle)], -1) * self.radius
        sides = torch.stack([2 * r[1], (torch.arange(n) % 2).to(r)], -1)
        outlet = torch.stack([torch.full_like(r[2], 2.0), r[2]], -1)
        walls = torch.cat([disc + disc.new_tensor(self.centre), sides])
        return StokesPoints(particles, walls, outlet)

    def residuals(self, decode: Decode, where: StokesPoints, a: Tensor | None) -> dict[str, Tensor]:
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
        still = decode(where.walls, 1, ("psi",))["psi"][1:, :, 0]
        end = decode(where.outlet, 1, ("psi",))["psi"][1, :, 0]
        normal = decode(where.outlet, 0, ("s",))["s"][0, :, 0]
        weight = math.sqrt(self.weight_walls) / self.speed
        return {
            "momentum": torch.cat(momentum, -1) / self.stress,
            "stress": torch.cat(laws, -1) / self.stress,
            "walls": weight * torch.cat([still[0], still[1], end], -1),
            "outlet": normal / self.stress,
        }

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
        return decode(x, 0, ("p",))["p"][0, :, 0]
