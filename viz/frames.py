"""Still pictures of a `Scene`, without a display.

Lights follow the camera, the floor carries a soft shadow computed from the scene itself, and
screen-space occlusion darkens the gaps between particles.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .camera import Camera
from .draw import draw
from .scene import Scene
from .theme import Theme, theme_of

__all__ = [
    "FrameRenderer", "apply_effects", "offscreen_plotter", "render_frame", "scene_camera", "set_lights",
]  # fmt: skip


def scene_camera(scene: Scene, size: tuple[int, int] = (960, 720), **options: Any) -> Camera:
    """Camera that fits a scene: perspective in 3-D, along +y in 2-D; options go to `Camera.fit`."""
    lower, upper = scene.bounds()
    if scene.insets:
        options["reserve"] = max(options.get("reserve", 0.0), 0.3)
    elif scene.label:
        options.setdefault("reserve", 0.12)
    return Camera.fit(lower, upper, size=size, planar=scene.planar, **options)


class FrameRenderer:
    """Renders many scenes with one off-screen window.

    Args:
        size: width and height [px].
        style, theme, surface_method, floor: see `draw`.
        camera: `Camera`, a dictionary of `Camera.fit` options, or None; the camera that fits the
            first scene is kept for all, so that a movie does not wobble.
        antialias: supersample edges (about three times the time in software).

    Use as a context manager, or call `close`.
    """

    def __init__(
        self,
        size: tuple[int, int] = (960, 720),
        *,
        style: str = "particles",
        theme: Theme | str = "light",
        camera: Camera | dict | None = None,
        surface_method: str = "density",
        floor: bool = True,
        antialias: bool = True,
    ) -> None:
        self.size = (int(size[0]), int(size[1]))
        self.camera = camera
        self._options = {
            "style": style,
            "theme": theme_of(theme),
            "surface_method": surface_method,
            "floor": floor,
        }
        self._antialias = antialias
        self._plotter = None

    def __enter__(self) -> FrameRenderer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the window."""
        if self._plotter is not None:
            self._plotter.close()
            self._plotter = None

    def __call__(self, scene: Scene) -> np.ndarray:
        """Picture of a scene, (height, width, 3) uint8."""
        if not isinstance(self.camera, Camera):
            self.camera = scene_camera(scene, self.size, **(self.camera or {}))
        if self._plotter is None:
            self._plotter = offscreen_plotter(self.size, self._options["theme"])
        plotter = self._plotter
        plotter.clear_actors()
        plotter.suppress_rendering = True  # else every added actor renders the whole scene
        draw(plotter, scene, **self._options)
        self.camera.apply(plotter)
        apply_effects(plotter, scene, antialias=self._antialias)
        plotter.suppress_rendering = False
        plotter.render()
        image = plotter.screenshot(return_img=True)
        return np.ascontiguousarray(image[..., :3])


def render_frame(
    scene: Scene,
    path: str | os.PathLike | None = None,
    size: tuple[int, int] = (960, 720),
    style: str = "particles",
    *,
    camera: Camera | dict | None = None,
    **options: Any,
) -> np.ndarray:
    """Picture of one scene, without a display.

    Args:
        scene: what to draw.
        path: image file to write (.png, .jpg); None only returns the picture.
        size: width and height [px].
        style: "particles" or "surface".
        camera: `Camera`, options of `Camera.fit` such as {"azimuth": -30}, or None.
        options: see `FrameRenderer`.

    Returns:
        Picture (height, width, 3), uint8.
    """
    with FrameRenderer(size, style=style, camera=camera, **options) as renderer:
        image = renderer(scene)
    if path is not None:
        from PIL import Image

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return image


def set_lights(plotter: Any) -> None:
    """Key light from upper left behind the camera, weak fill from the right, a headlight."""
    import pyvista as pv

    plotter.remove_all_lights()
    for position, intensity in (((-0.5, 0.9, 1.0), 0.75), ((1.0, 0.2, 0.6), 0.38)):
        light = pv.Light(light_type="camera light", intensity=intensity)
        light.position, light.focal_point = position, (0.0, 0.0, 0.0)
        plotter.add_light(light)
    plotter.add_light(pv.Light(light_type="headlight", intensity=0.25))


def apply_effects(plotter: Any, scene: Scene, *, antialias: bool) -> None:
    """Occlusion in the gaps between particles, and smooth edges."""
    if antialias:
        plotter.enable_anti_aliasing("ssaa")
    if not scene.planar:
        lower, upper = scene.bounds()
        radius = 3.0 * scene.particle_spacing() if scene.x is not None else 0.05
        radius = max(radius, 0.02 * float(np.linalg.norm(upper - lower)))
        plotter.enable_ssao(radius=radius, bias=0.08 * radius, kernel_size=48, blur=True)


def offscreen_plotter(size: tuple[int, int], theme: Theme):
    """An empty plotter without a window, lit."""
    import pyvista as pv

    plotter = pv.Plotter(off_screen=True, window_size=size, lighting="none")
    plotter.set_background(theme.background)
    set_lights(plotter)
    return plotter
