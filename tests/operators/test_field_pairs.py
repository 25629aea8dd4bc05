"""Inputs and targets out of files of fields: which frames they are, batches, training."""

from __future__ import annotations

import field_files as files
import h5py
import pytest
import torch
from rheograd.operators.data import FieldPairs
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.train import TrainerConfig, fit_operator, train_on_arrays
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.io import open_fields


def test_windows_are_the_frames_they_say(tmp_path):
    files.well(tmp_path / "w.h5")
    data = open_fields(tmp_path / "w.h5")
    pairs = FieldPairs(data, ["velocity", "mask", "seed", "power"], "density", past=2, future=2)
    v, d, mask = (data.read(n) for n in ("velocity", "density", "mask"))
    assert len(pairs) == 3 * 2 and (pairs.in_channels, pairs.out_channels) == (7, 2)
    x, y = pairs[:]
    assert pairs.nbytes == 4 * (x.numel() + y.numel())
    for i in range(6):
        b, s = divmod(i, 2)
        assert torch.equal(x[i, :4], v[b, s : s + 2].flatten(0, 1)) and torch.equal(
            x[i, 4:5], mask[b]
        )
        assert (x[i, 5] == b).all() and (x[i, 6] == data.scalars["power"][b, s + 1].float()).all()
        assert torch.equal(y[i], d[b, s + 2 : s + 4, 0])
        assert torch.equal(pairs[i][0], x[i]) and torch.equal(pairs[i][1], y[i])
    assert torch.equal(pairs[[5, -6, 2]][0], x[[5, 0, 2]]) and torch.equal(pairs[1:3][1], y[1:3])
    later = FieldPairs(data, "density", "density", lead=3, starts=[0, -4], trajectories=[2, -3])
    assert torch.equal(
        later[:][1][:, 0], torch.stack([d[2, 3, 0], d[2, 4, 0], d[0, 3, 0], d[0, 4, 0]])
    )
    last = FieldPairs(data, "mask", "density", starts=[-1])  # no input has frames
    assert torch.equal(last[:][1], d[:, -1]) and len(FieldPairs(data, "mask", "depth")) == 3
    assert torch.equal(
        FieldPairs(data.thin(2, 2), "density", "density")[1][1], d[0, 4, :, ::2, ::2]
    )


def test_a_frame_is_read_once(tmp_path, monkeypatch):
    """All windows of samples in groups, and batches of an array that no memory holds."""
    data = open_fields_of(files.pdebench_groups, tmp_path / "g.h5")
    read, take = [], h5py.Dataset.__getitem__

    def count(self, index):
        value = take(self, index)
        read.append(value.size)
        return value

    monkeypatch.setattr(h5py.Dataset, "__getitem__", count)
    pairs = FieldPairs(data, "data", "data", past=2)
    x, y = pairs[:]
    assert len(x) == 3 * 2 and sum(read) == 3 * (3 + 2) * 6 * 4 * 2
    with h5py.File(tmp_path / "big.hdf5", "w") as file:
        shape = (4096, 200, 512, 512)
        file.create_dataset("tensor", shape, "f4", chunks=(1, 1, 128, 128), fillvalue=0.5)
        files.coordinates(file, shape[2:])
    batches = FieldPairs(open_fields(tmp_path / "big.hdf5").thin(8), "tensor", "tensor").batches(4)
    read.clear()
    assert len(batches) == 4096 * 199 // 4 and batches[3].rows["x"].shape == (4, 1, 64, 64)
    assert sum(read) == 4 * 2 * 512**2


def open_fields_of(write, path):
    write(path)
    return open_fields(path)


def test_what_is_refused(tmp_path):
    files.well(tmp_path / "w.h5")
    data = open_fields(tmp_path / "w.h5")
    for wrong, text in (
        ({"inputs": "vorticity"}, "a field out of"),
        ({"targets": ["density", "mask"]}, "all vary in time or all do not"),
        ({"past": 5}, "at least 6 frames; got 5"),
        ({"starts": [4]}, r"starts in \[0, 3\]"),
        ({"trajectories": [3]}, r"trajectories in \[0, 3\)"),
    ):
        with pytest.raises(InputError, match=text):
            FieldPairs(data, **{"inputs": "density", "targets": "density"} | wrong)
    pairs = FieldPairs(data, "density", "density")
    with pytest.raises(IndexError):
        pairs[12]
    with pytest.raises(InputError, match=r"a size in \[1, 12\]; got 13"):
        pairs.batches(13)
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        file["t0_fields/density"][1, 2, 0, 0] = float("nan")
    with pytest.raises(StateError, match="trajectory 1, frame 2"):
        pairs[:]
    assert FieldPairs(data, "density", "density", trajectories=[0, 2])[:][0].isfinite().all()
    assert pairs[3][0].isfinite().all()  # frames 3 and 4 of trajectory 0


def test_batches_depend_on_seed_and_epoch_alone(tmp_path):
    files.well(tmp_path / "w.h5")
    pairs = FieldPairs(open_fields(tmp_path / "w.h5"), "density", "density")
    one, two = pairs.batches(5, seed=1), pairs.batches(5, seed=1)
    assert len(one) == 2 and one[1].rows["x"].shape == (5, 1, 6, 4)
    assert torch.equal(one[1].rows["y"], two[1].rows["y"])
    two.set_epoch(1)
    assert not torch.equal(one[1].rows["y"], two[1].rows["y"])
    plain = pairs.batches(5, None)
    assert [len(b.rows["x"]) for b in plain] == [5, 5, 2]
    assert torch.equal(torch.cat([b.rows["x"] for b in plain]), pairs[:][0])


def test_operators_learn_from_files(tmp_path):
    """Arrays at once, and batches that are read as training runs."""
    x = torch.randn(40, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save({"x": x, "y": 3 * (x + x.roll(1, -1))}, tmp_path / "p.pt")
    pairs = FieldPairs(open_fields(tmp_path / "p.pt"), "x", "y")

    def model():
        config = FNOConfig(n_modes=(3, 3), hidden_channels=8, n_layers=1)
        return FNO(config, generator=torch.Generator().manual_seed(0))

    config = TrainerConfig(updates=25, optimizer="adamw", lr=3e-2)
    fitted = train_on_arrays(model(), *pairs[:], config, validation=0.2)
    assert fitted.metrics["relative_l2"] < 0.6 * fitted.metrics["relative_l2 of the mean"]

    lazy, seen = model(), []
    lazy.fit_scales(*pairs[:16])
    follow = {"batch": 8, "on_update": lambda done, history: seen.append(done)}
    history = fit_operator(lazy, pairs, None, config, **follow)
    assert history.loss[-1] < 0.6 * history.loss[0] and seen == list(range(1, 26))
    whole = model()
    whole.fit_scales(*pairs[:16])
    assert fit_operator(whole, pairs[:], None, config, batch=8).loss == pytest.approx(history.loss)
