"""Layouts of fields in MATLAB files, as the authors of FNO published them, and in tensors of torch.

    a, coeff, x, …     (S, *cells)        u, output, y, …    (S, *cells, T) or (S, T, *cells)
    t                  (1, T), times

MATLAB writes version 5 (scipy) or 7.3 (HDF5 with the order of axes reversed). A variable of version
5 is compressed as one piece and read whole; the file of torch is mapped into memory.

Sources: Li et al. 2021 (FNO) and 2023 (PINO), the readers of their code; neuraloperator, `PTDataset`.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import torch

from .field_parts import Part, Stored
from .layouts_hdf5 import AXES, open_hdf5, plain, refuse

__all__ = ["mat5_part", "mat73_part", "torch_part"]

TIMES = ("t", "tspan", "time")
"""Names of times."""


def mat5_part(path: Path, dim: int | None) -> Part:
    """Describe a MATLAB file of version 5; only names and shapes are read.

    Raises:
        StoreError: cut, or without fields.
    """
    with _damage(path):
        numeric = {
            "double",
            "single",
            "logical",
            *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
        }
        shapes = {n: tuple(s) for n, s, kind in scipy.io.whosmat(path) if kind in numeric}
        small = [
            n for n, s in shapes.items() if max(s, default=1) == np.prod(s) and np.prod(s) < 1e6
        ]
        values = scipy.io.loadmat(path, variable_names=small) if small else {}
    return _part(path, "MATLAB 5", shapes, {n: values[n] for n in small}, dim, _open_mat5)


def mat73_part(path: Path, dim: int | None) -> Part:
    """Describe a MATLAB file of version 7.3.

    Raises:
        StoreError: cut, or without fields.
    """
    with open_hdf5(path) as file:
        arrays = {
            k: v for k, v in file.items() if isinstance(v, h5py.Dataset) and v.dtype.kind in "fiub"
        }
        shapes = {k: tuple(reversed(v.shape)) for k, v in arrays.items()}
        small = [
            n for n, s in shapes.items() if max(s, default=1) == np.prod(s) and np.prod(s) < 1e6
        ]
        values = {n: arrays[n][()] for n in small}
        attributes = plain(file.attrs)
    return _part(path, "MATLAB 7.3", shapes, values, dim, open_hdf5, True, attributes)


def torch_part(path: Path, dim: int | None) -> Part:
    """Describe a dictionary of tensors that torch wrote.

    Raises:
        StoreError: cut, or anything but a dictionary of tensors.
    """
    with _damage(path):
        tensors = _load_torch(path)
    shapes = {
        k: tuple(v.shape) for k, v in tensors.items() if torch.is_tensor(v) and not v.is_complex()
    }
    small = {k: tensors[k].numpy() for k in shapes if k in TIMES or tensors[k].numel() == 1}
    return _part(path, "torch", shapes, small, dim, _open_torch, first=True)


def _part(
    path: Path,
    layout: str,
    shapes: Mapping[str, tuple[int, ...]],
    small: Mapping[str, Any],
    dim: int | None,
    opener: Any,
    reverse: bool = False,
    attributes: dict[str, Any] | None = None,
    first: bool = False,
) -> Part:
    """Find samples, cells and frames from the shapes; `first`: frames come before cells if in doubt."""
    times = next((np.ravel(small[k]) for k in TIMES if k in small and np.size(small[k]) > 1), None)
    big = {k: s for k, s in shapes.items() if k not in TIMES and len(s) > 1 and k not in small}
    if not big:
        text = ", ".join(f"{k} {s}" for k, s in shapes.items()) or "nothing"
        refuse(path, "numeric arrays with samples on the first axis", text)
    count = Counter(s[0] for s in big.values()).most_common(1)[0][0]
    lead = next(iter(big.values()))[0]
    count = lead if sum(s[0] == lead for s in big.values()) * 2 >= len(big) else count
    mine = {k: s for k, s in big.items() if s[0] == count}
    fewest, most = (f(len(s) - 1 for s in mine.values()) for f in (min, max))
    if dim is None:
        dim = fewest
        if fewest == most and times is not None and fewest > 1:
            has = [len(times) in (s[1], s[-1]) for s in mine.values()]
            dim -= all(has)
    still = Counter(s[1:] for s in mine.values() if len(s) == 1 + dim)
    cells, frames = (still.most_common(1)[0][0] if still else None), 0
    fields, other = {}, {k: str(s) for k, s in shapes.items() if k not in mine and k not in TIMES}
    space = "".join(str(k) for k in range(dim))
    for name, shape in sorted(mine.items(), key=lambda item: len(item[1])):
        axes = None
        if len(shape) == 1 + dim and shape[1:] == cells:
            axes = f"b{space}"
        elif len(shape) == 2 + dim and dim:
            early, late = shape[2:], shape[1:-1]
            places = [("t" + space, early, shape[1]), (space + "t", late, shape[-1])]
            for letters, own, length in places if first else places[::-1]:
                fits_time = length == (frames or (len(times) if times is not None else length))
                if axes is None and cells in (None, own) and fits_time:
                    axes, frames, cells = "b" + letters, length, own
        if axes is None or dim not in (1, 2, 3):
            other[name] = str(shape)
            continue
        stored = tuple(reversed(shape)) if reverse else shape
        fields[name] = Stored(name, axes[::-1] if reverse else axes, stored, (name,))
    if not fields:
        fix = "Pass dim=, the number of axes of space"
        refuse(path, "fields (S, *cells) or (S, *cells, T)", f"{dict(mine)}", fix)
    span = torch.from_numpy(np.asarray(times, dtype=np.float64)) if times is not None else None
    scalars = {
        k: torch.full((count,), float(np.ravel(v)[0]), dtype=torch.float64)
        for k, v in small.items() if np.size(v) == 1
    }  # fmt: skip
    other = {k: v for k, v in other.items() if k not in scalars}
    return Part(
        path, layout, count, frames, cells or (), AXES[:dim], {k: fields[k] for k in mine if k in fields},
        opener, times=span if frames and span is not None and len(span) == frames else None,
        scalars=scalars, attributes=attributes or {}, other=other,
    )  # fmt: skip


class _Mat5(Mapping[str, np.ndarray]):
    """Variables of a file, each read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, name: str) -> np.ndarray:
        return _variable(self.path, self.path.stat().st_mtime_ns, name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@functools.lru_cache(maxsize=2)
def _variable(path: Path, _: int, name: str) -> np.ndarray:
    """An input and a target stay in memory; reading either again would decompress all of it."""
    with _damage(path):
        return scipy.io.loadmat(path, variable_names=[name])[name]


@contextlib.contextmanager
def _open_mat5(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    yield _Mat5(path)


@contextlib.contextmanager
def _open_torch(path: Path) -> Iterator[Mapping[str, Any]]:
    with _damage(path):
        tensors = _load_torch(path)
    yield {k: v.numpy() for k, v in tensors.items() if torch.is_tensor(v)}


def _load_torch(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        found = torch.load(path, map_location="cpu", weights_only=True)  # written before torch 1.6
    if not isinstance(found, Mapping):
        refuse(path, "a dictionary of tensors, such as {'x': …, 'y': …}", type(found).__name__)
    return found


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What readers raise on cut or foreign bytes, as one error."""
    kinds = (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        EOFError,
        OSError,
        RuntimeError,
        zlib.error,
        NotImplementedError,
    )
    try:
        yield
    except pickle.UnpicklingError as error:
        fix = "Save plain tensors: torch.save({'x': x, 'y': y}, path)"
        refuse(path, "plain tensors, which carry no code", str(error).splitlines()[0], fix)
    except kinds as error:
        if type(error).__name__ == "StoreError":
            raise
        got = f"'{str(error).splitlines()[0] if str(error) else type(error).__name__}'"
        refuse(path, "a file that is whole", got, "Copy or download it again")
