"""Closed-loop policies: a small network from observations to actions, and the loop around it.

    a_t = action_limit · clip(n_t + b(MLP((o_t − μ)/σ))),   x_{t+1} = step(x_t, a_t),   b = tanh or clip

n are actions that are known beforehand, which the policy corrects; none unless it is given them.

Gradients flow from any loss of the states through the simulator and the network to its weights.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError
from ..core import Task

__all__ = ["ClosedLoop", "MLPPolicy", "Normalizer", "closed_loop", "mlp", "starts"]


class Normalizer(nn.Module):
    """Mean and variance of everything seen, as buffers; maps (B, O) to unit scale.

        μ, σ² by Chan's update of batches;   y = clip((o − μ)/√(σ² + 10⁻⁸), ±10)

    Args:
        size: Numbers per observation O.

    Source: Chan, Golub & LeVeque 1983 (updating formulae for the variance).
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.zeros(size))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def update(self, observed: Tensor) -> None:
        """Take observations (B, O) into the statistics."""
        n = len(observed)
        total, mean = self.count + n, observed.mean(0)
        away = mean - self.mean
        self.square += (observed - mean).square().sum(0) + away**2 * self.count * n / total
        self.mean += away * n / total
        self.count.copy_(total)

    def forward(self, observed: Tensor) -> Tensor:
        if not self.count:
            return observed
        # What has hardly varied carries no information; 1e-8 would blow rounding errors up.
        floor = 1e-8 + 1e-6 * self.mean.square()
        scale = (self.square / self.count + floor).sqrt()
        return ((observed - self.mean) / scale).clamp(-10, 10)


def mlp(sizes: Sequence[int], gain: float, generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ELU between them, orthogonal weights, zero biases.

    Args:
        sizes: Widths from input to output.
        gain: Factor on the last layer's weights [-].
        generator: Draws the weights.
    """
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
        last = k == len(sizes) - 2
        # Made without values, which would be drawn from the global generator.
        layer = nn.utils.skip_init(nn.Linear, a, b)
        nn.init.orthogonal_(layer.weight, gain if last else 2**0.5, generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer] if last else [layer, nn.ELU()]
    return nn.Sequential(*layers)


class MLPPolicy(nn.Module):
    """Multilayer perceptron with normalized inputs and bounded outputs.

    Args:
        observation_size: Numbers per observation O.
        action_limit: Largest absolute actions, (A,).
        hidden: Widths of the hidden layers.
        seed: Of the weights.
        bound: "tanh", or "clip" to [−1, 1], which has no gradient beyond.
        nominal: Actions (T, A) that the policy corrects, so that it begins with them.

    Raises:
        InputError: another bound.

    Differentiable in observations and weights.
    """

    action_limit: Tensor
    nominal: Tensor | None

    def __init__(
        self,
        observation_size: int,
        action_limit: Tensor,
        hidden: Sequence[int] = (64, 64),
        seed: int = 0,
        bound: str = "tanh",
        nominal: Tensor | None = None,
    ) -> None:
        super().__init__()
        if bound not in ("tanh", "clip"):
            raise InputError(f'MLPPolicy: bound "tanh" or "clip"; got {bound!r}. Choose one.')
        self.bound = bound
        generator = torch.Generator().manual_seed(seed)
        self.sizes = (observation_size, *hidden, len(action_limit))
        self.register_buffer("action_limit", action_limit.detach().to("cpu", torch.float32).clone())
        known = None if nominal is None else nominal.detach().to("cpu", torch.float32).clone()
        self.register_buffer("nominal", known)
        self.normalizer = Normalizer(observation_size)
        # Small at first: a policy that does nearly nothing breaks nothing.
        self.layers = mlp(self.sizes, 0.01, generator)

    def forward(
        self, observed: Tensor, noise: Tensor | None = None, t: int | None = None
    ) -> Tensor:
        """Actions (B, A) of observations (B, O); `noise` (B, A) is added before the bound. A policy with
        nominal actions needs the number t of the action."""
        raw = self.layers(self.normalizer(observed))
        raw = raw if noise is None else raw + noise
        unit = raw.tanh() if self.bound == "tanh" else raw.clamp(-1, 1)
        return self.action_limit * corrected(unit, self.nominal, self.action_limit, t)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy to one file."""
        from ...sim.io import save_checkpoint

        config = {"policy": "mlp", "sizes": list(self.sizes), "bound": self.bound}
        save_checkpoint(path, self, config)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MLPPolicy:
        """The policy that `save` wrote."""
        from ...sim.io import load_checkpoint

        saved = load_checkpoint(path)
        sizes, bound = saved.config["sizes"], saved.config["bound"]
        limit, nominal = saved.tensors["action_limit"], saved.tensors.get("nominal")
        policy = cls(sizes[0], limit, sizes[1:-1], bound=bound, nominal=nominal)
        policy.load_state_dict(saved.tensors)
        return policy


def corrected(unit: Tensor, nominal: Tensor | None, limit: Tensor, t: int | None) -> Tensor:
    """clip(n_t + u) in units of the limits, (B, A); u where there are no nominal actions.

    Args:
        unit: u, (B, A).
        nominal: Actions (T, A) in the task's unit, or none.
        limit: Of the actions, (A,).
        t: Number of the action; beyond the last one, the last one holds.

    Raises:
        InputError: nominal actions without t.
    """
    if nominal is None:
        return unit
    if t is None:
        raise InputError(
            "MLPPolicy: the number t of the action, as this policy corrects nominal actions; got "
            "none. Call policy(observed, t=t), or use closed_loop."
        )
    return (nominal[min(t, len(nominal) - 1)] / limit + unit).clamp(-1, 1)


@dataclasses.dataclass
class ClosedLoop:
    """What a policy did."""

    losses: Tensor
    """ℓ after each action, (n, B)."""
    actions: Tensor
    """(n, B, A)."""
    observations: Tensor
    """What the policy saw, and the last observation, (n + 1, B, O)."""
    final: Any
    """State after the last action."""


def closed_loop(
    task: Task,
    policy: Callable[..., Tensor],
    state: Any = None,
    *,
    start: int = 0,
    count: int | None = None,
    noise: Callable[[], Tensor] | None = None,
) -> ClosedLoop:
    """Let a policy act.

    Args:
        task: Where; its steps are counted.
        policy: Observations (B, O) → actions (B, A) in the task's unit; with nominal actions, it is
            told t as well.
        state: Start; default `task.reset()`.
        start: Number of the first action.
        count: Actions; default up to the horizon.
        noise: Draws what is handed to the policy as second argument.

    Differentiable in the state and the weights of the policy.
    """
    state = task.reset(device=task.device or "cpu") if state is None else state
    count = task.horizon - start if count is None else count
    losses, actions, observations = [], [], [task.observation(state)]
    for t in range(start, start + count):
        observed = observations[-1]
        told = {} if getattr(policy, "nominal", None) is None else {"t": t}
        action = policy(observed, **told) if noise is None else policy(observed, noise(), **told)
        state, reward = task.step(state, action, t=t)
        losses.append(-reward)
        actions.append(action)
        observations.append(task.observation(state))
    return ClosedLoop(torch.stack(losses), torch.stack(actions), torch.stack(observations), state)


def starts(task: Task, seeds: Sequence[int]) -> Any:
    """One scene per seed, as one batch; a task with `starts(seeds)` makes them together."""
    if hasattr(task, "starts"):
        return task.starts(seeds).to(device=task.device or "cpu")
    states = [task.reset(seed=s, device=task.device or "cpu") for s in seeds]
    return type(states[0]).cat(states)
