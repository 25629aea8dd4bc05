"""Lifting: three fingers hold a sheet, one above and two below, and carry the cube that lies on it.

    ℓ(x, t) = w(t) |c − c*|²/|c₀ − c*|² + costs

c is the middle of the cube, c₀ where it is at the start, c* = c₀ + `shift`. The sheet is gripped at one
side and sags under its own weight and the cube's; the cube slides where the sheet tilts too much or is
pulled away too fast.

Source: Wang et al. 2024 (ThinShellLab), task Lifting. There the sheet has no weight, is five times as
stiff as paper and holds a cube of 20 000 kg/m³; ours is office paper with its weight and a cube of
glass. The grip is closed by simulation instead of being part of the search.
"""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor

from ...sim.fem import FEMState
from ...sim.fem.meshes import box
from ...sim.shell import rectangle
from .base import Axis, ShellConfig, ShellTask
from .scene import TIP_RADIUS, Scene

__all__ = ["Lifting", "LiftingConfig", "LiftingNano"]


@dataclasses.dataclass(frozen=True)
class LiftingConfig(ShellConfig):
    """Scene, numbers and criterion of `Lifting`."""

    size: float = 0.06
    """Side of the sheet [m]."""
    cube: float = 7e-3
    """Side of the cube [m]."""
    cube_cells: int = 4
    """Cells along a side of the cube."""
    cube_rho: float = 2500.0
    """Density of the cube [kg/m³]; glass, 0.86 g."""
    cube_start: tuple[float, float] = (-0.0215, -0.0015)
    """Middle of the cube in x and y [m]."""
    gap: float = 4e-4
    """Between fingers and sheet before they close [m]."""
    squeeze: float = 1.8e-3
    """How far each finger closes [m]."""
    closing_steps: int = 5
    """Steps in which they close."""
    shift: tuple[float, float, float] = (-0.012, -0.012, 0.0)
    """Way of the cube to the goal [m]."""
    tolerance: float = 3e-3
    """Solved when the middle of the cube is this close to the goal [m]."""


class Lifting(ShellTask):
    """Carry a cube on a sheet. Actions are velocities x, y, z of three fingers [m/s]."""

    Config = LiftingConfig
    config: LiftingConfig

    def build(self, scene: Scene) -> None:
        c = self.config
        half, base = 0.5 * c.size, TIP_RADIUS + c.gap
        mesh = rectangle((c.size, c.size), c.spacing)
        scene.sheet("sheet", mesh.placed((-half, -half, 0.0)), c.material)
        X, tets = box((c.cube_cells,) * 3, (c.cube,) * 3)
        corner = [v - 0.5 * c.cube for v in c.cube_start]
        scene.block("cube", X, tets, (*corner, 0.75 * c.d_hat), rho=c.cube_rho)
        for name, x, y, down in (("above", 0.01, 0.0, True), ("right", 0, -0.015, False),
                                 ("left", 0, 0.015, False)):  # fmt: skip
            body = self.fingertip()
            scene.tip(name, body, (x, y, base if down else -base), down=down)

    def closing(self):
        c = self.config
        v = c.squeeze / (c.closing_steps * c.dt)
        moves = {"above": (0.0, 0.0, -v), "right": (0.0, 0.0, v), "left": (0.0, 0.0, v)}
        return ((c.closing_steps, moves),)

    def motions(self) -> tuple[Axis, ...]:
        c, far = self.config, 0.03
        height = TIP_RADIUS + c.gap - c.squeeze
        middle = {"above": (0.01, 0.0, height), "right": (0.0, -0.015, -height)}
        middle["left"] = (0.0, 0.015, -height)
        return tuple(
            Axis(name, axis, c.speed, place - far, place + far)
            for name, place_of in middle.items()
            for axis, place in zip("xyz", place_of, strict=True)
        )

    def initial_actions(self) -> Tensor:
        """All fingers towards the goal at a constant speed v, as far as the cube shall go and as it
        slides on the sheet until friction has brought it to their speed, v²/2μg."""
        c = self.config
        way, time = math.hypot(*c.shift), self.horizon * c.dt
        slip = (way / time) ** 2 / (2 * c.mu_block * self.gravity)
        share = [(1 + slip / way) * s / (time * c.speed) for s in c.shift]
        return self.ramp(
            {f"{n} {a}": max(-0.95, min(0.95, s)) for n in ("above", "right", "left")
             for a, s in zip("xyz", share, strict=True)}
        )  # fmt: skip

    def _ahead(self, state: FEMState) -> Tensor:
        """Way from the cube to the goal [m], (B, 3)."""
        goal = self.center(self.reset(), "cube") + state.x.new_tensor(self.config.shift)
        return goal - self.center(state, "cube")

    def terms(self, state: FEMState, t: int) -> dict[str, Tensor]:
        way = state.x.new_tensor(self.config.shift).square().sum()
        return {"cube": self.weight(t) * self._ahead(state).square().sum(-1) / way}

    def metrics(self, state: FEMState) -> dict[str, Tensor]:
        """distance [m]: of the cube to the goal; drop [m]: how far it sank; force [N]: the
        largest so far; (B,)."""
        ahead = self._ahead(state.detach())
        found = {"distance": ahead.norm(dim=-1), "drop": ahead[:, 2]}
        return found | {"force": self.peak_force(state)}

    def reached(self, state: FEMState) -> Tensor:
        """Whether the cube is within `tolerance` of the goal, (B,) bool."""
        return self._ahead(state.detach()).norm(dim=-1) <= self.config.tolerance


@dataclasses.dataclass(frozen=True)
class LiftingNanoConfig(LiftingConfig):
    """`LiftingConfig` at a coarser resolution, with longer steps."""

    horizon: int = 12
    """Actions per episode; 0.12 s."""
    dt: float = 1e-2
    """Step [s]."""
    spacing: float = 0.01
    """Distance of points of sheets [m]."""
    cube_cells: int = 1
    """Cells along a side of the cube."""
    tip_cuts: int = 3
    """Resolution of fingertips around; 50 points."""
    tip_layers: int = 1
    """Resolution of fingertips in depth."""


class LiftingNano(Lifting):
    """`Lifting` for tests."""

    Config = LiftingNanoConfig
