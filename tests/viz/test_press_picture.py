"""The picture of a press shows what it was given, and refuses what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from rheograd.viz import Inset, Scene, flow_picture, plot_press, render_frame


def test_panels(tmp_path):
    """One panel more is one panel wider; the photograph's colours are in the file."""
    from PIL import Image

    image = np.zeros((20, 24, 3))
    image[..., 0] = 1.0
    path = plot_press(tmp_path / "one.png", image=image)
    found = np.asarray(Image.open(path).convert("RGB"))
    assert ((found == (255, 0, 0)).all(-1)).mean() > 0.5
    every = plot_press(
        tmp_path / "all.png", image=image, background=0.5 * image, rendered=image,
        indent=np.full((20, 24), 1e-3), normal=np.dstack([0 * image[..., :2], image[..., :1]]),
        markers=[[3.0, 4.0], [10.0, 9.0]], flow=[[1.0, 0.0], [0.0, 2.0]],
        crop=(2, 20, 1, 18), title="all",
    )  # fmt: skip
    wide = Image.open(every).size
    assert wide[0] == 6 * Image.open(path).size[0]
    colours = np.asarray(Image.open(every).convert("RGB")).reshape(-1, 3)
    blue_normals = (np.abs(colours - np.array([128, 128, 255])).max(1) < 3).mean()
    assert blue_normals > 0.05


def test_wrong_input(tmp_path):
    image = np.zeros((20, 24, 3))
    with pytest.raises(ValueError, match="background of shape"):
        plot_press(tmp_path / "a.png", image=image, background=image[:5])
    with pytest.raises(ValueError, match="got markers only"):
        plot_press(tmp_path / "a.png", image=image, markers=[[1.0, 1.0]])
    with pytest.raises(ValueError, match="markers and flow"):
        plot_press(tmp_path / "a.png", image=image, markers=[[1.0, 1.0]], flow=[[1.0]])


def test_flow_over_a_photograph():
    """Dots where markers are, arrows where they go, nothing elsewhere."""
    image = np.zeros((40, 60, 3))
    start, flow = np.array([[10.0, 20.0], [40.0, 10.0]]), np.array([[8.0, 0.0], [0.0, 0.0]])
    shown = flow_picture(image, start, flow, gain=2.0)
    assert shown.shape == (40, 60, 3) and shown.dtype == np.uint8
    lit = shown.max(-1) > 100
    assert lit[20, 10:25].all() and lit[10, 40] and not lit[30:].any() and not lit[:, 50:].any()
    with pytest.raises(ValueError, match="Choose one scene"):
        flow_picture(image, start, flow[:1])


def test_insets_refuse_what_is_no_picture():
    with pytest.raises(ValueError, match="channels last"):
        render_frame(Scene(insets=[Inset(np.zeros((3, 4)))]), size=(80, 60), antialias=False)
