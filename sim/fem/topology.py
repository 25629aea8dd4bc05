"""Which cells meet where: hinges between triangles, bends between segments."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import InputError, message
from .elements import PlateLayout, Stencils

__all__ = ["bends_of", "hinges_of", "layout_of"]


def hinges_of(where: str, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of triangles over a common edge, (H, 4) points and (H, 2) triangles."""
    sides: dict[tuple[int, int], list[tuple[int, int, bool]]] = {}
    for number, cell in enumerate(cells.tolist()):
        for k in range(3):
            a, b, opposite = cell[k], cell[(k + 1) % 3], cell[(k + 2) % 3]
            sides.setdefault((min(a, b), max(a, b)), []).append((number, opposite, a < b))
    points, faces = [], []
    for (a, b), found in sides.items():
        if len(found) > 2:
            got = f"edge {(a, b)} of {len(found)} triangles"
            fix = "Split the sheet there, or set bending=False"
            raise InputError(message(where, "a manifold mesh for hinges", got, fix))
        if len(found) == 2:
            (f1, p1, forward1), (f2, p2, forward2) = found
            if forward1 == forward2:
                got = f"triangles {f1} and {f2} that turn opposite ways"
                fix = "Orient neighbours alike, or set bending=False"
                raise InputError(message(where, "an oriented mesh for hinges", got, fix))
            # e × (x₂ − x₀) is the normal of the triangle that runs a → b.
            left, right = ((f1, p1), (f2, p2)) if forward1 else ((f2, p2), (f1, p1))
            points.append((a, b, left[1], right[1]))
            faces.append((left[0], right[0]))
    return torch.tensor(points).reshape(-1, 4).long(), torch.tensor(faces).reshape(-1, 2).long()


def layout_of(cells: Tensor, points: Tensor, faces: Tensor) -> PlateLayout:
    """How triangles and hinges refer to each other."""
    count = len(points)
    sides = torch.full_like(cells, count)
    patches = torch.cat((cells, cells), dim=1)
    owners = torch.zeros(count, 2).long()
    views = torch.full((len(cells), 3, 6), 4 * count)
    number = torch.arange(count)
    for left, right in ((0, 1), (1, 0)):
        face, own, other = faces[:, left], points[:, 2 + left], points[:, 2 + right]
        corner = (cells[face] == own[:, None]).long().argmax(1)
        sides[face, corner] = number
        patches[face, 3 + corner] = other
        owners[:, left] = 3 * face + corner
        # Seen from the triangle on the right, the side runs the other way.
        order = (corner + 1) % 3, (corner + 2) % 3, corner, 3 + corner
        for place, point in zip(order, ((0, 1, 2, 3), (1, 0, 3, 2))[left], strict=True):
            views[face, corner, place] = 4 * number + point
    return PlateLayout(Stencils(patches), Stencils(points), sides, owners, views)


def bends_of(where: str, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of segments over a common point, (H, 3) points and (H, 2) segments."""
    ends: dict[int, list[tuple[int, int]]] = {}
    for number, (a, b) in enumerate(cells.tolist()):
        ends.setdefault(a, []).append((number, b))
        ends.setdefault(b, []).append((number, a))
    points, segments = [], []
    for middle, found in ends.items():
        if len(found) > 2:
            got = f"point {middle} of {len(found)} segments"
            raise InputError(message(where, "rods without forks", got, "Make forks of solids"))
        if len(found) == 2:
            points.append((found[0][1], middle, found[1][1]))
            segments.append((found[0][0], found[1][0]))
    return torch.tensor(points).reshape(-1, 3).long(), torch.tensor(segments).reshape(-1, 2).long()
