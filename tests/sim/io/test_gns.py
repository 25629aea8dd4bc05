"""Import of GNS data sets: every form of npz, exact values, and files that cannot be used."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from rheograd import RolloutReader
from rheograd.operators.data import ParticleWindows
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.io import StoreError, import_gns

METADATA = {
    "bounds": [[0.1, 0.9], [0.2, 0.8]],
    "sequence_length": 9,
    "default_connectivity_radius": 0.015,
    "dim": 2,
    "dt": 0.0025,
    "vel_mean": [1e-4, -3e-4],
    "vel_std": [2e-3, 1e-3],
    "acc_mean": [1e-8, 2e-8],
    "acc_std": [1e-4, 2e-4],
}


def trajectory(N, kind=5, T=10, D=2, seed=0):
    x = 0.3 + 0.4 * np.random.default_rng(seed).random((T, N, D), dtype=np.float32)
    return x, kind


def pair(*items):
    """What np.savez makes of a tuple of unequal arrays."""
    out = np.empty(len(items), dtype=object)
    out[:] = items
    return out


def save(folder, splits, metadata=METADATA, **form):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.json").write_text(json.dumps(metadata))
    for name, items in splits.items():
        pairs = {f"simulation_trajectory_{i}": pair(*item) for i, item in enumerate(items)}
        np.savez_compressed(folder / f"{name}.npz", **pairs)
    return folder


def test_values_types_walls_and_scales_arrive(tmp_path):
    kinds = np.array([5, 6, 3, 7])
    train = [trajectory(4, kinds), trajectory(7, 5, seed=1), trajectory(5, np.int64(6), T=12)]
    save(tmp_path / "in", {"train": train, "valid": [trajectory(3, seed=2)]})
    seen = []
    out = import_gns(tmp_path / "in", tmp_path / "out", on_trajectory=seen.append)
    assert seen == [1, 2, 3, 4]
    assert sorted(os.listdir(out)) == [
        "metadata.json", "train-0000.h5", "train-0001.h5", "train-0002.h5", "validation-0000.h5",
    ]  # fmt: skip
    for i, (x, kind) in enumerate(train):
        with RolloutReader(out / f"train-000{i}.h5") as reader:
            assert np.array_equal(reader["x"][0], x) and reader["x"].dtype == np.float32
            assert np.array_equal(reader.static()["material"], np.broadcast_to(kind, x.shape[1]))
            assert reader.complete and reader.dt == 0.0025
            assert reader.config["source"]["key"] == f"simulation_trajectory_{i}"
    data = ParticleWindows.from_folder(out)
    assert len(data) == 4 + 4 + 6 and data[0].kind.tolist() == kinds.tolist()
    torch.testing.assert_close(data[0].bounds[0], torch.tensor(METADATA["bounds"]))
    scales = data.statistics().to_dict()
    assert scales["velocity_std"] == [2e-3, 1e-3] and scales["acceleration_mean"] == [1e-8, 2e-8]
    assert len(ParticleWindows.from_folder(out, "validation")) == 4


def test_all_in_one_array_and_a_third_item(tmp_path):
    save(tmp_path / "in", {}, {"train": METADATA, "rollout": {}})
    items = [trajectory(3), (*trajectory(4, 6, seed=1), np.float32(30.0))]
    packed = np.empty(2, dtype=object)
    packed[:] = [pair(*item) for item in items]
    np.savez(tmp_path / "in/test.npz", gns_data=packed)
    out = import_gns(tmp_path / "in", tmp_path / "out", limit=5)
    data = ParticleWindows.from_folder(out, "test")
    assert [s.n for s in (data[0], data[-1])] == [3, 4] and int(data[-1].kind[0]) == 6
    one = import_gns(tmp_path / "in", tmp_path / "one", limit=1)
    assert [p.name for p in one.glob("*.h5")] == ["test-0000.h5"]


def test_numbers_stored_as_objects(tmp_path):
    x, _ = trajectory(3)
    kind = np.array([5, 6, 7], dtype=object)
    save(tmp_path / "in", {"train": [(x.astype(object), kind)]})
    data = ParticleWindows.from_folder(import_gns(tmp_path / "in", tmp_path / "out"))
    assert np.array_equal(data[0].positions[:, 0], x[0]) and data[0].kind.tolist() == [5, 6, 7]


def test_up_becomes_the_last_axis_by_rotation(tmp_path):
    metadata = {k: v for k, v in METADATA.items() if k[:4] not in ("vel_", "acc_")}
    metadata |= {"dim": 3, "bounds": [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]}
    x, kind = trajectory(4, D=3)
    save(tmp_path / "in", {"train": [(x, kind)]}, metadata)
    out = import_gns(tmp_path / "in", tmp_path / "out", up=1)
    data = ParticleWindows.from_folder(out)
    assert data[0].bounds[0, :, 1].tolist() == [3.0, 1.0, 2.0]
    assert np.array_equal(data[0].positions[:, 0], x[0][:, [2, 0, 1]])
    assert np.linalg.det(np.eye(3)[[2, 0, 1]]) == pytest.approx(1.0)
    with pytest.raises(InputError, match="up"):
        import_gns(tmp_path / "in", tmp_path / "o", up=3)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"bounds": [[0.1, 0.9]]}, "bounds"),
        ({"bounds": [[0.9, 0.1], [0, 1]]}, "lower below upper"),
        ({"bounds": [[0.1, float("nan")], [0, 1]]}, "lower below upper"),
        ({"bounds": "box"}, "bounds"),
        ({"bounds": [[0.0, 0.1], [0.0, 0.1]]}, "Check units"),
        ({"dim": 3}, "bounds"),
        ({"dim": 4}, "dim 2 or 3"),
        ({"dt": 0.0}, "dt > 0"),
        ({"vel_std": [1.0]}, "vel_std of 2"),
    ],
)
def test_metadata_that_do_not_fit(tmp_path, change, text):
    save(tmp_path / "in", {"train": [trajectory(3)]}, {**METADATA, **change})
    with pytest.raises(InputError, match=text):
        import_gns(tmp_path / "in", tmp_path / "out")


def test_trajectories_that_do_not_fit(tmp_path):
    x, _ = trajectory(3)
    bad = x.copy()
    bad[6, 1, 0] = np.nan
    cases = [
        ((bad, 5), StateError, "frame 6"),
        ((x[:, :, :1], 5), InputError, "positions of shape"),
        ((x[:2], 5), InputError, "T >= 3"),
        ((x[:, :0], 5), InputError, "N >= 1"),
        ((x, np.array([5, 6])), InputError, "one type, or 3"),
        ((x, 9), InputError, "types 0 … 8"),
        ((x, 2.5), InputError, "types 0 … 8"),
        ((x, "water"), InputError, "arrays of numbers"),
        ((x,), InputError, r"\(positions, types\)"),
    ]
    for i, (item, error, text) in enumerate(cases):
        folder = save(tmp_path / str(i), {"train": [trajectory(4), item]})
        with pytest.raises(error, match=f"simulation_trajectory_1.*{text}"):
            import_gns(folder, tmp_path / f"out{i}")
        assert not (tmp_path / f"out{i}/metadata.json").exists()


def test_folders_that_cannot_be_used(tmp_path):
    folder = save(tmp_path / "in", {"train": [trajectory(40)]})
    out = import_gns(folder, tmp_path / "out")
    with pytest.raises(FileExistsError, match="new or empty"):
        import_gns(folder, out)
    with pytest.raises(FileNotFoundError, match="metadata.json"):
        import_gns(tmp_path, tmp_path / "b")
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2/metadata.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        import_gns(tmp_path / "in2", tmp_path / "b")
    (tmp_path / "in2/metadata.json").write_text(json.dumps(METADATA))
    with pytest.raises(FileNotFoundError, match="train.npz"):
        import_gns(tmp_path / "in2", tmp_path / "b")
    whole = (folder / "train.npz").read_bytes()
    (folder / "train.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="whole npz"):
        import_gns(folder, tmp_path / "b")


class _Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_run_no_code(tmp_path):
    harm = tmp_path / "harm"
    folder = save(tmp_path / "in", {"train": [(*trajectory(3), _Harm(harm))]})
    with pytest.raises(InputError, match="mkdir"):
        import_gns(folder, tmp_path / "out")
    assert not harm.exists()
    with np.load(folder / "train.npz", allow_pickle=True) as data:  # it would have
        data["simulation_trajectory_0"]
    assert harm.exists()
