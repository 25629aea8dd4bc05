"""What sets of flows past bodies share: every trajectory draws a scene of its own."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid

__all__ = ["Advance", "Flow", "Solutions", "quiet", "require"]

Advance = Callable[[int], None]
"""Called with the number of frames that are new."""


@dataclasses.dataclass
class Solutions:
    """Trajectories as they are stored."""

    fields: dict[str, Tensor]
    """(B, T, C, *cells)."""
    constant: dict[str, Tensor]
    """Fields that do not change in time, (B, C, *cells)."""
    scalars: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Numbers of the trajectories, (B,)."""


def quiet(frames: int) -> None:
    """An `Advance` that tells nobody."""


class Flow(abc.ABC):
    """Incompressible flow in a box, with a random scene per trajectory."""

    grid: Grid
    """Cells that are stored."""
    sides: dict[str, tuple[str, str]]
    """The Well's type of each side, WALL or OPEN, and what holds there in words."""
    numbers: dict[str, float]
    """Parameters."""

    @property
    def name(self) -> str:
        """Of the equation."""
        return type(self).__name__

    def default_params(self) -> dict[str, float]:
        """Numbers that metadata hold."""
        return dict(self.numbers)

    @abc.abstractmethod
    def scene(self, generator: torch.Generator) -> Any:
        """A random scene; the same at every resolution."""

    @abc.abstractmethod
    def first_step(self, scenes: Sequence[Any], like: Tensor) -> None:
        """Make one step, to find out whether steps can be made."""

    @abc.abstractmethod
    def solve(
        self,
        scenes: Sequence[Any],
        frames: int,
        frame_steps: int,
        like: Tensor,
        advance: Advance = quiet,
    ) -> Solutions:
        """Frames of all scenes.

        Args:
            scenes: from `scene`.
            frames: stored frames; the first one is the state after the time `settle`.
            frame_steps: steps from frame to frame.
            like: dtype and device of the steps.
            advance: called with new frames.

        Raises:
            ConvergenceError, StateError, StabilityError: of the solver.
        """


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def require(name: str, least: float, whole: bool = False, **values: float) -> None:
    """Raise `InputError` unless every number is finite and at least `least`; whole: an integer."""
    for key, value in values.items():
        good = isinstance(value, (int, float)) and least <= value < math.inf
        if not good or (whole and value != int(value)):
            expected = f"{'whole ' * whole}{key} >= {least:g}"
            raise InputError(message(name, expected, value, "Correct --parameters"))
