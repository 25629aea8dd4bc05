"""Reinforcement learning without gradients through the simulator: PPO and SAC of stable-baselines3.

    max_π E Σ_t γᵗ r_t,   r_t = −s ℓ(x_t);   s makes the first rewards of size 1

They see rewards only, which makes them the baseline of whatever differentiates, and the choice where a
simulator cannot be differentiated. Scenes run as one batch. Episodes are cut by time, so values count
beyond their end. Observations are normalized inside the policy by what has been seen.

Source: Schulman et al. 2017 (PPO); Haarnoja et al. 2018 (SAC); Raffin et al. 2021 (stable-baselines3).
"""

from __future__ import annotations

import abc
import dataclasses
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError
from ..core import Task
from .base import pack_state, unpack_state
from .policy import MLPPolicy, corrected
from .policy_search import PolicyConfig, PolicyOptimizer, _plain
from .records import Budget
from .rl_env import OwnRandom, extractor_class, normalizers, vector_env

__all__ = ["PPOConfig", "PPOOptimizer", "SACConfig", "SACOptimizer"]


@dataclasses.dataclass(frozen=True)
class RLConfig(PolicyConfig):
    """Settings that PPO and SAC share."""

    lr: float = 1e-3
    """Step of Adam."""
    gamma: float = 0.97
    """Discount per action [-]."""
    steps: int | None = None
    """Actions per scene and iteration; None: the horizon."""


@dataclasses.dataclass(frozen=True)
class PPOConfig(RLConfig):
    """Settings of `PPOOptimizer`."""

    batches: int = 4
    """Parts of a pass over what an iteration has collected."""
    epochs: int = 5
    """Passes over what an iteration has collected."""
    gae_lambda: float = 0.95
    """λ of the advantages [-]."""
    clip_range: float = 0.2
    """How far a policy's probabilities may move in an iteration [-]."""
    entropy: float = 0.0
    """Weight of the entropy bonus [-]."""
    log_std: float = -0.5
    """Logarithm of the exploration's first standard deviation, actions being in [−1, 1]."""


@dataclasses.dataclass(frozen=True)
class SACConfig(RLConfig):
    """Settings of `SACOptimizer`."""

    updates: int = 4
    """Gradient steps per action of all scenes."""
    batch: int = 128
    """Transitions per gradient step."""
    buffer: int = 100_000
    """Transitions that are remembered; they are part of every checkpoint."""
    warmup: int = 200
    """Transitions of random actions at first."""
    tau: float = 0.01
    """Rate of the target network per gradient step [-]."""


class ActorPolicy(nn.Module):
    """The deterministic part of a stable-baselines3 policy: observations (B, O) → actions (B, A)."""

    def __init__(self, actor: Any, action_limit: Tensor, nominal: Tensor | None = None) -> None:
        super().__init__()
        self.actor = actor
        self.register_buffer("action_limit", action_limit.clone())
        # Not a part of the weights that are kept: it never changes.
        self.register_buffer("nominal", nominal, persistent=False)

    def forward(self, observed: Tensor, noise: None = None, t: int | None = None) -> Tensor:
        self.actor.set_training_mode(False)
        unit = self.actor._predict(observed, deterministic=True).clamp(-1, 1)
        return self.action_limit * corrected(unit, self.nominal, self.action_limit, t)


class RLOptimizer(PolicyOptimizer):
    """Base of PPO and SAC: one iteration collects `steps` actions of all scenes and learns from them.

    Raises:
        ImportError: without the extra `rl`.
        InputError: settings out of their range.
    """

    config: RLConfig

    def __init__(
        self, task: Task, config: RLConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        c = config
        if not ((c.steps is None or c.steps >= 1) and c.lr > 0 and 0 <= c.gamma <= 1):
            raise InputError(
                f"{type(c).__name__}: steps ≥ 1 or none, lr > 0, gamma in [0, 1]; got {c.steps}, "
                f"{c.lr}, {c.gamma}. Correct them."
            )
        self.random = OwnRandom()
        with self.random, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # batches that do not divide, processors it would choose
            self.env = vector_env(self.task, c.envs, seed, self.nominal, c.pool)
            self.model = self._model()
            self.model.set_logger(_silent())
        actor = ActorPolicy(self.model.policy, self.limit, self.nominal)
        self._policy = actor.to(self.model.device)

    @abc.abstractmethod
    def _model(self) -> Any:
        """The algorithm of stable-baselines3."""

    def _common(self) -> dict[str, Any]:
        c = self.config
        return {
            "policy": "MlpPolicy",
            "env": self.env,
            "learning_rate": c.lr,
            "gamma": c.gamma,
            "seed": self.seed,
            "device": self.task.device or "cpu",
        }

    def _network(self) -> dict[str, Any]:
        return {
            "net_arch": list(self.config.hidden),
            "activation_fn": nn.ELU,
            "features_extractor_class": extractor_class(),
        }

    @property
    def policy(self) -> nn.Module:
        return self._policy

    @abc.abstractmethod
    def _actor_layers(self) -> tuple[list[nn.Module], str]:
        """Normalizer and linear layers from observations to actions in [−1, 1], and their bound."""

    def _final_policy(self) -> nn.Module:
        """The deterministic actor as a module that needs no library."""
        (normalizer, *linear), bound = self._actor_layers()
        size = linear[0].in_features
        hidden = [layer.out_features for layer in linear[:-1]]
        policy = MLPPolicy(size, self.limit, hidden, bound=bound, nominal=self.nominal)
        policy = policy.to(self.model.device)
        policy.normalizer.load_state_dict(normalizer.state_dict())
        own = [part for part in policy.layers if isinstance(part, nn.Linear)]
        for mine, theirs in zip(own, linear, strict=True):
            mine.load_state_dict(theirs.state_dict())
        return policy

    @property
    def _steps(self) -> int:
        return self.task.horizon if self.config.steps is None else self.config.steps

    def training_cost(self) -> int:
        return self._steps * self.config.envs * self.task.substeps

    def _train(self) -> tuple[float, float, int]:
        with self.random:
            self.model.learn(
                self._steps * self.config.envs, reset_num_timesteps=False, log_interval=None
            )
        losses, distance, seen = self.env.collected()
        with torch.no_grad():
            for part in normalizers(self.model.policy):
                part.update(seen.to(part.mean))
        return losses, distance, self._steps

    def _own_state(self) -> dict[str, Any]:
        parameters = self.model.get_parameters()
        variables = {n: getattr(self.model, n) for n in self.model._get_torch_save_params()[1]}
        return {
            **super()._own_state(),
            "parameters": _plain(parameters),
            "variables": _plain({k: v for k, v in variables.items() if v is not None}),
            "counters": [self.model.num_timesteps, self.model._episode_num, self.model._n_updates],
            "random": self.random.state(),
            "env": {**self.env.save(), "state": pack_state(self.env.inner.state)},
            "last": self._last(),
        }

    def _last(self) -> dict[str, Any] | None:
        if self.model._last_obs is None:
            return None
        begins = torch.from_numpy(self.model._last_episode_starts.copy())
        return {"observed": torch.from_numpy(self.model._last_obs.copy()), "begins": begins}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        self.model.set_parameters(_plain(state["parameters"]))
        with torch.no_grad():
            for name, value in state["variables"].items():
                getattr(self.model, name).copy_(value)
        counters = state["counters"]
        self.model.num_timesteps, self.model._episode_num, self.model._n_updates = counters
        self.random.load(state["random"])
        self.env.load(state["env"], unpack_state(self.task, state["env"]["state"]))
        if state["last"] is not None:
            self.model._last_obs = state["last"]["observed"].numpy().copy()
            self.model._last_episode_starts = state["last"]["begins"].numpy().copy()


class PPOOptimizer(RLOptimizer):
    """Proximal policy optimization; see the module docstring."""

    config: PPOConfig

    def _model(self) -> Any:
        from stable_baselines3 import PPO

        c = self.config
        if not (c.batches >= 1 and c.epochs >= 1 and self._steps * c.envs > 1):
            raise InputError(
                "PPOConfig: batches ≥ 1, epochs ≥ 1 and more than one transition per iteration; got "
                f"{c.batches}, {c.epochs}, {self._steps * c.envs}. Raise them."
            )
        return PPO(
            **self._common(),
            n_steps=self._steps,
            batch_size=max(2, math.ceil(self._steps * c.envs / c.batches)),
            n_epochs=c.epochs,
            gae_lambda=c.gae_lambda,
            clip_range=c.clip_range,
            ent_coef=c.entropy,
            policy_kwargs={**self._network(), "log_std_init": c.log_std},
        )

    def _actor_layers(self) -> tuple[list[nn.Module], str]:
        policy = self.model.policy
        linear = [p for p in policy.mlp_extractor.policy_net if isinstance(p, nn.Linear)]
        return [policy.features_extractor.normalizer, *linear, policy.action_net], "clip"


class SACOptimizer(RLOptimizer):
    """Soft actor-critic; see the module docstring."""

    config: SACConfig

    def _model(self) -> Any:
        from stable_baselines3 import SAC

        c = self.config
        if min(c.updates, c.batch, c.buffer) < 1:
            raise InputError(
                f"SACConfig: updates, batch, buffer ≥ 1; got {c.updates}, {c.batch}, {c.buffer}. "
                "Raise them."
            )
        return SAC(
            **self._common(),
            buffer_size=c.buffer,
            learning_starts=c.warmup,
            batch_size=c.batch,
            tau=c.tau,
            train_freq=1,
            gradient_steps=c.updates,
            policy_kwargs=self._network(),
        )

    def _actor_layers(self) -> tuple[list[nn.Module], str]:
        actor = self.model.actor
        linear = [part for part in actor.latent_pi if isinstance(part, nn.Linear)]
        return [actor.features_extractor.normalizer, *linear, actor.mu], "tanh"

    _ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")

    def _own_state(self) -> dict[str, Any]:
        memory = self.model.replay_buffer
        count = memory.buffer_size if memory.full else memory.pos
        arrays = {n: torch.from_numpy(getattr(memory, n)[:count].copy()) for n in self._ARRAYS}
        memory_state = {"pos": memory.pos, "full": memory.full, "arrays": arrays}
        return {**super()._own_state(), "memory": memory_state}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        memory, saved = self.model.replay_buffer, state["memory"]
        memory.pos, memory.full = saved["pos"], saved["full"]
        for name, tensor in saved["arrays"].items():
            getattr(memory, name)[: len(tensor)] = tensor.numpy()


def _silent() -> Any:
    from stable_baselines3.common.logger import Logger

    return Logger(folder=None, output_formats=[])
