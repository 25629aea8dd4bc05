"""Transporting: a jet of water pushes a cube along a tray to a line.

    ℓ(x, t) = 8 (t/T)⁷ (c − c*)²/(c₀ − c*)² + w A/(c₀ − c*)² + stops

c is where the cube is along the tray and c* the line; the weight, one on average, makes that an
arrival instead of a race. A is the mean squared distance between the cube and the particles of water
nearest to it: a jet that misses has no other gradient, and w is small enough to lose against the cube.

The tray is seen from above: a layer one metre deep for the simulation, without gravity along it, walls
on all sides. The nozzle slides along one wall and turns; the cube starts in the middle, beside the
jet, and is soon pressed against the far wall, whose friction is what brakes it. The jet of 1.5 m/s brings
34 N per metre of depth, which moves the cube of 5 kg per metre its 0.25 m in less than half a
second. c_s = 10 m/s: where the jet stagnates the water compresses by 1 %.

Source: Xian et al. 2023 (FluidLab), task Transporting, at 0.5 m per unit length. Its slab is five cells
thick and locked across, so ours is a plane; its objective |c − c*| lets the cube race past the line.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.laws import Liquid
from ...sim.core.shapes import Box
from ...sim.mpm import Grid, MPMModel, MPMState, RigidBody
from .base import Axis, FluidConfig, FluidTask
from .measures import attraction

__all__ = ["Transporting", "TransportingConfig", "TransportingNano"]


@dataclasses.dataclass(frozen=True)
class TransportingConfig(FluidConfig):
    """Scene, numbers and criterion of `Transporting`."""

    horizon: int = 1000
    """Actions per episode; 0.8 s."""
    dx: float = 0.5 / 64
    """Grid spacing [m]."""
    spacing: float = 3.75e-3
    """Mean distance of particles in the jet [m]; 1 300 particles."""
    dt: float = 4e-4
    """Substep [s]; half of what sound allows."""
    substeps: int = 2
    """Substeps per action."""
    settle: float = 0.0
    """Nothing is there to settle [s]."""
    bulk: float = 1e5
    """Bulk modulus of the water [Pa]; c_s = 10 m/s."""
    tray: float = 0.5
    """Side of the square tray [m]."""
    cube: float = 0.05
    """Side of the cube [m]."""
    cube_rho: float = 2000.0
    """Density of the cube [kg/m³]; concrete."""
    friction: float = 0.3
    """Coulomb friction of the cube on walls [-]."""
    start: float = 0.15
    """Where the cube starts along the tray c₀ [m]."""
    goal_line: float = 0.40
    """Where it shall arrive c* [m]."""
    nozzle: float = 0.09
    """Where the nozzle starts [m]."""
    jet_speed: float = 1.5
    """Exit velocity of the water [m/s]."""
    radius: float = 7.5e-3
    """Half the width of the opening [m]."""
    pull: float = 0.05
    """Weight w of the attraction [-]."""
    pulled: int = 50
    """How many particles are attracted."""
    tolerance: float = 0.02
    """Solved when the cube ends this close to the line [m]."""


class Transporting(FluidTask):
    """Aim a jet. Actions are the speed of the nozzle [m/s] and how fast it turns [rad/s]."""

    Config = TransportingConfig
    config: TransportingConfig

    def scene(self) -> MPMModel:
        c = self.config
        foot = 0.02
        nozzle = Collider(Box((0.01, 0.5, 0.01)), (c.nozzle, 0.0, foot), name="nozzle")
        cube = RigidBody(
            Box((0.5 * c.cube,) * 3),
            (c.start, 0.0, 0.5 * c.tray),
            rho=c.cube_rho,
            friction=c.friction,
            softness=2 / c.dx,
            name="cube",
        )
        water = self.jet(
            "water",
            Liquid(rho=1000.0, bulk=c.bulk, eta=1e-3),
            velocity=(0.0, c.jet_speed),
            radius=c.radius,
            duration=c.horizon * c.substeps * c.dt,
            spacing=c.spacing,
            position=(0.0, 0.03),
            tool="nozzle",
        )
        return MPMModel(
            Grid((0.0, 0.0), (c.tray, c.tray), c.dx),
            [water],
            gravity=(0.0, 0.0),
            colliders=[nozzle, cube],
        )

    def motions(self) -> tuple[Axis, ...]:
        return (
            Axis("nozzle", "x", 0.5, 0.05, self.config.tray - 0.05),
            Axis("nozzle", "pitch", 5.0, -1.2, 1.2, overrun=0.1),
        )

    def _ahead(self, state: MPMState) -> Tensor:
        """Way from the cube to the line [m], (B,)."""
        return self.config.goal_line - state.tool_pose[:, 1, 0]

    def terms(self, state: MPMState, t: int) -> dict[str, Tensor]:
        c = self.config
        way = (c.goal_line - c.start) ** 2
        weight = 8 * ((t + 1) / self.horizon) ** 7
        terms = {"transport": weight * self._ahead(state).square() / way}
        count = self.born("water", state.substep)
        if c.pull and count:
            cube = state.tool_pose[:, 1, ::2][:, :2].detach()
            near = attraction(state.x[:, :count], cube, min(c.pulled, count))
            terms["attraction"] = c.pull * near / way
        return terms

    def metrics(self, state: MPMState) -> dict[str, Tensor]:
        """distance [m]: of the cube to the line; speed [m/s] of the cube; (B,)."""
        state = state.detach()
        assert state.body_twist is not None
        return {
            "distance": self._ahead(state).abs(),
            "speed": state.body_twist[:, 0, :3].norm(dim=-1),
        }

    def success(self, state: MPMState) -> Tensor:
        """Whether the cube is within `tolerance` of the line when the time is over, (B,) bool."""
        done = state.substep >= self.horizon * self.substeps
        return (self.metrics(state)["distance"] <= self.config.tolerance) & done


@dataclasses.dataclass(frozen=True)
class TransportingNanoConfig(TransportingConfig):
    """`TransportingConfig` at a coarser resolution: a rollout within a second."""

    horizon: int = 66
    """Actions per episode; 0.8 s."""
    dx: float = 0.0125
    """Grid spacing [m]."""
    spacing: float = 6e-3
    """Mean distance of particles in the jet [m]; 500 particles."""
    dt: float = 8e-4
    """Substep [s]; 0.4 of what sound allows."""
    substeps: int = 15
    """Substeps per action; an action lasts 12 ms."""
    bulk: float = 4e4
    """Bulk modulus of the water [Pa]; c_s = 6.3 m/s, and 2 % where the jet stagnates."""


class TransportingNano(Transporting):
    """`Transporting` for tests."""

    Config = TransportingNanoConfig
    search_defaults = {"gradient": {"lr": 0.1}}
