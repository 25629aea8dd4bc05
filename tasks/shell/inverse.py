"""Tasks whose actions are parameters: an episode of one action, held while the scene runs by itself.

    p_k = p_k⁰ s^{a_k},   |a_k| ≤ 1          x(a) = n steps of the scene with parameters p(a)

So a search for bending stiffness or friction is a search like any other: a table of actions (1, A),
whose steps cost what they simulate (`substeps` is n). s is the span, the factor between the start and
the ends of the range; its logarithm makes a step of the search a ratio, whatever the unit.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...sim.core.errors import InputError
from ...sim.fem import FEMControl, FEMState, SolverFEM
from .base import ShellBase, ShellConfig

__all__ = ["EpisodeState", "InverseConfig", "InverseTask", "WholeEpisode"]


@dataclasses.dataclass
class EpisodeState(FEMState):
    """A scene after all its steps, and what was seen on the way."""

    trace: Tensor | None = None
    """Observed positions [m], (B, n, S, 3)."""
    action: Tensor | None = None
    """What the parameters were made of [-], (B, A)."""


@dataclasses.dataclass
class EpisodeConfig:
    """What `Task` asks of a solver's settings."""

    substeps: int


class WholeEpisode:
    """A solver whose step is a whole episode, and whose control is the parameters.

    Args:
        task: gives the scene, what moves in it, and parameters for an action.
    """

    def __init__(self, task: InverseTask) -> None:
        self.task, self.fem = task, task.fem
        self.config = EpisodeConfig(task.config.steps)

    @property
    def model(self) -> Any:
        return self.fem.model

    @property
    def step_time(self) -> float:
        """Duration of an episode [s]."""
        return self.config.substeps * self.fem.step_time

    def step(self, state: EpisodeState, control: Tensor, params: Any = None) -> EpisodeState:
        """All steps with the parameters of an action (B, A). Differentiable in state and action."""
        solver: SolverFEM = self.fem
        prepared = solver.prepare(self.task.parameters(control), state)
        rows, end = self.task.observed(state.x.device), state
        frames = []
        for k in range(self.config.substeps):
            end = solver.step(end, self.task.move(k, end), prepared)
            frames.append(end.x[:, rows])
        return end.replace(trace=torch.stack(frames, 1), action=control)


@dataclasses.dataclass(frozen=True)
class InverseConfig(ShellConfig):
    """Fields of tasks whose actions are parameters."""

    horizon: int = 1
    """One action per episode."""
    steps: int = 50
    """Steps of an episode n."""
    span: float = 10.0
    """Largest factor between a parameter and where the search starts, s [-]."""
    tolerance: float = 0.05
    """Solved when every parameter is this close to the hidden one, relatively."""
    noise: float = 0.0
    """Standard deviation of the observed positions [m]; one draw per task object."""
    noise_seed: int = 0
    """Seed of `noise`."""


class InverseTask(ShellBase):
    """Base: find the parameters behind a motion that was seen.

        ℓ = (1/n S) Σ |x(a) − x(a*)|² / L²

    A subclass gives `build`, `names`, `parameters`, and where the scene does not move by itself,
    `move`.

    Raises:
        InputError: more than one action, or a span that leaves out the hidden parameters.
    """

    config: Any
    names: ClassVar[tuple[str, ...]]
    """What the actions stand for."""
    length: ClassVar[float] = 0.01
    """L [m]."""
    action_unit = "logarithms over that of the span"
    search_defaults = {
        # One number: momentum would only carry it past its goal, and the first slope sets the scale.
        "gradient": {"expand": False, "lr": 0.2, "betas": (0.0, 0.99)},
        "cma": {"population": 10},
        "hybrid": {
            "share": 0.3,
            "cma": {"population": 10},
            "gradient": {  # of schedule="handover"
                "expand": False, "lr": 0.2, "betas": (0.0, 0.99), "patience": 1, "progress": 0.0,
            },
        },
    }  # fmt: skip

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        c = self.config
        self.action_size = len(self.names)
        self.action_limit = torch.ones(self.action_size)
        ratio = torch.tensor(self.truth(), dtype=torch.float64) / torch.tensor(self.guess())
        if c.horizon != 1 or c.steps < 1 or not c.span > 1 or c.noise < 0:
            raise InputError(
                f"{type(self).__name__}: horizon = 1, steps ≥ 1, span > 1 and noise ≥ 0; got "
                f"{c.horizon}, {c.steps}, {c.span} and {c.noise}. Correct them."
            )
        self._hidden = (ratio.log() / math.log(c.span))[None]
        if bool((self._hidden.abs() > 1).any()):
            raise InputError(
                f"{type(self).__name__}: hidden parameters within a factor of {c.span} of the start; "
                f"got factors {ratio.tolist()}. Raise span."
            )
        self.solver = WholeEpisode(self)
        self._target: Tensor | None = None

    def guess(self) -> tuple[float, ...]:
        """Parameters where the search starts, p⁰; the field `start` where there is one parameter."""
        return (self.config.start,)

    def truth(self) -> tuple[float, ...]:
        """Hidden parameters; the field `hidden` where there is one."""
        return (self.config.hidden,)

    @abc.abstractmethod
    def parameters(self, action: Tensor) -> dict[str, dict[str, Tensor]]:
        """Parameters of the solver for an action (B, A)."""

    def values(self, action: Tensor) -> Tensor:
        """p(a) in physical units, (B, A). Differentiable."""
        start = torch.tensor(self.guess(), dtype=torch.float64, device=action.device)
        return start * self.config.span ** action.double()

    def move(self, k: int, state: FEMState) -> FEMControl | None:
        """What moves in step k, whatever the parameters."""
        return None

    def observed(self, device: torch.device) -> Tensor:
        """Points whose positions are seen, (S,)."""
        rows = [r + self.spans[name].start for name, r in self._samples.items()]
        return torch.cat(rows).to(device)

    def reset(self, **options: Any) -> EpisodeState:
        """The settled scene, as `ShellBase.reset`; nothing seen yet."""
        state = super().reset(**options)
        rows = self.observed(state.x.device)
        trace = state.x[:, None, rows].repeat(1, self.config.steps, 1, 1)
        action = torch.zeros(state.batch_size, self.action_size, dtype=torch.float64)
        return state.widened(EpisodeState, trace=trace, action=action.to(state.x.device))

    def control(self, state: Any, action: Tensor) -> Tensor:
        return action.to(state.x)

    @torch.no_grad()
    def target(self) -> Tensor:
        """What is seen with the hidden parameters [m], (n, S, 3), simulated once."""
        if self._target is None:
            seen = self.solver.step(self.reset(), self._hidden).trace[0]
            generator = torch.Generator().manual_seed(self.config.noise_seed)
            noise = torch.randn(seen.shape, generator=generator, dtype=seen.dtype)
            self._target = seen + self.config.noise * noise
        return self._target

    def terms(self, state: Any, t: int) -> dict[str, Tensor]:
        """Named parts of the objective, each (B,)."""
        gap = state.trace - self.target().to(state.x)
        return {"motion": gap.square().sum(-1).mean((1, 2)) / self.length**2}

    def loss(self, state: Any, t: int) -> Tensor:
        """Sum of the terms, (B,). Differentiable in the state."""
        return torch.stack(list(self.terms(state, t).values())).sum(0)

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """distance [m]: root mean square between motions; each parameter; error: the largest relative
        one of them [-]; (B,)."""
        gap = state.trace.detach() - self.target().to(state.x)
        values = self.values(state.action.detach())
        named = {name: values[:, k] for k, name in enumerate(self.names)}
        return {
            "distance": gap.square().sum(-1).mean((1, 2)).sqrt(),
            "error": (values / values.new_tensor(self.truth()) - 1).abs().amax(1),
            **named,
        }

    def success(self, state: Any) -> Tensor:
        """Whether every parameter is within `tolerance` of the hidden one, (B,) bool."""
        return self.metrics(state)["error"] <= self.config.tolerance
