"""`rheograd identify`: stored data, synthetic data, interruption, refusals, help without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from rheograd.sim.io import Metrics
from rheograd.tasks.cli import run
from rheograd.tasks.tactile.probe import dome_probe

TRUTH = {"E": 1.2e5, "friction": 0.5}
SMALL = ["--guess", "E=2e5", "friction=0.3", "--known", "nu=0.47", "--newtons", "2e-3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A press and a slide in three steps, as a user would store it; a third of the markers is lost."""
    probe = dome_probe(cuts=2, markers=24, motions=(3,), press_steps=2, move_steps=1)
    seen = probe.observe({**TRUTH, "nu": 0.47}).noisy(0.05, 1e-3)
    markers = seen.markers.numpy().copy()
    markers[:, :, ::3] = np.nan
    dots = probe.markers.project(probe.camera, probe.sensor.mesh.X[None]).uv[0].numpy()
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    values = {"markers": markers, "force": seen.force.numpy(), "twists": probe.twists.numpy()}
    np.savez(path, dots=dots, **values)
    return path


def found(folder):
    return json.loads((folder / "result.json").read_text("utf-8"))


def test_stored_data_are_explained(data, tmp_path, capsys):
    assert run(["identify", str(data), *SMALL, "--out", str(tmp_path / "a")]) == 0
    result, rows = found(tmp_path / "a"), Metrics.read(tmp_path / "a/metrics.jsonl")
    for name, value in TRUTH.items():
        row = result["parameters"][name]
        assert row["found"] == pytest.approx(value, rel=0.05)
        assert abs(row["found"] / value - 1) < 4 * row["deviation"] < 0.2
        assert row["true"] is None and row["error"] is None
    assert result["loss"] < 1 and len(rows) == result["simulations"]
    assert rows[0]["E"] == pytest.approx(2e5) and rows[0]["loss"] > 10 * result["loss"]
    out = capsys.readouterr().out
    for word in ("deviation", "friction", "result.json", "0.3"):
        assert word in out

    # The same as HDF5, and the data of a run as data: the first candidate is as far off.
    with np.load(data) as arrays, h5py.File(tmp_path / "mine.h5", "w") as file:
        for name in arrays.files:
            file[name] = arrays[name]
    for source, name in (("mine.h5", "b"), ("a", "c")):
        words = ["identify", str(tmp_path / source), *SMALL, "--budget", "1"]
        assert run([*words, "--out", str(tmp_path / name)]) == 0
        again = Metrics.read(tmp_path / name / "metrics.jsonl")[0]
        assert again["loss"] == pytest.approx(rows[0]["loss"], rel=1e-6)


def test_an_interrupted_run_goes_on_from_its_best_candidate(data, tmp_path, monkeypatch, capsys):
    from rheograd.tasks.tactile.probe import Probe

    whole, count = Probe.simulate, []

    def stopped(self, values):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return whole(self, values)

    folder = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(Probe, "simulate", stopped)
        assert run(["identify", str(data), *SMALL, "--out", str(folder)]) == 130
    assert f"--resume {folder}" in " ".join(capsys.readouterr().err.split()).replace("- ", "-")
    before = Metrics.read(folder / "metrics.jsonl")
    assert before and not (folder / "result.json").exists()
    assert run(["identify", "--resume", str(folder), "--budget", "40"]) == 0
    rows = Metrics.read(folder / "metrics.jsonl")
    best = min(before, key=lambda row: row["loss"])
    assert rows[len(before)]["E"] == pytest.approx(best["E"])
    for name, value in TRUTH.items():
        row = found(folder)["parameters"][name]
        assert row["found"] == pytest.approx(value, rel=0.05)
        assert row["initial"] == pytest.approx({"E": 2e5, "friction": 0.3}[name])


def test_a_synthetic_sensor_and_its_truth(tmp_path):
    words = "--guess friction=0.4 --truth friction=0.6 --markers 12 --budget 3".split()
    assert run(["identify", *words, "--out", str(tmp_path / "a")]) == 0
    row = found(tmp_path / "a")["parameters"]["friction"]
    assert row["true"] == 0.6 and row["error"] == pytest.approx(row["found"] / 0.6 - 1)
    assert abs(row["error"]) < 0.2
    with np.load(tmp_path / "a/seen.npz") as kept:
        assert kept["markers"].shape == (4, 6, 12, 2) and kept["force"].shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.npz"], "exists; got nowhere.npz"),
        (["--guess", "E=soft"], "NAME=VALUE"),
        (["--guess", "eta"], "Give it a number"),
        (["--guess", "colour=1"], "parameters out of"),
        (["--resume", ".", "--cuts", "3"], "the folder and --budget"),
    ],
)
def test_wrong_requests(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["identify", *words]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_data_of_another_shape(tmp_path, capsys):
    np.savez(tmp_path / "odd.npz", force=np.zeros((1, 3, 3)))
    assert run(["identify", str(tmp_path / "odd.npz"), "--out", str(tmp_path / "a")]) == 2
    assert "force of shape (4, 6, 3); got (1, 3, 3)" in " ".join(capsys.readouterr().err.split())


def test_help_loads_neither_torch_nor_numpy():
    code = """
import sys
from rheograd.tasks.cli import run
assert run(["identify", "--help"]) == 0
print("HEAVY", [m for m in ("torch", "numpy", "scipy", "h5py", "warp") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout and "--guess" in done.stdout
