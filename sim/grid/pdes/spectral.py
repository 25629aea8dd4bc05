"""Bases in which second derivatives are diagonal, and what is computed in them.

Fourier modes on periodic boxes, cosines on boxes whose walls have zero slope. A symbol is the eigenvalue
of −∇² per mode: k² ("spectral") or that of the second difference, (2 − 2 cos k dx) / dx² ("difference").

Differentiable everywhere. Source: Canuto et al. 2006, Spectral Methods, chapters 2 and 3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .grid import Grid

__all__ = ["Cosine", "Fourier", "energy_spectrum", "phi_functions"]


def _table(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute a table once per axis or kind, precision and device."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any) -> Tensor:
        like = next(a for a in args if isinstance(a, Tensor))
        words = tuple(a for a in args if not isinstance(a, Tensor))
        key = (method.__name__, words, like.dtype, like.device)
        if key not in self.tables:
            with torch.no_grad():
                self.tables[key] = method(self, *args)
        return self.tables[key]

    return wrapper


class Fourier:
    """Real FFTs of the last D axes; the last axis holds its non-negative half."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.dims = grid, tuple(range(-grid.dim, 0))
        self.tables: dict[Any, Tensor] = {}

    def forward(self, u: Tensor) -> Tensor:
        return torch.fft.rfftn(u, dim=self.dims)

    def inverse(self, hat: Tensor) -> Tensor:
        return torch.fft.irfftn(hat, s=self.grid.cells, dim=self.dims)

    def index(self, axis: int, like: Tensor) -> Tensor:
        """Signed mode numbers of one axis, shaped to broadcast over modes."""
        n, last = self.grid.cells[axis], axis == self.grid.dim - 1
        frequencies = torch.fft.rfftfreq if last else torch.fft.fftfreq
        m = frequencies(n, d=1.0 / n, dtype=like.dtype, device=like.device)
        return m.reshape([-1 if b == axis else 1 for b in range(self.grid.dim)])

    def wavenumber(self, axis: int, like: Tensor) -> Tensor:
        """k = 2π m / L [1/m] of one axis."""
        return self.index(axis, like) * (2 * math.pi / self.grid.lengths[axis])

    @_table
    def slope(self, axis: int, like: Tensor) -> Tensor:
        """i k, without the Nyquist mode, whose derivative vanishes at the points."""
        m = self.index(axis, like)
        k = torch.where(2 * m.abs() == self.grid.cells[axis], 0.0, self.wavenumber(axis, like))
        return torch.complex(torch.zeros_like(k), k)

    @_table
    def gradient(self, like: Tensor) -> Tensor:
        """i k of all axes, (D, *modes)."""
        parts = (self.slope(a, like) for a in range(self.grid.dim))
        return torch.stack(torch.broadcast_tensors(*parts))

    @_table
    def inverse_square(self, like: Tensor) -> Tensor:
        """1 / |k|² with the k of `gradient`, 0 where that vanishes, (*modes)."""
        size = self.gradient(like).imag.square().sum(0)
        return torch.where(size > 0, 1 / torch.where(size > 0, size, 1.0), 0.0)

    @_table
    def highest(self, axis: int, like: Tensor) -> Tensor:
        """Largest wavenumber of an axis among the kept modes [1/m], ()."""
        return (self.slope(axis, like).imag * self.kept(like)).abs().amax()

    @_table
    def symbol(self, like: Tensor, kind: str = "spectral") -> Tensor:
        """Eigenvalues of −∇², (*modes)."""
        return _symbol(self, like, kind)

    @_table
    def inverse_symbol(self, like: Tensor, kind: str = "spectral") -> Tensor:
        """1 / eigenvalue of −∇², 0 for the constant, (*modes)."""
        symbol = _symbol(self, like, kind)
        return torch.where(symbol > 0, 1 / torch.where(symbol > 0, symbol, 1.0), 0.0)

    @_table
    def kept(self, like: Tensor) -> Tensor:
        """1 for modes |m| < n / 3, whose products do not alias onto one another, else 0."""
        keep = torch.ones((), dtype=like.dtype, device=like.device)
        for axis, n in enumerate(self.grid.cells):
            keep = keep * (3 * self.index(axis, like).abs() < n)
        return keep


class Cosine:
    """Type-II cosine transforms of the last D axes: cos(π m (i + ½) / n), zero slope at walls."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.tables: dict[Any, Tensor] = {}

    def forward(self, u: Tensor) -> Tensor:
        for axis, n in enumerate(self.grid.cells):
            u = u.movedim(axis - self.grid.dim, -1)
            hat = torch.fft.rfft(torch.cat((u, u.flip(-1)), -1), dim=-1)[..., :n]
            u = (hat * self._turn(n, u).conj()).real.movedim(-1, axis - self.grid.dim)
        return u

    def inverse(self, hat: Tensor) -> Tensor:
        for axis, n in enumerate(self.grid.cells):
            hat = hat.movedim(axis - self.grid.dim, -1)
            full = torch.cat((hat * self._turn(n, hat), torch.zeros_like(hat[..., :1])), -1)
            hat = torch.fft.irfft(full, n=2 * n, dim=-1)[..., :n].movedim(-1, axis - self.grid.dim)
        return hat

    def wavenumber(self, axis: int, like: Tensor) -> Tensor:
        """k = π m / L [1/m] of one axis."""
        n = self.grid.cells[axis]
        m = torch.arange(n, dtype=like.dtype, device=like.device)
        m = m * (math.pi / self.grid.lengths[axis])
        return m.reshape([-1 if b == axis else 1 for b in range(self.grid.dim)])

    @_table
    def symbol(self, like: Tensor, kind: str = "spectral") -> Tensor:
        """Eigenvalues of −∇², (*modes)."""
        return _symbol(self, like, kind)

    @_table
    def _turn(self, n: int, like: Tensor) -> Tensor:
        """The half-cell shift e^{iπm/2n}, and what makes the pair of transforms inverse."""
        angle = torch.arange(n, dtype=like.dtype, device=like.device) * (math.pi / (2 * n))
        return torch.polar(torch.ones_like(angle), angle)


def _symbol(basis: Fourier | Cosine, like: Tensor, kind: str) -> Tensor:
    total = torch.zeros((), dtype=like.dtype, device=like.device)
    for axis, h in enumerate(basis.grid.dx):
        k = basis.wavenumber(axis, like)
        total = total + (
            k.square() if kind == "spectral" else (2 * torch.sin(0.5 * k * h) / h) ** 2
        )
    return total


def phi_functions(z: Tensor, terms: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """φ₁ = (eᶻ − 1) / z, φ₂ = (φ₁ − 1) / z, φ₃ = (φ₂ − ½) / z for real z.

    Their Taylor series below |z| = 1, where the quotients cancel; above, at most one digit is lost.
    Differentiable in z. Source: Hochbruck & Ostermann 2010, Eq. 2.10.
    """
    small = z.abs() < 1
    near = torch.where(small, z, 0.0)
    far = torch.where(small, 1.0, z)
    one = torch.expm1(far) / far
    two = (one - 1) / far
    three = (two - 0.5) / far
    out = []
    for order, quotient in ((1, one), (2, two), (3, three)):
        series = torch.zeros_like(z)
        for j in reversed(range(terms)):
            series = 1 / math.factorial(j + order) + near * series
        out.append(torch.where(small, series, quotient))
    return out[0], out[1], out[2]


def energy_spectrum(u: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Energy per shell of mode numbers of a periodic field: Σ E = ½ mean |u|².

    Args:
        u: (B, C, *cells), e.g. velocity; energies of channels add up.
        grid: periodic box.

    Returns:
        Shell numbers m (n,) and energies E (B, n); shell m holds modes with m − ½ <= |m| < m + ½.

    Differentiable in u. Source: Parseval's identity.
    """
    basis = Fourier(grid)
    hat = basis.forward(u) / grid.cell_count
    radius = torch.sqrt(sum(basis.index(a, u) ** 2 for a in range(grid.dim)))
    shell = (radius + 0.5).long()
    last = basis.index(grid.dim - 1, u)
    twice = torch.where((last == 0) | (2 * last == grid.cells[-1]), 1.0, 2.0)
    energy = 0.5 * (hat.real.square() + hat.imag.square()).sum(1) * twice
    count = int(shell.max()) + 1
    out = energy.new_zeros(len(u), count)
    out = out.index_add(1, shell.reshape(-1), energy.flatten(1))
    return torch.arange(count, device=u.device), out
