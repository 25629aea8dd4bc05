"""ObjectReposing: a sensor tips a block over its edge.

    tactile   0.05 w(t) (|F_x|/F* − 1)₊²         F_x: of the block on the sensor; gentle, not none
    state     w(t) (φ − φ*)²/φ*²                 φ: turn of the block about y

The block is a rigid body that stands on the floor and turns about the edge away from the sensor while
friction holds it. Beyond its balance, arctan(width/height) = 27°, it falls by itself; φ* = 90° is lying.
The nominal command pushes up and along, but not far enough.

Source: Si et al. 2024 (DiffTactile), object reposing, where the block is elastic material.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.colliders_rigid import RigidBody
from ...sim.core.shapes import Box, Plane
from .base import Axis, TactileConfig, TactileTask
from .scene import FROM_LEFT, Scene, Touch

__all__ = ["ObjectReposing", "ObjectReposingConfig", "ObjectReposingNano"]

RADIUS = 15e-3
"""Of the dome [m]."""


@dataclasses.dataclass(frozen=True)
class ObjectReposingConfig(TactileConfig):
    """Scene, numbers and criterion."""

    block: tuple[float, float, float] = (0.02, 0.03, 0.04)
    """Sides of the block [m]."""
    rho: float = 1200.0
    """Its density [kg/m³]; plastic, 29 g."""
    mu_plate: float = 0.8
    """Friction of the block on the floor [-]; it is to tip, not to slide."""
    place: float = 0.032
    """Height of the middle of the sensor [m]."""
    target: float = 90.0
    """Turn that is wanted, φ* [degrees]."""
    force: float = 0.2
    """Push above which it costs, F* [N]; tipping takes 0.11 N at this height."""
    angle_error: float = 5.0
    """Solved when the turn at the end is this near to its target [degrees]."""


class ObjectReposing(TactileTask):
    """Tip a block by 90 degrees. Actions are velocities x, z [m/s] and pitch [rad/s] of the dome. Solved
    at an error of 5 degrees."""

    Config = ObjectReposingConfig
    config: ObjectReposingConfig
    way = 0.007
    """How far the nominal command pushes [m]: not over the balance."""

    def build(self, scene: Scene) -> None:
        c = self.config
        half = (0.5 * c.block[0], 0.5 * c.block[1], 0.5 * c.block[2])
        place = (0.0, 0.0, half[2] + 0.7 * c.d_hat)
        self.block = scene.body(RigidBody(Box(half), place, rho=c.rho, name="block"))
        scene.plate(Collider(Plane(), name="floor"))
        self._place = (-half[0] - RADIUS - 1.2 * c.d_hat, 0.0, c.place)
        scene.gel("finger", self.dome(), self._place, FROM_LEFT, c.material, nu=c.nu)

    def touch(self) -> Touch:
        return dataclasses.replace(super().touch(), ignore=[("finger", "floor")], spacing=6e-3)

    def motions(self) -> tuple[Axis, ...]:
        c, (x, _, z) = self.config, self._place
        return (
            Axis("finger", "x", c.speed, x - 5e-3, x + 0.035),
            Axis("finger", "z", c.speed, RADIUS + 2e-3, z + 0.015),
            Axis("finger", "pitch", c.turn, -0.5, 0.5, 0.1),
        )

    def turned(self, state: Any) -> Tensor:
        """Angle of the block's own z axis from the vertical, towards +x [rad], (B,). Differentiable."""
        axis = self.block.deformation(state.x)[..., 2]
        return torch.atan2(axis[..., 0], axis[..., 2])

    def tactile_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        force = (self.wrenches(state)[:, 0, 0].square() + 1e-12).sqrt()
        over = (force / self.config.force - 1).clamp(min=0)
        return {"push": 0.05 * self.weight(t) * over.square()}

    def state_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        share = self.turned(state).rad2deg() / self.config.target
        return {"angle": self.weight(t) * (share - 1).square()}

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """angle, angle_error [degrees]; push, peak_force [N]."""
        state = state.detach()
        angle = self.turned(state).rad2deg()
        return {
            "angle": angle,
            "angle_error": (angle - self.config.target).abs(),
            "push": -self.wrenches(state)[:, 0, 0],
            "peak_force": self.peak_force(state),
        }

    def reached(self, state: Any) -> Tensor:
        """Turn within `angle_error`, 5 degrees, (B,) bool."""
        return self.metrics(state)["angle_error"] <= self.config.angle_error

    def initial_actions(self) -> Tensor:
        """Along and a little up for the first two thirds."""
        c = self.config
        steps = max(1, round(2 * self.horizon / 3))
        share = self.way / (steps * c.dt * c.speed)
        return self.ramp({"finger x": share, "finger z": 0.2 * share}, 0, steps)


@dataclasses.dataclass(frozen=True)
class ObjectReposingNanoConfig(ObjectReposingConfig):
    """`ObjectReposingConfig` at a coarser resolution, with longer steps."""

    horizon: int = 26
    """Actions per episode; 0.26 s."""
    dt: float = 1e-2
    """Step [s]."""
    speed: float = 0.15
    """Largest speed per axis [m/s]."""
    cuts: int = 3
    """Resolution of the gel around."""
    layers: int = 1
    """Resolution of the gel in depth."""
    order: int = 1
    """Of the gel's cells."""


class ObjectReposingNano(ObjectReposing):
    """`ObjectReposing` for tests."""

    Config = ObjectReposingNanoConfig
