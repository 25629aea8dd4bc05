"""Fields on grids as pictures: quantities, ranges, colors, panels, movies and the window."""

from __future__ import annotations

import field_files
import h5py
import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.sim.io import write_fields
from rheograd.viz import FieldScenes, build_field_viewer, render_field_movie, render_fields
from rheograd.viz.field_source import Difference, cell_edges
from rheograd.viz.theme import LIGHT, rgb

B, T = 2, 3


def swirl(path, cells=(24, 16), scale=1.0):
    """Rigid rotation by (1 + b) rad/s beside a square body, and a bump that rises."""
    x, z = (torch.arange(n, dtype=torch.float64) + 0.5 for n in cells)
    x, z = x / 10, z / 10
    at = torch.stack(torch.meshgrid(x, z, indexing="ij"))
    turn = torch.stack((-(at[1] - 0.8), at[0] - 1.2))
    rate = torch.tensor([1.0, 2.0], dtype=torch.float64).reshape(B, 1, 1, 1, 1)
    bump = [torch.exp(-20 * ((at[0] - 1.2) ** 2 + (at[1] - 0.4 * k) ** 2)) for k in range(T)]
    body = torch.zeros(cells, dtype=torch.float64)
    body[2:5, 3:6] = 1
    write_fields(
        path,
        {"smoke": scale * torch.stack(bump).expand(B, T, *cells)[:, :, None],
         "velocity": (rate * turn).expand(B, T, 2, *cells)},
        constant={"obstacle": body.expand(B, 1, *cells)}, times=[0.0, 0.5, 1.0],
        coordinates={"x": x, "z": z}, units={"velocity": "m/s", "smoke": "kg/m³"},
        sides={"x-": "wall", "x+": "wall", "z-": "wall", "z+": ("OPEN", "open")},
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    return swirl(tmp_path_factory.mktemp("fields") / "swirl.h5")


def waves(path, cells):
    """u = sin 2πx, rising with time, in any dimension."""
    axes = dict(zip("xyz", cells, strict=False))
    coordinates = {a: (torch.arange(n) + 0.5) / n for a, n in axes.items()}
    u = torch.sin(2 * torch.pi * coordinates["x"])
    u = u.reshape(-1, *(1,) * (len(cells) - 1)).expand(1, T, 1, *cells)
    grow = torch.arange(1, T + 1).reshape(1, T, *(1,) * (1 + len(cells)))
    write_fields(path, {"u": u * grow}, times=[0.0, 1.0, 2.0], coordinates=coordinates)
    return path


def test_what_can_be_drawn_and_what_it_is(plane):
    scenes = FieldScenes(plane)
    names = "smoke obstacle velocity velocity_x velocity_z speed vorticity".split()
    assert scenes.names == names
    assert scenes.default() == ["smoke"] and scenes.body == "obstacle"
    curl = scenes.frame("vorticity", 1, trajectory=1)
    assert curl.label == "vorticity [1/s]" and curl.moment == "t = 0.5 s"
    np.testing.assert_allclose(curl.values, 4.0)  # twice the rate
    assert curl.clim == pytest.approx((-4.0, 4.0)) and curl.cmap == "RdBu_r"
    whole = scenes.frame("velocity", -1)
    np.testing.assert_allclose(whole.values, scenes.frame("speed", 2).values)
    np.testing.assert_allclose(whole.vectors[1], scenes.frame("velocity_z", 2).values)
    assert whole.clim[0] == 0 and whole.label == "speed [m/s]" and whole.body.sum() == 9
    smoke = scenes.frame("smoke")
    assert (smoke.cmap, scenes.frame("velocity_x").cmap) == ("magma_r", "RdBu_r")
    assert scenes.nearest(0.6) == 1 and scenes.frame("obstacle").body is None
    np.testing.assert_allclose(smoke.edges["x"][[0, -1]], [0.0, 2.4], atol=1e-12)
    np.testing.assert_allclose(cell_edges(np.array([3.0])), [2.5, 3.5])


def test_the_curl_goes_round_a_circle_and_lies_in_space(tmp_path):
    n = 32
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    at = torch.stack(torch.meshgrid(x, x, x, indexing="ij"))
    # u_y = sin 2πx: ω = (0, 0, 2π cos 2πx), the same for central differences but for a factor
    u = torch.stack((0 * at[0], torch.sin(2 * torch.pi * at[0]), 0 * at[0]))
    write_fields(tmp_path / "c.h5", {"velocity": u[None, None]}, times=[0.0],
                 coordinates=dict.fromkeys("xyz", x))  # fmt: skip
    found = FieldScenes(tmp_path / "c.h5").frame("vorticity")
    factor = np.sin(2 * np.pi / n) / (2 * np.pi / n)
    exact = factor * 2 * np.pi * np.abs(np.cos(2 * np.pi * at[0].numpy()))
    np.testing.assert_allclose(found.values, exact, atol=1e-9)  # at both ends as in the middle


def test_ranges_leave_out_bodies_and_single_peaks(tmp_path):
    path = swirl(tmp_path / "f.h5", (48, 40))
    with h5py.File(path, "r+") as file:
        smoke, body = file["t0_fields/smoke"], file["t0_fields/obstacle"][:] > 0.5
        value = np.random.default_rng(0).random((B, T, 48, 40))
        value[:, :, 20, 20], value[:, :, 30, 30] = 90.0, np.inf
        smoke[:] = np.where(body[:, None], -50.0, value)
    scenes = FieldScenes(path)
    low, high = scenes.range("smoke", [0, 1])
    assert low == 0.0 and 0.99 < high < 1.0
    assert scenes.frame("smoke", clim=(0.0, 2.0)).clim == (0.0, 2.0)


@pytest.mark.parametrize("wrong, words", [
    ({"fields": ["smok"]}, "velocity_x, velocity_z, speed, vorticity; got 'smok'"),
    ({"trajectories": [2]}, r"a trajectory in \[0, 2\); got 2"),
    ({"frame": 3}, r"a frame in \[0, 3\); got 3"),
])  # fmt: skip
def test_errors_name_what_there_is(plane, wrong, words):
    with pytest.raises(InputError, match=words):
        render_fields(plane, **wrong)


def shares(image, color):
    """Share of a picture that has a color, a little off or not."""
    return (np.abs(image.astype(int) - np.round(255 * rgb(color))) < 3).all(-1).mean()


def test_a_map_shows_values_bodies_and_what_is_not_finite(plane, tmp_path):
    image = render_fields(plane, tmp_path / "p.png", frame=0, size=(600, 360))
    assert image.shape == (360, 600, 3) and (tmp_path / "p.png").is_file()
    assert 0.01 < shares(image, LIGHT.tool) < 0.02  # 9 of 384 cells of a panel
    scenes = FieldScenes(plane)
    read = scenes._read

    def broken(name, *where):
        value = read(name, *where)
        if name == "smoke":
            value[0, 12:, :] = np.nan
        return value

    scenes._read = broken
    image = render_fields(scenes, frame=0, size=(600, 360))
    assert 0.2 < shares(image, "#d1579b") < 0.45


def test_strips_have_a_panel_per_moment_and_a_row_per_quantity(plane):
    one = render_fields(plane, fields=["smoke"])
    two = render_fields(plane, fields=["smoke", "velocity"], trajectories=[0, 1])
    assert two.shape[0] > 3 * one.shape[0] and one.shape[1] > 2 * one.shape[0]
    strip = render_fields(plane, fields=["smoke"], moments=2)
    assert strip.shape[1] / strip.shape[0] < one.shape[1] / one.shape[0]


def test_a_source_beside_another_and_their_difference(plane, tmp_path):
    half = swirl(tmp_path / "half.h5", scale=0.5)
    gap = Difference(FieldScenes(half), FieldScenes(plane)).frame("smoke", 1)
    np.testing.assert_allclose(gap.values, -0.5 * FieldScenes(plane).frame("smoke", 1).values)
    assert gap.clim[0] == -gap.clim[1]
    alone, both = render_fields(plane, frame=1), render_fields(plane, frame=1, beside=[half])
    assert both.shape[1] > 1.5 * alone.shape[1]
    with pytest.raises(InputError, match="on one grid"):
        other = swirl(tmp_path / "o.h5", (12, 8))
        Difference(FieldScenes(other), FieldScenes(plane))
    assert render_fields(plane, frame=1, beside=[other]).shape[2] == 3  # no difference


@pytest.mark.parametrize("cells", [(40,), (10, 9, 8)], ids=["1-D", "3-D"])
def test_lines_and_volumes(cells, tmp_path):
    path = waves(tmp_path / "w.h5", cells)
    scenes = FieldScenes(path)
    assert scenes.range("u")[0] == pytest.approx(-scenes.range("u")[1])
    strip = render_fields(path, moments=2, size=(420, 220))
    first, last = (render_fields(path, frame=k, size=(160, 130)) for k in (0, 2))
    assert strip.shape == (220, 420, 3) and np.abs(first.astype(int) - last).mean() > 0.2
    if len(cells) == 3:
        for style in ("surface", "slices"):
            other = render_fields(path, frame=2, size=(160, 130), style=style)
            assert np.abs(other.astype(int) - last).mean() > 0.5
        red, blue = (((last[..., a] > last[..., b] + 60).mean()) for a, b in ((0, 2), (2, 0)))
        assert red > 0.02 and blue > 0.02  # both signs are there


def test_a_movie_has_a_frame_per_moment_and_keeps_its_size(plane, tmp_path):
    from PIL import Image

    done = []
    path = render_field_movie(plane, tmp_path / "m.gif", fields=["smoke", "velocity"],
                              progress=lambda *n: done.append(n))  # fmt: skip
    movie = Image.open(path)
    assert movie.n_frames == 3 and done[-1] == (3, 3)
    first = np.asarray(movie.convert("RGB")).astype(int)
    movie.seek(2)
    assert np.abs(np.asarray(movie.convert("RGB")) - first).mean() > 1


def test_the_window_steps_through_frames_trajectories_and_fields(plane, tmp_path):
    import pyvista as pv

    plotter = pv.Plotter(off_screen=True, window_size=(200, 150), lighting="none")
    viewer = build_field_viewer(plane, plotter)

    def press(key):
        plotter.iren.interactor.SetKeySym(key)
        plotter.iren.interactor.InvokeEvent("KeyPressEvent")

    actors = len(plotter.actors)
    before = plotter.screenshot(return_img=True)
    press("End")
    assert viewer.index == 2
    assert (plotter.screenshot(return_img=True) != before).any(-1).mean() > 0.05
    press("Up")
    press("c")
    assert (viewer.trajectory, viewer.field) == (1, "obstacle")
    press("Down")
    press("Right")
    for _ in viewer.fields[1:]:
        press("c")
    assert (viewer.trajectory, viewer.field, viewer.index) == (0, "smoke", 0)
    assert len(plotter.actors) == actors  # nothing piles up
    plotter.close()
    plotter = pv.Plotter(off_screen=True, window_size=(200, 150), lighting="none")
    viewer = build_field_viewer(waves(tmp_path / "w.h5", (40,)), plotter)
    viewer.step(1)
    assert "t = 1 s" in viewer.chart.title
    plotter.close()


def test_two_quantities_on_a_plane_are_no_vector(tmp_path):
    field_files.pdebench_groups(tmp_path / "two.h5")
    scenes = FieldScenes(tmp_path / "two.h5")
    assert scenes.default() == ["data_0"] and scenes.frame("data").vectors is None
    field_files.well(tmp_path / "well.h5")
    scenes = FieldScenes(tmp_path / "well.h5")
    assert scenes.default() == ["density"] and scenes.body == "mask"
    norm = scenes.frame("D", 1).values ** 2
    parts = [scenes.frame(f"D_{m}", 1).values ** 2 for m in ("xx", "xy", "yx", "yy")]
    np.testing.assert_allclose(norm, sum(parts))
    with pytest.raises(InputError, match="a field out of data, data_0, data_1; got"):
        render_fields(tmp_path / "two.h5", fields=["speed"])
