"""Stored runs of gel sensors: gels, objects and what the cameras see, together; tables of the mounts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rheograd.sim.io import RolloutReader
from rheograd.tasks.cli.view import render
from rheograd.tasks.core import task_by_name
from rheograd.tasks.runs.planning import store_motion
from rheograd.tasks.tactile.stored import SensorEye, sensor_insets
from rheograd.tasks.trajectory import stored_trajectory
from rheograd.viz import build_viewer, render_frame, scene_from_reader


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A lid that a dome lifts: task, states and file."""
    task = task_by_name("tactile/case-opening-nano")
    path = tmp_path_factory.mktemp("stored") / "rollout.h5"
    return task, store_motion(path, task, task.initial_actions()[:3]), path


def test_surfaces_mounts_and_forces_are_in_the_file(stored):
    task, states, path = stored
    with RolloutReader(path) as reader:
        assert reader.n_frames == len(states) == 4
        scene = scene_from_reader(reader, -1)
        live = task.picture(states[-1])
        assert scene.x is None and len(scene.meshes) == len(live.meshes) + 1  # the lid moves
        for part, drawn in zip(scene.meshes, live.meshes, strict=False):
            assert np.abs(part.vertices - np.asarray(drawn.vertices)).max() < 1e-6
            assert part.color == drawn.color and part.opacity == drawn.opacity
            assert np.array_equal(part.faces, np.asarray(drawn.faces))
        names = [tool["name"] for tool in reader.config["tools"]]
        row = names.index("finger")
        pose = states[-1].pose[0, task.handles["finger"]]
        assert np.abs(reader.tool_pose[0, -1, row] - pose.numpy()).max() < 1e-6
        force = [float(reader.scalars[f"finger force {axis}"][0, -1]) for axis in "xyz"]
        assert force == pytest.approx(task.wrenches(states[-1])[0, 0, :3].tolist(), rel=1e-5)
        # Mounts move, what rests does not: the table for a robot has the sensor alone.
        motion = stored_trajectory(reader)
        assert motion.names == ("finger",) or list(motion.names) == ["finger"]


def test_the_camera_sees_what_the_gel_does(stored):
    task, states, path = stored
    with RolloutReader(path) as reader:
        eye = SensorEye(reader.config["sensors"][0], 0.1)
        pose = torch.tensor([0.01, -0.02, 0.03, 0.6, 0.0, 0.8, 0.0])
        turned = torch.tensor([[-0.28, 0, 0.96], [0, 1, 0], [-0.96, 0, -0.28]]).double()
        rest = eye.X @ turned.T + pose[:3]
        plain, still = eye.look(rest, pose)
        assert plain.shape == (48, 64, 3) and float(still.abs().max()) < 1e-4  # carried rigidly
        dent = rest + 1e-3 * turned[:, 2] * torch.exp(-(eye.X[:, :2] / 4e-3).square().sum(1, True))
        image, flow = eye.look(dent, pose)
        assert float((image - plain).abs().max()) > 0.01 and float(flow.abs().max()) > 0.05
        insets = sensor_insets(reader, scale=0.1)
        (first,), (last,) = insets(0), insets(3)
        assert first.image.shape == (48, 64, 3) and first.image.dtype == np.uint8
        assert last.title.startswith("finger, ") and last.title.endswith(" N")
        assert (first.image != last.image).any()


def test_one_window_shows_gel_object_and_picture(stored, tmp_path):
    """In pictures, in the window and from the command line."""
    import pyvista as pv

    _, _, path = stored
    with RolloutReader(path) as reader:
        insets = sensor_insets(reader, scale=0.2)
        small = {"size": (320, 240), "antialias": False}
        scene = scene_from_reader(reader, -1, insets=insets, field="height")
        alone = scene_from_reader(reader, -1, field="height")
        alone.insets = ()
        camera = {"reserve": 0.3}
        shown, bare = (render_frame(s, camera=camera, **small) for s in (scene, alone))
        changed = np.abs(shown.astype(int) - bare).max(-1) > 60  # more than dither
        rows, columns = np.nonzero(changed)
        assert columns.min() > 0.6 * 320 and rows.max() < 0.5 * 240  # at the right, above
        plotter = pv.Plotter(off_screen=True, window_size=(320, 240), lighting="none")
        viewer = build_viewer(reader, plotter, scene_options={"insets": insets})
        count = len(plotter.actors)
        viewer.show_frame(3)
        assert len(plotter.actors) == count and "inset-0" in plotter.actors
        plotter.close()
    render(path, out=tmp_path / "last.png", frame=-1, size=(160, 120))
    assert (tmp_path / "last.png").stat().st_size > 2000


def test_sheets_are_stored_as_surfaces_too(tmp_path):
    task = task_by_name("shell/bouncing-nano")
    states = store_motion(tmp_path / "run.h5", task, task.initial_actions()[:2])
    with RolloutReader(tmp_path / "run.h5") as reader:
        scene, live = scene_from_reader(reader, -1), task.picture(states[-1])
        assert len(scene.meshes) == len(live.meshes) and sensor_insets(reader) is None
        for part, drawn in zip(scene.meshes, live.meshes, strict=True):
            assert np.abs(part.vertices - np.asarray(drawn.vertices)).max() < 1e-6
