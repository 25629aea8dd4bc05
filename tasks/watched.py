"""Tasks whose limits hold for whole episodes: a solver that remembers, and what such tasks share.

    E_t = E_{t−1} + e(x_t)²,   P_t = max(P_{t−1}, F(x_t))

F is the largest force that a finger or a sensor carries, e an error that adds up. A state at the end of
an episode alone would tell neither how well a force was held nor of a squeeze in its middle.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..sim.core.state import State
from ..sim.fem import FEMState
from .axes import AxisTask

__all__ = ["Seen", "Watched", "WatchedState", "WatchedTask"]

S = TypeVar("S", bound=State)


@dataclasses.dataclass
class Seen:
    """What a state remembers; comes before the state in the bases of a class."""

    seen: Tensor | None = None
    """Σ e² since the start, and the largest force [N], (B, 2); no derivative."""


@dataclasses.dataclass
class WatchedState(Seen, FEMState):
    """A scene of the implicit solver that remembers."""


class Watched:
    """A solver whose states remember.

    Args:
        solver: `SolverFEM`, or one with such a solver as `fem`.
        watch: (e, F) of a state, (B, 2).
        ready: Parameters of a state where none are given, as the solver reads them.
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
        """As that of the solver; without parameters, `ready` ones."""
        return self.ready(state) if params is None else self.solver.prepare(params, state)

    def step(self, state: Any, control: Any = None, params: Any = None) -> Any:
        """As that of the solver. Differentiable in all but `seen`."""
        params = self.ready(state) if params is None else params
        after = self.solver.step(state, control, params)
        if not isinstance(after, Seen):  # a solver that makes its states anew
            own = {f.name for f in dataclasses.fields(after)}
            more = [f.name for f in dataclasses.fields(state) if f.name not in own]
            after = after.widened(type(state), **{name: getattr(state, name) for name in more})
        error, force = self.watch(after).unbind(-1)
        total, peak = state.seen.unbind(-1)
        seen = torch.stack((total + error.square(), torch.maximum(peak, force)), -1)
        return after.replace(seen=seen)


class WatchedTask(AxisTask[S]):
    """Base of tasks that are solved only if no force was too large on the way."""

    search_defaults: Mapping[str, Mapping[str, Any]] = {
        "gradient": {"expand": False, "lr": 0.1},
        "cma": {"population": 10},
        # A rollout takes seconds, so that budgets are some dozens of them: one generation chooses.
        "hybrid": {"share": 0.3, "cma": {"population": 10}},
    }

    @abc.abstractmethod
    def reached(self, state: Any) -> Tensor:
        """Whether the goal is met, whatever the forces, (B,) bool."""

    def success(self, state: Any) -> Tensor:
        """Whether the goal is met and no force has been above `max_force`, (B,) bool."""
        return self.reached(state.detach()) & (self.peak_force(state) <= self.config.max_force)

    def peak_force(self, state: Any) -> Tensor:
        """Largest force since the start [N], (B,); no derivative."""
        return state.seen[:, 1]

    def weight(self, t: int) -> float:
        """w(t) = 4 ((t + 1)/T)³, near 1 on average: mostly the end counts [-]."""
        return 4 * ((t + 1) / self.horizon) ** 3

    def with_twist(self, twist: Tensor) -> Any:
        return twist

    def ramp(self, moves: Mapping[str, float], start: int = 0, stop: int | None = None) -> Tensor:
        """Actions (T, A): the named axes ("finger x") at a share of their limit, from step to step."""
        actions = torch.zeros(self.horizon, self.action_size)
        names = [f"{a.tool} {a.motion}" for a in self.axes]
        for name, share in moves.items():
            k = names.index(name)
            actions[start:stop, k] = share * self.action_limit[k]
        return actions
