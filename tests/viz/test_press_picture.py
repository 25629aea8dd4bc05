"""The picture of a press shows what it was given, and refuses what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from rheograd.viz import plot_press


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
