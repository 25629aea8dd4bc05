"""Frames show what is in the scene, where it is, in its color."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from rheograd.viz import (
    Arrows,
    Camera,
    Curve,
    FrameRenderer,
    Marker,
    MeshPart,
    Scene,
    Tool,
    render_frame,
    scene_from_reader,
)
from rheograd.viz.frames import scene_camera

SIZE = (320, 240)


def hue_distance(color, name):
    """Angle between colors without their gray part; shading changes little of it."""
    from matplotlib.colors import to_rgb

    a, b = np.asarray(color, float) / 255, np.asarray(to_rgb(name))
    a, b = a - a.mean(), b - b.mean()
    return np.degrees(np.arccos(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1)))


def colored(image, name, angle=25.0):
    """Mask of the pixels that clearly have a hue."""
    from matplotlib.colors import to_rgb

    pixels = image.astype(float)
    wanted = np.asarray(to_rgb(name))
    wanted = wanted - wanted.mean()
    hue = pixels - pixels.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(hue, axis=-1) * np.linalg.norm(wanted)
    close = hue @ wanted > np.cos(np.radians(angle)) * length
    return close & (np.ptp(pixels, axis=-1) > 60)


@pytest.mark.parametrize("style", ["particles", "surface"])
def test_the_ball_is_where_the_camera_says(pool, style):
    scene = scene_from_reader(pool, 1)
    image = render_frame(scene, size=SIZE, style=style, antialias=False)
    assert image.shape == (SIZE[1], SIZE[0], 3) and image.dtype == np.uint8
    camera = scene_camera(scene, SIZE)
    column, row = camera.project(pool.center(1), SIZE)
    ball = colored(image, scene.color_of("jelly"))
    assert ball[round(row), round(column)]
    rows, columns = np.nonzero(ball)
    # the silhouette of a ball is centered on its center to first order in size over distance
    radius = abs(camera.project(pool.center(1) + [0, 0, 0.13], SIZE)[1] - row)
    assert abs(columns.mean() - column) < 0.2 * radius
    assert abs(rows.mean() - row) < 0.2 * radius
    assert np.pi * radius**2 * 0.6 < ball.sum() < np.pi * radius**2 * 1.6
    water = colored(image, scene.color_of("water"))
    corner = camera.project([0.5, 0.0, 0.1], SIZE)
    assert water[round(corner[1]), round(corner[0])]


def test_plane_scene_is_seen_along_y_with_x_to_the_right(pool2d):
    scene = scene_from_reader(pool2d, 0)
    camera = scene_camera(scene, SIZE)
    assert camera.parallel_scale is not None
    left, right = camera.project([[0.1, 0, 0.1], [0.9, 0, 0.1]], SIZE)
    low, high = camera.project([[0.5, 0, 0.1], [0.5, 0, 0.9]], SIZE)
    assert right[0] > left[0] and high[1] < low[1]
    for style in ("particles", "surface"):
        image = render_frame(scene, size=SIZE, style=style, antialias=False)
        column, row = camera.project([0.5, 0.0, 0.8], SIZE)
        assert hue_distance(image[round(row), round(column)], scene.color_of("jelly")) < 25
        column, row = camera.project([0.8, 0.0, 0.1], SIZE)
        assert hue_distance(image[round(row), round(column)], scene.color_of("water")) < 25


def test_values_color_by_the_map_and_missing_ones_by_group(pool2d):
    scene = scene_from_reader(pool2d, 0, field="J", clim=(0.0, 0.98), cmap="autumn")
    assert np.isnan(scene.values[slice(*scene.groups["jelly"])]).all()
    image = render_frame(scene, size=SIZE, style="surface")
    camera = scene_camera(scene, SIZE)
    column, row = camera.project([0.8, 0.0, 0.1], SIZE)
    assert hue_distance(image[round(row), round(column)], "yellow") < 20
    column, row = camera.project([0.5, 0.0, 0.8], SIZE)
    assert hue_distance(image[round(row), round(column)], scene.color_of("jelly")) < 25


def test_renderer_draws_each_scene_anew_with_one_camera(pool, tmp_path):
    with FrameRenderer(SIZE, antialias=False) as renderer:
        first = renderer(scene_from_reader(pool, 0, title="ball"))
        camera = renderer.camera
        second = renderer(scene_from_reader(pool, 3))
        again = renderer(scene_from_reader(pool, 0, title="ball"))
    assert renderer.camera is camera
    assert (first != second).any(axis=-1).mean() > 0.01
    assert np.array_equal(first, again)
    path = tmp_path / "deep" / "frame.png"
    render_frame(scene_from_reader(pool, 0), path, size=SIZE, theme="dark", antialias=False)
    assert path.stat().st_size > 1000


def test_every_kind_of_item_leaves_its_color():
    quad = np.array([[0, 0, 0.1], [0.3, 0, 0.1], [0.3, 0, 0.4], [0, 0, 0.4]])
    scene = Scene(
        lower=[0, -0.5, 0],
        upper=[1, 0.5, 1],
        tools=[Tool({"type": "Torus", "major": 0.15, "minor": 0.05}, [0.8, 0, 0.2], "#00aa00")],
        markers=[Marker([0.5, 0, 0.8], 0.1, "#0000ff", "goal", opacity=1.0)],
        curves=[Curve([[0.1, 0, 0.9], [0.3, 0, 0.6]], "#ff0000", width=6)],
        arrows=[Arrows([[0.5, 0, 0.2]], [[0, 0, 2.0]], scale=0.15, color="#ff00ff")],
        meshes=[MeshPart(quad, [[0, 1, 2], [0, 2, 3]], "#ffaa00")],
    )
    image = render_frame(scene, size=SIZE, antialias=False)
    for color in ("#00aa00", "#0000ff", "#ff0000", "#ff00ff", "#ffaa00"):
        assert colored(image, color).sum() > 20, color


def test_waiting_and_lost_particles_are_not_drawn():
    x = np.random.default_rng(0).random((50, 3))
    x[10:20] = [0.5, 0.5, 0.9]
    x[30] = np.nan
    shown = Scene(x).shown()
    assert not shown[10:20].any() and not shown[30] and shown.sum() == 39


def test_camera_fit_holds_every_corner_inside():
    lower, upper = np.array([-1.0, 0.0, 0.0]), np.array([2.0, 0.4, 0.7])
    corners = np.stack(np.meshgrid(*zip(lower, upper, strict=True)), -1).reshape(-1, 3)
    for azimuth in (-90, -30, 45, 170):
        for reserve in (0.0, 0.15):
            camera = Camera.fit(lower, upper, size=SIZE, azimuth=azimuth, reserve=reserve)
            pixels = camera.project(corners, SIZE)
            assert (pixels >= 0).all() and (pixels[:, 1] <= SIZE[1]).all()
            assert (pixels[:, 0] <= SIZE[0] * (1 - reserve)).all()
            span = np.ptp(pixels, axis=0) / SIZE
            assert span.max() > 0.75 * (1 - reserve)


def test_errors_say_what_to_do(pool):
    with pytest.raises(IndexError, match=r"frame in \[0, 6\); got 6"):
        scene_from_reader(pool, 6)
    with pytest.raises(ValueError, match="x of shape"):
        Scene(np.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match="one value per particle"):
        Scene(np.zeros((5, 3)), values=np.zeros(4))
    with pytest.raises(ValueError, match="style among"):
        render_frame(scene_from_reader(pool, 0), size=SIZE, style="cartoon")
    with pytest.raises(KeyError, match="temperature"):
        scene_from_reader(pool, 0, field="temperature")


def test_import_loads_no_graphics():
    code = (
        "import sys, rheograd.viz as v; v.Scene; v.render_frame; v.Report; v.render_movie; v.view;"
        "heavy = {'vtkmodules', 'pyvista', 'matplotlib', 'PIL', 'torch'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
