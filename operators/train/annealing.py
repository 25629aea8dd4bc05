"""Updates of loops that bring their own data, within a number of them or a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from torch.optim import Optimizer

__all__ = ["annealed"]


def annealed(
    optimizer: Optimizer,
    updates: int,
    seconds: float | None = None,
    clock: Callable[[], float] = time.process_time,
) -> Iterator[int]:
    """Numbers of updates, until these or the time are used up, with a cosine decay to 0.

        lr(p) = lr · ½ (1 + cos πp),   p = max(update/updates, time/seconds)

    `Trainer` is for data that are there before and for runs that go on after a break; its time is that
    of the clock on the wall.

    Args:
        optimizer: its learning rates fall.
        updates: most updates.
        seconds: most time by `clock`.
        clock: default CPU time of this process, which other load does not change.
    """
    rates, began = [group["lr"] for group in optimizer.param_groups], clock()
    for update in range(updates):
        share = update / updates
        if seconds is not None:
            share = max(share, (clock() - began) / seconds)
        if share >= 1:
            return
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
        yield update
