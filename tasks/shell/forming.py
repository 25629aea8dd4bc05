"""Forming: a finger presses a bent strip into a given shape.

    ℓ(x, t) = w(t) (1/N) Σ_strip |x − x*|²/L² + costs

x* is the strip at the end of `script`, recorded once; L is 10 mm. The strip lies over half a circle of
five cells, its lower layer clamped at the end; it is elastic. The search starts with the finger at
rest.

Source: Wang et al. 2024 (ThinShellLab), task Forming, whose goal is the end of a scripted run, too; the
script is ours. Paper under its own weight instead of a strip of 40 kg/m².
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.shapes import Plane
from ...sim.fem import FEMState
from ...sim.shell import rectangle
from .base import Axis, ShellConfig, ShellTask
from .scene import TIP_RADIUS, Scene

__all__ = ["Forming", "FormingConfig", "FormingNano"]

TURN = (0.0, 0.0, 0.0, 1.0)
"""Half a turn about z: the strip is bent at the left."""


@dataclasses.dataclass(frozen=True)
class FormingConfig(ShellConfig):
    """Scene, numbers and criterion of `Forming`."""

    length: float = 0.1
    """Of the strip [m]."""
    width: float = 0.1 * 7 / 15
    """Of the strip [m]."""
    spacing: float = 0.1 / 15
    """Distance of points [m]; 16 × 8."""
    arc: float = 0.1 / 3
    """Length of the half circle [m]; five cells, a radius of 10.6 mm."""
    gap: float = 6e-4
    """Between finger and strip at the start [m]."""
    down: float = 7e-3
    """How far the finger goes down in the script [m]."""
    along: float = 5e-3
    """How far it goes towards the clamp in the script [m]."""
    mu_plate: float = 0.4
    """Friction on the table [-]."""
    tolerance: float = 2e-3
    """Solved when points are this close to the goal, root of the mean square [m]."""


class Forming(ShellTask):
    """Press a strip into shape. Actions are the velocity of the finger along x and z [m/s]."""

    Config = FormingConfig
    config: FormingConfig
    folds = True

    def __init__(self, config=None) -> None:
        super().__init__(config)
        self._goal: Tensor | None = None

    def build(self, scene: Scene) -> None:
        c, half = self.config, 0.5 * self.config.length
        mesh = rectangle((c.length, c.width), c.spacing).u_bent(c.arc / math.pi, middle=half)
        strip = mesh.placed((half, 0.5 * c.width, c.d_hat), TURN)
        scene.sheet("strip", strip, c.material)
        scene.hold("clamp", {"strip": mesh.rows(0, 1)})
        scene.plate(Collider(Plane(), name="table"))
        self._place = (0.5 * c.arc - 0.6 * c.arc / math.pi, float(strip.x[:, 2].max()))
        start = (self._place[0], 0.0, self._place[1] + c.gap + TIP_RADIUS)
        scene.tip("finger", self.fingertip(), start, down=True)

    def motions(self) -> tuple[Axis, ...]:
        c, (x, top) = self.config, self._place
        return (
            Axis("finger", "x", c.speed, x - 0.02, x + 0.02),
            Axis("finger", "z", c.speed, TIP_RADIUS - 1e-3, top + 0.01 + TIP_RADIUS, 1e-3),
        )

    def script(self) -> Tensor:
        """Down, then along, each in half of the time; (T, A)."""
        c, actions = self.config, torch.zeros(self.horizon, 2)
        first = (self.horizon + 1) // 2
        actions[:first, 1] = -c.down / (first * c.dt)
        if self.horizon > first:
            actions[first:, 0] = c.along / ((self.horizon - first) * c.dt)
        return torch.maximum(torch.minimum(actions, self.action_limit), -self.action_limit)

    @torch.no_grad()
    def goal(self) -> Tensor:
        """Strip at the end of the script [m], (N, 3)."""
        if self._goal is None:
            spent = self.simulated_steps
            end = self.rollout(self.script(), save_every=self.horizon).final
            self.simulated_steps, self._goal = spent, self.points(end, "strip")[0]
        return self._goal

    def _gap(self, state: FEMState) -> Tensor:
        """Mean squared distance to the goal [m²], (B,)."""
        away = self.points(state, "strip") - self.goal().to(state.x)
        return away.square().sum(-1).mean(1)

    def terms(self, state: FEMState, t: int) -> dict[str, Tensor]:
        return {"shape": self.weight(t) * self._gap(state) / 0.01**2}

    def metrics(self, state: FEMState) -> dict[str, Tensor]:
        """distance [m]: of points to the goal, root of the mean square; force [N]: the largest so
        far; (B,)."""
        return {
            "distance": self._gap(state.detach()).sqrt(),
            "force": self.peak_force(state),
        }

    def reached(self, state: FEMState) -> Tensor:
        """Whether the shape is reached within `tolerance`, (B,) bool."""
        return self._gap(state.detach()).sqrt() <= self.config.tolerance


@dataclasses.dataclass(frozen=True)
class FormingNanoConfig(FormingConfig):
    """`FormingConfig` at a coarser resolution, with longer steps."""

    horizon: int = 12
    """Actions per episode; 0.12 s."""
    dt: float = 1e-2
    """Step [s]."""
    spacing: float = 0.0125
    """Distance of points [m]; 9 × 5."""
    tip_cuts: int = 3
    """Resolution of fingertips around; 50 points."""
    tip_layers: int = 1
    """Resolution of fingertips in depth."""


class FormingNano(Forming):
    """`Forming` for tests."""

    Config = FormingNanoConfig
