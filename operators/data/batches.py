"""Batches of samples in an order that an epoch's number fixes, for training that can be continued."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...sim.core.errors import InputError, message
from .particles import ParticleBatch, collate

__all__ = ["EpochBatches"]


class EpochBatches:
    """Samples drawn without replacement into batches, anew in every epoch.

    What index i gives depends on the seed and the epoch alone, so a run that goes on sees what an
    unbroken one would. Samples that do not fill a batch wait for another epoch.

    Args:
        data: samples as `ParticleBatch`, such as `ParticleWindows`.
        size: samples per batch, at most len(data).
        seed: of the order.
    """

    def __init__(self, data: Any, size: int, seed: int = 0) -> None:
        if not 1 <= size <= len(data):
            raise InputError(
                message("EpochBatches", f"a size in [1, {len(data)}]", size, "Use smaller batches")
            )
        self.data, self.size, self.seed = data, size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of an epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        self._order: Sequence[int] = torch.randperm(len(self.data), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self.data) // self.size

    def __getitem__(self, index: int) -> ParticleBatch:
        if not 0 <= index < len(self):
            raise IndexError(
                f"EpochBatches: expected an index in [0, {len(self)}); got {index}. Check len()."
            )
        start = index * self.size
        return collate([self.data[i] for i in self._order[start : start + self.size]])
