"""Signed distances: closed forms, eikonal equation, normals, volumes, meshes, errors."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.mesh_shape import count_open_edges
from rheograd.sim.core.shapes import (
    Box,
    Capsule,
    Cylinder,
    MeshShape,
    Plane,
    Sphere,
    Torus,
)

F64 = torch.float64

SOLIDS = [
    Sphere(0.7),
    Box((0.3, 0.5, 0.2)),
    Capsule(0.3, 0.4),
    Cylinder(0.4, 0.6),
    Torus(0.8, 0.2),
]


def sphere_mesh(radius: float = 0.7, level: int = 4):
    """Octahedron, subdivided and blown up; its largest edge shrinks by two per level."""
    vertices = np.array(
        [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=float
    )
    faces = np.array(
        [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    )
    for _ in range(level):
        a, b, c = (vertices[faces[:, i]] for i in range(3))
        corners = np.concatenate((a, b, c, a + b, b + c, c + a))
        corners /= np.linalg.norm(corners, axis=1, keepdims=True)
        vertices, index = np.unique(corners.round(12), axis=0, return_inverse=True)
        a, b, c, ab, bc, ca = index.reshape(6, -1)
        faces = np.concatenate(
            [np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
        )
    return radius * vertices / np.linalg.norm(vertices, axis=1, keepdims=True), faces


def box_mesh(half=(0.3, 0.5, 0.2)):
    """Axis-aligned box of twelve outward triangles."""
    vertices = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return vertices, np.array(faces)


@pytest.fixture(scope="module")
def mesh_sphere():
    return MeshShape(*sphere_mesh(), resolution=48)


def cloud(count=4000, scale=1.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * (2 * torch.rand(count, 3, generator=generator, dtype=F64) - 1)


@pytest.mark.parametrize(
    ("shape", "point", "distance", "normal"),
    [
        (Sphere(0.7), (0.0, 3.0, 4.0), 4.3, (0.0, 0.6, 0.8)),
        (Box((1, 2, 3)), (4.0, 6.0, 0.0), 5.0, (0.6, 0.8, 0.0)),
        (Box((1, 2, 3)), (-0.8, 0.1, 0.2), -0.2, (-1.0, 0.0, 0.0)),
        (Capsule(0.5, 1.0), (0.3, 0.0, 1.4), 0.0, (0.6, 0.0, 0.8)),
        (Capsule(0.5, 1.0), (0.0, -2.0, 0.9), 1.5, (0.0, -1.0, 0.0)),
        (Plane(), (5.0, -2.0, -0.3), -0.3, (0.0, 0.0, 1.0)),
        (Cylinder(1.0, 2.0), (0.0, 4.0, -6.0), 5.0, (0.0, 0.6, -0.8)),
        (Cylinder(1.0, 2.0), (0.1, 0.0, 1.8), -0.2, (0.0, 0.0, 1.0)),
        (Torus(2.0, 0.5), (0.0, 2.3, 0.4), 0.0, (0.0, 0.6, 0.8)),
        (Torus(2.0, 0.5), (-1.7, 0.0, 0.0), -0.2, (1.0, 0.0, 0.0)),
    ],
)
def test_closed_forms(shape, point, distance, normal):
    d, n = shape.signed_distance(torch.tensor(point, dtype=F64))
    assert abs(float(d) - distance) < 1e-14
    torch.testing.assert_close(n, torch.tensor(normal, dtype=F64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [*SOLIDS, Plane()], ids=lambda s: type(s).__name__)
def test_eikonal_normal_and_nearest_point(shape):
    points = cloud().requires_grad_()
    d, n = shape.signed_distance(points)
    (gradient,) = torch.autograd.grad(d.sum(), points)
    points, d, n = points.detach(), d.detach(), n.detach()
    torch.testing.assert_close(gradient, n, rtol=0, atol=1e-14)
    torch.testing.assert_close(n.norm(dim=-1), torch.ones_like(d), rtol=0, atol=1e-14)
    on_surface, _ = shape.signed_distance(points - d[:, None] * n)
    assert float(on_surface.abs().max()) < 1e-14
    # Nothing of the surface is nearer: a distance is 1-Lipschitz along every segment.
    other = points.roll(1, 0)
    lipschitz = (d - d.roll(1, 0)).abs() - (points - other).norm(dim=-1)
    assert float(lipschitz.max()) <= 1e-14
    step = 1e-6 * torch.randn(points.shape, dtype=F64)
    ahead, behind = (shape.signed_distance(points + s * step)[0] for s in (1, -1))
    error = (0.5 * (ahead - behind) - (step * n).sum(-1)).abs()
    # Medial axes and edges cross few of the segments; all others agree to second order.
    assert float(error.quantile(0.99)) < 1e-11


@pytest.mark.parametrize("shape", [*SOLIDS, Plane()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_finite_at_singular_points(shape, dtype):
    """Center, axis, edges and the core of the torus, and points a denormal away from them."""
    places = [(0, 0, 0), (0, 0, 0.3), (0, 0, -5), (0.8, 0, 0), (0.3, 0.5, 0.2), (0.4, 0, 0.6)]
    points = torch.tensor(places, dtype=dtype)
    points = torch.cat((points, points + 1e-20, points + 1e-13)).requires_grad_()
    d, n = shape.signed_distance(points)
    torch.testing.assert_close(n.norm(dim=-1), torch.ones_like(d), rtol=1e-5, atol=0)
    for output in (d, *n.unbind(-1)):
        if output.requires_grad:
            (gradient,) = torch.autograd.grad(output.sum(), points, retain_graph=True)
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("shape", SOLIDS, ids=lambda s: type(s).__name__)
def test_normal_derivative_where_smooth(shape):
    points = cloud(12, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: shape.signed_distance(p), points)


@pytest.mark.parametrize("shape", SOLIDS, ids=lambda s: type(s).__name__)
def test_volume_area_and_bounds_by_counting(shape):
    """Monte Carlo: standard error √(p (1 − p) / N) of the share of hits, five of them allowed."""
    count = 200_000
    lower, upper = (torch.tensor(b, dtype=F64) for b in shape.bounds())
    generator = torch.Generator().manual_seed(7)
    points = torch.rand(count, 3, generator=generator, dtype=F64) * (upper - lower) + lower
    for volume, box, places in (
        (shape.volume(), upper - lower, points),
        (shape.area(), (upper - lower)[::2], points * torch.tensor([1.0, 0, 1], dtype=F64)),
    ):
        share = float((shape.signed_distance(places)[0] <= 0).double().mean())
        expected = volume / float(box.prod())
        sigma = math.sqrt(max(expected * (1 - expected), 0.0) / count)
        assert abs(share - expected) <= 5 * sigma + 1e-12
    for axis in range(3):
        for corner, sign in ((lower, -1), (upper, 1)):
            wall = points[:50_000].clone()
            wall[:, axis] = corner[axis] + sign * 1e-9
            nearest = shape.signed_distance(wall)[0]
            # The wall of the bounds is outside, and the shape reaches it to the sample's density.
            assert float(nearest.min()) > 0
            assert float(nearest.min()) < 1e-3


def test_mesh_sphere_follows_the_analytic_sphere(mesh_sphere):
    """|error| ≤ facet sag e²/(6 r) + interpolation dx²/8 Σ|∂ᵢᵢd|, with Σ ∂ᵢᵢ|p| = 2/|p|.

    The sag of a triangle with edge e under its circumscribed sphere is (e/√3)²/(2r).
    """
    vertices, faces = mesh_sphere.vertices, mesh_sphere.faces
    edge = np.linalg.norm(vertices[faces] - vertices[np.roll(faces, 1, 1)], axis=-1).max()
    points = cloud(4000, 0.75)
    points = points[points.norm(dim=-1) > 0.3]
    exact, normal = Sphere(0.7).signed_distance(points)
    d, n = mesh_sphere.signed_distance(points)
    # A cell within reach of a point may lie √3 dx nearer to the center.
    reach = 0.3 - math.sqrt(3) * mesh_sphere.dx
    allowed = edge**2 / (6 * 0.7) + mesh_sphere.dx**2 / 8 * 2 / reach + 1e-6
    assert float((d - exact).abs().max()) <= allowed
    assert allowed < 0.15 * mesh_sphere.dx
    assert float((n * normal).sum(-1).min()) > 0.99
    assert abs(mesh_sphere.volume() / Sphere(0.7).volume() - 1) < 0.01
    assert abs(mesh_sphere.area() / Sphere(0.7).area() - 1) < 0.01


def test_mesh_distance_and_normal_agree(mesh_sphere):
    """Also beyond the grid, where the distance is extended."""
    points = cloud(500, 2.5).requires_grad_()
    d, n = mesh_sphere.signed_distance(points)
    (gradient,) = torch.autograd.grad(d.sum(), points, create_graph=True)
    unit = gradient / gradient.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(unit, n, rtol=0, atol=1e-13)
    exact, normal = Sphere(0.7).signed_distance(points)
    d, n, exact, normal = (t.detach() for t in (d, n, exact, normal))
    assert float((d - exact).min()) > -0.01
    # The extension's slope is the way out of the box plus the slope at its wall: both point away.
    assert float((n * normal).sum(-1)[exact > 0].min()) > 0.7
    inner = cloud(8, 0.6, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: mesh_sphere.signed_distance(p), inner, eps=1e-8)


def test_mesh_box_is_exact_at_its_faces():
    """Next to a face the distance is linear, so the trilinear field is exact up to float32."""
    box, mesh = Box((0.3, 0.5, 0.2)), MeshShape(*box_mesh(), resolution=40)
    assert abs(mesh.volume() - box.volume()) < 1e-15
    assert abs(mesh.area() - box.area()) < 1e-15
    points = cloud(400, 0.08) + torch.tensor([0.3, 0.1, 0.0], dtype=F64)
    for dtype, tolerance in ((F64, 1e-6), (torch.float32, 2e-6)):
        d, n = mesh.signed_distance(points.to(dtype))
        exact, normal = box.signed_distance(points.to(dtype))
        assert float((d - exact).abs().max()) < tolerance
        torch.testing.assert_close(n, normal, rtol=0, atol=1e-4)
    for got, want in zip(mesh.bounds(), box.bounds(), strict=True):
        assert got == pytest.approx(want)


def test_mesh_value_semantics():
    vertices, faces = box_mesh()
    one, two = MeshShape(vertices, faces, 16), MeshShape(torch.tensor(vertices), faces.tolist(), 16)
    assert one == two and hash(one) == hash(two) and len({one, two}) == 1
    assert one != MeshShape(vertices, faces, 17)
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(ValueError, match="read-only"):
        one.vertices[0] = 0.0
    inward = MeshShape(vertices, faces[:, ::-1], 16)
    assert inward.volume() == pytest.approx(one.volume())
    assert {Sphere(1.0): 1}[Sphere(1.0)] == 1


def test_open_mesh_names_the_number_of_edges():
    vertices, faces = box_mesh()
    assert count_open_edges(faces) == 0
    with pytest.raises(InputError, match=r"3 open edges.*load_mesh"):
        MeshShape(vertices, faces[:-1])
    turned = faces.copy()
    turned[0] = turned[0, ::-1]
    with pytest.raises(InputError, match="3 open edges"):
        MeshShape(vertices, turned)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Sphere(-1.0), "radius > 0 m"),
        (lambda: Box((1.0, 0.0, 1.0)), "y > 0 m"),
        (lambda: Box((1.0, 1.0)), "three half extents"),
        (lambda: Capsule(float("nan"), 1.0), "radius > 0 m"),
        (lambda: Torus(0.2, 0.3), "minor < major"),
        (lambda: Sphere(1.0).signed_distance(torch.zeros(5, 2)), r"\(\.\.\., 3\)"),
        (lambda: MeshShape(box_mesh()[0], box_mesh()[1] + 5), "vertex indices"),
        (lambda: MeshShape(np.zeros((8, 3)), box_mesh()[1]), "encloses volume"),
        (lambda: MeshShape(*box_mesh(), resolution=2), "resolution"),
    ],
)
def test_errors(make, text):
    with pytest.raises(InputError, match=text):
        make()
