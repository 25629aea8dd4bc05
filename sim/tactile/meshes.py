"""Gels of tactile sensors as meshes: a dome and a pad, with the points that are held and those that feel.

Both point up (+z): the mount is behind, the sensing face in front. Points stand in layers, prisms or
boxes between them are cut into tetrahedra of one kind, so there are no slivers. Cells have ten nodes
unless told otherwise (`sim.fem.quadratic`), because gels hardly change their volume and linear cells
lock; the edges of a dome are arcs then.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError, message
from ..fem import Solid, quadratic, split_triangles
from ..fem.bodies import fingertip
from ..fem.contact import boundary_triangles
from ..fem.meshes import box

__all__ = ["GelMesh", "dome", "pad"]


@dataclasses.dataclass(frozen=True, eq=False)
class GelMesh:
    """A gel in the frame of its sensor."""

    X: Tensor
    """Points [m], (N, 3)."""
    cells: Tensor
    """Tetrahedra, (S, 4) or (S, 10)."""
    triangles: Tensor
    """Outward triangles of the sensing face, over mid nodes too, (F, 3)."""
    sets: dict[str, Tensor]
    """Sorted points: "mount", which a rigid backing holds, and "surface", those of the triangles."""

    @property
    def order(self) -> int:
        """1 or 2, see `Solid`."""
        return 2 if self.cells.shape[1] == 10 else 1

    @property
    def faces(self) -> Tensor:
        """Sides of cells on the sensing face, (F, 3), or (F/4, 6) corners and mids of ab, bc, ca.

        Raises:
            InputError: triangles of a second order mesh that are not those of `split_triangles`.
        """
        if self.order == 1:
            return self.triangles
        whole = len(self.triangles) % 4 == 0
        t = self.triangles[: len(self.triangles) // 4 * 4].view(-1, 4, 3)
        mids = t[:, 3]
        if not whole or not torch.equal(mids, torch.stack((t[:, 0, 1], t[:, 1, 2], t[:, 2, 0]), 1)):
            fix = "Make them by split_triangles"
            got = f"{len(self.triangles)} in another order"
            raise InputError(message("GelMesh", "triangles in fours of a side", got, fix))
        return torch.cat((torch.stack((t[:, 0, 0], t[:, 1, 1], t[:, 2, 2]), 1), mids), dim=1)

    def solid(self, name: str, **values: Any) -> Solid:
        """The part; `values` are fields of `Solid`: E, nu, rho, …"""
        return Solid(name=name, cells=self.cells, order=self.order, **values)

    def quality(self) -> Tensor:
        """3 r_in/r_out of the tetrahedra of corners [-], (S,): 1 regular, 0 flat."""
        x = self.X[self.cells[:, :4]]
        a, b, c = (x[:, i] - x[:, 0] for i in (1, 2, 3))
        volume = (a * torch.linalg.cross(b, c)).sum(-1).abs() / 6
        opposite = [torch.linalg.cross(p, q) for p, q in ((b, c), (c, a), (a, b))]
        sides = [*opposite, sum(opposite)]
        inner = 6 * volume / sum(n.norm(dim=-1) for n in sides)
        lengths = (v.square().sum(-1, keepdim=True) for v in (a, b, c))
        centre = sum(size * n for size, n in zip(lengths, opposite, strict=True))
        outer = centre.norm(dim=-1) / (12 * volume)
        return 3 * inner / outer


def dome(
    inner: float = 7.5e-3,
    outer: float = 15e-3,
    cuts: int = 5,
    layers: int = 2,
    *,
    order: int = 2,
    rim: bool = False,
) -> GelMesh:
    """A hemispherical shell about the origin, its inner sphere held.

    Args:
        inner: radius of the rigid core [m].
        outer: radius of the sensing sphere [m].
        cuts: n, parts of every quarter of the rim; the sphere has 4 n² triangles, 16 n² with order 2.
        layers: layers of cells from the core to the surface.
        order: of the cells.
        rim: whether the flat ring in z = 0 is held too.

    Returns:
        With the default numbers 1 105 points, 221 of them held and 221 that feel.

    Raises:
        InputError: radii or numbers out of order.
    """
    _check_order("dome", order)
    tip = fingertip(outer, inner, cuts, layers)
    X, cells, triangles = tip.X, tip.tets, tip.skin
    if order == 2:
        X, cells = quadratic(X, cells, round=True)
        triangles = split_triangles(triangles, cells)
    held = X.norm(dim=1) < inner + 1e-6 * outer
    if rim:
        held |= X[:, 2] < 1e-9 * outer
    return _gel(X, cells, triangles, held)


def pad(
    size: Sequence[float] = (20e-3, 20e-3, 4e-3),
    cells: Sequence[int] = (8, 8, 2),
    *,
    order: int = 2,
    focus: float = 1.0,
) -> GelMesh:
    """A slab with its back in z = 0, which is held, and its sensing face in z = thickness.

    Args:
        size: lengths along x and y, and thickness [m]; x and y begin at −size/2.
        cells: along x, y and z.
        order: of the cells.
        focus: size of cells at the border over that in the middle of the sensing face; 1: all equal.

    Returns:
        With the default numbers 1 445 points.

    Raises:
        InputError: sizes or numbers out of range.
    """
    _check_order("pad", order)
    good = len(size) == len(cells) == 3 and min(size) > 0 and min(cells) >= 1 and focus >= 1
    if not good:
        got = f"size {tuple(size)}, cells {tuple(cells)}, focus {focus}"
        raise InputError(message("pad", "3 sizes > 0 m, 3 counts >= 1, focus >= 1", got, "Correct"))
    X, tets = box(cells, (1.0, 1.0, 1.0))
    triangles = torch.as_tensor(boundary_triangles(tets))
    triangles = triangles[(X[triangles][..., 2] > 1 - 1e-9).all(1)]
    middle = 2 * X[:, :2] - 1
    flat = torch.tensor(size[:2], dtype=X.dtype) / 2 * _graded(middle, focus)
    height = size[2] * (1 - _graded(1 - X[:, 2:], focus))
    X = torch.cat((flat, height), dim=1)
    if order == 2:
        X, tets = quadratic(X, tets)
        triangles = split_triangles(triangles, tets)
    return _gel(X, tets, triangles, X[:, 2] < 1e-9 * size[2])


def _graded(s: Tensor, focus: float) -> Tensor:
    """sinh(β s)/sinh β: maps ±1 to itself, with slopes at 1 and 0 of the ratio cosh β = focus."""
    if focus == 1:
        return s
    beta = math.acosh(focus)
    return torch.sinh(beta * s) / math.sinh(beta)


def _gel(X: Tensor, cells: Tensor, triangles: Tensor, held: Tensor) -> GelMesh:
    sets = {"mount": held.nonzero()[:, 0], "surface": triangles.unique()}
    return GelMesh(X, cells, triangles, sets)


def _check_order(where: str, order: int) -> None:
    if order not in (1, 2):
        raise InputError(message(where, "order 1 or 2", f"{order}", "See `Solid`"))
