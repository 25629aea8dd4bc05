"""Trajectories of particles on disk as windows to learn from: split, sampled, checked."""

from __future__ import annotations

import bisect
import copy
import json
import math
import os
import threading
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...sim.core.errors import InputError, message
from ...sim.io.store import RolloutWindows
from .particles import ParticleBatch, Statistics
from .sources import (
    Source,
    farthest_points,
    pooled_statistics,
    read_positions,
    require_finite,
    sources,
)

__all__ = ["ParticleWindows"]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class ParticleWindows(Dataset[ParticleBatch]):
    """Windows of particle positions with the positions that follow, from rollout files.

    A sample is a `ParticleBatch` with S = 1: W positions of each particle, oldest first, and the T
    that follow. Join samples with `collate`, or train on `EpochBatches`. Files are read when a sample
    is asked for, in any thread or process, and may have different numbers of particles. Particles of
    emitters appear once they have entered. `split` separates whole trajectories, never frames of one.

    Args:
        paths: Rollout files, at least one. See `from_folder` for generated or imported data sets.
        window: W, positions that are given; W − 1 velocities.
        targets: T, positions that follow; 0 for none.
        stride: Frames from one sample's start to the next one's.
        frame_stride: Stored frames per frame of a sample; statistics count these frames too.
        sensors: Particles per sample, a number, or a share in (0, 1); None takes all. They are the
            same material points over a whole trajectory.
        sampling: "random" without replacement, or "farthest": each point the farthest from those
            before it in the first frame.
        copies: Times that each trajectory appears, each with sensors of its own.
        seed: Seed of the sensors; `resample` draws others.
        bounds: Lower and upper wall of each axis [m], (D, 2); None reads them from the files.
        kinds: Material id by particle group, see `KINDS`; None reads the ids from the files.
        reference: Whether samples carry the first stored positions as undeformed state.
        dtype: Precision of the samples.

    Raises:
        InputError: no or repeated files, files that do not belong together, too few frames or
            particles, coinciding particles, unknown walls or materials.
        StateError: positions that are not finite; names trajectory and frame. Raised when read.
        StoreError: a file that is cut, damaged or no rollout.

    Source: window and sensors as in Viswanath et al. 2024 (GIOROM); split by trajectory and pooled
    statistics as in Sanchez-Gonzalez et al. 2020 (GNS).
    """

    def __init__(
        self,
        paths: Paths,
        window: int = 6,
        targets: int = 1,
        *,
        stride: int = 1,
        frame_stride: int = 1,
        sensors: int | float | None = None,
        sampling: Literal["random", "farthest"] = "random",
        copies: int = 1,
        seed: int = 0,
        bounds: Sequence[Sequence[float]] | None = None,
        kinds: Mapping[str, int] | None = None,
        reference: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        where = "ParticleWindows"
        files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        resolved = [Path(p).resolve() for p in files]
        if not files or len(set(resolved)) < len(files):
            twice = sorted({str(p) for p in resolved if resolved.count(p) > 1})
            got = f"{twice} more than once" if twice else "none"
            raise InputError(message(where, "different rollout files", got, "List each file once"))
        if window < 2 or targets < 0 or copies < 1:
            got = f"{window}, {targets}, {copies}"
            raise InputError(
                message(where, "window >= 2, targets >= 0, copies >= 1", got, "Correct them")
            )
        if sampling not in ("random", "farthest"):
            raise InputError(
                message(where, "sampling 'random' or 'farthest'", repr(sampling), "Choose one")
            )
        self.window, self.targets, self.frame_stride = window, targets, frame_stride
        self.stride, self.sensors, self.sampling = stride, sensors, sampling
        self.copies, self.seed, self.dtype = copies, seed, dtype
        self.reference, self._rest = reference, dict[int, Tensor]()
        self._frames = RolloutWindows(
            files, window + targets, stride, ["x"], frame_stride=frame_stride
        )
        span = (window + targets - 1) * frame_stride + 1
        self._sources = list(sources(self._frames.readers, span, stride, bounds, kinds))
        self._lock = threading.Lock()
        self._first = list(accumulate((s.windows for s in self._sources), initial=0))
        for source in self._sources:
            self._check_sensors(source)
            if reference and source.births is not None:
                raise InputError(
                    message(
                        where,
                        "particles that exist from the start where reference=True",
                        f"emitters in {source.name}",
                        "Pass reference=False",
                    )
                )
        self.trajectories: tuple[int, ...]
        """Trajectories in use, as positions in the list of all scenes of all files."""
        self._use(range(len(self._sources)))

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike[str], split: str = "train", **options: Any
    ) -> ParticleWindows:
        """Part of a data set that `rheograd generate` or `import_gns` wrote.

        Args:
            folder: Folder with a metadata.json.
            split: "train", "validation" or "test", as far as the folder has it.
            options: As of the class. With frame_stride 1, `statistics` gives those of the folder's
                training trajectories, for every split.

        Raises:
            InputError: no finished data set, or no such split. And as the class.
        """
        path = Path(folder) / "metadata.json"
        try:
            metadata = json.loads(path.read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise InputError(
                message(
                    "ParticleWindows.from_folder",
                    "a finished data set with metadata.json",
                    f"{folder} ({type(error).__name__})",
                    f"Finish it with `rheograd generate --resume {folder}`",
                )
            ) from error
        if not metadata.get(split):
            known = [k for k in ("train", "validation", "test") if metadata.get(k)]
            raise InputError(
                message("ParticleWindows.from_folder", f"a split of {known}", repr(split), "")
            )
        data = cls([Path(folder) / name for name in metadata[split]], **options)
        if data.frame_stride == 1 and "statistics" in metadata:
            data._statistics = Statistics.from_dict(metadata["statistics"])
        return data

    def _check_sensors(self, source: Source) -> None:
        n, N = self.sensors, source.count
        if n is not None and not (0 < n < 1 if isinstance(n, float) else 1 <= n <= N):
            raise InputError(
                message(
                    "ParticleWindows",
                    f"sensors a number in [1, {N}] or a share in (0, 1)",
                    n,
                    f"There are {N} particles in {source.name}",
                )
            )

    @property
    def dim(self) -> int:
        """Dimension D."""
        return self._frames.readers[0].dim

    @property
    def frame_time(self) -> float:
        """Time between frames of a sample [s]."""
        return self._frames.readers[0].dt * self.frame_stride

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return (
            f"ParticleWindows({len(self)} samples of {len(self.trajectories)} trajectories, "
            f"window={self.window}, targets={self.targets}, sensors={self.sensors})"
        )

    # Selection

    def subset(self, trajectories: Sequence[int]) -> ParticleWindows:
        """The same data, restricted to some of the trajectories in use."""
        unknown = sorted(set(trajectories) - set(self.trajectories))
        if unknown or not len(trajectories) or len(set(trajectories)) < len(trajectories):
            raise InputError(
                message(
                    "ParticleWindows.subset",
                    f"different trajectories out of {list(self.trajectories)}, at least one",
                    str(list(trajectories)),
                    "",
                )
            )
        part = copy.copy(self)
        part._lock = self._lock  # they share the open files
        part._use(trajectories)
        return part

    def split(
        self, validation: int, generator: torch.Generator | None = None
    ) -> tuple[ParticleWindows, ParticleWindows]:
        """Training and validation data without a common trajectory.

        Args:
            validation: Number of trajectories to hold out.
            generator: Draws them; None takes the last ones.
        """
        total = len(self.trajectories)
        if not 0 < validation < total:
            raise InputError(
                message(
                    "ParticleWindows.split",
                    f"1 … {total - 1} trajectories for validation",
                    validation,
                    "Use more trajectories",
                )
            )
        order = torch.randperm(total, generator=generator) if generator else torch.arange(total)
        cut = total - validation
        parts = (sorted(self.trajectories[i] for i in o) for o in (order[:cut], order[cut:]))
        train, held = (self.subset(p) for p in parts)
        return train, held

    def resample(self, generator: torch.Generator) -> None:
        """Draw other sensors, for example before each epoch (with `DataLoader` workers that do not
        persist)."""
        self.seed = int(torch.randint(2**62, (), generator=generator))
        self._drawn.clear()

    def sensor_indices(self, trajectory: int, copy: int = 0) -> Tensor:
        """Particles of the samples of one trajectory and copy, ascending, (n,) int64."""
        key = (trajectory, copy)
        if key not in self._drawn:
            self._drawn[key] = self._draw(*key)
        return self._drawn[key]

    def _draw(self, trajectory: int, copy: int) -> Tensor:
        source = self._sources[trajectory]
        N = source.count
        if self.sensors is None:
            return torch.arange(N)
        n = self.sensors
        n = max(1, round(n * N)) if isinstance(n, float) else n
        words = np.random.SeedSequence((self.seed, trajectory, copy)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
        if self.sampling == "farthest":
            if source.births is not None:
                raise InputError(
                    message(
                        "ParticleWindows",
                        "sampling='random' where particles enter through emitters",
                        "sampling='farthest'",
                        "Pass sampling='random'",
                    )
                )
            with self._lock:
                x = read_positions(source, 0, 1)[0]
            return farthest_points(x, n, generator).sort().values
        index = torch.randperm(N, generator=generator)[:n].sort().values
        if source.births is not None:
            # The first particle to enter is always seen, so that no window is empty.
            earliest = int(source.births.argmin())
            if earliest not in index:
                index = torch.cat([index[1:], torch.tensor([earliest])]).sort().values
        return index

    # Samples

    def _skipped(self, trajectory: int) -> int:
        """Windows of a trajectory that start before any particle exists."""
        source = self._sources[trajectory]
        if source.births is None:
            return 0
        return min(source.windows, math.ceil(int(source.births.min()) / self.stride))

    def _use(self, trajectories: Sequence[int]) -> None:
        self.trajectories = tuple(trajectories)
        counts = (self._sources[k].windows - self._skipped(k) for k in self.trajectories)
        self._ends = list(accumulate(counts))
        self._drawn: dict[tuple[int, int], Tensor] = {}
        self._statistics: Statistics | None = None

    def __len__(self) -> int:
        return self.copies * self._ends[-1]

    def where(self, index: int) -> tuple[int, int, int]:
        """Trajectory, copy and first stored frame of a sample."""
        if not 0 <= index < len(self):
            raise IndexError(
                f"ParticleWindows: expected an index in [0, {len(self)}); got {index}. Check len()."
            )
        copy, rest = divmod(index, self._ends[-1])
        which = bisect.bisect_right(self._ends, rest)
        rest -= self._ends[which - 1] if which else 0
        trajectory = self.trajectories[which]
        return trajectory, copy, (rest + self._skipped(trajectory)) * self.stride

    def __getitem__(self, index: int) -> ParticleBatch:
        trajectory, copy, start = self.where(index + len(self) if index < 0 else index)
        source = self._sources[trajectory]
        with self._lock:  # HDF5 reads one array at a time anyway
            x = self._frames[self._first[trajectory] + start // self.stride]["x"]
        require_finite(x, source, start, self.frame_stride)
        return self._batch(x, trajectory, start, self.sensor_indices(trajectory, copy))

    def trajectory(self, trajectory: int, copy: int = 0, *, dense: bool = False) -> ParticleBatch:
        """A whole trajectory: its first W positions, and all that follow as target.

        Args:
            trajectory: One of `trajectories`.
            copy: Which draw of sensors.
            dense: All particles instead of the sensors.
        """
        source = self._sources[trajectory]
        start = self._skipped(trajectory) * self.stride
        length = (source.reader.n_frames - 1 - start) // self.frame_stride + 1
        with self._lock:
            x = read_positions(source, start, length, self.frame_stride)
            source.reader.close()
        index = torch.arange(source.count) if dense else self.sensor_indices(trajectory, copy)
        return self._batch(x, trajectory, start, index)

    def _batch(self, x: Tensor, trajectory: int, start: int, index: Tensor) -> ParticleBatch:
        source, rest = self._sources[trajectory], None
        if self.reference:
            if trajectory not in self._rest:
                with self._lock:
                    self._rest[trajectory] = read_positions(source, 0, 1)[0].to(self.dtype)
            rest = self._rest[trajectory][index]
        if source.births is not None:
            index = index[source.births[index] <= start]
        x = x[:, index].transpose(0, 1).to(self.dtype)
        return ParticleBatch(
            positions=x[:, : self.window].contiguous(),
            kind=source.kind[index],
            scene=torch.zeros(len(index), dtype=torch.long),
            bounds=source.bounds[None].to(self.dtype),
            target=x[:, self.window :].contiguous() if x.shape[1] > self.window else None,
            reference=rest,
        )

    def statistics(self) -> Statistics:
        """Scales of velocities and accelerations of the trajectories in use, float64.

            v_k = x_k − x_{k−1} [m/frame],   a_k = x_{k+1} − 2 x_k + x_{k−1} [m/frame²]

        Pooled over all particles (not only sensors, without kind "boundary"), frames and
        trajectories: std² is the mean of the squared deviations from the one common mean. Reads
        every frame once and keeps the result.
        """
        if self._statistics is None:
            chosen = [self._sources[k] for k in self.trajectories]
            with self._lock:
                self._statistics = pooled_statistics(chosen, self.frame_stride)
        return self._statistics
