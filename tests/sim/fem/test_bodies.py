"""Round bodies: counts, positive volumes, closed forms that refinement approaches, what is held."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.sim.fem.bodies import ball, fingertip
from rheograd.sim.fem.contact import boundary_triangles


def volumes(body):
    corners = body.X[body.tets]
    return torch.linalg.det(corners[:, 1:] - corners[:, :1]) / 6


def outward(body):
    """Normals of the skin along the positions of its triangles."""
    corners = body.X[body.skin]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return (normal * corners.mean(1)).sum(1)


@pytest.mark.parametrize("make", [fingertip, lambda **k: ball(2e-3, **k)])
def test_meshes_are_sound(make):
    for cuts, layers in ((1, 1), (3, 1), (4, 3)):
        body = make(cuts=cuts, layers=layers)
        assert bool((volumes(body) > 0).all()) and bool((outward(body) > 0).all())
        assert len(body.tets.unique()) == len(body.X)
        # Every triangle of the skin is a side of exactly one tetrahedron.
        outer = {tuple(sorted(t)) for t in boundary_triangles(body.tets).tolist()}
        skin = {tuple(sorted(t)) for t in body.skin.tolist()}
        assert skin <= outer and len(skin) == len(body.skin)


def test_volume_approaches_the_closed_form():
    """Chords miss the volume by the square of their length."""
    for make, exact in (
        (lambda n: fingertip(2.0, 1.0, n, 2), 2 / 3 * math.pi * (8 - 1)),
        (lambda n: ball(1.0, n, 2), 4 / 3 * math.pi),
    ):
        gaps = [exact - float(volumes(make(n)).sum()) for n in (4, 8, 16)]
        assert all(g > 0 for g in gaps)
        rates = [math.log2(a / b) for a, b in zip(gaps, gaps[1:], strict=False)]
        assert rates[-1] == pytest.approx(2, abs=0.1)


def test_a_fingertip_holds_rim_and_cavity():
    body = fingertip(radius=8e-3, cavity=3e-3, cuts=4, layers=2)
    assert len(body.X) == 3 * (2 * 16 + 2 * 4 + 1)
    r, z = body.X.norm(dim=1), body.X[:, 2]
    expected = (z.abs() < 1e-12) | ((r - 3e-3).abs() < 1e-12)
    assert torch.equal(body.held, expected.nonzero()[:, 0])
    assert float(body.X[body.skin].norm(dim=-1).min()) == pytest.approx(8e-3)
    assert len(ball(1.0).held) == 0


def test_refusals():
    with pytest.raises(InputError, match="cavity"):
        fingertip(radius=1e-3, cavity=2e-3)
    with pytest.raises(InputError, match="radius"):
        ball(-1.0)
