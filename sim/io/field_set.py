"""Fields on grids from files of many layouts, behind one lazy object.

    data = open_fields("2D_DarcyFlow_beta1.0_Train.hdf5")
    data.read("nu", range(8))       (8, 1, 128, 128)

Nothing is read before `read`; what is read is what was asked for, block by block.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from ..core.errors import InputError, RheogradError, message
from .field_parts import DAMAGE, Part, read_part
from .layouts_arrays import mat5_part, mat73_part, torch_part
from .layouts_hdf5 import KNOWN, hdf5_part, refuse
from .store_format import StoreError

__all__ = ["FieldSet", "open_fields"]

ENDINGS = {".h5", ".hdf5", ".mat", ".pt", ".pth"}
"""Of files that are taken from a folder."""
_PathLike = str | os.PathLike[str]
Which = int | slice | Iterable[int] | None
"""Trajectories or frames: a number (from the end if negative), a slice, some numbers, None for all."""


def open_fields(path: _PathLike | Sequence[_PathLike], *, dim: int | None = None) -> FieldSet:
    """Fields of a file, of several files of one data set, or of all files of a folder.

    The layout is recognized by what is in the file: The Well and files of `write_fields`, PDEBench
    (HDF5), FNO (`.mat`, version 5 or 7.3), neuraloperator (`.pt`). See docs/field-files.md.

    Args:
        path: file, files, or folder.
        dim: axes of space, for `.mat` and `.pt` files whose shapes do not tell it.

    Returns:
        The fields; none of them is read yet.

    Raises:
        StoreError: no such file, one that is cut, of no known layout, or with arrays that do not fit.
        InputError: files that are not of one data set.
    """
    many = not isinstance(path, (str, os.PathLike))
    paths = [Path(p) for p in path] if many else [Path(path)]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        paths = sorted(p for p in folder.iterdir() if p.suffix in ENDINGS)
        if not paths:
            refuse(folder, f"files that end in {', '.join(sorted(ENDINGS))}", "none", "Pass files")
    if not paths:
        raise InputError(message("open_fields", "at least one file", "none", "Pass files"))
    return FieldSet([_part(p, dim) for p in paths])


def _part(path: Path, dim: int | None) -> Part:
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(128)
        if head.startswith(b"MATLAB 5.0"):
            return mat5_part(path, dim)
        if h5py.is_hdf5(path):
            return mat73_part(path, dim) if head.startswith(b"MATLAB 7.3") else hdf5_part(path)
    except RheogradError:
        raise
    except DAMAGE as error:
        fix = "Check the path; a cut file has to be copied or downloaded again"
        expected = "a file that can be opened"
        raise StoreError(message("open_fields", expected, f"{path}: {error}", fix)) from error
    if path.suffix in (".pt", ".pth") or head.startswith(b"PK") and path.suffix != ".npz":
        return torch_part(path, dim)
    refuse(path, KNOWN, f"{size} bytes that begin with {head[:8]!r}")
    raise AssertionError


@dataclasses.dataclass
class FieldSet:
    """Trajectories of fields on one grid; reads them when asked, and travels to other processes."""

    parts: list[Part]
    """One per file."""
    cell_stride: tuple[int, ...] = ()
    """Every how many-th cell is read, per axis; empty for all."""
    frame_stride: int = 1
    """Every how many-th frame is read."""

    def __post_init__(self) -> None:
        first = self.parts[0]
        self.cell_stride = self.cell_stride or (1,) * len(first.cells)
        for part in self.parts[1:]:
            for what, pick in _SAME.items():
                if pick(part) != pick(first):
                    expected = f"{what} {pick(first)}, as in {first.path}"
                    got = f"{pick(part)} in {part.path}"
                    raise InputError(message("open_fields", expected, got, "Open them one by one"))

    def __repr__(self) -> str:
        lines = [
            f"FieldSet of {len(self.parts)} file(s), {self.layout}: {self.n_trajectories} trajectories, "
            f"{self.n_frames or 'no'} frames, cells {self.cells}"
        ]
        for name in self.names:
            kind = "" if self.varies(name) else ", constant in time"
            lines.append(f"  {name}: {', '.join(self.channels(name))}{kind}")
        return "\n".join(lines)

    @property
    def layout(self) -> str:
        """Name of the layout that was recognized."""
        return self.parts[0].layout

    @property
    def names(self) -> list[str]:
        """Fields."""
        return list(self.parts[0].fields)

    @property
    def n_trajectories(self) -> int:
        """Trajectories, or samples, of all files."""
        return sum(p.count for p in self.parts)

    @property
    def n_frames(self) -> int:
        """Frames of a trajectory; 0 where nothing varies in time."""
        return -(-self.parts[0].frames // self.frame_stride)

    @property
    def cells(self) -> tuple[int, ...]:
        """Cells, or points, per axis of space."""
        pairs = zip(self.parts[0].cells, self.cell_stride, strict=True)
        return tuple(-(-n // s) for n, s in pairs)

    @property
    def times(self) -> Tensor | None:
        """Times of the frames, (T,), or (B, T) if they differ; None where files have none."""
        found = [p.times for p in self.parts]
        if any(t is None for t in found):
            return None
        rows = [t.expand(p.count, p.frames) for t, p in zip(found, self.parts, strict=True)]
        out = torch.cat(rows)[:, :: self.frame_stride]
        return out[0].clone() if bool((out == out[:1]).all()) else out

    @property
    def coordinates(self) -> dict[str, Tensor]:
        """Axis name to places of the cells; empty where files have none."""
        axes, found = self.parts[0].axes, self.parts[0].coordinates
        strides = dict(zip(axes, self.cell_stride, strict=True))
        return {a: v[..., :: strides[a]] for a, v in found.items()}

    @property
    def sides(self) -> dict[str, str]:
        """Side ("x-", "x+", …) to the kind of its boundary; empty where files do not say."""
        return dict(self.parts[0].sides)

    @property
    def scalars(self) -> dict[str, Tensor]:
        """Numbers that belong to trajectories: (B,), or (B, T) if they vary in time."""
        names = [n for n in self.parts[0].scalars if all(n in p.scalars for p in self.parts)]
        out = {n: torch.cat([p.scalars[n] for p in self.parts]) for n in names}
        return {n: v[:, :: self.frame_stride] if v.ndim > 1 else v for n, v in out.items()}

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the first file: numbers and text."""
        return dict(self.parts[0].attributes)

    def channels(self, name: str) -> tuple[str, ...]:
        """Names of the components of a field."""
        self._known([name])
        return self.parts[0].fields[name].channels

    def varies(self, name: str) -> bool:
        """Whether a field varies in time."""
        self._known([name])
        return self.parts[0].fields[name].varies

    def units(self, name: str) -> str:
        """Unit of a field; empty where the file has none."""
        self._known([name])
        return self.parts[0].fields[name].units

    def thin(self, cells: int | Sequence[int] = 1, frames: int = 1) -> FieldSet:
        """The same fields at every how many-th cell and frame; nothing is averaged.

        Args:
            cells: stride in space, one for all axes or one per axis. 421 points and a stride of 5
                give the 85 points of the FNO paper.
            frames: stride in time.

        Raises:
            InputError: a stride below one, or another number of axes.
        """
        dim = len(self.cells)
        strides = [cells] * dim if isinstance(cells, int) else list(cells)
        if len(strides) != dim or min([*strides, frames]) < 1:
            expected = f"strides of at least 1, one for all or {dim} of them"
            raise InputError(
                message("FieldSet.thin", expected, f"{cells}, {frames}", "Correct them")
            )
        both = tuple(a * b for a, b in zip(self.cell_stride, strides, strict=True))
        return FieldSet(self.parts, both, self.frame_stride * frames)

    def read(
        self,
        names: str | Sequence[str],
        trajectories: Which = None,
        frames: Which = None,
        *,
        dtype: torch.dtype = torch.float32,
        check: bool = True,
    ) -> Tensor:
        """Fields as one tensor; several fields are joined along the channels.

        Args:
            names: a field, or some; fields constant in time are repeated beside those that are not.
            trajectories: which ones; None is all.
            frames: which ones; None is all.
            dtype: of the result.
            check: whether NaN and infinity are refused.

        Returns:
            (B, T, C, *cells), or (B, C, *cells) if no field varies in time. Nothing to differentiate.

        Raises:
            InputError: no such field, trajectory or frame.
            StateError: NaN or infinity, with file, trajectory and frame.
            StoreError: the file is damaged.
        """
        names = [names] if isinstance(names, str) else list(names)
        self._known(names)
        rows = _indices("trajectories", trajectories, self.n_trajectories)
        steps = _indices("frames", frames, self.n_frames) if self.n_frames else []
        own = [k * self.frame_stride for k in steps]
        values = [self._read(n, rows, own, dtype, check) for n in names]
        if any(self.varies(n) for n in names):
            values = [
                v if self.varies(n) else v.unsqueeze(1).expand(-1, len(steps), *v.shape[1:])
                for n, v in zip(names, values, strict=True)
            ]
            return torch.cat(values, dim=2) if len(values) > 1 else values[0]
        return torch.cat(values, dim=1) if len(values) > 1 else values[0]

    def nonfinite(self, name: str) -> list[tuple[int, int]]:
        """(trajectory, frame) of all frames with NaN or infinity; frame 0 of a constant field.

        Reads the whole field, one trajectory at a time.
        """
        found = []
        for b in range(self.n_trajectories):
            value = self.read(name, b, check=False)[0]
            good = torch.isfinite(value).reshape(len(value) if self.varies(name) else 1, -1).all(1)
            found += [(b, int(t)) for t in (~good).nonzero()]
        return found

    def _read(
        self, name: str, rows: list[int], frames: list[int], dtype: torch.dtype, check: bool
    ) -> Tensor:
        """Trajectories in their order, whatever files they are in."""
        pieces, start, place = [], 0, 0
        bounds = []
        for part in self.parts:
            bounds.append((start, start + part.count, part))
            start += part.count
        while place < len(rows):
            low, high, part = next(b for b in bounds if b[0] <= rows[place] < b[1])
            stop = place
            while stop < len(rows) and low <= rows[stop] < high:
                stop += 1
            own = [r - low for r in rows[place:stop]]
            pieces.append(read_part(part, name, own, frames, self.cell_stride, dtype, check))
            place = stop
        if not pieces:
            return read_part(self.parts[0], name, [], frames, self.cell_stride, dtype, check)
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def _known(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.parts[0].fields:
                other = self.parts[0].other.get(name)
                grid = f"{self.parts[0].count} samples on cells {self.parts[0].cells}"
                got = f"{name} of shape {other}, which does not fit {grid}" if other else str(name)
                fix = "Correct it, or pass dim= if the shapes were read wrongly"
                raise InputError(message("FieldSet", f"a field out of {self.names}", got, fix))


_SAME: Mapping[str, Callable[[Part], Any]] = {
    "layout": lambda p: p.layout,
    "fields": lambda p: sorted(p.fields),
    "components": lambda p: {n: (f.channels, f.varies) for n, f in sorted(p.fields.items())},
    "cells": lambda p: p.cells,
    "frames": lambda p: p.frames,
}


def _indices(what: str, which: Which, count: int) -> list[int]:
    """Numbers in [0, count)."""
    if which is None:
        return list(range(count))
    if isinstance(which, slice):
        return list(range(count)[which])
    given = [which] if isinstance(which, int) else [int(k) for k in which]
    out = [k + count if k < 0 else k for k in given]
    if not all(0 <= k < count for k in out):
        bad = next(g for g, k in zip(given, out, strict=True) if not 0 <= k < count)
        raise InputError(message("FieldSet.read", f"{what} in [0, {count})", bad, "Correct it"))
    return out
