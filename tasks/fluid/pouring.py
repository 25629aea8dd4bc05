"""Pouring: a glass turns about the horizontal so that the water runs off and the milk below stays.

    ℓ(x, t) = 4 (t/T)³ (a s + u) + stops
              + w u (1/k) Σ_{k water particles in the glass nearest the lip} |x_p − x_lip|²/H²

s is the share of the milk that has left the glass, u the share of the water that has not; both are
counted smoothly over 2 cm, in the frame of the glass, and most at the end, for haste spills. The last
term, which fades as the glass empties, pulls water that no count touches yet towards the lip. A search
starts by turning to 80° in half of the time and holding. Between too little and milk lost lie some
hundredths of a radian, to which all actions add up: steps have to be short.

The tumbler holds 30 mm of sweetened condensed milk (1300 kg/m³, cold: 10 Pa s) under 60 mm of water, a
stable layering. At rest a glass of width W and height H, turned by θ, keeps the area H²/(2 tan θ): the
milk alone at about 80°. Faster is not better: beyond that, or with a jerk, milk goes over the lip too.
c = 5 m/s: the depth compresses by 4 %.

The nano size is the section of the glass, a plane one metre deep, with walls two coarse cells thick.

Source: Xian et al. 2023 (FluidLab), task Pouring, at 0.2 m per unit length. There the milk has half the
density of the water above it, and the attraction's weight is added instead of multiplied.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider, embed
from ...sim.core.laws import Liquid
from ...sim.core.rotations import from_rotation_vector, multiply, rotate, rotate_inverse
from ...sim.core.shapes import Cylinder
from ...sim.mpm import Grid, MPMModel, MPMState
from .base import Axis, FluidConfig, FluidTask
from .measures import fraction_inside
from .tools import TOOLS, tool

__all__ = ["Pouring", "PouringConfig", "PouringNano"]

HEIGHT, BOTTOM, LIP = 0.13, 0.0295, 0.036
"""Inside of the glass [m]: height, radius of the wall's middle at the bottom, radius at the lip."""


@dataclasses.dataclass(frozen=True)
class PouringConfig(FluidConfig):
    """Scene, numbers and criterion of `Pouring`."""

    horizon: int = 1000
    """Actions per episode; 2.7 s."""
    dim: int = 3
    """3: the glass; 2: its section, one metre deep."""
    dx: float = 0.2 / 64
    """Grid spacing [m]."""
    spacing: float = 1.8e-3
    """Mean distance of particles [m]; 13 000 of milk and 27 000 of water."""
    dt: float = 1.5e-4
    """Substep [s]; a quarter of what sound allows, but viscosity asks for it."""
    substeps: int = 18
    """Substeps per action."""
    c: float = 5.0
    """Speed of sound in both liquids [m/s]."""
    softness: float = 640.0
    """Softness of the glass's contact [1/m], 2/dx. Where hard contact switches nodes on and off as the
    glass turns, the outcome jumps and its gradient points anywhere."""
    milk: float = 0.03
    """Depth of the milk [m]."""
    water: float = 0.06
    """Depth of the water on it [m]."""
    milk_rho: float = 1300.0
    """Density of the milk [kg/m³]; sweetened and condensed."""
    milk_eta: float = 10.0
    """Viscosity of the milk [Pa s]; cold."""
    width: float = 0.02
    """Over how much the lip is smeared in the objective [m]."""
    spill: float = 3.0
    """Weight a of lost milk; keeping it is the stricter half of the criterion [-]."""
    pull: float = 0.5
    """Weight w of the attraction [-]."""
    pulled: float = 0.25
    """Share of the water that is attracted at a time k [-]."""
    start: float = 1.4
    """Angle of the start of a search, reached after half of the time and then held [rad]: 80°, where
    at rest the milk alone would stay. In time too little water leaves."""
    poured: float = 0.90
    """Solved when at least this share of the water is out [-] …"""
    kept: float = 0.95
    """… and at least this share of the milk is still in [-]."""


class Pouring(FluidTask):
    """Decant. Actions are how fast the glass turns [rad/s]."""

    Config = PouringConfig
    config: PouringConfig

    def scene(self) -> MPMModel:
        c = self.config
        base = (0.1, 0.0, 0.125)
        glass = Collider(
            tool("glass", wall=2 * c.dx),
            base,
            friction=TOOLS["glass"].friction,
            softness=c.softness,
            push_out=True,
            name="glass",
        )
        place = base if c.dim == 3 else base[::2]
        groups, z = [], c.dx - 0.0015  # where the floor's upper face is
        # What each layer would have above it if all of it were its own liquid.
        equal = c.milk + c.water * 1000.0 / c.milk_rho
        for name, rho, eta, depth, load in (
            ("milk", c.milk_rho, c.milk_eta, c.milk, equal),
            ("water", 1000.0, 1e-3, c.water, c.milk + c.water),
        ):
            law = Liquid(rho=rho, bulk=rho * c.c**2, eta=eta)
            middle = (*place[:-1], place[-1] + z + 0.5 * depth)
            groups.append(
                self.still(
                    name,
                    law,
                    Cylinder(BOTTOM, 0.5 * depth),
                    middle,
                    surface=place[-1] + c.dx - 0.0015 + load,
                    holes=[glass],
                    dim=c.dim,
                )
            )
            z += depth
        lower, upper = (0.0, -0.075, 0.0), (0.4, 0.075, 0.3)
        if c.dim == 2:
            lower, upper = lower[::2], upper[::2]  # type: ignore[assignment]
        return MPMModel(Grid(lower, upper, c.dx), groups, colliders=[glass])

    def motions(self) -> tuple[Axis, ...]:
        return (Axis("glass", "pitch", 3.0, -0.2, 2.0, overrun=0.1),)

    def initial_actions(self) -> Tensor:
        actions = torch.zeros(self.horizon, 1)
        half = (self.horizon + 1) // 2
        actions[:half] = min(3.0, self.config.start / (half * self.solver.step_time))
        return actions

    def script(self) -> Tensor:
        """A person's way: quickly to the angle at which milk would just stay, slowly on, and back."""
        t = torch.linspace(0, 1, self.horizon + 1, dtype=torch.float64)
        pieces = ((0.0, 0.0), (0.28, 1.45), (0.88, 1.55), (1.0, 1.0))
        angle = torch.zeros_like(t)
        for (t0, a0), (t1, a1) in itertools.pairwise(pieces):
            part = (t >= t0) & (t <= t1)
            angle[part] = a0 + (a1 - a0) * (t[part] - t0) / (t1 - t0)
        return (angle.diff() / self.solver.step_time).float().clamp(-3.0, 3.0).unsqueeze(-1)

    def randomize(self, state: MPMState, generator: torch.Generator) -> MPMState:
        """Glass and liquids turned so that the lip moves by up to `jitter`: they start to slosh."""
        unit = 2 * float(torch.rand((), generator=generator, dtype=torch.float64)) - 1
        pose = state.tool_pose.clone()
        turn = from_rotation_vector(pose.new_tensor((0, self.config.jitter / HEIGHT * unit, 0)))
        base = pose[:, :1, :3]
        pose[:, 0, 3:] = multiply(turn, pose[:, 0, 3:])
        x = base + rotate(turn, embed(state.x) - base)
        return state.replace(x=x if self.model.dim == 3 else x[..., ::2], tool_pose=pose)

    def _in_glass(self, state: MPMState, name: str) -> Tensor:
        """Positions of a group in the frame of the glass [m], (B, n, 3)."""
        pose = state.tool_pose[:, :1]
        return rotate_inverse(pose[..., 3:], embed(state.x[:, self.slices[name]]) - pose[..., :3])

    def _share(self, local: Tensor, width: float) -> Tensor:
        """Share of particles in the glass, (B,)."""
        room = Cylinder(LIP, 0.5 * HEIGHT)
        return fraction_inside(local, room, width, position=(0.0, 0.0, 0.5 * HEIGHT))

    def terms(self, state: MPMState, t: int) -> dict[str, Tensor]:
        c = self.config
        milk, water = (self._in_glass(state, name) for name in ("milk", "water"))
        left = self._share(water, c.width)
        weight = 4 * ((t + 1) / self.horizon) ** 3
        spilled = 1 - self._share(milk, c.width)
        terms = {"spilled": weight * c.spill * spilled, "left": weight * left}
        if c.pull:
            away = (water - water.new_tensor((LIP, 0.0, HEIGHT))).square().sum(-1)
            inside = self._inside(water)
            k = max(1, round(c.pulled * water.shape[1]))
            order = away.detach().masked_fill(~inside, math.inf)
            nearest = order.topk(k, dim=1, largest=False).indices
            counted = inside.gather(1, nearest).to(away)
            pulled = (away.gather(1, nearest) * counted).sum(1) / counted.sum(1).clamp(min=1)
            terms["attraction"] = c.pull * left * pulled / HEIGHT**2
        return terms

    @staticmethod
    def _inside(local: Tensor) -> Tensor:
        """Which positions in the frame of the glass are in it, (B, n) bool."""
        radius = local[..., :2].detach().norm(dim=-1)
        return (radius < LIP) & (local[..., 2] > 0) & (local[..., 2] < HEIGHT)

    def picture(self, state: MPMState, **options: Any) -> Any:
        """As inherited, with a glass that one sees through."""
        scene = super().picture(state, **options)
        for drawn in scene.tools:
            drawn.opacity = 0.3
        return scene

    def metrics(self, state: MPMState) -> dict[str, Tensor]:
        """poured [-]: share of the water out of the glass; kept [-]: share of the milk in it; angle
        [rad] of the glass; (B,)."""
        state = state.detach()
        inside = {
            n: self._inside(self._in_glass(state, n)).to(state.x).mean(1) for n in self.slices
        }
        return {
            "poured": 1 - inside["water"],
            "kept": inside["milk"],
            "angle": self.places(state)[:, 0],
        }

    def success(self, state: MPMState) -> Tensor:
        """Whether enough water is out and enough milk is in, (B,) bool."""
        found = self.metrics(state)
        return (found["poured"] >= self.config.poured) & (found["kept"] >= self.config.kept)


@dataclasses.dataclass(frozen=True)
class PouringNanoConfig(PouringConfig):
    """`PouringConfig` in the plane, at half the resolution: a rollout takes two seconds."""

    horizon: int = 72
    """Actions per episode; 2.7 s."""
    dim: int = 2
    """The section of the glass."""
    dx: float = 6.25e-3
    """Grid spacing [m]."""
    spacing: float = 3.1e-3
    """Mean distance of particles [m]; 400 particles."""
    dt: float = 5e-4
    """Substep [s]; a third of what sound allows: thin jets deform fast."""
    substeps: int = 75
    """Substeps per action; an action lasts 37.5 ms."""
    c: float = 4.5
    """Speed of sound in both liquids [m/s]; the depth compresses by 5 %."""
    softness: float = 320.0
    """Softness of the glass's contact [1/m], 2/dx."""


class PouringNano(Pouring):
    """`Pouring` for tests."""

    Config = PouringNanoConfig
    search_defaults = {
        "gradient": {"expand": False, "lr": 0.01, "clip": 1.0},
        "lbfgs": {"first_step": 0.015, "max_step": 0.1},
    }
