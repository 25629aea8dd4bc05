"""When a stage of a search has ended, and how far the next one reaches.

    stalled:  best − loss < max(ρ |best|, ε)  for `patience` iterations in a row
    T ← min(T_max, T + growth);   first ← min(T_old, max(0, T − window))

The horizon grows whenever its objective has been optimized, and rows that lie further than `window`
before its end are frozen. What is frozen follows the present end of the objective, so a row has been
free, with the objective on it, before it freezes, and the last stage releases all rows. (Where the
objective covers the whole task while the freezing rule counts from its end, nearly all rows freeze
before they were ever optimized.)

Source: Xian et al. 2023 (FluidLab), temporally expanding horizon.
"""

from __future__ import annotations

import math
from typing import Any

from ...sim.core.errors import InputError

__all__ = ["ExpandingHorizon", "Plateau"]


class Plateau:
    """Counts iterations without progress.

    Args:
        patience: Iterations in a row that make a plateau.
        relative: Least decrease that counts as progress, as a share of the best loss [-].
        absolute: Least decrease that counts as progress, in the unit of the loss.
    """

    def __init__(self, patience: int, relative: float, absolute: float = 0.0) -> None:
        self.patience, self.relative, self.absolute = patience, relative, absolute
        self.reset()

    def reset(self) -> None:
        """Forget the best loss, which belongs to another objective."""
        self.best, self.stalled = math.inf, 0

    def update(self, loss: float) -> bool:
        """Whether `loss` is the last of a plateau."""
        least = max(self.relative * abs(self.best), self.absolute)
        if math.isinf(self.best) or self.best - loss > least:
            self.stalled = 0
        else:
            self.stalled += 1
        self.best = min(self.best, loss)
        return self.stalled >= self.patience

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "stalled": self.stalled}

    def load(self, state: dict[str, Any]) -> None:
        self.best, self.stalled = state["best"], state["stalled"]


class ExpandingHorizon:
    """The rows [begin, end) that a stage optimizes, which is also where its objective counts.

    Args:
        T: Actions of the task.
        start: First end, as a share of T.
        growth: Rows that a stage adds, as a share of T.
        window: Rows before the end that stay free, as a share of T; never fewer than were added.
        expand: False covers everything from the start.

    Raises:
        InputError: shares outside (0, 1].
    """

    def __init__(
        self, T: int, start: float, growth: float, window: float, expand: bool = True
    ) -> None:
        for name, value in (("start", start), ("growth", growth), ("window", window)):
            if not 0 < value <= 1:
                raise InputError(
                    f"ExpandingHorizon: {name} in (0, 1] of the horizon; got {value}. Give a share."
                )
        self.T, self.begin = T, 0
        self.end = max(1, round(start * T)) if expand else T
        self._growth, self._window = max(1, round(growth * T)), max(1, round(window * T))

    def advance(self) -> str:
        """The next stage: "grown", "released" (all rows free on the full horizon), or "" at the end."""
        if self.end < self.T:
            before = self.end
            self.end = min(self.T, before + self._growth)
            self.begin = min(before, max(0, self.end - self._window))
            return "grown"
        if self.begin > 0:
            self.begin = 0
            return "released"
        return ""
