"""What a rollout file holds: fields, their axes and sizes, and how the file says so itself.

The layout is The Well's (groups `t0_fields`, `t1_fields`, `t2_fields` by tensor order, arrays
`(trajectory, time, particle[, D[, D]])`) with the spatial axis `particle`. Fields that only some
particles carry have an axis of their own, `particle_<field>`, described by half-open ranges of
particle indices in `dimensions/particle_<field>`.

Source: The Well, data format (Ohana et al. 2024); see docs/data-format.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..core.errors import InputError, RheogradError
from .store_superblock import SIGNATURE, SIZE, read_superblock

__all__ = ["Field", "FieldLayout", "Layout", "StoreError", "frame_count", "open_store"]

FORMAT_VERSION = 1
LIBVER = ("v110", "v110")
"""Structures that every HDF5 since 1.10 reads, hence every ParaView that knows VTKHDF."""

KNOWN = {
    "x": ("position", "m"),
    "v": ("velocity", "m/s"),
    "C": ("affine velocity (APIC)", "1/s"),
    "F": ("deformation gradient", "1"),
    "J": ("determinant of the deformation gradient", "1"),
    "alpha": ("hardening variable", "1"),
    "mass": ("mass", "kg"),
    "vol0": ("rest volume", "m^3"),
    "group": ("index of the particle group, -1 outside every group", "1"),
    "material": ("index of the material", "1"),
}


class StoreError(RheogradError, OSError):
    """A rollout file that cannot be used as it is: cut, foreign, unfinished or not writable."""


@dataclass(frozen=True)
class Field:
    """One time-varying particle field to store."""

    order: int
    """Tensor order: 0 scalar, 1 vector, 2 tensor."""
    groups: tuple[str, ...] | None = None
    """Particle groups that carry the field, in the order of its rows; None for every particle."""
    particles: Sequence[int] | None = None
    """Particle indices that carry the field, one per row; instead of `groups`."""
    size: int | None = None
    """Length of a tensor axis; None means the scene's dimension, and 3 for `F` (plane strain)."""
    units: str | None = None
    """Unit, e.g. "m/s"; None takes the usual one of a known name, else "1"."""
    long_name: str | None = None
    """What the field is; None takes the usual one of a known name, else the name."""
    shown: bool | None = None
    """Part of the animation. None shows scalars and vectors of all particles; tensors cost VTK some
    2 µs per particle and step to read, so they are shown on demand only."""


@dataclass(frozen=True)
class FieldLayout:
    """Axes of one stored field."""

    order: int
    """Tensor order: 0, 1 or 2."""
    size: int
    """Length of a tensor axis."""
    count: int
    """Number of particles that carry the field."""
    ranges: tuple[tuple[int, int], ...] | None
    """Half-open ranges of particle indices, in row order; None for every particle."""
    units: str
    """Unit of the values."""
    long_name: str
    """What the field is."""
    shown: bool
    """Part of the VTKHDF animation."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one trajectory's frame: (particles[, size[, size]])."""
        return (self.count,) + (self.size,) * self.order

    @property
    def group(self) -> str:
        """HDF5 group of the field."""
        return f"t{self.order}_fields"


@dataclass(frozen=True)
class Layout:
    """Sizes and names of everything in a rollout file."""

    n_trajectories: int
    """B, independent scenes of equal layout."""
    particle_count: int
    """N, particles of each scene."""
    dim: int
    """D, 2 (plane x, z) or 3."""
    dt: float
    """Time between frames [s]."""
    dtype: np.dtype
    """Precision of the stored fields."""
    fields: dict[str, FieldLayout]
    """Time-varying fields by name."""
    groups: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Particle groups: name to half-open range of particle indices."""
    scalars: dict[str, str] = field(default_factory=dict)
    """Per-frame scalars: name to unit."""
    tool_count: int = 0
    """K, tools whose poses are stored."""
    bodies: tuple[int, ...] = ()
    """Rows of the poses that belong to rigid bodies, whose twists are stored."""


def make_layout(
    *,
    n_trajectories: int,
    particle_count: int,
    dim: int,
    dt: float,
    dtype: Any,
    fields: Mapping[str, int | Field],
    groups: Mapping[str, tuple[int, int]] | None,
    scalars: Mapping[str, str] | Sequence[str],
    tool_count: int,
    bodies: Sequence[int],
) -> Layout:
    """Check what the writer was asked for and resolve defaults into a layout."""
    where = "RolloutWriter"
    kind = np.dtype(str(dtype).removeprefix("torch."))
    if kind not in (np.dtype("f4"), np.dtype("f8")):
        raise InputError(
            f"{where}: expected dtype float32 or float64; got {dtype}. Pass one of the two."
        )
    if dim not in (2, 3):
        raise InputError(f"{where}: expected dim 2 or 3; got {dim}. Pass the scene's dimension.")
    for name, value in (("n_trajectories", n_trajectories), ("particle_count", particle_count)):
        if int(value) != value or value < 1:
            raise InputError(
                f"{where}: expected {name} >= 1; got {value}. Pass the size of the scene."
            )
    if not (np.isfinite(dt) and dt > 0):
        raise InputError(
            f"{where}: expected dt_frame > 0 s; got {dt}. Pass the time between frames."
        )
    if not fields or "x" not in fields:
        raise InputError(
            f"{where}: expected fields with positions 'x'; got {list(fields)}. Add 'x': 1."
        )
    ranges: dict[str, tuple[int, int]] = {}
    for name, (start, stop) in (groups or {}).items():
        if not 0 <= start < stop <= particle_count:
            raise InputError(
                f"{where}: expected group {name!r} within [0, {particle_count}) and not empty; got "
                f"({start}, {stop}). Pass (start, stop) as a half-open range of particles."
            )
        ranges[name] = (int(start), int(stop))
    rows = tuple(int(k) for k in bodies)
    if len(set(rows)) != len(rows) or not all(0 <= k < tool_count for k in rows):
        raise InputError(
            f"{where}: expected bodies among the {tool_count} tools, each once; got {rows}. Pass the "
            "rows of tool_pose that are rigid bodies."
        )
    units = dict(scalars) if isinstance(scalars, Mapping) else dict.fromkeys(scalars, "1")
    resolved = {
        name: _resolve(name, spec if isinstance(spec, Field) else Field(spec), ranges,
                       particle_count, dim)
        for name, spec in fields.items()
    }
    if resolved["x"].shape != (particle_count, dim):
        raise InputError(
            f"{where}: expected field 'x' of shape ({particle_count}, {dim}); got "
            f"{resolved['x'].shape}. Positions are a vector field of all particles: pass 'x': 1."
        )
    return Layout(
        n_trajectories=int(n_trajectories), particle_count=int(particle_count), dim=dim,
        dt=float(dt), dtype=kind, fields=resolved, groups=ranges, scalars=units,
        tool_count=int(tool_count), bodies=rows,
    )


def _resolve(
    name: str, spec: Field, groups: Mapping[str, tuple[int, int]], particle_count: int, dim: int
) -> FieldLayout:
    where = f"RolloutWriter: field {name!r}"
    check_name(name)
    if spec.order not in (0, 1, 2):
        raise InputError(
            f"{where}: expected tensor order 0, 1 or 2; got {spec.order}. Split the field."
        )
    if spec.groups is not None and spec.particles is not None:
        raise InputError(f"{where}: expected groups or particles; got both. Pass one of them.")
    ranges: tuple[tuple[int, int], ...] | None = None
    if spec.groups is not None:
        missing = [g for g in spec.groups if g not in groups]
        if missing:
            raise InputError(
                f"{where}: expected groups among {list(groups)}; got {missing}. Declare them in "
                "groups=."
            )
        ranges = tuple(groups[g] for g in spec.groups)
    elif spec.particles is not None:
        index = np.asarray(spec.particles, dtype=np.int64).reshape(-1)
        if index.size and (index.min() < 0 or index.max() >= particle_count):
            raise InputError(
                f"{where}: expected particle indices in [0, {particle_count}); got "
                f"[{index.min()}, {index.max()}]. Pass indices into the scene's particles."
            )
        cuts = np.flatnonzero(np.diff(index) != 1) + 1
        runs = np.split(index, cuts) if index.size else []
        ranges = tuple((int(r[0]), int(r[-1]) + 1) for r in runs)
    count = particle_count if ranges is None else sum(b - a for a, b in ranges)
    if count < 1:
        raise InputError(f"{where}: expected at least one particle; got none. Leave the field out.")
    if ranges == ((0, particle_count),):
        ranges = None
    size = spec.size or (3 if name == "F" else dim)
    possible = ranges is None and (spec.order == 0 or size <= 3)
    if spec.shown and not possible:
        raise InputError(
            f"{where}: expected a field of all particles in space to be shown; got one of {count} "
            f"particles with {size} components. Drop shown=True."
        )
    long_name, units = KNOWN.get(name, (name, "1"))
    return FieldLayout(
        order=spec.order,
        size=size,
        count=count,
        ranges=ranges,
        units=spec.units or units,
        long_name=spec.long_name or long_name,
        shown=possible and (spec.order < 2 if spec.shown is None else spec.shown),
    )


def check_name(name: str) -> None:
    """Refuse names that HDF5 or VTK would read as a path."""
    if not name or "/" in name or name.startswith("."):
        raise InputError(
            f"RolloutWriter: expected names without '/' and leading '.'; got {name!r}. Rename the "
            "field."
        )


def read_layout(file: h5py.File) -> Layout:
    """Rebuild the layout from what the file says about itself."""
    fields = {}
    for order in (0, 1, 2):
        for name, dataset in file[f"t{order}_fields"].items():
            if not dataset.attrs["time_varying"]:
                continue
            axis = dataset.attrs["axis"]
            ranges = None
            if axis != "particle":
                ranges = tuple((int(a), int(b)) for a, b in file["dimensions"][axis][:])
            fields[name] = FieldLayout(
                order=order,
                size=int(dataset.shape[-1] if order else file.attrs["n_spatial_dims"]),
                count=int(dataset.shape[2]),
                ranges=ranges,
                units=dataset.attrs["units"],
                long_name=dataset.attrs["long_name"],
                shown=bool(dataset.attrs["shown"]),
            )
    names = [n for n in json.loads(file.attrs["field_order"]) if n in fields]
    return Layout(
        n_trajectories=int(file.attrs["n_trajectories"]),
        particle_count=int(file.attrs["particle_count"]),
        dim=int(file.attrs["n_spatial_dims"]),
        dt=float(file.attrs["dt_frame"]),
        dtype=dataset_of(file, "x").dtype,
        fields={name: fields[name] for name in names},
        groups={k: (a, b) for k, (a, b) in json.loads(file.attrs["particle_groups"]).items()},
        scalars={
            name: d.attrs["units"]
            for name, d in file["scalars"].items()
            if d.attrs["time_varying"]
        },
        tool_count=int(file["tools/pose"].shape[2]) if "tools" in file else 0,
        bodies=tuple(int(k) for k in _body_rows(file)),
    )


def _body_rows(file: h5py.File) -> Sequence[int]:
    twist = file.get("tools/body_twist")
    return () if twist is None else twist.attrs["tools"]


def dataset_of(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset of a field, whatever its tensor order."""
    for order in (0, 1, 2):
        if name in file[f"t{order}_fields"]:
            return file[f"t{order}_fields"][name]
    raise KeyError(name)


def series_of(file: h5py.File, layout: Layout) -> list[tuple[h5py.Dataset, int]]:
    """Every dataset that grows by one entry per frame, with its time axis; the clock comes last.

    The clock `dimensions/time` is the commit mark of a frame, so it must grow after the rest.
    """
    out = [(dataset_of(file, name), 1) for name in layout.fields]
    out += [(file["scalars"][name], 1) for name in layout.scalars]
    if layout.tool_count:
        out.append((file["tools/pose"], 1))
    if layout.bodies:
        out.append((file["tools/body_twist"], 1))
    steps = file["VTKHDF/Steps"]
    out += [(steps[n], 0) for n in ("PointOffsets", "NumberOfParts", "PartOffsets", "CellOffsets")]
    out.append((file["dimensions/time"], 0))
    return out


def frame_count(file: h5py.File) -> int:
    """Number of complete frames: entries of the clock, without unwritten (NaN) ones."""
    time = file["dimensions/time"]
    count = time.shape[0]
    while count and np.isnan(time[count - 1]):
        count -= 1
    return count


def open_store(path: str | os.PathLike[str], mode: str = "r") -> h5py.File:
    """Open a rollout file, with one clear error for everything that can be wrong with it.

    Args:
        path: The file.
        mode: "r" also reads files that are being written or whose writer was killed; "r+" writes.

    Raises:
        FileNotFoundError: no such file.
        StoreError: not HDF5, cut, locked by a writer, or no rollout.
    """
    path = Path(path)
    where = f"open_store: {path}"
    if not path.is_file():
        raise FileNotFoundError(f"{where}: expected an existing file; got none. Check the path.")
    length = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(SIZE)
    if head[: len(SIGNATURE)] != SIGNATURE:
        raise StoreError(
            f"{where}: expected an HDF5 file; got {length} bytes starting with "
            f"{head[: len(SIGNATURE)]!r}. Pass a file written by RolloutWriter."
        )
    block = read_superblock(path)
    if len(head) < SIZE or (block is None and head[len(SIGNATURE)] == 3):
        # HDF5 itself may wait for ever for such a file to become whole.
        raise StoreError(
            f"{where}: expected a whole HDF5 header; got {length} bytes with a cut or damaged one. "
            "Copy it again from its source, or delete it and run the simulation again."
        )
    if block is not None and not block.open_for_writing and length < block.end_of_file:
        raise StoreError(
            f"{where}: expected {block.end_of_file} bytes; got {length} bytes, the file was cut. "
            "Copy it again from its source, or delete it and run the simulation again."
        )
    try:
        file = h5py.File(path, mode, libver=LIBVER, swmr=mode == "r" and block is not None)
    except OSError as error:
        if "lock" in str(error):
            raise StoreError(
                f"{where}: expected a file nobody is opening for writing; got one that is locked. "
                "Wait for the other process, then try again."
            ) from error
        raise StoreError(
            f"{where}: expected a readable HDF5 file; got {error}. If its writer was killed, call "
            "repair(path); otherwise copy it again from its source."
        ) from error
    version = file.attrs.get("rheograd_format")
    if version is None or version > FORMAT_VERSION:
        file.close()
        raise StoreError(
            f"{where}: expected a rollout of format <= {FORMAT_VERSION}; got "
            f"{'no rollout' if version is None else f'format {version}'}. "
            + ("Pass a file written by RolloutWriter." if version is None else "Update rheograd.")
        )
    return file
