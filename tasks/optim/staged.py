"""Several optimizers in a row, each from where the one before ended, under one budget.

    limit of stage k = what is left · share_k / Σ_{j ≥ k} share_j

What a stage leaves over goes to the next. At the end of a stage its best actions are verified on the
task itself, where the stage has not run them there anyway, and the best verified ones win.
"""

from __future__ import annotations

import abc
import dataclasses
import logging
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import ConvergenceError, StabilityError, StateError
from ..core import Task
from .base import Optimizer
from .records import Budget, Record

__all__ = ["StagedOptimizer"]

logger = logging.getLogger(__name__)


class StagedOptimizer(Optimizer):
    """Base of optimizers that run others in stages.

    A subclass gives `shares` before it calls `super().__init__`, and `_make`.
    """

    shares: tuple[float, ...]
    """Share of the budget per stage [-]; they need not add up to 1."""

    def __init__(
        self, task: Task, config: Any, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(task, config, budget, seed, **options)
        self.stage = 0
        self.best_loss = math.inf
        self._best = self.start_actions()
        self._finished = ""
        self._forward_before: int | None = None
        self._inner: Optimizer
        self._begin(self._best)

    @abc.abstractmethod
    def _make(self, stage: int, initial: Tensor, budget: Budget) -> Optimizer:
        """Optimizer of a stage; `executor` and `seed` are at hand as attributes."""

    def _begin(self, initial: Tensor) -> None:
        """Start the present stage, or a later one that can afford an iteration."""
        while True:
            self._granted = self._stage_budget()
            self._inner = self._make(self.stage, initial, self._granted)
            reason = self._inner.exhausted()
            if not reason:
                return
            if self._over(reason):
                self._finished = reason
                return
            logger.warning("stage %d cannot afford an iteration; skipped", self.stage)
            self._inner.close()
            self.stage += 1

    def _stage_budget(self) -> Budget:
        """This stage's part of what is left; its final evaluation is the verification."""
        share = self._share()

        def part(limit: float | None, spent: float) -> Any:
            return None if limit is None else share * max(0.0, limit - spent)

        b, (steps, turns) = self.budget, self._spent()
        granted = part(b.simulator_steps, steps + self.final_cost)
        if granted is not None and not self.verifies:
            # Stages set it aside for a final evaluation, which is not run.
            granted += self.rollout_cost
        iterations = part(b.iterations, turns)
        return dataclasses.replace(
            b,
            simulator_steps=None if granted is None else math.floor(granted),
            wall_s=part(b.wall_s, self.wall_s),
            iterations=None if iterations is None else round(iterations),
        )

    def _share(self) -> float:
        """The present stage's share of what is left [-]."""
        return self.shares[self.stage] / sum(self.shares[self.stage :])

    def _over(self, reason: str) -> bool:
        """Whether the search ends with the present stage, which has ended for `reason`."""
        return self.stage + 1 == len(self.shares)

    def _spent(self) -> tuple[int, int]:
        """Simulator steps and iterations, those under way included."""
        if self._forward_before is None:
            return self.steps, self.iteration
        forward = self.task.simulated_steps - self._forward_before
        adjoint = math.ceil(self._adjoint_steps * self.budget.adjoint_cost)
        return self.steps + forward + adjoint, self.iteration + 1

    def iterate(self) -> Record:
        self._forward_before = self.task.simulated_steps
        try:
            return super().iterate()
        finally:
            self._forward_before = None

    @property
    def verifies(self) -> bool:
        """Whether the best actions of stages may have to be run on the task itself."""
        return True

    @property
    def final_cost(self) -> int:
        # An interrupted stage still has to be verified.
        return (2 if self.verifies else 1) * self.rollout_cost

    @property
    def best_actions(self) -> Tensor:
        return self._best if math.isfinite(self.best_loss) else self._inner.best_actions

    def next_cost(self) -> int:
        return self._inner.next_cost() + (self.rollout_cost if self.verifies else 0)

    def exhausted(self) -> str:
        return self._finished or super().exhausted()

    def _iterate(self) -> tuple[float, float, int]:
        inner = self._inner
        before, own = inner.task.simulated_steps, self.task.simulated_steps
        adjoint, broken = inner.adjoint_steps, False
        loss, distance, horizon = math.inf, math.nan, self.task.horizon
        try:
            record = inner.iterate()
            loss, distance, horizon = record.loss, record.distance, record.horizon
        except (ConvergenceError, StateError, StabilityError) as error:
            if self.stage == 0:
                raise
            logger.warning("stage %d ends: %s", self.stage, error)
            broken = True
        finally:
            # A stage may run on a task of its own, whose steps count here all the same.
            apart = inner.task.simulated_steps - before - (self.task.simulated_steps - own)
            self.task.simulated_steps += apart
            self._adjoint_steps += inner.adjoint_steps - adjoint
        reason = "broken" if broken else inner.exhausted() or self._enough(loss)
        if reason:
            self._best, self.best_loss = self._verified()
            inner.close()
            if self._over(reason):
                self._finished = reason
            else:
                self.stage += 1
                self._begin(self._handover(inner))
        return loss, distance, horizon

    def _enough(self, loss: float) -> str:
        """Why the stage ends although it could go on, after an iteration that reached `loss`, or ""."""
        return ""

    def _verified(self) -> tuple[Tensor, float]:
        """The better of the best so far and this stage's, by the task itself."""
        actions = self._inner.best_actions.detach().clone()
        if not self.verifies:
            known = getattr(self._inner, "best_loss", math.inf)
            return (actions, known) if known < self.best_loss else (self._best, self.best_loss)
        try:
            with torch.no_grad():
                loss = float(self.task.evaluate(actions)[0][0])
        except (ConvergenceError, StateError, StabilityError) as error:
            logger.warning("stage %d breaks the task itself: %s", self.stage, error)
            loss = math.inf
        return (actions, loss) if loss < self.best_loss else (self._best, self.best_loss)

    def _handover(self, ended: Optimizer) -> Tensor:
        """Where the stage after `ended` starts, (T, A)."""
        return self._best

    def _conclude(self) -> tuple[Tensor, dict[str, Any]]:
        if not self._finished and self._inner.iteration:
            self._best, self.best_loss = self._verified()
        return self.best_actions.detach().clone(), {}

    def close(self) -> None:
        self._inner.close()

    def _own_state(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "best_loss": self.best_loss,
            "best": self._best.clone(),
            "finished": self._finished,
            "budgets": [dataclasses.asdict(b) for b in (self.budget, self._granted)],
            "inner": self._inner.state_dict(),
        }

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self._inner.close()
        self.stage, self.best_loss = state["stage"], state["best_loss"]
        self._best, self._finished = state["best"].clone(), state["finished"]
        saved, granted = (Budget(**b) for b in state["budgets"])
        self._granted = granted if saved == self.budget else self._extended(state["inner"])
        if saved != self.budget and self._finished != "converged":
            self._finished = ""
        self._inner = self._make(self.stage, self._best, self._granted)
        self._inner.load_state_dict(state["inner"])

    def _extended(self, inner: dict[str, Any]) -> Budget:
        """Budget of a stage that goes on under another total: what it has spent, and its part."""
        b = self._stage_budget()
        steps, turns, wall = b.simulator_steps, b.iterations, b.wall_s
        return dataclasses.replace(
            b,
            simulator_steps=None if steps is None else steps + inner["steps"],
            iterations=None if turns is None else turns + inner["iteration"],
            wall_s=None if wall is None else wall + inner["wall_s"],
        )
