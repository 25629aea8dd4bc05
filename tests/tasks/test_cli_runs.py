"""Runs that are interrupted, cut, out of disk, or given odd meshes; training, planning, the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from rheograd import RolloutReader, save_mesh
from rheograd.sim.io import Metrics, load_checkpoint
from rheograd.tasks.cli import run
from rheograd.tasks.runs import building, configs, learning, planning, scenes, simulation
from rheograd.tasks.runs.folder import Interrupted, RunFolder
from rheograd.tasks.runs.learning_config import DemoConfig, NclawConfig, PlanConfig

SMALL = {"resolution": 12, "particles_per_cell": 1.0, "duration": 0.4, "precision": "float64"}


def simulation_of(name="jelly-drop", **changes):
    data = configs.merge(scenes.scene_defaults(name, 2), SMALL, changes)
    return building.build(configs.from_dict(scenes.SimulateConfig, data))


def start(run_, path):
    return RunFolder(path, "simulate", configs.to_dict(run_.config))


def frames(folder, name="rollout.h5"):
    with RolloutReader(folder / name) as reader:
        return reader.times, reader["x"][0], reader["v"][0]


def stop_at(count):
    def on_frame(done, total):
        if done == count:
            raise KeyboardInterrupt

    return on_frame


@pytest.mark.parametrize("name", ["jelly-drop", "fountain", "stir"])
@pytest.mark.parametrize("saved", [True, False])
def test_resumed_equals_uninterrupted_bit_by_bit(name, saved, tmp_path):
    whole = simulation_of(name)
    simulation.simulate(whole, start(whole, tmp_path / "whole"))
    part = simulation_of(name)
    folder = start(part, tmp_path / "part")
    with pytest.raises(Interrupted, match="--resume"):
        simulation.simulate(part, folder, stop_at(5))
    assert len(frames(folder.path)[0]) == 5
    if not saved:  # as after a kill that came before the first checkpoint
        folder.checkpoint.unlink()
    simulation.resume_simulation(RunFolder.open(folder.path, "simulate"))
    for a, b in zip(frames(tmp_path / "whole"), frames(folder.path), strict=True):
        assert np.array_equal(a, b)

    def rows(path):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in Metrics.read(path)]

    assert rows(folder.path / "metrics.jsonl") == rows(tmp_path / "whole" / "metrics.jsonl")


def test_a_finished_run_can_be_extended(tmp_path):
    longer = simulation_of(duration=0.6)
    simulation.simulate(longer, start(longer, tmp_path / "long"))
    short = simulation_of()
    folder = start(short, tmp_path / "short")
    simulation.simulate(short, folder)
    assert run(["simulate", "--resume", str(folder.path), "--duration", "0.6"]) == 0
    assert np.array_equal(frames(tmp_path / "long")[1], frames(folder.path)[1])
    assert configs.load_toml(folder.path / "config.toml")["duration"] == 0.6


def test_resume_refuses_what_would_make_another_run(tmp_path, capsys):
    short = simulation_of(duration=0.08)
    folder = start(short, tmp_path / "a")
    simulation.simulate(short, folder)
    assert run(["simulate", "--resume", str(folder.path), "--fps", "50"]) == 2
    assert "fps" in capsys.readouterr().err
    assert run(["train", "--resume", str(folder.path)]) == 2
    assert "rheograd simulate" in capsys.readouterr().err


def command(*words):
    code = "import sys; from rheograd.tasks.cli import main; main(sys.argv[1:])"
    return [sys.executable, "-c", code, *map(str, words)]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_readable_file_that_resumes(number, tmp_path):
    folder = tmp_path / "run"
    words = ["simulate", "jelly-drop", "--resolution", "32", "--duration", "60", "--out", folder]
    process = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = folder / "metrics.jsonl"
    limit = time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    last = err.strip().split("\n")[-1]
    assert "stopped after frame" in last and f"--resume {folder}" in last
    assert "Traceback" not in err
    times, x, _ = frames(folder)
    assert len(times) >= 4 and np.isfinite(x).all()
    stored = load_checkpoint(folder / "checkpoint.safetensors").config
    # A stop between writing a frame and noting it leaves the checkpoint one frame behind the file.
    assert stored["frame"] in (len(times) - 2, len(times) - 1)
    opened = RunFolder.open(folder, "simulate")
    opened.update({**opened.config, "duration": float(times[-1]) + 0.08})
    assert run(["simulate", "--resume", str(folder)]) == 0
    assert len(frames(folder)[0]) == len(times) + 2
    assert np.array_equal(frames(folder)[1][: len(times)], x)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_signal_that_python_drops_is_sent_again():
    code = """
import os, signal, time
from rheograd.tasks.cli import _hear_every_interrupt
_hear_every_interrupt()

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler runs here, where Python drops what it raises
            pass

try:
    Swallows()
    time.sleep(20)
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("stopped\n", "", 0)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
def test_a_full_disk_keeps_every_complete_frame(tmp_path):
    folder = tmp_path / "run"
    words = command(
        "simulate", "jelly-drop", "--resolution", "24", "--duration", "4", "--fps", "100",
        "--out", folder,
    )  # fmt: skip
    words[2] = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600000,) * 2); {words[2]}"
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Free disk space" in done.stderr and "Traceback" not in done.stderr
    times, x, _ = frames(folder)
    assert len(times) > 5 and np.isfinite(x).all()
    shorter = RunFolder.open(folder, "simulate")
    shorter.update({**shorter.config, "duration": float(times[-1]) + 0.02})
    assert run(["simulate", "--resume", str(folder)]) == 0
    assert np.array_equal(frames(folder)[1][: len(times)], x)


def test_a_truncated_rollout_gets_one_clear_line(tmp_path, capsys):
    short = simulation_of(duration=0.08)
    folder = start(short, tmp_path / "a")
    simulation.simulate(short, folder)
    data = folder.rollout.read_bytes()
    folder.rollout.write_bytes(data[: len(data) // 3])
    for words in (["info"], ["render", "--frame", "0"]):
        assert run([words[0], str(folder.rollout), *words[1:]]) in (1, 2)
        err = capsys.readouterr().err
        assert "rollout.h5" in err and "expected" in err


def tetrahedron():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    return vertices, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def test_a_mesh_of_the_user_joins_the_scene(tmp_path):
    vertices, faces = tetrahedron()
    file = save_mesh(tmp_path / "t.stl", 10 * vertices, faces)
    words = ["simulate", "dam-break", "--dim", "3", "--resolution", "16", "--duration", "0.04"]
    words += ["--mesh", str(file), "--mesh-material", "plasticine", "--mesh-size", "0.3"]
    words += ["--mesh-position", "0.7", "0.5", "0.7", "--out", str(tmp_path / "run")]
    assert run(words) == 0
    with RolloutReader(tmp_path / "run" / "rollout.h5") as reader:
        begin, end = reader.groups["mesh"]
        x = reader["x"][0, 0, begin:end]
    assert np.abs(x - [0.7, 0.5, 0.7]).max() <= 0.15
    # A corner of a cube of side a holds a³/6; a particle stands for (dx/2)³.
    assert (end - begin) * (1 / 32) ** 3 == pytest.approx(0.3**3 / 6, rel=0.15)
    assert run(["simulate", "--config", str(tmp_path / "run" / "config.toml"), "--out",
                str(tmp_path / "again")]) == 0  # fmt: skip


def test_an_open_mesh_says_how_many_edges_are_open(tmp_path, capsys):
    vertices, faces = tetrahedron()
    file = save_mesh(tmp_path / "open.stl", vertices, faces[:3])
    assert run(["simulate", "--dim", "3", "--mesh", str(file)]) == 2
    err = capsys.readouterr().err
    assert "watertight" in err and "3 open edges" in err and "Close the holes" in err


TINY = NclawConfig(steps=40, resolution=4, updates=6, horizon_end=4, checkpoint_every=2)


def folder_of(path, command_, config):
    return RunFolder(path, command_, configs.to_dict(config))


def test_training_resumed_equals_uninterrupted(tmp_path):
    whole = folder_of(tmp_path / "whole", "train", TINY)
    summary = learning.train_nclaw(TINY, whole)
    assert summary["updates"] == 6
    part = folder_of(tmp_path / "part", "train", TINY)

    def stop(done, total, loss):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="rheograd train --resume"):
        learning.train_nclaw(TINY, part, on_update=stop)
    assert run(["train", "--resume", str(part.path)]) == 0
    a, b = load_checkpoint(whole.checkpoint), load_checkpoint(part.checkpoint)
    assert set(a.tensors) == set(b.tensors) and "elastic.layers.0.weight" in a.tensors
    for name, tensor in a.tensors.items():
        # Losses are sums over threads, equal up to rounding in float32.
        assert torch.allclose(tensor, b.tensors[name], rtol=1e-4, atol=1e-6), name
    assert [r["update"] for r in Metrics.read(part.path / "metrics.jsonl")] == list(range(6))


def test_planning_resumed_equals_uninterrupted(tmp_path):
    config = PlanConfig(
        task="fluid/gathering-nano", iterations=4, seconds=600.0, settings={"horizon": 6}
    )
    whole = folder_of(tmp_path / "whole", "optimize", config)
    result = planning.plan(config, whole)
    part = folder_of(tmp_path / "part", "optimize", config)

    def stop(event):
        if event["iteration"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="rheograd optimize --resume"):
        planning.plan(config, part, on_iteration=stop)
    assert len(frames(part.path)[0]) == 7  # the best motion so far is there to look at
    assert run(["optimize", "--resume", str(part.path)]) == 0
    actions = load_checkpoint(part.checkpoint).tensors["actions"]
    assert torch.allclose(actions, result.actions, rtol=1e-3, atol=1e-5)
    assert [r["iteration"] for r in Metrics.read(part.path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_optimize_with_evolution(tmp_path):
    pytest.importorskip("cma")
    words = ["optimize", "fluid/gathering-nano", "--method", "cma", "--iterations", "1"]
    words += ["--task.horizon", "4", "--optimizer.population", "3", "--optimizer.knots", "2"]
    assert run([*words, "--out", str(tmp_path / "run")]) == 0
    stored = configs.load_toml(tmp_path / "run" / "config.toml")
    assert stored["settings"] == {"horizon": 4}
    assert stored["optimizer"] == {"population": 3, "knots": 2}


def test_demo_runs_every_stage_and_reports_its_own_numbers(tmp_path, capsys):
    folder = tmp_path / "demo"
    assert run(["demo", "--quick", "--out", str(folder)]) == 0
    out = capsys.readouterr().out
    assert str(folder / "report.html") in out.replace("\n", "")
    html = (folder / "report.html").read_text("utf-8")
    assert html.count("data:image/") >= 9 and "http" not in html.split("</style>")[1]
    for part in ("jelly-and-water", "neural-law", "paddle"):
        assert (folder / part / "config.toml").is_file() and (folder / part / "metrics.jsonl").is_file()
    numbers = json.loads((folder / "summary.json").read_text())
    with RolloutReader(folder / "paddle" / "rollout.h5") as reader:
        begin, end = reader.groups["body"]
        place = reader["x"][0, -1, begin:end, 0].mean()
    left = 1e3 * abs(place - 0.5)  # the target of this task stands at x = 0.5 m
    assert numbers["paddle optimized: distance left [mm]"] == pytest.approx(left, rel=1e-4)
    assert f"{left:.1f} mm from the target" in html
    with RolloutReader(folder / "throw" / "truth.h5") as truth, RolloutReader(
        folder / "throw" / "untrained.h5"
    ) as other:
        distance = np.sqrt(((truth["x"][0, -1] - other["x"][0, -1]) ** 2).sum(-1).mean())
    key = "unseen throw, untrained: error at the end [mm]"  # rounding of stored float32
    assert numbers[key] == pytest.approx(1e3 * distance, rel=1e-3, abs=1e-6)
    assert DemoConfig.quick().steps == 100
