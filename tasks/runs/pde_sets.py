"""Data sets of PDEs by name: equation, parameters, inputs and sizes of the papers that use them.

Source: Li et al. 2021 (FNO); Takamoto et al. 2022 (PDEBench); Zang & Koutsourelakis 2025 (DGenNO);
flows past bodies: ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...sim.grid import pdes
from ...sim.grid.pdes import GaussianField, Grid
from .pde_cylinder import CylinderFlow
from .pde_poisson import Poisson, sample_source
from .pde_smoke import Smoke

__all__ = ["SETS", "PdeSet"]

Sampler = Callable[[Grid, torch.Generator], Tensor]


@dataclasses.dataclass(frozen=True)
class PdeSet:
    """One data set; float64 samples of one trajectory come from its own generator."""

    grid: Callable[[int], Grid]
    """Box with n cells per axis."""
    pde: Callable[..., Any]
    """(grid, dt, parameters) -> Evolution, Darcy, Poisson or Flow, whose own grid counts."""
    sample: Sampler | None
    """(grid, generator) -> u₀, a or f, (1, C, *cells), float64; None of a `Flow`, which draws scenes."""
    cells: int
    """Cells per axis."""
    frames: int = 1
    """Stored frames; 1 is a stationary problem."""
    frame_steps: int = 1
    """Steps from frame to frame."""
    dt: float = 0.0
    """Step [s]."""
    input: str = ""
    """Name of a of a stationary problem."""
    nano: int = 16
    """Cells per axis of the nano size; a multiple of what the inputs resolve."""
    words: tuple[str, ...] = ("scheme",)
    """Parameters that are words, not numbers."""
    brief: tuple[str, ...] = ()
    """Parameters of the nano size."""


def _forced(grid: Grid, dt: float, parameters: dict) -> Any:
    """FNO's forcing 0.1 [sin 2π(x + z) + cos 2π(x + z)]."""
    phase = 2 * torch.pi * grid.points(torch.zeros((), dtype=torch.float64)).sum(-1)
    force = 0.1 * (torch.sin(phase) + torch.cos(phase))
    return pdes.NavierStokes2D(grid, dt, **{"viscosity": 1e-3, "forcing": force[None]} | parameters)


def _vorticity(grid: Grid, generator: torch.Generator) -> Tensor:
    # FNO's files have √2 times the covariance of its text.
    field = GaussianField(grid, 2.5, 7.0)
    return 2**0.5 * field.sample(1, generator, dtype=torch.float64)


def _velocity(grid: Grid, generator: torch.Generator) -> Tensor:
    u = GaussianField(grid, 4.0, 8.0).sample(1, generator, 3, torch.float64)
    return u / u.square().sum(1).mean().sqrt()  # root mean square speed 1


def _phases(grid: Grid, generator: torch.Generator) -> Tensor:
    field = GaussianField(grid, 2.0, 3.0, 1.0, "neumann").sample(1, generator, dtype=torch.float64)
    return pdes.two_phases(field, 3.0, 12.0)


def _smooth(grid: Grid, generator: torch.Generator) -> Tensor:
    field = GaussianField(grid, 3.0, 3.0, basis="neumann")
    return (4 * field.sample(1, generator, dtype=torch.float64)).exp()  # contrast about 10


def _of(alpha: float, tau: float, sigma: float | None, basis: str) -> Sampler:
    def sample(grid: Grid, generator: torch.Generator) -> Tensor:
        field = GaussianField(grid, alpha, tau, sigma, basis)
        return field.sample(1, generator, dtype=torch.float64)

    return sample


def _constant(grid: Grid, generator: torch.Generator) -> Tensor:
    level = 0.2 * torch.rand((), generator=generator, dtype=torch.float64)
    return level.expand(1, 1, *grid.cells)


def _noise(grid: Grid, generator: torch.Generator) -> Tensor:
    return torch.randn(1, 2, *grid.cells, generator=generator, dtype=torch.float64)


def _with(kind: Callable[..., Any], **own: Any) -> Callable[..., Any]:
    return lambda grid, dt, parameters: kind(grid, dt, **own | parameters)


def _flow(kind: Callable[..., Any], **own: Any) -> Callable[..., Any]:
    return lambda grid, dt, parameters: kind(grid.cells[0], dt, **own | parameters)


def _poisson(grid: Grid, dt: float, parameters: dict) -> Any:
    return Poisson(grid.cells[0], **parameters)


def _darcy(grid: Grid, dt: float, parameters: dict) -> Any:
    return pdes.Darcy(grid, **parameters)


SETS: dict[str, PdeSet] = {
    "pde/burgers": PdeSet(
        Grid, _with(pdes.Burgers, viscosity=0.01), _of(2.0, 5.0, 25.0, "periodic"),
        256, 21, 50, 1e-3,
    ),
    "pde/burgers-walls": PdeSet(
        lambda n: Grid(n, 2.0, "dirichlet", -1.0),
        _with(pdes.BurgersFV, viscosity=0.1 / torch.pi), _of(2.0, 2.0, None, "dirichlet"),
        128, 101, 1, 0.01, words=("flux", "scheme"),
    ),
    "pde/cylinder": PdeSet(
        lambda n: Grid((n, n)), _flow(CylinderFlow), None, 96, 41, 2, 0.04, brief=("settle=0.2",),
    ),
    "pde/darcy": PdeSet(
        lambda n: Grid((n, n), sides="dirichlet"), _darcy, _phases, 64, input="permeability",
        words=("method",),
    ),
    "pde/darcy-smooth": PdeSet(
        lambda n: Grid((n, n), sides="dirichlet"), _darcy, _smooth, 64, input="permeability",
        words=("method",),
    ),
    "pde/diffusion-sorption": PdeSet(
        lambda n: Grid(n, sides=pdes.sorption_sides()), _with(pdes.DiffusionSorption), _constant,
        1024, 101, 1, 5.0,
    ),
    "pde/heat": PdeSet(
        lambda n: Grid((n, n), sides="dirichlet"), _with(pdes.Heat, diffusivity=0.05),
        _of(3.0, 4.0, None, "dirichlet"), 64, 21, 5, 0.01,
    ),
    "pde/navier-stokes-2d": PdeSet(
        lambda n: Grid((n, n)), _forced, _vorticity, 64, 51, 50, 0.02,
        words=("discretization", "scheme"),
    ),
    "pde/navier-stokes-3d": PdeSet(
        lambda n: Grid((n,) * 3), _with(pdes.NavierStokes3D, viscosity=5e-3), _velocity,
        32, 21, 20, 2.5e-3, nano=8,
    ),
    "pde/poisson": PdeSet(
        lambda n: Grid((n, n)), _poisson, sample_source, 64, input="source", words=("sides",),
    ),
    "pde/reaction-diffusion": PdeSet(
        lambda n: Grid((n, n), 2 * (2.0,), "neumann", 2 * (-1.0,)), _with(pdes.FitzHughNagumo),
        _noise, 128, 101, 2, 0.025,
    ),
    "pde/smoke": PdeSet(
        lambda n: Grid((n, n)), _flow(Smoke), None, 64, 41, 5, 0.02,
        words=("advection", "scalars", "top"), brief=("settle=0.04",),
    ),
    "pde/smoke-3d": PdeSet(
        lambda n: Grid((n,) * 3), _flow(Smoke, dim=3), None, 32, 21, 4, 0.05, nano=8,
        words=("advection", "scalars", "top"), brief=("settle=0.1",),
    ),
}  # fmt: skip
