"""Convolution by a truncated set of Fourier modes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError

__all__ = ["SpectralConv"]


class _Waves(torch.autograd.Function):
    """A: fields (B, C, *cells) → X_k = mean of x e^{−ik·x} for the kept k, (B, C, *kept).

    Aᵀ = S w⁻¹ / N with S of `_Fields`, N cells, w = 1 in the plane k_D = 0 and 2 elsewhere: a derivative
    costs what a transform costs, where that of an FFT before the choice of k is a full complex one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, n_modes: tuple[int, ...]) -> Tensor:
        X = torch.fft.rfft(x, norm="forward")[..., : n_modes[-1] + 1]
        for axis in range(len(n_modes) - 2, -1, -1):
            K, d = n_modes[axis], axis + 2
            X = torch.fft.fft(X, dim=d, norm="forward")
            X = torch.cat([X.narrow(d, 0, K + 1), X.narrow(d, X.shape[d] - K, K)], d)
        return X

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, ctx.n_modes = inputs
        ctx.cells = tuple(x.shape[2:])

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        (G,) = gradients
        half = torch.cat([G[..., :1], 0.5 * G[..., 1:]], -1) / math.prod(ctx.cells)
        return _Fields.apply(half, ctx.n_modes, ctx.cells), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _) -> Tensor:
        return _Waves.apply(tangent, ctx.n_modes)


class _Fields(torch.autograd.Function):
    """S: Y (B, C, *kept) → Σ w_k Re(Y_k e^{ik·x}) on `cells`; Sᵀ = N w A with A of `_Waves`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(Y: Tensor, n_modes: tuple[int, ...], cells: tuple[int, ...]) -> Tensor:
        for axis in range(len(n_modes) - 1):
            K, d = n_modes[axis], axis + 2
            gap = list(Y.shape)
            gap[d] = cells[axis] - (2 * K + 1)
            Y = torch.cat([Y.narrow(d, 0, K + 1), Y.new_zeros(gap), Y.narrow(d, K + 1, K)], d)
            Y = torch.fft.ifft(Y, dim=d, norm="forward")
        # Libraries differ in what an imaginary part in the plane k_D = 0 does to irfft.
        Y = torch.cat([Y[..., :1].real.to(Y.dtype), Y[..., 1:]], -1)
        return torch.fft.irfft(Y, n=cells[-1], norm="forward")

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, ctx.n_modes, ctx.cells = inputs

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        X = _Waves.apply(gradients[0], ctx.n_modes) * math.prod(ctx.cells)
        return torch.cat([X[..., :1], 2 * X[..., 1:]], -1), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_) -> Tensor:
        return _Fields.apply(tangent, ctx.n_modes, ctx.cells)


class SpectralConv(nn.Module):
    """y = F⁻¹ (W_k F x)_{|k_d| ≤ K_d} + b, a complex matrix W_k of channels for each kept wavenumber k.

    Fourier coefficients are means over the cells, so the same weights act on any grid of n_d ≥
    2 K_d + 1 cells. Wavenumbers are kept symmetrically, −K … K, and only those with k_D ≥ 0 are
    stored, since x is real. The plane k_D = 0 holds both k and −k: its imaginary part after the
    transforms along the other axes is dropped, which makes W_k and the conjugate of W_{−k} one weight.
    Transforms are pruned: each axis transforms only lines that were kept on those before. All of
    `torch.func` applies; `is_grads_batched` of `torch.autograd.grad` does not, use `torch.func.jacrev`.

    Args:
        in_channels, out_channels: of x and y.
        n_modes: K_d of each axis, cycles per domain.
        init: "normal": E|W|² = 2/(in + out) (neuraloperator); "paper": Re, Im uniform in
            [0, 1/(in·out)); "vp": a white field keeps its variance.
        cells: grid that "vp" is for.
        bias: whether b is there.
        generator: source of the weights; default torch's global one.

    Raises:
        InputError: numbers out of range.

    Source: Li et al. 2021 (Fourier neural operator), §4; Poli et al. 2022 (Transform once), §3 for vp.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        *,
        init: Literal["normal", "paper", "vp"] = "normal",
        cells: Sequence[int] | None = None,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_modes, self.dim = tuple(n_modes), len(n_modes)
        if not self.n_modes or min(*self.n_modes, in_channels, out_channels) < 1:
            raise InputError(
                f"SpectralConv: expected n_modes, in_channels and out_channels ≥ 1; got "
                f"{self.n_modes}, {in_channels}, {out_channels}. Correct them."
            )
        self.kept = (*(2 * K + 1 for K in self.n_modes[:-1]), self.n_modes[-1] + 1)
        modes = math.prod(self.kept)
        weight = torch.empty(modes, in_channels, out_channels, 2)
        if init == "paper":
            weight.uniform_(0, 1 / (in_channels * out_channels), generator=generator)
        else:
            power = 2 / (in_channels + out_channels)
            if init == "vp":
                if cells is None:
                    raise InputError(
                        "SpectralConv: expected cells for init='vp'; got None. Give the grid."
                    )
                # Modes count twice, for k and −k, but in the plane k_D = 0, where W_k and W_−k are
                # averaged, which halves their power.
                plane = math.prod(self.kept[:-1])
                both = 2 * (modes - plane) + plane / 2
                power = math.prod(cells) / (in_channels * both)
            weight.normal_(0, math.sqrt(power / 2), generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(out_channels, *[1] * self.dim)) if bias else None

    def forward(self, x: Tensor, cells: Sequence[int] | None = None) -> Tensor:
        """Fields (B, C, *cells) → (B, C_out, *cells). Differentiable in x and the weights.

        Args:
            x: real fields.
            cells: grid of the result, default that of x: the band-limited function is sampled there
                (samples at j/n).

        Raises:
            InputError: a grid too coarse for the modes.
        """
        out = tuple(x.shape[2:]) if cells is None else tuple(cells)
        for n in (tuple(x.shape[2:]), out):
            if len(n) != self.dim or any(
                c < 2 * K + 1 for c, K in zip(n, self.n_modes, strict=True)
            ):
                raise InputError(
                    f"SpectralConv: expected at least {tuple(2 * K + 1 for K in self.n_modes)} cells for "
                    f"n_modes = {self.n_modes}; got {n}. Lower n_modes or refine the grid."
                )
        X = _Waves.apply(x, self.n_modes)
        B, C = X.shape[:2]
        X = X.reshape(B, C, -1).permute(2, 0, 1)
        Y = torch.bmm(X, torch.view_as_complex(self.weight)).permute(1, 2, 0)
        y = _Fields.apply(Y.reshape(B, -1, *self.kept), self.n_modes, out)
        return y if self.bias is None else y + self.bias
