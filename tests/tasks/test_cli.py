"""The command as users call it: help, names, precedence, repeatability, errors."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from rheograd.assets import weights, weights_names
from rheograd.sim.io import load_checkpoint
from rheograd.tasks.cli import run
from rheograd.tasks.runs.configs import load_toml

SMALL = [
    "--resolution", "12", "--duration", "0.2", "--particles-per-cell", "1", "--precision", "float64",
]  # fmt: skip


@pytest.fixture
def command(capsys):
    """Runs a command line and returns (exit code, stdout, stderr)."""

    def call(*words):
        capsys.readouterr()
        code = run([str(w) for w in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def frames(folder, field="x"):
    from rheograd import RolloutReader

    with RolloutReader(folder / "rollout.h5") as reader:
        return reader.times, reader[field][0]


def test_help_is_lazy_and_fast():
    code = """
import sys, time
from rheograd.tasks.cli import run
commands = [[], *[[c] for c in "demo list simulate train optimize render view info".split()]]
for words in commands:
    assert run([*words, "--help"]) == 0
    if not words:
        print("SECONDS", time.process_time())
heavy = [m for m in "torch numpy scipy h5py warp vtk pyvista matplotlib".split() if m in sys.modules]
print("HEAVY", heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    seconds = float(done.stdout.split("SECONDS ")[1].split()[0])
    assert seconds < 1.0  # CPU time from the start of the interpreter
    for name in "demo list simulate train optimize render view info".split():
        assert f"│ {name} " in done.stdout
    assert "--resolution" in done.stdout and "--bodies.NAME.FIELD" in done.stdout


def test_list_and_info_name_what_there_is(command):
    code, out, _ = command("list")
    assert code == 0
    words = "jelly-and-water sand honey von_mises yield_stress fluid/gathering mppi-receding taichi"
    for word in words.split():
        assert word in out
    shipped = out[out.index("Trained laws") :].splitlines()
    for material in weights_names("laws"):
        line = next(line for line in shipped if line.strip().startswith(material))
        report = json.loads(weights("laws", material).with_suffix(".json").read_text("utf-8"))
        assert report["material"] in line
        assert f"{max(report['mse_m2'].values()):.2g} m²" in line
    assert "Trained steppers" in out
    code, out, _ = command("info")
    assert code == 0 and "torch" in out and "kernel cache" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["simulat"], ["Did you mean", "simulate"]),
        (["simulate", "dam-brake"], ["'dam-brake'", "Did you mean 'dam-break'?"]),
        (["simulate", "--resolutoin", "9"], ["--resolutoin", "--resolution"]),
        (["simulate", "--dim", "4"], ["4", "2, 3"]),
        (["simulate", "--bodies.jelly.material", "jely"], ["'jely'", "Did you mean 'jelly'?"]),
        (["simulate", "--bodies.jelly.materal", "sand"], ["Did you mean 'material'?"]),
        (["simulate", "--bodies.jelly.params.EE", "1"], ["'EE'", "Did you mean 'E'?"]),
        (["simulate", "--bodies.jelly.params.E", "-5"], ["E > 0 Pa", "E = -5"]),
        (["simulate", "--bodies.jelly.position", "nan", "0.5"], ["finite", "nan"]),
        (["simulate", "--bodies.jelly.position", "0.5", "0.95"], ["outside", "Move the body"]),
        (["simulate", "--bodies.jelly.position", "0.5"], ["2 finite numbers", "got (0.5,)"]),
        (["simulate", "--bodies.jelly.size", "0"], ["positive lengths"]),
        (["simulate", "--bodies.jelly", "0.5"], ["--bodies.NAME.FIELD"]),
        (["simulate", "--upper", "1", "0.77"], ["whole cells", "Choose dx"]),
        (["simulate", "--duration", "0"], ["duration > 0"]),
        (["simulate", "--device", "gpu"], ["--device cpu", "'gpu'"]),
        (["simulate", "--fields", "x", "y"], ["--fields", "'y'"]),
        (["simulate", "--mesh", "nowhere.stl"], ["nowhere.stl", "Check the path"]),
        (["simulate", "--config", "nowhere.toml"], ["nowhere.toml"]),
        (["simulate", "--resume", "nowhere"], ["nowhere", "--out"]),
        (["train", "--device", "gpu", "--out", "t"], ["train: --device cpu", "'gpu'"]),
        (["optimize", "--device", "gpu", "--out", "t"], ["optimize: --device cpu", "'gpu'"]),
        (["generate", "--device", "gpu", "--out", "t"], ["generate: --device cpu", "'gpu'"]),
        (["train", "--bodies.a.size", "1"], ["`rheograd simulate`"]),
        (["train", "--steps", "2", "--out", "t"], ["steps ≥ 5"]),
        (["optimize", "fluid/gatherin"], ["Did you mean 'fluid/gathering"]),
        (["optimize", "--task.horizn", "3"], ["Did you mean 'horizon'?"]),
        (["optimize", "--optimizer.lrr", "3"], ["Did you mean 'lr'?"]),
        (["optimize", "--method", "newton"], ["newton", "gradient"]),
        (["render", "nowhere"], ["nowhere", "rheograd simulate"]),
        (["view", "nowhere"], ["nowhere"]),
        (["info", "nowhere"], ["nowhere"]),
    ],
)
def test_wrong_requests_get_one_line_with_the_remedy(
    words, expected, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*words)
    assert code == 2, err
    assert all(word in err for word in expected), err
    assert "Traceback" not in err and len(err.strip().split("\n")) <= 2  # a bar may precede it
    made = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "config.toml"]
    assert made == []


def test_debug_shows_where_an_error_arose():
    with pytest.raises(ValueError, match="dam-break"):
        run(["simulate", "dam-brake", "--debug"])


def test_a_substep_beyond_the_bound_says_what_fits(command, tmp_path):
    code, _, err = command("simulate", *SMALL, "--dt", "0.04", "--out", tmp_path / "a")
    assert code == 1 and "CFL" in err and "substeps=" in err


def test_simulate_stores_motion_metrics_and_config(command, tmp_path):
    folder = tmp_path / "run"
    fields = ["--fields", "x", "v", "F", "C"]
    code, out, _ = command("simulate", "jelly-drop", *SMALL, *fields, "--out", folder)
    assert code == 0 and "rollout.h5" in out
    times, x = frames(folder)
    assert times.tolist() == pytest.approx([0.04 * k for k in range(6)])
    assert x.dtype == np.float64 and np.isfinite(x).all()
    fall = x[0].mean(0) - x[-1].mean(0)
    # Nothing is touched within 0.2 s; n steps of symplectic Euler fall by ½ g t² (1 + 1/n).
    n = load_checkpoint(folder / "checkpoint.safetensors").config["substep"]
    assert fall == pytest.approx([0.0, 0.5 * 9.81 * 0.2**2 * (1 + 1 / n)], abs=1e-9)
    assert frames(folder, "F")[1].shape[-2:] == (3, 3)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["frame"] for r in rows] == [1, 2, 3, 4, 5]
    assert rows[-1]["center"] == pytest.approx(x[-1].mean(0).tolist())
    code, out, _ = command("info", folder)
    assert code == 0 and "6, 0 … 0.2 s" in out and "jelly" in out
    code, out, _ = command("info", folder / "checkpoint.safetensors")
    assert code == 0 and "substep" in out


def test_config_toml_reproduces_the_run_bit_by_bit(command, tmp_path):
    odd = ["--bodies.jelly.params.E", "6.5e4", "--tools.ball.velocity", "-0.1", "0.0"]
    first, second = tmp_path / "a", tmp_path / "b"
    sampling = ["--sampling", "jitter", "--seed", "7"]
    assert command("simulate", "jelly-drop", *SMALL, *odd, *sampling, "--out", first)[0] == 0
    assert command("simulate", "--config", first / "config.toml", "--out", second)[0] == 0
    assert np.array_equal(frames(first)[1], frames(second)[1])
    assert (first / "config.toml").read_text() == (second / "config.toml").read_text()


def test_command_line_wins_over_file_wins_over_scene(command, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'scene = "dam-break"\nresolution = 10\nfps = 50\nduration = 0.04\n'
        "[bodies.water.params]\neta = 2.0\n"
    )
    words = ["--config", file, "--fps", "100", "--bodies.water.material", "honey"]
    assert command("simulate", *words, "--out", tmp_path / "a")[0] == 0
    stored = load_toml(tmp_path / "a" / "config.toml")
    assert stored["scene"] == "dam-break" and stored["resolution"] == 10 and stored["fps"] == 100.0
    water = stored["bodies"]["water"]
    assert water["material"] == "honey" and water["params"] == {"eta": 2.0}
    file.write_text("resolutoin = 10\n")
    code, _, err = command("simulate", "--config", file)
    assert code == 2 and str(file) in err and "Did you mean 'resolution'?" in err
    code, _, err = command("train", "--config", tmp_path / "a" / "config.toml")
    assert code == 2 and "simulate" in err


def test_render_makes_pictures_and_movies(command, tmp_path):
    folder = tmp_path / "run"
    assert command("simulate", "jelly-drop", *SMALL, "--out", folder)[0] == 0
    picture, movie = tmp_path / "p.png", tmp_path / "m.gif"
    small = ["--size", "120", "90"]
    assert command("render", folder, "--frame", "-1", "--out", picture, *small)[0] == 0
    options = ["--stride", "3", "--style", "particles", "--field", "speed"]
    assert command("render", folder, "--out", movie, *options, *small)[0] == 0
    from PIL import Image

    assert Image.open(picture).size == (120, 90)
    assert Image.open(movie).n_frames == 2
    code, _, err = command("render", folder, "--out", tmp_path / "m.avi")
    assert code == 2 and ".mp4" in err
    code, _, err = command("render", folder, "--frame", "99")
    assert code != 0 and "99" in err


def test_view_without_a_display_says_what_to_do_instead(command, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert command("simulate", "jelly-drop", *SMALL, "--out", folder)[0] == 0
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = command("view", folder)
    assert code == 1 and "DISPLAY" in err
