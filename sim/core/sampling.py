"""Particles that fill a shape.

    V_p = V / N        volumes sum to the volume of the shape (2-D: area × 1 m), whatever N is

Source: plain lattice and stratified sampling; blue noise after Yuksel 2015 (Sample elimination).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from . import rotations
from .errors import InputError, message
from .poses import in_space
from .shape_base import Shape

__all__ = ["SAMPLING_MODES", "sample_shape"]

SAMPLING_MODES = ("grid", "jitter", "random", "poisson")

# Candidates per kept point: Yuksel 2015, Sec. 4 recommends at least 3, gains level off beyond 5.
_CANDIDATES = 4
_CHUNK = 1 << 18
# Rejection gives up if so many draws all miss: the shape is thinner than its own distance grid.
_MOST_MISSES = 1 << 21


def sample_shape(
    shape: Shape,
    spacing: float,
    *,
    position: Sequence[float] | None = None,
    orientation: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    mode: str = "grid",
    generator: torch.Generator | None = None,
    dim: int = 3,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, float]:
    """Points inside a shape, one per spacing^dim on average, and the volume each stands for.

    Modes: "grid", a lattice in the frame of the shape, symmetric about the middle of its bounds and
    stretched so that it fills a box exactly; "jitter", one random point per lattice cell; "random",
    independent uniform points; "poisson", uniform points thinned to blue noise (no two very near).

    Args:
        shape: A bounded shape. In 2-D its section y = 0 is filled.
        spacing: Mean distance of neighbors h [m].
        position: World position of the shape's origin [m], dim or 3 numbers; default the origin.
        orientation: Quaternion (w, x, y, z) [-]; in 2-D a turn about y, (w, 0, y, 0).
        mode: One of `SAMPLING_MODES`.
        generator: Source of randomness; default torch's global one. Points are drawn on the CPU.
        dim: 3, or 2 for points (x, z).
        dtype: Type of the points.
        device: Device of the points.

    Returns:
        points [m], shape (N, dim), and the volume per particle [m³]; in 2-D per metre of depth.

    Raises:
        InputError: if the shape is unbounded, or no point falls into it.

    Differentiable in nothing: a sample is data. Cost of "poisson": about 0.25 ms per point in 3-D.
    Source: Yuksel 2015 for "poisson".
    """
    _check_arguments(shape, spacing, mode, dim)
    center, turn = _placement(position, orientation, dim)
    axes = [0, 1, 2] if dim == 3 else [0, 2]
    lower, upper = (torch.tensor(b, dtype=torch.float64)[axes] for b in shape.bounds())
    total = shape.volume() if dim == 3 else shape.area()
    if mode in ("grid", "jitter"):
        local = _lattice(lower, upper, spacing, generator if mode == "jitter" else None, mode)
        local = local[_inside(shape, local)]
    else:
        count = round(total / spacing**dim)
        local = _uniform(
            shape, lower, upper, count * (1 if mode == "random" else _CANDIDATES), generator
        )
        if mode == "poisson" and count:
            local = _eliminate(local, count, total)
    if len(local) == 0:
        smallest = float((upper - lower).min())
        raise InputError(
            message(
                "sample_shape",
                f"spacing that puts a particle into {shape!r} (smallest side {smallest:.4g} m)",
                f"{spacing:.4g} m",
                f"Use a spacing below {total ** (1 / dim):.2g} m"
                if total
                else "The section y = 0 is empty: move the mesh onto the plane",
            )
        )
    points = rotations.rotate(turn, in_space(local)) + center
    points = points if dim == 3 else points[:, ::2]
    return points.to(dtype=dtype, device=device), total / len(points)


def _lattice(
    lower: Tensor, upper: Tensor, spacing: float, generator: torch.Generator | None, mode: str
) -> Tensor:
    """Middles of the cells that divide the bounds, or one random point in each (mode jitter)."""
    sides = upper - lower
    counts = [max(1, round(float(side) / spacing)) for side in sides]
    ticks = [torch.arange(n, dtype=torch.float64) for n in counts]
    cells = torch.stack(torch.meshgrid(*ticks, indexing="ij"), dim=-1).reshape(-1, len(counts))
    if mode == "jitter":
        offset = torch.rand(cells.shape, generator=generator, dtype=torch.float64)
    else:
        offset = torch.full_like(cells, 0.5)
    return lower + (cells + offset) * sides / torch.tensor(counts, dtype=torch.float64)


def _uniform(
    shape: Shape, lower: Tensor, upper: Tensor, count: int, generator: torch.Generator | None
) -> Tensor:
    """Independent uniform points in the shape, by rejection from its bounds."""
    kept, missing, share, tried = [torch.empty(0, len(lower), dtype=torch.float64)], count, 1.0, 0
    while missing > 0 and (missing < count or tried < _MOST_MISSES):
        tries = min(math.ceil(1.1 * missing / share) + 16, 4 * _CHUNK)
        points = torch.rand(tries, len(lower), generator=generator, dtype=torch.float64)
        points = lower + points * (upper - lower)
        points = points[_inside(shape, points)]
        share = max(len(points) / tries, 1e-3)
        kept.append(points[:missing])
        missing -= len(kept[-1])
        tried += tries
    return torch.cat(kept)


def _eliminate(points: Tensor, count: int, total: float) -> Tensor:
    """Thin points to `count`, dropping the most crowded one each time (sample elimination)."""
    dim = points.shape[1]
    # Largest distance that `count` points can keep, from the densest packing of disks or balls.
    if dim == 2:
        radius = math.sqrt(total / (2 * math.sqrt(3) * count))
    else:
        radius = (total / (4 * math.sqrt(2) * count)) ** (1 / 3)
    reach = 2 * radius
    pairs = cKDTree(points.numpy()).query_pairs(reach, output_type="ndarray")
    length = np.linalg.norm(points.numpy()[pairs[:, 0]] - points.numpy()[pairs[:, 1]], axis=1)
    weight = (1 - length / reach) ** 8
    crowding = np.zeros(len(points))
    np.add.at(crowding, pairs.ravel(), np.repeat(weight, 2))
    start = np.concatenate((pairs[:, 0], pairs[:, 1]))
    order = np.argsort(start, kind="stable")
    neighbor = np.concatenate((pairs[:, 1], pairs[:, 0]))[order]
    weights = np.concatenate((weight, weight))[order]
    first = np.searchsorted(start[order], np.arange(len(points) + 1))

    alive = np.ones(len(points), dtype=bool)
    heap = [(-c, i) for i, c in enumerate(crowding)]
    heapq.heapify(heap)
    missing = len(points) - count
    while missing:
        value, i = heapq.heappop(heap)
        if not alive[i] or -value > crowding[i]:
            continue
        alive[i] = False
        missing -= 1
        for e in range(first[i], first[i + 1]):
            j = neighbor[e]
            if alive[j]:
                crowding[j] -= weights[e]
                heapq.heappush(heap, (-crowding[j], j))
    return points[torch.from_numpy(alive)]


def _inside(shape: Shape, local: Tensor) -> Tensor:
    """Mask of the points with d ≤ 0, in chunks that bound memory."""
    parts = [shape.signed_distance(in_space(p))[0] <= 0 for p in local.split(_CHUNK)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.bool)


def _placement(
    position: Sequence[float] | None, orientation: Sequence[float], dim: int
) -> tuple[Tensor, Tensor]:
    """Checked position and quaternion in double precision."""
    values = [0.0] * 3 if position is None else [float(p) for p in position]
    if dim == 2 and len(values) == 2:
        values = [values[0], 0.0, values[1]]
    turn = torch.tensor([float(q) for q in orientation], dtype=torch.float64)
    planar = dim == 3 or (values[1:2] == [0.0] and turn[1] == 0 and turn[-1] == 0)
    if len(values) != 3 or turn.shape != (4,) or not planar or not turn.norm() > 0:
        wanted = (
            "position of 3 numbers [m] and a quaternion (w, x, y, z)"
            if dim == 3
            else "position (x, z) [m] in the plane y = 0 and a turn about y, (w, 0, y, 0)"
        )
        raise InputError(
            message(
                "sample_shape",
                wanted,
                f"position {position}, orientation {tuple(orientation)}",
                "Place the shape with the collider conventions",
            )
        )
    return torch.tensor(values, dtype=torch.float64), turn


def _check_arguments(shape: Shape, spacing: float, mode: str, dim: int) -> None:
    """Raise on arguments that name no sample."""
    if not all(map(math.isfinite, shape.bounds()[0] + shape.bounds()[1])):
        raise InputError(
            message("sample_shape", "a bounded shape", f"{shape!r}", "Fill a Box instead")
        )
    if not 0 < spacing < math.inf:
        raise InputError(
            message("sample_shape", "spacing > 0 m", float(spacing), "Use about half the grid's dx")
        )
    if mode not in SAMPLING_MODES:
        raise InputError(message("sample_shape", f"mode in {SAMPLING_MODES}", mode, "Choose one"))
    if dim not in (2, 3):
        raise InputError(message("sample_shape", "dim 2 or 3", dim, "Give the scene's dimension"))
