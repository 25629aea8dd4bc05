"""What a reader of a foreign layout says about one file of fields, and how parts of it are read.

A stored array is described by one letter per axis: b trajectory, t frame, 0 1 2 axes of space,
c and d components, - an axis of length one that means nothing. "bt01c" is a plane vector field in
The Well's layout, "t10b" a scalar one as HDF5 shows what MATLAB has written.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import RheogradError, StateError, message
from .store_format import StoreError

__all__ = ["Part", "Stored", "read_part"]

BLOCK = 1 << 26
"""Bytes of a file that are in memory at a time, beside the result."""
DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError)
"""What HDF5 raises on bytes that are not what they were."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a field lies in a file."""

    path: str
    """Name of the array, below the group of a sample if there are groups."""
    axes: str
    """A letter per axis."""
    shape: tuple[int, ...]
    """Lengths of the axes."""
    channels: tuple[str, ...]
    """Names of the components, in the order of storage."""
    units: str = ""
    """Unit, where the file has it."""

    @property
    def varies(self) -> bool:
        """Whether the field has frames."""
        return "t" in self.axes


@dataclasses.dataclass(frozen=True)
class Part:
    """One file."""

    path: Path
    """File."""
    layout: str
    """Name of its layout, for people."""
    count: int
    """Trajectories, or samples."""
    frames: int
    """Frames; 0 without any."""
    cells: tuple[int, ...]
    """Cells, or points, per axis of space."""
    axes: tuple[str, ...]
    """Names of the axes of space."""
    fields: dict[str, Stored]
    """Fields by name."""
    opener: Callable[[Path], AbstractContextManager[Mapping[str, Any]]]
    """Opens the file; what it gives has arrays by path."""
    times: Tensor | None = None
    """(T,) or (B, T), float64, where the file has them."""
    coordinates: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Axis name to (n,) or (B, n), float64, where the file has them."""
    sides: dict[str, str] = dataclasses.field(default_factory=dict)
    """Side ("x-", …) to the kind of its boundary, where the file has it."""
    scalars: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Numbers by name: (B,) or (B, T)."""
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Attributes of the file: numbers and text."""
    groups: tuple[str, ...] = ()
    """Names of the samples where each has a group of its own."""
    other: dict[str, str] = dataclasses.field(default_factory=dict)
    """Arrays that are not fields on these cells, and their shapes."""


def read_part(
    part: Part,
    name: str,
    rows: Sequence[int],
    frames: Sequence[int],
    stride: Sequence[int],
    dtype: torch.dtype,
    check: bool,
) -> Tensor:
    """Some trajectories and frames of a field, read in blocks of at most `BLOCK` bytes.

    Args:
        part: the file.
        name: of the field.
        rows: trajectories.
        frames: frames; not looked at if the field is constant in time.
        stride: every how many-th cell, per axis of space.
        dtype: of the result.
        check: whether values that are not finite are refused.

    Returns:
        (B, T, C, *cells), or (B, C, *cells) if the field is constant in time; nothing to differentiate.

    Raises:
        StateError: NaN or infinity, with file, trajectory and frame.
        StoreError: the file is damaged, or a sample has another shape.
    """
    stored = part.fields[name]
    frames = list(frames) if stored.varies else [0]
    cells = [-(-n // s) for n, s in zip(part.cells, stride, strict=True)]
    out = torch.empty((len(rows), len(frames), len(stored.channels), *cells), dtype=dtype)
    one = 8 * len(stored.channels) * math.prod(part.cells)
    few = min(max(1, BLOCK // one), max(1, len(frames)))
    many = max(1, BLOCK // (one * few)) if not part.groups else 1
    try:
        with part.opener(part.path) as file:
            for b, block in _runs(rows, many):
                for t, times in _runs(frames, few):
                    value = _fetch(file, part, stored, block, times, stride)
                    if check:
                        _finite(part, name, value, block, times)
                    out[b : b + len(block), t : t + len(times)] = torch.from_numpy(value)
    except RheogradError:
        raise
    except DAMAGE as error:
        fix = "Copy or download the file again"
        expected = f"{name} of {part.path} to be readable"
        raise StoreError(message("open_fields", expected, str(error), fix)) from error
    return out if stored.varies else out[:, 0]


def _fetch(
    file: Mapping[str, Any],
    part: Part,
    stored: Stored,
    rows: range,
    frames: range,
    stride: Sequence[int],
) -> np.ndarray:
    """(B, T, C, *cells) of one block."""
    path = f"{part.groups[rows[0]]}/{stored.path}" if part.groups else stored.path
    data = file[path]
    if tuple(data.shape) != stored.shape:
        fix = "Leave that sample out, or write it again"
        got = f"{tuple(data.shape)} in {part.path}"
        raise StoreError(message("open_fields", f"{path} of shape {stored.shape}", got, fix))
    spans = {"b": _slice(rows), "t": _slice(frames), "-": 0}
    value = np.asarray(data[tuple(spans.get(a, slice(None)) for a in stored.axes)])
    if value.dtype.kind != "f":
        value = value.astype(np.float32)
    axes, want = stored.axes.replace("-", ""), ["b", "t", "c", "d"]
    want += [str(k) for k in range(len(part.cells))]
    value = value.transpose([axes.index(a) for a in want if a in axes])
    value = np.expand_dims(value, [k for k, a in enumerate(want) if a not in axes])
    value = value.reshape(*value.shape[:2], -1, *value.shape[4:])
    thin = [slice(None, None, s) for s in stride]
    value = value[(slice(None), slice(None), slice(None), *thin)]
    # Axes that are not stored have length one so far.
    cells = [-(-n // s) for n, s in zip(part.cells, stride, strict=True)]
    return np.array(np.broadcast_to(value, (len(rows), len(frames), len(stored.channels), *cells)))


def _slice(index: range) -> slice:
    return slice(index.start, index.stop, index.step)


def _runs(index: Sequence[int], limit: int) -> Iterator[tuple[int, range]]:
    """Equally spaced rising runs of at most `limit` indices, and where each begins in `index`."""
    start = 0
    while start < len(index):
        stop, step = start + 1, 1
        while stop < len(index) and stop - start < limit:
            gap = index[stop] - index[stop - 1]
            if gap < 1 or (stop - start > 1 and gap != step):
                break
            stop, step = stop + 1, gap
        yield start, range(index[start], index[stop - 1] + 1, step)
        start = stop


def _finite(part: Part, name: str, value: np.ndarray, rows: range, frames: range) -> None:
    good = np.isfinite(value).reshape(len(rows), len(frames), -1).all(-1)
    if good.all():
        return
    b, t = np.argwhere(~good)[0]
    frame = f", frame {frames[t]}" if part.fields[name].varies else ""
    got = f"NaN or infinity in {part.path}, trajectory {rows[b]}{frame}"
    fix = "Leave the trajectory out, see nonfinite(), or read with check=False"
    raise StateError(
        message("open_fields", f"finite {name}", got, fix), step=int(frames[t]), field=name
    )
