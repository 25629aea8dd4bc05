"""A V-cycle with learned parts that stays symmetric positive definite whatever they are.

    M⁻¹ = S̄ + (I − S A) P C Pᵀ (I − A S),   P = (I − ν D⁻¹ A) P₀ G,   C the same on the coarse level

What is learned, once for all levels: the weights of the sweeps of S, the smoothing ν of the transfer,
and two small networks that look at the geometry around a coarse face or cell, one for the coarse
coefficient, one for the transfer G:

    c' = ½ Σ c · s₁^α · s₂^β · e^{n(…)}

s₁ ≤ s₂ are two classical averages over what lies between two coarse centres, as shares of Σ c: bonds in
series first, then side by side, and the other way round. All inputs vanish (s = 1) in empty space, where
the coarse operator is therefore exactly that of the doubled cell, on any level, at any size and for any
unit: that is what makes the number of iterations independent of the size. At the start all networks are
zero and M⁻¹ is the V-cycle of `sim.grid.poisson`.

S̄ is positive where the residual polynomial Π (1 − ω_k λ) of the sweeps is below one on the spectrum
of D⁻¹ A, which lies in [0, 2]: `certified` looks. C is positive because coarse coefficients are.
So plain CG may use M⁻¹.

Source: Braess 1995; Vaněk, Mandel & Brezina 1996 (smoothed transfer); the learned parts are ours.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from ...sim.grid.poisson import Stencil
from ...sim.grid.poisson.stencil import pair_sum
from .networks import DirectionNet

__all__ = ["SymmetricMultigrid"]

COARSEST = 64
"""Cells of the level that is inverted densely."""
TINY = 1e-8
"""Of coefficients that are scaled to order one."""
LEAST = 1e-4
"""Shares s below this count as this: a blocked path must not close a face for good."""


@dataclasses.dataclass
class _Level:
    stencil: Stencil
    inverse: Tensor
    """1 / diagonal, 0 outside."""
    gain: Tensor
    """G of the next coarser level."""


class SymmetricMultigrid(DirectionNet):
    """The cycle as a network; works for any coefficients, sides and sizes, in 1-D to 3-D.

    Args:
        sweeps: smoothing steps before and after.
        hidden: width of the geometry networks.
        smooth: whether the transfer is smoothed (two more products per level).
        generator: for the initial weights.
    """

    linear = True
    symmetric = True

    def __init__(
        self,
        sweeps: int = 2,
        hidden: int = 8,
        smooth: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.settings = {"sweeps": sweeps, "hidden": hidden, "smooth": smooth}
        self.omega = nn.Parameter(torch.full((sweeps,), 0.8))
        self.nu = nn.Parameter(torch.zeros(())) if smooth else None
        self.series = nn.Parameter(torch.zeros(2))
        self.face_in = nn.Parameter(torch.randn(4, hidden, generator=generator))
        self.face_out = nn.Parameter(torch.zeros(hidden))
        self.cell_in = nn.Parameter(torch.randn(2, hidden, generator=generator))
        self.cell_out = nn.Parameter(torch.zeros(hidden))
        self.scale = nn.Parameter(torch.zeros(()))

    def certified(self) -> float:
        """Largest residual polynomial of the sweeps on the spectrum of D⁻¹ A; below 1 is a proof.

        It is sampled from 0.1 on; below, every factor lies between 0 and 1 if the weights lie in (0, 10),
        else the answer is infinite.
        """
        if not bool(((self.omega > 0) & (self.omega < 10)).all()):
            return float("inf")
        return float(self.growth().detach())

    def growth(self) -> Tensor:
        """The same, with a graph: what training keeps below one."""
        spectrum = torch.linspace(0.1, 2.0, 96).to(self.omega)
        return (1 - self.omega[:, None] * spectrum).prod(0).abs().max()

    def prepare(self, stencil: Stencil, active: Tensor) -> list[_Level]:
        # The unit of A only scales q, and coefficients of order one keep float32 in range.
        size = stencil.diagonal.amax(tuple(range(1, stencil.dim + 1)), keepdim=True)
        faces = tuple((c / size).to(self.omega.dtype) for c in stencil.c)
        stencil = Stencil(stencil.cells, stencil.periodic, faces)
        fill = active.to(stencil.diagonal)
        levels: list[_Level] = []
        while True:
            inverse = 1.0 / stencil.diagonal.clamp_min(TINY)
            inverse = torch.where(stencil.diagonal > 0, inverse, 0.0)
            if np.prod(stencil.cells) <= COARSEST:
                # The gradient of a pseudo-inverse explodes at double eigenvalues; the finer levels teach.
                dense = stencil.dense().detach()
                bottom = torch.linalg.pinv(dense, hermitian=True, rtol=1e-5)
                levels.append(_Level(stencil, inverse, bottom))
                return levels
            coarse, fill, ratio = self._coarsen(stencil, fill)
            hidden = torch.stack((fill - 1, ratio - 1), -1) @ self.cell_in
            gain = (self.scale + hidden.tanh() @ self.cell_out).exp()
            levels.append(_Level(stencil, inverse, gain))
            stencil = coarse

    def forward(self, r: Tensor, geometry: list[_Level]) -> Tensor:
        return self._cycle(0, r, geometry)

    def _cycle(self, index: int, b: Tensor, levels: list[_Level]) -> Tensor:
        level = levels[index]
        A, inverse = level.stencil, level.inverse
        if index == len(levels) - 1:
            return (level.gain @ b.flatten(1).unsqueeze(-1)).reshape(b.shape)
        x = self.omega[0] * inverse * b
        for weight in self.omega[1:]:
            x = x + weight * inverse * (b - A(x))
        r = b - A(x)
        if self.nu is not None:
            r = r - self.nu * A(inverse * r)
        for a, n in enumerate(A.cells):
            r = pair_sum(r, a - A.dim) if n > 1 else r
        e = level.gain * self._cycle(index + 1, level.gain * r, levels)
        for a, n in enumerate(A.cells):
            if n > 1:
                e = e.repeat_interleave(2, a - A.dim).narrow(a - A.dim, 0, n)
        if self.nu is not None:
            e = e - self.nu * inverse * A(e)
        x = x + e
        for weight in self.omega.flip(0):
            x = x + weight * inverse * (b - A(x))
        return x

    def _coarsen(self, fine: Stencil, fill: Tensor) -> tuple[Stencil, Tensor, Tensor]:
        """The coarse stencil, the active share of its cells, and how well their insides conduct."""
        for a, n in enumerate(fine.cells):
            if n > 1:
                last = 2.0 if n % 2 else 1.0
                fill = pair_sum(fill, a - fine.dim) / 2
                if n % 2:
                    ends = torch.ones(fill.shape[a - fine.dim]).to(fill)
                    ends[-1] = last
                    fill = fill * ends.reshape([-1] + [1] * (fine.dim - 1 - a))
        coarse = fine.coarse()
        faces, total, weight = [], 0.0, 0.0
        for a, n in enumerate(fine.cells):
            plain = coarse.c[a]
            if n < 2:
                faces.append(plain)
                continue
            dim, wraps = a - fine.dim, fine.periodic[a]
            path, bundle = self._path(fine.c[a], dim, n, wraps), fine.c[a]
            for b, m in enumerate(fine.cells):
                if b != a and m > 1:
                    path, bundle = pair_sum(path, b - fine.dim), pair_sum(bundle, b - fine.dim)
            bundle = self._path(bundle, dim, n, wraps)
            whole = (2 * plain).clamp_min(TINY)
            least, most = (torch.where(plain > 0, v / whole, 1.0) for v in (path, bundle))
            low, high = _sides(fill, dim, wraps)
            parts = (least - 1, most - 1, low + high - 2, (low - high).abs())
            change = (torch.stack(parts, -1) @ self.face_in).tanh() @ self.face_out
            powers = [v.clamp_min(LEAST).log() for v in (least, most)]
            change = change + self.series[0] * powers[0] + self.series[1] * powers[1]
            faces.append(plain * change.exp())
            k = coarse.cells[a]
            for c, into in ((path, True), (2 * plain, False)):
                upper = c.roll(-1, dim) if wraps else c.narrow(dim, 1, k)
                both = c.narrow(dim, 0, k) + upper
                total, weight = (total + both, weight) if into else (total, weight + both)
        ratio = torch.where(weight > 0, total / torch.clamp_min(weight, TINY), 1.0)
        return Stencil(coarse.cells, coarse.periodic, tuple(faces)), fill, ratio

    @staticmethod
    def _path(c: Tensor, dim: int, n: int, periodic: bool) -> Tensor:
        """Twice the conductance from centre to centre through each coarse face: half of the bond inside
        either cell and the face in series; c itself in empty space. Sides count as they are."""
        count = c.shape[dim]
        even = torch.arange(0, n if periodic else n + 1, 2, device=c.device)
        if not periodic and n % 2:
            even = torch.cat((even, even.new_tensor([n])))
        low, high = even - 1, even + 1
        outer = torch.zeros(len(even), dtype=torch.bool, device=c.device)
        if periodic:
            low, high = low % count, high % count
        else:
            outer[0], outer[-1] = True, True
            if n % 2 and len(even) > 2:
                high[-2] = low[-2]  # the last coarse cell is a single one, without a bond inside
            low, high = low.clamp(0, count - 1), high.clamp(0, count - 1)
        middle = c.index_select(dim, even)
        low, high = c.index_select(dim, low), c.index_select(dim, high)
        a, b, m = (v.clamp_min(TINY) for v in (low, high, middle))
        path = 2 / (0.5 / a + 1 / m + 0.5 / b)
        shape = [-1] + [1] * (-1 - dim)
        path = torch.where(outer.reshape(shape), middle, path)
        return torch.where(middle > 0, path, 0.0)


def _sides(cells: Tensor, dim: int, periodic: bool) -> tuple[Tensor, Tensor]:
    """Values of the cells below and above each face; outer sides take the value inside."""
    if periodic:
        return cells.roll(1, dim), cells
    n = cells.shape[dim]
    wide = torch.cat((cells.narrow(dim, 0, 1), cells, cells.narrow(dim, n - 1, 1)), dim)
    return wide.narrow(dim, 0, n + 1), wide.narrow(dim, 1, n + 1)
