"""What searches for closed-loop policies share: starts, validation, the best so far, unseen starts.

Starts for training are drawn from seeds below 10⁶; the best policy is chosen by validation seeds and
reported on test seeds, which nothing else sees. All of it is simulated and counts.
"""

from __future__ import annotations

import abc
import dataclasses
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import ConvergenceError, InputError, StabilityError, StateError
from ..core import Task
from .base import Optimizer, distances, pack_state, unpack_state
from .policy import ClosedLoop, MLPPolicy, closed_loop, starts
from .records import Budget

__all__ = ["GradientPolicyConfig", "GradientPolicyOptimizer", "PolicyConfig", "PolicyOptimizer"]

logger = logging.getLogger(__name__)

TRAIN_SEEDS, VALIDATION_SEEDS, TEST_SEEDS = 1_000_000, 2_000_000, 3_000_000


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """Settings that all searches for policies share."""

    envs: int = 8
    """Scenes that run at once."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the policy's hidden layers."""
    evaluate_every: int = 10
    """Iterations between validations."""
    validation: int = 4
    """Starts that choose the best policy."""
    tests: int = 8
    """Unseen starts that the result is reported on."""
    residual: bool = False
    """Policies correct the actions where searches start instead of acting from nothing."""
    pool: int | None = None
    """Different starts for training; None: new ones in every episode."""


class PolicyOptimizer(Optimizer):
    """Base of searches for policies.

    Raises:
        InputError: counts below 1.
    """

    config: PolicyConfig

    def __init__(
        self, task: Task, config: PolicyConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        c = config
        pool = TRAIN_SEEDS if c.pool is None else c.pool
        if min(c.envs, c.evaluate_every, c.validation, c.tests, pool) < 1:
            raise InputError(
                f"{type(c).__name__}: envs, evaluate_every, validation, tests and pool ≥ 1; got "
                f"{c.envs}, {c.evaluate_every}, {c.validation}, {c.tests}, {c.pool}. Raise them."
            )
        self.pool = min(pool, TRAIN_SEEDS)
        self.nominal = self.start_actions() if c.residual else None
        self.best_loss, self.best_weights = math.inf, None
        self._validated = -1

    @property
    @abc.abstractmethod
    def policy(self) -> nn.Module:
        """The present policy, observations (B, O) → actions (B, A)."""

    @abc.abstractmethod
    def training_cost(self) -> int:
        """Simulator steps of the coming iteration, without validation."""

    @abc.abstractmethod
    def _train(self) -> tuple[float, float, int]:
        """One update; loss, distance, horizon."""

    def next_cost(self) -> int:
        return self.training_cost() + self._validation_due() * self._validation_cost()

    def _validation_due(self) -> bool:
        return (self.iteration + 1) % self.config.evaluate_every == 0

    def _validation_cost(self) -> int:
        return self.config.validation * self.rollout_cost

    @property
    def final_cost(self) -> int:
        # Validation of the last policy, tests, its actions from the usual start, their rollout.
        return (self.config.validation + self.config.tests + 2) * self.rollout_cost

    def _iterate(self) -> tuple[float, float, int]:
        due = self._validation_due()
        row = self._train()
        if due:
            self._validate()
        return row

    @torch.no_grad()
    def _judge(self, task: Task, first_seed: int, count: int) -> tuple[float, float, float]:
        """Mean loss, distance and success of the present policy on `count` starts."""
        state = starts(task, [first_seed + k for k in range(count)])
        try:
            run = closed_loop(task, self.policy, state)
        except (ConvergenceError, StateError, StabilityError) as error:
            logger.warning("a policy broke the simulation: %s", error)
            return math.inf, math.nan, 0.0
        ends = distances(task, run.final)
        success = float(task.success(run.final).double().mean())
        return float(run.losses.mean()), sum(ends) / len(ends), success

    def _validate(self) -> None:
        loss = self._judge(self.task, VALIDATION_SEEDS, self.config.validation)[0]
        self._validated = self.iteration
        if loss < self.best_loss or self.best_weights is None:
            self.best_loss, self.best_weights = loss, self._copy(self.policy.state_dict())

    @staticmethod
    def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.detach().cpu().clone() for k, v in state.items()}

    @property
    def best_actions(self) -> Tensor:
        """What the task starts from: a policy's actions are known when it has acted."""
        return self.start_actions()

    @torch.no_grad()
    def _conclude(self) -> tuple[Tensor, dict[str, Any]]:
        if self.best_weights is None or self._validated != self.iteration - 1:
            self._validate()
        self.policy.load_state_dict(self.best_weights)
        loss, distance, success = self._judge(self.judge, TEST_SEEDS, self.config.tests)
        count = float(self.config.tests)
        unseen = {"loss": loss, "distance": distance, "success": success, "count": count}
        run = closed_loop(self.judge, self.policy)
        return self.clamp(run.actions[:, 0].cpu()), {
            "policy": self._final_policy(),
            "unseen": unseen,
        }

    def _final_policy(self) -> nn.Module:
        """What the result holds, with the weights of the present policy."""
        return self.policy

    def _own_state(self) -> dict[str, Any]:
        best = None if self.best_weights is None else self._copy(self.best_weights)
        return {
            "best_loss": self.best_loss,
            "best_weights": best,
            "validated": self._validated,
        }

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self.best_loss, self._validated = state["best_loss"], state["validated"]
        best = state["best_weights"]
        self.best_weights = None if best is None else self._copy(best)


@dataclasses.dataclass(frozen=True)
class GradientPolicyConfig(PolicyConfig):
    """Settings of policy searches that differentiate through the simulator."""

    window: int | None = None
    """Actions that a gradient goes through; None: the episode. The next window starts where this one
    ended."""
    lr: float = 1e-2
    """Step of Adam."""
    clip: float = 1.0
    """Bound on the norm of the gradient of the weights."""
    noise: float = 0.0
    """Standard deviation of exploration noise before the bound of the actions [-]."""


class GradientPolicyOptimizer(PolicyOptimizer):
    """Base of policy gradients through the simulator: scenes, windows, Adam on an `MLPPolicy`.

    Raises:
        InputError: a window below 1, non-positive steps.
    """

    config: GradientPolicyConfig

    def __init__(
        self,
        task: Task,
        config: GradientPolicyConfig,
        budget: Budget,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        c = config
        if not ((c.window is None or c.window >= 1) and c.lr > 0 and c.clip > 0 and c.noise >= 0):
            raise InputError(
                f"{type(c).__name__}: window ≥ 1 or none, lr > 0, clip > 0, noise ≥ 0; got "
                f"{c.window}, {c.lr}, {c.clip}, {c.noise}. Correct them."
            )
        self.generator = torch.Generator().manual_seed(seed)
        place = self.task.device or "cpu"
        self.observation_size = self.task.observation(self.task.reset(device=place)).shape[1]
        size, nominal = self.observation_size, self.nominal
        self._policy = MLPPolicy(size, self.limit, c.hidden, seed, nominal=nominal).to(place)
        self.adam = torch.optim.Adam(self._policy.parameters(), lr=c.lr, betas=(0.7, 0.95))
        self.state: Any = None
        self.t = 0

    @property
    def policy(self) -> nn.Module:
        return self._policy

    def _length(self) -> int:
        left = self.task.horizon - self.t
        return left if self.config.window is None else min(self.config.window, left)

    def training_cost(self) -> int:
        each = self._length() * self.task.substeps * (1 + self.budget.adjoint_cost)
        return math.ceil(self.config.envs * each)

    @abc.abstractmethod
    def _objective(self, run: ClosedLoop, end: bool) -> Tensor:
        """What the window's gradient descends on; `end`: the episode ends with it."""

    def _after(self, run: ClosedLoop, end: bool) -> None:
        """Learn from a window, without gradients through the simulator."""

    def _train(self) -> tuple[float, float, int]:
        c, length = self.config, self._length()
        if self.state is None:
            draw = torch.randint(self.pool, (c.envs,), generator=self.generator)
            self.state = starts(self.task, draw.tolist())
        first, end = self.t, self.t + length == self.task.horizon
        self.t, state = (self.t + length) % self.task.horizon, self.state
        noise = None
        if c.noise:
            shape = (c.envs, self.task.action_size)

            def noise() -> Tensor:
                drawn = c.noise * torch.randn(shape, generator=self.generator)
                return drawn.to(self.task.device or "cpu")

        try:
            with torch.enable_grad():
                run = closed_loop(
                    self.task, self._policy, state, start=first, count=length, noise=noise
                )
                loss = self._objective(run, end)
                weights = list(self._policy.layers.parameters())
                gradients = torch.autograd.grad(loss, weights)
        except (ConvergenceError, StateError, StabilityError) as error:
            if self.best_weights is None:
                raise
            self._retreat(error)
            return math.inf, math.nan, length
        self._adjoint_steps += c.envs * length * self.task.substeps
        norm = torch.stack([g.norm() for g in gradients]).norm()
        if not bool(torch.isfinite(norm)):
            error = StateError(
                f"{type(self).__name__}: a finite gradient; got NaN or infinity. Shorten the window."
            )
            if self.best_weights is None:
                raise error
            self._retreat(error)
            return math.inf, math.nan, length
        share = min(1.0, c.clip / (float(norm) + 1e-30))
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient * share
        self.adam.step()
        run = dataclasses.replace(
            run, losses=run.losses.detach(), observations=run.observations.detach()
        )
        self._after(run, end)
        self._policy.normalizer.update(run.observations[:-1].flatten(0, 1))
        self.state = None if end else run.final.detach()
        ends = distances(self.task, run.final)
        return float(run.losses.mean()), sum(ends) / len(ends), length

    def _retreat(self, error: Exception) -> None:
        """From the best policy with shorter steps, and new starts."""
        logger.warning("%s: an update went too far: %s", type(self).__name__, error)
        self._policy.load_state_dict(self.best_weights)
        self.state, self.t = None, 0
        for group in self.adam.param_groups:
            group["lr"] *= 0.5

    def _own_state(self) -> dict[str, Any]:
        return {
            **super()._own_state(),
            "weights": self._copy(self._policy.state_dict()),
            "adam": _plain(self.adam.state_dict()),
            "generator": self.generator.get_state(),
            "state": pack_state(self.state),
            "t": self.t,
        }

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        self._policy.load_state_dict(state["weights"])
        self.adam.load_state_dict(_plain(state["adam"]))
        self.generator.set_state(state["generator"])
        self.state, self.t = unpack_state(self.task, state["state"]), state["t"]


def _plain(value: Any) -> Any:
    """A copy of nested containers with tensors cloned, so that going on does not change it."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value.detach().clone() if isinstance(value, Tensor) else value
