"""PegInsertion: a gripper puts a peg into a hole whose place the nominal command does not know.

    tactile   0.05 w(t) (|F_xyz|/F* − 1)₊²        sum of both pads: what the peg hits the plate with
    state     w(t) [ (d/D − 1)² + r²/r*² /4 ],    d depth of the peg's end, r its distance from the axis

The peg is a rigid cylinder between two pads, held by friction; the hole is a cylinder in a plate, with
a rounded rim. The nominal command goes straight down and stops on the rim.

Not in DiffTactile (Si et al. 2024), whose users ask for it; docs/tactile-tasks.md builds it step by step.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.colliders_rigid import RigidBody
from ...sim.core.csg import Difference, Moved
from ...sim.core.shapes import Box, Cylinder
from .base import Axis, TactileConfig, TactileTask
from .scene import FROM_LEFT, FROM_RIGHT, Scene, Touch

__all__ = ["PegInsertion", "PegInsertionConfig", "PegInsertionNano"]

THICKNESS = 4e-3
"""Of the pads [m]."""


@dataclasses.dataclass(frozen=True)
class PegInsertionConfig(TactileConfig):
    """Scene, numbers and criteria."""

    horizon: int = 60
    """Actions per episode; 0.3 s."""
    cuts: int = 4
    """Cells of a pad along its sides."""
    radius: float = 4e-3
    """Of the peg [m]."""
    length: float = 0.024
    """Of the peg [m]."""
    clearance: float = 5e-4
    """Radius of the hole less that of the peg [m]."""
    rim: float = 1.5e-3
    """Width of the rounding of the rim [m]."""
    offset: tuple[float, float] = (2.0e-3, 1.0e-3)
    """Where the hole is, which the nominal command does not know [m]."""
    rho: float = 1400.0
    """Density of the peg [kg/m³]; plastic, 1.7 g."""
    squeeze: float = 3e-4
    """How far each pad closes before the episode [m]."""
    depth: float = 6e-3
    """Depth that is wanted, D [m]."""
    force: float = 0.3
    """Force above which it costs, F* [N]."""
    needed: float = 5e-3
    """Solved when the end of the peg is this deep [m]."""
    tilt: float = 5.0
    """… and the peg is tilted by less than this [degrees]."""


class PegInsertion(TactileTask):
    """Put a peg into a hole. Actions are velocities x, y, z [m/s], roll and pitch [rad/s] of the gripper,
    and that of its opening. Solved at a depth of 5 mm and a tilt below 5 degrees."""

    Config = PegInsertionConfig
    config: PegInsertionConfig

    def build(self, scene: Scene) -> None:
        c = self.config
        mesh = self.pad((0.01, 0.01, THICKNESS))
        height = 0.5 * c.length + 1e-3
        x, z = c.radius + 0.8 * c.d_hat + THICKNESS, height + 5e-3
        self._place = (x, z)
        scene.gel("left", mesh, (-x, 0.0, z), FROM_LEFT, c.material, nu=c.nu)
        scene.gel("right", mesh, (x, 0.0, z), FROM_RIGHT, c.material, nu=c.nu)
        shape = Cylinder(c.radius, 0.5 * c.length)
        self.peg = scene.body(RigidBody(shape, (0.0, 0.0, height), rho=c.rho, name="peg"))
        hole = Moved(Cylinder(c.radius + c.clearance, 0.05), (*c.offset, 0.0))
        plate = Moved(Box((0.02, 0.02, 0.01)), (0.0, 0.0, -0.01))
        scene.plate(Collider(Difference(plate, hole, blend=c.rim), name="plate"))

    def touch(self) -> Touch:
        ignore = [("left", "plate"), ("right", "plate")]
        return dataclasses.replace(super().touch(), ignore=ignore, spacing=2e-3)

    def grippers(self):
        return {"gripper": ("left", "right")}

    def movable(self):
        return [("left", "right", "peg")]

    def closing(self):
        c, steps = self.config, 3
        v = c.squeeze / (steps * c.dt)
        return ((steps, {"left": (v,), "right": (-v,)}),)

    def motions(self) -> tuple[Axis, ...]:
        c, (x, z) = self.config, self._place
        near = x - c.squeeze
        return (
            Axis("gripper", "x", c.speed, -4e-3, 4e-3),
            Axis("gripper", "y", c.speed, -4e-3, 4e-3),
            Axis("gripper", "z", c.speed, z - c.depth - 3e-3, z + 2e-3),
            Axis("gripper", "roll", c.turn, -0.2, 0.2, 0.1),
            Axis("gripper", "pitch", c.turn, -0.2, 0.2, 0.1),
            Axis("gripper opening", "x", 0.2 * c.speed, near - 1e-3, near + 2e-3),
        )

    def end(self, state: Any) -> Tensor:
        """Middle of the peg's lower end [m], (B, 3). Differentiable."""
        low = state.x.new_tensor([[0.0, 0.0, -0.5 * self.config.length]])
        return self.peg.place(low, state.x)[:, 0]

    def tactile_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        c = self.config
        force = (self.wrenches(state)[..., :3].sum(1).square().sum(-1) + 1e-12).sqrt()
        return {"hit": 0.05 * self.weight(t) * (force / c.force - 1).clamp(min=0).square()}

    def state_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        c, w, end = self.config, self.weight(t), self.end(state)
        aside = (end[:, :2] - end.new_tensor(c.offset)).square().sum(-1)
        axis = self.peg.deformation(state.x)[..., 2]
        lean = axis[:, :2] / axis.norm(dim=-1, keepdim=True)  # sine of the tilt
        return {
            "depth": w * (-end[:, 2] / c.depth - 1).square(),
            "aside": 0.25 * w * aside / sum(v * v for v in c.offset),
            "tilt": 0.05 * w * lean.square().sum(-1) / math.sin(math.radians(c.tilt)) ** 2,
        }

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """depth, aside [m]; tilt [degrees]; hit, peak_force [N]."""
        state = state.detach()
        end, axis = self.end(state), self.peg.deformation(state.x)[..., 2]
        return {
            "depth": -end[:, 2],
            "aside": (end[:, :2] - end.new_tensor(self.config.offset)).norm(dim=-1),
            "tilt": torch.atan2(axis[:, :2].norm(dim=-1), axis[:, 2]).rad2deg(),
            "hit": self.wrenches(state)[..., :3].sum(1).norm(dim=-1),
            "peak_force": self.peak_force(state),
        }

    def reached(self, state: Any) -> Tensor:
        """Depth at least 5 mm, tilt below 5 degrees, (B,) bool."""
        found, c = self.metrics(state), self.config
        return (found["depth"] >= c.needed) & (found["tilt"] <= c.tilt)

    def initial_actions(self) -> Tensor:
        """Straight down by `depth` and the millimetre above the plate."""
        c = self.config
        share = (c.depth + 1e-3) / (self.horizon * c.dt * c.speed)
        return self.ramp({"gripper z": -share})


@dataclasses.dataclass(frozen=True)
class PegInsertionNanoConfig(PegInsertionConfig):
    """`PegInsertionConfig` at a coarser resolution, with longer steps."""

    horizon: int = 14
    """Actions per episode; 0.14 s."""
    dt: float = 1e-2
    """Step [s]."""
    layers: int = 1
    """Cells of a pad in depth."""
    order: int = 1
    """Of the pads' cells."""


class PegInsertionNano(PegInsertion):
    """`PegInsertion` for tests."""

    Config = PegInsertionNanoConfig
