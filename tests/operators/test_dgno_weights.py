"""Generative models in files: what makes them again, and the ones that ship."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json

import pytest
import torch
from helpers import ROOT
from rheograd.assets import card, shipped
from rheograd.operators.dgno import (
    DGNO,
    Bounded,
    Burgers1D,
    CubePrior,
    Darcy2D,
    DGNOConfig,
    Helmholtz2D,
    NormalPrior,
    Posterior,
    RealNVP,
    StokesCylinder,
    StokesReference,
    ZukoPrior,
    burgers_inputs,
    burgers_solutions,
    coverage,
    darcy_inputs,
    darcy_solutions,
    dgno_names,
    hamiltonian,
    inflows,
    load_dgno,
    pixel_accuracy,
    predict,
    relative_error,
    save_dgno,
    sensors,
)
from rheograd.operators.dgno.priors import Prior
from rheograd.sim.core.errors import InputError
from rheograd.sim.grid.pdes import Grid
from rheograd.sim.io.checkpoint import CheckpointError, save_checkpoint

SMALL = {"latent": 5, "width": 8, "depth": 3, "channels": 4}
PROBLEMS = {
    "phases": lambda: Darcy2D((8, 8), "mixed", phases=(2.0, 7.0), radius=(0.01, 0.03), test="bump"),
    "smooth": lambda: Darcy2D((8, 8), count=7, forcing=3.0, middle=2.0, unit=2.0),
    "helmholtz": lambda: Helmholtz2D((8, 8), size=2.0, points=5, corrected=False, ends=True),
    "burgers": lambda: Burgers1D(16, 0.02, count=9, frames=5),
    "energy": lambda: Darcy2D((8, 8), "energy", (2.0, 7.0), count=9, forcing=2.0),
    "relative": lambda: Burgers1D(16, count=9, frames=5, relative=True),
    "stokes energy": lambda: StokesCylinder(16, count=30, form="energy"),
    "stokes": lambda: StokesCylinder(16, centre=(0.6, 0.5), support=(0.01, 0.02)),
}


def made(name, generator, **options):
    prior = options.pop("prior", None)
    model = DGNO(PROBLEMS[name](), DGNOConfig(**SMALL, **options), prior, generator)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    a = 1 + torch.rand(3, 1, *model.problem.grid.cells, generator=generator)
    phases = getattr(model.problem, "phases", None)
    if phases:
        a = torch.where(a > 1.5, *reversed([torch.tensor(v) for v in phases]))
    model.fit_scales(a)
    return model.eval(), a


def same(model, other):
    there = other.state_dict()
    assert set(there) == set(model.state_dict())
    return all(torch.equal(value, there[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", sorted(PROBLEMS))
def test_every_problem_comes_back_bit_for_bit(kind, generator, tmp_path):
    """Weights, scales, decoded fields, residuals with the same particles, losses."""
    options = {
        "stokes": {"kinds": {"s": "entries"}, "bounded": False},
        "smooth": {"encoder": "points", "anchors": 3, "pool": "attention", "thin": 0.5},
        "energy": {"encoder": "points", "anchors": 3},
        "burgers": {"kind": "deep", "sum_layers": 2, "residual_norm": "rms", "hard_share": 0.2},
    }.get(kind, {})
    model, a = made(kind, generator, **options)
    again = load_dgno(save_dgno(tmp_path / "a.safetensors", model))
    assert same(model, again) and again.config == model.config and again.prior is None
    assert not again.training and type(again.problem) is type(model.problem)
    assert again.problem.settings == copy.deepcopy(model).problem.settings
    with torch.no_grad():
        for of in model.problem.observables:
            assert torch.equal(model(a, of=of), again(a, of=of))
        first, second = (
            m.train().loss({"a": a}, torch.Generator().manual_seed(1)) for m in (model, again)
        )
        assert all(torch.equal(first[name], second[name]) for name in first)
    double = load_dgno(save_dgno(tmp_path / "b", model.double()), torch.float64)
    assert same(model, double)
    half = load_dgno(save_dgno(tmp_path / "c", model, half=True))
    assert torch.equal(half.encoder.mean, model.encoder.mean.float())
    sizes = [(tmp_path / name).stat().st_size for name in "bc"]
    assert sizes[1] < 0.5 * sizes[0]


def test_every_prior_comes_back(generator, tmp_path):
    pytest.importorskip("zuko")
    z = torch.randn(4, 5, generator=generator)
    for prior in (
        CubePrior(5), Bounded(NormalPrior(5).fit(torch.randn(30, 5, generator=generator))),
        RealNVP(5, couplings=3, hidden=7, generator=generator), Bounded(RealNVP(5, 2, 6)),
        ZukoPrior(5, "NSF", transforms=2, hidden_features=(6, 6), bins=4),
    ):  # fmt: skip
        model, _ = made("phases", generator, prior=prior, bayes=True, label_spread="nodes")
        again = load_dgno(save_dgno(tmp_path / "a", model))
        assert same(model, again) and type(again.prior) is type(prior)
        assert torch.equal(again.prior.code(z), prior.code(z))
        assert torch.equal(
            again.label_spread(torch.ones(1, 64)), model.label_spread(torch.ones(1, 64))
        )


class Own(Prior):
    def __init__(self, latent):
        super().__init__(latent)
        self.shift = torch.nn.Parameter(torch.randn(latent))

    def code(self, z):
        return z + self.shift


class OwnProblem(Burgers1D):
    pass


def test_what_a_file_cannot_keep_is_asked_for(generator, tmp_path):
    file = tmp_path / "a"

    def edge(x):
        return x[..., 0]

    model = DGNO(Darcy2D((8, 8), walls=edge), DGNOConfig(**SMALL), Own(5), generator)
    save_dgno(file, model)
    with pytest.raises(InputError, match="problem=, a Darcy2D with its walls; got None"):
        load_dgno(file)
    with pytest.raises(InputError, match="prior=, a Own; got None"):
        load_dgno(file, problem=Darcy2D((8, 8), walls=edge))
    again = load_dgno(file, problem=Darcy2D((8, 8), walls=edge), prior=Own(5))
    a = torch.ones(1, 1, 8, 8)
    assert same(model, again) and torch.equal(again(a), model(a))
    save_dgno(file, DGNO(OwnProblem(16), DGNOConfig(**SMALL), generator=generator))
    with pytest.raises(InputError, match="problem=, a OwnProblem"):
        load_dgno(file)
    assert type(load_dgno(file, problem=OwnProblem(16)).problem) is OwnProblem
    with pytest.raises(InputError, match="no prior, as the file has none; got CubePrior"):
        load_dgno(file, problem=OwnProblem(16), prior=CubePrior(5))
    with pytest.raises(InputError, match="decoders.a"):
        load_dgno(file, problem=Darcy2D((8, 8)))


def test_wrong_names_and_files_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{dgno_names()[0]}.*got nothing"):
        load_dgno("nothing")
    save_checkpoint("other", {"w": torch.ones(2)}, {"system": "stagger"})
    with pytest.raises(InputError, match="a file of save_dgno; got"):
        load_dgno("other")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(CheckpointError, match="safetensors"):
        load_dgno("text")
    config = {
        "system": "dgno",
        "problem": {"problem": "dgno.model:DGNO"},
        "config": {},
        "prior": None,
    }
    save_checkpoint("bad", {"w": torch.ones(2)}, config)
    with pytest.raises(InputError, match="a problem of rheograd; got dgno.model:DGNO"):
        load_dgno("bad")


NAMES = ("burgers-128", "darcy-phases-32", "darcy-smooth-32", "stokes-cylinder")
WITHIN = 1.6
"""Error of a few inputs over that of the card: what the choice of so few does."""


@functools.cache
def unseen(name):
    """Four inputs that nothing was trained or chosen on, and their solutions, (4, n)."""
    g = torch.Generator().manual_seed(99)
    if name == "burgers-128":
        a = burgers_inputs(4, 128, g)
        return a, burgers_solutions(a, substeps=3, fine=1).flatten(1)
    if name == "stokes-cylinder":
        a, problem = inflows(4, 64, g), StokesCylinder()
        v = StokesReference(problem, 48).solve(a)[0]
        x = Grid((96, 48), (2.0, 1.0)).points(v).reshape(-1, 2)
        return a, v.flatten(2)[:, :, problem.distance(x) > 1 / 48].flatten(1).float()
    smooth = name == "darcy-smooth-32"
    phases, length = (None, 0.3) if smooth else ((5.0, 10.0), 0.15)
    a = darcy_inputs(4, 32, phases, length, generator=g)
    return a, darcy_solutions(a, smooth=smooth).flatten(1)


def test_what_ships_has_its_card():
    assert tuple(dgno_names()) == NAMES
    for name in NAMES:
        told, model, size = (
            card("dgno", name),
            load_dgno(name),
            shipped("dgno", name).stat().st_size,
        )
        assert told["name"] == name and size < 1.1e6
        assert type(model.prior) is Bounded and model.prior.latent == model.config.latent
        assert DGNOConfig(**told["config"]) == model.config
        place = f"dgno.{type(model.problem).__module__.rpartition('.')[2]}:{type(model.problem).__name__}"
        settings = json.loads(json.dumps(model.problem.settings))
        assert settings.items() <= told["problem"].items() and told["problem"]["problem"] == place
        assert told["parameters"] == sum(
            p.numel() for n, p in model.named_parameters() if "prior" not in n
        )
        metrics = told["metrics"]
        assert metrics["error"] <= 1.02 * metrics["error in float32"]  # float16 does no harm
        assert metrics["error"] < 0.5 * metrics["error of the mean solution"]
        assert told["training"]["solutions"] == 0 and told["training"]["cpu seconds"] >= 50


def row_of_the_page(name):
    told, size = card("dgno", name), shipped("dgno", name).stat().st_size
    m, what = told["metrics"], "50 sensors, 25 dB: "
    numbers = [
        m[key] for key in ("error", "worst", "error of the mean solution", "error of the input")
    ]
    numbers = [100 * value for value in [*numbers, m[what + "error of u"]]]
    texts = [f"{value:.{1 if value >= 1 else 2}f} %" for value in numbers]
    back = f"{100 * m[what + 'error of a']:.1f} %"
    if "pixel accuracy" in m:
        texts[3] += f", pixels {100 * m['pixel accuracy']:.1f} %"
        back += f", pixels {100 * m[what + 'pixel accuracy']:.1f} %"
    seconds = f"{told['training']['cpu seconds']:.0f} s"
    return " | ".join([f"| `{name}`", seconds, f"{size / 1e6:.2f} MB", *texts, f"{back} |"])


@pytest.mark.parametrize("name", NAMES)
def test_the_page_quotes_the_card(name):
    page = (ROOT / "docs/dgno.md").read_text("utf-8")
    assert row_of_the_page(name) in page, row_of_the_page(name)


@pytest.mark.parametrize("name", NAMES)
def test_unseen_inputs_have_the_error_of_the_card(name, generator):
    """Of solutions, of the decoded input, and intervals from the card's error of the decoder."""
    model, told = load_dgno(name), card("dgno", name)["metrics"]
    a, u = unseen(name)
    with torch.no_grad():
        error = relative_error(model(a), u)
        cells = model.problem.grid.points(a).reshape(-1, model.problem.grid.dim)
        back = model.problem.inputs(model.decode(model.encode(a)), cells)
    assert (
        float(error.mean()) < WITHIN * told["error"] and float(error.max()) < WITHIN * told["worst"]
    )
    assert float(relative_error(back, a).mean()) < WITHIN * told["error of the input"]
    drawn = predict(model, a, draws=60, delta=told["rms error of u"], generator=generator)
    assert float(coverage(drawn.flatten(2), u)) > told["coverage of 90 % intervals"] - 0.15


@pytest.mark.parametrize("name", NAMES)
def test_a_field_from_fifty_noisy_sensors(name, generator):
    """Shipped prior and decoders: nearer than without sensors, misfit at the noise."""
    model, told = load_dgno(name).requires_grad_(False), card("dgno", name)["metrics"]
    problem, prior = model.problem, model.prior
    a, u = (v[0].flatten() for v in unseen(name))
    x = problem.points(a)
    seen = sensors(x, u, 50, 25, generator)
    noise = seen.sigma
    seen = dataclasses.replace(seen, sigma=(noise**2 + told["rms error of u"] ** 2) ** 0.5)
    posterior = Posterior(model, prior, [seen])
    best = posterior.maximize(torch.zeros(1, prior.latent), 25)
    root = posterior.laplace(best[0])
    begin = best + 0.5 * torch.randn(4, prior.latent, generator=generator) @ root.mT
    chains = hamiltonian(posterior.slope, begin, 25, 25, root=root, generator=generator)
    with torch.no_grad():
        decode = model.decode(prior.code(chains.flat()))
        found = problem.solution(decode, x).flatten(1)
        at = problem.solution(decode, seen.x).flatten(1)
        blind = problem.solution(model.decode(prior.code(torch.zeros_like(best))), x).flatten()
    assert 0.5 < chains.acceptance <= 1
    assert float((at.mean(0) - seen.value).square().mean().sqrt()) < 1.5 * seen.sigma
    error, without = (float(relative_error(v[None], u[None])[0]) for v in (found.mean(0), blind))
    assert error < 0.7 * without
    wide = found + told["rms error of u"] * torch.randn(found.shape, generator=generator)
    assert float(coverage(wide, u)) > 0.75
    if name == "darcy-phases-32":
        with torch.no_grad():
            mean = problem.inputs(decode, x).mean(0)
        assert float(pixel_accuracy(mean[None], a[None], problem.middle)[0]) > 0.65


def test_gradients_go_through_what_ships(generator):
    """∂u/∂a against differences in float64."""
    model, (a, _) = load_dgno("darcy-smooth-32", torch.float64), unseen("darcy-smooth-32")
    a = a[:1].double().requires_grad_()
    direction = torch.randn(a.shape, generator=generator, dtype=a.dtype)
    w = torch.randn(1024, generator=generator, dtype=a.dtype)
    (slope,) = torch.autograd.grad((w * model(a).flatten()).sum(), a)
    with torch.no_grad():
        step = model(a + 1e-5 * direction) - model(a - 1e-5 * direction)
        difference = (w * step.flatten()).sum() / 2e-5
    assert float((slope * direction).sum()) == pytest.approx(float(difference), rel=1e-6)
