"""Random inputs: variances, correlations, seeds; and the bases they and the solvers stand on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch
from helpers import relative_error
from pde_cases import F64, generator
from rheograd.sim.core.errors import InputError
from rheograd.sim.grid.pdes import GaussianField, Grid, fourier_series, two_phases
from rheograd.sim.grid.pdes.spectral import Cosine, Fourier, phi_functions
from rheograd.sim.grid.pdes.tridiagonal import (
    Tridiagonal,
    TridiagonalFactor,
    solve_tridiagonal,
)


@pytest.mark.parametrize("basis", ["periodic", "neumann", "dirichlet"])
@pytest.mark.parametrize("cells", [(24,), (12, 10), (6, 5, 6)])
def test_variances_are_those_of_the_covariance(basis, cells) -> None:
    lengths = (1.0, 0.8, 1.2)[: len(cells)]
    kind = GaussianField(Grid(cells, lengths), 2.0, 4.0, basis=basis)
    n = 2000
    u = kind.sample(n, generator(), dtype=F64)[:, 0]
    ratio = u.square().mean(0) / kind.variance()
    # each ratio is χ²(n) / n: its deviation is √(2/n) = 3.2 %; none of some hundred beyond 5 of them
    assert float((ratio - 1).abs().max()) < 5 * math.sqrt(2 / n)
    assert float(u.mean(0).abs().max()) < 5 * float(kind.variance().max().sqrt()) / math.sqrt(n)


def test_modes_have_the_variance_of_the_formula() -> None:
    """∫ a φ_k has variance σ² (λ_k + τ²)^{−α}, by projection on one cosine."""
    grid, n = Grid((16, 16)), 4000
    u = GaussianField(grid, 2.5, 7.0, 3.0).sample(n, generator(), dtype=F64)[:, 0]
    x = grid.points(u)
    phi = (
        math.sqrt(2)
        * math.sqrt(2)
        * torch.cos(2 * math.pi * x[..., 0])
        * torch.sin(4 * math.pi * x[..., 1])
    )
    part = (u * phi).mean((1, 2))
    exact = 9 * (4 * math.pi**2 * 5 + 49) ** -2.5
    assert float(part.square().mean()) == pytest.approx(exact, rel=5 * math.sqrt(2 / n))


def test_papers_are_met() -> None:
    """FNO's vorticity has root mean square 0.19 as written (its files √2 times that)."""
    kind = GaussianField(Grid((64, 64)), 2.5, 7.0)
    assert float(kind.variance().mean().sqrt()) == pytest.approx(0.185, abs=0.005)
    darcy = GaussianField(Grid((32, 32)), 2.0, 3.0, basis="neumann").sample(400, generator())
    a = two_phases(darcy, 3.0, 12.0)
    assert set(a.unique().tolist()) == {3.0, 12.0}
    # both phases have the same law; fractions of one field scatter by 0.3, of 400 by 0.015
    assert float((a == 12).double().mean()) == pytest.approx(0.5, abs=0.06)


def test_a_seed_is_one_function_on_every_grid() -> None:
    coarse, fine = Grid((8, 8)), Grid((24, 24))
    draw = lambda g: GaussianField(g, 2.0, 3.0, modes=3).sample(2, generator(3), dtype=F64)  # noqa: E731
    torch.testing.assert_close(draw(fine)[..., 1::3, 1::3], draw(coarse))
    assert torch.equal(draw(coarse), draw(coarse))
    assert GaussianField(coarse).sample(3, generator(), channels=2).shape == (3, 2, 8, 8)


def test_boundary_values_of_bases() -> None:
    wall = GaussianField(Grid(512), 4.0, 4.0, basis="dirichlet", modes=20).sample(3, generator())
    slope = GaussianField(Grid(512), 4.0, 4.0, basis="neumann", modes=20).sample(3, generator())
    assert float(wall[..., 0].abs().max()) < 0.02 * float(wall.abs().max())
    steps = slope.diff(dim=-1).abs()
    assert float(steps[..., 0].max()) < 0.02 * float(steps.max())


@pytest.mark.parametrize("cells", [(32,), (12, 10)])
def test_series_are_of_few_waves(cells) -> None:
    grid = Grid(cells, origin=(-1.0,) * len(cells))
    u = fourier_series(grid, 400, generator(), terms=3, modes=3, amplitude=2.0, dtype=F64)
    # E A² / 2 per term with A uniform in [0, 2]: 3 · (4/3) / 2; fluctuation about 4 %
    assert float(u.square().mean()) == pytest.approx(2.0, rel=0.2)
    m = Fourier(grid)
    hat = m.forward(u).abs()
    high = sum((m.index(a, u).abs() > 3).double() for a in range(len(cells))) > 0
    assert float((hat * high).max()) < 1e-9 * float(hat.max())
    assert int((hat[0] > 1e-9 * hat[0].max()).sum()) <= 6
    assert float(hat.reshape(400, -1)[:, 0].max()) < 1e-9


def test_errors_name_the_remedy() -> None:
    with pytest.raises(InputError, match="basis out of"):
        GaussianField(Grid(8), basis="fourier")
    with pytest.raises(InputError, match="at most 3 modes"):
        GaussianField(Grid(8), modes=6).sample(1)
    with pytest.raises(InputError, match="alpha > 0"):
        GaussianField(Grid(8), alpha=0.0)
    with pytest.raises(InputError, match="modes < cells"):
        fourier_series(Grid(8), 1, modes=4)


@pytest.mark.parametrize("n", [8, 9])
def test_cosines_are_the_usual_transform_and_invert(n) -> None:
    grid = Grid((n, 6), sides="neumann")
    u = torch.randn(2, 1, n, 6, generator=generator(), dtype=F64)
    basis = Cosine(grid)
    hat = basis.forward(u)
    expected = torch.as_tensor(scipy.fft.dctn(u.numpy(), type=2, axes=(-2, -1)))
    torch.testing.assert_close(hat, expected)
    torch.testing.assert_close(basis.inverse(hat), u)
    padded = torch.nn.functional.pad(u, (1, 1, 1, 1), mode="replicate")
    second = (padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1] - 2 * u) * n**2
    second = second + (padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2] - 2 * u) * 36
    torch.testing.assert_close(basis.inverse(-basis.symbol(u, "difference") * hat), second)


@pytest.mark.parametrize("n", [8, 9])
def test_fourier_derivatives_are_exact(n) -> None:
    grid = Grid((n, n), (2.0, 3.0))
    x, z = grid.points(torch.zeros((), dtype=F64)).unbind(-1)
    u, basis = torch.sin(2 * math.pi * x) * torch.cos(2 * math.pi / 3 * z), Fourier(grid)
    slope = basis.inverse(basis.slope(0, u) * basis.forward(u))
    expected = 2 * math.pi * torch.cos(2 * math.pi * x) * torch.cos(2 * math.pi / 3 * z)
    torch.testing.assert_close(slope, expected)
    minus = basis.inverse(basis.symbol(u) * basis.forward(u))
    torch.testing.assert_close(minus, (1 + 1 / 9) * 4 * math.pi**2 * u)


def test_phi_functions_have_no_cancellation_anywhere() -> None:
    """Against the integral φ_k = ∫ e^{(1−s) z} s^{k−1} / (k−1)! ds by Gauss's rule."""
    z = -torch.logspace(-9, 2, 60, dtype=F64)
    z = torch.cat((z, torch.zeros(1, dtype=F64)))
    points, weights = map(torch.as_tensor, np.polynomial.legendre.leggauss(120))
    s, w = 0.5 + 0.5 * points, 0.5 * weights
    for k, value in enumerate(phi_functions(z), 1):
        exact = (torch.exp((1 - s) * z[:, None]) * s ** (k - 1) / math.factorial(k - 1) * w).sum(1)
        torch.testing.assert_close(value, exact, rtol=1e-12, atol=0)
    z = z.requires_grad_()
    assert bool(torch.isfinite(torch.autograd.grad(sum(phi_functions(z)).sum(), z)[0]).all())


@pytest.mark.parametrize("n", [3, 16, 37])
def test_tridiagonal_systems(n) -> None:
    draw = lambda: torch.randn(2, n, generator=g, dtype=F64)  # noqa: E731
    g = generator()
    lower, upper, b = draw(), draw(), draw()
    main = 2.5 + lower.abs() + upper.abs()
    lower[:, 0], upper[:, -1] = 0, 0
    A = (
        torch.diag_embed(main)
        + torch.diag_embed(lower[:, 1:], -1)
        + torch.diag_embed(upper[:, :-1], 1)
    )
    x = torch.linalg.solve(A, b)
    torch.testing.assert_close(solve_tridiagonal(lower, main, upper, b), x)
    factor = TridiagonalFactor(lower, main, upper)
    torch.testing.assert_close(factor.solve(b).x, x)
    torch.testing.assert_close(factor.solve(b, transpose=True).x, torch.linalg.solve(A.mT, b))
    found = Tridiagonal().factor(lambda v: (A @ v[..., None])[..., 0], like=b).diagonals
    for diagonal, expected in zip(found, (lower, main, upper), strict=True):
        assert relative_error(diagonal, expected) < 1e-12
