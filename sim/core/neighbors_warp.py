"""Neighbour search of `neighbors` with a Warp hash grid, for CUDA.

Points are grouped by scene, so cells never mix scenes. Everything runs in float64, in which the two
engines agree on who is inside a radius.

Source: Green 2010 (Particle simulation using CUDA), hash grid; `warp.HashGrid`.
"""

# No postponed annotations here: Warp evaluates them, and cannot see types of a closure in text.

import contextlib
import functools
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .backend import as_array, warp

__all__ = ["grid_ball_query", "grid_nearest"]

CELLS = 128
"""Cells per axis of the hash grid; farther ones share their bucket."""
MARGIN = 1 + 1e-9
"""Widens the walk over cells, not the test of distances, against rounding at cell borders."""


@functools.cache
def _kernels() -> SimpleNamespace:
    wp = warp()
    f64, vec3 = wp.float64, wp.vec3d
    options = {"module": "unique", "enable_backward": False}

    @wp.kernel(**options)
    def pairs(
        grid: wp.uint64,
        reach: f64,
        radius: f64,
        query: wp.array(dtype=vec3),
        points: wp.array(dtype=vec3),
        group: wp.array(dtype=wp.int32),
        start: wp.array(dtype=wp.int64),
        count: wp.array(dtype=wp.int64),
        out: wp.array(dtype=wp.int64),
        write: bool,
    ):
        i = wp.tid()
        q = query[i]
        walk = wp.hash_grid_query(grid, q, reach, group[i])
        j = wp.int32(0)
        n = wp.int32(0)
        while wp.hash_grid_query_next(walk, j):
            d = points[j] - q
            if wp.dot(d, d) <= radius * radius:
                if write:
                    out[start[i] + wp.int64(n)] = wp.int64(j)
                n += 1
        count[i] = wp.int64(n)

    @wp.kernel(**options)
    def closest(
        grid: wp.uint64,
        reach: f64,
        radius: f64,
        k: int,
        query: wp.array(dtype=vec3),
        points: wp.array(dtype=vec3),
        group: wp.array(dtype=wp.int32),
        active: wp.array(dtype=wp.int64),
        index: wp.array2d(dtype=wp.int64),
        distance: wp.array2d(dtype=f64),
        found: wp.array(dtype=wp.int32),
    ):
        i = int(active[wp.tid()])
        q = query[i]
        walk = wp.hash_grid_query(grid, q, reach, group[i])
        j = wp.int32(0)
        n = wp.int32(0)
        while wp.hash_grid_query_next(walk, j):
            d = wp.length(points[j] - q)
            take = d <= radius
            if take and n == k:
                take = d < distance[i, k - 1]
            if take:
                slot = wp.min(n, k - 1)
                before = wp.max(slot - 1, 0)
                while slot > 0 and distance[i, before] > d:
                    distance[i, slot] = distance[i, before]
                    index[i, slot] = index[i, before]
                    slot = before
                    before = wp.max(slot - 1, 0)
                distance[i, slot] = d
                index[i, slot] = wp.int64(j)
                n = wp.min(n + 1, k)
        found[i] = n

    return SimpleNamespace(pairs=pairs, closest=closest)


def _points(x: Tensor) -> Tensor:
    """(M, D) as contiguous float64 (M, 3), missing axes 0."""
    x = x.to(torch.float64)
    return torch.nn.functional.pad(x, (0, 3 - x.shape[1])).contiguous()


def _stream(x: Tensor) -> Any:
    if not x.is_cuda:
        return contextlib.nullcontext()
    wp = warp()
    return wp.ScopedStream(wp.stream_from_torch(torch.cuda.current_stream(x.device)))


def _grid(points: Tensor, scene: Tensor, dim: int, width: float) -> tuple[Any, Any, Any]:
    """Hash grid with cells of `width` [m], and arrays it must not outlive."""
    wp = warp()
    cells = [CELLS if axis < dim else 1 for axis in range(3)]
    device = wp.device_from_torch(points.device)
    grid = wp.HashGrid(*cells, device=device, dtype=wp.float64)
    p, groups = as_array(points, wp.vec3d), as_array(scene, wp.int32)
    grid.build(p, width, groups)
    return grid, p, groups


def grid_ball_query(
    query: Tensor, points: Tensor, radius: float, query_scene: Tensor, scene: Tensor
) -> Tensor:
    """As `neighbors.ball_query`, for checked, non-empty, detached tensors on one device."""
    wp = warp()
    dim, Q, P = query.shape[1], len(query), len(points)
    query, points = _points(query), _points(points)
    group, scene = query_scene.to(torch.int32), scene.to(torch.int32)
    start = torch.zeros(Q, dtype=torch.int64, device=query.device)
    count = torch.zeros_like(start)
    kernel = _kernels().pairs
    with _stream(query):
        grid, p, _keep = _grid(points, scene, dim, radius)

        def walk(out: Tensor, write: bool) -> None:
            arrays = [as_array(query, wp.vec3d), p, as_array(group, wp.int32)]
            arrays += [as_array(t, wp.int64) for t in (start, count, out)]
            inputs = [grid.id, radius * MARGIN, radius, *arrays, write]
            wp.launch(kernel, Q, inputs=inputs, device=p.device)

        walk(start, False)
        ends = count.cumsum(0)
        start = ends - count
        source = torch.empty(int(ends[-1]), dtype=torch.int64, device=query.device)
        if len(source):
            walk(source, True)
    target = torch.repeat_interleave(torch.arange(Q, device=query.device), count)
    key = (target * P + source).sort().values
    return torch.stack([key % P, key // P])


def grid_nearest(
    query: Tensor, points: Tensor, k: int, query_scene: Tensor, scene: Tensor
) -> tuple[Tensor, Tensor]:
    """As `neighbors.nearest`, for checked, non-empty, detached tensors on one device.

    Queries that see fewer than k points look again with twice the radius.
    """
    wp = warp()
    dim, dtype = query.shape[1], query.dtype
    query, points = _points(query), _points(points)
    group, scene = query_scene.to(torch.int32), scene.to(torch.int32)
    device = query.device
    index = torch.zeros(len(query), k, dtype=torch.int64, device=device)
    distance = torch.zeros(len(query), k, dtype=torch.float64, device=device)
    found = torch.zeros(len(query), dtype=torch.int32, device=device)
    active = torch.arange(len(query), device=device)
    # Any start is right; the side of a cube that holds about k points of an even cloud is quick.
    extent = float((points.amax(0) - points.amin(0)).max())
    radius = extent * (k / len(points)) ** (1 / dim) or 1.0
    with _stream(query):
        while len(active):
            grid, p, _keep = _grid(points, scene, dim, radius)
            arrays = [as_array(query, wp.vec3d), p, as_array(group, wp.int32)]
            arrays += [as_array(active, wp.int64)]
            arrays += [as_array(index, wp.int64, 2), as_array(distance, wp.float64, 2)]
            inputs = [grid.id, radius * MARGIN, radius, k, *arrays, as_array(found, wp.int32)]
            wp.launch(_kernels().closest, len(active), inputs=inputs, device=p.device)
            active = active[found[active] < k]
            radius *= 2
    return index, distance.to(dtype)
