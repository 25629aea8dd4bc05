"""A stream past a cylinder, by `MacFlowSolver`: speed, size, place and spin at random.

Source: Wandel et al. 2021 (equations, see `sim.grid.pdes.mac_flow`); scenes and numbers are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import FieldState, Grid, MacFlow2D, MacFlowSolver
from ...sim.grid.pdes.mac_flow import BORDER
from .pde_flows import Advance, Flow, Solutions, quiet, require, uniform

__all__ = ["CylinderFlow", "CylinderScene"]

LENGTH, HEIGHT = 4.0, 2.0
BEYOND = 1.5
"""How far the solver's box goes on downstream [m]: its end, where the velocity is prescribed, sends waves
of two cells upstream, which must not be stored."""
KICK, KICK_TIME = 0.6, 1.5
"""Surface speed over that of the stream, and its longest time [s], by which shedding is started: alone
it would take far longer."""


@dataclasses.dataclass(frozen=True)
class CylinderScene:
    """The stream and the cylinder of one trajectory."""

    speed: float
    """Of the stream [m/s]."""
    radius: float
    """Of the cylinder [m]."""
    centre: tuple[float, float]
    """Of the cylinder [m]."""
    spin: float
    """Its angular velocity about y [rad/s]."""
    kick: float
    """What is added to that at first [rad/s]."""


class CylinderFlow(Flow):
    """Stream along x past a cylinder in a box of 4 × 2 m, whose sides move with the stream.

    It enters at x = 0 with its velocity, and leaves freely: the solver's box is 1.5 m longer.
    Fields: velocity [m/s], averages of the faces of a cell; pressure [Pa] of mean zero, 0 in the
    cylinder. Constant in time: obstacle, 1 in the cylinder, where the velocity is that of its spin.

    Args:
        cells: along x, half of them along z.
        dt: step [s].
        rho: density [kg/m³].
        eta: viscosity [Pa s]; Re = ρ U 2R/η is 56 … 156 with the defaults.
        speed: mean speed [m/s]; scenes have 0.75 … 1.25 of it.
        spin: largest surface speed of the cylinder over that of the stream [-]; half of the cylinders
            are at rest.
        settle: time before the first frame [s], one step at least; a kick at its start makes vortices.
        scheme: as in `MacFlow2D`.

    Raises:
        InputError: numbers out of range, unknown scheme.
    """

    def __init__(
        self,
        cells: int,
        dt: float,
        rho: float = 1.0,
        eta: float = 4e-3,
        speed: float = 1.0,
        spin: float = 1.0,
        settle: float = 5.0,
        scheme: Any = "imex",
    ) -> None:
        require("CylinderFlow", 0, settle=settle, spin=spin)
        require("CylinderFlow", 1e-6, speed=speed)
        if cells % 2 or cells < 8:
            expected, fix = "an even number of cells along x, 8 at least", "Correct --grid"
            raise InputError(message("CylinderFlow", expected, cells, fix))
        self.h = LENGTH / cells
        self.grid = Grid((cells, cells // 2), (LENGTH, HEIGHT), "neumann")
        longer = cells + round(BEYOND / self.h) + 2 * BORDER
        self.flow = MacFlow2D((longer, cells // 2 + 2 * BORDER), self.h, dt, rho, eta, scheme)
        self.dt = dt
        self.numbers = {"rho": rho, "eta": eta, "speed": speed, "spin": spin, "settle": settle}
        self.sides = {side: ("WALL", "velocity of the stream") for side in self.grid.walls}
        self.sides |= {"x-": ("OPEN", "velocity of the stream"), "x+": ("OPEN", "open")}

    def scene(self, generator: torch.Generator) -> CylinderScene:
        def draw(low: float, high: float) -> float:
            return uniform(generator, low, high)

        speed, radius = self.numbers["speed"] * draw(0.75, 1.25), draw(0.15, 0.25)
        centre = draw(0.7, 1.1), draw(0.8, 1.2)
        ratio, turns, way = draw(-1.0, 1.0), draw(0.0, 1.0) < 0.5, draw(-1.0, 1.0)
        spin = self.numbers["spin"] * ratio * speed / radius if turns else 0.0
        kick = (KICK if way > 0 else -KICK) * speed / radius
        return CylinderScene(speed, radius, centre, spin, kick)

    def prepare(self, scene: CylinderScene, like: Tensor, spin: float) -> tuple[Tensor, Tensor]:
        """Start (1, 2, *cells) and context (1, 3, *cells) of a cylinder that turns at a rate [rad/s]."""
        shift = BORDER * self.h  # the solver's box has its prescribed cells around the stored ones
        centre = (scene.centre[0] + shift, scene.centre[1] + shift)
        return self.flow.channel(like.new_tensor([scene.speed]), centre, scene.radius, spin)

    def first_step(self, scenes: Sequence[CylinderScene], like: Tensor) -> None:
        start, context = self.prepare(scenes[0], like, scenes[0].spin)
        MacFlowSolver(self.flow).step(FieldState(start), None, {"forcing": context})

    def solve(
        self,
        scenes: Sequence[CylinderScene],
        frames: int,
        frame_steps: int,
        like: Tensor,
        advance: Advance = quiet,
    ) -> Solutions:
        # Scenes with other bodies have other matrices, and MacFlowSolver takes one at a time.
        rows = [self._solve(s, frames, frame_steps, like, advance) for s in scenes]
        spots = {
            "centre_x": [s.centre[0] for s in scenes],
            "centre_z": [s.centre[1] for s in scenes],
        }
        for name in ("speed", "radius", "spin"):
            spots[name] = [getattr(s, name) for s in scenes]
        double = {name: torch.tensor(v, dtype=torch.float64) for name, v in spots.items()}
        density = self.flow.rho / self.flow.eta if self.flow.eta else float("inf")
        double["reynolds"] = 2 * density * double["speed"] * double["radius"]
        return Solutions(
            {n: torch.cat([r.fields[n] for r in rows]) for n in rows[0].fields},
            {n: torch.cat([r.constant[n] for r in rows]) for n in rows[0].constant},
            double,
        )

    def _solve(
        self, scene: CylinderScene, frames: int, frame_steps: int, like: Tensor, advance: Advance
    ) -> Solutions:
        solver = MacFlowSolver(self.flow)
        settle = self.numbers["settle"]
        start, context = self.prepare(scene, like, scene.spin)
        _, kicked = self.prepare(scene, like, scene.spin + scene.kick)
        state = solver.initial_state(start)
        for k in range(max(1, round(settle / self.dt))):
            early = (k + 1) * self.dt <= min(KICK_TIME, 0.5 * settle)
            state = solver.step(state, None, {"forcing": kicked if early else context})
        body = self._window(context[:, :1])
        velocities, pressures = [], []
        for frame in range(frames):
            for _ in range(frame_steps if frame else 0):
                state = solver.step(state, None, {"forcing": context})
            velocity, pressure = self._stored(state.u, 1 - body)
            velocities.append(velocity.cpu())
            pressures.append(pressure.cpu())
            advance(1)
        fields = {"pressure": torch.stack(pressures, 1), "velocity": torch.stack(velocities, 1)}
        return Solutions(fields, {"obstacle": body.cpu()})

    def _stored(self, u: Tensor, fluid: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity (1, 2, *cells) and pressure (1, 1, *cells) at centres of the stored cells."""
        v = self.flow.velocity(u)
        centres = torch.stack((v[:, 0] + v[:, 0].roll(-1, -2), v[:, 1] + v[:, 1].roll(-1, -1)), 1)
        p = self._window(u[:, 1:])
        mean = (p * fluid).sum() / fluid.sum()
        return self._window(0.5 * centres), (p - mean) * fluid

    def _window(self, field: Tensor) -> Tensor:
        """Cells that are stored."""
        return field[..., BORDER : BORDER + self.grid.cells[0], BORDER:-BORDER]
