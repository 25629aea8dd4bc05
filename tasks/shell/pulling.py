"""Separating and Following: a gripper pulls a sheet from under a block, or so that the block comes
along.

    separating   ℓ(x, t) = w(t) [ (1 − (s − b)/D)₊² + (2 |b|/b_max − 1)₊² ] + costs
    following    ℓ(x, t) = w(t) (1 − b/D)₊² + costs

s is how far the sheet has been pulled (mean of its points), b how far the block has moved with it, D
the way that is wanted. Friction accelerates the block by μ g at most: a sheet that is pulled within a
time τ moves a slipping block by μ g τ², braking included, so separating is quick and following is slow
at first.

Source: Wang et al. 2024 (ThinShellLab), tasks Separating and Following. Sheet and block have a weight
of 80 g/m² and 2500 kg/m³ instead of 40 kg/m² and 10 000 kg/m³; friction at the block is 0.1 for
separating.
"""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.shapes import Box
from ...sim.fem import FEMState
from ...sim.fem.meshes import box
from ...sim.shell import rectangle
from .base import Axis, ShellConfig, ShellTask
from .scene import TIP_RADIUS, Scene

__all__ = [
    "Following",
    "FollowingNano",
    "PullingConfig",
    "Separating",
    "SeparatingConfig",
    "SeparatingNano",
]

GRIP = -0.04
"""Where the sheet is gripped [m], x."""


@dataclasses.dataclass(frozen=True)
class PullingConfig(ShellConfig):
    """Scene, numbers and criterion of both tasks."""

    size: float = 0.06
    """Side of the sheet and of the plate [m]."""
    block: tuple[float, float, float] = (0.012, 0.012, 0.0072)
    """Sides of the block [m]."""
    block_cells: tuple[int, int, int] = (5, 5, 3)
    """Its cells."""
    block_start: float = 0.007
    """Middle of the block in x [m]."""
    block_rho: float = 2500.0
    """Its density [kg/m³]; glass, 2.6 g."""
    gap: float = 4e-4
    """Between fingers and sheet before they close [m]."""
    squeeze: float = 1.2e-3
    """How far each finger closes [m]."""
    closing_steps: int = 5
    """Steps in which they close."""
    mu_plate: float = 0.2
    """Friction of the sheet on the plate [-]."""
    way: float = 0.012
    """What a search aims at, D [m]."""
    needed: float = 0.010
    """Solved when the block has moved this far [m]."""


@dataclasses.dataclass(frozen=True)
class SeparatingConfig(PullingConfig):
    """`PullingConfig` with a slippery block: at 0.2 m/s, sheet and block can be 8 to 9 mm apart when the
    block has moved by 4 mm, braking included."""

    way: float = 0.010
    """What a search aims at, D [m]."""
    needed: float = 0.008
    """Solved when sheet and block are this far apart [m]."""
    slip: float = 4e-3
    """How far the block may move, b_max [m]."""
    mu_block: float = 0.1
    """Friction of the block on the sheet [-]."""


class _Pulling(ShellTask):
    """Pull a sheet. Actions are velocities of the gripper: x, y, z [m/s], roll, pitch, yaw [rad/s]."""

    Config = PullingConfig
    config: PullingConfig
    share = 0.5
    """Part of the speed limit at which a search starts."""
    duration = math.inf
    """Time at the end of the episode in which it pulls [s]."""

    def build(self, scene: Scene) -> None:
        c, half = self.config, 0.5 * self.config.size
        mesh = rectangle((c.size, c.size), c.spacing)
        scene.sheet("sheet", mesh.placed((-0.045, -half, c.d_hat)), c.material)
        for name, side in (("upper", 1), ("lower", -1)):
            height = c.d_hat + side * (TIP_RADIUS + c.gap)
            scene.tip(name, self.fingertip(), (GRIP, 0.0, height), down=side > 0)
        X, tets = box(c.block_cells, c.block)
        corner = (c.block_start - 0.5 * c.block[0], -0.5 * c.block[1], 1.75 * c.d_hat)
        scene.block("block", X, tets, corner, rho=c.block_rho)
        thick = 2e-3
        scene.plate(Collider(Box((half, half, thick)), (0.0, 0.0, -thick), name="plate"))

    def closing(self):
        c = self.config
        v = c.squeeze / (c.closing_steps * c.dt)
        return ((c.closing_steps, {"upper": (0.0, 0.0, -v), "lower": (0.0, 0.0, v)}),)

    def grippers(self):
        return {"gripper": ("upper", "lower")}

    def motions(self) -> tuple[Axis, ...]:
        c, z = self.config, self.config.d_hat
        places = (("x", GRIP - 0.03, GRIP + 2e-3), ("y", -0.01, 0.01), ("z", z - 4e-3, z + 0.01))
        straight = [Axis("gripper", axis, c.speed, low, high) for axis, low, high in places]
        turns = [Axis("gripper", a, c.turn, -0.3, 0.3, 0.1) for a in ("roll", "pitch", "yaw")]
        return (*straight, *turns)

    def ways(self, state: FEMState) -> tuple[Tensor, Tensor]:
        """How far sheet and block have moved towards the gripper [m], (B,) each."""
        start = self.reset(device=state.x.device)
        pairs = ((self.center(start, n), self.center(state, n)) for n in ("sheet", "block"))
        sheet, block = (before[:, 0] - now[:, 0] for before, now in pairs)
        return sheet, block

    def metrics(self, state: FEMState) -> dict[str, Tensor]:
        """sheet and block [m]: how far they moved towards the gripper; force [N]: the
        largest so far; (B,)."""
        sheet, block = self.ways(state.detach())
        return {"sheet": sheet, "block": block, "force": self.peak_force(state)}

    def initial_actions(self) -> Tensor:
        """Straight away from the block, at a share of the speed limit, in the last `duration`."""
        actions = self.ramp({"gripper x": -self.share})
        idle = max(0.0, self.horizon - self.duration / self.config.dt)
        actions[: round(idle)] = 0.0
        return actions


class Separating(_Pulling):
    """Pull the sheet away from under the block."""

    Config = SeparatingConfig
    config: SeparatingConfig
    duration = 0.06
    """Friction moves the block by μ g τ²/2 in a time τ, 2 mm in this one. A pull throughout the episode
    carries it along by 7 mm, and from there gradients only pull more gently."""

    def terms(self, state: FEMState, t: int) -> dict[str, Tensor]:
        (sheet, block), c, w = self.ways(state), self.config, self.weight(t)
        return {
            "apart": w * (1 - (sheet - block) / c.way).clamp(min=0).square(),
            "block": w * (2 * block.abs() / c.slip - 1).clamp(min=0).square(),
        }

    def reached(self, state: FEMState) -> Tensor:
        """Whether sheet and block are `needed` apart and the block moved less than `slip`, (B,)
        bool."""
        sheet, block = self.ways(state.detach())
        return (sheet - block >= self.config.needed) & (block.abs() <= self.config.slip)


class Following(_Pulling):
    """Pull the sheet so that the block comes along."""

    share = 0.2

    def terms(self, state: FEMState, t: int) -> dict[str, Tensor]:
        block = self.ways(state)[1]
        return {"block": self.weight(t) * (1 - block / self.config.way).clamp(min=0).square()}

    def reached(self, state: FEMState) -> Tensor:
        """Whether the block has moved by `needed`, (B,) bool."""
        return self.ways(state.detach())[1] >= self.config.needed


@dataclasses.dataclass(frozen=True)
class FollowingNanoConfig(PullingConfig):
    """`PullingConfig` at a coarser resolution, with longer steps."""

    horizon: int = 12
    """Actions per episode; 0.12 s."""
    dt: float = 1e-2
    """Step [s]."""
    spacing: float = 0.01
    """Distance of points of sheets [m]; 49 points."""
    block_cells: tuple[int, int, int] = (1, 1, 1)
    """Cells of the block."""
    tip_cuts: int = 3
    """Resolution of fingertips around; 50 points."""
    tip_layers: int = 1
    """Resolution of fingertips in depth."""


@dataclasses.dataclass(frozen=True)
class SeparatingNanoConfig(FollowingNanoConfig):
    """`SeparatingConfig` at a coarser resolution, with longer steps."""

    way: float = 0.010
    """What a search aims at, D [m]."""
    needed: float = 0.008
    """Solved when sheet and block are this far apart [m]."""
    slip: float = 4e-3
    """How far the block may move, b_max [m]."""
    mu_block: float = 0.1
    """Friction of the block on the sheet [-]."""


class SeparatingNano(Separating):
    """`Separating` for tests."""

    Config = SeparatingNanoConfig


class FollowingNano(Following):
    """`Following` for tests."""

    Config = FollowingNanoConfig
