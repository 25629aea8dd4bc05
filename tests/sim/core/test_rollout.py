"""Rollouts: checkpoint policies give the same gradients with the promised memory and recomputation."""

from __future__ import annotations

import dataclasses
import gc
import math

import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.revolve import binomial_split
from rheograd.sim.core.rollout import rollout
from rheograd.sim.core.state import State
from torch import Tensor


@dataclasses.dataclass
class Oscillator(State):
    x: Tensor
    v: Tensor
    count: int = 0




class OscillatorSolver:
    """A nonlinear pendulum; counts its steps."""

    def __init__(self) -> None:
        self.calls: dict[int, int] = {}

    def prepare(self, params, state):
        return params

    def step(self, state: Oscillator, control, params) -> Oscillator:
        self.calls[state.count] = self.calls.get(state.count, 0) + 1
        force = -torch.sin(state.x) * params + (0 if control is None else control)
        v = state.v + 0.1 * force
        return Oscillator(state.x + 0.1 * v, v, state.count + 1)


def run(checkpoint: str, T: int = 37, save_every: int = 1000, snapshots: int | None = None):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    u = torch.randn(T, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    k = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    solver = OscillatorSolver()
    start = Oscillator(x, torch.zeros_like(x))
    result = rollout(
        solver, start, list(u), k, checkpoint=checkpoint, save_every=save_every, snapshots=snapshots
    )
    loss = sum((s.x**2).sum() for s in result.states[1:])
    return result, torch.autograd.grad(loss, (x, u, k)), solver


@pytest.mark.parametrize("save_every", [1, 5, 1000])
@pytest.mark.parametrize("policy", ["uniform", "revolve"])
def test_checkpointed_gradients_equal_stored_ones(policy: str, save_every: int) -> None:
    stored, expected, _ = run("none", save_every=save_every)
    result, grads, _ = run(policy, save_every=save_every)
    assert result.steps == stored.steps and result.final.count == stored.final.count == 37
    for a, b in zip(grads, expected, strict=True):
        # The same terms, but Revolve may add those of a shared parameter in another order.
        torch.testing.assert_close(a, b, rtol=1e-13 if policy == "revolve" else 0, atol=0)


def test_uniform_runs_every_step_twice_at_most() -> None:
    _, _, solver = run("uniform", T=100)
    assert max(solver.calls.values()) == 2


@pytest.mark.parametrize("T,s", [(10, 3), (56, 3), (100, 4), (37, 1)])
def test_revolve_repeats_no_step_more_often_than_the_binomial_bound(T: int, s: int) -> None:
    """With s snapshots a step runs at most r + 1 times, C(s + r, s) ≥ T (Griewank & Walther 2000)."""
    _, _, solver = run("revolve", T=T, snapshots=s)
    r = next(r for r in range(T + 1) if math.comb(s + r, s) >= T)
    assert max(solver.calls.values()) <= r + 1


@pytest.mark.parametrize("count", range(2, 60))
@pytest.mark.parametrize("snapshots", [1, 2, 3, 5])
def test_binomial_split_keeps_both_parts_within_their_bounds(count: int, snapshots: int) -> None:
    m = binomial_split(count, snapshots)
    r = next(r for r in range(count + 1) if math.comb(snapshots + r, snapshots) >= count)
    assert 1 <= m < count
    assert m <= math.comb(snapshots + r - 1, snapshots)
    assert count - m <= max(1, math.comb(snapshots + r - 1, snapshots - 1))


def test_policies_parameters_and_closures_get_gradients() -> None:
    gain = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    grads = []
    for checkpoint in ("none", "uniform", "revolve"):
        start = Oscillator(*(torch.ones(1, 1, dtype=torch.float64) for _ in range(2)))
        result = rollout(
            OscillatorSolver(),
            start,
            (lambda t, s: -gain * s.v, 20),
            1.0,
            checkpoint=checkpoint,
            save_every=20,
            closes_over=[gain],
        )
        grads.append(torch.autograd.grad(result.final.x.sum(), gain)[0])
    assert grads[0] != 0 and grads[0] == grads[1] == grads[2]


def test_progress_is_reported_once_per_step() -> None:
    seen: list[int] = []
    x = torch.ones(1, 1, requires_grad=True)
    result = rollout(
        *(OscillatorSolver(), Oscillator(x, torch.zeros(1, 1)), 12, 1.0),
        checkpoint="uniform",
        save_every=12,
        on_step=lambda t, s: seen.append(t),
    )
    result.final.x.sum().backward()
    assert seen == list(range(12))


def test_wrong_arguments() -> None:
    start = Oscillator(torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(ValueError, match="checkpoint"):
        rollout(OscillatorSolver(), start, 3, 1.0, checkpoint="some")
    with pytest.raises(ValueError, match="save_every"):
        rollout(OscillatorSolver(), start, 3, 1.0, save_every=0)
    with pytest.raises(TypeError, match="number of steps"):
        rollout(OscillatorSolver(), start, lambda t, s: None, 1.0)


class Leased(np.ndarray):
    """Memory whose release is noticed, so that a test can count what a backward pass holds."""

    live = 0
    peak = 0

    def __del__(self) -> None:
        Leased.live -= 1


def leased_copy(x: Tensor) -> Tensor:
    Leased.live += 1
    Leased.peak = max(Leased.peak, Leased.live)
    return torch.from_numpy(x.detach().numpy().copy().view(Leased))


class KeepsItsInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return leased_copy(1.01 * x)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 1.01 * g + 0 * x


class StoringSolver:
    def step(self, state: Oscillator, control, params) -> Oscillator:
        return state.replace(x=KeepsItsInput.apply(state.x))


@pytest.mark.parametrize("T", [64, 256, 1024])
def test_states_held_for_the_backward_pass(T: int) -> None:
    peaks = {}
    for policy in ("none", "uniform", "revolve"):
        gc.collect()
        Leased.peak = before = Leased.live
        x = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
        start = Oscillator(x, torch.zeros(3, 1, dtype=torch.float64))
        result = rollout(StoringSolver(), start, T, checkpoint=policy, save_every=T)
        result.final.x.sum().backward()
        peaks[policy] = Leased.peak - before
        del result
    assert peaks["none"] == T
    # Segments hold √T states while they are recomputed, beside √T snapshots.
    assert peaks["uniform"] <= 2 * math.isqrt(T) + 1
    # ⌈log2 T⌉ + 1 snapshots, the state being advanced and its successor.
    assert peaks["revolve"] <= math.ceil(math.log2(T)) + 4


def test_revolve_refuses_to_lose_a_gradient() -> None:
    gain = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    start = Oscillator(*(torch.ones(1, 1, dtype=torch.float64) for _ in range(2)))
    start = start.replace(x=start.x.requires_grad_())
    policy = (lambda t, s: -(2 * gain) * s.v, 20)
    result = rollout(
        OscillatorSolver(), start, policy, 1.0, checkpoint="revolve", save_every=20
    )
    with pytest.raises(InputError, match="closes_over"):
        result.final.x.sum().backward()


def test_revolve_runs_backward_twice() -> None:
    x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    start = Oscillator(x, torch.zeros(1, 1, dtype=torch.float64))
    result = rollout(OscillatorSolver(), start, 20, 1.0, checkpoint="revolve", save_every=20)
    (first,) = torch.autograd.grad(result.final.x.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(result.final.x.sum(), x)
    assert first == second != 0


def test_parameters_and_controls_made_from_one_another() -> None:
    grads = {}
    for policy in ("none", "uniform", "revolve"):
        root = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        gain = root**2
        controls = [gain.expand(1, 1)]
        for _ in range(8):
            controls.append(torch.sin(controls[-1]) * root)
        params = {"first": gain, "second": 3 * gain}

        class Solver(OscillatorSolver):
            def step(self, state, control, params):
                return super().step(state, control, params["first"] * params["second"])

        start = Oscillator(*(torch.ones(1, 1, dtype=torch.float64) for _ in range(2)))
        end = rollout(Solver(), start, controls, params, checkpoint=policy, save_every=9).final
        (grads[policy],) = torch.autograd.grad(end.x.sum(), root)
    assert grads["none"] != 0
    torch.testing.assert_close(grads["uniform"], grads["none"], rtol=1e-13, atol=0)
    torch.testing.assert_close(grads["revolve"], grads["none"], rtol=1e-13, atol=0)
