"""Trainings of `repro_hard_moe`, equal CPU time for every operator: diffusion–sorption at three sizes,
Navier–Stokes in a plane.
"""

from __future__ import annotations

import functools
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.hard_moe import (
    FitConfig,
    FlowData,
    FlowProblem,
    HardOperator,
    IntegralProblem,
    PointProblem,
    SorptionData,
    StepProblem,
    evaluate,
    first_frames,
    fit,
    flow_data,
    flow_frames,
    save_hard,
    sorption_data,
)
from rheograd.sim.grid.pdes import DiffusionSorption, Grid, sorption_sides

EIGHT = {"mode": "windows", "boxes": (1, 8)}

MODELS: dict[str, tuple[int, type, dict]] = {
    "step soft": (1, StepProblem, {"mode": "soft"}),
    "step one constraint": (12, StepProblem, {}),
    "step experts": (12, StepProblem, {"boxes": (1, 4)}),
    "step windows": (12, StepProblem, {"mode": "windows", "boxes": (1, 4)}),
    "step experts without walls": (12, StepProblem, {"boxes": (1, 4), "walls": False}),
    "step one constraint, walls as drawn": (12, StepProblem, {"walls": False}),
    "integral windows, walls as drawn": (
        12,
        IntegralProblem,
        {"mode": "windows", "boxes": (1, 8), "walls": False},
    ),
    "step windows, 8 boxes": (12, StepProblem, {"mode": "windows", "boxes": (1, 8)}),
    "step one constraint, N = 48": (48, StepProblem, {}),
    "integral soft": (1, IntegralProblem, {"mode": "soft"}),
    "integral one constraint": (12, IntegralProblem, {}),
    "integral experts": (12, IntegralProblem, {"boxes": (1, 4)}),
    "integral windows": (12, IntegralProblem, EIGHT),
    "integral windows, orthonormal": (12, IntegralProblem, EIGHT | {"orthonormal": True}),
    "integral windows, orthonormal, single": (
        12,
        IntegralProblem,
        EIGHT | {"orthonormal": True, "dtype": torch.float32},
    ),
    "points soft": (1, PointProblem, {"mode": "soft"}),
    "points one constraint": (12, PointProblem, {}),
    "points experts": (12, PointProblem, {"boxes": (1, 4)}),
    "points one constraint, projected": (12, PointProblem, {"start": "linear"}),
    "points experts, projected": (12, PointProblem, {"boxes": (1, 4), "start": "linear"}),
}
"""Name → (basis functions, problem, options of the operator and of its fits)."""

SIZES = {"64x26": (4, 8, 8), "256x101": (2, 4, 4), "1024x101": (1, 4, 2)}
"""Cells x frames → (batch, samples of the reference, its steps per frame)."""

STAGES = {
    "256x101": {"64x26": 0.5, "256x101": 1.0},
    "1024x101": {"64x26": 0.4, "256x101": 0.7, "1024x101": 1.0},
}
"""Grids that a training goes through, and the share of its time at which each ends."""

RATE = 2e-3
"""Learning rate of Adam at first; it falls in proportion to the time that is left."""

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


def operator(
    name: str, pde: DiffusionSorption, frames: int, seed: int = 0, net: FNO | None = None
) -> HardOperator:
    """One of `MODELS`; `POINTS` are shared out among experts."""
    n, kind, options = MODELS[name]
    problem = kind(pde, frames)
    own = {key: options[key] for key in ("start", "orthonormal") if key in options}
    options = {key: value for key, value in options.items() if key not in own}
    steps = {"max_iterations": 15, "sweeps": 2} if issubclass(kind, StepProblem) else {}
    config = FitConfig(**{"max_iterations": 50, "tol": 1e-4} | steps | own)
    split = options["boxes"][1] if "experts" in name else 1
    points = min(POINTS, pde.grid.cells[0] * frames) // split
    net = net or network(n, 1 + 10 * seed)
    return HardOperator(net, problem, config=config, points=points, **options)


Stage = tuple[HardOperator, Callable[[], torch.Tensor], float]
"""An operator, where its first frames come from, and when it ends, as a share of the time."""


def stages(
    name: str, size: str, kind: str, seed: int, g: torch.Generator, alone: bool = False
) -> list[Stage]:
    """The same network on coarse grids first, whose updates cost less; the last is the grid of `size`."""
    out: list[Stage] = []
    plan = STAGES.get(size, {size: 1.0})
    for at, end in {size: 1.0}.items() if alone else plan.items():
        (cells, frames), batch = shape(at), SIZES.get(at, (4, 8, 8))[0]
        pde = DiffusionSorption(Grid(cells, sides=sorption_sides()), 500.0 / frames)
        model = operator(name, pde, frames, seed, out[0][0].network if out else None)
        draw = functools.partial(first_frames, batch, cells, kind, g)
        out.append((model, draw, end))
    return out


def train(
    name: str, size: str, kind: str, data: SorptionData, seconds: float, seed: int,
    alone: bool = False, keep: Path | None = None,
) -> dict:  # fmt: skip
    """A5, A6: one training; `keep` is a file for the operator."""
    g = generator(2 + seed)
    plan = stages(name, size, kind, seed, g, alone)
    model, (cells, frames) = plan[-1][0], shape(size)
    row = learn(plan, data, seconds, g)
    if keep is not None:
        save_hard(keep, model)
    boxes = model.router.boxes if model.mode == "experts" else 1
    if model.mode != "soft" and model.points == frames * cells // boxes:
        model.points //= 2
        half = evaluate(model, data, g)
        row["unsampled over sampled"] = half["residual unsampled"] / half["residual sampled"]
    return row


def learn(
    plan: list[Stage], data: SorptionData | FlowData, seconds: float, g: torch.Generator
) -> dict:
    """Adam on the loss of first frames alone for some CPU time; errors before and after."""
    model = plan[-1][0]
    before = evaluate(model, data, generator(5))["relative_l2"]
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    start, updates, share = time.process_time(), [0] * len(plan), 0.0
    while share < 1:
        at = next(i for i, stage in enumerate(plan) if share < stage[2])
        now, draw, _ = plan[at]
        optimizer.param_groups[0]["lr"] = RATE * max(0.02, 1 - share)
        optimizer.zero_grad()
        now.loss(draw(), g).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        updates[at] += 1
        share = (time.process_time() - start) / seconds
    row = {"updates": sum(updates), "cpu seconds per update": share * seconds / sum(updates)}
    if len(plan) > 1:
        row["updates by grid"] = updates
    row |= {"before": before, **evaluate(model, data, generator(5))}
    return row | {"reached by long steps": data.floor()}


FLOWS = {
    "soft": (1, {"mode": "soft"}),
    "one constraint": (8, {}),
    "experts": (8, {"boxes": (1, 2, 2)}),
    "windows": (8, {"mode": "windows", "boxes": (1, 2, 2)}),
}
"""Name → (basis functions, options of the operator)."""


def train_flow(name: str, data: FlowData, seconds: float, seed: int) -> dict:
    """Vorticity in a plane; 4096 rows of the residual per sample in a fit at most."""
    n, options = FLOWS[name]
    frames, cells = data.u.shape[1] - 1, data.u.shape[2]
    modes = (4, 6, 6) if frames >= 16 else (1, 2, 2)
    config = FNOConfig(modes, 1, n, 16, 3, padding=(0.25, 0.0, 0.0))
    points = min(4096, frames * cells**2) // (4 if name == "experts" else 1)
    model = HardOperator(
        FNO(config, generator=generator(1 + 10 * seed)), FlowProblem(data.pde, frames),
        config=FitConfig(15, 1e-4, sweeps=2), points=points, **options,
    )  # fmt: skip
    g = generator(2 + seed)
    row = learn([(model, lambda: flow_frames(2, cells, g), 1.0)], data, seconds, g)
    u = data.u0[:, None].expand_as(data.u)
    row["nothing moves"] = float((u - data.u).norm() / data.u.norm())
    return row


def flows(cells: int = 24, frames: int = 24) -> FlowData:
    """Unseen flows and their reference."""
    return flow_data(4, cells, frames, duration=frames / 16, generator=generator(7))


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


def boxes_cost(K: int, size: str = "256x101", n: int = 8) -> dict:
    """CPU milliseconds of three iterations of a fit in K boxes, all points; rows made beforehand."""
    cells, frames = shape(size)
    pde = DiffusionSorption(Grid(cells, sides=sorption_sides()), 500.0 / frames)
    u0, row = first_frames(1, cells, generator=generator(3)), {}
    for name, mode, local in (
        ("experts", "experts", True),
        ("windows", "windows", True),
        ("windows, dense", "windows", False),
    ):
        model = HardOperator(network(n), StepProblem(pde, frames), mode, (1, K), local=local)
        with torch.no_grad():
            rows = model._rows(model.basis(u0), model.problem.base(u0), u0)
            zero, times = rows.terms.new_zeros(len(rows.terms), rows.unknowns), []
            for _ in range(2):
                start = time.process_time()
                fit(model.problem, rows, zero, FitConfig(3, 1e-30))
                times.append(1e3 * (time.process_time() - start))
        row[name] = min(times)
        row[f"MiB of rows, {name}"] = rows.terms.numel() * 8 / 2**20
    return row


def kept(folder: Path, measure: str) -> Path:
    """File of the operator of a row."""
    return folder / f"{measure.replace(' ', '-').replace(',', '')}.safetensors"


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


def table(rows: list[dict]) -> str:
    """Markdown of the trainings in rows of the results file: mean over seeds, and their range."""
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        m = re.match(r"(sorption \S+ \S+|flow) (.+), seed \d+, (\S+) s$", row["measure"])
        if m:
            found.setdefault(m.groups(), []).append(row)
    lines = [
        "| problem | operator | CPU s | seeds | updates | s per update | error | range over seeds "
        "| from the rows' solution | before | jump at borders |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = [*FLOWS, *MODELS]

    def place(key: tuple) -> tuple:
        cells = re.search(r"\d+", key[0])
        name = key[1].removesuffix(" alone")
        return int(cells[0]) if cells else 1e9, order.index(name), key[1], float(key[2])

    for (problem, name, seconds), group in sorted(found.items(), key=lambda v: place(v[0])):
        e = [100 * r["relative_l2"] for r in group]
        spread = f"{min(e):.1f} – {max(e):.1f} %" if len(e) > 1 else ""
        jump = f"{statistics.mean(r['jump'] for r in group):.4f}" if "jump" in group[0] else ""
        near = [100 * r["from long steps"] for r in group if "from long steps" in r]
        apart = f"{statistics.mean(near):.1f} %" if len(near) == len(group) else ""
        each = statistics.mean(r["cpu seconds per update"] for r in group)
        grid = problem.removeprefix("sorption ").removesuffix(" scalar")
        lines.append(
            f"| {grid} | {name} | {seconds} | {len(group)} "
            f"| {statistics.mean(r['updates'] for r in group):.0f} | {each:.2f} "
            f"| {statistics.mean(e):.1f} % "
            f"| {spread} | {apart} | {100 * statistics.mean(r['before'] for r in group):.0f} % "
            f"| {jump} |"
        )
    return "\n".join(lines)
