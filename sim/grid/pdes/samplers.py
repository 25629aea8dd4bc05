"""Random inputs of PDEs: Gaussian fields, two-phase fields, Fourier series. All take a generator.

A Gaussian field with covariance σ² (−∇² + τ²)^{−α} on a box is

    a(x) = mean + Σ_k ξ_k σ (λ_k + τ²)^{−α/2} φ_k(x),     ξ_k ~ N(0, 1),   −∇² φ_k = λ_k φ_k,  ∫ φ_k² = 1

with φ_k sines and cosines ("periodic"), cosines ("neumann") or sines ("dirichlet"). With `modes` given, a
seed means the same function on every grid.

Source: Lord, Powell & Shardlow 2014, chapter 7; Li et al. 2021 (FNO, appendix A.3).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.errors import InputError, message
from .grid import Grid

__all__ = ["GaussianField", "fourier_series", "two_phases"]

BASES = ("periodic", "neumann", "dirichlet")


@dataclasses.dataclass(frozen=True)
class GaussianField:
    """Gaussian random field with covariance σ² (−∇² + τ²)^{−α}.

    Inputs of FNO: vorticity α = 2.5, τ = 7 (root mean square 0.19; its files have √2 times that), Burgers
    α = 2, τ = 5, σ = 25, Darcy α = 2, τ = 3, "neumann" and then `two_phases`.
    """

    grid: Grid
    """Where it is sampled; its sides play no part."""
    alpha: float = 2.5
    """Exponent α [-]: samples have about α − D/2 derivatives."""
    tau: float = 7.0
    """Inverse correlation length τ [1/m]."""
    sigma: float | None = None
    """Scale σ; default τ^{α − D/2}, which makes the variance about independent of τ."""
    basis: str = "periodic"
    """"periodic", "neumann" (zero slope at walls) or "dirichlet" (zero value)."""
    mean: float = 0.0
    """Added to all values; fluctuations have no constant mode."""
    modes: int | None = None
    """Modes per axis; default as many as cells resolve."""

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise InputError(
                message("GaussianField", f"basis out of {BASES}", self.basis, "Choose one")
            )
        if not (self.alpha > 0 and self.tau >= 0 and (self.modes is None or self.modes > 0)):
            got = f"alpha = {self.alpha}, tau = {self.tau}, modes = {self.modes}"
            expected = "alpha > 0, tau >= 0, modes >= 1"
            raise InputError(message("GaussianField", expected, got, "Correct them"))

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        channels: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """n independent fields (n, channels, *cells); channels are independent too.

        Draws on the generator's device in float64, so that a seed gives the same field everywhere.
        """
        place = generator.device if generator is not None else torch.device("cpu")
        pairs = [self._axis(a, place) for a in range(self.grid.dim)]
        amplitude = self._amplitude([index for _, index in pairs])
        shape = (n, channels, *amplitude.shape)
        u = torch.randn(shape, generator=generator, dtype=torch.float64, device=place) * amplitude
        for axis, (functions, _) in enumerate(pairs):
            dim = axis - self.grid.dim
            u = (u.movedim(dim, -1) @ functions.T).movedim(-1, dim)
        return (u + self.mean).to(dtype=dtype, device=device)

    def variance(self) -> Tensor:
        """Variance at every cell centre, (*cells), float64."""
        pairs = [self._axis(a, torch.device("cpu")) for a in range(self.grid.dim)]
        v = self._amplitude([index for _, index in pairs]).square()
        for axis, (functions, _) in enumerate(pairs):
            dim = axis - self.grid.dim
            v = (v.movedim(dim, -1) @ functions.square().T).movedim(-1, dim)
        return v

    def _axis(self, axis: int, place: torch.device) -> tuple[Tensor, Tensor]:
        """φ of one axis at cell centres (n, m), orthonormal, and their wavenumbers [1/m]."""
        n, length = self.grid.cells[axis], self.grid.lengths[axis]
        x = (torch.arange(n, dtype=torch.float64, device=place) + 0.5) / n
        resolved = (n - 1) // 2 if self.basis == "periodic" else n - 1
        top = resolved if self.modes is None else self.modes
        if top > resolved:
            got = f"modes = {top} with {n} cells"
            fix = "Refine the grid, or take fewer modes"
            raise InputError(message("GaussianField", f"at most {resolved} modes", got, fix))
        m = torch.arange(top + 1, dtype=torch.float64, device=place)
        wave = m * (math.pi / length)
        if self.basis == "periodic":
            wave = torch.cat((2 * wave, 2 * wave[1:]))
            angle = 2 * math.pi * x[:, None] * m
            functions = torch.cat((torch.cos(angle), torch.sin(angle[:, 1:])), 1)
        elif self.basis == "neumann":
            functions = torch.cos(math.pi * x[:, None] * m)
        else:
            wave, functions = wave[1:], torch.sin(math.pi * x[:, None] * m[1:])
        norm = torch.where(wave == 0, 1.0, math.sqrt(2.0)) / math.sqrt(length)
        return functions * norm, wave

    def _amplitude(self, waves: Sequence[Tensor]) -> Tensor:
        D = self.grid.dim
        eigenvalue = sum(
            w.square().reshape([-1 if b == a else 1 for b in range(D)]) for a, w in enumerate(waves)
        )
        sigma = self.tau ** (self.alpha - 0.5 * D) if self.sigma is None else self.sigma
        shifted = eigenvalue + self.tau**2
        free = eigenvalue > 0
        return torch.where(
            free, sigma * torch.where(free, shifted, 1.0) ** (-0.5 * self.alpha), 0.0
        )


def two_phases(field: Tensor, low: float, high: float, threshold: float = 0.0) -> Tensor:
    """Piecewise constant field: `high` where field > threshold, else `low`; same shape.

    Source: Li et al. 2021 (FNO's Darcy: 3 and 12); DGenNO: 5 and 10.
    """
    return torch.where(field > threshold, high, low).to(field)


def fourier_series(
    grid: Grid,
    n: int,
    generator: torch.Generator | None = None,
    *,
    terms: int = 2,
    modes: int = 8,
    amplitude: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Σ_i A_i sin(2π Σ_a m_{i,a} x_a / L_a + φ_i): sums of few waves, (n, 1, *cells).

    Args:
        grid: the box; the fields are periodic in it.
        n: number of fields.
        generator: of the draws.
        terms: waves per field.
        modes: largest |m_a|; in 1-D m is 1 … modes, else −modes … modes but not all zero.
        amplitude: A_i are uniform in [0, amplitude], φ_i in [0, 2π].
        dtype, device: of the result.

    Source: Takamoto et al. 2022 (PDEBench), Eq. 8.
    """
    if terms < 1 or modes < 1 or 2 * modes >= min(grid.cells):
        got, expected = f"terms = {terms}, modes = {modes}", "terms >= 1, 1 <= modes < cells / 2"
        raise InputError(message("fourier_series", expected, got, "Correct them"))
    place = generator.device if generator is not None else torch.device("cpu")
    options = {"generator": generator, "dtype": torch.float64, "device": place}
    D = grid.dim
    size = (2 * modes + 1) ** D // 2
    # Half of all waves, one of each pair ± m, numbered from the middle of the cube of modes.
    number = torch.randint(size, (n, terms), generator=generator, device=place) + size + 1
    waves = [(number // (2 * modes + 1) ** a) % (2 * modes + 1) - modes for a in range(D)]
    high = amplitude * torch.rand(n, terms, **options)
    phase = 2 * math.pi * torch.rand(n, terms, **options)
    points = grid.points(torch.zeros((), dtype=torch.float64, device=place))
    total = torch.zeros((n, *grid.cells), dtype=torch.float64, device=place)
    for i in range(terms):
        angle = phase[:, i].reshape(-1, *(1,) * D)
        for a, (start, length) in enumerate(zip(grid.origin, grid.lengths, strict=True)):
            wave = waves[a][:, i].double().reshape(-1, *(1,) * D)
            angle = angle + wave * (2 * math.pi / length) * (points[..., a] - start)
        total = total + high[:, i].reshape(-1, *(1,) * D) * torch.sin(angle)
    return total[:, None].to(dtype=dtype, device=device)
