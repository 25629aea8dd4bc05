"""Buffers of the rigid bodies on the Warp engine.

Nodes are shared among the shards, so what they give to a body is summed per shard, and adjoints of what
many nodes read are kept per shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..core.backend import as_array, warp
from ..core.colliders import Collider
from ..core.colliders_warp import pack
from ..core.shapes import Plane
from .body_kernels import body_kernels
from .contact_kernels import contact_kernels

__all__ = ["BodyScratch"]

LEVELS = 5
"""Velocities of the bodies in a substep: after gravity, two exchanges with nodes, two contacts."""


class BodyScratch:
    """Constants and buffers of the bodies of a `WarpEngine`.

    Args:
        engine: The engine whose nodes, launches and shards they use.
    """

    def __init__(self, engine: Any) -> None:
        wp = warp()
        self.engine = engine
        real, B = engine.real, engine.B
        bodies = self.bodies = engine.model.bodies
        self.R = R = len(bodies.index)
        k = self.k = body_kernels(real, engine.model.dim, engine.cpu)
        self.t = contact_kernels(real, engine.model.dim, engine.cpu)
        options: dict[str, Any] = {"dtype": engine.dtype, "device": engine.device}
        self.count = count = B * R

        def constant(values: Any, kind: Any) -> Any:
            data = torch.as_tensor(np.ascontiguousarray(values)).to(**options)
            return as_array(data, kind)

        def integers(values: Sequence[int]) -> Any:
            return wp.array(values, dtype=wp.int32, device=engine.wp_device)

        most = self.points = max(len(p) for p in bodies.points)
        points, radii = np.zeros((R, most, 3)), np.zeros((R, most))
        for r, (p, radius) in enumerate(zip(bodies.points, bodies.radii, strict=True)):
            points[r, : len(p)], radii[r, : len(p)] = p, radius
        self.c = {
            "center": constant(bodies.center, k.vec3),
            "moment": constant(bodies.moment, k.mat33),
            "inverse": constant(np.linalg.inv(bodies.moment), k.mat33),
            "volume": constant(bodies.volume, real),
            "points": constant(points, k.vec3),
            "radii": constant(radii, real),
            "walls": constant(_wall_poses(bodies.planes), real),
            "own": integers(bodies.index),
            "counts": integers([len(p) for p in bodies.points]),
        }
        shapes = [bodies.colliders[k].shape for k in bodies.index]
        self.bounds = [float(np.linalg.norm(np.abs(s.bounds()).max(0))) for s in shapes]
        """Radius of a ball about the origin of each shape that holds it [m]."""
        self.pull = k.vec3(*bodies.gravity)
        self.wall = pack(Collider(Plane()), real, engine.wp_device)
        self.none = {
            t: wp.empty(0, dtype=t, device=engine.wp_device) for t in (real, k.vec3, k.mat33)
        }
        self.no_integers = integers([])

        # Per shard: what its nodes give, and the adjoints of what they read.
        self.shards = engine.shards
        self._sums = torch.zeros(self.shards, count * 33, **options)
        self._adj_sums = torch.zeros_like(self._sums)
        self.sums, self.adj_sums = self._split_sums(self._sums), self._split_sums(self._adj_sums)
        self._adj = torch.zeros(self.shards, count * (6 * LEVELS + 17), **options)
        self._state = torch.zeros(count * (6 * LEVELS + 17), **options)
        self.state = self._views(self._state)
        self.adj = [self._views(row) for row in self._adj]
        n = 6 * R
        self._systems = torch.zeros(2, count * (36 + 6) + B * n * (n + 1), **options)
        self._factors = torch.zeros(4, max(count * 36, B * n * n), **options)
        self.factors = [as_array(row, real) for row in self._factors]
        cut = [count * 36, count * 6, B * n * n, B * n]
        self.systems, self.adj_systems = (
            [as_array(part, real) for part in row.split(cut)] for row in self._systems
        )
        # Where the bodies are after a substep that is computed again.
        self._moved = torch.zeros(count * 6, **options)
        self.moved = {
            "body_pose": self.state["moved"],
            "body_twist": as_array(self._moved, real),
        }
        self._extra = torch.zeros(0, **options)
        tools, place = len(engine.tools), bodies.index
        self.after = [range(k + 1, e) for k, e in zip(place, [*place[1:], tools], strict=True)]

    def _split_sums(self, data: torch.Tensor) -> tuple[Any, Any]:
        """Three 3×3 sums per body of all shards, then two vectors."""
        head = self.shards * self.count * 27
        flat = data.view(-1)
        return as_array(flat[:head], self.k.mat33), as_array(flat[head:], self.k.vec3)

    def _views(self, row: torch.Tensor) -> dict[str, Any]:
        parts = row.split([self.count * 6] * LEVELS + [self.count * n for n in (3, 7, 7)])
        real = self.engine.real
        return {
            "V": [as_array(p, real) for p in parts[:LEVELS]],
            "center": as_array(parts[LEVELS], self.k.vec3),
            "pose": as_array(parts[LEVELS + 1], real),
            "moved": as_array(parts[LEVELS + 2], real),
        }

    def allocate_adjoint(self) -> None:
        """Buffers a backward pass needs besides those of the engine."""
        if not len(self._extra):
            self._extra = torch.zeros_like(self.engine._total)
            self.extra = as_array(self._extra, self.engine.k.node)

    def clear(self) -> None:
        """Empty what an interrupted substep may have left."""
        for tensor in (self._extra, self._adj, self._adj_sums):
            tensor.zero_()

    def _clear_sums(self, sums: torch.Tensor, shard: int) -> None:
        flat, n = sums.view(-1), self.count
        flat[27 * n * shard : 27 * n * (shard + 1)] = 0
        head = 27 * n * self.shards
        flat[head + 6 * n * shard : head + 6 * n * (shard + 1)] = 0

    def _reduce(self) -> None:
        """Adjoints of all shards into those of shard 0."""
        if self.shards > 1:
            self._adj[0] += self._adj[1:].sum(0)
            self._adj[1:] = 0


def _wall_poses(planes: np.ndarray) -> np.ndarray:
    """Poses that turn the plane z < 0 into each wall, (2 D, 7)."""
    half = np.sqrt(0.5)
    turns = {
        (1, 0, 0): (half, 0, half, 0),
        (-1, 0, 0): (half, 0, -half, 0),
        (0, 1, 0): (half, -half, 0, 0),
        (0, -1, 0): (half, half, 0, 0),
        (0, 0, 1): (1, 0, 0, 0),
        (0, 0, -1): (0, 1, 0, 0),
    }
    return np.array([[*point, *turns[tuple(normal.astype(int))]] for point, normal in planes])
