"""Floor under a scene: metric grid and soft shadow, painted into one texture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .scene import Scene, embed
from .theme import Theme, rgb

__all__ = ["floor_image", "floor_plane", "nice_step"]

_LIGHT_SLOPE = np.array([0.30, 0.34])
"""Horizontal metres the shadow moves per metre of height; a high sun keeps it under its object."""


def nice_step(length: float, divisions: int = 8) -> float:
    """Largest of 1, 2, 5 × 10ⁿ that divides a length into at least `divisions` parts."""
    raw = length / divisions
    power = 10.0 ** np.floor(np.log10(raw))
    return float(max(m * power for m in (1, 2, 5) if m * power <= raw * (1 + 1e-9)))


def floor_image(
    lower: np.ndarray,
    upper: np.ndarray,
    points: np.ndarray,
    spacing: float,
    triangles: Sequence[np.ndarray],
    theme: Theme,
    *,
    margin: float = 0.35,
    pixels: int = 640,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Floor picture of a box.

    A particle at height h shades the floor at x_xy + s h; the share of covered area c of a cell
    gives the darkness 1 − exp(−2c), blurred more the higher its origin.

    Args:
        lower, upper: corners of the box [m], (3,).
        points: particles [m], (N, 3).
        spacing: particle spacing [m].
        triangles: corners of the tools' triangles [m], each (M, 3, 3).
        theme: colors.
        margin: how far the floor reaches beyond the box, in its larger side.
        pixels: of the longer side.

    Returns:
        Picture (ny, nx, 3) uint8 with row 0 at the lowest y, and the floor's corners [m], (2,).
    """
    from PIL import Image, ImageDraw
    from scipy.ndimage import gaussian_filter

    side = float((upper - lower)[:2].max())
    low, high = lower[:2] - margin * side, upper[:2] + margin * side
    cell = float((high - low).max()) / pixels
    nx, ny = (np.ceil((high - low) / cell)).astype(int)
    height = max(float(upper[2] - lower[2]), 1e-9)
    darkness = np.zeros((ny, nx))

    def layer(coverage, blur):
        nonlocal darkness
        soft = gaussian_filter(1.0 - np.exp(-2.0 * coverage), blur / cell)
        darkness = 1.0 - (1.0 - darkness) * (1.0 - soft)

    if len(points):
        z = points[:, 2] - lower[2]
        spot = (points[:, :2] + z[:, None] * _LIGHT_SLOPE - low) / cell
        area = (spacing / cell) ** 2
        edges = np.array([-np.inf, 0.06, 0.25, np.inf]) * height
        for a, b, blur in zip(edges[:-1], edges[1:], (0.8, 2.0, 4.5), strict=True):
            chosen = spot[(z >= a) & (z < b)]
            if len(chosen):
                grid, _, _ = np.histogram2d(
                    chosen[:, 1], chosen[:, 0], bins=(ny, nx), range=((0, ny), (0, nx))
                )
                # spread each particle over its own disk before the darkness law
                layer(gaussian_filter(grid * area, 0.55 * spacing / cell), blur * spacing)
    for corners in triangles:
        z = corners[..., 2] - lower[2]
        spots = (corners[..., :2] + z[..., None] * _LIGHT_SLOPE - low) / cell
        mask = Image.new("L", (int(nx), int(ny)))
        pen = ImageDraw.Draw(mask)
        for triangle in spots[(z > -1e-6).all(axis=1)]:
            pen.polygon([tuple(p) for p in triangle], fill=255)
        rise = float(np.clip(z.min() / height, 0, 1)) if z.size else 0.0
        layer(np.asarray(mask) / 255.0 * 0.8, (0.008 + 0.03 * rise) * side)

    x = low[0] + (np.arange(nx) + 0.5) * cell
    y = low[1] + (np.arange(ny) + 0.5) * cell
    step = nice_step(side)

    def lines(axis, start):
        distance = np.abs((axis - start + step / 2) % step - step / 2)
        return np.clip(1.6 - distance / cell, 0, 1)

    grid = np.maximum(lines(x, lower[0])[None, :], lines(y, lower[1])[:, None])[..., None]
    color = rgb(theme.floor) * (1 - grid) + rgb(theme.floor_line) * grid
    color = color * (1.0 - theme.shadow * darkness[..., None])
    # fade into the background before the border, so that the floor has no edge
    outside = np.hypot(
        np.maximum(np.maximum(lower[0] - x, x - upper[0]), 0)[None, :],
        np.maximum(np.maximum(lower[1] - y, y - upper[1]), 0)[:, None],
    ) / (margin * side)
    keep = np.clip(1.0 - outside, 0, 1)[..., None]
    keep = keep * keep * (3 - 2 * keep)
    color = color * keep + rgb(theme.background) * (1 - keep)
    return np.round(255 * color).astype(np.uint8), low, high


def floor_plane(scene: Scene, tool_meshes: Sequence[Any], theme: Theme, pixels: int = 640):
    """Actor of the floor at the bottom of a scene."""
    import pyvista as pv

    lower, upper = scene.bounds()
    if scene.x is None:
        points = np.zeros((0, 3))
    else:
        points = embed(scene.x[scene.shown()])
    triangles = []
    for mesh in tool_meshes:
        faces = mesh.triangulate().regular_faces
        if len(faces) <= 20_000:
            triangles.append(np.asarray(mesh.points)[faces])
    for part in scene.meshes:
        triangles.append(embed(np.asarray(part.vertices))[np.asarray(part.faces).reshape(-1, 3)])
    spacing = scene.particle_spacing()
    image, low, high = floor_image(lower, upper, points, spacing, triangles, theme, pixels=pixels)
    height = lower[2] - 1e-3 * float((upper - lower).max())
    corners = [(low[0], low[1], height), (high[0], low[1], height), (high[0], high[1], height)]
    corners.append((low[0], high[1], height))
    quad = pv.PolyData(np.asarray(corners), faces=[4, 0, 1, 2, 3])
    quad.active_texture_coordinates = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    actor = pv.Actor(pv.DataSetMapper(quad))
    actor.texture = pv.Texture(image[::-1])
    actor.texture.mipmap = True
    actor.prop.color = "white"
    actor.prop.lighting = False
    actor.prop.culling = "back"
    return actor
