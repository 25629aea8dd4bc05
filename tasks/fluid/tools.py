"""Vessels and hand tools as shapes for colliders, from the numbers in `assets.tools`.

    Collider(tool("cup", scale=2.0), position, friction=TOOLS["cup"].friction)

`solid` is the exact expression, `tool` its copy on a grid, which engines and pictures take. Distances
are metres whatever the scale, so `softness` means the same for all tools.
"""

from __future__ import annotations

import functools
import math

from ...assets.tools import TOOLS
from ...sim.core.csg import OpenBox, Strokes, Turned, Union
from ...sim.core.errors import InputError, message
from ...sim.core.sampled_shape import Sampled
from ...sim.core.shape_base import Shape

__all__ = ["TOOLS", "solid", "tool"]

CELLS_PER_WALL, CELLS_PER_ROD = 2.0, 4.0
"""Least cells across the thinnest wall and the thinnest rod of a sampled tool."""
LEAST_CELLS, MOST_CELLS = 48, 160
"""Range of the cells along the longest side, where none are asked for."""


def solid(name: str, scale: float = 1.0, wall: float | None = None) -> Shape:
    """A tool as an exact expression.

    Args:
        name: One of `TOOLS`.
        scale: Factor on all lengths [-].
        wall: Thickness of the walls [m] after scaling, and least diameter of rods; default the tool's
            own. Round tools keep their center lines: the inside narrows by half of what walls gain. A
            coarse simulation grid needs walls of at least two of its cells.

    Raises:
        InputError: unknown name, or lengths that are not positive.

    Differentiable in nothing: geometry is data. Source: `assets.tools`.
    """
    if name not in TOOLS:
        raise InputError(message("tool", f"one of {sorted(TOOLS)}", repr(name), "Choose one"))
    geometry = TOOLS[name]
    thick = scale * geometry.wall if wall is None else float(wall)
    if not 0 < scale < math.inf or not 0 <= thick < math.inf or (geometry.wall and not thick):
        got = f"scale {scale}, wall {wall}"
        raise InputError(message("tool", "scale > 0 and wall > 0 m", got, "Give wall in metres"))
    if geometry.box:
        x, y, depth = (scale * s for s in geometry.box)
        return OpenBox((0.5 * x, 0.5 * y), depth, thick)
    half = 0.5 * thick
    least = half if wall is not None else 0.0
    rods = tuple(
        Strokes(((*(scale * v for v in row[:6]), max(scale * row[6], least)),))
        for row in geometry.rods
    )
    if geometry.lines or geometry.arcs:
        lines = tuple((*(scale * v for v in row), half) for row in geometry.lines)
        arcs = tuple((*(scale * v for v in row[:3]), *row[3:], half) for row in geometry.arcs)
        body: Shape = Turned(lines, arcs)
        if not rods:
            return body
        handle = Strokes(tuple(row.rods[0] for row in rods))
        return Union(body, handle, scale * geometry.blend)
    return functools.reduce(lambda a, b: Union(a, b, scale * geometry.blend), rods)


@functools.lru_cache(maxsize=32)
def tool(
    name: str,
    scale: float = 1.0,
    wall: float | None = None,
    resolution: int | None = None,
    margin: float = 0.1,
) -> Sampled:
    """A tool as a shape for colliders, sampled once; equal arguments give the same object.

    Args:
        name: One of `TOOLS`.
        scale: Factor on all lengths [-].
        wall: Thickness of the walls [m] after scaling, see `solid`.
        resolution: Grid cells along the longest side; default two across a wall and four across a rod,
            at least 48 and at most 160.
        margin: Grid beyond the tool, in longest sides; at least as far as soft contact reaches, 4/s.

    Returns:
        The shape, in the frame of `assets.tools`.

    Raises:
        InputError: unknown name, lengths that are not positive, or walls below the grid's resolution.

    Differentiable in nothing: geometry is data. Source: `assets.tools`.
    """
    exact = solid(name, scale, wall)
    if resolution is None:
        geometry = TOOLS[name]
        thick = scale * geometry.wall if wall is None else wall
        cells = [thick / CELLS_PER_WALL] if geometry.wall else []
        cells += [max(2 * scale * row[6], wall or 0.0) / CELLS_PER_ROD for row in geometry.rods]
        low, high = exact.bounds()
        longest = max(b - a for a, b in zip(low, high, strict=True))
        resolution = min(max(math.ceil(longest / min(cells)), LEAST_CELLS), MOST_CELLS)
    return Sampled(exact, resolution, margin)
