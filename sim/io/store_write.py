"""Writing rollouts: one call per frame, every returned call survives a killed process.

The file is written in HDF5's single-writer mode, which orders its own metadata so that the file is
valid at every instant; a frame counts once the clock `dimensions/time` has grown, and that happens
after everything else of the frame has been handed to the system. After each frame the mark of the
open writer is removed from the superblock, so that ParaView and any HDF5 tool can open the file
during and after the run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ..core.errors import InputError
from .store_format import (
    Field,
    Layout,
    StoreError,
    dataset_of,
    frame_count,
    make_layout,
    open_store,
    read_layout,
    series_of,
)
from .store_header import create_header
from .store_repair import MARGIN, frame_bytes, identity, recover, repair
from .store_superblock import mark_clean, reserve, trim
from .vtkhdf import UNBOUNDED_FRAMES, build_views

__all__ = ["RolloutWriter"]

log = logging.getLogger(__name__)

_AHEAD = 2**24
"""Room [byte] reserved at a time, where the disk has it; close gives the rest back."""


class RolloutWriter:
    """Append the frames of B scenes to one HDF5 file.

    Args:
        path: File to create.
        n_trajectories: B, scenes that run side by side.
        particle_count: N, particles of each scene.
        fields: Name to tensor order (0, 1, 2) or `Field`; must contain the positions "x".
        dim: D, 2 (plane x, z) or 3.
        dt_frame: Time between frames [s].
        groups: Particle groups, name to half-open range of particle indices.
        static: Values that do not change, shapes (N,), (B, N), (N, D) or (B, N, D). The group of
            each particle is added as `group` if groups are given.
        scalars: Per-frame numbers of each scene; names, or name to unit.
        tool_count: K, tools whose poses (position 3, quaternion w x y z) are stored.
        bodies: Rows of the poses that are rigid bodies; their twists are stored as well.
        config: Anything that makes the run repeatable, as JSON values.
        attributes: Further attributes of the file.
        boundary_conditions: Name to attributes, e.g. {"floor": {"bc_type": "wall"}}.
        dataset_name: Name of the data set; the file's name if not given.
        dtype: Precision of the stored fields, float32 or float64. Frames are cast to it.
        compression: gzip level 1 to 9; None stores plain numbers, which is fastest.
        overwrite: Replace an existing file.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        InputError: sizes, names or static values that do not fit together.
        StoreError: the disk refused the file.

    A killed run keeps every appended frame: open it with `RolloutReader` or ParaView, or go on with
    `RolloutWriter.resume`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_trajectories: int,
        particle_count: int,
        fields: Mapping[str, int | Field],
        dim: int,
        dt_frame: float,
        groups: Mapping[str, tuple[int, int]] | None = None,
        static: Mapping[str, Any] | None = None,
        scalars: Mapping[str, str] | Sequence[str] = (),
        tool_count: int = 0,
        bodies: Sequence[int] = (),
        config: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
        boundary_conditions: Mapping[str, Mapping[str, Any]] | None = None,
        dataset_name: str | None = None,
        dtype: Any = torch.float32,
        compression: int | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise FileExistsError(
                f"RolloutWriter: {self.path}: expected a new file; got an existing one. Pass "
                "overwrite=True to replace it, or call RolloutWriter.resume(path) to append."
            )
        layout = make_layout(
            n_trajectories=n_trajectories, particle_count=particle_count, dim=dim, dt=dt_frame,
            dtype=dtype, fields=fields, groups=groups, scalars=scalars, tool_count=tool_count,
            bodies=bodies,
        )
        temporary = self.path.with_name(self.path.name + ".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            create_header(
                temporary, layout, dataset_name=dataset_name or self.path.stem,
                config=config or {}, attributes=attributes or {}, static=static or {},
                boundary_conditions=boundary_conditions or {}, compression=compression,
            )
            os.replace(temporary, self.path)
        except OSError as error:
            raise StoreError(
                f"RolloutWriter: {self.path}: expected a writable disk with room; got {error}. "
                "Free space or choose another folder."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        self._attach()

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        n_trajectories: int | None = None,
        particle_count: int | None = None,
        dim: int | None = None,
        fields: Sequence[str] | None = None,
        keep: int | None = None,
        force: bool = False,
    ) -> RolloutWriter:
        """Go on after the last complete frame of a closed or killed file.

        Args:
            path: Rollout file.
            n_trajectories, particle_count, dim, fields: What the caller is going to write; checked
                against the file if given.
            keep: Drop the frames from this index on, e.g. to go on from an earlier checkpoint.
            force: Take the file over although the process that wrote it seems to be alive.

        Raises:
            InputError: the file's sizes or fields differ from what the caller gave.
            StoreError: the file is damaged, or another live process is writing it.
        """
        if keep is not None and keep < 0:
            raise InputError(
                f"RolloutWriter.resume: {path}: expected keep >= 0; got {keep}. Pass the number of "
                "frames to keep."
            )
        recover(path, force=force, finish=False)
        with open_store(path) as file:
            layout = read_layout(file)
        given = {
            "n_trajectories": n_trajectories,
            "particle_count": particle_count,
            "dim": dim,
            "fields": None if fields is None else set(fields),
        }
        for name, value in given.items():
            stored = getattr(layout, name)
            stored = set(stored) if name == "fields" else stored
            if value is not None and value != stored:
                raise InputError(
                    f"RolloutWriter.resume: {path}: expected {name} = {_plain(stored)}; got "
                    f"{_plain(value)}. Resume with the same scene, or write a new file."
                )
        if keep is not None:
            recover(path, force=True, finish=False, keep=keep)
        writer = cls.__new__(cls)
        writer.path = Path(path)
        writer._attach()
        return writer

    def _attach(self) -> None:
        """Open the file for appending and enter the single-writer mode."""
        file = open_store(self.path, "r+")
        self.layout: Layout = read_layout(file)
        file.attrs["writer"] = identity()
        build_views(file, self.layout, UNBOUNDED_FRAMES)
        self.n_frames = frame_count(file)
        self._series = series_of(file, self.layout)
        self._clock = self._series.pop()[0]
        self._last_time = float(self._clock[self.n_frames - 1]) if self.n_frames else -np.inf
        self._fields = {name: dataset_of(file, name) for name in self.layout.fields}
        self._scalars = {name: file["scalars"][name] for name in self.layout.scalars}
        self._pose = file["tools/pose"] if self.layout.tool_count else None
        self._twist = file["tools/body_twist"] if self.layout.bodies else None
        self._steps = file["VTKHDF/Steps"]
        self._offsets = self._steps["PointOffsets"]
        file.flush()
        file.swmr_mode = True
        self._file: h5py.File | None = file
        self._raw = open(self.path, "r+b", buffering=0)
        self._broken = False
        mark_clean(self._raw, file.id.get_filesize())

    def append(
        self,
        t: float,
        frame: Any,
        *,
        tool_pose: Any = None,
        body_twist: Any = None,
        scalars: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one frame of all trajectories; when it returns, the frame survives a kill.

        Args:
            t: Time of the frame [s], greater than that of the frame before.
            frame: Name to array (B, particles of the field[, D[, D]]), or any object, such as a
                solver's state, with these attributes. Values are stored as they are, NaN included.
            tool_pose: (B, K, 7), position [m] and quaternion w x y z; may be an attribute of
                `frame`.
            body_twist: (B, R, 6), linear [m/s] and angular [rad/s] velocity of the rigid bodies; may
                be an attribute of `frame`.
            scalars: Name to number or (B,) values, one for each declared scalar.

        Raises:
            InputError: a missing or unknown field, a wrong shape, a time that does not grow.
            StoreError: the disk refused the frame; the frames before it stay readable.
        """
        if self._file is None:
            raise StoreError(
                f"RolloutWriter.append: {self.path}: expected an open writer; got a closed one. "
                "Call RolloutWriter.resume(path)."
            )
        if self._broken:
            raise StoreError(
                f"RolloutWriter.append: {self.path}: expected a writer that did not fail before; "
                "got one that did. Close it, remove the cause and call "
                "RolloutWriter.resume(path)."
            )
        t = float(t)
        if not (np.isfinite(t) and t > self._last_time):
            raise InputError(
                f"RolloutWriter.append: expected t > {self._last_time} s; got {t} s for frame "
                f"{self.n_frames}. Append frames in the order of time."
            )
        values = self._collect(frame, tool_pose, body_twist, scalars)
        needed = frame_bytes(self.layout) + MARGIN
        writing = False
        try:
            reserve(self._raw, self._file.id.get_filesize(), needed, max(4 * needed, _AHEAD))
            writing = True
            self._write(t, values)
        except (OSError, RuntimeError) as error:
            # HDF5 keeps what it could not write and fails again: only a new handle helps then.
            self._broken = writing
            raise StoreError(
                f"RolloutWriter.append: {self.path}: expected room for frame {self.n_frames}; got "
                f"{error}. The {self.n_frames} frames before it are safe. Free disk space, then "
                f"{'close and call RolloutWriter.resume(path)' if writing else 'append again'}."
            ) from error

    def _write(self, t: float, values: list[tuple[h5py.Dataset, np.ndarray]]) -> None:
        index = self.n_frames
        for dataset, axis in self._series:
            dataset.resize(index + 1, axis=axis)
        for dataset, array in values:
            dataset[:, index] = array
        self._offsets[index] = index * self.layout.particle_count
        self._flush()
        self._clock.resize(index + 1, axis=0)
        self._clock[index] = t
        self._flush()
        self._steps.attrs.modify("NSteps", index + 1)
        self._flush()
        self.n_frames, self._last_time = index + 1, t

    def _flush(self) -> None:
        self._file.flush()
        mark_clean(self._raw, self._file.id.get_filesize())

    def _collect(
        self, frame: Any, tool_pose: Any, body_twist: Any, scalars: Mapping[str, Any] | None
    ) -> list[tuple[h5py.Dataset, np.ndarray]]:
        """Check one frame and pair every dataset with its array."""
        where, layout = "RolloutWriter.append", self.layout
        if isinstance(frame, Mapping):
            unknown = sorted(set(frame) - set(layout.fields))
            if unknown:
                raise InputError(
                    f"{where}: expected fields {list(layout.fields)}; got also {unknown}. Declare "
                    "them in fields= when the writer is made."
                )
            given = dict(frame)
        else:
            given = {n: getattr(frame, n) for n in layout.fields if hasattr(frame, n)}
            if tool_pose is None and layout.tool_count:
                tool_pose = getattr(frame, "tool_pose", None)
            if body_twist is None and layout.bodies:
                body_twist = getattr(frame, "body_twist", None)
        missing = [name for name in layout.fields if name not in given]
        if missing:
            raise InputError(
                f"{where}: expected fields {list(layout.fields)}; got none of {missing}. Pass "
                "every declared field in every frame."
            )
        b = layout.n_trajectories
        out = [
            (self._fields[name], _array(f"field {name!r}", given[name], (b, *field.shape)))
            for name, field in layout.fields.items()
        ]
        for name, argument, dataset, value, count, width in (
            ("tool_pose", "tool_count", self._pose, tool_pose, layout.tool_count, 7),
            ("body_twist", "bodies", self._twist, body_twist, len(layout.bodies), 6),
        ):
            if (value is None) == (dataset is not None):
                raise InputError(
                    f"{where}: expected {name} of {count} {'tools' if width == 7 else 'bodies'}; got "
                    f"{'none' if value is None else 'some'}. Match {argument} and {name}."
                )
            if dataset is not None:
                out.append((dataset, _array(name, value, (b, count, width))))
        scalars = scalars or {}
        if set(scalars) != set(layout.scalars):
            raise InputError(
                f"{where}: expected scalars {sorted(layout.scalars)}; got {sorted(scalars)}. Pass "
                "every declared scalar in every frame."
            )
        for name, value in scalars.items():
            array = _plain_array(value)
            array = np.broadcast_to(array, (b,)) if array.ndim == 0 else array
            out.append((self._scalars[name], _array(f"scalar {name!r}", array, (b,))))
        return out

    def close(self) -> None:
        """Finish the file: drop an interrupted frame and give the animation its exact length."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.close()
            trim(self._raw)
            repair(self.path, force=True)
        except (OSError, RuntimeError) as error:
            # Raising here would hide the error that ended the run, and the frames are safe.
            log.warning(
                "RolloutWriter.close: %s keeps its %d frames but is not finished. %s", self.path,
                self.n_frames, error,
            )
        finally:
            self._raw.close()

    def __enter__(self) -> RolloutWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._file is None else "open"
        return f"RolloutWriter({str(self.path)!r}, n_frames={self.n_frames}, {state})"


def _array(what: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = _plain_array(value)
    if array.shape != shape:
        raise InputError(
            f"RolloutWriter.append: expected {what} of shape {shape}; got {array.shape}. Pass all "
            "trajectories and all particles of the field."
        )
    return array


def _plain_array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value
