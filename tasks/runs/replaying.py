"""Replays: a task whose tools follow a motion from a file, as a run folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...sim.io.trajectory import ToolTrajectory
from ..core import Task
from ..trajectory import replay
from .folder import RunFolder
from .planning import can_be_stored, store_states

__all__ = ["replay_motion"]


@torch.no_grad()
def replay_motion(
    task: Task[Any],
    motion: ToolTrajectory,
    folder: RunFolder,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Drive a task's tools along a motion; judge the end as the task does.

    Args:
        task: The task.
        motion: Of its tools, in the frame of its scene.
        folder: Gets metrics.jsonl, and of tasks of particles rollout.h5.
        on_step: Called with (steps done, steps in all).

    Returns:
        Whether the task is solved at the end, the mean objective, and the task's own metrics.
    """
    total = max(1, round(motion.duration / task.solver.step_time))
    losses: list[float] = []
    with folder.metrics() as metrics:

        def report(t: int, state: Any) -> None:
            losses.append(float(task.loss(state, min(t, task.horizon - 1))))
            metrics.add(step=t + 1, loss=losses[-1])
            if on_step is not None:
                on_step(t + 1, total)

        run = replay(task, motion, on_step=report)
    if can_be_stored(task):
        store_states(folder.rollout, task, run.states)
    return {
        "solved": "yes" if bool(task.success(run.final).all()) else "no",
        "loss": sum(losses) / len(losses),
        **{name: float(value) for name, value in task.metrics(run.final).items()},
        "steps": len(losses),
    }
