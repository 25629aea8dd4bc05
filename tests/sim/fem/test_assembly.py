"""Assembly, orders and factors of the Hessian against the sum of blocks in a full matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import ConvergenceError
from rheograd.sim.fem import assembly, krylov
from rheograd.sim.fem.assembly import factorize
from rheograd.sim.fem.meshes import rectangle
from rheograd.sim.fem.pattern import Blocks, Pattern

SCENES = 2


def blocks_of(stencil, generator):
    """Positive semidefinite blocks (S, 3 k, 3 k)."""
    k = 3 * stencil.shape[1]
    root = torch.randn(len(stencil), k, k, dtype=torch.float64, generator=generator)
    return root @ root.mT / k


def scene(generator, contact=True):
    """Blocks of a sheet of triangles with some driven points, and contact across it in one scene."""
    X, cells = rectangle((9, 4), (9.0, 4.0))
    n = len(X)
    free = torch.arange(n)[torch.arange(n) % 7 != 3]
    # A row that names a point twice, as patches at borders do.
    rows = [cells, torch.tensor([[0, 1, 1], [2, 5, 2]])]
    fixed = []
    for stencil in rows:
        flat = torch.cat([stencil + b * n for b in range(SCENES)])
        fixed.append((flat, blocks_of(flat, generator)))
    far = torch.tensor([[0, 1, n - 1, n - 2], [3, 4, n - 4, n - 5], [20, 20, 21, 1]]) + n
    moving = [(far, blocks_of(far, generator))] if contact else []
    diagonal = 0.1 + torch.rand(SCENES, n, dtype=torch.float64, generator=generator)
    x = torch.nn.functional.pad(X, (0, 3 - X.shape[1])).expand(SCENES, n, 3)
    return Pattern(rows, free, n, x[0]), Blocks(diagonal, fixed, moving, x)


def full(blocks, pattern):
    """(B, 3 F, 3 F) from the product with every unit vector."""
    n = blocks.diagonal.shape[1]
    eye = torch.eye(3 * n, dtype=torch.float64).view(3 * n, 1, n, 3).expand(-1, SCENES, -1, -1)
    columns = torch.stack([blocks.product(e) for e in eye])  # (3 N, B, N, 3)
    A = columns.permute(1, 2, 3, 0).reshape(SCENES, n, 3, n, 3)
    A = A[:, pattern.free][:, :, :, pattern.free]
    return A.reshape(SCENES, pattern.count, pattern.count)


@pytest.mark.parametrize("limit", [4e10, 0])
@pytest.mark.parametrize("linear", ["sparse", "dense"])
def test_factors_solve_with_the_sum_of_all_blocks(linear, limit, generator, monkeypatch):
    """With `limit` 0 the sparse solver takes LU instead of a band."""
    monkeypatch.setattr(assembly, "BAND_WORK", limit)
    pattern, blocks = scene(generator)
    A = full(blocks, pattern)
    assert torch.equal(A, A.mT) or (A - A.mT).abs().max() < 1e-12
    factor = factorize(blocks, pattern, linear)
    assert factor.positive.all()
    b = torch.randn(SCENES, pattern.count, dtype=torch.float64, generator=generator)
    assert torch.allclose(A @ factor.solve(b)[..., None], b[..., None], atol=1e-9)
    assert torch.allclose(factor.product(b), (A @ b[..., None])[..., 0], atol=1e-11)
    blocks.diagonal[1] -= 50.0
    indefinite = factorize(blocks, pattern, linear, definite=False)
    assert indefinite.positive.tolist() == [True, False]
    A = full(blocks, pattern)
    assert torch.allclose(A @ indefinite.solve(b)[..., None], b[..., None], atol=1e-9)


def test_product_at_some_points_equals_the_whole_one(generator):
    _, blocks = scene(generator)
    v = torch.randn(SCENES, blocks.diagonal.shape[1], 3, dtype=torch.float64, generator=generator)
    some = torch.tensor([3, 10, 11])
    assert torch.allclose(blocks.product(v, only=some)[:, some], blocks.product(v)[:, some])


def test_the_narrowest_order_is_taken(generator):
    """Row by row on a grid; along the body where points are numbered at random; folded with contact."""
    X, cells = rectangle((30, 5), (30.0, 5.0))
    n = len(X)
    X = torch.nn.functional.pad(X, (0, 3 - X.shape[1])).double()
    everything = torch.arange(n)
    grid = Pattern([cells], everything, n, X)
    assert grid.order.width <= 3 * (6 + 2)
    mixed = torch.randperm(n, generator=generator)
    back = mixed.argsort()
    shuffled = Pattern([back[cells]], everything, n, X[mixed])
    assert shuffled.order.width <= 2 * grid.order.width
    assert sorted(shuffled.order.place.tolist()) == list(range(n))
    # One half folded over the other: contact joins the ends, sorting along x keeps the band narrow.
    half = X[:, 0] > 15
    folded = X.clone()
    folded[half, 0] = 30 - X[half, 0]
    pairs = torch.stack((everything[half], n - 1 - everything[half]), 1)
    blocks = Blocks(torch.ones(1, n).double(), [(cells[:0], torch.zeros(0, 9, 9))],
                    [(pairs, blocks_of(pairs, generator))])  # fmt: skip
    extra = grid.contact(blocks, [0])[0]
    order = grid.order_with(extra, folded)
    assert order.width < 0.3 * 3 * n
    places = order.scalars()
    assert np.abs(places[extra.row] - places[extra.col]).max() < order.width


def on(device, blocks):
    """The same blocks on a device."""
    pairs = [
        [(stencil.to(device), local.to(device)) for stencil, local in part]
        for part in (blocks.fixed, blocks.moving)
    ]
    return Blocks(blocks.diagonal.to(device), *pairs, blocks.x)


def check_cg(device, generator):
    """Products and solves in Warp against the full matrix; scenes of very different right-hand sides."""
    pattern, blocks = scene(generator)
    A = full(blocks, pattern)
    b = torch.randn(SCENES, pattern.count, dtype=torch.float64, generator=generator)
    b[1] *= 1e-7
    factor = factorize(on(device, blocks), pattern, "cg", 1e-12)
    y, x = factor.product(b.to(device)).cpu(), factor.solve(b.to(device)).cpu()
    assert torch.allclose(y, (A @ b[..., None])[..., 0], rtol=1e-13, atol=0)
    error = (x - torch.linalg.solve(A, b)).norm(dim=1) / torch.linalg.solve(A, b).norm(dim=1)
    assert float(error.max()) < 1e-9
    assert 0 < factor.iterations < 200
    return factor, b, x


def test_cg_in_warp_agrees_with_the_direct_solve(generator, monkeypatch):
    factor, b, x = check_cg("cpu", generator)
    assert torch.equal(factor.solve(b), x)
    assert torch.equal(factor.solve(torch.zeros_like(b)), torch.zeros_like(b))
    linear, seen = krylov._module("optim.linear"), []
    solve = linear.cg

    def listen(A, b, x, **options):
        seen.extend((b.ptr, x.ptr))
        return solve(A, b, x, **options)

    monkeypatch.setattr(linear, "cg", listen)
    found = factor.solve(b)
    assert seen == [b.data_ptr(), found.data_ptr()]  # nothing is copied


@pytest.mark.gpu
def test_cg_in_warp_on_cuda(generator):
    check_cg("cuda", generator)


def test_cg_says_when_it_has_not_converged(generator):
    pattern, blocks = scene(generator)
    b = torch.randn(SCENES, pattern.count, dtype=torch.float64, generator=generator)
    with pytest.raises(ConvergenceError, match='1 of 2 scenes.*linear="sparse"') as error:
        early = factorize(blocks, pattern, "cg", 1e-12, max_iterations=10)
        early.solve(b * torch.tensor([[1.0], [0.0]]))
    assert error.value.iterations == 10 and error.value.residual > 1e-11
    # What it gives is right, of an indefinite matrix too: the residual is measured anew.
    blocks.diagonal[1] -= 50.0
    x = factorize(blocks, pattern, "cg", 1e-12).solve(b)
    assert torch.allclose((full(blocks, pattern) @ x[..., None])[..., 0], b, atol=1e-9)
    blocks.diagonal[1] = torch.nan
    with pytest.raises(ConvergenceError, match="inf ‖b‖ in 1 of 2 scenes"):
        factorize(blocks, pattern, "cg", 1e-12, max_iterations=100).solve(b)
