"""Structural similarity of images.

    SSIM = (2 μ_a μ_b + C₁)(2 σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂))

Means, variances and the covariance are weighted by a Gaussian of 1.5 px in windows of 11 × 11 px;
C₁ = (0.01 L)², C₂ = (0.03 L)², L the range of values. 1 for equal images.

Differentiable in both images. Source: Wang et al. 2004, Eq. 13 and Sec. III-C.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from ..core.errors import InputError, message

__all__ = ["ssim", "ssim_map"]

WINDOW = 11
"""Width of the window [px]; the map is smaller than the image by ten."""
_SIGMA = 1.5


def ssim_map(a: Tensor, b: Tensor, value_range: float = 1.0) -> Tensor:
    """SSIM of every whole window, mean over channels.

    Args:
        a, b: images, (B, H, W, C), H and W at least 11.
        value_range: L, difference between the brightest and the darkest value there can be.

    Returns:
        (B, H − 10, W − 10); entry (i, j) has its window about pixel (i + 5, j + 5).

    Raises:
        InputError: shapes that differ, or images below one window.
    """
    if a.shape != b.shape or a.ndim != 4 or min(a.shape[1:3]) < WINDOW:
        got = f"{tuple(a.shape)} and {tuple(b.shape)}"
        expected = f"two images (B, H, W, C) of at least {WINDOW} x {WINDOW} pixels"
        raise InputError(message("ssim", expected, got, "Channels are last"))
    C = a.shape[-1]
    p, q = a.movedim(-1, 1), b.movedim(-1, 1)
    # Shifted by a common constant, E[x²] − E[x]² cancels less in float32.
    shift = 0.5 * value_range
    p, q = p - shift, q - shift
    mean = _smooth(torch.cat((p, q, p * p, q * q, p * q), dim=1)).split(C, dim=1)
    low, high = mean[0], mean[1]
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    vp, vq, cross = mean[2] - low * low, mean[3] - high * high, mean[4] - low * high
    low, high = low + shift, high + shift
    value = (2 * low * high + c1) * (2 * cross + c2)
    return (value / ((low * low + high * high + c1) * (vp + vq + c2))).mean(1)


def ssim(a: Tensor, b: Tensor, value_range: float = 1.0) -> Tensor:
    """Mean SSIM per image, (B,); arguments and errors as `ssim_map`. Differentiable in both images."""
    return ssim_map(a, b, value_range).mean((1, 2))


def _smooth(x: Tensor) -> Tensor:
    """Gaussian means over whole windows of images (B, C, H, W)."""
    k = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weight = torch.exp(-0.5 * (k / _SIGMA) ** 2)
    weight = (weight / weight.sum()).view(1, 1, 1, -1)
    flat = x.reshape(-1, 1, *x.shape[2:])
    return conv2d(conv2d(flat, weight), weight.mT).unflatten(0, x.shape[:2]).squeeze(2)
