"""Particle windows: exact values, split, sensors, statistics, emitters, and every refused input."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from rheograd.operators.data import (
    KINDS,
    ParticleBatch,
    ParticleWindows,
    Statistics,
    collate,
    farthest_points,
)
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.io import RolloutReader, RolloutWriter, StoreError
from torch.utils.data import DataLoader

BOX = {"domain": {"lower": [0.0, 0.0], "upper": [1.0, 2.0]}}


def write(path, x, *, config=BOX, dt=0.1, material=5, groups=None, **options):
    """x: (B, T, N, D)."""
    B, T, N, D = x.shape
    static = {} if material is None else {"material": np.broadcast_to(material, (N,)).astype("i8")}
    groups = groups or {"block": (0, N)}
    with RolloutWriter(
        path, n_trajectories=B, particle_count=N, dim=D, dt_frame=dt, fields={"x": 1},
        groups=groups, static=static, config=config, dtype=torch.float64, **options,
    ) as out:  # fmt: skip
        for t in range(T):
            out.append(dt * t, {"x": x[:, t]})
    return path


def random_walk(B=1, T=12, N=7, D=2, seed=0):
    steps = np.random.default_rng(seed).normal(0, 0.01, (B, T, N, D))
    start = np.random.default_rng(seed + 1).random((B, 1, N, D))
    return start + steps.cumsum(1)


@pytest.fixture
def files(tmp_path):
    data = [random_walk(2, 12, 7, seed=0), random_walk(1, 15, 9, seed=5)]
    return [write(tmp_path / f"{i}.h5", x) for i, x in enumerate(data)], data


def test_samples_are_the_stored_positions(files):
    paths, data = files
    windows = ParticleWindows(paths, 6, 2, stride=2, frame_stride=1, dtype=torch.float64)
    truth = [data[0][0], data[0][1], data[1][0]]
    starts = [(k, s) for k, x in enumerate(truth) for s in range(0, len(x) - 7, 2)]
    assert len(windows) == len(starts)
    for i, (k, s) in enumerate(starts):
        assert windows.where(i) == (k, 0, s)
        sample = windows[i]
        expected = truth[k][s : s + 8].swapaxes(0, 1)
        assert np.array_equal(sample.positions, expected[:, :6])
        assert np.array_equal(sample.target, expected[:, 6:])
        assert sample.count == 1 and sample.n == truth[k].shape[1] and not sample.scene.any()
        assert sample.bounds.tolist() == [[[0.0, 1.0], [0.0, 2.0]]]
        assert (sample.kind == KINDS["water"]).all()
    assert torch.equal(windows[-1].positions, windows[len(windows) - 1].positions)
    assert windows[0].to(torch.float32).positions.dtype == torch.float32
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_frame_stride_skips_stored_frames(files):
    paths, data = files
    windows = ParticleWindows(paths[1], 3, 1, frame_stride=4, dtype=torch.float64)
    assert len(windows) == 15 - 12 and windows.frame_time == pytest.approx(0.4)
    assert np.array_equal(windows[1].positions[:, 1], data[1][0][5])
    assert np.array_equal(windows[1].target[:, 0], data[1][0][13])


def test_collate_joins_unequal_samples_and_keeps_their_walls(files):
    paths, _ = files
    windows = ParticleWindows(paths)
    a, b = windows[0], windows[len(windows) - 1]
    batch = collate([a, b, a])
    assert batch.count == 3 and batch.n == 7 + 9 + 7
    assert batch.scene.tolist() == [0] * 7 + [1] * 9 + [2] * 7
    assert torch.equal(batch.positions[7:16], b.positions)
    assert torch.equal(collate([batch, b]).scene[-9:], torch.full((9,), 3))
    assert batch.bounds.shape == (3, 2, 2)
    with pytest.raises(InputError, match="at least one"):
        collate([])
    with pytest.raises(InputError, match="one window"):
        collate([a, ParticleWindows(paths, 5)[0]])


def test_processes_read_the_same_samples(files):
    windows = ParticleWindows(files[0], sensors=3, copies=4)
    loader = DataLoader(windows, 4, num_workers=2, collate_fn=collate)
    expected = [windows[i].positions for i in range(len(windows))]
    assert torch.equal(torch.cat([b.positions for b in loader]), torch.cat(expected))


def test_threads_take_turns_at_the_files(files, monkeypatch):
    """Readers open and close on demand, which no two threads may do at once."""
    windows = ParticleWindows(files[0], sensors=3)
    expected = [windows[i].target for i in range(len(windows))]
    fresh = pickle.loads(pickle.dumps(windows))
    read, inside, most = RolloutReader._read, [], []

    def watched(self, path, key):
        inside.append(path)
        most.append(len(inside))
        time.sleep(1e-3)  # others get here if they can
        inside.pop()
        return read(self, path, key)

    monkeypatch.setattr(RolloutReader, "_read", watched)
    data = [fresh, *fresh.split(1)]
    with ThreadPoolExecutor(8) as pool:
        samples = [pool.map(d.__getitem__, range(len(d))) for d in data]
        samples = [list(s) for s in samples]
    assert all(torch.equal(a.target, b) for a, b in zip(samples[0], expected, strict=True))
    assert max(most) == 1 and len(most) >= 2 * len(windows)


def test_sensors_stay_the_same_points_and_differ_between_copies(files):
    paths, data = files
    windows = ParticleWindows(paths, sensors=4, copies=3, dtype=torch.float64)
    per_copy = len(windows) // 3
    sets = {tuple(windows.sensor_indices(2, c).tolist()) for c in range(3)}
    assert len(sets) > 1
    for i in range(len(windows)):
        k, copy, start = windows.where(i)
        assert copy == i // per_copy
        index = windows.sensor_indices(k, copy)
        assert len(index) == 4 and (index.diff() > 0).all()
        x = [data[0][0], data[0][1], data[1][0]][k]
        assert np.array_equal(windows[i].positions[:, 0], x[start][index])
    before = windows.sensor_indices(0).clone()
    same = ParticleWindows(paths, sensors=4, copies=3)
    assert torch.equal(same.sensor_indices(0), before)
    drawn = []
    for seed in range(5):
        windows.resample(torch.Generator().manual_seed(seed))
        drawn.append(tuple(windows.sensor_indices(0).tolist()))
    assert len(set(drawn)) > 1
    windows.resample(torch.Generator().manual_seed(0))
    assert tuple(windows.sensor_indices(0).tolist()) == drawn[0]
    assert ParticleWindows(paths[0], sensors=0.5)[0].n == round(0.5 * 7)


def test_farthest_points_cover_better_than_random():
    x = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    index = farthest_points(x, 30, generator)
    assert len(set(index.tolist())) == 30

    def radius(index):
        return torch.cdist(x, x[index]).min(1).values.max()

    worst = min(float(radius(torch.randperm(400, generator=generator)[:30])) for _ in range(20))
    # Gonzalez 1985: at most twice the optimal radius; every set is at least optimal.
    assert float(radius(index)) < worst
    d = torch.cdist(x[index], x[index]) + 9 * torch.eye(30)
    assert float(d.min()) >= float(radius(index))


def test_farthest_sensors_come_from_the_first_frame(files):
    windows = ParticleWindows(files[0], sensors=3, sampling="farthest", dtype=torch.float64)
    index = windows.sensor_indices(0)
    x = torch.from_numpy(files[1][0][0, 0])
    seeds = [
        farthest_points(x, 3, torch.Generator().manual_seed(s)).sort().values for s in range(9)
    ]
    assert any(torch.equal(index, other) for other in seeds)


def test_split_is_by_trajectory(files):
    windows = ParticleWindows(files[0])
    train, held = windows.split(1)
    assert (train.trajectories, held.trajectories) == ((0, 1), (2,))
    assert len(train) + len(held) == len(windows)
    assert {held.where(i)[0] for i in range(len(held))} == {2}
    assert torch.equal(held[0].positions, windows[len(train)].positions)
    for seed in range(4):
        parts = windows.split(2, torch.Generator().manual_seed(seed))
        assert sorted(parts[0].trajectories + parts[1].trajectories) == [0, 1, 2]
    for count in (0, 3):
        with pytest.raises(InputError, match="validation"):
            windows.split(count)
    with pytest.raises(InputError, match="different trajectories"):
        train.subset([2])


def test_statistics_are_pooled_not_averaged(tmp_path):
    """Trajectories of different drift: the mean of their own deviations would be far too small."""
    a, b = random_walk(1, 20, 8, seed=1), random_walk(1, 33, 3, seed=2)
    a += 0.05 * np.arange(20)[None, :, None, None]
    windows = ParticleWindows([write(tmp_path / "a.h5", a), write(tmp_path / "b.h5", b)])
    s = windows.statistics()
    v = np.concatenate([np.diff(x[0], axis=0).reshape(-1, 2) for x in (a, b)])
    acc = np.concatenate([np.diff(x[0], 2, axis=0).reshape(-1, 2) for x in (a, b)])
    for got, expected in zip(
        s.tensors().values(), (v.mean(0), v.std(0), acc.mean(0), acc.std(0)), strict=True
    ):
        assert got.dtype == torch.float64
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-15)
    assert float(s.velocity_std[0]) > 1.5 * np.std(np.diff(b[0], axis=0)[..., 0])
    noisy = s.with_noise(0.3)
    torch.testing.assert_close(noisy.velocity_std, (s.velocity_std**2 + 0.09).sqrt())
    assert torch.equal(noisy.acceleration_mean, s.acceleration_mean)
    back = Statistics.from_dict(json.loads(json.dumps(s.to_dict())))
    assert all(
        torch.equal(x, y)
        for x, y in zip(back.tensors().values(), s.tensors().values(), strict=True)
    )
    strided = ParticleWindows(tmp_path / "a.h5", frame_stride=3).statistics()
    v3 = (a[0, 3:] - a[0, :-3]).reshape(-1, 2)
    np.testing.assert_allclose(strided.velocity_std, v3.std(0), rtol=1e-9)
    a3 = (a[0, 6:] - 2 * a[0, 3:-3] + a[0, :-6]).reshape(-1, 2)
    np.testing.assert_allclose(strided.acceleration_std, a3.std(0), rtol=1e-9)


def test_statistics_of_validation_are_not_those_of_training(files):
    train, held = ParticleWindows(files[0]).split(1)
    assert not torch.equal(train.statistics().velocity_std, held.statistics().velocity_std)


def test_boundary_particles_do_not_count(tmp_path):
    x = random_walk(1, 10, 6)
    x[:, :, 3:] = x[:, :1, 3:4]  # at rest, and all at one place
    kind = np.array([5, 5, 5, 3, 3, 3])
    s = ParticleWindows(write(tmp_path / "a.h5", x, material=kind)).statistics()
    np.testing.assert_allclose(s.velocity_std, np.diff(x[0, :, :3], axis=0).std((0, 1)), rtol=1e-9)


def test_statistics_refuse_rest_and_nan(tmp_path):
    x = np.broadcast_to(random_walk(1, 1, 5), (1, 10, 5, 2))
    with pytest.raises(InputError, match="velocity_std > 0"):
        ParticleWindows(write(tmp_path / "a.h5", x)).statistics()
    with pytest.raises(StateError):
        Statistics(*(torch.tensor([1.0, float("nan")]) for _ in range(4)))


def emitted(T=14, n=5):
    """Two particles of a pool, and a jet of which one enters per frame from frame 2 on."""
    x = random_walk(1, T, n + 2)
    for i in range(n):
        x[0, : 2 + i, 2 + i] = [0.5, 1.0]
    return x


def test_particles_appear_when_they_have_entered(tmp_path):
    x = emitted()
    path = write(tmp_path / "a.h5", x, groups={"pool": (0, 2), "jet": (2, 7)})
    windows = ParticleWindows(path, 3, 1, dtype=torch.float64)
    assert [windows[i].n for i in range(len(windows))] == [
        min(7, 2 + max(0, i - 1)) for i in range(11)
    ]
    assert np.array_equal(windows[4].positions, x[0, 4:7, :5].swapaxes(0, 1))
    v = np.concatenate(
        [np.diff(x[0, max(0, i) :, k], axis=0) for k, i in enumerate([0, 0, *range(2, 7)])]
    )
    np.testing.assert_allclose(windows.statistics().velocity_std, v.std(0), rtol=1e-9)
    assert windows.trajectory(0).n == 2
    with pytest.raises(InputError, match="random"):
        ParticleWindows(path, sensors=2, sampling="farthest")[0]


def test_a_jet_alone_has_no_empty_samples(tmp_path):
    path = write(tmp_path / "a.h5", emitted()[:, :, 2:], groups={"jet": (0, 5)})
    for seed in range(6):
        windows = ParticleWindows(path, 3, 1, sensors=2, seed=seed)
        assert len(windows) == 14 - 3 - 2
        assert all(windows[i].n >= 1 for i in range(len(windows)))


def test_whole_trajectories_for_rollouts(files):
    paths, data = files
    windows = ParticleWindows(paths, sensors=4, dtype=torch.float64)
    whole, dense = windows.trajectory(2), windows.trajectory(2, dense=True)
    assert whole.target.shape == (4, 9, 2) and dense.target.shape == (9, 9, 2)
    assert np.array_equal(dense.target[:, -1], data[1][0][-1])
    assert torch.equal(dense.positions[windows.sensor_indices(2)], whole.positions)


def test_material_ids_and_walls_come_from_names_or_arguments(tmp_path):
    x = random_walk(1, 10, 4)
    groups = {"clay": (0, 1), "water": (1, 4)}
    config = {**BOX, "run": {"bodies": {"clay": {"material": "plasticine"}, "water": {}}}}
    path = write(tmp_path / "a.h5", x, material=None, groups=groups, config=config)
    assert ParticleWindows(path)[0].kind.tolist() == [2, 5, 5, 5]
    assert ParticleWindows(path, kinds={"clay": 7})[0].kind.tolist() == [7, 5, 5, 5]
    bare = write(tmp_path / "b.h5", x, material=None, config={})
    with pytest.raises(InputError, match="Pass bounds"):
        ParticleWindows(bare)
    with pytest.raises(InputError, match="Pass kinds"):
        ParticleWindows(bare, bounds=((0, 1), (0, 1)))
    windows = ParticleWindows(bare, bounds=((0, 1), (-1, 1)), kinds={"block": 6})
    assert windows[0].bounds.tolist() == [[[0, 1], [-1, 1]]] and (windows[0].kind == 6).all()
    for wrong in (((0, 1),), ((1, 0), (0, 1)), ((0, float("nan")), (0, 1))):
        with pytest.raises(InputError, match="lower below upper"):
            ParticleWindows(bare, bounds=wrong, kinds={"block": 6})


def test_nan_names_file_trajectory_and_frame(tmp_path):
    x = random_walk(2, 12, 5)
    x[1, 8, 3, 1] = np.nan
    windows = ParticleWindows(write(tmp_path / "bad.h5", x), 4, 1)
    assert windows[7].n == 5  # the other trajectory is whole
    for read in (lambda: windows[8 + 5], windows.statistics, lambda: windows.trajectory(1)):
        with pytest.raises(StateError, match=r"bad\.h5, trajectory 1, frame 8") as caught:
            read()
        assert caught.value.step == 8


def test_files_that_cannot_be_used(tmp_path, files):
    paths, _ = files
    x = random_walk(1, 10, 5)
    with pytest.raises(InputError, match="more than once"):
        ParticleWindows([paths[0], paths[1], paths[0]])
    with pytest.raises(InputError, match="got none"):
        ParticleWindows([])
    short = write(tmp_path / "short.h5", x[:, :5])
    with pytest.raises(InputError, match="at least 7 frames; got .*short.h5 with 5"):
        ParticleWindows([paths[0], short])
    slow = write(tmp_path / "slow.h5", x, dt=0.2)
    with pytest.raises(InputError, match="every 0.2 s"):
        ParticleWindows([paths[0], slow])
    config = {"domain": {"lower": [0.0] * 3, "upper": [1.0] * 3}}
    space = write(tmp_path / "space.h5", random_walk(D=3), config=config)
    with pytest.raises(InputError, match="3-D"):
        ParticleWindows([paths[0], space])
    x[0, :, 4] = x[0, :, 2]
    with pytest.raises(InputError, match="1 that coincide"):
        ParticleWindows(write(tmp_path / "twins.h5", x))
    cut = tmp_path / "cut.h5"
    shutil.copy(paths[0], cut)
    with open(cut, "r+b") as stream:
        stream.truncate(cut.stat().st_size // 2)
    with pytest.raises(StoreError, match="cut"):
        ParticleWindows([paths[1], cut])
    with pytest.raises(FileNotFoundError):
        ParticleWindows(tmp_path / "missing.h5")
    for options in ({"sensors": 8}, {"sensors": 0}, {"sensors": 1.5}, {"sampling": "even"}):
        with pytest.raises(InputError, match="sensors|sampling"):
            ParticleWindows(paths[0], **options)
    with pytest.raises(InputError, match="window >= 2"):
        ParticleWindows(paths[0], 1)


def test_folder_with_splits(tmp_path, files):
    stored = ParticleWindows(files[0][1]).statistics()
    metadata = {"train": ["1.h5"], "validation": ["0.h5"], "statistics": stored.to_dict()}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    held = ParticleWindows.from_folder(tmp_path, "validation", sensors=2)
    assert held[0].n == 2 and held.trajectories == (0, 1)
    assert torch.equal(held.statistics().velocity_std, stored.velocity_std)
    coarse = ParticleWindows.from_folder(tmp_path, window=3, frame_stride=2)
    assert not torch.equal(coarse.statistics().velocity_std, stored.velocity_std)
    with pytest.raises(InputError, match="'test'"):
        ParticleWindows.from_folder(tmp_path, "test")
    with pytest.raises(InputError, match="--resume"):
        ParticleWindows.from_folder(tmp_path / "nothing")


def test_pickled_data_read_the_same(files):
    windows = ParticleWindows(files[0], sensors=3)
    again = pickle.loads(pickle.dumps(windows))
    assert torch.equal(again[3].positions, windows[3].positions)


def test_batches_check_their_shapes():
    x, kind, scene = torch.zeros(4, 6, 2), torch.zeros(4).long(), torch.zeros(4).long()
    bounds = torch.zeros(1, 2, 2)
    good = ParticleBatch(x, kind, scene, bounds)
    assert good.to("cpu", torch.float64).positions.dtype == torch.float64
    assert good.to(torch.float64).kind.dtype == torch.long and good.dim == 2
    for bad in (
        {"positions": x[0]}, {"kind": kind[:2]}, {"scene": scene.float()},
        {"bounds": bounds[0]}, {"target": torch.zeros(4, 2)}, {"target": torch.zeros(3, 1, 2)},
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{next(iter(bad))} of shape"):
            good.replace(**bad)
