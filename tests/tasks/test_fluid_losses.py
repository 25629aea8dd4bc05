"""Distances of clouds: closed forms, permutations, weights, batches, gradients, errors."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import cosine
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.gradients import check_backward_twice, taylor_test
from rheograd.tasks.fluid.losses import chamfer, sinkhorn, squared_distance

F64 = torch.float64


def cloud(n, batch=1, dim=3, seed=0, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.rand(batch, n, dim, generator=generator, dtype=F64)


def by_sinkhorn(x, y):
    return sinkhorn(x, y, 0.01, tol=1e-11)


LOSSES = [squared_distance, chamfer, by_sinkhorn]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_taylor(loss, dim):
    x, y = cloud(12, 2, dim), cloud(12, 2, dim, seed=1)
    # Nearest neighbours change hands: their Taylor test stays within one choice.
    step = 1e-5 if loss is chamfer else 1e-3
    for wrt in (["0"], ["1"]):
        report = taylor_test(lambda t: loss(*t).sum(), (x, y), wrt=wrt, eps0=step)
        assert report.passed(), (wrt, report)
    assert check_backward_twice(lambda t: loss(*t).sum(), (x, y)).passed(1e-12)


def test_taylor_in_weights_and_unequal_numbers():
    x, y = cloud(9, 2), cloud(14, 2, seed=1)
    a, b = cloud(9, 2, 1, 2)[..., 0] + 0.1, cloud(14, 2, 1, 3)[..., 0] + 0.1

    def transport(t):
        return sinkhorn(t[0], t[1], 0.01, t[2], t[3], tol=1e-11).sum()

    for wrt in ("0", "1", "2", "3"):
        assert taylor_test(transport, (x, y, a, b), wrt=[wrt], eps0=1e-3).passed(), wrt
    assert taylor_test(lambda t: chamfer(*t).sum(), (x, y), eps0=1e-5).passed()
    assert taylor_test(
        lambda t: squared_distance(t[0], t[1][:, :9], t[2]).sum(), (x, y, a), eps0=1e-3
    ).passed()


@pytest.mark.parametrize("loss", LOSSES)
def test_batch_is_a_loop_and_order_does_not_matter(loss):
    x, y = cloud(20, 3), cloud(20, 3, seed=1)
    one = torch.cat([loss(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(loss(x, y), one, rtol=1e-9, atol=1e-14)
    shuffled = y[:, torch.randperm(20, generator=torch.Generator().manual_seed(4))]
    change = (loss(x, shuffled) - loss(x, y)).abs().max()
    assert change > 1e-3 if loss is squared_distance else change < 1e-14


def test_translation():
    """S = |t|² at any ε, and its gradient pulls every particle alike; far clouds included."""
    x = cloud(40, 2)
    for shift in ((0.02, -0.01, 0.03), (5.0, 0.0, 2.0)):
        t = x.new_tensor(shift)
        for epsilon in (5e-3, 2e-2):
            y = (x + t).detach()
            moved = x.clone().requires_grad_()
            value = sinkhorn(moved, y, epsilon, tol=1e-9)
            torch.testing.assert_close(value, t.square().sum().expand(2), rtol=1e-10, atol=0)
            (grad,) = torch.autograd.grad(value.sum(), moved)
            torch.testing.assert_close(grad, (-2 * t / 40).expand_as(grad), rtol=1e-5, atol=1e-9)


def test_two_gaussians_follow_the_closed_form():
    """Two normal laws on a line, sampled by weights on a grid, which is exact to round-off."""
    s, p, q, shift = 0.3, 1.0, 2.0, 1.5  # σ² = ε/2, standard deviations, distance of the means
    x = torch.linspace(-9, 9, 121, dtype=F64)

    def entropic(A, B):
        D = math.sqrt(4 * A * B + s**2)
        return A + B - D + s * (1 - math.log(2 * s)) + s * math.log(D + s)

    A, B = p**2, q**2
    expected = shift**2 + entropic(A, B) - 0.5 * entropic(A, A) - 0.5 * entropic(B, B)
    a, b = torch.exp(-0.5 * x**2 / A), torch.exp(-0.5 * (x - shift) ** 2 / B)
    wide = torch.linspace(-14, 17, 201, dtype=F64)
    b = torch.exp(-0.5 * (wide - shift) ** 2 / B)
    value = sinkhorn(x[None, :, None], wide[None, :, None], 2 * s, a, b, tol=1e-10)
    assert abs(float(value) / expected - 1) < 1e-9


def test_small_epsilon_approaches_sorted_transport():
    """On a line the best plan is sorted; the bias of S vanishes with ε."""
    x, y = cloud(30, dim=1), cloud(30, dim=1, seed=1) ** 2
    exact = (x.sort(1).values - y.sort(1).values).square().mean()
    errors = [float((sinkhorn(x, y, e, tol=1e-5) - exact).abs()) for e in (1e-2, 1e-3, 1e-4)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02 * float(exact)


def test_sinkhorn_is_a_divergence():
    x, y = cloud(25), cloud(31, seed=1)
    forth, back = sinkhorn(x, y, 1e-2, tol=1e-10), sinkhorn(y, x, 1e-2, tol=1e-10)
    torch.testing.assert_close(forth, back, rtol=1e-9, atol=0)
    same = x.clone().requires_grad_()
    value = sinkhorn(same, x, 1e-2, tol=1e-10)
    (grad,) = torch.autograd.grad(value.sum(), same)
    assert float(forth) > 1e-4 and abs(float(value.detach())) < 1e-13
    assert float(grad.abs().max()) < 1e-9
    # Twice the points with half the mass are the same cloud; points without mass do not count.
    twice = torch.cat((x, x), 1)
    torch.testing.assert_close(sinkhorn(twice, y, 1e-2, tol=1e-10), forth, rtol=1e-9, atol=0)
    more = torch.cat((x, x + 3.0), 1)
    weights = torch.cat((torch.ones(25), torch.zeros(25)))
    torch.testing.assert_close(
        sinkhorn(more, y, 1e-2, weights, tol=1e-10), forth, rtol=1e-9, atol=0
    )


def test_chamfer_of_a_shifted_lattice():
    """Shifted by less than half its spacing, every point's nearest is its own image."""
    axis = 0.1 * torch.arange(5, dtype=F64)
    x = torch.cartesian_prod(axis, axis, axis)[None]
    t = x.new_tensor((0.03, -0.02, 0.01))
    torch.testing.assert_close(chamfer(x, x + t), 2 * t.square().sum()[None], rtol=1e-12, atol=0)
    assert float(chamfer(x, torch.cat((x, x), 1))) == 0.0
    # By a whole spacing only the two end faces disagree.
    off = chamfer(x, x + x.new_tensor((0.1, 0, 0)))
    torch.testing.assert_close(off, 2 * off.new_tensor([0.1**2 / 5]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", [squared_distance, chamfer, lambda x, y: sinkhorn(x, y, 0.01)])
def test_single_precision_and_single_particles(loss):
    x, y = cloud(60, 2), cloud(60, 2, seed=1) + 0.1
    grads = []
    for dtype in (torch.float32, F64):
        leaf = x.to(dtype).requires_grad_()
        value = loss(leaf, y.to(dtype))
        assert value.dtype == dtype and value.shape == (2,)
        grads.append(torch.autograd.grad(value.sum(), leaf)[0].to(F64))
    assert cosine(*grads) > 0.9999
    p, q = x[:, :1], y[:, :1]
    squared = (p - q).square().sum((1, 2))
    twice = 2 if loss is chamfer else 1
    torch.testing.assert_close(loss(p, q), twice * squared, rtol=1e-12, atol=0)


@pytest.mark.parametrize("epsilon", [1e-2, 1e-3])
def test_default_tolerance_costs_little(epsilon):
    """What docs/fluid-tools.md says of it: the value second order in tol, the gradient first."""
    x, y = cloud(400), cloud(400, seed=1) * torch.tensor([0.3, 1.0, 1.0]) + 0.2
    exact = x.clone().requires_grad_()
    value = sinkhorn(exact, y, epsilon, tol=1e-10)
    (grad,) = torch.autograd.grad(value.sum(), exact)
    single = x.float().requires_grad_()
    close = sinkhorn(single, y.float(), epsilon)
    (other,) = torch.autograd.grad(close.sum(), single)
    assert abs(float(close.detach()) / float(value.detach()) - 1) < 1e-6
    assert float((other - grad).norm() / grad.norm()) < 2e-4


def test_descent_moves_one_shape_onto_another():
    """Transport finds a blob that chamfer's nearest points would half ignore."""
    y = torch.cat((cloud(30, scale=0.1), cloud(10, seed=1, scale=0.1) + 0.5), 1)
    x = cloud(40, seed=2, scale=0.1).requires_grad_()
    first = float(sinkhorn(x.detach(), y, 1e-3))
    for _ in range(20):
        (grad,) = torch.autograd.grad(sinkhorn(x, y, 1e-3).sum(), x)
        x = (x - 0.5 * 40 * 0.5 * grad).detach().requires_grad_()
    assert float(sinkhorn(x.detach(), y, 1e-3)) < 1e-3 * first
    assert int((x[0, :, 0] > 0.45).sum()) == 10


def test_not_converged_is_an_error():
    x, y = cloud(30), cloud(30, seed=1)
    with pytest.raises(ConvergenceError, match="Raise epsilon") as caught:
        sinkhorn(x, y, 1e-5, tol=1e-12, n_iterations=100)
    assert caught.value.iterations >= 100 and caught.value.residual > caught.value.tol


@pytest.mark.parametrize(
    "call",
    [
        lambda: chamfer(torch.zeros(1, 0, 3), torch.zeros(1, 4, 3)),
        lambda: chamfer(torch.zeros(1, 4, 3), torch.zeros(1, 0, 3)),
        lambda: squared_distance(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3)),
        lambda: sinkhorn(torch.zeros(1, 0, 3), torch.zeros(1, 4, 3), 0.1),
        lambda: squared_distance(torch.zeros(1, 3, 3), torch.zeros(1, 4, 3)),
        lambda: chamfer(torch.zeros(4, 3), torch.zeros(4, 3)),
        lambda: chamfer(torch.zeros(2, 4, 3), torch.zeros(1, 4, 3)),
        lambda: chamfer(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3, dtype=F64)),
        lambda: chamfer(torch.zeros(1, 4, 3).long(), torch.zeros(1, 4, 3).long()),
        lambda: sinkhorn(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), 0.0),
        lambda: sinkhorn(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), 0.1, tol=-1.0),
        lambda: sinkhorn(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), 0.1, torch.ones(5)),
        lambda: sinkhorn(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), 0.1, torch.zeros(4)),
        lambda: sinkhorn(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), 0.1, -torch.ones(4)),
    ],
)
def test_errors_name_the_remedy(call):
    with pytest.raises(InputError, match=r"expected .*; got .*\. \w"):
        call()
