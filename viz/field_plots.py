"""Panels of figures that show fields: curves of 1-D, maps of 2-D and pictures of 3-D fields.

A panel is drawn once and updated for every frame of a movie.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .camera import Camera
from .field_draw import MISSING, arrow_grid, draw_field, field_scene
from .field_source import FieldFrame, FieldScenes
from .plots import style_axes
from .theme import PALETTE, Theme

__all__ = ["CurvePanel", "CloudPanel", "MapPanel", "draw_course", "panel_of"]


def panel_of(axes: Any, frame: FieldFrame, theme: Theme, **options: Any) -> Any:
    """The panel for a frame's dimension; options are those of `CloudPanel`."""
    if frame.dim == 3:
        return CloudPanel(axes, frame, theme, **options)
    return (CurvePanel if frame.dim == 1 else MapPanel)(axes, frame, theme)


class CurvePanel:
    """A 1-D field over its axis, with the range of the whole trajectory."""

    mappable = None

    def __init__(self, axes: Any, frame: FieldFrame, theme: Theme) -> None:
        style_axes(axes, theme)
        (self._line,) = axes.plot(frame.centres[0], frame.values, color=PALETTE[1], linewidth=1.8)
        low, high = frame.clim
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        axes.margins(x=0)
        _name_axes(axes, frame, theme)
        axes.set_ylabel(frame.label, color=theme.text, fontsize=9)
        self._bodies(axes, frame, theme)

    def update(self, frame: FieldFrame) -> None:
        """Show another moment."""
        self._line.set_ydata(frame.values)

    def _bodies(self, axes: Any, frame: FieldFrame, theme: Theme) -> None:
        if frame.body is not None and frame.body.any():
            (x,) = frame.edges.values()
            wide = np.concatenate([frame.body, frame.body[-1:]])
            axes.fill_between(x, 0, 1, where=wide, step="post", color=theme.tool,
                              transform=axes.get_xaxis_transform(), linewidth=0)  # fmt: skip


class MapPanel:
    """A 2-D field as a map of colors, with arrows if it is a vector."""

    def __init__(self, axes: Any, frame: FieldFrame, theme: Theme) -> None:
        from matplotlib.colors import ListedColormap

        x, z = frame.edges.values()
        map_ = _color_map(frame.cmap)
        self.mappable = axes.pcolormesh(
            x, z, _masked(frame), cmap=map_, vmin=frame.clim[0], vmax=frame.clim[1], rasterized=True
        )
        self._arrows = None
        if frame.vectors is not None:
            feet, arrows = arrow_grid(frame)
            self._arrows = axes.quiver(
                *feet.T, *arrows.T, angles="xy", scale_units="xy", scale=1.0, color="white",
                alpha=0.8, width=0.0045, pivot="mid", headwidth=3.5, headlength=4, headaxislength=3.6,
            )  # fmt: skip
        if frame.body is not None and frame.body.any():
            body = np.ma.masked_where(~frame.body.T, frame.body.T.astype(float))
            axes.pcolormesh(x, z, body, cmap=ListedColormap([theme.tool]), rasterized=True)
        axes.set_aspect("equal")
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(z[0], z[-1])
        for spine in axes.spines.values():
            spine.set_color(theme.edge)
        _name_axes(axes, frame, theme)
        axes.set_ylabel(_axis(list(frame.edges)[1], frame), color=theme.text, fontsize=9)

    def update(self, frame: FieldFrame) -> None:
        """Show another moment."""
        self.mappable.set_array(_masked(frame))
        if self._arrows is not None:
            _, arrows = arrow_grid(frame)
            self._arrows.set_UVC(*arrows.T)


class CloudPanel:
    """A 3-D field as a picture of a volume.

    Args:
        axes: of the figure.
        frame: what to draw.
        theme: look.
        style: see `draw_field`.
        size: of the picture [px].
        turning: whether the camera is going to turn, so that the box needs more room.
        fine: smooth edges of clouds too, at four times the time.
    """

    def __init__(
        self,
        axes: Any,
        frame: FieldFrame,
        theme: Theme,
        *,
        style: str | None = None,
        size: tuple[int, int] = (480, 480),
        turning: bool = False,
        fine: bool = True,
    ) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        self._theme, self._style, self._size, self._fine = theme, style, size, fine
        scene = field_scene(frame, text=False)
        room = 1.25 if turning else 1.05
        self.camera = Camera.fit(*scene.bounds(), size=size, elevation=16, margin=room)
        self._picture = axes.imshow(self._render(frame), interpolation="lanczos")
        axes.axis("off")
        self.mappable = ScalarMappable(Normalize(*frame.clim), _color_map(frame.cmap))

    def update(self, frame: FieldFrame) -> None:
        """Show another moment."""
        self._picture.set_data(self._render(frame))

    def _render(self, frame: FieldFrame) -> np.ndarray:
        from .frames import offscreen_plotter

        # VTK loses clouds where it smooths edges: those are drawn larger, and made small again.
        cloud = self._style == "volume" or (self._style is None and frame.vectors is None)
        (width, height), fine = self._size, 2 if cloud and self._fine else 1
        plotter = offscreen_plotter((fine * width, fine * height), self._theme)
        try:
            draw_field(plotter, frame, style=self._style, theme=self._theme, text=False)
            self.camera.apply(plotter)
            if not cloud:
                plotter.enable_anti_aliasing("ssaa")
            image = plotter.screenshot(return_img=True)[..., :3].astype(np.float32)
        finally:
            plotter.close()
        return np.uint8(image.reshape(height, fine, width, fine, 3).mean((1, 3)).round())


def draw_course(
    axes: Any, map_axes: Any, scenes: Any, name: str, trajectory: int, frames: list[int],
    clim: tuple[float, float], theme: Theme,
) -> Any:  # fmt: skip
    """A 1-D field in time: some moments as curves, and all of them as a map of space and time.

    Args:
        axes, map_axes: for curves, and for the map; None for no map.
        scenes, name, trajectory: what to draw.
        frames: of the curves.
        clim: range of both.
        theme: look.

    Returns:
        What a color bar needs; None without a map.
    """
    import matplotlib

    moments = [scenes.frame(name, k, trajectory, clim=clim) for k in frames]
    panel = CurvePanel(axes, moments[0], theme)
    colors = matplotlib.colormaps["viridis_r"](np.linspace(0.05, 0.95, len(frames)))
    panel._line.remove()
    for frame, color in zip(moments, colors, strict=True):
        axes.plot(frame.centres[0], frame.values, color=color, linewidth=1.6, label=frame.moment)
    axes.legend(frameon=False, fontsize=8, labelcolor=theme.text)
    if map_axes is None:
        return None
    every = range(0, scenes.n_frames, max(1, scenes.n_frames // 400))
    values = np.stack([scenes.frame(name, k, trajectory, clim=clim).values for k in every])
    times = scenes.times(trajectory)
    t = np.arange(scenes.n_frames, dtype=float) if times is None else times
    from .field_source import cell_edges

    drawn = map_axes.pcolormesh(
        next(iter(moments[0].edges.values())), cell_edges(t[list(every)]), values,
        cmap=_color_map(moments[0].cmap), vmin=clim[0], vmax=clim[1], rasterized=True,
    )  # fmt: skip
    map_axes.set_ylim(t[0], t[-1])
    map_axes.margins(x=0)
    for spine in map_axes.spines.values():
        spine.set_color(theme.edge)
    _name_axes(map_axes, moments[0], theme)
    label = "frame" if times is None else "t [s]"
    map_axes.set_ylabel(label, color=theme.text, fontsize=9)
    return drawn


def color_bar(figure: Any, mappable: Any, axes: Any, label: str, theme: Theme) -> None:
    """A color bar at the right of axes and as high as they are."""
    width = 0.13 / axes.get_window_extent().width * figure.dpi
    place = axes.inset_axes((1 + 0.6 * width, 0.0, width, 1.0))
    bar = figure.colorbar(mappable, cax=place)
    bar.set_label(label, color=theme.text, fontsize=9)
    bar.ax.tick_params(colors=theme.text, labelsize=8, color=theme.edge)
    bar.outline.set_edgecolor(theme.edge)


def shared_range(
    scenes: list[FieldScenes], name: str, trajectories: list[int]
) -> tuple[float, float]:
    """One color range of a quantity for several sources."""
    ranges = [s.range(name, trajectories) for s in scenes]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    if any(a < 0 < b and abs(a + b) < 1e-9 * b for a, b in ranges):
        high = max(-low, high)
        low = -high
    return low, high


def _masked(frame: FieldFrame) -> np.ndarray:
    return np.ma.masked_invalid(frame.values.T)


def _color_map(name: str) -> Any:
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=MISSING)


def _axis(name: str, frame: FieldFrame) -> str:
    return f"{name} [{frame.space_unit}]"


def _name_axes(axes: Any, frame: FieldFrame, theme: Theme) -> None:
    axes.tick_params(colors=theme.text, labelsize=8, color=theme.edge)
    axes.set_facecolor(theme.background)
    if axes.get_window_extent().width < 2.1 * axes.figure.dpi:
        axes.locator_params(nbins=3)
    axes.set_xlabel(_axis(next(iter(frame.edges)), frame), color=theme.text, fontsize=9)
