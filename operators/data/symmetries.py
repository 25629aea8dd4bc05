"""Symmetries of a problem: more samples than were simulated, from the ones that were."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["RandomShift", "RandomTurn"]


class RandomShift:
    """(x, y) → (T x, T y) for a periodic problem that looks the same after a shift T.

    Every sample moves by Σ_i k_i direction_i cells with its own k_i, uniform over a period. With
    forcing that varies along an axis the shifts across it are what is left: stirred by f(x + z), a
    flow on a square grid keeps `RandomShift([(1, -1)])`. Differentiable in both fields.

    Args:
        directions: vectors of whole cells, one entry per axis; None: along every axis.

    Raises:
        InputError: at the call, directions for another number of axes.
    """

    def __init__(self, directions: Sequence[Sequence[int]] | None = None) -> None:
        self.directions = None if directions is None else [tuple(d) for d in directions]

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Fields (B, C, *cells) and (B, C', *cells), moved alike."""
        dim = x.ndim - 2
        unit = [tuple(int(i == j) for j in range(dim)) for i in range(dim)]
        directions = unit if self.directions is None else self.directions
        if any(len(d) != dim for d in directions):
            raise InputError(
                message("RandomShift", f"directions of {dim} axes, as the fields have", directions,
                        "Give one entry for each axis")
            )  # fmt: skip
        device = generator.device
        size = (len(x), len(directions), 1)
        k = torch.randint(math.lcm(*x.shape[2:]), size, generator=generator, device=device)
        moves = (k * torch.tensor(directions, device=device)).sum(1)
        return _rolled(x, moves), _rolled(y, moves)


class RandomTurn:
    """(x, y) → (T x, T y) for a problem that looks the same from every side of a square or cube.

    T is one of the 2^d d! reflections and turns that map the box to itself, the same for a whole batch;
    axes of different lengths are reflected but not exchanged. All channels are taken for scalars:
    components of vectors, and a 2-D vorticity, would change sign or places. Differentiable in both
    fields.
    """

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Fields (B, C, *cells) and (B, C', *cells), turned alike."""
        cells = tuple(x.shape[2:])
        orders = [
            order
            for order in itertools.permutations(range(len(cells)))
            if tuple(cells[i] for i in order) == cells
        ]
        count, device = len(orders) << len(cells), generator.device
        chosen = int(torch.randint(count, (), generator=generator, device=device))
        flips, order = chosen % (1 << len(cells)), orders[chosen >> len(cells)]
        mirrored = [2 + i for i in range(len(cells)) if flips >> i & 1]
        axes = (0, 1, *(2 + i for i in order))
        return x.permute(axes).flip(mirrored), y.permute(axes).flip(mirrored)


def _rolled(f: Tensor, moves: Tensor) -> Tensor:
    """Sample b of (B, C, *cells) rolled by moves[b] cells, moves (B, d)."""
    for axis, n in enumerate(f.shape[2:]):
        index = (torch.arange(n, device=moves.device) - moves[:, axis, None]) % n
        shape = [len(f), 1, *(n if i == axis else 1 for i in range(f.ndim - 2))]
        f = torch.take_along_dim(f, index.to(f.device).view(shape), 2 + axis)
    return f
