"""Creation of an empty rollout file: every array, axis and description before the first frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ..core.errors import InputError
from .store_format import FORMAT_VERSION, KNOWN, LIBVER, Layout, check_name
from .vtkhdf import UNBOUNDED_FRAMES, build_views, create_skeleton

__all__ = ["create_header"]

SERIES_CHUNK = 256
"""Entries per chunk of one-number-per-frame arrays: 2 kB each."""

_TEXT = h5py.string_dtype()


def create_header(
    path: Path,
    layout: Layout,
    *,
    dataset_name: str,
    config: Mapping[str, Any],
    attributes: Mapping[str, Any],
    static: Mapping[str, Any],
    boundary_conditions: Mapping[str, Mapping[str, Any]],
    compression: int | None,
) -> None:
    """Write the file with zero frames; raises before touching the disk if anything does not fit."""
    try:
        config_text = json.dumps(config)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"RolloutWriter: expected config of JSON values; got {error}. Convert tensors and "
            "paths to numbers, lists and strings."
        ) from error
    root = {
        "rheograd_format": FORMAT_VERSION,
        "dataset_name": dataset_name,
        "grid_type": "particles",
        "n_spatial_dims": layout.dim,
        "n_trajectories": layout.n_trajectories,
        "particle_count": layout.particle_count,
        "dt_frame": layout.dt,
        "config": config_text,
        "particle_groups": json.dumps(layout.groups),
        "field_order": json.dumps(list(layout.fields)),
        "writer": "",
        "simulation_parameters": (),
    }
    clash = sorted(root.keys() & attributes.keys())
    if clash:
        raise InputError(
            f"RolloutWriter: expected attribute names not in use; got {clash}. Rename them."
        )
    parameters = {
        name: value
        for name, value in config.items()
        if isinstance(value, int | float) and name not in root and name not in attributes
    }
    root["simulation_parameters"] = np.array(list(parameters), dtype=_TEXT)
    arrays = _static_arrays(layout, static)
    with h5py.File(path, "w", libver=LIBVER) as file:
        file.attrs.update({**root, **parameters, **attributes})
        _write_dimensions(file, layout)
        _write_fields(file, layout, arrays, compression)
        _write_scalars_and_tools(file, layout)
        conditions = file.create_group("boundary_conditions")
        for name, described in boundary_conditions.items():
            check_name(name)
            conditions.create_group(name).attrs.update(
                {"sample_varying": False, "time_varying": False, **described}
            )
        create_skeleton(file, layout, SERIES_CHUNK)
        file["dimensions/particle"] = file["VTKHDF/Vertices/Connectivity"]
        file["dimensions/particle"].attrs.update({"sample_varying": False, "time_varying": False})
        build_views(file, layout, UNBOUNDED_FRAMES)


def _write_dimensions(file: h5py.File, layout: Layout) -> None:
    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = np.array(["particle"], dtype=_TEXT)
    time = dimensions.create_dataset(
        "time", (0,), dtype="f8", maxshape=(None,), chunks=(SERIES_CHUNK,), fillvalue=np.nan
    )
    time.attrs.update({"sample_varying": False, "units": "s"})
    for name, field in layout.fields.items():
        if field.ranges is not None:
            axis = dimensions.create_dataset(
                f"particle_{name}", data=np.array(field.ranges, dtype=np.int64).reshape(-1, 2)
            )
            axis.attrs.update({"sample_varying": False, "time_varying": False})
            axis.attrs["long_name"] = "half-open ranges of particle indices, in row order"


def _write_fields(
    file: h5py.File, layout: Layout, static: Mapping[str, np.ndarray], compression: int | None
) -> None:
    folders = [file.create_group(f"t{order}_fields") for order in (0, 1, 2)]
    names: list[list[str]] = [[], [], []]
    packing = {} if compression is None else {
        "compression": "gzip", "compression_opts": compression, "shuffle": True,
    }
    for name, field in layout.fields.items():
        names[field.order].append(name)
        dataset = folders[field.order].create_dataset(
            name,
            (layout.n_trajectories, 0, *field.shape),
            dtype=layout.dtype,
            maxshape=(layout.n_trajectories, None, *field.shape),
            chunks=(1, 1, *field.shape),
            fillvalue=np.nan,
            **packing,
        )
        axis = "particle" if field.ranges is None else f"particle_{name}"
        dataset.attrs.update({"sample_varying": True, "time_varying": True, "axis": axis})
        dataset.attrs.update({"units": field.units, "long_name": field.long_name})
        dataset.attrs["shown"] = field.shown
        dataset.attrs["dim_varying"] = np.array([True])
    for name, values in static.items():
        order, varying = _static_kind(layout, values)
        names[order].append(name)
        dataset = folders[order].create_dataset(name, data=values)
        long_name, units = KNOWN.get(name, (name, "1"))
        dataset.attrs.update({"sample_varying": varying, "time_varying": False, "axis": "particle"})
        dataset.attrs.update({"units": units, "long_name": long_name})
        dataset.attrs["dim_varying"] = np.array([True])
    for folder, listed in zip(folders, names, strict=True):
        folder.attrs["field_names"] = np.array(listed, dtype=_TEXT)


def _write_scalars_and_tools(file: h5py.File, layout: Layout) -> None:
    scalars = file.create_group("scalars")
    scalars.attrs["field_names"] = np.array(list(layout.scalars), dtype=_TEXT)
    b = layout.n_trajectories
    for name, units in layout.scalars.items():
        check_name(name)
        dataset = scalars.create_dataset(
            name, (b, 0), dtype="f8", maxshape=(b, None),
            chunks=(b, max(1, SERIES_CHUNK // b)), fillvalue=np.nan,
        )
        dataset.attrs.update({"sample_varying": True, "time_varying": True, "units": units})
    if layout.tool_count:
        k = layout.tool_count
        pose = file.create_dataset(
            "tools/pose", (b, 0, k, 7), dtype=layout.dtype, maxshape=(b, None, k, 7),
            chunks=(b, max(1, SERIES_CHUNK // (7 * b * k)), k, 7), fillvalue=np.nan,
        )
        pose.attrs.update({"sample_varying": True, "time_varying": True, "units": "m, 1"})
        pose.attrs["long_name"] = "tool poses: position (3), quaternion w x y z (4)"
    if layout.bodies:
        r = len(layout.bodies)
        twist = file.create_dataset(
            "tools/body_twist", (b, 0, r, 6), dtype=layout.dtype, maxshape=(b, None, r, 6),
            chunks=(b, max(1, SERIES_CHUNK // (6 * b * r)), r, 6), fillvalue=np.nan,
        )
        twist.attrs.update({"sample_varying": True, "time_varying": True, "units": "m/s, rad/s"})
        twist.attrs["long_name"] = "velocities of rigid bodies: linear (3), angular (3)"
        twist.attrs["tools"] = np.array(layout.bodies, dtype=np.int64)


def _static_arrays(layout: Layout, static: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Static fields as arrays, with the group of every particle added if groups are declared."""
    arrays = {}
    for name, values in static.items():
        check_name(name)
        if name in layout.fields:
            raise InputError(
                f"RolloutWriter: expected static names not among fields; got {name!r}. Keep one "
                "of them."
            )
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu().numpy()
        array = np.asarray(values)
        if array.dtype.kind == "b":
            array = array.astype(np.uint8)
        if array.dtype.kind == "f":
            array = array.astype(layout.dtype)
        if array.dtype.kind not in "fiu":
            raise InputError(
                f"RolloutWriter: expected static field {name!r} of numbers; got {array.dtype}. "
                "Store text in config."
            )
        arrays[name] = array
        _static_kind(layout, array, name)
    if layout.groups and "group" not in arrays and "group" not in layout.fields:
        ids = np.full(layout.particle_count, -1, dtype=np.int32)
        for index, (start, stop) in enumerate(layout.groups.values()):
            ids[start:stop] = index
        arrays["group"] = ids
    return arrays


def _static_kind(layout: Layout, array: np.ndarray, name: str = "") -> tuple[int, bool]:
    """Tensor order of a static field, and whether it differs between trajectories."""
    b, n, d = layout.n_trajectories, layout.particle_count, layout.dim
    shapes = {(n,): (0, False), (n, d): (1, False), (b, n): (0, True), (b, n, d): (1, True)}
    if array.shape not in shapes:
        raise InputError(
            f"RolloutWriter: expected static field {name!r} of one of the shapes {list(shapes)}; "
            f"got {array.shape}. Pass one value or one vector per particle."
        )
    return shapes[array.shape]
