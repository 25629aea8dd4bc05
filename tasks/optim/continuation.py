"""Soft-contact continuation: from a wide, soft contact to a sharp one, each from where the last ended.

    a_0 → argmin J(· ; s_1) → argmin J(· ; s_2) → …,   s_1 < s_2 < …;   verified by the task itself

Contact with softness s [1/m] acts as exp(−s · gap): at small s a tool is felt from afar, so there is a
gradient before anything is touched; at large s it acts like the hard contact that the result has to
stand up to. After each level the actions are run on the task as it is, and the best of these win.

Source: Xian et al. 2023 (FluidLab), soft contact; the schedule of levels is our own.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from torch import Tensor

from ...sim.core.errors import InputError
from ..core import Task
from .base import Optimizer
from .gradient import GradientConfig, GradientOptimizer
from .lbfgs import LBFGSConfig, LBFGSOptimizer
from .records import Budget
from .staged import StagedOptimizer

__all__ = ["ContinuationConfig", "ContinuationOptimizer"]


@dataclasses.dataclass(frozen=True)
class ContinuationConfig:
    """Settings of `ContinuationOptimizer`."""

    levels: tuple[float, ...] = (30.0, 100.0, 300.0)
    """Values of the field, from soft to sharp; of softness [1/m]."""
    field: str = "softness"
    """Field of the task's configuration that the levels change."""
    inner: Literal["gradient", "lbfgs"] = "gradient"
    """What optimizes each level."""
    gradient: GradientConfig = GradientConfig(expand=False, lr=0.1)
    """Settings of the gradient."""
    lbfgs: LBFGSConfig = LBFGSConfig()
    """Settings of L-BFGS."""


class ContinuationOptimizer(StagedOptimizer):
    """Gradient descent on ever sharper contacts; see the module docstring.

    Raises:
        InputError: no levels, or a task whose configuration lacks the field.
    """

    config: ContinuationConfig

    def __init__(
        self, task: Task, config: ContinuationConfig, budget: Budget, seed: int = 0, **options: Any
    ) -> None:
        fields = {f.name for f in dataclasses.fields(task.config)}
        if config.field not in fields:
            raise InputError(
                f"ContinuationConfig: a field of {type(task.config).__name__}, out of "
                f"{sorted(fields)}; got {config.field!r}. Name the one that softens contacts."
            )
        if not config.levels:
            raise InputError("ContinuationConfig: at least one level; got none. Give some.")
        self.shares = (1.0,) * len(config.levels)
        self._plain = task
        self._objective = options.get("objective")
        super().__init__(task, config, budget, seed, **options)

    def level_task(self, stage: int) -> Task:
        """The task with this level's contact."""
        changed = dataclasses.replace(
            self._plain.config, **{self.config.field: self.config.levels[stage]}
        )
        task = type(self._plain)(changed)
        task.device = self._plain.device
        return task if self._objective is None else self._objective(task)

    def _make(self, stage: int, initial: Tensor, budget: Budget) -> Optimizer:
        c, task = self.config, self.level_task(stage)
        if c.inner == "lbfgs":
            return LBFGSOptimizer(task, c.lbfgs, budget, self.seed, initial=initial)
        return GradientOptimizer(task, c.gradient, budget, self.seed, initial=initial)

    def _handover(self, ended: Optimizer) -> Tensor:
        # What is best at one softness is where the next begins, whatever hard contact says of it.
        return ended.best_actions
