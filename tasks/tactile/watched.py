"""A solver that remembers what happened on the way: errors that add up, and the largest force.

    E_t = E_{t−1} + e(x_t)²,   P_t = max(P_{t−1}, F(x_t))

A state at the end of an episode alone would tell neither how well a force was held nor of a squeeze.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...sim.coupling import CoupledState
from ...sim.fem import FEMState

__all__ = ["PlasticState", "TactileState", "Watched"]


@dataclasses.dataclass
class TactileState(FEMState):
    """A scene, and what its sensors have gone through."""

    seen: Tensor | None = None
    """Σ e² since the start, and the largest force of a sensor [N], (B, 2); no derivative."""
    home: Tensor | None = None
    """Poses of the handles at the start, (B, H, 7)."""
    world: Tensor | None = None
    """Logarithms of the factors of its parameters, see `worlds`, (B, K); None: the nominal world."""


@dataclasses.dataclass
class PlasticState(CoupledState):
    """The same for scenes with material points."""

    seen: Tensor | None = None
    """As of `TactileState`, and so are the others."""
    home: Tensor | None = None
    world: Tensor | None = None


class Watched:
    """A solver whose states remember.

    Args:
        solver: `SolverFEM` or `CoupledSolver`.
        watch: (e, F) of a state, (B, 2).
        ready: Parameters of the worlds of a state, as the solver reads them.
    """

    def __init__(
        self, solver: Any, watch: Callable[[Any], Tensor], ready: Callable[[Any], Any]
    ) -> None:
        self.solver, self.watch, self.ready = solver, watch, ready
        self.fem = getattr(solver, "fem", solver)
        self.config, self.model = self.fem.config, self.fem.model

    @property
    def step_time(self) -> float:
        """Duration of one step [s]."""
        return self.config.dt

    @property
    def states_per_step(self) -> int:
        """States a step keeps for its backward pass."""
        return int(getattr(self.solver, "states_per_step", 1))

    def prepare(self, params: Any, state: Any) -> Any:
        """As that of the solver; without parameters, those of the state's worlds."""
        return self.ready(state) if params is None else self.solver.prepare(params, state)

    def step(self, state: Any, control: Any = None, params: Any = None) -> Any:
        """As that of the solver. Differentiable in all but `seen`."""
        params = self.ready(state) if params is None else params
        after = self.solver.step(state, control, params)
        if not isinstance(after, FEMState):
            fields = {f.name: getattr(after, f.name) for f in dataclasses.fields(CoupledState)}
            after = PlasticState(**fields, seen=state.seen, home=state.home, world=state.world)
        error, force = self.watch(after).unbind(-1)
        total, peak = state.seen.unbind(-1)
        seen = torch.stack((total + error.square(), torch.maximum(peak, force)), -1)
        return after.replace(seen=seen)
