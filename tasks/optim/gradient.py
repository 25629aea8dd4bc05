"""Gradient through time: Adam on the table of actions, with a temporally expanding horizon.

    g = ∇_a (1/n) Σ_{t < T_k} ℓ(x_t, t);   a ← clip(a − Adam(g));   T_k grows when progress ends

Early actions decide what late ones can do, and the gradient through a long flow is large and rough;
so the objective first covers a short horizon, which grows whenever it has been optimized. With
`window` < 1, actions that lie further before its end are frozen, and rollouts start behind them, so an
iteration costs at most `window`; when the full horizon has converged, all actions are released. Steps
get shorter from stage to stage, so that a new one does not undo what the last has found.

Source: Xian et al. 2023 (FluidLab), optimization schemes; Kingma & Ba 2015 (Adam).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, StabilityError, StateError
from ...sim.core.rollout import Checkpoint
from ..core import Task
from .base import Budget, Optimizer, distances

__all__ = ["GradientConfig", "GradientOptimizer"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class GradientConfig:
    """Settings of `GradientOptimizer`."""

    lr: float = 0.2
    """First step of Adam in units of `action_limit` [-]; five steps cross half of the range."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of Adam's averages [-]."""
    eps: float = 0.1
    """Entries of the gradient below this share of the largest move less than `lr` [-]. Adam's usual
    1e-8 moves actions that hardly matter as far as those that do."""
    expand: bool = True
    """Expanding horizon; False optimizes the full horizon from the start."""
    start: float = 0.5
    """First horizon, as a share of the task's [-]."""
    growth: float = 0.25
    """Growth of the horizon, as a share of the task's [-]."""
    window: float = 1.0
    """Share of the task's horizon before the current end that is optimized; older rows wait. With
    less than 1, iterations of long tasks get cheaper."""
    patience: int = 4
    """Iterations without progress that end a stage."""
    progress: float = 0.02
    """Least relative decrease of the loss that counts as progress [-]."""
    decay: float = 0.5
    """Factor of the step at the end of a stage, and when the full horizon no longer improves [-]."""
    lr_min: float = 0.005
    """Step at which the search has converged, in units of `action_limit` [-]."""
    noise: float = 0.0
    """Standard deviation of a random change of the initial actions, in units of `action_limit` [-]."""
    checkpoint: Checkpoint = "none"
    """Memory policy of the backward pass."""


class GradientOptimizer(Optimizer):
    """Adam through the simulator; see the module docstring.

    Raises:
        InputError: shares outside (0, 1], non-positive steps.
    """

    def __init__(
        self, task: Task, config: GradientConfig, budget: Budget, seed: int = 0
    ) -> None:
        super().__init__(task, config, budget, seed)
        for name in ("start", "growth", "window"):
            if not 0 < getattr(config, name) <= 1:
                raise InputError(
                    f"GradientConfig: {name} in (0, 1] of the horizon; got "
                    f"{getattr(config, name)}. Give a share."
                )
        if not (config.lr > 0 and 0 < config.decay < 1 and config.patience >= 1):
            raise InputError(
                f"GradientConfig: lr > 0, decay in (0, 1), patience ≥ 1; got {config.lr}, "
                f"{config.decay}, {config.patience}. Correct them."
            )
        T = task.horizon
        self.limit = task.action_limit.to(torch.float32)
        actions = task.initial_actions().to(torch.float32).clone()
        if config.noise:
            generator = torch.Generator().manual_seed(seed)
            actions += config.noise * self.limit * torch.randn(actions.shape, generator=generator)
        self.actions = self._clip(actions)
        self.end = max(1, round(config.start * T)) if config.expand else T
        self.begin = 0
        self.lr = config.lr
        self._new_stage()

    def _new_stage(self) -> None:
        """Forget Adam's averages and the best loss: they belong to another objective."""
        self.best_loss, self.stalled, self.moment_count = math.inf, 0, 0
        self.stage_best = self.actions.clone()
        self.moments = torch.zeros(2, *self.actions.shape)

    def _clip(self, actions: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(actions, -self.limit), self.limit)

    @property
    def best_actions(self) -> Tensor:
        return self.stage_best

    def next_cost(self) -> int:
        length = self.end - self.begin
        runs = 2 if self.config.checkpoint == "uniform" else 1
        if self.config.checkpoint == "revolve":
            runs = 1 + math.ceil(math.log2(max(2, length)))
        return math.ceil(length * self.task.substeps * (runs + self.budget.adjoint_cost))

    def _iterate(self) -> tuple[float, float, int]:
        """Loss and gradient at the present actions, then a step or the next stage."""
        end = self.end
        start = self._start_state()
        table = self.actions[self.begin : end].clone().requires_grad_()
        try:
            with torch.enable_grad():
                loss, final = self.task.evaluate(
                    table,
                    state=start,
                    start=self.begin,
                    checkpoint=self.config.checkpoint,
                )
                (gradient,) = torch.autograd.grad(loss.sum(), table)
            self._adjoint_steps += (end - self.begin) * self.task.substeps
            value, distance = float(loss.detach()[0]), distances(self.task, final)[0]
        except (StateError, StabilityError) as error:
            if math.isinf(self.best_loss):
                raise
            logger.warning("gradient: the step of %.3g went too far: %s", self.lr, error)
            self._retreat()
            return math.inf, math.nan, end
        if not bool(torch.isfinite(gradient).all()):
            raise StateError(
                "GradientOptimizer: a finite gradient; got NaN or infinity in "
                f"{int((~torch.isfinite(gradient)).sum())} of {gradient.numel()} entries. "
                "Shorten the horizon or soften contacts."
            )
        if value < (1 - self.config.progress) * self.best_loss:
            self.stalled = 0
        else:
            self.stalled += 1
        if value < self.best_loss:
            self.best_loss, self.stage_best = value, self.actions.clone()
        if self.stalled >= self.config.patience:
            self._advance()
        else:
            self._adam(gradient)
        return value, distance, end

    def _adam(self, gradient: Tensor) -> None:
        b1, b2 = self.config.betas
        rows = slice(self.begin, self.end)
        self.moment_count += 1
        self.moments[0, rows] += (1 - b1) * (gradient - self.moments[0, rows])
        self.moments[1, rows] += (1 - b2) * (gradient.square() - self.moments[1, rows])
        mean = self.moments[0] / (1 - b1**self.moment_count)
        scale = (self.moments[1] / (1 - b2**self.moment_count)).sqrt()
        # Relative to the largest entry, so that units of the loss do not matter.
        step = mean / (scale + self.config.eps * scale.max() + 1e-30)
        self.actions = self._clip(self.actions - self.lr * self.limit * step)

    def _advance(self) -> None:
        """The stage has ended: grow the horizon, release the frozen rows, or refine the step."""
        c, T = self.config, self.task.horizon
        self.actions = self.stage_best.clone()
        if self.end < T:
            self.end = min(T, self.end + max(1, round(c.growth * T)))
            self.begin = max(0, self.end - max(1, round(c.window * T)))
            self.lr *= c.decay
            self._new_stage()
        elif self.begin > 0:
            self.begin = 0
            self._new_stage()
        else:
            self._retreat()

    def _retreat(self) -> None:
        """From the best actions with a shorter step."""
        self.actions, self.stalled, self.moment_count = self.stage_best.clone(), 0, 0
        self.moments = torch.zeros_like(self.moments)
        self.lr *= self.config.decay
        self.converged = self.lr < self.config.lr_min

    def _start_state(self) -> Any:
        """State before row `begin`; frozen rows are run once."""
        if self.begin == 0:
            return None
        frozen = self.actions[: self.begin]
        done, state = getattr(self, "_prefix", (frozen[:0], None))
        if len(done) > len(frozen) or not torch.equal(done, frozen[: len(done)]):
            done, state = frozen[:0], None
        if len(done) < len(frozen):
            with torch.no_grad():
                run = self.task.rollout(
                    frozen[len(done) :], state=state, save_every=len(frozen)
                )
            self._prefix = (frozen.clone(), run.final)
        return self._prefix[1]

    def _own_state(self) -> dict[str, Any]:
        names = ("end", "begin", "lr", "best_loss", "stalled", "moment_count")
        tensors = ("actions", "stage_best", "moments")
        numbers = {name: getattr(self, name) for name in names}
        return {**numbers, **{name: getattr(self, name).clone() for name in tensors}}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)
