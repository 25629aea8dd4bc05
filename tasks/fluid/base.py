"""What the tasks with liquids share, so that each of them is a scene and an objective on one screen.

    class Spill(FluidTask):
        Config = SpillConfig                        a FluidConfig and the numbers of the scene

        def scene(self):                            groups by self.still(…) and self.jet(…)
            return MPMModel(Grid(…), [self.still("water", law, Box(…), position)], colliders=[cup])

        def motions(self):                          what the actions move, and how far
            return (Axis("cup", "pitch", limit=2.0, low=-0.2, high=2.0),)

        def terms(self, state, t):                  what the objective adds up, each (B,)
            return {"lost": …}

        def metrics(self, state): …                 in physical units
        def success(self, state): …

Inherited are the hydrostatic start, stops with a cost (`axes`), the target recorded from `script`,
the comparison of clouds, seeds, observations and pictures.

Liquids are weakly compressible with a reduced bulk modulus K: sound travels at c = √(K/ρ), pressure of
depth h compresses by g h/c², flow of speed u changes the density by (u/c)². Substeps are near dx/(2 c),
so each task picks the lowest c that keeps both at a few per cent.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.errors import InputError
from ...sim.core.laws import Law
from ...sim.core.laws.liquid import WeaklyCompressible
from ...sim.core.rotations import rotate_inverse
from ...sim.core.sampling import sample_shape
from ...sim.core.shape_base import Shape
from ...sim.mpm import Emitter, Group, MPMConfig, MPMControl, MPMModel, MPMState, SolverMPM
from ..axes import Axis, AxisTask
from .losses import chamfer, sinkhorn, squared_distance
from .measures import Cells, density_mismatch

__all__ = ["Axis", "FluidConfig", "FluidTask"]

OBJECTIVES = ("index", "chamfer", "sinkhorn", "density")
GRAVITY = 9.81
"""[m/s²]."""


@dataclasses.dataclass(frozen=True)
class FluidConfig:
    """Fields that every task with liquids has."""

    horizon: int = 60
    """Actions per episode."""
    dx: float = 6.25e-3
    """Grid spacing [m]."""
    spacing: float = 4e-3
    """Mean distance of particles at the start [m]; dx/1.6 gives four particles per cell."""
    dt: float = 5e-4
    """Substep [s]; about half of what sound allows, see the module docstring."""
    substeps: int = 10
    """Substeps per action."""
    objective: str = "index"
    """How clouds are compared with a recorded target: "index" (the same particles), "chamfer",
    "sinkhorn" or "density"; tasks without such a target do not read it."""
    blur: float = 0.01
    """Details below this are not compared [m]: √ε of "sinkhorn", spacing of "density"."""
    settle: float = 0.05
    """Time for which liquids are damped to rest before the first use [s]."""
    jitter: float = 0.0
    """Random change of the start [m]: seeds other than 0 move driven tools along their axes, and rigid
    bodies along the floor, by up to this; 0 starts every seed alike."""
    variation: float = 0.0
    """Standard deviation of the logarithm of viscosities, consistencies and yield stresses [-]; one
    draw per task object, by `variation_seed`."""
    variation_seed: int = 0
    """Seed of `variation`."""


class FluidTask(AxisTask[MPMState]):
    """Base of tasks with liquids in the MPM; the module docstring says what a subclass gives.

    Raises:
        InputError: a configuration that does not describe a scene.
    """

    config: Any
    goal: tuple[str, ...] = ()
    """Groups whose motion under `script` is the target."""
    view: tuple[int, ...] = (4, 4, 2)
    """Coarse cells along each axis in which observations sum up the particles."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        c = self.config
        if c.objective not in OBJECTIVES:
            raise InputError(
                f"{type(self).__name__}: objective out of {OBJECTIVES}; got {c.objective!r}. "
                "Choose one."
            )
        if c.horizon < 1 or c.jitter < 0 or c.variation < 0:
            raise InputError(
                f"{type(self).__name__}: horizon ≥ 1, jitter ≥ 0 and variation ≥ 0; got "
                f"{c.horizon}, {c.jitter} and {c.variation}. Correct them."
            )
        self._at_rest: dict[str, Tensor] = {}
        self.model = self.scene()
        self.solver = SolverMPM(self.model, MPMConfig(dt=c.dt, substeps=c.substeps))
        self.slices = self.model.slices()
        self._drive(self.motions(), [tool.name for tool in self.model.colliders])
        self._rest: MPMState | None = None
        self._target: Tensor | None = None

    @abc.abstractmethod
    def scene(self) -> MPMModel:
        """Grid, groups, colliders and walls."""

    @abc.abstractmethod
    def motions(self) -> tuple[Axis, ...]:
        """What the actions move, and how far."""

    def still(
        self,
        name: str,
        law: Law,
        shape: Shape,
        position: Sequence[float],
        *,
        surface: float | None = None,
        holes: Sequence[Collider] = (),
        dim: int = 3,
        spacing: float | None = None,
    ) -> Group:
        """Liquid at rest: particles on a lattice, compressed by what lies above them.

        Args:
            name: Of the group.
            law: Its material, a liquid; others are placed without compression.
            shape: Region to fill.
            position: Of the shape's origin [m].
            surface: Height of the free surface [m]; default the top of the shape.
            holes: Colliders that are left free.
            dim: 2 or 3.
            spacing: Of particles [m]; default that of the configuration.
        """
        x, volume = sample_shape(
            shape, spacing or self.config.spacing, position=position, dim=dim, dtype=torch.float64
        )
        for tool in holes:
            points = x if dim == 3 else torch.stack((x[:, 0], 0 * x[:, 0], x[:, 1]), -1)
            turn = x.new_tensor(tool.orientation)
            local = rotate_inverse(turn, points - x.new_tensor(tool.position))
            free = tool.shape.signed_distance(local)[0] > 0
            x = x[~free if tool.inverted else free]
        if not isinstance(law, WeaklyCompressible):
            return Group(name, law, x, volume)
        top = position[-1] + shape.bounds()[1][2] if surface is None else surface
        values = law.values(None)
        weight = values["rho"] * GRAVITY * (top - x[:, -1]).clamp(min=0)
        ratio = weight / values["bulk"]
        if law.eos == "tait":
            J = (1 + values["gamma"] * ratio) ** (-1 / values["gamma"])
        else:
            J = 1 - ratio
        self._at_rest[name] = J
        # The volume of now is what fills the vessel; the rest volume is larger by 1/J.
        return Group(name, law, x, volume / J)

    def jet(
        self,
        name: str,
        law: Law,
        *,
        velocity: Sequence[float],
        radius: float,
        duration: float,
        spacing: float,
        position: Sequence[float] = (0.0, 0.0, 0.0),
        tool: str = "",
        start: float = 0.0,
    ) -> Group:
        """Liquid that enters through an opening: as many particles as flow through it.

        The flow is π r² v (2-D: 2 r v), so the rate of particles of volume spacing^D follows.

        Args:
            name: Of the group.
            law: Its material.
            velocity: At the exit [m/s], in the frame of the tool.
            radius: Of the opening [m].
            duration: How long it flows [s].
            spacing: Of particles in the jet [m].
            position: Of the opening [m], in the frame of the tool.
            tool: Collider that carries it.
            start: When it begins [s].
        """
        D = len(velocity)
        area = math.pi * radius**2 if D == 3 else 2 * radius
        rate = area * math.hypot(*velocity) / spacing**D
        count = max(1, round(rate * duration))
        x = torch.zeros(count, D, dtype=torch.float64)
        emitter = Emitter(tuple(position), tuple(velocity), radius, rate, start=start, tool=tool)
        return Group(name, law, x, spacing**D, emitter=emitter)

    def reset(
        self,
        *,
        batch_size: int = 1,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> MPMState:
        """The settled scene, B times; with `jitter` and a seed other than 0, changed by the seed."""
        if self._rest is None:
            self._rest = self._settle()
        state = self._rest
        if self.config.jitter and seed:
            state = self.randomize(state.to(torch.float64), torch.Generator().manual_seed(seed))
        state = state.to(dtype=dtype, device=device)
        return state.repeat(batch_size)

    def randomize(self, state: MPMState, generator: torch.Generator) -> MPMState:
        """State (B = 1, float64) with driven tools and rigid bodies elsewhere, see `jitter`."""
        pose = state.tool_pose.clone()

        def change() -> float:
            unit = float(torch.rand((), generator=generator, dtype=torch.float64))
            return self.config.jitter * (2 * unit - 1)

        for axis, tool in zip(self.axes, self._tools, strict=True):
            if axis.slot < 3:
                pose[:, tool, axis.slot] += change()
        for body in self.model.bodies.index:
            for slot in (0, 1) if self.model.dim == 3 else (0,):
                pose[:, body, slot] += change()
        return state.replace(tool_pose=pose)

    @torch.no_grad()
    def _settle(self) -> MPMState:
        """Remove the noise of sampling: run at rest with closed jets, losing speed at each step."""
        closed = [
            g
            if g.emitter is None
            else dataclasses.replace(g, emitter=dataclasses.replace(g.emitter, start=1e3))
            for g in self.model.groups
        ]
        model = dataclasses.replace(self.model, groups=closed)
        solver = SolverMPM(model, self.solver.config)
        first = state = self.model.initial_state()
        J = state.J.clone()
        for name, part in self.model.storage_slices()["J"].items():
            if name in self._at_rest:
                J[:, part] = self._at_rest[name].to(J)
        state = state.replace(J=J)
        prepared = solver.prepare(None, state)
        for _ in range(math.ceil(self.config.settle / solver.step_time)):
            state = solver.step(state, None, prepared)
            state = state.replace(v=0.8 * state.v, C=0.8 * state.C)
        return state.replace(
            v=first.v,
            C=torch.zeros_like(state.C),
            tool_pose=first.tool_pose,
            body_twist=first.body_twist,
            substep=0,
        )

    def params(self) -> Any:
        """Materials with their random `variation`; None without."""
        c = self.config
        if not c.variation:
            return None
        generator = torch.Generator().manual_seed(c.variation_seed)
        drawn: dict[str, dict[str, float]] = {}
        for group in self.model.groups:
            values = group.law.parameters()
            for name in ("eta", "K", "yield_stress"):
                if name in values and isinstance(group.law, WeaklyCompressible):
                    factor = math.exp(c.variation * float(torch.randn((), generator=generator)))
                    drawn.setdefault(group.name, {})[name] = factor * float(values[name])
        return drawn

    def poses(self, state: MPMState) -> Tensor:
        return state.tool_pose

    def with_twist(self, twist: Tensor) -> MPMControl:
        return MPMControl(tool_twist=twist)

    def born(self, name: str, substep: int) -> int:
        """How many particles of a group have entered before a substep; all without emitter."""
        births = self.solver.births[self.slices[name]]
        poured = any(g.name == name for g in self.model.emitters())
        return int((births < substep).sum()) if poured else len(births)

    def script(self) -> Tensor:
        """Actions (T, A) whose outcome is the target."""
        raise NotImplementedError

    @torch.no_grad()
    def target(self) -> Tensor:
        """Positions of the `goal` groups after each scripted action [m], (T, n, D), recorded once."""
        if self._target is None:
            frames: list[Tensor] = []
            spent, device = self.simulated_steps, self.device or "cpu"
            self.rollout(
                self.script().to(device),
                save_every=self.horizon,
                on_step=lambda t, s: frames.append(self._of_goal(s)[0].clone()),
            )
            self.simulated_steps, self._target = spent, torch.stack(frames)
        return self._target

    def _of_goal(self, state: MPMState) -> Tensor:
        return torch.cat([state.x[:, self.slices[name]] for name in self.goal], 1)

    def clouds(self, state: MPMState, t: int) -> tuple[Tensor, Tensor] | None:
        """Goal groups and their target after action t, both (B, n, D); None before any has entered."""
        rows = []
        start = 0
        for name in self.goal:
            count = self.slices[name].stop - self.slices[name].start
            rows.append(torch.arange(start, start + self.born(name, state.substep)))
            start += count
        index = torch.cat(rows)
        if not len(index):
            return None
        x, y = self._of_goal(state), self.target()[t].to(state.x)
        index = index.to(x.device)
        return x[:, index], y[index].expand(x.shape[0], -1, -1)

    def mismatch(self, state: MPMState, t: int, length: float) -> Tensor:
        """How far the goal groups are from the target after action t, by `objective`, (B,).

        Squared distances are in units of `length` [m] and weighted by the share that has entered.
        """
        pair = self.clouds(state, t)
        if pair is None:
            return torch.zeros_like(state.x[:, 0, 0])
        (x, y), c = pair, self.config
        share = x.shape[1] / sum(self.slices[g].stop - self.slices[g].start for g in self.goal)
        if c.objective == "density":
            grid = self.model.grid
            return share * density_mismatch(x, y, Cells.over(grid.lower, grid.upper, c.blur))
        if c.objective == "sinkhorn":
            return share * sinkhorn(x, y, c.blur**2) / length**2
        return share * (chamfer if c.objective == "chamfer" else squared_distance)(x, y) / length**2

    def observation(self, state: MPMState) -> Tensor:
        """What a policy sees, (B, O): time, places of the driven axes, poses and velocities of rigid
        bodies, and of each group, in coarse cells that overlap linearly, its share and mean velocity.

        Differentiable in the state.
        """
        grid, x = self.model.grid, state.x
        end = self.horizon * self.substeps
        parts = [torch.full_like(x[:, :1, 0], state.substep / end), self.places(state)]
        if state.body_twist is not None:
            parts += [state.tool_pose[:, self.model.bodies.index].flatten(1)]
            parts += [state.body_twist.flatten(1)]
        counts = self.view if len(self.view) == grid.dim else (self.view[0], self.view[-1])
        for name, part in self.slices.items():
            number = self.born(name, state.substep)
            place, v = (z[:, part][:, :number] for z in (x, state.v))
            weight = torch.ones_like(place[..., :1])
            for d, n in enumerate(counts):
                side = (grid.upper[d] - grid.lower[d]) / n
                middle = grid.lower[d] + (torch.arange(n).to(x) + 0.5) * side
                hat = (1 - (place[..., d : d + 1] - middle).abs() / side).clamp(min=0)
                weight = (weight.unsqueeze(-1) * hat.unsqueeze(-2)).flatten(-2)
            amount = weight.sum(1)
            flow = torch.einsum("bnc,bnd->bcd", weight, v) / (amount[..., None] + 1.0)
            parts += [amount / (part.stop - part.start), flow.flatten(1)]
        return torch.cat(parts, -1)

    def picture(self, state: MPMState, **options: Any) -> Any:
        """Scene for a renderer; containers (inverted colliders) are left out."""
        from ...viz import scene_from_state

        scene = scene_from_state(self.model, state.detach(), **options)
        pairs = zip(scene.tools, self.model.colliders, strict=True)
        scene.tools = [drawn for drawn, tool in pairs if not tool.inverted]
        return scene
