"""Data sets of fields for benchmarks of operators, made by `sim.grid.pdes` and kept in files."""

from __future__ import annotations

from pathlib import Path

import torch
from rheograd.operators.presets import flow
from rheograd.operators.t1 import Basis1D, SeparableTransform
from rheograd.sim.grid.pdes import Darcy, GaussianField, Grid, two_phases
from torch import Tensor


def kept(file: Path, make) -> dict[str, Tensor]:
    """What a file holds; made once."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), file)
    return torch.load(file, weights_only=True)


def navier_stokes(count: int, n: int = 64, seed: int = 0) -> dict[str, Tensor]:
    """Vorticity at 0 and at 10 s of `presets.flow`, "x" and "y" (count, 1, n, n)."""
    x, y = flow(count, n, seed)
    return {"x": x, "y": y}


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
