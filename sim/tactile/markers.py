"""Markers on a gel: where they are, where the camera sees them, and how they flow.

    position    x_m = Σ_i λ_i x_i           over the corners of the triangle that carries the marker
    flow        π(x_m) − π(x̄_m)             x̄ the surface as if carried rigidly by the mount

Weights λ are fixed to the material, so a marker moves with what it is painted on, and a rigid motion
has no flow at all. (Means of the five nearest nodes in the image, as in the original, hold neither.)

Differentiable in points, poses and the calibration of the camera.
Source: Si et al. 2024 (DiffTactile) for marker flow; Ericson 2005, Sec. 5.1.5, for closest points.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..core.errors import InputError, message
from .camera import Camera, Projection
from .raster import cast

__all__ = [
    "Markers",
    "attach",
    "fibonacci_markers",
    "grid_markers",
    "pixel_markers",
    "ring_markers",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Markers:
    """Points painted on a surface."""

    corners: Tensor
    """Points of the surface that carry each marker, (n, 3)."""
    weights: Tensor
    """Their barycentric weights [-], (n, 3)."""

    def __len__(self) -> int:
        return len(self.corners)

    def position(self, x: Tensor) -> Tensor:
        """Where markers are on a surface (B, M, 3), (B, n, 3) in its unit. Differentiable in x."""
        weights = self.weights.to(x).unsqueeze(-1)
        return (weights * x[:, self.corners.to(x.device)]).sum(2)

    def project(self, camera: Camera, x: Tensor, pose: Tensor | None = None) -> Projection:
        """Where a camera sees them; arguments as `Camera.project`. Differentiable in x and pose."""
        return camera.project(self.position(x), pose)

    def flow(self, camera: Camera, x: Tensor, rest: Tensor, pose: Tensor | None = None) -> Tensor:
        """Displacement in the image against a surface that moved rigidly.

        Args:
            camera: in the frame of the sensor.
            x: points of the deformed surface [m], (B, M, 3), in the world if there is a pose, else in
                the frame of the sensor.
            rest: points of the undeformed surface in the frame of the sensor [m], (M, 3) or (B, M, 3).
            pose: of the sensor in the world, (7,) or (B, 7).

        Returns:
            (B, n, 2) [px].

        Differentiable in x, rest, pose and the camera.
        """
        rest = rest.unsqueeze(0) if rest.ndim == 2 else rest
        return self.project(camera, x, pose).uv - self.project(camera, rest.to(x)).uv


def attach(points: Tensor, X: Tensor, triangles: Tensor, tol: float = 1e-3) -> Markers:
    """Markers at the closest points of a surface.

    Args:
        points: where they should be [m], (n, 3).
        X: points of the surface at rest [m], (M, 3).
        triangles: corners, (F, 3).
        tol: largest distance from the surface [m].

    Returns:
        The markers; no derivative, they belong to the material.

    Raises:
        InputError: a point that is farther away.
    """
    with torch.no_grad():
        a, b, c = (X[triangles[:, i]].to(points) for i in range(3))
        weights = _closest(points.unsqueeze(1), a, b, c)
        x = weights[..., :1] * a + weights[..., 1:2] * b + weights[..., 2:] * c
        distance = (x - points.unsqueeze(1)).norm(dim=-1)
        least, face = distance.min(dim=1)
        if bool((least > tol).any()):
            worst = int(least.argmax())
            got = f"point {worst} at {float(least[worst]):.3g} m"
            raise InputError(message("attach", f"points within {tol:.3g} m", got, "Use metres"))
        rows = torch.arange(len(points), device=points.device)
        return Markers(triangles[face], weights[rows, face])


def grid_markers(
    X: Tensor, triangles: Tensor, rows: int = 9, columns: int = 9, margin: float = 0.1
) -> Markers:
    """A grid over the box of a face that looks along z, such as a pad's.

    Args:
        X: points at rest [m], (M, 3).
        triangles: corners, (F, 3).
        rows, columns: along y and x.
        margin: left free at every side, over the side [-].
    """
    if min(rows, columns) < 2 or not 0 <= margin < 0.5:
        got = f"{rows} x {columns}, margin {margin}"
        raise InputError(message("grid_markers", ">= 2 x 2, 0 <= margin < 0.5", got, "Correct it"))
    face = X[triangles.unique()]
    low, high = face.amin(0), face.amax(0)
    s, t = (torch.linspace(margin, 1 - margin, n).to(X) for n in (columns, rows))
    grid = torch.stack(torch.meshgrid(s, t, indexing="xy"), dim=-1).reshape(-1, 2)
    flat = low[:2] + grid * (high - low)[:2]
    points = torch.cat((flat, high[2].expand(len(flat), 1)), dim=1)
    return attach(points, X, triangles)


def ring_markers(
    X: Tensor, triangles: Tensor, rings: int = 6, max_angle: float = 1.2, centre: bool = True
) -> Markers:
    """Rings on a dome about the origin with its axis along z, equally spaced in angle.

    Ring k has round(2π sin θ_k/Δθ) markers, so that they are about as far apart along rings as between.

    Args:
        X: points at rest [m], (M, 3).
        triangles: corners, (F, 3).
        rings: number of rings.
        max_angle: of the last ring to the axis [rad].
        centre: whether there is a marker on the axis.
    """
    _check_dome("ring_markers", rings, max_angle)
    step = max_angle / rings
    rows = [torch.tensor([[0.0, 0.0, 1.0]])] if centre else []
    for k in range(1, rings + 1):
        n = max(3, round(2 * math.pi * math.sin(k * step) / step))
        turn = torch.arange(n) * (2 * math.pi / n)
        flat = math.sin(k * step) * torch.stack((turn.cos(), turn.sin()), dim=1)
        rows.append(torch.cat((flat, torch.full((n, 1), math.cos(k * step))), dim=1))
    return _on_dome(torch.cat(rows), X, triangles)


def fibonacci_markers(
    X: Tensor, triangles: Tensor, n: int = 136, max_angle: float = 1.2
) -> Markers:
    """A spiral of n markers on a dome, each with the same area; other arguments as `ring_markers`."""
    _check_dome("fibonacci_markers", n, max_angle)
    k = torch.arange(n, dtype=torch.float64)
    z = 1 - (1 - math.cos(max_angle)) * (k + 0.5) / n
    turn = k * (math.pi * (3 - math.sqrt(5)))
    flat = (1 - z * z).sqrt().unsqueeze(1) * torch.stack((turn.cos(), turn.sin()), dim=1)
    return _on_dome(torch.cat((flat, z.unsqueeze(1)), dim=1), X, triangles)


def pixel_markers(camera: Camera, uv: Tensor, X: Tensor, triangles: Tensor) -> Markers:
    """Markers that a photograph of the undeformed gel shows at pixels (n, 2).

    Args:
        camera: that took it.
        uv: pixels [px], such as centres of dark spots.
        X: points at rest in the frame of the sensor [m], (M, 3).
        triangles: corners, (F, 3).

    Raises:
        InputError: a pixel that does not show the surface; no derivative, markers are material.
    """
    with torch.no_grad():
        hit, weights, _ = cast(camera, X, triangles, uv.to(X))
    if bool((hit < 0).any()):
        bad = int((hit < 0).nonzero()[0])
        got = f"{int((hit < 0).sum())} pixels beside it, first {uv[bad].tolist()}"
        raise InputError(message("pixel_markers", "pixels on the surface", got, "Remove them"))
    return Markers(triangles[hit], weights)


def _on_dome(direction: Tensor, X: Tensor, triangles: Tensor) -> Markers:
    radius = X[triangles.unique()].norm(dim=1).max()
    # Triangles cut corners off a sphere, by 1/2 (edge/2R)² R at most.
    return attach(radius * direction.to(X), X, triangles, tol=0.1 * float(radius))


def _check_dome(where: str, n: int, max_angle: float) -> None:
    if n < 1 or not 0 < max_angle <= math.pi / 2:
        got = f"{n}, {max_angle:.6g}"
        expected = "a number >= 1 and 0 < max_angle <= pi/2 [rad]"
        raise InputError(message(where, expected, got, "Use radians"))


def _closest(p: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Barycentric weights (n, F, 3) of the points of triangles (F, 3) that are closest to p (n, 1, 3)."""
    e, f, q = b - a, c - a, p - a
    ee, ef, ff = (e * e).sum(-1), (e * f).sum(-1), (f * f).sum(-1)
    eq, fq = (e * q).sum(-1), (f * q).sum(-1)
    area = (ee * ff - ef * ef).clamp_min(torch.finfo(p.dtype).tiny)
    v, w = (ff * eq - ef * fq) / area, (ee * fq - ef * eq) / area
    inner = torch.stack((1 - v - w, v, w), dim=-1)
    # The nearest point of each edge, for what projects beside the triangle.
    s = (eq / ee).clamp(0, 1)
    t = (fq / ff).clamp(0, 1)
    u = (((c - b) * (p - b)).sum(-1) / (c - b).square().sum(-1)).clamp(0, 1)
    zero = torch.zeros_like(s)
    edges = torch.stack(
        (
            torch.stack((1 - s, s, zero), dim=-1),
            torch.stack((1 - t, zero, t), dim=-1),
            torch.stack((zero, 1 - u, u), dim=-1),
        ),
        dim=-2,
    )
    corners = torch.stack((a, b, c), dim=-2)
    far = ((edges @ corners) - p.unsqueeze(-2)).square().sum(-1).argmin(-1)
    index = far[..., None, None].expand(*far.shape, 1, 3)
    edge = edges.gather(-2, index).squeeze(-2)
    return torch.where((inner >= 0).all(-1, keepdim=True), inner, edge)
