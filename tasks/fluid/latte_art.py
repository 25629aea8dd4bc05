"""Latte art: milk poured from a moving jug draws a wave on coffee.

    ℓ(x, t) = (1/N) Σ_{p poured by t} |x_p − x*_p(t)|² / r² + stops

x* is the motion of the same N particles of milk when the jug follows a sine, x from −0.35 to 0.35 of
the unit length and y = A(t) sin(2π n t/T) with A rising and falling; r is 10 mm. The search starts from
the straight line. Other `objective`s compare the clouds without particle identity.

A wide bowl, 126 mm across, holds 15 mm of coffee; the milk leaves the jug 18 mm above it at 0.3 m/s.
c = 4 m/s: the milk arrives with 0.7 m/s and compresses by 3 %, the coffee's own depth by 1 %. Milk and
coffee have the viscosity of water, 2 and 1 mPa s, far below what the grid dissipates.

Source: Xian et al. 2023 (FluidLab), task LatteArt; geometry to the scale of 0.15 m per unit length.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.laws import Liquid
from ...sim.core.shapes import Cylinder
from ...sim.mpm import Grid, MPMModel, MPMState
from .base import Axis, FluidConfig, FluidTask

__all__ = ["LatteArt", "LatteArtConfig", "LatteArtNano"]


@dataclasses.dataclass(frozen=True)
class LatteArtConfig(FluidConfig):
    """Scene, numbers and criterion of `LatteArt`."""

    horizon: int = 330
    """Actions per episode; 0.96 s."""
    pour: int = 250
    """Actions during which milk flows."""
    dx: float = 0.15 / 64
    """Grid spacing [m]."""
    spacing: float = 1.5e-3
    """Mean distance of particles of coffee [m]; 55 000 particles."""
    milk_spacing: float = 1.3e-3
    """Mean distance of particles of milk in the jet [m]; 5 000 particles."""
    dt: float = 2.9e-4
    """Substep [s]; half of what sound allows."""
    bulk: float = 1.6e4
    """Bulk modulus of both liquids [Pa]; c = 4 m/s."""
    radius: float = 0.063
    """Inner radius of the bowl [m]."""
    depth: float = 0.015
    """Depth of the coffee [m]."""
    waves: float = 3.0
    """Periods of the sine n."""
    amplitude: float = 0.02
    """Largest amplitude A of the sine [m]; at both ends it is 0.6 of that."""
    speed: float = 1.0
    """Largest speed of the jug per axis [m/s]."""
    tolerance: float = 5e-3
    """Solved when the milk ends this close to the target, root mean square [m]."""


class LatteArt(FluidTask):
    """Draw with milk. Actions are velocities (x, y) of the jug [m/s]."""

    Config = LatteArtConfig
    goal = ("milk",)
    view = (6, 6, 1)

    def scene(self) -> MPMModel:
        c = self.config
        middle, height = 0.075, 0.05
        bowl = Collider(
            Cylinder(c.radius, 1.0), (middle, middle, 0.0), inverted=True, friction=0.5, name="bowl"
        )
        jug = Collider(Cylinder(0.006, 0.005), (middle - 0.0525, middle, 0.045), name="jug")
        coffee = Liquid(rho=1000.0, bulk=c.bulk, eta=1e-3)
        milk = Liquid(rho=1000.0, bulk=c.bulk, eta=2e-3)
        disk, center = Cylinder(c.radius, 0.5 * c.depth), (middle, middle, 0.5 * c.depth)
        top = c.dx * math.ceil(height / c.dx)
        return MPMModel(
            Grid((0.0, 0.0, 0.0), (0.15, 0.15, top), c.dx),
            [
                self.still("coffee", coffee, disk, center),
                self.jet(
                    "milk",
                    milk,
                    velocity=(0.0, 0.0, -0.3),
                    radius=0.004,
                    duration=c.pour * c.substeps * c.dt,
                    spacing=c.milk_spacing,
                    position=(0.0, 0.0, -0.012),
                    tool="jug",
                ),
            ],
            colliders=[bowl, jug],
        )

    def motions(self) -> tuple[Axis, ...]:
        v = self.config.speed
        return Axis("jug", "x", v, 0.0175, 0.1325), Axis("jug", "y", v, 0.045, 0.105)

    def _path(self, wave: float) -> Tensor:
        """Velocities along x from −0.35 to 0.35 units with `wave` times the sine along y, (T, 2)."""
        c = self.config
        s = torch.linspace(0, 1, c.pour + 1, dtype=torch.float64)
        envelope = c.amplitude * (0.6 + 0.4 * (1 - (2 * s - 1).abs()))
        y = wave * envelope * torch.sin(2 * math.pi * c.waves * s)
        path = torch.stack((0.105 * s, y), -1)
        actions = path.new_zeros(max(c.horizon, c.pour), 2)
        actions[: c.pour] = path.diff(dim=0) / (c.substeps * c.dt)
        return actions[: c.horizon].float().clamp(-c.speed, c.speed)

    def script(self) -> Tensor:
        return self._path(1.0)

    def initial_actions(self) -> Tensor:
        return self._path(0.0)

    def terms(self, state: MPMState, t: int) -> dict[str, Tensor]:
        return {"drawing": self.mismatch(state, t, length=0.01)}

    def metrics(self, state: MPMState) -> dict[str, Tensor]:
        """distance [m]: root mean square of the milk to its target; lost [-]: milk below the coffee's
        middle; (B,)."""
        state = state.detach()
        t = min(max(state.substep // self.substeps - 1, 0), self.horizon - 1)
        pair = self.clouds(state, t)
        if pair is None:
            return {k: torch.zeros_like(state.x[:, 0, 0]) for k in ("distance", "lost")}
        x, y = pair
        return {
            "distance": (x - y).square().sum(-1).mean(-1).sqrt(),
            "lost": (x[..., 2] < 0.5 * self.config.depth).to(x).mean(-1),
        }

    def success(self, state: MPMState) -> Tensor:
        """Whether all milk is poured and within `tolerance` of the target, (B,) bool."""
        done = state.substep >= self.horizon * self.substeps
        near = self.metrics(state)["distance"] <= self.config.tolerance
        return near & done


@dataclasses.dataclass(frozen=True)
class LatteArtNanoConfig(LatteArtConfig):
    """`LatteArtConfig` at a third of the resolution: a rollout within a second."""

    horizon: int = 60
    """Actions per episode; 0.45 s."""
    pour: int = 45
    """Actions during which milk flows."""
    dx: float = 7.5e-3
    """Grid spacing [m]; two cells of depth."""
    spacing: float = 5e-3
    """Mean distance of particles of coffee [m]; 1 500 particles."""
    milk_spacing: float = 3e-3
    """Mean distance of particles of milk in the jet [m]; 190 particles."""
    dt: float = 9.375e-4
    """Substep [s]."""
    substeps: int = 8
    """Substeps per action; an action lasts 7.5 ms."""
    waves: float = 1.5
    """Periods of the sine."""


class LatteArtNano(LatteArt):
    """`LatteArt` for tests."""

    Config = LatteArtNanoConfig
    search_defaults = {"gradient": {"expand": False, "lr": 0.05}}
