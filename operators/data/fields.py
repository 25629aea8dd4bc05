"""Samples as rows of tensors, in batches that an epoch's number fixes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["RowBatch", "RowBatches"]


@dataclasses.dataclass(frozen=True)
class RowBatch:
    """Rows of named tensors that belong together."""

    rows: dict[str, Tensor]
    """Tensors by name, each with the samples on its first axis."""

    def to(self, *args: Any, **kwargs: Any) -> RowBatch:
        """Copy on another device or in another precision, as `Tensor.to`."""
        return RowBatch({name: value.to(*args, **kwargs) for name, value in self.rows.items()})


class RowBatches:
    """Samples drawn without replacement into batches, anew in every epoch.

    What index i gives depends on the seed and the epoch alone, so a run that goes on sees what an
    unbroken one would. Samples that do not fill a batch wait for another epoch.

    Args:
        rows: tensors by name with the same number of samples on the first axis.
        size: samples per batch.
        seed: of the order; None keeps the samples in order and the last batch may be smaller.
    """

    def __init__(self, rows: Mapping[str, Tensor], size: int, seed: int | None = 0) -> None:
        counts = {len(value) for value in rows.values()}
        if len(counts) != 1 or not 1 <= size <= max(counts):
            raise InputError(
                message("RowBatches", f"tensors of one number of samples, at least {size}",
                        {k: tuple(v.shape) for k, v in rows.items()}, "Match them, or lower size")
            )  # fmt: skip
        self.rows, self.size, self.seed = dict(rows), size, seed
        self.count = counts.pop()
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of an epoch."""
        self._order = torch.arange(self.count)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = torch.randperm(self.count, generator=generator)

    def __len__(self) -> int:
        full = self.count // self.size
        return full if self.seed is not None else -(-self.count // self.size)

    def __getitem__(self, index: int) -> RowBatch:
        if not 0 <= index < len(self):
            raise IndexError(
                f"RowBatches: expected an index in [0, {len(self)}); got {index}. Check len()."
            )
        chosen = self._order[index * self.size : (index + 1) * self.size]
        return RowBatch({k: v.index_select(0, chosen.to(v.device)) for k, v in self.rows.items()})
