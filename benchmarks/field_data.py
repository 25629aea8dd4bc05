"""Data sets of fields for benchmarks of operators, made by `sim.grid.pdes` and kept in files."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from rheograd.operators.t1 import Basis1D, SeparableTransform
from rheograd.sim.grid.pdes import Darcy, GaussianField, Grid, NavierStokes2D, two_phases
from torch import Tensor

NS = {"viscosity": 1e-3, "time": 10.0, "dt": 0.05}
"""ω(0) → ω(10); with half the step ω(10) changes by 5e-6 of its norm."""


def kept(file: Path, make) -> dict[str, Tensor]:
    """What a file holds; made once."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), file)
    return torch.load(file, weights_only=True)


@torch.no_grad()
def navier_stokes(count: int, n: int = 64, steps: int | None = None, seed: int = 0) -> dict:
    """Vorticity at 0 and at 10 s on the periodic unit square, stirred by 0.1 (sin s + cos s),
    s = 2π(x + z); "x" and "y" (count, 1, n, n)."""
    grid, generator = Grid((n, n)), torch.Generator().manual_seed(seed)
    # √2: the files of FNO's authors have unit variance in the real and in the imaginary part of modes
    field = GaussianField(grid, 2.5, 7.0, 7**1.5 * math.sqrt(2), modes=min(31, (n - 1) // 2))
    x = field.sample(count, generator)
    p = (torch.arange(n) + 0.5) / n
    s = 2 * math.pi * (p[:, None] + p)
    forcing = 0.1 * (torch.sin(s) + torch.cos(s))[None]
    pde = NavierStokes2D(grid, NS["dt"], viscosity=NS["viscosity"], forcing=forcing)
    results = []
    for part in x.split(44):
        state = pde.initial_state(part)
        params = pde.prepare(None, state)
        for _ in range(round(NS["time"] / NS["dt"]) if steps is None else steps):
            state = pde.step(state, params=params)
        results.append(state.u)
    return {"x": x, "y": torch.cat(results)}


@torch.no_grad()
def darcy(count: int, grids: tuple[int, ...] = (16, 32), n: int = 64, seed: int = 0) -> dict:
    """−∇·(a∇u) = 1 with a ∈ {3, 12} and u = 0 around the unit square, solved on n² cells; for each
    grid a at its cell centres and means of u over its cells, "a 16", "u 16", …"""
    out, u = {}, None
    for cells in (n, *grids):
        generator = torch.Generator().manual_seed(seed)  # the same functions on every grid
        box = Grid((cells, cells), sides="dirichlet")
        field = GaussianField(box, 2.0, 3.0, basis="neumann", modes=min(15, min(grids) - 1))
        a = two_phases(field.sample(count, generator), 3.0, 12.0)
        if u is None:
            u = torch.cat([Darcy(box).solve(part) for part in a.split(20)])
            continue
        means = torch.nn.functional.avg_pool2d(u, n // cells)
        out |= {f"a {cells}": a.clone(), f"u {cells}": means}
    return out


def resample(f: Tensor, n: int) -> Tensor:
    """Periodic fields on n² cells, as band-limited functions."""
    m = min(n, f.shape[-1])
    m -= 1 - m % 2
    transform = SeparableTransform([Basis1D("rfourier", m)] * 2)
    return transform.synthesize(transform.analyze(f), (n, n))
