"""Gathering: a paddle drives the water of a pool so that a floating body drifts to a target.

    ℓ(x) = ‖c − x*‖² / ‖c₀ − x*‖² + Σ (e/e₀)²

c is the mean horizontal position of the body, x* the target, e how far the paddle is beyond its allowed
travel. The travel ends short of the target, so waves and currents have to carry the body the rest of
the way, and to stop it there. Mechanical stops alone would do for a machine; to a gradient they are a
wall behind which no action matters, so the travel is enforced by its cost, and the stops come later.

Water is weakly compressible. With the speed of sound c, the pressure of depth h compresses it by
g h/c², and flow of speed u changes its density by (u/c)²; the default bulk modulus of 0.1 MPa
(c = 10 m/s) gives 2 % at the bottom of 0.2 m of water, 1 % on average, and c is 20 times the speed
of the fastest paddle.
Its viscosity is the real one, far below the dissipation of the grid.

Source: Xian et al. 2023 (FluidLab), task Gathering; scene, loss and success are our own, in SI units.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.errors import InputError
from ...sim.core.laws import FixedCorotated, Liquid
from ...sim.core.sampling import sample_shape
from ...sim.core.shapes import Box
from ...sim.mpm import Grid, Group, MPMConfig, MPMControl, MPMModel, MPMState, SolverMPM
from ..core import Task

__all__ = ["Gathering", "Gathering3D", "GatheringConfig", "GatheringNano"]


@dataclasses.dataclass(frozen=True)
class GatheringConfig:
    """Scene, numbers and criterion of `Gathering`. Lengths are along (x, y, z); 2-D ignores y."""

    dim: int = 2
    """2: the plane (x, z), one metre deep; 3: the full pool."""
    horizon: int = 60
    """Actions per episode; 1.5 s, one period of the first standing wave of the tank."""
    dx: float = 0.025
    """Grid spacing [m]; 8 cells of water depth, a rollout within a second."""
    dt: float = 1.25e-3
    """Substep [s]; half of what sound allows at the default spacing."""
    substeps: int = 20
    """Substeps per action; an action lasts 25 ms."""
    tank: tuple[float, float, float] = (1.0, 0.5, 0.5)
    """Inner size of the tank [m]."""
    depth: float = 0.2
    """Depth of the water [m]."""
    bulk: float = 1e5
    """Bulk modulus of the water [Pa]; see the module docstring."""
    eta: float = 1e-3
    """Viscosity of the water [Pa s]."""
    body: tuple[float, float, float] = (0.1, 0.1, 0.1)
    """Side lengths of the floating block [m]."""
    body_rho: float = 400.0
    """Density of the block [kg/m³]; like balsa or light foam, so it floats 40 % submerged."""
    body_E: float = 3e4
    """Young's modulus of the block [Pa]; visibly elastic, and no stiffer than the water."""
    start: tuple[float, float] = (0.35, 0.25)
    """Horizontal start of the block's center (x, y) [m]."""
    target: tuple[float, float] = (0.55, 0.25)
    """Horizontal target of the block's center (x, y) [m]."""
    tolerance: float = 0.025
    """The task is solved when the block ends this close to the target [m]; a quarter of its side."""
    paddle: tuple[float, float, float] = (0.05, 0.3, 0.3)
    """Side lengths of the paddle [m]; two cells thick, so that water cannot leak through it."""
    paddle_start: tuple[float, float, float] = (0.15, 0.25, 0.2)
    """Start of the paddle's center [m]; 5 cm of water remain below it."""
    travel: tuple[float, float, float] = (0.25, 0.1, 0.2)
    """Allowed travel of the paddle from its start [m]: forward along x, to either side along y, up
    along z. To leave it costs (excess/overrun)² per step."""
    overrun: float = 0.05
    """Where mechanical stops end all motion, beyond `travel` [m]."""
    axes: str = "x"
    """Axes that the actions move: "x", "xz", and in 3-D "xy" or "xyz"."""
    speed: float = 0.5
    """Largest paddle velocity per axis [m/s]; a third of the speed of long waves, √(g h)."""
    friction: float = 0.1
    """Coulomb friction of the paddle [-]."""
    softness: float = 100.0
    """Softness of the paddle's contact [1/m]: it acts from 4 cm on. 0 is hard contact."""
    agitation: float = 0.0
    """Speed of a seeded random slosh at the start [m/s]; 0 starts every seed from still water."""
    settle: float = 0.6
    """Time for which the pool is damped to rest before its first use [s]."""


class Gathering(Task[MPMState]):
    """Move a floating block to a target by moving the water around it.

    Actions are velocities [m/s] of the paddle along `axes`, each held for `dt · substeps`.

    Raises:
        InputError: on a configuration that does not describe a scene.
    """

    Config = GatheringConfig

    def __init__(self, config: GatheringConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        _check(c)
        self.action_size = len(c.axes)
        self.action_limit = torch.full((self.action_size,), float(c.speed))
        flat = [0, 1, 2] if c.dim == 3 else [0, 2]
        self._axes = ["xyz".index(a) for a in c.axes]
        self._horizontal = len(flat) - 1
        tank = tuple(c.tank[a] for a in flat)
        self.model = MPMModel(
            Grid((0.0,) * c.dim, tank, c.dx),
            self._groups(),
            colliders=[
                Collider(
                    Box(tuple(0.5 * s for s in c.paddle)),
                    position=_lifted(c.paddle_start, c.dim),
                    friction=c.friction,
                    softness=c.softness,
                    name="paddle",
                )
            ],
        )
        self.solver = SolverMPM(self.model, MPMConfig(dt=c.dt, substeps=c.substeps))
        self._body, self._water = self.model.slices().values()
        self._settled: MPMState | None = None

    def _groups(self) -> list[Group]:
        """Water in hydrostatic balance around the paddle and the block, and the block afloat."""
        c = self.config
        generator = torch.Generator().manual_seed(0)
        law = Liquid(rho=1000.0, bulk=c.bulk, eta=c.eta)
        spacing = 0.5 * c.dx
        basin = Box((0.5 * c.tank[0], 0.5 * c.tank[1], 0.5 * c.depth))
        middle = (0.5 * c.tank[0], 0.5 * c.tank[1], 0.5 * c.depth)
        x, volume = sample_shape(
            basin,
            spacing,
            position=_lifted(middle, c.dim),
            mode="poisson",
            generator=generator,
            dim=c.dim,
            dtype=torch.float64,
        )
        # Afloat, the block displaces its weight: its submerged share is the density ratio.
        sunk = c.body_rho / law.rho * c.body[2]
        center = (*c.start, c.depth - sunk + 0.5 * c.body[2])
        free = torch.ones(len(x), dtype=torch.bool)
        for size, position in ((c.body, center), (c.paddle, c.paddle_start)):
            place = x.new_tensor(_lifted(position, c.dim))
            points = x if c.dim == 3 else torch.stack((x[:, 0], 0 * x[:, 0], x[:, 1]), -1)
            free &= Box(tuple(0.5 * s for s in size)).signed_distance(points - place)[0] > 0
        x = x[free]
        body, body_volume = sample_shape(
            Box(tuple(0.5 * s for s in c.body)),
            spacing,
            position=_lifted(center, c.dim),
            dim=c.dim,
            dtype=torch.float64,
        )
        solid = FixedCorotated(rho=c.body_rho, E=c.body_E, nu=0.2)
        # The volume of now is what fills the pool; the rest volume is larger by 1/J.
        return [
            Group("body", solid, body, body_volume),
            Group("water", law, x, volume / self._hydrostatic(x[:, -1])),
        ]

    def _hydrostatic(self, z: Tensor) -> Tensor:
        """Volume ratio under the weight of the water above, J = (1 + γ ρ g (h − z)/K)^(−1/γ)."""
        c, gamma = self.config, 7.0
        pressure = 1000.0 * 9.81 * (c.depth - z).clamp(min=0)
        return (1 + gamma * pressure / c.bulk) ** (-1 / gamma)

    def reset(
        self,
        *,
        batch_size: int = 1,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> MPMState:
        """The settled pool, B times; with `agitation`, plus a slosh drawn from the seed."""
        if self._settled is None:
            self._settled = self._settle()
        state = self._settled.to(dtype=dtype, device=device)
        if self.config.agitation:
            state = state.replace(v=state.v + self._slosh(state.x, seed))
        return state.repeat(batch_size)

    @torch.no_grad()
    def _settle(self) -> MPMState:
        """Remove the noise of sampling: run at rest, losing a share of the velocity each step."""
        state = self.model.initial_state()
        J = self._hydrostatic(state.x[:, self._water, -1])
        state = state.replace(J=J)
        prepared = self.solver.prepare(None, state)
        for _ in range(math.ceil(self.config.settle / self.solver.step_time)):
            state = self.solver.step(state, None, prepared)
            state = state.replace(v=0.8 * state.v, C=0.8 * state.C)
        return state.replace(v=torch.zeros_like(state.v), C=torch.zeros_like(state.C), substep=0)

    def _slosh(self, x: Tensor, seed: int) -> Tensor:
        """Velocity of the first three standing waves of the tank, with random amplitudes [m/s].

        u = −A sin(kx) cosh(kz)/cosh(kh),  w = A cos(kx) sinh(kz)/cosh(kh),  k = nπ/L: free of
        divergence and tangential to bottom and end walls.
        """
        c = self.config
        generator = torch.Generator().manual_seed(seed)
        amplitude = c.agitation * torch.randn(3, generator=generator, dtype=torch.float64)
        v = torch.zeros_like(x)
        for n, A in enumerate(amplitude.tolist(), 1):
            k = n * math.pi / c.tank[0]
            A /= math.cosh(k * c.depth)
            v[..., 0] -= A * torch.sin(k * x[..., 0]) * torch.cosh(k * x[..., -1])
            v[..., -1] += A * torch.cos(k * x[..., 0]) * torch.sinh(k * x[..., -1])
        return v

    def _range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Allowed positions of the paddle's center [m], two of shape (3,)."""
        first, travel = like.new_tensor(self.config.paddle_start), like.new_tensor(self.config.travel)
        return first - travel * travel.new_tensor((0.0, 1.0, 0.0)), first + travel

    def control(self, state: MPMState, action: Tensor) -> MPMControl:
        """Twist of the paddle for an action (B, A) [m/s], cut at the mechanical stops."""
        time, overrun = self.solver.step_time, self.config.overrun
        low, high = self._range(action)
        place = state.tool_pose[:, 0, :3]
        columns = [torch.zeros_like(action[:, 0])] * 6
        for k, axis in enumerate(self._axes):
            here = place[:, axis]
            there = (here + time * action[:, k]).clamp(low[axis] - overrun, high[axis] + overrun)
            columns[axis] = (there - here) / time
        return MPMControl(tool_twist=torch.stack(columns, -1).unsqueeze(1))

    def _excess(self, state: MPMState) -> Tensor:
        """How far the paddle is outside its allowed travel [m], (B, A)."""
        low, high = self._range(state.x)
        place = state.tool_pose[:, 0, :3]
        excess = (low - place).clamp(min=0) + (place - high).clamp(min=0)
        return excess[:, self._axes]

    def body_center(self, state: MPMState) -> Tensor:
        """Mean position of the block [m], (B, D); differentiable in the state."""
        return state.x[:, self._body].mean(1)

    def _offset(self, state: MPMState) -> Tensor:
        """Horizontal way from target to block [m], (B, D − 1)."""
        target = state.x.new_tensor(self.config.target[: self._horizontal])
        return self.body_center(state)[:, : self._horizontal] - target

    def loss(self, state: MPMState, t: int) -> Tensor:
        """ℓ of the module docstring, (B,). Differentiable in the state."""
        c = self.config
        first = sum(
            (a - b) ** 2 for a, b in zip(c.start[: self._horizontal], c.target, strict=False)
        )
        outside = (self._excess(state) / c.overrun).square().sum(-1)
        return self._offset(state).square().sum(-1) / first + outside

    def success(self, state: MPMState) -> Tensor:
        """Whether the block is within `tolerance` of the target, (B,) bool."""
        return self.metrics(state)["distance"] <= self.config.tolerance

    def metrics(self, state: MPMState) -> dict[str, Tensor]:
        """distance [m] to the target, height and speed [m, m/s] of the block, excess [m]
        of the paddle over its travel; (B,)."""
        state = state.detach()
        return {
            "distance": self._offset(state).norm(dim=-1),
            "height": self.body_center(state)[:, -1],
            "speed": state.v[:, self._body].mean(1).norm(dim=-1),
            "excess": self._excess(state).amax(-1),
        }

    def observation(self, state: MPMState) -> Tensor:
        """What a policy sees, (B, O): where the block is from the target and how fast; the paddle;
        and of the water in each of 8 columns along x its share and mean velocity.

        Differentiable in the state: columns overlap linearly.
        """
        c, columns = self.config, 8
        x, v = state.x[:, self._water], state.v[:, self._water]
        middle = (torch.arange(columns).to(x) + 0.5) * (c.tank[0] / columns)
        weight = (1 - (x[..., :1] - middle).abs() * (columns / c.tank[0])).clamp(min=0)
        amount = weight.sum(1)
        flow = torch.einsum("bnc,bnd->bcd", weight, v) / (amount[..., None] + 1.0)
        paddle = state.tool_pose[:, 0, :3] - x.new_tensor(c.paddle_start)
        parts = (
            self._offset(state),
            self.body_center(state)[:, -1:] - c.depth,
            state.v[:, self._body].mean(1),
            paddle[:, self._axes],
            amount * (columns / x.shape[1]),
            flow.flatten(1),
        )
        return torch.cat(parts, -1)


@dataclasses.dataclass(frozen=True)
class Gathering3DConfig(GatheringConfig):
    """`GatheringConfig` with the numbers of the 3-D pool."""

    dim: int = 3
    """The full pool."""
    dx: float = 0.05
    """Grid spacing [m]; 6 000 particles."""
    dt: float = 2.5e-3
    """Substep [s]."""
    substeps: int = 10
    """Substeps per action; an action lasts 25 ms as in 2-D."""
    body: tuple[float, float, float] = (0.15, 0.15, 0.15)
    """Side lengths of the floating block [m]; three cells."""
    paddle: tuple[float, float, float] = (0.1, 0.4, 0.3)
    """Side lengths of the paddle [m]; two cells thick."""
    paddle_start: tuple[float, float, float] = (0.15, 0.25, 0.2)
    """Start of the paddle's center [m]."""


class Gathering3D(Gathering):
    """`Gathering` in 3-D."""

    Config = Gathering3DConfig


@dataclasses.dataclass(frozen=True)
class GatheringNanoConfig(GatheringConfig):
    """`GatheringConfig` small enough for tests: a rollout takes a tenth of a second."""

    horizon: int = 32
    """Actions per episode; 0.8 s."""
    dx: float = 0.05
    """Grid spacing [m]; 4 cells of water depth."""
    dt: float = 2.5e-3
    """Substep [s]."""
    substeps: int = 10
    """Substeps per action."""
    body: tuple[float, float, float] = (0.15, 0.15, 0.15)
    """Side lengths of the floating block [m]; three cells."""
    paddle: tuple[float, float, float] = (0.1, 0.3, 0.3)
    """Side lengths of the paddle [m]; two cells thick."""
    target: tuple[float, float] = (0.5, 0.25)
    """Horizontal target of the block's center (x, y) [m]."""


class GatheringNano(Gathering):
    """`Gathering` for tests."""

    Config = GatheringNanoConfig


def _lifted(position: tuple[float, float, float], dim: int) -> tuple[float, float, float]:
    """The position, moved to the plane y = 0 of a 2-D scene."""
    return position if dim == 3 else (position[0], 0.0, position[2])


def _check(c: GatheringConfig) -> None:
    if c.dim not in (2, 3):
        raise InputError(f"Gathering: dim 2 or 3; got {c.dim}. Choose one.")
    allowed = ("x", "xz") if c.dim == 2 else ("x", "xz", "xy", "xyz")
    if c.axes not in allowed:
        raise InputError(
            f"Gathering: axes out of {allowed} for dim = {c.dim}; got {c.axes!r}. Choose one."
        )
    if c.paddle[0] < 2 * c.dx:
        raise InputError(
            f"Gathering: a paddle at least two cells thick, {2 * c.dx:.3g} m; got "
            f"{c.paddle[0]:.3g} m. Water leaks through a thinner one: raise paddle or lower dx."
        )
    if not 0 < c.body_rho < 1000:
        raise InputError(
            f"Gathering: body_rho between 0 and 1000 kg/m³; got {c.body_rho}. A denser body sinks."
        )
    if c.horizon < 1:
        raise InputError(f"Gathering: horizon ≥ 1; got {c.horizon}. Give a number of actions.")
