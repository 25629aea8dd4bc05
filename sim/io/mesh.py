"""Triangle meshes from and to files.

`load_mesh` returns a closed surface that `MeshShape` accepts: tetrahedra and other cells become
their boundary, duplicate vertices are merged, faces are turned outward. What it cannot repair it
reports, with the number of open edges.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import meshio
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from ..core.errors import InputError, message
from ..core.mesh_shape import MeshShape, count_open_edges, mesh_volume

__all__ = ["load_mesh", "mesh_shape", "orient_outward", "save_mesh"]

log = logging.getLogger(__name__)

# Corners of the faces of each cell, seen from outside counter-clockwise.
_CELL_FACES = {
    "tetra": ((0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)),
    "hexahedron": (
        (0, 3, 2, 1),
        (4, 5, 6, 7),
        (0, 1, 5, 4),
        (1, 2, 6, 5),
        (2, 3, 7, 6),
        (3, 0, 4, 7),
    ),
    "wedge": ((0, 2, 1), (3, 4, 5), (0, 1, 4, 3), (1, 2, 5, 4), (2, 0, 3, 5)),
    "pyramid": ((0, 3, 2, 1), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)),
}
_CORNERS = {"tetra10": "tetra", "hexahedron20": "hexahedron", "hexahedron27": "hexahedron"}
_FLAT_CORNERS = {
    "triangle": 3,
    "triangle6": 3,
    "quad": 4,
    "quad8": 4,
    "quad9": 4,
}


def load_mesh(
    path: str | Path,
    *,
    scale: float = 1.0,
    center: bool = False,
    require_closed: bool = True,
    merge_tolerance: float = 1e-7,
) -> tuple[np.ndarray, np.ndarray]:
    """Read a surface: x = scale (x_file − c), c the middle of the bounds if `center`, else 0.

    Reads what meshio reads (stl, obj, ply, off, vtk, vtu, gmsh, xdmf, …). Files with volume cells
    give the boundary of these cells; surface cells in the same file are then markers and are left
    out. Polygons are split into triangles.

    Args:
        path: File; the suffix names the format.
        scale: Metres per unit of the file; 1e-3 for files in millimetres.
        center: Whether to move the middle of the bounding box to the origin.
        require_closed: Whether to raise on open edges; without it faces are only made consistent.
        merge_tolerance: Vertices nearer than this, in longest sides, become one (stl repeats them).

    Returns:
        vertices [m], shape (V, 3), float64; faces, shape (F, 3), int64, counter-clockwise from
        outside.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if the format is unknown, there is no triangle, or the surface is not closed.

    Differentiable in nothing: a mesh is data.
    Source: file formats as read by meshio.
    """
    vertices, blocks = _read(Path(path))
    if not np.isfinite(vertices).all():
        raise InputError(
            message(
                f"load_mesh({path})", "finite coordinates", "NaN or infinity", "Export it again"
            )
        )
    faces = _surface(blocks, _merged(vertices, merge_tolerance), str(path))
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    if len(faces) == 0:
        raise InputError(
            message(
                f"load_mesh({path})",
                "triangles with area",
                "only degenerate ones",
                "Export the mesh again, or lower merge_tolerance",
            )
        )
    used, packed = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], packed.reshape(-1, 3)
    faces = orient_outward(vertices, faces)
    open_edges = count_open_edges(faces)
    if open_edges and require_closed:
        raise InputError(
            message(
                f"load_mesh({path})",
                "a watertight surface",
                f"{open_edges} open edges in {len(faces)} triangles",
                "Close the holes in a mesh editor, raise merge_tolerance if seams are split, or "
                "read it for drawing only with require_closed=False",
            )
        )
    vertices = vertices * float(scale)
    if center:
        vertices = vertices - 0.5 * (vertices.min(0) + vertices.max(0))
    log.debug("%s: %d vertices, %d triangles", path, len(vertices), len(faces))
    return vertices, faces


def save_mesh(path: str | Path, vertices: Any, faces: Any) -> Path:
    """Write triangles; the suffix of the path names the format (stl, obj, ply, vtk, msh, …).

    Args:
        path: File to write; its folder is made if missing.
        vertices: Vertices [m], shape (V, 3), array or tensor.
        faces: Vertex indices, shape (F, 3), array or tensor.

    Returns:
        The path.

    Raises:
        InputError: if the suffix is no mesh format or the arrays have the wrong shape.

    Differentiable in nothing: a file is data.
    Source: file formats as written by meshio.
    """
    path = Path(path)
    vertices, faces = (
        a.detach().cpu().numpy() if hasattr(a, "detach") else np.asarray(a)
        for a in (vertices, faces)
    )
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise InputError(
            message(
                "save_mesh",
                "vertices (V, 3) [m] and faces (F, 3)",
                f"{vertices.shape} and {faces.shape}",
                "Split polygons into triangles",
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Int32, because ply knows no wider index.
    mesh = meshio.Mesh(vertices, [("triangle", faces.astype(np.int32))])
    options = {"binary": True} if path.suffix.lower() == ".stl" else {}
    with _meshio("save_mesh", path):
        meshio.write(path, mesh, **options)
    return path


def mesh_shape(
    path: str | Path,
    *,
    size: float | None = None,
    scale: float = 1.0,
    center: bool = True,
    resolution: int = 64,
    margin: float = 0.15,
) -> MeshShape:
    """A file as a `MeshShape`, centered by default and sized by `size` or `scale`.

    Args:
        path: Mesh file.
        size: Longest side of the bounding box [m]; excludes scale.
        scale: Metres per unit of the file, if size is not given.
        center: Whether the shape's origin is the middle of its bounding box.
        resolution: Grid cells along the longest side.
        margin: Grid beyond the mesh, in longest sides.

    Returns:
        The shape.

    Raises:
        FileNotFoundError, InputError: as `load_mesh`.

    Differentiable in nothing itself; the shape's distance is differentiable in points.
    Source: as `MeshShape`.
    """
    if size is not None and (scale != 1.0 or not size > 0):
        raise InputError(
            message(
                "mesh_shape",
                "either size > 0 m or scale",
                f"size = {size}, scale = {scale}",
                "Give size for a tool of known length, scale for a file in known units",
            )
        )
    vertices, faces = load_mesh(path, scale=scale, center=center)
    if size is not None:
        vertices = vertices * (size / float((vertices.max(0) - vertices.min(0)).max()))
    return MeshShape(vertices, faces, resolution=resolution, margin=margin)


def orient_outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces with one orientation, turned outward.

    In a consistent mesh only inside-out parts are turned around; a part of negative volume within
    the bounds of another part is a cavity and stays. In an inconsistent mesh triangles are turned
    from neighbor to neighbor, and then every connected part is given positive volume.

    Args:
        vertices: Vertices [m], shape (V, 3).
        faces: Vertex indices, shape (F, 3).

    Returns:
        Faces, shape (F, 3).

    Differentiable in nothing. Source: signed volume by the divergence theorem, Mirtich 1996.
    """
    flip, label = _flips(faces)
    if flip.any():
        log.info("turned %d of %d triangles to one orientation", int(flip.sum()), len(faces))
        faces = np.where(flip[:, None], faces[:, ::-1], faces)
    elif mesh_volume(vertices, faces) < 0:
        faces = faces[:, ::-1]
    parts = [label == i for i in range(int(label.max()) + 1)]
    volumes = [mesh_volume(vertices, faces[part]) for part in parts]
    corners = [vertices[faces[part]].reshape(-1, 3) for part in parts]
    bounds = [(c.min(0), c.max(0)) for c in corners]
    for part, volume, (lower, upper) in zip(parts, volumes, bounds, strict=True):
        cavity = not flip.any() and any(
            other > 0 and (a < lower).all() and (upper < b).all()
            for other, (a, b) in zip(volumes, bounds, strict=True)
        )
        if volume < 0 and not cavity:
            faces = np.where(part[:, None], faces[:, ::-1], faces)
    return np.ascontiguousarray(faces)


def _read(path: Path) -> tuple[np.ndarray, list[tuple[str, Any]]]:
    """Points and cell blocks of a file."""
    if not path.is_file():
        raise FileNotFoundError(
            message("load_mesh", "an existing file", str(path), "Check the path and the folder")
        )
    with _meshio("load_mesh", path):
        mesh = meshio.read(path)
    points = np.asarray(mesh.points, dtype=np.float64)
    if points.ndim == 2 and points.shape[1] == 2:
        points = np.column_stack((points, np.zeros(len(points))))
    return points, [(block.type, block.data) for block in mesh.cells]


@contextlib.contextmanager
def _meshio(where: str, path: Path) -> Iterator[None]:
    """Turn meshio's errors, prints and process exits into one `InputError`."""
    if path.suffix.lower() not in meshio.extension_to_filetypes:
        raise InputError(
            message(
                where,
                "a mesh format that meshio knows",
                f"{path.suffix or 'no suffix'} ({path})",
                "Use .stl, .obj, .ply, .vtk, .vtu or .msh",
            )
        )
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    # A broken file may raise anything that parsing raises, and even SystemExit.
    except (SystemExit, Exception) as error:
        detail = " ".join(f"{said.getvalue()} {error}".split())
        raise InputError(
            message(where, f"a {path.suffix} mesh", f"{path} ({detail})", "Export the mesh again")
        ) from error
    if said.getvalue():
        log.debug("%s: %s", path, said.getvalue().strip())


def _surface(blocks: Sequence[tuple[str, Any]], merged: np.ndarray, name: str) -> np.ndarray:
    """Boundary triangles of the volume cells, or the flat cells if there are no volume cells."""
    solid, flat = [], []
    for kind, data in blocks:
        base = _CORNERS.get(kind, kind)
        if base in _CELL_FACES:
            data = merged[np.asarray(data)]
            solid += [data[:, list(corners)] for corners in _CELL_FACES[base]]
        elif kind in _FLAT_CORNERS:
            flat.append(merged[np.asarray(data)[:, : _FLAT_CORNERS[kind]]])
        elif kind == "polygon":
            flat += [merged[np.asarray(row)][None] for row in data]
    if solid:
        faces = _boundary(solid)
    else:
        faces = [_fan(polygons) for polygons in flat if len(polygons)]
    if not faces or not sum(map(len, faces)):
        raise InputError(
            message(
                f"load_mesh({name})",
                "triangles, polygons or volume cells",
                ", ".join(sorted({kind for kind, _ in blocks})) or "no cells",
                "Export a surface, not points or lines",
            )
        )
    return np.concatenate(faces).astype(np.int64)


def _boundary(polygons: list[np.ndarray]) -> list[np.ndarray]:
    """Triangles of the cell faces that belong to one cell only."""
    # Triangles and quads are matched apart, by their sorted corners.
    triangles = []
    for corners in (3, 4):
        rows = [p for p in polygons if p.shape[1] == corners]
        if rows:
            stacked = np.concatenate(rows)
            _, first, count = np.unique(
                np.sort(stacked, axis=1), axis=0, return_index=True, return_counts=True
            )
            triangles.append(_fan(stacked[np.sort(first[count == 1])]))
    return triangles


def _fan(polygons: np.ndarray) -> np.ndarray:
    """Polygons (P, n) as P (n − 2) triangles."""
    n = polygons.shape[1]
    return np.concatenate([polygons[:, [0, i, i + 1]] for i in range(1, n - 1)])


def _merged(vertices: np.ndarray, tolerance: float) -> np.ndarray:
    """For each vertex the first one at its place, within a tolerance in longest sides."""
    count = len(vertices)
    if count == 0:
        return np.arange(0)
    side = float((vertices.max(0) - vertices.min(0)).max())
    pairs = cKDTree(vertices).query_pairs(tolerance * side, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    return first[label]


def _flips(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which triangles to turn for one orientation per connected part, and the part of each."""
    count = len(faces)
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    low, high = np.minimum(start, end), np.maximum(start, end)
    _, edge, uses = np.unique(
        np.stack((low, high), 1), axis=0, return_inverse=True, return_counts=True
    )
    edge = edge.ravel()
    order = np.argsort(edge, kind="stable")
    # Only edges of exactly two triangles say how these two lie to one another.
    order = order[uses[edge[order]] == 2].reshape(-1, 2)
    owner = np.repeat(np.arange(count), 3)
    left, right = owner[order[:, 0]], owner[order[:, 1]]
    same = (start < end)[order[:, 0]] == (start < end)[order[:, 1]]
    ones = np.ones(len(left))
    graph = coo_array((ones, (left, right)), shape=(count, count)).tocsr()
    parts, label = connected_components(graph, directed=False)
    flip = np.zeros(count, dtype=bool)
    if not same.any():
        return flip, label
    wrong = {}
    for i, j, s in zip(left.tolist(), right.tolist(), same.tolist(), strict=True):
        wrong[i, j] = wrong[j, i] = s
    for part in range(parts):
        root = int(np.argmax(label == part))
        nodes, parent = breadth_first_order(graph, root, directed=False)
        for node in nodes[1:].tolist():
            flip[node] = flip[parent[node]] ^ wrong[int(parent[node]), node]
    return flip, label
