"""What a task is: a scene, actions, an objective, and a success in physical units.

A task is functional: `state = reset(seed)`, `state, reward = step(state, action)` with batched torch
tensors, so gradients flow from any reward to any action, and B candidates run as one scene batch.

    J(a) = Σ_t ℓ(x_t, t)  →  minimized over the actions a (T, A)
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ..sim.core.errors import InputError
from ..sim.core.rollout import Checkpoint, Rollout, rollout
from ..sim.core.state import State
from .registry import TASKS, register_task

__all__ = ["TASKS", "Task", "register_task", "task_by_name"]

S = TypeVar("S", bound=State)


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
    device: str | None = None
    """Where rollouts run; None: where their actions are."""
    search_defaults: Mapping[str, Mapping[str, Any]] = {}
    """Settings of optimizers that suit this task, by method, such as `{"gradient": {"lr": 0.1}}`;
    they replace the method's own defaults, and what a user passes replaces them."""
    solver: Any
    """Simulator or learned operator that `step` advances."""

    simulated_steps: int
    """Scenes × substeps that rollouts of this task have run, recomputation included."""

    def __init__(self, config: Any = None) -> None:
        self.config = self.Config() if config is None else config
        self.simulated_steps = 0

    @property
    def horizon(self) -> int:
        """Number of actions T."""
        return self.config.horizon

    @property
    def substeps(self) -> int:
        """Solver substeps per action; 1 for solvers that do not substep."""
        return int(getattr(getattr(self.solver, "config", None), "substeps", 1))

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
        """Named numbers about a state in physical units, each (B,); "distance" is what is left to the
        goal, where there is such a thing."""
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

    def step(self, state: S, action: Tensor, params: Any = None, t: int = 0) -> tuple[S, Tensor]:
        """One action: next state and reward −ℓ, (B,). Differentiable in state, action and params.

        Args:
            state: State before the action.
            action: (B, A) in `action_unit`.
            params: Solver parameters.
            t: Number of the action, for objectives that depend on time.
        """
        self._check_actions("step", action, ("B",))
        control = self.control(state, action)
        state = self.solver.step(state, control, self.params() if params is None else params)
        self.simulated_steps += state.batch_size * self.substeps
        return state, -self.loss(state, t)

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

        Raises:
            InputError: actions of the wrong shape, out of range or not finite.
        """
        if actions.ndim == 2:
            actions = actions.unsqueeze(0)
        if self.device is not None:
            actions = actions.to(self.device)
        self._check_actions("rollout", actions, ("B", "T"))
        if state is None:
            state = self.reset(
                batch_size=actions.shape[0], dtype=actions.dtype, device=actions.device
            )
        count = actions.shape[1] if horizon is None else min(horizon, actions.shape[1])

        def policy(t: int, state: S) -> Any:
            self.simulated_steps += state.batch_size * self.substeps
            return self.control(state, actions[:, t])

        return rollout(
            self.solver,
            state,
            (policy, count),
            self.params() if params is None else params,
            checkpoint=checkpoint,
            closes_over=[actions],
            save_every=save_every,
            on_step=on_step,
        )

    def evaluate(
        self,
        actions: Tensor,
        *,
        state: S | None = None,
        start: int = 0,
        horizon: int | None = None,
        params: Any = None,
        checkpoint: Checkpoint = "none",
    ) -> tuple[Tensor, S]:
        """Mean objective of a rollout, (1/n) Σ_t ℓ(x_t, t), (B,), and its final state.

        Args:
            actions: (T, A) or (B, T, A), in `action_unit`.
            state: Start; default `reset`.
            start: Number of the first action, where the rollout does not begin at 0.
            horizon: Stop after this many actions.
            params: Solver parameters.
            checkpoint: Memory policy of the backward pass.

        Differentiable in actions, state and params. Without gradients, only one state is kept.
        """
        options: dict[str, Any] = {"state": state, "params": params, "horizon": horizon}
        if torch.is_grad_enabled():
            run = self.rollout(actions, checkpoint=checkpoint, **options)
            pairs = zip(run.steps[1:], run.states[1:], strict=True)
            losses = [self.loss(s, start + step - 1) for step, s in pairs]
        else:
            losses = []
            every = max(1, actions.shape[-2])
            run = self.rollout(
                actions,
                save_every=every,
                on_step=lambda t, s: losses.append(self.loss(s, start + t)),
                **options,
            )
        if not losses:
            raise InputError(
                f"{type(self).__name__}.evaluate: at least one action; got none. "
                "Pass a horizon ≥ 1."
            )
        return torch.stack(losses).mean(0), run.final

    def total_loss(
        self, actions: Tensor, *, horizon: int | None = None, checkpoint: Checkpoint = "none"
    ) -> Tensor:
        """Mean of ℓ over the first `horizon` steps, (B,); the number optimizers minimize."""
        return self.evaluate(actions, horizon=horizon, checkpoint=checkpoint)[0]

    def _check_actions(self, where: str, actions: Tensor, axes: tuple[str, ...]) -> None:
        where = f"{type(self).__name__}.{where}"
        A = self.action_size
        if actions.ndim != len(axes) + 1 or actions.shape[-1] != A:
            raise InputError(
                f"{where}: actions of shape ({', '.join(axes)}, {A}); got "
                f"{tuple(actions.shape)}. Transpose or pad them."
            )
        values = actions.detach()
        if not bool(torch.isfinite(values).all()):
            raise InputError(
                f"{where}: finite actions; got {int((~torch.isfinite(values)).sum())} NaN or "
                "infinite values. Check what computed them."
            )
        limit = self.action_limit.to(actions)
        if bool((values.abs() > limit * (1 + 1e-5)).any()):
            raise InputError(
                f"{where}: |action| ≤ {self.action_limit.tolist()} {self.action_unit}; got "
                f"{values.abs().flatten(0, -2).amax(0).tolist()}. Clip them."
            )


def task_by_name(name: str, **overrides: Any) -> Task:
    """An instance of a registered task with some configuration fields changed.

    Raises:
        InputError: unknown task or field, naming what exists.
    """
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
