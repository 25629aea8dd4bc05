"""Vessels and hand tools as plain numbers: center lines of walls, rods and boxes, in metres.

    TOOLS["cup"]        what `rheograd.tasks.fluid.tools.tool("cup")` builds a shape from

Lengths are those of household and laboratory ware, to the centimetre; z is up, round tools turn about z,
and the origin is where liquid collects (vessels) or the lower end (stirrer). Friction numbers are those
FluidLab uses for its tools of the same names (Xian et al. 2023, source code); they are choices of a
simulator, not measurements, and numbers above 1 mean that liquid hardly slides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["TOOLS", "ToolGeometry"]

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class ToolGeometry:
    """One tool. Walls have a constant thickness about their center lines, and round rims."""

    about: str
    """What it is and what it measures inside."""
    lines: tuple[Numbers, ...] = ()
    """Center lines (ρ₀, z₀, ρ₁, z₁) [m] that turn about z."""
    arcs: tuple[Numbers, ...] = ()
    """Center arcs (ρ, z of the center, radius [m], from, to [rad]) that turn about z."""
    rods: tuple[Numbers, ...] = ()
    """Rods (x₀, y₀, z₀, x₁, y₁, z₁, radius) [m]: handles and sticks."""
    box: Numbers = ()
    """Inner sides along x and y and inner height [m] of a rectangular tank; its floor is z = 0."""
    wall: float = 0.0
    """Thickness of walls [m]; 0 where there are only rods."""
    blend: float = 0.0
    """Width of the fillet between rods, or rods and walls [m]."""
    friction: float = 0.0
    """Coulomb coefficient [-]."""


TOOLS: dict[str, ToolGeometry] = {
    "cup": ToolGeometry(
        "mug with a handle, 80 mm wide and 90 mm high inside, 0.44 l",
        lines=((0.0, -0.002, 0.032, -0.002), (0.042, 0.008, 0.042, 0.09)),
        arcs=((0.032, 0.008, 0.010, -0.5 * math.pi, 0.0),),
        rods=(
            (0.046, 0.0, 0.072, 0.062, 0.0, 0.072, 0.004),
            (0.062, 0.0, 0.072, 0.071, 0.0, 0.062, 0.004),
            (0.071, 0.0, 0.062, 0.071, 0.0, 0.042, 0.004),
            (0.071, 0.0, 0.042, 0.062, 0.0, 0.028, 0.004),
            (0.062, 0.0, 0.028, 0.046, 0.0, 0.024, 0.004),
        ),
        wall=0.004,
        blend=0.004,
        friction=0.5,
    ),
    "glass": ToolGeometry(
        "tumbler, 56 mm wide at the bottom, 72 mm at the top, 130 mm high inside, 0.42 l",
        lines=((0.0, -0.0015, 0.0295, -0.0015), (0.0295, -0.0015, 0.0375, 0.13)),
        wall=0.003,
        friction=0.1,
    ),
    "bowl": ToolGeometry(
        "hemisphere on a foot ring, 180 mm wide and 90 mm deep inside, 1.5 l",
        lines=((0.03, -0.012, 0.03, 0.002),),
        arcs=((0.0, 0.09, 0.092, -0.5 * math.pi, 0.0),),
        wall=0.004,
        friction=0.0,
    ),
    "plate": ToolGeometry(
        "dinner plate, 265 mm across, well of 160 mm, 20 mm high",
        lines=(
            (0.0, -0.0025, 0.08, -0.0025),
            (0.08, -0.0025, 0.10, 0.012),
            (0.10, 0.012, 0.13, 0.02),
        ),
        wall=0.005,
        friction=0.1,
    ),
    "cone": ToolGeometry(
        "ice-cream wafer, center line from the origin to a rim of 60 mm at a height of 110 mm",
        lines=((0.0, 0.0, 0.03, 0.11),),
        wall=0.003,
        friction=8.0,
    ),
    "tank": ToolGeometry(
        "acrylic tank, 500 mm by 300 mm and 300 mm high inside, 45 l",
        box=(0.5, 0.3, 0.3),
        wall=0.012,
        friction=0.5,
    ),
    "ladle": ToolGeometry(
        "soup ladle, hemisphere of 90 mm inside, 0.19 l, with an upright handle and a hook",
        arcs=((0.0, 0.045, 0.047, -0.5 * math.pi, 0.0),),
        rods=(
            (0.0495, 0.0, 0.036, 0.062, 0.0, 0.25, 0.004),
            (0.062, 0.0, 0.25, 0.052, 0.0, 0.272, 0.004),
            (0.052, 0.0, 0.272, 0.034, 0.0, 0.274, 0.004),
            (0.034, 0.0, 0.274, 0.028, 0.0, 0.262, 0.004),
        ),
        wall=0.004,
        blend=0.004,
        friction=0.1,
    ),
    "stirrer": ToolGeometry(
        "cross-blade stirrer, 60 mm across, 240 mm long",
        rods=(
            (0.0, 0.0, 0.007, 0.0, 0.0, 0.235, 0.005),
            (-0.023, 0.0, 0.007, 0.023, 0.0, 0.007, 0.007),
            (0.0, -0.023, 0.007, 0.0, 0.023, 0.007, 0.007),
        ),
        blend=0.004,
        friction=8.0,
    ),
}
"""The tools by name."""
