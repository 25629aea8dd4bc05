"""Fits of `repro_hard_moe` with trained bases: orthonormal, single precision, refined; and times."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from hard_moe_training import SIZES, generator, held_out, learn, network, operator, shape, stages
from rheograd.operators.hard_moe import (
    FitConfig,
    HardOperator,
    IntegralProblem,
    SorptionData,
    evaluate,
    first_frames,
    load_hard,
)
from rheograd.sim.grid.pdes import DiffusionSorption, Grid, sorption_sides

SHIPPED = "sorption-256x101"


def shipped(data: SorptionData) -> HardOperator:
    """The weights that ship, on the grid and PDE of the data, 6400 rows in a fit."""
    model = load_hard(SHIPPED, problem=IntegralProblem(data.pde, data.u.shape[1] - 1))
    model.points = min(6400, data.u.shape[2] * (data.u.shape[1] - 1))
    return model.requires_grad_(False)


@torch.no_grad()
def fit_row(model: HardOperator, data: SorptionData, repeats: int = 3) -> dict:
    """Errors, and CPU milliseconds a sample: of everything, and of the fit with its rows made before."""
    out, count = evaluate(model, data, generator(5)), len(data.u0)
    whole, alone = [], []
    for _ in range(repeats):
        start = time.process_time()
        model(data.u0, generator(5))
        whole.append(1e3 * (time.process_time() - start) / count)
        u0 = data.u0.to(model.dtype)
        rows = model._rows(model.basis(u0), model.problem.base(u0), u0, generator(5))
        start = time.process_time()
        model.constraint(rows)
        alone.append(1e3 * (time.process_time() - start) / count)
    last = model.constraint.last
    assert last is not None
    keys = ("relative_l2", "worst", "from long steps", "iterations", "converged")
    return {key: out[key] for key in keys} | {
        "cost": float(last.cost.double().mean()),
        "ms a sample": min(whole),
        "ms of the fit": min(alone),
    }


def turned(size: str, basis: str, folder: Path) -> Iterator[dict]:
    """Fits by precision, tolerance and weights, old or of orthonormal functions."""
    data = held_out(size, "scalar", folder)
    model = shipped(data)
    if basis == "untrained":
        model.network.load_state_dict(network(12).state_dict())
    base = model.constraint.config
    for dtype in (torch.float64, torch.float32):
        for orthonormal in (False, True):
            for tol in (1e-4, 1e-8) if dtype == torch.float64 else (1e-4,):
                model.dtype = dtype
                model.constraint.config = dataclasses.replace(
                    base, orthonormal=orthonormal, tol=tol
                )
                kind = str(dtype).removeprefix("torch.") + (", turned" if orthonormal else "")
                measure = f"orthonormal {size} {basis}, {kind}, tol {tol:g}"
                yield {"measure": measure, **fit_row(model, data)}


def starts(name: str, folder: Path, seconds: float = 20.0) -> Iterator[dict]:
    """The paper's rows at 64 × 26, before and after a training: fits from zero and from linear rows."""
    data = held_out("64x26", "scalar", folder)
    g = generator(2)
    plan = stages(name, "64x26", "scalar", 0, g)
    model = plan[-1][0]
    base = model.constraint.config
    for basis in ("untrained", f"{seconds:g} s"):
        if basis != "untrained":
            model.constraint.config = base
            learn(plan, data, seconds, g)
        for start in ("zero", "linear"):
            for orthonormal in (False, True):
                model.constraint.config = dataclasses.replace(
                    base, start=start, orthonormal=orthonormal
                )
                kind = f"from {start}" + (", turned" if orthonormal else "")
                measure = f"start {name}, {basis}, {kind}"
                yield {"measure": measure, **fit_row(model, data)}


REFINEMENTS = (
    ("256x101", 6400, 1, 1), ("256x101", 6400, 2, 1), ("256x101", 6400, 2, 4),
    ("256x101", 6400, 2, 15), ("256x101", 1600, 2, 15), ("256x101", 25600, 2, 15),
    ("256x101, D = 2.5e-4", 6400, 2, 15), ("256x101, D = 2.5e-4", 25600, 2, 15),
    ("1024x101", 6400, 2, 15), ("1024x101", 102400, 2, 15),
)  # fmt: skip
"""Unseen samples, rows in a fit, linear sweeps, iterations at most."""


def refinement(name: str, points: int, sweeps: int, steps: int, folder: Path) -> dict:
    """More rows and iterations than training had (6400, until the cosine is 1e-4), same weights."""
    size, *other = name.split(", ")
    data = held_out(size, "scalar", folder)
    if other:
        data = diffusing(2.5e-4, data, SIZES[size][2], folder / "scalar-256x101-half.pt")
    model = shipped(data)
    model.points = points
    model.constraint.config = FitConfig(steps, 1e-10, sweeps=sweeps, orthonormal=True)
    return fit_row(model, data, 1)


@torch.no_grad()
def diffusing(
    D: float, data: SorptionData, substeps: int, file: Path | None = None
) -> SorptionData:
    """The same first frames with another diffusivity, kept in a file."""
    grid, dt = data.pde.grid, data.pde.dt
    if file is not None and file.exists():
        u = torch.load(file)
    else:
        fine = DiffusionSorption(grid, dt / substeps, diffusivity=D)
        state, frames = fine.initial_state(data.u0[:, None]), [data.u0]
        for _ in range(data.u.shape[1] - 1):
            for _ in range(substeps):
                state = fine.step(state)
            frames.append(state.u[:, 0])
        u = torch.stack(frames, 1)
        if file is not None:
            torch.save(u, file)
    return SorptionData(DiffusionSorption(grid, dt, diffusivity=D), data.u0, u)


@torch.no_grad()
def solution_time(size: str, count: int = 4, batch: int = 1) -> dict:
    """CPU seconds per sample, in batches: solver, steps as long as frames; operators, fits included."""
    cells, frames = shape(size)
    pde = DiffusionSorption(Grid(cells, sides=sorption_sides()), 500.0 / frames)

    def solve(u0: torch.Tensor) -> None:
        state = pde.initial_state(u0[:, None])
        params = pde.prepare(None, state)
        for _ in range(frames):
            state = pde.step(state, params=params)

    calls: dict[str, Callable] = {"solver": solve}
    for name in ("points soft", "step experts", "integral windows"):
        calls[name] = operator(name, pde, frames)
    if batch > 1:
        name = "integral windows, orthonormal, single"
        calls[name] = operator(name, pde, frames)
    row = {}
    for name, call in calls.items():
        times = []
        for u0 in first_frames(count * batch, cells, generator=generator(3)).split(batch):
            start = time.process_time()
            call(u0)
            times.append((time.process_time() - start) / batch)
        row[name] = min(times)
    return row
