"""What the cameras of gel sensors see in a stored run: pictures, markers and their flow beside the scene.

The file of a run holds the points of every gel and the pose of its mount; pictures are made of them when
somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...sim.tactile.camera import Camera, dome_camera, into_frame, pad_camera
from ...sim.tactile.lights import Lights, three_lights
from ...sim.tactile.markers import Markers, fibonacci_markers, grid_markers
from ...sim.tactile.presses import View
from ...sim.tactile.raster import rasterize
from ...viz import Inset
from ...viz.tactile import flow_picture

__all__ = ["SensorEye", "forces_of", "mounts_of", "sensor_insets", "sensors_of"]


def mounts_of(task: Any, states: Sequence[Any]) -> dict[str, np.ndarray]:
    """Poses of the mounts of all sensors of a `TactileTask` in a row of states, (T, 7) by name."""
    rows = torch.stack([task.bodies(state).pose[0].detach().cpu() for state in states])
    return {name: rows[:, task.handles[name]].numpy() for name in task.scene.gels}


def sensors_of(task: Any, first: int) -> list[dict[str, Any]]:
    """For the configuration of a file: each sensor, its points at rest and its sensing face.

    Args:
        task: a `TactileTask`.
        first: row of the file where the surfaces of its scene begin.
    """
    rows = []
    for name in task.scene.faces:
        if task.scene.kinds[name] == "rod":
            continue  # drawn as beads, after all meshes
        count = task.scene.spans[name].stop - task.scene.spans[name].start
        if name in task.scene.gels:
            mesh = task.scene.gels[name]
            rest = [round(v, 9) for v in mesh.X.flatten().tolist()]
            rows.append({"name": name, "start": first, "stop": first + count, "rest": rest,
                         "triangles": mesh.triangles.flatten().tolist()})  # fmt: skip
        first += count
    return rows


def forces_of(task: Any, states: Sequence[Any]) -> dict[str, np.ndarray]:
    """What the mounts carry in a row of states [N], (T,) by "NAME force x", y and z."""
    with torch.no_grad():
        rows = torch.stack([task.wrenches(state)[0, :, :3].cpu() for state in states])
    return {f"{name} force {axis}": rows[:, k, i].numpy()
            for k, name in enumerate(task.scene.gels) for i, axis in enumerate("xyz")}  # fmt: skip


class SensorEye:
    """The camera in one sensor of a stored run.

    Args:
        entry: of `sensors_of`.
        scale: of the image, 1 is 640 × 480.

    The kind of the sensor is read off its face: flat ones get `pad_camera` with the side of the pad in
    view, others `dome_camera`; both a coat under three diodes.
    """

    def __init__(self, entry: Mapping[str, Any], scale: float = 0.5) -> None:
        self.name = str(entry["name"])
        self.rows = slice(int(entry["start"]), int(entry["stop"]))
        """Points of the gel in the file."""
        self.X = torch.tensor(entry["rest"], dtype=torch.float64).view(-1, 3)
        self.triangles = torch.tensor(entry["triangles"]).view(-1, 3)
        face = self.X[self.triangles.unique()]
        flat = float(face[:, 2].max() - face[:, 2].min()) < 1e-6
        self.lights: Lights
        self.markers: Markers
        if flat:
            side = float((face[:, :2].amax(0) - face[:, :2].amin(0)).max())
            camera: Camera = pad_camera(view=1.1 * side)
            self.lights = three_lights(0.7 * side, -3e-3)
            self.markers = grid_markers(self.X, self.triangles, 7, 7)
        else:
            camera, self.lights = dome_camera(), three_lights()
            self.markers = fibonacci_markers(self.X, self.triangles, 100)
        self.camera = camera.scaled(scale)
        self.start = self.markers.project(self.camera, self.X[None]).uv[0]
        """Markers at rest [px], (n, 2)."""

    def look(self, x: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """A photograph and the flow of the markers.

        Args:
            x: points of the gel in the world [m], (N, 3).
            pose: of its mount, (7,).

        Returns:
            Colours (H, W, 3) [-], and displacements (n, 2) [px].
        """
        own = into_frame(x[None].double(), pose.double())
        seen = rasterize(self.camera, own, self.triangles)
        view = View(seen.depth, seen.normal, seen.points, seen.seen)
        flow = self.markers.flow(self.camera, own, self.X)[0]
        return view.image(self.camera, self.lights)[0], flow


def sensor_insets(
    reader: Any, *, trajectory: int = 0, scale: float = 0.5, gain: float = 3.0
) -> Callable[[int], list[Inset]] | None:
    """Pictures of what the sensors of a stored run see, frame by frame; None if it has none.

    Args:
        reader: `RolloutReader`.
        trajectory: which one of the file.
        scale: of the images, 1 is 640 × 480.
        gain: length of the arrows over the flow of the markers [-].
    """
    eyes = [SensorEye(entry, scale) for entry in reader.config.get("sensors") or []]
    if not eyes:
        return None
    names = [str(tool.get("name")) for tool in reader.config["tools"]]

    @torch.no_grad()
    def insets(index: int) -> list[Inset]:
        frame = reader.frame(index, trajectory=trajectory)
        x, poses = (torch.as_tensor(np.asarray(frame[n])) for n in ("x", "tool_pose"))
        found = []
        for eye in eyes:
            image, flow = eye.look(x[eye.rows], poses[names.index(eye.name)])
            picture = flow_picture(image.numpy(), eye.start.numpy(), flow.numpy(), gain)
            found.append(Inset(picture, f"{eye.name}{_force(reader, eye.name, trajectory, index)}"))
        return found

    return insets


def _force(reader: Any, name: str, trajectory: int, index: int) -> str:
    """ ", 0.83 N" where the file has the forces."""
    rows = [f"{name} force {axis}" for axis in "xyz"]
    if not all(row in reader.scalars for row in rows):
        return ""
    values = [float(reader.scalars[row][trajectory, index]) for row in rows]
    return f", {sum(v * v for v in values) ** 0.5:.2f} N"
