"""T1U: a U-Net on the block of coefficients."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import T1Layer, pack, unpack
from .model import CoefficientOperator, T1Config, _Lift

__all__ = ["T1U", "T1UConfig"]

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclasses.dataclass(frozen=True)
class T1UConfig(T1Config):
    """Sizes and choices of a `T1U`; `n_layers` counts layers on coefficients before the U-Net."""

    hidden_channels: int = 16
    """Channels of the U-Net on its first level; they double on each further level."""
    n_layers: int = 1
    """Layers on coefficients before the U-Net."""
    levels: int = 3
    """How often the block is halved."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.levels >= 1, "levels >= 1", self.levels)


class UNet(nn.Module):
    """U-Net for images of any size, (B, inputs, *m) → (B, outputs, *m), with 3-cell convolutions.

    The image is padded at its end to a multiple of 2^levels. The last convolution starts at zero.

    Args:
        dim: axes of the image.
        inputs, outputs: channels.
        channels: of the first level.
        levels: number of halvings.
        generator: source of the weights; default torch's global one.
    """

    def __init__(
        self, dim: int, inputs: int, outputs: int, channels: int, levels: int,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        conv, self.mode, self.levels = CONVOLUTIONS[dim], INTERPOLATIONS[dim], levels
        widths = [channels * 2 ** min(level, 3) for level in range(levels + 1)]

        def block(a: int, b: int, stride: int = 1) -> nn.Module:
            return nn.Sequential(
                conv(a, b, 3, stride, 1), nn.GELU(), conv(b, b, 3, 1, 1), nn.GELU()
            )

        self.down = nn.ModuleList(
            block(a, b, 1 if level == 0 else 2)
            for level, (a, b) in enumerate(zip([inputs, *widths[:-1]], widths, strict=True))
        )
        self.up = nn.ModuleList(
            block(widths[level] + widths[level + 1], widths[level]) for level in range(levels)
        )
        self.last = conv(widths[0] + inputs, outputs, 1)
        for part in self.modules():
            if isinstance(part, conv):
                fan_in = part.weight[0].numel()
                nn.init.normal_(part.weight, std=math.sqrt(2 / fan_in), generator=generator)
                nn.init.zeros_(part.bias)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        cells = x.shape[2:]
        ends = [-n % 2**self.levels for n in cells]
        z = x = F.pad(x, [v for end in reversed(ends) for v in (0, end)])
        kept = []
        for down in self.down:
            z = down(z)
            kept.append(z)
        for skip, up in zip(kept[-2::-1], list(self.up)[::-1], strict=True):
            z = F.interpolate(z, size=skip.shape[2:], mode=self.mode)
            z = up(torch.cat([skip, z], 1))
        z = self.last(torch.cat([z, x], 1))
        for axis, n in enumerate(cells, 2):
            z = z.narrow(axis, 0, n)
        return z


class T1U(CoefficientOperator):
    """Transform once, then treat the block of coefficients as an image: lift to C + D channels, layers
    as in `T1`, a U-Net.

    Args:
        config: sizes.
        generator: source of the weights; default torch's global one.

    Source: Poli et al. 2022 (Transform once), §4.2 of the released code; a U-Net of any size here,
    without normalization, which would hide amplitudes.
    """

    config_type = T1UConfig

    def __init__(self, config: T1UConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__(config)
        width = config.in_channels + self.dim
        self.lift = _Lift(self, width, generator)
        self.layers = nn.ModuleList(
            T1Layer(
                width, self.input_bases, config.cells, config.init, config.mode_set, generator,
            )
            for _ in range(config.n_layers)
        )  # fmt: skip
        self.unet = UNet(
            self.dim, width, config.out_channels, config.hidden_channels, config.levels, generator
        )

    def network(self, c: Tensor) -> Tensor:
        """Scaled coefficients (B, C, *m) → (B, C_out, *m)."""
        z = pack(self.lift(c))
        for layer in self.layers:
            z = layer(z)
        return self.unet(unpack(z))
