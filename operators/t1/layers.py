"""The layer of T1: what acts on blocks of coefficients, and the mode sets it keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...sim.core.errors import InputError, message
from .basis import Basis1D

__all__ = ["ModeMixing", "T1Layer", "mode_std", "pack", "unpack"]

INITS = ("vp", "kaiming", "fno")


def mode_std(
    modes: int, inputs: int, outputs: int, cells: Sequence[int], init: str = "kaiming"
) -> float:
    """Standard deviation s of the channel matrices W_k (inputs, outputs) of the kept modes k:

        vp       s² = N/(modes · inputs)    a white field on N cells keeps its variance
        kaiming  s² = 1/inputs              a coefficient keeps its variance
        fno      s = 1/(inputs · outputs)

    Args:
        modes, inputs, outputs: sizes.
        cells: grid; N is their product.
        init: as above.

    Source: Poli et al. 2022 (Transform once), §3.
    """
    std = {
        "vp": math.sqrt(math.prod(cells) / (modes * inputs)),
        "kaiming": inputs**-0.5,
        "fno": 1 / (inputs * outputs),
    }.get(init)
    if std is None:
        raise InputError(message("mode_std", f"init {', '.join(INITS)}", repr(init), "Choose one"))
    return std


def ball(bases: Sequence[Basis1D]) -> Tensor:
    """Which modes of a block lie in Σ_d (q_d/Q_d)² ≤ 1, q_d half waves and Q_d the most of them, (*m).

    Turbulence and elliptic equations leave little energy in the corners of a block, which hold 21 % of
    its modes in the plane and 48 % in space.
    """
    total = torch.zeros(())
    for axis, basis in enumerate(bases):
        q = basis.wavenumbers()
        shape = [-1 if a == axis else 1 for a in range(len(bases))]
        total = total + ((q / q.max().clamp(min=1)) ** 2).reshape(shape)
    return total <= 1 + 1e-9


def pack(c: Tensor) -> Tensor:
    """(B, C, m₁, m₂, …) → (C, m₁, B, m₂, …), in which mixing along the first and the last axis is one
    product of matrices per channel without copies."""
    return c.movedim(0, 2).contiguous()


def unpack(z: Tensor) -> Tensor:
    """(C, m₁, B, m₂, …) → (B, C, m₁, m₂, …)."""
    return z.movedim(2, 0).contiguous()


class ModeMixing(nn.Module):
    """z'[c, …, o, …] = Σ_i z[c, …, i, …] P[c, i, o] along each axis in turn, for each channel alone.

    Args:
        channels: number of channels.
        m: modes of each axis; entries of P are N(0, 1/m).
        generator: source of the weights.
    """

    def __init__(
        self, channels: int, m: Sequence[int], generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            torch.empty(channels, k, k).normal_(0, k**-0.5, generator=generator) for k in m
        )

    def forward(self, z: Tensor) -> Tensor:
        """Packed coefficients (C, m₁, B, m₂, …) → the same shape."""
        shape = z.shape
        z = torch.bmm(self.weights[0].mT, z.flatten(2)).view(shape)
        for axis, weight in enumerate(list(self.weights)[1:], 3):
            moved = z.movedim(axis, -1)
            y = torch.bmm(moved.flatten(1, -2), weight)
            z = y.view(moved.shape).movedim(-1, axis)
        return z


class T1Layer(nn.Module):
    """z ← z + mix(σ(W_k z_k)): a matrix of channels for each kept mode, GELU, then dense mixing of modes
    along each axis in each channel. Modes outside the kept set stay zero.

    Args:
        channels: width w.
        bases: of each axis.
        cells: grid that "vp" is for.
        init: of the channel matrices, see `mode_std`.
        mode_set: "box", or "ball", see `ball`.
        generator: source of the weights.

    Source: Poli et al. 2022 (Transform once), §4 and released code.
    """

    def __init__(
        self, channels: int, bases: Sequence[Basis1D], cells: Sequence[int], init: str = "kaiming",
        mode_set: str = "box", generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        m = tuple(basis.m for basis in bases)
        modes, index, mask = math.prod(m), None, None
        if mode_set == "ball":
            kept = ball(bases)
            index = kept.flatten().nonzero()[:, 0]
            # where each mode of the block stands among the kept ones; the others read a row of zeros
            place = torch.full((modes,), len(index))
            place[index] = torch.arange(len(index))
            modes, mask = len(index), kept.to(torch.get_default_dtype())
            self.register_buffer("place", place, persistent=False)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        weight = torch.empty(modes, channels, channels)
        std = mode_std(modes, channels, channels, cells, init)
        self.weight = nn.Parameter(weight.normal_(0, std, generator=generator))
        self.mixing = ModeMixing(channels, m, generator)

    def forward(self, z: Tensor) -> Tensor:
        """Packed coefficients (w, m₁, B, m₂, …) → the same shape."""
        y = self.mixing(self.mix_channels(z))
        if self.mask is not None:
            y = y * self.mask.unsqueeze(1)
        return z + y

    def mix_channels(self, z: Tensor) -> Tensor:
        """σ(W_k z_k) of every kept mode; packed coefficients, zero outside the kept set."""
        order = [1, *range(3, z.ndim), 2, 0]
        rows = z.permute(order)
        shape = rows.shape
        rows = rows.reshape(-1, *shape[-2:])
        if self.index is not None:
            rows = rows.index_select(0, self.index)
        rows = F.gelu(torch.bmm(rows, self.weight))
        if self.index is not None:
            rows = torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])]).index_select(0, self.place)
        back = [order.index(axis) for axis in range(z.ndim)]
        return rows.view(shape).permute(back).contiguous()
