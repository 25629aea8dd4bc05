"""Reading rollouts: lazily, also while they are being written or after their writer was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError
from .store_format import (
    FieldLayout,
    Layout,
    StoreError,
    frame_count,
    open_store,
    read_layout,
)

__all__ = ["FieldView", "RolloutReader"]


class FieldView:
    """A stored array (trajectory, time, particle[, D[, D]]) that reads what it is indexed with.

    Integers, slices, an ellipsis and one list of indices work as in numpy and return numpy arrays.
    The time axis ends at the last complete frame.
    """

    def __init__(self, reader: RolloutReader, path: str) -> None:
        self._reader = reader
        self._path = path

    @property
    def _dataset(self) -> h5py.Dataset:
        return self._reader._open()[self._path]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape with the number of complete frames as time axis."""
        b, _, *rest = self._dataset.shape
        return (b, self._reader.n_frames, *rest)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._dataset.ndim

    @property
    def dtype(self) -> np.dtype:
        """Stored precision."""
        return self._dataset.dtype

    @property
    def units(self) -> str:
        """Unit of the values."""
        return str(self._dataset.attrs["units"])

    @property
    def long_name(self) -> str:
        """What the array is."""
        return str(self._dataset.attrs.get("long_name", self._path.rsplit("/", 1)[-1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        where = f"RolloutReader: {self._path}"
        key = key if isinstance(key, tuple) else (key,)
        dots = sum(k is Ellipsis for k in key)
        if dots > 1 or len(key) - dots > self.ndim:
            raise IndexError(
                f"{where}: expected at most {self.ndim} indices; got {key}. Drop some."
            )
        if dots:
            at = next(i for i, k in enumerate(key) if k is Ellipsis)
            key = key[:at] + (slice(None),) * (self.ndim - len(key) + 1) + key[at + 1 :]
        key = key + (slice(None),) * (self.ndim - len(key))
        exact = tuple(
            _within(k, size, where, axis)
            for axis, (k, size) in enumerate(zip(key, self.shape, strict=True))
        )
        return self._reader._read(self._path, exact)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise InputError(
                f"RolloutReader: {self._path}: expected a copy from disk; got copy=False."
            )
        array = self[...]
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return f"FieldView({self._path!r}, shape={self.shape}, dtype={self.dtype})"


class RolloutReader:
    """Read a rollout file frame by frame, or by windows.

    Args:
        path: File written by `RolloutWriter`, finished, growing or left by a killed run.

    Raises:
        FileNotFoundError: no such file.
        StoreError: the file is no rollout, or was cut.

    Cheap to pickle and to use in other processes: every process opens the file for itself.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self._file: h5py.File | None = None
        self._pid = -1
        file = self._open()
        self.layout: Layout = read_layout(file)
        self.config: dict[str, Any] = json.loads(file.attrs["config"])
        self.attributes: dict[str, Any] = dict(file.attrs)
        self.refresh()

    def _open(self) -> h5py.File:
        # A handle inherited through fork shares its file position with the parent: never use it.
        if self._file is None or self._pid != os.getpid():
            self._file = open_store(self.path)
            self._pid = os.getpid()
        return self._file

    def _read(self, path: str, key: Any) -> np.ndarray:
        try:
            return self._open()[path][key]
        except (OSError, KeyError) as error:
            raise StoreError(
                f"RolloutReader: {self.path}: expected readable values of {path}; got {error}. "
                "The file is damaged: copy it again from its source, or call repair(path)."
            ) from error

    def refresh(self) -> int:
        """Look for frames appended since the file was opened; returns the number of frames."""
        file = self._open()
        for name in self._growing():
            file[name].id.refresh()
        self._n_frames = frame_count(file)
        self._times = file["dimensions/time"][: self._n_frames]
        return self._n_frames

    def _growing(self) -> list[str]:
        names = ["dimensions/time"]
        names += [f"{field.group}/{name}" for name, field in self.layout.fields.items()]
        names += [f"scalars/{name}" for name in self.layout.scalars]
        names += ["tools/pose"] if self.layout.tool_count else []
        return names + (["tools/body_twist"] if self.layout.bodies else [])

    @property
    def n_frames(self) -> int:
        """Number of complete frames."""
        return self._n_frames

    @property
    def n_trajectories(self) -> int:
        """B, scenes in the file."""
        return self.layout.n_trajectories

    @property
    def particle_count(self) -> int:
        """N, particles of each scene."""
        return self.layout.particle_count

    @property
    def dim(self) -> int:
        """D, 2 (plane x, z) or 3."""
        return self.layout.dim

    @property
    def dt(self) -> float:
        """Time between frames [s], as declared by the writer."""
        return self.layout.dt

    @property
    def times(self) -> np.ndarray:
        """Times of the frames [s], shape (T,)."""
        return self._times.copy()

    @property
    def fields(self) -> dict[str, FieldLayout]:
        """Time-varying fields: name to axes and unit."""
        return self.layout.fields

    @property
    def groups(self) -> dict[str, tuple[int, int]]:
        """Particle groups: name to half-open range of particle indices."""
        return self.layout.groups

    @property
    def complete(self) -> bool:
        """False while the file is being written, or when its writer was killed."""
        return not self._open().attrs["writer"]

    @property
    def tool_pose(self) -> FieldView | None:
        """Tool poses (B, T, K, 7), position [m] and quaternion w x y z; None without tools."""
        return FieldView(self, "tools/pose") if self.layout.tool_count else None

    @property
    def body_twist(self) -> FieldView | None:
        """Linear [m/s] and angular [rad/s] velocities (B, T, R, 6) of the rigid bodies, which are the
        tools `layout.bodies`; None without bodies."""
        return FieldView(self, "tools/body_twist") if self.layout.bodies else None

    @property
    def scalars(self) -> dict[str, FieldView]:
        """Per-frame scalars: name to view (B, T)."""
        return {name: FieldView(self, f"scalars/{name}") for name in self.layout.scalars}

    def __getitem__(self, name: str) -> FieldView:
        self._check([name])
        return FieldView(self, f"{self.layout.fields[name].group}/{name}")

    def __contains__(self, name: object) -> bool:
        return name in self.layout.fields

    def __len__(self) -> int:
        return self.n_frames

    def particles(self, name: str) -> Tensor:
        """Particle indices that carry a field, one per row, shape (count,) int64."""
        self._check([name])
        ranges = self.layout.fields[name].ranges or ((0, self.particle_count),)
        return torch.cat([torch.arange(a, b) for a, b in ranges])

    def static(self, trajectory: int = 0) -> dict[str, Tensor]:
        """Fields that do not change with time, of one trajectory: (N,) or (N, D)."""
        trajectory = _within(trajectory, self.n_trajectories, "RolloutReader.static", 0)
        out = {}
        for order in (0, 1):
            for name, dataset in self._open()[f"t{order}_fields"].items():
                if not dataset.attrs["time_varying"]:
                    key = trajectory if dataset.attrs["sample_varying"] else ()
                    out[name] = torch.from_numpy(self._read(dataset.name, key))
        return out

    def frame(
        self, t: int, trajectory: int = 0, fields: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """One frame of one trajectory.

        Args:
            t: Frame index; negative counts from the end.
            trajectory: Scene index.
            fields: Names to read; None reads every field, and where there are tools and rigid bodies
                `tool_pose` (K, 7) and `body_twist` (R, 6).

        Returns:
            Name to tensor (particles of the field[, D[, D]]).
        """
        t = _within(t, self.n_frames, "RolloutReader.frame", 1)
        window = self.window(trajectory, t, 1, fields)
        window.pop("time")
        return {name: value[0] for name, value in window.items()}

    def window(
        self,
        trajectory: int,
        start: int,
        length: int,
        fields: Iterable[str] | None = None,
        stride: int = 1,
    ) -> dict[str, Tensor]:
        """Consecutive frames of one trajectory.

        Args:
            trajectory: Scene index.
            start: First frame.
            length: Number of frames.
            fields: Names to read; None reads every field, `tool_pose` and `body_twist`.
            stride: Step between the frames of the window.

        Returns:
            Name to tensor (length, particles of the field[, D[, D]]), and `time` [s] (length,).

        Raises:
            IndexError: the window leaves the rollout.
            KeyError: an unknown field.
        """
        names = list(self.layout.fields) if fields is None else list(fields)
        others = {"tool_pose": self.tool_pose, "body_twist": self.body_twist}
        wanted = {
            n: v for n, v in others.items() if v is not None and (fields is None or n in names)
        }
        names = [name for name in names if name not in wanted]
        self._check(names)
        trajectory = _within(trajectory, self.n_trajectories, "RolloutReader.window", 0)
        last = start + (length - 1) * stride
        if length < 1 or stride < 1 or start < 0 or last >= self.n_frames:
            raise IndexError(
                f"RolloutReader.window: expected frames within [0, {self.n_frames}); got "
                f"start={start}, length={length}, stride={stride}. Shorten the window."
            )
        key = (trajectory, slice(start, last + 1, stride))
        out = {name: torch.from_numpy(self[name][key]) for name in names}
        out |= {name: torch.from_numpy(view[key]) for name, view in wanted.items()}
        out["time"] = torch.from_numpy(self._times[start : last + 1 : stride].copy())
        return out

    def _check(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self.layout.fields]
        if unknown:
            raise KeyError(
                f"RolloutReader: {self.path}: expected one of the fields "
                f"{list(self.layout.fields)}; got {unknown}. Values that do not change with time "
                "are in static()."
            )

    def close(self) -> None:
        """Close the file; the next access opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def __enter__(self) -> RolloutReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": -1}

    def __repr__(self) -> str:
        return (
            f"RolloutReader({str(self.path)!r}, n_trajectories={self.n_trajectories}, "
            f"n_frames={self.n_frames}, particle_count={self.particle_count}, "
            f"fields={list(self.layout.fields)})"
        )


def _within(key: Any, size: int, where: str, axis: int) -> Any:
    """An index made non-negative and checked against the length that readers may see."""
    if isinstance(key, slice):
        return slice(*key.indices(size))
    index = np.asarray(key)
    if index.dtype == bool:
        index = np.flatnonzero(index)
    if index.dtype.kind not in "iu" and index.size:
        raise IndexError(
            f"{where}: expected integers or slices; got {key!r} on axis {axis}. Convert it."
        )
    index = index.astype(np.int64)
    if index.size and (index.min() < -size or index.max() >= size):
        raise IndexError(
            f"{where}: expected indices below {size} on axis {axis}; got {key}. Check the shape."
        )
    index = np.where(index < 0, index + size, index)
    return int(index) if index.ndim == 0 else index
