"""Tool motions of tasks and simulations: taken from rollouts, and driven again.

    run = task.rollout(actions)
    motion = tool_trajectory(task, run, actions)          to a file: sim.io.write_trajectory
    again = replay(task, motion)                          the same states

A motion is poses and twists of tools alone, so what a robot made drives a task as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..sim.core.colliders_rigid import RigidBody
from ..sim.core.errors import InputError, message
from ..sim.core.poses import twists_from_poses
from ..sim.core.rollout import Rollout, rollout
from ..sim.io.store_read import RolloutReader
from ..sim.io.trajectory import ToolTrajectory, resample
from .core import Task

__all__ = ["controls_of", "replay", "stored_trajectory", "tool_trajectory"]

STILL = 1e-6
"""A tool whose pose changes by less [m, -] has not moved."""
CARRIED = 1e-5
"""Twists that lead past the next pose by more [m, -] are not used; the poses are."""


class _Tools:
    """What a solver calls its tools: colliders of matter, nozzles of gas."""

    def __init__(self, solver: Any) -> None:
        model = solver.model
        self.field = "nozzle" if hasattr(model, "nozzles") else "tool"
        tools = model.nozzles if self.field == "nozzle" else model.colliders
        self.names = [t.name or f"tool-{k}" for k, t in enumerate(tools)]
        self.free = [k for k, t in enumerate(tools) if not isinstance(t, RigidBody)]
        self.dim = getattr(model, "dim", 3)

    def pose(self, state: Any) -> Tensor:
        return getattr(state, f"{self.field}_pose")

    def rows(self, names: Sequence[str], where: str) -> list[int]:
        """Rows of tools; rigid bodies cannot be driven."""
        known = [self.names[k] for k in self.free]
        wrong = [n for n in names if n not in known]
        if wrong:
            fix = "Rename them in the file, or take another scene"
            raise InputError(message(where, f"driven tools out of {known}", f"{wrong}", fix))
        return [self.names.index(n) for n in names]


def tool_trajectory(
    task: Task[Any],
    run: Rollout[Any],
    actions: Tensor | None = None,
    *,
    tools: Sequence[str] = (),
    scene: int = 0,
) -> ToolTrajectory:
    """Motion of the tools in a rollout that kept every state.

    Args:
        task: Task of the rollout.
        run: What `task.rollout(actions)` returned.
        actions: Its actions (T, A) or (B, T, A). With them twists are the very commands, so that a replay
            repeats the rollout bit by bit; without, those that carry each pose into the next.
        tools: Names; default those that moved, or all if none did.
        scene: Which one of the batch.

    Raises:
        InputError: a rollout with gaps or without steps; unknown tools.

    Differentiable in nothing: files hold numbers.
    """
    where, found = "tool_trajectory", _Tools(task.solver)
    if len(run) < 2 or run.steps != list(range(len(run))):
        fix = "Call task.rollout(actions) with save_every=1"
        raise InputError(
            message(where, "every state of a rollout", f"steps {run.steps[:4]} …", fix)
        )
    pose = torch.stack([found.pose(s)[scene].detach() for s in run.states])
    time = task.solver.step_time * torch.arange(len(run), dtype=torch.float64)
    twist = None
    if actions is not None:
        batch = actions.detach() if actions.ndim == 3 else actions.detach().unsqueeze(0)
        rows = []
        with torch.no_grad():
            for t, state in enumerate(run.states[:-1]):
                control = task.control(state, batch[:, t].to(pose.device))
                rows.append(getattr(control, f"{found.field}_twist")[scene])
        twist = torch.stack(rows)
    chosen = found.rows(tools, where) if tools else _moved(pose, found.free)
    return _trajectory(time, [found.names[k] for k in chosen], pose, twist, chosen)


def stored_trajectory(
    reader: RolloutReader, *, tools: Sequence[str] = (), scene: int = 0
) -> ToolTrajectory:
    """Motion of the tools in a stored rollout; twists carry each stored pose into the next.

    Args:
        reader: Rollout with tool poses.
        tools: Names; default those that moved, or all if none did. Rigid bodies only on demand.
        scene: Which trajectory of the file.

    Raises:
        InputError: a file without tools or with less than two frames; unknown tools.
    """
    where = "stored_trajectory"
    if reader.tool_pose is None or reader.n_frames < 2:
        got = f"{reader.layout.tool_count} tools in {reader.n_frames} frames of {reader.path}"
        raise InputError(message(where, "a rollout with tools", got, "Run a scene that has some"))
    pose = torch.from_numpy(reader.tool_pose[scene])
    entries = list(reader.config.get("tools") or []) + [{}] * reader.layout.tool_count
    names = [entries[k].get("name") or f"tool-{k}" for k in range(pose.shape[1])]
    unknown = [n for n in tools if n not in names]
    if unknown:
        raise InputError(message(where, f"tools out of {names}", f"{unknown}", "Correct the names"))
    free = [k for k in range(len(names)) if k not in reader.layout.bodies] or list(
        range(len(names))
    )
    chosen = [names.index(n) for n in tools] or _moved(pose, free)
    time = torch.from_numpy(reader.times)
    return _trajectory(time, [names[k] for k in chosen], pose, None, chosen)


def controls_of(trajectory: ToolTrajectory, solver: Any, state: Any) -> tuple[Any, list[Any]]:
    """What makes a simulator's tools follow a motion.

    Twists of the file are used where it has the solver's steps and they carry each pose into the next;
    otherwise the poses are interpolated to the solver's steps (`resample`) and give the twists.

    Args:
        trajectory: Motion of some tools; the others stand still.
        solver: `SolverMPM` or `GasSolver`, with its tools by name.
        state: Start, whose batch, precision and device are taken.

    Returns:
        The state with the tools at the start of the motion, and one control per step.

    Raises:
        InputError: unknown tools, rigid bodies, motion out of the plane of a 2-D scene.
    """
    where, found = "replay", _Tools(solver)
    rows = found.rows(trajectory.names, where)
    across = trajectory.pose[..., [1, 4, 6]].abs().max()
    if found.dim == 2 and float(across) > STILL:
        fix = "Turn it into that plane"
        raise InputError(
            message(where, "motion in the plane y = 0", f"{float(across):.3g} beside", fix)
        )
    step = solver.step_time
    same = bool(torch.allclose(trajectory.time.diff(), trajectory.time.new_tensor(step), rtol=1e-6))
    if not same:
        trajectory = resample(trajectory, step)
    elif trajectory.gap() > CARRIED:
        twist = twists_from_poses(trajectory.pose, step)
        trajectory = ToolTrajectory(trajectory.time, trajectory.names, trajectory.pose, twist)
    pose = found.pose(state).clone()
    pose[:, rows] = trajectory.pose[0].to(pose)
    twist = pose.new_zeros(trajectory.steps, *pose.shape[:2], 6)
    twist[:, :, rows] = trajectory.twist[:, None].to(pose)
    start = state.replace(**{f"{found.field}_pose": pose})
    control = _control(found.field)
    return start, [control(**{f"{found.field}_twist": t}) for t in twist]


def replay(
    task: Task[Any], trajectory: ToolTrajectory, *, state: Any = None, **options: Any
) -> Rollout[Any]:
    """Run a task with its tools on a given motion in the place of actions.

    Args:
        task: Task; of its actions nothing is asked, of its scene everything.
        trajectory: Motion, see `controls_of`.
        state: Start; default `task.reset()`.
        options: Of `sim.core.rollout.rollout`, such as `save_every` and `on_step`.

    Returns:
        The states.

    Raises:
        InputError: as `controls_of`.
        StateError, StabilityError: from the simulator.
    """
    device = task.device or "cpu"
    state = task.reset(device=device) if state is None else state
    start, controls = controls_of(trajectory, task.solver, state)
    task.simulated_steps += start.batch_size * task.substeps * len(controls)
    return rollout(task.solver, start, controls, task.params(), **options)


def _control(field: str) -> Any:
    if field == "nozzle":
        from ..sim.grid import GasControl

        return GasControl
    from ..sim.mpm import MPMControl

    return MPMControl


def _moved(pose: Tensor, free: list[int]) -> list[int]:
    """Tools of poses (T + 1, K, 7) that move; all free ones if none does."""
    spread = (pose.amax(0) - pose.amin(0)).amax(-1)
    return [k for k in free if float(spread[k]) > STILL] or free


def _trajectory(
    time: Tensor, names: list[str], pose: Tensor, twist: Tensor | None, rows: list[int]
) -> ToolTrajectory:
    pose = pose[:, rows].double()
    if twist is None:
        twist = twists_from_poses(pose, time.diff()[:, None, None])
    else:
        twist = twist[:, rows]
    return ToolTrajectory(time, tuple(names), pose, twist)
