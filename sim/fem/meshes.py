"""Regular meshes: a line, a rectangle of triangles, a box of tetrahedra. Anything else is imported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["box", "line", "rectangle"]

# Kuhn's six tetrahedra of a cube: one per order in which the axes are walked, even ones as they are.
_WALKS = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2))


def line(cells: int, length: float) -> tuple[Tensor, Tensor]:
    """Points (n + 1, 3) on the x axis from 0 to `length` [m], and segments (n, 2)."""
    x = torch.linspace(0.0, length, cells + 1, dtype=torch.float64)
    X = torch.stack((x, torch.zeros_like(x), torch.zeros_like(x)), dim=1)
    index = torch.arange(cells)
    return X, torch.stack((index, index + 1), dim=1)


def rectangle(
    cells: Sequence[int], size: Sequence[float], crossed: bool = True
) -> tuple[Tensor, Tensor]:
    """A rectangle in the plane z = 0 with normals up, its corner at the origin.

    Args:
        cells: squares along x and y; each becomes two triangles.
        size: lengths [m].
        crossed: alternate the diagonals, which treats both diagonal directions alike.

    Returns:
        Points (N, 3) [m], y running fastest, and triangles (S, 3).
    """
    n, m = cells
    x, y = (
        torch.linspace(0.0, s, c + 1, dtype=torch.float64) for s, c in zip(size, cells, strict=True)
    )
    grid = torch.meshgrid(x, y, indexing="ij")
    X = torch.stack((*grid, torch.zeros_like(grid[0])), dim=-1).reshape(-1, 3)
    triangles = []
    for i in range(n):
        for j in range(m):
            a, b = i * (m + 1) + j, (i + 1) * (m + 1) + j
            if crossed and (i + j) % 2:
                triangles += [(a, b, a + 1), (b, b + 1, a + 1)]
            else:
                triangles += [(a, b, b + 1), (a, b + 1, a + 1)]
    return X, torch.tensor(triangles)


def box(cells: Sequence[int], size: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A box with its corner at the origin, each cell cut into six tetrahedra.

    Args:
        cells: cells along x, y and z.
        size: lengths [m].

    Returns:
        Points (N, 3) [m], z running fastest, and tetrahedra (S, 4) of positive volume.
    """
    axes = [
        torch.linspace(0.0, s, c + 1, dtype=torch.float64) for s, c in zip(size, cells, strict=True)
    ]
    X = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    stride = ((cells[1] + 1) * (cells[2] + 1), cells[2] + 1, 1)
    index = torch.meshgrid(*(torch.arange(c) for c in cells), indexing="ij")
    corner = sum(i * s for i, s in zip(index, stride, strict=True)).reshape(-1)
    tets = []
    for number, walk in enumerate(_WALKS):
        points = [corner]
        for axis in walk:
            points.append(points[-1] + stride[axis])
        if number >= 3:
            points[1], points[2] = points[2], points[1]
        tets.append(torch.stack(points, dim=1))
    return X, torch.stack(tets, dim=1).reshape(-1, 4)
