"""Options of the latent generative operator's loss: labels of every field, decoders, norms, spreads."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.operators.dgno import (
    DGNO,
    Burgers1D,
    Darcy2D,
    DGNOConfig,
    NormalPrior,
    Observation,
    Posterior,
    StokesCylinder,
    StokesReference,
    Target,
    darcy_fluxes,
    darcy_inputs,
    darcy_solutions,
    inflows,
    predict,
    relative_error,
)
from rheograd.operators.dgno.jets import jet_rows
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test

SMALL = {"latent": 6, "width": 12, "depth": 3, "channels": 4}


def stokes(generator, **options):
    problem = StokesCylinder(16, count=12)
    model = DGNO(problem, DGNOConfig(**SMALL, **options), generator=generator)
    a = inflows(3, 16, generator)
    model.fit_scales(a)
    return model, a


def test_fluxes_of_the_reference(generator):
    """u = sin πx sin πy with a of one value; −∇·s = f over cells of two phases."""
    a = torch.full((1, 1, 16, 16), 2.0)
    x = (torch.arange(16) + 0.5) / 16
    s, u = darcy_fluxes(a), darcy_solutions(a)
    assert s.shape == (1, 2, 16, 16)
    assert torch.allclose(s[0, 0], -s[0, 0].flip(0), atol=1e-5)
    assert torch.allclose(s[0, 0], s[0, 1].T, atol=1e-5)
    middle = 2.0 * (u[0, 0, 2:] - u[0, 0, :-2]) * 8
    assert float(relative_error(s[:, 0, 1:-1].flatten(1), middle.flatten()[None])) < 0.01
    assert float((s[0, 0, -1, 7] - s[0, 0, 0, 7]) / (x[-1] - x[0])) < 0

    two = darcy_inputs(4, 16, (5.0, 10.0), 0.4, generator=generator)
    coarse, fine = darcy_fluxes(two), darcy_fluxes(two, fine=9)
    assert float(relative_error(coarse, fine).max()) < 0.03
    with pytest.raises(InputError, match="refinement >= 3"):
        darcy_fluxes(two, fine=1)


def test_stresses_of_the_reference():
    """Those of Poiseuille flow, and balance of momentum past the disc: ∇·σ = 0."""
    problem = StokesCylinder(32)
    mu = problem.viscosity
    y = (torch.arange(512) + 0.5) / 512
    parabola = (4 * y * (1 - y)).double()[None, None]
    channel = StokesReference(problem, 16, disc=False)
    s = channel.stresses(*channel.solve(parabola))[0]
    x = (torch.arange(32, dtype=torch.float64) + 0.5) / 16
    z = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    pressure = -8 * mu * (2 - x)[:, None].expand(-1, 16)
    assert torch.allclose(s[0], pressure, atol=2e-3) and torch.allclose(s[1], pressure, atol=2e-3)
    assert torch.allclose(s[2], mu * (4 - 8 * z).expand(32, -1), atol=3e-4)

    reference = StokesReference(problem, 24)
    s = reference.stresses(*reference.solve(parabola))[0]
    points, which = reference.clear(3.0)
    assert points.shape == (int(which.sum()), 2) and s[..., which].shape == (3, len(points))
    assert float(problem.distance(points).min()) >= 3 / 24
    h = 1 / 24
    off = (s[0, 2:, 1:-1] - s[0, :-2, 1:-1] + s[2, 1:-1, 2:] - s[2, 1:-1, :-2]) / (2 * h)
    inner = which[1:-1, 1:-1] & which[2:, 1:-1] & which[:-2, 1:-1]
    scale = (s[0, 2:, 1:-1] - s[0, :-2, 1:-1]).div(2 * h)[inner].square().mean().sqrt()
    # Differences over two cells of differences over two cells.
    assert float(off[inner].square().mean().sqrt() / scale) < 0.1


def test_every_field_takes_labels(generator):
    """Pressure and stresses beside the velocity, flux beside u; a term each, zero where they fit."""
    model, a = stokes(generator, weight_virtual=0.0)
    with torch.no_grad():
        exact = {name: model(a, of=name) for name in ("u", "p", "s")}
    assert [v.shape[1] for v in exact.values()] == [2, 1, 3]
    terms = model.loss({"a": a, **exact}, generator)
    for part in ("labels", "labels p", "labels s"):
        assert float(terms[part]) < 1e-12
    wrong = {"a": a, "u": exact["u"], "p": 1.1 * exact["p"], "s": exact["s"]}
    share = torch.tensor([1.0, 0.0, 0.0])
    assert float(model.loss(wrong, generator)["labels p"]) == pytest.approx((0.1 / 1.1) ** 2, 1e-4)
    only = model.loss(wrong | {"labelled p": share}, generator)["labels p"]
    assert float(only) == pytest.approx((0.1 / 1.1) ** 2 / 3, 1e-4)
    lost = exact["s"].clone()
    lost[1:] = math.nan
    terms = model.loss({"a": a, "s": 2 * lost, "labelled": share}, generator)
    assert float(terms["labels s"]) == pytest.approx(0.25 / 3, 1e-4)
    terms["loss"].backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)

    flux = Darcy2D((8, 8), "mixed", (5.0, 10.0), count=6, points=3)
    other = DGNO(flux, DGNOConfig(**SMALL), generator=generator)
    two = darcy_inputs(2, 8, (5.0, 10.0), generator=generator)
    rows = {"a": two, "u": darcy_solutions(two), "s": darcy_fluxes(two)}
    assert {"labels", "labels s"} < set(other.loss(rows, generator))
    assert flux.observables == ("u", "s") and Burgers1D(8).observables == ("u",)
    assert Darcy2D((8, 8)).observables == ("u",)
    with pytest.raises(InputError, match='labels "s"'):
        other.loss({"a": two, "s": rows["s"][:, :1]}, generator)
    with pytest.raises(InputError, match="observe: expected one of"):
        other(two, of="p")


def test_labels_at_points_of_their_own(generator):
    model, a = stokes(generator, weight_virtual=0.0)
    x = torch.rand(3, 9, 2, generator=generator)
    with torch.no_grad():
        rows = {name: model(a, x, of=name) for name in ("u", "p")}
    terms = model.loss({"a": a, "x": x, **rows}, generator)
    assert float(terms["labels"]) < 1e-12 and float(terms["labels p"]) < 1e-12
    with pytest.raises(InputError, match='Give "x"'):
        model.loss({"a": a, "p": rows["p"]}, generator)


def test_sensors_of_every_field(generator):
    """Pressure taps and stresses in a posterior, and their predictions."""
    model, a = stokes(generator)
    x = torch.rand(7, 2, generator=generator)
    with torch.no_grad():
        truth = {name: model(a[:1], x, of=name).flatten() for name in ("p", "s")}
    seen = [Observation(x, value, 0.01, name) for name, value in truth.items()]
    post = Posterior(model, NormalPrior(6), seen)
    beta = model.encode(a[:1]).detach()
    rho = post.rows(beta).detach()
    assert rho.shape == (1, 7 + 21 + 6) and float(rho[:, :28].abs().max()) < 1e-3
    assert predict(model, a, x, 2, of="s").shape == (2, 3, 3, 7)
    with pytest.raises(InputError, match="one of"):
        Posterior(model, NormalPrior(6), [Observation(x, truth["p"], 0.01, "psi")])


def test_stresses_by_entries_of_the_code(generator):
    """The published decoder of stresses, by a choice of the configuration; Taylor test of the loss."""
    model, a = stokes(generator, kinds={"s": "entries"})
    assert model.decoders["s"].kind == "entries" and model.decoders["psi"].kind == "multi"
    assert model.decoders["s"].mix.shape == (3, 6)
    x = torch.rand(5, 2, generator=generator)
    jets = model.at(x, 2, ("s",))(model.encode(a))["s"]
    assert jets.shape == (jet_rows(2, 2), 3, 3, 5)
    model, a = model.double(), a.double()
    start = {n: p.detach().clone() for n, p in model.decoders["s"].named_parameters()}

    def f(weights):
        full = {f"decoders.s.{k}": v for k, v in weights.items()}
        from torch.func import functional_call

        g = torch.Generator().manual_seed(1)
        rows = {"a": a, "s": torch.ones(3, 3, 4, dtype=torch.float64), "x": x4}
        return functional_call(Loss(model), {f"m.{k}": v for k, v in full.items()}, (rows, g))

    x4 = torch.rand(3, 4, 2, generator=generator, dtype=torch.float64)
    assert taylor_test(f, start, eps0=1e-3, generator=generator).passed()
    with pytest.raises(InputError, match="kinds of fields"):
        DGNO(model.problem, DGNOConfig(**SMALL, kinds={"stress": "entries"}))


class Loss(torch.nn.Module):
    """The loss as a module, for `functional_call`."""

    def __init__(self, model):
        super().__init__()
        self.m = model

    def forward(self, rows, generator):
        return self.m.loss(rows, generator)["loss"]


def test_norms_of_residuals(generator):
    """Mean square, mean absolute value, root of the mean square, each as written."""
    problem = Darcy2D((8, 8), "primal", count=12, points=3, test="bump")
    a = darcy_inputs(3, 8, generator=generator)
    found = {}
    for norm in ("square", "absolute", "rms"):
        config = DGNOConfig(**SMALL, residual_norm=norm, weight_virtual=2.0)
        torch.manual_seed(0)
        model = DGNO(problem, config)
        model.fit_scales(a)
        g = torch.Generator().manual_seed(1)
        found[norm] = float(model.loss({"a": a}, g)["residual"])
        r = model.residuals(model.encode(a), a, torch.Generator().manual_seed(1))["residual"]
    expected = {
        "square": r.square().mean(),
        "absolute": r.abs().mean(),
        "rms": r.square().mean(1).sqrt().mean(),
    }
    for norm, value in expected.items():
        assert found[norm] == pytest.approx(2 * float(value.detach()), rel=1e-5)
    for wrong in ({"residual_norm": "max"}, {"label_spread": "all"}, {"encoder": "set"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            DGNOConfig(**wrong)
    with pytest.raises(InputError, match="activations"):
        DGNO(problem, DGNOConfig(kind="other"))


def test_a_spread_for_every_node(generator):
    """Where labels scatter: the maximum of the likelihood is at their spread, node by node."""
    problem = Darcy2D((4, 4), "mixed", (5.0, 10.0), count=4, points=3)
    config = DGNOConfig(
        **SMALL, bayes=True, label_spread="nodes", weight_virtual=0.0, weight_input=0.0
    )
    model = DGNO(problem, config, NormalPrior(6), generator)
    assert {k: tuple(v.shape) for k, v in model.log_nodes.items()} == {"u": (1, 16), "s": (2, 16)}
    a = darcy_inputs(100, 4, (5.0, 10.0), generator=generator)
    model.fit_scales(a)
    with torch.no_grad():
        model.log_sigma.fill_(-20.0)
        mean = model(a)
        size = mean.square().mean((1, 2), keepdim=True).sqrt()
        sigma = torch.linspace(0.02, 0.3, 16)
        noise = sigma * torch.randn(mean.shape, generator=generator)
        u = mean + size * noise
    level = model.log_nodes["u"]
    model.loss({"a": a, "u": u}, generator)["loss"].backward()
    assert float(level.grad.abs().min()) > 0.01 / 16
    rms = ((u - mean) / u.square().mean((1, 2), keepdim=True).sqrt()).square().mean(0).sqrt()
    assert torch.allclose(rms[0], sigma, rtol=0.3)
    with torch.no_grad():
        level.copy_(rms.log())
    level.grad = None
    model.loss({"a": a, "u": u}, generator)["loss"].backward()
    assert float(level.grad.abs().max()) < 1e-5
    drawn = predict(model, a[:2], draws=400, delta="labels", generator=generator)
    expected = rms * mean[:2].square().mean((1, 2), keepdim=True).sqrt()
    assert torch.allclose(drawn.std(0), expected, rtol=0.2)
    with pytest.raises(InputError, match="the problem's points"):
        predict(model, a[:2], torch.rand(5, 2), 2, "labels")
    with pytest.raises(InputError, match="with bayes"):
        predict(DGNO(problem, DGNOConfig(**SMALL)), a[:2], draws=2, delta="labels")
    with pytest.raises(InputError, match="problem's points"):
        x = torch.rand(100, 3, 2)
        model.loss({"a": a, "u": torch.zeros(100, 1, 3), "x": x}, generator)


@pytest.mark.parametrize("form", ["mixed", "energy"])
def test_the_load_on_the_disc_is_a_target(form, generator):
    """Force and torque of known stresses, and codes that give a wanted drag."""
    problem = StokesCylinder(16, form=form)
    like = torch.zeros((), dtype=torch.float64)
    if form == "mixed":
        c, k = like.new_tensor(problem.centre), math.pi * problem.radius**2

        def known(
            x, order, names
        ):  # a force of 2 and 3 per volume, and no symmetry: s12 = 5 (y − y₀)
            d = x - c
            return {"s": torch.stack([2 * d[:, 0], 3 * d[:, 1], 5 * d[:, 1]])[None, None]}

        expected = like.new_tensor([[(2 + 5) * k, 3 * k, 0.0]])
        assert torch.allclose(problem.load(known, like), expected, atol=1e-12)
    model = DGNO(problem, DGNOConfig(**SMALL), generator=generator).double().requires_grad_(False)
    for p in model.parameters():
        p += 0.1 * torch.randn(p.shape, generator=generator)
    prior = NormalPrior(model.config.latent).double()
    first = problem.load(model.decode(torch.zeros(1, prior.latent).double()), like)[:, :1]
    wish = Target(lambda decode: problem.load(decode, like)[:, :1], 1.01 * first[0], 1e-4)
    post = Posterior(model, prior, wish)
    z = post.maximize(torch.zeros(1, prior.latent).double())
    found = problem.load(model.decode(prior.code(z)), like)[0, 0]
    assert float(found / first) == pytest.approx(1.01, rel=2e-3)
