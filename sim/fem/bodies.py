"""Round meshes of tetrahedra: balls, and hollow hemispheres as the tips of fingers.

Points stand on spheres r_0 < … < r_L in the directions of an octahedron whose faces are cut into n²
parts; between two spheres lie prisms, each of three tetrahedra. Three corners of a prism in the order a
< b < c of their numbers give {a₀ b₀ c₀ c₁}, {a₀ b₀ b₁ c₁}, {a₀ a₁ b₁ c₁}, which agree with the
neighbours' on every side.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..core.errors import InputError, message

__all__ = ["Body", "ball", "fingertip"]


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """A solid mesh with the surface that others may touch."""

    X: Tensor
    """Points [m], (N, 3)."""
    tets: Tensor
    """Tetrahedra of positive volume, (S, 4)."""
    skin: Tensor
    """Outward triangles that collide, (F, 3)."""
    held: Tensor
    """Points that a handle would hold, sorted; none of a ball."""


def fingertip(
    radius: float = 7.5e-3, cavity: float = 3.8e-3, cuts: int = 6, layers: int = 2
) -> Body:
    """A hollow hemisphere that points up (+z), its flat rim in z = 0 about the origin.

    Args:
        radius: outer radius [m].
        cavity: inner radius [m].
        cuts: n, parts of every edge of the octahedron; the dome has 4 n² triangles.
        layers: L, layers of prisms from the cavity to the surface.

    Returns:
        (L + 1)(2n² + 2n + 1) points: 255 with the default numbers. `held` are rim and cavity, `skin`
        the dome.

    Raises:
        InputError: radii or numbers out of order.
    """
    if not 0 < cavity < radius < math.inf or cuts < 1 or layers < 1:
        got = f"radius {radius}, cavity {cavity}, cuts {cuts}, layers {layers}"
        expected = "0 < cavity < radius [m], cuts >= 1, layers >= 1"
        raise InputError(message("fingertip", expected, got, "Correct it"))
    directions, triangles = _octahedron(cuts, half=True)
    radii = torch.linspace(cavity, radius, layers + 1, dtype=torch.float64)
    count = len(directions)
    X = (radii[:, None, None] * directions).reshape(-1, 3)
    tets = torch.cat([_prisms(triangles, count * k) for k in range(layers)])
    held = (X[:, 2] < 1e-9 * radius) | (torch.arange(len(X)) < count)
    return Body(X, _oriented(X, tets), triangles + count * layers, held.nonzero()[:, 0])


def ball(radius: float, cuts: int = 4, layers: int = 2) -> Body:
    """A ball about the origin.

    Args:
        radius: [m].
        cuts: n, parts of every edge of the octahedron; the surface has 8 n² triangles.
        layers: L, spheres of points around the middle one.

    Returns:
        1 + L (4n² + 2) points: 133 with the default numbers.

    Raises:
        InputError: radius or numbers out of range.
    """
    if not 0 < radius < math.inf or cuts < 1 or layers < 1:
        got = f"radius {radius}, cuts {cuts}, layers {layers}"
        raise InputError(message("ball", "radius > 0 m, cuts >= 1, layers >= 1", got, "Correct it"))
    directions, triangles = _octahedron(cuts, half=False)
    radii = torch.linspace(0, radius, layers + 1, dtype=torch.float64)[1:]
    count = len(directions)
    X = torch.cat((torch.zeros(1, 3).double(), (radii[:, None, None] * directions).reshape(-1, 3)))
    inner = torch.cat((torch.zeros(len(triangles), 1).long(), triangles + 1), dim=1)
    tets = torch.cat(
        [inner, *(_prisms(triangles, 1 + count * k, count) for k in range(layers - 1))]
    )
    skin = triangles + 1 + count * (layers - 1)
    return Body(X, _oriented(X, tets), skin, torch.zeros(0).long())


def _octahedron(n: int, half: bool) -> tuple[Tensor, Tensor]:
    """Unit directions (N, 3) and outward triangles (F, 3) of an octahedron with n² triangles a face."""
    numbers: dict[tuple[int, int, int], int] = {}

    def number(point: tuple[int, int, int]) -> int:
        return numbers.setdefault(point, len(numbers))

    triangles = []
    for sz in (1,) if half else (1, -1):
        for sx in (1, -1):
            for sy in (1, -1):

                def at(i: int, j: int, s: tuple[int, int, int] = (sx, sy, sz)) -> int:
                    return number((s[0] * i, s[1] * j, s[2] * (n - i - j)))

                for i in range(n):
                    for j in range(n - i):
                        found = [(at(i, j), at(i + 1, j), at(i, j + 1))]
                        if i + j < n - 1:
                            found.append((at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)))
                        flip = sx * sy * sz < 0
                        triangles += [t[::-1] if flip else t for t in found]
    grid = torch.tensor(list(numbers), dtype=torch.float64)
    # Sines spread the points more evenly than the plain projection does.
    spread = (0.5 * math.pi / n * grid).sin()
    return spread / spread.norm(dim=1, keepdim=True), torch.tensor(triangles)


def _prisms(triangles: Tensor, start: int, count: int | None = None) -> Tensor:
    """Tetrahedra between a sphere whose points begin at `start` and the next one."""
    step = int(triangles.max()) + 1 if count is None else count
    a, b, c = (triangles.sort(1)[0] + start).unbind(1)
    stairs = ((a, b, c, c + step), (a, b, b + step, c + step), (a, a + step, b + step, c + step))
    return torch.cat([torch.stack(tet, dim=1) for tet in stairs])


def _oriented(X: Tensor, tets: Tensor) -> Tensor:
    """Tetrahedra with two corners exchanged where the volume is negative."""
    corners = X[tets]
    volume = torch.linalg.det(corners[:, 1:] - corners[:, :1])
    return torch.where((volume < 0)[:, None], tets[:, [1, 0, 2, 3]], tets)
