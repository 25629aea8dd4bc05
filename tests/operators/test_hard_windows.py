"""Windows by local rows against dense ones, and the algebra of block-tridiagonal matrices."""

from __future__ import annotations

import pytest
import torch
from rheograd.operators.hard_moe import (
    FitConfig,
    HardOperator,
    IntegralProblem,
    Layout,
    StepProblem,
    band,
    first_frames,
    windows,
)
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.grid.pdes import DiffusionSorption, Grid, Heat, sorption_sides


class Network(torch.nn.Module):
    """Waves whose phases depend on the first frame."""

    def __init__(self, n):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.rates = torch.nn.Parameter(4 * torch.rand(n, 3, generator=g, dtype=torch.float64))

    def forward(self, x):
        F, X = x.shape[2:]
        t = (torch.arange(F).to(x) / F)[:, None]
        s = ((torch.arange(X) + 0.5).to(x) / X)[None]
        a, b, c = self.rates.T[..., None, None]
        return torch.cos(a * s + b) * torch.exp(-c * t) * (1 + x.mean((2, 3), keepdim=True) * a)


def operator(boxes, local=True, cells=32, frames=8, problem=StepProblem, **options):
    pde = DiffusionSorption(Grid(cells, sides=sorption_sides()), 20.0)
    config = FitConfig(max_iterations=60, tol=1e-11, sweeps=2)
    return HardOperator(
        Network(3), problem(pde, frames), "windows", boxes,
        config=config, throw=True, local=local, ridge=1e-3, **options,
    )  # fmt: skip


def system(K, n, generator, S=3):
    """A band that is positive definite."""
    A = torch.randn(S, K, 2, n, n, generator=generator, dtype=torch.float64)
    A[:, 0, 1] = 0
    A[:, :, 0] = A[:, :, 0] @ A[:, :, 0].mT + 4 * n * torch.eye(n, dtype=torch.float64)
    return A


@pytest.mark.parametrize("K, n", [(1, 3), (2, 1), (5, 4)])
def test_bands_are_their_matrices(K, n, generator):
    A, v = system(K, n, generator), torch.randn(3, K * n, generator=generator, dtype=torch.float64)
    full = band.dense(A)
    assert torch.equal(full, full.mT)
    assert torch.equal(band.diagonal(A), band.diagonal(full))
    assert torch.allclose(band.product(A, v), band.product(full, v), atol=1e-12)
    s = v.abs() + 0.1
    assert torch.allclose(
        band.dense(band.rescale(A, s, v)), band.rescale(full, s, v), rtol=1e-14, atol=0
    )
    lower, info = band.cholesky(A)
    assert not bool(info.any())
    assert torch.allclose(band.solve(lower, v), torch.linalg.solve(full, v), rtol=1e-12, atol=1e-14)
    A[1, -1, 0, 0, 0] = -1.0
    assert (band.cholesky(A)[1] != 0).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "boxes, problem",
    [(b, StepProblem) for b in ((1, 2), (1, 4), (2, 1), (2, 4))] + [((1, 4), IntegralProblem)],
)
def test_local_rows_are_dense_rows(boxes, problem, generator):
    """Weights, fields and gradients to 1e-10, in one row of boxes and in two."""
    u0, found = first_frames(2, 32, "rich", generator), []
    for local in (True, False):
        model = operator(boxes, local, problem=problem)
        assert (model.layout is not None) is local
        u = model(u0)
        loss = u.square().sum()
        assert model.constraint.last.w.shape == (2, 3 * boxes[0] * boxes[1])
        found.append(
            (model.constraint.last.w, u.detach(), *torch.autograd.grad(loss, model.network.rates))
        )
    for a, b in zip(*found, strict=True):
        assert float((a - b).abs().max()) < 1e-10 * float(b.abs().max())


def test_gradient_of_local_fits(generator):
    u0, model = first_frames(1, 32, "rich", generator), operator((1, 4))

    def loss(rates):
        return torch.func.functional_call(model, {"network.rates": rates}, (u0,)).square().sum()

    report = taylor_test(loss, model.network.rates.detach().clone())
    assert report.passed(1.9), report


def test_rows_meet_two_windows_an_axis():
    """With the gap no stencil of a patch touches a window that its layout does not name."""
    cells, counts, reach = (12, 32), (1, 4), 1
    layout, phi = Layout(counts, cells, reach), windows(counts, cells, 0.5, reach)
    seen = (phi > 0) | (phi.roll(1, 2) > 0) | (phi.roll(-1, 2) > 0)
    seen[:, :, [0, -1]] = (phi > 0)[:, :, [0, -1]]
    for patch in range(8):
        alive = seen[:, :, 4 * patch : 4 * patch + 4].any(1).any(1).nonzero()[:, 0].tolist()
        assert set(alive) <= set(layout.window[patch].tolist())
    assert torch.allclose(phi.sum(0), torch.ones(cells, dtype=torch.float64))


def test_dense_where_rows_are_not_local():
    """Boxes too narrow, odd halves, and periodic grids keep the dense fit."""
    assert operator((1, 16)).layout is None and operator((1, 8)).layout is not None
    late = IntegralProblem(operator((1, 2)).problem.pde, 8)
    assert HardOperator(Network(3), late, "windows", (2, 4)).layout is None
    ring = StepProblem(Heat(Grid(32), 0.01), 8)
    assert HardOperator(Network(3), ring, "windows", (1, 4)).layout is None


def test_sampled_local_rows(generator):
    """A6: with 80 of 256 points the residual at all of them is at most 3 times that of the full fit."""
    u0, found = first_frames(2, 32, generator=generator), []
    for points in (None, 80):
        model = operator((1, 4), points=points)
        with torch.no_grad():
            found.append(model.problem.defect(model(u0, generator)).square().mean().sqrt())
    assert model.chosen.shape == (16, 10)
    assert found[0] <= found[1] < 3 * found[0]
