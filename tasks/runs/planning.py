"""Optimization runs: best actions of a task, with metrics, checkpoints and the motion they give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import torch

from ...sim.core.state import State
from ...sim.fem import FEMModel
from ...sim.io import RolloutWriter, load_checkpoint, save_checkpoint
from ...viz import model_config
from ..core import TASKS, Task
from ..optim import OPTIMIZERS, Budget, OptimResult, optimize, settings_class
from .configs import UsageError, from_dict, merge, nearest, to_dict
from .devices import require_device
from .folder import Interrupted, RunFolder
from .learning_config import PlanConfig

__all__ = ["can_be_stored", "make_task", "method_config", "plan", "store_motion", "store_states"]


def make_task(name: str, settings: Mapping[str, Any] | None = None) -> Task:
    """A registered task with some fields of its configuration changed.

    Raises:
        UsageError: unknown task or field, with the nearest name; a value of the wrong type.
    """
    from .. import fluid, shell, tactile  # noqa: F401  registers the built-in tasks

    if name not in TASKS:
        raise UsageError(f"optimize: a known task; got {name!r}. {nearest(name, TASKS)}")
    cls = TASKS[name]()
    return cls(from_dict(cls.Config, settings or {}, "--task"))


def method_config(method: str, settings: Mapping[str, Any], task: Task) -> Any:
    """Settings of an optimizer with some fields changed; the others are as the task suggests.

    Raises:
        UsageError: unknown method or field, with the nearest name.
    """
    if method not in OPTIMIZERS:
        raise UsageError(f"optimize: a known method; got {method!r}. {nearest(method, OPTIMIZERS)}")
    values = merge(task.search_defaults.get(method, {}), settings)
    return from_dict(settings_class(method), values, "--optimizer")


def plan(
    config: PlanConfig,
    folder: RunFolder,
    *,
    resume: bool = False,
    task: Task | None = None,
    on_iteration: Callable[[dict[str, Any]], None] | None = None,
    executor: Executor | None = None,
    motion: bool = True,
) -> OptimResult:
    """Optimize a task into a run folder: actions, metrics, checkpoints, motion before and after.

    Args:
        config: The run.
        folder: Gets metrics.jsonl, checkpoint.safetensors, actions.safetensors; where a policy was
            searched, policy.safetensors; of tasks of particles and of surfaces, before.h5 and
            rollout.h5.
        resume: Continue from the folder's checkpoint, if it has one.
        task: The task, if it has been made already.
        on_iteration: As in `optimize`.
        executor: Runs populations.
        motion: Store the motion; without, resuming the finished run does it.

    Raises:
        Interrupted: on Ctrl-C, after the best actions so far and their motion were saved.
    """
    require_device("optimize", config.device)
    task = task or make_task(config.task, config.settings)
    task.device = config.device
    settings = method_config(config.method, config.optimizer, task)
    state = None
    if resume and folder.checkpoint.is_file():
        state = load_checkpoint(folder.checkpoint).optimizer_state
    with folder.metrics(keep=state["iteration"] if state else 0) as metrics:

        def report(event: dict[str, Any]) -> None:
            optimizer = event["optimizer"]
            metrics.add(**{k: v for k, v in event.items() if k != "optimizer"})
            save_checkpoint(
                folder.checkpoint,
                {"actions": optimizer.best_actions.detach()},
                to_dict(config),
                optimizer=optimizer.state_dict(),
            )
            if on_iteration is not None:
                on_iteration(event)

        result = optimize(
            task,
            config.method,
            config=settings,
            budget=Budget(
                simulator_steps=config.simulator_steps,
                wall_s=config.seconds,
                iterations=config.iterations,
            ),
            seed=config.seed,
            on_iteration=report,
            state=state,
            executor=executor,
        )
    found = {"loss": result.loss, "success": result.success, "stopped": result.stopped}
    save_checkpoint(
        folder.path / "actions.safetensors", {"actions": result.actions.contiguous()}, found
    )
    if result.policy is not None:
        result.policy.save(folder.path / "policy.safetensors")
    if motion and can_be_stored(task):
        store_motion(folder.path / "before.h5", task, task.initial_actions())
        store_motion(folder.rollout, task, result.actions)
    if result.stopped == "interrupted":
        raise Interrupted(
            f"optimize: stopped after {len(result.history)} iterations. The best actions so far "
            f"and their motion are in {folder.path}. Continue with "
            f"`rheograd optimize --resume {folder.path}`."
        )
    return result


def can_be_stored(task: Task) -> bool:
    """Whether a task has particles, or surfaces that it draws."""
    model = getattr(task.solver, "model", None)
    return hasattr(model, "particle_count") or isinstance(model, FEMModel)


@torch.no_grad()
def store_motion(path: Any, task: Task, actions: torch.Tensor) -> list[State]:
    """Run actions (T, A) of a task and store every state; returns the states."""
    states = task.rollout(actions.to(torch.float32)).states
    store_states(path, task, states)
    return states


def store_states(path: Any, task: Task, states: Sequence[State]) -> None:
    """Write the states of a task, one per step from the start on, as a rollout file."""
    solver = task.solver
    if isinstance(solver.model, FEMModel):
        from .pictured import store_surfaces

        store_surfaces(path, task, states)
        return
    slices = solver.model.slices()
    with RolloutWriter(
        path,
        n_trajectories=1,
        particle_count=solver.model.particle_count,
        fields={"x": 1, "v": 1},
        dim=solver.model.dim,
        dt_frame=solver.step_time,
        groups={name: (s.start, s.stop) for name, s in slices.items()},
        tool_count=len(solver.model.colliders),
        bodies=solver.model.bodies.index,
        config={**model_config(solver.model), "task": dataclasses.asdict(task.config)},
        overwrite=True,
    ) as writer:
        for t, state in enumerate(states):
            writer.append(t * solver.step_time, state)
