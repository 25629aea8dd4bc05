"""Binomial checkpointing (Revolve): a long differentiable chain in logarithmic memory.

With s snapshots, T steps run forward at most r times each and once more for their adjoint, where r is the
least number with C(s + r, s) ≥ T. Nothing but the snapshots and one step's graph is alive at a time.

Source: Griewank & Walther 2000, Alg. 799 (Revolve).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .errors import InputError

__all__ = ["binomial_split", "revolve"]


def revolve(
    run: Callable[[Any, int, int], Any],
    state: Any,
    start: int,
    stop: int,
    snapshots: int,
    externals: Sequence[Tensor],
) -> Any:
    """State after steps start … stop − 1, as one node of the graph.

    Args:
        run: `run(state, start, stop)` advances a state; called again in the backward pass.
        state: `State` at `start`.
        start: First step.
        stop: One past the last step.
        snapshots: States that may be stored at once, the given one included.
        externals: Every other tensor with a gradient that `run` reads.

    Differentiable once, in the state and the externals.
    Source: Griewank & Walther 2000.
    """
    counters: dict[str, Any] = {}
    names = list(state.tensors())
    externals = [t for t in externals if t.requires_grad]
    outputs = _Revolve.apply(
        (run, state, names, start, stop, snapshots, counters, externals),
        *state.tensors().values(),
        *externals,
    )
    return state.replace(**counters, **dict(zip(names, outputs, strict=True)))


def binomial_split(count: int, snapshots: int) -> int:
    """Number of steps to advance before the next snapshot.

    Any split that leaves at most C(s + r − 1, s) steps on the left and C(s + r − 1, s − 1) on the
    right keeps the repetition number at r, the least number with C(s + r, s) ≥ count.

    Source: Griewank & Walther 2000, Eq. 3.
    """
    repeats = 0
    while math.comb(snapshots + repeats, snapshots) < count:
        repeats += 1
    left_limit = math.comb(snapshots + repeats - 1, snapshots)
    right_limit = math.comb(snapshots + repeats - 1, snapshots - 1)
    return min(max(1, count - right_limit), max(1, left_limit), count - 1)


def _split(start: int, stop: int, snapshots: int) -> int:
    """Where the next snapshot goes; without one left, directly before the last step."""
    if snapshots <= 1:
        return stop - 1
    return start + binomial_split(stop - start, snapshots)


class _Revolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: tuple, *tensors: Tensor) -> Any:
        run, state, names, start, stop, snapshots, counters, _ = plan
        values = [t.detach() for t in tensors[: len(names)]]
        current = state.replace(**dict(zip(names, values, strict=True)))
        # Snapshots at the states the reverse sweep starts from: (state, start, stop, free).
        ctx.stack = []
        while stop - start > 1:
            middle = _split(start, stop, snapshots)
            ctx.stack.append((current, start, middle, snapshots))
            current = run(current, start, middle)
            start, snapshots = middle, max(1, snapshots - 1)
        ctx.stack.append((current, start, stop, snapshots))
        end = run(current, start, stop)
        counters.update(end.counters())
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        return tuple(end.tensors().values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        run, _, names, start, stop, snapshots, _, externals = ctx.plan
        tensors = ctx.saved_tensors  # raises if one was modified in place
        sweep = _Sweep(run, names, externals)
        adjoint = [
            torch.zeros_like(t) if g is None else g for g, t in zip(grads, tensors, strict=False)
        ]
        # Snapshots are let go as they are used; a second backward starts from the first one.
        stack, ctx.stack = ctx.stack, [(ctx.stack[0][0], start, stop, snapshots)]
        while stack:
            state, first, last, free = stack.pop()
            adjoint = sweep.reverse(state, first, last, free, adjoint)
        return None, *adjoint, *sweep.externals_adjoint


class _Sweep:
    """The reverse sweep; collects the adjoints of the external tensors."""

    def __init__(self, run: Callable, names: list[str], externals: list[Tensor]) -> None:
        self.run, self.names, self.externals = run, names, externals
        self.externals_adjoint: list[Tensor | None] = [None] * len(externals)
        self.checked = False

    def reverse(self, state: Any, start: int, stop: int, free: int, adjoint: list) -> list:
        """Adjoint of `state` at `start` from that of the state at `stop`."""
        while stop - start > 1:
            middle = _split(start, stop, free)
            with torch.no_grad():
                later = self.run(state, start, middle)
            adjoint = self.reverse(later, middle, stop, max(1, free - 1), adjoint)
            del later
            stop = middle
        return self._step(state, start, adjoint)

    def _step(self, state: Any, t: int, adjoint: list) -> list:
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in state.tensors().values()]
            begin = state.replace(**dict(zip(self.names, leaves, strict=True)))
            outputs = list(self.run(begin, t, t + 1).tensors().values())
        pairs = [(o, g) for o, g in zip(outputs, adjoint, strict=True) if o.requires_grad]
        inputs = [*leaves, *self.externals]
        if not pairs:
            return [torch.zeros_like(t) for t in leaves]
        if not self.checked:
            _check_externals([o for o, _ in pairs], inputs)
            self.checked = True
        roots, seeds = zip(*pairs, strict=True)
        grads = torch.autograd.grad(roots, inputs, seeds, allow_unused=True)
        for i, g in enumerate(grads[len(leaves) :]):
            if g is not None:
                old = self.externals_adjoint[i]
                self.externals_adjoint[i] = g if old is None else old + g
        return [
            torch.zeros_like(t) if g is None else g
            for g, t in zip(grads[: len(leaves)], leaves, strict=True)
        ]


def _check_externals(outputs: Sequence[Tensor], known: Sequence[Tensor]) -> None:
    """Raise if a step reads a tensor with a gradient that nobody declared: it would be lost."""
    stop = {t.grad_fn for t in known if t.grad_fn is not None}
    leaves = {id(t) for t in known if t.grad_fn is None}
    seen, todo = set(), [t.grad_fn for t in outputs]
    while todo:
        node = todo.pop()
        if node is None or node in seen or node in stop:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in leaves:
            raise InputError(
                'rollout: with checkpoint="revolve", every tensor with a gradient among state, '
                f"controls, params and the weights of laws; got another of shape "
                f"{tuple(leaf.shape)} inside a policy or a law. Name it in closes_over, or use "
                'checkpoint="uniform".'
            )
        todo += [n for n, _ in node.next_functions]
