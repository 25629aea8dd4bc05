"""What does a step of each PDE cost, and how wrong are the data sets that `rheograd generate` makes?

step: CPU milliseconds per step and scene at the size of the data set, forward alone, and forward plus
backward of a rollout with checkpoints, one thread.
error: relative L2 distance to the same input on a grid of three times the cells per axis (centres of
coarse cells are centres of fine ones) and shorter steps, at the end of some frames.
early error: the same after five steps, when modes are there that the coarse grid cannot carry on.
trajectory: CPU seconds for one trajectory of a flow past bodies, with what goes before its first frame.

    python benchmarks/bench_pdes.py [--quick] [--device cuda] [--sets pde/smoke pde/cylinder]
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import torch
from results import Results, now, parser
from rheograd.sim.core.rollout import rollout
from rheograd.sim.grid.pdes import Darcy, GaussianField
from rheograd.tasks.runs.pde_flows import Flow
from rheograd.tasks.runs.pde_poisson import Poisson
from rheograd.tasks.runs.pde_sets import SETS, PdeSet

F64 = torch.float64
FIELDS = {
    "pde/burgers": (2.0, 5.0, 25.0, "periodic", 1.0),
    "pde/burgers-walls": (2.0, 2.0, None, "dirichlet", 1.0),
    "pde/darcy-smooth": (3.0, 3.0, None, "neumann", 4.0),
    "pde/heat": (3.0, 4.0, None, "dirichlet", 1.0),
    "pde/navier-stokes-2d": (2.5, 7.0, None, "periodic", 2**0.5),
    "pde/poisson": (2.0, 6.0, None, "neumann", 1.0),
}
"""Inputs of the data sets, here with the modes of the coarse grid on both."""
FRAMES = {"pde/navier-stokes-2d": 5, "pde/diffusion-sorption": 40}
"""Frames that are compared; else all."""
SHORTER = {"pde/burgers": 8, "pde/burgers-walls": 4, "pde/heat": 3, "pde/navier-stokes-2d": 4}
"""Steps of the reference per step of the set: by its grid's bound, or for its order; else 3."""


class PdeResults(Results):
    """Rows by set, so that some of them can be measured alone."""

    KEY = ("measure", "set", "scenes")


def inputs(own: PdeSet, cells: int, n: int) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(k) for k in range(n)]
    return torch.cat([own.sample(own.grid(cells), g) for g in generators])


def final(pde: Any, u: torch.Tensor, steps: int) -> torch.Tensor:
    """Solution, or the state after some steps."""
    if isinstance(pde, (Darcy, Poisson)):
        return pde.solve(u)
    state = pde.initial_state(u)
    return rollout(pde, state, steps, checkpoint="uniform", save_every=steps).final.u


def measure_trajectories(results: Results, sets: list[str], device: str, quick: bool) -> None:
    for name in sets:
        own = SETS[name]
        pde = own.pde(own.grid(own.nano if quick else own.cells), own.dt, {})
        if not isinstance(pde, Flow):
            continue
        frames = 3 if quick else own.frames
        like = torch.zeros((), device=device)
        scene = pde.scene(torch.Generator().manual_seed(0))
        pde.first_step([scene], like)  # warms up
        start = now(device)
        with torch.no_grad():
            pde.solve([scene], frames, own.frame_steps, like)
        seconds = now(device) - start
        steps = round(pde.numbers["settle"] / own.dt) + (frames - 1) * own.frame_steps
        row = {"measure": "trajectory", "set": name, "cells": list(pde.grid.cells), "scenes": 1}
        results.add(**row, steps=steps, cpu_seconds=seconds, step_ms=1e3 * seconds / steps)


def measure_steps(results: Results, sets: list[str], device: str, quick: bool) -> None:
    for name in sets:
        own = SETS[name]
        if own.sample is None:
            continue
        cells = own.nano if quick else own.cells
        pde, steps = own.pde(own.grid(cells), own.dt, {}), 5 if own.frames > 1 else 1
        for scenes in (1, 8):
            u = inputs(own, cells, scenes).float().to(device).requires_grad_()
            forward, both = [], []
            for _ in range(2 if quick else 4):
                start = now(device)
                with torch.no_grad():
                    final(pde, u, steps)
                forward.append(1e3 * (now(device) - start) / steps / scenes)
                start = now(device)
                final(pde, u, steps).square().sum().backward()
                both.append(1e3 * (now(device) - start) / steps / scenes)
            row = {"measure": "step", "set": name, "cells": list(pde.grid.cells), "scenes": scenes}
            # the first call warms up
            times = {"forward_ms": forward, "both_ms": both}
            results.add(**row, **{k: statistics.median(v[1:]) for k, v in times.items()})


def measure_errors(
    results: Results, sets: list[str], device: str, quick: bool, early: bool = False
) -> None:
    for name in (*FIELDS, "pde/diffusion-sorption"):
        own, scenes = SETS[name], 2
        if name not in sets or (early and own.frames == 1):
            continue
        cells = own.nano if quick else own.cells
        found = {}
        for factor in (1, 3):
            shorter = SHORTER.get(name, 3) if factor == 3 else 1
            fine = dataclasses.replace(own, dt=own.dt / shorter)
            grid = own.grid(factor * cells)
            if name in FIELDS:
                *law, scale = FIELDS[name]
                modes = (cells - 1) // 2 if law[3] == "periodic" else cells - 1
                draw = GaussianField(grid, *law, modes=modes)
                u = scale * draw.sample(scenes, torch.Generator().manual_seed(0), dtype=F64)
            else:
                u = torch.tensor([0.05, 0.15], dtype=F64).reshape(2, 1, 1).expand(2, 1, *grid.cells)
            pde = own.pde(grid, fine.dt, {})
            start = now(device)
            if isinstance(pde, (Darcy, Poisson)):
                u = u.exp() if isinstance(pde, Darcy) else u
                found[factor] = pde.solve(u.to(device))
            else:
                steps = 5 if early else (FRAMES.get(name, own.frames) - 1) * own.frame_steps
                steps = steps * shorter
                state = pde.initial_state(u.to(device))
                with torch.no_grad():
                    found[factor] = rollout(pde, state, steps, save_every=steps).final.u
            seconds = now(device) - start
            for _ in range(grid.dim if factor == 3 else 0):  # last axis, then it becomes the first
                found[3] = found[3][..., 1::3].movedim(-1, 2)
        error = (found[1] - found[3]).flatten(1).norm(dim=1) / found[3].flatten(1).norm(dim=1)
        kind = "early error" if early else "error"
        row = {"measure": kind, "set": name, "cells": cells, "relative_l2": float(error.mean())}
        row |= {} if early else {"frames": FRAMES.get(name, own.frames)}
        results.add(**row, reference_cpu_seconds=seconds)


if __name__ == "__main__":
    line = parser(__doc__)
    line.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    arguments = line.parse_args()
    torch.set_num_threads(1)
    table = PdeResults("pdes", arguments)
    what = (arguments.sets, arguments.device, arguments.quick)
    measure_steps(table, *what)
    measure_trajectories(table, *what)
    measure_errors(table, *what)
    measure_errors(table, *what, early=True)
