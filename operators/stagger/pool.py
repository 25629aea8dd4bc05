"""Environments that training steps through with its own predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["Draw", "EnvPool"]

Sample = Callable[[int, torch.Generator], "tuple[Tensor, Tensor | None]"]


@dataclasses.dataclass
class Draw:
    """A batch of environments."""

    index: Tensor
    """Where they stand in the pool, (B,)."""
    window: Tensor
    """Their last frames (B, W, C, *cells)."""
    context: Tensor | None
    """(B, K, *cells)."""


class EnvPool:
    """P environments with their last frames, contexts and ages.

    Training draws some, predicts, and puts the predictions back, so the network learns on states that it
    makes itself. Without resets all would end on its own attractor: an environment starts anew with
    probability frames / lifetime, when it is older than `max_age`, and when it is not finite or beyond
    `limit`. A share `cold` of all starts has zero fields, so start-up is learned too.

    Args:
        sample: `(n, generator) -> (windows, context)`: starts (n, W, C, *cells), W = 1 but for mode
            "chain", and contexts (n, K, *cells) or None.
        size: P.
        seed: of everything random here.
        lifetime: mean age at resets [fine steps].
        max_age: largest age [fine steps]; None: no bound.
        limit: largest |u|; None: no bound.
        cold: share of starts from zero.
        evolve: `(context, generator) -> context`, applied whenever an environment has stepped.
        device: where the pool lives.

    Raises:
        InputError: numbers out of range, or starts that are not finite.

    Source: Wandel et al. 2021 (pool, cold starts, resets); Huang et al. 2023.
    """

    def __init__(
        self,
        sample: Sample,
        size: int = 100,
        *,
        seed: int = 0,
        lifetime: float = 100.0,
        max_age: int | None = None,
        limit: float | None = None,
        cold: float = 0.0,
        evolve: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if size < 1 or not lifetime >= 1 or not 0 <= cold <= 1:
            got = f"size = {size}, lifetime = {lifetime}, cold = {cold}"
            expected = "size >= 1, lifetime >= 1, cold in [0, 1]"
            raise InputError(message("EnvPool", expected, got, "Correct them"))
        self.sample, self.size, self.cold, self.evolve = sample, size, cold, evolve
        self.lifetime, self.max_age, self.limit = float(lifetime), max_age, limit
        self.generator = torch.Generator().manual_seed(seed)
        frames, context = self._starts(size)
        self.frames = frames.to(device)
        self.context = None if context is None else context.to(device)
        self.age = torch.zeros(size, dtype=torch.long)
        self.resets = 0
        """Environments that were started anew so far."""

    def draw(self, batch: int) -> Draw:
        """Different environments at random, all of them if the pool has fewer than `batch`."""
        index = torch.randperm(self.size, generator=self.generator)[:batch]
        at = index.to(self.frames.device)
        context = None if self.context is None else self.context[at]
        return Draw(index, self.frames[at], context)

    def put(self, index: Tensor, frames: Tensor) -> int:
        """Store predicted frames (B, T, C, *cells) of environments and reset some; says how many."""
        B, T = frames.shape[:2]
        at, frames = index.to(self.frames.device), frames.detach()
        self.frames[at] = torch.cat([self.frames[at], frames], 1)[:, -self.frames.shape[1] :]
        self.age[index] += T
        if self.evolve is not None and self.context is not None:
            self.context[at] = self.evolve(self.context[at], self.generator)
        most = frames.flatten(1).abs().amax(1).cpu()
        over = ~torch.isfinite(most)
        over |= torch.rand(B, generator=self.generator) < T / self.lifetime
        if self.limit is not None:
            over |= most > self.limit
        if self.max_age is not None:
            over |= self.age[index] >= self.max_age
        gone = index[over]
        if len(gone):
            self._reset(gone)
        return len(gone)

    def _reset(self, index: Tensor) -> None:
        frames, context = self._starts(len(index))
        at = index.to(self.frames.device)
        self.frames[at] = frames.to(self.frames)
        if self.context is not None and context is not None:
            self.context[at] = context.to(self.context)
        self.age[index] = 0
        self.resets += len(index)

    def _starts(self, n: int) -> tuple[Tensor, Tensor | None]:
        frames, context = self.sample(n, self.generator)
        if len(frames) != n or not bool(torch.isfinite(frames).all()):
            fix = "Correct sample(n, generator)"
            raise InputError(message("EnvPool", f"{n} finite starts", frames, fix))
        cold = torch.rand(n, generator=self.generator) < self.cold
        if bool(cold.any()):
            frames = frames.clone()
            frames[cold] = 0.0
        return frames, context
