"""Ice cream, laid by hand: a nozzle moves in a spiral over a wafer that stands still.

    ℓ(x, t) = (1/N) Σ_{p out by t} |x_p − x*_p(t)|² / r² + stops

x* is the motion of the N particles of cream when the nozzle follows a spiral that narrows and rises;
r is 10 mm. The search starts with a nozzle that only rises. Other `objective`s compare the clouds
without particle identity.

The cream is a Bingham solid: 600 kg/m³, E = 20 kPa, it yields at 500 Pa, as soft ice does, and so
carries 0.08 m of itself. It leaves the nozzle at 0.4 m/s, without swelling; where two strands touch,
they become one.

Source: Xian et al. 2023 (FluidLab), task IceCreamStatic, at 0.25 m per unit length. Its cream is
clamped to 0.3 % of strain, which has no yield stress of its own and no gradient beyond it.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.csg import Moved, Union
from ...sim.core.laws import VonMises
from ...sim.core.sampled_shape import Sampled
from ...sim.core.shapes import Cylinder
from ...sim.mpm import Grid, Group, MPMModel, MPMState
from .base import Axis, FluidConfig, FluidTask
from .tools import TOOLS, solid

__all__ = [
    "IceCream",
    "IceCreamConfig",
    "IceCreamStatic",
    "IceCreamStaticConfig",
    "IceCreamStaticNano",
]

MIDDLE = 0.075
"""Of the scene, along x and y [m]."""
RIM = 0.06
"""Height of the wafer's rim [m]."""


@dataclasses.dataclass(frozen=True)
class IceCreamConfig(FluidConfig):
    """A wafer under a nozzle for cream."""

    dx: float = 0.15 / 64
    """Grid spacing [m]."""
    spacing: float = 1.3e-3
    """Mean distance of particles of cream [m]."""
    dt: float = 1.75e-4
    """Substep [s]; half of what sound in the cream allows."""
    settle: float = 0.0
    """Nothing is there to settle [s]."""
    E: float = 2e4
    """Young's modulus of the cream [Pa]; sound travels at 6.7 m/s."""
    yield_stress: float = 500.0
    """Yield stress of the cream in tension [Pa]."""
    eta: float = 2.0
    """Viscosity of the cream when it flows [Pa s]."""
    flow: float = 0.4
    """Velocity of the cream at the exit [m/s]."""
    radius: float = 5.5e-3
    """Radius of the nozzle's opening [m]."""
    scale: float = 1.3
    """Size of the wafer: 1 is 60 mm wide."""
    tolerance: float = 6e-3
    """Solved when the cream ends this close to the target, root mean square [m]; the opening's radius."""


class IceCream(FluidTask):
    """Base of the tasks with cream."""

    config: IceCreamConfig
    goal = ("cream",)
    view = (4, 4, 4)

    def cream(self, nozzle: str, position: tuple[float, ...], duration: float) -> Group:
        """Cream that runs downwards out of an opening for a time [s]."""
        c = self.config
        law = VonMises(rho=600.0, E=c.E, nu=0.3, yield_stress=c.yield_stress, eta=c.eta)
        return self.jet(
            "cream",
            law,
            velocity=(0.0, 0.0, -c.flow),
            radius=c.radius,
            duration=duration,
            spacing=c.spacing,
            position=position,
            tool=nozzle,
        )

    def wafer(self, softness: float = 0.0) -> Collider:
        """The wafer, with its rim at `RIM` and filled to 15 mm below; its tip is under the floor."""
        c = self.config
        rim = 0.11 * c.scale
        filling = Moved(Cylinder(0.024 * c.scale, 0.01), (0.0, 0.0, rim - 0.025))
        shape = Sampled(Union(solid("cone", c.scale, 2 * c.dx), filling), resolution=64)
        friction = TOOLS["cone"].friction
        base = (MIDDLE, MIDDLE, RIM - rim)
        return Collider(shape, base, friction=friction, softness=softness, name="wafer")

    def box(self, height: float) -> Grid:
        """Grid of 0.15 m by 0.15 m by a height [m], rounded up to whole cells."""
        dx = self.config.dx
        return Grid(
            (0.0, 0.0, 0.0), (2 * MIDDLE, 2 * MIDDLE, dx * math.ceil(height / dx - 1e-9)), dx
        )

    def terms(self, state: MPMState, t: int) -> dict[str, Tensor]:
        return {"figure": self.mismatch(state, t, length=0.01)}

    def metrics(self, state: MPMState) -> dict[str, Tensor]:
        """distance [m]: root mean square of the cream to its target; fallen [-]: share of it below
        the middle of the wafer and outside; (B,)."""
        state = state.detach()
        t = min(max(state.substep // self.substeps - 1, 0), self.horizon - 1)
        pair = self.clouds(state, t)
        if pair is None:
            return {k: torch.zeros_like(state.x[:, 0, 0]) for k in ("distance", "fallen")}
        x, y = pair
        wafer = state.tool_pose[:, [c.name for c in self.model.colliders].index("wafer"), :3]
        outside = (x - wafer[:, None])[..., :2].norm(dim=-1) > 0.03 * self.config.scale
        low = x[..., 2] < wafer[:, None, 2] + 0.055 * self.config.scale
        return {
            "distance": (x - y).square().sum(-1).mean(-1).sqrt(),
            "fallen": (low & outside).to(x).mean(-1),
        }

    def success(self, state: MPMState) -> Tensor:
        """Whether all cream is out and within `tolerance` of the target, (B,) bool."""
        done = state.substep >= self.horizon * self.substeps
        return (self.metrics(state)["distance"] <= self.config.tolerance) & done


@dataclasses.dataclass(frozen=True)
class IceCreamStaticConfig(IceCreamConfig):
    """Scene, numbers and criterion of `IceCreamStatic`."""

    horizon: int = 550
    """Actions per episode; 0.77 s."""
    pour: int = 500
    """Actions during which cream flows."""
    substeps: int = 8
    """Substeps per action."""
    spiral: tuple[float, float] = (0.022, 0.004)
    """First and last radius of the spiral [m]."""
    rise: float = 0.04
    """How far the nozzle rises [m]."""
    turns: float = 3.5
    """Turns of the spiral."""
    speed: float = 1.0
    """Largest speed of the nozzle per axis [m/s]."""


class IceCreamStatic(IceCream):
    """Lay a spiral. Actions are velocities (x, y, z) of the nozzle [m/s]."""

    Config = IceCreamStaticConfig
    config: IceCreamStaticConfig

    def scene(self) -> MPMModel:
        c = self.config
        start = (MIDDLE + c.spiral[0], MIDDLE, RIM + 0.035)
        nozzle = Collider(Cylinder(0.006, 0.01), start, name="nozzle")
        opening = (0.0, 0.0, -0.01 - 1.5 * c.dx)
        cream = self.cream("nozzle", opening, c.pour * c.substeps * c.dt)
        return MPMModel(self.box(0.16), [cream], colliders=[nozzle, self.wafer()])

    def motions(self) -> tuple[Axis, ...]:
        v, reach, low = self.config.speed, 0.04, RIM + 0.02
        sides = tuple(Axis("nozzle", m, v, MIDDLE - reach, MIDDLE + reach) for m in "xy")
        return (*sides, Axis("nozzle", "z", v, low, 0.14))

    def _path(self, turns: float) -> Tensor:
        """Velocities along a spiral of constant speed, (T, 3); without turns only the rise."""
        c = self.config
        s = torch.linspace(0, 1, c.pour + 1, dtype=torch.float64)
        first, last = c.spiral
        # Equal ways take equal times: the angle's speed grows like 1/r.
        r = (first**2 + (last**2 - first**2) * s).sqrt() if turns else torch.full_like(s, first)
        angle = 2 * math.pi * turns * (first - r) / (first - last)
        path = torch.stack((r * angle.cos(), r * angle.sin(), c.rise * s), -1)
        actions = path.new_zeros(max(c.horizon, c.pour), 3)
        actions[: c.pour] = path.diff(dim=0) / (c.substeps * c.dt)
        return actions[: c.horizon].float().clamp(-c.speed, c.speed)

    def script(self) -> Tensor:
        return self._path(self.config.turns)

    def initial_actions(self) -> Tensor:
        return self._path(0.0)


@dataclasses.dataclass(frozen=True)
class IceCreamStaticNanoConfig(IceCreamStaticConfig):
    """`IceCreamStaticConfig` at a third of the resolution: a rollout within a second."""

    horizon: int = 50
    """Actions per episode; 0.45 s."""
    pour: int = 44
    """Actions during which cream flows."""
    dx: float = 7.5e-3
    """Grid spacing [m]."""
    spacing: float = 3.6e-3
    """Mean distance of particles of cream [m]; 320 particles."""
    dt: float = 5.625e-4
    """Substep [s]."""
    substeps: int = 16
    """Substeps per action; an action lasts 9 ms."""
    turns: float = 1.5
    """Turns of the spiral."""
    flow: float = 0.4
    """Velocity of the cream at the exit [m/s]."""
    radius: float = 6e-3
    """Radius of the nozzle's opening [m]."""


class IceCreamStaticNano(IceCreamStatic):
    """`IceCreamStatic` for tests."""

    Config = IceCreamStaticNanoConfig
    search_defaults = {"gradient": {"expand": False, "lr": 0.1}}
