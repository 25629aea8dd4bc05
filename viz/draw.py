"""A `Scene` as actors of a PyVista plotter.

Particles are ray-cast spheres with true depth (one quad each), so that a hundred thousand cost
little even in software; liquids and solids may be drawn as smooth surfaces instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .fields import as_array
from .floor import floor_plane, nice_step
from .insets import add_insets
from .scene import Scene, Tool, embed
from .shapes import pose_matrix, shape_mesh, shape_name
from .surface import surface_mesh
from .theme import Theme, rgb, theme_of

__all__ = ["STYLES", "add_scalar_bar", "draw"]

STYLES = ("particles", "surface")


def draw(
    plotter: Any,
    scene: Scene,
    *,
    style: str = "particles",
    theme: Theme | str = "light",
    surface_method: str = "density",
    floor: bool = True,
) -> None:
    """Add everything in a scene to a PyVista plotter; camera and lights stay as they are.

    Args:
        plotter: `pyvista.Plotter`, on screen or off.
        scene: what to draw.
        style: "particles", or "surface" for smooth liquids and solids (groups that look like grains
            stay particles).
        theme: "light", "dark" or a `Theme`.
        surface_method: see `surface_mesh`.
        floor: draw the floor with grid and shadow (3-D scenes with a domain or not).

    Raises:
        ValueError: for an unknown style, theme or shape.
    """
    if style not in STYLES:
        raise ValueError(f"draw: style among {STYLES}; got {style!r}. Use one of them.")
    theme = theme_of(theme)
    lower, upper = scene.bounds()
    solids = [(tool, _tool_mesh(tool, lower, upper)) for tool in scene.tools]
    if floor and not scene.planar:
        pixels = min(640, max(plotter.window_size))
        plotter.add_actor(floor_plane(scene, [mesh for _, mesh in solids], theme, pixels))
    if scene.lower is not None:
        _draw_domain(plotter, scene, theme)
    if scene.x is not None and len(scene.x):
        _draw_particles(plotter, scene, style, surface_method)
    for tool, mesh in solids:
        _draw_tool(plotter, tool, mesh, theme, scene.planar)
    _draw_extras(plotter, scene, theme)
    _draw_text(plotter, scene, theme)
    add_insets(plotter, scene.insets, theme, _font_size(plotter, 0.75))


def _draw_particles(plotter, scene: Scene, style: str, method: str) -> None:
    """Each group as spheres or as a surface, colored by group or by the scene's values."""
    import pyvista as pv

    shown, spacing = scene.shown(), scene.particle_spacing()
    color_map = None
    if scene.values is not None:
        color_map = pv.LookupTable(scene.cmap, scalar_range=scene.value_range())
    for name, (start, stop) in scene.groups.items():
        mask = shown[start:stop]
        x = scene.x[start:stop][mask]
        if not len(x):
            continue
        base = rgb(scene.color_of(name))
        values = None if scene.values is None else scene.values[start:stop][mask]
        look = scene.look_of(name)
        if style == "surface" and look != "grains":
            mesh = surface_mesh(x, spacing, values=values, method=method)
            _press_to_walls(mesh, scene, spacing)
            _add_surface(plotter, mesh, scene.planar, values, base, color_map, look)
        else:
            colors = np.tile(base, (len(x), 1))
            if values is None:
                # a few percent of variation let the eye tell neighbours apart
                shade = 1 + 0.09 * (np.random.default_rng(start).random((len(mask), 1))[mask] - 0.5)
                colors = np.clip(colors * shade, 0, 1)
            else:
                colors = _map_colors(values, colors, color_map)
            _add_spheres(plotter, embed(x), 0.56 * spacing, colors)
    if scene.target is not None and len(scene.target):
        ghost = surface_mesh(as_array(scene.target), spacing)
        plotter.add_mesh(
            ghost,
            color="#12a150",
            opacity=0.28,
            smooth_shading=True,
            specular=0.2,
            show_scalar_bar=False,
            culling=False if scene.planar else "back",
        )
    if color_map is not None and scene.label:
        add_scalar_bar(plotter, scene, color_map)


def _map_colors(values, fallback, table) -> np.ndarray:
    """RGB of values; where a value is NaN the fallback."""
    known = np.isfinite(values)
    colors = fallback.copy()
    low, high = table.scalar_range
    unit = np.clip((values[known] - low) / (high - low), 0, 1)
    index = np.round(unit * (table.n_values - 1)).astype(int)
    colors[known] = np.asarray(table.values)[index, :3] / 255.0
    return colors


def _add_spheres(plotter, points, radius, colors) -> None:
    import pyvista as pv
    from vtkmodules.vtkRenderingOpenGL2 import vtkOpenGLSphereMapper

    cloud = pv.PolyData(np.ascontiguousarray(points))
    cloud.point_data["rgb"] = np.round(255 * colors).astype(np.uint8)
    cloud.set_active_scalars("rgb")
    mapper = vtkOpenGLSphereMapper()
    mapper.SetInputData(cloud)
    mapper.SetRadius(radius)
    actor = pv.Actor()
    actor.SetMapper(mapper)
    prop = actor.prop
    prop.ambient, prop.diffuse, prop.specular, prop.specular_power = 0.3, 0.86, 0.14, 24
    plotter.add_actor(actor, reset_camera=False)


def _press_to_walls(mesh, scene: Scene, spacing: float) -> None:
    """Flatten what smoothing pushed through a wall; matter that truly left the box is untouched."""
    if scene.lower is None or not mesh.n_points:
        return
    lower, upper = scene.bounds()
    points = np.asarray(mesh.points)
    for axis in (0, 2) if scene.planar else (0, 1, 2):
        p = points[:, axis]
        p[(p < lower[axis]) & (p > lower[axis] - spacing)] = lower[axis]
        p[(p > upper[axis]) & (p < upper[axis] + spacing)] = upper[axis]
    mesh.points = points


def _add_surface(plotter, mesh, planar, values, base, color_map, look) -> None:
    if not mesh.n_points:
        return
    liquid = look == "liquid"
    options: dict[str, Any] = {"smooth_shading": not planar, "reset_camera": False}
    if values is not None and np.isfinite(values).any():
        fallback = np.tile(base, (mesh.n_points, 1))
        colors = _map_colors(np.asarray(mesh["values"]), fallback, color_map)
        mesh.point_data["rgb"] = np.round(255 * colors).astype(np.uint8)
        options.update(scalars="rgb", rgb=True)
        liquid = False  # through a clear surface the colors could not be read off the bar
    else:
        options["color"] = tuple(base)
    if planar:
        plotter.add_mesh(mesh, lighting=False, **options)
        outline = mesh.extract_feature_edges(
            boundary_edges=True, feature_edges=False, manifold_edges=False, non_manifold_edges=False
        )
        plotter.add_mesh(outline, color=tuple(0.72 * base), line_width=2, reset_camera=False)
    elif liquid:
        plotter.add_mesh(
            mesh,
            opacity=0.72,
            ambient=0.36,
            diffuse=0.72,
            specular=0.9,
            specular_power=70,
            culling="back",
            **options,
        )
    else:
        plotter.add_mesh(
            mesh, ambient=0.3, diffuse=0.82, specular=0.28, specular_power=28, **options
        )


def _draw_domain(plotter, scene: Scene, theme: Theme) -> None:
    """Outline of the box; in 2-D the frame with a heavy floor line."""
    import pyvista as pv

    lower, upper = scene.bounds()
    if scene.planar:
        y = 0.02 * float((upper - lower).max())  # behind the particles
        corners = [
            (lower[0], y, lower[2]),
            (upper[0], y, lower[2]),
            (upper[0], y, upper[2]),
            (lower[0], y, upper[2]),
            (lower[0], y, lower[2]),
        ]
        step = nice_step(float((upper - lower).max()))
        columns, rows = _marks(lower[0], upper[0], step), _marks(lower[2], upper[2], step)
        marks = [[(x, y, lower[2]), (x, y, upper[2])] for x in columns]
        marks += [[(lower[0], y, z), (upper[0], y, z)] for z in rows]
        if marks:
            lines = pv.line_segments_from_points(np.asarray(marks).reshape(-1, 3))
            plotter.add_mesh(lines, color=theme.floor, line_width=1, reset_camera=False)
        frame = pv.lines_from_points(np.asarray(corners))
        plotter.add_mesh(frame, color=theme.edge, line_width=1.5, reset_camera=False)
        floor = pv.Line(corners[0], corners[1])
        plotter.add_mesh(floor, color=theme.text, line_width=5, reset_camera=False)
    else:
        box = pv.Box(np.stack([lower, upper], -1).ravel()).outline()
        plotter.add_mesh(box, color=theme.edge, line_width=1.4, opacity=0.75, reset_camera=False)


def _marks(low: float, high: float, step: float) -> np.ndarray:
    """Inner grid positions between two walls."""
    return low + step * np.arange(1, max(1, int(np.ceil((high - low) / step - 1e-6))))


def _tool_mesh(tool: Tool, lower, upper):
    extent = 1.2 * float(np.linalg.norm((upper - lower)[:2]))
    mesh = shape_mesh(tool.shape, extent=extent)
    return mesh.transform(pose_matrix(tool.pose), inplace=False)


def _draw_tool(plotter, tool: Tool, mesh, theme: Theme, planar: bool) -> None:
    color = tool.color or theme.tool
    plane = shape_name(tool.shape) == "Plane"
    if plane and planar:
        section = mesh.slice(normal="y", origin=(0, 0, 0))
        plotter.add_mesh(section, color=color, line_width=4, reset_camera=False)
        return
    plotter.add_mesh(
        mesh,
        color=color,
        opacity=min(tool.opacity, 0.35) if plane else tool.opacity,
        smooth_shading=True,
        split_sharp_edges=True,
        ambient=0.28,
        diffuse=0.8,
        specular=0.35,
        specular_power=40,
        reset_camera=False,
    )


def _draw_extras(plotter, scene: Scene, theme: Theme) -> None:
    """Markers, curves, arrows and meshes."""
    import pyvista as pv

    spacing = scene.particle_spacing()
    labels = []
    for marker in scene.markers:
        center = embed(as_array(marker.position).astype(float))
        radius = 3 * spacing if marker.radius is None else float(marker.radius)
        ball = pv.Sphere(radius=radius, center=center, theta_resolution=40, phi_resolution=40)
        plotter.add_mesh(
            ball,
            color=marker.color,
            opacity=marker.opacity,
            smooth_shading=True,
            specular=0.3,
            culling="back",
            reset_camera=False,
        )
        if marker.label:
            labels.append((center + [0, 0, 1.25 * radius], marker.label))
    if labels:
        plotter.add_point_labels(
            np.asarray([point for point, _ in labels]),
            [text for _, text in labels],
            text_color=theme.text,
            font_size=_font_size(plotter, 0.9),
            shape=None,
            show_points=False,
            always_visible=True,
            justification_horizontal="center",
            reset_camera=False,
        )
    for curve in scene.curves:
        points = embed(as_array(curve.points))
        if len(points) > 1:
            tube = pv.lines_from_points(points)
            plotter.add_mesh(
                tube,
                color=curve.color,
                line_width=curve.width,
                render_lines_as_tubes=True,
                reset_camera=False,
            )
    for arrows in scene.arrows:
        feet = embed(as_array(arrows.origins))
        vectors = embed(as_array(arrows.vectors)) * arrows.scale
        long = np.linalg.norm(vectors, axis=1) > 0
        if long.any():
            plotter.add_arrows(feet[long], vectors[long], color=arrows.color, reset_camera=False)
    for part in scene.meshes:
        mesh = pv.PolyData.from_regular_faces(
            embed(as_array(part.vertices)), as_array(part.faces).reshape(-1, 3)
        )
        options: dict[str, Any] = {"color": part.color}
        if part.values is not None:
            mesh.point_data["values"] = as_array(part.values).reshape(-1)
            options = {
                "scalars": "values",
                "cmap": scene.cmap,
                "clim": scene.clim,
                "show_scalar_bar": False,
            }
            if scene.clim is not None and scene.label and scene.values is None:
                table = pv.LookupTable(scene.cmap, scalar_range=scene.value_range())
                add_scalar_bar(plotter, scene, table)
        plotter.add_mesh(
            mesh,
            smooth_shading=True,
            split_sharp_edges=True,
            show_edges=part.show_edges,
            opacity=part.opacity,
            ambient=0.2,
            specular=0.2,
            reset_camera=False,
            **options,
        )


def _font_size(plotter, factor: float = 1.0) -> int:
    """Font size that keeps its share of the picture's height."""
    return max(9, round(factor * 0.026 * plotter.window_size[1]))


def _draw_text(plotter, scene: Scene, theme: Theme) -> None:
    size = _font_size(plotter)
    if scene.title:
        plotter.add_text(
            scene.title, position=(0.03, 0.945), viewport=True, font_size=size, color=theme.text
        )
    if scene.time is not None:
        lower, upper = scene.bounds()
        side = float((upper - lower).max() if scene.planar else (upper - lower)[:2].max())
        plotter.add_text(
            f"t = {scene.time:.3f} s    grid {nice_step(side):g} m",
            position=(0.03, 0.015),
            viewport=True,
            font_size=max(8, round(0.7 * size)),
            color=theme.text,
        )


def add_scalar_bar(plotter, scene: Scene, table) -> None:
    """Scalar bar at the right border, with a background the theme's text can be read on."""
    import pyvista as pv

    mapper = pv.DataSetMapper(pv.PolyData(np.zeros((1, 3))))
    mapper.lookup_table = table
    mapper.scalar_range = table.scalar_range
    for title in list(plotter.scalar_bars.keys()):
        plotter.remove_scalar_bar(title, render=False)  # one of the last frame keeps old limits
    size = _font_size(plotter, 0.85)
    theme_text = "#1d2733" if sum(plotter.background_color.float_rgb) > 1.5 else "#e6ebf1"
    bar = plotter.add_scalar_bar(
        title=scene.label,
        mapper=mapper,
        vertical=True,
        width=0.035,
        height=0.46,
        position_x=0.885,
        position_y=0.27,
        title_font_size=size,
        label_font_size=size,
        n_labels=4,
        fmt="%.3g",
        color=theme_text,
        render=False,
    )
    bar.SetVerticalTitleSeparation(size)
