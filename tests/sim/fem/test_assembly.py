"""Assembly, orders and factors of the Hessian against the sum of blocks in a full matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rheograd.sim.fem import assembly
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
