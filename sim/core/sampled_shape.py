"""Any bounded solid as a shape for colliders: its exact distances, sampled once on a grid, in metres.

The engines read distances of meshes from grids; a solid that gives its own distances fills the same
grid, so expressions of `csg` and shapes of a user's own collide without a kernel of their own, alike
in torch and on every engine. Between nodes d is trilinear: off by O(dx²) where the surface is smooth,
by O(dx) at edges and in the middle of walls, so walls should be at least two cells thick.

Source: Gibson 1998 (constrained elastic surface nets), with vertices moved onto the exact surface.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from dataclasses import dataclass, field

import numpy as np
import torch

from .errors import InputError, message
from .mesh_shape import MeshShape
from .shape_base import Shape

__all__ = ["Sampled", "surface_net"]

_CHUNK = 1 << 17


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Sampled(MeshShape):
    """A solid for colliders: distances of `exact` at the nodes of a grid, and its surface as a mesh.

    Volume, section and bounds are those of the mesh, whose vertices lie on the exact surface.

    Args:
        exact: a bounded solid.
        resolution: grid cells along its longest side.
        margin: grid beyond the solid, in longest sides; at least as far as soft contact reaches.

    Raises:
        InputError: unbounded solid, or one that falls between the nodes of the grid.
    """

    exact: Shape = field(default_factory=Shape)
    """The solid itself."""

    def __init__(self, exact: Shape, resolution: int = 64, margin: float = 0.15) -> None:
        low, high = (np.array(b, dtype=np.float64) for b in exact.bounds())
        if not np.isfinite(high - low).all() or not (high > low).all():
            fix = "Intersect it with a Box"
            raise InputError(message("Sampled", "a bounded solid", f"{exact!r}", fix))
        if not (isinstance(resolution, int) and 4 <= resolution <= 1024) or not 0 <= margin < 10:
            got = f"{resolution} cells, margin {margin}"
            expected = "resolution in 4…1024 cells and margin in [0, 10)"
            raise InputError(message("Sampled", expected, got, "Start with 64 and 0.15"))
        dx = float((high - low).max() / resolution)
        pad = max(margin * resolution, 2.0) * dx
        cells = np.ceil((high - low + 2 * pad) / dx - 1e-9).astype(int)
        origin = 0.5 * (low + high) - 0.5 * cells * dx
        shape = tuple(int(c) + 1 for c in cells)
        distances = _on_grid(exact, origin, dx, shape)
        distances.setflags(write=False)
        vertices, faces = surface_net(distances, origin, dx)
        vertices = _onto(exact, vertices)
        _check_walls(exact, vertices, dx)
        # The names the parent computes from a mesh are filled in before it looks.
        known = {
            "exact": exact,
            "resolution": resolution,
            "margin": margin,
            "dx": dx,
            "_layout": (origin, shape),
            "distances": distances,
            "vertices": vertices,
            "faces": faces,
        }
        for name, value in known.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    @functools.cached_property
    def _digest(self) -> bytes:
        data = f"{self.exact!r}|{self.resolution}|{self.margin}|".encode()
        return hashlib.blake2b(data + self.distances.tobytes(), digest_size=16).digest()

    def __repr__(self) -> str:
        return f"Sampled({self.exact!r}, resolution={self.resolution})"


def surface_net(
    distances: np.ndarray, origin: np.ndarray, dx: float
) -> tuple[np.ndarray, np.ndarray]:
    """Closed surface d = 0 of a grid: a vertex per cell it crosses, a quad per edge it crosses.

    Args:
        distances: d at the nodes [m], shape (nx, ny, nz), positive on the border.
        origin: position of node (0, 0, 0) [m], shape (3,).
        dx: spacing [m].

    Returns:
        vertices [m], shape (V, 3), each the mean of its cell's crossings; outward triangles (F, 3).

    Raises:
        InputError: nowhere negative.

    Source: Gibson 1998.
    """
    inside = distances < 0
    if not inside.any():
        fix = "Raise resolution: walls should be at least two cells thick"
        raise InputError(message("surface_net", "nodes inside the solid", "none", fix))
    offsets = np.array(list(itertools.product((0, 1), repeat=3)))
    cells = tuple(n - 1 for n in distances.shape)
    count = sum(
        inside[i : i + cells[0], j : j + cells[1], k : k + cells[2]].astype(np.int8)
        for i, j, k in offsets
    )
    active = np.argwhere((count > 0) & (count < 8))
    corner = active[:, None] + offsets
    d = distances[corner[..., 0], corner[..., 1], corner[..., 2]]
    total, hits = np.zeros((len(active), 3)), np.zeros((len(active), 1))
    for a, b in itertools.combinations(range(8), 2):
        if np.abs(offsets[a] - offsets[b]).sum() != 1:
            continue
        crossed = (d[:, a] < 0) != (d[:, b] < 0)
        t = np.where(crossed, d[:, a] / np.where(crossed, d[:, a] - d[:, b], 1.0), 0.0)
        total += crossed[:, None] * (offsets[a] + t[:, None] * (offsets[b] - offsets[a]))
        hits += crossed[:, None]
    vertices = origin + dx * (active + total / hits)

    number = np.full(cells, -1, dtype=np.int64)
    number[tuple(active.T)] = np.arange(len(active))
    quads = []
    for axis in range(3):
        low, high = (np.moveaxis(inside, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
        crossed = np.moveaxis(low != high, 0, axis)
        edge = np.argwhere(crossed)
        b, c = np.eye(3, dtype=int)[(axis + 1) % 3], np.eye(3, dtype=int)[(axis + 2) % 3]
        quad = np.stack([number[tuple((edge + o).T)] for o in (-b - c, -c, 0 * b, -b)], axis=1)
        leaving = inside[tuple(edge.T)]
        quads.append(np.where(leaving[:, None], quad, quad[:, ::-1]))
    quad = np.concatenate(quads)
    return vertices, np.concatenate((quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]))


@torch.no_grad()
def _on_grid(exact: Shape, origin: np.ndarray, dx: float, shape: tuple[int, ...]) -> np.ndarray:
    """Distances at all nodes, in pieces that fit a cache; float64."""
    ticks = [
        torch.arange(n, dtype=torch.float64) * dx + o for n, o in zip(shape, origin, strict=True)
    ]
    x, y, z = ticks
    plane = torch.cartesian_prod(y, z)
    rows = max(1, _CHUNK // len(plane))
    parts = []
    for piece in x.split(rows):
        points = torch.cat(
            (piece.repeat_interleave(len(plane))[:, None], plane.repeat(len(piece), 1)), dim=1
        )
        parts.append(exact.signed_distance(points)[0])
    return torch.cat(parts).reshape(shape).numpy()


@torch.no_grad()
def _onto(exact: Shape, vertices: np.ndarray) -> np.ndarray:
    """Vertices moved along the normal onto d = 0."""
    p = torch.from_numpy(vertices)
    for _ in range(3):
        d, n = exact.signed_distance(p)
        p = p - d[:, None] * n
    return p.numpy()


@torch.no_grad()
def _check_walls(exact: Shape, vertices: np.ndarray, dx: float) -> None:
    """Raise if a cell below the surface is often outside again: the grid cannot see such walls."""
    p = torch.from_numpy(vertices)
    beyond = exact.signed_distance(p - dx * exact.signed_distance(p)[1])[0]
    share = float((beyond > 0).double().mean())
    if share > 0.05:
        expected = f"walls of at least one cell, {dx:.3g} m, better two"
        got = f"thinner ones on {100 * share:.0f} % of the surface"
        raise InputError(message("Sampled", expected, got, "Raise resolution or the thickness"))
