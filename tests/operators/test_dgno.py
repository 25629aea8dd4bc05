"""The latent generative operator: residuals of exact solutions, losses, training, inversion."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.operators.dgno import (
    DGNO,
    Burgers1D,
    CubePrior,
    Darcy2D,
    DGNOConfig,
    Helmholtz2D,
    Observation,
    Posterior,
    RealNVP,
    StokesCylinder,
    StokesReference,
    burgers_inputs,
    burgers_solutions,
    darcy_fluxes,
    darcy_inputs,
    darcy_solutions,
    helmholtz_solutions,
    inflows,
    noise_level,
    pixel_accuracy,
    relative_error,
)
from rheograd.operators.dgno.jets import function_jet, pairs
from rheograd.operators.train import Trainer, TrainerConfig
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test

SMALL = {"latent": 6, "width": 12, "depth": 3, "channels": 4}


def decoded(functions, dim=2):
    """A decoder of given functions of points, with derivatives by autograd."""

    def decode(x, order, names):
        out = {}
        for name in names:
            x = x.detach().requires_grad_()
            rows = []
            for f in functions[name](x).unbind(1):
                jet, one = [f], torch.ones_like(f)
                options = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
                slope = torch.autograd.grad(f, x, one, **options)[0] if order else None
                jet += [slope[:, i] for i in range(dim)] if order > 0 else []
                if order > 1:
                    for i, j in pairs(dim):
                        if not slope.requires_grad:
                            jet.append(torch.zeros_like(f))
                            continue
                        second = torch.autograd.grad(slope[:, i], x, one, **options)[0]
                        jet.append(second[:, j])
                rows.append(torch.stack(jet))
            out[name] = torch.stack(rows, 1)[:, None].detach()  # (S, 1, C, n)
        return out

    return decode


def sample(problem, seed=0):
    like = torch.zeros((), dtype=torch.float64)
    return problem.sample(torch.Generator().manual_seed(seed), like)


@pytest.mark.parametrize("form", ["primal", "mixed", "strong"])
def test_darcy_residuals_vanish_at_a_solution(form):
    """u = sin πx sin πy with a = 1 + x, f by hand: all forms, weak ones as R²."""

    def u(x):
        return torch.sin(math.pi * x).prod(1, keepdim=True)

    def slopes(x):
        s, c = torch.sin(math.pi * x), torch.cos(math.pi * x)
        return math.pi * torch.stack([c[:, 0] * s[:, 1], s[:, 0] * c[:, 1]], 1)

    def forcing(x):
        return 2 * math.pi**2 * (1 + x[:, 0]) * u(x)[:, 0] - slopes(x)[:, 0]

    functions = {
        "u": u,
        "a": lambda x: torch.log1p(x[:, :1]),
        "s": lambda x: (1 + x[:, :1]) * slopes(x),
    }
    off = []
    for radius in (0.04, 0.02):
        problem = Darcy2D((8, 8), form, radius=radius, count=60, forcing=1.0)
        where = sample(problem)
        rows = problem.residuals(decoded(functions), where, None)
        f = where.average(forcing(where.points))
        # residuals are those of the constant forcing 1
        off.append(float((rows["residual"] + 1 - f).abs().max()))
        if form == "mixed":
            assert float(rows["flux"].abs().max()) < 1e-10
    if form == "strong":
        assert off[0] < 2e-5  # ∇a by differences
    else:
        assert off[0] < 0.1 and off[0] / off[1] > 3


def test_darcy_reads_the_given_field_like_a_decoded_one(generator):
    a = darcy_inputs(2, 64, length=0.4, generator=generator).double()
    problem = Darcy2D((64, 64), "strong", count=40)
    where = sample(problem)
    u = decoded({"u": lambda x: torch.sin(math.pi * x).prod(1, keepdim=True)})
    given = problem.residuals(u, where, a)["residual"]
    assert given.shape == (2, 40)
    primal = Darcy2D((64, 64), "primal", count=40, radius=0.02)
    P = sample(primal)
    weak = primal.residuals(u, P, a)["residual"]
    point = Darcy2D((64, 64), "strong")
    strong = point.residuals(u, type(P)(P.x, P.weight, P.gradient), a)["residual"]
    average = P.average(strong)
    assert float((weak - average).abs().max()) < 0.05 * float(average.abs().max())


def ripple(x):
    """cos 2x cos 3z, with Δu = −13 u."""
    return torch.cos(2 * x[..., 0]) * torch.cos(3 * x[..., 1])


def test_helmholtz_residual_vanishes_at_a_solution():
    """As R², and not with another a; the reference finds the same solution as h²."""
    off = []
    u = decoded({"u": lambda x: ripple(x)[:, None]})
    for radius in (0.08, 0.04):
        problem = Helmholtz2D((8, 8), walls=ripple, radius=radius, count=60)
        a = torch.full((1, 1, 8, 8), 13.0, dtype=torch.float64)
        found = problem.residuals(u, sample(problem), a)["residual"]
        off.append(float(found.abs().max()))
    assert off[1] < 2e-3 and off[0] / off[1] > 3
    assert float(problem.residuals(u, sample(problem), 1.2 * a)["residual"].abs().max()) > 0.1
    errors = []
    for n in (8, 16):
        a = torch.full((1, 1, n, n), 13.0, dtype=torch.float64)
        x = Helmholtz2D((n, n)).points(a)
        errors.append(float((helmholtz_solutions(a, ripple).flatten() - ripple(x)).abs().max()))
    assert errors[1] < 1e-3 and errors[0] / errors[1] > 3.5
    with pytest.raises(InputError, match="odd"):
        helmholtz_solutions(a, fine=2)
    with pytest.raises(InputError, match="size"):
        Helmholtz2D(size=0.0)


def test_values_at_walls(generator):
    """Held by every decoder, with derivatives; the reference keeps a plane of constant a."""
    x = torch.rand(9, 2, generator=generator, dtype=torch.float64)
    y = x.clone().requires_grad_()
    g = ripple(y)
    slope = torch.autograd.grad(g.sum(), y, create_graph=True)[0]
    second = [torch.autograd.grad(slope[:, i].sum(), y, retain_graph=True)[0] for i in (0, 1)]
    rows = [g, slope[:, 0], slope[:, 1], second[0][:, 0], second[0][:, 1], second[1][:, 1]]
    assert torch.allclose(function_jet(ripple, x, 2), torch.stack(rows), atol=1e-12)
    with pytest.raises(InputError, match="one number per point"):
        Darcy2D((8, 8), walls=lambda x: x)
    with pytest.raises(InputError, match="unit > 0"):
        Darcy2D((8, 8), walls=ripple, forcing=0.0)

    problem = Darcy2D((8, 8), "mixed", (5.0, 10.0), 0.0, 8, 3, walls=ripple, unit=10.0)
    model = awake(DGNO(problem, DGNOConfig(**SMALL), generator=generator), generator).double()
    a = darcy_inputs(2, 8, (5.0, 10.0), generator=generator).double()
    model.fit_scales(a)
    edge = x.clone()
    edge[:, 0] = 1.0
    assert torch.allclose(model(a, edge), ripple(edge).expand(2, 1, -1), atol=1e-12)
    assert float((model(a, x) - ripple(x)).detach().abs().max()) > 1e-3
    own = model(a, x.expand(2, -1, -1))
    assert torch.allclose(own, model(a, x), atol=1e-12)
    u = darcy_solutions(a, 0.0, walls=ripple)
    model.loss({"a": a, "u": u}, generator)["loss"].backward()
    one = torch.full((1, 1, 8, 8), 2.0, dtype=torch.float64)

    def plane(x):
        return x[..., 0] + 0.5 * x[..., 1]

    found = darcy_solutions(one, 0.0, walls=plane).flatten()
    assert torch.allclose(found, plane(problem.points(one)), atol=1e-12)
    flux = darcy_fluxes(one, 0.0, walls=plane)[0]
    assert torch.allclose(flux, torch.tensor([2.0, 1.0]).double()[:, None, None], atol=1e-10)


def test_burgers_residual_of_a_travelling_front():
    """u = c − 2νk tanh(k (x − ct)) solves it."""
    nu, c, k = 0.05, 0.3, 2.0

    def u(x):
        return c - 2 * nu * k * torch.tanh(k * (x[:, :1] - c * x[:, 1:]))

    off = []
    for radius in (0.1, 0.05):
        problem = Burgers1D(32, nu, count=80, radius=radius, points=9)
        found = problem.residuals(decoded({"u": u}), sample(problem), None)["residual"]
        off.append(float(found.square().mean().sqrt()))
    assert off[1] < 2e-4 and off[0] / off[1] > 3
    wrong = problem.residuals(decoded({"u": lambda x: 1.2 * u(x)}), sample(problem), None)
    assert float(wrong["residual"].square().mean().sqrt()) > 50 * off[1]


@pytest.mark.parametrize("form", ["mixed", "energy"])
def test_stokes_residuals_of_poiseuille_flow(form):
    """Without the disc's walls everything vanishes."""
    problem = StokesCylinder(16, count=40, form=form)
    mu = problem.viscosity
    functions = {
        "psi": lambda x: (2 * x[:, 1:] ** 2 - 4 / 3 * x[:, 1:] ** 3) + 0 * x[:, :1],
        "p": lambda x: 8 * mu * (2 - x[:, :1]),
        "s": lambda x: torch.stack(
            [-8 * mu * (2 - x[:, 0]), -8 * mu * (2 - x[:, 0]), mu * (4 - 8 * x[:, 1])], 1
        ),
        "airy": lambda x: airy(*x.split(1, 1)),
        "load": lambda x: 0 * x[:, :1].expand(-1, 3),
    }

    def airy(x, y):
        return 4 * mu * ((x - 2) * y**2 - x * y + x**3 / 3 - 2 * x**2)

    where = sample(problem)
    rows = problem.residuals(decoded(functions), where, None)
    within = ("momentum", "stress", "outlet") if form == "mixed" else ("stress", "outlet")
    assert set(rows) == {*within, "walls"}
    for name in within:
        assert float(rows[name].abs().max()) < 1e-9, name
    disc = len(where.walls) // 2
    assert float(rows["walls"][:, disc : 2 * disc].abs().max()) < 1e-12
    y = problem.grid.points(torch.zeros((), dtype=torch.float64))
    a = (4 * y * (1 - y))[None, None, :, 0]
    assert float(problem.misfit(decoded(functions), a)) < 1e-20
    x = where.particles.points
    assert float(problem.distance(x).min()) > 0
    p = problem.observe("p", decoded(functions), x)[0, 0]
    assert float((p - 8 * mu * (2 - x[:, 0])).abs().max()) < 1e-12


def test_stokes_reference():
    """Poiseuille flow to round-off; with the disc volume is kept and grids come together."""
    problem = StokesCylinder(32)
    y = (torch.arange(512) + 0.5) / 512
    parabola = (4 * y * (1 - y)).double()[None, None]
    v, p = StokesReference(problem, 16, disc=False).solve(parabola)
    z = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    x = (torch.arange(32, dtype=torch.float64) + 0.5) / 16
    assert torch.allclose(v[0, 0], (4 * z * (1 - z)).expand(32, -1), atol=1e-4)
    assert float(v[0, 1].abs().max()) < 1e-4
    expected = 8 * problem.viscosity * (2 - x)[:, None].expand(-1, 16)
    assert torch.allclose(p[0], expected, atol=1e-3)
    fields = {n: StokesReference(problem, n).solve(parabola)[0][0] for n in (12, 36)}
    off = (fields[36][:, 1::3, 1::3] - fields[12]).square().mean().sqrt()
    assert float(off / fields[12].square().mean().sqrt()) < 0.03
    through = fields[36][0].mean(1)
    assert float((through / through[0] - 1).abs().max()) < 0.02


def test_inputs_and_references(generator):
    a = darcy_inputs(4, 16, (5.0, 10.0), fraction=0.3, generator=generator)
    assert set(a.unique().tolist()) == {5.0, 10.0}
    assert torch.allclose((a == 10).float().mean((1, 2, 3)), torch.full((4,), 0.3), atol=0.01)
    u = darcy_solutions(a)
    finer = darcy_solutions(a, fine=5)
    assert float(relative_error(u, finer).max()) < 0.01
    constant = darcy_solutions(torch.full((1, 1, 16, 16), 2.0), 2.0, 5)
    assert abs(float(constant.max()) - 0.0737) < 1e-3  # the torsion problem's greatest value
    u0 = burgers_inputs(2, 32, generator)
    frames = burgers_solutions(u0, 4, substeps=8)
    assert frames.shape == (2, 5, 32)
    assert float(frames[:, -1].abs().amax(1).max()) < float(u0.abs().max())
    finer = burgers_solutions(u0, 4, substeps=16, fine=5)
    assert float(relative_error(frames, finer).max()) < 0.02
    assert inflows(3, 32, generator).shape == (3, 1, 32)
    assert float(noise_level(torch.full((1, 9), 2.0), 20)) == pytest.approx(0.2)
    with pytest.raises(InputError, match="odd"):
        darcy_solutions(a, fine=2)
    steep = torch.full((1, 1, 16, 16), 0.01, dtype=torch.float64)
    steep[..., 8:] = 10.0  # between such cells a cubic is negative
    assert bool(darcy_solutions(steep).isfinite().all())
    with pytest.raises(InputError, match="permeabilities > 0; got .* between the cells"):
        darcy_solutions(steep, smooth=True)
    with pytest.raises(InputError, match="form"):
        Darcy2D((8, 8), "other")


def models(generator):
    darcy = {"count": 12, "points": 3}
    yield Darcy2D((8, 8), "primal", **darcy), darcy_inputs(3, 8, generator=generator)
    two = darcy_inputs(3, 8, (5.0, 10.0), generator=generator)
    yield Darcy2D((8, 8), "mixed", (5.0, 10.0), **darcy), two
    yield Darcy2D((8, 8), "strong", (5.0, 10.0), **darcy), two
    waves = darcy_inputs(3, 8, (1.0, 15.0), generator=generator)
    yield Helmholtz2D((8, 8), (1.0, 15.0), **darcy), waves
    yield Burgers1D(16, count=12, frames=3), burgers_inputs(3, 16 * 4, generator)[..., ::4]
    yield StokesCylinder(16, count=12), inflows(3, 16, generator)
    yield StokesCylinder(16, count=12, form="energy"), inflows(3, 16, generator)


def awake(model, generator):
    """Weights of the sums away from zero, where published ones start."""
    with torch.no_grad():
        for decoder in model.decoders.values():
            decoder.weights.copy_(torch.randn(decoder.weights.shape, generator=generator))
    return model


def test_every_problem_trains_and_inverts_shapes(generator):
    for problem, a in models(generator):
        model = DGNO(problem, DGNOConfig(**SMALL), generator=generator)
        model.fit_scales(a)
        batch = {"a": a, "u": torch.zeros(3, 1, 1)}
        batch["u"] = torch.ones_like(model(a))
        terms = model.loss(batch, generator)
        assert {"loss", "input", "labels"} < set(terms)
        total = sum(float(v) for k, v in terms.items() if k != "loss")
        assert float(terms["loss"].detach()) == pytest.approx(total, rel=1e-5)
        terms["loss"].backward()
        decoder = model.decoders[next(iter(problem.fields))]
        assert decoder.weights.grad.abs().sum() > 0
        x = problem.grid.points(a).reshape(-1, problem.grid.dim)
        assert problem.inputs(model.decode(model.encode(a)), x).shape == (3, a[0].numel())
        points = problem.points(a)
        one = Observation(points[:5], model(a, points[:5])[0].detach().flatten(), 0.1)
        post = Posterior(model, CubePrior(6), [one], 1.0, generator=generator)
        assert post.rows(torch.zeros(2, 6)).shape[0] == 2
    with pytest.raises(InputError, match="fields"):
        model(a[..., :-1])


def test_gradient_of_the_loss(generator):
    """Mixed form with labels, Taylor test in all weights at fixed particles."""
    problem = Darcy2D((8, 8), "mixed", (5.0, 10.0), count=8, points=3)
    model = awake(DGNO(problem, DGNOConfig(**SMALL), generator=generator), generator).double()
    a = darcy_inputs(2, 8, (5.0, 10.0), generator=generator).double()
    model.fit_scales(a)
    batch = {"a": a, "u": darcy_solutions(a), "labelled": torch.tensor([1.0, 0.0]).double()}
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    start = {n: p.detach().clone() for n, p in model.named_parameters() if n in names}

    def f(weights):
        from torch.func import functional_call

        class Loss(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.m = model

            def forward(self):
                return self.m.loss(batch, torch.Generator().manual_seed(1))["loss"]

        return functional_call(Loss(), {f"m.{k}": v for k, v in weights.items()})

    assert taylor_test(f, start, eps0=1e-3, generator=generator).passed()


def test_bayes_is_a_bound(generator):
    """The entropy and the prior are in the loss, and σ has a gradient."""
    problem = Darcy2D((8, 8), "primal", count=12, points=3)
    config = DGNOConfig(**SMALL, bayes=True)
    with pytest.raises(InputError, match="prior"):
        DGNO(problem, config)
    prior = RealNVP(6, 2, 8, generator)
    model = awake(DGNO(problem, config, prior, generator), generator)
    a = darcy_inputs(3, 8, generator=generator)
    model.fit_scales(a)
    terms = model.loss({"a": a, "u": darcy_solutions(a, smooth=True)}, generator)
    beta = model.draw(a, torch.Generator().manual_seed(0))
    assert float((beta - model.encode(a)).detach().abs().max()) > 0.01
    terms["loss"].backward()
    assert float(model.log_sigma.grad.abs()) > 0 and float(model.log_label.grad.abs()) > 0
    entropy = 6 * math.log(0.1) / 64
    expected = -prior.log_prob(model.encode(a)).mean() / 64 - entropy
    assert float(terms["code"]) == pytest.approx(float(expected.detach()), abs=0.2)


def test_training_on_residuals_alone_lowers_the_error(generator):
    """Two-phase Darcy without a solution, by the common trainer; then a field from its sensors."""
    a = darcy_inputs(64, 16, (5.0, 10.0), 0.3, generator=generator)
    unseen = darcy_inputs(8, 16, (5.0, 10.0), 0.3, generator=generator)
    u = darcy_solutions(unseen)
    problem = Darcy2D((16, 16), "mixed", (5.0, 10.0), count=60, points=3)
    config = DGNOConfig(16, 24, 4, channels=8, weight_virtual=5.0)
    model = DGNO(problem, config, generator=generator)
    model.fit_scales(a)
    batches = [{"a": part} for part in a.split(16)]

    class Batch(dict):
        def to(self, device):
            return self

    steps = TrainerConfig(updates=120, lr=5e-3, schedule="cosine", clip=1.0)
    Trainer(model, lambda m, b, g: m.loss(b, g), steps).fit([Batch(b) for b in batches])
    with torch.no_grad():
        error = float(relative_error(model(unseen), u).mean())
        x = problem.points(a)
        inputs = problem.inputs(model.decode(model.encode(unseen)), x)
    assert error < 0.3
    assert float(pixel_accuracy(inputs, unseen.flatten(1), problem.middle).mean()) > 0.55
