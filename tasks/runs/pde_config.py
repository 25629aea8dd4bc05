"""Configuration of generated data sets of fields; loads no torch."""

from __future__ import annotations

import dataclasses
from typing import Literal

__all__ = ["PdeConfig", "PdeName"]

PdeName = Literal[
    "pde/burgers", "pde/burgers-walls", "pde/cylinder", "pde/darcy", "pde/darcy-smooth",
    "pde/diffusion-sorption", "pde/heat", "pde/navier-stokes-2d", "pde/navier-stokes-3d", "pde/poisson",
    "pde/reaction-diffusion", "pde/smoke", "pde/smoke-3d",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PdeConfig:
    """A data set of solutions of one PDE; what is not given is the set's own."""

    dataset: PdeName = "pde/burgers"
    """Equation, inputs and sizes."""
    trajectories: int = 1200
    """Solutions."""
    validation: int = 200
    """How many of them, the last ones, are held out."""
    seed: int = 0
    """Seed of the first input; trajectory k has seed + k."""
    grid: int | None = None
    """Cells per axis; of pde/cylinder along x."""
    frames: int | None = None
    """Stored frames, the initial one among them."""
    frame_steps: int | None = None
    """Steps from frame to frame."""
    dt: float | None = None
    """Step [s]."""
    parameters: tuple[str, ...] = ()
    """PDE: parameters as name=value, such as viscosity=1e-4 or top=wall."""
    shard: int = 50
    """PDE: solutions per file, computed together."""
    precision: Literal["float32", "float64"] = "float32"
    """Number type of solver and file."""
    device: str = "cpu"
    """cpu or cuda."""
    workers: int | None = None
    """Processes, one core each; does not change the data [default: all cores, one on cuda]."""
