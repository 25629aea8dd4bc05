"""Rollout files as training data: windows, normalization and the error measure of The Well."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..core.errors import InputError
from .store_read import RolloutReader

__all__ = ["FieldStats", "RolloutWindows", "field_stats", "vrmse"]

OPEN_FILES = 64
"""Files that one process keeps open; systems allow 256 to 1024 handles."""

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class RolloutWindows(Dataset[dict[str, Tensor]]):
    """Windows of consecutive frames from one or many rollout files.

    Args:
        paths: One file or several; they need not have the same number of particles.
        length: Frames per window.
        stride: Frames from one window's start to the next one's.
        fields: Names to read; None reads every field.
        frame_stride: Step between the frames inside a window.
        trajectories: Scenes to use in every file, e.g. to split training and test; None for all.
        static: Also give the fields that do not change with time.

    Each item is name to tensor (length, particles of the field[, D[, D]]), `time` [s] (length,),
    and with `static` the constant fields (N,) or (N, D). Works with any number of `DataLoader`
    workers.

    Raises:
        InputError: no window of this length exists in any file.
    """

    def __init__(
        self,
        paths: Paths,
        length: int,
        stride: int = 1,
        fields: Iterable[str] | None = None,
        *,
        frame_stride: int = 1,
        trajectories: Sequence[int] | None = None,
        static: bool = False,
    ) -> None:
        if length < 1 or stride < 1 or frame_stride < 1:
            raise InputError(
                f"RolloutWindows: expected length, stride, frame_stride >= 1; got {length}, "
                f"{stride}, {frame_stride}. Pass positive counts of frames."
            )
        self.length, self.stride, self.frame_stride = length, stride, frame_stride
        self.fields = None if fields is None else tuple(fields)
        self.static = static
        self.readers = [RolloutReader(path) for path in _listed(paths)]
        self._scenes = []
        counts = []
        span = (length - 1) * frame_stride + 1
        for reader in self.readers:
            reader._check([n for n in self.fields or () if n not in ("tool_pose", "body_twist")])
            scenes = range(reader.n_trajectories) if trajectories is None else tuple(trajectories)
            if any(not 0 <= k < reader.n_trajectories for k in scenes):
                raise InputError(
                    f"RolloutWindows: expected trajectories in [0, {reader.n_trajectories}); got "
                    f"{list(scenes)} for {reader.path}. Pass scenes that every file has."
                )
            per_scene = max(0, (reader.n_frames - span) // stride + 1)
            self._scenes.append((scenes, per_scene))
            counts.append(len(scenes) * per_scene)
            # Opened again on demand, once per process, so that long lists do not exhaust handles
            # before the first window and workers do not inherit any.
            reader.close()
        self._recent: list[int] = []
        self._ends = list(accumulate(counts))
        if not self._ends or not self._ends[-1]:
            longest = max((r.n_frames for r in self.readers), default=0)
            raise InputError(
                f"RolloutWindows: expected rollouts of at least {span} frames; got "
                f"{len(self.readers)} files with at most {longest} frames. Lower length or write "
                "longer rollouts."
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def _use(self, which: int) -> RolloutReader:
        """Reader of a file, with only the most recently used files kept open."""
        if which in self._recent:
            self._recent.remove(which)
        elif len(self._recent) == OPEN_FILES:
            self.readers[self._recent.pop(0)].close()
        self._recent.append(which)
        return self.readers[which]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"RolloutWindows: expected index below {len(self)}; got {index}. Check len()."
            )
        index %= len(self)
        which = bisect.bisect_right(self._ends, index)
        index -= self._ends[which - 1] if which else 0
        scenes, per_scene = self._scenes[which]
        reader, trajectory = self._use(which), scenes[index // per_scene]
        start = (index % per_scene) * self.stride
        item = reader.window(trajectory, start, self.length, self.fields, self.frame_stride)
        if self.static:
            item.update(reader.static(trajectory))
        return item


@dataclass(frozen=True)
class FieldStats:
    """Normalization of one field, per component; float64 tensors of shape () or (D,) or (D, D)."""

    mean: Tensor
    """Mean over trajectories, frames and particles."""
    std: Tensor
    """Standard deviation over the same."""
    mean_delta: Tensor
    """Mean change from one frame to the next."""
    std_delta: Tensor
    """Standard deviation of that change."""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {name: value.tolist() for name, value in vars(self).items()}


def field_stats(
    paths: Paths,
    fields: Iterable[str] | None = None,
    *,
    trajectories: Sequence[int] | None = None,
) -> dict[str, FieldStats]:
    """Mean and standard deviation of fields and of their change per frame, over many rollouts.

    Streams one frame at a time and merges moments exactly:

        M₂ ← M₂ + m₂ + δ² n m/(n + m),   δ = difference of the two means.

    Args:
        paths: One file or several.
        fields: Names; None takes every field of the first file.
        trajectories: Scenes to use, None for all.

    Returns:
        Name to `FieldStats`. Changes of a rollout with a single frame are NaN: there are none.

    Source: Chan, Golub, LeVeque 1983, Eq. 2.1; The Well's stats.yaml for the choice of quantities.
    """
    readers = [RolloutReader(path) for path in _listed(paths)]
    names = list(readers[0].fields) if fields is None else list(fields)
    moments = {name: (_Moments(), _Moments()) for name in names}
    for reader in readers:
        scenes = range(reader.n_trajectories) if trajectories is None else trajectories
        for name in names:
            value, change = moments[name]
            view = reader[name]
            for scene in scenes:
                before = None
                for t in range(reader.n_frames):
                    now = view[scene, t].astype(np.float64)
                    value.add(now)
                    if before is not None:
                        change.add(now - before)
                    before = now
        reader.close()
    return {n: FieldStats(*value.result(), *change.result()) for n, (value, change) in
            moments.items()}


class _Moments:
    """Count, mean and centered second moment along the first axis, merged batch by batch."""

    def __init__(self) -> None:
        self.count, self.mean, self.second = 0, np.array(np.nan), np.array(np.nan)

    def add(self, values: np.ndarray) -> None:
        count, mean = len(values), values.mean(axis=0)
        second = ((values - mean) ** 2).sum(axis=0)
        if not self.count:
            self.count, self.mean, self.second = count, mean, second
            return
        total, delta = self.count + count, mean - self.mean
        self.second = self.second + second + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def result(self) -> tuple[Tensor, Tensor]:
        std = np.sqrt(self.second / max(self.count, 1))
        return torch.as_tensor(self.mean), torch.as_tensor(std)


def vrmse(x: Tensor, y: Tensor, dim: int | tuple[int, ...] = -2, eps: float = 1e-7) -> Tensor:
    """Variance-scaled root mean square error, √(⟨(x − y)²⟩ / (⟨(y − ⟨y⟩)²⟩ + ε)).

    1 is the error of predicting the mean of `y`, 0 is exact.

    Args:
        x: Prediction, any unit, e.g. (..., N, D).
        y: Truth, same shape and unit.
        dim: Axes of the averages ⟨·⟩; the default is the particle axis of a vector field, which
            keeps frames and components apart. Use -1 for scalar fields (..., N).
        eps: Guard against constant fields, in the squared unit of `y`.

    Returns:
        Error [-], shape of `x` without the axes `dim`.

    Raises:
        InputError: shapes differ.

    Differentiable in x and y; the derivative at x = y is set to 0, a minimum of the error.
    Source: Ohana et al. 2024 (The Well), section 4, VRMSE.
    """
    if x.shape != y.shape:
        raise InputError(
            f"vrmse: expected x of the shape of y {tuple(y.shape)}; got {tuple(x.shape)}. "
            "Compare equal frames and particles."
        )
    ratio = ((x - y) ** 2).mean(dim) / (y.var(dim, correction=0) + eps)
    positive = ratio > 0
    # The inner where keeps √'s infinite slope at 0 out of the graph; NaN passes through the outer.
    return torch.where(ratio == 0, ratio, torch.where(positive | ratio.isnan(), ratio, 1.0).sqrt())


def _listed(paths: Paths) -> list[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)
