"""Smoke with moving obstacles in a closed box: every frame has a new matrix, so that set-up counts.

replay: the pressure systems that one simulation meets, solved by every engine from the same right-hand
sides, each starting from its last solution; set-up and solve in CPU seconds per frame.
driven: the simulation itself with a network as pressure solver, and the divergence that is left.

The scene was not trained on: a blade that turns, a ball that swings, air that rises from a heater.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from results import Results
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.sim.grid import (
    GasConfig,
    GasControl,
    GasModel,
    GasSolver,
    GasState,
    Nozzle,
    PressureSystem,
)

DT = 0.02
"""Step [s]."""
SWING, SPIN = (0.26, 1.8), 2.2
"""Way [m] and frequency [rad/s] of the ball; speed of the blade [rad/s]."""


def scene(n: int, dim: int = 2) -> GasModel:
    """The closed box of 1 m."""
    y = 0.5 if dim == 3 else 0.0
    heater = Nozzle("heater", (0.42, y, 0.06), (0.0, 0.0, 1.0), 0.0, 0.05, 8.0, 343.15, 1.0)
    blade = Collider(Box((0.17, 0.3 if dim == 3 else 1.0, 0.025)), position=(0.36, y, 0.42))
    ball = Collider(Sphere(0.1), position=(0.62, y, 0.74))
    return GasModel((n,) * dim, 1 / n, obstacles=[blade, ball], nozzles=[heater])


def motion(t: float, like: torch.Tensor) -> GasControl:
    """Twists of both obstacles during the step that begins at t."""
    twist = like.new_zeros(1, 2, 6)
    twist[0, 0, 4] = SPIN
    way, frequency = SWING
    twist[0, 1, 0] = way * (math.sin(frequency * (t + DT)) - math.sin(frequency * t)) / DT
    return GasControl(tool_twist=twist)


def simulate(
    n: int, dim: int, count: int, method, dtype=torch.float32, tol: float | None = None
) -> Iterator[tuple[GasSolver, GasState, PressureSystem, torch.Tensor, float]]:
    """Frames: solver, state, pressure system, its right-hand side [m/s], CPU seconds of the step."""
    model = scene(n, dim)
    config = GasConfig(dt=DT, advection="maccormack", pressure=method, tol=tol)
    solver, state = GasSolver(model, config), model.initial_state(dtype=dtype)
    for _ in range(count):
        clock = time.process_time()
        with torch.no_grad():
            state = solver.step(state, motion(state.t, state.u_x))
        spent = time.process_time() - clock
        system = solver.system(solver.solids(state.tool_pose))
        psi = state.pressure.double() * DT / (model.rho * model.dx)
        yield solver, state, system, system.stencil(psi), spent


def left(solver: GasSolver, state: GasState, system: PressureSystem, b: torch.Tensor) -> float:
    """Largest divergence after over before the projection."""
    u = tuple(f.double() for f in state.u)
    after = solver.grid.outflow(u[0], 0)
    for a in range(1, len(u)):
        after = after + solver.grid.outflow(u[a], a)
    return float((after * system.fluid).abs().max() / b.abs().max())


class _Warnings(logging.Handler):
    """Counts what the networks had to leave to CG."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def measure_driven(
    results, n: int, dim: int, count: int, engines: dict, tol: float = 3e-7
) -> None:
    """The simulation itself with each engine.

    tol bounds the mean square of what is left, `divergence_left` is its largest cell: a third of 1e-6.
    """
    log = logging.getLogger("rheograd.operators.dcdm.solve")
    for name, method in engines.items():
        key = {"measure": f"smoke driven {dim}-D", "engine": name, "cells": n}
        if results.has(**key):
            continue
        fallen = _Warnings()
        log.addHandler(fallen)
        worst, iterations, seconds = 0.0, [], 0.0
        for solver, state, system, b, spent in simulate(n, dim, count, method, tol=tol):
            worst = max(worst, left(solver, state, system, b))
            iterations.append(solver.info.iterations)
            seconds += spent
        log.removeHandler(fallen)
        results.add(
            **key,
            tolerance=tol,
            frames=count,
            iterations=sum(iterations) / count,
            most_iterations=max(iterations),
            divergence_left=worst,
            fallbacks=fallen.count,
            cpu_seconds_per_frame=seconds / count,
        )


def measure_replay(results, n: int, dim: int, count: int, engines: dict, tol: float = 1e-6) -> None:
    """The same systems for every engine."""
    frames = None
    for name, method in engines.items():
        key = {"measure": f"smoke replay {dim}-D", "engine": name, "cells": n}
        if results.has(**key):
            continue
        if frames is None:
            run = simulate(n, dim, count, "multigrid", torch.float64, 1e-8)
            frames = [(s.solids(state.tool_pose), b) for s, state, _, b, _ in run]
            grid = scene(n, dim).grid
        row = _replay(grid, frames, method, tol)
        results.add(**key, frames=count, **row)


def _replay(grid, frames: list, method, tol: float) -> dict:
    from rheograd.sim.core.implicit import SolveInfo

    psi, info, setup, solve = None, SolveInfo(), 0.0, 0.0
    iterations: list[int] = []
    for solids, b in frames:
        clock = time.process_time()
        try:
            system = PressureSystem(grid, solids, method, tol, 5000)
            setup, clock = setup + time.process_time() - clock, time.process_time()
            psi = system.solve(b, psi0=psi, info=info)
        except (RuntimeError, ValueError) as error:
            return {"failed": str(error).split(".")[0][:120]}
        solve += time.process_time() - clock
        iterations.append(info.iterations)
    count = len(frames)
    return {
        "iterations": sum(iterations) / count,
        "most_iterations": max(iterations),
        "setup_cpu_seconds": setup / count,
        "cpu_seconds": solve / count,
    }


@torch.no_grad()
def draw_course(
    path: Path,
    steps: Iterable,
    n: int,
    moments: list[int],
    show: Callable[[GasSolver, GasState, PressureSystem], Any],
    panel: Callable[[Any, Any, int, float], None],
    height: float,
) -> None:
    """Pictures of some moments, and the divergence and the iterations of every frame.

    `show` gives what `panel(axes, shown, number, t)` draws of a moment; n cells on 1 m.
    """
    from PIL import Image
    from rheograd.viz.plots import figure, save_figure, style_axes
    from rheograd.viz.theme import LIGHT, PALETTE

    shown, before, after, iterations = [], [], [], []
    for i, (solver, state, system, b, _) in enumerate(steps, 1):
        before.append(float(b.abs().max()) * n)
        after.append(left(solver, state, system, b) * before[-1])
        iterations.append(solver.info.iterations)
        if i in moments:
            shown.append((state.t, show(solver, state, system)))
    fig, axes = figure(size=(9.0, 5.6))
    axes.remove()
    grid = fig.add_gridspec(2, 6, height_ratios=(height, 1))
    for i, (t, picture) in enumerate(shown):
        panel(fig.add_subplot(grid[0, 2 * i : 2 * i + 2], facecolor=LIGHT.tool), picture, i, t)
    at = [DT * i for i in range(1, len(before) + 1)]
    axes = fig.add_subplot(grid[1, :3])
    style_axes(axes, LIGHT)
    axes.semilogy(at, before, color=PALETTE[0], label="before the projection")
    axes.semilogy(at, after, color=PALETTE[1], label="after")
    axes.set_title("Largest divergence [1/s]", loc="left", fontsize=10, color=LIGHT.text)
    axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("t [s]", fontsize=8)
    axes = fig.add_subplot(grid[1, 3:])
    style_axes(axes, LIGHT)
    axes.step(at, iterations, color=PALETTE[2], where="mid")
    axes.set_ylim(0, max(iterations) + 2)
    axes.set_title("Iterations per frame", loc="left", fontsize=10, color=LIGHT.text)
    axes.set_xlabel("t [s]", fontsize=8)
    save_figure(fig, path)
    Image.open(path).quantize(256).save(path, optimize=True)
    worst = max(a / b for a, b in zip(after, before, strict=True))
    print(f"divergence left at most {worst:.1e}; {min(iterations)} to {max(iterations)} iterations")


def draw(path: Path, method, n: int = 128, count: int = 150) -> None:
    """Three moments in 2-D, see `draw_course`."""
    from rheograd.viz.theme import LIGHT

    def panel(axes, smoke: torch.Tensor, i: int, t: float) -> None:
        axes.imshow(smoke.T, origin="lower", extent=[0, 1, 0, 1], cmap="magma_r", vmin=0, vmax=1)
        axes.set_title(f"Smoke at {t:.1f} s", loc="left", fontsize=10, color=LIGHT.text)
        axes.set_xticks([0, 0.5, 1])
        axes.set_yticks([0, 0.5, 1] if i == 0 else [])
        axes.tick_params(labelsize=8)
        axes.set_xlabel("x [m]", fontsize=8)

    draw_course(
        path, simulate(n, 2, count, method), n, [round(count * k / 3) for k in (1, 2, 3)],
        lambda solver, state, system: torch.where(system.fluid[0], state.smoke[0], torch.nan),
        panel, 1.5,
    )  # fmt: skip


class Rows(Results):
    """Results with more keys, so that a run can go on where the last one ended."""

    KEY = ("measure", "engine", "cells", "domain", "tol")
