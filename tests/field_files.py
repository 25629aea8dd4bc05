"""Small files in the layouts of others, written as their generators write them."""

from __future__ import annotations

import h5py
import numpy as np
import scipy.io
import torch


def draw(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def well(path, b=3, t=5, cells=(6, 4)):
    """The Well: scalars, vectors, tensors; fields without samples, frames or an axis; masks."""
    n, m = cells
    arrays = {
        "t0_fields": {
            "density": (draw(b, t, n, m), True, True, [True, True]),
            "mask": (draw(n, m), False, False, [True, True]),
            "depth": (draw(b, n), True, False, [True, False]),
            "height": (draw(b, n, 1), True, False, [True, False]),
            "forcing": (draw(t, m), False, True, [False, True]),
        },
        "t1_fields": {"velocity": (draw(b, t, n, m, 2), True, True, [True, True])},
        "t2_fields": {"D": (draw(b, t, n, m, 2, 2), True, True, [True, True])},
    }
    with h5py.File(path, "w") as file:
        file.attrs.update(dataset_name="flow", grid_type="cartesian", n_spatial_dims=2)
        file.attrs.update(n_trajectories=b, simulation_parameters=["Re"], Re=100.0)
        group = file.create_group("dimensions")
        group.attrs["spatial_dims"] = ["x", "y"]
        for name, value in {"time": np.arange(t) / 2, "x": np.arange(n), "y": np.arange(m)}.items():
            group.create_dataset(name, data=value.astype(np.float32)).attrs["sample_varying"] = (
                False
            )
        for name, fields in arrays.items():
            group = file.create_group(name)
            group.attrs["field_names"] = list(fields)
            for field, (value, sample, time, dims) in fields.items():
                data = group.create_dataset(field, data=value)
                data.attrs.update(sample_varying=sample, time_varying=time, dim_varying=dims)
        group = file.create_group("scalars")
        group.attrs["field_names"] = ["Re", "seed", "power"]
        for name, value, sample, time in (
            ("Re", np.float32(100.0), False, False),
            ("seed", np.arange(b), True, False),
            ("power", draw(t), False, True),
        ):
            group.create_dataset(name, data=value).attrs.update(
                sample_varying=sample, time_varying=time
            )
        group = file.create_group("boundary_conditions")
        for name, axis, kind, places in (
            ("x_periodic", "x", "PERIODIC", [0, -1]),
            ("floor", "y", "WALL", [0]),
            ("top", "y", "OPEN", [-1]),
        ):
            one = group.create_group(name)
            one.attrs.update(associated_dims=[axis], associated_fields=[], bc_type=kind)
            mask = np.zeros(n if axis == "x" else m, dtype=bool)
            mask[places] = True
            one.create_dataset("mask", data=mask)
    return {k: v[0] for fields in arrays.values() for k, v in fields.items()}


def coordinates(file, cells, times=0):
    for axis, n in zip("xyz", cells, strict=False):
        file[f"{axis}-coordinate"] = ((np.arange(n) + 0.5) / n).astype(np.float32)
    if times:  # one more than there are frames
        file["t-coordinate"] = np.linspace(0, 1, times + 1, dtype=np.float32)


def pdebench_scalar(path, b=4, t=5, n=16):
    """Burgers, advection, reaction in 1-D."""
    u = draw(b, t, n)
    with h5py.File(path, "w") as file:
        file["tensor"] = u
        coordinates(file, (n,), t)
        file.attrs["Nu"] = 0.01
    return u


def pdebench_flow(path, cells=(6, 4), b=3, t=4):
    """Compressible flow, an array per quantity."""
    names = ["density", "pressure", "Vx", "Vy", "Vz"][: 2 + len(cells)]
    arrays = {k: draw(b, t, *cells) + i for i, k in enumerate(names)}
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
        coordinates(file, cells, t)
        file.attrs.update(eta=1e-8, zeta=1e-8)
    return arrays


def pdebench_darcy(path, b=5, n=8):
    u, nu = draw(b, 1, n, n), np.abs(draw(b, n, n))
    with h5py.File(path, "w") as file:
        file["tensor"], file["nu"] = u, nu
        coordinates(file, (n, n))
        file.attrs["beta"] = 1.0
    return nu, u


def pdebench_groups(path, b=3, t=4, cells=(6, 4), channels=2):
    values = [draw(t, *cells, channels) + k for k in range(b)]
    with h5py.File(path, "w") as file:
        for k, value in enumerate(values):
            group = file.create_group(f"{k:04d}")
            group.create_dataset("data", data=value, compression="lzf")
            group["grid/t"] = np.arange(t, dtype=np.float32)
            for axis, n in zip("xy", cells, strict=False):
                group[f"grid/{axis}"] = np.arange(n, dtype=np.float32)
            group.attrs["config"] = "sim: {}"
    return np.stack(values)


def pdebench_incompressible(path, b=2, t=3, n=6):
    velocity, particles, force = draw(b, t, n, n, 2), draw(b, t, n, n, 1), draw(b, n, n, 2)
    with h5py.File(path, "w") as file:
        for name, value in (("velocity", velocity), ("particles", particles), ("force", force)):
            file.create_dataset(name, data=value, compression="lzf", shuffle=True)
        file["t"] = np.tile(np.arange(t, dtype=np.float32) * 0.005, (b, 1))
    return velocity, particles, force


def mat73(path, **arrays):
    """As MATLAB writes: a header of text before the HDF5 file, axes in reverse order."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in arrays.items():
            data = file.create_dataset(name, data=np.atleast_2d(value).transpose(), chunks=None)
            data.attrs["MATLAB_class"] = np.bytes_("double")
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + b"\0" * 8 + b"\0\2IM")


def fno_flow(path, old=False, b=4, n=8, t=3):
    """ns_V1e-3_N5000_T50.mat: a at time 0, u at times 1 … T, last."""
    arrays = {"a": draw(b, n, n), "u": draw(b, n, n, t), "t": np.arange(1.0, t + 1)[None]}
    if old:
        scipy.io.savemat(path, arrays, do_compression=True)
    else:
        mat73(path, **arrays)
    return arrays["a"], arrays["u"]


def torch_darcy(path, b=6, n=8):
    x, y = torch.from_numpy(draw(b, n, n)) > 0, torch.from_numpy(draw(b + 1, n, n)[:b])
    torch.save({"x": x, "y": y}, path)
    return x, y
