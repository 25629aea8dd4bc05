"""Training of particle steppers from the command line."""

from __future__ import annotations

import pytest
import torch
from rheograd.sim.io import Metrics, load_checkpoint
from rheograd.tasks.cli import run
from rheograd.tasks.runs import stepping
from rheograd.tasks.runs.configs import from_dict, load_toml
from rheograd.tasks.runs.learning_config import StepperConfig

SMALL = ["--hidden", "16", "--sensors", "60", "--copies", "2", "--neighbors", "10"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "jelly"
    assert run(["generate", "jelly", "--preset", "nano", "--out", str(out)]) == 0
    return out


def test_a_stepper_trains_resumes_and_loads(data, tmp_path, capsys):
    whole, part = tmp_path / "whole", tmp_path / "part"
    words = ["train", "giorom", str(data), *SMALL, "--updates", "12"]
    assert run([*words, "--out", str(whole)]) == 0
    out = capsys.readouterr().out
    assert "rollout over free flight" in out and "model.safetensors" in out

    def stop(done, history):
        if done == 3:
            raise KeyboardInterrupt

    config = from_dict(StepperConfig, _config(whole))
    folder = stepping.RunFolder(part, "train", _config(whole))
    with pytest.raises(KeyboardInterrupt):
        stepping.train_stepper(config, folder, on_update=stop)
    assert run(["train", "--resume", str(part)]) == 0
    a, b = (load_checkpoint(p / "model.safetensors") for p in (whole, part))
    assert all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)
    rows = [Metrics.read(p / "metrics.jsonl") for p in (whole, part)]
    assert rows[0][-1]["train/loss"] == rows[1][-1]["train/loss"]
    model = stepping.load_stepper(whole)
    batch = stepping.windows(config, "validation")[0]
    assert torch.isfinite(model.acceleration(batch)).all()
    assert model.radius == pytest.approx(
        stepping.graph_radius(stepping.windows(config, "train"), 10)
    )


def _config(folder):
    data = load_toml(folder / "config.toml")
    return {k: v for k, v in data.items() if k not in ("command", "version")}


def test_the_default_radius_encloses_the_neighbors(data):
    config = StepperConfig(data=str(data), sensors=100)
    samples = stepping.windows(config, "train")
    radius = stepping.graph_radius(samples, 12)
    x = samples.trajectory(samples.trajectories[0]).positions[:, 0]
    near = (torch.cdist(x, x) <= radius).sum(1) - 1
    assert (
        8 < float(near.float().mean()) < 16
    )  # the mean of distances, not the distance of the mean


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "giorom"], "rheograd generate"),
        (["train", "giorom", "nowhere", "--updates", "3"], "metadata.json"),
        (["train", "giorom", "nowhere"], "--updates or --seconds"),
        (["train", "giorom", "nowhere", "--model", "gnn"], "model"),
    ],
)
def test_bad_requests_name_the_remedy(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(words) in (1, 2)
    assert expected in capsys.readouterr().err


def test_all_particles_and_no_grid(data, tmp_path):
    for model, sensors in (("gns", "0"), ("layers", "60")):
        words = ["train", "giorom", str(data), "--model", model, *SMALL[:2], "--sensors", sensors]
        assert run([*words, "--updates", "2", "--out", str(tmp_path / model)]) == 0
