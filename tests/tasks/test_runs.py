"""Configurations and run folders: names, types, precedence, repeatability."""

from __future__ import annotations

import dataclasses
import importlib
import math

import pytest
from rheograd.sim.io import Metrics
from rheograd.tasks.runs import configs, learning_config, scenes
from rheograd.tasks.runs.configs import UsageError, dump_toml, from_dict, load_toml, merge, to_dict
from rheograd.tasks.runs.folder import RunFolder

CONFIGS = [
    scenes.SimulateConfig, scenes.BodyConfig, scenes.ToolConfig, learning_config.NclawConfig,
    learning_config.PlanConfig, learning_config.DemoConfig,
]  # fmt: skip


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_field_says_what_it_is(cls):
    assert set(configs.field_help(cls)) == {f.name for f in dataclasses.fields(cls)}


@pytest.mark.parametrize("name", sorted(scenes.SCENES))
@pytest.mark.parametrize("dim", [2, 3])
def test_scenes_survive_toml_unchanged(name, dim, tmp_path):
    config = from_dict(scenes.SimulateConfig, scenes.scene_defaults(name, dim))
    file = tmp_path / "scene.toml"
    file.write_text(dump_toml(to_dict(config)))
    assert from_dict(scenes.SimulateConfig, load_toml(file)) == config


def test_toml_text_of_every_kind_of_value(tmp_path):
    data = {
        "text": 'a "quoted" \\ line\nand ü', "yes": True, "count": -3, "small": 1.5e-300,
        "list": [1.0, 2.5], "odd key!": 1, "table": {"inner": {"x": 0.1}, "empty": {}},
    }  # fmt: skip
    file = tmp_path / "all.toml"
    file.write_text(dump_toml(data))
    assert load_toml(file) == data


def test_later_layers_win_and_none_never_does():
    low = {"a": 1, "b": {"c": 2, "d": [1, 2]}}
    assert merge(low, {"a": None, "b": {"d": [3]}}) == {"a": 1, "b": {"c": 2, "d": [3]}}
    assert low == {"a": 1, "b": {"c": 2, "d": [1, 2]}}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"duratoin": 1.0}, ["duratoin", "Did you mean 'duration'?"]),
        ({"bodies": {"a": {"materal": "sand"}}}, ["bodies.a", "Did you mean 'material'?"]),
        ({"dim": 4}, ["dim", "2, 3", "got 4"]),
        ({"fps": "fast"}, ["fps", "float", "'fast'"]),
        ({"resolution": 12.5}, ["resolution", "int", "12.5"]),
        ({"bodies": 3}, ["bodies", "got 3"]),
        ({"gravity": ["down"]}, ["gravity", "'down'"]),
        ({"seed": True}, ["seed", "int", "True"]),
    ],
)
def test_wrong_configurations_name_the_key_and_the_remedy(data, words):
    with pytest.raises(UsageError) as error:
        from_dict(scenes.SimulateConfig, data, "file.toml")
    assert all(word in str(error.value) for word in ["file.toml", *words])


def test_broken_toml_names_the_line(tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text("fps = 25\nduration = = 2\n")
    with pytest.raises(UsageError, match="line 2"):
        load_toml(file)
    with pytest.raises(UsageError, match="got .*none.toml"):
        load_toml(tmp_path / "none.toml")


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UsageError, match="holds something"):
        RunFolder(tmp_path, "simulate", {})
    with pytest.raises(UsageError, match="holds no config.toml"):
        RunFolder.open(tmp_path)
    run = RunFolder(tmp_path / "new", "train", {"seed": 3})
    assert RunFolder.open(run.path, "train").config == {"seed": 3}
    with pytest.raises(UsageError, match="rheograd train"):
        RunFolder.open(run.path, "simulate")


def test_default_folders_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {RunFolder.new(None, "a", "simulate", {}).path for _ in range(3)}
    assert len(paths) == 3


def test_metrics_survive_a_cut_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        for k in range(3):
            metrics.add(k=k, value=math.nan)
    with open(path, "a") as stream:
        stream.write('{"k": 3, "val')
    assert [row["k"] for row in Metrics.read(path)] == [0, 1, 2]
    with Metrics(path, keep=2) as metrics:
        assert metrics.count == 2
        metrics.add(k=9)
    assert [row["k"] for row in Metrics.read(path)] == [0, 1, 9]
    assert Metrics.read(path)[0]["value"] is None


def test_materials_and_scenes_name_things_that_exist():
    building = importlib.import_module("rheograd.tasks.runs.building")
    for name, material in scenes.MATERIALS.items():
        values = building.material_law(name).parameters()
        assert {k: values[k] for k in material.params} == material.params
    with pytest.raises(UsageError, match="Did you mean 'water'"):
        building.material_law("watr")
    with pytest.raises(UsageError, match="Did you mean 'nu'"):
        building.material_law("jelly", {"mu": 1.0})


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", sorted(scenes.SCENES))
def test_every_scene_builds_and_steps(name, dim):
    import torch

    building = importlib.import_module("rheograd.tasks.runs.building")
    values = {"resolution": 12, "particles_per_cell": 1.0, "fps": 100.0, "duration": 0.2}
    data = merge(scenes.scene_defaults(name, dim), values)
    run = building.build(from_dict(scenes.SimulateConfig, data))
    assert run.solver.config.dt <= building.stable_dt(run.solver.model, 0.4) * (1 + 1e-9)
    assert math.isclose(run.solver.step_time, 0.01)
    with torch.no_grad():
        state = run.solver.step(run.state, run.control(run.state))
    assert bool(torch.isfinite(state.x).all()) and not torch.equal(state.x, run.state.x)


def test_tools_move_between_start_and_stop():
    import torch

    building = importlib.import_module("rheograd.tasks.runs.building")
    data = merge(
        scenes.scene_defaults("jelly-drop", 2),
        {"resolution": 12, "duration": 0.4,
         "tools": {"ball": {"velocity": [0.5, -0.25], "start": 0.08, "stop": 0.2}}},
    )  # fmt: skip
    run = building.build(from_dict(scenes.SimulateConfig, data))
    state, places = run.state, [run.state.tool_pose[0, 0, :3]]
    with torch.no_grad():
        for _ in range(8):
            state = run.solver.step(state, run.control(state))
            places.append(state.tool_pose[0, 0, :3])
    moved = torch.stack(places) - places[0]
    # Frames of 40 ms: at rest before frame 2, moving for 0.12 s, at rest after frame 5.
    path = torch.tensor([0.0, 0, 0, 1, 2, 3, 3, 3, 3])[:, None] * 0.04
    assert torch.allclose(moved, path * torch.tensor([0.5, 0.0, -0.25]), atol=1e-6)
