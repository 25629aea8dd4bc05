"""Layouts of fields in HDF5: The Well, PDEBench, and how an unknown file is refused.

Sources: The Well, data format (Ohana et al. 2024); PDEBench (Takamoto et al. 2022), whose data
generators write `tensor` or one array per quantity beside `x-coordinate` …, a group per sample
(diffusion–sorption, 2-D reaction, shallow water), or `velocity`, `particles`, `force` and `t`.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ..core.errors import message
from .field_parts import Part, Stored
from .store_format import StoreError

__all__ = ["hdf5_part", "open_hdf5"]

KNOWN = (
    "a file of The Well (t0_fields, dimensions), PDEBench (tensor or density with x-coordinate, "
    "0000/data, or velocity and t), FNO (.mat) or neuraloperator (.pt)"
)
"""What `open_fields` reads, for messages."""
AXES = ("x", "y", "z")


def open_hdf5(path: Path) -> h5py.File:
    """The file for reading."""
    return h5py.File(path, "r")


def hdf5_part(path: Path) -> Part:
    """Describe an HDF5 file.

    Raises:
        StoreError: cut, of no known layout, or with arrays that are missing or do not fit.
    """
    with open_hdf5(path) as file:
        if any(f"t{k}_fields" in file for k in (0, 1, 2)):
            return _well(path, file)
        # Ten thousand samples: their names are enough to tell.
        if all(key.isdigit() for key in file) and len(file):
            return _grouped(path, file)
        arrays = {k: v for k, v in file.items() if isinstance(v, h5py.Dataset)}
        if "x-coordinate" in arrays or "tensor" in arrays:
            return _pdebench(path, file, arrays)
        if "velocity" in arrays and "t" in arrays:
            return _incompressible(path, file, arrays)
        refuse(path, KNOWN, contents(file))
    raise AssertionError


def refuse(path: Path, expected: str, got: str, fix: str = "") -> None:
    """Raise `StoreError` that names a file."""
    fix = fix or "Convert it, or write_fields() your own arrays"
    raise StoreError(message("open_fields", expected, f"{got} in {path}", fix))


def contents(file: h5py.Group) -> str:
    """First names and shapes of a file."""
    few = itertools.islice(file.items(), 8)
    text = [f"{k} {v.shape}" if isinstance(v, h5py.Dataset) else f"{k}/" for k, v in few]
    return ", ".join(text + ["…"] * (len(file) > 8)) or "nothing"


def texts(value: Any) -> list[str]:
    """An attribute as a list of strings; h5py gives one string, bytes or arrays of either."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in np.atleast_1d(value).tolist()]


def plain(attributes: Any) -> dict[str, Any]:
    """Numbers and text among attributes."""
    out = {}
    for key, value in attributes.items():
        value = value.item() if isinstance(value, np.generic) else value
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if isinstance(value, (str, int, float)):
            out[key] = value
    return out


def double(data: Any) -> torch.Tensor:
    """An array in double precision."""
    return torch.from_numpy(np.asarray(data[()], dtype=np.float64))


def _need(path: Path, file: h5py.Group, key: str) -> Any:
    if key not in file:
        refuse(
            path,
            f"an array {file.name.rstrip('/')}/{key}",
            contents(file),
            "Download the file again",
        )
    return file[key]


# The Well


def _well(path: Path, file: h5py.File) -> Part:
    kind = texts(file.attrs.get("grid_type", "cartesian"))[0]
    if kind == "particles":
        refuse(path, "fields on a grid", "particles", "Read them with RolloutReader")
    dimensions = _need(path, file, "dimensions")
    axes = texts(dimensions.attrs.get("spatial_dims", [k for k in dimensions if k != "time"]))
    coordinates = {a: double(_need(path, dimensions, a)) for a in axes}
    cells = tuple(v.shape[-1] for v in coordinates.values())
    times = double(_need(path, dimensions, "time"))
    count, frames = int(file.attrs["n_trajectories"]), times.shape[-1]
    fields = {}
    for order in (0, 1, 2):
        group = file.get(f"t{order}_fields", {})
        names = texts(group.attrs.get("field_names", list(group))) if len(group) else []
        for name in names:
            data = _need(path, group, name)
            fields[name] = _well_field(path, data, name, order, axes, (count, frames, *cells))
    if not fields:
        refuse(path, "fields in t0_fields, t1_fields or t2_fields", "none")
    scalars = {}
    for name, data in file.get("scalars", {}).items():
        if isinstance(data, h5py.Dataset) and data.dtype.kind in "fiub":
            scalars[name] = _well_scalar(path, data, name, count, frames)
    return Part(
        path, "The Well", count, frames, cells, tuple(axes), fields, open_hdf5,
        times=times, coordinates=coordinates, sides=_well_sides(file, axes), scalars=scalars,
        attributes=plain(file.attrs) | _config(file),
    )  # fmt: skip


def _config(file: h5py.File) -> dict[str, Any]:
    """What repeats a file of ours."""
    text = file.attrs.get("config", "{}")
    return dict(json.loads(text)) if "rheograd_fields" in file.attrs else {}


def _well_field(
    path: Path, data: h5py.Dataset, name: str, order: int, axes: list[str], whole: tuple[int, ...]
) -> Stored:
    """Its axes by the attributes; components as The Well's own reader calls them."""
    sample, time = (bool(data.attrs.get(k, True)) for k in ("sample_varying", "time_varying"))
    varies = np.atleast_1d(data.attrs.get("dim_varying", [True] * len(axes))).tolist()
    length = dict(zip("bt012", whole, strict=False)) | {"-": 1}
    lead, n = "b" * sample + "t" * time, len(axes)
    # An axis along which nothing varies is left out, as the format says, or has length one, as the
    # package of The Well expects.
    forms = [lead + "".join(str(k) if v else hole for k, v in enumerate(varies)) for hole in "-_"]
    forms = [form.replace("_", "") for form in forms]
    kinds: dict[int, list[tuple[int, ...]]] = {0: [()], 1: [(n,)], 2: [(n, n), (n * n,)]}
    components = kinds[order]
    ranks = {len(c) for c in components}
    fits = [form for form in forms if len(data.shape) - len(form) in ranks
            and data.shape[: len(form)] == tuple(length[a] for a in form)]  # fmt: skip
    letters = fits[0] if fits else forms[-1]
    tail = data.shape[len(letters) :]
    if not fits or (len(tail) < len(components[0]) and tail not in components):
        expected = tuple(length[a] for a in letters)
        text = f"{name} of shape {(*expected, *components[0])}, as its attributes say"
        refuse(path, text, f"{data.shape}", "Download the file again, or correct its attributes")
    marks = ["".join(m) for m in itertools.product(axes, repeat=order)]
    size = math.prod(tail)
    if size != len(marks):  # planes with three components, for example
        marks = [str(k) for k in range(size)]
    channels = tuple(f"{name}_{m}" if order else name for m in marks)
    units = "".join(texts(data.attrs.get("units", ""))[:1])
    axes = letters + "cd"[: len(tail)]
    return Stored(f"t{order}_fields/{name}", axes, data.shape, channels, units)


def _well_scalar(
    path: Path, data: h5py.Dataset, name: str, count: int, frames: int
) -> torch.Tensor:
    value = double(data)
    time = bool(data.attrs.get("time_varying", False))
    if not bool(data.attrs.get("sample_varying", False)):
        value = (value if time else value.reshape(-1)[:1].squeeze(0)).expand(
            count, *([frames] * time)
        )
    elif value.shape[:1] != (count,):
        refuse(path, f"scalar {name} for {count} trajectories", f"{tuple(value.shape)}")
    return value


def _well_sides(file: h5py.File, axes: list[str]) -> dict[str, str]:
    """Kinds by the masks: a side has what holds on all of it."""
    out: dict[str, str] = {}
    for one in file.get("boundary_conditions", {}).values():
        dims = texts(one.attrs.get("associated_dims", []))
        kind = texts(one.attrs.get("condition", one.attrs.get("bc_type", "open")))[0]
        if "mask" not in one or not dims:
            continue
        mask = one["mask"][()]
        for place, axis in enumerate(dims):
            for end, row in (("-", 0), ("+", -1)):
                if axis in axes and place < mask.ndim and mask.take(row, axis=place).all():
                    out[f"{axis}{end}"] = kind.lower() if kind.isupper() else kind
    return out


# PDEBench


def _pdebench(path: Path, file: h5py.File, arrays: dict[str, h5py.Dataset]) -> Part:
    """`tensor`, or an array per quantity, (B, T, *cells); Darcy flow has `nu` (B, *cells)."""
    names = [k for k in arrays if not k.endswith("-coordinate")]
    coordinates = {
        a: double(arrays[f"{a}-coordinate"]) for a in AXES if f"{a}-coordinate" in arrays
    }
    main = next((k for k in ("tensor", "density", *names) if k in names), None)
    if main is None:
        refuse(path, "tensor, or density, beside x-coordinate", contents(file))
    shape = arrays[main].shape
    dim = len(coordinates) or len(shape) - 2
    cells = tuple(shape[2:])
    found = tuple(len(v) for v in coordinates.values())
    if len(shape) != 2 + dim or dim not in (1, 2, 3) or (found and found != cells):
        expected = f"{main} (B, T, *cells) with coordinates of the cells"
        refuse(path, expected, f"{shape} and coordinates {found}", "Download the file again")
    count, frames = shape[:2]
    still = frames == 1  # stationary: Darcy flow
    space = "".join(str(k) for k in range(dim))
    layouts = {(count, *cells): f"b{space}", shape: f"b{'-' if still else 't'}{space}"}
    fields = {
        k: Stored(k, layouts[arrays[k].shape], arrays[k].shape, (k,))
        for k in names if arrays[k].shape in layouts and arrays[k].dtype.kind in "fiu"
    }  # fmt: skip
    times = (
        double(arrays["t-coordinate"]).reshape(-1)
        if "t-coordinate" in arrays and not still
        else None
    )
    if times is not None and len(times) == frames + 1:
        times = times[:-1]  # published files name one time more than they have frames
    if times is not None and len(times) != frames:
        refuse(path, f"t-coordinate of {frames} or {frames + 1} times", f"{len(times)}")
    return Part(
        path, "PDEBench", count, 0 if still else frames, cells, AXES[:dim], fields, open_hdf5,
        times=times, coordinates=coordinates, attributes=plain(file.attrs),
        other={k: str(arrays[k].shape) for k in names if k not in fields},
    )  # fmt: skip


def _grouped(path: Path, file: h5py.File) -> Part:
    """A group per sample: `0000/data` (T, *cells, C), `0000/grid/x`, `0000/grid/t`."""
    groups = tuple(sorted(file, key=int))
    first = file[groups[0]]
    if not isinstance(first, h5py.Group) or "data" not in first:
        refuse(
            path,
            KNOWN,
            f"{groups[0]}/ with {contents(first)}" if isinstance(first, h5py.Group) else groups[0],
        )
    data, grid = first["data"], first.get("grid", {})
    cells, dim = tuple(data.shape[1:-1]), len(data.shape) - 2
    if dim not in (1, 2, 3):
        refuse(path, f"{groups[0]}/data (T, *cells, C)", f"{data.shape}")
    coordinates = {a: double(grid[a]) for a in AXES[:dim] if a in grid}
    times = double(grid["t"]).reshape(-1) if "t" in grid else None
    lengths = (
        len(times) if times is not None else data.shape[0],
        *(len(v) for v in coordinates.values()),
    )
    if lengths[0] != data.shape[0] or (coordinates and lengths[1:] != cells):
        refuse(path, f"grid of {data.shape[:-1]}", f"{lengths}", "Download the file again")
    channels = (
        ("data",) if data.shape[-1] == 1 else tuple(f"data_{k}" for k in range(data.shape[-1]))
    )
    space = "".join(str(k) for k in range(dim))
    stored = Stored("data", f"t{space}c", data.shape, channels)
    return Part(
        path, "PDEBench, a group per sample", len(groups), data.shape[0], cells, AXES[:dim],
        {"data": stored}, open_hdf5, times=times, coordinates=coordinates, groups=groups,
        attributes=plain(file.attrs) | plain(first.attrs),
    )  # fmt: skip


def _incompressible(path: Path, file: h5py.File, arrays: dict[str, h5py.Dataset]) -> Part:
    """`velocity` (B, T, *cells, D), `particles` (B, T, *cells, 1), `force` (B, *cells, D), `t` (B, T)."""
    shape = arrays["velocity"].shape
    dim = len(shape) - 3
    if dim not in (2, 3) or shape[-1] != dim:
        refuse(path, "velocity (B, T, *cells, D)", f"{shape}")
    space = "".join(str(k) for k in range(dim))
    layouts = {shape[:-1]: f"bt{space}c", (shape[0], *shape[2:-1]): f"b{space}c"}
    fields = {}
    for name, data in arrays.items():
        if name == "t" or data.shape[:-1] not in layouts:
            continue
        marks = AXES[:dim] if data.shape[-1] == dim else [str(k) for k in range(data.shape[-1])]
        channels = tuple(f"{name}_{m}" for m in marks) if data.shape[-1] > 1 else (name,)
        fields[name] = Stored(name, layouts[data.shape[:-1]], data.shape, channels)
    times = double(arrays["t"])
    if times.shape != shape[:2]:
        refuse(path, f"t of shape {shape[:2]}", f"{tuple(times.shape)}", "Download the file again")
    return Part(
        path, "PDEBench, incompressible flow", shape[0], shape[1], shape[2:-1], AXES[:dim], fields,
        open_hdf5, times=times, attributes=plain(file.attrs),
        other={k: str(v.shape) for k, v in arrays.items() if k not in fields and k != "t"},
    )  # fmt: skip
