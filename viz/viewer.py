"""Interactive view of a stored rollout.

    space  play and pause      ← →  one frame back and on     Home, End  first and last frame
    c      color by the next field     g  particles or surface     x      export an image

(VTK itself listens to f, i, p, r, s, w, and q, which closes the window.)

`build_viewer` adds all of it to any plotter, so that it also works (and is tested) off screen;
`view` opens the window.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .convert import field_range, open_reader, scene_from_reader
from .draw import STYLES, draw
from .fields import available_fields
from .frames import apply_effects, scene_camera, set_lights
from .theme import Theme, theme_of

__all__ = ["Viewer", "build_viewer", "equip", "require_display", "show", "view"]


class Viewer:
    """A rollout on a plotter: the current frame, field and style, and what changes them.

    Args:
        reader: stored rollout (see `scene_from_reader`).
        plotter: `pyvista.Plotter`.
        trajectory: which trajectory.
        field: color by this field at first; None colors by group.
        style: "particles" or "surface".
        theme: "light" or "dark".
        fps: frames per second when playing.
        on_picture: called with the path of a saved picture.
        scene_options: fields of `Scene` for every frame, and `insets` of `scene_from_reader`.
    """

    def __init__(
        self,
        reader: Any,
        plotter: Any,
        *,
        trajectory: int = 0,
        field: str | None = None,
        style: str = "particles",
        theme: Theme | str = "light",
        fps: float = 25.0,
        on_picture: Callable[[Path], None] = lambda path: None,
        scene_options: dict[str, Any] | None = None,
    ) -> None:
        self.reader, self.plotter = reader, plotter
        self.trajectory, self.style, self.theme = trajectory, style, theme_of(theme)
        self.styles: Sequence[str] = STYLES
        self.fps, self.on_picture = fps, on_picture
        self.index = 0
        self.playing = False
        self.slider: Any = None
        self._options = dict(scene_options or {})
        first = reader.frame(0, trajectory=trajectory)
        self.fields: list[str | None] = [None, *available_fields(first)]
        if field is not None and field not in self.fields:
            self.fields.append(field)
        self.field = field
        self._ranges: dict[str, tuple[float, float]] = {}
        self.scene: Any = None
        self._actors: list[str] = []

    @property
    def frame_count(self) -> int:
        """Number of stored frames."""
        return int(self.reader.n_frames)

    def show_frame(self, index: float) -> None:
        """Draw a frame; the number is rounded and kept between the first and the last."""
        self.index = int(np.clip(round(float(index)), 0, self.frame_count - 1))
        self.scene = self._scene(self.index)
        plotter = self.plotter
        suppressed, plotter.suppress_rendering = plotter.suppress_rendering, True
        for name in self._actors:
            plotter.remove_actor(name, render=False)
        before = set(plotter.actors)
        self._draw()
        self._actors = [name for name in plotter.actors if name not in before]
        plotter.suppress_rendering = suppressed
        if self.slider is not None:
            self.slider.GetRepresentation().SetValue(self.index)
        plotter.render()

    def step(self, count: int) -> None:
        """Go some frames on or back; beyond the end it starts again."""
        self.show_frame((self.index + count) % self.frame_count)

    def toggle_play(self) -> None:
        """Play or pause."""
        self.playing = not self.playing

    def tick(self) -> None:
        """Next frame if playing; called by the timer."""
        if self.playing:
            self.step(1)

    def next_field(self) -> None:
        """Color by the next field; after the last by group again."""
        place = self.fields.index(self.field)
        self.field = self.fields[(place + 1) % len(self.fields)]
        self.show_frame(self.index)

    def next_style(self) -> None:
        """Particles or surface."""
        styles = self.styles
        self.style = styles[(styles.index(self.style) + 1) % len(styles)]
        self.show_frame(self.index)

    def save_picture(self) -> Path:
        """Write what is seen to frame_<index>.png in the current folder."""
        path = Path(f"frame_{self.index:05d}.png").resolve()
        self.plotter.screenshot(path)
        self.on_picture(path)
        return path

    def keys(self) -> dict[str, Callable[[], object]]:
        """What keys do."""
        return {
            "space": self.toggle_play,
            "Right": lambda: self.step(1),
            "Left": lambda: self.step(-1),
            "Home": lambda: self.show_frame(0),
            "End": lambda: self.show_frame(self.frame_count - 1),
            "c": self.next_field,
            "g": self.next_style,
            "x": self.save_picture,
        }

    def _draw(self) -> None:
        """Put the scene on the plotter."""
        draw(self.plotter, self.scene, style=self.style, theme=self.theme)

    def _scene(self, index: int):
        options = dict(self._options)
        if self.field is not None:
            if self.field not in self._ranges:
                self._ranges[self.field] = field_range(
                    self.reader, self.field, trajectory=self.trajectory
                )
            options.setdefault("clim", self._ranges[self.field])
        scene = scene_from_reader(
            self.reader, index, trajectory=self.trajectory, field=self.field, **options
        )
        self._options.setdefault("spacing", scene.particle_spacing())
        return scene


def build_viewer(reader: Any, plotter: Any, **options: Any) -> Viewer:
    """Put a rollout with slider and keys on a plotter.

    Args:
        reader: stored rollout (see `scene_from_reader`).
        plotter: `pyvista.Plotter`, on or off screen.
        options: see `Viewer`.

    Returns:
        The viewer; `plotter.show()` starts it.
    """
    return equip(Viewer(reader, plotter, **options), occlusion=True)


def equip(viewer: Viewer, *, occlusion: bool) -> Viewer:
    """Give a viewer's plotter lights, camera, slider and keys; occlusion: darken gaps."""
    plotter = viewer.plotter
    plotter.set_background(viewer.theme.background)
    set_lights(plotter)
    viewer.show_frame(0)
    scene_camera(viewer.scene, tuple(plotter.window_size), margin=1.14, reserve=0.12).apply(plotter)
    if occlusion:
        apply_effects(plotter, viewer.scene, antialias=False)
    if viewer.scene.planar and plotter.iren is not None:
        plotter.enable_2d_style()  # drag to pan: a plane is looked at from the front
    if viewer.frame_count > 1:
        viewer.slider = plotter.add_slider_widget(
            viewer.show_frame,
            (0, viewer.frame_count - 1),
            value=0,
            pointa=(0.36, 0.035),
            pointb=(0.95, 0.035),
            fmt="%.0f",
            color=viewer.theme.text,
            style="modern",
            interaction_event="always",
        )
        bar = viewer.slider.GetRepresentation()
        bar.SetTubeWidth(0.006)
        bar.SetSliderWidth(0.022)
        bar.SetSliderLength(0.012)
        bar.SetTitleHeight(0.0)
        bar.SetLabelHeight(0.022)
    for key, action in viewer.keys().items():
        plotter.add_key_event(key, action)
    return viewer


def view(
    source: Any,
    *,
    size: tuple[int, int] = (1200, 860),
    play: bool = True,
    **options: Any,
) -> None:
    """Open a window on a stored rollout and return when it is closed.

    Args:
        source: reader, or path of a rollout file.
        size: width and height of the window [px].
        play: start playing at once.
        options: see `Viewer`.

    Raises:
        RuntimeError: if there is no display.
        FileNotFoundError: if the path does not exist.
    """
    reader = open_reader(source)
    require_display()
    import pyvista as pv

    plotter = pv.Plotter(window_size=size, lighting="none", title="Rheograd")
    show(build_viewer(reader, plotter, **options), play)


def show(viewer: Viewer, play: bool = True) -> None:
    """Open the window of a viewer and return when it is closed."""
    viewer.playing = play
    _start_clock(viewer.plotter, viewer)
    viewer.plotter.show()


def _start_clock(plotter: Any, viewer: Viewer) -> None:
    """Call `tick` at the viewer's frame rate. It listens to the style, in place of what the style does on
    its own at every tick of any clock: repeat the last mouse movement, so that dragging overshoots."""
    interactor = plotter.iren.interactor
    interactor.GetInteractorStyle().AddObserver("TimerEvent", lambda *_: viewer.tick())
    interactor.CreateRepeatingTimer(max(1, round(1000 / viewer.fps)))


def require_display() -> None:
    """Fail with advice where VTK would crash or hang."""
    if sys.platform.startswith(("win", "darwin", "cygwin")):
        return
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise RuntimeError(
            "view: a display; got none, DISPLAY and WAYLAND_DISPLAY are not set. Use "
            "render_movie and look at the file, or connect with `ssh -X`."
        )
