"""Data sets of thrown bodies: many simulations in parallel, one rollout file each.

A file gets its final name when its trajectory is complete, so whatever ends the run, complete
trajectories stay and `resume` makes the rest. A trajectory depends on the configuration and its own
seed alone: not on the number of processes, on the batch, or on interruptions.

Source: Ma et al. 2023 (NCLaw), §4.3, for laws and throws; Viswanath et al. 2024 (GIOROM) for grid,
frames and split.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...operators.data import KINDS, ParticleWindows
from ...operators.nclaw import ReferenceScene, random_throw
from ...sim import mpm
from ...sim.core.backend import one_thread
from ...sim.core.errors import StateError
from ...sim.core.sampling import sample_shape
from ...sim.core.shapes import Box, Capsule, Cylinder, Shape, Sphere, Torus
from ...sim.io import RolloutWriter, write_whole
from ...viz import model_config
from .configs import UsageError, from_dict, merge, nearest, to_dict
from .devices import require_device
from .folder import Interrupted, RunFolder
from .generation_config import GenerateConfig
from .parallel import run_jobs

__all__ = ["check", "generate", "resume_generation", "scene_of"]

Progress = Callable[[int, int], None]
UNFINISHED = ".unfinished"


def _shape(config: GenerateConfig) -> Shape:
    a = config.size
    shapes: dict[str, Shape] = {
        "cube": Box((a / 2, a / 2, a / 2)),
        "sphere": Sphere(a / 2),
        "cylinder": Cylinder(0.35 * a, a / 2),
        "capsule": Capsule(0.2 * a, 0.3 * a),
        "torus": Torus(0.35 * a, 0.15 * a),
    }
    if config.shape in shapes:
        return shapes[config.shape]
    if not Path(config.shape).suffix:
        raise UsageError(
            f"generate: a shape or a mesh file; got {config.shape!r}. "
            f"{nearest(config.shape, shapes)}"
        )
    from ...sim.io.mesh import mesh_shape

    return mesh_shape(config.shape, size=a)


def scene_of(config: GenerateConfig, index: int) -> ReferenceScene:
    """The scene of one trajectory: the body in the middle of the box, thrown as its seed says."""
    shape, seed = _shape(config), config.seed + index
    spacing = (shape.volume() / config.particles) ** (1 / 3)
    x, volume = sample_shape(
        shape, spacing, position=(0.5, 0.5, 0.5), mode=config.sampling,
        generator=torch.Generator().manual_seed(seed), dtype=getattr(torch, config.precision),
    )  # fmt: skip
    wall = 2 / config.grid
    return dataclasses.replace(
        random_throw(config.dataset, seed), x=x, volume=volume, lower=(wall,) * 3,
        upper=(1 - wall,) * 3, dx=1 / config.grid, dt=config.dt,
    )  # fmt: skip


def solver_of(config: GenerateConfig, scene: ReferenceScene) -> Any:
    """Simulator of a scene; one step of it is one frame, on one core."""
    group = mpm.Group(config.dataset, scene.law, scene.x, scene.volume, scene.velocities())
    box = mpm.Grid(scene.lower, scene.upper, scene.dx, padding=2)
    model = mpm.MPMModel(box, [group], gravity=scene.gravity)
    return mpm.SolverMPM(model, mpm.MPMConfig(dt=scene.dt, substeps=config.frame_steps, threads=1))


def check(config: GenerateConfig) -> None:
    """Raise before anything is written if the data set cannot be made.

    Raises:
        UsageError, InputError, StabilityError: numbers, shapes or steps that make no simulation.
    """
    if not (0 <= config.validation < config.trajectories and config.frames >= 3):
        raise UsageError(
            "generate: trajectories ≥ 1, validation in [0, trajectories), frames ≥ 3; got "
            f"{config.trajectories}, {config.validation}, {config.frames}. Correct them."
        )
    for name in ("particles", "size", "frame_steps", "dt", "batch", "workers"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise UsageError(f"generate: {name} > 0; got {value}. Correct it.")
    if config.grid < 8 or config.seed < 0:
        raise UsageError(
            f"generate: grid ≥ 8 and seed ≥ 0; got {config.grid} and {config.seed}. Correct them."
        )
    unknown = set(config.fields) - {"x", "v"}
    if unknown:
        raise UsageError(f"--fields: out of x, v; got {', '.join(sorted(unknown))}. Correct it.")
    require_device("generate", config.device)
    solver = solver_of(config, scene_of(config, 0))
    solver.prepare(None, solver.model.initial_state())


def generate(
    config: GenerateConfig, folder: RunFolder, on_frame: Progress | None = None
) -> dict[str, Any]:
    """Simulate what the folder does not have yet.

    Args:
        config: The data set.
        folder: Where files, metrics and, at the end, metadata.json go.
        on_frame: Called with (frames done, frames in all), over all trajectories.

    Returns:
        Summary: trajectories, particles, frames, wall time [s], size [MB].

    Raises:
        Interrupted: on Ctrl-C; complete trajectories are kept.
        UsageError, InputError, StateError, StabilityError, StoreError: see the message.
    """
    check(config)
    began = time.perf_counter()
    for stale in folder.path.glob(f"*{UNFINISHED}*"):
        stale.unlink()
    missing = [k for k in range(config.trajectories) if not _file(folder.path, k).is_file()]
    jobs = [missing[i : i + config.batch] for i in range(0, len(missing), config.batch)]
    total = config.trajectories * config.frames
    before = total - len(missing) * config.frames

    def report(frames: int) -> None:
        if on_frame is not None:
            on_frame(before + frames, total)

    cores = os.cpu_count() or 1 if config.device == "cpu" else 1
    work = partial(_simulate, config, folder.path)
    try:
        with folder.metrics() as metrics:
            rows = run_jobs(work, jobs, config.workers or cores, report)
            with contextlib.closing(rows):
                for row in itertools.chain.from_iterable(rows):
                    metrics.add(**row)
    except KeyboardInterrupt:
        done = sum(_file(folder.path, k).is_file() for k in range(config.trajectories))
        raise Interrupted(
            f"generate: stopped with {done} of {config.trajectories} trajectories, which are in "
            f"{folder.path}. Continue with `rheograd generate --resume {folder.path}`."
        ) from None
    report(total - before)
    files = [_file(folder.path, k) for k in range(config.trajectories)]
    metadata = _describe(config, files)
    write_whole(folder.path / "metadata.json", json.dumps(metadata, indent=1) + "\n")
    wall = time.perf_counter() - began
    return {
        "trajectories": config.trajectories,
        "simulated now": len(missing),
        "particles": metadata["particles"][0],
        "frames": config.frames,
        "wall time [s]": wall,
        "size [MB]": sum(f.stat().st_size for f in files) / 1e6,
    }


def resume_generation(
    folder: RunFolder, on_frame: Progress | None = None, **changes: Any
) -> dict[str, Any]:
    """Make the trajectories that an interrupted or killed run has left.

    Args:
        folder: Folder of the run.
        on_frame: As in `generate`.
        changes: Only `batch` and `workers`; all else would make other data.

    Returns:
        As `generate`. The data are the same as those of a run without the break.
    """
    others = sorted(set(changes) - {"batch", "workers"})
    if others:
        raise UsageError(
            f"generate --resume: no options but --batch and --workers; got {', '.join(others)}. "
            "Start a new run with --config RUN/config.toml and these options."
        )
    data = merge(folder.config, changes)
    return generate(from_dict(GenerateConfig, data, str(folder.path)), folder, on_frame)


def _file(folder: Path, index: int) -> Path:
    return folder / f"trajectory-{index:04d}.h5"


def _simulate(
    config: GenerateConfig, folder: Path, job: Sequence[int], advance: Callable[[], None]
) -> list[dict[str, Any]]:
    """Trajectories of one job, together where they have the same number of particles."""
    scenes = [(index, scene_of(config, index)) for index in job]
    rows = []
    for _, group in itertools.groupby(scenes, key=lambda item: len(item[1].x)):
        with one_thread():
            rows += _simulate_batch(config, list(group), folder, advance)
    return rows


@torch.no_grad()
def _simulate_batch(
    config: GenerateConfig, scenes: Sequence[tuple[int, ReferenceScene]], folder: Path,
    advance: Callable[[], None],
) -> list[dict[str, Any]]:  # fmt: skip
    began = time.perf_counter()
    solver = solver_of(config, scenes[0][1])
    options: dict[str, Any] = {"dtype": getattr(torch, config.precision), "device": config.device}
    state = solver.model.initial_state(len(scenes), **options)
    state = state.replace(
        x=torch.stack([s.x for _, s in scenes]).to(**options),
        v=torch.stack([s.velocities() for _, s in scenes]).to(**options),
    )
    prepared = solver.prepare(None, state)
    parts = [_file(folder, k).with_suffix(UNFINISHED) for k, _ in scenes]
    try:
        with contextlib.ExitStack() as stack:
            writers = [
                stack.enter_context(_writer(config, index, scene, part, solver.model))
                for (index, scene), part in zip(scenes, parts, strict=True)
            ]
            for frame in range(config.frames):
                state = solver.step(state, None, prepared) if frame else state
                values = {name: getattr(state, name).cpu() for name in ("x", *config.fields)}
                for b, writer in enumerate(writers):
                    row = {name: value[b : b + 1] for name, value in values.items()}
                    writer.append(frame * solver.step_time, row)
                    advance()
        for (index, _), part in zip(scenes, parts, strict=True):
            os.replace(part, _file(folder, index))
    except StateError as error:
        numbers = ", ".join(str(index) for index, _ in scenes)
        raise StateError(
            f"{error} This happened in trajectory {numbers}; complete ones are in {folder}.",
            step=error.step, field=error.field,
        ) from error  # fmt: skip
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    seconds = (time.perf_counter() - began) / len(scenes)
    return [{"trajectory": k, "seed": config.seed + k, "seconds": seconds} for k, _ in scenes]


def _writer(
    config: GenerateConfig, index: int, scene: ReferenceScene, path: Path, model: mpm.MPMModel
) -> RolloutWriter:
    N = len(scene.x)
    return RolloutWriter(
        path,
        n_trajectories=1,
        particle_count=N,
        fields=dict.fromkeys(("x", *config.fields), 1),
        dim=3,
        dt_frame=config.dt * config.frame_steps,
        groups={config.dataset: (0, N)},
        static={"material": torch.full((N,), KINDS[config.dataset])},
        config={
            **model_config(model),
            **_scene_config(config, scene),
            **_throw(config, index, scene),
        },
        dataset_name=f"{config.dataset}-{index:04d}",
        dtype=getattr(torch, config.precision),
        overwrite=True,
    )


def _scene_config(config: GenerateConfig, scene: ReferenceScene) -> dict[str, Any]:
    """What all trajectories have in common and decides them."""
    settings = to_dict(config)
    how = ("trajectories", "validation", "batch", "workers", "fields")
    parameters = {name: float(value) for name, value in scene.law.parameters().items()}
    return {
        "gravity": list(scene.gravity),
        "law": {"name": type(scene.law).__name__, **parameters},
        "generate": {k: v for k, v in settings.items() if k not in how},
    }


def _throw(config: GenerateConfig, index: int, scene: ReferenceScene) -> dict[str, Any]:
    return {
        "throw": {
            "seed": config.seed + index,
            "velocity": list(scene.velocity),
            "angular_velocity": list(scene.angular),
        }
    }


def _describe(config: GenerateConfig, files: Sequence[Path]) -> dict[str, Any]:
    """What metadata.json says: physics, split, seeds and pooled scales of the training part."""
    names = [f.name for f in files]
    cut = config.trajectories - config.validation
    scenes = [scene_of(config, k) for k in range(config.trajectories)]
    common = _scene_config(config, scenes[0])
    train = ParticleWindows(files[:cut], window=2, targets=1)
    return {
        "dataset": config.dataset,
        "dim": 3,
        "dt": config.dt * config.frame_steps,
        "sequence_length": config.frames,
        "bounds": [list(pair) for pair in zip(scenes[0].lower, scenes[0].upper, strict=True)],
        **common,
        "train": names[:cut],
        "validation": names[cut:],
        "throws": [_throw(config, k, s)["throw"] for k, s in enumerate(scenes)],
        "particles": [len(s.x) for s in scenes],
        "statistics": train.statistics().to_dict(),
    }
