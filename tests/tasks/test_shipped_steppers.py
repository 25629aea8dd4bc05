"""The steppers that ship with the package predict throws they were not trained on."""

from __future__ import annotations

import json

import pytest
import torch
from rheograd.assets import weights, weights_names
from rheograd.operators.data import ParticleWindows
from rheograd.operators.giorom import ConstantVelocity, one_step_mse, rollout_mse
from rheograd.tasks.cli import run
from rheograd.tasks.runs.stepping import load_stepper

MATERIALS = ("jelly", "plasticine", "sand", "water")
SENSORS = 300


def test_every_material_ships_with_its_report():
    assert set(MATERIALS) <= set(weights_names("steppers"))
    for name in MATERIALS:
        path = weights("steppers", name)
        report = json.loads(path.with_suffix(".json").read_text("utf-8"))
        assert report["material"] == name and path.stat().st_size < 2**20
        assert report["rollout over free flight"] < 0.25


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("plasticine", "sand")]


@pytest.mark.parametrize("material", ["jelly", "water", *SLOW])
def test_an_unseen_throw(material, tmp_path):
    words = ["--trajectories", "2", "--validation", "1", "--particles", "4096", "--grid", "24"]
    out = tmp_path / material
    assert run(["generate", material, *words, "--frames", "86", "--seed", "77", "--out", str(out)]) == 0
    model = load_stepper(material)
    data = ParticleWindows.from_folder(
        out, "validation", sensors=SENSORS, stride=20, reference=model.config.reference
    )
    with torch.no_grad():
        parts = [data[i] for i in range(len(data))]
        error = sum(float(one_step_mse(model, batch)) for batch in parts)
        assert error < 0.6 * sum(float(one_step_mse(ConstantVelocity(), batch)) for batch in parts)
        batch = data.trajectory(data.trajectories[0])
        gravity = torch.tensor([0.0, 0.0, -9.81]) * data.frame_time**2
        assert rollout_mse(model, batch) < 0.25 * rollout_mse(ConstantVelocity(gravity), batch)
