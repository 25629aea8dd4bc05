"""Meshes of sheets: rectangles, discs, files; bent, placed, joined; with named points.

    mesh = rectangle((0.10, 0.02), spacing=5e-3).bent([(0.04, 0.06, math.pi)])
    sheet = mesh.sheet("strip", "paper")
    model = FEMModel(mesh.X, [sheet], [Handle("clamp", mesh.rows(0, 1))])
    state = model.initial_state(x=mesh.x)

X is the rest shape, flat; x the start, which `bent` changes without stretching. All normals of a flat
mesh point up. Lengths in metres.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import meshio
import numpy as np
import torch
from scipy.spatial import Delaunay
from torch import Tensor

from ..core.errors import InputError, message
from ..core.rotations import normalize, rotate
from ..fem.meshes import rectangle as grid
from ..fem.parts import Sheet
from .presets import sheet_of
from .shapes import bend

__all__ = ["SheetMesh", "disc", "hinges_along", "join", "load_sheet", "rectangle"]


@dataclasses.dataclass(frozen=True, eq=False)
class SheetMesh:
    """Points and triangles of one sheet, perhaps among the points of others."""

    X: Tensor
    """Rest positions [m], (N, 3)."""
    cells: Tensor
    """Triangles (S, 3), integers."""
    sets: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    """Name -> points, sorted. "border" is always there; a rectangle has "left" and "right" (ends of
    x), "front" and "back" (ends of y) and "corners"; a disc has "center"."""
    x: Tensor = None  # type: ignore[assignment]
    """Start positions [m], (N, 3); default X."""

    def __post_init__(self) -> None:
        X = torch.as_tensor(self.X, dtype=torch.float64)
        cells = torch.as_tensor(self.cells).long()
        if X.ndim != 2 or X.shape[1] != 3 or cells.ndim != 2 or cells.shape[1] != 3:
            got = f"{tuple(X.shape)} and {tuple(cells.shape)}"
            expected = "points (N, 3) and triangles (S, 3)"
            raise InputError(message("SheetMesh", expected, got, "Correct the shapes"))
        for name, value in (("X", X), ("cells", cells)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "x", X if self.x is None else self.x)
        if "border" not in self.sets:
            object.__setattr__(self, "sets", {**self.sets, "border": _border(cells)})

    @property
    def points(self) -> Tensor:
        """Points of this sheet, sorted."""
        return self.cells.unique()

    def rows(self, *numbers: int, axis: int = 0) -> Tensor:
        """Points of some rows of a regular mesh, sorted: rows are the different coordinates along an axis
        of the rest shape, −1 is the last. Holding one row makes a pin, two make a clamp."""
        own = self.points
        values, place = (self.X[own, axis] / 1e-9).round().unique(return_inverse=True)
        if not numbers or not all(-len(values) <= n < len(values) for n in numbers):
            expected = f"rows below {len(values)} along axis {axis}"
            raise InputError(message("SheetMesh.rows", expected, f"{numbers}", "Count from 0"))
        wanted = torch.tensor([n % len(values) for n in numbers])
        return own[torch.isin(place, wanted)]

    def bent(self, arcs: Sequence[tuple[float, float, float]], axis: int = 0) -> SheetMesh:
        """The mesh with a start that turns by `arcs`, see `bend`; call before `placed`."""
        return dataclasses.replace(self, x=bend(self.X, arcs, axis))

    def rolled(self, angle: float = 2 * math.pi, axis: int = 0) -> SheetMesh:
        """Bent evenly over its whole length: an arch for small angles, a tube at 2π (which touches)."""
        low, high = (float(f(self.X[:, axis])) for f in (torch.min, torch.max))
        return self.bent([(low, high, angle)], axis)

    def u_bent(self, radius: float, axis: int = 0, middle: float | None = None) -> SheetMesh:
        """Two flat halves, the second above the first, over a half circle of the radius [m].

        Args:
            radius: of the bend [m].
            axis: the direction that bends.
            middle: where, along the axis [m]; default half way.
        """
        low, high = (float(f(self.X[:, axis])) for f in (torch.min, torch.max))
        middle = 0.5 * (low + high) if middle is None else middle
        reach = 0.5 * math.pi * radius
        if not low <= middle - reach < middle + reach <= high:
            got = f"radius {radius} m about {middle} m"
            expected = f"π radius within {low} … {high} m"
            raise InputError(message("SheetMesh.u_bent", expected, got, "Use a smaller radius"))
        return self.bent([(middle - reach, middle + reach, math.pi)], axis)

    def placed(
        self,
        position: Sequence[float] = (0.0, 0.0, 0.0),
        orientation: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    ) -> SheetMesh:
        """Rest shape and start turned about the origin by a quaternion (w, x, y, z), then moved [m]."""
        turn = normalize(self.X.new_tensor(orientation))
        moved = {
            n: rotate(turn, getattr(self, n)) + self.X.new_tensor(position) for n in ("X", "x")
        }
        return dataclasses.replace(self, **moved)

    def sheet(
        self, name: str, material: str = "paper", *, creases: bool | None = None, **changes: Any
    ) -> Sheet:
        """The part of a model, of a material of `rheograd.assets.sheets.SHEETS`; see `sheet_of`."""
        return sheet_of(name, self.cells, material, creases=creases, **changes)


def hinges_along(sheet: Sheet, points: Tensor) -> Tensor:
    """Hinges of a sheet whose edges join two of the points, sorted: where to set or read a crease.

    They count from the sheet's own first hinge; on `state.theta_ref` it stands at
    `model.hinge_slices()[sheet.name].start`.
    """
    return torch.isin(sheet.hinges[0][:, :2], torch.as_tensor(points)).all(1).nonzero()[:, 0]


def rectangle(
    size: Sequence[float], spacing: float, pattern: str = "parallel", seed: int = 0
) -> SheetMesh:
    """A rectangle with a corner at the origin.

    Args:
        size: lengths along x and y [m].
        spacing: wanted distance of points [m]; cells divide the size evenly.
        pattern: "parallel" (squares with diagonals alike) and "equilateral" (rows across x, √3/2 spacing
            apart) bend as a plate does, with an error of second order. "crossed" (squares whose diagonals
            alternate) and "random" (points off the grid by up to a quarter of a cell, Delaunay) are
            as good about mesh lines, but too stiff in twist, see docs/shell.md.
        seed: of "random".

    Raises:
        InputError: sizes or spacing not positive, unknown pattern.
    """
    size = [float(s) for s in size]
    if len(size) != 2 or min(size) <= 0 or not 0 < spacing < math.inf:
        got = f"size {size}, spacing {spacing}"
        raise InputError(message("rectangle", "two lengths and a spacing > 0 m", got, "Correct it"))
    if pattern not in ("parallel", "equilateral", "crossed", "random"):
        expected = "pattern parallel, equilateral, crossed or random"
        raise InputError(message("rectangle", expected, pattern, "Choose one"))
    step = (0.5 * math.sqrt(3) * spacing if pattern == "equilateral" else spacing, spacing)
    cells = [max(1, round(s / d)) for s, d in zip(size, step, strict=True)]
    if pattern == "equilateral":
        X = _staggered(cells, size)
        triangles = _delaunay(X)
    else:
        X, triangles = grid(cells, size, pattern == "crossed")
    if pattern == "random":
        noise = torch.rand(X.shape, generator=torch.Generator().manual_seed(seed)).double() - 0.5
        cell = X.new_tensor([s / c for s, c in zip(size, cells, strict=True)])
        inside = (X[:, :2] > 0.5 * cell) & (X[:, :2] < X.new_tensor(size) - 0.5 * cell)
        X = torch.cat((X[:, :2] + 0.5 * noise[:, :2] * cell * inside, X[:, 2:]), dim=1)
        triangles = _delaunay(X)
    ends = {"left": (0, 0.0), "right": (0, size[0]), "front": (1, 0.0), "back": (1, size[1])}
    near = 1e-6 * min(size)
    marks = {n: (X[:, axis] - end).abs() < near for n, (axis, end) in ends.items()}
    marks["corners"] = (marks["left"] | marks["right"]) & (marks["front"] | marks["back"])
    return SheetMesh(X, triangles, {name: mark.nonzero()[:, 0] for name, mark in marks.items()})


def _staggered(cells: Sequence[int], size: Sequence[float]) -> Tensor:
    """Points of rows across x, every other one shifted by half a cell, with both ends."""
    y = torch.linspace(0.0, size[1], cells[1] + 1, dtype=torch.float64)
    between = torch.cat((y[:1], 0.5 * (y[1:] + y[:-1]), y[-1:]))
    points = []
    for i in range(cells[0] + 1):
        row = between if i % 2 else y
        x = torch.full_like(row, size[0] * i / cells[0])
        points.append(torch.stack((x, row, torch.zeros_like(row)), dim=1))
    return torch.cat(points)


def disc(radius: float, spacing: float) -> SheetMesh:
    """A disc about the origin: rings of points at `spacing` [m], 6 more in each."""
    if not 0 < spacing <= radius < math.inf:
        got = f"radius {radius}, spacing {spacing}"
        raise InputError(message("disc", "0 < spacing <= radius [m]", got, "Correct it"))
    rings = max(1, round(radius / spacing))
    points = [torch.zeros(1, 3, dtype=torch.float64)]
    for k in range(1, rings + 1):
        turn = torch.arange(6 * k, dtype=torch.float64) * (2 * math.pi / (6 * k))
        ring = torch.stack((turn.cos(), turn.sin(), torch.zeros_like(turn)), dim=1)
        points.append(radius * k / rings * ring)
    X = torch.cat(points)
    return SheetMesh(X, _delaunay(X), {"center": torch.tensor([0])})


def load_sheet(path: str | Path, scale: float = 1.0) -> SheetMesh:
    """The triangles of a mesh file of any format meshio reads, as one sheet.

    Args:
        path: file.
        scale: metres per unit of the file.

    Returns:
        The mesh, without points that no triangle uses; sets of points the file names are kept.

    Raises:
        InputError: unreadable, or no triangles.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            mesh = meshio.read(path)
    except (meshio.ReadError, OSError, SystemExit) as error:
        fix = "Check the path and the format"
        raise InputError(
            message("load_sheet", "a readable mesh", f"{path}: {error}", fix)
        ) from error
    found = [block.data for block in mesh.cells if block.type == "triangle"]
    if not found:
        kinds = sorted({block.type for block in mesh.cells})
        raise InputError(message("load_sheet", "triangles", f"{kinds}", "Triangulate the surface"))
    used, cells = np.unique(np.concatenate(found), return_inverse=True)
    X = np.zeros((len(used), 3))
    X[:, : mesh.points.shape[1]] = scale * mesh.points[used, :3]
    sets = {
        name: torch.from_numpy(np.flatnonzero(np.isin(used, points)))
        for name, points in mesh.point_sets.items()
    }
    return SheetMesh(torch.from_numpy(X), torch.from_numpy(cells.reshape(-1, 3)), sets)


def join(*meshes: SheetMesh) -> list[SheetMesh]:
    """Meshes over one common list of points, for `FEMModel(joined[0].X, …)` with a sheet of each."""
    X, x = (torch.cat([getattr(m, name) for m in meshes]) for name in ("X", "x"))
    result, start = [], 0
    for mesh in meshes:
        sets = {name: points + start for name, points in mesh.sets.items()}
        result.append(SheetMesh(X, mesh.cells + start, sets, x))
        start += len(mesh.X)
    return result


def _delaunay(X: Tensor) -> Tensor:
    """Triangles of flat points with normals up, without slivers along straight borders."""
    cells = torch.from_numpy(Delaunay(X[:, :2].numpy()).simplices).long()
    a, b, c = X[cells, :2].unbind(1)
    u, v = b - a, c - a
    twice = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    cells = torch.where((twice < 0)[:, None], cells[:, [0, 2, 1]], cells)
    return cells[twice.abs() > 1e-6 * twice.abs().max()]


def _border(cells: Tensor) -> Tensor:
    """Points of edges with one triangle, sorted."""
    edges = torch.cat((cells[:, [0, 1]], cells[:, [1, 2]], cells[:, [2, 0]])).sort(1)[0]
    edges, count = edges.unique(dim=0, return_counts=True)
    return edges[count == 1].unique()
