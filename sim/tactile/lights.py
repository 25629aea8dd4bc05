"""What the camera sees of a coated gel that light-emitting diodes shine on: a synthetic truth.

    I = a + Σ_k c_k d₀²/(|l_k|² + s²) [k_d m·l̂_k + k_s m·l̂_k (r_k · v̂)^α],    both factors where m·l̂_k > 0

    m = −n     inner normal of the coat       l = q_k − p   to the diode        v = pupil − p
    r          l̂ mirrored at the coat, 2 (m·l̂) m − l̂

The coat is the outer surface, seen and lit from inside through the gel; no shadows, and no light from one
part of the coat to another. Colours are linear, 1 is white.

Differentiable in points, normals and every number of the lights.
Source: Phong 1975; with the factor m·l̂ on the highlight (Lewis 1994), which makes it continuous.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import InputError, message

__all__ = ["Lights", "three_lights"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Lights:
    """Diodes and the coat they shine on, in the frame of the sensor."""

    position: Sequence[Sequence[float]] | Tensor
    """Of the diodes [m], (K, 3)."""
    colour: Sequence[Sequence[float]] | Tensor
    """Brightness of a matte coat that faces the diode at `distance`, red, green, blue [-], (K, 3)."""
    distance: float = 15e-3
    """d₀, at which `colour` holds [m]; default: radius of the dome."""
    extent: float = 10e-3
    """s, size of a diode with its diffuser [m]: nearer than that it gets no brighter."""
    ambient: Sequence[float] | Tensor = (0.05, 0.05, 0.05)
    """a, light from everywhere [-], (3,)."""
    diffuse: float | Tensor = 0.8
    """k_d, matte part [-]."""
    specular: float | Tensor = 0.2
    """k_s, shiny part [-]."""
    shininess: float | Tensor = 8.0
    """α, sharpness of the shine [-]; default: satin."""

    def __post_init__(self) -> None:
        position, colour = torch.as_tensor(self.position), torch.as_tensor(self.colour)
        if position.ndim != 2 or position.shape[1] != 3 or colour.shape != position.shape:
            got = f"{tuple(position.shape)} and {tuple(colour.shape)}"
            raise InputError(message("Lights", "position and colour (K, 3)", got, "One row each"))
        if not (self.distance > 0 and self.extent >= 0):
            got = f"distance {self.distance:.3g} m, extent {self.extent:.3g} m"
            raise InputError(message("Lights", "distance > 0 and extent >= 0", got, "Correct it"))

    def shade(self, points: Tensor, normal: Tensor, eye: Tensor) -> Tensor:
        """Colour of the coat.

        Args:
            points: on the coat [m], (..., 3), in the frame of the sensor.
            normal: outward unit normals there [-], (..., 3).
            eye: pupil of the camera [m], (3,).

        Returns:
            Red, green, blue [-], (..., 3).
        """
        inner = -normal
        view = _unit(eye - points)
        total = torch.zeros_like(points) + torch.as_tensor(self.ambient).to(points)
        position = torch.as_tensor(self.position).to(points)
        colours = torch.as_tensor(self.colour).to(points)
        for source, colour in zip(position, colours, strict=True):
            way = source - points
            square = way.square().sum(-1, keepdim=True)
            light = _unit(way)
            cosine = (inner * light).sum(-1, keepdim=True)
            lit = cosine > 0
            mirrored = ((2 * cosine * inner - light) * view).sum(-1, keepdim=True)
            shiny = lit & (mirrored > 0)
            glow = torch.where(shiny, mirrored, torch.ones_like(mirrored)) ** self.shininess
            part = self.diffuse + torch.where(shiny, self.specular * glow, torch.zeros_like(glow))
            fall = self.distance**2 / (square + self.extent**2)
            total = total + torch.where(lit, cosine * part * fall, torch.zeros_like(part)) * colour
        return total


def three_lights(
    radius: float = 9e-3, height: float = 0.0, brightness: float = 0.5, distance: float = 15e-3
) -> Lights:
    """Red, green and blue diodes on a ring about the axis, at 90°, 210° and 330° from x.

    Args:
        radius: of the ring [m].
        height: of the ring along z [m].
        brightness: of each colour at `distance` [-]; a diode leaks 10 % of it into the other colours.
        distance: at which that holds [m].
    """
    turn = [math.pi * (1 / 2 + 2 * k / 3) for k in range(3)]
    position = [(radius * math.cos(t), radius * math.sin(t), height) for t in turn]
    colour = [[brightness * (1.0 if i == k else 0.1) for i in range(3)] for k in range(3)]
    return Lights(position=position, colour=colour, distance=distance)


def _unit(v: Tensor) -> Tensor:
    return v / v.square().sum(-1, keepdim=True).sqrt()
