"""Full field from sensors: exactness, degenerate neighbourhoods, batches, derivatives, learning."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error
from rheograd.operators.giorom.reconstruct import (
    AffineMLS,
    InverseDistance,
    LocalSpline,
    follow,
)
from rheograd.sim.core.errors import InputError, StateError

F64 = torch.float64
SCHEMES = [InverseDistance, AffineMLS, LocalSpline]
EXACT = [AffineMLS, LocalSpline]


def points(count, dim=3, seed=0, dtype=F64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, dim, generator=generator, dtype=dtype)


def affine(x, seed=3):
    D = x.shape[-1]
    A = torch.eye(D).to(x) + 0.5 * points(D, D, seed, x.dtype)
    return x @ A.T + points(1, D, seed + 1, x.dtype)


def bend(x):
    return x + 0.1 * torch.sin(3 * x.roll(1, -1))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("scheme", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_affine_motions_are_exact(scheme, dim, dtype):
    X, Q = points(100, dim, dtype=dtype), points(300, dim, 1, dtype)
    out = scheme(X, Q).reconstruct(affine(X))
    assert out.dtype == dtype
    # Weights of order 10 in extrapolation, on displacements of order 1.
    assert (out - affine(Q)).abs().max() < (2e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_translations_are_exact_and_weights_follow_moves_of_the_reference(scheme):
    X, Q = points(60), points(40, seed=1)
    field = scheme(X, Q)
    assert (field.reconstruct(X + 3.0) - (Q + 3.0)).abs().max() < 1e-12
    moved = scheme(X + 2.0, Q + 2.0)
    assert (moved.weights - field.weights).abs().max() < 1e-9


def test_deformation_gradient_of_an_affine_motion():
    X, Q = points(60), points(20, seed=1)
    A = affine(torch.eye(3, dtype=F64)) - affine(torch.zeros(3, 3, dtype=F64))
    F = AffineMLS(X, Q).deformation_gradient(affine(X))
    assert (F - A.T).abs().max() < 1e-11


def test_a_spline_passes_through_the_sensors_and_has_the_higher_order():
    X, Q = points(800), 0.1 + 0.8 * points(500, seed=1)
    # Smoothing by NUGGET is all that moves it off the sensors.
    assert (LocalSpline(X, X).reconstruct(bend(X)) - bend(X)).abs().max() < 1e-6

    def error(scheme, count):
        sensors = points(count)
        return relative_error(scheme(sensors, Q).reconstruct(bend(sensors)) - Q, bend(Q) - Q)

    weighted, mls, spline = (error(s, 800) for s in SCHEMES)
    assert spline < 0.5 * mls < 0.25 * weighted
    # 8 times the sensors halve the spacing: at least second order, with a margin for random points.
    assert error(LocalSpline, 800) < error(LocalSpline, 100) / 3
    assert error(AffineMLS, 800) < error(AffineMLS, 100) / 2


@pytest.mark.parametrize("scheme", EXACT)
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_neighbours_in_a_plane_on_a_line_or_in_a_point(scheme, rank, dtype):
    """Along the directions there are the motion is affine, across them constant."""
    frame = torch.linalg.qr(points(3, 3, 7)).Q
    flat = points(50, 3)
    flat[:, rank:] = 0
    sensors = (flat @ frame.T).to(dtype)
    query = torch.rand(20, 3, generator=torch.Generator().manual_seed(1), dtype=F64) * 0.3
    foot = query.clone()
    foot[:, rank:] = 0
    Q, foot = (query @ frame.T).to(dtype), (foot @ frame.T).to(dtype)
    out = scheme(sensors, Q).reconstruct(affine(sensors))
    assert (out - (Q + affine(foot) - foot)).abs().max() < (
        1e-4 if dtype == torch.float32 else 1e-7
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_coincident_sensors_and_single_neighbours(scheme):
    X = points(30)
    X = torch.cat([X, X])
    Q = torch.cat([points(10, seed=1), X[:5]])
    out = scheme(X, Q).reconstruct(bend(X))
    assert (out - bend(Q)).abs().max() < 0.2
    alone = scheme(X[:1], Q, neighbors=1)
    assert (alone.weights - 1).abs().max() < 1e-12


@pytest.mark.parametrize("scheme", SCHEMES)
def test_leading_axes_equal_a_loop(scheme):
    X, Q = points(3 * 40).view(3, 40, 3), points(3 * 20, seed=1).view(3, 20, 3)
    now = torch.stack([bend(X), affine(X)])
    together = scheme(X, Q).reconstruct(now)
    assert together.shape == (2, 3, 20, 3)
    for t in range(2):
        for s in range(3):
            alone = scheme(X[s], Q[s]).reconstruct(now[t, s])
            assert (together[t, s] - alone).abs().max() < 1e-10


@pytest.mark.parametrize("scheme", SCHEMES)
def test_derivatives(scheme):
    X, Q = points(12, 2), points(3, 2, 1)
    Q[0] = X[0]  # a query on a sensor, where distances have no derivative
    now = bend(X)

    def field(reference, queries, sensors):
        return scheme(reference, queries, neighbors=6).reconstruct(sensors)

    inputs = [t.clone().requires_grad_() for t in (X, Q[1:], now)]
    assert torch.autograd.gradcheck(field, inputs, rtol=1e-4, atol=1e-6)
    at = Q.clone().requires_grad_()
    field(inputs[0], at, inputs[2]).square().sum().backward()
    assert all(bool(t.grad.isfinite().all()) for t in (at, inputs[0], inputs[2]))


def swirl(x, t):
    """Position at time t of a flow that mixes: the turning rate falls with the radius."""
    r = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    angle = t * torch.exp(-((r / 0.4) ** 2))
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos * x[:, :1] - sin * x[:, 1:], sin * x[:, :1] + cos * x[:, 1:]], 1)


def test_a_reference_that_follows_helps_where_particles_mix():
    X, Q = 2 * points(300, 2) - 1, 1.6 * points(400, 2, 1) - 0.8
    times = torch.linspace(0, 12, 61)
    sensors = torch.stack([swirl(X, t) for t in times])
    truth = torch.stack([swirl(Q, t) for t in times])
    fixed = relative_error(follow(sensors, Q), truth)
    following = relative_error(follow(sensors, Q, every=5), truth)
    assert following < 0.5 * fixed
    assert torch.equal(follow(sensors, Q, every=60), follow(sensors, Q))
    # 13 frames: references at 0, 5 and 10.
    once = LocalSpline(X, Q).reconstruct(sensors[1:6])
    assert torch.equal(follow(sensors[:13], Q, every=5)[1:6], once)


def test_following_carries_the_derivative_of_later_references():
    X, Q = points(10, 2), points(2, 2, 1)
    path = torch.stack([X, bend(X), bend(bend(X)), affine(X)]).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: follow(s, Q, every=1, neighbors=6), path, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda x: AffineMLS(x, x[None]), InputError, "AffineMLS: expected sensors"),
        (lambda x: AffineMLS(x, x[:, :2]), InputError, r"got \(20, 3\) and \(20, 2\)"),
        (lambda x: LocalSpline(x, x, 21), InputError, "at least k = 21 points"),
        (lambda x: AffineMLS(x, x).reconstruct(x[:5]), InputError, r"sensors \(..., 20, 3\)"),
        (lambda x: AffineMLS(x, x).reconstruct(x.float()), InputError, "float64"),
        (lambda x: AffineMLS(x, x).reconstruct(x / 0), StateError, "finite sensors"),
        (lambda x: AffineMLS(x / 0, x), StateError, "finite points"),
        (lambda x: follow(x, x), InputError, "T ≥ 1"),
        (lambda x: follow(x[None], x, every=0), InputError, "every ≥ 1"),
    ],
)
def test_bad_input_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call(points(20))


@pytest.mark.gpu
def test_cuda_equals_cpu():
    X, Q = points(500), points(2000, seed=1)
    path = torch.stack([X, bend(X), bend(bend(X))])
    here, there = follow(path, Q, every=1), follow(path.cuda(), Q.cuda(), every=1)
    assert (here - there.cpu()).abs().max() < 1e-9
