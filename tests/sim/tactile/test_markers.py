"""Markers stay on their material; their flow has no part that is rigid; derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import unit_vectors
from rheograd.sim.core import rotations
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.tactile import dome, pad
from rheograd.sim.tactile.camera import dome_camera, pad_camera
from rheograd.sim.tactile.markers import (
    attach,
    fibonacci_markers,
    grid_markers,
    pixel_markers,
    ring_markers,
)

DOME, PAD = dome(cuts=4), pad()


def test_layouts_lie_on_the_surface():
    grid = grid_markers(PAD.X, PAD.triangles, rows=5, columns=4)
    x = grid.position(PAD.X[None])[0]
    assert x.shape == (20, 3) and float((x[:, 2] - 4e-3).abs().max()) < 1e-15
    assert torch.allclose(x[:4, 0], torch.linspace(-8e-3, 8e-3, 4).double())
    assert torch.allclose(x[::4, 1], torch.linspace(-8e-3, 8e-3, 5).double())
    for markers in (
        ring_markers(DOME.X, DOME.triangles),
        fibonacci_markers(DOME.X, DOME.triangles),
    ):
        x = markers.position(DOME.X[None])[0]
        assert len(markers) > 100 and float(markers.weights.min()) >= 0
        assert torch.allclose(markers.weights.sum(1), torch.ones(len(markers)).double())
        # The plane of a triangle with edges up to l is at most l²/6R inside of the sphere.
        edge = (DOME.X[DOME.triangles] - DOME.X[DOME.triangles.roll(1, 1)]).norm(dim=-1).max()
        sagitta = 15e-3 - x.norm(dim=1)
        assert float(sagitta.min()) > -1e-12 and float(sagitta.max()) < float(edge) ** 2 / 90e-3
        assert abs(float(torch.acos(x[:, 2] / x.norm(dim=1)).max()) - 1.2) < 0.05
    assert len(fibonacci_markers(DOME.X, DOME.triangles)) == 136


def test_closest_points(generator):
    """No point of a fine sample of the triangles is closer."""
    X = torch.randn(6, 3, generator=generator).double()
    triangles = torch.tensor([[0, 1, 2], [3, 4, 5]])
    points = 2 * torch.randn(40, 3, generator=generator).double()
    found = attach(points, X, triangles, tol=math.inf)
    distance = (found.position(X[None])[0] - points).norm(dim=1)
    s = torch.linspace(0, 1, 41).double()
    grid = torch.stack(torch.meshgrid(s, s, indexing="ij"), dim=-1).reshape(-1, 2)
    grid = grid[grid.sum(1) <= 1 + 1e-9]
    weights = torch.cat((1 - grid.sum(1, keepdim=True), grid), dim=1)
    sample = torch.einsum("kc,fcd->fkd", weights, X[triangles]).reshape(-1, 3)
    least = torch.cdist(points, sample).amin(1)
    assert float(found.weights.min()) >= 0
    assert bool((distance <= least + 1e-12).all()) and float((least - distance).max()) < 0.05


def test_a_rigid_motion_has_no_flow(generator):
    markers = fibonacci_markers(DOME.X, DOME.triangles)
    pose = torch.cat((torch.randn(3, 3, generator=generator).double(),
                      unit_vectors(3, 4, generator=generator)), dim=1)  # fmt: skip
    world = rotations.rotate(pose[:, None, 3:], DOME.X) + pose[:, None, :3]
    flow = markers.flow(dome_camera(), world, DOME.X, pose)
    assert flow.shape == (3, 136, 2) and float(flow.abs().max()) < 1e-9


def test_flow_of_a_known_stretch():
    """x' = 1.1 x on a pad: a pinhole sees 10 % of the distance to the centre as flow."""
    markers = grid_markers(PAD.X, PAD.triangles)
    camera = pad_camera()
    stretched = PAD.X * torch.tensor([1.1, 1.1, 1.0])
    rest = markers.project(camera, PAD.X[None]).uv[0]
    flow = markers.flow(camera, stretched[None], PAD.X)[0]
    assert torch.allclose(flow, 0.1 * (rest - torch.tensor(camera.centre).double()))
    assert float(flow.abs().max()) > 10


def test_derivatives(generator):
    markers = ring_markers(DOME.X, DOME.triangles, rings=3)
    pose = torch.cat((torch.randn(1, 3, generator=generator).double(),
                      unit_vectors(1, 4, generator=generator)), dim=1)  # fmt: skip
    x = rotations.rotate(pose[:, None, 3:], DOME.X) + pose[:, None, :3]
    weight = torch.randn(len(markers), 2, generator=generator).double()

    def value(inputs):
        x, rest, pose = inputs
        return (weight * markers.flow(dome_camera(), x, rest, pose)).sum()

    for wrt in ("0", "1", "2"):
        assert taylor_test(value, (x, DOME.X, pose), wrt=[wrt], eps0=1e-3).passed()


def test_markers_of_a_photograph(generator):
    """Spots at known pixels become markers that project onto these pixels."""
    camera = dome_camera()
    uv = torch.tensor(camera.centre) + 100 * (torch.rand(30, 2, generator=generator) - 0.5)
    markers = pixel_markers(camera, uv, DOME.X, DOME.triangles)
    assert float((markers.project(camera, DOME.X[None]).uv[0] - uv).abs().max()) < 1e-6
    with pytest.raises(InputError, match=r"1 pixels beside it, first \[5.0, 5.0\]"):
        pixel_markers(camera, torch.tensor([[5.0, 5.0]]), DOME.X, DOME.triangles)


def test_wrong_input():
    with pytest.raises(InputError, match="point 0 at .* m. Use metres"):
        attach(torch.tensor([[0.0, 0.0, 15.0]]).double(), DOME.X, DOME.triangles)
    with pytest.raises(InputError, match="radians"):
        ring_markers(DOME.X, DOME.triangles, max_angle=70.0)
    with pytest.raises(InputError, match="margin"):
        grid_markers(PAD.X, PAD.triangles, margin=0.6)
