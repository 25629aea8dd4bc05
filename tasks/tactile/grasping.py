"""What both grasps share: two pads that close from the sides and lift.

    tactile   0.05 w(t) Σ_pads (m |F_t|/μ − |F_n|)₊²/F*²     grip that is short of m times what slip needs
    state     w(t) [ (h − h*)²/h*² + (s/h*)² ]

F_n, F_t are a pad's forces along and across its normal, h how far the object has been lifted, s = h − h_g
how far it is behind the gripper. The nominal command closes too little, then lifts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from .base import Axis, TactileConfig, TactileTask
from .scene import FROM_LEFT, FROM_RIGHT, Scene

__all__ = ["GraspConfig", "Grasping"]

THICKNESS = 4e-3
"""Of the pads [m]."""


@dataclasses.dataclass(frozen=True)
class GraspConfig(TactileConfig):
    """Fields of both tasks."""

    cuts: int = 4
    """Cells of a pad along its sides."""
    size: float = 0.014
    """Side of the cube [m]."""
    pad: float = 0.012
    """Sides of the pads [m]."""
    closing: float = 0.02
    """Largest speed of closing, of each pad [m/s]; a search steps by shares of it."""
    squeeze: float = 2e-5
    """How far the nominal command closes each pad after touching [m]."""
    close: int = 10
    """Steps in which it closes."""
    lift: float = 5e-3
    """Height that is wanted, h* [m]."""
    force: float = 0.1
    """Scale of forces, F* [N]."""
    margin: float = 1.3
    """Grip over what slip needs, m [-]."""
    lift_error: float = 1e-3
    """Solved when the object is this near to its height [m]."""
    slip: float = 1e-3
    """… and behind the gripper by less than this [m]."""


class Grasping(TactileTask):
    """Base of `GraspElastic` and `GraspPlastic`."""

    Config = GraspConfig
    config: Any
    touching = TactileConfig.d_hat
    """Distance at which pads and object touch [m]."""

    def pads(self, scene: Scene, gap: float) -> None:
        """Two pads about the cube on the floor, `gap` away from it [m]."""
        c = self.config
        mesh = self.pad((c.pad, c.pad, THICKNESS))
        x, z = 0.5 * c.size + gap + THICKNESS, 0.5 * c.size + 1e-3
        self._place = (x, z)
        scene.gel("left", mesh, (-x, 0.0, z), FROM_LEFT, c.material, nu=c.nu)
        scene.gel("right", mesh, (x, 0.0, z), FROM_RIGHT, c.material, nu=c.nu)

    def grippers(self):
        return {"gripper": ("left", "right")}

    def movable(self):
        return [("left", "right")]

    def motions(self) -> tuple[Axis, ...]:
        c, (x, z) = self.config, self._place
        return (
            Axis("gripper", "x", c.speed, -5e-3, 5e-3),
            Axis("gripper", "z", c.speed, z - 1e-3, z + 2 * c.lift),
            Axis("gripper", "pitch", c.turn, -0.3, 0.3, 0.1),
            Axis("gripper opening", "x", c.closing, x - 3e-3, x + 2e-3),
        )

    def height(self, state: Any) -> Tensor:
        """Mean height of the object [m], (B,). Differentiable."""
        raise NotImplementedError

    def lifted(self, state: Any) -> tuple[Tensor, Tensor]:
        """h and s [m], (B,) each. Differentiable."""
        start = self.origin(state)
        lift = self.height(state) - self.height(start)
        gripper = self.poses(state)[:, 0, 2] - self.poses(start)[:, 0, 2]
        return lift, gripper - lift

    def short(self, state: Any) -> Tensor:
        """Grip that each pad lacks [N], (B, 2). Differentiable."""
        force, c = self.wrenches(state), self.config
        across = (force[..., 1].square() + force[..., 2].square() + 1e-12).sqrt()
        return (c.margin * across / c.mu_gel - force[..., 0].abs()).clamp(min=0)

    def tactile_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        short = self.short(state) / self.config.force
        return {"grip": 0.05 * self.weight(t) * short.square().sum(-1)}

    def state_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        c, w = self.config, self.weight(t)
        lift, slip = self.lifted(state)
        return {
            "lift": w * (lift / c.lift - 1).square(),
            "slip": w * (slip / c.lift).square(),
        }

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """lift, lift_error, slip [m]; grip: mean normal force, short: grip that lacks, peak_force [N]."""
        state = state.detach()
        lift, slip = self.lifted(state)
        return {
            "lift": lift,
            "lift_error": (lift - self.config.lift).abs(),
            "slip": slip.abs(),
            "grip": self.wrenches(state)[..., 0].abs().mean(1),
            "short": self.short(state).amax(1),
            "peak_force": self.peak_force(state),
        }

    def reached(self, state: Any) -> Tensor:
        """Lift within `lift_error`, slip within `slip`, 1 mm each, (B,) bool."""
        found, c = self.metrics(state), self.config
        return (found["lift_error"] <= c.lift_error) & (found["slip"] <= c.slip)

    def initial_actions(self) -> Tensor:
        """Close by the gap and `squeeze`, then lift by `lift`."""
        c = self.config
        way = self._place[0] - THICKNESS - 0.5 * c.size - self.touching + c.squeeze
        closing = -way / (c.close * c.dt * c.closing)
        rising = c.lift / ((self.horizon - c.close) * c.dt * c.speed)
        moves = self.ramp({"gripper opening x": closing}, 0, c.close)
        return (moves + self.ramp({"gripper z": rising}, c.close)).clamp(
            -self.action_limit, self.action_limit
        )
