"""Sets of flows past bodies: what frames keep of the physics, and that a seed decides a trajectory."""

from __future__ import annotations

import json
import math

import h5py
import pytest
import torch
from rheograd.sim.io import FieldFile, load_fields
from rheograd.tasks.cli import run
from rheograd.tasks.runs import pde_generation
from rheograd.tasks.runs.configs import from_dict, to_dict
from rheograd.tasks.runs.folder import Interrupted, RunFolder
from rheograd.tasks.runs.pde_config import PdeConfig

F64 = torch.zeros((), dtype=torch.float64)
FLOWS = ["pde/cylinder", "pde/smoke", "pde/smoke-3d"]


def config_of(name, **changes):
    return from_dict(PdeConfig, {"dataset": name, **pde_generation.nano(name), **changes})


def problem(name, *parameters, **changes):
    brief = pde_generation.nano(name)["parameters"]
    return pde_generation.problem_of(config_of(name, parameters=(*brief, *parameters), **changes))


def scenes_of(pde, seeds):
    return [pde.scene(torch.Generator().manual_seed(k)) for k in seeds]


def make(path, name, on_frame=None, **changes):
    config = config_of(name, **changes)
    folder = RunFolder(path, "generate", to_dict(config))
    pde_generation.generate(config, folder, on_frame)
    return path


def divergence(v, lengths):
    """Of velocities at cell centres (..., D, *cells) in inner cells [1/s]: central differences along each
    axis, means 1-2-1 across. It is a mean of the divergences of 3^D cells, so it vanishes with them."""
    dim, total = len(lengths), 0.0
    for a in range(dim):
        f = v.select(-dim - 1, a)
        for b in range(dim):
            n = f.shape[b - dim]
            low, mid, high = (f.narrow(b - dim, k, n - 2) for k in range(3))
            h = lengths[b] / n
            f = (high - low) / (2 * h) if a == b else (low + 2 * mid + high) / 4
        total = total + f
    return total


@pytest.mark.parametrize("name", FLOWS)
def test_stored_velocities_have_no_divergence_and_keep_to_obstacles(name):
    pde, own = problem(name, grid=16)
    scenes = scenes_of(pde, (1, 2))
    found = pde.solve(scenes, 3, 5, F64)
    v, wall = found.fields["velocity"], found.constant["obstacle"]
    size = float(v.abs().max()) / pde.grid.dx[0]
    assert float(v.abs().max()) > 0.01
    assert float(divergence(v, pde.grid.lengths).abs().max()) < 1e-8 * size
    assert 0 < float(wall.mean()) < 0.5 and set(wall.unique().tolist()) == {0.0, 1.0}
    inside = (wall[:, None] > 0).expand_as(found.fields["pressure"])
    for field in found.fields:
        if field != "velocity":
            assert not found.fields[field][inside].any()
    if name != "pde/cylinder":
        assert not v[inside.expand_as(v)].any()
        solver, state, params = pde.prepare(scenes, F64)
        for _ in range(3):
            state = solver.step(state, None, params)
        open_ = solver.solids(state.tool_pose).open
        assert all(
            not u[w == 0].any() and u[w > 0].any() for u, w in zip(state.u, open_, strict=True)
        )
        return
    for b, scene in enumerate(scenes):  # turned like a solid, pressure of mean zero around it
        x = pde.grid.points(F64) - torch.tensor(scene.centre, dtype=torch.float64)
        turn = scene.spin * torch.stack((-x[..., 1], x[..., 0]))
        core = x.norm(dim=-1) < scene.radius - 1.5 * pde.grid.dx[0]
        assert bool((wall[b, 0] > 0)[x.norm(dim=-1) <= scene.radius].all())
        assert core.any() or scene.radius < 2.2 * pde.grid.dx[0]
        torch.testing.assert_close(v[b, :, :, core], turn[:, core].expand(3, -1, -1))
        p = found.fields["pressure"][b]
        assert float(p.mean().abs()) < 1e-12 * float(p.abs().max())


def test_the_stream_enters_with_its_speed_and_passes_the_cylinder():
    pde, _ = problem("pde/cylinder", grid=32)
    scenes = scenes_of(pde, range(4))
    found = pde.solve(scenes, 2, 5, torch.zeros(()))
    speed = found.scalars["speed"].float().view(-1, 1, 1)
    flow = found.fields["velocity"][:, :, 0].mean(-1) * 2.0  # through every section [m²/s]
    torch.testing.assert_close(flow, (2.0 * speed).expand_as(flow), rtol=1e-4, atol=1e-4)
    for b, scene in enumerate(scenes):
        number = float(found.scalars["reynolds"][b])
        assert number == pytest.approx(scene.speed * 2 * scene.radius / 4e-3)
        assert 56 <= number <= 157 and abs(scene.spin) * scene.radius <= scene.speed
    assert any(s.spin for s in scenes) and not all(s.spin for s in scenes)


def test_mass_of_smoke_is_what_sources_gave():
    pde, _ = problem("pde/smoke", "top=wall", "scalars=conservative", dt=0.01)
    scenes = scenes_of(pde, (0, 3))
    solver, state, params = pde.prepare(scenes, F64)
    air = solver.solids(state.tool_pose).fluid

    def mass(q):
        return (q * air).flatten(1).sum(1)

    for _ in range(20):
        state = solver.step(state, None, params)
    grown = mass(state.smoke)
    assert bool((grown > 0).all())
    off = {k: {**v, "rate": 0 * v["rate"]} for k, v in params.items()}
    for _ in range(20):
        state = solver.step(state, None, off)
    torch.testing.assert_close(mass(state.smoke), grown, rtol=1e-12, atol=0.0)
    speed = max(float(u.abs().max()) for u in state.u)
    assert speed > 0.05  # it moved

    # The stored rate is what a short step from clean air gives.
    pde, _ = problem("pde/smoke", "settle=0", dt=1e-5)
    found = pde.solve(scenes, 2, 1, F64)
    for name, rate in (("smoke", "smoke_source"), ("temperature", "heat_source")):
        gained = found.fields[name][:, 1] / 1e-5
        torch.testing.assert_close(gained, found.constant[rate], rtol=1e-3, atol=1e-7)
        assert not found.fields[name][:, 0].any()


@pytest.mark.parametrize("name", FLOWS)
def test_a_seed_decides_a_trajectory_in_any_company(name, tmp_path):
    pde, own = problem(name)
    alone = pde.solve(scenes_of(pde, [1]), 2, 4, F64)
    pair = pde.solve(scenes_of(pde, [0, 1]), 2, 4, F64)
    for n, value in (alone.fields | alone.constant).items():
        both = (pair.fields | pair.constant)[n]
        assert not torch.equal(both[0], both[1])
        torch.testing.assert_close(both[1:], value, rtol=1e-9, atol=1e-9)
        assert name != "pde/cylinder" or torch.equal(both[1:], value)
    fine, _ = problem(name, grid=2 * own.cells)
    assert scenes_of(fine, [5]) == scenes_of(pde, [5]) != scenes_of(pde, [6])


def test_an_interrupted_run_goes_on_to_the_same_files(tmp_path):
    whole, part = make(tmp_path / "a", "pde/cylinder"), tmp_path / "b"

    def stop(done, total):
        assert total == 20
        if done == 10:  # of the second file
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="1 of 3 files"):
        make(part, "pde/cylinder", stop)
    assert [p.name for p in part.glob("*.h5*")] == ["train-0000.h5"]
    assert run(["generate", "--resume", str(part)]) == 0
    assert not list(part.glob("*.part"))
    for name in json.loads((whole / "metadata.json").read_text())["fields"]:
        for split in ("train", "validation"):
            a, b = (load_fields(p, [name], split)[0] for p in (whole, part))
            assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pde/cylinder", "pde/smoke"])
def test_several_processes_give_the_same_files(name, tmp_path):
    a, b = make(tmp_path / "a", name), make(tmp_path / "b", name, workers=2)
    for field in json.loads((a / "metadata.json").read_text())["fields"]:
        assert torch.equal(*(load_fields(p, [field])[0] for p in (a, b)))


def test_files_say_what_is_in_them(tmp_path):
    folder = make(tmp_path / "set", "pde/smoke", parameters=["settle=0", "sources=1", "heat=10"])
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["equation"] == "Smoke" and metadata["heat"] == 10 and metadata["sources"] == 1
    with h5py.File(folder / "train-0000.h5") as file:
        kinds = {k: v.attrs["bc_type"] for k, v in file["boundary_conditions"].items()}
        assert kinds == {"x_lower": "WALL", "x_upper": "WALL", "z_lower": "WALL", "z_upper": "OPEN"}
        assert file["t1_fields/velocity"].shape == (2, 4, 16, 16, 2)
        assert file["t0_fields/obstacle"].shape == (2, 16, 16)
    numbers = FieldFile(folder / "train-0000.h5").scalars
    assert numbers["seed"].tolist() == [0, 1] and numbers["source_count"].tolist() == [1, 1]
    data = tmp_path / "stream"
    make(data, "pde/cylinder")
    numbers = FieldFile(data / "train-0000.h5").scalars
    assert set(numbers) == {"seed", "speed", "radius", "spin", "centre_x", "centre_z", "reynolds"}
    assert all(math.isfinite(float(v.sum())) for v in numbers.values())


def test_clouds_are_the_same_on_every_grid_and_rise():
    (coarse, _), (fine, _) = (
        problem("pde/smoke", "sources=0", "clouds=0.5", "obstacles=0", "settle=0", grid=n)
        for n in (16, 48)
    )
    scenes = scenes_of(coarse, [0, 1])
    found = coarse.solve(scenes, 2, 10, F64)
    start = found.fields["smoke"][:, 0, 0]
    assert float(start.square().mean().sqrt()) == pytest.approx(0.5, rel=0.3)
    torch.testing.assert_close(found.fields["temperature"][:, 0, 0], 40 * start)
    again = fine.solve(scenes, 1, 1, F64).fields["smoke"][:, 0, 0, 1::3, 1::3]  # the same places
    torch.testing.assert_close(again, start, rtol=0.02, atol=0.02)
    free = 9.81 / 293.15 * 40 * float(start.max()) * 10 * coarse.dt  # without pressure
    assert 0.1 * free < float(found.fields["velocity"][:, 1].abs().max()) < free
    assert not found.constant["smoke_source"].any()


def test_no_obstacles_is_an_empty_box_too():
    pde, _ = problem("pde/smoke", "obstacles=0")
    found = pde.solve(scenes_of(pde, [0]), 2, 2, F64)
    assert not found.constant["obstacle"].any() and found.fields["smoke"][0, -1].any()
