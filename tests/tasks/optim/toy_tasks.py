"""Analytic tasks whose optimum is known: cheap enough to run optimizers to their end."""

from __future__ import annotations

import dataclasses
import math

import torch
from rheograd.sim.core.errors import StateError
from rheograd.sim.core.state import State
from rheograd.tasks.core import Task
from torch import Tensor


@dataclasses.dataclass
class Point(State):
    """Points with velocity, (B, D) each; `touched` is a second body where a task has one."""

    x: Tensor
    v: Tensor
    touched: Tensor


class Integrator:
    """Calls back into the task: x' = f(x, a)."""

    def __init__(self, move) -> None:
        self.move = move

    def step(self, state, control=None, params=None):
        return self.move(state, control)


class Toy(Task[Point]):
    """Base: D numbers that start at 0, one substep per action."""

    width = 1

    def __init__(self, config=None) -> None:
        super().__init__(config)
        self.action_size = self.width
        self.action_limit = torch.ones(self.width)
        self.solver = Integrator(self.move)

    def reset(self, *, batch_size=1, seed=0, dtype=torch.float32, device="cpu"):
        zero = torch.zeros(batch_size, self.width, dtype=dtype, device=device)
        return Point(zero, zero, zero)

    def control(self, state, action):
        return action

    def move(self, state, action):
        return state.replace(x=state.x + action)

    def success(self, state):
        return self.metrics(state)["distance"] < 0.01


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    horizon: int = 25
    """Actions."""
    reach: float = 0.8
    """Largest action of the optimum; beyond 1 the limits bind."""


class Tracking(Toy):
    """Follow a path in 4-D: 100 actions, convex, smooth; loss 0 at `optimum` while reach < 1."""

    Config, width = TrackingConfig, 4

    def __init__(self, config=None) -> None:
        super().__init__(config)
        # Components of very different size of motion: badly conditioned, as trajectories are.
        generator = torch.Generator().manual_seed(5)
        raw = torch.rand(self.horizon, 4, generator=generator, dtype=torch.float64) * 2 - 1
        self.optimum = self.config.reach * raw / raw.abs().max()
        self.path = self.optimum.cumsum(0)

    def loss(self, state, t):
        return (state.x - self.path[t].to(state.x)).square().sum(-1)

    def metrics(self, state):
        return {"distance": (state.x - self.path[-1].to(state.x)).norm(dim=-1)}


@dataclasses.dataclass(frozen=True)
class ValleyConfig:
    horizon: int = 30
    """Actions."""
    ripple: float = 0.3
    """Height of local minima [-]."""


class Valley(Toy):
    """The mean of one action has many local minima before its goal 0.64, Rastrigin's function with
    period 0.2; the other action follows a smooth path in 30 dimensions.

    Gradients from rest stay in the first ripple; evolution leaves it but follows the path slowly.
    """

    Config, width = ValleyConfig, 2

    def __init__(self, config=None) -> None:
        super().__init__(config)
        generator = torch.Generator().manual_seed(7)
        self.path = (torch.rand(self.horizon, generator=generator) - 0.5).cumsum(0)

    def loss(self, state, t):
        away = 5 * (state.x[:, 0] / self.horizon - 0.64)
        hills = 0.4 * away.square() + self.config.ripple * (1 - torch.cos(2 * math.pi * away))
        last = float(self.horizon) if t == self.horizon - 1 else 0.0
        return last * hills + (state.x[:, 1] - self.path[t].to(state.x)).square()

    def metrics(self, state):
        return {"distance": (state.x[:, 0] / self.horizon - 0.64).abs()}


@dataclasses.dataclass(frozen=True)
class PushConfig:
    horizon: int = 12
    """Actions."""
    softness: float = 0.0
    """Contact exp(−softness · gap); 0: hard."""


class Push(Toy):
    """A finger at 0 and a block at 0.5 that has to be at 0.8; the finger can push, not pull.

    Soft contact carries the block along by the share exp(−softness · gap), hard contact only keeps it
    from being entered: while there is a gap, no action changes the loss.
    """

    Config = PushConfig

    def reset(self, *, batch_size=1, seed=0, dtype=torch.float32, device="cpu"):
        zero = torch.zeros(batch_size, 1, dtype=dtype, device=device)
        return Point(zero, zero, zero + 0.5)

    def move(self, state, action):
        x, touched, s = state.x + 0.1 * action, state.touched, self.config.softness
        if s:
            gap = (touched - x).clamp(min=0)
            touched = touched + torch.exp(-s * gap) * (0.1 * action).clamp(min=0)
        return state.replace(x=x, touched=torch.maximum(touched, x))

    def loss(self, state, t):
        return (state.touched[:, 0] - 0.8).square()

    def metrics(self, state):
        return {"distance": (state.touched[:, 0] - 0.8).abs()}

    def success(self, state):
        return self.metrics(state)["distance"] < 0.03


@dataclasses.dataclass(frozen=True)
class CartConfig:
    horizon: int = 30
    """Actions."""
    dt: float = 0.1
    """Time per action [s]."""
    spread: float = 1.0
    """Largest start, drawn from the seed [m]."""


class Cart(Toy):
    """A point mass pushed to the origin from a random start: ℓ = x² + 0.1 v²; x'' = 4 a.

    Linear and quadratic: a convex problem for each start.
    """

    Config = CartConfig

    def reset(self, *, batch_size=1, seed=0, dtype=torch.float32, device="cpu"):
        generator = torch.Generator().manual_seed(seed)
        start = self.config.spread * (0.4 + 0.6 * torch.rand(1, generator=generator))
        sign = 1.0 if torch.rand(1, generator=generator) < 0.5 else -1.0
        x = (sign * start).to(dtype=dtype, device=device).repeat(batch_size, 1)
        return Point(x, torch.zeros_like(x), torch.zeros_like(x))

    def move(self, state, action):
        v = state.v + 4.0 * self.config.dt * action
        return state.replace(x=state.x + self.config.dt * v, v=v)

    def loss(self, state, t):
        return state.x[:, 0].square() + 0.1 * state.v[:, 0].square()

    def metrics(self, state):
        return {"distance": state.x[:, 0].abs()}

    def observation(self, state):
        return torch.cat([state.x, state.v], -1)

    def success(self, state):
        return self.metrics(state)["distance"] < 0.05


@dataclasses.dataclass(frozen=True)
class FragileConfig(TrackingConfig):
    limit: float = 0.5
    """An action beyond it breaks the simulation."""


class Fragile(Tracking):
    """`Tracking` that breaks when it is moved too fast."""

    Config = FragileConfig

    def move(self, state, action):
        if float(action.detach().abs().max()) > self.config.limit:
            raise StateError("a test broke it")
        return super().move(state, action)
