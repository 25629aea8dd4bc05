"""Space–time boxes: a fixed router of grid points to experts, and smooth windows over boxes.

Source: Chalapathi et al. 2024 (PI-HC-MoE), §3.3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["BoxRouter", "sample_points", "windows"]


class BoxRouter:
    """Cuts grids into equal boxes and puts them together again.

    Args:
        counts: boxes per axis.

    Raises:
        InputError: a count below one.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = tuple(int(k) for k in counts)
        if not self.counts or min(self.counts) < 1:
            raise InputError(
                message("BoxRouter", "counts >= 1, one per axis", str(self.counts), "Correct them")
            )
        self.boxes = math.prod(self.counts)

    def partition(self, z: Tensor) -> Tensor:
        """(B, *lead, *cells) → (B·K, *lead, *cells of a box), boxes of a sample side by side.

        Raises:
            InputError: counts that do not divide the cells.
        """
        D = len(self.counts)
        cells = tuple(z.shape[-D:])
        if z.ndim <= D or any(n % k for n, k in zip(cells, self.counts, strict=True)):
            expected = f"(B, ..., *cells) with cells that {self.counts} boxes divide"
            raise InputError(message("BoxRouter.partition", expected, z, "Change counts or cells"))
        lead = z.ndim - D
        pairs = [(k, n // k) for n, k in zip(cells, self.counts, strict=True)]
        z = z.reshape(*z.shape[:lead], *itertools.chain(*pairs))
        which = [lead + 2 * d for d in range(D)]
        order = [0, *which, *range(1, lead), *(i + 1 for i in which)]
        return z.permute(order).flatten(0, D)

    def unpartition(self, z: Tensor) -> Tensor:
        """The inverse of `partition`."""
        D = len(self.counts)
        if z.ndim <= D or len(z) % self.boxes:
            expected = f"(B·{self.boxes}, ..., *cells of a box)"
            raise InputError(
                message("BoxRouter.unpartition", expected, z, "Give all boxes of every sample")
            )
        lead, box = z.ndim - D, z.shape[-D:]
        z = z.unflatten(0, (-1, *self.counts))
        order = [0, *range(D + 1, D + lead)]
        order += itertools.chain(*((1 + d, D + lead + d) for d in range(D)))
        cells = [k * n for k, n in zip(self.counts, box, strict=True)]
        return z.permute(order).reshape(len(z), *z.shape[D + 1 : D + lead], *cells)


def sample_points(
    systems: int,
    points: int,
    count: int | None,
    generator: torch.Generator | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Indices of `count` of the points of each system without replacement, (S, m), ascending.

    Points where `keep` (S, points) is true come before all others.

    Raises:
        InputError: more than there are.
    """
    if count is None or count == points:
        return torch.arange(points).expand(systems, -1)
    if not 1 <= count <= points:
        fix = "Lower it, or use fewer boxes"
        raise InputError(message("sample_points", f"a count in [1, {points}]", count, fix))
    place = "cpu" if generator is None else generator.device
    order = torch.rand(systems, points, generator=generator, device=place)
    if keep is not None:
        order = order.masked_fill(keep.to(place), -1.0)
    return order.argsort(1)[:, :count].sort(1).values


def windows(
    counts: Sequence[int], cells: Sequence[int], overlap: float = 0.5, gap: int = 0
) -> Tensor:
    """A partition of unity over boxes, (K, *cells) float64: Σ_k φ_k = 1, each once differentiable.

    φ goes from 1 to 0 as cos² around a border, over `overlap` of the length of a box on either side.

    Args:
        counts: boxes per axis.
        cells: grid.
        overlap: between 0, sharp boxes, and 0.5, where neighbours meet in the middle of a box.
        gap: cells on either side of the middle of a box that are left to its window alone, so that
            rows that look as far never meet three windows.

    Raises:
        InputError: overlap out of range.
    """
    if not 0 <= overlap <= 0.5:
        raise InputError(message("windows", "an overlap in [0, 0.5]", overlap, "Correct it"))
    axes = []
    for k, n in zip(counts, cells, strict=True):
        x = (torch.arange(n, dtype=torch.float64) + 0.5) * (k / n)  # in boxes
        rises = [torch.ones(n, dtype=torch.float64)]
        for border in range(1, k):
            width = min(overlap, max(0.5 - gap * k / n, 0.0))
            s = ((x - border) / max(2 * width, 1e-9) + 0.5).clamp(0, 1)
            rises.append(torch.sin(0.5 * math.pi * s).square())
        rises.append(torch.zeros(n, dtype=torch.float64))
        axes.append([a - b for a, b in itertools.pairwise(rises)])
    products = []
    for parts in itertools.product(*axes):
        value = parts[0]
        for part in parts[1:]:
            value = value[..., None] * part
        products.append(value)
    return torch.stack(products)
