"""Operators with hard constraints in files: what makes them again, and the one that ships."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from helpers import ROOT
from rheograd.assets import card, shipped
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.hard_moe import (
    FitConfig,
    FlowProblem,
    HardOperator,
    IntegralProblem,
    PointProblem,
    StepProblem,
    evaluate,
    first_frames,
    flow_frames,
    hard_names,
    load_hard,
    save_hard,
    sorption_data,
)
from rheograd.sim.core.errors import InputError
from rheograd.sim.grid.pdes import (
    DiffusionSorption,
    Grid,
    Heat,
    NavierStokes2D,
    robin,
    sorption_sides,
)
from rheograd.sim.io.checkpoint import CheckpointError, save_checkpoint

NAME, NEAR = "sorption-256x101", "from the rows' solution"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sorption(cells=16, **options):
    return DiffusionSorption(Grid(cells, sides=sorption_sides()), 20.0, **options)


def line(n):
    return FNO(FNOConfig((2, 4), 1, n, 4, 1, padding=(0.25, 0.25)), generator=seeded())


CASES = {
    "soft": lambda: HardOperator(line(1), PointProblem(sorption(), 8), "soft"),
    "experts": lambda: HardOperator(
        line(4), StepProblem(sorption(exponent=0.9), 8, scale=0.3), boxes=(1, 2), points=40,
        ridge=1e-3, walls=False, throw=True, grad="gauss_newton", config=FitConfig(15, 1e-4, sweeps=2),
    ),
    "windows": lambda: HardOperator(
        line(4), IntegralProblem(sorption(density=torch.tensor(2000.0)), 8), "windows", (1, 2),
        overlap=0.4, points=60, config=FitConfig(15, 1e-4, sweeps=2),
    ),
    "dense": lambda: HardOperator(
        line(3),
        StepProblem(Heat(Grid(16, 2.0, {"x-": robin(1.0, 0.5, 0.2), "x+": "neumann"}, -1.0), 0.1), 8),
        "windows", (1, 2), local=False,
    ),
    "plane": lambda: HardOperator(
        FNO(FNOConfig((2, 3, 3), 1, 3, 4, 1), generator=seeded()),
        FlowProblem(NavierStokes2D(Grid((8, 8), (2.0, 2.0)), 0.1, 5e-3, forcing=0.1), 5),
        "windows", (1, 2, 1), config=FitConfig(5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_operator_comes_back_bit_for_bit(case, generator, tmp_path):
    model = CASES[case]()
    model.network.input_mean.fill_(0.1)
    model.network.output_std.fill_(1.3)
    u0 = flow_frames(2, 8, generator) if case == "plane" else first_frames(2, 16, "rich", generator)
    again = load_hard(save_hard(tmp_path / "a", model))
    there = again.state_dict()
    assert all(torch.equal(value, there[name]) for name, value in model.state_dict().items())
    for name in ("mode", "points", "ridge", "overlap", "local"):
        assert getattr(again, name) == getattr(model, name)
    assert again.constraint.config == model.constraint.config
    assert again.constraint.grad == model.constraint.grad
    with torch.no_grad():
        assert torch.equal(model(u0, seeded()), again(u0, seeded()))
        assert torch.equal(model.loss(u0, seeded()), again.loss(u0, seeded()))
    save_hard(tmp_path / "b", again, half=True)
    assert (tmp_path / "b").stat().st_size < (tmp_path / "a").stat().st_size
    double = load_hard(save_hard(tmp_path / "c", model.double()), torch.float64)
    assert torch.equal(next(double.parameters()), next(model.parameters()))


class Own(torch.nn.Module):
    """Sixteen by nine numbers a function."""

    def __init__(self):
        super().__init__()
        self.b = torch.nn.Parameter(torch.rand(3, 9, 16, generator=seeded()))

    def forward(self, x):
        return self.b + x


def test_what_a_file_cannot_keep_is_asked_for(tmp_path):
    file, u0 = tmp_path / "a", first_frames(2, 16, generator=seeded())
    field = StepProblem(sorption(forcing=torch.full((1, 16), 1e-4)), 8)
    model = HardOperator(Own(), field, boxes=(1, 2))
    save_hard(file, model)
    with pytest.raises(InputError, match="network=, a Own; got None"):
        load_hard(file, problem=field)
    with pytest.raises(InputError, match="problem=, a StepProblem of DiffusionSorption; got None"):
        load_hard(file, network=Own())
    other = Own()
    torch.nn.init.zeros_(other.b)
    again = load_hard(file, network=other, problem=field)
    with torch.no_grad():
        assert torch.equal(model(u0), again(u0))
    with pytest.raises(InputError, match="has shape"):
        load_hard(save_hard(file, CASES["windows"]()), network=line(3))


def test_another_problem_on_other_cells(tmp_path, generator):
    """The network knows functions, not grids: the same weights fit another PDE on finer cells."""
    file = save_hard(tmp_path / "a", CASES["windows"]())
    problem = IntegralProblem(sorption(32, diffusivity=1e-3), 10)
    model = load_hard(file, problem=problem)
    u = model(first_frames(2, 32, generator=generator))
    assert u.shape == (2, 11, 32) and model.problem is problem and model.points == 60
    coarse = load_hard(
        file, problem=IntegralProblem(sorption(), 3)
    )  # has fewer rows than were drawn
    assert coarse.points is None


def test_wrong_names_and_files_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{NAME}; got nothing"):
        load_hard("nothing")
    save_checkpoint("other", {"w": torch.ones(2)}, {"system": "dgno"})
    with pytest.raises(InputError, match="a file of save_hard; got"):
        load_hard("other")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(CheckpointError, match="safetensors"):
        load_hard("text")


@functools.cache
def reference():
    """Two samples that nothing was trained or chosen on, as the rows have them."""
    return sorption_data(2, 256, 100, substeps=1, generator=seeded(99))


def test_what_ships_has_its_card():
    assert hard_names() == [NAME]
    told, model = card("hard_moe", NAME), load_hard(NAME)
    assert told["name"] == NAME and shipped("hard_moe", NAME).stat().st_size < 2e6
    assert told["fit"].items() <= dataclasses.asdict(model.constraint.config).items()
    assert told["options"]["boxes"] == list(model.router.counts) == [1, 8]
    assert (
        told["options"]["mode"] == model.mode == "windows"
        and type(model.problem) is IntegralProblem
    )
    assert told["parameters"] == sum(p.numel() for p in model.parameters())
    metrics = told["metrics"]
    assert (
        metrics["relative L2"] <= 1.02 * metrics["relative L2 in float32"]
    )  # float16 does no harm
    assert metrics["relative L2"] < 0.1 * metrics["before training"]


def test_unseen_samples_have_the_error_of_the_card():
    """From the solution of the rows, within what the choice of two samples does."""
    data, model, told = reference(), load_hard(NAME), card("hard_moe", NAME)["metrics"]
    found = evaluate(model, data, seeded())
    assert found["relative_l2"] < 1.4 * told[NEAR] and found["converged"] == 1
    assert found["jump"] < 2 * told["jump at borders"]


def test_solute_is_conserved_by_what_ships():
    """What has come in through the walls is there, d/dt ∫ m = flux, as well as rows were fitted."""
    data, model = reference(), load_hard(NAME)
    with torch.no_grad():
        u = model(data.u0, seeded())
        defect = model.problem.defect(u)
        size = (u[:, 1:] - u[:, :1]).abs().mean((1, 2))
    assert float((defect.mean(2).abs().amax(1) / size).max()) < 0.05


def test_a_first_frame_from_the_last():
    """Gradients go through network and fits: u₀ of a sample from its last frame alone."""
    data, model = reference(), load_hard(NAME).requires_grad_(False)
    value = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    for _ in range(4):
        u = model(value.expand(1, 256), seeded())[0, -1]
        tangent = torch.autograd.grad(0.5 * (u - data.u[0, -1]).square().sum(), value)[0]
        with torch.no_grad():
            step = 1e-3
            there = model((value + step).expand(1, 256), seeded())[0, -1]
            slope = (there - u) / step
            value -= tangent / slope.square().sum()  # Gauss and Newton
    assert abs(float(value.detach()) - float(data.u0[0, 0])) < 0.01


def test_the_page_quotes_the_card():
    m = card("hard_moe", NAME)["metrics"]
    near = f"{100 * m[NEAR]:.2f} %"
    page = (ROOT / "docs/hard-moe.md").read_text("utf-8")

    def percent(key, digits=2):
        return f"{100 * m[key]:.{digits}f} %"

    for row in (
        f"256 × 101 | {percent('relative L2')}, worst {percent('worst')} | {near} {NEAR}",
        f"smooth random first frames | {percent('relative L2, rich first frames, 256x101')} |",
        f"64 × 26 | {percent('relative L2, scalar first frames, 64x26')} |",
        f"1024 × 101 | {percent('relative L2, scalar first frames, 1024x101')} |",
        f"half of D, 2.5e-4 m²/s | {percent('relative L2, D = 0.00025 m²/s', 1)} |",
        f"twice D, 1e-3 m²/s | {percent('relative L2, D = 0.001 m²/s', 1)} |",
    ):
        assert row in page, row
