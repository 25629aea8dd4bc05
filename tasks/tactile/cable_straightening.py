"""CableStraightening: a gripper pulls a cable straight that is pinned at its other end.

    tactile   0.05 w(t) (F_x/F* + 1)²        F_x: of the cable on the gripper; F*: tension wanted
    state     w(t) e²/(b/2)²,   b the bow at the start,   e² = mean over points of y² + (z − z₀)²

The cable lies in a bow on a table, its free end between two pads beyond the table's edge. It resists
bending a little and stretching much. The nominal command pulls too little.

Source: Si et al. 2024 (DiffTactile), cable straightening; an elastic rod instead of a chain of
constraints.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.shapes import Box
from .base import Axis, TactileConfig, TactileTask
from .scene import Scene, Touch

__all__ = ["CableStraightening", "CableStraighteningConfig", "CableStraighteningNano"]

THICKNESS = 4e-3
"""Of the pads [m]."""
SIDES = ((0.5**0.5, -(0.5**0.5), 0.0, 0.0), (0.5**0.5, 0.5**0.5, 0.0, 0.0))
"""Orientations of pads that look along +y and −y."""


@dataclasses.dataclass(frozen=True)
class CableStraighteningConfig(TactileConfig):
    """Scene, numbers and criterion."""

    cuts: int = 4
    """Cells of a pad along its sides."""
    d_hat: float = 8e-4
    """Distance at which contact begins [m]; the cable is as thick as its contact."""
    links: int = 24
    """Segments of the cable."""
    span: float = 0.06
    """From the pin to the gripper at the start [m]."""
    bow: float = 8e-3
    """Height of the bow in y [m]."""
    r: float = 8e-4
    """Radius of the cable [m]."""
    E: float = 5e6
    """Its Young's modulus [Pa]; soft PVC, 10 N per unit of strain."""
    rho: float = 1300.0
    """Its density [kg/m³]."""
    squeeze: float = 3e-4
    """How far each pad closes before the episode [m]."""
    tension: float = 0.3
    """Tension that is wanted, F* [N]."""
    straight: float = 1e-3
    """Solved when the root mean square distance from the line is at most this [m]."""


class CableStraightening(TactileTask):
    """Pull a cable straight. Actions are velocities x, y, z [m/s] and yaw [rad/s] of the gripper, and
    that of its opening. Solved at 1 mm, root mean square distance from the line."""

    Config = CableStraighteningConfig
    config: CableStraighteningConfig
    share = 0.4
    """Part of the missing way that the nominal command pulls."""

    def build(self, scene: Scene) -> None:
        c, grip = self.config, 0.01
        X = _bow(c, grip)
        self._height = 0.8 * c.d_hat
        X[:, 2] = self._height
        scene.rod("cable", X, (0, 1), E=c.E, r=c.r, rho=c.rho)
        mesh = self.pad((grip, grip, THICKNESS))
        x, y = c.span + 0.5 * grip, 0.9 * c.d_hat + THICKNESS
        self._place = (x, y)
        for name, side, turn in (("near", -1, SIDES[0]), ("far", 1, SIDES[1])):
            scene.gel(name, mesh, (x, side * y, self._height), turn, c.material, nu=c.nu)
        edge = c.span - 3e-3
        table = Box((0.5 * (edge + 5e-3), 0.02, 5e-3))
        scene.plate(Collider(table, (0.5 * (edge - 5e-3), 0.0, -5e-3), name="table"))

    def touch(self) -> Touch:
        return dataclasses.replace(super().touch(), ignore=[("near", "table"), ("far", "table")])

    def grippers(self):
        return {"gripper": ("near", "far")}

    def movable(self):
        return ()

    def closing(self):
        c, steps = self.config, 3
        v = c.squeeze / (steps * c.dt)
        return ((steps, {"near": (0.0, v), "far": (0.0, -v)}),)

    def motions(self) -> tuple[Axis, ...]:
        c, (x, y) = self.config, self._place
        near = y - c.squeeze
        return (
            Axis("gripper", "x", c.speed, x - 2e-3, x + 0.012),
            Axis("gripper", "y", c.speed, -6e-3, 6e-3),
            Axis("gripper", "z", c.speed, self._height - 1e-3, self._height + 3e-3),
            Axis("gripper", "yaw", c.turn, -0.3, 0.3, 0.1),
            Axis("gripper opening", "x", 0.2 * c.speed, near - 4e-4, near + 1e-3),
        )

    def bend(self, state: Any) -> Tensor:
        """e² [m²], (B,). Differentiable."""
        x = self.points(state, "cable")
        return (x[..., 1].square() + (x[..., 2] - self._height).square()).mean(1)

    def tension(self, state: Any) -> Tensor:
        """What the gripper pulls with along x [N], (B,). Differentiable."""
        return -self.wrenches(state)[..., 0].sum(1)

    def tactile_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        short = self.tension(state) / self.config.tension - 1
        return {"tension": 0.05 * self.weight(t) * short.square()}

    def state_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        # A share of the bow, so that losses of sizes compare.
        return {"bend": self.weight(t) * self.bend(state) / (0.5 * self.config.bow) ** 2}

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """straightness [m]: root mean square distance from the line; tension, peak_force [N]."""
        state = state.detach()
        return {
            "straightness": self.bend(state).sqrt(),
            "tension": self.tension(state),
            "peak_force": self.peak_force(state),
        }

    def reached(self, state: Any) -> Tensor:
        """Straight to 1 mm (root mean square), (B,) bool."""
        return self.metrics(state)["straightness"] <= self.config.straight

    def initial_actions(self) -> Tensor:
        """Along x, by a share of what is missing to the straight cable."""
        c = self.config
        X = _bow(c, 0.0)
        missing = float((X[1:] - X[:-1]).norm(dim=-1).sum()) - c.span
        return self.ramp({"gripper x": self.share * missing / (self.horizon * c.dt * c.speed)})


def _bow(c: CableStraighteningConfig, grip: float) -> Tensor:
    """Points of the cable [m], (links + 1, 3); `grip` of it is straight beyond the span."""
    x = torch.linspace(0, c.span + grip, c.links + 1, dtype=torch.float64)
    u = (x / c.span).clamp(max=1)
    y = 0.5 * c.bow * (1 - torch.cos(2 * math.pi * u))
    return torch.stack((x, y, torch.zeros_like(x)), 1)


@dataclasses.dataclass(frozen=True)
class CableStraighteningNanoConfig(CableStraighteningConfig):
    """`CableStraighteningConfig` at a coarser resolution, with longer steps."""

    horizon: int = 12
    """Actions per episode; 0.12 s."""
    dt: float = 1e-2
    """Step [s]."""
    links: int = 14
    """Segments of the cable."""
    cuts: int = 2
    """Cells of a pad along its sides."""
    layers: int = 1
    """Cells of a pad in depth."""
    order: int = 1
    """Of the pads' cells."""


class CableStraighteningNano(CableStraightening):
    """`CableStraightening` for tests."""

    Config = CableStraighteningNanoConfig
