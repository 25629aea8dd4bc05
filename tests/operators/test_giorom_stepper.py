"""Learned steppers of particles: symmetries, batches, the latent grid, sizes and refusals."""

import dataclasses

import pytest
import torch
from particle_clouds import DIMS, KINDS, RADIUS, TINY, TINY_GNS, build, sample, statistics
from rheograd.operators.data import collate
from rheograd.operators.giorom import (
    GNS,
    ConstantVelocity,
    GioromConfig,
    GioromStepper,
    StepperLoss,
    rollout,
)
from rheograd.operators.giorom.layers import (
    GridToParticles,
    InteractionLayer,
    LatentGrid,
    ParticlesToGrid,
)
from rheograd.operators.layers import scatter_mean
from rheograd.sim.core.errors import InputError, StateError


@KINDS
@DIMS
def test_permuting_the_particles_permutes_the_accelerations(kind, dim):
    model, batch = build(kind, dim, torch.float32), sample(dim=dim, dtype=torch.float32)
    order = torch.randperm(batch.n, generator=torch.Generator().manual_seed(1))
    mixed = batch.replace(
        positions=batch.positions[order],
        kind=batch.kind[order],
        reference=batch.reference[order],
    )
    a = model(batch)
    assert a.shape == (batch.n, dim) and a.std() > 1e-2
    assert torch.allclose(model(mixed), a[order], atol=1e-5, rtol=0)


@KINDS
@DIMS
def test_moving_particles_and_walls_by_one_cell_changes_nothing(kind, dim):
    model, batch = build(kind, dim), sample(dim=dim)
    low, high = batch.bounds[0].unbind(-1)
    cell = (high - low) / TINY.grid
    for shift in (cell * torch.eye(dim, dtype=cell.dtype)[0], 3.7 * cell):
        moved = batch.replace(
            positions=batch.positions + shift, bounds=batch.bounds + shift[:, None]
        )
        assert torch.allclose(model(moved), model(batch), atol=1e-9, rtol=0)
        single = model.float()(moved.to(torch.float32))
        assert torch.allclose(single, model(batch.to(torch.float32)), atol=1e-4, rtol=0)
        model.double()
    # The walls themselves do matter: the same particles further away from them move differently.
    away = batch.replace(bounds=batch.bounds + cell[:, None])
    assert (model(away) - model(batch)).abs().max() > 1e-3


@KINDS
def test_samples_of_a_batch_do_not_see_each_other(kind):
    model = build(kind, dtype=torch.float32)
    samples = [sample(n, seed=n, dtype=torch.float32) for n in (30, 17, 40)]
    samples[1] = samples[1].replace(bounds=samples[1].bounds * 1.5)
    together = model(collate(samples))
    apart = torch.cat([model(s) for s in samples])
    assert torch.allclose(together, apart, atol=1e-5, rtol=0)


@DIMS
def test_grid_pairs_are_all_pairs_within_the_ball(dim):
    batch = sample(25, dim)
    batch = collate([batch, batch.replace(bounds=batch.bounds + 0.31)])
    grid = LatentGrid(5, 1.9, dim)
    x = batch.positions[:, -1]
    pairs = grid.pairs(x, batch.scene, batch.bounds)
    low, high = batch.bounds.unbind(-1)
    unit = grid.coordinates(x)
    nodes = low[:, None] + (unit + 1) / 2 * (high - low)[:, None]
    u = (x[:, None] - nodes[batch.scene]) / ((high - low) / 5)[batch.scene][:, None]
    near = u.norm(dim=-1) <= 1.9
    expected = {(i, int(batch.scene[i]) * 5**dim + j) for i, j in near.nonzero().tolist()}
    assert set(zip(pairs.particle.tolist(), pairs.node.tolist(), strict=True)) == expected
    assert len(pairs.node) == len(expected)
    assert torch.allclose(
        pairs.offset, u[pairs.particle, pairs.node % 5**dim] / 1.9, atol=1e-12, rtol=0
    )


def test_smallest_ball_reaches_a_node_from_everywhere_inside():
    with pytest.raises(InputError, match="without a grid node"):
        LatentGrid(4, 0.86, 3)
    grid = LatentGrid(4, 0.5 * 3**0.5 + 1e-9, 3)
    x = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:8] = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    bounds = torch.tensor([[[0.0, 1.0]] * 3], dtype=torch.float64)
    pairs = grid.pairs(x, torch.zeros(2000, dtype=torch.long), bounds)
    assert torch.bincount(pairs.particle, minlength=2000).min() >= 1


def test_an_empty_ball_gives_zero_and_finite_gradients():
    torch.manual_seed(0)
    to, back = ParticlesToGrid(2, 3, 4).double(), GridToParticles(2, 4).double()
    grid = LatentGrid(6, 0.8, 2)
    x = torch.tensor([[0.1, 0.1], [5.0, 5.0]], dtype=torch.float64, requires_grad=True)
    bounds = torch.tensor([[[0.0, 1.0]] * 2], dtype=torch.float64)
    pairs = grid.pairs(x, torch.zeros(2, dtype=torch.long), bounds)
    f = to(torch.ones(2, 3, dtype=torch.float64), pairs, grid.nodes)
    filled = f.abs().sum(-1) > 0
    assert filled.sum() == len(pairs.node) and (f[~filled] == 0).all() and not filled.all()
    y = back(f + 1, pairs, 2)
    assert (y[1] == 0).all() and (y[0] != 0).all()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(gradient).all() and gradient[0].abs().min() > 0
    empty = scatter_mean(torch.ones(1, 2), torch.tensor([2]), 4)
    assert empty.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]


@KINDS
def test_a_lone_particle_outside_the_walls_moves_with_finite_gradients(kind):
    model, batch = build(kind), sample(1)
    x = (batch.positions + 3).requires_grad_()
    y = rollout(model, batch.replace(positions=x), 2)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.isfinite(y).all() and torch.isfinite(gradient).all()


def test_the_published_model_has_its_number_of_weights():
    def count(model):
        return sum(p.numel() for p in model.parameters())

    # Model cards say 2.39M; the sum over the released layers is 2,387,669.
    assert count(GioromStepper(GioromConfig.paper(), statistics(), 0.1, 3)) == 2_387_669
    off = dataclasses.replace(GioromConfig.paper(), bottleneck="none")
    assert count(GioromStepper(off, statistics(), 0.1, 3)) == 766_611
    assert count(GioromStepper(GioromConfig.small(), statistics(), 0.1, 3)) < 350_000


def test_the_undeformed_state_matters_to_edges_alone():
    model, batch = build("reference"), sample()
    moved = batch.replace(reference=batch.reference + 0.7)  # a rigid motion of it is not seen
    assert torch.allclose(model(moved), model(batch), atol=1e-9, rtol=0)
    bent = batch.replace(reference=batch.reference * 1.05)
    assert (model(bent) - model(batch)).abs().max() > 1e-3
    with pytest.raises(InputError, match="undeformed positions; got none"):
        model(batch.replace(reference=None))
    with pytest.raises(InputError, match=r"reference of shape \(40, 3\)"):
        batch.replace(reference=batch.reference[:, :2])
    with pytest.raises(InputError, match="all samples with a reference, or none"):
        collate([batch, batch.replace(reference=None)])


def test_the_density_on_the_grid_does_not_count_sensors():
    operator = build().operator
    seen = []
    operator.bottleneck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    batch = sample(400)
    x = torch.zeros(400, TINY.hidden, dtype=torch.float64)
    operator(x, batch)
    twice = collate([batch, batch]).replace(scene=torch.zeros(800, dtype=torch.long))
    operator(x.repeat(2, 1), twice.replace(bounds=batch.bounds))
    assert torch.allclose(*seen) and abs(float(seen[0].mean()) - 1) < 1e-12


def test_an_unknown_bottleneck_is_refused():
    with pytest.raises(InputError, match="convolution, attention or none; got 'fourier'"):
        GioromStepper(dataclasses.replace(TINY, bottleneck="fourier"), statistics(), 0.1, 3)


def test_a_prior_is_what_the_network_corrects():
    gravity = torch.tensor([0.0, 0.0, -5e-3], dtype=torch.float64)
    prior = ConstantVelocity(gravity).acceleration
    batch = sample(20)
    plain, corrected = build(), build(prior=prior)
    assert torch.equal(corrected(batch), plain(batch))
    difference = corrected.acceleration(batch) - plain.acceleration(batch)
    assert torch.allclose(difference, gravity.expand(20, 3), atol=1e-15, rtol=0)


@KINDS
def test_every_weight_receives_a_gradient(kind):
    model, batch = build(kind), sample(steps=1)
    StepperLoss()(model, batch).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


def test_dropout_only_in_training():
    batch = sample()
    config = dataclasses.replace(TINY, bottleneck="attention", dropout=0.3)
    model = GioromStepper(config, statistics(), RADIUS, 3).double()
    torch.manual_seed(0)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


def test_weights_survive_saving_and_another_radius_changes_the_graph():
    model, other, batch = build(seed=0), build(seed=1), sample()
    assert not torch.allclose(model(batch), other(batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(batch), other(batch))
    other.radius = 0.7 * RADIUS
    assert len(other.encode(batch).e) < len(model.encode(batch).e)


def test_wrong_batches_are_refused():
    model, batch = build(), sample()
    with pytest.raises(InputError, match=r"positions \(M, 6, 3\); got \(40, 6, 2\)"):
        model(sample(dim=2))
    with pytest.raises(InputError, match=r"got \(40, 5, 3\)"):
        model(batch.replace(positions=batch.positions[:, 1:]))
    with pytest.raises(InputError, match=r"kinds in \[0, 9\); got 9 to 9"):
        model(batch.replace(kind=torch.full((40,), 9)))
    with pytest.raises(InputError, match="got torch.float32"):
        model(batch.to(torch.float32))
    for wall in (batch.bounds.flip(-1), batch.bounds / 0):
        with pytest.raises(InputError, match="finite walls, lower below upper"):
            model(batch.replace(bounds=wall))
    broken = batch.positions.clone()
    broken[3, 2, 1] = float("nan")
    for call in (model, lambda b: rollout(model, b, 2)):
        with pytest.raises(StateError, match=r"positions.*first at \(3, 2, 1\)"):
            call(batch.replace(positions=broken))


def test_wrong_models_are_refused():
    with pytest.raises(InputError, match="dim 2 or 3; got 4"):
        GNS(TINY_GNS, statistics(), RADIUS, 4)
    with pytest.raises(InputError, match=r"statistics of 2 axes; got \(3,\)"):
        GioromStepper(TINY, statistics(), RADIUS, 2)
    with pytest.raises(InputError, match="radius > 0"):
        GioromStepper(TINY, statistics(), -0.1, 3)
    with pytest.raises(InputError, match="width a multiple of heads; got 16 and 3"):
        odd = dataclasses.replace(TINY, bottleneck="attention", heads=3)
        GioromStepper(odd, statistics(), RADIUS, 3)
    with pytest.raises(InputError, match="'mean' or 'sum'"):
        InteractionLayer(8, "max")
