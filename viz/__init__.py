"""Pictures, movies, plots, reports and an interactive view of simulations.

The scene is plain arrays (`Scene`), so anything that has positions can be drawn: a solver's state,
a stored rollout, a learned model's prediction. World coordinates follow the package: metres,
right-handed, z up, quaternions (w, x, y, z); a 2-D scene is the plane (x, z) at y = 0, seen along
+y.

Everything works without a display. VTK, matplotlib and Pillow load at the first call, not at
import.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

_PUBLIC = {
    "Arrows": "scene",
    "Curve": "scene",
    "Inset": "scene",
    "Marker": "scene",
    "MeshPart": "scene",
    "Scene": "scene",
    "Tool": "scene",
    "field_range": "convert",
    "model_config": "convert",
    "open_reader": "convert",
    "scene_from_reader": "convert",
    "scene_from_state": "convert",
    "estimate_spacing": "surface",
    "surface_mesh": "surface",
    "particle_field": "fields",
    "Camera": "camera",
    "FieldScenes": "field_source",
    "FrameRenderer": "frames",
    "draw": "draw",
    "render_frame": "frames",
    "compose": "movie",
    "render_movie": "movie",
    "Search": "bench",
    "plot_searches": "bench",
    "plot_table": "bench",
    "plot_bars": "plots",
    "plot_curves": "plots",
    "plot_gradient_norm": "plots",
    "plot_losses": "plots",
    "flow_picture": "tactile",
    "plot_press": "tactile",
    "Report": "report",
    "build_viewer": "viewer",
    "build_field_viewer": "field_viewer",
    "render_field_movie": "field_pictures",
    "render_fields": "field_pictures",
    "view_fields": "field_viewer",
    "view": "viewer",
}

_PLAIN = {"scene", "convert", "field_source", "fields"}
"""Modules that need no drawing library."""

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        if _PUBLIC[name] not in _PLAIN and importlib.util.find_spec("pyvista") is None:
            raise ImportError(
                f"rheograd.viz.{name}: PyVista is installed; got no module pyvista. "
                'Run pip install "rheograd[viz]".'
            )
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
