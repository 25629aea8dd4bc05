"""Gymnasium adapter: any task as an environment of reinforcement learning.

Actions are scaled to [−1, 1], rewards are −ℓ; an episode lasts `task.horizon` actions and is then
truncated. Needs the extra `rl`.

    TaskEnv(task, render_mode=None, **overrides)         a gymnasium.Env
    TaskVectorEnv(task, num_envs=1, **overrides)         a gymnasium.vector.VectorEnv

Importing this module registers every task with Gymnasium, "fluid/latte-art-nano" as

    gymnasium.make("rheograd/LatteArtNano-v0")           the task's fields are keywords
    gymnasium.make_vec("rheograd/LatteArtNano-v0", num_envs=64)
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np
import torch

from ..sim.core.errors import InputError
from . import fluid, shell, tactile  # noqa: F401  registers the built-in tasks
from .core import TASKS, Task, task_by_name

__all__ = ["TaskEnv", "TaskVectorEnv", "environment_name", "register_envs"]  # noqa: F822  made on demand, see `__getattr__`


class _TaskEnv:
    """One scene of a task.

    Args:
        task: A task, or the name of a registered one.
        render_mode: None, or "rgb_array".
        overrides: Configuration fields to change, with a name.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(self, task: Task | str, render_mode: str | None = None, **overrides: Any) -> None:
        self.task = _task(task, overrides)
        self.render_mode = render_mode
        self.state: Any = None
        self.t = 0
        size, observed = self.task.action_size, self._observe(self.task.reset())
        gymnasium = _gymnasium()
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, observed.shape, np.float32)
        self._renderer: Any = None

    def _observe(self, state: Any) -> np.ndarray:
        with torch.no_grad():
            return self.task.observation(state)[0].cpu().numpy().astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        start = int(self.np_random.integers(2**31))
        self.state, self.t = self.task.reset(seed=start), 0
        return self._observe(self.state), self._info()

    @torch.no_grad()
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.state is None:
            raise InputError("TaskEnv.step: a running episode; got none. Call reset() first.")
        scaled = torch.as_tensor(np.asarray(action, np.float32))[None] * self.task.action_limit
        self.state, reward = self.task.step(self.state, scaled, t=self.t)
        self.t += 1
        truncated = self.t >= self.task.horizon
        return self._observe(self.state), float(reward[0]), False, truncated, self._info()

    def _info(self) -> dict[str, Any]:
        numbers = {k: float(v[0]) for k, v in self.task.metrics(self.state).items()}
        return {**numbers, "is_success": bool(self.task.success(self.state)[0])}

    def render(self) -> np.ndarray | None:
        """Picture of the present state, (H, W, 3) uint8, with `render_mode="rgb_array"`."""
        if self.render_mode is None:
            return None
        if self.state is None:
            raise InputError("TaskEnv.render: a running episode; got none. Call reset() first.")
        from ..viz import FrameRenderer, scene_from_state

        if self._renderer is None:
            self._renderer = FrameRenderer((640, 400))
        if hasattr(self.task, "picture"):
            return self._renderer(self.task.picture(self.state))
        return self._renderer(scene_from_state(self.task.solver.model, self.state))

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class _TaskVectorEnv:
    """Many scenes of a task in one batch: one launch steps all of them.

    All episodes start and end together; the step after their end begins new ones and ignores its
    actions (autoreset mode NEXT_STEP).

    Args:
        task: A task, or the name of a registered one.
        num_envs: Scenes B.
        overrides: Configuration fields to change, with a name.
    """

    def __init__(self, task: Task | str, num_envs: int = 1, **overrides: Any) -> None:
        if num_envs < 1:
            raise InputError(
                f"TaskVectorEnv: num_envs ≥ 1; got {num_envs}. Give a number of scenes."
            )
        self.task, self.num_envs = _task(task, overrides), num_envs
        gymnasium = _gymnasium()
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
        size, width = self.task.action_size, self.task.observation(self.task.reset()).shape[1]
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        batch = gymnasium.vector.utils.batch_space
        self.action_space = batch(self.single_action_space, num_envs)
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.state: Any = None
        self.t = 0

    @torch.no_grad()
    def _observe(self) -> np.ndarray:
        return self.task.observation(self.state).cpu().numpy().astype(np.float32)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: Any = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if isinstance(seed, (list, tuple)):
            seeds = [self.np_random.integers(2**31) if s is None else s for s in seed]
            if len(seeds) != self.num_envs:
                raise InputError(
                    f"TaskVectorEnv.reset: {self.num_envs} seeds; got {len(seeds)}. One per scene."
                )
        else:
            super().reset(seed=seed)
            seeds = self.np_random.integers(2**31, size=self.num_envs)
        states = [self.task.reset(seed=int(s)) for s in seeds]
        self.state, self.t = type(states[0]).cat(states), 0
        return self._observe(), {}

    @torch.no_grad()
    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if self.state is None:
            raise InputError("TaskVectorEnv.step: running episodes; got none. Call reset() first.")
        no = np.zeros(self.num_envs, bool)
        if self.t >= self.task.horizon:
            observed, empty = self.reset()
            return observed, np.zeros(self.num_envs), no, no.copy(), empty
        scaled = torch.as_tensor(np.asarray(actions, np.float32)) * self.task.action_limit
        self.state, reward = self.task.step(self.state, scaled, t=self.t)
        self.t += 1
        info: dict[str, Any] = {k: v.numpy() for k, v in self.task.metrics(self.state).items()}
        info["is_success"] = self.task.success(self.state).numpy()
        ended = np.full(self.num_envs, self.t >= self.task.horizon)
        return self._observe(), reward.double().numpy(), no, ended, info


def environment_name(task: str) -> str:
    """Gymnasium's id of a registered task: "fluid/latte-art" → "rheograd/LatteArt-v0"."""
    words = task.rpartition("/")[2].replace("_", "-").split("-")
    return f"rheograd/{''.join(w[:1].upper() + w[1:] for w in words)}-v0"


def register_envs() -> list[str]:
    """Make every registered task known to `gymnasium.make` and `make_vec`; ids that exist stay.

    Returns:
        All ids. Importing this module calls it; call it again after `register_task`.
    """
    gymnasium, names = _gymnasium(), []
    for task in sorted(TASKS):
        names.append(environment_name(task))
        if names[-1] not in gymnasium.registry:
            gymnasium.register(
                names[-1],
                entry_point=f"{__name__}:TaskEnv",
                vector_entry_point=f"{__name__}:TaskVectorEnv",
                kwargs={"task": task},
            )
    return names


def __getattr__(name: str) -> Any:
    if name in ("TaskEnv", "TaskVectorEnv"):
        return _environment(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _environment(name: str) -> type:
    """The class on Gymnasium's base, which is an extra and so cannot be named when this loads."""
    gymnasium = _gymnasium()
    if name == "TaskEnv":
        body, base = _TaskEnv, gymnasium.Env
    else:
        body, base = _TaskVectorEnv, gymnasium.vector.VectorEnv
    return type(name, (body, base), {"__doc__": body.__doc__, "__module__": __name__})


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(
            'rheograd.tasks.gym: needs gymnasium. Run pip install "rheograd[rl]".'
        ) from error
    return gymnasium


def _task(task: Task | str, overrides: dict[str, Any]) -> Task:
    if isinstance(task, Task):
        if overrides:
            raise InputError(
                f"TaskEnv: overrides together with a task's name; got {sorted(overrides)} and a "
                "task. Configure the task itself."
            )
        return task
    return task_by_name(task, **overrides)


if importlib.util.find_spec("gymnasium") is not None:
    register_envs()
