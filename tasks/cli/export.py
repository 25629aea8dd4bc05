"""`rheograd export` and `rheograd replay`: tool motions to files for robots, and back into a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..runs.configs import UsageError, from_dict
from ..runs.folder import RunFolder
from ..runs.learning_config import PlanConfig
from .common import console, show_table, steps_bar


def export(
    run: Path,
    /,
    *,
    out: Path | None = None,
    rate: float | None = None,
    tools: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True)] = (),
) -> None:
    """Write the tools' motion of a finished run as a table of poses and twists.

    Columns: tool, time [s], position x y z [m], quaternion qw qx qy qz, linear velocity vx vy vz [m/s]
    and angular velocity wx wy wz [rad/s] about the position; all in the frame of the scene, z up.

    Args:
        run: Run folder of optimize or simulate, or a rollout file.
        out: .csv or .json [default: tool.csv beside the rollout].
        rate: Rows per second and tool [1/s] [default: one per step of the run].
        tools: Which tools [default: those that moved].
    """
    if rate is not None and not rate > 0:
        raise UsageError(f"export: --rate > 0 rows per second; got {rate}. Correct it.")
    target = out or (run if run.is_dir() else run.parent) / "tool.csv"
    if target.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"export: --out ending in .csv or .json; got {target.name!r}. Choose one.")
    from ...sim.io.trajectory import resample, write_trajectory

    motion = _motion(run, tools)
    if rate is not None:
        motion = resample(motion, 1.0 / rate)
    write_trajectory(motion, target)
    speed = motion.twist.norm(dim=-1)
    show_table(
        {
            "tools": ", ".join(motion.names),
            "rows per tool": motion.steps + 1,
            "duration [s]": motion.duration,
            "largest speed [m/s]": float(motion.twist[..., :3].norm(dim=-1).max()),
            "largest rate [rad/s]": float(motion.twist[..., 3:].norm(dim=-1).max()),
        }
        if bool((speed > 0).any())
        else {"tools": ", ".join(motion.names), "motion": "none"}
    )
    console.print(str(target))


def _motion(run: Path, tools: tuple[str, ...]) -> Any:
    """Poses of the stored rollout; a task without one is run again with the actions it found."""
    file = run / "rollout.h5" if run.is_dir() else run
    if file.is_file():
        from ...sim.io import RolloutReader
        from ..trajectory import stored_trajectory

        with RolloutReader(file) as reader:
            return stored_trajectory(reader, tools=tools)
    actions = run / "actions.safetensors"
    if not actions.is_file():
        raise UsageError(
            f"export: a finished run of optimize or simulate, or a rollout file; got {run}, which "
            "holds no rollout.h5 and no actions.safetensors. Check the path."
        )
    import torch

    from ...sim.io import load_checkpoint
    from ..runs.planning import make_task
    from ..trajectory import tool_trajectory

    settings = from_dict(PlanConfig, RunFolder.open(run, "optimize").config, str(run))
    task = make_task(settings.task, settings.settings)
    found = load_checkpoint(actions).tensors["actions"]
    with torch.no_grad():
        return tool_trajectory(task, task.rollout(found), found, tools=tools)


def replay(motion: Path, task: str, /, *, out: Path | None = None) -> None:
    """Run a task with its tools on a motion from a file, in the place of actions.

    Args:
        motion: .csv or .json as `rheograd export` makes it; also of a robot that followed one.
        task: Task of `rheograd list`, or the run folder of optimize whose task it is.
        out: Folder of the run [default: runs/TASK-replay-DATE-TIME].
    """
    from ...sim.io.trajectory import read_trajectory

    path = read_trajectory(motion)
    if out is not None:
        RunFolder.require_free(out, "replay")
    settings = PlanConfig(task=task)
    if Path(task).is_dir():
        settings = from_dict(PlanConfig, RunFolder.open(task, "optimize").config, task)
    with steps_bar("start torch and engines") as update:
        from ..runs.planning import make_task
        from ..runs.replaying import replay_motion

        problem = make_task(settings.task, settings.settings)
        config = {"task": settings.task, "settings": settings.settings}
        config |= {"motion": str(motion.absolute())}
        name = f"{settings.task.rpartition('/')[2]}-replay"
        folder = RunFolder.new(out, name, "replay", config)
        summary = replay_motion(
            problem, path, folder, lambda done, total: update(done, total, name="replay")
        )
    show_table(summary)
    if folder.rollout.is_file():
        console.print(f"{folder.rollout}\nrheograd view {folder.path}")
    else:
        console.print(str(folder.path / "metrics.jsonl"))
