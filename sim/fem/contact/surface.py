"""What collides: points, edges and triangles of a set of meshes, their areas and groups.

Contact integrates over the surface. A vertex stands for a third of the area A of its triangles, an edge
for a third of that of its two, A_e, so it has the width A_e/ℓ_e. To the energy of a point near a surface
every feature f within reach contributes e_f b(s), where

    e_triangle = 1,   e_edge = 1 − (triangles at it),   e_vertex = 1 − Σ_triangles 1 − Σ_edges e_edge

is the inclusion–exclusion of overlapping features: beside a flat mesh it leaves exactly one b(s), where
Σ_triangles b would count a spot near an inner edge twice and one near a vertex six times. Rods (edges
without triangle, e = 1) and lone points (e = 1) follow the same rule.

Source: Li et al. 2023 (Convergent Incremental Potential Contact), improved max operator; the signs are
those of the Euler characteristic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...core.errors import InputError, message

__all__ = ["Surface", "boundary_triangles"]


def boundary_triangles(tets: Any) -> np.ndarray:
    """Outward triangles that belong to one tetrahedron only.

    Args:
        tets: vertex indices, (T, 4), positively oriented: (x1 − x0)·((x2 − x0) × (x3 − x0)) > 0.

    Returns:
        Triangles, int64 (F, 3), in the order of the tets.
    """
    tets = _integers("tets", tets, 4)
    faces = tets[:, [[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]].reshape(-1, 3)
    _, index, count = np.unique(np.sort(faces, 1), axis=0, return_inverse=True, return_counts=True)
    return faces[count[index.ravel()] == 1]


class Surface:
    """Features that collide, all in one numbering of the N points of a scene.

    Triangles may form any complex: borders, several sheets, edges with three triangles, rods, points.

    Args:
        rest: rest positions of all N points of a scene [m], (N, 3); they give areas and lengths.
        triangles: vertex indices, (F, 3).
        rods: edges that collide and belong to no triangle, (R, 2); their points need `area`.
        points: points that collide and belong to nothing else, (Q,); they need `area`.
        groups: names of the groups of points.
        group: group of each point, (N,), an index into `groups`; None: all in the first.
        driven: points whose motion is prescribed, bool (N,); pairs of such points only are left out.
        ignore: pairs of group names that pass through each other; (g, g) switches self-contact off.
        area: area of each point [m²], (N,), for rods and lone points; that of triangles is added.

    Raises:
        InputError: wrong shapes or indices, degenerate features, a feature in two groups.
    """

    def __init__(
        self,
        rest: Any,
        triangles: Any = (),
        *,
        rods: Any = (),
        points: Any = (),
        groups: Sequence[str] = ("body",),
        group: Any = None,
        driven: Any = None,
        ignore: Sequence[tuple[str, str]] = (),
        area: Any = None,
    ) -> None:
        x = np.asarray(_array(rest), dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != 3 or not np.isfinite(x).all():
            raise _error("finite rest positions (N, 3) [m]", f"shape {x.shape}", "Check the mesh")
        n = self.point_count = len(x)
        """N, points of a scene, whether they collide or not."""
        t = self.triangles = _integers("triangles", triangles, 3, n)
        """(F, 3)."""
        r = _integers("rods", rods, 2, n)
        lone = _integers("points", np.asarray(_array(points)).reshape(-1, 1), 1, n)[:, 0]
        self.vertices = np.unique(np.concatenate((t.ravel(), r.ravel(), lone)))
        """Points that collide, (V,), ascending."""
        if len(self.vertices) == 0:
            raise _error(
                "something that collides", "no triangles, rods or points", "Give triangles"
            )

        sides = np.concatenate((t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]))
        self.edges, index = np.unique(
            np.sort(np.concatenate((sides, r)), 1), axis=0, return_inverse=True
        )
        """(E, 2), each once, ascending."""
        index = index.ravel()
        self.triangle_edges = index[: len(sides)].reshape(3, -1).T.copy()
        """Edges (t0 t1), (t1 t2), (t2 t0) of each triangle, (F, 3)."""
        at_edge = np.bincount(index[: len(sides)], minlength=len(self.edges))
        self.edge_sign = 1 - at_edge
        """e_edge, (E,)."""
        around = np.bincount(self.edges.ravel(), np.repeat(self.edge_sign, 2), n).astype(np.int64)
        self.vertex_sign = 1 - np.bincount(t.ravel(), minlength=n) - around
        """e_vertex, (N,)."""
        self.lone_edges = np.flatnonzero(at_edge == 0)
        """Edges without triangle, indices into `edges`."""
        self.lone_vertices = np.setdiff1d(self.vertices, self.edges.ravel())
        """Points without edge."""

        self._measure(x, index[len(sides) :], area)
        self._sort(groups, group, driven, ignore)

    def _measure(self, x: np.ndarray, rods: np.ndarray, area: Any) -> None:
        """Areas of the vertices, lengths and widths of the edges."""
        t, e, n = self.triangles, self.edges, self.point_count
        normal = np.cross(x[t[:, 1]] - x[t[:, 0]], x[t[:, 2]] - x[t[:, 0]])
        triangle_area = 0.5 * np.linalg.norm(normal, axis=1)
        self.edge_length = np.linalg.norm(x[e[:, 1]] - x[e[:, 0]], axis=1)
        """ℓ_e at rest [m], (E,)."""
        longest = self.edge_length[self.triangle_edges].max(1, initial=0.0)
        flat = np.flatnonzero(triangle_area <= 1e-10 * longest**2)
        if len(flat):
            got = f"triangle {flat[0]} = {_tuple(t[flat[0]])} of {triangle_area[flat[0]]:.3g} m²"
            raise _error("triangles with an area at rest", got, "Merge its vertices or remove it")
        short = np.flatnonzero(self.edge_length == 0)
        if len(short):
            got = f"edge {_tuple(e[short[0]])} of 0 m"
            raise _error("edges with a length at rest", got, "Merge its points")
        extra = np.zeros(n) if area is None else np.asarray(_array(area), dtype=np.float64)
        if extra.shape != (n,) or not (np.isfinite(extra) & (extra >= 0)).all():
            raise _error(f"area of shape ({n},) [m²], ≥ 0", f"shape {extra.shape}", "One per point")
        third = np.repeat(triangle_area / 3, 3)
        self.vertex_area = extra + np.bincount(t.ravel(), third, n)
        """Area that each point stands for [m²], (N,); 0 where it does not collide."""
        bare = self.vertices[self.vertex_area[self.vertices] == 0]
        if len(bare):
            fix = "For a rod it is about the length it stands for times the diameter"
            raise _error("`area` of every rod's or lone point", f"none at point {bare[0]}", fix)
        edge_area = np.bincount(self.triangle_edges.ravel(), third, len(e)).astype(np.float64)
        ends = e[rods]
        uses = np.maximum(np.bincount(ends.ravel(), minlength=n), 1)
        edge_area[rods] += (extra[ends] / uses[ends]).sum(1)
        self.edge_width = edge_area / self.edge_length
        """A_e/ℓ_e [m], (E,)."""

    def _sort(self, groups: Sequence[str], group: Any, driven: Any, ignore: Any) -> None:
        """Groups, driven points and what ignores each other."""
        n = self.point_count
        self.groups = tuple(groups)
        """Names of the groups."""
        if not self.groups or len(set(self.groups)) < len(self.groups):
            raise _error("groups with different names", f"{self.groups}", "Name each group once")
        given = np.zeros(n, np.int64) if group is None else np.asarray(_array(group))
        if given.shape != (n,) or not np.issubdtype(given.dtype, np.integer):
            raise _error(f"group: integers ({n},)", f"{given.dtype} {given.shape}", "One per point")
        self.group = given.astype(np.int64)
        """Group of each point, (N,)."""
        if n and not (0 <= self.group.min() and self.group.max() < len(self.groups)):
            got = f"{self.group.min()}…{self.group.max()}"
            raise _error(f"groups in 0…{len(self.groups) - 1}", got, "Index into `groups`")
        for name, features in (("triangle", self.triangles), ("edge", self.edges)):
            mixed = np.flatnonzero((self.group[features] != self.group[features[:, :1]]).any(1))
            if len(mixed):
                got = f"{name} {_tuple(features[mixed[0]])} in two"
                raise _error("every feature in one group", got, "Give its points one group")
        flags = np.zeros(n, bool) if driven is None else np.asarray(_array(driven))
        if flags.shape != (n,) or flags.dtype != bool:
            raise _error(
                f"driven: booleans ({n},)", f"{flags.dtype} {flags.shape}", "One per point"
            )
        self.driven = flags
        """Whether each point is driven, (N,)."""
        self.ignored = np.zeros((len(self.groups),) * 2, dtype=bool)
        """Whether two groups ignore each other, (G, G), symmetric."""
        for pair in ignore:
            if len(pair) != 2 or not set(pair) <= set(self.groups):
                raise _error(f"ignore: pairs of {self.groups}", f"{pair}", "Name two groups")
            a, b = (self.groups.index(name) for name in pair)
            self.ignored[a, b] = self.ignored[b, a] = True

    def tensor(self, name: str, device: torch.device | str = "cpu") -> torch.Tensor:
        """One of the arrays above on a device; made once per device."""
        cache = self.__dict__.setdefault("_tensors", {})
        key = (name, str(device))
        if key not in cache:
            cache[key] = torch.as_tensor(getattr(self, name)).to(device)
        return cache[key]

    def __repr__(self) -> str:
        return (
            f"Surface({len(self.vertices)} of {self.point_count} points, {len(self.edges)} edges, "
            f"{len(self.triangles)} triangles)"
        )


def _integers(name: str, value: Any, width: int, count: int | None = None) -> np.ndarray:
    """Index array (n, width), checked."""
    given = np.asarray(_array(value))
    if given.size == 0:
        return np.zeros((0, width), np.int64)
    if given.ndim != 2 or given.shape[1] != width or not np.issubdtype(given.dtype, np.integer):
        raise _error(f"{name}: integers (n, {width})", f"{given.dtype} {given.shape}", "Indices")
    given = given.astype(np.int64)
    last = int(given.max()) + 1 if count is None else count
    if given.min() < 0 or given.max() >= last:
        got = f"{given.min()}…{given.max()}"
        raise _error(
            f"{name} with indices in 0…{last - 1}", got, "Index into the points of a scene"
        )
    return given


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _tuple(row: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in row)


def _error(expected: str, got: str, fix: str) -> InputError:
    return InputError(message("Surface", expected, got, fix))
