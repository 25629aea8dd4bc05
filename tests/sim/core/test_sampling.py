"""Particles in shapes: volumes, placement, spacing, randomness, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rheograd.sim.core import rotations
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.sampling import SAMPLING_MODES, sample_shape
from rheograd.sim.core.shapes import Box, Capsule, Cylinder, MeshShape, Plane, Sphere, Torus
from scipy.spatial import cKDTree

F64 = torch.float64
SOLIDS = [
    Sphere(0.3),
    Box((0.3, 0.2, 0.25)),
    Capsule(0.2, 0.3),
    Cylinder(0.3, 0.2),
    Torus(0.4, 0.15),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tetrahedron():
    vertices = [[-0.3, -0.2, -0.2], [0.4, -0.2, -0.15], [0.0, 0.4, -0.2], [0.05, 0.0, 0.4]]
    return MeshShape(vertices, [[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], resolution=32)


@pytest.mark.parametrize("mode", SAMPLING_MODES)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("shape", SOLIDS, ids=lambda s: type(s).__name__)
def test_points_fill_the_shape(shape, dim, mode):
    spacing = 0.02 if dim == 2 else 0.05
    position = (1.0, -2.0) if dim == 2 else (1.0, -2.0, 3.0)
    turn = rotations.from_rotation_vector(
        torch.tensor([0.0, 0.6, 0.0] if dim == 2 else [0.3, 0.6, -0.2], dtype=F64)
    )
    points, volume = sample_shape(
        shape,
        spacing,
        position=position,
        orientation=turn.tolist(),
        mode=mode,
        generator=generator(),
        dim=dim,
        dtype=F64,
    )
    total = shape.volume() if dim == 3 else shape.area()
    assert points.shape == (len(points), dim) and points.dtype == F64
    assert len(points) * volume == pytest.approx(total, rel=1e-12)
    # Lattice points near the surface fall in or out: a share of order surface · h / volume.
    assert volume == pytest.approx(spacing**dim, rel=0.1)

    lifted = points if dim == 3 else torch.stack((points[:, 0], 0 * points[:, 0], points[:, 1]), 1)
    center = torch.tensor([position[0], 0.0, position[1]] if dim == 2 else position, dtype=F64)
    d, _ = shape.signed_distance(rotations.rotate_inverse(turn, lifted - center))
    assert float(d.max()) < 1e-12
    # The mean lies at the origin of the shape by symmetry; √(var / N) is its standard error.
    error = points.mean(0) - (center if dim == 3 else center[::2])
    assert bool((error.abs() <= 5 * points.std(0) / math.sqrt(len(points))).all())


def test_grid_fills_a_box_exactly():
    points, volume = sample_shape(Box((0.1, 0.2, 0.3)), 0.05, dtype=F64)
    assert points.shape == (4 * 8 * 12, 3) and volume == pytest.approx(0.05**3)
    torch.testing.assert_close(points.amax(0), torch.tensor([0.075, 0.175, 0.275], dtype=F64))
    torch.testing.assert_close(points.amin(0), -points.amax(0))
    flat, area = sample_shape(Box((0.1, 0.2, 0.3)), 0.05, dim=2)
    assert flat.shape == (4 * 12, 2) and area == pytest.approx(0.05**2)
    assert flat.dtype == torch.float32


def test_poisson_keeps_points_apart():
    """Yuksel 2015: elimination reaches more than 0.6 of the densest packing's distance."""
    for dim, spacing in ((2, 0.02), (3, 0.06)):
        nearest = {}
        for mode in ("random", "poisson"):
            points, volume = sample_shape(
                Box((0.3, 0.3, 0.3)), spacing, mode=mode, dim=dim, generator=generator()
            )
            nearest[mode] = cKDTree(points.numpy()).query(points.numpy(), 2)[0][:, 1].min()
        if dim == 2:
            densest = math.sqrt(2 * volume / math.sqrt(3))
        else:
            densest = (math.sqrt(2) * volume) ** (1 / 3)
        assert nearest["poisson"] > 0.6 * densest
        assert nearest["random"] < 0.3 * densest


def test_same_seed_same_points():
    for mode in ("jitter", "random", "poisson"):
        one, two, other = (
            sample_shape(Sphere(0.2), 0.05, mode=mode, generator=generator(s))[0] for s in (1, 1, 2)
        )
        assert torch.equal(one, two)
        assert one.shape != other.shape or not torch.equal(one, other)


@pytest.mark.parametrize("dim", [2, 3])
def test_mesh_is_filled(dim):
    """Exact volume and section of a tetrahedron, and points on its inner side only."""
    shape = tetrahedron()
    spacing = 0.01 if dim == 2 else 0.03
    points, volume = sample_shape(shape, spacing, dim=dim, dtype=F64)
    total = shape.volume() if dim == 3 else shape.area()
    assert len(points) * volume == pytest.approx(total)
    assert volume == pytest.approx(spacing**dim, rel=0.05)
    lifted = points if dim == 3 else torch.stack((points[:, 0], 0 * points[:, 0], points[:, 1]), 1)
    for face in shape.faces:
        a, b, c = shape.vertices[face]
        outward = np.cross(b - a, c - a)
        height = (lifted.numpy() - a) @ (outward / np.linalg.norm(outward))
        # The sampled distance rounds edges off by at most a cell.
        assert height.max() < shape.dx


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"shape": Plane()}, "a bounded shape"),
        ({"shape": Torus(0.5, 0.1), "spacing": 2.0}, "spacing that puts a particle into Torus"),
        ({"spacing": 2.0, "mode": "random"}, "spacing that puts a particle into Sphere"),
        ({"spacing": 0.0}, "spacing > 0 m"),
        ({"mode": "hexagonal"}, "mode in"),
        ({"dim": 1}, "dim 2 or 3"),
        ({"dim": 2, "position": (0.0, 1.0, 0.0)}, "plane y = 0"),
        ({"dim": 2, "orientation": (1.0, 0.5, 0.0, 0.0)}, "turn about y"),
        ({"position": (0.0, 1.0)}, "position of 3 numbers"),
    ],
)
def test_errors(arguments, text):
    arguments = {"shape": Sphere(0.3), "spacing": 0.1, **arguments}
    with pytest.raises(InputError, match=text):
        sample_shape(arguments.pop("shape"), arguments.pop("spacing"), **arguments)
