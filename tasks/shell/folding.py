"""Folding: a finger presses a strip that is bent to a U, so that it creases along one row and not the
next.

    ℓ(x, t) = w(t) [ (1 − θ̄₁/θ*)₊² + ¼ (1 − φ₁/φ*)₊² + (θ̄₂/θ_max − 1)₊² + ¼ (φ₂/φ_max − 1)₊² ] + costs

θ̄ and φ are mean rest angle and mean angle of the hinges along a row, 1 the row that shall be creased
to θ* = 60°, 2 the one that shall not go beyond θ_max = 20°. φ* and φ_max are the angles that leave θ*
and θ_max behind by the law of creases, φ = θ (1 + H) + κ_y w: they tell the finger of a crease before
it yields.

The strip starts as two flat layers over three cells of a half circle, whose four rows of hinges share
its 180°: 30°, 60°, 60°, 30°. The two rows in the middle are those of the task; paper yields at 31° on
the original's mesh, so bending alone leaves them about 16°. `folding-u` wants the upper row to be
creased, `folding-l` the lower one. The lower layer is clamped at its end and lies on a table.

Source: Wang et al. 2024 (ThinShellLab), tasks Folding-U and Folding-L. Our strip weighs 500 times less
and is under gravity, meets itself, and yields by curvature with hardening.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.errors import InputError
from ...sim.core.shapes import Plane
from ...sim.fem import FEMState, hinge_angle
from ...sim.shell import PlasticSheet, hinges_along, rectangle
from .base import Axis, ShellConfig, ShellTask
from .scene import TIP_RADIUS, Scene

__all__ = ["FoldingConfig", "FoldingL", "FoldingLNano", "FoldingU", "FoldingUNano"]

TURN = (0.0, 0.0, 0.0, 1.0)
"""Half a turn about z: the strip is bent at the left, and its layers run to the right."""


@dataclasses.dataclass(frozen=True)
class FoldingConfig(ShellConfig):
    """Scene, numbers and criterion of both tasks."""

    length: float = 0.1
    """Of the strip [m]."""
    width: float = 0.02
    """Of the strip [m]."""
    spacing: float = 0.1 / 15
    """Distance of rows [m]; an odd number of them along the strip."""
    yield_stress: float = 18e6
    """Of the paper [Pa]; the table has 15 ± 6 MPa."""
    leak: float = 0.0
    """Share of the surrogate gradient of creases that have not yielded yet [-]; the original has
    0.1."""
    wanted: float = math.radians(60)
    """θ* [rad]."""
    allowed: float = math.radians(20)
    """θ_max [rad]."""
    advance: float = 0.0
    """How far a search lets the finger go towards the clamp at first [m]."""
    descent: float = 0.006
    """How far a search lets the finger come down at first [m]."""
    mu_plate: float = 0.4
    """Friction on the table [-]."""


class _Folding(ShellTask):
    """Press a crease. Actions are the velocity of the finger along x and z [m/s] and its pitch
    [rad/s]."""

    Config = FoldingConfig
    config: FoldingConfig
    folds = True
    upper: bool
    """Whether the upper of the two rows shall be creased."""

    def build(self, scene: Scene) -> None:
        c = self.config
        n = round(c.length / c.spacing)
        if n < 7 or n % 2 == 0:
            raise InputError(
                f"{type(self).__name__}: an odd number of cells, 7 or more, along the strip; got {n}. "
                "Change spacing."
            )
        dx, half = c.length / n, 0.5 * c.length
        mesh = rectangle((c.length, c.width), dx).u_bent(3 * dx / math.pi, middle=half)
        strip = mesh.placed((half, 0.5 * c.width, c.d_hat), TURN)
        changes = {"yield_stress": c.yield_stress, "leak": c.leak}
        scene.sheet("strip", strip, c.material, creases=True, **changes)
        scene.hold("clamp", {"strip": mesh.rows(0, 1)})
        scene.plate(Collider(Plane(), name="table"))
        # The layers end and the arc begins (n − 3)/2 cells from the clamped end.
        self._place = half - 0.5 * (n - 3) * dx - 0.6 * dx
        self._top = 2 * dx + c.d_hat
        start = (self._place, 0.0, self._top + 0.6e-3 + TIP_RADIUS)
        scene.tip("finger", self.fingertip(), start, down=True)
        self._points = mesh.rows((n - 1) // 2), mesh.rows((n + 1) // 2)

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        part = self.model.parts[0]
        assert isinstance(part, PlasticSheet)
        lower, upper = (hinges_along(part, points) for points in self._points)
        self._hinges = (upper, lower) if self.upper else (lower, upper)
        state = self.model.initial_state(x=self.scene.x)
        values, wanted = self.prepared(state).parts[0], self.config.wanted
        self._sign = [self._angle(state.x, k).sign() for k in (0, 1)]
        self._bends = []
        for rows, rest in zip(self._hinges, (wanted, self.config.allowed), strict=True):
            width, kappa_y, H = (
                values[n][:, rows].mean() for n in ("width", "kappa_y", "hardening")
            )
            self._bends.append(float(rest * (1 + H) + kappa_y * width))

    def motions(self) -> tuple[Axis, ...]:
        c = self.config
        lowest, highest = TIP_RADIUS - 1.5e-3, self._top + 0.02 + TIP_RADIUS
        return (
            Axis("finger", "x", c.speed, self._place - 0.025, self._place + 0.025),
            Axis("finger", "z", c.speed, lowest, highest, overrun=1e-3),
            Axis("finger", "pitch", c.turn, -0.5, 0.5, overrun=0.1),
        )

    def _angle(self, x: Tensor, k: int) -> Tensor:
        """Mean angle of the hinges of row k [rad], (B,)."""
        part: Any = self.model.parts[0]
        return hinge_angle(x[:, part.hinges[0][self._hinges[k]].to(x.device)]).mean(1)

    def angles(self, state: FEMState) -> tuple[Tensor, Tensor]:
        """Rest angles θ̄ and angles φ of both rows [rad], (B, 2), positive as the strip is bent."""
        part = self.model.hinge_slices()["strip"]
        rest = [
            state.theta_ref[:, part][:, rows].mean(1) * s.to(state.x)
            for rows, s in zip(self._hinges, self._sign, strict=True)
        ]
        now = [self._angle(state.x, k) * self._sign[k].to(state.x) for k in (0, 1)]
        return torch.stack(rest, 1), torch.stack(now, 1)

    def terms(self, state: FEMState, t: int) -> dict[str, Tensor]:
        (rest, other), (now, beside) = (a.unbind(1) for a in self.angles(state))
        c, (bend, limit), w = self.config, self._bends, self.weight(t)
        return {
            "crease": w * (1 - rest / c.wanted).clamp(min=0).square(),
            "bend": 0.25 * w * (1 - now / bend).clamp(min=0).square(),
            "other": w * (other / c.allowed - 1).clamp(min=0).square(),
            "beside": 0.25 * w * (beside / limit - 1).clamp(min=0).square(),
        }

    def metrics(self, state: FEMState) -> dict[str, Tensor]:
        """crease and other [deg]: rest angles of the row to be creased and of the other one; bend
        [deg]: present angle of the first; force [N]: the largest so far; (B,)."""
        rest, now = (torch.rad2deg(a) for a in self.angles(state.detach()))
        found = {"crease": rest[:, 0], "other": rest[:, 1], "bend": now[:, 0]}
        return found | {"force": self.peak_force(state)}

    def reached(self, state: FEMState) -> Tensor:
        """Whether one row is creased by `wanted` and the other one not beyond `allowed`, (B,) bool."""
        rest = self.angles(state.detach())[0]
        return (rest[:, 0] >= self.config.wanted) & (rest[:, 1] <= self.config.allowed)

    def initial_actions(self) -> Tensor:
        """Down by `descent` and along by `advance` in four fifths of the time."""
        c = self.config
        steps = max(1, round(0.8 * self.horizon))
        share = 1 / (steps * c.dt * c.speed)
        return self.ramp(
            {
                "finger z": -min(0.95, c.descent * share),
                "finger x": max(-0.95, min(0.95, c.advance * share)),
            },
            steps,
        )


@dataclasses.dataclass(frozen=True)
class FoldingUConfig(FoldingConfig):
    """`FoldingConfig` with a start that rolls the bend along the strip: the upper layer goes back by a
    row and a half, so that the upper row gets to where the lower one was. From a finger that only comes
    down, the lower row creases, and no gradient leads from there to the other one."""

    advance: float = -0.009
    """How far a search lets the finger go towards the clamp at first [m]."""
    descent: float = 0.009
    """How far a search lets the finger come down at first [m]."""


class FoldingU(_Folding):
    """Crease the upper of the two rows in the middle of the bend."""

    Config = FoldingUConfig
    upper = True


class FoldingL(_Folding):
    """Crease the lower of the two rows in the middle of the bend."""

    upper = False


@dataclasses.dataclass(frozen=True)
class FoldingNanoConfig(FoldingConfig):
    """`FoldingConfig` at a coarser resolution, with longer steps."""

    horizon: int = 12
    """Actions per episode; 0.12 s."""
    dt: float = 1e-2
    """Step [s]."""
    spacing: float = 0.1 / 11
    """Distance of rows [m]."""
    tip_cuts: int = 3
    """Resolution of fingertips around; 50 points."""
    tip_layers: int = 1
    """Resolution of fingertips in depth."""
    yield_stress: float = 15e6
    """Of the paper [Pa]; wider rows yield at larger angles."""


@dataclasses.dataclass(frozen=True)
class FoldingUNanoConfig(FoldingNanoConfig):
    """`FoldingUConfig` at the resolution of `FoldingNanoConfig`."""

    advance: float = -0.012
    """How far a search lets the finger go towards the clamp at first [m]."""
    descent: float = 0.012
    """How far a search lets the finger come down at first [m]."""


class FoldingUNano(FoldingU):
    """`FoldingU` for tests."""

    Config = FoldingUNanoConfig


class FoldingLNano(FoldingL):
    """`FoldingL` for tests."""

    Config = FoldingNanoConfig
