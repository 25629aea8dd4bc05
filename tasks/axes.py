"""Tasks whose actions move tools along chosen axes: velocities, stops, and the cost of leaving a range.

    ℓ(x, t) = Σ_k terms_k(x, t) + Σ_a (e_a / overrun_a)²

Each action is one velocity per axis, held for a step. An axis has a range; e is how far the tool is
beyond it. Mechanical stops alone would do for a machine; to a gradient they are a wall behind which no
action matters, so the range is enforced by its cost, and the stops come `overrun` later.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..sim.core.errors import InputError
from ..sim.core.state import State
from .core import Task

__all__ = ["Axis", "AxisTask"]

S = TypeVar("S", bound=State)
MOTIONS = ("x", "y", "z", "roll", "pitch", "yaw")
"""Entries of a twist: along and about the world's axes."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """One degree of freedom that actions drive."""

    tool: str
    """Name of the collider or nozzle."""
    motion: str
    """"x", "y", "z": along a world axis; "roll", "pitch", "yaw": about x, y, z. A tool that turns has
    one of the three."""
    limit: float
    """Largest speed [m/s or rad/s]."""
    low: float = -math.inf
    """Least position of the tool's origin [m], or angle from unturned [rad]; below, motion costs."""
    high: float = math.inf
    """Largest position [m] or angle [rad]."""
    overrun: float = 0.01
    """Beyond the range by this [m or rad], the cost is 1 and mechanical stops end the motion."""

    def __post_init__(self) -> None:
        if self.motion not in MOTIONS:
            raise InputError(
                f"Axis({self.tool!r}): motion out of {MOTIONS}; got {self.motion!r}. Choose one."
            )
        if not self.limit > 0 or not self.overrun > 0 or not self.low < self.high:
            raise InputError(
                f"Axis({self.tool!r}): limit > 0, overrun > 0 and low < high; got {self}. "
                "Correct the numbers."
            )

    @property
    def slot(self) -> int:
        """Entry of the twist."""
        return MOTIONS.index(self.motion)

    def place(self, poses: Tensor, tool: int) -> Tensor:
        """Position [m] or angle [rad] of a tool in poses (B, K, 7), (B,). Differentiable."""
        if self.slot < 3:
            return poses[:, tool, self.slot]
        return 2 * torch.atan2(poses[:, tool, 1 + self.slot], poses[:, tool, 3])


class AxisTask(Task[S]):
    """Base of tasks that drive tools along axes.

    A subclass calls `_drive(axes, tool names)` in its `__init__` and gives `poses`, `with_twist`,
    `terms`, and what `Task` asks for.
    """

    axes: tuple[Axis, ...]
    """What the actions move, in their order."""
    action_unit = "m/s or rad/s"

    def _drive(self, axes: tuple[Axis, ...], tools: list[str]) -> None:
        unknown = [a.tool for a in axes if a.tool not in tools]
        if unknown:
            raise InputError(
                f"{type(self).__name__}: axes of {tools}; got {unknown}. Name the tool."
            )
        self.axes, self._tools = axes, [tools.index(a.tool) for a in axes]
        self._tool_count = len(tools)
        self.action_size = len(axes)
        self.action_limit = torch.tensor([a.limit for a in axes])

    @abc.abstractmethod
    def poses(self, state: S) -> Tensor:
        """Poses of the tools, (B, K, 7)."""

    @abc.abstractmethod
    def with_twist(self, twist: Tensor) -> Any:
        """Solver control that moves the tools with a twist (B, K, 6)."""

    @abc.abstractmethod
    def terms(self, state: S, t: int) -> dict[str, Tensor]:
        """Named parts of the objective, weights included, each (B,)."""

    def velocity(self, state: S, action: Tensor) -> Tensor:
        """Velocities (B, A) an action asks for; override for cycles or parts that are not free."""
        return action

    def places(self, state: S) -> Tensor:
        """Positions [m] or angles [rad] of the driven axes, (B, A). Differentiable."""
        poses = self.poses(state)
        return torch.stack(
            [axis.place(poses, k) for axis, k in zip(self.axes, self._tools, strict=True)], -1
        )

    def control(self, state: S, action: Tensor) -> Any:
        """Twists of all tools for an action (B, A), cut at the mechanical stops."""
        time, wanted = self.solver.step_time, self.velocity(state, action)
        here = self.places(state)
        low = here.new_tensor([a.low - a.overrun for a in self.axes])
        high = here.new_tensor([a.high + a.overrun for a in self.axes])
        cut = (torch.minimum(torch.maximum(here + time * wanted, low), high) - here) / time
        rows = [[torch.zeros_like(here[:, 0])] * 6 for _ in range(self._tool_count)]
        for axis, tool, value in zip(self.axes, self._tools, cut.unbind(-1), strict=True):
            rows[tool][axis.slot] = value
        return self.with_twist(torch.stack([torch.stack(row, -1) for row in rows], 1))

    def excess(self, state: S) -> Tensor:
        """How far each axis is outside its range, in overruns [-], (B, A)."""
        here = self.places(state)
        low = here.new_tensor([a.low for a in self.axes])
        high = here.new_tensor([a.high for a in self.axes])
        outside = (low - here).clamp(min=0) + (here - high).clamp(min=0)
        return outside / here.new_tensor([a.overrun for a in self.axes])

    def loss(self, state: S, t: int) -> Tensor:
        """ℓ of the module docstring, (B,). Differentiable in the state."""
        total = self.excess(state).square().sum(-1)
        for term in self.terms(state, t).values():
            total = total + term
        return total
