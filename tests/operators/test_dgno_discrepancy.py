"""What a decoder is off by: its mean and directions, its part in posteriors, predictions with it."""

from __future__ import annotations

import dataclasses
import math

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
    coverage,
    darcy_inputs,
    hamiltonian,
    predict,
)
from rheograd.sim.core.errors import InputError

SMALL = {"latent": 4, "width": 8, "depth": 3, "channels": 2}


def waves(x, count, generator):
    """Smooth random functions on the square with a mean, (count, 1, n)."""
    a, b = math.pi * x.T
    modes = torch.stack([a.sin() * b.sin(), (2 * a).sin() * b.sin(), a.sin() * (2 * b).sin()])
    c = torch.randn(count, 3, generator=generator, dtype=x.dtype) @ torch.diag(
        x.new_tensor([3, 2, 1])
    )
    white = 0.3 * torch.randn(count, len(x), generator=generator, dtype=x.dtype)
    return (1 + c @ modes + white)[:, None]


@pytest.fixture
def places(generator):
    return torch.rand(150, 2, generator=generator, dtype=torch.float64)


def test_draws_are_like_the_references(places, generator):
    """Mean, covariance, and intervals of functions that were not among the references."""
    off = waves(places, 400, generator)
    known = Discrepancy(places, off, rank=3)
    drawn = known.draw(places, (4000,), generator)
    assert drawn.shape == (4000, 1, 150)
    assert torch.allclose(known.std.square()[0], off[:, 0].var(0) * (1 + 1 / 400), rtol=1e-9)
    C, found = torch.cov(off[:, 0].T), torch.cov(drawn[:, 0].T)
    assert float((C - found).norm() / C.norm()) < 0.1
    assert float((drawn.mean(0) - off.mean(0)).abs().max()) < 0.3
    fresh = waves(places, 200, generator)
    levels = []
    for few in off.split(25):
        draws = Discrepancy(places, few, rank=3).draw(places, (200,), generator)
        levels.append(coverage(draws[:, None].expand(-1, 200, -1, -1), fresh))
    assert abs(float(torch.stack(levels).mean()) - 0.89) < 0.02
    # A sum over points tells correlated from independent errors.
    sums = {r: float(Discrepancy(places, off, r).draw(places, (900,), generator).sum(-1).std())
            for r in (0, 3)}  # fmt: skip
    assert sums[3] == pytest.approx(float(off.sum(-1).std()), rel=0.1) and sums[0] < 0.3 * sums[3]


def test_points_take_what_is_nearest(places, generator):
    known = Discrepancy(places, waves(places, 9, generator))
    assert known.modes.shape == (2, 1, 150) and known.of == "u"
    parts = known.at((places[[7, 3]] + 1e-5).float())
    for v, all_of_it in zip(parts, (known.mean, known.modes, known.rest), strict=True):
        assert v.dtype == torch.float32
        assert torch.equal(v, all_of_it[..., [7, 3]].float())


class Linear(Posterior):
    """Of a decoder that is linear in its code, with everything known in closed form."""

    def decode(self, beta):
        return beta


@pytest.fixture
def linear(places, generator):
    """Problem, model, prior and the matrix of two components at all places."""
    problem = Darcy2D((8, 8), "primal", count=5, points=3)
    model = DGNO(problem, DGNOConfig(**SMALL), generator=generator).double()
    A = torch.randn(2, 150, 4, generator=generator, dtype=torch.float64)

    def solution(beta, x):
        near = torch.cdist(x, places).argmin(1)
        return torch.einsum("cnk,bk->bcn", A[:, near], beta)

    problem.solution = solution
    return model, NormalPrior(4).double(), A


def test_posterior_with_a_discrepancy_is_that_of_all_unknowns(places, linear, generator):
    """Codes and directions together, against the normal distribution of both, and predictions of it."""
    model, prior, A = linear
    off = torch.cat([waves(places, 25, generator), -0.5 * waves(places, 25, generator)], 1)
    known = Discrepancy(places, off, rank=3)
    m, sigma = 30, 0.2
    value = torch.randn(2 * m, generator=generator, dtype=torch.float64)
    seen = Observation(places[:m], value, sigma)
    post = Linear(model, prior, seen, discrepancy=known)

    both = torch.cat([A[:, :m].reshape(2 * m, 4), known.modes[..., :m].flatten(1).mT], 1)
    N = (sigma**2 + known.rest[:, :m].square()).flatten()
    H = both.mT @ (both / N[:, None]) + torch.eye(7, dtype=torch.float64)
    mean = torch.linalg.solve(H, both.mT @ ((value - known.mean[:, :m].flatten()) / N))
    z = post.maximize(torch.zeros(1, 4, dtype=torch.float64), 60, 1e-14)
    assert torch.allclose(z[0], mean[:4], atol=1e-6)
    root = post.laplace(z[0])
    C = torch.linalg.inv(H)
    assert torch.allclose(root @ root.mT, C[:4, :4], atol=1e-8)

    zs = z + torch.randn(30000, 4, generator=generator, dtype=torch.float64) @ root.mT
    x = places[m : m + 40]
    drawn = post.predict(zs, x, generator=generator).flatten(1)
    there = torch.cat([A[:, m : m + 40].reshape(80, 4),
                       known.modes[..., m : m + 40].flatten(1).mT], 1)  # fmt: skip
    wide = there @ C @ there.mT + known.rest[:, m : m + 40].flatten().square().diag()
    centre = there @ mean + known.mean[:, m : m + 40].flatten()
    assert float(((drawn.mean(0) - centre) / wide.diagonal().sqrt()).abs().max()) < 0.06
    assert float((torch.cov(drawn.mT) - wide).norm() / wide.norm()) < 0.06


def test_observations_of_one_field_share_its_discrepancy(places, linear, generator):
    """In parts, with σ of their own or roots of covariances, they say what they say together."""
    model, prior, _ = linear
    off = torch.cat([waves(places, 12, generator), waves(places, 12, generator)], 1)
    known = Discrepancy(places, off)
    value = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    sigma = 0.1 + torch.rand(2, 9, generator=generator, dtype=torch.float64)
    whole = Observation(places[:9], value.flatten(), sigma.flatten())
    parts = [Observation(places[k], value[:, k].flatten(), sigma[:, k].flatten().diag(), "u")
             for k in (slice(0, 5), slice(5, 9))]  # fmt: skip
    z = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    one, two, none = (
        Linear(model, prior, seen, discrepancy=d)
        for seen, d in ((whole, known), (parts, [known]), (whole, ()))
    )
    torch.testing.assert_close(one.energy(z), two.energy(z))
    assert not torch.allclose(one.energy(z), none.energy(z))
    torch.testing.assert_close(none.energy(z), Linear(model, prior, parts).energy(z))
    with pytest.raises(InputError, match="different ones"):
        Linear(model, prior, whole, discrepancy=[known, known])
    with pytest.raises(InputError, match="values for 9 points"):
        short = dataclasses.replace(whole, value=value[0], sigma=0.1)
        Linear(model, prior, short, discrepancy=known)


def test_forward_and_inverse_predictions(generator):
    """A real decoder in float32, sensors at a few points, chains and predictions at others."""
    problem = Darcy2D((8, 8), "mixed", (5.0, 10.0), count=5, points=3)
    model = DGNO(problem, DGNOConfig(**SMALL), generator=generator).requires_grad_(False)
    a = darcy_inputs(12, 8, (5.0, 10.0), generator=generator)
    model.fit_scales(a)
    x = problem.points(a)
    off = 0.01 * waves(x, 12, generator)
    known = Discrepancy(x, off)
    drawn = predict(model, a[:2], x[:5], 300, known, generator)
    assert drawn.shape == (300, 2, 1, 5)
    gap = drawn - model(a[:2], x[:5])
    assert torch.allclose(gap.std(0), known.std[:, :5].expand(2, -1, -1), rtol=0.2)
    assert float((gap.mean(0) - known.mean[:, :5]).abs().max()) < 0.2 * float(known.std.max())

    seen = Observation(x[::3], (model(a)[0, 0] + off[0, 0])[::3], 1e-3)
    post = Posterior(model, CubePrior(4), [seen], discrepancy=known)
    z = post.maximize(torch.zeros(1, 4))
    rho, J = post.jacobian(z)
    assert torch.allclose((J.mT @ rho[..., None])[..., 0], post.slope(z)[1], atol=1e-3)
    begin = z + 0.1 * torch.randn(2, 4, generator=generator)
    chains = hamiltonian(post.slope, begin, 6, 4, root=post.laplace(z[0]), generator=generator)
    found = post.predict(chains.flat(), generator=generator)
    assert found.shape == (12, 1, 64) and found.dtype == torch.float32
    flux = post.predict(chains.flat(), x[:4], of="s")  # nothing is known of what it is off by
    torch.testing.assert_close(flux, model.problem.observe(
        "s", model.decode(post.prior.code(chains.flat())), x[:4]))  # fmt: skip
    with pytest.raises(InputError, match='discrepancy of "s"'):
        predict(model, a, delta=known, of="s")


def test_what_is_refused(places, generator):
    off = waves(places, 5, generator)
    for wrong in (off[:1], off[..., :9], off[0, 0], off[:, :, None]):
        with pytest.raises(InputError, match="two references"):
            Discrepancy(places, wrong)
    with pytest.raises(InputError, match="finite"):
        Discrepancy(places, off * float("nan"))
    with pytest.raises(InputError, match=r"rank in \[0, 4\]"):
        Discrepancy(places, off, rank=5)
    with pytest.raises(InputError, match=r"points \(n, 2\)"):
        Discrepancy(places, off).draw(places[None])
