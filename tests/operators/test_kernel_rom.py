"""Learned full-field maps: the published kernel and the correction of a spline."""

from __future__ import annotations

import pytest
import torch
from rheograd.operators.giorom.kernel_rom import KernelROM, SplineCorrection
from rheograd.operators.giorom.reconstruct import AffineMLS, LocalSpline
from rheograd.sim.core.errors import InputError

F64 = torch.float64


def points(count, dim=3, seed=0):
    return torch.rand(count, dim, generator=torch.Generator().manual_seed(seed), dtype=F64)


def bend(x, size=0.1):
    return x + size * torch.sin(6 * x.roll(1, -1))


def rom(dim=3, **options):
    generator = torch.Generator().manual_seed(0)
    return KernelROM(dim, generator=generator, **{"grid": 6, "samples": None, **options}).double()


def correction(dim=3, random_end=True):
    net = SplineCorrection(dim, generator=torch.Generator().manual_seed(0)).double()
    if random_end:
        torch.nn.init.normal_(net.weight[-1].weight, generator=torch.Generator().manual_seed(1))
    return net


def test_the_published_size():
    assert sum(p.numel() for p in KernelROM().parameters()) == 5967


@pytest.mark.parametrize("dim", [2, 3])
def test_a_blur_keeps_constants_and_reads_zero_where_no_sensor_is(dim):
    X, Q = points(200, dim), points(50, dim, 1)
    kernel = rom(dim)
    values = torch.tensor([[2.0, -3.0]], dtype=F64).expand(200, 2)
    assert (kernel.interpolate(X, values, Q) - values[:50]).abs().max() < 1e-12
    sharp = rom(dim, grid=40, sigma=0.1)
    corner = sharp.interpolate(0.1 * X, values, Q.new_full((1, dim), 0.9))
    assert torch.equal(corner, torch.zeros_like(corner))


def test_the_gaussian_blur_is_the_mean_over_draws():
    """Mean over K draws of the kernel: its error falls as 1/√K, with values of order 1."""
    X, Q = points(300), 0.4 + 0.2 * points(20, seed=1)
    values = torch.sin(4 * X)
    exact = rom(grid=12).interpolate(X, values, Q)
    generator = torch.Generator().manual_seed(0)

    def error(samples):
        drawn = rom(grid=12, samples=samples).interpolate(X, values, Q, generator)
        return float((drawn - exact).square().mean().sqrt())

    # Nodes sample the Gaussian of 0.8 cells, and look-ups interpolate: a few per cent of blur differ.
    few, many = error(8), error(8000)
    assert few > 5 * many
    assert many < 0.01


@pytest.mark.parametrize("absolute", [True, False])
def test_kernel_batches_permutations_and_start(absolute):
    X, Q = points(40), points(20, seed=1)
    kernel = rom(absolute=absolute)
    now = torch.stack([bend(X), bend(X, 0.2)])
    out = kernel(X, now, Q)
    assert out.shape == (2, 20, 3)
    for t in range(2):
        assert (kernel(X, now[t], Q) - out[t]).abs().max() < 1e-12
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert (kernel(X[order], now[:, order], Q) - out).abs().max() < 1e-12
    plain = Q + kernel.interpolate(X, now - X, Q)
    assert ((out - plain).abs().max() < 1e-12) != absolute


@pytest.mark.parametrize("samples", [None, 4])
def test_kernel_draws_repeat_and_derivatives_are_right(samples):
    X, Q = points(8, 2), points(3, 2, 1)
    kernel = rom(2, samples=samples, hidden=4)

    def positions(sensors, *weights):
        named = dict(zip(dict(kernel.named_parameters()), weights, strict=True))
        arguments = (X, sensors, Q, torch.Generator().manual_seed(3))
        return torch.func.functional_call(kernel, named, arguments)

    inputs = [bend(X).requires_grad_(), *kernel.parameters()]
    assert torch.equal(positions(*inputs), positions(*inputs))
    assert torch.autograd.gradcheck(positions, inputs)


def test_a_correction_starts_at_the_spline():
    X, Q = points(60), points(30, seed=1)
    spline, affine = LocalSpline(X, Q), AffineMLS(X, Q)
    now = bend(X)
    assert torch.equal(correction(random_end=False)(spline, affine, now), spline.reconstruct(now))
    assert not torch.allclose(correction()(spline, affine, now), spline.reconstruct(now))


@pytest.mark.parametrize("dim", [2, 3])
def test_a_correction_keeps_affine_motions_and_knows_neither_place_nor_direction(dim):
    X, Q = points(60, dim), points(30, dim, 1)
    net = correction(dim)
    A = torch.eye(dim, dtype=F64) + 0.3 * points(dim, dim, 2)
    maps = LocalSpline(X, Q), AffineMLS(X, Q)
    assert (net(*maps, X @ A) - Q @ A).abs().max() < 1e-10
    out = net(*maps, bend(X))
    moved = net(LocalSpline(X + 2, Q + 2), AffineMLS(X + 2, Q + 2), bend(X) + 5)
    assert (moved - 5 - out).abs().max() < 1e-8
    turn = torch.linalg.qr(points(dim, dim, 4)).Q
    assert (net(*maps, bend(X) @ turn) - out @ turn).abs().max() < 1e-9


def test_correction_batches_and_derivatives():
    X, Q = points(2 * 20, 2).view(2, 20, 2), points(2 * 4, 2, 1).view(2, 4, 2)
    Q[0, 0] = X[0, 0]  # the spline passes through this sensor
    net = correction(2)
    now = torch.stack([bend(X), bend(X, 0.2), bend(X, -0.1)])
    together = net(LocalSpline(X, Q, 12), AffineMLS(X, Q, 8), now)
    assert together.shape == (3, 2, 4, 2)
    for s in range(2):
        maps = LocalSpline(X[s], Q[s], 12), AffineMLS(X[s], Q[s], 8)
        assert (net(*maps, now[1, s]) - together[1, s]).abs().max() < 1e-9
    maps = LocalSpline(X[0], Q[0], 12), AffineMLS(X[0], Q[0], 8)
    start = now[0, 0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: net(*maps, x), start, rtol=1e-3, atol=1e-6)


def test_a_correction_learns_what_the_spline_misses():
    X, Q = points(100, 2), points(200, 2, 1)
    maps = LocalSpline(X, Q), AffineMLS(X, Q)
    now, truth = bend(X, 0.1), bend(Q, 0.1)
    net = correction(2, random_end=False)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (net(*maps, now) - truth).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda x: KernelROM(4), "KernelROM: expected dim 2 or 3"),
        (lambda x: KernelROM(samples=0), "samples ≥ 1 or None"),
        (lambda x: rom()(x, x[:3], x), r"\(n, D\), \(..., n, D\) and \(N, D\)"),
        (lambda x: rom()(x + 1, x, x), "reference positions in"),
        (
            lambda x: correction()(LocalSpline(x, x, 9), AffineMLS(x, x + 1, 9), x),
            "SplineCorrection: expected maps with the same",
        ),
    ],
)
def test_bad_input_is_refused(call, text):
    with pytest.raises(InputError, match=text):
        call(points(10))
