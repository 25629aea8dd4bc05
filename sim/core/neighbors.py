"""Neighbours within a radius and nearest neighbours, per scene.

    ball_query      {(j, i): |p_j − q_i| ≤ r,  scene(j) = scene(i)}
    radius_graph    the same with p = q = x
    nearest         the k points of the scene of q_i with the smallest |p_j − q_i|

Distances are compared in float64. One tree per scene on the CPU (scipy), one hash grid whose points
are grouped by scene on CUDA (Warp). Nothing here is differentiable: compute distances from the
indices where a gradient is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .errors import InputError, check_finite, message
from .neighbors_warp import grid_ball_query, grid_nearest

__all__ = ["ball_query", "nearest", "radius_graph"]


def radius_graph(
    x: Tensor, radius: float, scene: Tensor | None = None, loop: bool = True
) -> Tensor:
    """All pairs of points of one scene that are at most `radius` apart.

    Args:
        x: positions [m], (M, D) with D in 1 … 3.
        radius: r > 0 [m].
        scene: scene of each point, integers (M,), ascending; None: all in one.
        loop: with the pairs of a point and itself.

    Returns:
        Rows (source, target), int64 (2, E), sorted by target, then by source. Every pair stands in
        both directions.

    Raises:
        InputError: wrong shape, type or order of `scene`, or radius not positive and finite.
        StateError: NaN or infinity in x.
    """
    where = "radius_graph"
    _check_points(where, x=x)
    scene = _check_scene(where, "scene", scene, x)
    edges = _pairs(x, x, _check_radius(where, radius), scene, scene)
    return edges if loop else edges[:, edges[0] != edges[1]]


def ball_query(
    query: Tensor,
    points: Tensor,
    radius: float,
    query_scene: Tensor | None = None,
    scene: Tensor | None = None,
) -> Tensor:
    """All points within `radius` of each query of the same scene.

    Args:
        query: positions [m], (Q, D) with D in 1 … 3.
        points: positions [m], (P, D), same dtype and device.
        radius: r > 0 [m].
        query_scene: scene of each query, integers (Q,), ascending; None: all in one.
        scene: scene of each point, integers (P,), ascending; given with `query_scene` or not at all.

    Returns:
        Rows (point, query), int64 (2, E), sorted by query, then by point. A query without points
        does not occur.

    Raises:
        InputError: wrong shape, type or order of scenes, or radius not positive and finite.
        StateError: NaN or infinity in the positions.
    """
    where = "ball_query"
    query_scene, scene = _check_pair(where, query, points, query_scene, scene)
    return _pairs(query, points, _check_radius(where, radius), query_scene, scene)


def nearest(
    query: Tensor,
    points: Tensor,
    k: int,
    query_scene: Tensor | None = None,
    scene: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest points of each query among those of the same scene.

    Args:
        query: positions [m], (Q, D) with D in 1 … 3.
        points: positions [m], (P, D), same dtype and device.
        k: number of neighbours, 1 ≤ k ≤ points in each scene that has queries.
        query_scene: scene of each query, integers (Q,), ascending; None: all in one.
        scene: scene of each point, integers (P,), ascending; given with `query_scene` or not at all.

    Returns:
        Indices, int64 (Q, k), and distances [m], (Q, k), ascending. Which of several points at equal
        distance comes first, or in at all as the k-th, is not specified.

    Raises:
        InputError: wrong shape, type or order of scenes, or a scene with fewer than k points.
        StateError: NaN or infinity in the positions.
    """
    where = "nearest"
    query_scene, scene = _check_pair(where, query, points, query_scene, scene)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(message(where, "an integer k ≥ 1", k, "Ask for one neighbour or more"))
    for s, q, p in _scenes(query_scene, scene):
        if q.stop > q.start and p.stop - p.start < k:
            raise InputError(
                message(
                    where,
                    f"at least k = {k} points in each scene that has queries",
                    f"{p.stop - p.start} in scene {s}",
                    "Lower k or give more points",
                )
            )
    if len(query) == 0:
        return query_scene.new_zeros(0, k), query.new_zeros(0, k)
    if query.is_cuda:
        return grid_nearest(query.detach(), points.detach(), k, query_scene, scene)
    index = np.empty((len(query), k), np.int64)
    distance = np.empty((len(query), k))
    a, b = _numpy(query), _numpy(points)
    for _, q, p in _scenes(query_scene, scene):
        if q.stop > q.start:
            # A list of ranks keeps the last axis where k = 1.
            distance[q], index[q] = cKDTree(b[p]).query(a[q], k=np.arange(1, k + 1))
            index[q] += p.start
    return (
        torch.from_numpy(index).to(query.device),
        torch.from_numpy(distance).to(query.device, query.dtype),
    )


def _pairs(
    query: Tensor, points: Tensor, radius: float, query_scene: Tensor, scene: Tensor
) -> Tensor:
    """(point, query) pairs within the radius, sorted by query, then by point."""
    if not (len(query) and len(points)):
        return query_scene.new_zeros(2, 0)
    if query.is_cuda:
        return grid_ball_query(query.detach(), points.detach(), radius, query_scene, scene)
    a, b = _numpy(query), _numpy(points)
    keys = [np.zeros(0, np.int64)]
    for _, q, p in _scenes(query_scene, scene):
        if q.stop > q.start and p.stop > p.start:
            near = cKDTree(a[q]).sparse_distance_matrix(
                cKDTree(b[p]), radius, output_type="ndarray"
            )
            keys.append((near["i"] + q.start) * len(b) + (near["j"] + p.start))
    # Scenes ascend, so sorting each part sorts the whole.
    key = np.concatenate([np.sort(part) for part in keys])
    return torch.from_numpy(np.stack([key % len(b), key // len(b)])).to(query.device)


def _scenes(query_scene: Tensor, scene: Tensor) -> Iterator[tuple[int, slice, slice]]:
    """Number, queries and points of each scene."""
    a, b = query_scene.cpu().numpy(), scene.cpu().numpy()
    for s in np.union1d(a, b):
        ends = [np.searchsorted(ids, s, side) for ids in (a, b) for side in ("left", "right")]
        yield int(s), slice(*ends[:2]), slice(*ends[2:])


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().to("cpu", torch.float64).numpy()


def _check_points(where: str, **tensors: Tensor) -> None:
    for name, x in tensors.items():
        if x.ndim != 2 or not 1 <= x.shape[1] <= 3 or not x.is_floating_point():
            raise InputError(
                message(where, f"{name} of shape (M, D), D in 1 … 3, floating point", x)
            )
    check_finite(where, **tensors)


def _check_pair(
    where: str,
    query: Tensor,
    points: Tensor,
    query_scene: Tensor | None,
    scene: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _check_points(where, query=query, points=points)
    if (query.shape[1], query.dtype, query.device) != (
        points.shape[1],
        points.dtype,
        points.device,
    ):
        raise InputError(
            message(
                where,
                "query and points of one dimension, dtype and device",
                f"{tuple(query.shape)} {query.dtype} {query.device} and "
                f"{tuple(points.shape)} {points.dtype} {points.device}",
            )
        )
    if (query_scene is None) != (scene is None):
        missing = "query_scene" if query_scene is None else "scene"
        raise InputError(message(where, "both query_scene and scene, or neither", f"no {missing}"))
    return (
        _check_scene(where, "query_scene", query_scene, query),
        _check_scene(where, "scene", scene, points),
    )


def _check_scene(where: str, name: str, scene: Tensor | None, x: Tensor) -> Tensor:
    if scene is None:
        return torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if scene.shape != x.shape[:1] or scene.dtype != torch.int64 or scene.device != x.device:
        raise InputError(message(where, f"{name} int64 of shape ({len(x)},) on {x.device}", scene))
    if bool((scene[1:] < scene[:-1]).any()):
        raise InputError(
            message(where, f"{name} ascending", "scenes out of order", "Sort the points by scene")
        )
    return scene


def _check_radius(where: str, radius: float) -> float:
    radius = float(radius)
    if not (math.isfinite(radius) and radius > 0):
        raise InputError(message(where, "a finite radius > 0 m", radius))
    return radius
