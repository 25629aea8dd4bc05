"""CaseOpening: a sensor lifts the lip of a hinged lid.

    tactile   w(t) (F_z + F*)²/F*²        F_z: of the lid on the sensor, pointing down
    state     w(t) (θ − θ*)²/θ*²          θ: angle of the lid, θ* = 0.3 rad

The lid is a rigid body on a hinge of the world with friction of its bearing; it lies on the case, which
does not move, and its lip stands out at the front. The nominal command goes up, then along.

Source: Si et al. 2024 (DiffTactile), case opening, where the hinge is a soft zone of an elastic object.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.colliders_rigid import RigidBody
from ...sim.core.shapes import Box
from ...sim.coupling import Joint
from .base import Axis, TactileConfig, TactileTask
from .scene import UP, Scene, Touch

__all__ = ["CaseOpening", "CaseOpeningConfig", "CaseOpeningNano"]

RADIUS = 15e-3
"""Of the dome [m]."""


@dataclasses.dataclass(frozen=True)
class CaseOpeningConfig(TactileConfig):
    """Scene, numbers and criterion."""

    lid: tuple[float, float, float] = (0.045, 0.03, 0.004)
    """Sides of the lid [m]; x from the hinge to the lip."""
    lid_rho: float = 2700.0
    """Density of the lid [kg/m³]; aluminium, 15 g."""
    bearing: float = 1e-3
    """Friction of the hinge [N m s/rad]."""
    lip: float = 0.036
    """Where the sensor touches, from the hinge [m]."""
    target: float = 0.3
    """Angle of the lid that is wanted, θ* [rad]."""
    force: float = 0.3
    """Force that is wanted, F* [N]."""
    angle_error: float = 2.9
    """Solved when the angle at the end is this near to its target [degrees]; 0.05 rad."""


class CaseOpening(TactileTask):
    """Open a lid to 0.3 rad. Actions are velocities x, z [m/s] and pitch [rad/s] of the dome. Solved at
    an error of 2.9 degrees (0.05 rad)."""

    Config = CaseOpeningConfig
    config: CaseOpeningConfig
    lift = 0.75
    """Share of the way up to the target that the nominal command goes."""

    def build(self, scene: Scene) -> None:
        c = self.config
        length, width, thick = c.lid
        base = 0.01 + 0.5 * length
        body = RigidBody(
            Box((0.5 * length, 0.5 * width, 0.5 * thick)),
            (0.5 * length, 0.0, 0.5 * thick),
            rho=c.lid_rho,
            name="lid",
        )
        lid = scene.body(body)
        hinge = (0.0, 0.0, 0.0)
        self.hinge = Joint.hinge(
            "hinge", lid, None, hinge, (0.0, -1.0, 0.0), width, damping=c.bearing
        )
        scene.joint(self.hinge)
        # The case ends before the sensor begins; the lid lies d_hat above it.
        depth, end = 0.5 * base, c.lip - RADIUS - 4e-3
        case = Box((0.5 * (end + 5e-3), 0.5 * width, depth))
        middle = (0.5 * (end - 5e-3), 0.0, -depth - c.d_hat)
        scene.plate(Collider(case, middle, name="case"))
        self._place = (c.lip, 0.0, -RADIUS - 1.2 * c.d_hat)
        scene.gel("finger", self.dome(), self._place, UP, c.material, nu=c.nu)

    def touch(self) -> Touch:
        return dataclasses.replace(super().touch(), ignore=[("finger", "case")])

    def motions(self) -> tuple[Axis, ...]:
        c, (x, _, z) = self.config, self._place
        return (
            Axis("finger", "x", c.speed, x - 4e-3, x + 4e-3),
            Axis("finger", "z", c.speed, z - 2e-3, z + 1.6 * c.target * c.lip),
            Axis("finger", "pitch", c.turn, -0.5, 0.5, 0.1),
        )

    def angle(self, state: Any) -> Tensor:
        """Of the lid [rad], (B,). Differentiable."""
        return self.hinge.angle(state.x)

    def tactile_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        force = self.wrenches(state)[:, 0, 2]
        return {"push": 0.05 * self.weight(t) * (force / self.config.force + 1).square()}

    def state_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        return {"angle": self.weight(t) * (self.angle(state) / self.config.target - 1).square()}

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """angle, angle_error [degrees]; push, peak_force [N]."""
        state = state.detach()
        angle = self.angle(state)
        return {
            "angle": angle.rad2deg(),
            "angle_error": (angle - self.config.target).abs().rad2deg(),
            "push": -self.wrenches(state)[:, 0, 2],
            "peak_force": self.peak_force(state),
        }

    def reached(self, state: Any) -> Tensor:
        """Angle within `angle_error`, 2.9 degrees, (B,) bool."""
        return self.metrics(state)["angle_error"] <= self.config.angle_error

    def initial_actions(self) -> Tensor:
        """Up for the first two thirds, then along, away from the hinge."""
        c = self.config
        steps = math.ceil(2 * self.horizon / 3)
        rise = self.lift * c.target * c.lip / (steps * c.dt * c.speed)
        return self.ramp({"finger z": rise}, 0, steps) + self.ramp({"finger x": 0.3}, steps)


@dataclasses.dataclass(frozen=True)
class CaseOpeningNanoConfig(CaseOpeningConfig):
    """`CaseOpeningConfig` at a coarser resolution, with longer steps."""

    horizon: int = 16
    """Actions per episode; 0.16 s."""
    dt: float = 1e-2
    """Step [s]."""
    speed: float = 0.12
    """Largest speed per axis [m/s]."""
    cuts: int = 3
    """Resolution of the gel around."""
    layers: int = 1
    """Resolution of the gel in depth."""


class CaseOpeningNano(CaseOpening):
    """`CaseOpening` for tests."""

    Config = CaseOpeningNanoConfig
