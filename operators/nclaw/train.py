"""Training of neural laws through the simulator, from positions only.

    min_θ  Σ_segments Σ_k  w ‖x_k(θ) − x_k‖²,   x_{k+1} = step(x_k; θ),  x_0 from the trajectory

Teacher forcing cuts the trajectory into segments that start in true states, so the segments are
independent and run as scenes of one batch. Their length, the horizon, grows during training.

Source: Ma et al. 2023 (NCLaw), §3.4 and released training configuration.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...sim.core.backend import one_thread
from ...sim.core.errors import InputError, StateError
from .data import Trajectory

__all__ = ["TrainConfig", "TrainHistory", "horizon_at", "segment_loss", "train"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the paper's recipe."""

    updates: int = 300
    """Optimizer steps; in the paper one per epoch."""
    horizon: tuple[int, int] = (25, 200)
    """Length of a segment [steps] at the start and at the end."""
    growth: Literal["cosine", "geometric"] = "cosine"
    """How the horizon grows; geometric stays longer at short segments."""
    budget: int | None = None
    """Simulated steps per update, spent on random segments; None: cover the whole trajectory."""
    weighting: Literal["position", "acceleration"] = "position"
    """position: 1e4 ⌈T/λ⌉/T per step as in the paper; acceleration: errors over ½ (λ dt)², which
    makes segments of all lengths equally important."""
    lr_elastic: float = 1.0
    """Learning rate of the elastic network; 1 because its raw output has to grow from 0.01 Pa."""
    lr_plastic: float = 0.1
    """Learning rate of the plastic network."""
    plastic_from: int = 1
    """Horizon [steps] from which the plastic network is trained. Segments start in true strains, so
    short ones determine the stress alone and would only blow up the plastic network at random."""
    chunk: int = 256
    """Scene steps per backward pass; longer sums are accumulated. Bounds the memory, 3 kB per particle
    and step."""
    clip: float = 0.1
    """Bound on the gradient norm of each network, in units of the loss."""

    def __post_init__(self) -> None:
        first, last = self.horizon
        if (
            self.updates < 1
            or first < 1
            or last < 1
            or (self.budget is not None and self.budget < 1)
        ):
            raise InputError(
                f"TrainConfig: updates, horizon and budget ≥ 1; got {self.updates}, {self.horizon} "
                f"and {self.budget}. Correct them."
            )

    @classmethod
    def paper(cls) -> TrainConfig:
        """The recipe of the paper: 300 passes over the trajectory, horizon 25 → 200."""
        return cls()

    @classmethod
    def fast(cls) -> TrainConfig:
        """One to two minutes on two cores, for `NeuralElastic(scale=1e4)` and
        `NeuralPlastic(gain=0.01)`: stress from random segments of one to eight steps, plastic flow
        from segments that grow to 64 steps. docs/nclaw.md shows what else was tried."""
        return cls(
            updates=300,
            horizon=(1, 64),
            growth="geometric",
            budget=16,
            weighting="acceleration",
            lr_elastic=0.02,
            lr_plastic=1e-3,
            plastic_from=8,
            clip=1e3,
        )


@dataclasses.dataclass
class TrainHistory:
    """What happened in each update."""

    loss: list[float] = dataclasses.field(default_factory=list)
    """Value of the loss, in the units of the weighting."""
    horizon: list[int] = dataclasses.field(default_factory=list)
    """Length of the segments [steps]."""
    seconds: list[float] = dataclasses.field(default_factory=list)
    """Wall time since the start [s]."""
    simulated: list[int] = dataclasses.field(default_factory=list)
    """Scene steps simulated so far, each with its derivative."""


def horizon_at(config: TrainConfig, update: int, steps: int) -> int:
    """Segment length λ(e) of an update [steps], at most the length of the trajectory.

    cosine: λ₁ + (λ₀ − λ₁) ½ (1 + cos(π e/E)); geometric: λ₀ (λ₁/λ₀)^(e/E).

    Source: Ma et al. 2023 (NCLaw), released configuration (cosine).
    """
    first, last = config.horizon
    share = update / config.updates
    if config.growth == "cosine":
        value = last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))
    else:
        value = first * (last / first) ** (update / max(1, config.updates - 1))
    return max(1, min(steps, round(value)))


def segment_loss(
    solver: Any,
    trajectory: Trajectory,
    segments: Sequence[tuple[int, int]],
    weights: Sequence[float],
    params: Any = None,
) -> Tensor:
    """Weighted mean square of position errors over segments that run as one batch.

        L = Σ_s w_s Σ_{k=1}^{λ_s} mean_{particles, axes} (x_{s,k} − x_{b_s + k})²

    Args:
        solver: one substep per step, one group.
        trajectory: the motion to match.
        segments: (b, λ), first frame and number of steps, longest first.
        weights: w per segment [1/m²].
        params: as in `solver.prepare`.

    Returns:
        Scalar L. Differentiable in the weights of the law and in `params`.
    """
    device = trajectory.x.device
    template = solver.model.initial_state(dtype=trajectory.x.dtype, device=device)
    starts = torch.tensor([b for b, _ in segments], device=device)
    lengths = [n for _, n in segments]
    w = torch.tensor(weights, dtype=trajectory.x.dtype, device=device)
    state = trajectory.states(template, starts)
    prepared = solver.prepare(params, state)
    loss = w.new_zeros(())
    for k in range(1, lengths[0] + 1):
        active = sum(n >= k for n in lengths)
        if active < state.batch_size:
            state = state[:active]
            prepared = solver.prepare(params, state)
        state = solver.step(state, None, prepared)
        error = (state.x - trajectory.x[starts[:active] + k]).square().mean((1, 2))
        loss = loss + (w[:active] * error).sum()
    return loss


def train(
    solver: Any,
    trajectory: Trajectory,
    config: TrainConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    on_update: Callable[[int, TrainHistory], None] | None = None,
    on_checkpoint: Callable[[dict[str, Any]], None] | None = None,
    checkpoint_every: int = 50,
    resume: dict[str, Any] | None = None,
) -> TrainHistory:
    """Fit the networks of the solver's law to a motion; the modules are changed in place.

    During an update torch works on one thread, see `one_thread`.

    Args:
        solver: a solver with one group whose law holds modules, as `neural_law` makes it, and one
            substep per step.
        trajectory: the motion; its states start the segments, its positions alone enter the loss.
        config: the recipe; default the paper's.
        generator: source of random segments; default seed 0.
        on_update: called with (update, history) after every update, for progress.
        on_checkpoint: called with everything needed to resume, every `checkpoint_every` updates and
            at the end.
        checkpoint_every: updates between checkpoints.
        resume: a checkpoint; training goes on after it with the same numbers as without the break.

    Returns:
        Loss, horizon, time and simulated steps per update.

    Raises:
        InputError: the law holds no modules.
        StateError: non-finite gradient, or a rollout that the solver cannot continue.

    Source: Ma et al. 2023 (NCLaw), §3.4.
    """
    config = config or TrainConfig.paper()
    run = _Run(solver, trajectory, config, generator or torch.Generator().manual_seed(0))
    if resume is not None:
        run.load(resume)
    began = time.perf_counter() - (run.history.seconds[-1] if run.history.seconds else 0.0)
    while run.update < config.updates:
        with one_thread():
            run.advance()
        run.history.seconds.append(time.perf_counter() - began)
        if on_update is not None:
            on_update(run.update - 1, run.history)
        due = run.update % checkpoint_every == 0 or run.update == config.updates
        if on_checkpoint is not None and due:
            on_checkpoint(run.checkpoint())
    return run.history


class _Run:
    """State of a training: modules, optimizers, random numbers, history."""

    def __init__(
        self, solver: Any, trajectory: Trajectory, config: TrainConfig, generator: torch.Generator
    ) -> None:
        law = solver.model.groups[0].law
        parts = {"elastic": config.lr_elastic, "plastic": config.lr_plastic}
        found = {name: getattr(law, name, None) for name in parts}
        self.modules = {n: m for n, m in found.items() if isinstance(m, nn.Module)}
        if not self.modules:
            raise InputError(
                f"train: a law with modules; got {type(law).__name__}. Build it with neural_law, "
                "or fit an analytic law with fit_classical."
            )
        self.solver, self.trajectory, self.config = solver, trajectory, config
        self.generator, self.update, self.history = generator, 0, TrainHistory()
        self.rates = {name: parts[name] for name in self.modules}
        self.optimizers = {
            name: torch.optim.Adam(module.parameters(), lr=parts[name])
            for name, module in self.modules.items()
        }

    def segments(self) -> tuple[list[tuple[int, int]], list[float]]:
        """First frames, lengths and weights of the segments of this update."""
        c, T = self.config, self.trajectory.steps
        horizon = horizon_at(c, self.update, T)
        self.history.horizon.append(horizon)
        if c.budget is None:
            starts = list(range(0, T, horizon))
        else:
            count = max(1, c.budget // horizon)
            draw = torch.randint(0, T - horizon + 1, (count,), generator=self.generator)
            starts = draw.tolist()
        segments = [(b, min(horizon, T - b)) for b in starts]
        covered = sum(n for _, n in segments)
        if c.weighting == "position":
            weight = 1e4 * len(segments) / covered
        else:
            weight = 1 / (0.5 * horizon**2 * self.solver.step_time**2) ** 2 / covered
        return segments, [weight] * len(segments)

    def advance(self) -> None:
        """One update of all networks."""
        c = self.config
        segments, weights = self.segments()
        share = 0.5 * (1 + math.cos(math.pi * self.update / c.updates))
        active = dict(self.modules)
        if self.history.horizon[-1] < c.plastic_from:
            active.pop("plastic", None)
        for name, module in self.modules.items():
            module.requires_grad_(name in active)
        for name, optimizer in self.optimizers.items():
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = self.rates[name] * share
        total = 0.0
        for part in _chunks([n for _, n in segments], c.chunk):
            loss = segment_loss(self.solver, self.trajectory, segments[part], weights[part])
            loss.backward()
            total += float(loss.detach())
        for name, module in active.items():
            norm = nn.utils.clip_grad_norm_(module.parameters(), c.clip)
            if not bool(torch.isfinite(norm)):
                raise StateError(
                    f"train: a finite gradient of the {name} network; got {float(norm)} in update "
                    f"{self.update} (horizon {self.history.horizon[-1]} steps). Lower the learning "
                    "rate or lengthen the horizon later.",
                    step=self.update,
                    field=name,
                )
        for name in active:
            self.optimizers[name].step()
        for module in self.modules.values():
            module.requires_grad_(True)
        self.history.loss.append(total)
        before = self.history.simulated[-1] if self.history.simulated else 0
        self.history.simulated.append(before + sum(n for _, n in segments))
        self.update += 1

    def checkpoint(self) -> dict[str, Any]:
        """Everything that decides how training goes on, as copies."""
        clone = torch.utils._pytree.tree_map_only
        state = {
            "update": self.update,
            "modules": {n: m.state_dict() for n, m in self.modules.items()},
            "optimizers": {n: o.state_dict() for n, o in self.optimizers.items()},
            "generator": self.generator.get_state(),
            "history": {k: list(v) for k, v in vars(self.history).items()},
        }
        return clone(Tensor, lambda t: t.detach().clone(), state)

    def load(self, state: dict[str, Any]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
            self.optimizers[name].load_state_dict(state["optimizers"][name])
        self.generator.set_state(state["generator"])
        self.update = state["update"]
        self.history = TrainHistory(**{k: list(v) for k, v in state["history"].items()})


def _chunks(lengths: list[int], limit: int) -> list[slice]:
    """Ranges of segments whose steps add up to at most `limit`, or of one segment."""
    ranges, start, steps = [], 0, 0
    for i, n in enumerate(lengths):
        if i > start and steps + n > limit:
            ranges.append(slice(start, i))
            start, steps = i, 0
        steps += n
    return [*ranges, slice(start, len(lengths))]
