"""Generated data sets: physics, repeatability, interruption, what is refused."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from rheograd import RolloutReader, save_mesh
from rheograd.operators.data import KINDS, ParticleWindows
from rheograd.operators.nclaw import random_throw
from rheograd.sim.core.errors import StabilityError
from rheograd.sim.io import Metrics
from rheograd.tasks.cli import run
from rheograd.tasks.runs import configs, generation
from rheograd.tasks.runs.folder import Interrupted, RunFolder
from rheograd.tasks.runs.generation_config import GenerateConfig
from rheograd.tasks.runs.parallel import run_jobs


def config_of(**changes):
    small = {"trajectories": 3, "particles": 27, "frames": 8, "grid": 12, "workers": 1}
    data = configs.merge(configs.to_dict(GenerateConfig.nano()), small, changes)
    return configs.from_dict(GenerateConfig, data)


def make(path, on_frame=None, **changes):
    config = config_of(**changes)
    folder = RunFolder(path, "generate", configs.to_dict(config))
    generation.generate(config, folder, on_frame)
    return path


def content(path):
    """Every array and attribute of a file."""
    found = {}

    def keep(name, item):
        found[name] = {k: np.asarray(v).tolist() for k, v in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            found[name]["values"] = item[()].tobytes()

    with h5py.File(path) as file:
        file.visititems(keep)
        keep("/", file)
    return found


def same(a, b):
    names = sorted(p.name for p in a.glob("*.h5"))
    assert names == sorted(p.name for p in b.glob("*.h5")) and names
    assert all(content(a / n) == content(b / n) for n in names)
    assert (a / "metadata.json").read_text() == (b / "metadata.json").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make(tmp_path_factory.mktemp("sets") / "whole")


def test_what_a_data_set_holds(whole):
    metadata = json.loads((whole / "metadata.json").read_text())
    assert metadata["train"] == ["trajectory-0000.h5", "trajectory-0001.h5"]
    assert metadata["validation"] == ["trajectory-0002.h5"]
    assert [t["seed"] for t in metadata["throws"]] == [0, 1, 2]
    assert metadata["law"] == {"name": "FixedCorotated", "rho": 1e3, "E": 1e5, "nu": 0.2}
    wall = 2 / 12
    np.testing.assert_allclose(metadata["bounds"], [[wall, 1 - wall]] * 3)
    assert metadata["particles"] == [27] * 3 and metadata["sequence_length"] == 8
    for k, name in enumerate([*metadata["train"], *metadata["validation"]]):
        with RolloutReader(whole / name) as reader:
            assert reader.complete and reader.n_frames == 8
            assert reader.dt == pytest.approx(2.5e-3)
            assert (reader.static()["material"] == KINDS["jelly"]).all()
            assert reader.config["throw"]["seed"] == k
            assert len(reader._open()["VTKHDF/Points"]) == 8 * 27  # ParaView still finds them
            # Free flight: the middle moves with the throw, and falls as explicit steps do.
            center = reader["x"][0].astype(float).mean(1)
        throw = random_throw("jelly", k)
        steps = 5 * np.arange(8)[:, None]
        fall = 0.5 * 5e-4**2 * steps * (steps + 1) * np.array(throw.gravity)
        expected = 0.5 + 5e-4 * steps * np.array(throw.velocity) + fall
        np.testing.assert_allclose(center, expected, atol=2e-6)
    train = ParticleWindows([whole / n for n in metadata["train"]])
    for name, value in train.statistics().to_dict().items():
        assert value == metadata["statistics"][name]
    rows = Metrics.read(whole / "metrics.jsonl")
    assert [(r["trajectory"], r["seed"]) for r in rows] == [(0, 0), (1, 1), (2, 2)]


def test_batches_and_other_splits_do_not_change_a_trajectory(whole, tmp_path):
    same(whole, make(tmp_path / "b", batch=3))
    same(whole, make(tmp_path / "c", batch=2, workers=1))
    more = make(tmp_path / "d", trajectories=4, validation=2, seed=0)
    assert content(more / "trajectory-0001.h5") == content(whole / "trajectory-0001.h5")
    later = make(tmp_path / "e", trajectories=1, validation=0, seed=1)
    with RolloutReader(later / "trajectory-0000.h5") as a:
        with RolloutReader(whole / "trajectory-0001.h5") as b:
            assert np.array_equal(a["x"][0], b["x"][0])


@pytest.mark.parametrize("batch", [1, 2])
def test_interrupted_resumed_equals_uninterrupted(whole, tmp_path, batch):
    def stop(done, total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="--resume"):
        make(tmp_path / "a", stop, batch=batch)
    left = sorted(p.name for p in (tmp_path / "a").iterdir())
    kept = [f"trajectory-000{k}.h5" for k in range(2)]
    assert left == ["config.toml", "metrics.jsonl", *kept]
    before = (tmp_path / "a" / kept[0]).stat().st_mtime_ns
    assert run(["generate", "--resume", str(tmp_path / "a"), "--batch", "1"]) == 0
    assert (tmp_path / "a" / kept[0]).stat().st_mtime_ns == before
    same(whole, tmp_path / "a")
    assert run(["generate", "--resume", str(tmp_path / "a")]) == 0  # nothing left to do
    same(whole, tmp_path / "a")


def command(*words):
    code = "import sys; from rheograd.tasks.cli import main; main(sys.argv[1:])"
    return [sys.executable, "-c", code, "generate", *map(str, words)]


def children(pid):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = open(f"/proc/{name}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(status[1]) == pid and status[0] != "Z":
            found.append(int(name))
    return found


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow  # processes load torch: 10 s on a busy machine
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_two_processes_killed_or_stopped_and_resumed(tmp_path, number):
    sizes = ["--preset", "nano", "--trajectories", "5", "--frames", "40", "--workers", "2"]
    folder, whole = tmp_path / "a", make(tmp_path / "w", **_nano())
    process = subprocess.Popen(
        command("jelly", *sizes, "--out", folder), stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    limit = time.monotonic() + 60
    while not list(folder.glob("*.h5")):
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.005)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(number)
    error = process.communicate(timeout=30)[1]
    while any(map(alive, workers)):
        assert time.monotonic() < limit + 30
        time.sleep(0.05)
    if number == signal.SIGINT:
        assert process.returncode == 130 and "--resume" in error and "Traceback" not in error
        assert not list(folder.glob("*.unfinished*"))
    assert 1 <= len(list(folder.glob("*.h5"))) < 5 and not (folder / "metadata.json").exists()
    assert run(["generate", "--resume", str(folder)]) == 0
    assert not list(folder.glob("*.unfinished*"))
    same(whole, folder)


def _nano():
    base = configs.to_dict(GenerateConfig.nano())
    return {**base, "trajectories": 5, "frames": 40, "workers": 1}


@pytest.mark.slow
def test_two_processes_and_a_dead_one():
    def done(units):
        seen.append(units)

    seen: list[int] = []
    work = functools.partial(_unit_of_work, 3)
    assert sorted(run_jobs(work, [1, 2, 3, 4], 2, done)) == [3, 6, 9, 12]
    assert seen == sorted(seen)
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(work, [1, 0], 2, done))
    with pytest.raises(RuntimeError, match="memory"):
        list(run_jobs(work, [1, -1], 2, done))


def _unit_of_work(factor, job, advance):
    if job < 0:
        os._exit(1)
    advance()
    return factor * job * job // job


@pytest.mark.parametrize("material", ["sand", "plasticine", "water"])
def test_every_material(material, tmp_path):
    folder = make(tmp_path / "a", dataset=material, trajectories=1, validation=0)
    data = ParticleWindows.from_folder(folder, window=3)
    assert (data[0].kind == KINDS[material]).all()
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["law"]["name"] != "FixedCorotated" and not metadata["validation"]


@pytest.mark.parametrize("shape", ["sphere", "cylinder", "capsule", "torus", "mesh"])
def test_every_shape(shape, tmp_path):
    if shape == "mesh":
        v = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
        faces = [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
        shape = str(save_mesh(tmp_path / "wedge.stl", v, faces))
    config = config_of(shape=shape, particles=200, size=0.4, grid=32)
    scene = generation.scene_of(config, 1)
    span = scene.x.max(0).values - scene.x.min(0).values
    assert 120 < len(scene.x) < 300
    assert 0.3 < float(span.max()) <= 0.4 and float((scene.x - 0.5).abs().max()) < 0.25
    generation.check(config)


def test_random_filling_differs_from_throw_to_throw_and_is_batched_by_number(tmp_path):
    changes = {"sampling": "random", "shape": "sphere", "trajectories": 3}
    a, b = make(tmp_path / "a", **changes), make(tmp_path / "b", batch=3, **changes)
    same(a, b)
    frames = [ParticleWindows(a / f"trajectory-000{k}.h5")[0].positions[:, 0] for k in range(2)]
    assert frames[0].shape != frames[1].shape or not torch.equal(*frames)


def test_the_command_and_its_configuration(tmp_path, capsys):
    a, b = tmp_path / "a", tmp_path / "b"
    words = ["generate", "water", "--preset", "nano", "--frames", "6", "--workers", "1"]
    words += ["--trajectories", "2", "--fields", "x", "v"]
    assert run([*words, "--out", str(a)]) == 0
    out = capsys.readouterr().out
    assert "trajectories" in out and str(a) in out
    stored = configs.load_toml(a / "config.toml")
    assert stored["command"] == "generate" and stored["dataset"] == "water"
    with RolloutReader(a / "trajectory-0000.h5") as reader:
        assert reader["v"].shape == reader["x"].shape == (1, 6, 216, 3)
    assert run(["generate", "--config", str(a / "config.toml"), "--out", str(b)]) == 0
    same(a, b)
    assert run([*words, "--out", str(a)]) == 2  # it holds something


def test_what_is_refused(tmp_path, whole, capsys):
    wrong = [
        ("lava",), ("--shape", "cub"), ("--shape", "missing.stl"), ("--trajectories", "0"),
        ("--validation", "4"), ("--frames", "2"), ("--grid", "4"), ("--particles", "0"),
        ("--dt", "0"), ("--fields", "F"), ("--size", "1.2"), ("--preset", "tiny"),
        ("--seed", "-1"), ("--workers", "0"),
    ]  # fmt: skip
    for words in wrong:
        base = ["generate", "--out", str(tmp_path / "a")]
        base += [] if "--preset" in words else ["--preset", "nano"]
        assert run([*base, *words]) == 2, words
        assert len(capsys.readouterr().err.strip().splitlines()) >= 1
        assert not (tmp_path / "a").exists()
    assert run(["generate", "--resume", str(whole), "--frames", "9"]) == 2
    assert "--batch" in capsys.readouterr().err
    assert run(["simulate", "--resume", str(whole)]) == 2
    with pytest.raises(StabilityError):
        generation.check(config_of(dataset="sand", dt=2e-3))
