"""Motions of bodies with a surface as rollout files: what a task draws of its states, state by state.

Vertices of surfaces are the points of the file, and stay meshes in `rheograd render` and `view`;
material points stay particles. Rigid bodies that move are surfaces, too; what rests is a tool. Mounts of
sensors are tools without a shape, so that `rheograd export` finds their motion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...sim.io import RolloutWriter
from ...viz import MeshPart, Tool
from ...viz.fields import as_array
from ...viz.shapes import pose_matrix, shape_mesh, shape_name
from ..core import Task
from ..tactile.base import TactileTask
from ..tactile.stored import forces_of, mounts_of, sensors_of

__all__ = ["store_surfaces"]

MOST = 6000
"""Vertices of a resting shape in a file; meshes with more are thinned out."""


def store_surfaces(path: Any, task: Task[Any], states: Sequence[Any]) -> None:
    """Write the states of a task that has a `picture`, one per step from the start on.

    Args:
        path: Of the rollout file.
        task: The task; of one with gel sensors the file has what `sensor_insets` needs.
        states: First scenes of the batch are stored.
    """
    scenes = [task.picture(state) for state in states]  # type: ignore[attr-defined]
    poses = np.stack([[as_array(t.pose).reshape(-1) for t in s.tools] for s in scenes])
    poses = poses.reshape(len(scenes), -1, 7)
    moves = np.abs(poses - poses[:1]).max((0, 2), initial=0.0) > 1e-9
    frames = [_points(scene, moves) for scene in scenes]
    free = 0 if scenes[0].x is None else len(scenes[0].x)
    groups = dict(scenes[0].groups) if free else {}
    meshes, start = [], free
    for number, part in enumerate(_surfaces(scenes[0], moves)):
        stop = start + len(part.vertices)
        groups[f"surface-{number}"] = (start, stop)
        faces = as_array(part.faces).astype(int).ravel().tolist()
        meshes.append({"start": start, "stop": stop, "faces": faces, "color": part.color,
                       "opacity": part.opacity, "edges": part.show_edges})  # fmt: skip
        start = stop
    tools = [_entry(t) for t, moved in zip(scenes[0].tools, moves, strict=True) if not moved]
    mounts: dict[str, np.ndarray] = {}
    forces: dict[str, np.ndarray] = {}
    places = poses[:, ~moves]
    config: dict[str, Any] = {"meshes": meshes, "task": dataclasses.asdict(task.config)}
    if isinstance(task, TactileTask):
        mounts, forces = mounts_of(task, states), forces_of(task, states)
        config["sensors"] = sensors_of(task, free)
        places = np.concatenate([*(p[:, None] for p in mounts.values()), places], axis=1)
    config["tools"] = [*({"name": name, "shape": None} for name in mounts), *tools]
    step = task.solver.step_time
    with RolloutWriter(
        path, n_trajectories=1, particle_count=start, fields={"x": 1}, dim=3, dt_frame=step,
        groups=groups, tool_count=places.shape[1], config=config, overwrite=True,
        scalars=dict.fromkeys(forces, "N"),
    ) as writer:  # fmt: skip
        for t, (x, pose) in enumerate(zip(frames, places, strict=True)):
            extra: dict[str, Any] = {"tool_pose": pose[None]} if places.shape[1] else {}
            if forces:
                extra["scalars"] = {name: float(values[t]) for name, values in forces.items()}
            writer.append(t * step, {"x": x[None]}, **extra)


def _surfaces(scene: Any, moves: np.ndarray) -> list[MeshPart]:
    """Meshes of a scene, and its moving tools as meshes."""
    parts = [MeshPart(**(vars(m) | {"vertices": as_array(m.vertices)})) for m in scene.meshes]
    for tool, moved in zip(scene.tools, moves, strict=True):
        if moved:
            mesh = _coarse(tool).transform(pose_matrix(tool.pose), inplace=False)
            faces = np.asarray(mesh.regular_faces)
            parts.append(MeshPart(np.asarray(mesh.points), faces, tool.color or "#8b62c9"))
            parts[-1].opacity = tool.opacity
    return parts


def _points(scene: Any, moves: np.ndarray) -> np.ndarray:
    """Particles, then vertices of all surfaces, (N, 3)."""
    free = [] if scene.x is None else [as_array(scene.x)]
    return np.concatenate([*free, *(p.vertices for p in _surfaces(scene, moves))]).astype(float)


def _coarse(tool: Tool) -> Any:
    """Surface of a tool with few vertices: there may be a hundred of them in every frame."""
    if shape_name(tool.shape) == "Sphere":
        import pyvista as pv

        return pv.Sphere(radius=float(tool.shape.radius), theta_resolution=12, phi_resolution=12)
    return shape_mesh(tool.shape).triangulate()


def _entry(tool: Tool) -> dict[str, Any]:
    """A resting tool as a mesh of plain numbers."""
    mesh = shape_mesh(tool.shape).triangulate()
    if mesh.n_points > MOST:
        mesh = mesh.decimate(1 - MOST / mesh.n_points)
    shape = {"type": "MeshShape", "vertices": np.round(mesh.points, 6).tolist(),
             "faces": np.asarray(mesh.regular_faces).tolist()}  # fmt: skip
    return {"name": tool.name, "shape": shape, "color": tool.color, "opacity": tool.opacity}
