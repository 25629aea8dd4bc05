"""Rollouts as training data: windows in worker processes, normalization, error measure."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.io import store_data
from rheograd.sim.io.store import (
    RolloutReader,
    RolloutWindows,
    RolloutWriter,
    field_stats,
    vrmse,
)
from torch.utils.data import DataLoader

B, N = 2, 6


def write(path, count, seed, particles=N):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, count, particles, 3, generator=generator) * 2 + 5
    p = torch.randn(B, count, particles, generator=generator)
    with RolloutWriter(
        path, n_trajectories=B, particle_count=particles, dim=3, dt_frame=0.1,
        fields={"x": 1, "p": 0}, static={"mass": torch.arange(particles) + 1.0},
    ) as out:
        for t in range(count):
            out.append(0.1 * t, {"x": x[:, t], "p": p[:, t]})
    return x, p


@pytest.fixture
def two(tmp_path):
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    return paths, [write(paths[0], 7, 0), write(paths[1], 4, 1)]


def test_windows_cover_every_start_once(two):
    paths, data = two
    windows = RolloutWindows(paths, length=3, stride=2, fields=["x"])
    # Starts 0, 2, 4 in the rollout of 7 frames and 0 in that of 4, for two scenes each.
    expected = [data[0][0][b, s : s + 3] for b in range(B) for s in (0, 2, 4)]
    expected += [data[1][0][b, 0:3] for b in range(B)]
    assert len(windows) == len(expected) == 8
    for item, x in zip(windows, expected, strict=True):
        assert set(item) == {"x", "time"} and torch.equal(item["x"], x)
    assert torch.equal(windows[-1]["x"], expected[-1])
    with pytest.raises(IndexError):
        windows[8]


def test_windows_stride_split_and_static(two):
    paths, data = two
    windows = RolloutWindows(
        paths, length=2, frame_stride=3, trajectories=[1], static=True, fields=["p"]
    )
    assert len(windows) == 4 + 1
    assert torch.equal(windows[3]["p"], data[0][1][1, [3, 6]])
    assert windows[3]["mass"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(windows[3]["time"], [0.3, 0.6], atol=1e-15)


def test_windows_in_a_worker_process(two):
    paths, data = two
    windows = RolloutWindows(paths, length=3, fields=["x"])
    alone = [windows[i]["x"] for i in range(len(windows))]
    loader = DataLoader(windows, batch_size=4, num_workers=1)
    batched = torch.cat([batch["x"] for batch in loader])
    assert torch.equal(batched, torch.stack(alone))
    assert torch.equal(pickle.loads(pickle.dumps(windows))[0]["x"], alone[0])


def test_windows_keep_few_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr(store_data, "OPEN_FILES", 2)
    paths = [tmp_path / f"{i}.h5" for i in range(4)]
    data = [write(path, 2, i)[0] for i, path in enumerate(paths)]
    windows = RolloutWindows(paths, length=2, fields=["x"])
    for _ in range(2):
        for i, item in enumerate(windows):
            assert torch.equal(item["x"], data[i // B][i % B])
            assert sum(reader._file is not None for reader in windows.readers) <= 2


def test_windows_refuse_what_does_not_exist(two):
    with pytest.raises(ValueError, match="at least 9 frames.*at most 7"):
        RolloutWindows(two[0], length=9)
    with pytest.raises(ValueError, match=">= 1"):
        RolloutWindows(two[0], length=2, stride=0)
    with pytest.raises(KeyError, match="'q'"):
        RolloutWindows(two[0], length=2, fields=["q"])
    with pytest.raises(ValueError, match=r"trajectories in \[0, 2\)"):
        RolloutWindows(two[0], length=2, trajectories=[2])


def test_reader_survives_pickling_and_closing(two):
    reader = RolloutReader(two[0][0])
    again = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert torch.equal(reader.frame(1)["x"], again.frame(1)["x"])


def test_stats_are_those_of_all_values_at_once(two):
    paths, data = two
    stats = field_stats(paths)
    for name, which in (("x", 0), ("p", 1)):
        values = [d[which].double() for d in data]
        flat = torch.cat([v.flatten(0, 2) for v in values])
        change = torch.cat([v.diff(dim=1).flatten(0, 2) for v in values])
        # Merging rounds once per frame: 11 frames of O(10) values stay far below 1e-12.
        for got, want in [
            (stats[name].mean, flat.mean(0)),
            (stats[name].std, flat.std(0, correction=0)),
            (stats[name].mean_delta, change.mean(0)),
            (stats[name].std_delta, change.std(0, correction=0)),
        ]:
            torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    assert len(json.loads(json.dumps(stats["x"].to_dict()))["mean"]) == 3
    assert set(field_stats(paths[0], ["p"], trajectories=[1])) == {"p"}


def test_stats_of_a_single_frame_have_no_change(tmp_path):
    write(tmp_path / "one.h5", 1, 0)
    stats = field_stats(tmp_path / "one.h5")["p"]
    assert math.isfinite(stats.std) and math.isnan(stats.std_delta)


def test_vrmse_scale(generator):
    y = torch.randn(4, 200, 3, generator=generator, dtype=torch.float64) * 7 + 3
    assert torch.equal(vrmse(y, y), torch.zeros(4, 3, dtype=torch.float64))
    mean = y.mean(-2, keepdim=True).expand_as(y)
    # Predicting the mean gives √(var / (var + ε)), which is 1 − ε / (2 var) ≈ 1 − 1e-9.
    torch.testing.assert_close(vrmse(mean, y), torch.ones(4, 3, dtype=torch.float64), rtol=1e-8,
                               atol=0)
    x = y + 0.1
    expected = 0.1 / (y.var(-2, correction=0) + 1e-7).sqrt()
    torch.testing.assert_close(vrmse(x, y), expected)
    assert vrmse(x, y, dim=(-3, -2)).shape == (3,)
    assert vrmse(x * float("nan"), y).isnan().all()
    with pytest.raises(ValueError, match="equal frames"):
        vrmse(x, y[:1])


def test_vrmse_gradient(generator):
    x, y = torch.randn(2, 2, 9, 3, generator=generator, dtype=torch.float64)
    assert taylor_test(lambda a: vrmse(a, y).sum(), x).passed()
    assert taylor_test(lambda b: vrmse(x, b).sum(), y).passed()
    same = y.clone().requires_grad_()
    vrmse(same, y).sum().backward()
    assert torch.equal(same.grad, torch.zeros_like(y))
