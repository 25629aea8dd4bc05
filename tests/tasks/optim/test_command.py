"""Any optimizer from the command line, by name."""

from __future__ import annotations

import pytest
from rheograd.sim.io import load_checkpoint
from rheograd.tasks.cli import run
from rheograd.tasks.core import TASKS, register_task
from rheograd.tasks.optim import MLPPolicy
from rheograd.tasks.runs import configs
from toy_tasks import Cart, Tracking


@pytest.fixture(autouse=True)
def toys():
    register_task("toy/cart", lambda: Cart)
    register_task("toy/tracking", lambda: Tracking)
    yield
    for name in ("toy/cart", "toy/tracking"):
        del TASKS[name]


def test_an_optimizer_by_name_with_its_options(tmp_path):
    folder = tmp_path / "run"
    words = ["optimize", "toy/tracking", "--optimizer", "cem", "--optimizer.population", "8"]
    words += ["--optimizer.elites", "3", "--simulator-steps", "2000", "--seconds", "60"]
    assert run([*words, "--out", str(folder)]) == 0
    stored = configs.load_toml(folder / "config.toml")
    assert stored["method"] == "cem" and stored["optimizer"] == {"population": 8, "elites": 3}
    actions = load_checkpoint(folder / "actions.safetensors")
    assert actions.tensors["actions"].shape == (25, 4) and actions.config["loss"] < 7.0
    assert not (folder / "rollout.h5").exists()  # nothing to look at in a task without particles
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 9
    assert run(["optimize", "--resume", str(folder), "--simulator-steps", "4000"]) == 0
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 19


def test_a_policy_and_nested_options_from_a_file(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text(
        'method = "apg"\niterations = 4\nseed = 2\n[optimizer]\nenvs = 2\nhidden = [8]\ntests = 2\n'
    )
    assert run(["optimize", "toy/cart", "--config", str(file), "--out", str(tmp_path / "a")]) == 0
    policy = MLPPolicy.load(tmp_path / "a" / "policy.safetensors")
    assert policy.sizes == (2, 8, 1)
    assert "unseen starts: loss" in capsys.readouterr().out
    pytest.importorskip("cma")
    file.write_text(
        'method = "hybrid"\niterations = 4\n[optimizer]\nshare = 0.5\n'
        "[optimizer.cma]\nknots = 3\npopulation = 4\n[optimizer.gradient]\nlr = 0.3\n"
    )
    out = tmp_path / "b"
    assert run(["optimize", "toy/tracking", "--config", str(file), "--out", str(out)]) == 0
    stored = configs.load_toml(out / "config.toml")["optimizer"]
    assert stored["cma"]["population"] == 4 and stored["gradient"]["lr"] == 0.3


def test_an_unknown_optimizer_gets_the_nearest_name(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["optimize", "toy/cart", "--optimizer", "cma-es"]) == 2
    assert "Did you mean 'cma'?" in capsys.readouterr().err
    assert run(["optimize", "toy/cart", "--method", "sack"]) == 2
    assert "sac" in capsys.readouterr().err
