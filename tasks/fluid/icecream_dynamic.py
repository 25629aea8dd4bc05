"""Ice cream from a machine: the nozzle stands still, the wafer moves under it.

    ℓ(x, t) = (1/N) Σ_{p out by t} |x_p − x*_p(t)|² / r² + stops

x* is the motion of the N particles of cream when the wafer waits, then runs in circles that narrow,
sinks as the cream piles up, and comes to rest; r is 10 mm. The search starts with the wafer at rest.
A horizon below `wait + circle` keeps the first part of all that.

Cream and wafer are those of `icecream_static`; the wafer touches softly, so that cream which has not
landed yet already has a gradient.

Source: Xian et al. 2023 (FluidLab), task IceCreamDynamic, at 0.25 m per unit length.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.shapes import Cylinder
from ...sim.mpm import MPMModel
from .base import Axis
from .icecream_static import MIDDLE, RIM, IceCream, IceCreamConfig

__all__ = ["IceCreamDynamic", "IceCreamDynamicConfig", "IceCreamDynamicNano"]


@dataclasses.dataclass(frozen=True)
class IceCreamDynamicConfig(IceCreamConfig):
    """Scene, numbers and criterion of `IceCreamDynamic`."""

    horizon: int = 900
    """Actions per episode; 0.79 s."""
    substeps: int = 5
    """Substeps per action."""
    wait: int = 100
    """Actions during which the wafer stands still in the script."""
    circle: int = 750
    """Actions after that during which it circles; it comes to rest a little after the cream ends."""
    pour: int = 800
    """Actions during which cream flows."""
    circles: tuple[float, float] = (0.022, 0.006)
    """First and last radius of the circles [m]."""
    turns: float = 3.0
    """Circles."""
    sink: float = 0.015
    """How far the wafer sinks [m]."""
    softness: float = 200.0
    """Softness of the wafer's contact [1/m]: it acts from 20 mm on."""
    radius: float = 7e-3
    """Radius of the nozzle's opening [m]."""
    speed: float = 1.0
    """Largest speed of the wafer per axis [m/s]."""


class IceCreamDynamic(IceCream):
    """Move the wafer. Actions are its velocities (x, y, z) [m/s]."""

    Config = IceCreamDynamicConfig
    config: IceCreamDynamicConfig

    def scene(self) -> MPMModel:
        c = self.config
        start = (MIDDLE + c.circles[0], MIDDLE, RIM + 0.042)
        nozzle = Collider(Cylinder(0.009, 0.01), start, name="nozzle")
        opening = (0.0, 0.0, -0.01 - 1.5 * c.dx)
        cream = self.cream("nozzle", opening, c.pour * c.substeps * c.dt)
        return MPMModel(self.box(0.15), [cream], colliders=[nozzle, self.wafer(c.softness)])

    def motions(self) -> tuple[Axis, ...]:
        v, base = self.config.speed, RIM - 0.11 * self.config.scale
        sides = (Axis("wafer", "x", v, 0.04, 0.15), Axis("wafer", "y", v, 0.03, 0.12))
        return (*sides, Axis("wafer", "z", v, base - 0.04, base + 0.01))

    def script(self) -> Tensor:
        c = self.config
        s = torch.linspace(0, 1, c.circle + 1, dtype=torch.float64)
        s = (s - s.pow(6) / 6) / (1 - 1 / 6)  # slows down to a stop
        first, last = c.circles
        r = (first**2 + (last**2 - first**2) * s).sqrt()
        angle = 2 * math.pi * c.turns * (first - r) / (first - last)
        # The nozzle circles over the wafer when the wafer circles the other way.
        place = torch.stack((-r * angle.cos(), -r * angle.sin(), -c.sink * s), -1)
        actions = place.new_zeros(max(c.horizon, c.wait + c.circle), 3)
        actions[c.wait : c.wait + c.circle] = place.diff(dim=0) / (c.substeps * c.dt)
        return actions[: c.horizon].float().clamp(-c.speed, c.speed)


@dataclasses.dataclass(frozen=True)
class IceCreamDynamicNanoConfig(IceCreamDynamicConfig):
    """`IceCreamDynamicConfig` at a third of the resolution: a rollout within a second."""

    horizon: int = 60
    """Actions per episode; 0.54 s."""
    wait: int = 10
    """Actions during which the wafer stands still in the script."""
    circle: int = 43
    """Actions after that during which it circles."""
    pour: int = 46
    """Actions during which cream flows."""
    dx: float = 7.5e-3
    """Grid spacing [m]."""
    spacing: float = 4e-3
    """Mean distance of particles of cream [m]; 420 particles."""
    dt: float = 5.625e-4
    """Substep [s]."""
    substeps: int = 16
    """Substeps per action; an action lasts 9 ms."""
    turns: float = 1.5
    """Circles."""


class IceCreamDynamicNano(IceCreamDynamic):
    """`IceCreamDynamic` for tests."""

    Config = IceCreamDynamicNanoConfig
    search_defaults = {"gradient": {"expand": False, "lr": 0.1}}
