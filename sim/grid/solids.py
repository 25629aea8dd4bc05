"""Which faces of a MAC grid gas can cross, and how fast the closed ones move.

    flux through a face = w u + (1 − w) u_s        w open fraction, u_s velocity of the solid

"voxels": a cell is solid when its centre is, w = 0 on every face of a solid cell, else 1. The shape
then carries no gradient; the motion does, through u_s. "fractions": w is the open share of the face,

    w = clamp(½ + d / (dx Σ_{b ≠ a} |n_b|), 0, 1)        d, n: distance and normal at the face centre

exact for a flat solid in 2-D, and along an axis in 3-D; it is differentiable in the pose.

Source: Batty et al. 2007 (fractions); rigid motion of a distance field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core.colliders import Collider, embed, project, signed_distance
from ..core.errors import InputError, message
from .mac import AXES, Faces, MacGrid

__all__ = ["SHAPES", "Solids", "faces_of", "side_velocity", "solid_velocity", "solids_of"]

SHAPES = ("voxels", "fractions")

# Faces that are open by less are closed: they would only spoil the condition of the pressure system.
LEAST_FRACTION = 0.01
# Cells within which a face that lies in the surface of a solid counts as covered by it.
GRAZE = 1e-3


@dataclasses.dataclass(frozen=True)
class Solids:
    """Walls and obstacles at one time; the batch axis b is 1 when all scenes agree."""

    open: Faces
    """Open fraction of each face [-], (b, *faces); 0 in walls, 1 where nothing is."""
    fluid: Tensor
    """Cells that hold gas, bool (b, *cells)."""
    valid: Faces | None = None
    """Faces that touch gas, bool (b, *faces): what interpolation may use. None: all."""
    nearest: Faces | None = None
    """Index of the nearest obstacle per face, (b, *faces); None without obstacles."""

    @property
    def empty(self) -> bool:
        """Whether there are no obstacles, only sides."""
        return self.nearest is None

    def detach(self) -> Solids:
        return dataclasses.replace(self, open=tuple(w.detach() for w in self.open))


def solids_of(
    grid: MacGrid,
    obstacles: Sequence[Collider] = (),
    pose: Tensor | None = None,
    *,
    shape: str = "voxels",
    like: Tensor | None = None,
) -> Solids:
    """Open faces and gas cells of a grid with obstacles.

    Args:
        grid: the grid, whose sides count as well.
        obstacles: K colliders; several together are their union.
        pose: positions and quaternions [m, -], (b, K, 7); default: the colliders' own.
        shape: "voxels" or "fractions".
        like: tensor with the dtype and device wanted, when there is no pose.

    Raises:
        InputError: unknown shape, or no gas left.

    Differentiable in pose with "fractions" (through `open`). Source: Batty et al. 2007.
    """
    if shape not in SHAPES:
        raise InputError(message("solids_of", f"shape out of {SHAPES}", shape, "Choose one"))
    if pose is None:
        like = torch.zeros(()) if like is None else like
        pose = torch.stack([c.pose() for c in obstacles])[None].to(like) if obstacles else like
    sides = tuple(_side_fraction(grid, a, pose) for a in range(grid.dim))
    if not obstacles:
        fluid = torch.ones(1, *grid.cells, dtype=torch.bool, device=pose.device)
        return Solids(sides, fluid)
    fractions, nearest = [], []
    if shape == "voxels":
        fluid = _distance(grid, None, obstacles, pose)[0] > 0
    for a in range(grid.dim):
        d, which, n = _distance(grid, a, obstacles, pose)
        nearest.append(which)
        if shape == "voxels":
            w = _both(grid, fluid, a).to(pose)
        else:
            reach = grid.dx * (n.abs().sum(-1) - n[..., a].abs()).clamp_min(GRAZE)
            w = (0.5 + (d - GRAZE * grid.dx) / reach).clamp(0.0, 1.0)
            w = torch.where(w < LEAST_FRACTION, torch.zeros_like(w), w)
        fractions.append(w * sides[a])
    if shape == "fractions":
        fluid = torch.zeros(len(pose), *grid.cells, dtype=torch.bool, device=pose.device)
        for a, w in enumerate(fractions):
            lower, upper = faces_of(grid, w.detach() > 0, a)
            fluid = fluid | lower | upper
    if not bool(fluid.flatten(1).any(1).all()):
        fix = "Move or shrink the obstacles"
        raise InputError(
            message("solids_of", "cells with gas", "obstacles that fill the grid", fix)
        )
    valid = tuple(_any(grid, fluid, a) for a in range(grid.dim))
    return Solids(tuple(fractions), fluid, valid, tuple(nearest))


def solid_velocity(
    grid: MacGrid, solids: Solids, pose: Tensor, twist: Tensor, sides: Faces | None = None
) -> Faces:
    """Normal velocity of the nearest obstacle at each face, u_s = v + ω × (x − p) [m/s].

    Args:
        grid, solids: the grid and its obstacles at `pose`.
        pose: positions and quaternions [m, -], (B, K, 7).
        twist: linear and angular velocity in world axes [m/s, rad/s], (B, K, 6).
        sides: velocity of the sides, from `side_velocity`; default at rest.

    Returns:
        One tensor (B, *faces) per axis; it counts where faces are closed.

    Differentiable in pose and twist. Source: rigid motion.
    """
    out = []
    for a in range(grid.dim):
        shape = grid.face_shape(a)
        value = twist.new_zeros(len(twist), *shape)
        if not solids.empty:
            x = embed(grid.points(a, twist)).reshape(-1, 3)
            arm = x[None, :, None] - pose[:, None, :, :3]
            spin = twist[:, None, :, 3:].expand_as(arm)
            v = project(twist[:, None, :, :3] + torch.linalg.cross(spin, arm), grid.dim)[..., a]
            which = solids.nearest[a].reshape(len(solids.nearest[a]), -1, 1)
            value = v.gather(2, which.expand(len(v), -1, 1)).reshape(value.shape)
        if not grid.periodic[a]:
            lower, middle, upper = _split(grid, value, a)
            at = sides[a] if sides is not None else None
            zero = torch.zeros_like(lower)
            ends = (zero, zero) if at is None else (zero + at[..., :1], zero + at[..., 1:])
            keep = [side == "open" for side in grid.sides[a]]
            lower, upper = (
                v if k else e for v, k, e in zip((lower, upper), keep, ends, strict=True)
            )
            value = torch.cat((lower, middle, upper), a - grid.dim)
        out.append(value)
    return tuple(out)


def side_velocity(
    grid: MacGrid, velocity: Mapping[str, Sequence[float]], like: Tensor
) -> tuple[Faces | None, dict[tuple[int, int], Tensor]]:
    """Velocities that walls have: a lid, an inflow.

    Args:
        grid: the grid.
        velocity: per side, e.g. {"x-": (1.0, 0.0)}: D numbers [m/s].
        like: tensor of the dtype and device wanted.

    Returns:
        Normal velocities per axis, shape (1,)*D + (2,) to broadcast, or None when all rest; and the
        full velocity (D,) of each moving side by (axis, 0 or 1).

    Raises:
        InputError: unknown side, one that is not a wall, or not D numbers.

    Not differentiable: plain numbers. Source: Dirichlet conditions.
    """
    moving: dict[tuple[int, int], Tensor] = {}
    for side, numbers in velocity.items():
        names = [f"{axis}{s}" for axis in AXES[grid.dim] for s in "-+"]
        known = side in names
        index = divmod(names.index(side), 2) if known else (0, 0)
        if not known or grid.sides[index[0]][index[1]] not in ("wall", "slip"):
            expected = f"a side out of {names} that is a wall"
            raise InputError(message("wall_velocity", expected, side, "Correct the name or walls"))
        if len(numbers) != grid.dim:
            got = f"{tuple(numbers)} for {side}"
            raise InputError(message("wall_velocity", f"{grid.dim} numbers [m/s]", got, "Give all"))
        moving[index] = like.new_tensor(tuple(float(v) for v in numbers))
    if not moving:
        return None, moving
    zero = like.new_zeros(())
    normal = []
    for a in range(grid.dim):
        pair = [moving[a, s][a] if (a, s) in moving else zero for s in (0, 1)]
        # The last axis of (1, …, 1, 2) picks the side; slices of it broadcast over faces.
        normal.append(torch.stack(pair).reshape(*(1,) * grid.dim, 2))
    return tuple(normal), moving


def _distance(
    grid: MacGrid, axis: int | None, obstacles: Sequence[Collider], pose: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Distance, index and normal of the nearest obstacle at faces or cells."""
    x = grid.points(axis, pose)
    contact = signed_distance(x.reshape(-1, grid.dim), obstacles, pose)
    which = contact.distance.argmin(-1, keepdim=True)
    d = contact.distance.gather(-1, which)
    n = contact.normal.gather(2, which[..., None].expand(*which.shape, 3)).squeeze(2)
    shape = (len(pose), *x.shape[:-1])
    n = project(n, grid.dim).reshape(*shape, grid.dim)
    return d.reshape(shape), which.reshape(shape), n


def _side_fraction(grid: MacGrid, axis: int, like: Tensor) -> Tensor:
    w = torch.ones(1, *grid.face_shape(axis), dtype=like.dtype, device=like.device)
    for end, kind in zip((0, -1), grid.sides[axis], strict=True):
        if kind in ("wall", "slip"):
            w.narrow(axis - grid.dim, end, 1).zero_()
    return w


def _neighbors(grid: MacGrid, cell: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Cell below and above each face; sides repeat the cell inside."""
    dim = axis - grid.dim
    if grid.periodic[axis]:
        return cell.roll(1, dim), cell
    first, last = cell.narrow(dim, 0, 1), cell.narrow(dim, -1, 1)
    return torch.cat((first, cell), dim), torch.cat((cell, last), dim)


def _both(grid: MacGrid, fluid: Tensor, axis: int) -> Tensor:
    lower, upper = _neighbors(grid, fluid, axis)
    return lower & upper


def _any(grid: MacGrid, fluid: Tensor, axis: int) -> Tensor:
    lower, upper = _neighbors(grid, fluid, axis)
    return lower | upper


def faces_of(grid: MacGrid, face: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Values at the lower and upper face of each cell along an axis."""
    dim, n = axis - grid.dim, grid.cells[axis]
    upper = face.roll(-1, dim) if grid.periodic[axis] else face.narrow(dim, 1, n)
    return face.narrow(dim, 0, n), upper


def _split(grid: MacGrid, value: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    dim, n = axis - grid.dim, grid.cells[axis]
    return value.narrow(dim, 0, 1), value.narrow(dim, 1, n - 1), value.narrow(dim, n, 1)
