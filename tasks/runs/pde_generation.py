"""Data sets of PDE solutions: shards of trajectories, computed in parallel, one file each.

A file gets its name when it is complete, so whatever ends the run, complete files stay and `resume`
makes the rest. A file depends on the configuration and the seeds of its trajectories alone.

Source: `pde_sets.SETS`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...sim.core.backend import one_thread
from ...sim.core.errors import RheogradError
from ...sim.io import FieldFile, write_fields, write_whole
from .configs import UsageError, from_dict, merge, to_dict
from .devices import require_device
from .folder import Interrupted, RunFolder
from .pde_config import PdeConfig
from .pde_sets import SETS, PdeSet
from .pde_solutions import UNITS, coordinates, sides, solve, try_first

__all__ = ["check", "generate", "nano", "problem_of", "resume_generation"]

Progress = Callable[[int, int], None]


def nano(dataset: str) -> dict[str, Any]:
    """All of a set in seconds, too small to learn from."""
    own = SETS[dataset]
    few = min(own.frames, 4)
    steps = {"frames": few, "frame_steps": min(own.frame_steps, 5)}
    sizes = {"trajectories": 5, "validation": 2, "shard": 2, "grid": own.nano, "workers": 1}
    brief = {"parameters": own.brief} if own.brief else {}
    return sizes | (steps if own.frames > 1 else {}) | brief


def problem_of(config: PdeConfig) -> tuple[Any, PdeSet]:
    """The PDE of a configuration, and its set with the sizes that were asked for."""
    names = ("frames", "frame_steps", "dt")
    given = {k: v for k in names if (v := getattr(config, k)) is not None}
    own = SETS[config.dataset]
    if own.frames == 1 and given:
        raise UsageError(
            f"generate: no {', '.join(given)} for {config.dataset}, which is stationary; got "
            f"{given}. Leave them out."
        )
    own = dataclasses.replace(own, **given, cells=config.grid or own.cells)
    parameters: dict[str, float | str] = {}
    for pair in config.parameters:
        name, _, value = pair.partition("=")
        if name in own.words and value:
            parameters[name] = value
            continue
        try:
            parameters[name] = float(value)
        except ValueError:
            words = f", or a word for {' or '.join(own.words)}" if own.words else ""
            raise UsageError(
                f"--parameters: name=value with a number, such as viscosity=1e-4{words}; got "
                f"{pair!r}. Correct it."
            ) from None
    try:
        pde = own.pde(own.grid(own.cells), own.dt, parameters)
    except TypeError as error:  # an argument that the PDE does not have
        raise UsageError(
            f"--parameters: those of {config.dataset}; got {', '.join(parameters)} ({error}). "
            "See docs/pdes.md."
        ) from None
    return pde, own


def check(config: PdeConfig) -> None:
    """Raise before anything is written if the data set cannot be made.

    Raises:
        UsageError, InputError, StabilityError: numbers, parameters or steps that make no solution.
    """
    if not 0 <= config.validation < config.trajectories:
        raise UsageError(
            "generate: trajectories ≥ 1, validation in [0, trajectories); got "
            f"{config.trajectories}, {config.validation}. Correct them."
        )
    for name in ("grid", "frames", "frame_steps", "dt", "shard", "workers"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise UsageError(f"generate: {name} > 0; got {value}. Correct it.")
    if config.seed < 0:
        raise UsageError(f"generate: seed ≥ 0; got {config.seed}. Correct it.")
    require_device("generate", config.device)
    pde, own = problem_of(config)
    try_first(pde, own, config.seed, _like(config))


def generate(
    config: PdeConfig, folder: RunFolder, on_frame: Progress | None = None
) -> dict[str, Any]:
    """Compute what the folder does not have yet.

    Args:
        config: The data set.
        folder: Where files, metrics and, at the end, metadata.json go.
        on_frame: Called with (frames done, frames in all), over all trajectories.

    Returns:
        Summary: trajectories, cells, frames, wall time [s], size [MB].

    Raises:
        Interrupted: on Ctrl-C; complete files are kept.
        UsageError, InputError, StateError, StabilityError, StoreError: see the message.
    """
    from .parallel import run_jobs

    check(config)
    began = time.perf_counter()
    pde, own = problem_of(config)
    shards = _shards(config)
    missing = [s for s in shards if not (folder.path / s[0]).is_file()]
    total = config.trajectories * own.frames
    before = total - sum(len(s[1]) for s in missing) * own.frames

    def report(frames: int) -> None:
        if on_frame is not None:
            on_frame(min(before + frames, total), total)

    cores = os.cpu_count() or 1 if config.device == "cpu" else 1
    try:
        with folder.metrics() as metrics:
            rows = run_jobs(
                partial(_compute, config, folder.path), missing, config.workers or cores, report
            )
            with contextlib.closing(rows):
                for row in rows:
                    metrics.add(**row)
    except KeyboardInterrupt:
        done = sum((folder.path / s[0]).is_file() for s in shards)
        raise Interrupted(
            f"generate: stopped with {done} of {len(shards)} files, which are in {folder.path}. "
            f"Continue with `rheograd generate --resume {folder.path}`."
        ) from None
    if on_frame is not None:
        on_frame(total, total)
    metadata = _describe(config, folder.path, shards, pde, own)
    write_whole(folder.path / "metadata.json", json.dumps(metadata, indent=1) + "\n")
    return {
        "trajectories": config.trajectories,
        "computed now": sum(len(s[1]) for s in missing),
        "cells": " × ".join(map(str, pde.grid.cells)),
        "frames": own.frames,
        "wall time [s]": time.perf_counter() - began,
        "size [MB]": sum((folder.path / s[0]).stat().st_size for s in shards) / 1e6,
    }


def resume_generation(
    folder: RunFolder, on_frame: Progress | None = None, **changes: Any
) -> dict[str, Any]:
    """Make the files that an interrupted or killed run has left.

    Args:
        folder: Folder of the run.
        on_frame: As in `generate`.
        changes: Only `workers`; all else would make other data.
    """
    others = sorted(set(changes) - {"workers"})
    if others:
        raise UsageError(
            f"generate --resume: no options but --workers; got {', '.join(others)}. Start a new run "
            "with --config RUN/config.toml and these options."
        )
    data = merge(folder.config, changes)
    return generate(from_dict(PdeConfig, data, str(folder.path)), folder, on_frame)


def _shards(config: PdeConfig) -> list[tuple[str, list[int]]]:
    """(file, trajectories) of every shard; none crosses the split."""
    cut, out = config.trajectories - config.validation, []
    for part, first, end in (("train", 0, cut), ("validation", cut, config.trajectories)):
        for k, start in enumerate(range(first, end, config.shard)):
            out.append((f"{part}-{k:04d}.h5", list(range(start, min(start + config.shard, end)))))
    return out


@torch.no_grad()
def _compute(
    config: PdeConfig, folder: Path, job: tuple[str, list[int]], advance: Callable[[], None]
) -> dict[str, Any]:
    """One file."""
    began, (name, indices) = time.perf_counter(), job
    pde, own = problem_of(config)
    seeds = [config.seed + k for k in indices]

    def more(frames: int) -> None:
        for _ in range(frames):
            advance()

    try:
        with one_thread():
            found = solve(pde, own, seeds, _like(config), more)
    except RheogradError as error:
        error.args = (f"{error} This happened in {name}; complete files are in {folder}.",)
        raise
    write_fields(
        folder / name, found.fields, coordinates=coordinates(pde.grid), constant=found.constant,
        times=[frame * own.frame_steps * own.dt for frame in range(own.frames)],
        sides=sides(pde), units=UNITS,
        scalars={"seed": torch.tensor(seeds), **found.scalars},
        config=_physics(config, pde, own), dataset_name=config.dataset,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    return {"file": name, "trajectories": len(indices), "seconds": seconds}


def _like(config: PdeConfig) -> torch.Tensor:
    return torch.zeros((), dtype=getattr(torch, config.precision), device=config.device)


def _physics(config: PdeConfig, pde: Any, own: PdeSet) -> dict[str, Any]:
    numbers = {k: v for k, v in pde.default_params().items() if isinstance(v, (int, float))}
    return {
        **numbers,
        "equation": pde.name,
        "dt": own.dt,
        "frame_steps": own.frame_steps,
        "precision": config.precision,
        "lengths": list(pde.grid.lengths),
        "origin": list(pde.grid.origin),
    }


def _describe(
    config: PdeConfig, folder: Path, shards: Sequence[tuple[str, list[int]]], pde: Any, own: PdeSet
) -> dict[str, Any]:
    """What metadata.json says: physics, split, scales of the training part."""
    train = [name for name, _ in shards if name.startswith("train")]
    first = FieldFile(folder / train[0])
    statistics = {}
    for name in first.names:
        count, total, square = 0, 0.0, 0.0
        for file in train:
            value = FieldFile(folder / file).read(name).double()
            count += value.numel()
            total, square = total + float(value.sum()), square + float(value.square().sum())
        mean = total / count
        statistics[name] = {"mean": mean, "std": math.sqrt(max(square / count - mean**2, 0.0))}
    return {
        "dataset": config.dataset,
        **_physics(config, pde, own),
        "cells": list(pde.grid.cells),
        "sequence_length": own.frames,
        "generate": to_dict(config),
        "train": train,
        "validation": [name for name, _ in shards if name.startswith("validation")],
        "fields": first.names,
        "statistics": statistics,
    }
