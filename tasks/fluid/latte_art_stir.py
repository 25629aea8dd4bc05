"""Stirred latte art: a rod draws a layer of milk on coffee into a wanted figure.

    ℓ(x, t) = (1/N) Σ_p |x_p − x*_p(t)|² / r² + stops

x* is the motion of the N particles of milk when the rod draws a figure eight, x = a sin(2π t/T) and
y = b sin(4π t/T) from the middle; r is 5 mm. The search starts with the rod at rest.

The bowl of `latte_art` holds 22.5 mm of thick coffee under a layer of milk. Both have 1.6 Pa s (runny
honey): at 0.5 m/s the Reynolds number of the rod is 5, so what it draws stays drawn. The rod is two
cells thick and touches softly.

Source: Xian et al. 2023 (FluidLab), task LatteArtStir, at 0.15 m per unit length; its effective
viscosity scales to 1.6 Pa s here. Its target was a recording of a person; ours is a formula.
"""

from __future__ import annotations

import abc
import dataclasses
import math

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.laws import Liquid
from ...sim.core.shapes import Capsule, Cylinder
from ...sim.mpm import Grid, Group, MPMModel, MPMState
from .base import Axis, FluidConfig, FluidTask

__all__ = ["LatteArtStir", "LatteArtStirConfig", "LatteArtStirNano", "StirConfig", "Stirring"]

MIDDLE = 0.075
"""Of the bowl, along x and y [m]."""


@dataclasses.dataclass(frozen=True)
class StirConfig(FluidConfig):
    """A bowl of thick coffee with a rod in it."""

    dx: float = 0.15 / 64
    """Grid spacing [m]."""
    spacing: float = 1.5e-3
    """Mean distance of particles [m]; 83 000 particles of coffee."""
    dt: float = 2.9e-4
    """Substep [s]; half of what sound allows."""
    bulk: float = 1.6e4
    """Bulk modulus of both liquids [Pa]; c = 4 m/s."""
    eta: float = 1.6
    """Viscosity of both liquids [Pa s]."""
    radius: float = 0.063
    """Inner radius of the bowl [m]."""
    depth: float = 0.0225
    """Depth of the coffee [m]."""
    rod: float = 0.008
    """Radius of the rod [m]."""
    softness: float = 270.0
    """Softness of the rod's contact [1/m]: it acts from 15 mm on."""
    reach: float = 0.04
    """How far the rod may move from the middle along x and y [m]."""
    speed: float = 0.6
    """Largest speed of the rod per axis [m/s]."""


class Stirring(FluidTask):
    """Base of the tasks with a rod in a bowl. Actions are velocities (x, y) of the rod [m/s]."""

    config: StirConfig
    view = (6, 6, 1)

    offset = 0.0
    """Where the rod starts, from the middle along x [m]."""

    def home(self, offset: float = 0.0) -> tuple[float, float]:
        """The middle, between grid nodes: a node on the rod's axis would have no direction to go."""
        dx = self.config.dx
        return MIDDLE + offset + 0.3 * dx, MIDDLE + 0.2 * dx

    @abc.abstractmethod
    def milk(self, law: Liquid) -> Group:
        """Where the milk is."""

    def scene(self) -> MPMModel:
        c = self.config
        half = 0.03
        bowl = Collider(
            Cylinder(c.radius, 1.0), (MIDDLE, MIDDLE, 0.0), inverted=True, friction=0.5, name="bowl"
        )
        self.rod = Collider(
            Capsule(c.rod, half),
            (*self.home(self.offset), half + c.rod + 0.003),
            friction=8.0,
            softness=c.softness,
            name="rod",
        )
        law = Liquid(rho=1000.0, bulk=c.bulk, eta=c.eta)
        disk, place = Cylinder(c.radius, 0.5 * c.depth), (MIDDLE, MIDDLE, 0.5 * c.depth)
        milk = self.milk(law)
        coffee = self.still("coffee", law, disk, place, holes=[self.rod])
        top = c.dx * math.ceil(0.06 / c.dx)
        return MPMModel(
            Grid((0.0, 0.0, 0.0), (0.15, 0.15, top), c.dx),
            [coffee, milk],
            colliders=[bowl, self.rod],
        )

    def motions(self) -> tuple[Axis, ...]:
        c = self.config
        return tuple(Axis("rod", m, c.speed, MIDDLE - c.reach, MIDDLE + c.reach) for m in "xy")

    def figure(self, x: Tensor, y: Tensor) -> Tensor:
        """Actions (T, A) that take the rod along points (T + 1,) around the middle [m]."""
        c = self.config
        velocity = torch.stack((x, y), -1).diff(dim=0) / (c.substeps * c.dt)
        return velocity.float().clamp(-c.speed, c.speed)


@dataclasses.dataclass(frozen=True)
class LatteArtStirConfig(StirConfig):
    """Scene, numbers and criterion of `LatteArtStir`."""

    horizon: int = 500
    """Actions per episode; 0.73 s."""
    substeps: int = 5
    """Substeps per action."""
    layer: float = 0.003
    """Thickness of the milk [m]; 11 000 particles."""
    figure: tuple[float, float] = (0.032, 0.016)
    """Half the width a and half the height b of the figure eight [m]."""
    tolerance: float = 2e-3
    """Solved when the milk ends this close to the target, root mean square [m]."""


class LatteArtStir(Stirring):
    """Draw with a rod."""

    Config = LatteArtStirConfig
    config: LatteArtStirConfig
    goal = ("milk",)

    def milk(self, law: Liquid) -> Group:
        c = self.config
        disk = Cylinder(c.radius, 0.5 * c.layer)
        place = (MIDDLE, MIDDLE, c.depth + 0.5 * c.layer)
        return self.still("milk", law, disk, place, holes=[self.rod])

    def script(self) -> Tensor:
        a, b = self.config.figure
        phase = torch.linspace(0, 2 * math.pi, self.horizon + 1, dtype=torch.float64)
        return self.figure(a * torch.sin(phase), b * torch.sin(2 * phase))

    def terms(self, state: MPMState, t: int) -> dict[str, Tensor]:
        return {"drawing": self.mismatch(state, t, length=0.005)}

    def metrics(self, state: MPMState) -> dict[str, Tensor]:
        """distance [m]: root mean square of the milk to its target, (B,)."""
        t = min(max(state.substep // self.substeps - 1, 0), self.horizon - 1)
        x, y = self.clouds(state.detach(), t) or (state.x, state.x)
        return {"distance": (x - y).square().sum(-1).mean(-1).sqrt()}

    def success(self, state: MPMState) -> Tensor:
        """Whether the figure is finished and within `tolerance`, (B,) bool."""
        done = state.substep >= self.horizon * self.substeps
        return (self.metrics(state)["distance"] <= self.config.tolerance) & done


@dataclasses.dataclass(frozen=True)
class LatteArtStirNanoConfig(LatteArtStirConfig):
    """`LatteArtStirConfig` at a third of the resolution: a rollout within a second."""

    horizon: int = 50
    """Actions per episode; 0.47 s."""
    dx: float = 7.5e-3
    """Grid spacing [m]."""
    spacing: float = 5e-3
    """Mean distance of particles [m]; 2 600 particles."""
    dt: float = 9.375e-4
    """Substep [s]."""
    substeps: int = 10
    """Substeps per action."""
    layer: float = 0.005
    """Thickness of the milk [m]; one layer of particles."""
    tolerance: float = 4e-3
    """Solved when the milk ends this close to the target, root mean square [m]; below its spacing."""


class LatteArtStirNano(LatteArtStir):
    """`LatteArtStir` for tests."""

    Config = LatteArtStirNanoConfig
    search_defaults = {"gradient": {"expand": False, "lr": 0.1}}
