"""Inputs of the latent generative operator at scattered points: any number, order and resolution."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.operators.dgno import (
    DGNO,
    Burgers1D,
    Darcy2D,
    DGNOConfig,
    PointEncoder,
    Scattered,
    StokesCylinder,
    burgers_inputs,
    darcy_inputs,
    inflows,
    predict,
)
from rheograd.operators.train import Trainer, TrainerConfig
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.grid.pdes import Grid

SMALL = {"latent": 6, "width": 12, "depth": 3, "channels": 4, "encoder": "points", "anchors": 4}
BOX = Grid((8, 8), sides="dirichlet")


def samples(generator, sizes=(5, 9, 7)):
    """Points and positive values of several sizes."""
    made = []
    for n in sizes:
        x = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        made.append((x, 1 + torch.rand(n, generator=generator, dtype=torch.float64)))
    return made


def encoder(pool, **options):
    torch.manual_seed(0)
    return PointEncoder(BOX, 6, (16,), 4, pool=pool, **options).double()


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_order_and_padding_do_not_matter(pool, generator):
    net, given = encoder(pool), samples(generator)
    batch = net(Scattered.pad(given))
    for k, (x, v) in enumerate(given):
        alone = net(Scattered(x, v[None]))
        order = torch.randperm(len(v), generator=generator)
        assert torch.allclose(alone, batch[k : k + 1], rtol=0, atol=1e-14)
        assert torch.allclose(net(Scattered(x[order], v[None, order])), alone, rtol=0, atol=1e-14)
    padded = Scattered.pad(given)
    spoilt = Scattered(
        torch.where(padded.mask[..., None], padded.x, math.nan),
        torch.where(padded.mask, padded.value, math.inf),
        padded.mask,
    )
    assert torch.allclose(net(spoilt), batch, rtol=0, atol=1e-14)
    net(spoilt).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())
    twice = Scattered(torch.cat([given[0][0]] * 2), torch.cat([given[0][1]] * 2)[None])
    assert torch.allclose(net(twice), batch[:1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_gradients_of_the_point_encoder(pool, generator):
    net, given = encoder(pool), Scattered.pad(samples(generator))
    weight = torch.randn(3, 6, generator=generator, dtype=torch.float64)

    def f(tree):
        return (net(Scattered(tree["x"], tree["value"], given.mask)) * weight).sum()

    tree = {"x": given.x, "value": given.value}
    assert taylor_test(f, tree, eps0=1e-4, generator=generator).passed()
    start = {n: p.detach().clone() for n, p in net.named_parameters()}

    def g(weights):
        return (torch.func.functional_call(net, weights, (given,)) * weight).sum()

    assert taylor_test(g, start, eps0=1e-3, generator=generator).passed()


def problems(generator):
    darcy = {"count": 8, "points": 3}
    yield Darcy2D((8, 8), "primal", **darcy), lambda n: darcy_inputs(2, n, generator=generator)
    two = (5.0, 10.0)
    mixed = Darcy2D((8, 8), "mixed", two, **darcy)
    yield mixed, lambda n: darcy_inputs(2, n, two, generator=generator)
    yield Burgers1D(8, count=8, frames=3), lambda n: burgers_inputs(2, 4 * n, generator)[..., ::4]
    yield StokesCylinder(8, count=8), lambda n: inflows(2, n, generator)


def test_every_problem_takes_points_and_other_resolutions(generator):
    for problem, make in problems(generator):
        model = DGNO(problem, DGNOConfig(**SMALL, thin=0.5), generator=generator)
        model.fit_scales(make(8))
        x = problem.points(make(8))[:5]
        for cells in (8, 12):
            a = make(cells)
            assert model(a, x).shape[::2] == (2, 5)
            terms = model.loss({"a": a}, generator)
            terms["loss"].backward()
        known = problem.known(make(8))
        assert model(known, x).shape[::2] == (2, 5) and len(known) == 2
        assert model(known).shape == model(make(8)).shape
        assert predict(model, known, x, 2, generator=generator).shape[:2] == (2, 2)
        at, value = known.x.expand(2, -1, -1), known.value
        mask = torch.rand(value.shape, generator=generator) < 0.6
        mask[:, 0] = True
        rows = {"a": torch.where(mask, value, math.nan), "at": at, "mask": mask}
        terms = model.loss(rows, generator)
        assert math.isfinite(float(terms["loss"].detach()))
        model.zero_grad()
        terms["loss"].backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.encoder.parameters())


def test_input_terms_of_points_are_those_of_cells(generator):
    """All cells as points give the misfit of the field; masks give means over what is there."""
    for problem, make in problems(generator):
        model = DGNO(problem, DGNOConfig(**SMALL), generator=generator).double()
        a = make(8).double()
        model.fit_scales(a)
        beta = model.encode(a)
        known = problem.known(a)
        assert torch.allclose(model.misfit(beta, known), model.misfit(beta, a))
        mask = torch.zeros(known.value.shape, dtype=torch.bool)
        mask[:, :3] = True
        part = Scattered(known.x[:3], known.value[:, :3])
        full = Scattered(known.x, known.value, mask)
        assert torch.allclose(model.misfit(beta, full), model.misfit(beta, part))


def test_thinned_points(generator):
    given = Scattered.pad(samples(generator, (20, 40)))
    few = given.thin(0.5, generator)
    assert few.mask.sum(1).tolist() == [10, 20] and bool((given.mask | ~few.mask).all())
    assert given.thin(1e-6, generator).mask.sum(1).tolist() == [1, 1]
    shared = Scattered(given.x[1], given.value[1:]).thin(0.25, generator)
    assert shared.x.shape == (10, 2) and shared.value.shape == (1, 10)
    assert given.to(torch.float32).value.dtype == torch.float32
    with pytest.raises(InputError, match="share"):
        given.thin(0.0)


def test_a_trained_code_knows_the_function_not_its_samples(generator):
    """After a short training on 16² cells: 32² cells and 300 scattered points give nearly the same code,
    measured against how codes of different inputs differ."""
    torch.manual_seed(0)
    problem = Darcy2D((16, 16), "primal", count=20, points=3)
    config = DGNOConfig(
        8, 16, 3, channels=8, encoder="points", anchors=5, thin=0.3, weight_virtual=0.0
    )
    model = DGNO(problem, config, generator=generator)
    fine = darcy_inputs(48, 32, length=0.4, generator=generator)
    a = torch.exp(torch.nn.functional.avg_pool2d(fine.log(), 2))  # the same smooth functions
    model.fit_scales(a)

    class Batch(dict):
        def to(self, device):
            return self

    steps = TrainerConfig(updates=60, lr=5e-3, schedule="cosine", clip=1.0)
    batches = [Batch(a=part) for part in a.split(16)]
    first = float(model.misfit(model.encode(a), a).mean().detach())
    Trainer(model, lambda m, b, g: m.loss(b, g), steps).fit(batches)
    model.eval()
    with torch.no_grad():
        coarse, dense = model.encode(a), model.encode(fine)
        chosen = torch.randperm(1024, generator=generator)[:300]
        known = problem.known(fine)
        few = model.encode(Scattered(known.x[chosen], known.value[:, chosen]))
        assert float(model.misfit(coarse, a).mean()) < 0.5 * first
    spread = (coarse - coarse.mean(0)).square().sum(1).mean().sqrt()
    assert float((dense - coarse).square().sum(1).mean().sqrt() / spread) < 0.01
    assert float((few - coarse).square().sum(1).mean().sqrt() / spread) < 0.1


def test_wrong_points_are_named(generator):
    x, v = torch.rand(6, 2), torch.rand(3, 6)
    for bad in ((x, v[:, :5]), (x[None], v), (x.long(), v), (x, v[0])):
        with pytest.raises(InputError, match="one value per point"):
            Scattered(*bad)
    with pytest.raises(InputError, match="bool mask"):
        Scattered(x, v, torch.ones(3, 6))
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1] = False
    with pytest.raises(InputError, match="without any"):
        Scattered(x, v, mask)
    with pytest.raises(InputError, match="without any"):
        Scattered(x[:0], v[:, :0])
    with pytest.raises(InputError, match="finite values and points; got 1"):
        Scattered(x, v.index_fill(1, torch.tensor([2]), math.nan)[:1])
    with pytest.raises(InputError, match="finite values and points; got 2"):
        Scattered(x.index_fill(0, torch.tensor([2, 3]), math.inf), v)
    with pytest.raises(InputError, match="pad"):
        Scattered.pad([])
    with pytest.raises(InputError, match="pool"):
        PointEncoder(BOX, 6, pool="max")
    net = PointEncoder(BOX, 6)
    with pytest.raises(InputError, match="points .*, 2"):
        net(Scattered(torch.rand(6, 1), v))
    with pytest.raises(InputError, match="fields"):
        net(torch.rand(3, 1, 8))
    with pytest.raises(InputError, match="finite"):
        net(torch.full((1, 1, 8, 8), math.nan))
    problem = Darcy2D((8, 8), count=8, points=3)
    grid = DGNO(problem, DGNOConfig(latent=6, width=12, depth=3), generator=generator)
    with pytest.raises(InputError, match='encoder="points"'):
        grid(Scattered(x, 1 + v))
    with pytest.raises(InputError, match="decoded input"):
        grid.residuals(torch.zeros(3, 6), Scattered(x, 1 + v))
    with pytest.raises(InputError, match="thin"):
        DGNOConfig(thin=0.0)


@pytest.mark.parametrize("form", ["weak", "energy"])
def test_a_decoded_frame_at_rest_has_a_slope(form, generator):
    """Residuals in units of a decoded speed, where decoders start from 0 as published."""
    problem = Burgers1D(32, count=9, relative=True, form=form)
    config = DGNOConfig(latent=4, width=8, depth=3, channels=2, encoder="points", first_weight=0.0)
    model = DGNO(problem, config, generator=generator)
    a = torch.sin(torch.linspace(0, 6, 64)).reshape(2, 1, 32)
    model.fit_scales(a)
    at = problem.grid.points(a).reshape(1, -1, 1).expand(2, -1, -1)
    model.loss({"a": a[:, 0], "at": at}, generator)["loss"].backward()
    slopes = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in slopes)
    assert max(float(g.abs().max()) for g in slopes) > 0
