"""A cylinder that turns in a stream: calm its wake, or give it the lift of a plan.

    stream of 1 m/s, cylinder of 0.4 m, Re = ρ U D/η = 100:  vortices part from it about every 1.8 s
    action: angular velocity Ω of the cylinder, held for 0.2 s

`solver="mac"` plans in the flow solver (`MacFlowSolver`), `solver="network"` in a network trained on its
residual (`operators.stagger`), `solver="surrogate"` with states of the solver and derivatives of the
network, taken at those states. What one finds can be run in the others.

Source: Tokumaru & Dimotakis 1991 (control of a wake by rotation); Wandel et al. 2021, Huang et al. 2023
(control through networks trained without labels). Scene and numbers are ours.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...operators.stagger import StaggerSolver, load_solver
from ...sim.core.errors import InputError, message
from ...sim.core.state import State
from ...sim.grid.pdes.base import FieldControl, FieldState
from ...sim.grid.pdes.mac_flow import MacFlow2D
from ...sim.grid.pdes.mac_step import MacFlowSolver, body_force
from ..core import Task

__all__ = [
    "Cylinder",
    "CylinderConfig",
    "CylinderLift",
    "CylinderLiftNano",
    "CylinderNano",
    "WakeState",
]
__all__ += ["LiftConfig"]

SOLVERS = ("mac", "network", "surrogate")
FREE: dict[tuple, Tensor] = {}
"""What `Cylinder.free` gave for the latest scene."""
KICK, KICK_TIME = 3.0, 1.5
"""Angular velocity [rad/s] and time [s] by which shedding is started: alone it would take far longer."""


@dataclasses.dataclass
class WakeState(State):
    """A flow and what is measured of it."""

    u: Tensor
    """Stream function [m²/s] and pressure [Pa], (B, 2, *cells)."""
    force: Tensor
    """Drag and lift in the mean over the last action [N/m], (B, 2)."""
    wake: Tensor
    """Mean v_z² behind the cylinder over the last action [m²/s²], (B,)."""
    off: Tensor
    """∫ (lift − plan)² dt since the start [N² s/m²], (B,)."""
    spin: Tensor
    """Ω of the last action [rad/s], (B,)."""
    t: float = 0.0
    """Time [s]."""


@dataclasses.dataclass(frozen=True)
class CylinderConfig:
    """Scene, numbers and criterion of `Cylinder`."""

    horizon: int = 24
    """Actions per episode; 4.8 s, between two and three periods of the vortices."""
    solver: str = "mac"
    """What steps: "mac", "network", or "surrogate": steps of the former, derivatives of the latter."""
    weights: str = "cylinder-64x32"
    """Name or file of the network (`operators.stagger.load_solver`), of this scene."""
    cells: tuple[int, int] = (64, 32)
    """Of the channel; 6.4 cells across the cylinder."""
    height: float = 2.0
    """Of the channel [m]; its sides move with the stream."""
    centre: tuple[float, float] = (0.8, 1.0)
    """Of the cylinder [m]."""
    radius: float = 0.2
    """Of the cylinder [m]."""
    speed: float = 1.0
    """Of the stream [m/s]."""
    rho: float = 1.0
    """Density [kg/m³]."""
    eta: float = 4e-3
    """Viscosity [Pa s]; Re = 100."""
    dt: float = 0.05
    """Fine step [s]."""
    substeps: int = 4
    """Fine steps per action."""
    limit: float = 4.0
    """Largest |Ω| [rad/s]; the surface then moves at 0.8 m/s."""
    settle: float = 5.0
    """Time before the start [s]."""
    phases: int = 36
    """Fine steps after that from which seeds choose a start; one period."""
    effort: float = 0.01
    """Cost of (Ω/limit)² [-]."""
    share: float = 0.5
    """Success: share of the free wake's v_z² that may be left [-]."""


class Flow:
    """A solver of fine steps that makes `substeps` of them and measures.

    Args:
        task: whose scene it is.
        mac: steps, or
        network: steps; both: the states of mac with the derivatives of network at them.
    """

    def __init__(
        self, task: Cylinder, mac: MacFlowSolver | None = None, network: StaggerSolver | None = None
    ) -> None:
        self.task, self.mac, self.network, self.config = task, mac, network, task.config

    @property
    def step_time(self) -> float:
        """Duration of one action [s]."""
        return self.config.dt * self.config.substeps

    def frames(self, u: Tensor, context: Tensor) -> Tensor:
        """The next `substeps` states (B, T, 2, *cells)."""
        found: list[Tensor] = []
        while sum(f.shape[1] for f in found) < self.config.substeps:
            last = found[-1][:, -1] if found else u
            found.append(self._next(last, context))
        return torch.cat(found, 1)[:, : self.config.substeps]

    def _next(self, u: Tensor, context: Tensor) -> Tensor:
        """The next frames (B, T, 2, *cells), T of the network or 1."""
        if self.network is None:
            return self._solved(u, context, 1)
        guess = self.network(u, context)
        if self.mac is None:
            return guess
        with torch.no_grad():
            true = self._solved(u, context, guess.shape[1])
            # The network's frames have mean zero; constants have no meaning in either field.
            gap = true - true.mean((-2, -1), keepdim=True) - guess
        return guess + gap

    def _solved(self, u: Tensor, context: Tensor, count: int) -> Tensor:
        frames = [u]
        for _ in range(count):
            state = self.mac.step(FieldState(frames[-1]), None, {"forcing": context})
            frames.append(state.u)
        return torch.stack(frames[1:], 1)

    def step(self, state: WakeState, control: FieldControl, params: Any = None) -> WakeState:
        task, T = self.task, self.config.substeps
        context = control.forcing
        frames = torch.cat((state.u[:, None], self.frames(state.u, context)), 1)
        pairs = (frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1))
        force = body_force(task.flow, *pairs, context.repeat_interleave(T, 0)).unflatten(0, (-1, T))
        times = state.t + self.config.dt * torch.arange(1, T + 1).to(state.u)
        off = (force[..., 1] - task.plan(times)).square().sum(1) * self.config.dt
        return WakeState(
            u=frames[:, -1],
            force=force.mean(1),
            wake=task.wake(frames[:, 1:]),
            off=state.off + off,
            spin=task.spin_of(context),
            t=state.t + self.step_time,
        )


class Cylinder(Task[WakeState]):
    """Calm the wake of a cylinder by turning it."""

    Config: type = CylinderConfig
    config: CylinderConfig
    action_size = 1
    action_unit = "rad/s"
    search_defaults = {"gradient": {"expand": False, "lr": 0.2}, "cma": {"population": 8}}

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        c = self.config
        if c.solver not in SOLVERS:
            got, fix = c.solver, "Choose one"
            raise InputError(message(type(self).__name__, f"solver out of {SOLVERS}", got, fix))
        self.flow = MacFlow2D(c.cells, c.height / c.cells[1], c.dt, c.rho, c.eta)
        self.mac = MacFlowSolver(self.flow)
        self.action_limit = torch.tensor([c.limit])
        self._context, self._turn = self._scenes()
        network: StaggerSolver | None = None
        if c.solver != "mac":
            fix = "Train one with benchmarks/stagger_cylinder.py --train"
            try:
                network = load_solver(c.weights)
            except FileNotFoundError as error:
                expected = "weights: a file, or a name that ships"
                text = message(type(self).__name__, expected, repr(c.weights), fix)
                raise InputError(text) from error
            if network.channels != 2 or network.context != 3 or not math.isclose(network.dt, c.dt):
                expected = f"a network of stream function and pressure with dt = {c.dt:g} s"
                sizes = f"{network.channels} channels, {network.context} of context"
                got = f"{sizes}, dt = {network.dt:g} s"
                raise InputError(message(type(self).__name__, expected, got, fix))
        self.solver = Flow(self, None if c.solver == "network" else self.mac, network)

    def _scenes(self) -> tuple[Tensor, Tensor]:
        """Context of the cylinder at rest, and what 1 rad/s adds, (1, 3, *cells)."""
        c, one = self.config, torch.full((1,), self.config.speed, dtype=torch.float64)
        rest, turns = (self.flow.channel(one, c.centre, c.radius, w)[1] for w in (0.0, 1.0))
        return rest, turns - rest

    def context(self, spin: Tensor) -> Tensor:
        """Context (B, 3, *cells) of cylinders that turn at Ω (B,) [rad/s]. Differentiable in spin."""
        return self._context.to(spin) + spin.view(-1, 1, 1, 1) * self._turn.to(spin)

    def spin_of(self, context: Tensor) -> Tensor:
        """Ω (B,) [rad/s] of contexts that `context` made."""
        turn = self._turn.to(context)
        change = (context - self._context.to(context)) * turn
        return change.flatten(1).sum(1) / turn.square().sum()

    def wake(self, frames: Tensor) -> Tensor:
        """Mean v_z² [m²/s²] of frames (B, T, 2, *cells) in a window behind the cylinder, (B,)."""
        c, h = self.config, self.flow.dx
        v = self.flow.velocity(frames.flatten(0, 1))[:, 1].unflatten(0, frames.shape[:2])
        x = [round((c.centre[0] + k * c.radius) / h) for k in (2, 10)]
        z = [round((c.centre[1] + k * c.radius) / h) for k in (-2.5, 2.5)]
        return v[..., x[0] : min(x[1], c.cells[0] - 2), z[0] : z[1]].square().mean((1, 2, 3))

    def plan(self, t: Tensor) -> Tensor:
        """Wanted lift [N/m] at times; of no weight here."""
        return torch.zeros_like(t)

    @torch.no_grad()
    def free(self) -> Tensor:
        """States of the flow past the cylinder at rest, one period of vortices, (phases, 2, *cells)."""
        c = self.config
        key = (
            c.cells,
            c.height,
            c.centre,
            c.radius,
            c.speed,
            c.rho,
            c.eta,
            c.dt,
            c.settle,
            c.phases,
        )
        if key not in FREE:
            start, _ = self.flow.channel(torch.tensor([c.speed]), c.centre, c.radius)
            state, kept = self.mac.initial_state(start), []
            for k in range(round(c.settle / c.dt) + c.phases):
                kick = KICK if k * c.dt < min(KICK_TIME, 0.5 * c.settle) else 0.0
                context = self.context(torch.tensor([kick]))
                state = self.mac.step(state, None, {"forcing": context})
                kept.append(state.u)
            # The network's frames have mean zero; constants have no meaning in either field.
            frames = torch.cat(kept[-c.phases :])
            FREE.clear()
            FREE[key] = frames - frames.mean((-2, -1), keepdim=True)
        return FREE[key]

    def free_wake(self) -> float:
        """Mean of v_z² behind the cylinder at rest [m²/s²]."""
        return float(self.wake(self.free()[None])[0])

    def reset(
        self,
        *,
        batch_size: int = 1,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> WakeState:
        free = self.free()
        phase = int(torch.randint(len(free), (), generator=torch.Generator().manual_seed(seed)))
        u = free[phase if seed else 0].to(device, dtype).expand(batch_size, -1, -1, -1).clone()
        zero = u.new_zeros(batch_size)
        wake = self.wake(u[:, None])
        return WakeState(u, u.new_zeros(batch_size, 2), wake, zero, zero.clone())

    def control(self, state: WakeState, action: Tensor) -> FieldControl:
        return FieldControl(self.context(action[:, 0].to(state.u)))

    def loss(self, state: WakeState, t: int) -> Tensor:
        """v_z² of the wake against that of the free one, and effort, (B,)."""
        effort = self.config.effort * (state.spin / self.config.limit).square()
        return state.wake / self.free_wake() + effort

    def success(self, state: WakeState) -> Tensor:
        return state.wake <= self.config.share * self.free_wake()

    def metrics(self, state: WakeState) -> dict[str, Tensor]:
        """Share of the free wake [-], drag and lift [N/m]."""
        share = state.wake.detach() / self.free_wake()
        drag, lift = state.force.detach().unbind(1)
        return {"wake": share, "drag": drag, "lift": lift}

    def observation(self, state: WakeState) -> Tensor:
        """Velocities in 8 × 4 windows, forces and Ω, (B, 67)."""
        v = self.flow.velocity(state.u)[..., :-1, :-1]
        means = F.adaptive_avg_pool2d(v, (8, 4)).flatten(1)
        return torch.cat((means, state.force, state.spin[:, None]), 1)


@dataclasses.dataclass(frozen=True)
class LiftConfig(CylinderConfig):
    """Scene, numbers and criterion of `CylinderLift`."""

    amplitude: float = 0.2
    """Of the wanted lift [N/m]; four times that of the free vortices."""
    period: float = 2.4
    """Of the wanted lift [s]; not that of the vortices."""
    share: float = 0.25
    """Success: root mean square of lift − plan over that of the plan [-]."""


class CylinderLift(Cylinder):
    """Turn a cylinder so that its lift follows a sine."""

    Config = LiftConfig
    config: LiftConfig

    def plan(self, t: Tensor) -> Tensor:
        """Wanted lift [N/m] at times."""
        return self.config.amplitude * torch.sin(2 * math.pi * t / self.config.period)

    def loss(self, state: WakeState, t: int) -> Tensor:
        """Mean of (lift − plan)² since the start over half the plan's amplitude², and effort, (B,)."""
        effort = self.config.effort * (state.spin / self.config.limit).square()
        return self.miss(state).square() + effort

    def miss(self, state: WakeState) -> Tensor:
        """Root mean square of lift − plan since the start over that of the plan [-], (B,)."""
        power = 0.5 * self.config.amplitude**2 * max(state.t, self.config.dt)
        return (state.off / power + 1e-12).sqrt()

    def success(self, state: WakeState) -> Tensor:
        return (self.miss(state) <= self.config.share) & (state.t > 0)

    def metrics(self, state: WakeState) -> dict[str, Tensor]:
        """Those of `Cylinder`, and miss [-]."""
        return super().metrics(state) | {"miss": self.miss(state).detach()}


@dataclasses.dataclass(frozen=True)
class CylinderNanoConfig(CylinderConfig):
    """`CylinderConfig` at half the resolution, where nothing sheds; for tests."""

    horizon: int = 4
    cells: tuple[int, int] = (28, 20)
    eta: float = 1e-2
    dt: float = 0.04
    substeps: int = 2
    settle: float = 0.4
    phases: int = 4


class CylinderNano(Cylinder):
    """`Cylinder` for tests."""

    Config = CylinderNanoConfig


@dataclasses.dataclass(frozen=True)
class CylinderLiftNanoConfig(LiftConfig, CylinderNanoConfig):
    """`LiftConfig` at half the resolution, for tests."""

    horizon: int = 4
    cells: tuple[int, int] = (28, 20)
    eta: float = 1e-2
    dt: float = 0.04
    substeps: int = 2
    settle: float = 0.4
    phases: int = 4


class CylinderLiftNano(CylinderLift):
    """`CylinderLift` for tests."""

    Config = CylinderLiftNanoConfig
