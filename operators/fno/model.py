"""The Fourier neural operator on fields in one, two or three dimensions."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...sim.core.errors import InputError, message
from ..layers.grid import OFFSETS, GridOperator, cell_positions
from .spectral import SpectralConv

__all__ = ["FNO", "FNOConfig"]


@dataclasses.dataclass(frozen=True)
class FNOConfig:
    """Sizes and choices of an `FNO`.

    Raises:
        InputError: values out of range.
    """

    n_modes: tuple[int, ...]
    """Largest wavenumber K kept on each axis, cycles per domain; neuraloperator's n_modes is 2 K."""
    in_channels: int = 1
    """Channels of the input."""
    out_channels: int = 1
    """Channels of the output."""
    hidden_channels: int = 32
    """Width h."""
    n_layers: int = 4
    """Fourier layers."""
    padding: tuple[float, ...] = ()
    """Zeros appended at the end of each axis for problems that are not periodic, as a share of its
    cells; () for none. A wave then has (1 + share) domains of room."""
    init: str = "normal"
    """Weights of Fourier modes: "normal", "paper" or "vp", see `SpectralConv`."""
    cells: tuple[int, ...] = ()
    """Grid of the training data; needed for init="vp" only, any grid may come later."""
    sampling: str = "cells"
    """Samples stand at "cells" (j + ½)/n or at "points" j/n."""

    def __post_init__(self) -> None:
        def check(fine: bool, expected: str, got: Any) -> None:
            if not fine:
                raise InputError(message("FNOConfig", expected, got, "Correct it"))

        for name in ("n_modes", "padding", "cells"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        dim = len(self.n_modes)
        check(1 <= dim <= 3, "n_modes for one to three axes", str(self.n_modes))
        for name in ("in_channels", "out_channels", "hidden_channels", "n_layers"):
            check(getattr(self, name) >= 1, f"{name} >= 1", getattr(self, name))
        check(min(self.n_modes) >= 1, "n_modes >= 1", str(self.n_modes))
        fine = len(self.padding) in (0, dim) and all(0 <= p <= 1 for p in self.padding)
        check(fine, f"padding of {dim} shares in [0, 1]", str(self.padding))
        check(self.init in ("normal", "paper", "vp"), "init normal, paper or vp", self.init)
        check(
            len(self.cells) == dim or (not self.cells and self.init != "vp"),
            f"cells of {dim} axes", str(self.cells),
        )  # fmt: skip
        check(self.sampling in OFFSETS, "sampling cells or points", self.sampling)


class _Pointwise(nn.Module):
    """Affine map of channels in every cell, (B, C, *cells) → (B, C_out, *cells)."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator | None) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        nn.init.uniform_(self.bias, -bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.expand(
            len(x), -1, -1
        )  # faster on CPUs than a convolution or a product
        return torch.baddbmm(self.bias[:, None], weight, x.flatten(2)).unflatten(2, x.shape[2:])


class _Perceptron(nn.Module):
    """Pointwise maps with a GELU between them."""

    def __init__(self, a: int, b: int, c: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.first, self.second = _Pointwise(a, b, generator), _Pointwise(b, c, generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


class _Layer(nn.Module):
    """z = σ(Fourier(x) + W x);  y = σ(MLP(z) + g x), σ = GELU, on the last layer the identity."""

    def __init__(self, c: FNOConfig, last: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        h = c.hidden_channels
        self.spectral = SpectralConv(
            h, h, c.n_modes, init=c.init, cells=c.cells or None, generator=generator
        )
        self.skip = _Pointwise(h, h, generator)
        self.mlp = _Perceptron(h, max(1, h // 2), h, generator)
        self.gate = nn.Parameter(torch.ones(h, *[1] * len(c.n_modes)))
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        z = self.spectral(x) + self.skip(x)
        z = z if self.last else F.gelu(z)
        y = torch.addcmul(self.mlp(z), self.gate, x)
        return y if self.last else F.gelu(y)


class FNO(GridOperator):
    """Fourier neural operator: positions appended, lifted to h channels, n_layers of

        z = σ(F⁻¹(W_k F x) + V x + b),    x ← σ(MLP(z) + g ⊙ x),

    and projected; σ is GELU, absent on the last layer. The weights belong to functions, not to grids:
    every grid with more than 2 K cells an axis will do.

    Args:
        config: sizes.
        generator: source of the weights; default torch's global one.

    Source: Li et al. 2021 (Fourier neural operator); the order of the layer is that of neuraloperator.
    """

    config_type = FNOConfig

    def __init__(self, config: FNOConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__(config)
        h = config.hidden_channels
        self.lift = _Perceptron(config.in_channels + self.dim, 2 * h, h, generator)
        self.layers = nn.ModuleList(
            _Layer(config, i + 1 == config.n_layers, generator) for i in range(config.n_layers)
        )
        self.project = _Perceptron(h, 2 * h, config.out_channels, generator)

    def field(self, x: Tensor) -> Tensor:
        """Normalized fields (B, C, *cells) → (B, C_out, *cells)."""
        n = x.shape[2:]
        positions = torch.meshgrid(
            *(cell_positions(k, self.config.sampling, dtype=x.dtype, device=x.device) for k in n),
            indexing="ij",
        )
        z = self.lift(torch.cat([x, torch.stack(positions).expand(len(x), -1, *n)], 1))
        if self.config.padding:
            ends = [round(p * k) for p, k in zip(self.config.padding, n, strict=True)]
            z = F.pad(z, [v for end in reversed(ends) for v in (0, end)])
        for layer in self.layers:
            z = layer(z)
        for axis, k in enumerate(n, 2):
            z = z.narrow(axis, 0, k)
        return self.project(z)
