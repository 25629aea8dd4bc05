"""Inputs known at any points, and an encoder that takes them: points in any order, of any number."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid

__all__ = ["POOLS", "PointEncoder", "Scattered"]

POOLS = ("attention", "mean")
"""Averages around anchors, or one average of all points."""


@dataclasses.dataclass(frozen=True)
class Scattered:
    """Values of input fields at points.

    Raises:
        InputError: shapes that do not fit, a sample without points, numbers that are not finite (where
            the mask lets them through).
    """

    x: Tensor
    """Points (n, D) of all samples, or (B, n, D)."""
    value: Tensor
    """(B, n)."""
    mask: Tensor | None = None
    """(B, n) bool, True where there is a point; None: everywhere. What stands elsewhere is not read."""

    def __post_init__(self) -> None:
        x, v, m = self.x, self.value, self.mask
        shape = tuple(v.shape)
        fits = v.ndim == 2 and x.ndim in (2, 3) and tuple(x.shape[:-1]) in (shape, shape[1:])
        if not fits or not (x.is_floating_point() and v.is_floating_point()):
            expected = "values (B, n) at points (n, D) or (B, n, D), of floating point"
            got = f"values {shape}, points {tuple(x.shape)}"
            raise InputError(message("Scattered", expected, got, "Give one value per point"))
        if m is not None and (tuple(m.shape) != shape or m.dtype != torch.bool):
            raise InputError(message("Scattered", f"a bool mask {shape}", m, "Correct it"))
        none = shape[1] == 0 or (m is not None and not bool(m.any(1).all()))
        if none:
            got, fix = "a sample without any", "Leave it out"
            raise InputError(message("Scattered", "points in every sample", got, fix))
        there = torch.ones((), dtype=torch.bool, device=v.device) if m is None else m
        shown = there if x.ndim == 3 or m is None else m.any(0)
        bad = (~torch.isfinite(v.detach()) & there).sum()
        bad = bad + (~torch.isfinite(x.detach()).all(-1) & shown).sum()
        if int(bad) > 0:
            got, fix = f"{int(bad)} that are not", "Mask them, or leave them out"
            raise InputError(message("Scattered", "finite values and points", got, fix))

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def of(cls, a: Tensor, grid: Grid) -> Scattered:
        """Cell centres of fields (B, 1, *cells) that fill the box of a grid, with any number of cells.

        Numbers are not looked at: nothing here waits for a GPU.

        Raises:
            InputError: another number of axes.
        """
        return cls._made(resized(a, grid).points(a).reshape(-1, grid.dim), a.flatten(1), None)

    @classmethod
    def _made(cls, x: Tensor, value: Tensor, mask: Tensor | None) -> Scattered:
        """Of what is known to fit."""
        made = object.__new__(cls)
        for name, v in (("x", x), ("value", value), ("mask", mask)):
            object.__setattr__(made, name, v)
        return made

    @classmethod
    def pad(cls, samples: Sequence[tuple[Tensor, Tensor]]) -> Scattered:
        """One batch of samples of different sizes, each points (n_b, D) and values (n_b,).

        Raises:
            InputError: no samples, or a value too many or too few.
        """
        if not samples or any(len(x) != len(v) or x.ndim != 2 for x, v in samples):
            got = [(tuple(x.shape), tuple(v.shape)) for x, v in samples]
            fix = "Give one value per point"
            raise InputError(message("Scattered.pad", "points (n, D), values (n,)", got, fix))
        put = nn.utils.rnn.pad_sequence
        mask = [torch.ones(len(v), dtype=torch.bool, device=v.device) for _, v in samples]
        parts = ([x for x, _ in samples], [v for _, v in samples], mask)
        return cls(*(put(part, batch_first=True) for part in parts))

    def filled(self) -> Scattered:
        """The same with the mean of a sample's points and values where the mask hides them."""
        if self.mask is None:
            return self
        m = self.mask
        x = self.x.expand(*m.shape, -1)
        count = m.sum(1, keepdim=True)
        v0 = torch.where(m, self.value, 0.0)
        x0 = torch.where(m[..., None], x, 0.0)
        v = torch.where(m, v0, v0.sum(1, keepdim=True) / count)
        x = torch.where(m[..., None], x0, x0.sum(1, keepdim=True) / count[..., None])
        return self._made(x, v, m)

    def average(self, f: Tensor) -> Tensor:
        """Mean over the points of each sample, (B, n) → (B,)."""
        if self.mask is None:
            return f.mean(-1)
        return torch.where(self.mask, f, 0.0).sum(-1) / self.mask.sum(-1)

    def thin(self, share: float, generator: torch.Generator | None = None) -> Scattered:
        """A random share of the points, at least one; the same of every sample where none is masked.

        Raises:
            InputError: a share out of (0, 1].
        """
        if not 0 < share <= 1:
            raise InputError(message("Scattered.thin", "a share in (0, 1]", share, "Correct it"))
        place = "cpu" if generator is None else generator.device
        n = self.value.shape[1]
        if self.mask is None:
            kept = torch.randperm(n, generator=generator, device=place).to(self.value.device)
            kept = kept[: max(1, round(share * n))]
            return self._made(self.x[..., kept, :], self.value[:, kept], None)
        order = torch.rand(self.mask.shape, generator=generator, device=place).to(self.mask.device)
        rank = torch.where(self.mask, order, 2.0).argsort(1).argsort(1)
        count = (share * self.mask.sum(1, keepdim=True)).round().clamp_min(1)
        return self._made(self.x, self.value, self.mask & (rank < count))

    def to(self, *args: Any, **kwargs: Any) -> Scattered:
        """Copy on another device or in another precision, as `Tensor.to`."""
        value = self.value.to(*args, **kwargs)
        mask = None if self.mask is None else self.mask.to(value.device)
        return Scattered(self.x.to(*args, **kwargs), value, mask)


def resized(a: Tensor, grid: Grid) -> Grid:
    """The grid whose cells a field (B, 1, *cells) has, in the box of another.

    Raises:
        InputError: another number of axes, or of channels.
    """
    if a.ndim != grid.dim + 2 or a.shape[1] != 1:
        expected = f"fields (B, 1, {', '.join(['n'] * grid.dim)})"
        raise InputError(message("Scattered", expected, a, "Give one channel and these axes"))
    cells = tuple(a.shape[2:])
    return grid if cells == grid.cells else dataclasses.replace(grid, cells=cells)


class PointEncoder(nn.Module):
    """Code of a field from its values at points, in any order and of any number:

        h_i = perceptron([γ(x_i), (a_i − μ)/σ])        γ: x and sines and cosines of πjx, j ≤ F
        "attention"   z_m = Σ_i α_mi h_i,   α_m· = softmax_i(−|x_i − c_m|²/(2 l_m²)),   β = tanh(net(z))
        "mean"        z = mean_i h_i,   β = tanh(perceptron(z))

    Anchors c_m start on a lattice and learn, with their lengths l_m. As α sums to one around each of
    them, places with many points do not outweigh others; a mean follows the density of points. In
    two dimensions the anchors' lattice is halved by a convolution before the perceptron.

    Args:
        grid: box of the field; its cells do not matter.
        latent: dβ.
        widths: hidden layers of the last perceptron.
        channels: width of h; of a mean 8 times as many.
        bounded: whether tanh ends it.
        pool: out of `POOLS`.
        anchors: per axis; default 8, in 1-D 16.
        frequencies: F.

    Raises:
        InputError: numbers out of range, an unknown pool.

    Differentiable in values, points and weights. Source: Zaheer et al. 2017 (sums over sets); Lee et al.
    2019 (attention over sets); the anchors are ours.
    """

    def __init__(
        self,
        grid: Grid,
        latent: int,
        widths: Sequence[int] = (256, 128),
        channels: int = 32,
        bounded: bool = True,
        pool: str = "attention",
        anchors: int | None = None,
        frequencies: int = 4,
    ) -> None:
        super().__init__()
        D = grid.dim
        per = anchors if anchors is not None else (16 if D == 1 else 8)
        if pool not in POOLS or min(latent, channels, per) < 1 or frequencies < 0:
            expected = f"pool out of {POOLS}, channels, anchors >= 1, frequencies >= 0"
            got = f"{pool}, {channels}, {per}, {frequencies}"
            raise InputError(message("PointEncoder", expected, got, "Correct them"))
        self.grid, self.bounded, self.pool, self.frequencies = grid, bounded, pool, frequencies
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("lower", torch.tensor(grid.origin), persistent=False)
        self.register_buffer("size", torch.tensor(grid.lengths), persistent=False)
        wide = channels if pool == "attention" else 8 * channels
        sizes = [D * (1 + 2 * frequencies) + 1, channels, wide]
        self.points = _perceptron(sizes)
        head: list[nn.Module] = []
        last = wide
        if pool == "attention":
            line = (torch.arange(per) + 0.5) / per
            self.anchors = nn.Parameter(torch.cartesian_prod(*[line] * D).reshape(-1, D))
            self.log_length = nn.Parameter(torch.full((per**D,), math.log(0.5 / per)))
            shape = [per] * D
            if D == 2 and per > 4:
                head += [nn.Unflatten(-1, tuple(shape))]
                head += [nn.Conv2d(wide, wide, 3, stride=2, padding=1), nn.SiLU()]
                shape = [-(-per // 2)] * D
            head.append(nn.Flatten())
            last = wide * math.prod(shape)
        self.layers = nn.Sequential(*head, *_perceptron([last, *widths, latent])[:-1])

    def fit_scales(self, a: Tensor | Scattered) -> None:
        """Take μ and σ from fields."""
        if isinstance(a, Scattered):
            a = a.value if a.mask is None else a.value[a.mask]
        self.mean.copy_(a.mean())
        self.std.copy_(a.std())

    def forward(self, a: Tensor | Scattered) -> Tensor:
        """Points, or fields (B, 1, *cells) of any number of cells → codes (B, dβ).

        Raises:
            InputError: points or fields of another number of axes, numbers that are not finite.
        """
        if isinstance(a, Scattered):
            given = a.filled()
        else:
            given = Scattered.of(a, self.grid)
            Scattered(given.x, given.value)  # checks the numbers
        D = self.grid.dim
        if given.x.shape[-1] != D:
            fix = "Points are those of the input's domain"
            raise InputError(message("PointEncoder", f"points (…, {D})", given.x, fix))
        x = (given.x - self.lower) / self.size
        waves = [math.pi * j * x for j in range(1, self.frequencies + 1)]
        place = torch.cat([x, *(f(w) for w in waves for f in (torch.sin, torch.cos))], -1)
        value = (given.value - self.mean) / self.std
        place = place.expand(*value.shape, -1)
        h = self.points(torch.cat([place, value[..., None]], -1))
        if self.pool == "mean":
            share = torch.ones_like(value) if given.mask is None else given.mask.to(value)
            z = (h * (share / share.sum(1, keepdim=True))[..., None]).sum(1)
        else:
            squares = (x[..., None, :, :] - self.anchors[:, None]).square().sum(-1)
            logits = -0.5 * squares * torch.exp(-2 * self.log_length)[:, None]
            if given.mask is not None:
                logits = logits.masked_fill(~given.mask[:, None], -math.inf)
            # Weights below e^-40 of the largest are zero: float32 would hold them as denormals, slowly.
            far = logits < logits.amax(-1, keepdim=True) - 40
            z = (
                torch.softmax(logits.masked_fill(far, -math.inf), -1) @ h
            ).mT  # (B, channels, anchors)
        beta = self.layers(z)
        return torch.tanh(beta) if self.bounded else beta


def _perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers, each with silu."""
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        parts += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*parts)
