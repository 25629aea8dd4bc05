"""What do the fluid tasks look like? docs/images/task-NAME.png: five moments of the best actions.

    python benchmarks/task_pictures.py [NAME …] [--actions FOLDER …] [--out docs/images]

Actions are the best of a folder of runs, such as that of `rheograd bench tasks`: any actions.safetensors
below a folder named like the task counts, and the least loss wins. Without any, the task's script is
shown; without script, what ten iterations of the gradient search find. Tasks have their nano size. Green
is where things shall go; where a liquid has a target, it is the first picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rheograd.sim.core.rotations import rotate
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.tasks.core import Task, task_by_name
from rheograd.tasks.optim import Budget, optimize
from rheograd.viz import Arrows, Camera, Tool
from strips import best_actions, main, panel, side_by_side

GOAL = "#12a150"


@dataclasses.dataclass(frozen=True)
class Look:
    """How a task is shown."""

    azimuth: float = -62.0
    elevation: float = 24.0
    margin: float = 1.0
    height: int = 200
    """Of a picture [px]."""
    style: str = "surface"
    first: float = 0.0
    """Share of the episode at which the strip begins."""
    low: tuple[float, ...] = ()
    """Corners of what is shown [m]; default the whole box."""
    high: tuple[float, ...] = ()
    colors: dict[str, str] = dataclasses.field(default_factory=dict)


COFFEE = {"coffee": "#7a4a2b", "milk": "#f6efe2"}
CREAM = {"cream": "#e58a9a"}
TOOLS = {"wafer": "#d9a760", "duck": "#ffc53d", "cube": "#b9772f", "obstacle": "#8f9aa5"}
"""Colors of tools by the beginning of their names."""
LOOKS = {
    "latte-art": Look(-90, 55, style="particles", colors=COFFEE),
    "latte-art-stir": Look(-90, 62, style="particles", colors=COFFEE),
    "icecream-static": Look(-62, 34, colors=CREAM, low=(0.02, 0.02, 0.06), high=(0.13, 0.13, 0.15)),
    "icecream-dynamic": Look(
        -62, 34, colors=CREAM, low=(0.02, 0.01, 0.05), high=(0.15, 0.14, 0.15)
    ),
    "gathering-easy": Look(-75, 42),
    "gathering-hard": Look(-75, 52),
    "pouring": Look(style="particles", colors={"milk": "#d9a441"}),
    "transporting": Look(first=0.05, style="particles"),
    "circulation": Look(-90, 89.9, style="particles"),
    "mixing": Look(-90, 62, style="particles", colors=COFFEE),
}


def actions_of(task: Task, name: str, folders: Sequence[Path]) -> torch.Tensor:
    found = best_actions(name, folders)
    if found is not None:
        return found
    try:
        return task.script()  # type: ignore[attr-defined]
    except NotImplementedError:
        return optimize(task, "gradient", budget=Budget(iterations=10), expand=False).actions


def goal_of(task: Any, name: str) -> list[Tool]:
    """Lines and points to reach."""
    c = task.config
    if name == "transporting":
        half = 0.5 * c.tray - 0.02
        return [Tool(Box((0.003, 0.1, half)), (c.goal_line, 0.15, 0.5 * c.tray, 1, 0, 0, 0), GOAL)]
    if not name.startswith("gathering"):
        return []
    if len(c.aim) == 1:
        half = 0.5 * c.pool[1]
        return [
            Tool(Box((0.003, half, 0.003)), (c.aim[0], half, c.depth + 0.012, 1, 0, 0, 0), GOAL)
        ]
    return [Tool(Sphere(0.016), (*c.aim, c.depth + 0.01, 1, 0, 0, 0), GOAL)]


def fan(task: Any, state: Any) -> list[Arrows]:
    """The direction of a nozzle of gas."""
    pose = state.nozzle_pose[0, 0].double()
    ahead = torch.tensor(task.model.nozzles[0].direction, dtype=torch.float64)
    ahead = rotate(pose[3:], ahead / ahead.norm())
    feet = pose[:3] + torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64)
    return [Arrows(feet[None].numpy(), ahead[None].numpy(), 1.1, "#1d2733")]


def scene_of(task: Any, state: Any, name: str) -> Any:
    """What is drawn of a state."""
    scene = task.picture(state, colors=LOOKS[name].colors)
    for tool in scene.tools:
        tool.color = next((c for n, c in TOOLS.items() if tool.name.startswith(n)), None)
    scene.tools = [*scene.tools, *goal_of(task, name)]
    if name == "circulation":
        scene.arrows, scene.label, scene.spacing = fan(task, state), "", 1.5 * scene.spacing
        scene.tools = [
            Tool(Sphere(0.1), (*mark.position[:2], 1.0, 1, 0, 0, 0), mark.color)
            for mark in scene.markers
        ]
        scene.markers = ()
    return scene


def strip(name: str, folders: Sequence[Path]) -> np.ndarray:
    """Five moments side by side, (H, 1200, 3) uint8."""
    look = LOOKS[name]
    task: Any = task_by_name(f"fluid/{name}-nano")
    actions = actions_of(task, name, folders)
    with torch.no_grad():
        states = task.rollout(actions).states
    wanted = bool(getattr(task, "goal", ()))
    shown = np.linspace(look.first, 1.0, 4 if wanted else 5) * (len(states) - 1)
    moments = [(states[n], f"{n * task.solver.step_time:.2f} s") for n in shown.round().astype(int)]
    if wanted:  # the last moment with the liquid where it shall be
        x = states[-1].x.clone()
        rows = torch.cat(
            [torch.arange(task.slices[g].start, task.slices[g].stop) for g in task.goal]
        )
        x[:, rows] = task.target()[-1].to(x)
        moments.insert(0, (states[-1].replace(x=x), "target"))
    size = panel(look.height)
    camera: Any = {"azimuth": look.azimuth, "elevation": look.elevation, "margin": look.margin}
    if look.low:
        camera = Camera.fit(look.low, look.high, size=size, **camera)
    scenes = [(scene_of(task, state, name), title) for state, title in moments]
    image = side_by_side(scenes, size, style=look.style, camera=camera)
    print(name, "solved" if bool(task.success(states[-1])[0]) else "not solved", flush=True)
    return image


if __name__ == "__main__":
    main(__doc__, LOOKS, strip, "runs/bench-fluid", "task", 256)
