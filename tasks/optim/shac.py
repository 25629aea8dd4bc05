"""Short-horizon actor-critic: gradients through short windows, a learned value beyond them.

    actor   min_θ −(1/(B h)) Σ_b [ Σ_{t < h} γᵗ r_t + γʰ V'(o_h) ],   r_t = −s ℓ(x_t)
    critic  min_φ ‖V_φ(o_t) − R_t‖²,   R_t = r_t + γ ((1 − λ) V'(o_{t+1}) + λ R_{t+1}),   R_h = V'(o_h)
    target  V' ← α V' + (1 − α) V_φ

Windows keep gradients from growing with the length of the episode, and the value makes up for what they
cannot see. Episodes are cut by time, not ended, so the value counts there too. s makes the first rewards
of size 1.

Source: Xu et al. 2022 (SHAC), eqs. 3-7.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError
from ..core import Task
from .policy import ClosedLoop, mlp
from .policy_search import GradientPolicyConfig, GradientPolicyOptimizer, _plain
from .records import Budget

__all__ = ["SHACConfig", "SHACOptimizer", "td_lambda"]


@dataclasses.dataclass(frozen=True)
class SHACConfig(GradientPolicyConfig):
    """Settings of `SHACOptimizer`."""

    window: int | None = 16
    """Actions that a gradient goes through; None: the episode."""
    gamma: float = 0.97
    """Discount per action [-]."""
    lam: float = 0.95
    """λ of the critic's targets [-]."""
    critic_lr: float = 3e-3
    """Step of the critic's Adam."""
    critic_updates: int = 8
    """Passes of the critic over a window."""
    critic_batches: int = 4
    """Parts of a pass."""
    target_rate: float = 0.2
    """Share that the target keeps per window, α [-]."""


class SHACOptimizer(GradientPolicyOptimizer):
    """Short-horizon actor-critic; see the module docstring.

    Raises:
        InputError: rates outside [0, 1], counts below 1.
    """

    config: SHACConfig

    def __init__(
        self, task: Task, config: SHACConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        c = config
        rates = (c.gamma, c.lam, c.target_rate)
        if not all(0 <= r <= 1 for r in rates) or min(c.critic_updates, c.critic_batches) < 1:
            raise InputError(
                "SHACConfig: gamma, lam, target_rate in [0, 1] and critic_updates, critic_batches "
                f"≥ 1; got {rates}, {c.critic_updates}, {c.critic_batches}. Correct them."
            )
        generator = torch.Generator().manual_seed(seed + 1)
        sizes = (self.observation_size, *c.hidden, 1)
        self.critic: nn.Module = mlp(sizes, 1.0, generator).to(self.task.device or "cpu")
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_adam = torch.optim.Adam(
            self.critic.parameters(), lr=c.critic_lr, betas=(0.7, 0.95)
        )
        self.reward_scale = 0.0

    def _value(self, network: nn.Module, observed: Tensor) -> Tensor:
        return network(self._policy.normalizer(observed)).squeeze(-1)

    def _objective(self, run: ClosedLoop, end: bool) -> Tensor:
        if not self.reward_scale:
            self.reward_scale = 1.0 / max(float(run.losses.detach().abs().mean()), 1e-12)
        rewards, h = -self.reward_scale * run.losses, len(run.losses)
        discount = self.config.gamma ** torch.arange(h).to(rewards)
        last = self.config.gamma**h * self._value(self.target, run.observations[-1])
        return -(discount @ rewards + last).mean() / h

    def _after(self, run: ClosedLoop, end: bool) -> None:
        c, observed = self.config, run.observations
        with torch.no_grad():
            values = self._value(self.target, observed)
            goals = td_lambda(-self.reward_scale * run.losses, values, c.gamma, c.lam).flatten()
        seen = observed[:-1].flatten(0, 1)
        for _ in range(c.critic_updates):
            order = torch.randperm(len(seen), generator=self.generator).to(seen.device)
            for part in order.chunk(c.critic_batches):
                error = self._value(self.critic, seen[part]) - goals[part]
                self.critic_adam.zero_grad()
                error.square().mean().backward()
                nn.utils.clip_grad_norm_(self.critic.parameters(), c.clip)
                self.critic_adam.step()
        with torch.no_grad():
            pairs = zip(self.target.parameters(), self.critic.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 1 - c.target_rate)

    def _own_state(self) -> dict[str, Any]:
        own = {
            "critic": self._copy(self.critic.state_dict()),
            "target": self._copy(self.target.state_dict()),
            "critic_adam": _plain(self.critic_adam.state_dict()),
            "reward_scale": self.reward_scale,
        }
        return {**super()._own_state(), "shac": own}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        own = state["shac"]
        self.critic.load_state_dict(own["critic"])
        self.target.load_state_dict(own["target"])
        self.critic_adam.load_state_dict(_plain(own["critic_adam"]))
        self.reward_scale = own["reward_scale"]


def td_lambda(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Targets R_t = r_t + γ ((1 − λ) V_{t+1} + λ R_{t+1}) with R_h = V_h, (h, B).

    Args:
        rewards: r_0 … r_{h−1}, (h, B).
        values: V_0 … V_h, (h + 1, B).
        gamma: Discount [-].
        lam: 0: one step and a value; 1: all rewards and the last value [-].

    Source: Sutton & Barto 2018, §12.1; Xu et al. 2022, eq. 6.
    """
    target, out = values[-1], []
    for reward, following in zip(rewards.flip(0), values[1:].flip(0), strict=True):
        target = reward + gamma * ((1 - lam) * following + lam * target)
        out.append(target)
    return torch.stack(out[::-1])
