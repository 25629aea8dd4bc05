"""A file of the rollout store draws without further help."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.laws import JELLY, WATER
from rheograd.sim.core.shapes import Capsule
from rheograd.sim.io.store import Field, RolloutWriter
from rheograd.sim.mpm.model import Grid, Group, MPMModel
from rheograd.viz import (
    model_config,
    open_reader,
    render_movie,
    scene_from_reader,
    scene_from_state,
)


@pytest.fixture(scope="module")
def model():
    side = torch.arange(0.025, 1.0, 0.05)
    water = torch.cartesian_prod(side, side[:4])
    jelly = torch.cartesian_prod(side[8:12], side[12:16])
    return MPMModel(
        grid=Grid((0.0, 0.0), (1.0, 1.0), dx=0.1),
        groups=[Group("pool", WATER, water, 0.0025), Group("block", JELLY, jelly, 0.0025)],
        colliders=[Collider(Capsule(0.04, 0.2), (0.2, 0.0, 0.6), name="stick")],
    )


@pytest.fixture(scope="module")
def stored(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("viz") / "run.h5"
    state = model.initial_state(2)
    groups = {"pool": (0, 80), "block": (80, 96)}
    writer = RolloutWriter(
        path,
        n_trajectories=2,
        particle_count=96,
        fields={
            "x": 1,
            "v": 1,
            "J": Field(0, groups=("pool",)),
            "F": Field(2, groups=("block",)),
        },
        dim=2,
        dt_frame=0.1,
        groups=groups,
        tool_count=1,
        config=model_config(model),
    )
    for k in range(3):
        x = state.x - torch.tensor([0.0, 0.02 * k])
        frame = state.replace(x=x, J=0.9 * state.J, F=1.1 * state.F)
        writer.append(0.1 * k, frame)
    writer.close()
    return path


def test_model_config_is_json(model):
    config = model_config(model)
    assert json.loads(json.dumps(config)) == config
    assert config["tools"] == [
        {"name": "stick", "shape": {"type": "Capsule", "radius": 0.04, "half_length": 0.2}}
    ]


def test_stored_and_live_scenes_agree(model, stored):
    reader = open_reader(stored)
    scene = scene_from_reader(reader, 0, trajectory=1, field="J")
    live = scene_from_state(model, model.initial_state(2), batch=1)
    assert np.allclose(scene.x, live.x) and scene.groups == live.groups
    assert scene.looks == live.looks == {"pool": "liquid"}
    assert np.allclose(scene.values, [0.9] * 80 + [1.1**3] * 16)
    assert scene.time == 0.0 and scene_from_reader(reader, -1).time == pytest.approx(0.2)
    assert np.allclose(scene.tools[0].pose, live.tools[0].pose)
    for a, b in zip(scene.bounds(), live.bounds(), strict=True):
        assert np.allclose(a, b)


def test_movie_from_a_path(stored, tmp_path):
    path = render_movie(
        stored, tmp_path / "a.gif", field="displacement", size=(160, 120), antialias=False
    )
    assert Image.open(path).n_frames == 3
