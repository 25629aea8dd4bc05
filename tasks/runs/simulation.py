"""Running a scene: frames to a rollout file, numbers to metrics, a state to continue from.

Frames hold what people look at (x and v unless more is asked for); the complete state goes into a
checkpoint every few seconds of wall time. A resumed run therefore repeats the steps since the
checkpoint, which gives the same numbers, and appends where the file ends. Storing every field in
every frame instead would make files five times as large.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...sim.core.errors import StateError
from ...sim.io import Field, RolloutReader, RolloutWriter, load_checkpoint, save_checkpoint
from ...sim.mpm import MPMState
from ...viz import model_config
from .building import Simulation, build
from .configs import UsageError, from_dict, merge, to_dict
from .folder import Interrupted, RunFolder
from .scenes import SimulateConfig

__all__ = ["resume_simulation", "simulate", "stored_state"]

Progress = Callable[[int, int], None]
_FIELDS = {"x": 1, "v": 1, "C": 2, "F": 2, "J": 0, "alpha": 0}


def simulate(
    run: Simulation, folder: RunFolder, on_frame: Progress | None = None
) -> dict[str, Any]:
    """Run a scene into a new folder.

    Args:
        run: The scene, from `build`.
        folder: New run folder; gets rollout.h5, metrics.jsonl and checkpoint.safetensors.
        on_frame: Called with (frames done, frames in all).

    Returns:
        Summary: frames, particles, substeps, wall time [s], steps per second.

    Raises:
        Interrupted: on Ctrl-C, after everything has been saved.
        UsageError, InputError, StabilityError, StateError, StoreError: see the message.
    """
    folder.update(to_dict(run.config))
    writer = _writer(run, folder)
    writer.append(0.0, run.state)
    return _advance(run, folder, writer, run.state, 0, on_frame)


def resume_simulation(
    folder: RunFolder, on_frame: Progress | None = None, **changes: Any
) -> dict[str, Any]:
    """Continue an interrupted run after its last frame, or a finished one with a longer duration.

    Args:
        folder: Folder of the run.
        on_frame: As in `simulate`.
        changes: Only `duration`; all else would make another run.

    Returns:
        As `simulate`. The frames are the same as those of a run without the break.

    Raises:
        UsageError: a change of anything else, or a folder without a rollout.
        Interrupted, CheckpointError, StoreError, …: as `simulate`.
    """
    changes = {k: v for k, v in changes.items() if v is not None}
    others = sorted(set(changes) - {"duration"})
    if others:
        raise UsageError(
            f"simulate --resume: no option but --duration; got {', '.join(others)}. "
            "Start a new run with --config RUN/config.toml and these options."
        )
    config = from_dict(SimulateConfig, merge(folder.config, changes), str(folder.path))
    if any(body.shape == "emitter" for body in config.bodies.values()) and changes:
        raise UsageError(
            "simulate --resume: the duration of a scene with emitters as it is, since it decides "
            f"the number of particles; got --duration {changes['duration']}. Start a new run."
        )
    run = build(config)
    if not folder.rollout.is_file():
        return simulate(run, folder, on_frame)  # stopped before the first frame
    if changes:
        folder.update(to_dict(config))
    writer = RolloutWriter.resume(
        folder.rollout, particle_count=run.solver.model.particle_count, dim=config.dim
    )
    state, frame = run.state, 0
    if folder.checkpoint.is_file():
        stored = load_checkpoint(folder.checkpoint, device=config.device)
        state = MPMState(**stored.tensors, substep=stored.config["substep"])
        frame = stored.config["frame"]
    if writer.n_frames == 0:
        writer.append(0.0, run.state)
    return _advance(run, folder, writer, state, frame, on_frame)


def stored_state(run: Simulation, reader: RolloutReader, frame: int, scene: int = 0) -> MPMState:
    """A frame as a state that the simulator continues from, exactly.

    Args:
        run: The scene of the frame.
        reader: Rollout that stores everything: `fields = x v C F J alpha`, as far as the laws have them.
        frame: Index; negative counts from the end.
        scene: Trajectory of the file.

    Raises:
        UsageError: a field that the file does not have.
    """
    template = run.state.tensors()
    found = reader.frame(frame, scene)
    needed = [name for name, t in template.items() if t.numel()]
    missing = [name for name in needed if name not in found]
    if missing:
        raise UsageError(
            f"stored_state: {reader.path} with {', '.join(needed)}; got none of {missing}. Simulate "
            f"with --fields {' '.join(n for n in needed if n in _FIELDS)}."
        )
    tensors = {
        name: found[name].unsqueeze(0).to(t) if t.numel() else t for name, t in template.items()
    }
    time = float(reader.times[frame])
    return MPMState(**tensors, substep=round(time / run.solver.config.dt))


def _writer(run: Simulation, folder: RunFolder) -> RolloutWriter:
    model, config = run.solver.model, run.config
    slices = model.slices()
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(("x", *config.fields)):
        if name not in _FIELDS:
            raise UsageError(f"--fields: out of {', '.join(_FIELDS)}; got {name!r}. Correct it.")
        fields[name] = _FIELDS[name]
        if name in ("F", "J", "alpha"):
            carriers = tuple(model.storage_slices()[name])
            if not carriers:
                raise UsageError(
                    f"--fields: fields that the scene's laws keep; got {name!r}, which none of "
                    f"{', '.join(slices)} has. Leave it out."
                )
            fields[name] = Field(_FIELDS[name], carriers)
    return RolloutWriter(
        folder.rollout,
        n_trajectories=1,
        particle_count=model.particle_count,
        fields=fields,
        dim=config.dim,
        dt_frame=run.solver.step_time,
        groups={g: (s.start, s.stop) for g, s in slices.items()},
        tool_count=len(model.colliders),
        bodies=model.bodies.index,
        config={**model_config(model), "run": to_dict(config)},
        dataset_name=config.scene,
        dtype=getattr(torch, config.precision),
    )


@torch.no_grad()
def _advance(
    run: Simulation, folder: RunFolder, writer: RolloutWriter, state: MPMState, frame: int,
    on_frame: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    solver, config = run.solver, run.config
    began = saved = time.perf_counter()
    first, total = frame, run.frame_count
    kept_state, kept = state, frame
    try:
        with folder.metrics(keep=max(0, writer.n_frames - 1)) as metrics, writer:
            if on_frame is not None:
                on_frame(min(frame + 1, total), total)
            prepared = solver.prepare(None, state)
            while frame + 1 < total:
                before = time.perf_counter()
                state = solver.step(state, run.control(state), prepared)
                frame += 1
                if frame >= writer.n_frames:
                    writer.append(frame * solver.step_time, state)
                if frame > metrics.count:
                    row = _measure(run, state, prepared.mass)
                    metrics.add(frame=frame, **row, seconds=time.perf_counter() - before)
                kept_state, kept = state, frame
                if time.perf_counter() - saved > config.checkpoint_seconds:
                    _save(folder, kept_state, kept)
                    saved = time.perf_counter()
                if on_frame is not None:
                    on_frame(frame + 1, total)
        _save(folder, kept_state, kept)
    except KeyboardInterrupt:
        _save(folder, kept_state, kept)
        raise Interrupted(
            f"simulate: stopped after frame {kept} of {total - 1}. Everything up to there is in "
            f"{folder.path}. Continue with `rheograd simulate --resume {folder.path}`."
        ) from None
    except StateError as error:
        _save(folder, kept_state, kept)
        raise StateError(
            f"{error} The {kept + 1} frames before are in {folder.rollout}.",
            step=kept + 1, field=error.field,
        ) from error  # fmt: skip
    wall = time.perf_counter() - began
    particles, steps = solver.model.particle_count, (frame - first) * solver.config.substeps
    return {
        "frames": total,
        "particles": particles,
        "substeps": steps,
        "substep [s]": solver.config.dt,
        "wall time [s]": wall,
        "particle updates per second": particles * steps / wall if wall > 0 else 0.0,
    }


def _save(folder: RunFolder, state: MPMState, frame: int) -> None:
    save_checkpoint(
        folder.checkpoint, state.tensors(), {"frame": frame, "substep": state.substep}
    )


def _measure(run: Simulation, state: MPMState, mass: torch.Tensor) -> Mapping[str, Any]:
    """Time, energy of motion, center of mass and largest speed of what has been emitted."""
    alive = (run.solver.births < state.substep).to(state.x.device)
    m, x, v = mass[0, alive], state.x[0, alive], state.v[0, alive]
    if not len(m):
        return {"time": state.substep * run.solver.config.dt, "particles": 0}
    speed = v.norm(dim=-1)
    return {
        "time": state.substep * run.solver.config.dt,
        "particles": int(alive.sum()),
        "kinetic_energy": float((0.5 * m * speed.square()).sum()),
        "center": ((m[:, None] * x).sum(0) / m.sum()).tolist(),
        "speed_max": float(speed.max()),
    }
