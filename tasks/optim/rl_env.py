"""Scenes of a task as stable-baselines3 wants them, and randomness that belongs to one search only."""

from __future__ import annotations

import functools
import json
import logging
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...sim.core.errors import ConvergenceError, StabilityError, StateError
from ..core import Task
from .policy import Normalizer, starts

__all__ = ["OwnRandom", "extractor_class", "normalizers", "vector_env"]

logger = logging.getLogger(__name__)

PENALTY = -10.0
"""Reward of actions that break the simulation, in units of the first rewards [-]."""


class OwnRandom:
    """The global generators of Python, numpy and torch, lent to one search while it runs.

    The library draws from all three. Inside `with`, they continue this search's own sequence; outside,
    they are as they were.
    """

    def __init__(self) -> None:
        self._own = self._read()

    @staticmethod
    def _read() -> tuple[Any, Any, Tensor]:
        return random.getstate(), np.random.get_state(), torch.get_rng_state()

    @staticmethod
    def _write(state: tuple[Any, Any, Tensor]) -> None:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])

    def __enter__(self) -> OwnRandom:
        self._outside = self._read()
        self._write(self._own)
        return self

    def __exit__(self, *exception: object) -> None:
        self._own = self._read()
        self._write(self._outside)

    def state(self) -> dict[str, Any]:
        python, numbers, tensor = self._own
        name, keys, *rest = numbers
        as_text = json.dumps([python, [name, keys.tolist(), *rest]])
        return {"text": as_text, "torch": tensor.clone()}

    def load(self, state: dict[str, Any]) -> None:
        (version, words, spare), (name, keys, *rest) = json.loads(state["text"])
        numbers = (name, np.array(keys, np.uint32), *rest)
        self._own = ((version, tuple(words), spare), numbers, state["torch"].clone())


def _library() -> Any:
    try:
        import stable_baselines3
    except ImportError as error:
        raise ImportError(
            "PPOOptimizer, SACOptimizer: need the library stable-baselines3. Run "
            'pip install "rheograd[rl]".'
        ) from error
    return stable_baselines3


@functools.cache
def extractor_class() -> type:
    """Features extractor that normalizes observations; its statistics are part of the policy."""
    _library()
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Normalized(BaseFeaturesExtractor):
        def __init__(self, observation_space: Any) -> None:
            size = observation_space.shape[0]
            super().__init__(observation_space, size)
            self.normalizer = Normalizer(size)

        def forward(self, observed: Tensor) -> Tensor:
            return self.normalizer(observed)

    return Normalized


def normalizers(policy: nn.Module) -> list[Normalizer]:
    """All normalizers inside a policy; actor and critics may have one each."""
    return [part for part in policy.modules() if isinstance(part, Normalizer)]


@functools.cache
def _vector_env_class() -> type:
    _library()
    from stable_baselines3.common.vec_env import VecEnv

    from ..gym import TaskVectorEnv

    class TaskVecEnv(VecEnv):
        """A batch of scenes whose episodes begin and end together."""

        def __init__(
            self, task: Task, envs: int, seed: int, nominal: Tensor | None, pool: int | None
        ) -> None:
            self.inner: Any = TaskVectorEnv(task, envs)
            inner = self.inner
            super().__init__(envs, inner.single_observation_space, inner.single_action_space)
            limit = task.action_limit.cpu()
            self.nominal = None if nominal is None else (nominal.cpu() / limit).numpy()
            self.pool = pool
            if pool is None:
                inner.reset(seed=seed)
            else:  # only starts of the pool are ever made
                inner._np_random = np.random.default_rng(seed)
            self.reward_scale = 0.0
            self._losses: list[float] = []
            self._seen: list[np.ndarray] = []

        def reset(self) -> np.ndarray:
            inner = self.inner
            if self.pool is None:
                return inner.reset()[0]
            seeds = inner.np_random.integers(self.pool, size=self.num_envs)
            inner.state, inner.t = starts(inner.task, seeds.tolist()), 0
            return inner._observe()

        def step_async(self, actions: np.ndarray) -> None:
            self._actions = actions

        def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
            n, actions = self.num_envs, self._actions
            if self.nominal is not None:
                actions = np.clip(self.nominal[self.inner.t] + np.clip(actions, -1, 1), -1, 1)
            try:
                observed, rewards, _, ended, _ = self.inner.step(actions)
            except (ConvergenceError, StateError, StabilityError) as error:
                logger.warning("actions broke the simulation: %s", error)
                fresh = self.reset()
                gone: list[dict[str, Any]] = [{"terminal_observation": row} for row in fresh]
                return fresh, np.full(n, PENALTY), np.ones(n, bool), gone
            if not self.reward_scale:
                self.reward_scale = 1.0 / max(float(np.abs(rewards).mean()), 1e-12)
            self._losses.append(-float(rewards.mean()))
            self._seen.append(observed)
            infos: list[dict[str, Any]] = [{} for _ in range(n)]
            if ended.all():
                infos = [
                    {"terminal_observation": row, "TimeLimit.truncated": True} for row in observed
                ]
                observed = self.reset()
            return observed, self.reward_scale * rewards, ended, infos

        def collected(self) -> tuple[float, float, Tensor]:
            """Mean loss, mean distance now, and observations (n, O) since the last call."""
            losses, seen = self._losses, self._seen
            self._losses, self._seen = [], []
            width = self.observation_space.shape[0]
            rows = np.concatenate(seen) if seen else np.zeros((0, width), np.float32)
            ends = self.inner.task.metrics(self.inner.state).get("distance")
            distance = float("nan") if ends is None else float(ends.mean())
            loss = sum(losses) / len(losses) if losses else float("inf")
            return loss, distance, torch.from_numpy(rows)

        def save(self) -> dict[str, Any]:
            generators = (self.inner.np_random, self.action_space.np_random)
            return {
                "t": self.inner.t,
                "reward_scale": self.reward_scale,
                "random": json.dumps([g.bit_generator.state for g in generators]),
            }

        def load(self, saved: dict[str, Any], state: Any) -> None:
            self.inner.state, self.inner.t = state, saved["t"]
            self.reward_scale = saved["reward_scale"]
            generators = (self.inner.np_random, self.action_space.np_random)
            for generator, own in zip(generators, json.loads(saved["random"]), strict=True):
                generator.bit_generator.state = own

        def close(self) -> None:
            pass

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kw: Any) -> Any:
            return [getattr(self.inner, method_name)(*args, **kw)] * self.num_envs

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(self.inner, attr_name)] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            setattr(self.inner, attr_name, value)

    return TaskVecEnv


def vector_env(
    task: Task, envs: int, seed: int, nominal: Tensor | None = None, pool: int | None = None
) -> Any:
    """Scenes of a task for stable-baselines3.

    Args:
        task: Where.
        envs: Scenes.
        seed: Of the starts.
        nominal: Actions (T, A) to which those of the library are added, in the task's unit.
        pool: Different starts, seeds 0 to pool − 1; None: new ones in every episode.

    Raises:
        ImportError: without the extra `rl`.
    """
    return _vector_env_class()(task, envs, seed, nominal, pool)
