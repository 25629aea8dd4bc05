"""Bouncing: how stiff is a creased sheet that jumps off a plate?

A sheet with two pre-set creases is laid flat on a plate and let go: the creases push their rows against
the plate and the sheet jumps and swings. The action is its bending rigidity D relative to that of the
search's start, and what is compared are the positions of 16 points over time.

D scales both the energy of the jump and the frequency of the swinging: c.f. ω ∝ √(D/ρ h).

Source: Wang et al. 2024 (ThinShellLab), task Bouncing. There the stiffness that jumps highest is wanted
of a sheet of 40 kg/m² with creases of 1.7 rad; ours is paper of 80 g/m², 500 times lighter, so creases
of 0.25 rad jump as far. A hidden stiffness to be recovered has a known answer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.shapes import Plane
from ...sim.fem import FEMState
from ...sim.shell import hinges_along, rectangle
from .inverse import InverseConfig, InverseTask
from .scene import Scene

__all__ = ["Bouncing", "BouncingConfig", "BouncingNano"]


@dataclasses.dataclass(frozen=True)
class BouncingConfig(InverseConfig):
    """Scene, numbers and criterion of `Bouncing`."""

    steps: int = 30
    """Steps of an episode; 60 ms."""
    dt: float = 2e-3
    """Step [s]; that of the original."""
    size: float = 0.06
    """Side of the sheet [m]."""
    crease: float = 0.25
    """Rest angle of both creases [rad]."""
    places: tuple[float, float] = (1 / 3, 2 / 3)
    """Where the creases are along the sheet [-]; rows 5 and 10 of 15."""
    hidden: float = 0.72
    """Hidden `k_bend`, D over E h³/12(1 − ν²) [-]; 0.72 is D = 2.5e-4 N m of office paper."""
    start: float = 0.24
    """Where the search starts: three times too soft."""
    settle: int = 0
    """The sheet is let go at once."""


class Bouncing(InverseTask):
    """Recover the bending stiffness of a sheet from how it jumps. The action is log D."""

    Config = BouncingConfig
    config: BouncingConfig
    names = ("k_bend",)

    def build(self, scene: Scene) -> None:
        c = self.config
        half = 0.5 * c.size
        mesh = rectangle((c.size, c.size), c.spacing).placed((-half, -half, c.d_hat))
        scene.sheet("sheet", mesh, c.material)
        scene.plate(Collider(Plane(), name="plate"))

    def first(self) -> FEMState:
        """Flat, with rest angles that lift the rows of the creases."""
        mesh = self.scene.meshes["sheet"]
        state = self.model.initial_state(x=self.scene.x, creases=True)
        rows = len(mesh.X[:, 0].unique()) - 1
        points = [mesh.rows(round(rows * place)) for place in self.config.places]
        theta = state.theta_ref.clone()
        for own in points:
            theta[:, hinges_along(self.model.parts[0], own)] = -self.config.crease
        return state.replace(theta_ref=theta)

    def parameters(self, action: Tensor) -> dict[str, dict[str, Tensor]]:
        return {"sheet": {"k_bend": self.values(action)}}

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """Those of `InverseTask`, and height [m]: how high the highest observed point came."""
        return super().metrics(state) | {"height": state.trace.detach()[..., 2].flatten(1).amax(1)}


@dataclasses.dataclass(frozen=True)
class BouncingNanoConfig(BouncingConfig):
    """`BouncingConfig` at a coarser resolution, for the first half of the time."""

    steps: int = 15
    """Steps of an episode; 30 ms."""
    spacing: float = 0.01
    """Distance of points [m]; 49 points."""


class BouncingNano(Bouncing):
    """`Bouncing` for tests."""

    Config = BouncingNanoConfig
