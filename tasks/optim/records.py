"""What an optimization may spend, what it notes on its way, and what it hands back.

Cost is counted in simulator steps: one substep of one scene forward is 1, wherever it happens
(line searches, recomputation for checkpoints, frozen rows, validation of policies and final
evaluations included), and its adjoint is `Budget.adjoint_cost` more. Wall time depends on batching
and on the machine; this number does not. Forward and adjoint substeps are reported apart as well, so
that another charge can be worked out afterwards.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

__all__ = ["Budget", "OptimResult", "Record"]


@dataclasses.dataclass(frozen=True)
class Budget:
    """When to stop; whichever limit is reached first. None is no limit."""

    simulator_steps: int | None = None
    """Substeps × scenes, see the module docstring. Never exceeded, the final evaluation included."""
    wall_s: float | None = None
    """Wall time [s]; an iteration that has begun is finished."""
    iterations: int | None = None
    """Gradient steps or generations."""
    adjoint_cost: float = 2.5
    """Cost of the adjoint of a substep in forward substeps [-]; measured on MPM in 2-D: 1.4 to 2.7,
    the more the busier the machine."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One iteration."""

    iteration: int
    """Gradient steps or generations so far."""
    steps: int
    """Simulator steps spent so far."""
    loss: float
    """Objective of this iteration over its horizon [-]; of a generation, its best."""
    distance: float
    """`metrics()["distance"]` at the end of that horizon [m]; NaN if the task has none."""
    horizon: int
    """Actions that the objective covers."""
    wall_s: float
    """Wall time so far [s]."""
    forward_steps: int = 0
    """Substeps × scenes simulated so far; part of `steps`."""
    adjoint_steps: int = 0
    """Substeps × scenes differentiated so far; each is charged `Budget.adjoint_cost` in `steps`."""


@dataclasses.dataclass
class OptimResult:
    """What an optimizer found."""

    actions: Tensor
    """Best actions, (T, A); of a policy, those it takes from the task's usual start."""
    history: list[Record]
    """One record per iteration."""
    loss: float
    """Objective of `actions` over the full horizon."""
    distance: float
    """Distance at the end of `actions` [m]; NaN if the task has none."""
    success: bool
    """Whether the task counts the end of `actions` as solved."""
    steps_used: int
    """Simulator steps spent, the final evaluation included."""
    wall_s: float
    """Wall time spent [s]."""
    stopped: str
    """Why: "simulator_steps", "wall_s", "iterations", "converged" or "interrupted"."""
    forward_steps: int = 0
    """Substeps × scenes simulated, the final evaluation included."""
    adjoint_steps: int = 0
    """Substeps × scenes differentiated."""
    policy: Any = None
    """Best closed-loop policy, a module from observations (B, O) to actions (B, A); None where only
    actions were searched."""
    unseen: dict[str, float] = dataclasses.field(default_factory=dict)
    """Means over starts that the search has not seen: "loss", "distance", "success", and their
    "count"; empty without a policy."""

    @property
    def best(self) -> tuple[float, float]:
        """(loss, distance) of `actions`."""
        return self.loss, self.distance
