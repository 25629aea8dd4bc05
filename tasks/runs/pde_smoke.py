"""Warm smoke that rises past bodies, by the gas solver: scenes at random, frames at cell centres.

    ∂u/∂t + u·∇u = −∇p/ρ + η/ρ ∇²u − β g (T − T₀),   ∇·u = 0,   ∂s/∂t + u·∇s = Σ k e^{−r/R} (s_n − s)

Source: Fedkiw et al. 2001 (smoke); equations and schemes are those of `sim.grid.solver`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.errors import InputError, message
from ...sim.core.shapes import Box, Sphere
from ...sim.grid import GasConfig, GasModel, GasSolver, GasState, Nozzle, Solids, solids_of
from ...sim.grid.pdes import GaussianField, Grid
from .pde_flows import Advance, Flow, Solutions, quiet, require, uniform

__all__ = ["Smoke", "SmokeScene", "Source"]

RATE = 10.0
"""At which gas at a source takes its temperature and smoke [1/s]."""
CLOUD_MODES = 6
"""Half waves per axis of the smoke at first, at most: as many as every grid has."""
NOWHERE = Collider(Sphere(1.0), (1e6, 0.0, 0.0))
"""The model's obstacle: bodies of scenes enter by `_Solver.solids`."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A place that warm smoke comes from."""

    position: tuple[float, float, float]
    """[m]; (x, 0, z) in 2-D."""
    radius: float
    """Length over which it decays by e [m]."""
    heat: float
    """Temperature of its gas above that of the surroundings [K]."""
    smoke: float
    """Smoke in its gas [kg/m³]."""


@dataclasses.dataclass(frozen=True)
class SmokeScene:
    """Bodies and sources of one trajectory."""

    bodies: tuple[Collider, ...]
    sources: tuple[Source, ...]
    cloud: int
    """Seed of the smoke at first."""


class _Solver(GasSolver):
    """Steps scenes with bodies of their own, at rest."""

    def __init__(self, model: GasModel, config: GasConfig, places: Solids) -> None:
        super().__init__(model, config)
        self.places = places

    def solids(self, pose: Tensor) -> Solids:
        return self.places


class Smoke(Flow):
    """Smoke in a box of 1 m, closed at the bottom and around, in air at rest at first.

    A scene has 1 … `obstacles` bodies, balls and turned boxes, and 1 … `sources` sources below them, or
    none of a kind of which 0 is the most. `clouds` fill the box with warm smoke at first, c |g| with a
    smooth Gaussian field g of variance 1, as warm as `heat` where there is 1 kg/m³ of it.
    Fields: velocity [m/s], averages of the faces of a cell; smoke [kg/m³]; temperature above that of
    the surroundings [K]; pressure [Pa]; all 0 in bodies. Constant in time: obstacle, 1 in bodies; and
    what sources give to clean air, smoke_source [kg/m³/s] and heat_source [K/s].

    Args:
        cells: per axis.
        dt: step [s].
        dim: 2 or 3 axes.
        obstacles, sources: most of each.
        clouds: c [kg/m³]; 0 is clean air.
        heat: of the warmest source [K]; others have at least a quarter.
        eta, diffusivity, smoke_diffusivity, weight: as in `GasModel`.
        settle: time before the first frame [s].
        advection, scalars: as in `GasConfig`; "conservative" keeps the mass of smoke and wants
            Σ |u| dt/dx ≤ 1.
        top: "open" or "wall".

    Raises:
        InputError: numbers out of range, unknown words.
    """

    def __init__(
        self,
        cells: int,
        dt: float,
        dim: float = 2,
        obstacles: float = 3,
        sources: float = 2,
        clouds: float = 0.0,
        heat: float = 40.0,
        eta: float = 0.0,
        diffusivity: float = 0.0,
        smoke_diffusivity: float = 0.0,
        weight: float = 0.0,
        settle: float = 0.5,
        advection: Any = "maccormack",
        scalars: Any = "maccormack",
        top: str = "open",
    ) -> None:
        if dim not in (2, 3):
            raise InputError(message("Smoke", "dim 2 or 3", dim, "Correct --parameters"))
        if top not in ("open", "wall"):
            raise InputError(message("Smoke", "top open or wall", top, "Correct --parameters"))
        require("Smoke", 0, whole=True, obstacles=obstacles, sources=sources)
        require("Smoke", 0, heat=heat, settle=settle, clouds=clouds)
        if not (sources or clouds):
            expected = "sources >= 1 or clouds > 0"
            raise InputError(message("Smoke", expected, "neither", "Correct --parameters"))
        self.dim, self.dt, self.most = int(dim), dt, (int(obstacles), int(sources))
        gas = {"eta": eta, "diffusivity": diffusivity, "smoke_diffusivity": smoke_diffusivity}
        self.numbers = {
            "obstacles": obstacles, "sources": sources, "heat": heat, "settle": settle,
            "weight": weight, "clouds": clouds, **gas,
        }  # fmt: skip
        spot = {"position": (0.0, 0.0, 0.0), "direction": (0.0, 0.0, 1.0), "strength": 0.0}
        self.model = GasModel(
            (cells,) * self.dim, 1.0 / cells, walls={"z+": top}, obstacles=[NOWHERE], weight=weight,
            nozzles=[
                Nozzle(f"source {k}", **spot, radius=1.0, temperature=0.0, smoke=0.0)  # type: ignore[arg-type]
                for k in range(self.most[1])
            ],
            **gas,
        )  # fmt: skip
        # A region without an opening has a pressure up to a constant, which multigrid takes.
        self.config = GasConfig(dt, advection, scalars, pressure="multigrid")
        GasSolver(self.model, self.config)
        # Sides of the grid play no part but in names: velocity is not one scalar.
        self.grid = Grid((cells,) * self.dim, sides="neumann")
        self.sides = {side: ("WALL", "wall") for side in self.grid.walls}
        self.sides["z+"] = ("OPEN", "open") if top == "open" else ("WALL", "wall")

    def scene(self, generator: torch.Generator) -> SmokeScene:
        def draw(low: float, high: float) -> float:
            return uniform(generator, low, high)

        def place(margin: float, low: float, high: float) -> tuple[float, float, float]:
            x, y, z = draw(margin, 1 - margin), draw(margin, 1 - margin), draw(low, high)
            return x, y if self.dim == 3 else 0.0, z

        def count(most: int) -> int:
            return 1 + int(torch.randint(most, (), generator=generator)) if most else 0

        bodies = []
        for _ in range(count(self.most[0])):
            centre = place(0.15, 0.35, 0.85)
            if draw(0.0, 1.0) < 0.5:
                bodies.append(Collider(Sphere(draw(0.06, 0.14)), centre))
                continue
            sides = (draw(0.06, 0.16), draw(0.06, 0.16), draw(0.03, 0.08))
            turn = math.pi * draw(-0.5, 0.5)
            # About an axis across: in 2-D about y; in 3-D about any level one.
            way = math.pi * draw(-0.5, 0.5) if self.dim == 3 else 0.0
            s = math.sin(turn / 2)
            q = (math.cos(turn / 2), s * math.sin(way), s * math.cos(way), 0.0)
            bodies.append(Collider(Box(sides), centre, q))
        sources = [
            Source(place(0.2, 0.08, 0.16), draw(0.025, 0.05),
                   self.numbers["heat"] * draw(0.25, 1.0), draw(0.5, 1.0))
            for _ in range(count(self.most[1]))
        ]  # fmt: skip
        cloud = int(torch.randint(2**31, (), generator=generator))
        return SmokeScene(tuple(bodies), tuple(sources), cloud)

    def prepare(
        self, scenes: Sequence[SmokeScene], like: Tensor
    ) -> tuple[GasSolver, GasState, dict[str, dict[str, Tensor]]]:
        """Solver, state at rest and parameters of some scenes."""
        places = self._places(scenes, like)
        smoke = self._clouds(scenes, like) * places.fluid
        state = self.model.initial_state(
            len(scenes), smoke=smoke, temperature=self.model.ambient + self.numbers["heat"] * smoke,
            dtype=like.dtype, device=like.device,
        )  # fmt: skip
        poses, params = state.nozzle_pose.clone(), {}
        for k in range(self.most[1]):
            own = [s.sources[k] if k < len(s.sources) else None for s in scenes]
            for b, source in enumerate(own):
                if source is not None:
                    poses[b, k, :3] = poses.new_tensor(source.position)
            air = self.model.ambient
            params[f"source {k}"] = {
                "rate": like.new_tensor([RATE if o else 0.0 for o in own]),
                "radius": like.new_tensor([o.radius if o else 1.0 for o in own]),
                "temperature": like.new_tensor([air + o.heat if o else air for o in own]),
                "smoke": like.new_tensor([o.smoke if o else 0.0 for o in own]),
            }
        solver = _Solver(self.model, self.config, places)
        return solver, dataclasses.replace(state, nozzle_pose=poses), params

    def first_step(self, scenes: Sequence[SmokeScene], like: Tensor) -> None:
        solver, state, params = self.prepare(scenes, like)
        solver.step(state, None, params)

    def solve(
        self,
        scenes: Sequence[SmokeScene],
        frames: int,
        frame_steps: int,
        like: Tensor,
        advance: Advance = quiet,
    ) -> Solutions:
        solver, state, params = self.prepare(scenes, like)
        prepared = solver.prepare(params, state)
        air = solver.solids(state.tool_pose).fluid.to(like)
        found: dict[str, list[Tensor]] = {}
        for frame in range(frames):
            steps = frame_steps if frame else round(self.numbers["settle"] / self.dt)
            for _ in range(steps):
                state = solver.step(state, None, prepared)
            for name, value in self._stored(state, air).items():
                found.setdefault(name, []).append(value.cpu())
            advance(len(scenes))
        count = {"obstacle_count": [len(s.bodies) for s in scenes],
                 "source_count": [len(s.sources) for s in scenes]}  # fmt: skip
        constant = {"obstacle": 1 - air[:, None], **self._sources(scenes, air)}
        return Solutions(
            {name: torch.stack(values, 1) for name, values in found.items()},
            {name: value.cpu() for name, value in constant.items()},
            {name: torch.tensor(value) for name, value in count.items()},
        )

    def _stored(self, state: GasState, air: Tensor) -> dict[str, Tensor]:
        warm = state.temperature - self.model.ambient
        return {
            "smoke": (state.smoke * air)[:, None],
            "temperature": (warm * air)[:, None],
            "pressure": (state.pressure * air)[:, None],
            "velocity": self.model.grid.at_cells(state.u).movedim(-1, 1),
        }

    def _clouds(self, scenes: Sequence[SmokeScene], like: Tensor) -> Tensor:
        """Smoke at first (B, *cells), the same function on every grid."""
        if not self.numbers["clouds"]:
            return like.new_zeros(len(scenes), *self.model.cells)
        field = GaussianField(self.grid, 4.0, 8.0, basis="neumann", modes=CLOUD_MODES)
        size = self.numbers["clouds"] / float(field.variance().mean().sqrt())
        draws = [torch.Generator().manual_seed(scene.cloud) for scene in scenes]
        rows = [field.sample(1, draw, dtype=torch.float64)[0] for draw in draws]
        return size * torch.cat(rows).abs().to(like)

    def _places(self, scenes: Sequence[SmokeScene], like: Tensor) -> Solids:
        """Open faces and gas of each scene, one row per scene."""
        grid, flat = self.model.grid, like.new_zeros(())
        own = [solids_of(grid, s.bodies or (NOWHERE,), like=flat) for s in scenes]
        axes = range(grid.dim)
        valid = [o.valid for o in own if o.valid is not None]
        return Solids(
            tuple(torch.cat([o.open[a] for o in own]) for a in axes),
            torch.cat([o.fluid for o in own]),
            tuple(torch.cat([v[a] for v in valid]) for a in axes),
            # Every body is at rest, so which one is the nearest does not matter.
            tuple(torch.zeros_like(torch.cat([v[a] for v in valid]), dtype=torch.long) for a in axes),
        )  # fmt: skip

    def _sources(self, scenes: Sequence[SmokeScene], air: Tensor) -> dict[str, Tensor]:
        x = self.model.grid.points(None, air)
        smoke, heat = torch.zeros_like(air), torch.zeros_like(air)
        for b, scene in enumerate(scenes):
            for source in scene.sources:
                place = source.position if self.dim == 3 else source.position[::2]
                reach = RATE * torch.exp(-(x - x.new_tensor(place)).norm(dim=-1) / source.radius)
                smoke[b] += source.smoke * reach
                heat[b] += source.heat * reach
        return {"smoke_source": (smoke * air)[:, None], "heat_source": (heat * air)[:, None]}
