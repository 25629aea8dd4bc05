"""The trajectories in rollout files: their particles, materials and walls, checked; and their scales."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...sim.core.errors import InputError, StateError, message
from ...sim.io.store import RolloutReader
from .particles import KINDS, Statistics

__all__ = [
    "Source",
    "farthest_points",
    "pooled_statistics",
    "read_positions",
    "require_finite",
    "sources",
]

_WHERE = "ParticleWindows"
BOUNDARY = KINDS["boundary"]


@dataclass(frozen=True)
class Source:
    """One trajectory of one file."""

    reader: RolloutReader
    """Its file; opens itself when read."""
    scene: int
    """Trajectory in the file."""
    windows: int
    """Windows that it holds."""
    kind: Tensor
    """Material ids (N,) int64."""
    bounds: Tensor
    """Walls [m], (D, 2) float64."""
    births: Tensor | None
    """First stored frame of each particle (N,) int64; None: all exist from the start."""

    @property
    def count(self) -> int:
        """Particles N."""
        return len(self.kind)

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.reader.path}, trajectory {self.scene}"


def sources(
    readers: Sequence[RolloutReader],
    span: int,
    stride: int,
    bounds: Sequence[Sequence[float]] | None,
    kinds: Mapping[str, int] | None,
) -> Iterator[Source]:
    """All trajectories of all files, checked against one another.

    Args:
        readers: The files.
        span: Stored frames from a window's first to its last.
        stride: Frames from one window's start to the next one's.
        bounds, kinds: As of `ParticleWindows`.

    Raises:
        InputError: as `ParticleWindows`.
    """
    first = readers[0]
    for reader in readers:
        if reader.dim != first.dim or not math.isclose(reader.dt, first.dt, rel_tol=1e-6):
            raise InputError(
                message(
                    _WHERE,
                    f"files of {first.dim}-D scenes with frames every {first.dt:.6g} s",
                    f"{reader.path}: {reader.dim}-D, every {reader.dt:.6g} s",
                    "Use files of one data set",
                )
            )
        windows = (reader.n_frames - span) // stride + 1
        if windows < 1:
            raise InputError(
                message(
                    _WHERE,
                    f"rollouts of at least {span} frames",
                    f"{reader.path} with {reader.n_frames}",
                    "Shorten the window, or leave the file out",
                )
            )
        walls = _bounds(reader, bounds)
        for scene in range(reader.n_trajectories):
            kind = _kinds(reader, scene, kinds)
            yield Source(reader, scene, windows, kind, walls, _births(reader, scene, kind))
        reader.close()


def read_positions(source: Source, start: int, length: int, stride: int = 1) -> Tensor:
    """Stored positions (length, N, D) [m], finite."""
    x = source.reader.window(source.scene, start, length, ["x"], stride)["x"]
    require_finite(x, source, start, stride)
    return x


def require_finite(x: Tensor, source: Source, start: int, stride: int = 1) -> None:
    """Raise `StateError` that names file, trajectory and frame of the first NaN or infinity."""
    finite = torch.isfinite(x).flatten(1).all(1)
    if not bool(finite.all()):
        frame = start + int((~finite).nonzero()[0]) * stride
        raise StateError(
            message(
                _WHERE,
                "finite positions",
                f"NaN or infinity in {source.name}, frame {frame}",
                "Leave the file out, or simulate it again",
            ),
            step=frame,
            field="x",
        )


def pooled_statistics(sources: Sequence[Source], stride: int = 1) -> Statistics:
    """Scales over all free particles, frames and trajectories; see `ParticleWindows.statistics`.

    Args:
        sources: The trajectories; each frame is read once.
        stride: Stored frames per frame.
    """
    velocity, acceleration = _Pool(), _Pool()
    for source in sources:
        free = source.kind != BOUNDARY
        births = torch.zeros(source.count) if source.births is None else source.births
        past: deque[Tensor] = deque(maxlen=2 * stride + 1)
        for t in range(source.reader.n_frames):
            past.append(read_positions(source, t, 1)[0].double())
            if t >= stride:
                velocity.add((past[-1] - past[-1 - stride])[free & (births <= t - stride)])
            if t >= 2 * stride:
                change = past[-1] - 2 * past[-1 - stride] + past[0]
                acceleration.add(change[free & (births <= t - 2 * stride)])
        source.reader.close()
    return Statistics(*velocity.result(), *acceleration.result())


class _Pool:
    """Mean and squared deviations of rows (n, D), merged batch by batch (Chan et al. 1983)."""

    def __init__(self) -> None:
        self.count, self.mean, self.second = 0, torch.tensor(0.0), torch.tensor(0.0)

    def add(self, values: Tensor) -> None:
        if n := len(values):
            total, mean = self.count + n, values.mean(0)
            delta = mean - self.mean
            spread = (values - mean).square().sum(0)
            self.second = self.second + spread + delta.square() * (self.count * n / total)
            self.mean = self.mean + delta * (n / total)
            self.count = total

    def result(self) -> tuple[Tensor, Tensor]:
        if not self.count:
            raise InputError(
                message(
                    "ParticleWindows.statistics",
                    "particles over at least three frames",
                    "none that is free to move",
                    "Use longer trajectories",
                )
            )
        return self.mean, (self.second / self.count).sqrt()


def farthest_points(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices (count,) of points that spread evenly: each the farthest from those before it.

    Args:
        x: Points [m], (N, D).
        count: Number of points, at most N.
        generator: Draws the first one.

    Source: Gonzalez 1985 (farthest-first traversal). Cost: count · N distances.
    """
    chosen = torch.empty(count, dtype=torch.long)
    chosen[0] = torch.randint(len(x), (), generator=generator)
    distance = torch.full((len(x),), torch.inf, dtype=x.dtype)
    for k in range(1, count):
        distance = torch.minimum(distance, (x - x[chosen[k - 1]]).square().sum(-1))
        chosen[k] = distance.argmax()
    return chosen


def _bounds(reader: RolloutReader, given: Sequence[Sequence[float]] | None) -> Tensor:
    domain = reader.config.get("domain") or {}
    if given is None and not {"lower", "upper"} <= domain.keys():
        raise InputError(
            message(
                _WHERE,
                "walls in the file's config as 'domain': {'lower', 'upper'}",
                f"{reader.path} without",
                "Pass bounds=((lower, upper), …)",
            )
        )
    rows = list(zip(domain["lower"], domain["upper"], strict=True)) if given is None else given
    walls = torch.tensor(rows, dtype=torch.float64)
    if walls.shape != (reader.dim, 2) or not bool((walls[:, 0] < walls[:, 1]).all()):
        raise InputError(
            message(
                _WHERE,
                f"bounds of shape ({reader.dim}, 2), lower below upper",
                str(walls.tolist()),
                f"Correct bounds=, or the config of {reader.path}",
            )
        )
    return walls


def _kinds(reader: RolloutReader, scene: int, given: Mapping[str, int] | None) -> Tensor:
    static = reader.static(scene)
    if given is None and "material" in static:
        return static["material"].long()
    bodies = reader.config.get("run", {}).get("bodies", {})
    kind = torch.full((reader.particle_count,), -1)
    for name, (start, stop) in reader.groups.items():
        material = bodies.get(name, {}).get("material", name)
        kind[start:stop] = (given or {}).get(name, KINDS.get(material, -1))
    if bool((kind < 0).any()):
        raise InputError(
            message(
                _WHERE,
                f"a material id for each of {int((kind < 0).sum())} particles without",
                f"{reader.path} with groups {list(reader.groups)}",
                "Pass kinds={group: id}, see KINDS",
            )
        )
    return kind


def _births(reader: RolloutReader, scene: int, kind: Tensor) -> Tensor | None:
    """First frame of each particle; the groups of emitters wait at one point until they enter.

    Raises:
        InputError: coinciding particles outside of emitters; those of kind "boundary" may coincide.
        StateError: positions that are not finite.
    """
    everything = Source(reader, scene, 0, kind, torch.empty(0), None)
    x = read_positions(everything, 0, 1)[0].numpy()
    if not _coincide(x):
        return None
    waiting = np.zeros(len(x), dtype=bool)
    for start, stop in reader.groups.values():
        waiting[start:stop] = stop - start > 1 and (x[start:stop] == x[start]).all()
    free = (kind != BOUNDARY).numpy() & ~waiting
    if count := _coincide(x[free]):
        raise InputError(
            message(
                _WHERE,
                "particles at different positions",
                f"{count} that coincide with others in {everything.name}, frame 0",
                "Remove the duplicates from the scene",
            )
        )
    births = np.where(waiting, reader.n_frames, 0)
    for t in range(reader.n_frames - 1, 0, -1):
        births[waiting & (read_positions(everything, t, 1)[0].numpy() != x).any(-1)] = t
    return torch.from_numpy(births)


def _coincide(x: np.ndarray) -> int:
    """Number of points that repeat an earlier one."""
    # Equal points have equal projections, and sorting numbers is cheap; rows decide the rest.
    line = x.astype(np.float64) @ np.array([1.0, np.sqrt(2.0), np.sqrt(3.0)])[: x.shape[1]]
    if len(np.unique(line)) == len(x):
        return 0
    return len(x) - len(np.unique(x, axis=0))
