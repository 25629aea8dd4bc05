"""Trainings of `repro_hard_moe`: diffusion–sorption at three sizes, equal CPU time for every operator."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.hard_moe import (
    FitConfig,
    HardOperator,
    PointProblem,
    SorptionData,
    StepProblem,
    evaluate,
    first_frames,
    sorption_data,
)
from rheograd.sim.grid.pdes import DiffusionSorption, Grid, sorption_sides

MODELS = {
    "step soft": (1, StepProblem, {"mode": "soft"}),
    "step one constraint": (12, StepProblem, {}),
    "step experts": (12, StepProblem, {"boxes": (1, 4)}),
    "step windows": (12, StepProblem, {"mode": "windows", "boxes": (1, 4)}),
    "step one constraint, N = 48": (48, StepProblem, {}),
    "points soft": (1, PointProblem, {"mode": "soft"}),
    "points one constraint": (12, PointProblem, {}),
    "points experts": (12, PointProblem, {"boxes": (1, 4)}),
}
"""Name → (basis functions, problem, options of the operator)."""

SIZES = {"64x26": (4, 8, 8), "256x101": (2, 4, 4), "1024x101": (1, 4, 2)}
"""Cells x frames → (batch, samples of the reference, its steps per frame)."""

POINTS = 6400
"""Rows of the residual per sample in a fit at most, drawn anew in every call."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(n: int, seed: int = 1) -> FNO:
    config = FNOConfig((6, 8), 1, n, 24, 3, padding=(0.25, 0.25))
    return FNO(config, generator=generator(seed))


def shape(size: str) -> tuple[int, int]:
    """Cells and frames after the first."""
    cells, frames = (int(v) for v in size.split("x"))
    return cells, frames - 1


def operator(name: str, pde: DiffusionSorption, frames: int, seed: int = 0) -> HardOperator:
    """One of `MODELS`; `POINTS` are shared out among experts."""
    n, kind, options = MODELS[name]
    problem = kind(pde, frames)
    config = FitConfig(15, 1e-4, sweeps=2) if kind is StepProblem else FitConfig(50, 1e-4)
    split = 4 if "experts" in name else 1
    points = min(POINTS, pde.grid.cells[0] * frames) // split
    return HardOperator(network(n, 1 + 10 * seed), problem, config=config, points=points, **options)


def train(name: str, size: str, kind: str, data: SorptionData, seconds: float, seed: int) -> dict:
    """A5, A6: one training."""
    (cells, frames), batch = shape(size), SIZES.get(size, (4, 8, 8))[0]
    model = operator(name, data.pde, frames, seed)
    before = evaluate(model, data)["relative_l2"]
    g = generator(2 + seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    start, updates, share = time.process_time(), 0, 0.0
    while share < 1:
        optimizer.param_groups[0]["lr"] = 2e-3 * max(0.02, 1 - share)
        optimizer.zero_grad()
        model.loss(first_frames(batch, cells, kind, g), g).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        updates += 1
        share = (time.process_time() - start) / seconds
    row = {"updates": updates, "cpu seconds per update": share * seconds / updates}
    row |= {"before": before, **evaluate(model, data), "reached by long steps": data.floor()}
    if model.mode != "soft" and model.points == frames * cells // (4 if "experts" in name else 1):
        model.points //= 2
        half = evaluate(model, data, g)
        row["unsampled over sampled"] = half["residual unsampled"] / half["residual sampled"]
    return row


def update_time(name: str, size: str, repeats: int = 3) -> dict:
    """CPU seconds of an update, forward and backward, the fastest of some after a first."""
    cells, frames = shape(size)
    pde = DiffusionSorption(Grid(cells, sides=sorption_sides()), 500.0 / frames)
    model, g = operator(name, pde, frames), generator(3)
    times = []
    for _ in range(repeats + 1):
        u0 = first_frames(SIZES[size][0], cells, generator=g)
        start = time.process_time()
        loss = model.loss(u0, g)
        middle = time.process_time()
        loss.backward()
        times.append((middle - start, time.process_time() - start))
        model.zero_grad()
    return {
        "batch": SIZES[size][0],
        "forward": min(t[0] for t in times[1:]),
        "update": min(t[1] for t in times[1:]),
    }


def held_out(size: str, kind: str, folder: Path) -> SorptionData:
    """Unseen samples and their reference, kept in a file."""
    file = folder / f"{kind}-{size}.pt"
    cells, frames = shape(size)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        count, substeps = SIZES.get(size, (4, 2, 2))[1:]
        data = sorption_data(
            count, cells, frames, kind=kind, generator=generator(7), substeps=substeps
        )
        torch.save((data.u0, data.u), file)
    u0, u = torch.load(file)
    grid = Grid(cells, sides=sorption_sides())
    return SorptionData(DiffusionSorption(grid, 500.0 / frames), u0, u)
