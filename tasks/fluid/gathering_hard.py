"""Gathering ducks around a corner: the water has to carry them where the plate cannot go.

    ℓ(x, t) = 4 (t/T)³ (1/R) Σ_{bodies r} |c_r − c*|²/|c_r(0) − c*|² + stops

Water, ducks, plate and its cycle are those of `gathering_easy`. Here an island makes a ring of the pool,
the plate moves along one of its sides only, and c* is a point beyond the corner ahead of it.

Source: Xian et al. 2023 (FluidLab), task GatheringO, at 0.5 m per unit length; our tank is a rectangle
with an island instead of a ring, and both ducks start upstream of the aim.
"""

from __future__ import annotations

import dataclasses

from ...sim.core.colliders import Collider
from ...sim.core.shapes import Box
from .gathering_easy import Ducks, DucksConfig

__all__ = ["GatheringHard", "GatheringHardConfig", "GatheringHardNano"]


@dataclasses.dataclass(frozen=True)
class GatheringHardConfig(DucksConfig):
    """Scene, numbers and criterion of `GatheringHard`."""

    horizon: int = 3600
    """Actions per episode; 7.2 s, thirty cycles."""
    ducks: tuple[tuple[float, float], ...] = ((0.38, 0.11), (0.27, 0.06))
    """Where they start [m]."""
    home: tuple[float, float] = (0.10, 0.06)
    """Where the plate begins each cycle [m]."""
    reach: tuple[float, float] = (0.10, 0.03)
    """How far the plate may go from home along the pool [m]; it does not move across."""
    island: tuple[float, float, float, float] = (0.20, 0.165, 0.09, 0.04)
    """Center and half side lengths of the island [m]."""
    aim: tuple[float, ...] = (0.37, 0.23)
    """The point (x, y) where the ducks shall go [m]."""
    tolerance: float = 0.05
    """Solved when every duck is within this of the aim [m]; two ducks side by side are 25 mm off."""


class GatheringHard(Ducks):
    """Drive two ducks around a corner. Actions are velocities of the plate along the pool [m/s]."""

    Config = GatheringHardConfig
    config: GatheringHardConfig
    along = "x"

    def obstacles(self) -> list[Collider]:
        x, y, a, b = self.config.island
        half = 0.5 * self.config.depth + 0.02
        return [Collider(Box((a, b, half)), (x, y, half), friction=0.1, name="island")]


@dataclasses.dataclass(frozen=True)
class GatheringHardNanoConfig(GatheringHardConfig):
    """`GatheringHardConfig` on a coarse grid and for a shorter time: a rollout within two seconds."""

    horizon: int = 80
    """Actions per episode; 1.6 s, four cycles."""
    dx: float = 0.025
    """Grid spacing [m]; four cells of depth."""
    spacing: float = 0.0165
    """Mean distance of particles [m]; 2 500."""
    dt: float = 2e-3
    """Substep [s]; 0.4 of what sound allows: hard strokes press water against the walls."""
    substeps: int = 10
    """Substeps per action; an action lasts 20 ms."""
    settle: float = 0.2
    """Time for which the pool is damped to rest before its first use [s]."""
    pool: tuple[float, float] = (0.45, 0.3)
    """Length and width of the pool [m]."""
    depth: float = 0.1
    """Depth of the water [m]."""
    duck: tuple[float, float] = (0.03, 0.025)
    """Radius and half height of a duck [m]."""
    plate: tuple[float, float, float] = (0.025, 0.045, 0.05)
    """Half side lengths of the plate [m]; two cells thick."""
    clearance: float = 0.02
    """From the floor to the plate [m]."""
    cycle: tuple[int, int, int, int] = (8, 4, 4, 4)
    """Actions per cycle during which the plate is free, goes up, returns, and dives."""
    softness: float = 80.0
    """Softness of the contact of plate and ducks [1/m], 2/dx."""


class GatheringHardNano(GatheringHard):
    """`GatheringHard` for tests."""

    Config = GatheringHardNanoConfig
    search_defaults = {"gradient": {"expand": False, "lr": 0.2}}
