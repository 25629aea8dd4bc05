"""Balancing and Throwing: a ball on a sheet that two grippers hold at its ends.

    balancing   ℓ(x, t) = (c − m)²_xy/|c₀ − m₀|²_xy + costs
    throwing    ℓ(x, t) = w(t) [ (1 − (c − m)_z/H)₊² + (z̄/z_max)² ] + costs

c is the middle of the ball, m that of the sheet, z̄ the mean height of the grippers over their start.
Balancing: the ball starts beside the middle and shall come to it. Throwing: it shall be in the air at
the end, without the grippers going up for good. A gripper moves at 0.2 m/s at most, which alone throws
by 2 mm; pulling the sheet taut adds to it.

Source: Wang et al. 2024 (ThinShellLab), tasks Balancing and Throwing, where c is to stay at the middle,
and Σ z − 10 Σ z² is maximized. The ball is of glass instead of 10 000 to 20 000 kg/m³; the held start
is simulated instead of being loaded.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ...sim.fem import FEMState
from ...sim.fem.bodies import ball
from ...sim.shell import rectangle
from .base import Axis, ShellConfig, ShellTask
from .scene import TIP_RADIUS, Scene

__all__ = [
    "Balancing", "BalancingNano", "HeldConfig", "Throwing", "ThrowingConfig", "ThrowingNano",
]  # fmt: skip

ENDS = {"west": -0.023, "east": 0.023}
"""Where the grippers are [m], x."""


@dataclasses.dataclass(frozen=True)
class HeldConfig(ShellConfig):
    """Scene, numbers and criterion of both tasks."""

    length: float = 0.06
    """Of the sheet [m]."""
    width: float = 0.028
    """Of the sheet [m]."""
    radius: float = 3.5e-3
    """Of the ball [m]."""
    ball_cuts: int = 4
    """Resolution of the ball around."""
    ball_layers: int = 2
    """Resolution of the ball in depth."""
    ball_rho: float = 2500.0
    """Density of the ball [kg/m³]; glass, 0.45 g."""
    ball_start: tuple[float, float] = (5e-3, 1e-3)
    """Where the ball is put [m], x and y."""
    gap: float = 4e-4
    """Between fingers and sheet before they close [m]."""
    squeeze: float = 1.2e-3
    """How far each finger closes [m]."""
    closing_steps: int = 5
    """Steps in which they close."""
    mu_block: float = 0.1
    """Friction of the ball [-]; glass on paper, rolling and sliding."""
    tolerance: float = 2e-3
    """Balancing: solved when the ball is this close to the middle [m]."""


@dataclasses.dataclass(frozen=True)
class ThrowingConfig(HeldConfig):
    """`HeldConfig` with what throwing needs."""

    ball_start: tuple[float, float] = (0.0, 0.0)
    """Where the ball is put [m], x and y."""
    wanted: float = 4e-3
    """How high over its start, measured from the sheet, the ball shall be, H [m]."""
    needed: float = 3e-3
    """Solved when it is as high as this [m]."""
    rise: float = 3e-3
    """How far the grippers may rise, z_max [m]."""


class _Held(ShellTask):
    """Hold a sheet by its ends. Actions are the velocities x and z [m/s] and pitch [rad/s] of two
    grippers."""

    Config = HeldConfig
    config: HeldConfig

    def build(self, scene: Scene) -> None:
        c = self.config
        mesh = rectangle((c.length, c.width), c.spacing)
        scene.sheet("sheet", mesh.placed((-0.5 * c.length, -0.5 * c.width, 0.0)), c.material)
        base = TIP_RADIUS + c.gap
        for name, x in ENDS.items():
            scene.tip(f"{name}-above", self.fingertip(), (x, 0.0, base), down=True)
            scene.tip(f"{name}-below", self.fingertip(), (x, 0.0, -base))
        body = ball(c.radius, c.ball_cuts, c.ball_layers)
        place = (*c.ball_start, c.radius + 0.75 * c.d_hat)
        scene.block("ball", body.X, body.tets, place, rho=c.ball_rho)

    def closing(self):
        c = self.config
        v = c.squeeze / (c.closing_steps * c.dt)
        moves = {f"{n}-above": (0.0, 0.0, -v) for n in ENDS}
        return ((c.closing_steps, moves | {f"{n}-below": (0.0, 0.0, v) for n in ENDS}),)

    def grippers(self):
        return {name: (f"{name}-above", f"{name}-below") for name in ENDS}

    def motions(self) -> tuple[Axis, ...]:
        c, axes = self.config, []
        for name, x in ENDS.items():
            axes += [
                Axis(name, "x", c.speed, x - 6e-3, x + 6e-3, 2e-3),
                Axis(name, "z", c.speed, -0.012, 0.012, 2e-3),
                Axis(name, "pitch", c.turn, -0.4, 0.4, 0.1),
            ]
        return tuple(axes)

    def _over(self, state: FEMState) -> Tensor:
        """From the middle of the sheet to that of the ball [m], (B, 3)."""
        return self.center(state, "ball") - self.center(state, "sheet")


class Balancing(_Held):
    """Bring a ball to the middle of a sheet, and keep it there."""

    def terms(self, state: FEMState, t: int) -> dict[str, Tensor]:
        far = self._over(self.reset(device=state.x.device))[:, :2].square().sum(-1)
        return {"ball": self._over(state)[:, :2].square().sum(-1) / far}

    def metrics(self, state: FEMState) -> dict[str, Tensor]:
        """distance [m]: of the ball to the middle; speed of the ball [m/s]; force [N]:
        the largest so far; (B,)."""
        state = state.detach()
        return {
            "distance": self._over(state)[:, :2].norm(dim=-1),
            "speed": state.v[:, self.spans["ball"]].mean(1).norm(dim=-1),
            "force": self.peak_force(state),
        }

    def reached(self, state: FEMState) -> Tensor:
        """Whether the ball is within `tolerance` of the middle, (B,) bool."""
        return self._over(state.detach())[:, :2].norm(dim=-1) <= self.config.tolerance


class Throwing(_Held):
    """Throw a ball up from a sheet."""

    Config = ThrowingConfig
    config: ThrowingConfig

    def _height(self, state: FEMState) -> Tensor:
        """Of the ball over the sheet, more than at the start [m], (B,)."""
        return (self._over(state) - self._over(self.reset(device=state.x.device)))[:, 2]

    def terms(self, state: FEMState, t: int) -> dict[str, Tensor]:
        c, w = self.config, self.weight(t)
        rise = self.poses(state)[:, :, 2].mean(1)
        return {
            "height": w * (1 - self._height(state) / c.wanted).clamp(min=0).square(),
            "rise": w * (rise / c.rise).square(),
        }

    def metrics(self, state: FEMState) -> dict[str, Tensor]:
        """height [m]: of the ball over the sheet, more than at the start; rise [m] of the grippers;
        distance [m]: what is left to `wanted`; force [N]: the largest so far; (B,)."""
        state = state.detach()
        height = self._height(state)
        return {
            "height": height,
            "rise": self.poses(state)[:, :, 2].mean(1),
            "distance": (self.config.wanted - height).clamp(min=0),
            "force": self.peak_force(state),
        }

    def reached(self, state: FEMState) -> Tensor:
        """Whether the ball is `needed` over the sheet, and the grippers within `rise`, (B,) bool."""
        rise = self.poses(state.detach())[:, :, 2].mean(1)
        high = self._height(state.detach()) >= self.config.needed
        return high & (rise.abs() <= self.config.rise)

    def initial_actions(self) -> Tensor:
        """Up, then down, at half of the speed limit: just too slow for the ball to leave the sheet."""
        actions = self.ramp({"west z": 0.5, "east z": 0.5})
        actions[self.horizon // 2 :] *= -1
        return actions


@dataclasses.dataclass(frozen=True)
class BalancingNanoConfig(HeldConfig):
    """`HeldConfig` at a coarser resolution, with longer steps."""

    horizon: int = 16
    """Actions per episode; 0.16 s."""
    dt: float = 1e-2
    """Step [s]."""
    spacing: float = 0.01
    """Distance of points of sheets [m]; 7 × 4."""
    ball_cuts: int = 3
    """Resolution of the ball around; 39 points."""
    ball_layers: int = 1
    """Resolution of the ball in depth."""
    tip_cuts: int = 3
    """Resolution of fingertips around; 50 points."""
    tip_layers: int = 1
    """Resolution of fingertips in depth."""


@dataclasses.dataclass(frozen=True)
class ThrowingNanoConfig(ThrowingConfig):
    """`ThrowingConfig` at a coarser resolution."""

    horizon: int = 16
    """Actions per episode; 80 ms."""
    spacing: float = 0.01
    """Distance of points of sheets [m]; 7 × 4."""
    ball_cuts: int = 3
    """Resolution of the ball around; 39 points."""
    ball_layers: int = 1
    """Resolution of the ball in depth."""
    tip_cuts: int = 3
    """Resolution of fingertips around; 50 points."""
    tip_layers: int = 1
    """Resolution of fingertips in depth."""


class BalancingNano(Balancing):
    """`Balancing` for tests."""

    Config = BalancingNanoConfig


class ThrowingNano(Throwing):
    """`Throwing` for tests."""

    Config = ThrowingNanoConfig
