"""Experts on several processes: each solves its share of the systems, all get all weights.

Inputs are the same on every process, and so is the loss; gradients of what every process computes by
itself are whole, those through the solves are sums over processes (`entering`), so every process ends
with the gradient that one process alone would have.

Source: Chalapathi et al. 2024 (PI-HC-MoE), §3.3; Shoeybi et al. 2019 (Megatron) for the pair of
operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from ...sim.core.errors import RheogradError
from .rows import Rows

__all__ = ["entering", "share_out"]


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def entering(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors whose gradients are summed over processes: all that rows of a shared solve are made of."""
    return tensors if _processes() == 1 else _Enter.apply(*tensors)


def share_out(solve: Callable[[Rows], Tensor], rows: Rows) -> Tensor:
    """Weights (S, N) of all systems, each solved by one process.

    Args:
        solve: rows of some systems → weights.
        rows: of all systems, the same on every process, made from what `entering` gave.

    Raises:
        RheogradError: on every process, when the solve fails on one.

    Differentiable as `solve` is.
    """
    P, S = _processes(), len(rows.terms)
    if P == 1:
        return solve(rows)
    each = -(-S // P)
    first = min(dist.get_rank() * each, S)
    mine = torch.arange(first, min(first + each, S), device=rows.terms.device)
    # No weights, but of the graph: a process without a system takes part in the sums of backward too.
    error, w = None, rows.terms.flatten()[:0].reshape(0, rows.unknowns)
    try:
        w = solve(rows.select(mine)) if len(mine) else w
    except RheogradError as caught:
        error = caught
    # Processes that wait for one that has failed would wait for ever.
    flags = [float(error is not None), float(len(mine) > 0 and w.requires_grad)]
    failed, tracked = told = torch.tensor(flags, device=rows.terms.device)
    dist.all_reduce(told)
    if error is not None:
        raise error
    if failed:
        raise RheogradError("share_out: a solve failed on another process; its message says why.")
    return _Gather.apply(w if tracked else w.detach(), each, first, S)


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *tensors):
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx, *grads):
        # All in one node, so that every process sums the same tensors in the same order.
        whole = []
        for grad, wanted in zip(grads, ctx.needs_input_grad, strict=True):
            total = grad.contiguous().clone() if wanted else None
            if total is not None:
                dist.all_reduce(total)
            whole.append(total)
        return tuple(whole)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, each, first, total):
        ctx.mine = (first, len(w))
        full = w.new_zeros(each, w.shape[1])
        full[: len(w)] = w
        parts = [torch.empty_like(full) for _ in range(_processes())]
        dist.all_gather(parts, full)
        return torch.cat(parts)[:total]

    @staticmethod
    def backward(ctx, grad):
        first, count = ctx.mine
        return grad[first : first + count], None, None, None
