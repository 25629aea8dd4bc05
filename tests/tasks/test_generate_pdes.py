"""Generated data sets of PDEs: what they hold, repeatability, interruption, what is refused."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import InputError, StabilityError
from rheograd.sim.io import FieldFile, load_fields
from rheograd.tasks.cli import run
from rheograd.tasks.runs import pde_generation
from rheograd.tasks.runs.configs import from_dict, to_dict
from rheograd.tasks.runs.folder import Interrupted, RunFolder
from rheograd.tasks.runs.pde_config import PdeConfig
from rheograd.tasks.runs.pde_flows import Flow
from rheograd.tasks.runs.pde_sets import SETS


def config_of(name, **changes):
    return from_dict(PdeConfig, {"dataset": name, **pde_generation.nano(name), **changes})


def make(path, name, on_frame=None, **changes):
    config = config_of(name, **changes)
    folder = RunFolder(path, "generate", to_dict(config))
    pde_generation.generate(config, folder, on_frame)
    return path


def content(path):
    with h5py.File(path) as file:
        found = {}
        file.visititems(
            lambda n, x: found.update({n: x[()].tobytes()} if isinstance(x, h5py.Dataset) else {})
        )
    return found


def same(a, b):
    names = sorted(p.name for p in a.glob("*.h5"))
    assert names and names == sorted(p.name for p in b.glob("*.h5"))
    assert all(content(a / n) == content(b / n) for n in names)


@pytest.mark.parametrize("name", SETS)
def test_frames_are_steps_of_the_solver_from_seeded_inputs(name, tmp_path):
    folder = make(tmp_path / "set", name, precision="float64")
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["train"] == ["train-0000.h5", "train-0001.h5"]
    assert metadata["validation"] == ["validation-0000.h5"]
    pde, own = pde_generation.problem_of(config_of(name))
    file = FieldFile(folder / metadata["train"][1])  # trajectory 2, alone in its file
    assert file.n_trajectories == 1 and file.scalars["seed"].tolist() == [2]
    if isinstance(pde, Flow):  # tests/tasks/test_generate_flows.py has what else is in it
        scenes = [pde.scene(torch.Generator().manual_seed(2))]
        found = pde.solve(
            scenes, own.frames, own.frame_steps, torch.zeros((), dtype=torch.float64)
        )
        for n, value in (found.fields | found.constant).items():
            np.testing.assert_allclose(file.read(n), value, rtol=1e-12, atol=1e-14)
        assert set(file.names) == {*found.fields, *found.constant}
    elif own.frames == 1:
        u = own.sample(pde.grid, torch.Generator().manual_seed(2))
        a, p = file.read(own.input), file.read("u")[:, 0]
        assert torch.equal(a, u) and float(pde.residual(a, p).abs().max()) < 1e-8
    else:
        frames = torch.cat([file.read(n) for n in file.names], 2)
        state = pde.initial_state(own.sample(pde.grid, torch.Generator().manual_seed(2)))
        for k in range(own.frames):
            for _ in range(own.frame_steps if k else 0):
                state = pde.step(state)
            np.testing.assert_allclose(frames[:, k], state.u, rtol=1e-12, atol=1e-14)
        assert file.times.tolist() == pytest.approx(
            [k * own.frame_steps * own.dt for k in range(own.frames)]
        )
    for n in metadata["fields"]:
        (values,) = load_fields(folder, [n])
        assert values.shape[0] == 3
        assert metadata["statistics"][n]["mean"] == pytest.approx(float(values.mean()), abs=1e-12)
        assert metadata["statistics"][n]["std"] == pytest.approx(float(values.std(correction=0)))


def data_dim(folder):
    return len(FieldFile(folder / "train-0000.h5").coordinates)


@pytest.mark.parametrize("name", SETS)
def test_the_package_of_the_well_reads_what_is_generated(name, tmp_path):
    """`WellDataset`, where it is installed: values of the first frames and of what is constant."""
    well = pytest.importorskip("the_well.data")
    folder = make(tmp_path / "set", name)
    (tmp_path / "well").mkdir()
    for file in folder.glob("train-*.h5"):  # it looks for other endings
        (tmp_path / "well" / f"{file.stem}.hdf5").symlink_to(file)
    names = json.loads((folder / "metadata.json").read_text())["fields"]
    ours = dict(zip(names, load_fields(folder, names), strict=True))
    still = [n for n, v in ours.items() if v.ndim == data_dim(folder) + 2]
    moving = {n: v[0] for n, v in ours.items() if n not in still}
    more = min(len(v) for v in moving.values()) > 1
    data = well.WellDataset(
        path=str(tmp_path / "well"),
        n_steps_input=1,
        n_steps_output=int(more),
        use_normalization=False,
    )
    first = data[0]
    for key, frame in {"input_fields": 0, **({"output_fields": 1} if more else {})}.items():
        expected = torch.cat([v[frame] for v in moving.values()]).movedim(0, -1)
        assert torch.equal(first[key][0], expected)
    if still:
        expected = torch.cat([ours[n][0] for n in still]).movedim(0, -1)
        assert torch.equal(first["constant_fields"], expected)
    assert first["boundary_conditions"].shape == (data.metadata.n_spatial_dims, 2)
    if name == "pde/smoke":  # open at the top, the upper side of the last axis
        assert first["boundary_conditions"].tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("name", SETS)
def test_full_sizes_can_be_made(name):
    config = from_dict(PdeConfig, {"dataset": name})
    pde, own = pde_generation.problem_of(config)
    assert own.cells % own.nano == 0 and pde.grid.cells[0] == own.cells
    if not name.endswith("-3d"):  # a step of those takes a second
        pde_generation.check(config)


def test_an_interrupted_run_goes_on_and_gives_the_same_files(tmp_path):
    whole = make(tmp_path / "whole", "pde/burgers-walls")

    def stop(done, total):
        assert total == 5 * 4
        if done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="1 of 3 files.*--resume"):
        make(tmp_path / "a", "pde/burgers-walls", stop)
    assert sorted(p.name for p in (tmp_path / "a").glob("*.h5*")) == ["train-0000.h5"]
    assert run(["generate", "--resume", str(tmp_path / "a")]) == 0
    same(whole, tmp_path / "a")
    assert (whole / "metadata.json").read_text() == (tmp_path / "a/metadata.json").read_text()


@pytest.mark.slow
def test_several_processes_give_the_same_files(tmp_path):
    one = make(tmp_path / "one", "pde/darcy")
    same(one, make(tmp_path / "two", "pde/darcy", workers=2))


def test_the_command_line_takes_parameters_and_presets(tmp_path, capsys):
    words = ["generate", "pde/burgers", "--preset", "nano", "--parameters", "viscosity=0.5",
             "--trajectories", "2", "--validation", "1", "--out", str(tmp_path / "set")]  # fmt: skip
    assert run(words) == 0
    metadata = json.loads((tmp_path / "set/metadata.json").read_text())
    assert metadata["viscosity"] == 0.5 and metadata["equation"] == "Burgers"
    again = [
        "generate",
        "--config",
        str(tmp_path / "set/config.toml"),
        "--out",
        str(tmp_path / "b"),
    ]
    assert run(again) == 0
    same(tmp_path / "set", tmp_path / "b")
    (u,) = load_fields(tmp_path / "set", ["u"], "validation")
    assert u.shape == (1, 4, 1, 16)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["pde/burgers", "--particles", "8"], "'particles'"),
        (["jelly", "--parameters", "viscosity=1"], "'parameters'"),
        (["pde/burgers", "--parameters", "nu=1"], "those of pde/burgers; got nu"),
        (["pde/burgers", "--parameters", "viscosity"], "name=value"),
        (["pde/darcy", "--frames", "3"], "stationary"),
        (["pde/burgers", "--validation", "1200"], "validation in"),
        (["pde/burgers", "--shard", "0"], "shard > 0"),
        (["pde/burgers", "--parameters", "scheme=euler"], "scheme out of"),
        (["pde/burgers", "--parameters", "viscosity=thick"], "or a word for scheme"),
        (["pde/poisson", "--parameters", "sides=open"], "sides out of"),
        (["pde/poisson", "--parameters", "dim=4"], "dim 1, 2 or 3"),
        (["pde/poisson", "--dt", "0.1"], "stationary"),
        (["pde/smoke", "--parameters", "top=slip"], "top open or wall"),
        (["pde/smoke", "--parameters", "obstacles=1.5"], "whole obstacles >= 0"),
        (["pde/smoke", "--parameters", "sources=0"], "sources >= 1 or clouds > 0"),
        (["pde/smoke", "--parameters", "eta=1"], "dt <="),
        (["pde/smoke", "--parameters", "wind=1"], "those of pde/smoke; got wind"),
        (["pde/cylinder", "--grid", "33"], "even number of cells"),
        (["pde/cylinder", "--parameters", "settle=-1"], "settle >= 0"),
    ],
)
def test_what_is_refused(words, text, tmp_path, capsys):
    assert run(["generate", *words, "--out", str(tmp_path / "set")]) != 0
    assert text in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "set").exists()


def test_words_choose_schemes(tmp_path):
    godunov = make(tmp_path / "a", "pde/burgers-walls", parameters=["flux=godunov"])
    central = make(tmp_path / "b", "pde/burgers-walls")
    (u,), (v,) = (load_fields(folder, ["u"]) for folder in (godunov, central))
    assert torch.equal(u[:, 0], v[:, 0]) and not torch.equal(u[:, -1], v[:, -1])


@pytest.mark.parametrize(("dim", "sides"), [(1, "periodic"), (2, "neumann"), (3, "dirichlet")])
def test_poisson_in_every_box(dim, sides, tmp_path):
    folder = make(
        tmp_path / "set", "pde/poisson", precision="float64",
        parameters=[f"dim={dim}", f"sides={sides}", "coefficient=0.5"],
    )  # fmt: skip
    f, u = load_fields(folder, ["source", "u"])
    u = u[:, 0]
    assert f.shape == u.shape == (3, 1, *(16,) * dim)
    h, flux = 1 / 16, torch.zeros_like(u)
    for axis in range(2, 2 + dim):  # u at the other side of each wall, and second differences
        low, high = u.narrow(axis, 0, 1), u.narrow(axis, -1, 1)
        if sides == "periodic":
            low, high = high, low
        sign = -1.0 if sides == "dirichlet" else 1.0
        flux += torch.diff(torch.cat((sign * low, u, sign * high), axis), n=2, dim=axis) / h**2
    assert float((0.5 * flux + f).abs().max()) < 1e-8 * float(f.abs().max())
    free = sides != "dirichlet"
    assert not free or float(u.flatten(1).mean(1).abs().max()) < 1e-12
    assert 0.3 < float(f.square().mean().sqrt()) < 2


def test_a_source_that_has_no_solution_is_refused():
    pde, _ = pde_generation.problem_of(config_of("pde/poisson", parameters=["sides=neumann"]))
    with pytest.raises(InputError, match="mean zero"):
        pde.solve(torch.ones(1, 1, 16, 16))


def test_steps_that_are_too_long_are_refused_before_anything_is_written():
    with pytest.raises(StabilityError, match="dt <="):
        pde_generation.check(config_of("pde/burgers", dt=1.0))
