"""Gathering ducks: a plate drives the water of a pool so that two floating bodies drift to a line.

    ℓ(x, t) = 4 (t/T)³ (1/R) Σ_{bodies r} |c_r − c*|²/|c_r(0) − c*|² + stops

The weight, one on average, makes the end count most. c is the horizontal position of a body; here only
the way along the pool counts, c* is a line across it.
The plate works in cycles: it moves freely through the water, is lifted out, returns to where it began
and dives again. Actions count in the first part of each cycle only.

The ducks are rigid and flat-bottomed, 400 kg/m³, so they float 40 % submerged; they may be touched,
but the plate cannot follow them to the line. c = 5 m/s: the depth compresses by 4 % and the fastest
motion, the dive, by 5 %.

Source: Xian et al. 2023 (FluidLab), task GatheringEasy, at 0.5 m per unit length, where gravity gives
the same times. There the plate works from the far side, and dives in 30 ms, which is 2 m/s here; ours
starts behind the ducks and takes longer. Its ducks are projected particles, ours have a mass and turn.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.laws import Liquid
from ...sim.core.shapes import Box, Cylinder
from ...sim.mpm import Grid, MPMControl, MPMModel, MPMState, RigidBody
from .base import Axis, FluidConfig, FluidTask

__all__ = ["Ducks", "DucksConfig", "GatheringEasy", "GatheringEasyConfig", "GatheringEasyNano"]


@dataclasses.dataclass(frozen=True)
class DucksConfig(FluidConfig):
    """A pool with two ducks and a plate."""

    dx: float = 0.5 / 64
    """Grid spacing [m]."""
    spacing: float = 4.9e-3
    """Mean distance of particles [m]; 90 000."""
    dt: float = 6.667e-4
    """Substep [s]; 0.43 of what sound allows."""
    substeps: int = 3
    """Substeps per action; an action lasts 2 ms."""
    settle: float = 0.3
    """Time for which the pool is damped to rest before its first use [s]."""
    bulk: float = 2.5e4
    """Bulk modulus of the water [Pa]; c = 5 m/s."""
    pool: tuple[float, float] = (0.4375, 0.3125)
    """Length and width of the pool [m]."""
    depth: float = 0.075
    """Depth of the water [m]."""
    duck: tuple[float, float] = (0.025, 0.02)
    """Radius and half height of a duck [m]."""
    duck_rho: float = 400.0
    """Density of the ducks [kg/m³]."""
    ducks: tuple[tuple[float, float], ...] = ((0.17, 0.11), (0.20, 0.20))
    """Where they start [m]."""
    plate: tuple[float, float, float] = (0.008, 0.05, 0.05)
    """Half side lengths of the plate [m]; two cells thick."""
    home: tuple[float, float] = (0.09, 0.156)
    """Where the plate begins each cycle [m]."""
    clearance: float = 0.015
    """From the floor to the plate [m]."""
    cycle: tuple[int, int, int, int] = (50, 20, 30, 20)
    """Actions per cycle during which the plate is free, goes up, returns, and dives."""
    reach: tuple[float, float] = (0.08, 0.05)
    """How far the plate may go from home along the pool and across [m]."""
    speed: float = 0.75
    """Largest speed of the plate per axis [m/s]; that of long waves is 0.86 m/s."""
    softness: float = 250.0
    """Softness of the contact of plate and ducks [1/m], 2/dx."""
    aim: tuple[float, ...] = ()
    """Where the ducks shall go [m]: a line (x,) or a point (x, y)."""
    tolerance: float = 0.03
    """Solved when every duck is within this of the aim [m]."""


class Ducks(FluidTask):
    """Base of the tasks with ducks. Actions are velocities of the plate [m/s] along `along`."""

    config: DucksConfig
    along = "xy"
    view = (6, 4, 1)

    def obstacles(self) -> list[Collider]:
        """What else stands in the pool."""
        return []

    def scene(self) -> MPMModel:
        c = self.config
        self._lift = c.depth - c.clearance + 0.25 * c.plate[2]
        plate = Collider(
            Box(c.plate),
            (*c.home, c.clearance + c.plate[2]),
            friction=0.1,
            softness=c.softness,
            name="plate",
        )
        radius, half = c.duck
        height = c.depth + half - c.duck_rho / 1000.0 * 2 * half
        ducks = [
            RigidBody(
                Cylinder(radius, half),
                (*place, height),
                rho=c.duck_rho,
                softness=c.softness,
                friction=0.1,
                name=f"duck {k + 1}",
            )
            for k, place in enumerate(c.ducks)
        ]
        self._ducks = slice(1, 1 + len(ducks))
        colliders = [plate, *ducks, *self.obstacles()]
        x, y, z = (0.5 * v for v in (*c.pool, c.depth))
        law = Liquid(rho=1000.0, bulk=c.bulk, eta=1e-3)
        water = self.still("water", law, Box((x, y, z)), (x, y, z), holes=colliders)
        top = c.dx * math.ceil((c.depth + 2 * half) / c.dx)
        return MPMModel(Grid((0.0,) * 3, (*c.pool, top), c.dx), [water], colliders=colliders)

    def motions(self) -> tuple[Axis, ...]:
        c = self.config
        back = 0.25 * c.reach[0]
        ranges = {
            "x": (c.home[0] - back, c.home[0] + c.reach[0]),
            "y": (c.home[1] - c.reach[1], c.home[1] + c.reach[1]),
        }
        return tuple(Axis("plate", a, c.speed, *ranges[a]) for a in self.along)

    def phase(self, state: MPMState) -> tuple[int, int]:
        """Part of the cycle, 0 … 3, and how many actions are left of it."""
        k = (state.substep // self.substeps) % sum(self.config.cycle)
        for part, count in enumerate(self.config.cycle):
            if k < count:
                return part, count - k
            k -= count
        raise AssertionError

    def velocity(self, state: MPMState, action: Tensor) -> Tensor:
        part, left = self.phase(state)
        if part == 0:
            return action
        if part == 2:
            home = action.new_tensor([self.config.home["xy".index(a)] for a in self.along])
            return (home - self.places(state)) / (left * self.solver.step_time)
        return torch.zeros_like(action)

    def control(self, state: MPMState, action: Tensor) -> MPMControl:
        """Twist of the plate: as the action asks, or as the cycle does, cut at the stops."""
        control = super().control(state, action)
        part, left = self.phase(state)
        if part in (1, 3):
            low = self.config.clearance + self.config.plate[2]
            way = low + self._lift * (part == 1) - state.tool_pose[:, 0, 2]
            assert control.tool_twist is not None
            up = torch.zeros_like(control.tool_twist)
            up[:, 0, 2] = way / (left * self.solver.step_time)
            control.tool_twist = control.tool_twist + up
        return control

    def _away(self, state: MPMState) -> Tensor:
        """From the aim to each duck, (B, R, 1 or 2) [m]."""
        aim = state.x.new_tensor(self.config.aim)
        return state.tool_pose[:, self._ducks, : len(aim)] - aim

    def terms(self, state: MPMState, t: int) -> dict[str, Tensor]:
        aim = state.x.new_tensor(self.config.aim)
        first = state.x.new_tensor(self.config.ducks)[:, : len(aim)] - aim
        share = self._away(state).square().sum(-1) / first.square().sum(-1)
        weight = 4 * ((t + 1) / self.horizon) ** 3
        return {"ducks": weight * share.mean(-1)}

    def metrics(self, state: MPMState) -> dict[str, Tensor]:
        """distance [m]: of the farthest duck to the aim; height [m] of the lowest duck; speed [m/s]
        of the fastest; (B,)."""
        state = state.detach()
        assert state.body_twist is not None
        return {
            "distance": self._away(state).norm(dim=-1).amax(-1),
            "height": state.tool_pose[:, self._ducks, 2].amin(-1),
            "speed": state.body_twist[..., :3].norm(dim=-1).amax(-1),
        }

    def success(self, state: MPMState) -> Tensor:
        """Whether every duck is within `tolerance` of the aim, (B,) bool."""
        return self.metrics(state)["distance"] <= self.config.tolerance


@dataclasses.dataclass(frozen=True)
class GatheringEasyConfig(DucksConfig):
    """Scene, numbers and criterion of `GatheringEasy`."""

    horizon: int = 840
    """Actions per episode; 1.68 s, seven cycles."""
    aim: tuple[float, ...] = (0.33,)
    """The line x where the ducks shall go [m]."""


class GatheringEasy(Ducks):
    """Drive two ducks to a line."""

    Config = GatheringEasyConfig
    config: GatheringEasyConfig


@dataclasses.dataclass(frozen=True)
class GatheringEasyNanoConfig(GatheringEasyConfig):
    """`GatheringEasyConfig` on a coarse grid in a narrower, deeper pool: a rollout takes a second."""

    horizon: int = 60
    """Actions per episode; 1.2 s, three cycles."""
    dx: float = 0.025
    """Grid spacing [m]; four cells of depth."""
    spacing: float = 0.0165
    """Mean distance of particles [m]; 2 000."""
    dt: float = 2e-3
    """Substep [s]; 0.4 of what sound allows: hard strokes press water against the walls."""
    substeps: int = 10
    """Substeps per action; an action lasts 20 ms."""
    settle: float = 0.2
    """Time for which the pool is damped to rest before its first use [s]."""
    pool: tuple[float, float] = (0.45, 0.2)
    """Length and width of the pool [m]."""
    depth: float = 0.1
    """Depth of the water [m]."""
    duck: tuple[float, float] = (0.03, 0.025)
    """Radius and half height of a duck [m]."""
    ducks: tuple[tuple[float, float], ...] = ((0.19, 0.055), (0.22, 0.145))
    """Where they start [m]."""
    plate: tuple[float, float, float] = (0.025, 0.06, 0.05)
    """Half side lengths of the plate [m]; two cells thick."""
    home: tuple[float, float] = (0.08, 0.1)
    """Where the plate begins each cycle [m]."""
    clearance: float = 0.02
    """From the floor to the plate [m]."""
    cycle: tuple[int, int, int, int] = (8, 4, 4, 4)
    """Actions per cycle during which the plate is free, goes up, returns, and dives."""
    reach: tuple[float, float] = (0.08, 0.02)
    """How far the plate may go from home along the pool and across [m]."""
    softness: float = 80.0
    """Softness of the contact of plate and ducks [1/m], 2/dx."""


class GatheringEasyNano(GatheringEasy):
    """`GatheringEasy` for tests."""

    Config = GatheringEasyNanoConfig
    search_defaults = {"gradient": {"expand": False, "lr": 0.2}}
