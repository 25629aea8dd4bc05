"""The rasterizer against spheres, planes and the trial of every triangle; its derivatives."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import slope, unit_vectors
from rheograd.sim.core import rotations
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.fem.meshes import rectangle
from rheograd.sim.tactile import dome
from rheograd.sim.tactile.camera import Fisheye, Pinhole, dome_camera, pad_camera
from rheograd.sim.tactile.raster import cast, corner_normals, rasterize, visible

R = 15e-3


def sheet(cells: int = 6, height: float = 4e-3):
    """A square of 20 mm in front of a camera, its triangles facing away from it."""
    X, triangles = rectangle((cells, cells), (20e-3, 20e-3))
    return X - torch.tensor([10e-3, 10e-3, -height]).double(), triangles


def skin(cuts: int = 4, bump: float = 0.0):
    """Points and triangles of a dome, of which the bump is dented."""
    gel = dome(cuts=cuts, layers=1)
    x = gel.X.clone()
    away = (x - torch.tensor([3e-3, 2e-3, 20e-3])).norm(dim=1, keepdim=True)
    return (x * (1 - bump * torch.exp(-((away / 6e-3) ** 2)))).unsqueeze(0), gel.triangles


def test_ellipsoid():
    """Depth and smooth normals are second order in the size of triangles, flat normals first order."""
    camera = dome_camera().scaled(0.1)
    axes = R * torch.tensor([1.0, 0.9, 1.2]).double()
    p = torch.tensor(camera.position, dtype=torch.float64) / axes
    size, depth, smooth, flat = [], [], [], []
    for cuts in (3, 6, 12, 24):
        x, triangles = skin(cuts)
        seen = rasterize(camera, x / R * axes, triangles)
        # Away from the rim, where corners are not surrounded by triangles.
        inner = seen.seen[0] & (seen.points[0, ..., 2] > 6e-3)
        assert int(inner.sum()) > 800
        ray = camera.rays(like=x) / axes  # |p + t ray| = 1
        along, square = ray @ p, ray.square().sum(-1)
        t = (-along + (along**2 + square * (1 - p @ p)).sqrt()) / square
        exact = (p + t.unsqueeze(-1) * ray) / axes
        exact = exact / exact.norm(dim=-1, keepdim=True)
        plain = rasterize(camera, x / R * axes, triangles, triangle=seen.triangle, smooth=False)
        size.append(1 / cuts)
        depth.append(float((seen.depth[0] - t)[inner].abs().max()))
        smooth.append(float((seen.normal[0] - exact)[inner].norm(dim=-1).max()))
        flat.append(float((plain.normal[0] - exact)[inner].norm(dim=-1).max()))
    assert abs(slope(size, depth) - 2) < 0.2 and abs(slope(size, smooth) - 2) < 0.3
    assert abs(slope(size, flat) - 1) < 0.2
    assert depth[-1] < 1e-5 and smooth[-1] < 1e-3


def test_smooth_normals_of_a_sphere_are_exact():
    """Normals of corners are, and between them they point where the points do."""
    x, triangles = skin(3)
    on = x[0].norm(dim=1) > R - 1e-9
    inner = on & (x[0, :, 2] > 1e-3)
    normal = corner_normals(x, triangles)[0]
    assert int(inner.sum()) > 50 and bool((normal[~on] == 0).all())
    assert float((normal - x[0] / R)[inner].abs().max()) < 1e-12
    seen = rasterize(dome_camera().scaled(0.1), x, triangles)
    above = seen.points[..., 2] > 5e-3
    exact = seen.points / seen.points.norm(dim=-1, keepdim=True)
    assert float((seen.normal - exact)[above].abs().max()) < 1e-12


@pytest.mark.parametrize("camera", [pad_camera(), dome_camera(20e-3)], ids=["pinhole", "fisheye"])
def test_plane(camera):
    """A slanted plane is exact, at every pixel that looks at it, also through edges and corners."""
    camera = camera.scaled(0.2)
    X, triangles = sheet()
    tilt = torch.tensor([0.95, 0.2, -0.1, 0.0]).double()
    x = rotations.rotate(tilt, X[None])
    found = rasterize(camera, x, triangles)
    normal = rotations.rotate(tilt, torch.tensor([0.0, 0.0, 1.0]).double())
    rays, p = camera.rays(like=x), torch.tensor(camera.position, dtype=torch.float64)
    exact = ((x[0, 0] - p) @ normal) / (rays @ normal)
    local = rotations.rotate_inverse(tilt, p + exact.unsqueeze(-1) * rays)
    assert torch.equal(found.seen[0], (local[..., :2].abs() < 10e-3).all(-1) & (exact > 0))
    assert int(found.seen.sum()) > 500
    error = (found.depth[0] - exact)[found.seen[0]].abs().max()
    assert float(error) < 1e-15
    assert float((found.normal[0] - normal)[found.seen[0]].abs().max()) < 1e-12
    assert float(found.weights[found.seen].min()) > -1e-12
    flat = rasterize(camera, x, triangles, smooth=False)
    assert float((flat.normal - found.normal).abs().max()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_ray_slips_through(dtype, generator):
    """Rays that meet corners and edges exactly, from many places."""
    X, triangles = sheet(20)
    camera = Pinhole(width=17, height=17, focal=24.0, centre=(8.0, 8.0),
                     position=(0.0, 0.0, -20e-3))  # fmt: skip
    shift = 1e-3 * torch.randint(-1, 2, (50, 1, 3), generator=generator)
    x = (X + shift * torch.tensor([1.0, 1.0, 0.0])).to(dtype)
    assert bool(visible(camera, x, triangles).ge(0).all())


def test_boxes_hide_nothing(generator):
    """The same triangles as by trying all of them, for large ones in a fisheye image and overlaps."""
    X, triangles = sheet(3, 2e-3)
    noise = 4e-3 * torch.randn(2, len(X), 3, generator=generator).double()
    dents = skin(2, 0.3)
    for x, faces in ((X + noise, triangles), (dents[0], dents[1])):
        for camera in (dome_camera(2e-3).scaled(0.1), pad_camera(8e-3, 20e-3).scaled(0.1)):
            found = visible(camera, x, faces)
            for one, hit in zip(x, found, strict=True):
                uv = camera.pixels(x).reshape(-1, 2)
                expected = cast(camera, one, faces, uv)[0]
                assert int((expected >= 0).sum()) > 200
                assert torch.equal(hit.reshape(-1), expected)


def test_the_nearest_hides_the_others():
    X, triangles = sheet(2)
    x = torch.cat((X + torch.tensor([0, 0, 5e-3]).double(), X * torch.tensor([0.5, 0.5, 1])))
    both = torch.cat((triangles, triangles + len(X)))
    camera = pad_camera(view=30e-3).scaled(0.1)
    near = visible(camera, x[None], both)
    inside = visible(camera, x[None], triangles + len(X)) >= 0
    assert torch.equal(near >= len(triangles), inside) and bool(inside.any())
    assert bool(((near >= 0) & ~inside).any())


@pytest.mark.parametrize("smooth", [True, False])
def test_derivatives(smooth, generator):
    """Of depth, normals, points and weights in points, pose and calibration, for the triangles hit."""
    x, triangles = skin(2, 0.2)
    x = torch.cat((x, x + 1e-4 * torch.randn(x.shape, generator=generator).double()))
    pose = torch.cat((torch.randn(2, 3, generator=generator).double() * 1e-2,
                      unit_vectors(2, 4, generator=generator)), dim=1)  # fmt: skip
    world = rotations.rotate(pose[:, None, 3:], x) + pose[:, None, :3]
    camera = dome_camera(1e-3).scaled(0.03)
    hit = visible(camera, x, triangles)
    # Rays that graze a triangle at the rim make terms of higher order large.
    hit = torch.where(rasterize(camera, x, triangles).points[..., 2] > 3e-3, hit, -1)
    shape = (*hit.shape, 10)
    weight = torch.randn(shape, generator=generator).double()
    names = ("focal", "centre", "position", "orientation")
    calibration = {n: torch.tensor(getattr(camera, n)).double() for n in names}

    def value(inputs):
        world, pose, calibration = inputs
        placed = dataclasses.replace(camera, **calibration)
        r = rasterize(placed, world, triangles, pose=pose, smooth=smooth, triangle=hit)
        parts = (100 * r.depth.unsqueeze(-1), r.normal, 100 * r.points, r.weights)
        return (weight * torch.cat(parts, dim=-1)).sum()

    for wrt in (["0"], ["1"], *(["2." + n] for n in names)):
        report = taylor_test(
            value, (world, pose, calibration), wrt=wrt, eps0=1e-3 if wrt == ["2.position"] else 1e-5
        )
        assert report.passed(), (wrt, report)


def test_derivative_with_what_is_seen_decided_anew(generator):
    """Depth and smooth normals are continuous where edges cross pixels, so their sum has a derivative."""
    x, triangles = skin(4, 0.2)
    camera = dome_camera().scaled(0.1)
    inner = rasterize(camera, x, triangles).points[..., 2] > 5e-3
    direction = torch.randn(x.shape, generator=generator).double() * 1e-4

    def value(x):
        r = rasterize(camera, x, triangles)
        return (100 * r.depth + r.normal.sum(-1))[inner].sum()

    leaf = x.clone().requires_grad_()
    slope_ad = float((torch.autograd.grad(value(leaf), leaf)[0] * direction).sum())
    eps = 1e-3
    slope_fd = float(value(x + eps * direction) - value(x - eps * direction)) / (2 * eps)
    assert abs(slope_fd - slope_ad) < 1e-4 * abs(slope_fd)


def test_scenes_do_not_mix():
    x, triangles = skin(3)
    dented = skin(3, 0.2)[0]
    camera = dome_camera().scaled(0.1)
    both = rasterize(camera, torch.cat((x, dented)), triangles)
    for k, one in enumerate((x, dented)):
        alone = rasterize(camera, one, triangles)
        for name in ("depth", "normal", "points", "triangle", "weights"):
            assert torch.equal(getattr(both, name)[k], getattr(alone, name)[0])
    assert int((both.depth[0] != both.depth[1]).sum()) > 100
    single = rasterize(camera, x.float(), triangles)
    assert single.depth.dtype == torch.float32
    assert float((single.depth - both.depth[:1]).abs().max()) < 1e-7


def test_wrong_input():
    x, triangles = skin(1)
    camera = Fisheye(width=8, height=6, focal=3.0, centre=(4.0, 3.0))
    with pytest.raises(InputError, match=r"x of shape \(B, M, 3\)"):
        rasterize(camera, x[0], triangles)
    with pytest.raises(InputError, match="corners below 3"):
        rasterize(camera, x[:, :3], triangles)
    with pytest.raises(InputError, match="whole triangles"):
        visible(camera, x, triangles.double())
    away = rasterize(camera, x - 1.0, triangles)
    assert float(away.depth[~away.seen].abs().sum()) == 0


@pytest.mark.gpu
def test_on_a_gpu():
    x, triangles = skin(5, 0.2)
    camera = dome_camera().scaled(0.25)
    here, there = rasterize(camera, x, triangles), rasterize(camera, x.cuda(), triangles.cuda())
    assert torch.equal(here.triangle, there.triangle.cpu())
    assert float((here.depth - there.depth.cpu()).abs().max()) < 1e-12
