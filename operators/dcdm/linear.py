"""A linear multilevel network that sees obstacles: V-cycles of masked convolutions.

    level(h):  h ← h + m K_i h  (before),   h ← h + m K_u up(level(W pool(h))),   h ← h + m K_j h  (after)

h has a few channels; the first holds the solution so far, the second the residual, the rest is free.
All levels share the weights, so a grid of N cells has log2 N levels at any N; the residual is pooled as
a sum (h² f of the doubled cell), which gives every level the same equation. Convolutions read mirrored
values behind walls and obstacles and minus them behind Dirichlet sides, so they are right there.
At the start the network is exactly a V-cycle with damped Jacobi smoothing, plus small random couplings
of the free channels: training begins from a working solver.

k must be one number, and cells cubic: the only geometry it sees is the mask. No bias, no activation: q is
linear in r.

Source: Kaneda et al. 2023 for the loop around it; Lan et al. 2024 (linear, geometry-aware); He & Xu 2019
(multigrid as a network); the shared levels and the boundary rule are ours.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from ...sim.grid.poisson import Stencil
from .networks import DirectionNet, convolve

__all__ = ["LinearMultigrid"]


@dataclasses.dataclass
class _Level:
    mask: Tensor
    """1 in active cells, (b, 1, *cells)."""
    own: list[Tensor]
    """What the neighbours that are not active contribute, as factors of the cell's own channels, per
    kernel (b, out, in, *cells)."""
    periodic: tuple[bool, ...]
    """Which axes wrap around."""
    shares: Tensor | None
    """Interpolated mask of the next coarser level, to interpolate active cells only."""


class LinearMultigrid(DirectionNet):
    """The network; 2-D and 3-D.

    Args:
        dim: axes.
        channels: of h, at least 2.
        sweeps: convolutions before and after, each.
        noise: standard deviation of the random start of free couplings.
        generator: for the initial weights.
    """

    linear = True

    def __init__(
        self,
        dim: int = 2,
        channels: int = 4,
        sweeps: int = 2,
        noise: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.settings = {"dim": dim, "channels": channels, "sweeps": sweeps}
        self.dim, self.sweeps = dim, sweeps
        shape = (channels, channels, *(3,) * dim)

        def kernel(start: Tensor) -> nn.Parameter:
            return nn.Parameter(start + noise * torch.randn(shape, generator=generator))

        step = self._kernel(shape, 0.8 / (2 * dim))
        self.before = nn.ParameterList(kernel(step) for _ in range(sweeps))
        self.after = nn.ParameterList(kernel(step) for _ in range(sweeps))
        # What comes up is a correction: it adds to x, and its Laplacian leaves the residual.
        self.up = kernel(self._kernel(shape, None))
        pool = torch.zeros(channels, channels)
        pool[1, 1] = 4.0
        self.pool = nn.Parameter(pool + noise * torch.randn(pool.shape, generator=generator))

    def _kernel(self, shape: tuple[int, ...], damping: float | None) -> Tensor:
        """x += ω r / 2 D, r −= L (ω r / 2 D); or, without damping, x += x_up, r −= L x_up."""
        laplace = torch.zeros(shape[2:])
        centre = (1,) * self.dim
        laplace[centre] = 2.0 * self.dim
        for a in range(self.dim):
            for end in (0, 2):
                laplace[centre[:a] + (end,) + centre[a + 1 :]] = -1.0
        K = torch.zeros(shape)
        source, factor = (0, 1.0) if damping is None else (1, damping)
        K[(0, source, *centre)] = factor
        K[1, source] = -factor * laplace
        return K

    def prepare(self, stencil: Stencil, active: Tensor) -> list[_Level]:
        offsets = _check(stencil)
        mask = active.to(self.pool)[:, None]
        levels = []
        while True:
            coarse = any(n > 2 for n in mask.shape[2:])
            shares = None
            if coarse:
                below = _pool(mask, "max")
                shares = _up(below, mask.shape[2:]).clamp_min(1e-6)
            ghosts = _ghosts(mask, stencil.periodic, offsets)
            own = [self._own(K, ghosts) for K in self._kernels()]
            levels.append(_Level(mask, own, stencil.periodic, shares))
            if not coarse:
                return levels
            mask = below
            # A side whose value is given δ cells outside is δ / 2 of the doubled cells outside.
            offsets = [tuple(None if d is None else d / 2 for d in pair) for pair in offsets]

    def forward(self, r: Tensor, geometry: list[_Level]) -> Tensor:
        first = torch.zeros(self.pool.shape[0]).to(r)
        first[1] = 1.0
        h = r[:, None] * first.reshape(-1, *(1,) * self.dim)
        return self._level(0, h, geometry)[:, 0]

    def _level(self, index: int, h: Tensor, levels: list[_Level]) -> Tensor:
        level = levels[index]
        for i in range(self.sweeps):
            h = h + self._convolve(i, h, level)
        if index + 1 < len(levels):
            low = (_pool(h, "avg").movedim(1, -1) @ self.pool.T).movedim(-1, 1)
            e = self._level(index + 1, low * levels[index + 1].mask, levels)
            e = _up(e, h.shape[2:]) / level.shares * level.mask
            h = h + self._convolve(self.sweeps, e, level)
        for i in range(self.sweeps):
            h = h + self._convolve(self.sweeps + 1 + i, h, level)
        return h

    def _own(self, K: Tensor, ghosts: Tensor) -> Tensor:
        kernels = K.reshape(-1, 1, *K.shape[2:])
        return convolve(ghosts, kernels, None, [0] * self.dim).unflatten(1, K.shape[:2])

    def _kernels(self) -> list[Tensor]:
        return [*self.before, self.up, *self.after]

    def _convolve(self, index: int, h: Tensor, level: _Level) -> Tensor:
        """m Σ_j K_j g_j: neighbours' values, or ± one's own where there is no active neighbour."""
        K, periodic = self._kernels()[index], level.periodic
        for a, wraps in enumerate(periodic):
            if wraps:
                d, n = a + 2, h.shape[a + 2]
                h = torch.cat((h.narrow(d, n - 1, 1), h, h.narrow(d, 0, 1)), d)
        out = convolve(h, K, None, [0 if wraps else 1 for wraps in periodic])
        for a, wraps in enumerate(periodic):
            h = h.narrow(a + 2, 1, h.shape[a + 2] - 2) if wraps else h
        return (out + (level.own[index] * h[:, None]).sum(2)) * level.mask


def _check(stencil: Stencil) -> list[tuple[float | None, float | None]]:
    """How many cells outside of each side its value is given (None: a wall); one k is needed."""
    size = stencil.diagonal.max() / (2 * stencil.dim)
    inside, offsets = [], []
    for a, c in enumerate(stencil.c):
        dim, n = a - stencil.dim, stencil.cells[a]
        if stencil.periodic[a]:
            inside.append(c[c > 0])
            offsets.append((None, None))
            continue
        middle = c.narrow(dim, 1, n - 1)
        inside.append(middle[middle > 0])
        pair = []
        for end in (0, n):
            layer = c.narrow(dim, end, 1)
            layer = layer[layer > 0]
            pair.append(float(layer.max()) if len(layer) else None)
        offsets.append(tuple(pair))
    values = torch.cat(inside) if inside else size
    if not len(values) or float(values.max() - values.min()) > 1e-4 * float(values.max()):
        got = f"face coefficients from {float(values.min()):.3g} to {float(values.max()):.3g}"
        fix = "Use SymmetricMultigrid, which takes any coefficients"
        raise InputError(message("LinearMultigrid", "one k and cubic cells", got, fix))
    k = float(values.max())
    return [tuple(None if c is None else k / c - 0.5 for c in pair) for pair in offsets]


def _ghosts(mask: Tensor, periodic: tuple[bool, ...], offsets) -> Tensor:
    """σ per neighbour: +1 in obstacles and walls, −(½ − δ)/(½ + δ) behind a value δ cells outside."""
    ghosts = 1 - mask
    dim = mask.dim() - 2
    for a in range(dim):
        d = a + 2
        if periodic[a]:
            low, high = ghosts.narrow(d, -1, 1), ghosts.narrow(d, 0, 1)
        else:
            shape = list(ghosts.shape)
            shape[d] = 1
            low, high = (
                ghosts.new_full(shape, 1.0 if o is None else (o - 0.5) / (o + 0.5))
                for o in offsets[a]
            )
        ghosts = torch.cat((low, ghosts, high), d)
    return ghosts


def _pool(h: Tensor, kind: str) -> Tensor:
    """Blocks of two per axis; an odd last one stays alone, with zeros beside it."""
    sizes = h.shape[2:]
    pad = [p for n in reversed(sizes) for p in (0, n % 2 if n > 1 else 0)]
    h = nn.functional.pad(h, pad)
    block = tuple(2 if n > 1 else 1 for n in sizes)
    names = {("avg", 2): "avg_pool2d", ("max", 2): "max_pool2d"}
    names |= {("avg", 3): "avg_pool3d", ("max", 3): "max_pool3d"}
    return getattr(nn.functional, names[kind, len(sizes)])(h, block)


def _up(h: Tensor, sizes: torch.Size) -> Tensor:
    """Linear interpolation from the centres of blocks to their cells."""
    full = tuple(2 * n if m > 1 else n for n, m in zip(h.shape[2:], sizes, strict=True))
    mode = "bilinear" if len(sizes) == 2 else "trilinear"
    h = nn.functional.interpolate(h, full, mode=mode, align_corners=False)
    return h[(..., *(slice(n) for n in sizes))]
