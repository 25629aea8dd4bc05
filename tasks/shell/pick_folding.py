"""Pick-Folding: two fingers press a sheet on an arch, then push inwards, so that it rises and creases.

    ℓ(x, t) = w(t) [ (1 − θ̄/θ*)₊² + ¼ (1 − φ/φ*)₊² ] + costs

θ̄ and φ are mean rest angle and mean angle of the hinges along the middle row, φ* the angle that leaves
θ* behind (see `folding`). The fingers come down before the episode.

Source: Wang et al. 2024 (ThinShellLab), task Pick-Folding. The arch there is a mesh with the sine of 4
mm; ours is the circle through its ends and top. Friction at the fingers is 1 instead of 10.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.shapes import Capsule
from ...sim.fem import FEMState, hinge_angle
from ...sim.shell import PlasticSheet, hinges_along, rectangle
from .base import Axis, ShellConfig, ShellTask
from .scene import TIP_RADIUS, Scene

__all__ = ["PickFolding", "PickFoldingConfig", "PickFoldingNano"]

ALONG_Y = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)
"""Turns the axis of a capsule (z) to y."""


@dataclasses.dataclass(frozen=True)
class PickFoldingConfig(ShellConfig):
    """Scene, numbers and criterion of `PickFolding`."""

    size: float = 0.06
    """Side of the sheet and chord of the arch [m]."""
    spacing: float = 0.06 / 16
    """Distance of points [m]; 17 × 17, so that one row is in the middle."""
    rise: float = 4e-3
    """Of the arch over its chord [m]."""
    place: float = 0.02
    """Of the fingers from the middle [m]."""
    press: float = 2.6e-3
    """How far they come down before the episode, from touching the flat sheet [m]."""
    press_steps: int = 8
    """Steps in which they do."""
    mu_plate: float = 0.2
    """Friction on the arch [-]."""
    wanted: float = math.radians(30)
    """θ* [rad]."""
    leak: float = 0.0
    """Share of the surrogate gradient of creases that have not yielded yet [-]."""


class PickFolding(ShellTask):
    """Push a fold up. Actions are the velocities x and z of two fingers [m/s]."""

    Config = PickFoldingConfig
    config: PickFoldingConfig
    folds = True

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        part = self.model.parts[0]
        assert isinstance(part, PlasticSheet)
        self._row = hinges_along(part, self.scene.meshes["sheet"].rows(self._cells() // 2))
        roof = self.model.X.clone()
        roof[:, 2] = -0.1 * roof[:, 0].abs()
        self._sign = float(hinge_angle(roof[part.hinges[0][self._row]]).mean().sign())
        values = self.prepared(self.model.initial_state(x=self.scene.x)).parts[0]
        names = ("width", "kappa_y", "hardening")
        width, kappa_y, H = (values[n][:, self._row].mean() for n in names)
        self._bend = float(self.config.wanted * (1 + H) + kappa_y * width)

    def _cells(self) -> int:
        return round(self.config.size / self.config.spacing)

    def build(self, scene: Scene) -> None:
        c, half = self.config, 0.5 * self.config.size
        mesh = rectangle((c.size, c.size), c.spacing).placed((-half, -half, c.d_hat))
        scene.sheet("sheet", mesh, c.material, creases=True, leak=c.leak)
        radius = (half**2 + c.rise**2) / (2 * c.rise)
        arch = Collider(Capsule(radius, 10 * radius), (0.0, 0.0, -radius), ALONG_Y, name="arch")
        scene.plate(arch)
        height = 2 * c.d_hat + TIP_RADIUS
        for name, side in (("left", -1), ("right", 1)):
            scene.tip(name, self.fingertip(), (side * c.place, 0.0, height), down=True)

    def closing(self):
        c = self.config
        down = (0.0, 0.0, -c.press / (c.press_steps * c.dt))
        return ((c.press_steps, {"left": down, "right": down}),)

    def motions(self) -> tuple[Axis, ...]:
        c = self.config
        z = 2 * c.d_hat + TIP_RADIUS - c.press
        axes = []
        for name, side in (("left", -1), ("right", 1)):
            low, high = sorted((side * (c.place + 5e-3), side * 9e-3))
            axes += [Axis(name, "x", c.speed, low, high, 2e-3)]
            axes += [Axis(name, "z", c.speed, z - 5e-4, z + 0.01, 5e-4)]
        return tuple(axes)

    def angles(self, state: FEMState) -> tuple[Tensor, Tensor]:
        """Rest angle θ̄ and angle φ of the middle row [rad], (B,), positive as it is lifted."""
        part: Any = self.model.parts[0]
        rest = state.theta_ref[:, self.model.hinge_slices()["sheet"]][:, self._row].mean(1)
        now = hinge_angle(state.x[:, part.hinges[0][self._row].to(state.x.device)]).mean(1)
        return self._sign * rest, self._sign * now

    def terms(self, state: FEMState, t: int) -> dict[str, Tensor]:
        (rest, now), w = self.angles(state), self.weight(t)
        return {
            "crease": w * (1 - rest / self.config.wanted).clamp(min=0).square(),
            "bend": 0.25 * w * (1 - now / self._bend).clamp(min=0).square(),
        }

    def metrics(self, state: FEMState) -> dict[str, Tensor]:
        """crease and bend [deg]: rest angle and angle of the middle row; force [N]: the largest
        so far; (B,)."""
        rest, now = (torch.rad2deg(a) for a in self.angles(state.detach()))
        return {"crease": rest, "bend": now, "force": self.peak_force(state)}

    def reached(self, state: FEMState) -> Tensor:
        """Whether the middle row is creased by `wanted`, (B,) bool."""
        return self.angles(state.detach())[0] >= self.config.wanted

    def initial_actions(self) -> Tensor:
        """Both fingers inwards by a third of the way."""
        c = self.config
        share = min(0.95, (c.place - 9e-3) / 3 / (self.horizon * c.dt * c.speed))
        return self.ramp({"left x": share, "right x": -share})


@dataclasses.dataclass(frozen=True)
class PickFoldingNanoConfig(PickFoldingConfig):
    """`PickFoldingConfig` at a coarser resolution, with longer steps."""

    horizon: int = 10
    """Actions per episode; 0.1 s."""
    dt: float = 1e-2
    """Step [s]."""
    spacing: float = 0.0075
    """Distance of points [m]; 9 × 9."""
    press_steps: int = 4
    """Steps in which the fingers come down."""
    tip_cuts: int = 3
    """Resolution of fingertips around; 50 points."""
    tip_layers: int = 1
    """Resolution of fingertips in depth."""


class PickFoldingNano(PickFolding):
    """`PickFolding` for tests."""

    Config = PickFoldingNanoConfig
