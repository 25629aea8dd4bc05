"""Training of operators on grids from the command line, on data sets of PDEs."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from rheograd.operators.layers import load_operator
from rheograd.operators.train import measure_operator
from rheograd.sim.core.errors import InputError
from rheograd.sim.io import Metrics, StoreError, load_checkpoint, load_fields, open_fields
from rheograd.tasks.cli import run
from rheograd.tasks.cli.common import Dotted
from rheograd.tasks.runs import pde_learning
from rheograd.tasks.runs.configs import UsageError, from_dict, load_toml
from rheograd.tasks.runs.folder import RunFolder
from rheograd.tasks.runs.operator_config import OperatorConfig
from rheograd.tasks.runs.pde_sets import SETS

SMALL = ["--model.hidden-channels", "6", "--model.n-layers", "1", "--model.n-modes", "5"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folder of a data set by name, made once."""
    root = tmp_path_factory.mktemp("sets")

    def make(name, *options):
        out = root / "-".join([name[4:], *options])
        if not out.exists():
            words = ["generate", name, "--preset", "nano", *options, "--out", str(out)]
            assert run(words) == 0
        return out

    return make


def config_of(data, **changes):
    model = {"hidden_channels": 6, "n_layers": 1} | changes.pop("model", {})
    values = {"data": str(data), "updates": 2, "model": model, **changes}
    return from_dict(OperatorConfig, values)


def train(config, path, **options):
    ready = pde_learning.prepare(config)
    folder = RunFolder(path, "train", pde_learning.to_dict(ready.config))
    return pde_learning.train_operator(ready, folder, **options)


def test_it_learns_and_the_numbers_are_those_of_the_held_out_solutions(sets, tmp_path, capsys):
    data = sets("pde/darcy", "--trajectories", "40", "--validation", "8", "--shard", "20")
    out = tmp_path / "run"
    words = ["train", "t1", str(data), "--model.n-modes", "8", "--model.hidden-channels", "12"]
    words += ["--updates", "100", "--augment", "--out", str(out)]
    assert run(words) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert run(["evaluate", str(out)]) == 0
    shown = capsys.readouterr().out
    rows = pde_learning.evaluate_operator(out)
    assert f"{rows['relative L²']:.4g}" in shown and "permeability → u" in shown
    assert pde_learning.evaluate_operator(out / "model.safetensors") == rows
    assert rows["relative L²"] < 0.8 * rows["relative L² of the mean"]

    a, u = load_fields(data, ["permeability", "u"], "validation")
    model = load_operator(out)
    errors = measure_operator(model, a, u[:, 0])
    assert rows["relative L²"] == pytest.approx(errors["relative_l2"], rel=1e-6)
    assert rows["largest error of u"] == pytest.approx(errors["largest error 0"], rel=1e-6)
    mean = load_fields(data, ["u"])[0][:, 0].mean(0)
    known = (mean - u[:, 0]).flatten(1).norm(dim=1) / u.flatten(1).norm(dim=1)
    assert rows["relative L² of the mean"] == pytest.approx(float(known.mean()))
    assert model.config.boundary == ("dirichlet",) * 2
    assert model.config.input_boundary == ("neumann",) * 2


@pytest.mark.parametrize("system", ["t1", "fno"])
def test_a_stopped_run_goes_on_to_the_same_weights(system, sets, tmp_path):
    data = sets("pde/heat")
    words = ["train", system, str(data), *SMALL, "--updates", "6", "--lead", "1", "--augment"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert run([*words, "--batch", "4", "--out", str(whole)]) == 0
    stored = {
        k: v for k, v in load_toml(whole / "config.toml").items() if k not in ("command", "version")
    }
    assert stored["model"] == {"hidden_channels": 6, "n_layers": 1, "n_modes": [5, 5]}

    def stop(done, history):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(from_dict(OperatorConfig, stored), part, on_update=stop)
    assert run(["train", "--resume", str(part)]) == 0
    a, b = (load_checkpoint(p / "model.safetensors") for p in (whole, part))
    assert all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)
    again = tmp_path / "again"
    assert run(["train", system, "--config", str(whole / "config.toml"), "--out", str(again)]) == 0
    c = load_checkpoint(again / "model.safetensors")
    assert all(torch.equal(a.tensors[k], c.tensors[k]) for k in a.tensors)


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_read_with_its_channels_and_boundaries(name, sets):
    data = sets(name)
    fields = open_fields(sorted(data.glob("train-*.h5")))
    for system in ("t1", "fno"):
        ready = pde_learning.prepare(config_of(data, system=system))
        x, y = ready.train[:]
        c = ready.model.config
        assert (len(x), x.shape[1], y.shape[1]) == (3, c.in_channels, c.out_channels)
        moving = [n for n in fields.names if fields.varies(n)]
        still = [n for n in fields.names if n not in moving]
        whole = fields.read(moving)
        assert torch.equal(y, whole[:, -1])
        first = [fields.read(still)] if still else []
        first = first if fields.n_frames == 1 else [whole[:, 0], *first]
        assert torch.equal(x, torch.cat(first, 1))
        ready.model.fit_scales(x, y)
        assert ready.model(x).shape == y.shape
        if system == "t1":
            periodic = "navier" in name or name == "pde/burgers"
            zero = "darcy" in name or name in ("pde/heat", "pde/burgers-walls", "pde/poisson")
            wall = "periodic" if periodic else "dirichlet" if zero else "neumann"
            assert set(c.boundary) == {wall}


def test_steps_windows_and_fields_become_channels(sets):
    data = sets("pde/reaction-diffusion")
    ready = pde_learning.prepare(config_of(data, lead=1, past=2, targets=["inhibitor"]))
    u, v = load_fields(data, ["activator", "inhibitor"])  # 4 frames
    x, y = ready.train[:]
    assert x.shape[:2] == (6, 4) and y.shape[:2] == (6, 1)
    assert torch.equal(
        x[1], torch.cat([u[0, 1:3], v[0, 1:3]]).flatten(0, 1).unflatten(0, (4, 1))[:, 0]
    )
    assert torch.equal(y[1], v[0, 3])
    ready = pde_learning.prepare(config_of(data, future=2))  # the first frame to the last two
    assert torch.equal(ready.train[:][1][:, :2], u[:, 2:, 0])
    ready = pde_learning.prepare(config_of(data, train={"keep_best": "true"}))
    assert (len(ready.train), len(ready.choose)) == (2, 1)


def test_another_grid_other_parameters_and_finer_frames(sets, tmp_path):
    config = config_of(sets("pde/heat"), lead=1, model={"n_modes": [5]})
    out = tmp_path / "run"
    summary = train(config, out)
    same = pde_learning.evaluate_operator(out)
    assert all(summary[k] == same[k] for k in same)
    options = ("--grid", "24", "--frames", "7", "--dt", "0.005", "--parameters", "diffusivity=0.1")
    fine = sets("pde/heat", *options)
    rows = pde_learning.evaluate_operator(out, fine)
    assert rows["cells"] == "24 × 24, trained on 16 × 16"
    assert "relative L² of the mean" in same and "relative L² of the mean" not in rows
    assert rows["other than in training"] == "diffusivity 0.1 instead of 0.05"
    (u,) = load_fields(fine, ["u"], "validation")
    u, model = u[:, ::2], load_operator(out / "model.safetensors")  # frames of 0.05 s again
    errors = measure_operator(model, u[:, :-1].flatten(0, 1), u[:, 1:].flatten(0, 1))
    assert rows["relative L²"] == pytest.approx(errors["relative_l2"], rel=1e-5)
    with torch.no_grad():
        last = model(model(model(u[:, 0])))
    error = (last - u[:, 3]).flatten(1).norm(dim=1) / u[:, 3].flatten(1).norm(dim=1)
    assert rows["relative L² after 3 steps, 0.15 s"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert rows["relative L² if nothing changed"] > 0
    assert "of these begin as training ones" not in {**rows, **same}
    again = pde_learning.evaluate_operator(out, sets("pde/heat", "--trajectories", "4"))
    assert again["of these begin as training ones"] == 1  # seeds 2 and 3; training had 0, 1, 2
    with pytest.raises(InputError, match="pde/heat, as in training; got pde/darcy"):
        pde_learning.evaluate_operator(out, sets("pde/darcy"))
    with pytest.raises(InputError, match="whole fractions"):
        pde_learning.evaluate_operator(out, sets("pde/heat", "--dt", "0.007"))
    with pytest.raises(InputError, match="over at least"):
        pde_learning.evaluate_operator(out, sets("pde/heat", "--frames", "2", "--dt", "0.001"))


def test_a_stepper_goes_on_around_an_obstacle(sets, tmp_path):
    """What is still goes in again beside what came out; errors are those of the steps by hand."""
    data, out = sets("pde/cylinder"), tmp_path / "run"
    train(config_of(data, lead=1, batch=3, model={"n_modes": [5]}), out)
    rows = pde_learning.evaluate_operator(out)
    p, v, wall = load_fields(data, ["pressure", "velocity", "obstacle"], "validation")
    u, model = torch.cat((p, v), 2), load_operator(out)
    assert model.config.in_channels == 4 and model.config.out_channels == 3
    last = u[:, 0]
    with torch.no_grad():
        for _ in range(3):
            last = model(torch.cat((last, wall), 1))
    errors = [(a - b).flatten(2).norm(dim=2) / b.flatten(2).norm(dim=2) for a, b in
              ((last, u[:, 3]), (u[:, :-1].flatten(0, 1), u[:, 1:].flatten(0, 1)))]  # fmt: skip
    assert rows["relative L² after 3 steps, 0.24 s"] == pytest.approx(
        float(errors[0].mean()), rel=1e-4
    )
    assert rows["relative L² if nothing changed"] == pytest.approx(
        float(errors[1].mean()), rel=1e-4
    )


def test_weights_without_a_run_are_measured_too(sets, capsys):
    data = sets("pde/navier-stokes-2d", "--grid", "32")
    assert run(["evaluate", "t1/flow-64", "--data", str(data)]) == 0
    assert "vorticity → vorticity" in capsys.readouterr().out
    assert run(["evaluate", "t1/flow-64", "--data", str(sets("pde/reaction-diffusion"))]) == 2
    assert "1 channel" in capsys.readouterr().err


def test_sets_larger_than_memory_are_read_while_training(sets, tmp_path, monkeypatch):
    config = config_of(sets("pde/burgers"), lead=1, model={"n_modes": [5]}, batch=2)
    train(config, tmp_path / "whole")
    monkeypatch.setattr(pde_learning, "IN_MEMORY", 0)
    train(config, tmp_path / "read")
    a, b = (load_checkpoint(tmp_path / p / "model.safetensors") for p in ("whole", "read"))
    for name, value in a.tensors.items():
        torch.testing.assert_close(b.tensors[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(pde_learning.SYMMETRIES))
def test_symmetries_are_those_of_the_equation(name, sets, tmp_path):
    """The solution from a moved input is the moved solution."""
    from rheograd.tasks.runs import pde_generation
    from rheograd.tasks.runs.pde_config import PdeConfig

    small = {**pde_generation.nano(name), "dataset": name, "precision": "float64"}
    pde, own = pde_generation.problem_of(from_dict(PdeConfig, small))

    def solve(u):
        if own.frames == 1:
            return pde.solve(u)
        state = pde.initial_state(u)
        for _ in range(10):
            state = pde.step(state)
        return state.u

    x = torch.cat([own.sample(pde.grid, torch.Generator().manual_seed(k)) for k in range(2)])
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        moved, expected = pde_learning.SYMMETRIES[name](x, solve(x), generator)
        error = float((solve(moved) - expected).abs().max() / expected.abs().max())
        assert error < 1e-7, error  # of the solvers


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "rheograd generate"),
        (["nowhere", "--updates", "2"], "metadata.json"),
        (["SET"], "--updates or --seconds"),
        (["SET", "--updates", "2", "--inputs", "w"], "--inputs out of u; got w"),
        (["SET", "--updates", "2", "--lead", "4"], "<= 5"),
        (["SET", "--updates", "2", "--model.width", "4"], "hidden_channels"),
        (["SET", "--updates", "2", "--model.n_modes", "40"], "n_modes between 1"),
        (["SET", "--updates", "2", "--model.in_channels", "2"], "as the data have it"),
        (["SET", "--updates", "2", "--train.seconds", "4"], "--train: known keys only"),
        (["SET", "--train.updates", "2"], "Use --updates"),
        (["SET", "--updates", "2", "--train.optimizer", "sgd"], "adamw"),
        (["SET", "--updates", "2", "--batch", "0"], "batch ≥ 1"),
        (["SET", "--updates", "2", "--optimizer.lr", "1"], "rheograd optimize"),
        (["WALLS", "--updates", "2", "--augment"], "Leave --augment out"),
        (["DARCY", "--updates", "2", "--lead", "1"], "stationary"),
    ],
)
def test_bad_requests_name_the_remedy(words, expected, sets, capsys, tmp_path, monkeypatch):
    names = {"SET": "pde/burgers", "WALLS": "pde/burgers-walls", "DARCY": "pde/darcy"}
    words = [str(sets(names[w])) if w in names else w for w in words]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert run(["train", "t1", *words]) == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "a folder is made before the request is known to be good"


def test_bad_sets_and_runs_name_the_remedy(sets, tmp_path, capsys):
    data = tmp_path / "set"
    shutil.copytree(sets("pde/burgers"), data)
    metadata = json.loads((data / "metadata.json").read_text())
    (data / "metadata.json").write_text(json.dumps({**metadata, "dataset": "jelly"}))
    with pytest.raises(InputError, match="rheograd train giorom"):
        pde_learning.prepare(config_of(data))
    (data / "metadata.json").write_text(json.dumps({**metadata, "validation": []}))
    with pytest.raises(InputError, match="--validation 200"):
        pde_learning.prepare(config_of(data))
    (data / "metadata.json").write_text(json.dumps({**metadata, "train": ["lost.h5"]}))
    with pytest.raises(StoreError, match=r"lost\.h5"):
        pde_learning.prepare(config_of(data))
    assert run(["evaluate", "t1/flow-64"]) == 2
    assert "--data FOLDER" in capsys.readouterr().err
    with pytest.raises(UsageError, match="rheograd train t1"):
        folder = RunFolder(tmp_path / "run", "train", {"system": "fno"})
        pde_learning.evaluate_operator(folder.path)
    assert run(["evaluate", str(folder.path), "--scene", "torus"]) == 2
    assert "options for laws" in capsys.readouterr().err
    Dotted.values = {"model.n_modes": ["3"]}
    with pytest.raises(UsageError, match="of `rheograd train t1`"):
        Dotted.nested()
    Dotted.values = {}


def test_an_interrupt_says_how_to_go_on(sets, tmp_path, capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pde_learning, "train_operator", stop)
    words = ["train", "fno", str(sets("pde/burgers")), "--seconds", "5"]
    assert run([*words, "--out", str(tmp_path / "run")]) == 130
    assert f"rheograd train --resume {tmp_path / 'run'}" in capsys.readouterr().err.replace(
        "\n", ""
    )


def test_metrics_are_kept(sets, tmp_path):
    train(config_of(sets("pde/burgers"), updates=20), tmp_path / "run")
    rows = Metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
