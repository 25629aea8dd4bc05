"""What a task is: a scene, actions, an objective, and a success in physical units.

A task is functional: `state = reset(seed)`, `state, reward = step(state, action)` with batched torch
tensors, so gradients flow from any reward to any action, and B candidates run as one scene batch.

    J(a) = Σ_t ℓ(x_t, t)  →  minimized over the actions a (T, A)
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ..sim.core.errors import InputError
from ..sim.core.rollout import Checkpoint, Rollout, rollout
from ..sim.core.state import State

__all__ = ["TASKS", "Task", "register_task", "task_by_name"]

S = TypeVar("S", bound=State)
TASKS: dict[str, Callable[[], type[Task]]] = {}
"""Registered tasks: name → function that imports and returns the class."""


class Task(abc.ABC, Generic[S]):
    """Base of all tasks.

    A subclass builds `self.solver` and gives `reset`, `control`, `loss` and `success`. Its configuration
    is a frozen dataclass, so the command line can show and override every field.
    """

    Config: ClassVar[type]
    """Frozen dataclass with `horizon`, and whatever the scene needs."""
    action_size: int
    """Numbers per action A."""
    action_limit: Tensor
    """Largest absolute value per action component, (A,), in the unit `action_unit`."""
    action_unit: str = "m/s"
    solver: Any
    """Simulator or learned operator that `step` advances."""

    def __init__(self, config: Any = None) -> None:
        self.config = self.Config() if config is None else config

    @property
    def horizon(self) -> int:
        """Number of actions T."""
        return self.config.horizon

    @abc.abstractmethod
    def reset(
        self,
        *,
        batch_size: int = 1,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> S:
        """Initial state of B equal scenes; the same seed gives the same state."""

    @abc.abstractmethod
    def control(self, state: S, action: Tensor) -> Any:
        """Solver control of one action (B, A)."""

    @abc.abstractmethod
    def loss(self, state: S, t: int) -> Tensor:
        """Objective ℓ of the state after action t, (B,). Differentiable in the state."""

    @abc.abstractmethod
    def success(self, state: S) -> Tensor:
        """Whether each scene has reached the goal, (B,) bool; the criterion is in physical units."""

    def metrics(self, state: S) -> dict[str, Tensor]:
        """Named numbers about a state in physical units, each (B,)."""
        return {}

    def observation(self, state: S) -> Tensor:
        """What a policy sees, (B, O); flat and of fixed size."""
        raise NotImplementedError

    def initial_actions(self) -> Tensor:
        """Where optimizers start, (T, A); standing still unless a task knows better."""
        return torch.zeros(self.horizon, self.action_size)

    def params(self) -> Any:
        """Parameters of the solver; None: the model's own."""
        return None

    def step(self, state: S, action: Tensor, params: Any = None) -> tuple[S, Tensor]:
        """One action: next state and reward −ℓ, (B,). Differentiable in state, action and params."""
        state = self.solver.step(state, self.control(state, action), params or self.params())
        return state, -self.loss(state, 0)

    def rollout(
        self,
        actions: Tensor,
        *,
        state: S | None = None,
        params: Any = None,
        horizon: int | None = None,
        checkpoint: Checkpoint = "none",
        save_every: int = 1,
        on_step: Callable[[int, S], None] | None = None,
    ) -> Rollout[S]:
        """Run actions (T, A) or (B, T, A) from a state (default: reset).

        Args:
            actions: Actions in `action_unit`; values beyond `action_limit` are an error.
            state: Start.
            params: Solver parameters.
            horizon: Stop after this many actions.
            checkpoint: Memory policy of the backward pass.
            save_every: Keep every k-th state.
            on_step: Called with (t, state).
        """
        if actions.ndim == 2:
            actions = actions.unsqueeze(0)
        if actions.ndim != 3 or actions.shape[2] != self.action_size:
            raise InputError(
                f"{type(self).__name__}.rollout: actions of shape (T, {self.action_size}) or "
                f"(B, T, {self.action_size}); got {tuple(actions.shape)}. Transpose or pad them."
            )
        limit = self.action_limit.to(actions)
        if bool((actions.detach().abs() > limit * (1 + 1e-5)).any()):
            raise InputError(
                f"{type(self).__name__}.rollout: |action| ≤ {self.action_limit.tolist()} "
                f"{self.action_unit}; got {actions.detach().abs().amax((0, 1)).tolist()}. Clip them."
            )
        if state is None:
            state = self.reset(
                batch_size=actions.shape[0], dtype=actions.dtype, device=actions.device
            )
        count = min(horizon or actions.shape[1], actions.shape[1])
        policy = (lambda t, s: self.control(s, actions[:, t]), count)
        return rollout(
            self.solver,
            state,
            policy,
            params or self.params(),
            checkpoint=checkpoint,
            save_every=save_every,
            on_step=on_step,
        )

    def total_loss(
        self, actions: Tensor, *, horizon: int | None = None, checkpoint: Checkpoint = "none"
    ) -> Tensor:
        """Mean of ℓ over the first `horizon` steps, (B,); the number optimizers minimize."""
        run = self.rollout(actions, horizon=horizon, checkpoint=checkpoint)
        losses = [self.loss(s, t) for t, s in zip(run.steps[1:], run.states[1:], strict=True)]
        return torch.stack(losses).mean(0)


def register_task(name: str, loader: Callable[[], type[Task]]) -> None:
    """Make a task known to the registry and the command line.

    Args:
        name: e.g. "fluid/gathering".
        loader: Returns the class; called when the task is asked for, so listing stays fast.
    """
    TASKS[name] = loader


def task_by_name(name: str, **overrides: Any) -> Task:
    """An instance of a registered task with some configuration fields changed.

    Raises:
        InputError: unknown task or field, naming what exists.
    """
    from . import fluid  # noqa: F401  registers the built-in tasks

    if name not in TASKS:
        raise InputError(f"task_by_name: one of {sorted(TASKS)}; got {name!r}. See `rheograd list`.")
    cls = TASKS[name]()
    fields = {f.name for f in dataclasses.fields(cls.Config)}
    unknown = sorted(set(overrides) - fields)
    if unknown:
        raise InputError(
            f"task_by_name: fields of {name!r} out of {sorted(fields)}; got {unknown}. Correct them."
        )
    return cls(cls.Config(**overrides))
