"""VTKHDF animation over the arrays of a rollout file, without a second copy of any value.

`VTKHDF/Points` and `VTKHDF/PointData/*` are HDF5 virtual datasets whose row t·N + i is particle i
of frame t. Plane scenes (x, z) are embedded in space at y = 0: the virtual columns of y are mapped
to nothing and read as their fill value 0. Tensors become nine columns, row-major.

Source: VTKHDF file format, version 2.0, poly data with temporal data (Kitware).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from ..core.errors import InputError
from .store_format import (
    LIBVER,
    Layout,
    StoreError,
    dataset_of,
    frame_count,
    open_store,
    read_layout,
)

__all__ = ["vtkhdf_view"]

UNBOUNDED_FRAMES = 2**24
"""Frames that the views reserve while the file grows; reserving costs no storage."""

_CELLS = ("Vertices", "Lines", "Polygons", "Strips")


def create_skeleton(file: h5py.File, layout: Layout, series_chunk: int) -> None:
    """Write the part of the VTKHDF group that does not depend on the number of frames."""
    root = file.create_group("VTKHDF")
    _set_type(root)
    n = layout.particle_count
    root["NumberOfPoints"] = np.array([n], dtype=np.int64)
    for name in _CELLS:
        count = n if name == "Vertices" else 0
        cells = root.create_group(name)
        cells["NumberOfCells"] = np.array([count], dtype=np.int64)
        cells["NumberOfConnectivityIds"] = np.array([count], dtype=np.int64)
        _compressed(cells, "Offsets", np.arange(count + 1, dtype=np.int64))
        _compressed(cells, "Connectivity", np.arange(count, dtype=np.int64))
    steps = root.create_group("Steps")
    steps.attrs.create("NSteps", 0, dtype=np.int64)
    # Entries that equal their fill value are never stored: these columns only have a length.
    for name, fill, shape in (
        ("PointOffsets", 0, (0,)),
        ("NumberOfParts", 1, (0,)),
        ("PartOffsets", 0, (0,)),
        ("CellOffsets", 0, (0, 4)),
    ):
        steps.create_dataset(
            name, shape, dtype=np.int64, fillvalue=fill,
            maxshape=(None, *shape[1:]), chunks=(series_chunk, *shape[1:]),
        )
    steps["ConnectivityIdOffsets"] = steps["CellOffsets"]
    steps["Values"] = file["dimensions/time"]
    offsets = steps.create_group("PointDataOffsets")
    for name, field in layout.fields.items():
        if name != "x" and field.shown:
            offsets[name] = steps["PointOffsets"]
    for name in _static_names(file):
        offsets[name] = steps["PartOffsets"]


def build_views(file: h5py.File, layout: Layout, n_frames: int) -> None:
    """Make the virtual datasets of trajectory 0, replacing earlier ones."""
    root = file["VTKHDF"]
    for name in ("Points", "PointData"):
        if name in root:
            del root[name]
    _fill(root, file, b".", layout, 0, n_frames)


def vtkhdf_view(
    path: str | os.PathLike[str], trajectory: int, out_path: str | os.PathLike[str]
) -> Path:
    """Write a small file that shows one trajectory of a rollout as an animation.

    The file holds no field values, only references to `path` (relative, so that the two may move
    together), for the frames that `path` has now.

    Args:
        path: Rollout file.
        trajectory: Which of its scenes, in [0, B).
        out_path: File to write, usually `*.vtkhdf`; replaced if it exists.

    Returns:
        `out_path`.

    Raises:
        InputError: no such trajectory, or `out_path` is the rollout itself.
    """
    path, out_path = Path(path).resolve(), Path(out_path)
    if out_path.resolve() == path:
        raise InputError(
            f"vtkhdf_view: expected out_path other than the rollout; got {out_path}. Name a new "
            "file."
        )
    with open_store(path) as file:
        layout = read_layout(file)
        if not 0 <= trajectory < layout.n_trajectories:
            raise InputError(
                f"vtkhdf_view: expected trajectory in [0, {layout.n_trajectories}); got "
                f"{trajectory}. Pass the index of a stored trajectory."
            )
        count = frame_count(file)
        if not count:
            raise StoreError(
                f"vtkhdf_view: {path}: expected at least one frame; got 0. Append one first."
            )
        source = os.path.relpath(path, out_path.resolve().parent)
        temporary = out_path.with_name(out_path.name + ".part")
        with h5py.File(temporary, "w", libver=LIBVER) as out:
            root = out.create_group("VTKHDF")
            _set_type(root)
            for name in ("NumberOfPoints", *_CELLS):
                root[name] = h5py.ExternalLink(source, f"/VTKHDF/{name}")
            _copy_steps(file["VTKHDF/Steps"], root.create_group("Steps"), count)
            _fill(root, file, os.fsencode(source), layout, trajectory, count)
        os.replace(temporary, out_path)
    return out_path


def _copy_steps(steps: h5py.Group, out: h5py.Group, count: int) -> None:
    """Copy the step tables of the complete frames; they must not outgrow the views."""
    out.attrs.create("NSteps", count, dtype=np.int64)
    names = ("Values", "PointOffsets", "NumberOfParts", "PartOffsets", "CellOffsets")
    for name in names:
        _compressed(out, name, steps[name][:count])
    out["ConnectivityIdOffsets"] = out["CellOffsets"]
    moving = out.create_group("PointDataOffsets")
    for name, dataset in steps["PointDataOffsets"].items():
        moving[name] = out["PointOffsets" if dataset == steps["PointOffsets"] else "PartOffsets"]


def _set_type(root: h5py.Group) -> None:
    root.attrs["Version"] = np.array([2, 0], dtype=np.int64)
    # VTK accepts a fixed-length ASCII string only.
    root.attrs.create("Type", b"PolyData", dtype=h5py.string_dtype("ascii", len(b"PolyData")))


def _compressed(group: h5py.Group, name: str, values: np.ndarray) -> None:
    if values.size > 64:
        group.create_dataset(name, data=values, compression="gzip", shuffle=True)
    else:
        group[name] = values


def _static_names(file: h5py.File) -> Iterator[str]:
    for order in (0, 1):
        for name, dataset in file[f"t{order}_fields"].items():
            if not dataset.attrs["time_varying"]:
                yield name


def _fill(
    root: h5py.Group, file: h5py.File, source: bytes, layout: Layout, trajectory: int, frames: int
) -> None:
    """Write Points and PointData of one trajectory as views of the arrays of `file`."""
    _map(root, "Points", file["t1_fields/x"], source, 1, (trajectory, frames))
    data = root.create_group("PointData")
    for name, field in layout.fields.items():
        if name != "x" and field.shown:
            _map(data, name, dataset_of(file, name), source, field.order, (trajectory, frames))
    for name in _static_names(file):
        dataset = dataset_of(file, name)
        order = 1 if dataset.parent.name == "/t1_fields" else 0
        lead = (trajectory,) if dataset.attrs["sample_varying"] else ()
        _map(data, name, dataset, source, order, lead)


def _map(
    group: h5py.Group,
    name: str,
    dataset: h5py.Dataset,
    source: bytes,
    order: int,
    lead: tuple[int, ...],
) -> None:
    """Create `group/name` as a virtual dataset of rows (particles of every frame in turn).

    `lead` selects in the axes before `particle`: (trajectory, frame count), (trajectory,) or ().
    """
    frames = lead[1] if len(lead) == 2 else 1
    rows = frames * dataset.shape[len(lead)]
    size = dataset.shape[-1] if order else 1
    columns = 3**order
    shape = (rows, columns) if order else (rows,)
    source_shape = list(dataset.shape)
    if len(lead) == 2:
        source_shape[1] = max(frames, source_shape[1])
    limits = tuple(h5py.h5s.UNLIMITED if m is None else m for m in dataset.maxshape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_fill_value(np.zeros((), dataset.dtype))
    for column, inner_start, inner_count in _columns(size, order):
        target = h5py.h5s.create_simple(shape)
        target.select_hyperslab(
            (0, column)[: len(shape)], (1,) * len(shape),
            block=(rows, int(np.prod(inner_count)))[: len(shape)],
        )
        origin = h5py.h5s.create_simple(tuple(source_shape), limits)
        start = lead[:1] + (0,) * len(lead[1:]) + (0,) + inner_start
        block = (1,) * len(lead[:1]) + lead[1:] + (dataset.shape[len(lead)],) + inner_count
        origin.select_hyperslab(start, (1,) * len(start), block=block)
        properties.set_virtual(target, source, dataset.name.encode(), origin)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(dataset.dtype, logical=True)
    h5py.h5d.create(group.id, name.encode(), kind, space, properties)


def _columns(size: int, order: int) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Blocks (first column, start and count in the tensor axes) that embed (x, z) in (x, y, z)."""
    if order == 0:
        yield 0, (), ()
    elif size == 3:
        yield 0, (0,) * order, (3,) * order
    elif order == 1:
        for i in range(size):
            yield _axis(i, size), (i,), (1,)
    else:
        for i in range(size):
            for j in range(size):
                yield 3 * _axis(i, size) + _axis(j, size), (i, j), (1, 1)


def _axis(index: int, size: int) -> int:
    """Space axis of a component: the last axis of a plane scene is up."""
    return 2 * index if size == 2 else index
