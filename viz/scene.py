"""What a picture shows, as plain arrays.

A `Scene` knows nothing of solvers; `convert` fills one from a stored rollout or a live state.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .fields import as_array
from .surface import estimate_spacing
from .theme import group_color

__all__ = [
    "Arrows",
    "Curve",
    "Inset",
    "Marker",
    "MeshPart",
    "Scene",
    "Tool",
    "embed",
    "value_span",
]

LOOKS = ("liquid", "solid", "grains")
"""liquid: clear, glossy surface; solid: opaque surface; grains: always drawn as particles."""
_LIQUID = re.compile(r"water|liquid|fluid|milk|coffee|oil|honey|juice|cream", re.IGNORECASE)
_GRAINS = re.compile(r"sand|grain|snow|powder|debris", re.IGNORECASE)


@dataclasses.dataclass
class Tool:
    """A shape at a pose: collider, tool, container or obstacle."""

    shape: Any
    """Object or dictionary that `shape_mesh` knows."""
    pose: Any = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    """Position [m] and quaternion (w, x, y, z), (7,)."""
    color: str | None = None
    """Color; None takes the theme's."""
    opacity: float = 1.0
    """Below 1 one sees what is behind, as in a glass."""
    name: str = ""
    """Name, for messages."""


@dataclasses.dataclass
class Marker:
    """A target or a point of interest."""

    position: Any
    """Center [m], (D,)."""
    radius: float | None = None
    """Radius [m]; None takes three particle spacings."""
    color: str = "#12a150"
    """Green by convention: where something shall go."""
    label: str = ""
    """Text beside the marker."""
    opacity: float = 0.45
    """Translucent, so that it does not hide what reaches it."""


@dataclasses.dataclass
class Curve:
    """A polyline: path of a tool, trajectory of a particle."""

    points: Any
    """Points in order [m], (M, D)."""
    color: str = "#e3a12f"
    """Color of the line."""
    width: float = 3.0
    """Width [px]."""


@dataclasses.dataclass
class Arrows:
    """Vectors at points: forces, velocities, gradients."""

    origins: Any
    """Feet [m], (M, D)."""
    vectors: Any
    """Vectors, (M, D), any unit."""
    scale: float = 1.0
    """Metres per unit of the vectors."""
    color: str = "#c2255c"
    """Color of the arrows."""


@dataclasses.dataclass
class MeshPart:
    """A triangle mesh that is simulated: sheet, gel, body."""

    vertices: Any
    """Vertices [m], (V, 3)."""
    faces: Any
    """Triangles, (M, 3)."""
    color: str = "#8b62c9"
    """Color where `values` is None."""
    values: Any = None
    """Scalar per vertex (V,), drawn with the scene's color map."""
    show_edges: bool = False
    """Draw the triangles' edges."""
    opacity: float = 1.0
    """Below 1 one sees what is behind."""


@dataclasses.dataclass
class Inset:
    """A picture beside the scene: what a camera inside of it sees."""

    image: Any
    """Colors, (H, W, 3): uint8, or numbers from 0 to 1."""
    title: str = ""
    """Text above."""


@dataclasses.dataclass
class Scene:
    """One moment of a simulation, ready to draw."""

    x: Any = None
    """Particle positions [m], (N, D), D ∈ {2, 3}; None for none."""
    groups: Mapping[str, tuple[int, int]] | None = None
    """Group name to (start, stop) on the particle axis; None is one group."""
    colors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Color per group; others get one by name or from the palette."""
    looks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """"liquid", "solid" or "grains" per group; others are guessed from the name, else solid."""
    values: Any = None
    """Scalar per particle (N,) that colors instead of the groups; NaN keeps the group's color."""
    label: str = ""
    """Name and unit of `values`, on the scalar bar."""
    cmap: str = "viridis"
    """Color map of `values`."""
    clim: tuple[float, float] | None = None
    """Range of the color map; None takes that of the values. Fix it for a movie."""
    visible: Any = None
    """Which particles to draw (N,) bool. None hides non-finite positions and positions that several
    particles share exactly: those wait in an emitter."""
    spacing: float | None = None
    """Distance of neighbouring particles [m]; None estimates it. Fix it for a movie."""
    lower: Any = None
    """Lower corner of the domain [m], (D,); None draws no box."""
    upper: Any = None
    """Upper corner of the domain [m], (D,)."""
    tools: Sequence[Tool] = ()
    """Colliders and tools."""
    markers: Sequence[Marker] = ()
    """Targets."""
    curves: Sequence[Curve] = ()
    """Paths."""
    arrows: Sequence[Arrows] = ()
    """Vectors."""
    meshes: Sequence[MeshPart] = ()
    """Triangle meshes."""
    insets: Sequence[Inset] = ()
    """Pictures in a column at the right border."""
    target: Any = None
    """Positions of a wanted shape [m], (M, D), drawn as a pale ghost."""
    time: float | None = None
    """Time [s], written in the corner."""
    title: str = ""
    """Title of the picture."""

    def __post_init__(self) -> None:
        if self.x is not None:
            self.x = as_array(self.x)
            if self.x.ndim != 2 or self.x.shape[1] not in (2, 3):
                raise ValueError(
                    f"Scene: x of shape (N, 2) or (N, 3) [m]; got {self.x.shape}. "
                    "Pick one scene of a batch, x[0]."
                )
            if self.groups is None:
                self.groups = {"particles": (0, len(self.x))}
        if self.values is not None:
            self.values = as_array(self.values).astype(float).reshape(-1)
            if self.x is None or len(self.values) != len(self.x):
                count = 0 if self.x is None else len(self.x)
                raise ValueError(
                    f"Scene: one value per particle, {count}; got {len(self.values)}. "
                    "Use particle_field to place values of some groups."
                )
        self.groups = dict(self.groups or {})
        unknown = {look for look in self.looks.values() if look not in LOOKS}
        if unknown:
            raise ValueError(f"Scene: looks among {LOOKS}; got {sorted(unknown)}. Use one of them.")

    @property
    def planar(self) -> bool:
        """Whether this is a 2-D scene, the plane (x, z)."""
        if self.x is not None:
            return self.x.shape[1] == 2
        return self.lower is not None and len(as_array(self.lower)) == 2

    def color_of(self, group: str) -> str:
        """Color of a group."""
        if group in self.colors:
            return self.colors[group]
        return group_color(group, list(self.groups).index(group))

    def look_of(self, group: str) -> str:
        """How the surface of a group looks."""
        if group in self.looks:
            return self.looks[group]
        if _LIQUID.search(group):
            return "liquid"
        return "grains" if _GRAINS.search(group) else "solid"

    def shown(self) -> np.ndarray:
        """Mask of the particles to draw (N,)."""
        if self.visible is None:
            shown = np.isfinite(self.x).all(axis=1)
            _, index, counts = np.unique(self.x, axis=0, return_inverse=True, return_counts=True)
            return shown & (counts[index.reshape(-1)] == 1)
        return as_array(self.visible).astype(bool)

    def particle_spacing(self) -> float:
        """Distance of neighbouring particles [m], given or estimated."""
        if self.spacing is None:
            known = self.x is not None and self.shown().any()
            self.spacing = estimate_spacing(self.x[self.shown()]) if known else 0.01
        return self.spacing

    def value_range(self) -> tuple[float, float]:
        """Range of the color map."""
        if self.clim is not None:
            return float(self.clim[0]), float(self.clim[1])
        return value_span(self.values)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Corners of all that is drawn [m], (3,) each: the domain if there is one."""
        if self.lower is not None:
            return embed(as_array(self.lower)), embed(as_array(self.upper))
        clouds = [self.x, self.target]
        clouds += [m.vertices for m in self.meshes] + [c.points for c in self.curves]
        clouds = [embed(as_array(c)) for c in clouds if c is not None and len(c)]
        clouds += [embed(as_array(m.position))[None] for m in self.markers]
        clouds += [as_array(t.pose)[None, :3] for t in self.tools]
        points = np.concatenate(clouds) if clouds else np.zeros((1, 3))
        points = points[np.isfinite(points).all(axis=1)]
        lower, upper = points.min(axis=0), points.max(axis=0)
        pad = 0.05 * max(float((upper - lower).max()), 1e-3)
        return lower - pad, upper + pad


def embed(points: np.ndarray) -> np.ndarray:
    """Points of a 2-D scene (x, z) as (x, 0, z); 3-D points unchanged."""
    points = np.asarray(points, dtype=float)
    if points.shape[-1] == 3:
        return points
    return np.stack([points[..., 0], np.zeros(points.shape[:-1]), points[..., 1]], -1)


def value_span(values) -> tuple[float, float]:
    """Smallest and largest finite value, kept apart."""
    values = np.asarray([]) if values is None else values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if 0 <= low < 0.02 * high:
        low = 0.0  # a scale of magnitudes reads better from zero
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-12):
        high = low + max(abs(low), 1.0) * 1e-6
    return low, high
