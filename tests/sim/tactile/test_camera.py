"""Cameras: known pixels, there and back, derivatives."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import unit_vectors
from rheograd.sim.core import rotations
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.tactile.camera import Fisheye, Pinhole, dome_camera, into_frame, pad_camera

PLACED = dict(position=(1e-3, -2e-3, 3e-3), orientation=(0.8, 0.1, -0.3, 0.5))
CAMERAS = {
    "pinhole": Pinhole(width=64, height=48, focal=40.0, centre=(30.0, 25.0), **PLACED),
    "fisheye": Fisheye(width=64, height=48, focal=15.0, centre=(30.0, 25.0), **PLACED),
}


def test_known_pixels():
    x = torch.tensor([[[0.0, 0, 1], [1, 0, 1], [0, 2, 1]]]).double()
    plain = dict(width=640, height=480, centre=(320.0, 240.0))
    uv = Pinhole(focal=100.0, **plain).project(x).uv[0]
    assert uv.tolist() == [[320, 240], [420, 240], [320, 440]]
    found = Fisheye(focal=100.0, **plain).project(x)
    assert torch.allclose(found.uv[0, 1], torch.tensor([320 + 25 * math.pi, 240]).double())
    assert torch.allclose(found.depth[0], x[0].norm(dim=-1))
    assert found.uv[0, 0].tolist() == [320, 240]


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=list(CAMERAS))
def test_there_and_back(camera):
    """Pixel → ray → point → pixel, and point → pixel and depth → point."""
    rays = camera.rays(like=torch.zeros(()).double())
    assert torch.allclose(rays.norm(dim=-1), torch.ones(48, 64).double())
    depth = torch.linspace(0.5, 2.0, 48 * 64).double().view(48, 64, 1)
    x = torch.tensor(camera.position, dtype=torch.float64) + depth * rays
    seen = camera.field(camera.pixels(rays))
    back = camera.project(x.view(1, -1, 3))
    assert torch.equal(back.seen.view(48, 64), seen) and int(seen.sum()) > 1000
    error = (back.uv.view(48, 64, 2) - camera.pixels(rays))[seen].abs().max()
    assert float(error) < 1e-9
    assert torch.allclose(back.depth.view(48, 64), depth[..., 0])


@pytest.mark.parametrize("name", CAMERAS)
def test_derivatives(name, generator):
    """Of pixels and depths in points and pose, of pixels and rays in every number of the calibration."""
    camera = CAMERAS[name]
    x = camera.rays(torch.rand(2, 7, 2, generator=generator).double() * 40 + 4)
    x[0, 0] = camera.rays(torch.tensor([30.0, 25.0]).double())  # on the axis
    x = torch.tensor(camera.position, dtype=torch.float64) + x
    pose = torch.cat((torch.randn(2, 3, generator=generator).double(),
                      unit_vectors(2, 4, generator=generator)), dim=1)  # fmt: skip
    world = rotations.rotate(pose[:, None, 3:], x) + pose[:, None, :3]
    assert torch.allclose(into_frame(world, pose), x)
    weight = torch.randn(2, 7, 3, generator=generator).double()

    def value(inputs):
        x, pose, calibration = inputs
        placed = dataclasses.replace(camera, **calibration)
        seen = placed.project(x, pose)
        both = torch.cat((seen.uv, seen.depth.unsqueeze(-1)), dim=-1)
        pixels = torch.tensor([[30.0, 25.0], [3.0, 40.0]]).double()
        return (both * weight).sum() + (placed.rays(pixels) * weight[0, :2]).sum()

    names = ("focal", "centre", "position", "orientation")
    calibration = {n: torch.tensor(getattr(camera, n)).double() for n in names}
    paths = [None, *(["2." + n] for n in names), ["0"], ["1"]]
    for wrt in paths:
        report = taylor_test(value, (world, pose, calibration), wrt=wrt, eps0=1e-3)
        assert report.passed(), (wrt, report)


def test_the_dome_fills_the_image():
    """The rim of 15 mm touches the lower border; with the number read as metres it ends at 97 px."""
    rim = torch.tensor([[[15e-3, 0, 0], [0, 15e-3, 0], [0, 0, 15e-3]]])
    uv = dome_camera().project(rim).uv[0]
    assert torch.allclose(uv[0], torch.tensor([332 - 233.6, 240.0]), atol=0.1)  # half a turn
    assert torch.allclose(uv[1], torch.tensor([332.0, 240 - 233.6]), atol=0.1)
    assert torch.allclose(uv[2], torch.tensor([332.0, 240.0]))
    assert float((dome_camera(0.02).project(rim).uv[0, 0] - uv[2]).norm()) < 97
    right, down = rim[0, 0] * torch.tensor([-1.0, 1, 1]), -rim[0, 1]
    assert torch.linalg.cross(right, down)[2] > 0  # right × down is forward


def test_half_of_the_pixels_show_the_same():
    """The corner of pixels stays where it is when there are fewer of them."""
    for camera in (dome_camera(), pad_camera()):
        half = camera.scaled(0.5)
        assert half.size == (240, 320)
        x = torch.tensor([[[2e-3, 3e-3, 9e-3]]]).double()
        a, b = camera.project(x).uv, half.project(x).uv
        assert torch.allclose(a + 0.5, 2 * (b + 0.5))


def test_wrong_input():
    plain = dict(width=4, height=4, centre=(2.0, 2.0))
    with pytest.raises(InputError, match="focal > 0; got 4 x 4, focal -1"):
        Pinhole(focal=-1.0, **plain)
    with pytest.raises(InputError, match="radians"):
        Fisheye(focal=1.0, max_angle=110.0, **plain)
    with pytest.raises(InputError, match="2 finite numbers as centre"):
        Pinhole(width=4, height=4, focal=1.0, centre=(1.0,))
    with pytest.raises(InputError, match="not 0"):
        Pinhole(focal=1.0, orientation=(0, 0, 0, 0), **plain)
    with pytest.raises(InputError, match=r"\(B, n, 3\)"):
        Pinhole(focal=1.0, **plain).project(torch.zeros(4, 3))
    with pytest.raises(InputError, match="One row per scene"):
        Pinhole(focal=1.0, **plain).project(torch.zeros(2, 4, 3), torch.zeros(3, 7))
    behind = Pinhole(focal=1.0, **plain).project(torch.tensor([[[0.0, 0, -1]]]))
    assert not bool(behind.seen) and bool(torch.isfinite(behind.uv).all())
