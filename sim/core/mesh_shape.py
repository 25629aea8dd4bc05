"""A closed triangle mesh as a shape: its signed distance sampled once on a grid, in metres.

    d(p) = Σ w_ijk(c) d_ijk + |p − c|,   c = p moved into the grid's box,   n = ∇d / |∇d|

Inside the box d is trilinear, so it is off by at most O(dx² / radius of curvature) and by O(dx) at
sharp edges; beyond the box it is an upper bound, off by at most the size of the box. The grid is
held in memory only.

Source: Bærentzen & Aanæs 2005 (sign), Barill et al. 2018 (winding number); divergence theorem for
volume and section.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .backend import warp
from .errors import InputError, message
from .shape_base import E_Z, TINY, Bounds, Shape, direction, require_points

__all__ = ["MeshShape", "count_open_edges", "mesh_volume", "section_area"]


@dataclass(frozen=True, eq=False)
class MeshShape(Shape):
    """Solid bounded by a closed, consistently oriented triangle mesh."""

    kind: ClassVar[int] = 6
    vertices: Any
    """Vertices [m], shape (V, 3); kept as a read-only float64 array."""
    faces: Any
    """Vertex indices of the triangles, shape (F, 3); turned outward if all point inward."""
    resolution: int = 64
    """Grid cells along the longest side of the mesh; 64 puts dx at 1.6 % of it."""
    margin: float = 0.15
    """Grid beyond the mesh, in longest sides; d is exact to O(dx) in this layer."""

    def __post_init__(self) -> None:
        vertices = np.array(_numpy(self.vertices), dtype=np.float64)
        faces = np.array(_numpy(self.faces), dtype=np.int64)
        _check_mesh(vertices, faces)
        if not (isinstance(self.resolution, int) and 4 <= self.resolution <= 1024):
            raise InputError(
                message(
                    "MeshShape",
                    "resolution in 4…1024 cells",
                    self.resolution,
                    "64 is a good start; memory grows with its cube",
                )
            )
        if not 0 <= self.margin < 10:
            raise InputError(
                message(
                    "MeshShape",
                    "margin in [0, 10) longest sides",
                    self.margin,
                    "Use 0.15, or as much as soft contact reaches",
                )
            )
        if mesh_volume(vertices, faces) < 0:
            faces = np.ascontiguousarray(faces[:, ::-1])
        vertices.setflags(write=False)
        faces.setflags(write=False)
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)
        object.__setattr__(self, "_grids", {})

    @functools.cached_property
    def _digest(self) -> bytes:
        data = self.vertices.tobytes() + b"|" + self.faces.tobytes()
        data += f"|{self.resolution}|{self.margin}".encode()
        return hashlib.blake2b(data, digest_size=16).digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MeshShape) and self._digest == other._digest

    def __repr__(self) -> str:
        return (
            f"MeshShape({len(self.vertices)} vertices, {len(self.faces)} faces, "
            f"resolution={self.resolution})"
        )

    @functools.cached_property
    def dx(self) -> float:
        """Grid spacing [m]: the longest side of the mesh over `resolution`."""
        return float((self.vertices.max(0) - self.vertices.min(0)).max() / self.resolution)

    @functools.cached_property
    def _layout(self) -> tuple[np.ndarray, tuple[int, int, int]]:
        lower, upper = self.vertices.min(0), self.vertices.max(0)
        pad = max(self.margin * self.resolution, 2.0) * self.dx
        cells = np.ceil((upper - lower + 2 * pad) / self.dx - 1e-9).astype(int)
        origin = 0.5 * (lower + upper) - 0.5 * cells * self.dx
        return origin, tuple(int(c) + 1 for c in cells)

    @property
    def origin(self) -> tuple[float, float, float]:
        """Position of grid node (0, 0, 0) [m]."""
        return tuple(float(o) for o in self._layout[0])

    @functools.cached_property
    def distances(self) -> np.ndarray:
        """Signed distances at the grid nodes [m], shape (nx, ny, nz), float64; built once."""
        origin, shape = self._layout
        grid = _distance_grid(self.vertices, self.faces, origin, self.dx, shape)
        grid.setflags(write=False)
        return grid

    def grid(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """`distances` as a tensor [m], shape (nx, ny, nz); one copy per dtype and device."""
        key = (dtype, str(device))
        if key not in self._grids:
            self._grids[key] = torch.tensor(self.distances, dtype=dtype, device=device)
        return self._grids[key]

    def signed_distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        require_points("MeshShape", points)
        grid = self.grid(points.dtype, points.device)
        shape = points.new_tensor(grid.shape)
        lower = points.new_tensor(self.origin)
        upper = lower + self.dx * (shape - 1)
        inside = (points >= lower) & (points <= upper)
        c = torch.where(points < lower, lower, torch.where(points > upper, upper, points))
        beyond, outward = direction(points - c, (0.0, 0.0, 0.0))

        u = (c - lower) / self.dx
        base = torch.minimum(u.detach().floor().clamp(min=0), shape - 2)
        fraction = u - base
        i, j, k = base.long().unbind(-1)
        corners = {
            o: grid[i + o[0], j + o[1], k + o[2]] for o in itertools.product((0, 1), repeat=3)
        }
        value, gradient = _trilinear(corners, fraction)
        gradient = torch.where(inside, gradient / self.dx, torch.zeros_like(gradient)) + outward
        return value + beyond, direction(gradient, E_Z)[1]

    def bounds(self) -> Bounds:
        lower, upper = self.vertices.min(0), self.vertices.max(0)
        return tuple(map(float, lower)), tuple(map(float, upper))

    def volume(self) -> float:
        return mesh_volume(self.vertices, self.faces)

    def area(self) -> float:
        return section_area(self.vertices, self.faces)

    def size(self) -> tuple[float, float, float]:
        return 0.0, 0.0, 0.0


def count_open_edges(faces: np.ndarray) -> int:
    """Edges that are not passed once in each direction (or n times in each) by the triangles.

    Zero for a closed, consistently oriented mesh. A hole and a triangle that is turned around both
    count.

    Args:
        faces: Vertex indices, shape (F, 3).

    Returns:
        Number of undirected edges in fault.
    """
    start = faces.ravel()
    end = np.roll(faces, -1, axis=1).ravel()
    edges = np.stack((np.minimum(start, end), np.maximum(start, end)), axis=1)
    _, index = np.unique(edges, axis=0, return_inverse=True)
    balance = np.bincount(index.ravel(), weights=np.where(start < end, 1.0, -1.0))
    return int(np.count_nonzero(balance))


def mesh_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume of a closed mesh, V = ⅙ Σ a·(b × c), positive if it is oriented outward.

    Args:
        vertices: Vertices [m], shape (V, 3).
        faces: Vertex indices, shape (F, 3).

    Returns:
        V [m³].

    Source: Mirtich 1996 (divergence theorem).
    """
    a, b, c = (vertices[faces[:, i]] - vertices.mean(0) for i in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


def section_area(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Area of the section y = 0 of a closed outward mesh, A = ½ ∮ (x dz − z dx) [m²].

    Args:
        vertices: Vertices [m], shape (V, 3).
        faces: Vertex indices, shape (F, 3).

    Returns:
        A [m²], 0 if the mesh does not reach y = 0.

    Source: Green's theorem on the segments in which the triangles meet the plane.
    """
    above = vertices[:, 1] >= 0
    total = 0.0
    for first in range(3):
        f = np.roll(faces, -first, axis=1)
        # One vertex alone on its side: the segment joins its two edges; three rolls find them all.
        alone = (above[f[:, 0]] != above[f[:, 1]]) & (above[f[:, 0]] != above[f[:, 2]])
        a, b, c = (vertices[f[alone, i]] for i in range(3))
        p = a + (b - a) * (a[:, 1] / (a[:, 1] - b[:, 1]))[:, None]
        q = a + (c - a) * (a[:, 1] / (a[:, 1] - c[:, 1]))[:, None]
        side = np.where(above[f[alone, 0]], 1.0, -1.0)
        total += float(np.sum(side * (p[:, 0] * q[:, 2] - p[:, 2] * q[:, 0])))
    return abs(0.5 * total)


def _trilinear(corners: dict[tuple[int, int, int], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient (per cell) of the trilinear interpolant at fractions t (..., 3)."""
    x, y, z = t.unbind(-1)
    row = {(j, k): corners[0, j, k] + x * (corners[1, j, k] - corners[0, j, k])
           for j in (0, 1) for k in (0, 1)}  # fmt: skip
    low = row[0, 0] + y * (row[1, 0] - row[0, 0])
    high = row[0, 1] + y * (row[1, 1] - row[0, 1])
    dx = {(j, k): corners[1, j, k] - corners[0, j, k] for j in (0, 1) for k in (0, 1)}
    dx_low = dx[0, 0] + y * (dx[1, 0] - dx[0, 0])
    dx_high = dx[0, 1] + y * (dx[1, 1] - dx[0, 1])
    dy_low, dy_high = row[1, 0] - row[0, 0], row[1, 1] - row[0, 1]
    gradient = torch.stack(
        (dx_low + z * (dx_high - dx_low), dy_low + z * (dy_high - dy_low), high - low), dim=-1
    )
    return low + z * (high - low), gradient


def _distance_grid(
    vertices: np.ndarray,
    faces: np.ndarray,
    origin: np.ndarray,
    dx: float,
    shape: tuple[int, int, int],
) -> np.ndarray:
    """Signed distances at grid nodes, computed by the engine in units of the mesh's size."""
    wp, kernel = _distance_kernel()
    # The queries run in float32: centering and scaling keeps their error at 1e-7 of the mesh.
    center = 0.5 * (vertices.min(0) + vertices.max(0))
    scale = float((vertices.max(0) - vertices.min(0)).max())
    with wp.ScopedDevice("cpu"):
        mesh = wp.Mesh(
            points=wp.array(((vertices - center) / scale).astype(np.float32), dtype=wp.vec3),
            indices=wp.array(faces.ravel().astype(np.int32), dtype=wp.int32),
            support_winding_number=True,
        )
        out = wp.zeros(shape, dtype=wp.float32)
        start = wp.vec3(*((origin - center) / scale))
        wp.launch(kernel, dim=shape, inputs=[mesh.id, start, dx / scale], outputs=[out])
        return out.numpy().astype(np.float64) * scale


@functools.lru_cache(maxsize=1)
def _distance_kernel():
    """The engine module and the kernel that queries a mesh at grid nodes."""
    wp = warp()

    @wp.kernel(module="unique", enable_backward=False)
    def mesh_distance(
        mesh: wp.uint64, origin: wp.vec3, dx: float, out: wp.array3d(dtype=wp.float32)
    ):
        i, j, k = wp.tid()
        p = origin + dx * wp.vec3(float(i), float(j), float(k))
        query = wp.mesh_query_point_sign_winding_number(mesh, p, 1.0e6)
        nearest = wp.mesh_eval_position(mesh, query.face, query.u, query.v)
        out[i, j, k] = query.sign * wp.length(p - nearest)

    return wp, mesh_distance


def _numpy(data: Any) -> np.ndarray:
    """Arrays, tensors and nested lists as NumPy arrays."""
    return data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)


def _check_mesh(vertices: np.ndarray, faces: np.ndarray) -> None:
    """Raise unless the arrays describe a closed mesh with volume."""

    def fail(expected: str, got: str, fix: str) -> InputError:
        return InputError(message("MeshShape", expected, got, fix))

    loader = "Load files with sim.io.mesh.load_mesh"
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
        raise fail("finite vertices [m] of shape (V, 3)", f"{vertices.shape}", loader)
    if faces.ndim != 2 or faces.shape[1:] != (3,) or len(faces) == 0:
        raise fail("triangles of shape (F, 3)", f"{faces.shape}", loader)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise fail(
            f"vertex indices in 0…{len(vertices) - 1}",
            f"{faces.min()}…{faces.max()}",
            "Check the face array",
        )
    open_edges = count_open_edges(faces)
    if open_edges:
        raise fail(
            "a watertight mesh with one orientation",
            f"{open_edges} open edges",
            "Merge duplicate vertices and orient the faces alike, as sim.io.mesh.load_mesh does, "
            "and close the holes",
        )
    if abs(mesh_volume(vertices, faces)) <= TINY:
        raise fail("a mesh that encloses volume", "0 m³", "Give a thin sheet some thickness")
