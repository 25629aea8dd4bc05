"""Views of a pressed gel: geometric presses of balls, surfaces of triangles, sets to calibrate with.

    gel         s₁(p) < 0,    dome |p| − r,    pad z − h
    ball        s₂(p) = R − |p − c|            > 0 inside of it
    pressed     φ = ½ (s₁ + s₂ + √((s₁ − s₂)² + ε²)) = 0        the smooth maximum, larger than both

The ball takes its part out of the gel; ε rounds the edge, as a gel does that is stretched over it.
Nothing bulges and nothing slides: that is what a simulated surface is for. |∇φ| ≤ 1, so walking along a
ray by −φ never passes the first root; Newton steps finish, the last one carries the derivative.

Differentiable in balls, surfaces, lights and the numbers of the camera.
Source: Hart 1996 for walking along rays; Wang, She & Romero 2021 (GelSight Wedge) for presses of balls.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..core.errors import ConvergenceError, InputError, message
from .camera import Camera
from .lights import Lights
from .raster import rasterize

__all__ = [
    "DomeFace", "PadFace", "PressSet", "View", "ball_presses", "press_view", "random_balls",
    "spread_balls", "surface_presses", "surface_view",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DomeFace:
    """The sensing face of a dome about the origin, above z = 0."""

    radius: float = 15e-3
    """r [m]."""

    def distance(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """s₁ (...) [m] and its gradient (..., 3) at points (..., 3)."""
        size = p.square().sum(-1).sqrt()
        return size - self.radius, p / size.unsqueeze(-1)

    def covers(self, p: Tensor) -> Tensor:
        """Whether points of the sphere (..., 3) belong to the face, (...)."""
        return p[..., 2] > 0

    def ball(self, s: Tensor, t: Tensor, radius: Tensor, depth: Tensor) -> Tensor:
        """Centres of balls pressed in radially at s, t in (0, 1), within 0.9 rad of the axis."""
        z = 1 - s * (1 - math.cos(0.9))
        flat = (1 - z * z).sqrt()
        turn = 2 * math.pi * t
        way = torch.stack((flat * turn.cos(), flat * turn.sin(), z), dim=-1)
        return (self.radius + radius - depth).unsqueeze(-1) * way


@dataclasses.dataclass(frozen=True)
class PadFace:
    """The sensing face of a pad in z = height, its middle on the axis."""

    size: tuple[float, float] = (20e-3, 20e-3)
    """Lengths along x and y [m]."""
    height: float = 4e-3
    """h [m]."""

    def distance(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """s₁ (...) [m] and its gradient (..., 3) at points (..., 3)."""
        up = torch.tensor((0.0, 0.0, 1.0), dtype=p.dtype, device=p.device)
        return p[..., 2] - self.height, up.expand_as(p)

    def covers(self, p: Tensor) -> Tensor:
        """Whether points of the plane (..., 3) belong to the face, (...)."""
        return (p[..., 0].abs() < self.size[0] / 2) & (p[..., 1].abs() < self.size[1] / 2)

    def ball(self, s: Tensor, t: Tensor, radius: Tensor, depth: Tensor) -> Tensor:
        """Centres of balls pressed in at s, t in (0, 1), the middle 60 % of the face."""
        x, y = (0.6 * (n - 0.5) * size for n, size in zip((s, t), self.size, strict=True))
        return torch.stack((x, y, self.height + radius - depth), dim=-1)


@dataclasses.dataclass(frozen=True)
class View:
    """What pixels see of N presses; 0 where they do not see the face."""

    depth: Tensor
    """Distance from the pupil [m], (N, H, W)."""
    normal: Tensor
    """Outward normals in the frame of the sensor [-], (N, H, W, 3)."""
    points: Tensor
    """What is seen, in that frame [m], (N, H, W, 3)."""
    seen: Tensor
    """Whether the pixel sees the face, (N, H, W)."""

    def image(self, camera: Camera, lights: Lights) -> Tensor:
        """Colours (N, H, W, 3) [-], 0 where the face is not seen."""
        eye = camera.number("position", self.depth)
        colour = lights.shade(self.points[self.seen], self.normal[self.seen], eye)
        places = self.seen.reshape(-1).nonzero()[:, 0]
        empty = colour.new_zeros(self.seen.numel(), 3)
        return empty.index_copy(0, places, colour).view(*self.seen.shape, 3)


@dataclasses.dataclass(frozen=True)
class PressSet:
    """Presses with photographs: what an optical model is calibrated with."""

    camera: Camera
    """That took them."""
    rest: View
    """The gel without contact, N = 1."""
    background: Tensor
    """Photograph of it [-], (H, W, 3)."""
    view: View
    """The presses, N."""
    image: Tensor
    """Photographs of them [-], (N, H, W, 3)."""

    def __len__(self) -> int:
        return len(self.image)

    @property
    def indent(self) -> Tensor:
        """How far the surface came nearer along the rays [m], (N, H, W)."""
        return torch.where(self.view.seen, self.rest.depth - self.view.depth, 0.0)

    def part(self, rows: slice) -> PressSet:
        """Some of the presses."""
        kept = {f.name: getattr(self.view, f.name)[rows] for f in dataclasses.fields(View)}
        return dataclasses.replace(self, view=View(**kept), image=self.image[rows])


def press_view(
    camera: Camera,
    face: DomeFace | PadFace,
    balls: Tensor | None = None,
    *,
    smoothing: float = 0.4e-3,
    like: Tensor | None = None,
) -> View:
    """Depth and normals of a face that balls are pressed into.

    Args:
        camera: whose pupil is inside of the gel or behind it.
        face: the gel without contact.
        balls: centre and radius [m], (N, 4), one ball a press; None: one view without contact.
        smoothing: ε [m], width of the rounded edge.
        like: type and device without balls; default float32.

    Returns:
        The views.

    Raises:
        InputError: balls of a wrong shape, or one that holds the pupil.
        ConvergenceError: rays that do not find the surface.

    Differentiable in balls and the numbers of the camera.
    """
    if balls is None:
        like = torch.zeros(()) if like is None else like
        balls = like.new_full((1, 4), 0.0)
        smoothing = math.nan  # marks that there is no ball
    elif balls.ndim != 2 or balls.shape[1] != 4 or not bool((balls[:, 3] > 0).all()):
        got = f"{tuple(balls.shape)}"
        raise InputError(message("press_view", "balls (N, 4) with radii > 0 [m]", got, "Correct"))
    N, (H, W) = len(balls), camera.size
    uv = camera.pixels(balls)
    rays = camera.rays(uv)
    eye = camera.number("position", balls)
    with torch.no_grad():
        seen = _covered(camera, face, rays) & camera.field(uv)
    places = seen.reshape(-1).nonzero()[:, 0]
    ray = rays.reshape(-1, 3)[places]
    rows = [_solve(face, ball, smoothing, eye, ray) for ball in balls]
    t, normal = torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows])
    points = eye + t.unsqueeze(-1) * ray

    def image(values: Tensor) -> Tensor:
        empty = values.new_zeros(N, H * W, *values.shape[2:])
        return empty.index_copy(1, places, values).unflatten(1, (H, W))

    return View(image(t), image(normal), image(points), seen.expand(N, H, W))


def surface_view(camera: Camera, x: Tensor, triangles: Tensor, pose: Tensor | None = None) -> View:
    """Views of surfaces of triangles (N, M, 3) [m]; arguments and derivatives as `rasterize`."""
    raster = rasterize(camera, x, triangles, pose=pose)
    return View(raster.depth, raster.normal, raster.points, raster.seen)


def random_balls(
    face: DomeFace | PadFace,
    n: int,
    seed: int,
    radius: tuple[float, float] = (2e-3, 6e-3),
    depth: tuple[float, float] = (0.3e-3, 1.5e-3),
) -> Tensor:
    """Centres and radii [m], (n, 4), of balls of uniform radius, place and indentation."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(4, n, generator=generator, dtype=torch.float64)
    return _balls(face, numbers, radius, depth)


def spread_balls(
    face: DomeFace | PadFace,
    n: int,
    seed: int,
    radius: tuple[float, float] = (1.9e-3, 5.5e-3),
    depth: tuple[float, float] = (0.4e-3, 1.7e-3),
) -> Tensor:
    """The same, but spread evenly over places, radii and indentations together: what to calibrate with.

    Independent draws leave holes, and a model is worst there, above all where the gel is steepest:
    small balls pressed deep. The defaults reach beyond those of `random_balls` there, so no normal that
    these show is extrapolated; flat presses need no balls of their own.

    Source: Owen 1998 (scrambled nets), Sobol' 1967, by `torch.quasirandom`.
    """
    sobol = torch.quasirandom.SobolEngine(4, scramble=True, seed=seed)
    return _balls(face, sobol.draw(n, dtype=torch.float64).T, radius, depth)


def _balls(
    face: DomeFace | PadFace,
    numbers: Tensor,
    radius: tuple[float, float],
    depth: tuple[float, float],
) -> Tensor:
    """Balls of numbers (4, n) in (0, 1)."""
    s, t, a, b = numbers
    size = radius[0] + a * (radius[1] - radius[0])
    pressed = depth[0] + b * (depth[1] - depth[0])
    return torch.cat((face.ball(s, t, size, pressed), size.unsqueeze(1)), dim=1)


def ball_presses(
    camera: Camera,
    face: DomeFace | PadFace,
    lights: Lights,
    balls: Tensor,
    *,
    noise: float = 0.0,
    seed: int = 0,
    smoothing: float = 0.4e-3,
) -> PressSet:
    """A synthetic calibration set: photographs of balls pressed into a gel.

    Args:
        camera, face, lights: the sensor.
        balls: centre and radius [m], (N, 4), as from `random_balls`; their type is that of the images.
        noise: standard deviation of each colour of each pixel of the photographs [-]; the background is
            taken to be the mean of many photographs and has none.
        seed: of the noise.
        smoothing: as in `press_view`.
    """
    rest = press_view(camera, face, like=balls)
    view = press_view(camera, face, balls, smoothing=smoothing)
    return _photographed(camera, lights, rest, view, noise, seed)


def surface_presses(
    camera: Camera,
    lights: Lights,
    x: Tensor,
    rest: Tensor,
    triangles: Tensor,
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> PressSet:
    """The same of simulated surfaces.

    Args:
        camera, lights: the sensor.
        x: points of pressed surfaces in the frame of the sensor [m], (N, M, 3).
        rest: of the surface without contact [m], (M, 3).
        triangles: corners, outward, (F, 3).
        noise, seed: as in `ball_presses`.

    Differentiable in x and rest.
    """
    pressed = [surface_view(camera, one, triangles) for one in (rest.unsqueeze(0), x)]
    return _photographed(camera, lights, pressed[0], pressed[1], noise, seed)


def _photographed(
    camera: Camera, lights: Lights, rest: View, view: View, noise: float, seed: int
) -> PressSet:
    image = view.image(camera, lights)
    if noise:
        generator = torch.Generator().manual_seed(seed)
        grain = torch.randn(image.shape, generator=generator, dtype=image.dtype).to(image)
        image = image + noise * grain * view.seen.unsqueeze(-1)
    return PressSet(camera, rest, rest.image(camera, lights)[0], view, image)


def _covered(camera: Camera, face: DomeFace | PadFace, rays: Tensor) -> Tensor:
    """Pixels (H, W) whose rays meet the face without contact."""
    eye = camera.number("position", rays)
    t = torch.zeros_like(rays[..., 0])
    for _ in range(60):
        t = t - face.distance(eye + t.unsqueeze(-1) * rays)[0]
        t = t.clamp(0.0, 1.0)  # a plane that a ray never meets
    p = eye + t.unsqueeze(-1) * rays
    return face.covers(p) & (face.distance(p)[0].abs() < 1e-6)


def _solve(
    face: DomeFace | PadFace, ball: Tensor, smoothing: float, eye: Tensor, rays: Tensor
) -> tuple[Tensor, Tensor]:
    """Depths (n,) and outward normals (n, 3) along rays (n, 3)."""

    def phi(t: Tensor) -> tuple[Tensor, Tensor]:
        p = eye + t.unsqueeze(-1) * rays
        s, n = face.distance(p)
        if math.isnan(smoothing):
            return s, n
        way = p - ball[:3]
        far = way.square().sum(-1).sqrt()
        gap = s - (ball[3] - far)
        root = (gap * gap + smoothing**2).sqrt()
        share = (0.5 * (1 + gap / root)).unsqueeze(-1)
        normal = share * n - (1 - share) * way / far.unsqueeze(-1)
        return 0.5 * (s + ball[3] - far + root), normal

    with torch.no_grad():
        t = torch.zeros_like(rays[:, 0])
        if bool((phi(t[:1])[0] >= 0).any()):
            expected = "balls that leave the pupil outside, and a pupil inside of the gel"
            raise InputError(message("press_view", expected, f"ball {ball.tolist()}", "Move it"))
        for _ in range(40):
            t = t - phi(t)[0]
        for _ in range(2):
            t = t - _newton(*phi(t), rays)
        miss = float(phi(t)[0].abs().max()) if len(t) else 0.0
    if not miss < 1e-6:
        expected = "rays that meet the surface within 1 µm"
        raise ConvergenceError(
            message("press_view", expected, f"{miss:.3g} m", "Use flatter presses")
        )
    t = t - _newton(*phi(t), rays)
    normal = phi(t)[1]
    return t, normal / normal.square().sum(-1, keepdim=True).sqrt()


def _newton(value: Tensor, gradient: Tensor, rays: Tensor) -> Tensor:
    return value / (gradient * rays).sum(-1)
