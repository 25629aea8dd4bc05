"""Pictures of a press on a tactile sensor: photograph, change, depth, normals and marker flow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .fields import as_array
from .plots import save_figure
from .theme import Theme, theme_of

__all__ = ["flow_picture", "plot_press"]


def plot_press(
    path: str | os.PathLike,
    *,
    image: Any,
    background: Any = None,
    rendered: Any = None,
    indent: Any = None,
    normal: Any = None,
    markers: Any = None,
    flow: Any = None,
    crop: tuple[int, int, int, int] | None = None,
    gain: float = 2.0,
    scale: float = 1.0,
    title: str = "",
    theme: Theme | str = "light",
) -> Path:
    """What a camera in a gel sees of a press, panels side by side in pixels.

    Args:
        path: image file.
        image: photograph [-], (H, W, 3); darker than 0 and brighter than 1 are cut as a camera does.
        background: no-contact image, (H, W, 3); adds a panel of the difference, gray is none.
        rendered: the same photograph by a model, (H, W, 3); adds a panel.
        indent: how far the surface came nearer [m], (H, W); drawn in mm, blank where it is not finite.
        normal: unit normals [-], (H, W, 3); x, y, z from −1 to 1 as red, green, blue; blank where 0.
        markers: where they are at rest [px], (n, 2).
        flow: their displacement [px], (n, 2); drawn over the photograph with `markers`.
        crop: first and last column, first and last row to show.
        gain: factor on the difference.
        scale: factor on the length of the arrows.
        title: text.
        theme: "light" or "dark".

    Returns:
        The path written.

    Raises:
        ValueError: arrays that do not fit the photograph, flow without markers.
    """
    photo = as_array(image).astype(float)
    H, W = photo.shape[:2]
    panels: list[tuple[str, Any, dict[str, Any]]] = []
    panels.append(("photograph", _fit("image", photo, (H, W, 3)).clip(0, 1), {}))
    if background is not None:
        base = _fit("background", background, (H, W, 3))
        name = "change" if gain == 1 else f"change × {gain:g}"
        panels.append((name, (0.5 + gain * (photo - base)).clip(0, 1), {}))
    if rendered is not None:
        panels.append(("learned model", _fit("rendered", rendered, (H, W, 3)).clip(0, 1), {}))
    if indent is not None:
        panels.append(("indentation [mm]", 1e3 * _fit("indent", indent, (H, W)), {"cmap": "magma"}))
    if normal is not None:
        n = _fit("normal", normal, (H, W, 3))
        shown = np.where((n == 0).all(-1, keepdims=True), 1.0, 0.5 + 0.5 * n)
        panels.append(("normal x, y, z", shown.clip(0, 1), {}))
    if (markers is None) != (flow is None):
        given = "flow" if markers is None else "markers"
        raise ValueError(f"plot_press: markers and flow; got {given} only. Give both or none.")
    if markers is not None:
        start, way = as_array(markers).astype(float), as_array(flow).astype(float)
        if start.shape != way.shape or start.ndim != 2 or start.shape[1] != 2:
            got = f"{start.shape} and {way.shape}"
            raise ValueError(f"plot_press: markers and flow (n, 2); got {got}. Choose one scene.")
        name = "marker flow" if scale == 1 else f"marker flow × {scale:g}"
        panels.append((name, (0.5 * photo + 0.5).clip(0, 1), {}))
    return _draw(path, panels, markers, flow, crop, scale, title, theme_of(theme))


def flow_picture(
    image: Any, markers: Any, flow: Any, gain: float = 1.0, color: str = "#ffffff"
) -> np.ndarray:
    """A photograph with its markers as dots and their flow as arrows.

    Args:
        image: photograph [-], (H, W, 3).
        markers: where they are at rest [px], (n, 2).
        flow: their displacement [px], (n, 2).
        gain: factor on the length of the arrows.
        color: of dots and arrows.

    Returns:
        Picture (H, W, 3), uint8.

    Raises:
        ValueError: arrays that do not fit each other.
    """
    from PIL import Image, ImageDraw

    photo = as_array(image).astype(float)
    start, way = as_array(markers).astype(float), as_array(flow).astype(float)
    if photo.ndim != 3 or photo.shape[2] != 3 or start.shape != way.shape:
        got = f"{photo.shape}, {start.shape} and {way.shape}"
        raise ValueError(
            f"flow_picture: image (H, W, 3), markers and flow (n, 2); got {got}. Choose one scene."
        )
    more = 3  # lines are drawn larger and shrunk: that smooths them
    shown = Image.fromarray(np.round(255 * photo.clip(0, 1)).astype(np.uint8))
    size = shown.size
    shown = shown.resize((more * size[0], more * size[1]), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(shown)
    width = max(2, round(more * size[0] / 250))
    for (u, v), (du, dv) in zip(more * (start + 0.5), more * gain * way, strict=True):
        pen.ellipse((u - 1.5 * width, v - 1.5 * width, u + 1.5 * width, v + 1.5 * width), color)
        pen.line((u, v, u + du, v + dv), color, width)
        length = float(np.hypot(du, dv))
        if length > 4 * width:
            a, b = np.array((du, dv)) / length, np.array((-dv, du)) / length
            tip, head = np.array((u + du, v + dv)), 4.0 * width
            corners = (tip, tip - head * a + 0.5 * head * b, tip - head * a - 0.5 * head * b)
            pen.polygon([tuple(c) for c in corners], color)
    return np.asarray(shown.resize(size, Image.Resampling.BOX))


def _draw(path, panels, markers, flow, crop, scale: float, title: str, theme: Theme) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    H, W = panels[0][1].shape[:2]
    left, right, top, bottom = crop or (0, W - 1, 0, H - 1)
    high = 3.0 * (bottom - top + 1) / (right - left + 1)
    size = (3.2 * len(panels), high + (0.75 if title else 0.45))
    fig = Figure(figsize=size, dpi=150, layout="constrained", facecolor=theme.background)
    FigureCanvasAgg(fig)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=theme.text)
    for k, (name, values, options) in enumerate(panels):
        axes = fig.add_subplot(1, len(panels), k + 1)
        shown = axes.imshow(values, interpolation="nearest", **options)
        axes.set_title(name, fontsize=10, color=theme.text, loc="left")
        axes.set_xlim(left - 0.5, right + 0.5)
        axes.set_ylim(bottom + 0.5, top - 0.5)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(theme.floor_line)
        if options:
            bar = fig.colorbar(shown, ax=axes, shrink=0.85, pad=0.02)
            bar.ax.tick_params(colors=theme.text, labelsize=8, color=theme.edge)
            bar.outline.set_edgecolor(theme.edge)
        if name.startswith("marker flow"):
            start, way = as_array(markers).astype(float), as_array(flow).astype(float)
            axes.scatter(start[:, 0], start[:, 1], s=5, color=theme.text, linewidths=0)
            axes.quiver(
                start[:, 0], start[:, 1], scale * way[:, 0], scale * way[:, 1],
                angles="xy", scale_units="xy", scale=1, width=0.005, color=theme.text,
            )  # fmt: skip
    return save_figure(fig, path)


def _fit(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = as_array(values).astype(float)
    if values.shape != shape:
        raise ValueError(
            f"plot_press: {name} of shape {shape}; got {values.shape}. Choose one scene."
        )
    return values
