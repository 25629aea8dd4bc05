"""Interactive view of fields on grids, with the keys of `viewer` and

↑ ↓    next and previous trajectory      c      next field      g      volume, surfaces, slices
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .field_draw import FIELD_STYLES, draw_field
from .field_source import FieldScenes
from .scene import Scene
from .theme import Theme, theme_of
from .viewer import Viewer, equip, require_display, show

__all__ = ["FieldViewer", "build_field_viewer", "view_fields"]


class FieldViewer(Viewer):
    """A file of fields on a plotter.

    Args:
        scenes: what to show.
        plotter: `pyvista.Plotter`.
        trajectory: which one at first.
        field: quantity at first; None takes the first of `FieldScenes.default`.
        style: of 3-D fields, see `draw_field`.
        theme: "light" or "dark".
        fps: frames per second when playing.
        on_picture: called with the path of a saved picture.

    Raises:
        InputError: no such field or trajectory.
    """

    def __init__(
        self,
        scenes: FieldScenes,
        plotter: Any,
        *,
        trajectory: int = 0,
        field: str | None = None,
        style: str | None = None,
        theme: Theme | str = "light",
        fps: float = 10.0,
        on_picture: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self.scenes, self.plotter = scenes, plotter
        self.field = field or scenes.default()[0]
        scenes.check([self.field], [trajectory])
        self.trajectory = trajectory % scenes.data.n_trajectories
        self.style, self.theme, self.styles = style, theme_of(theme), (None, *FIELD_STYLES)
        self.fields = list(scenes.names)
        self.fps, self.on_picture = fps, on_picture
        self.index, self.playing, self.slider = 0, False, None
        self.scene: Any = None
        self.chart = self._chart() if scenes.dim == 1 else None
        self._actors: list[str] = []

    @property
    def frame_count(self) -> int:
        """Number of stored frames."""
        return self.scenes.n_frames

    def keys(self) -> dict[str, Callable[[], object]]:
        """What keys do."""
        return super().keys() | {
            "Up": lambda: self.next_trajectory(1), "Down": lambda: self.next_trajectory(-1)
        }  # fmt: skip

    def next_trajectory(self, count: int) -> None:
        """Go some trajectories on or back."""
        self.trajectory = (self.trajectory + count) % self.scenes.data.n_trajectories
        self.show_frame(self.index)

    def _scene(self, index: int) -> Any:
        return self.scenes.frame(self.field, index, self.trajectory)

    def _draw(self) -> None:
        frame = self.scene
        title = f"{self.field}, trajectory {self.trajectory}"
        if frame.dim == 1:
            self._draw_curve(frame, f"{title}, {frame.moment}")
            self.scene = Scene(lower=(0.0, 0.0), upper=(1.0, 1.0))
            return
        self.scene = draw_field(self.plotter, frame, style=self.style, theme=self.theme)
        color = self.theme.text
        size = max(9, round(0.022 * self.plotter.window_size[1]))
        self.plotter.add_text(
            title, position=(0.03, 0.945), viewport=True, font_size=size, color=color
        )

    def _chart(self) -> Any:
        """An empty chart of VTK, which stays for all frames."""
        import pyvista as pv

        chart = pv.Chart2D(size=(0.9, 0.84), loc=(0.04, 0.12))
        chart.background_color, chart.border_color = (self.theme.background,) * 2
        color = pv.Color(self.theme.text).float_rgb
        for axis in (chart.x_axis, chart.y_axis):
            axis.pen.color = self.theme.edge
            axis.GetLabelProperties().SetColor(color)
            axis.GetTitleProperties().SetColor(color)
        chart.GetTitleProperties().SetColor(color)
        self.plotter.add_chart(chart)
        return chart

    def _draw_curve(self, frame: Any, title: str) -> None:
        self.chart.clear()
        self.chart.line(frame.centres[0], frame.values, color="#3d7fd9", width=2.5)
        self.chart.title = title
        self.chart.x_label = f"{next(iter(frame.edges))} [{frame.space_unit}]"
        self.chart.y_label = frame.label
        low, high = frame.clim
        self.chart.y_range = (low - 0.06 * (high - low), high + 0.06 * (high - low))


def build_field_viewer(source: Any, plotter: Any, **options: Any) -> FieldViewer:
    """Put fields with slider and keys on a plotter.

    Args:
        source: what `open_fields` takes, or a `FieldScenes`.
        plotter: `pyvista.Plotter`, on or off screen.
        options: see `FieldViewer`.

    Returns:
        The viewer; `plotter.show()` starts it.
    """
    scenes = source if isinstance(source, FieldScenes) else FieldScenes(source)
    viewer = FieldViewer(scenes, plotter, **options)
    equip(viewer, occlusion=False)
    return viewer


def view_fields(
    source: Any, *, size: tuple[int, int] = (1200, 860), play: bool = True, **options: Any
) -> None:
    """Open a window on fields and return when it is closed; arguments as for `view`.

    Raises:
        InputError: no such field or trajectory.
        RuntimeError: if there is no display.
    """
    scenes = source if isinstance(source, FieldScenes) else FieldScenes(source)
    scenes.check([options["field"]] if options.get("field") else [], [options.get("trajectory", 0)])
    require_display()
    import pyvista as pv

    plotter = pv.Plotter(window_size=size, lighting="none", title="Rheograd")
    show(build_field_viewer(scenes, plotter, **options), play)
