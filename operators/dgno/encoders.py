"""From a field on cells to a latent code, and from cells to points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid

__all__ = ["Encoder", "at_points"]


class Encoder(nn.Module):
    """Code of a field: normalize, convolve where there are two axes, flatten, perceptron, tanh.

        β = tanh(W … silu(conv … ((a − μ)/σ)))

    Convolutions have a stride of 2 until an axis has four cells or less. μ and σ are per field, set by
    `fit_scales`.

    Args:
        cells: grid of the field.
        latent: dβ.
        widths: hidden layers of the perceptron.
        channels: of the convolutions; 0 takes the cells straight into the perceptron.
        bounded: whether tanh ends it, so that codes lie in (−1, 1).

    Differentiable in the field and the weights. Source: Zang & Koutsourelakis 2025 (DGenNO), released
    code; padding and fewer layers are ours.
    """

    def __init__(
        self,
        cells: Sequence[int],
        latent: int,
        widths: Sequence[int] = (256, 128),
        channels: int = 32,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        self.cells, self.bounded = tuple(cells), bounded
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        parts: list[nn.Module] = []
        size, last = list(self.cells), 1
        if channels and len(size) == 2:
            while min(size) > 4:
                parts += [nn.Conv2d(last, channels, 3, stride=2, padding=1), nn.SiLU()]
                size, last = [-(-n // 2) for n in size], channels
        parts.append(nn.Flatten())
        sizes = [last * math.prod(size), *widths, latent]
        for a, b in itertools.pairwise(sizes):
            parts += [nn.Linear(a, b), nn.SiLU()]
        self.layers = nn.Sequential(*parts[:-1])

    def fit_scales(self, a: Tensor) -> None:
        """Take μ and σ from fields."""
        self.mean.copy_(a.mean())
        self.std.copy_(a.std())

    def forward(self, a: Tensor) -> Tensor:
        """Fields (B, 1, *cells) → codes (B, dβ).

        Raises:
            InputError: fields of another shape.
        """
        if a.ndim != len(self.cells) + 2 or tuple(a.shape[1:]) != (1, *self.cells):
            expected = f"fields (B, 1, {', '.join(map(str, self.cells))})"
            raise InputError(message("Encoder", expected, a, "Resample them to this grid"))
        beta = self.layers((a - self.mean) / self.std)
        return torch.tanh(beta) if self.bounded else beta


def at_points(a: Tensor, grid: Grid, x: Tensor, smooth: bool) -> Tensor:
    """Values of fields at points, (B, 1, *cells), (n, D) → (B, n).

    Args:
        a: fields at cell centres.
        grid: where; values go on beyond walls as in a mirror.
        x: points shared by all fields.
        smooth: cubic interpolation (third order; exact mirror images where the slope at walls is
            zero), else the value of the cell.

    Differentiable in a. Source: Keys 1981.
    """
    rows, weights = x.new_zeros(len(x), 1, dtype=torch.long), x.new_ones(len(x), 1)
    for d, (n, h, start) in enumerate(zip(grid.cells, grid.dx, grid.origin, strict=True)):
        s = (x[:, d] - start) / h
        if not smooth:
            index = s.floor().long().clamp(0, n - 1)[:, None]
            part = torch.ones_like(weights[:, :1])
        else:
            base = (s - 0.5).floor()
            t = (s - 0.5 - base)[:, None]
            index = base.long()[:, None] + torch.arange(-1, 3, device=x.device)
            index = torch.where(index < 0, -1 - index, index)
            index = torch.where(index >= n, 2 * n - 1 - index, index).clamp(0, n - 1)
            part = torch.cat(
                [
                    ((-0.5 * t + 1) * t - 0.5) * t,
                    (1.5 * t - 2.5) * t * t + 1,
                    ((-1.5 * t + 2) * t + 0.5) * t,
                    (0.5 * t - 0.5) * t * t,
                ],
                1,
            )
        rows = (rows[:, :, None] * n + index[:, None]).flatten(1)
        weights = (weights[:, :, None] * part[:, None]).flatten(1)
    values = a.flatten(1)[:, rows.flatten()].unflatten(1, tuple(rows.shape))
    return (values * weights).sum(-1)
