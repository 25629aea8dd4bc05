"""What proposes search directions: a map r ↦ q ≈ A⁻¹ r up to scale, and the published network.

Source: Kaneda et al. 2023, "A Deep Conjugate Direction Method for Iteratively Solving Linear
Systems", section 5 and figure 3; layer by layer as in the authors' training script.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from ...sim.grid.poisson import Stencil

__all__ = ["DirectionNet", "DCDMNet", "convolution", "convolve"]


class DirectionNet(nn.Module):
    """A network q = net(r, geometry), r and q (B, *cells), zero outside active cells."""

    linear = False
    """Whether q is linear in r; others get r with ‖r‖ = 1."""
    symmetric = False
    """Whether r ↦ q is symmetric positive definite, so that plain CG may use it."""
    settings: dict[str, Any]
    """Arguments that make this network again."""

    def prepare(self, stencil: Stencil, active: Tensor) -> Any:
        """What depends on the geometry only: faces (b, *faces), active cells (b, *cells)."""
        return active.to(next(self.parameters()))

    def forward(self, r: Tensor, geometry: Any) -> Tensor:
        """Directions of the shape of r. Differentiable in r and in the weights."""
        raise NotImplementedError

    def parameter_count(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters())


def convolve(h: Tensor, kernel: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    """A convolution of (B, C, *cells) over 2 or 3 axes, stride 1.

    For one small grid in 3-D torch takes its own loops on a CPU, 5 to 13 times slower than oneDNN,
    which it takes for two: solves, which have one grid and no gradients, call that directly.
    """
    if h.dim() == 4:
        return nn.functional.conv2d(h, kernel, bias, padding=padding)
    plain = h.device.type == "cpu" and h.dtype == torch.float32 and not torch.is_grad_enabled()
    if plain and len(h) == 1 and h[0, 0].numel() >= 512 and torch.backends.mkldnn.is_available():
        ones = [1, 1, 1]
        return torch.ops.aten.mkldnn_convolution(h, kernel, bias, padding, ones, ones, 1)
    return nn.functional.conv3d(h, kernel, bias, padding=padding)


class _Conv3d(nn.Conv3d):
    def forward(self, h: Tensor) -> Tensor:
        return convolve(h, self.weight, self.bias, list(self.padding))  # type: ignore[arg-type]


def convolution(dim: int, n_in: int, n_out: int, *args: Any, **kwargs: Any) -> nn.Module:
    """A convolution over 2 or 3 axes, stride 1."""
    kind = {2: nn.Conv2d, 3: _Conv3d}[dim]
    return kind(n_in, n_out, *args, **kwargs)


class DCDMNet(DirectionNet):
    """The published network: convolutions of 16 channels on two resolutions, blind to obstacles.

    Args:
        dim: 2 or 3 axes; published in 3.
        size: 64 or 128, the published depth for grids of that many cells per axis.
        channels: 16.
        generator: for the initial weights.
        scaled: whether r gets a mean square of one instead of ‖r‖ = 1 as published, so that a bias
            weighs the same on grids of any size.

    Cells per axis must be even. 97 457 (64) and 152 881 (128) weights in 3-D, 32 657 (64) in 2-D.
    """

    DEPTH = {64: (4, 3, 2), 128: (6, 5, 3)}
    """Convolutions on the fine level, then pairs on the coarse and again on the fine level."""

    def __init__(
        self,
        dim: int = 3,
        size: int = 64,
        channels: int = 16,
        generator: torch.Generator | None = None,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        if dim not in (2, 3) or size not in self.DEPTH:
            expected = f"dim 2 or 3 and size out of {tuple(self.DEPTH)}"
            raise InputError(message("DCDMNet", expected, f"dim {dim}, size {size}"))
        self.settings = {"dim": dim, "size": size, "channels": channels, "scaled": scaled}
        self.dim, self.scaled = dim, scaled
        first, coarse, last = self.DEPTH[size]

        def layers(count: int) -> nn.ModuleList:
            return nn.ModuleList(
                convolution(dim, channels, channels, 3, padding=1) for _ in range(count)
            )

        self.lift = convolution(dim, 1, channels, 3, padding=1)
        self.fine, self.coarse, self.last = layers(first), layers(2 * coarse), layers(2 * last)
        self.drop = convolution(dim, channels, 1, 1)
        if generator is not None:
            for p in self.parameters():
                fan = p[0].numel() if p.dim() > 1 else 0
                with torch.no_grad():
                    p.normal_(0.0, (2 / fan) ** 0.5, generator=generator) if fan else p.zero_()
        # Channels last makes these narrow convolutions a quarter faster on a CPU.
        self.to(memory_format=torch.channels_last if dim == 2 else torch.channels_last_3d)

    def forward(self, r: Tensor, geometry: Tensor) -> Tensor:
        if any(n % 2 for n in r.shape[1:]):
            fix = "Choose even numbers of cells, or LinearMultigrid"
            raise InputError(message("DCDMNet", "even cells per axis", f"{tuple(r.shape)}", fix))
        a = self.lift((r * r[0].numel() ** 0.5 if self.scaled else r)[:, None])
        a = self.fine[0](a).relu()
        for i in range(1, len(self.fine) - 1, 2):
            b = self.fine[i](a).relu()
            a = self.fine[i + 1](b).relu() + a
        skip = self.fine[-1](a).relu()
        pool = nn.functional.avg_pool2d if self.dim == 2 else nn.functional.avg_pool3d
        a = self._pairs(self.coarse, pool(skip, 2))
        a = self._pairs(self.last, nn.functional.interpolate(a, scale_factor=2) + skip)
        return self.drop(a)[:, 0] * geometry

    @staticmethod
    def _pairs(layers: nn.ModuleList, a: Tensor) -> Tensor:
        for i in range(0, len(layers), 2):
            a = layers[i + 1](layers[i](a).relu()).relu() + a
        return a
