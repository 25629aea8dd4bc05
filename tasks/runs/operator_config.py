"""Configuration of training runs of operators on grids; loads no torch."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

__all__ = ["OperatorConfig"]


@dataclasses.dataclass(frozen=True)
class OperatorConfig:
    """Training of an operator (T1, FNO) on a data set of a PDE."""

    system: Literal["t1", "fno"] = "t1"
    """What is trained."""
    data: str = ""
    """Folder that `rheograd generate pde/…` made."""
    inputs: tuple[str, ...] = ()
    """Fields that go in [default: all; of a stationary problem the one that is constant in time]."""
    targets: tuple[str, ...] = ()
    """Fields that come out [default: all that the PDE solves for]."""
    lead: int | None = None
    """Frames from input to target, from every frame on [default: from the first frame to the last]."""
    past: int = 1
    """Frames that go in, as channels."""
    future: int = 1
    """Frames that come out, as channels."""
    augment: bool = False
    """Learn from shifted or turned samples too, as the equation of the set allows."""
    batch: int = 16
    """Samples per update."""
    updates: int | None = None
    """Optimizer steps."""
    seconds: float | None = None
    """Training time, instead of or beside updates [s]."""
    lr: float | None = None
    """Learning rate at the start; falls as a cosine [default: t1 3e-3, fno 7e-3]."""
    device: str = "cpu"
    """cpu or cuda."""
    seed: int = 0
    """Seed of weights, order and shifts."""
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of T1Config or FNOConfig: --model.FIELD."""
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of TrainerConfig: --train.FIELD."""
