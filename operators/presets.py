"""Recipes of the operators on fields that ship, and the problems that they were trained on.

    flow-64     ω(0) ↦ ω(10 s) [1/s] of stirred flow on the periodic unit square, ν = 1e-3 m²/s,
                f = 0.1 (sin s + cos s) [1/s²], s = 2π(x + z) for x and z in m;
                ω(0) Gaussian with covariance 686 (−∇² + 49)^{−5/2}
    darcy-64    a ↦ u, −∇·(a ∇u) = 1/s on the unit square, u = 0 Pa around it, a ∈ {3, 12} m²/(Pa s),
                12 where a Gaussian field of covariance (−∇² + 9)^{−2}, of no slope at walls, is positive

Trained on 64² cells; fields on any grid from 64² cells on that come from one seed are the same functions.
`operators.layers.load_operator("t1/flow-64")` loads what these recipes gave.

Source of the problems: Li et al. 2021 (Fourier neural operator), §5, with the one-shot map ω(0) ↦ ω(T) of
Poli et al. 2022 (Transform once), §4.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..sim.core.errors import InputError, message
from ..sim.grid.pdes import Darcy, GaussianField, Grid, NavierStokes2D, two_phases
from .data.symmetries import RandomShift, RandomTurn
from .fno import FNO, FNOConfig
from .layers.grid import GridOperator
from .t1 import T1, T1Config
from .train import TrainedOperator, TrainerConfig, train_on_arrays

__all__ = ["PRESETS", "PROBLEMS", "Preset", "Problem", "sample_problem", "train_preset"]

MODES = 31
"""Modes per axis of random inputs: what 64 cells resolve, so that finer grids hold the same functions."""


@torch.no_grad()
def flow(count: int, cells: int, seed: int) -> tuple[Tensor, Tensor]:
    """ω(0) and ω(10 s), (count, 1, cells, cells)."""
    grid = Grid((cells, cells))
    # √2: the files of FNO's authors have unit variance in the real and in the imaginary part of modes
    field = GaussianField(grid, 2.5, 7.0, 7**1.5 * math.sqrt(2), modes=min(MODES, (cells - 1) // 2))
    x = field.sample(count, torch.Generator().manual_seed(seed))
    s = 2 * math.pi * grid.points(x).sum(-1)
    forcing = 0.1 * (torch.sin(s) + torch.cos(s))[None]
    # on 64² cells 0.05 s, with half of which ω(10) changes by 5e-6 of its norm; less on finer ones
    steps = 200 * math.ceil(cells / 64)
    pde = NavierStokes2D(grid, 10 / steps, viscosity=1e-3, forcing=forcing)
    results = []
    for part in x.split(44):
        state = pde.initial_state(part)
        params = pde.prepare(None, state)
        for _ in range(steps):
            state = pde.step(state, params=params)
        results.append(state.u)
    return x, torch.cat(results)


@torch.no_grad()
def darcy(count: int, cells: int, seed: int) -> tuple[Tensor, Tensor]:
    """Permeability and pressure, (count, 1, cells, cells)."""
    grid = Grid((cells, cells), sides="dirichlet")
    field = GaussianField(grid, 2.0, 3.0, basis="neumann", modes=min(MODES, cells - 1))
    a = two_phases(field.sample(count, torch.Generator().manual_seed(seed)), 3.0, 12.0)
    return a, torch.cat([Darcy(grid).solve(part) for part in a.split(20)])


@dataclasses.dataclass(frozen=True)
class Problem:
    """Fields ↦ fields, as many as wanted."""

    pairs: Callable[[int, int, int], tuple[Tensor, Tensor]]
    """(samples, cells per axis, seed) -> x, y, (S, 1, n, n) each."""
    symmetry: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
    """Other samples of the same problem from those of a batch."""
    samples: int
    """How many the recipes train on, of seed 0."""
    about: dict[str, Any]
    """Equation, parameters and units in words."""


PROBLEMS: dict[str, Problem] = {
    "flow-64": Problem(
        flow,
        RandomShift([(1, -1)]),  # along which the forcing is constant
        1200,
        {
            "equation": "∂ω/∂t + u·∇ω = ν ∇²ω + f on the periodic unit square, ω(0) ↦ ω(10 s)",
            "parameters": "ν = 1e-3 m²/s, f = 0.1 (sin s + cos s)/s², s = 2π(x + z), "
            "ω(0) Gaussian, covariance 686 (−∇² + 49)^(−5/2), 31 modes per axis; steps of at most 0.05 s",
            "units": "ω [1/s] in, ω [1/s] out",
            "symmetry": "shifts along (1, −1)",
        },
    ),
    "darcy-64": Problem(
        darcy,
        RandomTurn(),
        1000,
        {
            "equation": "−∇·(a ∇u) = 1/s on the unit square, u = 0 around it, a ↦ u",
            "parameters": "a ∈ {3, 12}, the sign of a Gaussian field, covariance (−∇² + 9)^(−2), "
            "31 modes per axis, zero slope at walls; finite volumes on the same cells",
            "units": "a [m²/(Pa s)] in, u [Pa] out",
            "symmetry": "turns and reflections of the square",
        },
    ),
}
"""Problems by name, the last part of a preset's."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """How an operator is made and trained: AdamW, cosine schedule, relative L² error, last weights."""

    make: Callable[[torch.Generator], GridOperator]
    """New operator."""
    updates: int
    """Updates; a number and not a time, so that training repeats bit by bit."""
    lr: float
    """Learning rate at the start."""
    batch: int = 16
    """Samples per update."""


def _t1(m: int, width: int, **options: Any) -> Callable[[torch.Generator], GridOperator]:
    config = T1Config((m, m), (64, 64), hidden_channels=width, **options)
    return lambda generator: T1(config, generator=generator)


def _fno(modes: int, width: int, **options: Any) -> Callable[[torch.Generator], GridOperator]:
    config = FNOConfig((modes, modes), hidden_channels=width, **options)
    return lambda generator: FNO(config, generator=generator)


PRESETS: dict[str, Preset] = {
    "fno/darcy-64": Preset(_fno(8, 20), 1600, 7e-3, 8),
    "fno/flow-64": Preset(_fno(8, 20), 1600, 7e-3, 8),
    "t1/darcy-64": Preset(_t1(16, 20, boundary="dirichlet", input_boundary="neumann"), 7000, 3e-3),
    "t1/flow-64": Preset(_t1(13, 24), 12000, 3e-3),
}
"""Recipes by name, each for one core and at most four minutes."""


def sample_problem(name: str, count: int, cells: int = 64, seed: int = 1) -> tuple[Tensor, Tensor]:
    """New samples of a problem, x and y (count, 1, cells, cells), to test or to train on.

    Args:
        name: of `PROBLEMS`, or of a preset for it.
        count: samples, 10 to 70 ms each on 64² cells.
        cells: per axis.
        seed: of the inputs; the recipes train on those of seed 0.

    Raises:
        InputError: no such problem, or no samples.
    """
    problem = _known("sample_problem", name.rpartition("/")[2], PROBLEMS)
    if min(count, cells) < 1:
        got = f"{count}, {cells}"
        raise InputError(message("sample_problem", "count and cells >= 1", got, "Correct them"))
    return problem.pairs(count, cells, seed)


def train_preset(
    name: str,
    *,
    data: tuple[Tensor, Tensor] | None = None,
    unseen: tuple[Tensor, Tensor] | None = None,
    updates: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
) -> TrainedOperator:
    """Make and train an operator by a recipe of `PRESETS`.

    Args:
        name: of the recipe, such as "t1/flow-64".
        data: x and y to train on; default those of the problem, made anew in a minute or two.
        unseen: x and y to measure on; default 40 new ones.
        updates: fewer or more than the recipe says.
        seed: of weights, batches and symmetries.
        folder: for checkpoints; a run found there goes on, see `train_on_arrays`.

    Raises:
        InputError: no such recipe; arrays that do not fit.
    """
    preset = _known("train_preset", name, PRESETS)
    problem = PROBLEMS[name.rpartition("/")[2]]
    x, y = problem.pairs(problem.samples, 64, 0) if data is None else data
    count = preset.updates if updates is None else updates
    config = TrainerConfig(
        updates=count, optimizer="adamw", lr=preset.lr, weight_decay=1e-2, schedule="cosine",
        keep_best=False, validate_every=count, seed=seed,
    )  # fmt: skip
    return train_on_arrays(
        preset.make(torch.Generator().manual_seed(seed)), x, y, config,
        validation=sample_problem(name, 40) if unseen is None else unseen,
        batch=preset.batch, augment=problem.symmetry, folder=folder,
    )  # fmt: skip


def _known(where: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise InputError(message(where, f"one of {', '.join(sorted(table))}", name, "Choose one"))
    return table[name]
