"""Pictures beside a scene, on the same window: they stay where they are when the camera moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .fields import as_array
from .scene import Inset
from .theme import Theme

__all__ = ["add_insets"]

WIDTH = 0.3
"""Largest width of a picture, of the window's."""
HEIGHT = 0.9
"""Height that all pictures share, of the window's."""


def add_insets(plotter: Any, insets: Sequence[Inset], theme: Theme, font_size: int) -> None:
    """Draw pictures in a column at the right border, each under its title.

    Args:
        plotter: `pyvista.Plotter`.
        insets: at most as many as fit; they share the height.
        theme: colors of titles.
        font_size: of titles [px].

    Raises:
        ValueError: an array that is no picture.
    """
    if not insets:
        return
    width, height = plotter.window_size
    share = HEIGHT / len(insets)
    band = 1.6 * font_size / height  # of a title
    top = 0.97
    for number, inset in enumerate(insets):
        image = _bytes(inset)
        H, W = image.shape[:2]
        scale = min(WIDTH * width / W, (share - band) * height / H)
        w, h = scale * W / width, scale * H / height
        left, low = 0.985 - w, top - band - h
        plotter.add_actor(
            _textured(image, (left, low), (left + w, low + h)), name=f"inset-{number}",
            reset_camera=False, render=False,
        )  # fmt: skip
        if inset.title:
            plotter.add_text(
                inset.title, position=(left, low + h + 0.15 * band), viewport=True,
                font_size=font_size, color=theme.text, name=f"inset-title-{number}", render=False,
            )  # fmt: skip
        top = low - 0.02


def _bytes(inset: Inset) -> np.ndarray:
    image = as_array(inset.image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"Inset: a picture (H, W, 3); got {image.shape}. Choose one picture, channels last."
        )
    if image.dtype != np.uint8:
        known = np.where(np.isfinite(image), image, 0.0)  # black where nothing is known
        image = np.round(255 * known.clip(0, 1)).astype(np.uint8)
    return image


def _textured(image: np.ndarray, low: tuple[float, float], high: tuple[float, float]) -> Any:
    """An image on a rectangle of the window, corners in shares of its size."""
    import pyvista as pv
    from vtkmodules.vtkRenderingCore import (
        vtkCoordinate,
        vtkPolyDataMapper2D,
        vtkTexturedActor2D,
    )

    (x0, y0), (x1, y1) = low, high
    corners = np.array([[x0, y0, 0], [x1, y0, 0], [x1, y1, 0], [x0, y1, 0]])
    plate = pv.PolyData(corners, faces=[4, 0, 1, 2, 3])
    # Textures begin below, pictures above; pyvista's texture turns them.
    plate.active_texture_coordinates = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    window = vtkCoordinate()
    window.SetCoordinateSystemToNormalizedViewport()
    mapper = vtkPolyDataMapper2D()
    mapper.SetInputData(plate)
    mapper.SetTransformCoordinate(window)
    actor = vtkTexturedActor2D()
    actor.SetMapper(mapper)
    texture = pv.Texture(np.ascontiguousarray(image))
    texture.InterpolateOn()
    actor.SetTexture(texture)
    return actor
