"""Mass, inertia and contact points of rigid bodies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rheograd.sim.core.colliders_rigid import RigidBody, contact_points, mass_properties
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.shapes import Box, Capsule, Cylinder, MeshShape, Plane, Shape, Sphere, Torus

SHAPES = [Sphere(0.3), Box((0.1, 0.2, 0.3)), Capsule(0.1, 0.3), Cylinder(0.2, 0.1), Torus(0.4, 0.1)]


def box_mesh(half: tuple[float, float, float], center: tuple[float, float, float]) -> MeshShape:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    return MeshShape(corners * np.array(half) + np.array(center), faces, resolution=24)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("dim", [2, 3])
def test_closed_forms_agree_with_a_midpoint_rule(shape: Shape, dim: int) -> None:
    n = 120 if dim == 3 else 1000
    lower, upper = (np.array(b) for b in shape.bounds())
    axes = [lo + (hi - lo) * (np.arange(n) + 0.5) / n for lo, hi in zip(lower, upper, strict=True)]
    if dim == 2:
        axes[1] = np.zeros(1)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    inside = shape.signed_distance(torch.from_numpy(points))[0].numpy() <= 0
    cell = np.prod((upper - lower)[[0, 2] if dim == 2 else [0, 1, 2]]) / n**dim
    p = points[inside]
    second = cell * np.einsum("pi,pj->ij", p, p)
    moment = np.trace(second) * np.eye(3) - second
    mass = mass_properties(shape, dim)
    assert mass.volume == pytest.approx(cell * len(p), rel=3e-3)
    expected = moment if dim == 3 else moment[1, 1] * np.eye(3)
    # Cells cut by the surface: their share of the volume times the share of each half.
    np.testing.assert_allclose(mass.moment, expected, rtol=3e-3, atol=3e-3 * moment.max())


@pytest.mark.parametrize("dim", [2, 3])
def test_a_mesh_off_its_origin_weighs_what_the_box_does(dim: int) -> None:
    half, center = (0.1, 0.2, 0.3), (0.04, 0.05, -0.02)
    mesh, box = mass_properties(box_mesh(half, center), dim), mass_properties(Box(half), dim)
    tolerance = 1e-12 if dim == 3 else 1e-3  # exact sums, or a quadrature
    assert mesh.volume == pytest.approx(box.volume, rel=1e-12)
    np.testing.assert_allclose(mesh.moment, box.moment, atol=tolerance * box.moment.max())
    place = center if dim == 3 else (center[0], 0.0, center[2])
    np.testing.assert_allclose(mesh.center, place, atol=0.3 * tolerance)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("shape", [*SHAPES, box_mesh((0.2, 0.2, 0.3), (0, 0, 0))], ids=repr)
def test_contact_balls_touch_the_surface_from_inside(shape: Shape, dim: int) -> None:
    points, radii = contact_points(shape, 0.05, dim)
    d = shape.signed_distance(torch.from_numpy(points))[0].numpy()
    smooth = not isinstance(shape, MeshShape)
    np.testing.assert_allclose(d, -radii, atol=1e-9 if smooth else 0.02)
    assert 1 <= len(points) <= 512
    if dim == 2:
        assert not points[:, 1].any()
    if isinstance(shape, Box):  # all corners, or the body would sink in tilted
        axes = [0, 1, 2] if dim == 3 else [0, 2]
        corner = np.linalg.norm(np.array(shape.half_extents)[axes])
        far = np.linalg.norm(points, axis=1) > corner - 1e-9
        assert far.sum() == 2**dim


def test_bad_bodies() -> None:
    for change, words in [
        ({"rho": 0.0}, "rho > 0"),
        ({"velocity": (1.0, 2.0)}, "velocity of 3"),
        ({"angular_velocity": (0.0, 0.0, math.inf)}, "angular_velocity of 3"),
        ({"shape": Plane()}, "bounded solid"),
        ({"inverted": True}, "bounded solid"),
    ]:
        with pytest.raises(InputError, match=words):
            RigidBody(**{"shape": Sphere(0.1), "name": "ball", **change})
