"""Rollouts: many steps as one differentiable torch expression, with bounded memory.

Checkpointing re-runs parts of the forward pass during the backward pass. With T steps,

    "none"      stores every step;                 T stored states, no step is run twice
    "uniform"   segments of √T steps;             2√T stored states, every step is run twice
                (a solver that keeps n states inside a step, `states_per_step`: √(T/n) steps, 2√(nT))
    "revolve"   binomial schedule, s snapshots;   s stored states and one step's own, ≤ r + 1 runs
                of a step, where r is the least number with C(s + r, s) ≥ T

Gradients are the same numbers for all three: the recomputation is deterministic.

Source: Chen et al. 2016 (uniform segments); Griewank & Walther 2000, Alg. 799 (Revolve).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from .revolve import revolve
from .state import State
from .trees import flatten

__all__ = ["Checkpoint", "Rollout", "rollout"]

Checkpoint = Literal["none", "uniform", "revolve"]
S = TypeVar("S", bound=State)


@dataclasses.dataclass
class Rollout(Generic[S]):
    """States of a trajectory."""

    states: list[S]
    """Saved states: the initial one, every `save_every`-th, and the last."""
    steps: list[int]
    """Step number of each saved state."""

    @property
    def final(self) -> S:
        return self.states[-1]

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[S]:
        return iter(self.states)

    def stack(self, name: str) -> Tensor:
        """One field over time, shape (B, T, ...)."""
        return torch.stack([getattr(state, name) for state in self.states], dim=1)


def rollout(
    solver: Any,
    state: S,
    controls: Sequence[Any] | Callable[[int, S], Any] | int,
    params: Any = None,
    *,
    checkpoint: Checkpoint = "none",
    save_every: int = 1,
    snapshots: int | None = None,
    closes_over: Sequence[Tensor] | torch.nn.Module = (),
    on_step: Callable[[int, S], None] | None = None,
) -> Rollout[S]:
    """Advance `state` through all controls, `x_{t+1} = step(x_t, u_t, θ)`.

    Args:
        solver: Anything with `step(state, control, params)`.
        state: Initial state, tensors `(B, ...)`.
        controls: One control per step; or a policy `(t, state) -> control` together with its number
            of steps as `(policy, T)`; or a number of steps without control.
        params: Solver parameters, handed to `solver.prepare` once when the solver has it.
        checkpoint: Memory policy of the backward pass; it has no effect without gradients.
        save_every: Keep every k-th state. Saved states are stored in any policy, so long rollouts
            that need only the end should pass a large number.
        snapshots: Snapshots of "revolve" [states]; default ⌈log2 T⌉ + 1.
        closes_over: What a policy reads besides the state, for "revolve" only, which has to know every
            tensor with a gradient; a module stands for its parameters.
        on_step: Called with (t, state) after each step of the forward pass, for progress and storage.

    Returns:
        The saved states. Differentiable in the initial state, every control, every parameter, and
        anything that a policy or a law closes over ("revolve": once, and what it is told of).

    Raises:
        ValueError: unknown policy, `save_every < 1`.
        InputError: "revolve" met a tensor with a gradient it was not told of.
        StateError, StabilityError: from the solver.
    """
    if checkpoint not in ("none", "uniform", "revolve"):
        raise ValueError(
            f'rollout: checkpoint "none", "uniform" or "revolve"; got {checkpoint!r}. Choose one.'
        )
    if save_every < 1:
        raise ValueError(f"rollout: save_every ≥ 1; got {save_every}. Pass 1 to keep every step.")
    prepared = solver.prepare(params, state) if hasattr(solver, "prepare") else params
    if checkpoint == "revolve":
        prepared = _siblings(prepared)
        if isinstance(controls, (list, tuple)) and not _is_policy(controls):
            controls = _siblings(list(controls))
    policy, count = _controls(controls)
    externals = _externals(solver, controls, prepared, closes_over)
    saved: dict[int, S] = {0: state}
    furthest = 0

    def run(state: S, start: int, stop: int) -> S:
        nonlocal furthest
        for t in range(start, stop):
            state = solver.step(state, policy(t, state), prepared)
            if t >= furthest:  # a recomputation must not report twice
                furthest = t + 1
                if on_step is not None:
                    on_step(t, state)
        return state

    # A saved state has to be the output of a checkpointed segment, so segments end there.
    stops = [t for t in range(save_every, count, save_every)] + ([count] if count else [])
    grad = torch.is_grad_enabled() and checkpoint != "none"
    # A recomputed segment holds all states inside its steps, so shorter segments balance the two.
    inner = getattr(solver, "states_per_step", 1)
    segment = max(1, round(math.sqrt(count / inner)))
    position = 0
    for stop in stops:
        while position < stop:
            if not grad:
                state = run(state, position, stop)
                position = stop
            elif checkpoint == "uniform":
                end = min(stop, position + segment)
                state = _segment(run, state, position, end)
                position = end
            else:
                free = snapshots or max(1, math.ceil(math.log2(max(2, count))) + 1)
                state = revolve(run, state, position, stop, free, externals)
                position = stop
        saved[stop] = state
    return Rollout(states=list(saved.values()), steps=list(saved))


def _siblings(tree: Any) -> Any:
    """The same tree, no tensor of which is made from another of it: "revolve" gives each its own part of
    the gradient, and what a tensor passes on to its ancestors must not be counted twice."""
    tensors, rebuild = flatten(tree)
    return rebuild([t.view_as(t) if t.requires_grad else t for t in tensors.values()])


def _is_policy(controls: Any) -> bool:
    return isinstance(controls, tuple) and len(controls) == 2 and callable(controls[0])


def _controls(controls: Any) -> tuple[Callable[[int, Any], Any], int]:
    if isinstance(controls, int):
        return (lambda t, state: None), controls
    if _is_policy(controls):
        return controls[0], int(controls[1])
    if callable(controls):
        raise TypeError(
            "rollout: a policy needs its number of steps; got a callable alone. "
            "Pass controls=(policy, T)."
        )
    return (lambda t, state: controls[t]), len(controls)


def _externals(solver: Any, controls: Any, prepared: Any, closes_over: Any) -> list[Tensor]:
    """Every tensor a step may read besides the state, each once."""
    weights = solver.weights() if hasattr(solver, "weights") else ()
    if _is_policy(controls):
        controls = controls[0].parameters() if isinstance(controls[0], torch.nn.Module) else ()
    if isinstance(closes_over, torch.nn.Module):
        closes_over = closes_over.parameters()
    trees = [controls, prepared, tuple(weights), tuple(closes_over)]
    trees = [list(t) if isinstance(t, (Sequence, Iterator)) else t for t in trees]
    tensors = [t for tree in trees for t in flatten(tree)[0].values()]
    return list({id(t): t for t in tensors}.values())


def _segment(run: Callable[..., S], state: S, start: int, stop: int) -> S:
    """One segment that stores its first state only."""
    names = list(state.tensors())
    template = state
    extra: dict[str, Any] = {}

    def body(*tensors: Tensor) -> tuple[Tensor, ...]:
        out = run(template.replace(**dict(zip(names, tensors, strict=True))), start, stop)
        extra.update(out.counters())  # only these: a kept state would outlive its segment
        return tuple(out.tensors().values())

    outputs = torch_checkpoint(
        body, *state.tensors().values(), use_reentrant=False, preserve_rng_state=True
    )
    return template.replace(**extra, **dict(zip(names, outputs, strict=True)))
