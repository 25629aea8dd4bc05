"""Calibrated cameras inside of a sensor: points to pixels, and pixels to rays.

    camera axes     x right, y down, z along the optical axis;   y = R(q)ᵀ (x − p)
    Pinhole         (u, v) = c + f (y₁, y₂)/y₃                              f [px]
    Fisheye         (u, v) = c + f θ (y₁, y₂)/ρ,  θ = atan2(ρ, y₃)          f [px/rad], equidistant
    depth           |y|, the distance from the pupil along the ray

Pixels have their centres at whole numbers, u to the right and v down; the first is (0, 0). Focal
length, centre and placement may be tensors: everything is differentiable in them, as calibration needs.
One medium fills the way from pupil to surface, so nothing is refracted.

Differentiable in points, poses, focal length, centre, position and orientation; on the axis too.
Source: Kannala & Brandt 2006, Eq. 3, for the equidistant lens; Si et al. 2024 (DiffTactile) for numbers.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..core import rotations
from ..core.errors import InputError, message

__all__ = ["Camera", "Fisheye", "Pinhole", "Projection", "dome_camera", "into_frame", "pad_camera"]

# Below this square of an angle the power series replace θ/tan θ and sin θ/θ: the first term that is
# left out is under 1e-16, after one differentiation under 1e-12.
_SERIES = 1e-4


@dataclasses.dataclass(frozen=True)
class Projection:
    """Where points appear."""

    uv: Tensor
    """Pixel coordinates [px], (B, n, 2); without meaning where the lens cannot see at all."""
    depth: Tensor
    """Distance from the pupil [m], (B, n)."""
    seen: Tensor
    """Whether the point is before the lens and inside of the image, (B, n); it may be hidden."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Camera(abc.ABC):
    """What cameras share: size of the image, calibration, and the place in the frame of the sensor."""

    width: int
    """Pixels along u."""
    height: int
    """Pixels along v."""
    focal: float | Tensor
    """Focal length: `Pinhole` [px], `Fisheye` [px/rad]."""
    centre: Sequence[float] | Tensor
    """Where the optical axis meets the image, (u, v) [px]."""
    position: Sequence[float] | Tensor = (0.0, 0.0, 0.0)
    """Pupil in the frame of the sensor [m]."""
    orientation: Sequence[float] | Tensor = (1.0, 0.0, 0.0, 0.0)
    """Quaternion (w, x, y, z) that turns the camera's axes into the sensor's; default: looks along +z."""

    straight: ClassVar[bool]
    """Whether straight lines in space are straight in the image."""

    def __post_init__(self) -> None:
        where = type(self).__name__
        focal = float(torch.as_tensor(self.focal).detach())
        sizes = f"{self.width} x {self.height}, focal {focal:.6g}"
        if min(self.width, self.height) < 1 or not focal > 0:
            raise InputError(
                message(where, "width, height >= 1 and focal > 0", sizes, "Correct it")
            )
        for name, length in (("centre", 2), ("position", 3), ("orientation", 4)):
            value = torch.as_tensor(getattr(self, name))
            if value.shape != (length,) or not bool(torch.isfinite(value).all()):
                expected = f"{length} finite numbers as {name}"
                raise InputError(message(where, expected, f"{value.tolist()}", "Correct it"))
        if not bool((torch.as_tensor(self.orientation) != 0).any()):
            raise InputError(message(where, "a quaternion that is not 0", "0", "Use (1, 0, 0, 0)"))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def project(self, x: Tensor, pose: Tensor | None = None) -> Projection:
        """Points to pixels.

        Args:
            x: points [m], (B, n, 3), in the frame of the sensor, or in the world if there is a pose.
            pose: of the sensor in the world, (7,) or (B, 7).

        Returns:
            Pixels, depths, and what is in view.

        Raises:
            InputError: wrong shapes.
        """
        if x.ndim != 3 or x.shape[-1] != 3:
            got = f"{tuple(x.shape)}"
            raise InputError(message("Camera.project", "x of shape (B, n, 3) [m]", got, "Add axes"))
        y = self.axes(into_frame(x, pose))
        uv, front = self.lens(y)
        edge = torch.tensor((self.width, self.height), device=x.device) - 0.5
        seen = front & (uv >= -0.5).all(-1) & (uv <= edge).all(-1)
        return Projection(uv, y.square().sum(-1).sqrt(), seen)

    def rays(self, uv: Tensor | None = None, *, like: Tensor | None = None) -> Tensor:
        """Unit directions in the frame of the sensor, (..., 3), through pixels (..., 2).

        Args:
            uv: pixel coordinates [px]; None: all centres (H, W, 2), typed and placed like `like`.
            like: a tensor; None: float32 on the CPU.
        """
        uv = self.pixels(like) if uv is None else uv
        y = self.unlens((uv - self.number("centre", uv)) / self.number("focal", uv))
        return rotations.rotate(self.number("orientation", uv), y)

    def pixels(self, like: Tensor | None = None) -> Tensor:
        """Coordinates (u, v) of all centres [px], (H, W, 2)."""
        like = torch.zeros(()) if like is None else like
        u, v = (torch.arange(n, dtype=like.dtype, device=like.device) for n in self.size[::-1])
        return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)

    def field(self, uv: Tensor) -> Tensor:
        """Whether the lens reaches pixels (..., 2), (...)."""
        return torch.ones_like(uv[..., 0], dtype=torch.bool)

    def scaled(self, factor: float) -> Camera:
        """The same camera with an image of `factor` times as many pixels along each side."""
        size = [round(factor * n) for n in (self.width, self.height)]
        centre = (torch.as_tensor(self.centre, dtype=torch.float64) + 0.5) * factor - 0.5
        given = self.centre if isinstance(self.centre, Tensor) else centre
        return dataclasses.replace(
            self, width=size[0], height=size[1], focal=self.focal * factor,
            centre=centre.to(given) if isinstance(self.centre, Tensor) else tuple(centre.tolist()),
        )  # fmt: skip

    def number(self, name: str, like: Tensor) -> Tensor:
        """A field of the calibration as a tensor, typed and placed like another."""
        return torch.as_tensor(getattr(self, name), dtype=like.dtype, device=like.device)

    def axes(self, x: Tensor) -> Tensor:
        """Points of the sensor's frame (..., 3) in the axes of the camera, from its pupil [m]."""
        offset = x - self.number("position", x)
        return rotations.rotate_inverse(self.number("orientation", x), offset)

    @abc.abstractmethod
    def lens(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (..., 2) of points in camera axes (..., 3), and which of them the lens can see (...)."""

    @abc.abstractmethod
    def unlens(self, p: Tensor) -> Tensor:
        """Unit directions in camera axes (..., 3) of (pixels − centre)/focal (..., 2)."""


class Pinhole(Camera):
    """A lens without distortion; sees what is in front of it."""

    straight = True

    def lens(self, y: Tensor) -> tuple[Tensor, Tensor]:
        front = y[..., 2] > 0
        z = torch.where(front, y[..., 2], torch.ones_like(y[..., 2]))
        uv = self.number("centre", y) + self.number("focal", y) * y[..., :2] / z.unsqueeze(-1)
        return uv, front

    def unlens(self, p: Tensor) -> Tensor:
        y = torch.cat((p, torch.ones_like(p[..., :1])), dim=-1)
        return y / y.square().sum(-1, keepdim=True).sqrt()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Fisheye(Camera):
    """An equidistant lens: the distance from the centre is proportional to the angle to the axis."""

    max_angle: float = math.radians(110)
    """Largest angle to the axis that the lens sees [rad]; default: more than a half sphere."""

    straight = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_angle < math.pi:
            expected = "0 < max_angle < pi [rad]"
            raise InputError(message("Fisheye", expected, self.max_angle, "Use radians"))

    def lens(self, y: Tensor) -> tuple[Tensor, Tensor]:
        z = y[..., 2]
        s = y[..., :2].square().sum(-1)
        near = (z > 0) & (s < _SERIES * z * z)
        z_safe = torch.where(near, z, torch.ones_like(z))
        t = s / (z_safe * z_safe)
        series = (1 + t * (-1 / 3 + t * (1 / 5 - t / 7))) / z_safe
        # On the axis behind the lens the azimuth is undefined; any finite value does, it is not seen.
        apart = ~near & (s > 0)
        radius = torch.where(apart, s, torch.ones_like(s)).sqrt()
        angle = torch.atan2(radius, z)
        uv = torch.where(near, series, angle / radius).unsqueeze(-1) * y[..., :2]
        front = near | (apart & (angle <= self.max_angle))
        return self.number("centre", y) + self.number("focal", y) * uv, front

    def unlens(self, p: Tensor) -> Tensor:
        s = p.square().sum(-1, keepdim=True)
        near = s < _SERIES
        angle = torch.where(near, torch.ones_like(s), s).sqrt()
        sine = 1 + s * (-1 / 6 + s * (1 / 120 - s / 5040))
        cosine = 1 + s * (-1 / 2 + s * (1 / 24 - s / 720))
        sine = torch.where(near, sine, torch.sin(angle) / angle)
        return torch.cat((sine * p, torch.where(near, cosine, torch.cos(angle))), dim=-1)

    def field(self, uv: Tensor) -> Tensor:
        """Whether the lens reaches pixels (..., 2), (...)."""
        p = (uv - self.number("centre", uv)) / self.number("focal", uv)
        return p.square().sum(-1) <= self.max_angle**2


def into_frame(x: Tensor, pose: Tensor | None) -> Tensor:
    """World points (B, n, 3) in the frame of a sensor at pose (7,) or (B, 7); None: as they are."""
    if pose is None:
        return x
    pose = torch.as_tensor(pose).to(x)
    if pose.shape not in ((7,), (1, 7), (len(x), 7)):
        expected = f"pose of shape (7,) or {(len(x), 7)}"
        raise InputError(message("into_frame", expected, pose, "One row per scene"))
    rows = pose.reshape(-1, 1, 7)
    return rotations.rotate_inverse(rows[..., 3:], x - rows[..., :3])


def dome_camera(offset: float = 0.2e-3) -> Fisheye:
    """The fisheye camera of DiffTactile: 640 × 480, 150 px/rad, axis at (332, 240), half a turn.

    Its code adds 0.02 to coordinates in centimetres, written 2.0·0.01 as if for metres. Read as
    centimetres, as here, the rim of the dome of 15 mm is 234 px from the centre and fills the height
    of the image; read as metres, the dome would end at 97 px, while its markers reach ± 150 px. Its
    image is mirrored too: right, down and forward are left-handed there, right-handed here.

    Args:
        offset: distance of the pupil behind the centre of the dome [m].

    Source: Si et al. 2024, code: f = 0.8627 mm, 173 913 px/m.
    """
    return Fisheye(
        width=640, height=480, focal=173913.04 * 8.627e-4, centre=(332.0, 240.0),
        position=(0.0, 0.0, -offset), orientation=(0.0, 0.0, 0.0, 1.0),
    )  # fmt: skip


def pad_camera(distance: float = 20e-3, view: float = 22e-3) -> Pinhole:
    """A pinhole camera behind a pad, 640 × 480, looking along +z.

    Args:
        distance: from the pupil to the back of the pad in z = 0 [m].
        view: height of what it sees in z = 0 [m].
    """
    return Pinhole(
        width=640, height=480, focal=480 * distance / view, centre=(319.5, 239.5),
        position=(0.0, 0.0, -distance),
    )  # fmt: skip
