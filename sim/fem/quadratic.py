"""Tetrahedra with ten nodes: shape functions, quadrature, masses, and meshes of them.

    N_i = λ_i (2 λ_i − 1) at corners,   N_ij = 4 λ_i λ_j between them,   x = Σ_a N_a x_a,  X = Σ_a N_a X_a
    E = Σ_q w_q ψ(F_q),   F_q = Σ_a x_a ⊗ G_aq,   G = ∂N/∂X,   four points q, exact for degree two

The strain is linear in a straight cell, so bending costs what it should and volume has enough freedom
not to lock. Rest edges may be curved. Lumped masses are proportional to the diagonal of the consistent
matrix, 1/36 of the cell at a corner and 4/27 at a mid node (the row sums would be negative at corners).

Nodes are ordered as in VTK and meshio: corners 0 1 2 3, then the middles of 01 12 02 03 13 23.
Source: Zienkiewicz & Taylor 2000, volume 1, chapters 8 and 9; Hinton, Rock & Zienkiewicz 1976 (masses).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import InputError, message

__all__ = ["MASS_SHARES", "quadratic", "quadratic_gradients", "split_triangles"]

EDGES = ((0, 1), (1, 2), (0, 2), (0, 3), (1, 3), (2, 3))
"""Corners on both sides of each mid node."""
MASS_SHARES = (1 / 36,) * 4 + (4 / 27,) * 6
"""Part of the mass of a cell that each node has."""


def _slopes() -> Tensor:
    """∂N/∂(λ_1, λ_2, λ_3) at the quadrature points, (4, 10, 3)."""
    near, far = (5 + 3 * 5**0.5) / 20, (5 - 5**0.5) / 20
    result = []
    for q in range(4):
        lam = [near if i == q else far for i in range(4)]
        rows = [[4 * lam[i] - 1 if i == j else 0.0 for j in range(4)] for i in range(4)]
        for i, k in EDGES:
            rows.append([4 * lam[k] * (j == i) + 4 * lam[i] * (j == k) for j in range(4)])
        by_corner = torch.tensor(rows, dtype=torch.float64)
        result.append(by_corner[:, 1:] - by_corner[:, :1])  # λ_0 = 1 − λ_1 − λ_2 − λ_3
    return torch.stack(result)


_SLOPES = _slopes()


def quadratic_gradients(nodes: Tensor) -> tuple[Tensor, Tensor]:
    """G and weights at the quadrature points.

    Args:
        nodes: rest positions [m], (..., 10, 3).

    Returns:
        G [1/m] (..., 4, 10, 3) and w [m³] (..., 4), which are not positive where the cell is inverted.

    Differentiable in nodes.
    """
    slopes = _SLOPES.to(nodes)
    jacobian = nodes.mT.unsqueeze(-3) @ slopes  # columns are ∂X/∂λ
    ratio = torch.linalg.det(jacobian)
    flat = torch.where((ratio.detach() == 0)[..., None, None], torch.eye(3).to(nodes), jacobian)
    return slopes @ torch.linalg.inv(flat), ratio / 24


def quadratic(X: Tensor, tets: Tensor, *, round: bool = False) -> tuple[Tensor, Tensor]:
    """Cells of ten nodes from those of four.

    Args:
        X: points [m], (N, 3).
        tets: (S, 4).
        round: put mid nodes on spheres about the origin, at the mean radius of their ends; else in the
            middle.

    Returns:
        Points (N + edges, 3), the first ones unchanged, and cells (S, 10) for `Solid(order=2)`.

    Differentiable in X.
    """
    ends = torch.cat([tets[:, list(edge)] for edge in EDGES]).sort(1).values
    edges, number = torch.unique(ends, dim=0, return_inverse=True)
    middle = X[edges].mean(1)
    if round:
        size = X[edges].norm(dim=-1).mean(1)
        middle = middle * (size / middle.norm(dim=-1)).unsqueeze(-1)
    mids = number.view(len(EDGES), -1).T + len(X)
    return torch.cat((X, middle)), torch.cat((tets, mids), dim=1)


def split_triangles(triangles: Tensor, cells: Tensor) -> Tensor:
    """Four triangles for each side of ten-node cells: what contact and pictures see of them.

    Args:
        triangles: corners of sides, (F, 3).
        cells: (S, 10).

    Returns:
        Triangles over corners and mid nodes with the same orientation, (4 F, 3).

    Raises:
        InputError: a triangle whose edge no cell has.
    """
    count = int(cells.max()) + 1
    ends = torch.cat([cells[:, list(edge)] for edge in EDGES]).sort(1).values
    keys, order = (ends[:, 0] * count + ends[:, 1]).sort()
    mids = cells[:, 4:].T.reshape(-1)[order]
    a, b, c = triangles.unbind(1)

    def between(i: Tensor, j: Tensor) -> Tensor:
        wanted = torch.minimum(i, j) * count + torch.maximum(i, j)
        place = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
        missing = (keys[place] != wanted).nonzero()[:, 0]
        if len(missing):
            row = int(missing[0])
            got = f"edge {(int(i[row]), int(j[row]))} of none"
            fix = "Give triangles of corners that are sides of the cells"
            raise InputError(message("split_triangles", "edges of the cells", got, fix))
        return mids[place]

    p, q, r = between(a, b), between(b, c), between(c, a)
    parts = ((a, p, r), (p, b, q), (r, q, c), (p, q, r))
    return torch.stack([torch.stack(t, dim=1) for t in parts], dim=1).reshape(-1, 3)
