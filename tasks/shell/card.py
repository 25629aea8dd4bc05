"""Card: how stiff are cards that spring up when a finger slides off their ends?

A stack of cards is clamped at its right end. A finger has pressed the left end down; it withdraws to
the left, the cards slip off and spring up. The action is log D, common to all cards, and what is
compared are the positions of 16 points of every card.

Source: Wang et al. 2024 (ThinShellLab), task Card, where the stiffness is wanted at which the first
card goes farthest. There two fingertips squeeze the stack at its ends, free of gravity, and a third one
flicks it. Tried with the fingertips of the nano size, the cards fell out of that grip, so ours are
clamped. A hidden stiffness to be recovered has a known answer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ...sim.fem import FEMControl, FEMState
from ...sim.shell import rectangle
from .inverse import InverseConfig, InverseTask
from .scene import TIP_RADIUS, Scene

__all__ = ["Card", "CardConfig", "CardNano"]


@dataclasses.dataclass(frozen=True)
class CardConfig(InverseConfig):
    """Scene, numbers and criterion of `Card`."""

    steps: int = 30
    """Steps of an episode; 0.15 s."""
    size: tuple[float, float] = (0.06, 0.04)
    """Sides of the cards [m]."""
    spacing: float = 5e-3
    """Distance of points [m]; 13 × 9."""
    cards: int = 3
    """How many are squeezed."""
    place: float = -0.025
    """Of the finger [m], x; the cards end at −0.03."""
    press: float = 5e-3
    """How far the finger presses them down before the episode [m]."""
    press_steps: int = 10
    """Steps in which it does."""
    withdraw: float = 0.2
    """Its speed to the left in the episode [m/s]."""
    hidden: float = 0.72
    """Hidden `k_bend`, D over E h³/12(1 − ν²) [-]; 0.72 is D = 2.5e-4 N m of office paper."""
    start: float = 0.24
    """Where the search starts: three times too soft."""


class Card(InverseTask):
    """Recover the bending stiffness of cards from how they spring up. The action is log D."""

    Config = CardConfig
    config: CardConfig
    folds = True
    names = ("k_bend",)

    def build(self, scene: Scene) -> None:
        c = self.config
        half = [0.5 * s for s in c.size]
        for k in range(c.cards):
            mesh = rectangle(c.size, c.spacing).placed((-half[0], -half[1], k * c.d_hat))
            scene.sheet(f"card{k}", mesh, c.material)
        last = mesh.rows(-1, -2)
        scene.hold("hand", {f"card{k}": last for k in range(c.cards)})
        height = (c.cards - 1) * c.d_hat + 6e-4 + TIP_RADIUS
        scene.tip("finger", self.fingertip(), (c.place, 0.0, height), down=True)

    def closing(self):
        v = -(self.config.press + 6e-4) / (self.config.press_steps * self.config.dt)
        return ((self.config.press_steps, {"finger": (0.0, 0.0, v)}),)

    def move(self, k: int, state: FEMState) -> FEMControl:
        twist = torch.zeros_like(state.pose[..., :6])
        twist[:, self.handles["finger"], 0] = -self.config.withdraw
        return FEMControl(twist=twist)

    def parameters(self, action: Tensor) -> dict[str, dict[str, Tensor]]:
        value = self.values(action)
        return {f"card{k}": {"k_bend": value} for k in range(self.config.cards)}

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """Those of `InverseTask`, and height [m]: how high the highest observed point came."""
        return super().metrics(state) | {"height": state.trace.detach()[..., 2].flatten(1).amax(1)}


@dataclasses.dataclass(frozen=True)
class CardNanoConfig(CardConfig):
    """`CardConfig` with two coarse cards."""

    steps: int = 14
    """Steps of an episode; 70 ms."""
    spacing: float = 0.0125
    """Distance of points [m]; 6 × 4."""
    cards: int = 2
    """How many are squeezed."""
    press_steps: int = 6
    """Steps in which the finger comes down."""
    tip_cuts: int = 3
    """Resolution of fingertips around; 50 points."""
    tip_layers: int = 1
    """Resolution of fingertips in depth."""


class CardNano(Card):
    """`Card` for tests."""

    Config = CardNanoConfig
