"""Configuration of generated data sets; loads no torch."""

from __future__ import annotations

import dataclasses
from typing import Literal

__all__ = ["GenerateConfig"]


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """A data set of thrown bodies of one material."""

    dataset: Literal["jelly", "plasticine", "sand", "water"] = "jelly"
    """Material of the bodies, with the law of the neural constitutive laws' reference scenes."""
    trajectories: int = 16
    """Throws."""
    validation: int = 3
    """How many of them, the last ones, are held out."""
    seed: int = 0
    """Seed of the first throw; trajectory k has seed + k."""
    shape: str = "cube"
    """cube, sphere, cylinder, capsule, torus, or a closed mesh file (.stl, .obj, .ply, …)."""
    size: float = 0.5
    """Longest side of the body [m]."""
    particles: int = 4096
    """Particles of the body, about; a cube has a whole number along each edge."""
    sampling: Literal["grid", "jitter", "random", "poisson"] = "grid"
    """How particles fill the shape; all but grid differ from throw to throw."""
    frames: int = 300
    """Stored frames, the first state among them."""
    frame_steps: int = 5
    """Steps from frame to frame."""
    dt: float = 5e-4
    """Step [s]."""
    grid: int = 32
    """Grid cells per meter; the walls stand two cells inside the unit box."""
    fields: tuple[str, ...] = ("x",)
    """Stored fields out of x, v; x always."""
    precision: Literal["float32", "float64"] = "float32"
    """Number type of simulation and file."""
    device: str = "cpu"
    """cpu or cuda."""
    batch: int = 1
    """Throws simulated together; does not change them."""
    workers: int | None = None
    """Processes, one core each; does not change the data [default: all cores, one on cuda]."""

    @classmethod
    def nano(cls) -> GenerateConfig:
        """All of it in seconds, too small to learn from; one process, since starting more is slower."""
        return cls(
            trajectories=4, validation=1, particles=216, size=0.4, frames=24, grid=16, workers=1
        )  # fmt: skip
