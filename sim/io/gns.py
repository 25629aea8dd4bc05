"""Import of the GNS data sets (learning to simulate) as rollout files.

A data set is a folder with metadata.json and train.npz, valid.npz, test.npz. Each trajectory in an
npz is a pair of positions (T, N, D) and particle types, one per particle or one for all; a third
item, if any, is not read. Pairs are stored as pickled object arrays, which could run any code: only
arrays and numbers are unpickled here.

    metadata.json: bounds (D, 2), dim, dt [s], sequence_length (frames − 1),
                   default_connectivity_radius [m], vel_mean, vel_std [m/frame], acc_mean, acc_std
                   [m/frame²] over the training trajectories

Source: Sanchez-Gonzalez et al. 2020 (GNS), data release; npz form of Kumar & Vantassel 2023.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..core.errors import InputError, StateError, message
from .store_format import StoreError
from .store_write import RolloutWriter

__all__ = ["import_gns"]

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
"""Name of the npz to name of the split."""
STATISTICS = {
    "vel_mean": "velocity_mean",
    "vel_std": "velocity_std",
    "acc_mean": "acceleration_mean",
    "acc_std": "acceleration_std",
}
ARRAYS = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
"""What NumPy needs to rebuild arrays and numbers from a pickle."""
TYPES = 9
"""Particle types are 0 … 8."""
SLACK = 0.1
"""Share of the box that a particle may leave it by: more is another unit or order of axes."""


def import_gns(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    limit: int | None = None,
    up: int | None = None,
    on_trajectory: Callable[[int], None] | None = None,
) -> Path:
    """Write a GNS data set as rollout files, one per trajectory, with a metadata.json.

    Types are kept as the static field `material`; read the result with
    `rheograd.operators.data.ParticleWindows.from_folder(out)`.

    Args:
        folder: Folder with metadata.json and at least one of train.npz, valid.npz, test.npz.
        out: New or empty folder.
        limit: Trajectories per npz at most; None imports all.
        up: Axis that points up; it becomes the last one, by rotation. None keeps the axes.
        on_trajectory: Called with the number of trajectories written so far.

    Returns:
        The folder `out`.

    Raises:
        FileNotFoundError: no metadata.json, or no npz.
        FileExistsError: `out` holds something.
        InputError: metadata or arrays that do not fit together, or code in a pickle; names the key.
        StateError: positions that are not finite; names trajectory and frame.
        StoreError: a cut npz.
    """
    folder, out = Path(folder), Path(out)
    metadata = _metadata(folder)
    found = [name for name in SPLITS if (folder / f"{name}.npz").is_file()]
    if not found:
        raise FileNotFoundError(
            f"import_gns: {folder}: expected train.npz, valid.npz or test.npz; got none. Convert "
            "the TFRecords to npz first."
        )
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(
            f"import_gns: {out}: expected a new or empty folder; got one with files. Choose another."
        )
    D = metadata["dim"]
    if up is not None and not 0 <= up < D:
        raise InputError(message("import_gns", f"up in [0, {D})", up, "Name an axis"))
    axes = list(range(D)) if up is None else [(up + 1 + i) % D for i in range(D)]
    bounds = [metadata["bounds"][a] for a in axes]
    described: dict[str, Any] = {
        "dataset": folder.resolve().name,
        "dim": D,
        "dt": metadata["dt"],
        "bounds": bounds,
        "default_connectivity_radius": metadata.get("default_connectivity_radius"),
    }
    if STATISTICS.keys() <= metadata.keys():
        statistics = {new: _numbers(metadata, old, D) for old, new in STATISTICS.items()}
        described["statistics"] = {k: [v[a] for a in axes] for k, v in statistics.items()}
    count = 0
    for name in found:
        names = described[SPLITS[name]] = []
        for index, (key, item) in enumerate(_trajectories(folder / f"{name}.npz")):
            if limit is not None and index == limit:
                break
            where = f"import_gns: {folder / name}.npz: {key}"
            x, kind = _checked(where, item, metadata)
            names.append(f"{SPLITS[name]}-{index:04d}.h5")
            config = {
                "domain": {"lower": [b[0] for b in bounds], "upper": [b[1] for b in bounds]},
                "source": {"file": f"{name}.npz", "key": key, **metadata},
            }
            _write(out / names[-1], x[..., axes], kind, float(metadata["dt"]), config)
            count += 1
            if on_trajectory is not None:
                on_trajectory(count)
    text = json.dumps({k: v for k, v in described.items() if v is not None}, indent=1)
    (out / "metadata.json").write_text(text + "\n", encoding="utf-8")
    return out


def _write(path: Path, x: np.ndarray, kind: np.ndarray, dt: float, config: dict[str, Any]) -> None:
    T, N, D = x.shape
    with RolloutWriter(
        path, n_trajectories=1, particle_count=N, fields={"x": 1}, dim=D, dt_frame=dt,
        static={"material": kind}, config=config, dtype=x.dtype,
    ) as writer:  # fmt: skip
        for t in range(T):
            writer.append(t * dt, {"x": x[None, t]})


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    where = f"import_gns: {path}"
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{where}: expected a file; got none. Check the folder.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(message(where, "JSON", str(error), "Download it again")) from error
    if isinstance(data, dict) and isinstance(data.get("train"), dict):
        data = data["train"]  # newer files hold one part for training and one for rollouts
    missing = [k for k in ("bounds", "dim", "dt") if not isinstance(data, dict) or k not in data]
    if missing:
        raise InputError(message(where, "bounds, dim, dt", f"none of {missing}", "Add them"))
    if data["dim"] not in (2, 3) or not float(data["dt"]) > 0:
        got = f"{data['dim']!r}, {data['dt']!r}"
        raise InputError(message(where, "dim 2 or 3 and dt > 0 s", got, "Correct them"))
    try:
        bounds = np.asarray(data["bounds"], dtype=np.float64)
    except (TypeError, ValueError):
        bounds = np.zeros(0)
    if (
        bounds.shape != (data["dim"], 2)
        or not (bounds[:, 0] < bounds[:, 1]).all()
        or not (np.isfinite(bounds).all())
    ):
        raise InputError(
            message(
                where,
                f"bounds of shape ({data['dim']}, 2), lower below upper",
                str(data["bounds"]),
                "Correct them",
            )
        )
    return data


def _numbers(metadata: Mapping[str, Any], name: str, count: int) -> list[float]:
    values = np.atleast_1d(np.asarray(metadata[name], dtype=np.float64))
    if values.shape != (count,) or not np.isfinite(values).all():
        got = str(metadata[name])
        raise InputError(message("import_gns", f"{name} of {count} numbers", got, "Correct it"))
    return values.tolist()


def _checked(where: str, item: Any, metadata: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Positions (T, N, D) and types (N,) of one trajectory."""
    D, bounds = metadata["dim"], np.asarray(metadata["bounds"], dtype=np.float64)
    if not isinstance(item, Sequence | np.ndarray) or len(item) not in (2, 3):
        raise InputError(message(where, "(positions, types)", type(item).__name__, "Convert again"))
    try:
        # Some converters store the numbers themselves as objects.
        x, kind = (
            np.array(v.tolist()) if v.dtype == object else v for v in map(np.asarray, item[:2])
        )
        x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
        number = kind.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            message(where, "arrays of numbers", str(error), "Convert again")
        ) from error
    if x.ndim != 3 or x.shape[2] != D or x.shape[0] < 3 or not x.shape[1]:
        got = str(x.shape)
        raise InputError(
            message(where, f"positions of shape (T >= 3, N >= 1, {D})", got, "Check dim")
        )
    finite = np.isfinite(x).all(axis=(1, 2))
    if not finite.all():
        frame = int(np.argmin(finite))
        raise StateError(
            message(where, "finite positions", f"NaN or infinity at frame {frame}", "Leave it out"),
            step=frame,
            field="x",
        )
    slack = SLACK * (bounds[:, 1] - bounds[:, 0])
    if (x < bounds[:, 0] - slack).any() or (x > bounds[:, 1] + slack).any():
        span = f"{x.min((0, 1)).tolist()} … {x.max((0, 1)).tolist()}"
        raise InputError(
            message(where, f"positions within {bounds.tolist()}", span, "Check units and axes")
        )
    if kind.shape not in ((), (x.shape[1],)):
        raise InputError(
            message(where, f"one type, or {x.shape[1]}", str(kind.shape), "Convert again")
        )
    if (number != np.floor(number)).any() or number.min() < 0 or number.max() >= TYPES:
        got = str(np.unique(number)[:9].tolist())
        raise InputError(message(where, f"types 0 … {TYPES - 1}", got, "Check the types"))
    return x, np.broadcast_to(number.astype(np.int64), (x.shape[1],)).copy()


class _Unpickler(pickle.Unpickler):
    """Rebuilds arrays, numbers and containers, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ARRAYS:
            return super().find_class(module, name)
        raise InputError(
            message(
                "import_gns", "arrays and numbers", f"a pickle that calls {module}.{name}",
                "Do not trust this file",
            )
        )  # fmt: skip


def _trajectories(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and pairs of an npz, one at a time, in the order of the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                key = name.removesuffix(".npy")
                with archive.open(name) as stream:
                    value = _array(stream)
                if key in ("gns_data", "trajectories"):  # all in one array, or a dictionary
                    value = value.item() if value.ndim == 0 else value
                    items = value.items() if isinstance(value, Mapping) else enumerate(value)
                    yield from ((f"{key}[{k}]", item) for k, item in items)
                else:
                    yield key, value
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise StoreError(
            f"import_gns: {path}: expected a whole npz; got {error}. Download it again."
        ) from error


def _array(stream: BinaryIO) -> np.ndarray:
    """One npy; objects are read by the careful unpickler."""
    form = np.lib.format
    version = form.read_magic(stream)
    header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    order = "F" if fortran else "C"
    if dtype.kind == "O":
        value = _Unpickler(stream).load()
        if not isinstance(value, np.ndarray):
            raise ValueError(f"an array that is stored as {type(value).__name__}")
        return value.reshape(shape, order=order)
    return np.frombuffer(stream.read(), dtype=dtype).reshape(shape, order=order)
