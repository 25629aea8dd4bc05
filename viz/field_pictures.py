"""Pictures and movies of fields on grids: strips of moments, fields and trajectories beside each other.

Axes are equal in length, colors mean the same in all pictures of a row, bodies are gray.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .field_plots import color_bar, draw_course, panel_of, shared_range
from .field_source import Difference, FieldScenes
from .movie import write_movie
from .theme import Theme, theme_of

__all__ = ["render_field_movie", "render_fields"]

DPI = 150
WIDTH, TALLEST = 10.0, 3.4
"""Of a picture, and of one panel at most [inch]."""


@dataclasses.dataclass
class _Row:
    """What one panel shows, at any moment."""

    scenes: Any
    title: str
    name: str
    trajectory: int
    clim: tuple[float, float]

    def frame(self, index: int) -> Any:
        """At a frame; a source that has fewer than the first shows its last one."""
        index = max(-self.scenes.n_frames, min(index, self.scenes.n_frames - 1))
        return self.scenes.frame(self.name, index, self.trajectory, clim=self.clim)


def render_fields(
    source: Any,
    path: str | os.PathLike | None = None,
    *,
    fields: Sequence[str] = (),
    trajectories: Sequence[int] = (0,),
    frame: int | None = None,
    moments: int = 5,
    beside: Sequence[Any] = (),
    style: str | None = None,
    size: tuple[int, int] | None = None,
    theme: Theme | str = "light",
) -> np.ndarray:
    """Picture of fields: a strip of moments, or one moment.

    Args:
        source: what `open_fields` takes, or a `FieldScenes`.
        path: .png, .jpg; None only returns the picture.
        fields: fields, components, "speed" or "vorticity"; none takes what varies in time, or all
            fields of a stationary problem.
        trajectories: which ones.
        frame: one moment; None draws a strip, and of 1-D fields curves and a map of space and time.
        moments: of a strip.
        beside: other sources on any grid of the same dimension, such as predictions; one on the same
            cells is followed by its difference.
        style: of 3-D fields, see `draw_field`.
        size: width and height [px]; None fits the figure to its panels.
        theme: "light" or "dark".

    Returns:
        Picture (height, width, 3), uint8.

    Raises:
        InputError: no such field, trajectory or frame.
        ValueError: unknown style or theme.
    """
    theme = theme_of(theme)
    scenes, rows, columns = _rows(source, fields, trajectories, beside)
    scenes.check((), (), () if frame is None else [frame])
    if frame is None and scenes.n_frames > 1 and scenes.dim == 1:
        figure = _course(rows, moments, size, theme)
    elif frame is None and scenes.n_frames > 1:
        figure = _strip(rows, moments, style, size, theme)
    else:
        figure, _ = _moment(rows, columns, frame or 0, style, size, theme)
    image = _pixels(figure, size is None)
    if path is not None:
        from PIL import Image

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return image


def render_field_movie(
    source: Any,
    path: str | os.PathLike,
    *,
    fields: Sequence[str] = (),
    trajectories: Sequence[int] = (0,),
    frames: Iterable[int] | None = None,
    beside: Sequence[Any] = (),
    fps: float = 10.0,
    style: str | None = None,
    orbit: float = 0.0,
    size: tuple[int, int] | None = None,
    theme: Theme | str = "light",
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Movie of fields; arguments are those of `render_fields`, and of `render_movie`.

    Raises:
        InputError: no such field or trajectory.
        ValueError: another ending than .gif and .mp4, an fps the format cannot hold.
    """
    theme = theme_of(theme)
    scenes, rows, columns = _rows(source, fields, trajectories, beside)
    indices = list(range(scenes.n_frames) if frames is None else frames)

    def images() -> Iterator[np.ndarray]:
        figure, panels = _moment(
            rows, columns, indices[0], style, size, theme, turning=bool(orbit), fine=False
        )
        box = None
        first = [getattr(p, "camera", None) for p in panels]
        for done, index in enumerate(indices):
            for row, panel, camera in zip(rows, panels, first, strict=True):
                if camera is not None and orbit and len(indices) > 1:
                    panel.camera = camera.orbit(orbit * done / (len(indices) - 1))
                panel.update(row.frame(index))
            figure.suptitle_text.set_text(rows[0].frame(index).moment)
            image = _pixels(figure, False)
            figure.set_layout_engine("none")  # a layout anew for every frame would tremble
            if box is None:
                box = _content(image, theme) if size is None else (slice(None), slice(None))
            yield image[box]
            if progress is not None:
                progress(done + 1, len(indices))

    return write_movie(images(), path, fps=fps)


def _rows(
    source: Any, fields: Sequence[str], trajectories: Sequence[int], beside: Sequence[Any]
) -> tuple[FieldScenes, list[_Row], int]:
    """The first source; every panel, field by field; panels that belong into one line."""
    sources = [s if isinstance(s, FieldScenes) else FieldScenes(s) for s in (source, *beside)]
    first, names = sources[0], list(fields) or sources[0].default()
    for one in sources:
        one.check(names, trajectories)
    shown: list[Any] = list(sources)
    if len(sources) == 2 and sources[1].data.cells == first.data.cells:
        shown.append(Difference(sources[1], first))
    rows = []
    for name in names:
        clim = shared_range(sources, name, list(trajectories))
        for k in trajectories:
            for one in shown:
                words = [f"trajectory {k}"] if len(trajectories) > 1 else []
                words += [one.title] if len(shown) > 1 else []
                other = isinstance(one, Difference)
                own = one.range(name, list(trajectories)) if other else clim
                rows.append(_Row(one, ", ".join(words), name, k, own))
    return first, rows, len(shown) if len(shown) > 1 else len(trajectories)


def _strip(
    rows: list[_Row], moments: int, style: str | None, size: tuple[int, int] | None, theme: Theme
) -> Any:
    """A row of panels per quantity, from the first frame to the last."""
    count = rows[0].scenes.n_frames
    indices = np.unique(np.linspace(0, count - 1, min(moments, count)).round().astype(int))
    frames = [[row.frame(int(i)) for i in indices] for row in rows]
    figure, axes = _figure(len(rows), len(indices), frames[0][0], size, theme)
    for r, row in enumerate(rows):
        for c, frame in enumerate(frames[r]):
            ax = axes[r, c]
            panel = panel_of(ax, frame, theme, **_cloud(frame, style, ax))
            if r == 0:
                ax.set_title(frame.moment, fontsize=10, color=theme.text)
            _outer(ax, r == len(rows) - 1, c == 0)
            if c == 0 and row.title:
                _beside(ax, row.title, theme)
        color_bar(figure, panel.mappable, axes[r, -1], frame.label, theme)
    return figure


def _course(rows: list[_Row], moments: int, size: tuple[int, int] | None, theme: Theme) -> Any:
    """1-D fields: curves, and the map of space and time beside them."""
    figure, axes = _empty(len(rows), 2, (WIDTH, TALLEST * len(rows)), size, theme)
    for r, row in enumerate(rows):
        count = row.scenes.n_frames
        indices = np.unique(np.linspace(0, count - 1, min(moments, count)).round().astype(int))
        curves, map_axes = axes[r]
        mappable = draw_course(
            curves, map_axes, row.scenes, row.name, row.trajectory, [int(i) for i in indices],
            row.clim, theme,
        )  # fmt: skip
        label = row.frame(0).label
        if row.title:
            curves.set_title(row.title, fontsize=10, color=theme.text, loc="left")
        color_bar(figure, mappable, map_axes, label, theme)
    return figure


def _moment(
    rows: list[_Row],
    columns: int,
    index: int,
    style: str | None,
    size: Any,
    theme: Theme,
    **options: Any,
) -> tuple[Any, list[Any]]:
    """One moment of all quantities, and the panels."""
    if columns in (1, len(rows)) or columns > 5:
        columns = min(len(rows), 4 if rows[0].scenes.dim > 1 else 3)
    lines = -(-len(rows) // columns)
    frames = [row.frame(index) for row in rows]
    figure, axes = _figure(lines, columns, frames[0], size, theme, bars=True)
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    panels = []
    for row, frame, ax in zip(rows, frames, axes.flat, strict=False):
        panels.append(panel_of(ax, frame, theme, **_cloud(frame, style, ax, **options)))
        if row.title:
            ax.set_title(row.title, fontsize=10, color=theme.text)
        if panels[-1].mappable is not None:
            color_bar(figure, panels[-1].mappable, ax, frame.label, theme)
    text = frames[0].moment if rows[0].scenes.n_frames > 1 else ""
    figure.suptitle_text = (
        figure.suptitle(text, x=0.01, ha="left", fontsize=10, color=theme.text)
        if text
        else figure.text(0, 0, "")
    )
    return figure, panels


def _figure(
    lines: int, columns: int, frame: Any, size: Any, theme: Theme, bars: bool = False
) -> tuple[Any, Any]:
    """A figure that fits its panels, and its axes (lines, columns)."""
    lengths = [e[-1] - e[0] for e in frame.edges.values()]
    aspect = {1: 0.62, 3: 1.0}.get(frame.dim) or lengths[1] / lengths[0]
    # Numbers and names of axes and bars.
    around = (1.2 * columns, 0.5 * lines + 0.3) if bars else (2.0, 0.12 * lines + 0.65)
    width = min(max(1.0, (WIDTH - around[0]) / columns), 4.8, TALLEST / aspect)
    fits = (columns * width + around[0], lines * width * aspect + around[1])
    return _empty(lines, columns, fits, size, theme)


def _empty(
    lines: int,
    columns: int,
    fits: tuple[float, float],
    size: tuple[int, int] | None,
    theme: Theme,
) -> tuple[Any, Any]:
    """A figure of a size [px], in which a layout that fits some inches is as large as it can be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = size or (round(DPI * fits[0]), round(DPI * fits[1]))
    dpi = min(size[0] / fits[0], size[1] / fits[1])
    figure = Figure(
        figsize=(size[0] / dpi, size[1] / dpi),
        dpi=dpi,
        layout="constrained",
        facecolor=theme.background,
    )
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, squeeze=False)


def _cloud(frame: Any, style: str | None, axes: Any, **options: Any) -> dict[str, Any]:
    """Options of panels of 3-D fields: a picture as large as its place."""
    if frame.dim < 3:
        return {}
    box = axes.get_window_extent()
    side = int(np.clip(1.1 * min(box.width, box.height), 160, 900))
    return {"style": style, "size": (side, side), **options}


def _outer(axes: Any, bottom: bool, left: bool) -> None:
    """Leave out what panels below or at the left say already."""
    if not bottom:
        axes.set_xlabel("")
        axes.tick_params(labelbottom=False)
    if not left:
        axes.set_ylabel("")
        axes.tick_params(labelleft=False)


def _beside(axes: Any, title: str, theme: Theme) -> None:
    """Name of a row."""
    if axes.axison:
        axes.set_ylabel(f"{title}\n{axes.get_ylabel()}", color=theme.text, fontsize=9)
    else:
        axes.text(-0.02, 0.5, title, rotation=90, ha="right", va="center", color=theme.text,
                  fontsize=9, transform=axes.transAxes)  # fmt: skip


def _pixels(figure: Any, crop: bool) -> np.ndarray:
    """(height, width, 3) uint8."""
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    if crop:
        image = image[_content(image, figure.get_facecolor())]
    return np.ascontiguousarray(image)


def _content(image: np.ndarray, background: Any, margin: int = 12) -> tuple[slice, slice]:
    """Rows and columns without an empty border."""
    from matplotlib.colors import to_rgb

    color = background.background if isinstance(background, Theme) else background
    paper = np.round(255 * np.asarray(to_rgb(color))).astype(int)
    ink = (np.abs(image.astype(int) - paper) > 8).any(-1)

    def span(line: np.ndarray) -> slice:
        found = np.flatnonzero(line)
        if not len(found):
            return slice(None)
        return slice(max(0, found[0] - margin), min(len(line), found[-1] + margin + 1))

    return span(ink.any(1)), span(ink.any(0))
