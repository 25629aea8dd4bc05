"""Posteriors of the latent generative operator: MAP, Laplace, samples, predictions with a spread."""

from __future__ import annotations

import pytest
import torch
from rheograd.operators.dgno import (
    DGNO,
    CubePrior,
    Darcy2D,
    DGNOConfig,
    Discrepancy,
    NormalPrior,
    Observation,
    Posterior,
    RealNVP,
    Target,
    coverage,
    cross_correlation,
    darcy_inputs,
    energy_bounds,
    fit_prior,
    generate,
    hamiltonian,
    logistic_phases,
    nuts,
    predict,
    r_squared,
    residual_rms,
    sensors,
)
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test

SMALL = {"latent": 6, "width": 12, "depth": 3, "channels": 4}


def awake(model, generator):
    """Weights of the sums away from zero, where published ones start."""
    with torch.no_grad():
        for decoder in model.decoders.values():
            decoder.weights.copy_(torch.randn(decoder.weights.shape, generator=generator))
    return model


def test_posterior_of_a_linear_decoder_is_normal(generator):
    """MAP, Laplace and Hamiltonian samples against the closed form."""
    problem = Darcy2D((8, 8), "primal", count=12)
    model = DGNO(problem, DGNOConfig(**SMALL), generator=generator).double()
    x = torch.rand(60, 2, generator=generator, dtype=torch.float64)
    A = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    sigma, truth = 0.5, torch.randn(6, generator=generator, dtype=torch.float64)

    class Linear(Posterior):
        def decode(self, beta):
            return beta

    problem.solution = lambda beta, x: (beta @ A.T)[:, None]
    value = A @ truth + sigma * torch.randn(60, generator=generator, dtype=torch.float64)
    prior = NormalPrior(6).double()
    post = Linear(model, prior, [Observation(x, value, sigma)])
    H = A.T @ A / sigma**2 + torch.eye(6, dtype=torch.float64)
    mean = torch.linalg.solve(H, A.T @ value / sigma**2)
    start = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    z = post.maximize(start, 60, 1e-14)
    assert torch.allclose(z, mean.expand(3, -1), atol=1e-5)
    root = post.laplace(z[0])
    assert torch.allclose(root @ root.T, torch.linalg.inv(H), atol=1e-9)
    begin = mean + torch.randn(20, 6, generator=generator, dtype=torch.float64) @ root.T
    found = hamiltonian(post.slope, begin, 100, 60, root=root, generator=generator)
    flat = found.flat()
    error = (flat.mean(0) - mean) / torch.linalg.inv(H).diagonal().sqrt()
    assert float(error.abs().max()) < 0.15
    ratio = torch.cov(flat.T).diagonal() / torch.linalg.inv(H).diagonal()
    assert 0.8 < float(ratio.min()) and float(ratio.max()) < 1.25
    assert 0.6 < found.acceptance < 0.99 and float(found.spread.max()) < 1.1
    with pytest.raises(InputError, match="expected observations; got none"):
        Posterior(model, prior, [])
    with pytest.raises(InputError, match="values"):
        Linear(model, prior, [Observation(x, value[:-1], sigma)])


def test_nuts_samples_a_bent_density(generator):
    """Not normal, moments known: y ~ N(0, 1), x ~ N(y² / 2, ½²)."""

    def slope(z):
        x, y = z.T
        gap = 4 * (x - 0.5 * y**2)
        return 2 * (x - 0.5 * y**2) ** 2 + 0.5 * y**2, torch.stack([gap, y - gap * y], 1)

    start = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    long = nuts(slope, start, 500, 100, generator=generator)
    batch = hamiltonian(slope, start.repeat(10, 1), 150, 60, length=2.5, generator=generator)
    for found in (long, batch):
        z = found.flat()
        x, y = z.T
        assert abs(float(y.mean())) < 0.12 and abs(float(y.var()) - 1) < 0.2
        assert abs(float(x.mean()) - 0.5) < 0.12 and abs(float(x.var()) - 0.75) < 0.3
        assert float(found.spread.max()) < 1.1 and 0.6 < found.acceptance < 0.98
    with pytest.raises(InputError, match="finite"):
        nuts(lambda z: (z.sum(1) / 0, z), start)


def test_posterior_gradient_and_jacobian(generator):
    problem = Darcy2D((8, 8), "mixed", (5.0, 10.0), count=6, points=3)
    model = awake(DGNO(problem, DGNOConfig(**SMALL), generator=generator), generator).double()
    a = darcy_inputs(3, 8, (5.0, 10.0), generator=generator).double()
    model.fit_scales(a)
    x = problem.points(a)
    seen = sensors(x, model(a)[0, 0].detach(), 20, 20, generator)
    rms = residual_rms(model, a, generator=generator)
    post = Posterior(model, CubePrior(6), [seen], rms, generator=generator)
    z = 0.3 * torch.randn(2, 6, generator=generator, dtype=torch.float64)
    assert taylor_test(lambda z: post.energy(z).sum(), z, eps0=1e-3, generator=generator).passed()
    rho, J = post.jacobian(z)
    energy, slope = post.slope(z)
    assert torch.allclose((J.mT @ rho[..., None])[..., 0], slope, atol=1e-8)
    found = post.maximize(z, 30)
    best, flat = post.slope(found)
    assert bool((best < energy).all())
    assert bool((flat.norm(dim=1) < 0.05 * slope.norm(dim=1)).all())


def test_a_target_is_met_by_the_decoded_input(generator):
    """Inputs of a given mean permeability, as a design asks for; the Jacobian sees it, too."""
    problem = Darcy2D((8, 8), "primal", count=6, points=3)
    model = awake(DGNO(problem, DGNOConfig(**SMALL), generator=generator), generator).double()
    x = problem.points(torch.zeros((), dtype=torch.float64))

    def mean(decode):
        return problem.inputs(decode, x).mean(1)

    z = 0.3 * torch.randn(3, 6, generator=generator, dtype=torch.float64)
    first = mean(model.decode(CubePrior(6).code(z))).detach()
    wish = float(first.mean()) * 1.2
    post = Posterior(model, CubePrior(6), [Target(mean, torch.tensor([wish]), 0.001 * wish)])
    best = post.maximize(z)
    best = best[post.energy(best).argmin()][None]  # starts may end in other minima
    found = mean(model.decode(post.prior.code(best))).detach()
    assert abs(float(found) / wish - 1) < 1e-4 < 0.1 < float((first / wish - 1).abs().min())
    rho, J = post.jacobian(z)
    assert torch.allclose((J.mT @ rho[..., None])[..., 0], post.slope(z)[1], atol=1e-8)
    with pytest.raises(InputError, match="values for the target"):
        Posterior(model, CubePrior(6), [Target(mean, torch.zeros(2), 1.0)])
    with pytest.raises(InputError, match="prior of 6"):
        Posterior(model, CubePrior(5), [Target(mean, torch.zeros(1), 1.0)])


def test_binary_phases_straight_through(generator):
    """Values are those of the phases, slopes those of the chances, also forwards."""
    problem = Darcy2D((8, 8), "mixed", (5.0, 10.0), count=6, points=3)
    sharp = problem.binary()
    raw = torch.randn(40, generator=generator, dtype=torch.float64).requires_grad_()
    hard, soft = sharp.permeability(raw), problem.permeability(raw)
    assert set(hard.detach().unique().tolist()) == {5.0, 10.0}
    assert torch.equal(hard > 7.5, soft > 7.5) and not problem.straight
    slopes = [torch.autograd.grad(v.sum(), raw)[0] for v in (hard, soft)]
    assert torch.allclose(*slopes, rtol=0, atol=1e-12)
    tangent = torch.func.jvp(sharp.permeability, (raw.detach(),), (torch.ones(40).double(),))[1]
    assert torch.allclose(tangent, slopes[1], rtol=0, atol=1e-12)

    model = awake(DGNO(problem, DGNOConfig(**SMALL), generator=generator), generator).double()
    a = darcy_inputs(3, 8, (5.0, 10.0), generator=generator).double()
    model.fit_scales(a)
    seen = sensors(problem.points(a), model(a)[0, 0].detach(), 20, 20, generator)
    rms = [residual_rms(model, a, True, torch.Generator().manual_seed(0), b) for b in (False, True)]
    assert rms[0] != rms[1]
    z = 0.3 * torch.randn(2, 6, generator=generator, dtype=torch.float64)
    post = [
        Posterior(model, CubePrior(6), [seen], rms[1], None, torch.Generator().manual_seed(1), b)
        for b in (False, True)
    ]
    assert not torch.allclose(post[0].energy(z), post[1].energy(z))
    assert torch.allclose(post[0].rows(z)[:, :20], post[1].rows(z)[:, :20])  # sensors see u alone
    rho, J = post[1].jacobian(z)
    energy, slope = post[1].slope(z)
    assert torch.allclose((J.mT @ rho[..., None])[..., 0], slope, atol=1e-8)
    assert bool((post[1].energy(post[1].maximize(z, 3)) < energy).all())
    chains = hamiltonian(post[1].slope, z, 5, 3, step=0.05, generator=generator)
    assert bool(chains.z.isfinite().all())
    smooth = Darcy2D((8, 8), "primal")
    with pytest.raises(InputError, match="two phases"):
        Posterior(DGNO(smooth, DGNOConfig(**SMALL)), CubePrior(6), [seen], binary=True)


def test_metrics_of_fields(generator):
    truth = torch.rand(5, 1, 30, generator=generator, dtype=torch.float64) + 1
    assert torch.allclose(cross_correlation(3 * truth, truth), torch.ones(5).double())
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert float(cross_correlation(a, b)) == pytest.approx(0.5**0.5)
    assert float(r_squared(truth, truth)) == 1.0
    assert float(r_squared(truth.mean(0, keepdim=True).expand(5, -1, -1), truth)) == pytest.approx(
        0
    )
    chance = torch.tensor([0.01, 0.5, 0.99]).expand(4000, 3)
    drawn = logistic_phases(chance, (5.0, 10.0), 25, generator)
    assert drawn.min() >= 5 and drawn.max() <= 10
    assert torch.allclose(drawn.mean(0), torch.tensor([5.05, 7.5, 9.95]), atol=0.05)
    spread = torch.logit((drawn[:, 1] - 5) / 5).std()
    assert float(spread) == pytest.approx(1.814 / 5, rel=0.05)
    with pytest.raises(InputError, match="one size"):
        cross_correlation(a, truth)
    with pytest.raises(InputError, match="two samples"):
        r_squared(a, b)


def test_predictions_spread_by_code_and_by_error(generator):
    problem = Darcy2D((8, 8), "primal", count=12, points=3)
    prior = NormalPrior(6)
    config = DGNOConfig(**SMALL, bayes=True, first_sigma=0.5, hard_share=0.1)
    model = awake(DGNO(problem, config, prior, generator), generator)
    a = darcy_inputs(2, 8, generator=generator)
    model.fit_scales(a)
    assert float(model.loss({"a": a}, generator)["hard residual"]) > 0
    x = torch.rand(7, 2, generator=generator)
    found = predict(model, a, x, 60, generator=generator)
    assert found.shape == (60, 2, 1, 7) and float(found.std(0).min()) > 0
    sure = DGNO(problem, DGNOConfig(**SMALL), generator=generator)
    same = predict(sure, a, draws=3, generator=generator)
    assert same.shape == (3, 2, 1, 64) and float(same.std(0).max()) == 0
    wide = predict(sure, a, x, 400, 0.2, generator)
    assert abs(float(wide.std(0).mean()) - 0.2) < 0.02


def test_pairs_from_the_prior(generator):
    problem = Darcy2D((8, 8), "mixed", (5.0, 10.0), count=6, points=3)
    model = awake(DGNO(problem, DGNOConfig(**SMALL), generator=generator), generator)
    a, u = generate(model, CubePrior(6), 5, generator=torch.Generator().manual_seed(1))
    assert a.shape == (5, 1, 8, 8) and u.shape == (5, 1, 64)
    assert 5 <= float(a.min()) and float(a.max()) <= 10
    beta = CubePrior(6).sample(5, torch.Generator().manual_seed(1))
    assert torch.equal(u, problem.solution(model.decode(beta), problem.points(a)))


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_generators_on_a_gpu(device):
    """Whatever draws takes them, for models there and here."""
    g = torch.Generator("cuda").manual_seed(0)
    problem = Darcy2D((8, 8), "energy", (5.0, 10.0), count=9)
    model = DGNO(problem, DGNOConfig(**SMALL)).to(device).requires_grad_(False)
    a = darcy_inputs(8, 8, (5.0, 10.0), generator=torch.Generator().manual_seed(0)).to(device)
    model.fit_scales(a)
    prior = fit_prior_of(model, a, g)
    x, u = problem.points(a), model(a)
    off = Discrepancy(x, 0.01 * torch.randn(8, 1, 64, device=device))
    seen = sensors(x, u[0], 20, 25.0, g)
    post = Posterior(model, prior, [seen], 1.0, generator=g, discrepancy=off)
    begin = prior.noise(prior.sample(3, g))[0]
    best = post.maximize(begin, 3)
    root = post.laplace(best[0])
    drawn = [
        hamiltonian(post.slope, best, 5, 3, root=root, generator=g).flat(),
        nuts(post.slope, best[:1], 4, 2, root=root, depth=2, generator=g).flat(),
    ]
    found = [
        *drawn,
        post.predict(drawn[0], generator=g),
        predict(model, a, draws=2, delta=off, generator=g),
        predict(model, a, draws=2, delta=0.1, generator=g),
        *generate(model, prior, 2, generator=g),
        logistic_phases(torch.full((4,), 0.3, device=device), (5.0, 10.0), generator=g),
        *vars(energy_bounds(model, a)).values(),
    ]
    assert all(v.device.type == device and bool(v.isfinite().all()) for v in found)
    assert residual_rms(model, a, generator=g) > 0


def fit_prior_of(model, a, g):
    prior = RealNVP(6, 2, 8).to(a.device)
    fit_prior(prior, model.encode(a), 3, 4, generator=g)
    return prior.requires_grad_(False)


def test_coverage_of_normal_samples(generator):
    truth = torch.randn(4000, generator=generator)
    draws = torch.randn(400, 4000, generator=generator)
    assert abs(float(coverage(draws, truth, 0.9)) - 0.9) < 0.02
