"""SurfaceFollowing: a dome slides over an uneven surface, holding its normal force and its path.

    tactile   (F_z − F*)²/F*²                            after the first `press` steps
    state     ((x − x*(t))² + y²)/(1 mm)²,   x*(t) = x₀ − v (t − t_press)

The surface is a plate with caps of balls of random heights. The nominal command presses by `depth`, then
slides straight: over a cap the force grows, beside it contact may be lost.

Source: Si et al. 2024 (DiffTactile), surface following; a force in newtons, a surface of exact distances.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.csg import Moved, Union
from ...sim.core.shape_base import Shape
from ...sim.core.shapes import Box, Sphere
from .base import Axis, TactileConfig, TactileTask
from .scene import DOWN, Scene

__all__ = ["SurfaceFollowing", "SurfaceFollowingConfig", "SurfaceFollowingNano"]


@dataclasses.dataclass(frozen=True)
class SurfaceFollowingConfig(TactileConfig):
    """Scene, numbers and criteria."""

    horizon: int = 80
    """Actions per episode; 0.4 s."""
    force: float = 1.0
    """Normal force that is wanted, F* [N]."""
    press: int = 8
    """Steps in which the nominal command presses."""
    depth: float = 1.4e-3
    """How far it presses [m]."""
    slide: float = 0.05
    """Speed along −x that is wanted, v [m/s]."""
    caps: int = 7
    """Balls whose caps make the surface uneven."""
    height: float = 1.2e-3
    """Largest height of a cap [m]."""
    terrain: int = 3
    """Seed of the surface."""
    force_error: float = 0.1
    """Solved when the root mean square of F_z − F* after pressing is at most this [N]."""
    path_error: float = 1e-3
    """… and the sensor ends this close to its path [m]."""


class SurfaceFollowing(TactileTask):
    """Slide over an uneven surface with 1 N. Actions are the twist of the dome. Solved at a force error
    of 0.1 N (root mean square) and a path error of 1 mm."""

    Config = SurfaceFollowingConfig
    config: SurfaceFollowingConfig
    search_defaults = TactileTask.search_defaults | {"gradient": {"expand": False, "lr": 0.01}}

    def build(self, scene: Scene) -> None:
        c, mesh = self.config, self.dome()
        ground = _terrain(c)
        way = c.slide * c.dt * (c.horizon - c.press)
        x = mesh.X[mesh.sets["surface"]] * mesh.X.new_tensor([1.0, -1.0, -1.0])
        place = x.new_tensor([0.5 * way, 0.0, 0.02])
        for _ in range(40):  # down to the surface; d is a bound of the distance
            gap = float(ground.signed_distance(x + place)[0].min()) - 1.2 * c.d_hat
            place[2] -= gap
        self._place = tuple(place.tolist())
        scene.gel("finger", mesh, self._place, DOWN, c.material, nu=c.nu)
        scene.plate(Collider(ground, name="surface"))

    def motions(self) -> tuple[Axis, ...]:
        c, (x, _, z) = self.config, self._place
        ranges = (("x", -x - 2e-3, x + 2e-3), ("y", -3e-3, 3e-3), ("z", z - 3e-3, z + 2e-3))
        straight = [Axis("finger", a, c.speed, low, high) for a, low, high in ranges]
        return (*straight, *(Axis("finger", a, c.turn, -0.2, 0.2, 0.1)
                             for a in ("roll", "pitch", "yaw")))  # fmt: skip

    def wanted(self, steps: int) -> float:
        """x*(t) after a number of steps [m]."""
        c = self.config
        return self._place[0] - c.slide * c.dt * max(0, steps - c.press)

    def off(self, state: Any) -> Tensor:
        """Distance from the path [m], squared, (B,)."""
        mount = state.pose[:, 0]
        return (mount[:, 0] - self.wanted(state.steps)).square() + mount[:, 1].square()

    def error(self, state: Any) -> Tensor:
        """F_z − F* after pressing [N], (B,)."""
        found = self.wrenches(state)[:, 0, 2] - self.config.force
        return found if state.steps > self.config.press else torch.zeros_like(found)

    def tactile_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        return {"normal force": (self.error(state) / self.config.force).square()}

    def state_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        return {"path": self.off(state) / 1e-6}

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """force_error [N]: root mean square so far; path_error [m]; normal_force, peak_force [N]."""
        state = state.detach()
        steps = max(1, state.steps - self.config.press)
        return {
            "force_error": (state.seen[:, 0] / steps).sqrt(),
            "path_error": self.off(state).sqrt(),
            "normal_force": self.wrenches(state)[:, 0, 2],
            "peak_force": self.peak_force(state),
        }

    def reached(self, state: Any) -> Tensor:
        """Force within 0.1 N (root mean square), path within 1 mm at the end, (B,) bool."""
        found, c = self.metrics(state), self.config
        done = torch.full_like(found["path_error"], state.steps, dtype=torch.int) > c.press
        near = found["path_error"] <= c.path_error
        return done & near & (found["force_error"] <= c.force_error)

    def initial_actions(self) -> Tensor:
        """Press by `depth`, then slide straight."""
        c = self.config
        down = -c.depth / (c.press * c.dt * c.speed)
        pressing = self.ramp({"finger z": down}, 0, c.press)
        return pressing + self.ramp({"finger x": -c.slide / c.speed}, c.press)


def _terrain(c: SurfaceFollowingConfig) -> Shape:
    """A plate with its top in z = 0, and caps of balls on it."""
    random = torch.Generator().manual_seed(c.terrain)
    radius, reach = 0.02, 0.5 * c.slide * c.dt * (c.horizon - c.press)
    ground: Shape = Moved(Box((reach + 0.02, 0.015, 5e-3)), (0.0, 0.0, -5e-3))
    for k in range(c.caps):
        a, b, h = torch.rand(3, generator=random).tolist()
        x = (2 * (k + a) / c.caps - 1) * (reach + 3e-3)
        top = c.height * (0.3 + 0.7 * h)
        ball = Moved(Sphere(radius), (x, (b - 0.5) * 6e-3, top - radius))
        ground = Union(ground, ball, blend=2e-3)
    return ground


@dataclasses.dataclass(frozen=True)
class SurfaceFollowingNanoConfig(SurfaceFollowingConfig):
    """`SurfaceFollowingConfig` at a coarser resolution, with longer steps."""

    horizon: int = 14
    """Actions per episode; 0.14 s."""
    dt: float = 1e-2
    """Step [s]."""
    press: int = 2
    """Steps in which the nominal command presses."""
    slide: float = 0.08
    """Speed along −x that is wanted, v [m/s]."""
    caps: int = 4
    """Balls whose caps make the surface uneven."""
    cuts: int = 3
    """Resolution of the gel around."""
    layers: int = 1
    """Resolution of the gel in depth."""


class SurfaceFollowingNano(SurfaceFollowing):
    """`SurfaceFollowing` for tests."""

    Config = SurfaceFollowingNanoConfig
