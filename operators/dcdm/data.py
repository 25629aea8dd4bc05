"""Residuals and geometries to train on: no matrix is factorized, nothing is stored.

    r = Σ_j c_j v_j / ‖·‖,   c_j = 9 N(0, 1) for the lowest 55 % of the modes, N(0, 1) above

v_j are the eigenvectors of the Laplacian of the empty box, without the constant of a closed one, so one
transform makes any number of vectors, where the paper runs a Lanczos iteration with 10 000 stored ones
per grid. Around obstacles the vectors are cut off, centred in each region and normalized. `Replay` adds
what a solver really meets.

Source: Kaneda et al. 2023, section 5.2 (weights 9 : 1, lowest m / 2 + θ modes with m = 10 000, θ = 500).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from ...sim.grid.poisson import PoissonProblem, PoissonSystem, axis_transform
from ...sim.grid.poisson.spectral import along_axes

__all__ = ["DOMAINS", "Geometry", "Replay", "SpectralSampler"]
__all__ += ["make_geometry", "random_domain", "random_masks"]

DOMAINS = ("empty", "obstacles", "porous", "layers")
"""What networks train on: the box; discs and blocks; random solid cells or lumps; a random field k."""

LOW_SHARE, GAIN = 0.55, 9.0


class SpectralSampler:
    """Random unit vectors with the spectrum of solver residuals.

    Args:
        problem: an empty box with k one number; its sides choose the transforms.
        low_share: share of the modes, from the smoothest, that are amplified.
        gain: by how much.
        slope: c_j gets another factor λ_j^(−s/2), s uniform from 0 to this for each vector. The published
            0 leaves the smooth modes, which cost a solver most, too few to be seen in 3-D.
    """

    def __init__(
        self,
        problem: PoissonProblem,
        low_share: float = LOW_SHARE,
        gain: float = GAIN,
        slope: float = 0.0,
    ) -> None:
        pairs = zip(problem.cells, problem.pairs, strict=True)
        self.axes = [axis_transform(n, *sides) for n, sides in pairs]
        total = np.zeros(problem.cells)
        for a, (axis, h) in enumerate(zip(self.axes, problem.h, strict=True)):
            shape = [-1 if b == a else 1 for b in range(problem.dim)]
            total += (float(problem.k) / h**2 * axis.values).reshape(shape)
        self.eigenvalues = torch.as_tensor(total)
        regular = total > 1e-13 * total.max()
        limit = np.quantile(total[regular], low_share)
        self.weights = torch.as_tensor(np.where(total <= limit, gain, 1.0) * regular)
        self.slope, self.logs = slope, torch.as_tensor(np.log(np.where(regular, total, 1.0)))

    def __call__(
        self, count: int, generator: torch.Generator | None = None, dtype=torch.float32
    ) -> Tensor:
        """Unit vectors (count, *cells)."""
        shape = (count, *self.weights.shape)
        c = torch.randn(shape, generator=generator, dtype=dtype) * self.weights.to(dtype)
        if self.slope:
            s = self.slope * torch.rand(count, *(1,) * self.logs.dim(), generator=generator)
            c = c * (-0.5 * s.to(dtype) * self.logs.to(dtype)).exp()
        r = along_axes(c, [axis.backward for axis in self.axes])
        return unit(r)

    def coefficients(self, r: Tensor) -> Tensor:
        """⟨r, v_j⟩ of vectors (B, *cells), in the layout of `eigenvalues`."""
        return along_axes(r, [axis.forward for axis in self.axes])


@dataclasses.dataclass
class Geometry:
    """Obstacles of a batch of problems, ready to train on."""

    system: PoissonSystem
    """A, regions and the projection out of its null space."""

    def clean(self, r: Tensor) -> Tensor:
        """Unit vectors in the range of A from any (B, *cells)."""
        return unit(self.system.centre(r.flatten(1)).reshape(r.shape))

    def apply(self, v: Tensor) -> Tensor:
        """A v for (B, *cells) in the precision of v; differentiable."""
        key = v.dtype
        if key not in self._cast:
            self._cast[key] = self.system.stencil.to(key)
        return self._cast[key](v)

    def __post_init__(self) -> None:
        self._cast: dict = {}


def make_geometry(problem: PoissonProblem) -> Geometry:
    """The geometry of a problem, with one mask or a batch of them."""
    return Geometry(PoissonSystem(problem, "cg"))


def random_masks(
    count: int, cells: tuple[int, ...], generator: torch.Generator | None = None
) -> Tensor:
    """Active cells of boxes with none to three obstacles, discs (balls) or blocks, bool (count, *cells).

    Sizes are shares of the box; no thin walls, no shapes of the test domains' sizes and places.
    """
    at = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in cells), indexing="ij")
    x = torch.stack(at, -1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    masks = torch.ones(count, *cells, dtype=torch.bool)
    for mask in masks:
        for _ in range(int(4 * draw(1))):
            centre, size = draw(len(cells)), 0.05 + 0.15 * draw(len(cells))
            d = (x - centre).abs()
            disc = bool(draw(1) < 0.6)
            mask &= (d.norm(dim=-1) > size[0]) if disc else (d > size).any(-1)
    return masks


def random_domain(
    kind: str, problem: PoissonProblem, count: int, generator: torch.Generator | None = None
) -> PoissonProblem:
    """`count` random problems of one kind out of DOMAINS, in one batch.

    Args:
        kind: "empty", "obstacles", "porous" (up to 30 % of cells or of lumps of 2 or 4 cells are solid)
            or "layers" (ln k is a smooth random field with a standard deviation up to 2.5).
        problem: the empty box.
    """
    cells = problem.cells
    if kind == "obstacles":
        masks = random_masks(count, cells, generator)
        return dataclasses.replace(problem, mask=masks)
    if kind == "porous":
        size = 2 ** int(3 * torch.rand(1, generator=generator))
        noise = torch.rand((count, *(-(-n // size) for n in cells)), generator=generator)
        for a in range(1, len(cells) + 1):
            noise = noise.repeat_interleave(size, a).narrow(a, 0, cells[a - 1])
        share = 0.3 * torch.rand((count, *(1,) * len(cells)), generator=generator)
        return dataclasses.replace(problem, mask=noise >= share)
    if kind == "layers":
        sampler = SpectralSampler(dataclasses.replace(problem, sides="neumann"))
        reach = sampler.eigenvalues * float(torch.rand(1, generator=generator)) * cells[0]
        c = torch.randn((count, *cells), generator=generator) / (1 + reach)
        field = along_axes(c, [axis.backward for axis in sampler.axes])
        field = field / field.flatten(1).std(dim=1).reshape(-1, *(1,) * len(cells))
        deep = 2.5 * torch.rand((count, *(1,) * len(cells)), generator=generator)
        return dataclasses.replace(problem, k=(deep * field).exp())
    return problem


class Replay:
    """A ring of residuals met while solving, with the geometry that they belong to.

    Args:
        size: batches kept.
    """

    def __init__(self, size: int = 64) -> None:
        self.size, self.items = size, []  # type: ignore[var-annotated]

    def add(self, geometry: Geometry, residuals: list[Tensor]) -> None:
        """Keep residuals (B, *cells) of one geometry."""
        self.items += [(geometry, unit(r.detach())) for r in residuals]
        self.items = self.items[-self.size :]

    def draw(self, generator: torch.Generator | None = None) -> tuple[Geometry, Tensor]:
        """A random batch."""
        return self.items[int(torch.randint(len(self.items), (1,), generator=generator))]


def unit(r: Tensor) -> Tensor:
    """r / ‖r‖ of each vector of (B, *cells); zero stays zero."""
    flat = r.flatten(1)
    size = flat.norm(dim=1, keepdim=True)
    return (flat / torch.where(size > 0, size, 1.0)).reshape(r.shape)
