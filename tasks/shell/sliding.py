"""Sliding: how much friction is between sheets, when a finger drags the uppermost of three?

A finger presses lightly on a stack of cards on a slippery plate, then drags it. The lower ones follow
late: they slip until friction has brought them to the finger's speed V, by about m V²/2F (μ − μ_plate),
and that lag is what tells μ. The action is log μ, and what is compared are the positions of 16 points
of every card.

The cards weigh 300 g/m² and are pressed by about 0.03 N, so that they slip for some 20 ms, eight steps.
Paper of 80 g/m² would be as fast as the finger after 8 ms, and whether friction is 0.25 or 0.4 changes
its way by hundredths of a millimetre: tried first, and no search could tell.

Source: Wang et al. 2024 (ThinShellLab), task Sliding, where the friction is wanted that takes the
bottom sheet farthest. Forces of friction and weight outdo the inertia of paper by so much that a firmly
pressed stack moves as one or not at all; ours is pressed lightly. A hidden friction to be recovered has
a known answer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.shapes import Plane
from ...sim.fem import FEMControl, FEMState
from ...sim.shell import rectangle
from .inverse import InverseConfig, InverseTask
from .scene import TIP_RADIUS, Scene

__all__ = ["Sliding", "SlidingConfig", "SlidingNano"]


@dataclasses.dataclass(frozen=True)
class SlidingConfig(InverseConfig):
    """Scene, numbers and criterion of `Sliding`."""

    steps: int = 40
    """Steps of an episode; 0.1 s."""
    dt: float = 2.5e-3
    """Step [s]; half of the other tasks', as the slip is over soon."""
    material: str = "card"
    """Of sheets, a name in `rheograd.assets.sheets.SHEETS`."""
    size: float = 0.06
    """Side of the sheets [m]."""
    sheets: int = 3
    """How many lie upon another."""
    press: float = 8e-5
    """How far the finger comes down beyond touching [m]; hundredths of a newton."""
    press_steps: int = 10
    """Steps in which it does."""
    drag: float = 0.2
    """Its speed in the episode [m/s], from the first step on."""
    mu_plate: float = 0.05
    """Friction on the plate [-]; fluoropolymer."""
    hidden: float = 0.3
    """Hidden friction between sheets [-]; paper on paper."""
    start: float = 0.1
    """Where the search starts."""


class Sliding(InverseTask):
    """Recover the friction between sheets from how a stack is dragged. The action is log μ."""

    Config = SlidingConfig
    config: SlidingConfig
    folds = True
    names = ("mu",)

    def build(self, scene: Scene) -> None:
        c = self.config
        half = 0.5 * c.size
        for k in range(c.sheets):
            mesh = rectangle((c.size, c.size), c.spacing)
            place = (-half, -half, (k + 1) * c.d_hat)
            scene.sheet(f"sheet{k}", mesh.placed(place), c.material)
        scene.plate(Collider(Plane(), name="plate"))
        height = (c.sheets + 1) * c.d_hat + TIP_RADIUS
        scene.tip("finger", self.fingertip(), (0.0, 0.0, height), down=True)

    def closing(self):
        v = -self.config.press / (self.config.press_steps * self.config.dt)
        return ((self.config.press_steps, {"finger": (0.0, 0.0, v)}),)

    def move(self, k: int, state: FEMState) -> FEMControl:
        twist = torch.zeros_like(state.pose[..., :6])
        twist[:, self.handles["finger"], 0] = -self.config.drag
        return FEMControl(twist=twist)

    def parameters(self, action: Tensor) -> dict[str, dict[str, Tensor]]:
        return {"contact": {"friction_sheet_sheet": self.values(action)[:, 0]}}

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """Those of `InverseTask`, lag [m]: how far the lowest sheet stayed behind the finger; force
        [N]."""
        way = state.pose[:, self.handles["finger"], 0] - self.center(state, "sheet0")[:, 0]
        found = {"lag": -way.detach(), "force": self.force_now(state)}
        return super().metrics(state) | found


@dataclasses.dataclass(frozen=True)
class SlidingNanoConfig(SlidingConfig):
    """`SlidingConfig` with two coarse sheets."""

    steps: int = 12
    """Steps of an episode; 30 ms."""
    spacing: float = 0.015
    """Distance of points of sheets [m]; 25 per sheet."""
    sheets: int = 2
    """How many lie upon another."""
    press: float = 5e-5
    """How far the finger comes down beyond touching [m]."""
    press_steps: int = 5
    """Steps in which the finger comes down."""
    tip_cuts: int = 3
    """Resolution of fingertips around; 50 points."""
    tip_layers: int = 1
    """Resolution of fingertips in depth."""


class SlidingNano(Sliding):
    """`Sliding` for tests."""

    Config = SlidingNanoConfig
