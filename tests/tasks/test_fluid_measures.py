"""Measures without identity: sums, closed forms, permutations, batches, gradients, errors."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import cosine
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.tasks.fluid.measures import (
    Cells,
    attraction,
    density,
    density_mismatch,
    fraction_inside,
    lacey_index,
    pair_distance,
    probe,
    segregation,
)

F64 = torch.float64
CELLS = {d: Cells.over((0.0,) * d, (1.0,) * d, 0.2) for d in (1, 2, 3)}


def cloud(n, batch=1, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, n, dim, generator=generator, dtype=F64)


def halves(n):
    return (torch.arange(n) % 2).to(F64)


MEASURES = {
    "mismatch": lambda x: density_mismatch(
        x, cloud(17, x.shape[0], x.shape[2], 9).to(x), CELLS[x.shape[2]]
    ),
    "inside": lambda x: fraction_inside(x, Sphere(0.4), 0.3, (0.5, 0.2, 0.5)),
    "attraction": lambda x: attraction(x, x.new_full((x.shape[2],), 0.3), 5),
    "pairs": pair_distance,
    "segregation": lambda x: segregation(x, halves(x.shape[1]), CELLS[x.shape[2]]),
    "lacey": lambda x: lacey_index(x, halves(x.shape[1]), CELLS[x.shape[2]]),
}


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", MEASURES)
def test_taylor_batch_and_single_precision(name, dim):
    measure, x = MEASURES[name], cloud(400 if name == "lacey" else 24, 2, dim)
    assert taylor_test(lambda t: measure(t).sum(), x, eps0=1e-4).passed()
    one = torch.cat([measure(x[i : i + 1]) for i in range(2)])
    if name != "mismatch":  # its target is drawn per batch
        torch.testing.assert_close(measure(x), one, rtol=1e-12, atol=1e-14)
    grads = []
    for dtype in (torch.float32, F64):
        leaf = x.to(dtype).requires_grad_()
        value = measure(leaf)
        assert value.shape == (2,) and value.dtype == dtype
        grads.append(torch.autograd.grad(value.sum(), leaf)[0].to(F64))
    assert cosine(*grads) > 0.9999


def test_taylor_in_masses_and_kinds():
    x, m, c = cloud(30, 2), cloud(30, 2, 1, 3)[..., 0] + 0.5, cloud(30, 2, 1, 4)[..., 0]

    def all_of(t):
        x, m, c = t
        region = fraction_inside(x, Box((0.3, 0.3, 0.3)), 0.2, (0.5, 0.5, 0.5), weights=m)
        mixed = segregation(x, c, CELLS[3], m) + density_mismatch(
            x, x[:, :9], CELLS[3], m, m[:, :9]
        )
        return (region + mixed).sum()

    for wrt in ("0", "1", "2"):
        assert taylor_test(all_of, (x, m, c), wrt=[wrt], eps0=1e-4).passed(), wrt


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_density_keeps_mass_and_centre(dim):
    x, m = cloud(50, 2, dim), cloud(50, 2, 1, 1)[..., 0]
    x[0, 0], x[0, 1] = 0.0, 1.0  # corners of the domain
    cells = CELLS[dim]
    rho = density(x, cells, m) * cells.volume
    assert rho.shape == (2, *cells.shape) and float(rho.min()) >= 0
    torch.testing.assert_close(rho.flatten(1).sum(1), m.sum(1), rtol=1e-13, atol=0)
    axis = [a + cells.spacing * torch.arange(n, dtype=F64)
            for a, n in zip(cells.lower, cells.shape, strict=True)]  # fmt: skip
    nodes = torch.stack(torch.meshgrid(*axis, indexing="ij"), -1).reshape(-1, dim)
    moment = torch.einsum("bk,kd->bd", rho.flatten(1), nodes)
    torch.testing.assert_close(moment, torch.einsum("bn,bnd->bd", m, x), rtol=1e-13, atol=0)


def test_uniform_lattice_has_uniform_density():
    """Particles at the same places of all cells: quadratic splines add up to a constant inside."""
    axis = (torch.arange(40, dtype=F64) + 0.5) / 40
    rho = density(torch.cartesian_prod(axis, axis)[None], CELLS[2])[0]
    torch.testing.assert_close(rho[2:-2, 2:-2], torch.ones(3, 3, dtype=F64), rtol=1e-12, atol=0)


def test_order_does_not_matter_and_halves_count_once():
    x, y = cloud(40), cloud(30, seed=1)
    other = y[:, torch.randperm(30, generator=torch.Generator().manual_seed(2))]
    value = density_mismatch(x, y, CELLS[3])
    torch.testing.assert_close(density_mismatch(x, other, CELLS[3]), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        density_mismatch(torch.cat((x, x), 1), y, CELLS[3]), value, rtol=1e-12, atol=0
    )
    assert float(density_mismatch(x, x, CELLS[3])) == 0.0
    far = Cells.over((0, 0, 0), (9, 9, 9), 0.2)
    torch.testing.assert_close(
        density_mismatch(x + 5, x, far), x.new_tensor([2.0]), rtol=1e-10, atol=0
    )


def test_fraction_inside_closed_forms():
    axis = (torch.arange(60, dtype=F64) + 0.5) / 60
    x = torch.cartesian_prod(axis, axis)[None]
    # The step is odd about the surface, so the flat face keeps its area: exact up to its ends.
    half = fraction_inside(x, Box((1.0, 1.0, 0.5)), 0.2, (0.5, 0.0, 0.0))
    torch.testing.assert_close(half, x.new_tensor([0.5]), rtol=0, atol=1e-12)
    ball = fraction_inside(x, Sphere(0.3), 0.05, (0.5, 0.0, 0.5))
    assert abs(float(ball) - math.pi * 0.09) < 2e-3
    y = x.new_tensor([[[0.5, 0.5], [0.5, 0.95], [0.5, 0.8]]])
    inside = [
        float(fraction_inside(y[:, i : i + 1], Sphere(0.3), 0.1, (0.5, 0, 0.5))) for i in range(3)
    ]
    assert inside[:2] == [1.0, 0.0] and abs(inside[2] - 0.5) < 1e-12


def test_attraction_takes_the_nearest():
    x = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]], dtype=F64, requires_grad=True)
    anchor = torch.zeros(2, dtype=F64)
    value = attraction(x, anchor, 2)
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert float(value.detach()) == 0.5 and grad[0, :, 0].tolist() == [0.0, 1.0, 0.0]
    assert abs(float(attraction(x.detach(), anchor, 3)) - 10 / 3) < 1e-14
    away = anchor.clone().requires_grad_()
    (pull,) = torch.autograd.grad(attraction(x.detach(), away, 3).sum(), away)
    assert pull.tolist() == [pytest.approx(-8 / 3), 0.0]


def test_pair_distance():
    x = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]], dtype=F64, requires_grad=True)
    value = pair_distance(x)
    assert abs(float(value.detach()) - 10 / 3) < 1e-14
    assert bool(torch.isfinite(torch.autograd.grad(value.sum(), x)[0]).all())
    assert float(pair_distance(x.detach()[:, :1])) == 0.0
    assert float(pair_distance(x.detach()[:, :1], x.detach()[:, 1:2])) == 5.0


def test_mixing_limits():
    """Separate, random and ideal: the index is 0, 1 on average, and above 1."""
    n = 40
    axis = (torch.arange(n, dtype=F64) + 0.5) / n
    x = torch.cartesian_prod(axis, axis)[None]
    cells = Cells.over((0, 0), (1, 1), 0.1)
    left = (x[0, :, 0] < 0.5).to(F64)
    checker = ((torch.arange(n)[:, None] + torch.arange(n)) % 2).flatten().to(F64)
    assert float(segregation(x, left, cells)) > 0.85 and float(lacey_index(x, left, cells)) < 0.16
    assert (
        float(segregation(x, checker, cells)) < 1e-3 and float(lacey_index(x, checker, cells)) > 1
    )
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack([left[torch.randperm(n * n, generator=generator)] for _ in range(200)])
    index = lacey_index(x.expand(200, -1, -1), shuffled, cells)
    error = float(index.mean() - 1) / (float(index.std()) / math.sqrt(200))
    assert abs(error) < 4 and float(index.std()) < 0.02
    # Grids without any particle in some cells, and one particle of each kind.
    few = torch.tensor([[[0.1, 0.1], [0.9, 0.9]]], dtype=F64)
    assert abs(float(segregation(few, torch.tensor([0, 1]), cells)) - 1) < 1e-12


def test_probe():
    cells = torch.arange(12, dtype=F64).reshape(1, 3, 4)
    field = torch.cat((cells, 2 * cells)).requires_grad_()  # linear: 4 i + j
    points = torch.tensor([[0.0, 0.0], [0.3, 0.5], [1.0, 1.5]], dtype=F64, requires_grad=True)
    value = probe(field, points, (0.0, 0.0), 0.5)
    expected = (8 * points[:, 0] + 2 * points[:, 1]).detach()
    torch.testing.assert_close(value, torch.stack((expected, 2 * expected)), rtol=1e-13, atol=0)
    random = torch.rand(2, 4, 5, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    places = cloud(7, 2) * 0.2 + 0.05
    for wrt in ("0", "1"):
        assert taylor_test(
            lambda t: probe(t[0], t[1], (0, 0, 0), 0.1).square().sum(),
            (random, places), wrt=[wrt], eps0=1e-5,
        ).passed()  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [
        lambda: Cells((0.0,), 0.1, (2,)),
        lambda: Cells((0.0, 0.0), 0.1, (5,)),
        lambda: Cells((0.0,), 0.0, (5,)),
        lambda: density(cloud(0), CELLS[3]),
        lambda: density(cloud(5), CELLS[2]),
        lambda: density(cloud(5) + 1, CELLS[3]),
        lambda: density(cloud(5), CELLS[3], torch.ones(4)),
        lambda: density_mismatch(cloud(5, 2), cloud(5), CELLS[3]),
        lambda: fraction_inside(cloud(5), Sphere(), 0.0),
        lambda: fraction_inside(cloud(0), Sphere(), 0.1),
        lambda: attraction(cloud(5), torch.zeros(3, dtype=F64), 6),
        lambda: attraction(cloud(5), torch.zeros(3, dtype=F64), 0),
        lambda: attraction(cloud(5), torch.zeros(2, dtype=F64), 1),
        lambda: pair_distance(cloud(0)),
        lambda: segregation(cloud(5), torch.ones(5), CELLS[3]),
        lambda: segregation(cloud(5), 2 * halves(5), CELLS[3]),
        lambda: lacey_index(cloud(4), halves(4), CELLS[3]),
        lambda: probe(torch.zeros(1, 3, 3), torch.full((1, 2), 1.1), (0, 0), 0.5),
        lambda: probe(torch.zeros(1, 3, 3), torch.zeros(1, 3), (0, 0), 0.5),
    ],
)
def test_errors_name_the_remedy(call):
    with pytest.raises(InputError, match=r"expected .*; got .*"):
        call()
