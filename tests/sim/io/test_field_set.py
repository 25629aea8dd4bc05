"""Files of fields in the layouts of others: values in their places, laziness, what is refused."""

from __future__ import annotations

import pickle

import field_files as files
import h5py
import numpy as np
import pytest
import scipy.io
import torch
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.io import StoreError, field_parts, open_fields, write_fields

same = np.testing.assert_array_equal


def test_the_well(tmp_path):
    arrays = files.well(tmp_path / "w.hdf5")
    data = open_fields(tmp_path / "w.hdf5")
    assert (data.n_trajectories, data.n_frames, data.cells) == (3, 5, (6, 4))
    assert data.layout == "The Well" and data.attributes["Re"] == 100.0
    same(data.read("density")[:, :, 0], arrays["density"])
    same(data.read("velocity"), arrays["velocity"].transpose(0, 1, 4, 2, 3))
    assert data.channels("velocity") == ("velocity_x", "velocity_y")
    assert data.channels("D") == ("D_xx", "D_xy", "D_yx", "D_yy")
    same(data.read("D")[:, :, 1], arrays["D"][..., 0, 1])
    with h5py.File(tmp_path / "w.hdf5", "r+") as file:  # as the text of the format has it
        value = file["t2_fields/D"][()]
        attributes = dict(file["t2_fields/D"].attrs)
        del file["t2_fields/D"]
        file["t2_fields/D"] = value.reshape(3, 5, 6, 4, 4)
        file["t2_fields/D"].attrs.update(attributes)
    flat = open_fields(tmp_path / "w.hdf5").read("D")
    same(flat, arrays["D"].reshape(3, 5, 6, 4, 4).transpose(0, 1, 4, 2, 3))
    # what the file stores once is repeated
    assert data.varies("forcing") and not data.varies("mask") and not data.varies("depth")
    same(data.read("mask", 2), arrays["mask"][None, None])
    same(data.read("depth"), np.broadcast_to(arrays["depth"][:, None, :, None], (3, 1, 6, 4)))
    same(data.read("height"), np.broadcast_to(arrays["height"][:, None], (3, 1, 6, 4)))
    same(data.read("forcing", 0, [4, 1])[0, :, 0, 3], arrays["forcing"][[4, 1]])
    joined = data.read(["depth", "velocity"], 1)
    assert joined.shape == (1, 5, 3, 6, 4)
    same(joined[0, 4, 0], data.read("depth", 1)[0, 0])
    assert data.sides == {"x-": "periodic", "x+": "periodic", "y-": "wall", "y+": "open"}
    assert data.scalars["Re"].tolist() == [100.0] * 3 and data.scalars["seed"].tolist() == [0, 1, 2]
    assert data.scalars["power"].shape == (3, 5) and data.times.tolist() == [0, 0.5, 1, 1.5, 2]


def test_our_own_files_are_the_same_layout(tmp_path):
    u, v, a = (torch.from_numpy(files.draw(2, *s, 4, 5)) for s in ((3, 1), (3, 2), (1,)))
    write_fields(
        tmp_path / "f.h5", {"u": u, "velocity": v}, constant={"a": a}, times=[0.0, 0.1, 0.2],
        coordinates={"x": torch.arange(4) + 0.5, "z": torch.arange(5) + 0.5},
        sides={"z-": "dirichlet", "z+": "neumann"}, config={"nu": 0.1},
        scalars={"seed": torch.tensor([5, 6])},
    )  # fmt: skip
    data = open_fields(tmp_path / "f.h5")
    for name, value in {"u": u, "velocity": v, "a": a}.items():
        assert torch.equal(data.read(name), value)
    assert data.sides == {"x-": "periodic", "x+": "periodic", "z-": "dirichlet", "z+": "neumann"}
    assert data.attributes["nu"] == 0.1 and list(data.coordinates) == ["x", "z"]
    assert data.scalars["seed"].tolist() == [5, 6]


def test_pdebench_arrays(tmp_path):
    u = files.pdebench_scalar(tmp_path / "1.hdf5")
    data = open_fields(tmp_path / "1.hdf5")
    same(data.read("tensor")[:, :, 0], u)
    assert (
        data.times.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
        and data.attributes["Nu"] == 0.01
    )
    for cells in ((16,), (6, 4), (4, 3, 5)):
        arrays = files.pdebench_flow(tmp_path / "c.hdf5", cells)
        flow = open_fields(tmp_path / "c.hdf5")
        assert flow.cells == cells and set(flow.names) == set(arrays)
        same(flow.read(["Vx", "pressure"], [2, 0], -1)[:, 0, 1], arrays["pressure"][[2, 0], -1])
    nu, u = files.pdebench_darcy(tmp_path / "d.hdf5")
    darcy = open_fields(tmp_path / "d.hdf5")
    assert darcy.n_frames == 0 and darcy.times is None
    same(darcy.read("nu")[:, 0], nu)
    same(darcy.read("tensor"), u)


def test_pdebench_groups_and_incompressible_flow(tmp_path):
    for cells, channels in (((6, 4), 2), ((16,), 1)):
        value = files.pdebench_groups(tmp_path / "g.h5", cells=cells, channels=channels)
        data = open_fields(tmp_path / "g.h5")
        assert (data.n_trajectories, data.n_frames, data.cells) == (3, 4, cells)
        same(data.read("data", [2, 0]), np.moveaxis(value, -1, 2)[[2, 0]])
    velocity, particles, force = files.pdebench_incompressible(tmp_path / "ns_incom-0.h5")
    data = open_fields(tmp_path / "ns_incom-0.h5")
    assert not data.varies("force") and data.times.shape == (3,) and data.coordinates == {}
    same(data.read(["velocity", "particles"])[:, :, 2], particles[..., 0])
    same(data.read("force"), np.moveaxis(force, -1, 1))


@pytest.mark.parametrize("old", [True, False], ids=["5", "7.3"])
def test_matlab(tmp_path, old):
    a, u = files.fno_flow(tmp_path / "ns.mat", old)
    data = open_fields(tmp_path / "ns.mat")
    assert (data.n_trajectories, data.n_frames, data.cells) == (4, 3, (8, 8))
    same(data.read("a", [1, 3])[:, 0], a[[1, 3]])
    same(data.read("u", 2)[0, :, 0], u[2].transpose(2, 0, 1))
    assert data.times.tolist() == [1, 2, 3]
    # Burgers, and Darcy flow with variables of other shapes; Burgers of PINO has times in the middle
    write = (lambda p, **v: scipy.io.savemat(p, v)) if old else files.mat73
    write(
        tmp_path / "b.mat",
        a=files.draw(6, 32),
        u=files.draw(6, 32),
        visc=0.1,
        odd=files.draw(5, 32),
    )
    burgers = open_fields(tmp_path / "b.mat")
    assert burgers.names == ["a", "u"] and burgers.cells == (32,) and burgers.n_frames == 0
    assert burgers.scalars["visc"].tolist() == [0.1] * 6
    with pytest.raises(InputError, match=r"odd of shape \(5, 32\), which does not fit 6 samples"):
        burgers.read("odd")
    x, y = files.draw(6, 16), files.draw(6, 5, 16)
    write(tmp_path / "p.mat", input=x, output=y, tspan=np.linspace(0, 1, 5)[None])
    pino = open_fields(tmp_path / "p.mat")
    same(pino.read("output")[:, :, 0], y)
    assert pino.n_frames == 5 and pino.cells == (16,)
    write(tmp_path / "u.mat", u=y)
    assert open_fields(tmp_path / "u.mat").cells == (5, 16)  # the shape alone
    assert open_fields(tmp_path / "u.mat", dim=1).n_frames == 16


def test_torch(tmp_path):
    x, y = files.torch_darcy(tmp_path / "darcy_train_8.pt")
    data = open_fields(tmp_path / "darcy_train_8.pt")
    assert data.names == ["x", "y"] and data.cells == (8, 8) and data.n_frames == 0
    assert torch.equal(data.read("x")[:, 0], x.float()) and torch.equal(
        data.read("y", 3)[0, 0], y[3]
    )
    torch.save({"x": y[:, 0], "y": y}, tmp_path / "burgers.pt")
    assert open_fields(tmp_path / "burgers.pt").n_frames == 8
    torch.save({"x": y}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(open_fields(tmp_path / "old.pt").read("x")[:, 0], y)


def test_thin_fields(tmp_path):
    arrays = files.pdebench_flow(tmp_path / "c.hdf5", (7, 6), t=5)
    data = open_fields(tmp_path / "c.hdf5").thin(cells=(3, 2), frames=2)
    assert data.cells == (3, 3) and data.n_frames == 3 and len(data.times) == 3
    same(data.read("Vx")[:, :, 0], arrays["Vx"][:, ::2, ::3, ::2])
    assert data.coordinates["x"].tolist() == pytest.approx([0.5 / 7, 3.5 / 7, 6.5 / 7])
    same(data.thin(2).read("Vy", -1, 1)[0, 0, 0], arrays["Vy"][-1, 2, ::6, ::4])
    with pytest.raises(InputError, match="strides of at least 1"):
        data.thin(0)


def test_many_files_are_one_set(tmp_path):
    values = [files.pdebench_incompressible(tmp_path / f"{k}.h5", b=k + 1)[0] for k in range(3)]
    data = pickle.loads(pickle.dumps(open_fields(tmp_path)))  # travels to other processes
    assert data.n_trajectories == 6
    whole = np.moveaxis(np.concatenate(values), -1, 2)
    same(data.read("velocity", [5, 0, 2, 1]), whole[[5, 0, 2, 1]])
    same(data.read("velocity", slice(0, 6, 2), slice(1, 3)), whole[::2, 1:3])
    files.pdebench_incompressible(tmp_path / "3.h5", n=5)
    with pytest.raises(InputError, match=r"cells \(6, 6\), as in .*0.h5; got \(5, 5\) in .*3.h5"):
        open_fields(tmp_path)


def test_a_file_larger_than_memory(tmp_path, monkeypatch):
    shape = (4096, 200, 1024, 1024)  # 3.4 TB that are not stored
    with h5py.File(tmp_path / "big.hdf5", "w") as file:
        file.create_dataset("tensor", shape, np.float32, chunks=(1, 1, 256, 256), fillvalue=0.5)
        file["tensor"][7, 3, 8, 16] = 2.0
        files.coordinates(file, shape[2:])
    read = []
    take = h5py.Dataset.__getitem__

    def count(self, index):
        value = take(self, index)
        read.append(np.size(value))
        return value

    monkeypatch.setattr(h5py.Dataset, "__getitem__", count)
    data = open_fields(tmp_path / "big.hdf5").thin(8)
    assert sum(read) < 5000
    read.clear()
    x = data.read("tensor", [7, 4000], [3, 5])
    assert (
        x.shape == (2, 2, 1, 128, 128)
        and x[0, 0, 0, 1, 2] == 2
        and x.sum() == 0.5 * x.numel() + 1.5
    )
    assert sum(read) == 4 * 1024**2  # the four frames that were asked for
    monkeypatch.setattr(field_parts, "BLOCK", 8 * 1024**2)
    read.clear()
    data.read("tensor", slice(2), slice(2))
    assert read == [1024**2] * 4  # frame by frame
    files.well(tmp_path / "w.h5")
    small = open_fields(tmp_path / "w.h5")
    whole = {n: small.read(n, [2, 0, 1], [3, 1, 0]) for n in small.names}
    monkeypatch.setattr(field_parts, "BLOCK", 1)
    assert all(torch.equal(small.read(n, [2, 0, 1], [3, 1, 0]), v) for n, v in whole.items())


def test_frames_that_are_not_finite(tmp_path):
    files.pdebench_scalar(tmp_path / "n.hdf5")
    with h5py.File(tmp_path / "n.hdf5", "r+") as file:
        file["tensor"][2, 3, 1] = np.nan
        file["tensor"][3, 0, 5] = np.inf
    data = open_fields(tmp_path / "n.hdf5")
    with pytest.raises(StateError, match=r"finite tensor; got NaN .*n.hdf5, trajectory 2, frame 3"):
        data.read("tensor")
    assert data.nonfinite("tensor") == [(2, 3), (3, 0)]
    assert (
        data.read("tensor", [0, 1]).isfinite().all() and data.read("tensor", 2, 2).isfinite().all()
    )
    assert data.read("tensor", check=False).isnan().sum() == 1


@pytest.mark.parametrize("name", ["w.hdf5", "n.mat", "o.mat", "d.pt"])
def test_cut_files(tmp_path, name):
    write = {"w.hdf5": files.well, "n.mat": files.fno_flow, "d.pt": files.torch_darcy}
    write.get(name, lambda p: files.fno_flow(p, True, n=64))(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for part in (0.3, 0.9):
        (tmp_path / name).write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(StoreError, match=name) as caught:
            data = open_fields(tmp_path / name)
            [data.read(n) for n in data.names]
        assert "again" in str(caught.value)


def test_bytes_that_changed(tmp_path):
    """One kind of error whatever the libraries raise; wrong values are beyond what a file can tell."""
    random = np.random.default_rng(0)
    for write in (files.pdebench_scalar, files.pdebench_groups, files.fno_flow, files.torch_darcy):
        write(tmp_path / "f.pt")
        whole = np.frombuffer((tmp_path / "f.pt").read_bytes(), np.uint8)
        for _ in range(15):
            changed = whole.copy()
            changed[random.integers(0, len(whole), 20)] = random.integers(0, 256, 20)
            (tmp_path / "f.pt").write_bytes(changed.tobytes())
            try:
                data = open_fields(tmp_path / "f.pt")
                [data.read(name) for name in data.names]
            except (StoreError, StateError) as error:
                assert "f.pt" in str(error)


def test_unknown_layouts_and_damaged_ones(tmp_path):
    with pytest.raises(StoreError, match="no.h5"):
        open_fields(tmp_path / "no.h5")
    (tmp_path / "t.txt").write_text("hello")
    with pytest.raises(
        StoreError, match="The Well.*PDEBench.*got 5 bytes that begin with b'hello'"
    ):
        open_fields(tmp_path / "t.txt")
    with pytest.raises(StoreError, match="files that end in .*Pass files"):
        open_fields(tmp_path)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["temperature"] = np.zeros((3, 4))
        file.create_group("mesh")
    with pytest.raises(StoreError, match=r"PDEBench.*got mesh/, temperature \(3, 4\) in .*f.h5"):
        open_fields(tmp_path / "f.h5")
    torch.save([torch.zeros(3)], tmp_path / "l.pt")
    with pytest.raises(StoreError, match="dictionary of tensors.*got list"):
        open_fields(tmp_path / "l.pt")
    torch.save({"x": np.random.default_rng()}, tmp_path / "code.pt")
    with pytest.raises(StoreError, match="plain tensors, which carry no code"):
        open_fields(tmp_path / "code.pt")
    scipy.io.savemat(tmp_path / "s.mat", {"name": "text", "one": 1.0})
    with pytest.raises(StoreError, match="samples on the first axis; got one"):
        open_fields(tmp_path / "s.mat")

    def damage(change):
        files.well(tmp_path / "w.h5")
        with h5py.File(tmp_path / "w.h5", "r+") as file:
            change(file)
        return open_fields(tmp_path / "w.h5")

    def shorter(file):
        del file["t1_fields/velocity"]
        file["t1_fields/velocity"] = np.zeros((3, 4, 6, 4, 2))

    with pytest.raises(StoreError, match="an array /t0_fields/density; got depth"):
        damage(lambda f: f["t0_fields"].pop("density"))
    with pytest.raises(StoreError, match="an array /dimensions; got"):
        damage(lambda f: f.pop("dimensions"))
    with pytest.raises(
        StoreError, match=r"velocity of shape \(3, 5, 6, 4, 2\).*got \(3, 4, 6, 4, 2\)"
    ):
        damage(shorter)
    files.pdebench_scalar(tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        del file["x-coordinate"]
        file["x-coordinate"] = np.zeros(15)
    with pytest.raises(StoreError, match=r"tensor \(B, T, \*cells\) .*coordinates \(15,\)"):
        open_fields(tmp_path / "p.h5")
    files.pdebench_groups(tmp_path / "g.h5")
    with h5py.File(tmp_path / "g.h5", "r+") as file:
        del file["0001/data"]
        file["0001/data"] = np.zeros((4, 6, 3, 2))
    data = open_fields(tmp_path / "g.h5")
    assert data.read("data", 2).isfinite().all()
    with pytest.raises(StoreError, match=r"0001/data of shape \(4, 6, 4, 2\); got \(4, 6, 3, 2\)"):
        data.read("data")
    for wrong in ({"trajectories": 3}, {"frames": -5}, {"frames": [0, 9]}):
        with pytest.raises(InputError, match=r"in \[0, [34]\)"):
            data.read("data", **wrong)
    with pytest.raises(InputError, match=r"a field out of \['data'\]; got u"):
        data.read("u")
