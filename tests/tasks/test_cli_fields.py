"""`render`, `view` and `info` of files of fields, and of what is neither fields nor a motion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rheograd.tasks.cli import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five short solutions of the heat equation in three files."""
    path = tmp_path_factory.mktemp("sets") / "heat"
    words = ["generate", "pde/heat", "--preset", "nano", "--out", str(path)]
    assert run(words) == 0
    return path


def test_info_tells_fields_times_sides_and_parameters(folder, capsys):
    assert run(["info", str(folder)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("rheograd generate", "trajectories 5", "frames 4, 0 … 0.15 s", "cells 16 × 16",
                 "x- 1 u + 0 k du/dn = 0", "scalar seed 0, 1, 2, 3, 4", "diffusivity 0.05"):  # fmt: skip
        assert part in text, part
    assert run(["info", str(folder / "train-0001.h5")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "trajectories 1" in text and "field u scalar" in text and "rheograd generate" not in text


def test_render_makes_pictures_and_movies_of_fields(folder, tmp_path, capsys):
    from PIL import Image

    strip, one, movie = (tmp_path / n for n in ("strip.png", "one.jpg", "m.gif"))
    small = ["--size", "320", "200"]
    file = str(folder / "validation-0000.h5")
    assert run(["render", file, "--out", str(strip), "--trajectory", "0", "1", *small]) == 0
    assert run(["render", str(folder), "--time", "0.11", "--out", str(one), *small]) == 0
    assert Image.open(strip).size == Image.open(one).size == (320, 200)
    options = ["--stride", "3", "--field", "u", "--theme", "dark"]
    assert run(["render", str(folder), "--out", str(movie), *options, *small]) == 0
    assert Image.open(movie).n_frames == 2
    assert run(["render", file, "--frame", "-1", *small]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == file.replace(".h5", "-3.png")
    assert run(["render", file, "--beside", str(folder / "train-0000.h5"), "--frame", "1",
                "--out", str(one)]) == 0  # fmt: skip
    image = np.asarray(Image.open(one))
    assert image.shape[1] > 2 * image.shape[0]  # three panels


@pytest.mark.parametrize("words, expected", [
    (["render", "SET", "--field", "v"], "a field out of u; got 'v'"),
    (["render", "SET", "--trajectory", "5"], "a trajectory in [0, 5); got 5"),
    (["render", "SET", "--frame", "4"], "a frame in [0, 4); got 4"),
    (["render", "SET", "--frame", "1", "--time", "0.1"], "--frame or --time; got both"),
    (["render", "SET", "--frame", "1", "--out", "m.gif"], "ending in .png"),
    (["render", "SET", "--style", "volume"], "of fields in space; got volume of 2-D fields"),
    (["render", "SET", "--orbit", "90"], "--orbit for fields in space"),
    (["view", "SET", "--field", "v"], "a field out of u; got 'v'"),
    (["view", "SET", "--trajectory", "9"], "a trajectory in [0, 5)"),
    (["render", "note.h5"], "note.h5: a run folder, a rollout file, or fields"),
    (["info", "note.txt"], "note.txt: a run folder, a rollout file, or fields"),
    (["view", "empty"], "no rollout.h5"),
])  # fmt: skip
def test_wrong_requests_name_what_there_is(folder, words, expected, tmp_path, monkeypatch, capsys):
    import h5py

    monkeypatch.chdir(tmp_path)
    h5py.File("note.h5", "w").close()
    (tmp_path / "note.txt").write_text("no fields")
    (tmp_path / "empty").mkdir()
    assert run([str(folder) if w == "SET" else w for w in words]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.gif"))


def test_view_of_fields_wants_a_display(folder, monkeypatch, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert run(["view", str(folder)]) == 1
    assert "DISPLAY" in capsys.readouterr().err


def test_a_stationary_problem_is_one_picture_of_all_its_fields(tmp_path, capsys):
    from PIL import Image

    path = tmp_path / "darcy"
    assert run(["generate", "pde/darcy", "--preset", "nano", "--out", str(path)]) == 0
    assert run(["render", str(path)]) == 0
    width, height = Image.open(path / "darcy.png").size
    assert width > 1.8 * height
    assert run(["render", str(path), "--out", str(tmp_path / "m.gif")]) == 2
    assert "one frame" in capsys.readouterr().err


def test_a_throw_of_a_data_set_is_chosen_by_its_number(tmp_path, capsys):
    path = tmp_path / "throws"
    words = ["generate", "sand", "--preset", "nano", "--trajectories", "2", "--validation", "1"]
    words += ["--frames", "3"]
    assert run([*words, "--out", str(path)]) == 0
    small = ["--size", "120", "90", "--style", "particles"]
    assert run(["render", str(path), "--trajectory", "1", "--time", "0", *small]) == 0
    assert (path / "trajectory-0001-0.png").is_file()
    assert run(["render", str(path), "--trajectory", "2", "--frame", "0"]) == 2
    assert "a trajectory in [0, 2); got 2" in capsys.readouterr().err
    assert run(["render", str(path), "--style", "slices"]) == 2


def test_predictions_are_kept_beside_the_truth(folder, tmp_path, capsys):
    from rheograd.operators.layers import load_operator
    from rheograd.sim.io import open_fields

    run_, kept = tmp_path / "run", tmp_path / "kept"
    words = ["train", "fno", str(folder), "--lead", "1", "--updates", "3", "--model.n-modes", "4"]
    assert run([*words, "--model.hidden-channels", "8", "--out", str(run_)]) == 0
    assert run(["evaluate", str(run_), "--keep", str(kept)]) == 0
    text = capsys.readouterr().out
    files = [kept / "truth.h5", kept / "prediction.h5"]
    assert f"rheograd render {files[0]} --beside {files[1]}" in "".join(text.splitlines())
    truth, made = (open_fields(f).read("u") for f in files)
    held = open_fields(folder / "validation-0000.h5")
    assert torch.equal(truth, held.read("u")) and torch.equal(made[:, 0], truth[:, 0])
    model = load_operator(run_)
    with torch.no_grad():
        torch.testing.assert_close(made[:, 3], model(model(model(truth[:, 0]))))
    assert open_fields(files[1]).times.tolist() == held.times.tolist()
    assert run(["render", str(files[0]), "--beside", str(files[1]), "--frame", "-1"]) == 0
    assert run(["evaluate", "law", "--keep", str(kept)]) == 2
    assert "--keep of an operator" in capsys.readouterr().err
