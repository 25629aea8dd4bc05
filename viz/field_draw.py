"""A `FieldFrame` as actors of a PyVista plotter: maps in the plane, volumes and surfaces in space.

A plane field is drawn in (x, z) at y = 0; cells have one color each, as solvers know no more. In space
fields go linearly from cell centre to cell centre.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .draw import add_scalar_bar, draw
from .field_source import FieldFrame
from .scene import Scene, Tool
from .theme import Theme, theme_of

__all__ = ["FIELD_STYLES", "draw_field", "field_scene"]

FIELD_STYLES = ("volume", "surface", "slices")
"""Of fields in space: clouds, surfaces of equal value, three planes through the middle."""
MISSING = "#d1579b"
"""Color of what is not finite."""
LEVELS = (0.25, 0.5, 0.75)
"""Of surfaces, as shares of the color range."""


def field_scene(frame: FieldFrame, text: bool = True) -> Scene:
    """Box, bodies and, if wanted, time and color bar around a plane field or one in space."""
    lower = np.array([e[0] for e in frame.edges.values()])
    upper = np.array([e[-1] for e in frame.edges.values()])
    scene = Scene(lower=lower, upper=upper)
    if text:
        # One bar means a new column in text of VTK.
        scene.time, scene.label = frame.time, frame.label.replace("|", "")
        scene.cmap, scene.clim = frame.cmap, frame.clim
    if frame.body is not None and frame.dim == 3 and frame.body.any():
        scene.tools = [Tool(_body_shape(frame))]
    return scene


def draw_field(
    plotter: Any,
    frame: FieldFrame,
    *,
    style: str | None = None,
    theme: Theme | str = "light",
    text: bool = True,
) -> Scene:
    """Add a field of a plane or of space to a plotter; camera and lights stay as they are.

    Args:
        plotter: `pyvista.Plotter`, on screen or off.
        frame: what to draw.
        style: of fields in space, one of `FIELD_STYLES`; None takes clouds, and of vectors streamlines.
        theme: "light", "dark" or a `Theme`.
        text: whether time and color bar are drawn.

    Returns:
        The scene around it.

    Raises:
        ValueError: for an unknown style.
    """
    if style is not None and style not in FIELD_STYLES:
        raise ValueError(f"draw_field: style among {FIELD_STYLES}; got {style!r}. Use one of them.")
    import pyvista as pv

    theme = theme_of(theme)
    scene = field_scene(frame, text)
    if frame.dim == 3:
        draw(plotter, scene, theme=theme)
    colors = {
        "cmap": frame.cmap, "clim": frame.clim, "show_scalar_bar": False, "reset_camera": False
    }  # fmt: skip
    if frame.dim == 2:
        _draw_map(plotter, frame, theme, colors)
        if text:
            sides = " × ".join(f"{e[-1] - e[0]:.4g}" for e in frame.edges.values())
            plotter.add_text(
                f"{frame.moment}    {sides} {frame.space_unit}", position=(0.03, 0.015),
                viewport=True, font_size=max(8, round(0.018 * plotter.window_size[1])),
                color=theme.text,
            )  # fmt: skip
    elif style is None and frame.vectors is not None:
        _draw_streamlines(plotter, frame, colors)
    elif style == "surface":
        _draw_surfaces(plotter, frame, colors)
    elif style == "slices":
        planes = _grid(frame).slice_orthogonal()
        options = {"lighting": False, "nan_color": MISSING}
        plotter.add_mesh(planes, scalars="values", **options, **colors)
    else:
        _draw_volume(plotter, frame, colors)
    if text:
        table = pv.LookupTable(frame.cmap, scalar_range=frame.clim)
        add_scalar_bar(plotter, scene, table)
    return scene


def _draw_map(plotter: Any, frame: FieldFrame, theme: Theme, colors: dict[str, Any]) -> None:
    import pyvista as pv

    x, z = frame.edges.values()
    mesh = pv.RectilinearGrid(x, np.zeros(1), z)
    mesh.cell_data["values"] = frame.values.flatten(order="F")
    plotter.add_mesh(mesh, scalars="values", lighting=False, nan_color=MISSING, **colors)
    plotter.add_mesh(mesh.outline(), color=theme.edge, line_width=1.5, reset_camera=False)
    near = -0.01 * float(max(x[-1] - x[0], z[-1] - z[0]))
    if frame.body is not None and frame.body.any():
        solid = mesh.extract_cells(np.flatnonzero(frame.body.flatten(order="F")))
        solid.points[:, 1] = near
        plotter.add_mesh(solid, color=theme.tool, lighting=False, reset_camera=False)
    if frame.vectors is not None:
        feet, arrows = arrow_grid(frame)
        three = np.zeros((len(feet), 3))
        three[:, ::2], three[:, 1] = feet, 2 * near
        away = np.zeros_like(three)
        away[:, ::2] = arrows
        long = np.linalg.norm(away, axis=1) > 1e-3 * np.linalg.norm(away, axis=1).max(initial=1e-30)
        if long.any():
            plotter.add_arrows(three[long], away[long], color="white", reset_camera=False)


def arrow_grid(frame: FieldFrame, most: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Feet (N, 2) and arrows (N, 2) of a plane vector field on few of its cells, none in bodies.

    The largest value of the color range gets an arrow as long as 1.6 times their distance.
    """
    assert frame.vectors is not None
    stride = max(1, -(-max(frame.values.shape) // most))
    rows = [np.arange(n)[min(stride // 2, n - 1) :: stride] for n in frame.values.shape]
    pick = np.ix_(*rows)
    feet = np.stack(np.meshgrid(*(c[r] for c, r in zip(frame.centres, rows, strict=True)),
                                indexing="ij"), -1)  # fmt: skip
    arrows = np.stack([v[pick] for v in frame.vectors], -1)
    good = np.isfinite(arrows).all(-1)
    if frame.body is not None:
        good &= ~frame.body[pick]
    span = max(e[-1] - e[0] for e in frame.edges.values())
    step = span * stride / max(frame.values.shape)
    scale = 1.6 * step / (max(map(abs, frame.clim)) or 1.0)
    return feet[good], scale * arrows[good]


def _grid(frame: FieldFrame) -> Any:
    """Cell centres as points."""
    import pyvista as pv

    values = np.where(np.isfinite(frame.values), frame.values, 0.0)
    if frame.body is not None:
        values = np.where(frame.body, 0.0, values)
    centres = frame.centres
    steps = [np.diff(c) for c in centres]
    if all(len(s) and np.allclose(s, s[0], rtol=1e-3) for s in steps):
        mesh = pv.ImageData(
            dimensions=values.shape, spacing=[s[0] for s in steps], origin=[c[0] for c in centres]
        )
    else:
        mesh = pv.RectilinearGrid(*centres)
    mesh.point_data["values"] = values.flatten(order="F")
    return mesh


def _draw_volume(plotter: Any, frame: FieldFrame, colors: dict[str, Any]) -> None:
    """A cloud: what is at the lower end of the range, or at zero of a signed field, is clear."""
    import pyvista as pv

    mesh = _grid(frame)
    if not isinstance(mesh, pv.ImageData):  # clouds need even cells
        return _draw_surfaces(plotter, frame, colors)
    ramp = np.linspace(0, 1, 64)
    if frame.clim[0] < 0 < frame.clim[1]:
        ramp = np.abs(2 * ramp - 1)
    cloud = plotter.add_volume(
        mesh, scalars="values", opacity=0.9 * ramp**1.3, cmap=frame.cmap, clim=frame.clim,
        opacity_unit_distance=max(mesh.bounds_size) / 11, show_scalar_bar=False, shade=False,
        reset_camera=False,
    )  # fmt: skip
    cloud.prop.interpolation_type = "linear"


def _draw_surfaces(plotter: Any, frame: FieldFrame, colors: dict[str, Any]) -> None:
    low, high = frame.clim
    levels = [low + share * (high - low) for share in LEVELS]
    if low < 0 < high:
        levels = [share * end for end in (low, high) for share in LEVELS[:2]]
    shapes = _grid(frame).contour(sorted(levels), scalars="values")
    if shapes.n_points:
        plotter.add_mesh(
            shapes, scalars="values", opacity=0.55, smooth_shading=True, specular=0.2, **colors
        )


def _draw_streamlines(plotter: Any, frame: FieldFrame, colors: dict[str, Any]) -> None:
    """Lines along a vector field through points of an even grid, by its length."""
    import pyvista as pv

    mesh = _grid(frame)
    assert frame.vectors is not None
    vectors = np.stack([v.flatten(order="F") for v in frame.vectors], -1)
    mesh.point_data["vectors"] = np.where(np.isfinite(vectors), vectors, 0.0)
    box = np.asarray(mesh.bounds).reshape(3, 2)
    ticks = [low + (np.arange(5) + 0.5) / 5 * (high - low) for low, high in box]
    seeds = pv.PolyData(np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 3))
    span = float(np.diff(box).max())
    lines = mesh.streamlines_from_source(
        seeds, vectors="vectors", integration_direction="both", max_length=0.35 * span,
        terminal_speed=0.02 * max(map(abs, frame.clim)),
    )  # fmt: skip
    if lines.n_points and lines.n_cells:
        plotter.add_mesh(lines.tube(radius=0.003 * span), scalars="values", **colors)


def _body_shape(frame: FieldFrame) -> dict[str, Any]:
    """Surface of bodies, half way between cells of theirs and others."""
    import pyvista as pv

    assert frame.body is not None
    wide = np.pad(frame.body.astype(float), 1)
    centres = []
    for c, e in zip(frame.centres, frame.edges.values(), strict=True):
        centres.append(np.concatenate([[2 * e[0] - c[0]], c, [2 * e[-1] - c[-1]]]))
    mesh = pv.RectilinearGrid(*centres)
    mesh.point_data["body"] = wide.flatten(order="F")
    shape = (
        mesh.contour([0.5], scalars="body").triangulate().smooth_taubin(n_iter=60, pass_band=0.03)
    )
    return {
        "type": "MeshShape", "vertices": np.asarray(shape.points),
        "faces": np.asarray(shape.regular_faces),
    }  # fmt: skip
