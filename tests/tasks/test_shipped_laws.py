"""The laws that ship with the package predict motions they were not trained on."""

from __future__ import annotations

import json

import pytest
import torch
from rheograd.assets import weights, weights_names
from rheograd.operators.nclaw import metric_mse_every5, predict, random_throw, simulate_truth
from rheograd.sim import mpm
from rheograd.sim.io import load_checkpoint
from rheograd.tasks.nclaw import load_law

MATERIALS = ("jelly", "plasticine", "sand", "water")


def test_every_material_ships_with_its_report():
    assert set(MATERIALS) <= set(weights_names("laws"))
    for name in MATERIALS:
        path = weights("laws", name)
        assert path.with_suffix(".json").is_file() and path.stat().st_size < 10_000
        assert load_checkpoint(path).config["material"] == name


@pytest.mark.parametrize("material", MATERIALS)
def test_an_unseen_throw(material):
    scene = random_throw(material, 23)
    truth = simulate_truth(scene.solver(mpm), 300)
    with torch.no_grad():
        x = predict(scene.solver(mpm, load_law(material)), truth)
    error = metric_mse_every5(x, truth.x)
    report = json.loads(weights("laws", material).with_suffix(".json").read_text("utf-8"))
    assert error < max(report["mse_m2"].values())  # those are over 1000 steps, this is over 300
    start = truth.x[0]
    t = 5e-4 * torch.arange(len(truth.x))[:, None, None]
    gravity = torch.tensor(scene.gravity)
    flight = start + t * truth.v[0] + 0.5 * t**2 * gravity
    assert error < 1e-2 * metric_mse_every5(flight, truth.x)


def test_an_unknown_name_tells_what_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="jelly, plasticine, sand, water"):
        load_law("honey")
    (tmp_path / "jelly").mkdir()  # a run folder of that name goes first, even an empty one
    with pytest.raises(Exception, match="jelly"):
        load_law("jelly")
