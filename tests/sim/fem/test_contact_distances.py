"""Distances, barrier, mollifier, friction: values against other ways, derivatives by differences."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.fem.contact import barrier as B
from rheograd.sim.fem.contact import distances as D
from rheograd.sim.fem.contact import friction as F
from rheograd.sim.fem.contact.psd import project_blocks, project_pairs

# One example of each kind: p against the triangle (0,0,0) (1,0,0) (0,1,0), b against the edge along x.
POINTS = {
    0: (-0.4, -0.3, 0.2),
    1: (1.5, -0.2, 0.3),
    2: (-0.2, 1.6, 0.1),
    3: (0.4, -0.5, 0.3),
    4: (0.8, 0.9, 0.2),
    5: (-0.3, 0.4, -0.2),
    6: (0.2, 0.3, 0.4),
}
EDGES = {
    7: ((0.4, -0.5, 0.3), (0.6, 0.7, 0.5)),
    8: ((-0.5, -1.0, 0.5), (-0.4, 1.0, 0.7)),
    9: ((1.3, -1.0, 0.5), (1.2, 1.0, 0.7)),
    10: ((0.4, 0.2, 0.3), (0.6, 0.9, 0.9)),
    11: ((0.6, 0.9, 0.9), (0.4, 0.2, 0.3)),
    12: ((-0.3, 0.2, 0.3), (-0.9, 0.9, 0.9)),
    13: ((-0.9, 0.9, 0.9), (-0.3, 0.2, 0.3)),
    14: ((1.3, 0.2, 0.3), (1.9, 0.9, 0.9)),
    15: ((1.9, 0.9, 0.9), (1.3, 0.2, 0.3)),
}


def example(kind: int) -> torch.Tensor:
    """Positions (1, 4, 3) with that closest feature, turned and scaled to millimetres."""
    if kind in POINTS:
        rows = [POINTS[kind], (0, 0, 0), (1, 0, 0), (0, 1, 0)]
    else:
        rows = [(0, 0, 0), (1, 0, 0), *EDGES[kind]]
    x = torch.tensor(rows, dtype=torch.float64)
    g = torch.Generator().manual_seed(kind)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=g))
    return (4e-3 * (x @ turn.T) + 0.1)[None]


def kind_of(x: torch.Tensor, kind: int) -> torch.Tensor:
    return (D.point_triangle_kind if kind <= D.PLANE else D.edge_edge_kind)(x)


def differences(function, x: torch.Tensor, step: float) -> torch.Tensor:
    """Central differences of order four of a function of x (1, 4, 3), (..., 12)."""
    columns = []
    for i in range(12):
        d = torch.zeros(12, dtype=x.dtype)
        d[i] = step
        d = d.view(1, 4, 3)
        one, two = (function(x + k * d) - function(x - k * d) for k in (1, 2))
        columns.append((8 * one - two) / (12 * step))
    return torch.stack(columns, dim=-1)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("kind", [*POINTS, *EDGES])
def test_every_kind_is_found_and_differentiated(kind):
    x = example(kind)
    k = kind_of(x, kind)
    assert k.item() == kind
    near = D.nearest(x, k)
    step = 4e-6
    slope = differences(lambda y: D.nearest(y, k).squared, x, step)
    assert error(D.squared_distance_gradient(near).flatten(1), slope) < 1e-9
    curve = differences(lambda y: D.squared_distance_gradient(D.nearest(y, k)).flatten(1), x, step)
    assert error(D.squared_distance_hessian(near), curve) < 1e-8
    # What autograd makes of the gradient is the same Hessian: the adjoint may rely on it.
    y = x.clone().requires_grad_()
    local = D.squared_distance_gradient(D.nearest(y, k)).flatten()
    rows = [torch.autograd.grad(v, y, retain_graph=True)[0].flatten() for v in local]
    assert error(torch.stack(rows)[None], D.squared_distance_hessian(near)) < 1e-12


def test_distances_are_the_smallest_of_many_points(generator):
    x = torch.randn(600, 4, 3, dtype=torch.float64, generator=generator)
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    a, b = torch.meshgrid(t, t, indexing="ij")
    inside = a + b <= 1 + 1e-12
    u, v = a[inside][:, None], b[inside][:, None]
    on = x[:, 1, None] + u * (x[:, 2] - x[:, 1])[:, None] + v * (x[:, 3] - x[:, 1])[:, None]
    sampled = (on - x[:, :1]).norm(dim=-1).amin(1)
    exact = D.nearest(x, D.point_triangle_kind(x)).squared.sqrt()
    assert (exact <= sampled + 1e-12).all() and (sampled - exact).max() < 0.05
    first = x[:, 0, None] + t[:, None] * (x[:, 1] - x[:, 0])[:, None]
    second = x[:, 2, None] + t[:, None] * (x[:, 3] - x[:, 2])[:, None]
    sampled = torch.cdist(first, second).flatten(1).amin(1)
    exact = D.nearest(x, D.edge_edge_kind(x)).squared.sqrt()
    assert (exact <= sampled + 1e-12).all() and (sampled - exact).max() < 0.05


@pytest.mark.parametrize("angle", [1e-1, 1e-2, 1e-4, 1e-6, 1e-9, 0.0])
def test_near_parallel_edges_keep_their_digits(angle):
    """Distance of two crossing edges d apart, and derivatives that stay finite."""
    d, c, s = 3e-4, math.cos(angle), math.sin(angle)
    rows = [(0, 0, 0), (4e-3, 0, 0), (2e-3 * (1 - c), -2e-3 * s, d), (2e-3 * (1 + c), 2e-3 * s, d)]
    x = torch.tensor([rows], dtype=torch.float64) + 0.05
    near = D.nearest(x, D.edge_edge_kind(x))
    assert near.squared.sqrt().item() == pytest.approx(d, rel=1e-9)
    m, slope, curve = D.cross_mollifier(x, torch.full((1,), 1e-3 * (4e-3) ** 4).double())
    assert (0 <= m).all() and (m < 1).item() == (angle < 0.02)
    assert torch.isfinite(slope).all() and torch.isfinite(curve).all()
    bounded = m[:, None, None] * D.squared_distance_hessian(near)
    assert bounded.abs().max() < 1e5


def test_mollifier_derivatives(generator):
    x = torch.tensor(
        [[(0, 0, 0), (1, 0, 0), (0.1, 0.3, 0.2), (1.1, 0.31, 0.22)]], dtype=torch.float64
    )
    eps = torch.tensor([1e-3], dtype=torch.float64)
    m, slope, curve = D.cross_mollifier(x, eps)
    assert 0.1 < m.item() < 0.95
    assert (
        error(slope.flatten(1), differences(lambda y: D.cross_mollifier(y, eps)[0], x, 1e-4)) < 1e-9
    )
    rows = differences(lambda y: D.cross_mollifier(y, eps)[1].flatten(1), x, 1e-4)
    assert error(curve, rows) < 1e-9
    assert D.cross_mollifier(x, 0 * eps)[0].item() == 1


def test_barrier_is_convex_and_smooth():
    d_hat = 1e-3
    d = torch.linspace(0.02, 1.2, 60, dtype=torch.float64) * d_hat
    s = d * d
    step = 1e-4 * s
    value, first, second = B.barrier(s, d_hat)
    assert (value >= 0).all() and (first <= 0).all() and (second >= 0).all()
    assert (value[d > d_hat] == 0).all() and (4 * s * second + 2 * first >= 0).all()
    plus, minus = B.barrier(s + step, d_hat), B.barrier(s - step, d_hat)
    smooth = (d < 0.99 * d_hat) | (d > 1.01 * d_hat)
    for k, exact in ((0, first), (1, second)):
        slope = (plus[k] - minus[k]) / (2 * step)
        assert torch.allclose(slope[smooth], exact[smooth], rtol=1e-5)
    edge = torch.tensor([d_hat * d_hat * (1 - 1e-9)], dtype=torch.float64)
    _, slope, curve = B.barrier(edge, d_hat)
    assert abs(float(slope)) < 1e-3 and abs(float(curve)) < 1e3
    assert B.pressure(torch.tensor([0.5e-3]).double(), d_hat).item() == pytest.approx(
        4.329, rel=1e-3
    )


def test_wall_goes_on_inside():
    """Value and two derivatives fit at the floor; inside it is a convex parabola."""
    d_hat = 1e-3
    d = torch.linspace(-0.5, 1.1, 81, dtype=torch.float64) * d_hat
    value, first, second = B.wall(d, d_hat)
    outside = d > B.FLOOR * d_hat
    assert torch.equal(value[outside], B.barrier(d[outside] ** 2, d_hat)[0])
    assert (first <= 0).all() and (second >= 0).all() and torch.isfinite(value).all()
    h = 1e-4 * d_hat
    low, high = B.wall(d - h, d_hat), B.wall(d + h, d_hat)
    for k, exact in ((0, first), (1, second)):
        slope = (high[k] - low[k]) / (2 * h)
        assert (slope - exact).abs().max() < 1e-4 * float(exact.abs().max())
    at = B.wall(torch.tensor([B.FLOOR * d_hat, 0.0], dtype=torch.float64), d_hat)[1]
    assert at.tolist() == pytest.approx([-41, -82], rel=0.03)


@pytest.mark.parametrize("speed", [0.0, 0.3, 0.9, 1.1, 30.0])
def test_friction_on_both_sides_of_sticking(speed, generator):
    """f₀ and its derivatives; ε = eps_v h is 5e-6 m, speeds in units of eps_v."""
    eps = 5e-6
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    n = torch.nn.functional.normalize(torch.randn(1, 3, dtype=torch.float64, generator=generator))
    t = torch.linalg.cross(n, torch.nn.functional.normalize(x[:1]))
    t = torch.nn.functional.normalize(t)
    c = torch.tensor([[1.0, -0.2, -0.3, -0.5]], dtype=torch.float64)
    start = (c[..., None] * x[None]).sum(1) - speed * eps * t
    lag = F.Lag(torch.arange(4)[None], c, n, torch.tensor([0.7], dtype=torch.float64), start)
    force = F.friction_gradient(lag, x, eps)
    assert force.sum(1).abs().max() < 1e-15
    pull = force[0, 0].norm().item()
    y = speed
    assert pull == pytest.approx(0.7 * (1.0 if y >= 1 else 2 * y - y * y), abs=1e-9)
    if speed == 0:
        return

    def energy(z):
        return F.friction_energy(lag, z[0], eps)

    step = 1e-3 * eps
    slope = differences(energy, x[None], step)
    assert error(force.flatten(1), slope) < 1e-7
    rows = differences(lambda z: F.friction_gradient(lag, z[0], eps).flatten(1), x[None], step)
    blocks = F.friction_hessian(lag, x, eps)
    assert error(blocks, rows) < 1e-6
    assert torch.linalg.eigvalsh(blocks).min() > -1e-10 * blocks.abs().max()


def test_projection_is_the_nearest_semidefinite_block(generator):
    x = torch.cat([example(k) for k in EDGES])
    near = D.nearest(x, D.edge_edge_kind(x))
    blocks = -D.squared_distance_hessian(near)
    projected = project_blocks(blocks)
    values, vectors = torch.linalg.eigh(blocks)
    want = (vectors * values.clamp(min=0)[:, None]) @ vectors.transpose(1, 2)
    assert torch.allclose(projected, want, atol=1e-12)
    assert torch.linalg.eigvalsh(projected).min() > -1e-12


@pytest.mark.parametrize("first", [-1.0, 0.7])
def test_projection_of_a_pair_needs_five_motions(first, generator):
    for kinds, features in ((range(7), D.point_triangle_kind), (range(7, 16), D.edge_edge_kind)):
        x = torch.cat([example(k) for k in kinds])
        near = D.nearest(x, features(x))
        f = first * (1 + torch.rand(len(x), generator=generator, dtype=x.dtype))
        k = torch.rand(len(x), generator=generator, dtype=x.dtype) / near.squared
        g = D.squared_distance_gradient(near).flatten(1)
        blocks = f[:, None, None] * D.squared_distance_hessian(near)
        blocks = blocks + k[:, None, None] * g[:, :, None] * g[:, None, :]
        assert error(project_pairs(near, f, k), project_blocks(blocks)) < 1e-10
