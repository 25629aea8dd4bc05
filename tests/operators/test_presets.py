"""The operators on fields that ship, and the recipes that made them."""

import functools
import json
import math

import pytest
import torch
from helpers import ROOT
from rheograd.assets import shipped
from rheograd.operators.data import RandomShift
from rheograd.operators.fno import FNO
from rheograd.operators.layers import load_operator, operator_names, relative_l2
from rheograd.operators.presets import PRESETS, PROBLEMS, sample_problem, train_preset
from rheograd.operators.t1 import T1
from rheograd.operators.train import measure_operator
from rheograd.sim.core.errors import InputError

NAMES = pytest.mark.parametrize("name", sorted(PRESETS))
FEW = {"flow-64": 1, "darcy-64": 8}
"""Fields on 128² cells; a flow takes a second there."""


@functools.cache
def samples(problem, count, cells, seed):
    return sample_problem(problem, count, cells, seed)


def card(name):
    return json.loads(shipped(*name.split("/")).with_suffix(".json").read_text("utf-8"))


def test_every_recipe_ships_with_its_card():
    assert operator_names() == sorted(PRESETS)
    total = 0
    for name, preset in PRESETS.items():
        kind, _, problem = name.partition("/")
        size, told = shipped(kind, problem).stat().st_size, card(name)
        model = load_operator(name)
        assert type(model) is {"t1": T1, "fno": FNO}[kind] and not model.training
        assert model.input_mean.dtype == torch.float32
        assert model.config == preset.make(torch.Generator()).config
        assert json.loads(json.dumps(model.description())) == told["operator"]
        assert told["name"] == name and told["problem"] == PROBLEMS[problem].about
        assert told["training fields"]["samples"] == PROBLEMS[problem].samples
        training = told["training"]
        assert training["updates"] == preset.updates and training["batch"] == preset.batch
        assert training["lr"] == preset.lr and training["cpu seconds"] <= 240
        metrics = told["metrics"]
        before = metrics["relative L2 on 64² before float16"]  # which does no harm
        assert metrics["relative L2 on 64²"] == pytest.approx(before, rel=0.01)
        total += size
        assert size < 1.5e6
    assert total < 4e6


@NAMES
def test_the_page_quotes_the_card(name):
    """docs/t1.md and docs/fno.md, row by row."""
    told = card(name)
    metrics, kind = told["metrics"], name.partition("/")[0]
    page = (ROOT / "docs" / f"{kind}.md").read_text("utf-8")
    row = (
        f"| `{name}` | {told['training']['cpu seconds']:.0f} s | {told['parameters'] / 1e6:.2f} M "
        f"| {metrics['relative L2 on 64²']:.4f} | {metrics['relative L2 on 128²']:.4f} "
        f"| {metrics['relative L2 of the mean']:.3f} |"
    )
    assert row in page, f"expected {row}"


@NAMES
def test_unseen_fields_have_the_error_of_the_card(name):
    """On new fields, within what the choice of so few does; and the same functions on twice the cells."""
    told, problem, model = card(name)["metrics"], name.partition("/")[2], load_operator(name)
    error = measure_operator(model, *samples(problem, 12, 64, 8))["relative_l2"]
    assert error < 1.35 * told["relative L2 on 64²"]
    coarse, fine = (
        measure_operator(model, *samples(problem, FEW[problem], n, 7))["relative_l2"]
        for n in (64, 128)
    )
    print(f"{name}: {error:.4f}; the same functions on 64² {coarse:.4f}, on 128² {fine:.4f}")
    assert fine < 1.3 * coarse
    assert told["relative L2 on 128²"] < 1.5 * told["relative L2 on 64²"]
    assert told["relative L2 on 64²"] < 0.15 * told["relative L2 of the mean"]


@NAMES
def test_gradients_go_through_what_ships(name, generator):
    """∂/∂x against differences in float64."""
    model = load_operator(name).double()
    x = samples(name.partition("/")[2], 12, 64, 8)[0][:1].double()
    d = torch.randn(x.shape, generator=generator, dtype=x.dtype) * x.std()
    w = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    x.requires_grad_()
    (slope,) = torch.autograd.grad((w * model(x)).sum(), x)
    h = 1e-4
    with torch.no_grad():
        difference = (w * (model(x + h * d) - model(x - h * d))).sum() / (2 * h)
    assert float((slope * d).sum()) == pytest.approx(float(difference), rel=1e-5)


def test_one_seed_is_the_same_functions_on_finer_grids():
    for name, count in FEW.items():
        (a, u), (b, v) = (samples(name, count, n, 7) for n in (64, 128))
        assert a.shape == u.shape == (count, 1, 64, 64)
        assert b.shape == v.shape == (count, 1, 128, 128)
        # means of four cells differ from values at centres by O(h²), two phases by more
        coarse = [torch.nn.functional.avg_pool2d(f, 2) for f in (b, v)]
        assert relative_l2(coarse[0], a).max() < (0.02 if name == "flow-64" else 0.2)
        assert relative_l2(coarse[1], u).max() < 0.02
    again = sample_problem("darcy-64", 8, seed=7)
    assert torch.equal(again[0], a) and torch.equal(again[1], u)
    assert not torch.equal(sample_problem("darcy-64", 8, seed=8)[0], a)


def test_what_ships_is_nearly_blind_to_shifts_that_do_not_matter(generator):
    """Nothing in T1 commutes with shifts: it has learned this symmetry from shifted samples."""
    x, y = samples("flow-64", 12, 64, 8)
    model = load_operator("t1/flow-64")
    with torch.no_grad():
        there, moved = RandomShift([(1, -1)])(x, model(x), generator)
        assert relative_l2(model(there), moved).mean() < 2 * relative_l2(model(x), y).mean()
        there, moved = RandomShift([(1, 1)])(x, model(x), generator)
        assert relative_l2(model(there), moved).mean() > 5 * relative_l2(model(x), y).mean()


def test_a_folder_of_the_same_name_is_not_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "t1" / "flow-64").mkdir(parents=True)
    (tmp_path / "flow-64").mkdir()
    monkeypatch.chdir(tmp_path)
    assert type(load_operator("t1/flow-64")) is T1


def test_wrong_names_are_told_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("t1/flow-65", "flow-64", "t1", "dcdm/dcdm-2d", "t1/../t1/flow-64"):
        with pytest.raises(FileNotFoundError, match=f"got {name}, which is neither") as caught:
            load_operator(name)
        assert all(known in str(caught.value) for known in PRESETS)
    with pytest.raises(InputError, match="fno/darcy-64, fno/flow-64, t1/darcy-64.*got t1/nothing"):
        train_preset("t1/nothing")
    with pytest.raises(InputError, match="darcy-64, flow-64; got wave-64"):
        sample_problem("wave-64", 2)
    with pytest.raises(InputError, match="count and cells"):
        sample_problem("flow-64", 0)
    load_operator("t1/flow-64").save(tmp_path / "t1" / "flow-64", half=True)  # a file wins
    assert type(load_operator("t1/flow-64")) is T1


def test_half_precision_keeps_scales(tmp_path):
    model = load_operator("t1/flow-64")
    model.fit_scales(torch.randn(3, 1, 64, 64) + math.pi, torch.randn(3, 1, 64, 64))
    small = model.save(tmp_path / "a.safetensors", half=True)
    again = load_operator(small)
    assert torch.equal(again.input_mean, model.input_mean)
    assert torch.equal(again.output_std, model.output_std)
    large = model.save(tmp_path / "b.safetensors")
    assert small.stat().st_size < 0.55 * large.stat().st_size
    whole = load_operator(large).state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "updates"), [("t1/flow-64", 100), ("fno/darcy-64", 50)])
def test_a_recipe_learns_in_a_few_updates(name, updates):
    """From scratch on coarser grids and few fields: below 0.6 of what knowing nothing costs."""
    problem = name.partition("/")[2]
    data, unseen = (samples(problem, count, 32, seed) for count, seed in ((48, 0), (8, 1)))
    fitted = train_preset(name, data=data, unseen=unseen, updates=updates)
    assert fitted.metrics["relative_l2"] < 0.6 * fitted.metrics["relative_l2 of the mean"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "share"), [("t1", 0.2), ("fno", 0.5)])
@pytest.mark.parametrize("problem", sorted(PROBLEMS))
def test_a_tenth_of_a_recipe(kind, share, problem):
    """From scratch, on 200 fields: a share of what knowing nothing costs; an update of FNO costs six of
    T1, so it has few."""
    name = f"{kind}/{problem}"
    data = sample_problem(problem, 200, seed=0)
    fitted = train_preset(name, data=data, updates=PRESETS[name].updates // 10)
    assert fitted.metrics["relative_l2"] < share * fitted.metrics["relative_l2 of the mean"]
