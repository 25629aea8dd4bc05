"""Sums and means over rows that share an index."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["scatter_mean", "scatter_sum"]


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """y_i = Σ_{k: index_k = i} values_k; an index that does not occur gives 0.

    Args:
        values: (E, C).
        index: (E,) int64 in [0, size).
        size: number of rows of the result.

    Returns:
        (size, C). Differentiable in `values`.
    """
    return values.new_zeros(size, values.shape[1]).index_add_(0, index, values)


def scatter_mean(values: Tensor, index: Tensor, size: int) -> Tensor:
    """y_i = mean of values_k over index_k = i; an index that does not occur gives 0, not 0/0.

    Args, returns: as for `scatter_sum`.
    """
    count = torch.bincount(index, minlength=size).clamp(min=1)
    return scatter_sum(values, index, size) / count[:, None].to(values.dtype)
