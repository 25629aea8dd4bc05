"""Exact inverses where the axes separate: one orthogonal transform per axis.

    A = Σ_a I ⊗ … ⊗ T_a ⊗ … ⊗ I,   T_a = V_a Λ_a V_aᵀ,   A⁻¹ = V (Σ_a Λ_a)⁻¹ Vᵀ

| sides of an axis | columns of V_a | eigenvalues of T_a h²/k |
|---|---|---|
| Neumann, Neumann | cos(π k (j + ½) / n) (DCT-II) | 4 sin²(π k / 2 n) |
| Dirichlet, Dirichlet | sin(π (k + 1) (j + ½) / n) (DST-II) | 4 sin²(π (k + 1) / 2 n) |
| Neumann, Dirichlet | cos(π (k + ½) (j + ½) / n) (DCT-IV) | 4 sin²(π (k + ½) / 2 n) |
| periodic | cos + sin of 2 π j k / n (Hartley) | 4 sin²(π k / n) |

Every V_a is real and orthogonal. Up to 256 cells it is applied as a matrix, which is as fast as a
transform there; longer axes go through the FFT.

Source: Strang 1999 (the discrete cosine transforms as eigenvectors); Lynch, Rice & Thomas 1964 (tensor
products). Built without a graph; derivatives come from the solve around it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...core.factors import Factor
from ...core.linear_map import Operator

__all__ = ["AxisTransform", "SpectralFactor", "axis_transform", "dense_transform"]

DENSE = 256
"""Cells of an axis up to which its transform is a matrix."""
Along = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class AxisTransform:
    """Eigenvectors and eigenvalues of the second difference along one axis."""

    values: np.ndarray
    """Eigenvalues (n,), for a spacing and a coefficient of one."""
    forward: Along
    """x ↦ x V along the last dimension: coefficients."""
    backward: Along
    """y ↦ y Vᵀ along the last dimension: cells."""


def dense_transform(T: np.ndarray) -> AxisTransform:
    """The transform of any symmetric T (n, n), as a matrix."""
    values, V = np.linalg.eigh(T)
    return _matrix(values, V)


def axis_transform(n: int, lower: str, upper: str) -> AxisTransform:
    """The transform of n cells between two sides, "dirichlet", "neumann" or "periodic"."""
    k, j = np.arange(n), np.arange(n) + 0.5
    kinds = (lower, upper)
    if lower == "periodic":
        phase = 2 * np.pi * np.outer(np.arange(n), k) / n
        values, V = 4 * np.sin(np.pi * k / n) ** 2, np.cos(phase) + np.sin(phase)
        fast = (_hartley, _hartley)
    elif kinds == ("neumann", "neumann"):
        values, V = 4 * np.sin(np.pi * k / 2 / n) ** 2, np.cos(np.pi * np.outer(j, k) / n)
        fast = (_dct2, _dct3)
    elif kinds == ("dirichlet", "dirichlet"):
        # sin(π (k + 1) (j + ½) / n) = (−1)^j cos(π (n − 1 − k) (j + ½) / n)
        values = 4 * np.sin(np.pi * (k + 1) / 2 / n) ** 2
        V = np.sin(np.pi * np.outer(j, k + 1) / n)
        fast = (lambda x: _dct2(_alternate(x)).flip(-1), lambda y: _alternate(_dct3(y.flip(-1))))
    else:
        values = 4 * np.sin(np.pi * (k + 0.5) / 2 / n) ** 2
        V = np.cos(np.pi * np.outer(j, k + 0.5) / n)
        fast = (_dct4, _dct4)
        if lower == "dirichlet":
            V = V[::-1]
            fast = (lambda x: _dct4(x.flip(-1)), lambda y: _dct4(y).flip(-1))
    if n <= DENSE:
        return _matrix(values, V / np.linalg.norm(V, axis=0))
    return AxisTransform(values, *fast)


class SpectralFactor(Factor):
    """Exact inverse in a box with constant coefficients; the constant of a closed box is left out.

    One step of refinement takes round-off of the bases away.
    """

    name = "Spectral"

    def __init__(
        self,
        operator: Operator,
        cells: tuple[int, ...],
        axes: Sequence[AxisTransform],
        scales: Sequence[float],
        tol: float | None = None,
    ) -> None:
        self.operator, self.tol, self.cells, self.axes = operator, tol, cells, axes
        total = np.zeros(cells)
        for a, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
            shape = [-1 if b == a else 1 for b in range(len(cells))]
            total += scale * axis.values.reshape(shape)
        regular = total > 1e-13 * total.max() if total.max() > 0 else total > 0
        inverse = np.where(regular, 1.0 / np.where(regular, total, 1.0), 0.0)
        self.inverse = torch.as_tensor(inverse).to(operator.like)

    def _solve(self, b, x0, transpose, tol):
        x = self._once(b)
        x = x + self._once(b - self.operator.matvec(x))
        return x, torch.zeros(len(b), dtype=torch.long, device=b.device)

    def _once(self, rows: Tensor) -> Tensor:
        x = along_axes(rows.reshape(-1, *self.cells), [axis.forward for axis in self.axes])
        x = along_axes(x * self.inverse, [axis.backward for axis in self.axes])
        return x.reshape(rows.shape)


def along_axes(x: Tensor, functions: Sequence[Along]) -> Tensor:
    """Apply one function of the last dimension to each of the axes of x (B, *cells)."""
    for a, function in enumerate(functions):
        x = function(x.movedim(a + 1, -1)).movedim(-1, a + 1)
    return x


def _matrix(values: np.ndarray, V: np.ndarray) -> AxisTransform:
    basis = torch.as_tensor(np.ascontiguousarray(V))
    return AxisTransform(values, lambda x: x @ basis.to(x), lambda y: y @ basis.T.to(y))


def _hartley(x: Tensor) -> Tensor:
    F = torch.fft.fft(x)
    return (F.real - F.imag) / math.sqrt(x.shape[-1])


def _alternate(x: Tensor) -> Tensor:
    sign = 1 - 2 * (torch.arange(x.shape[-1], device=x.device) % 2)
    return x * sign


def _dct2(x: Tensor) -> Tensor:
    """Orthonormal DCT-II by one FFT of n points (Makhoul 1980)."""
    n = x.shape[-1]
    F = torch.fft.fft(torch.cat((x[..., ::2], x[..., 1::2].flip(-1)), -1))
    turn = torch.arange(n, device=x.device, dtype=x.dtype) * (math.pi / 2 / n)
    y = (F.real * turn.cos() + F.imag * turn.sin()) * math.sqrt(2 / n)
    return torch.cat((y[..., :1] / math.sqrt(2), y[..., 1:]), -1)


def _dct3(y: Tensor) -> Tensor:
    """Inverse of `_dct2`."""
    n = y.shape[-1]
    y = torch.cat((y[..., :1] * math.sqrt(2), y[..., 1:]), -1) * math.sqrt(n / 2)
    turn = torch.arange(n, device=y.device, dtype=y.dtype) * (math.pi / 2 / n)
    mirrored = torch.cat((torch.zeros_like(y[..., :1]), y[..., 1:].flip(-1)), -1)
    F = torch.complex(y, -mirrored) * torch.polar(torch.ones_like(turn), turn)
    v = torch.fft.ifft(F).real
    x = torch.empty_like(v)
    half = (n + 1) // 2
    x[..., ::2], x[..., 1::2] = v[..., :half], v[..., half:].flip(-1)
    return x


def _dct4(x: Tensor) -> Tensor:
    """Orthonormal DCT-IV, its own inverse, as the odd part of a transform of 8 n points."""
    n = x.shape[-1]
    wide = x.new_zeros(*x.shape[:-1], 8 * n)
    wide[..., 1 : 2 * n : 2] = x
    return torch.fft.fft(wide).real[..., 1 : 2 * n : 2] * math.sqrt(2 / n)
