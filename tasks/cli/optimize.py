"""`rheograd optimize`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..runs.configs import UsageError, from_dict, merge, to_dict
from ..runs.folder import RunFolder
from ..runs.learning_config import PlanConfig
from .common import Dotted, console, given, layered, options_of, progress, show_table

Options = options_of(PlanConfig, skip=("task",))
NONE = Options()


def optimize(
    task: str | None = None,
    /,
    *,
    config: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    optimizer: str | None = None,
    options: Annotated[Options, Parameter(name="*")] = NONE,
) -> None:
    """Find the actions that solve a task.

    Fields of the task are options too, `--task.FIELD VALUE`; so are those of the method,
    `--optimizer.FIELD VALUE`.

    Args:
        task: Task of `rheograd list` [default: fluid/gathering, or the configuration's].
        config: TOML file with these options; the command line wins.
        out: Folder of the run [default: runs/TASK-DATE-TIME].
        resume: Continue the run in this folder; --seconds, --iterations and --simulator-steps
            may extend it.
        optimizer: The same as --method.
    """
    from_line = merge(given(options), Dotted.nested("optimize"))
    if optimizer is not None:
        from_line = {"method": optimizer, **from_line}
    if resume is not None:
        budget = {"seconds", "iterations", "simulator_steps"}
        if task or config or out or set(from_line) - budget:
            raise UsageError(
                "optimize --resume: the folder, --seconds, --iterations and --simulator-steps; got "
                "other options, which would make another run. Leave them out."
            )
        folder = RunFolder.open(resume, "optimize")
        settings = from_dict(PlanConfig, merge(folder.config, from_line), str(resume))
        folder.update(to_dict(settings))
        problem = None
    else:
        if task:
            from_line = {**from_line, "task": task}
        settings = layered(PlanConfig, "optimize", config, from_line)
        if out is not None:
            RunFolder.require_free(out, "optimize")
        from ..runs.planning import make_task, method_config

        problem = make_task(settings.task, settings.settings)
        method = method_config(settings.method, settings.optimizer, problem)
        chosen = {
            "settings": {k: to_dict(problem.config)[k] for k in settings.settings},
            "optimizer": {k: to_dict(method)[k] for k in settings.optimizer},
        }
        settings = dataclasses.replace(settings, **chosen)
        name = settings.task.rpartition("/")[2]
        folder = RunFolder.new(out, name, "optimize", to_dict(settings))
    from ..runs.planning import plan

    with progress() as bars:
        bar = bars.add_task(f"optimize {settings.task}", total=None, note="")

        def report(event: dict[str, Any]) -> None:
            done, total = event["iteration"], settings.iterations
            if total is None and settings.simulator_steps is not None:
                done, total = event["steps"], settings.simulator_steps
            elif total is None and settings.seconds is not None:
                done, total = round(event["wall_s"]), round(settings.seconds)
            note = f"loss {event['loss']:.3g}, {event['distance']:.3g} m left"
            bars.update(bar, completed=done, total=total, note=note)

        result = plan(
            settings, folder, resume=resume is not None, task=problem, on_iteration=report
        )
    show_table(
        {
            "solved": "yes" if result.success else "no",
            "loss": result.loss,
            "distance [m]": result.distance,
            "iterations": len(result.history),
            "simulator steps": result.steps_used,
            "of these forward": result.forward_steps,
            **{f"unseen starts: {k}": v for k, v in result.unseen.items()},
            "wall time [s]": result.wall_s,
            "stopped by": result.stopped,
        }
    )
    if folder.rollout.is_file():
        console.print(f"{folder.rollout}\nrheograd view {folder.path}")
    else:
        console.print(str(folder.path / "actions.safetensors"))
