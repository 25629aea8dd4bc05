"""Scenes and comparison of constitutive laws: geometry, motion, switching, evaluation, training,
the command."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys

import pytest
import torch
from helpers import ROOT
from rheograd.operators.nclaw import NeuralIsotropic, TrainConfig, neural_law
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.laws import JELLY, PLASTICINE, SAND, WATER, FixedCorotated
from rheograd.sim.io.mesh import save_mesh
from rheograd.tasks.cli import run
from rheograd.tasks.nclaw import (
    METHODS,
    SCENES,
    SwitchLaw,
    evaluate,
    load_law,
    make_law,
    make_scene,
    recipe,
    simulate,
    train_law,
    training_scene,
    volume_ratios,
)

NAMES = [name for name in SCENES if name != "mesh"]


@pytest.mark.parametrize("name", NAMES)
def test_bodies_stand_apart_inside_the_walls(name):
    scene = make_scene(name, "jelly", "nano")
    wall = 2 / scene.cells
    x = torch.cat([body.x for body in scene.bodies])
    assert (x > wall).all() and (x < 1 - wall).all()
    assert scene.particle_count == x.shape[0] < 10_000
    for i, a in enumerate(scene.bodies):
        for b in scene.bodies[:i]:  # no particle inside another body's spacing
            assert torch.cdist(a.x, b.x).min() > 0.4 * a.volume ** (1 / 3)


def test_full_scenes_have_the_papers_sizes():
    for material, steps in (("jelly", 2000), ("water", 5000)):
        assert make_scene("time", material, "full").steps == steps
    scene = make_scene("reconstruction", "jelly", "full")
    assert (scene.particle_count, scene.steps, scene.cells, scene.dt) == (1000, 1000, 20, 5e-4)
    slope = make_scene("slope", "water", "full")
    assert (slope.cells, slope.steps, slope.gravity) == (128, 1500, (0.866, 0.0, -1.0))
    assert slope.bodies[0].rho == 5e3
    assert make_scene("sphere", "sand", "full").cells == 32
    assert make_scene("melting", size="full").substeps == 2  # 64 cells: sand is too stiff for one
    assert make_scene("pool", size="full").bodies[0].rho == 3e3


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("pool", "large")])
def test_medium_is_full_with_fewer_particles(name):
    """The same bodies in the same places; only what a core cannot carry is coarser."""
    medium, full = make_scene(name, "sand", "medium"), make_scene(name, "sand", "full")
    heavy = full.particle_count > 10_000
    ratio = full.particle_count / medium.particle_count
    assert ratio == pytest.approx(8 if heavy else 1, rel=0.1) and full.steps // medium.steps <= 2
    assert medium.cells == (max(32, full.cells // 2) if heavy else full.cells)
    for a, b in zip(medium.bodies, full.bodies, strict=True):
        assert (a.velocity, a.rho) == (b.velocity, b.rho)
        assert len(a.x) * a.volume == pytest.approx(len(b.x) * b.volume, rel=0.05)


def test_initial_motion_is_rigid():
    body = make_scene("sphere", "jelly").bodies[0]
    v = body.velocities()
    torch.testing.assert_close(v.mean(0), torch.tensor([-1.5, 1.0, -1.5]), atol=1e-5, rtol=0)
    arm = body.x - body.x.mean(0)
    spin = torch.linalg.cross(torch.ones_like(arm), arm, dim=-1)
    torch.testing.assert_close(v - v.mean(0), spin, atol=1e-5, rtol=0)


def test_the_true_law_makes_no_error_and_another_one_does():
    scene = dataclasses.replace(make_scene("two", "jelly"), steps=42)
    truth = simulate(scene)
    assert truth.shape == (10, scene.particle_count, 3)  # 0, 5, …, 40 and the last step, 42
    same = evaluate(JELLY, scene, truth=truth)
    assert same.mse < 1e-14 and same.steps == 42 and same.failure == ""
    soft = evaluate(FixedCorotated(E=1e4, nu=0.2), scene, truth=truth)
    assert soft.mse > 1e-9
    assert soft.last == pytest.approx(
        float((simulate(scene, FixedCorotated(E=1e4, nu=0.2))[-1] - truth[-1]).square().mean()),
        rel=1e-3,
    )


def test_a_law_that_breaks_the_simulation_is_reported():
    scene = dataclasses.replace(make_scene("reconstruction", "jelly"), steps=20)
    exploding = neural_law(lambda F: 1e9 * (torch.eye(3) - F))
    found = evaluate(exploding, scene)
    assert found.mse is None and found.steps < 20 and "SolverMPM.step" in found.failure


def test_two_laws_side_by_side_and_density():
    scene = dataclasses.replace(make_scene("pool"), steps=10)
    assert scene.materials == ("water", "jelly")
    with pytest.raises(InputError, match="a law for each"):
        scene.solver(WATER)
    with pytest.raises(InputError, match="jelly"):
        scene.solver({"water": WATER})
    solver = scene.solver({"water": WATER, "jelly": make_law("isotropic")})
    prepared = solver.prepare(scene.params(0), solver.model.initial_state())
    water = scene.bodies[0]
    n = water.x.shape[0]
    torch.testing.assert_close(
        prepared.mass[0, :n], torch.full((n,), 3e3 * water.volume), rtol=1e-5, atol=0
    )
    ends = []
    true = {"water": WATER, "jelly": JELLY}
    found = evaluate(true, scene, on_frame=lambda step, state: ends.append(state))
    assert found.mse < 1e-14 and found.volumes["body0"] == pytest.approx(1, abs=0.05)
    assert found.volumes == volume_ratios(scene.solver(true), ends[-1])
    assert found.volumes["body0"] == pytest.approx(float(ends[-1].J.mean()), rel=1e-5)


def test_melting_switches_from_below_and_changes_the_motion():
    scene = make_scene("melting")
    first, last = scene.melting
    shares = []
    for step in (0, first, (first + last) // 2, last):
        switched = torch.cat([scene.params(step)[f"body{i}"]["switched"] for i in range(2)])
        heights = torch.cat([body.x[:, 2] for body in scene.bodies])
        if 0 < switched.mean() < 1:
            assert heights[switched == 1].max() <= heights[switched == 0].min()
        shares.append(float(switched.mean()))
    assert shares[0] == 0 and 0 < shares[2] < 1 and shares[3] == 1
    assert make_scene("melting", "jelly").materials == ("jelly", "sand")
    assert make_scene("melting", "water").materials == scene.materials == ("plasticine", "sand")
    quick = dataclasses.replace(scene, steps=60, melting=(5, 20))
    solid = dataclasses.replace(quick, melting=(0, 0))
    melted, kept = simulate(quick), simulate(solid)
    assert torch.isfinite(melted).all()
    assert float((melted[-1] - kept[-1]).abs().max()) > 1e-4
    torch.testing.assert_close(melted[1], kept[1])  # before the first particle switches


def test_a_switched_law_is_the_one_or_the_other(generator):
    law = SwitchLaw(before=PLASTICINE, after=SAND)
    switched = torch.tensor([0.0, 1.0, 0.0, 1.0])
    F = torch.eye(3) + 0.1 * torch.randn(4, 3, 3, generator=generator)
    alpha = torch.full((4,), 0.3)
    c = law.coefficients({"switched": switched})
    a, b = PLASTICINE.coefficients(), SAND.coefficients()
    pick = switched[:, None, None] == 1
    expected = torch.where(pick, SAND.stress(F, None, b), PLASTICINE.stress(F, None, a))
    torch.testing.assert_close(law.stress(F, None, c), expected)
    F1, alpha1 = PLASTICINE.flow(F, alpha, a, 1e-3)
    F_new, alpha_new = law.flow(F, alpha, c, 1e-3)
    torch.testing.assert_close(F_new, torch.where(pick, SAND.flow(F, None, b, 1e-3)[0], F1))
    torch.testing.assert_close(alpha_new, torch.where(switched == 1, alpha, alpha1))
    with pytest.raises(InputError, match="deformation gradient"):
        SwitchLaw(before=WATER, after=SAND)


def test_a_switched_law_differentiates_through_a_step(generator):
    """In positions, velocities and the weights of the network that some particles have."""
    scene = make_scene("melting")
    body = scene.bodies[1]
    small = dataclasses.replace(body, x=body.x[:12])
    scene = dataclasses.replace(scene, bodies=(small,), melting=(0, 0))
    elastic = NeuralIsotropic(generator=generator).double()
    call = torch.func.functional_call
    switched = (torch.arange(12) % 2).double()
    start = scene.solver().model.initial_state(dtype=torch.float64)
    F = start.F + 0.02 * torch.randn(start.F.shape, generator=generator, dtype=torch.float64)

    def f(tree):
        law = neural_law(lambda F: call(elastic, tree["w"], (F,)))
        solver = scene.solver({"plasticine": FixedCorotated(), "sand": law})
        state = start.replace(v=tree["v"], F=tree["F"])
        params = {"body0": {"switched": switched, "rho": 1e3}}
        for _ in range(3):
            state = solver.step(state, None, params)
        return 1e3 * state.v.square().sum()

    weights = {n: w.detach().clone() for n, w in elastic.named_parameters()}
    tree = {"w": weights, "v": start.v + 0.1, "F": F}
    assert taylor_test(f, tree, eps0=1e-4, generator=generator).passed()


def test_a_mesh_takes_the_place_of_a_shape(tmp_path):
    corners = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]).double()
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    path = save_mesh(tmp_path / "cube.stl", corners, faces)
    scene = make_scene("mesh", "sand", mesh=path)
    body = scene.bodies[0]
    assert body.volume * body.x.shape[0] == pytest.approx(0.4**3, rel=0.02)
    for wrong in ({"name": "mesh"}, {"name": "two", "mesh": path}, {"name": "to"}):
        with pytest.raises(InputError, match="make_scene"):
            make_scene(**wrong)


def test_training_is_saved_resumed_and_loaded(tmp_path):
    config = [
        dataclasses.replace(stage, updates=3) for stage in recipe("isotropic", "jelly", "nano")
    ]
    done = []
    full = train_law(
        "isotropic", "jelly", tmp_path, size="nano", config=config, command="me",
        on_update=lambda n, total, loss: done.append((n, total)),
    )  # fmt: skip
    assert done[-1] == (3 * len(config), 3 * len(config))
    report = json.loads(full.path.with_suffix(".json").read_text())
    assert report["command"] == "me" and report["seed"] == 0 and report["recipe"][0]["updates"] == 3
    loaded = load_law(full.path)
    F = torch.eye(3) + 0.1 * torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.elastic(F), full.law.elastic(F), rtol=0, atol=0)
        torch.testing.assert_close(loaded.plastic(F), full.law.plastic(F), rtol=0, atol=0)
    # Finished: nothing is trained again, the report stays.
    again = train_law("isotropic", "jelly", tmp_path, size="nano", on_update=done.append)
    assert len(done) == 3 * len(config) and again.report == report
    # Interrupted after the checkpoint: the file goes on where it stood.
    full.path.with_suffix(".json").unlink()
    more = train_law("isotropic", "jelly", tmp_path, size="nano", config=config)
    with torch.no_grad():
        torch.testing.assert_close(more.law.elastic(F), full.law.elastic(F), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["spline", "neural", "identified", "labeled"])
def test_every_method_leads_to_a_law(method, tmp_path):
    config = None
    if METHODS[method].learns_from == "motion":
        config = [TrainConfig(updates=2, horizon=(1, 2), budget=2, weighting="acceleration")]
    trained = train_law(method, "jelly", tmp_path, size="nano", config=config)
    law = load_law(trained.path)
    scene = dataclasses.replace(make_scene("reconstruction", "jelly"), steps=20)
    assert evaluate(law, scene).mse == pytest.approx(evaluate(trained.law, scene).mse, rel=1e-2)


def test_nano_training_scene_touches_the_floor():
    scene = make_scene("reconstruction", "jelly")
    assert torch.equal(scene.bodies[0].x, training_scene("jelly", "nano").x)
    x = simulate(scene)
    assert float(x[..., 2].min()) < 0.13 and float((x[-1] - x[0]).abs().max()) < 0.5
    assert math.isclose(scene.bodies[0].volume, 0.05**3)


def test_command_measures_a_law_and_names_wrong_scenes(tmp_path, capsys):
    config = [TrainConfig(updates=1, horizon=(1, 1), budget=1, weighting="acceleration")]
    path = train_law("nclaw", "jelly", tmp_path, size="nano", config=config).path
    assert run(["evaluate", str(path), "--scene", "capsule"]) == 0
    out = capsys.readouterr().out
    assert "capsule" in out and "error if nothing moved" in out
    assert run(["evaluate", str(path), "--scene", "capsul"]) == 2
    assert "capsule" in capsys.readouterr().err


def test_an_interrupted_table_goes_on(tmp_path, monkeypatch, capsys):
    """Rows that the file has are not measured again, except when asked for; new ones are added."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    table, results = importlib.import_module("repro_nclaw"), importlib.import_module("results")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    quick = dataclasses.replace(make_scene("two", "jelly"), steps=40)
    monkeypatch.setattr(table, "make_scene", lambda *names: quick)

    def measured(*more):
        words = "--scenes two --materials jelly --device cpu --machine here --out".split()
        monkeypatch.setattr(sys, "argv", ["repro_nclaw", *words, str(tmp_path), *more])
        capsys.readouterr()
        table.main()
        return [json.loads(line)["method"] for line in capsys.readouterr().out.splitlines()]

    assert measured("--methods", "untrained") == ["untrained"]
    assert measured("--methods", "untrained", "gnn") == ["gnn"]
    assert measured("--methods", "untrained", "gnn") == []
    assert measured("--methods", "untrained", "--again") == ["untrained"]
    rows = json.loads((tmp_path / "repro_nclaw.here.json").read_text("utf-8"))["rows"]
    assert {row["method"] for row in rows} == {"untrained", "gnn"} and len(rows) == 2
    assert all(row["steps"] == 40 and row["true_volumes"] for row in rows)
