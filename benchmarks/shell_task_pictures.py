"""What do the tasks with sheets look like? docs/images/shell-NAME.png: five moments of the best actions.

    python benchmarks/shell_task_pictures.py [NAME …] [--actions FOLDER …] [--out docs/images]

Actions are the best of a folder of runs, such as that of `rheograd bench tasks`: any actions.safetensors
below a folder named like the task counts, and the least loss wins. Without any, ten iterations of the
gradient search find them. Tasks have their nano size.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rheograd.sim.core.shapes import Box, Capsule
from rheograd.tasks.core import task_by_name
from rheograd.tasks.optim import Budget, optimize
from rheograd.tasks.shell.inverse import InverseTask
from rheograd.viz import Camera, MeshPart, Tool
from strips import best_actions, main, panel, side_by_side


@dataclasses.dataclass(frozen=True)
class Look:
    """How a task is shown."""

    low: tuple[float, float, float]
    """Corners of what is shown [m]."""
    high: tuple[float, float, float]
    azimuth: float = -62.0
    elevation: float = 22.0
    height: int = 190
    """Of a picture [px]."""


STRIP = Look((-0.03, -0.01, 0.0), (0.05, 0.01, 0.034), -84, 8)
HELD = Look((-0.03, -0.014, -0.012), (0.03, 0.014, 0.018), -78, 16)
LOOKS = {
    "lifting": Look((-0.045, -0.04, -0.012), (0.03, 0.03, 0.012), elevation=32),
    "separating": Look((-0.075, -0.03, -0.004), (0.03, 0.03, 0.012), elevation=30),
    "following": Look((-0.075, -0.03, -0.004), (0.03, 0.03, 0.012), elevation=30),
    "folding-u": STRIP,
    "folding-l": STRIP,
    "pick-folding": Look((-0.032, -0.03, -0.006), (0.032, 0.03, 0.02), -84, 10),
    "forming": Look((-0.03, -0.024, 0.0), (0.07, 0.024, 0.036), -80, 12),
    "balancing": HELD,
    "throwing": HELD,
    "bouncing": Look((-0.03, -0.03, 0.0), (0.03, 0.03, 0.01), -80, 12, 150),
    "sliding": Look((-0.042, -0.03, 0.0), (0.034, 0.03, 0.012), -75, 14, 150),
    "card": Look((-0.04, -0.02, -0.01), (0.03, 0.02, 0.014), -82, 10),
}


def states_of(task: Any, actions: torch.Tensor) -> list[Any]:
    """The scene over time; a task of parameters runs its whole episode in one action."""
    with torch.no_grad():
        if not isinstance(task, InverseTask):
            return task.rollout(actions).states
        state = task.reset()
        prepared = task.fem.prepare(task.parameters(actions[:1].double()), state)
        states = [state]
        for k in range(task.config.steps):
            states.append(task.fem.step(states[-1], task.move(k, states[-1]), prepared))
        return states


def arch(radius: float, half: float) -> MeshPart:
    """The visible part of the cylinder under `pick-folding`."""
    x = torch.linspace(-half, half, 40)
    z = (radius**2 - x**2).sqrt() - radius
    rows = torch.stack([torch.stack((x, torch.full_like(x, y), z), 1) for y in (-half, half)])
    a = torch.arange(39)
    faces = torch.cat((torch.stack((a, a + 1, a + 40), 1), torch.stack((a + 1, a + 41, a + 40), 1)))
    return MeshPart(rows.reshape(-1, 3), faces, "#c3c9cf")


def scene_of(task: Any, state: Any, look: Look) -> Any:
    """What is drawn of a state."""
    scene = task.picture(state)
    if not scene.tools:  # a plane, as far as it is seen
        low, high = look.low, look.high
        middle = [0.5 * (a + b) for a, b in zip(low[:2], high[:2], strict=True)]
        half = [0.5 * (b - a) + 2e-3 for a, b in zip(low[:2], high[:2], strict=True)]
        ground = Tool(Box((*half, 3e-4)), (*middle, -3e-4, 1, 0, 0, 0), "#c3c9cf")
        scene.tools = [ground] if task.scene.plates else []
    elif isinstance(scene.tools[0].shape, Capsule):
        scene.meshes = [*scene.meshes, arch(scene.tools[0].shape.radius, 0.03)]
        scene.tools = []
    return scene


def strip(name: str, folders: list[Path]) -> np.ndarray:
    """Five moments side by side, (H, 1200, 3) uint8."""
    look = LOOKS[name]
    task: Any = task_by_name(f"shell/{name}-nano")
    actions = best_actions(name, folders)
    if actions is None:
        actions = optimize(task, "gradient", budget=Budget(iterations=10)).actions
    states = states_of(task, actions)
    size = panel(look.height)
    camera = Camera.fit(
        look.low, look.high, size=size, azimuth=look.azimuth, elevation=look.elevation, margin=1.0
    )
    shown = np.linspace(0, len(states) - 1, 5).round().astype(int)
    scenes = [
        (scene_of(task, states[n], look), f"{1e3 * n * task.config.dt:.0f} ms") for n in shown
    ]
    image = side_by_side(scenes, size, camera=camera, floor=False)
    with torch.no_grad():
        solved = bool(task.success(task.evaluate(actions)[1])[0])
    print(name, "solved" if solved else "not solved", flush=True)
    return image


if __name__ == "__main__":
    main(__doc__, LOOKS, strip, "runs/bench-shell", "shell", 192)
