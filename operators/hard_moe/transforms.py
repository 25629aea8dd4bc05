"""Constraints under `torch.func`: grad, vjp, jvp, jacrev, jacfwd, hessian and vmap.

Transforms cannot see into a fit, so it runs on plain tensors, and w* gets its derivatives from two steps
of Newton's method that do not move it:

    w ← w − H⁻¹ (F(w, θ) − F(w*, θ₀)),    H and F(w*, θ₀) constants,    F = ∂_w ½ ‖r‖²

Each step makes one derivative more exact: the error of w falls from O(δθ) to O(δθ²) to O(δθ³).

Source: Blondel et al. 2022, §2.2; the chord method: Kelley 1995, §5.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from ...sim.core.trees import flatten
from . import band
from .orthonormal import by_blocks
from .rows import Residual, Rows

__all__ = ["transformed", "with_steps"]


def transformed() -> int:
    """Derivatives that transforms of `torch.func` or forward mode may ask for; 0: none is at work."""
    levels = torch._C._functorch.get_interpreter_stack() or []
    if not levels and fwAD._current_level < 0:
        return 0
    vmap = torch._C._functorch.TransformType.Vmap
    return 2 + sum(level.key() != vmap for level in levels)


def with_steps(
    solve: Callable[[Rows, Tensor | None], tuple[Tensor, ...]],
    residual: Residual,
    rows: Rows,
    start: Tensor | None,
    steps: int,
) -> Tensor:
    """Weights (S, N) with derivatives of as many orders as there are steps.

    Args:
        solve: rows and start, plain tensors → v (S, N), factor of H and scales s, H = s⁻¹ L Lᵀ s⁻¹, and
            the change of weights X, or no elements.
        residual: of the rows.
        rows, start: as `HardConstraint` takes them.
        steps: of Newton's method.
    """
    found, rebuild = flatten(rows)
    constants = [t.detach() for t in found.values()]
    start = None if start is None else start.detach()
    v, lower, s, X = _Found.apply(solve, rebuild, tuple(found), start, *constants)
    turned = rows.turn(X) if X.numel() else rows

    def slope(at: Tensor) -> Tensor:
        r, pull = torch.func.vjp(lambda z: residual(z, turned.params), turned.numbers(at))
        return turned.pull_terms(r[:, None] * pull(torch.ones_like(r))[0], turned.excess(at))

    at = v
    first = slope(v).detach()
    for _ in range(steps):
        at = at - s * band.solve(lower, s * (slope(at) - first))
    return by_blocks(X, at) if X.numel() else at


class _Found(torch.autograd.Function):
    """A fit whose systems may be those of many calls; no derivative passes."""

    @staticmethod
    def forward(solve, rebuild, names, start, *tensors):
        with torch.no_grad():
            return solve(rebuild(tensors), start)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.count = len(inputs)
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx, *grads):
        return (None,) * ctx.count

    @staticmethod
    def vmap(info, in_dims, solve, rebuild, names, start, *tensors):
        V, (first, *dims) = info.batch_size, in_dims[3:]

        def one(t: Any, d: int | None, i: int) -> Any:
            return t if d is None else t.select(d, i)

        def call(start: Tensor | None, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return _Found.apply(solve, rebuild, names, start, *tensors)

        own = [n.startswith("params") for n in names]
        if any(d is not None for d, mine in zip(dims, own, strict=True) if mine):
            # What the residual does with axes of its parameters is its own affair.
            each = [
                call(
                    one(start, first, i), [one(t, d, i) for t, d in zip(tensors, dims, strict=True)]
                )
                for i in range(V)
            ]
            return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0,) * 4

        def all_(t: Tensor, d: int | None) -> Tensor:
            return (t.expand(V, *t.shape) if d is None else t.movedim(d, 0)).flatten(0, 1)

        S = tensors[0].ndim and one(tensors[0], dims[0], 0).shape[0]
        folded = [
            (t if not t.ndim or len(t) != S or S == 1 else all_(t, None)) if mine else all_(t, d)
            for t, d, mine in zip(tensors, dims, own, strict=True)
        ]
        out = call(None if start is None else all_(start, first), folded)
        return tuple(t.unflatten(0, (V, S)) for t in out), (0,) * 4
