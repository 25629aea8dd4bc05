"""A small stored rollout: a jelly ball falls into a pool while a paddle swings."""

from __future__ import annotations

import numpy as np
import pytest


class PoolReader:
    """Reader of a made-up rollout, with the interface of stored ones."""

    def __init__(self, dim: int = 3, n_frames: int = 6, spacing: float = 0.05) -> None:
        self.dim, self.n_frames, self.spacing = dim, n_frames, spacing
        self.times = 0.02 * np.arange(n_frames)
        half = spacing / 2
        sides = [np.arange(half, 1.0, spacing)] * (dim - 1) + [np.arange(half, 0.2, spacing)]
        self.water = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, dim)
        ball = np.stack(np.meshgrid(*[np.arange(-4, 5) * spacing] * dim, indexing="ij"), -1)
        ball = ball.reshape(-1, dim)
        self.ball = ball[np.linalg.norm(ball, axis=1) < 0.13]
        n = len(self.water)
        self.groups = {"water": (0, n), "jelly": (n, n + len(self.ball))}
        self.config = {
            "domain": {"lower": [0.0] * dim, "upper": [1.0] * dim},
            "tools": [
                {"name": "paddle", "shape": {"type": "Box", "half_extents": [0.02, 0.1, 0.1]}}
            ],
        }

    def center(self, index: int) -> np.ndarray:
        """Middle of the jelly [m]."""
        return np.array([0.5] * (self.dim - 1) + [0.8 - 0.08 * index])

    def frame(self, index: int, trajectory: int = 0) -> dict:
        x = np.concatenate([self.water, self.ball + self.center(index)])
        v = np.zeros_like(x)
        v[len(self.water) :, -1] = -4.0
        y = 0.5 if self.dim == 3 else 0.0
        pose = [[0.15, y, 0.5 + 0.02 * index, 1.0, 0.0, 0.0, 0.0]]
        return {"x": x, "v": v, "J": np.full(len(self.water), 0.98), "tool_pose": np.array(pose)}


@pytest.fixture(scope="session")
def pool() -> PoolReader:
    return PoolReader()


@pytest.fixture(scope="session")
def pool2d() -> PoolReader:
    return PoolReader(dim=2, spacing=0.025)
