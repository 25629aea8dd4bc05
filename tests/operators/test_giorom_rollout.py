"""Rollouts of particle models: integration, gradients, errors; the loss and its noise."""

import pytest
import torch
from particle_clouds import DIMS, KINDS, SIGMA_A, build, sample
from rheograd.operators.giorom import (
    ConstantVelocity,
    StepperLoss,
    one_step_mse,
    random_walk_noise,
    rollout,
    rollout_mse,
    step,
)
from rheograd.operators.train import Trainer, TrainerConfig
from rheograd.sim.core.errors import InputError, StateError


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
    "kind, precision", [("convolution", "float32"), ("convolution", "bf16"), ("gns", "float32")]
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


class Diverges:
    """Fine in the first step."""

    calls = 0

    def acceleration(self, batch):
        self.calls += 1
        return torch.full_like(batch.positions[:, -1], float("inf") if self.calls > 1 else 0.0)


def test_wrong_rollouts_and_losses_are_refused():
    model, batch = build(), sample()
    with pytest.raises(InputError, match="steps ≥ 1; got 0"):
        rollout(model, batch, 0)
    for run in (StepperLoss(), one_step_mse, rollout_mse):
        with pytest.raises(InputError, match="target of at least 1 frames; got none"):
            run(model, batch)
    with pytest.raises(InputError, match="target of at least 3 frames; got 2"):
        StepperLoss(steps=3)(model, sample(steps=2))
    with pytest.raises(StateError, match="at step 1"):
        rollout(Diverges(), batch, 4)
    with pytest.raises(InputError, match="noise ≥ 0"):
        StepperLoss(noise=-1)
