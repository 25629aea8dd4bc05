"""Solids from parts: closed forms, exactness, measured bounds, sampling on a grid, engine parity."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from rheograd.sim.core.csg import (
    Difference,
    Intersection,
    Moved,
    OpenBox,
    Rounded,
    Shell,
    Strokes,
    Turned,
    Union,
)
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.mesh_shape import count_open_edges
from rheograd.sim.core.sampled_shape import Sampled
from rheograd.sim.core.shapes import Box, Plane, Sphere, Torus

F64 = torch.float64
QUARTER = (0.0, 1.0, 1.0, -0.5 * math.pi, 0.0, 0.1)
TILT = (math.cos(0.4), 0.0, math.sin(0.4), 0.0)
EXACT = [
    Turned(lines=((0.0, 0.0, 0.5, 0.0, 0.1), (0.5, 0.0, 0.5, 1.0, 0.1))),
    Turned(arcs=(QUARTER,)),
    Strokes(((0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.1), (0.0, 0.5, 0.5, 0.3, 0.5, 0.9, 0.2))),
    OpenBox((0.5, 0.3), 0.6, 0.1),
    Union(Sphere(0.4), Moved(Box((0.2, 0.3, 0.4)), (0.3, 0.1, 0.0), TILT)),
    Shell(Box((0.3, 0.5, 0.2)), 0.1),
    Rounded(Box((0.3, 0.5, 0.2)), 0.1),
]


def name_of(shape):
    return type(shape).__name__


def cloud(count=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 1.3 * (2 * torch.rand(count, 3, generator=generator, dtype=F64) - 1)


@pytest.mark.parametrize(
    ("shape", "point", "distance", "normal"),
    [
        (EXACT[0], (0.3, 0.4, 0.5), -0.1, None),
        (EXACT[0], (0.0, 0.9, 0.5), 0.3, (0.0, 1.0, 0.0)),
        (EXACT[0], (0.0, -0.8, 1.4), 0.4, (0.0, -0.6, 0.8)),
        (EXACT[0], (0.0, 0.0, 0.3), 0.2, (0.0, 0.0, 1.0)),
        (EXACT[1], (0.0, 0.0, -0.3), 0.2, (0.0, 0.0, -1.0)),
        (EXACT[1], (0.3, 0.0, 0.6), 0.4, (-0.6, 0.0, 0.8)),
        (EXACT[1], (0.0, 1.3, 1.4), 0.4, (0.0, 0.6, 0.8)),
        (EXACT[2], (0.6, 0.5, 1.3), 0.3, (0.6, 0.0, 0.8)),
        (EXACT[3], (0.1, 0.0, 0.2), 0.2, (0.0, 0.0, 1.0)),
        (EXACT[3], (-0.55, 0.1, 0.3), -0.05, (-1.0, 0.0, 0.0)),
        (EXACT[3], (0.9, 0.0, 1.0), 0.5, (0.6, 0.0, 0.8)),
        (EXACT[3], (0.0, 0.0, 1.0), 0.5, None),
        (
            Union(Sphere(0.5), Moved(Sphere(0.5), (2.0, 0.0, 0.0))),
            (2.0, 0.9, 0.0),
            0.4,
            (0, 1.0, 0),
        ),
        (Intersection(Sphere(1.0), Plane()), (0.0, 0.2, -0.1), -0.1, (0.0, 0.0, 1.0)),
        (Difference(Sphere(1.0), Sphere(0.6)), (0.7, 0.0, 0.0), -0.1, (-1.0, 0.0, 0.0)),
        (Shell(Sphere(1.0), 0.2), (0.0, 0.0, 0.5), 0.4, (0.0, 0.0, -1.0)),
        (Rounded(Box((1, 1, 1)), 0.5), (1.6, 1.8, 0.0), 0.5, (0.6, 0.8, 0.0)),
    ],
)
def test_closed_forms(shape, point, distance, normal):
    d, n = shape.signed_distance(torch.tensor(point, dtype=F64))
    assert abs(float(d) - distance) < 1e-14
    if normal is not None:
        torch.testing.assert_close(n, torch.tensor(normal, dtype=F64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", EXACT, ids=name_of)
def test_exact_outside_and_lipschitz_everywhere(shape):
    points = cloud().requires_grad_()
    d, n = shape.signed_distance(points)
    (gradient,) = torch.autograd.grad(d.sum(), points)
    points, d, n = points.detach(), d.detach(), n.detach()
    torch.testing.assert_close(gradient, n, rtol=0, atol=1e-13)
    torch.testing.assert_close(n.norm(dim=-1), torch.ones_like(d), rtol=0, atol=1e-13)
    lipschitz = (d - d.roll(1, 0)).abs() - (points - points.roll(1, 0)).norm(dim=-1)
    assert float(lipschitz.max()) <= 1e-13
    # Exact outside: the foot of the normal lies on the surface.
    out = d > 0
    foot, _ = shape.signed_distance(points[out] - d[out, None] * n[out])
    assert float(foot.abs().max()) < 1e-13


def test_open_box_is_exact_inside():
    d, n = EXACT[3].signed_distance(points := cloud(20000))
    inside = d < 0
    assert int(inside.sum()) > 100
    foot, _ = EXACT[3].signed_distance(points[inside] - d[inside, None] * n[inside])
    assert float(foot.abs().max()) < 1e-14


@pytest.mark.parametrize("kind", [Union, Intersection, Difference])
def test_blend_changes_only_its_neighbourhood_and_at_most_a_quarter_of_it(kind):
    a, b, k = Box((0.5, 0.4, 0.3)), Moved(Sphere(0.5), (0.4, 0.0, 0.2)), 0.2
    points = cloud().requires_grad_()
    sharp, soft = (kind(a, b, w).signed_distance(points)[0] for w in (0.0, k))
    added = ((soft - sharp) * (1 if kind is not Union else -1)).detach()
    assert float(added.min()) >= -1e-15 and float(added.max()) <= k / 4 + 1e-15
    other = b.signed_distance(points)[0] * (-1 if kind is Difference else 1)
    apart = (a.signed_distance(points)[0] - other).abs() >= k
    assert float(added[apart].abs().max()) < 1e-15
    # The normal is the direction of the gradient, which is at most 1 in a blend.
    (gradient,) = torch.autograd.grad(soft.sum(), points)
    length = gradient.norm(dim=-1)
    assert float(length.max()) <= 1 + 1e-13
    n = kind(a, b, k).signed_distance(points.detach())[1]
    clear = length > 1e-6
    assert float((n * length[:, None] - gradient)[clear].abs().max()) < 1e-13


@pytest.mark.parametrize("shape", EXACT, ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_finite_at_singular_points(shape, dtype):
    places = [(0, 0, 0), (0, 0, 1), (0, 0.5, 0.5), (0.5, 0, 0), (0.3, 0.5, 0.2), (0, 1, 1)]
    points = torch.tensor(places, dtype=dtype)
    points = torch.cat((points, points + 1e-20, points + 1e-13)).requires_grad_()
    d, n = shape.signed_distance(points)
    torch.testing.assert_close(n.norm(dim=-1), torch.ones_like(d), rtol=1e-5, atol=0)
    for output in (d, *n.unbind(-1)):
        (gradient,) = torch.autograd.grad(output.sum(), points, retain_graph=True)
        assert torch.isfinite(gradient).all()


def test_volumes_and_bounds():
    """Pappus: the turned wall has 2π ρ̄ times its section, here a quarter ring with two round ends."""
    R, h = 1.0, 0.1
    # ∫ρ dA over the quarter annulus R ± h, plus the cap at the rim and half a ball at the axis.
    ring = ((R + h) ** 3 - (R - h) ** 3) / 3
    rim = 2 * math.pi * R * (0.5 * math.pi * h**2)
    expected = 2 * math.pi * ring + rim
    shape = Sampled(Turned(arcs=(QUARTER,)), resolution=64)
    assert count_open_edges(shape.faces) == 0
    assert abs(shape.volume() / expected - 1) < 3e-3
    box = Sampled(OpenBox((0.5, 0.3), 0.6, 0.1), resolution=48)
    assert abs(box.volume() / (1.2 * 0.8 * 0.7 - 1.0 * 0.6 * 0.6) - 1) < 0.02
    assert abs(box.area() / (1.2 * 0.7 - 1.0 * 0.6) - 1) < 0.02
    for exact in EXACT:
        low, high = (torch.tensor(b, dtype=F64) for b in exact.bounds())
        inside = cloud(20000)[exact.signed_distance(cloud(20000))[0] < 0]
        assert bool(((inside >= low) & (inside <= high)).all())
        assert float((inside.amax(0) - high).abs().max()) < 0.12


def test_sampling_converges_at_second_order_on_a_smooth_surface():
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(2000, 3, generator=generator, dtype=F64)
    errors = []
    for resolution in (16, 32, 64):
        shape = Sampled(Torus(0.7, 0.3), resolution)
        d, n = Torus(0.7, 0.3).signed_distance(u)
        p = u - d[:, None] * n
        p, n = p[(p[:, :2].norm(dim=-1) > 0.1)], n[(p[:, :2].norm(dim=-1) > 0.1)]
        value, normal = shape.signed_distance(p)
        errors.append(float(value.abs().mean()))
        assert float((normal * n).sum(-1).min()) > 1 - 40 / resolution**2 * 4
    assert math.log2(errors[0] / errors[1]) > 1.8 and math.log2(errors[1] / errors[2]) > 1.8


def test_surface_lies_on_the_exact_one_and_points_outward():
    shape = Sampled(EXACT[4], resolution=40)
    d, n = EXACT[4].signed_distance(torch.from_numpy(np.array(shape.vertices)))
    assert float(d.abs().median()) < 1e-12 and float(d.abs().max()) < 0.1 * shape.dx
    a, b, c = (shape.vertices[shape.faces[:, i]] for i in range(3))
    middle = torch.from_numpy((a + b + c) / 3)
    outward = torch.from_numpy(np.cross(b - a, c - a))
    along = (outward * EXACT[4].signed_distance(middle)[1]).sum(-1)
    assert float((along > 0).double().mean()) > 0.99


def test_sampled_is_a_value():
    one, two = Sampled(EXACT[0], 24), Sampled(EXACT[0], 24)
    assert one == two and hash(one) == hash(two) and one != Sampled(EXACT[0], 25)
    again = pickle.loads(pickle.dumps(one))
    assert again == one and torch.equal(again.grid(F64), one.grid(F64))


def test_engine_reads_the_same_distances():
    from rheograd.sim.core.backend import warp
    from rheograd.sim.core.colliders import Collider
    from rheograd.sim.core.colliders_warp import pack

    wp = warp()
    shape = Sampled(EXACT[3], 24)
    packed = pack(Collider(shape), wp.float64)
    assert packed.kind % 16 == 6 and np.array_equal(packed.volume.numpy(), shape.distances)
    assert tuple(packed.origin) == shape.origin and packed.dx == shape.dx


@pytest.mark.parametrize(
    "make",
    [
        lambda: Turned(),
        lambda: Turned(lines=((0.0, 0.0, -1.0, 0.0, 0.1),)),
        lambda: Turned(lines=((0.0, 0.0, 1.0, 0.0),)),
        lambda: Turned(arcs=((0.0, 0.0, 1.0, 0.0, math.pi, 0.1),)),
        lambda: Turned(arcs=((0.0, 0.0, 1.0, 0.5, 0.5, 0.1),)),
        lambda: Strokes(()),
        lambda: Strokes(((0, 0, 0, 1, 1, 1, 0.0),)),
        lambda: OpenBox((0.5, 0.0), 0.6, 0.1),
        lambda: Union(Sphere(), Sphere(), -0.1),
        lambda: Shell(Sphere(), 0.0),
        lambda: Sampled(Plane()),
        lambda: Sampled(Union(Sphere(), Plane())),
        lambda: Sampled(Sphere(), resolution=2),
        lambda: Sampled(Shell(Sphere(), 1e-5), resolution=8),
        lambda: EXACT[0].signed_distance(torch.zeros(4, 2)),
    ],
)
def test_errors_name_the_remedy(make):
    with pytest.raises(InputError, match=r"expected .*; got .*\. \w"):
        make()
