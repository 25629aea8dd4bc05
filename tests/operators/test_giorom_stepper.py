"""Learned steppers of particles: symmetries, batches, gradients, sizes, losses and refusals."""

import dataclasses

import pytest
import torch
from rheograd.operators.data import ParticleBatch, Statistics, collate
from rheograd.operators.giorom import (
    GNS,
    ConstantVelocity,
    GioromConfig,
    GioromStepper,
    GNSConfig,
    StepperLoss,
    one_step_mse,
    random_walk_noise,
    rollout,
    rollout_mse,
    step,
)
from rheograd.operators.giorom.layers import (
    GridToParticles,
    InteractionLayer,
    LatentGrid,
    ParticlesToGrid,
)
from rheograd.operators.layers import scatter_mean
from rheograd.operators.train import Trainer, TrainerConfig
from rheograd.sim.core.errors import InputError, StateError

SIGMA_V, SIGMA_A, RADIUS = 1e-2, 2e-3, 0.2
TINY = GioromConfig(
    hidden=16,
    layers_in=1,
    layers_out=1,
    grid=4,
    ball=1.25,
    channels=8,
    width=16,
    heads=2,
    dropout=0.0,
)
TINY_GNS = GNSConfig(hidden=16, steps=3)


def sample(n=40, dim=3, seed=0, dtype=torch.float64, steps=0):
    """A smooth random motion of a cloud in a box whose sides differ."""
    g = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * torch.rand(n, 1, dim, generator=g, dtype=torch.float64)
    v = SIGMA_V * torch.randn(n, 1, dim, generator=g, dtype=torch.float64)
    t = torch.arange(6 + steps, dtype=torch.float64)[:, None]
    frames = x + v * t + 0.5 * SIGMA_A * torch.sin(40 * x) * t.square()
    low = torch.full((dim,), -0.1, dtype=torch.float64)
    high = 1 + 0.1 * torch.arange(dim, dtype=torch.float64)
    batch = ParticleBatch(
        positions=frames[:, :6],
        kind=torch.randint(5, 8, (n,), generator=g),
        scene=torch.zeros(n, dtype=torch.long),
        bounds=torch.stack([low, high], -1)[None],
        target=frames[:, 6:] if steps else None,
    )
    return batch.to(dtype)


def statistics(dim=3):
    one = torch.ones(dim, dtype=torch.float64)
    return Statistics(0.1 * SIGMA_V * one, SIGMA_V * one, 0.1 * SIGMA_A * one, SIGMA_A * one)


def build(kind="giorom", dim=3, dtype=torch.float64, seed=0, **changes):
    g = torch.Generator().manual_seed(seed)
    if kind == "gns":
        model = GNS(TINY_GNS, statistics(dim), RADIUS, dim, generator=g, **changes)
    else:
        config = dataclasses.replace(TINY, operator=kind == "giorom")
        model = GioromStepper(config, statistics(dim), RADIUS, dim, generator=g, **changes)
    return model.to(dtype)


KINDS = pytest.mark.parametrize("kind", ["giorom", "layers only", "gns"])
DIMS = pytest.mark.parametrize("dim", [2, 3])


@KINDS
@DIMS
def test_permuting_the_particles_permutes_the_accelerations(kind, dim):
    model, batch = build(kind, dim, torch.float32), sample(dim=dim, dtype=torch.float32)
    order = torch.randperm(batch.n, generator=torch.Generator().manual_seed(1))
    mixed = batch.replace(positions=batch.positions[order], kind=batch.kind[order])
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
    off = dataclasses.replace(GioromConfig.paper(), operator=False)
    assert count(GioromStepper(off, statistics(), 0.1, 3)) == 766_611
    assert count(GioromStepper(GioromConfig.small(), statistics(), 0.1, 3)) < 350_000


@KINDS
@DIMS
def test_gradient_of_a_rollout_in_the_window_agrees_with_differences(kind, dim):
    # 1e-8 m is 1e-6 of the velocities' deviation, so kinks of ReLU between the two values are rare;
    # rounding leaves 1e-16/1e-8.
    model, batch = build(kind, dim), sample(20, dim)
    g = torch.Generator().manual_seed(3)
    x = batch.positions.clone().requires_grad_()
    y = rollout(model, batch.replace(positions=x), 4)
    weight = torch.randn(y.shape, generator=g, dtype=y.dtype)
    (gradient,) = torch.autograd.grad((weight * y).sum(), x)

    def value(z):
        with torch.no_grad():
            return (weight * rollout(model, batch.replace(positions=z), 4)).sum()

    for _ in range(3):
        d = torch.randn(x.shape, generator=g, dtype=x.dtype)
        difference = (value(x + 1e-8 * d) - value(x - 1e-8 * d)) / 2e-8
        assert torch.allclose((gradient * d).sum(), difference, rtol=1e-5)


@KINDS
def test_checkpointed_rollout_has_the_same_numbers(kind):
    model, batch = build(kind), sample(20)
    results = []
    for checkpoint in (False, True):
        x = batch.positions.clone().requires_grad_()
        y = rollout(model, batch.replace(positions=x), 5, checkpoint=checkpoint)
        model.zero_grad()
        y.square().sum().backward()
        results.append(
            [y, x.grad, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        )
    assert len(results[0]) == len(results[1]) > 20
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_rollout_repeats_step_and_is_symplectic_euler():
    model, batch = build(), sample()
    y = rollout(model, batch, 3)
    for k in range(3):
        x, v = batch.positions[:, -1], batch.positions[:, -1] - batch.positions[:, -2]
        a = model(batch) * model.acceleration_std + model.acceleration_mean
        batch = step(model, batch)
        assert torch.allclose(batch.positions[:, -1], x + v + a, atol=1e-15, rtol=0)
        assert torch.equal(batch.positions[:, -1], y[:, k])


def test_free_flight_is_a_parabola_and_boundary_particles_stand_still():
    batch = sample(10)
    batch = batch.replace(kind=torch.tensor([3] + [5] * 9))
    gravity = torch.tensor([0.0, 0.0, -1e-3], dtype=torch.float64)
    y = rollout(ConstantVelocity(gravity), batch, 7)
    t = torch.arange(1, 8, dtype=torch.float64)[:, None]
    v = (batch.positions[:, -1] - batch.positions[:, -2])[:, None]
    exact = batch.positions[:, -1:] + v * t + gravity * t * (t + 1) / 2
    assert torch.allclose(y[1:], exact[1:], atol=1e-13, rtol=0)
    assert torch.equal(y[0], batch.positions[0, -1].expand(7, 3))
    still = rollout(ConstantVelocity(), batch, 1)
    assert torch.allclose(still[1:], (batch.positions[:, -1:] + v)[1:], atol=1e-15, rtol=0)
    with pytest.raises(InputError, match="one value per axis"):
        rollout(ConstantVelocity(gravity[:2]), batch, 1)


def test_errors_of_a_rollout_by_hand():
    batch = sample(4, steps=3)
    target = rollout(ConstantVelocity(), batch, 3)
    a = torch.tensor([1e-3, 0.0, 2e-3], dtype=torch.float64)
    model, batch = ConstantVelocity(a), batch.replace(target=target)
    assert torch.isclose(one_step_mse(model, batch), torch.tensor(5e-6, dtype=torch.float64))
    # Offsets a·(1, 3, 6) after one, two and three frames.
    expected = torch.tensor(5e-6 * (1 + 9 + 36) / 3, dtype=torch.float64)
    assert torch.isclose(rollout_mse(model, batch), expected)


def test_noise_is_a_random_walk_of_the_velocity():
    window = torch.zeros(20000, 6, 2, dtype=torch.float64)
    noise = random_walk_noise(window, 0.3, torch.Generator().manual_seed(0))
    assert (noise[:, 0] == 0).all()
    spread = noise.diff(dim=1).std(dim=(0, 2))
    expected = 0.3 * (torch.arange(1, 6, dtype=torch.float64) / 5).sqrt()
    # Standard error of a deviation from 40,000 numbers: 1/√80,000 = 0.35 %; five of them.
    assert torch.allclose(spread, expected, rtol=0.018)
    again = random_walk_noise(window, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(noise, again)


class Oracle:
    """The acceleration that restores the true velocity, whatever the window."""

    acceleration_std = torch.tensor(SIGMA_A, dtype=torch.float64)

    def __init__(self, batch):
        frames = torch.cat([batch.positions[:, -1:], batch.target], 1)
        self.truth, self.calls = frames.diff(dim=1), 0

    def acceleration(self, batch):
        self.calls += 1
        return self.truth[:, self.calls - 1] - batch.positions[:, -1] + batch.positions[:, -2]


@pytest.mark.parametrize("through_time", [False, True])
def test_loss_vanishes_for_the_consistent_target(through_time):
    batch = sample(steps=4)
    g = torch.Generator().manual_seed(0)
    loss = StepperLoss(noise=1e-3, steps=4, through_time=through_time)(Oracle(batch), batch, g)
    assert loss < 1e-20
    resting = ConstantVelocity()
    resting.acceleration_std = Oracle.acceleration_std
    one = StepperLoss()(resting, batch)
    frames = torch.cat([batch.positions, batch.target], 1)[:, 4:7]
    expected = (frames.diff(dim=1).diff(dim=1) / SIGMA_A).square().mean()
    assert torch.isclose(one, expected)


def test_push_forward_cuts_time_and_the_whole_gradient_agrees_with_differences():
    batch = sample(20, steps=3)
    model = build()
    weight = model.decode.layers[-1].bias
    gradients = {}
    for through in (False, True):
        loss = StepperLoss(steps=3, through_time=through)
        (gradients[through],) = torch.autograd.grad(loss(model, batch), weight)
    assert not torch.allclose(gradients[False], gradients[True], rtol=1e-2)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * 1e-6)
            values.append(StepperLoss(steps=3, through_time=True)(model, batch))
            weight.sub_(sign * 1e-6)
    difference = (values[0] - values[1]) / 2e-6
    assert torch.isclose(gradients[True].sum(), difference, rtol=1e-5)


def test_boundary_particles_count_in_no_loss():
    batch = sample(20, steps=1)
    batch = batch.replace(kind=torch.tensor([3] * 5 + [5] * 15))
    other = batch.target.clone()
    other[:5] += 1
    model, loss = build(), StepperLoss(noise=1e-3)
    values = [
        loss(model, batch.replace(target=t), torch.Generator().manual_seed(0))
        for t in (batch.target, other)
    ]
    assert torch.equal(*values)


@pytest.mark.parametrize(
    "kind, precision", [("giorom", "float32"), ("giorom", "bf16"), ("gns", "float32")]
)
def test_the_trainer_fits_a_motion(kind, precision):
    batch = sample(30, steps=2, dtype=torch.float32)
    model = build(kind, dtype=torch.float32)
    config = TrainerConfig(updates=80, lr=3e-3, optimizer="adamw", clip=1.0, precision=precision)
    before = StepperLoss(steps=2)(model, batch).item()
    Trainer(model, StepperLoss(steps=2), config).fit([batch])
    with torch.no_grad():
        assert StepperLoss(steps=2)(model, batch) < 0.1 * before
    # What was learned shows in what it is for: two frames of motion, against constant velocity.
    assert rollout_mse(model, batch) < 0.1 * rollout_mse(ConstantVelocity(), batch)


def test_a_prior_is_what_the_network_corrects():
    gravity = torch.tensor([0.0, 0.0, -5e-3], dtype=torch.float64)
    prior = ConstantVelocity(gravity).acceleration
    batch = sample(20)
    plain, corrected = build(), build(prior=prior)
    assert torch.equal(corrected(batch), plain(batch))
    difference = corrected.acceleration(batch) - plain.acceleration(batch)
    assert torch.allclose(difference, gravity.expand(20, 3), atol=1e-15, rtol=0)


def test_every_weight_receives_a_gradient_and_dropout_only_in_training():
    model, batch = build(), sample(steps=1)
    StepperLoss()(model, batch).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name
    config = dataclasses.replace(TINY, dropout=0.3)
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
    with pytest.raises(InputError, match="steps ≥ 1; got 0"):
        rollout(model, batch, 0)
    for run in (StepperLoss(), one_step_mse, rollout_mse):
        with pytest.raises(InputError, match="target of at least 1 frames; got none"):
            run(model, batch)
    with pytest.raises(InputError, match="target of at least 3 frames; got 2"):
        StepperLoss(steps=3)(model, sample(steps=2))
    with pytest.raises(StateError, match="at step 1"):
        rollout(Diverges(), batch, 4)


class Diverges:
    """Fine in the first step."""

    calls = 0

    def acceleration(self, batch):
        self.calls += 1
        return torch.full_like(batch.positions[:, -1], float("inf") if self.calls > 1 else 0.0)


def test_wrong_models_are_refused():
    with pytest.raises(InputError, match="dim 2 or 3; got 4"):
        GNS(TINY_GNS, statistics(), RADIUS, 4)
    with pytest.raises(InputError, match=r"statistics of 2 axes; got \(3,\)"):
        GioromStepper(TINY, statistics(), RADIUS, 2)
    with pytest.raises(InputError, match="radius > 0"):
        GioromStepper(TINY, statistics(), -0.1, 3)
    with pytest.raises(InputError, match="width a multiple of heads; got 16 and 3"):
        GioromStepper(dataclasses.replace(TINY, heads=3), statistics(), RADIUS, 3)
    with pytest.raises(InputError, match="noise ≥ 0"):
        StepperLoss(noise=-1)
    with pytest.raises(InputError, match="'mean' or 'sum'"):
        InteractionLayer(8, "max")
