"""Fields on grids on disk: HDF5 files in The Well's layout, whole or not at all.

    dimensions/{time, x, z}     times [s] and cell centres [m]; attribute spatial_dims
    t0_fields/NAME              (B, T, *cells), or (B, *cells) where the field is constant in time
    t1_fields/NAME              (B, T, *cells, D): vectors
    scalars/NAME                (B,): parameters of the trajectories
    boundary_conditions/SIDE    attributes bc_type, condition, associated_dims, associated_fields

Fields have an attribute `units` where the writer knows them.

Source: The Well, data format (Ohana et al. 2024).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError, message
from .store_format import StoreError

__all__ = ["FieldFile", "load_fields", "write_fields"]

VERSION = 1
SIDE_TYPES = ("WALL", "OPEN", "PERIODIC")
"""What a side can be in The Well."""


def write_fields(
    path: str | os.PathLike[str],
    fields: Mapping[str, Tensor],
    *,
    times: Sequence[float],
    coordinates: Mapping[str, Tensor],
    constant: Mapping[str, Tensor] | None = None,
    scalars: Mapping[str, Tensor] | None = None,
    sides: Mapping[str, str | tuple[str, str]] | None = None,
    units: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    dataset_name: str | None = None,
) -> None:
    """Write trajectories of fields as one file; a file that exists is replaced.

    Args:
        path: file.
        fields: name to (B, T, C, *cells); C = 1 is a scalar, C = D a vector.
        times: of the T frames [s].
        coordinates: axis name to cell centres [m], in the order of the cells.
        constant: name to (B, C, *cells), fields that do not change in time.
        scalars: name to (B,), parameters of the trajectories.
        sides: side ("x-", …) to what holds there, or to the pair of its type, "WALL", "OPEN" or
            "PERIODIC", and that; without a type it is a wall, and axes without a side are periodic.
        units: name of a field to its unit.
        config: what repeats the file, as JSON values; its numbers become attributes too.
        dataset_name: name of the data set; default the file's.

    Raises:
        InputError: shapes that do not fit together, values that are not finite, unknown sides.
        StoreError: the disk refused the file.
    """
    path, coordinates = Path(path), {k: np.asarray(v) for k, v in coordinates.items()}
    cells = tuple(len(x) for x in coordinates.values())
    arrays = {n: _array(n, v, (len(times),), cells) for n, v in fields.items()}
    still = {n: _array(n, v, (), cells) for n, v in (constant or {}).items()}
    counts = {len(v) for v in [*arrays.values(), *still.values(), *(scalars or {}).values()]}
    if len(counts) != 1:
        got = f"{sorted(counts)}"
        fix = "Give every field the same number of trajectories, at least one field"
        raise InputError(message("write_fields", "one number of trajectories", got, fix))
    kinds = _sides(sides or {}, coordinates)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(part, "w") as file:
            _header(file, dataset_name or path.stem, counts.pop(), len(cells), config or {})
            _dimensions(file, times, coordinates)
            for order in (0, 1, 2):
                group = file.create_group(f"t{order}_fields")
                mine = [
                    n for n, v in (arrays | still).items() if _order(v, n in still, cells) == order
                ]
                group.attrs["field_names"] = mine
                for name in mine:
                    data = group.create_dataset(name, data=(arrays | still)[name])
                    data.attrs["dim_varying"] = [True] * len(cells)
                    data.attrs["sample_varying"] = True
                    data.attrs["time_varying"] = name in arrays
                    if units and name in units:
                        data.attrs["units"] = units[name]
            group = file.create_group("scalars")
            group.attrs["field_names"] = list(scalars or {})
            for name, value in (scalars or {}).items():
                data = group.create_dataset(name, data=np.asarray(value))
                data.attrs["sample_varying"], data.attrs["time_varying"] = True, False
            _boundaries(file, list(coordinates), cells, kinds, list(arrays))
        os.replace(part, path)
    except OSError as error:
        fix = "Free space or choose another folder"
        raise StoreError(
            message("write_fields", "a writable disk with room", str(error), fix)
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@dataclasses.dataclass
class FieldFile:
    """A file of fields; opens itself for every read, so that it travels to other processes."""

    path: str | os.PathLike[str]
    """File."""

    def __post_init__(self) -> None:
        try:
            with h5py.File(self.path) as file:
                names = {k: list(file[k].attrs["field_names"]) for k in ("t0_fields", "t1_fields")}
                axes = list(file["dimensions"].attrs["spatial_dims"])
                self.coordinates = {k: torch.as_tensor(file["dimensions"][k][:]) for k in axes}
                self.times = torch.as_tensor(file["dimensions/time"][:])
                self.n_trajectories = int(file.attrs["n_trajectories"])
                self.config = json.loads(file.attrs.get("config", "{}"))
                self.scalars = {
                    k: torch.as_tensor(file["scalars"][k][:])
                    for k in file["scalars"].attrs["field_names"]
                }
                self._home = {n: f"{group}/{n}" for group, found in names.items() for n in found}
                self._still = [
                    n for n, h in self._home.items() if not file[h].attrs["time_varying"]
                ]
        except (OSError, KeyError) as error:
            fix = "Particles are read by RolloutReader"
            got = f"{self.path}: {error}"
            raise StoreError(message("FieldFile", "a file of fields", got, fix)) from error

    @property
    def names(self) -> list[str]:
        """Fields."""
        return list(self._home)

    def read(self, name: str, trajectories: Any = slice(None), frames: Any = slice(None)) -> Tensor:
        """(B, T, C, *cells), or (B, C, *cells) of a constant field; slices choose."""
        if name not in self._home:
            expected = f"a field out of {self.names}"
            raise InputError(message(f"FieldFile {self.path}", expected, name, "Correct it"))
        with h5py.File(self.path) as file:
            data, still = file[self._home[name]], name in self._still
            value = torch.as_tensor(data[trajectories] if still else data[trajectories, frames])
        lead = 1 if still else 2
        if self._home[name].startswith("t1"):
            return value.movedim(-1, lead)
        return value.unsqueeze(lead)


def load_fields(
    folder: str | os.PathLike[str], names: Sequence[str], split: str = "train"
) -> tuple[Tensor, ...]:
    """Fields of all trajectories of a data set that `rheograd generate` made.

    Args:
        folder: its folder.
        names: fields.
        split: "train" or "validation".

    Returns:
        One tensor per name, (S, T, C, *cells), or (S, C, *cells) if constant in time.

    Raises:
        InputError: no such split or field.
    """
    path = Path(folder)
    try:
        metadata = json.loads((path / "metadata.json").read_text("utf-8"))
    except FileNotFoundError:
        got, fix = f"none in {path}", "Finish it with `rheograd generate --resume`"
        raise InputError(message("load_fields", "a metadata.json", got, fix)) from None
    if not metadata.get(split):
        expected = 'a split "train" or "validation" with files'
        raise InputError(message("load_fields", expected, split, "Choose the other"))
    files = [FieldFile(path / name) for name in metadata[split]]
    return tuple(torch.cat([file.read(name) for file in files]) for name in names)


def _array(name: str, value: Tensor, lead: tuple[int, ...], cells: tuple[int, ...]) -> np.ndarray:
    """Channels moved last, or away if there is one."""
    tensor = torch.as_tensor(value).detach().cpu()
    place = 1 + len(lead)
    fits = tensor.ndim == place + 1 + len(cells) and tuple(tensor.shape[place + 1 :]) == cells
    fits = fits and tuple(tensor.shape[1:place]) == lead
    if not fits or tensor.shape[place] not in (1, len(cells)):
        expected = f"{name} of (B, {', '.join(map(str, (*lead, f'1 or {len(cells)}', *cells)))})"
        raise InputError(message("write_fields", expected, tensor, "Store each channel by name"))
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(
            message("write_fields", f"finite {name}", "NaN or infinity", "Leave it out")
        )
    if tensor.shape[place] == 1:
        return tensor.squeeze(place).numpy()
    return tensor.movedim(place, -1).contiguous().numpy()


def _order(value: np.ndarray, still: bool, cells: tuple[int, ...]) -> int:
    return value.ndim - len(cells) - (1 if still else 2)


def _header(file: h5py.File, name: str, count: int, dim: int, config: Mapping[str, Any]) -> None:
    numbers = {k: v for k, v in config.items() if isinstance(v, (int, float))}
    file.attrs["dataset_name"], file.attrs["grid_type"] = name, "cartesian"
    file.attrs["n_spatial_dims"], file.attrs["n_trajectories"] = dim, count
    file.attrs["simulation_parameters"] = list(numbers)
    for key, number in numbers.items():
        file.attrs[key] = number
    file.attrs["config"], file.attrs["rheograd_fields"] = json.dumps(dict(config)), VERSION


def _dimensions(file: h5py.File, times: Any, coordinates: Mapping[str, np.ndarray]) -> None:
    group = file.create_group("dimensions")
    group.attrs["spatial_dims"] = list(coordinates)
    for name, values in {"time": np.asarray(times, dtype=np.float64), **coordinates}.items():
        data = group.create_dataset(name, data=values)
        data.attrs["sample_varying"], data.attrs["time_varying"] = False, False


def _sides(
    sides: Mapping[str, str | tuple[str, str]], axes: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """Type and condition of each side that is not periodic."""
    known, kinds = [f"{axis}{end}" for axis in axes for end in "-+"], {}
    for side, given in sides.items():
        kind, condition = ("WALL", given) if isinstance(given, str) else given
        if side not in known or kind not in SIDE_TYPES:
            expected = f"sides out of {known} with a condition, or a type out of {SIDE_TYPES} and one"
            raise InputError(message("write_fields", expected, f"{side}: {given}", "Correct it"))
        kinds[side] = (kind, condition)
    return {k: v for k, v in kinds.items() if v[0] != "PERIODIC" and v[1] != "periodic"}


def _boundaries(
    file: h5py.File,
    axes: list[str],
    cells: tuple[int, ...],
    sides: Mapping[str, tuple[str, str]],
    names: list,
) -> None:
    group = file.create_group("boundary_conditions")
    for axis, n in zip(axes, cells, strict=True):
        ends = {side: kind for side, kind in sides.items() if side[0] == axis}
        for side, (kind, condition) in (ends or {axis: ("PERIODIC", "periodic")}).items():
            one = group.create_group(
                f"{side[0]}_{ {'-': 'lower', '+': 'upper'}.get(side[1:], 'periodic') }"
            )
            one.attrs["associated_dims"], one.attrs["associated_fields"] = [axis], names
            one.attrs["bc_type"], one.attrs["condition"] = kind, condition
            one.attrs["sample_varying"], one.attrs["time_varying"] = False, False
            mask = np.zeros(n, dtype=bool)
            mask[[i for i, end in ((0, "-"), (-1, "+")) if side[1:] in ("", end)]] = True
            one.create_dataset("mask", data=mask)
