"""The interactive view, driven off screen."""

from __future__ import annotations

import numpy as np
import pytest
from rheograd.viz import build_viewer, view
from rheograd.viz.viewer import _start_clock


@pytest.fixture
def plotter():
    import pyvista as pv

    plotter = pv.Plotter(off_screen=True, window_size=(160, 120), lighting="none")
    yield plotter
    plotter.close()


def press(plotter, key):
    interactor = plotter.iren.interactor
    interactor.SetKeySym(key)
    interactor.InvokeEvent("KeyPressEvent")


def jelly_points(viewer):
    """Positions of the jelly as the graphics card has them."""
    clouds = [
        np.asarray(actor.GetMapper().GetInput().GetPoints().GetData())
        for actor in viewer.plotter.actors.values()
        if hasattr(actor, "GetMapper")
        and type(actor.GetMapper()).__name__ == "vtkOpenGLSphereMapper"
    ]
    assert len(clouds) == 2
    return clouds[1]


def test_slider_moves_the_points(pool, plotter):
    viewer = build_viewer(pool, plotter)
    before = plotter.screenshot(return_img=True)
    assert np.allclose(jelly_points(viewer).mean(axis=0), pool.center(0), atol=1e-6)
    bar = viewer.slider.GetRepresentation()
    bar.SetValue(2.8)
    viewer.slider.InvokeEvent("InteractionEvent")
    assert viewer.index == 3
    assert np.allclose(jelly_points(viewer).mean(axis=0), pool.center(3), atol=1e-6)
    assert (plotter.screenshot(return_img=True) != before).any(axis=-1).mean() > 0.005
    assert bar.GetValue() == 3


def test_keys_step_play_and_switch(pool, plotter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    viewer = build_viewer(pool, plotter)
    actors = len(plotter.actors)
    press(plotter, "Right")
    press(plotter, "Right")
    press(plotter, "Left")
    assert viewer.index == 1
    viewer.tick()
    assert viewer.index == 1  # paused
    press(plotter, "space")
    viewer.tick()
    assert viewer.index == 2
    press(plotter, "End")
    viewer.tick()
    assert viewer.index == 0  # plays round
    seen = []
    for _ in viewer.fields:
        press(plotter, "c")
        seen.append(viewer.field)
        bars = [a for a in plotter.actors.values() if a.GetClassName() == "vtkScalarBarActor"]
        assert len(bars) == (viewer.field is not None)
    assert seen == ["speed", "J", "height", None]
    press(plotter, "g")
    assert viewer.style == "surface"
    press(plotter, "g")
    press(plotter, "x")
    assert (tmp_path / "frame_00000.png").exists()
    assert len(plotter.actors) == actors  # nothing piles up


def test_view_without_a_display_says_so(pool, tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(RuntimeError, match="display"):
        view(pool)
    with pytest.raises(FileNotFoundError, match="no.h5"):
        view(tmp_path / "no.h5")


def test_the_clock_takes_the_place_of_the_styles_own(pool, plotter):
    viewer = build_viewer(pool, plotter)
    viewer.playing = True
    _start_clock(plotter, viewer)
    style = plotter.iren.interactor.GetInteractorStyle()
    style.InvokeEvent("TimerEvent")
    assert viewer.index == 1  # an observer of the style keeps it from repeating the last drag
