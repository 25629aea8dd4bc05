"""The VTKHDF side of a rollout file: VTK reads bit for bit what was written, without a copy."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from rheograd.sim.io.store import Field, RolloutWriter, StoreError, vtkhdf_view
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOHDF import vtkHDFReader

B, N, T = 3, 50, 3


def write(path, dim, frames, dtype=torch.float32):
    with RolloutWriter(
        path, n_trajectories=B, particle_count=N, dim=dim, dt_frame=0.1, dtype=dtype,
        fields={"x": 1, "v": 1, "C": Field(2, shown=True), "p": 0,
                "F": Field(2, groups=("jelly",))},
        groups={"water": (0, 20), "jelly": (20, N)},
        static={"mass": torch.arange(N) / 7, "gain": torch.arange(B * N).reshape(B, N) / 3},
    ) as out:
        for t, frame in enumerate(frames):
            out.append(0.1 * t, frame)


def draw(dim, generator, dtype=torch.float32, count=T):
    shapes = {"x": (dim,), "v": (dim,), "C": (dim, dim), "p": ()}
    return [
        {
            **{k: torch.rand(B, N, *s, generator=generator, dtype=dtype) for k, s in
               shapes.items()},
            "F": torch.rand(B, 30, 3, 3, generator=generator, dtype=dtype),
        }
        for _ in range(count)
    ]


def vtk_steps(path):
    """Per step: time, points and point data as VTK hands them out."""
    reader = vtkHDFReader()
    reader.SetFileName(str(path))
    reader.UpdateInformation()
    for step in range(reader.GetNumberOfSteps()):
        reader.SetStep(step)
        reader.Update()
        mesh = reader.GetOutputDataObject(0)
        data = mesh.GetPointData()
        arrays = {
            data.GetArrayName(i): vtk_to_numpy(data.GetArray(i))
            for i in range(data.GetNumberOfArrays())
        }
        assert mesh.GetNumberOfVerts() == mesh.GetNumberOfCells() == N
        yield reader.GetTimeValue(), vtk_to_numpy(mesh.GetPoints().GetData()), arrays


def embed(values, order):
    """(x, z) to (x, 0, z), tensors to nine columns."""
    values = values.numpy()
    if order and values.shape[-1] == 2:
        for axis in range(values.ndim - order, values.ndim):
            values = np.insert(values, 1, 0, axis=axis)
    return values.reshape(len(values), -1) if order == 2 else values


def check(path, frames, trajectory):
    steps = list(vtk_steps(path))
    assert len(steps) == len(frames)
    for t, (time, points, arrays) in enumerate(steps):
        assert time == pytest.approx(0.1 * t, abs=1e-15)
        expected = embed(frames[t]["x"][trajectory], 1)
        assert points.dtype == expected.dtype
        np.testing.assert_array_equal(points, expected)
        assert set(arrays) == {"v", "C", "p", "mass", "gain", "group"}
        for name, order in (("v", 1), ("C", 2), ("p", 0)):
            np.testing.assert_array_equal(arrays[name], embed(frames[t][name][trajectory], order))
        np.testing.assert_array_equal(arrays["group"], np.arange(N) >= 20)
        mass = (torch.arange(N) / 7).to(frames[t]["x"].dtype)
        np.testing.assert_array_equal(arrays["mass"], mass.numpy())
        gain = (torch.arange(B * N).reshape(B, N) / 3).to(mass.dtype)[trajectory]
        np.testing.assert_array_equal(arrays["gain"], gain.numpy())


@pytest.mark.parametrize(
    ("dim", "dtype"), [(3, torch.float32), (2, torch.float32), (3, torch.float64)]
)
def test_vtk_reads_every_bit(tmp_path, generator, dim, dtype):
    frames = draw(dim, generator, dtype)
    write(tmp_path / "r.h5", dim, frames, dtype)
    check(tmp_path / "r.h5", frames, 0)


def test_view_shows_another_trajectory_from_another_folder(tmp_path, generator, monkeypatch):
    frames = draw(2, generator)
    (tmp_path / "views").mkdir()
    write(tmp_path / "r.h5", 2, frames)
    view = vtkhdf_view(tmp_path / "r.h5", 2, tmp_path / "views" / "two.vtkhdf")
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    monkeypatch.chdir("/")
    check(moved / "views" / "two.vtkhdf", frames, 2)
    assert (moved / "views" / "two.vtkhdf").stat().st_size < 50_000
    assert view.name == "two.vtkhdf"
    with h5py.File(moved / "views" / "two.vtkhdf") as file:
        assert file["VTKHDF/Points"].is_virtual and file["VTKHDF/PointData/C"].is_virtual
    moved.rename(tmp_path)


def test_view_refuses_what_it_cannot_show(tmp_path, generator):
    path = tmp_path / "r.h5"
    write(path, 3, [])
    with pytest.raises(StoreError, match="at least one frame"):
        vtkhdf_view(path, 0, tmp_path / "v.vtkhdf")
    write_again = draw(3, generator, count=1)
    path.unlink()
    write(path, 3, write_again)
    with pytest.raises(ValueError, match=r"trajectory in \[0, 3\); got 3"):
        vtkhdf_view(path, B, tmp_path / "v.vtkhdf")
    with pytest.raises(ValueError, match="Name a new file"):
        vtkhdf_view(path, 0, path)


def test_pyvista_opens_the_file(tmp_path, generator):
    import pyvista

    frames = draw(3, generator)
    write(tmp_path / "r.vtkhdf", 3, frames)
    mesh = pyvista.read(tmp_path / "r.vtkhdf")
    np.testing.assert_array_equal(mesh.points, frames[0]["x"][0].numpy())


def test_animation_is_readable_while_the_file_grows(tmp_path, generator):
    frames = draw(2, generator)
    writer = RolloutWriter(
        tmp_path / "r.h5", n_trajectories=B, particle_count=N, dim=2, dt_frame=0.1,
        fields={"x": 1},
    )
    for t, frame in enumerate(frames):
        writer.append(0.1 * t, {"x": frame["x"]})
    steps = list(vtk_steps(tmp_path / "r.h5"))
    assert len(steps) == T
    np.testing.assert_array_equal(steps[-1][1], embed(frames[-1]["x"][0], 1))
    writer.close()


def test_nothing_is_stored_twice(tmp_path, generator):
    path, count = tmp_path / "r.h5", 2000
    fields = {"x": 1, "v": 1, "C": 2}
    values = 0
    with RolloutWriter(
        path, n_trajectories=2, particle_count=count, dim=3, dt_frame=0.1, fields=fields,
        groups={"all": (0, count)},
    ) as out:
        for t in range(20):
            frame = {k: torch.rand(2, count, *(3,) * o, generator=generator) for k, o in
                     fields.items()}
            out.append(t, frame)
            values += sum(4 * value.numel() for value in frame.values())
    # 10 % is the promise of docs/data-format.md for 0.5 MB per frame; tables take about 1 %.
    assert values < path.stat().st_size < 1.1 * values
    with h5py.File(path) as file:
        assert sorted(file["VTKHDF/PointData"]) == ["group", "v"]
        assert file["VTKHDF/Points"].is_virtual
        assert file["VTKHDF/Points"].shape == (20 * count, 3)
