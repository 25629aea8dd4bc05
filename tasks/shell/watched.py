"""A solver that remembers the largest force, so that forces can be constraints on whole episodes.

    P_0 = F(x_0);   P_t = max(P_{t−1}, F(x_t))

F is the largest force that a finger carries. A state at the end of an episode alone would not tell of a
squeeze in its middle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...sim.fem import FEMControl, FEMState, SolverFEM

__all__ = ["ShellState", "WatchedFEM"]


@dataclasses.dataclass
class ShellState(FEMState):
    """A scene, and what its fingers have gone through."""

    peak: Tensor | None = None
    """Largest force of a finger since the start of the episode [N], (B,); no derivative."""


class WatchedFEM:
    """A `SolverFEM` whose states remember the largest force.

    Args:
        fem: The solver.
        force: F of a state [N], (B,).
    """

    def __init__(self, fem: SolverFEM, force: Callable[[FEMState], Tensor]) -> None:
        self.fem, self.force = fem, force
        self.config, self.model = fem.config, fem.model

    @property
    def step_time(self) -> float:
        """Duration of one step [s]."""
        return self.fem.step_time

    def prepare(self, params: Any, state: FEMState) -> Any:
        """As that of the solver."""
        return self.fem.prepare(params, state)

    def step(self, state: Any, control: FEMControl | None = None, params: Any = None) -> Any:
        """As that of the solver. Differentiable in all but `peak`."""
        after, force = self.fem.step(state, control, params), self.force
        return after.replace(peak=torch.maximum(state.peak, force(after)))
