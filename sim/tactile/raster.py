"""A surface of triangles as a camera sees it: depth and normal per pixel, differentiable.

    which triangle      of those whose cone from the pupil holds the ray d, the nearest; a decision, not
                        differentiated:  d · (a × b), d · (b × c), d · (c × a) of one sign
    depth               t = a · N / d · N,       N = (b − a) × (c − a),   a, b, c relative to the pupil
    weights             λ_b = q · ((c − a) × N)/N²,   λ_c = q · (N × (b − a))/N²,   λ_a = 1 − λ_b − λ_c,
                        q = t d − a
    normal              N/|N|, or Σ λ_i n_i/|Σ λ_i n_i| with normals n_i of the corners

Rays are those of the lens, so a triangle with curved edges in a fisheye image is exact at every pixel. A
triangle is tried only at pixels of its box in the image. Cones are wider by a few roundings, so no ray
slips through between two of them. The derivative is that of the triangle that is hit; where a silhouette
crosses a pixel, depth jumps and has none.

Differentiable in points, poses and the calibration of the camera.
Source: Möller & Trumbore 1997 for the test in signed volumes; Max 1999 for normals of corners.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import InputError, message
from .camera import Camera, into_frame

__all__ = ["Raster", "corner_normals", "cast", "rasterize", "visible"]

_PAIRS = 4_000_000
"""Pairs of a pixel and a triangle that are tried at once: about 300 MB."""


@dataclasses.dataclass(frozen=True)
class Raster:
    """What the pixels of B scenes see. Where they see nothing, depth, normal and weights are 0."""

    depth: Tensor
    """Distance from the pupil along the ray [m], (B, H, W)."""
    normal: Tensor
    """Unit normals in the frame of the sensor, to the side that the triangles face [-], (B, H, W, 3)."""
    points: Tensor
    """What is seen, in the frame of the sensor [m], (B, H, W, 3)."""
    triangle: Tensor
    """Index of the triangle, −1 where there is none, (B, H, W)."""
    weights: Tensor
    """Barycentric weights of its corners [-], (B, H, W, 3)."""

    @property
    def seen(self) -> Tensor:
        """Whether there is a triangle, (B, H, W)."""
        return self.triangle >= 0


def rasterize(
    camera: Camera,
    x: Tensor,
    triangles: Tensor,
    *,
    pose: Tensor | None = None,
    smooth: bool = True,
    triangle: Tensor | None = None,
) -> Raster:
    """Depth and normal of the nearest triangle at every pixel.

    Args:
        camera: in the frame of the sensor.
        x: points [m], (B, M, 3), in the frame of the sensor, or in the world if there is a pose.
        triangles: corners, (F, 3); gels have theirs outward, away from the camera.
        pose: of the sensor in the world, (7,) or (B, 7).
        smooth: interpolate normals of corners, second order in the size of triangles, instead of the
            flat ones, first order.
        triangle: what the pixels see, (B, H, W), if it is known from `visible`.

    Returns:
        The images.

    Raises:
        InputError: wrong shapes, corners that do not exist.

    Differentiable in x, pose and the numbers of the camera.
    """
    _check("rasterize", x, triangles)
    local = into_frame(x, pose)
    if triangle is None:
        triangle = visible(camera, local, triangles)
    B, (H, W) = len(x), camera.size
    hit = triangle.reshape(-1)
    places = (hit >= 0).nonzero()[:, 0]
    scene = places // (H * W)
    rays = camera.rays(camera.pixels(x)).reshape(-1, 3)[places % (H * W)]
    t, weights, normal = _values(camera, local, triangles, scene, hit[places], rays, smooth)
    points = camera.number("position", x) + t.unsqueeze(-1) * rays

    def image(values: Tensor) -> Tensor:
        empty = values.new_zeros(B * H * W, *values.shape[1:])
        return empty.index_copy(0, places, values).view(B, H, W, *values.shape[1:])

    return Raster(image(t), image(normal), image(points), triangle, image(weights))


def cast(camera: Camera, x: Tensor, triangles: Tensor, uv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays through any pixels (n, 2) meet a surface (M, 3), every triangle tried.

    Returns:
        Triangles (n,), −1 where there is none, weights (n, 3) and depths [m] (n,), 0 there.

    Differentiable in x, uv and the camera.
    """
    _check("cast", x.unsqueeze(0), triangles)
    rays = camera.rays(uv)
    n, F = len(uv), len(triangles)
    with torch.no_grad():
        ray = torch.arange(n, device=x.device).repeat_interleave(F)
        tried = torch.arange(F, device=x.device).repeat(n)
        cones = _cones(x.unsqueeze(0) - camera.number("position", x), triangles)
        inside, t = _meet([part[0] for part in cones], tried, rays[ray])
        hit = _nearest(ray[inside], tried[inside], t[inside], n)
        hit = torch.where(camera.field(uv), hit, -1)
    found = (hit >= 0).nonzero()[:, 0]
    some = torch.zeros_like(found)
    t, weights, _ = _values(camera, x[None], triangles, some, hit[found], rays[found], False)
    depth = t.new_zeros(n).index_copy(0, found, t)
    return hit, weights.new_zeros(n, 3).index_copy(0, found, weights), depth


@torch.no_grad()
def visible(camera: Camera, x: Tensor, triangles: Tensor) -> Tensor:
    """Index of the nearest triangle at every pixel, −1 where there is none, (B, H, W). No derivative.

    Triangles that reach behind a pinhole, or almost around a fisheye, are left out.

    Args:
        camera: in the frame of the sensor.
        x: points in that frame [m], (B, M, 3).
        triangles: corners, (F, 3).
    """
    _check("visible", x, triangles)
    B, (H, W) = len(x), camera.size
    offset = x - camera.number("position", x)
    cones = _cones(offset, triangles)
    first, last = _boxes(camera, x, triangles)
    lens = camera.field(camera.pixels(x)).reshape(-1)
    rays = camera.rays(camera.pixels(x)).reshape(-1, 3)
    wide, high = (last - first + 1).clamp_min(0).unbind(-1)
    count = (wide * high).sum(1).tolist()
    found, start = [], 0
    while start < B:
        stop, total = start + 1, count[start]
        while stop < B and total + count[stop] <= _PAIRS:
            total, stop = total + count[stop], stop + 1
        some = slice(start, stop)
        n = (wide[some] * high[some]).reshape(-1)
        tried = torch.arange(len(n), device=x.device).repeat_interleave(n)
        step = torch.arange(len(tried), device=x.device)
        step = step - (n.cumsum(0) - n)[tried]
        width = wide[some].reshape(-1)[tried]
        corner = first[some].reshape(-1, 2)[tried]
        pixel = (corner[:, 1] + step // width) * W + corner[:, 0] + step % width
        inside, t = _meet([part[some].flatten(0, 1) for part in cones], tried, rays[pixel])
        inside &= lens[pixel]
        tried, pixel, t = tried[inside], pixel[inside], t[inside]
        F = len(triangles)
        place = tried // F * (H * W) + pixel
        found.append(_nearest(place, tried % F, t, (stop - start) * H * W))
        start = stop
    return torch.cat(found).view(B, H, W)


def corner_normals(x: Tensor, triangles: Tensor) -> Tensor:
    """Unit normals at the points of a surface, (B, M, 3); 0 at points without triangles.

        n_i ∝ Σ e_1 × e_2 / (|e_1|² |e_2|²)    over the triangles around i, e from i to the other corners

    Exact at points of a sphere that triangles surround.

    Args:
        x: points [m], (B, M, 3).
        triangles: corners, (F, 3).

    Differentiable in x. Source: Max 1999, Eq. 2.
    """
    corners = [x[:, triangles[:, i]] for i in range(3)]
    total = torch.zeros_like(x)
    for i in range(3):
        a, b, c = (corners[(i + k) % 3] for k in range(3))
        e, f = b - a, c - a
        size = e.square().sum(-1, keepdim=True) * f.square().sum(-1, keepdim=True)
        total = total.index_add(1, triangles[:, i], torch.linalg.cross(e, f) / size)
    size = total.square().sum(-1, keepdim=True)
    return total / torch.where(size > 0, size, torch.ones_like(size)).sqrt()


def _values(
    camera: Camera,
    x: Tensor,
    triangles: Tensor,
    scene: Tensor,
    hit: Tensor,
    rays: Tensor,
    smooth: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Depths (n,), weights and normals (n, 3) of rays (n, 3) that hit triangles (n,) of scenes (n,)."""
    a, b, c = (x[:, triangles[:, i]] for i in range(3))
    e, f = b - a, c - a
    N = torch.linalg.cross(e, f)
    area = N.square().sum(-1, keepdim=True)
    area = torch.where(
        area > 0, area, torch.ones_like(area)
    )  # nothing sees a triangle without area
    a = a - camera.number("position", x)
    parts = (a, N, torch.linalg.cross(f, N) / area, torch.linalg.cross(N, e) / area)
    row = scene * len(triangles) + hit
    a, N, to_b, to_c = torch.cat(parts, dim=-1).flatten(0, 1)[row].split(3, dim=-1)
    t = (a * N).sum(-1) / (rays * N).sum(-1)
    q = t.unsqueeze(-1) * rays - a
    second, third = (q * to_b).sum(-1), (q * to_c).sum(-1)
    weights = torch.stack((1 - second - third, second, third), dim=-1)
    if smooth:
        normals = corner_normals(x, triangles).flatten(0, 1)
        at = scene.unsqueeze(-1) * x.shape[1] + triangles[hit]
        N = (weights.unsqueeze(-1) * normals[at]).sum(1)
    return t, weights, N / N.square().sum(-1, keepdim=True).sqrt()


def _cones(offset: Tensor, triangles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normals of the sides of cones (B, F, 3, 3), a · (b × c) (B, F), and what rounding can do (B, F)."""
    a, b, c = (offset[:, triangles[:, i]] for i in range(3))
    sides = [torch.linalg.cross(p, q) for p, q in ((b, c), (c, a), (a, b))]
    size = torch.stack((a, b, c)).square().sum(-1).amax(0)
    slack = 8 * torch.finfo(offset.dtype).eps * size
    return torch.stack(sides, dim=2), (a * sides[0]).sum(-1), slack


def _meet(cones: Sequence[Tensor], tried: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Whether rays (n, 3) are in the cones of triangles (n,), and depths (n,), right where they are."""
    edges, volume, slack = cones[0], cones[1][tried], cones[2][tried]
    sign = torch.sign(volume)
    inside, total = volume != 0, torch.zeros_like(volume)
    for i in range(3):
        n = edges[:, i][tried]
        w = n[:, 0] * rays[:, 0] + n[:, 1] * rays[:, 1] + n[:, 2] * rays[:, 2]
        inside &= w * sign >= -slack
        total = total + w
    # A triangle that is seen edge-on, up to rounding, covers nothing.
    return inside & (total * sign > 4 * slack), volume / total


def _nearest(place: Tensor, tried: Tensor, t: Tensor, size: int) -> Tensor:
    """Per place the triangle with the least depth, among equals the first; −1 where there is none."""
    least = t.new_full((size,), torch.inf).scatter_reduce(0, place, t, "amin")
    best = t == least[place]
    none = torch.iinfo(torch.int64).max
    hit = torch.full((size,), none, device=t.device)
    hit = hit.scatter_reduce(0, place[best], tried[best], "amin")
    return torch.where(hit == none, -1, hit)


def _boxes(camera: Camera, x: Tensor, triangles: Tensor) -> tuple[Tensor, Tensor]:
    """First and last pixel (u, v) that triangles can cover, each (B, F, 2); last < first: none."""
    corners = x[:, triangles].flatten(1, 2)
    middles = (x[:, triangles] + x[:, triangles.roll(1, 1)]).flatten(1, 2) / 2
    uv, front = camera.lens(camera.axes(corners))
    uv, front = uv.unflatten(1, (-1, 3)), front.unflatten(1, (-1, 3))
    # The tests of rays round differently from the projection of corners: a pixel may be off by a bit.
    low, high = uv.amin(2) - 0.01, uv.amax(2) + 0.01
    if not camera.straight:
        # Edges are arcs. Their middles move off the chords by about the height of the arcs, and along
        # them, so twice that is enough; one more pixel for small ones.
        arc = camera.lens(camera.axes(middles))[0].unflatten(1, (-1, 3))
        bulge = (arc - (uv + uv.roll(1, 2)) / 2).abs().amax((2, 3)).unsqueeze(-1)
        low, high = low - 2 * bulge - 1, high + 2 * bulge + 1
    end = torch.tensor((camera.width, camera.height), device=x.device)
    some = front.all(2, keepdim=True) if camera.straight else front.any(2, keepdim=True)
    some = some & (high > -1).all(-1, keepdim=True) & (low < end).all(-1, keepdim=True)
    low = torch.where(some, low, torch.ones_like(low))
    high = torch.where(some, high, torch.zeros_like(high))
    first = torch.maximum(low.ceil().long(), torch.zeros_like(end))
    return first, torch.minimum(high.floor().long(), end - 1)


def _check(where: str, x: Tensor, triangles: Tensor) -> None:
    if x.ndim != 3 or x.shape[-1] != 3:
        expected = "x of shape (B, M, 3) [m]"
        raise InputError(message(where, expected, f"{tuple(x.shape)}", "Add axes"))
    whole = not triangles.is_floating_point()
    if triangles.ndim != 2 or triangles.shape[-1] != 3 or not whole or not len(triangles):
        expected = "whole triangles of shape (F, 3), F >= 1"
        raise InputError(message(where, expected, triangles, "Give three corners each"))
    if int(triangles.min()) < 0 or int(triangles.max()) >= x.shape[1]:
        got = f"{int(triangles.min())} to {int(triangles.max())}"
        raise InputError(message(where, f"corners below {x.shape[1]}", got, "Check the order"))
