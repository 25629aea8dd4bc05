"""Mesh files: formats, repair, volume cells, units, errors."""

from __future__ import annotations

import logging

import meshio
import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.mesh_shape import MeshShape, count_open_edges, mesh_volume
from rheograd.sim.io.mesh import load_mesh, mesh_shape, orient_outward, save_mesh

HALF = (0.3, 0.5, 0.2)
VOLUME = 8 * 0.3 * 0.5 * 0.2


def box(half=HALF, center=(0.0, 0.0, 0.0)):
    """Axis-aligned box of twelve outward triangles."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return corners * np.array(half) + np.array(center), np.array(faces)


@pytest.mark.parametrize("suffix", ["stl", "obj", "ply", "off", "vtk", "vtu", "msh"])
def test_round_trip(tmp_path, suffix, capfd):
    path = save_mesh(tmp_path / "made" / f"box.{suffix}", *box())
    vertices, faces = load_mesh(path)
    assert vertices.shape == (8, 3) and faces.shape == (12, 3)
    assert vertices.dtype == np.float64 and faces.dtype == np.int64
    # Stl stores float32.
    assert mesh_volume(vertices, faces) == pytest.approx(VOLUME, rel=1e-6)
    assert capfd.readouterr() == ("", "")


def test_tensors_are_written(tmp_path):
    vertices, faces = box()
    path = save_mesh(tmp_path / "box.obj", torch.tensor(vertices), torch.tensor(faces))
    assert mesh_volume(*load_mesh(path)) == pytest.approx(VOLUME)


def test_units_and_center(tmp_path):
    path = save_mesh(tmp_path / "box.obj", *box(np.array(HALF) * 1e3, (10.0, 20.0, 30.0)))
    vertices, _ = load_mesh(path, scale=1e-3)
    assert vertices.max(0) == pytest.approx(np.array(HALF) + [0.01, 0.02, 0.03])
    centered, _ = load_mesh(path, scale=1e-3, center=True)
    assert centered.max(0) == pytest.approx(HALF)


def test_tetrahedra_become_their_surface(tmp_path):
    """A cube of six tetrahedra around its diagonal: 18 faces of which 12 are outside."""
    points = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    paths = [(4, 6), (4, 5), (2, 6), (2, 3), (1, 5), (1, 3)]
    tetrahedra = []
    for a, b in paths:
        cell = [0, a, b, 7]
        edges = points[cell[1:]] - points[0]
        tetrahedra.append(cell if np.linalg.det(edges) > 0 else [0, b, a, 7])
    mesh = meshio.Mesh(points, [("tetra", np.array(tetrahedra)), ("triangle", [[0, 1, 3]])])
    meshio.write(tmp_path / "cube.vtu", mesh)
    vertices, faces = load_mesh(tmp_path / "cube.vtu")
    assert faces.shape == (12, 3) and count_open_edges(faces) == 0
    assert mesh_volume(vertices, faces) == pytest.approx(1.0)


def test_hexahedra_wedges_and_quads(tmp_path):
    cube = np.array(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]],
        dtype=float,
    )
    two = np.concatenate((cube, cube + [1.0, 0, 0]))
    roof = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]], float)
    tip = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1]], float)
    sides = [[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]]
    cases = {
        "hex": (two, [("hexahedron", np.array([np.arange(8), np.arange(8, 16)]))], 2.0, 20),
        "wedge": (roof, [("wedge", np.arange(6)[None])], 0.5, 8),
        "pyramid": (tip, [("pyramid", np.arange(5)[None])], 1 / 3, 6),
        "quads": (cube, [("quad", np.array(sides))], 1.0, 12),
    }
    for name, (points, cells, volume, triangles) in cases.items():
        meshio.write(tmp_path / f"{name}.vtu", meshio.Mesh(points, cells))
        vertices, faces = load_mesh(tmp_path / f"{name}.vtu")
        assert len(faces) == triangles, name
        assert mesh_volume(vertices, faces) == pytest.approx(volume), name
        assert count_open_edges(faces) == 0, name


def test_inward_and_mixed_faces_are_turned(tmp_path, caplog):
    vertices, faces = box()
    inward = save_mesh(tmp_path / "inward.obj", vertices, faces[:, ::-1])
    assert mesh_volume(*load_mesh(inward)) == pytest.approx(VOLUME)
    mixed = faces.copy()
    mixed[[1, 4, 5, 9]] = mixed[[1, 4, 5, 9], ::-1]
    path = save_mesh(tmp_path / "mixed.obj", vertices, mixed)
    with caplog.at_level(logging.INFO, logger="rheograd"):
        points, repaired = load_mesh(path)
    assert count_open_edges(repaired) == 0
    assert mesh_volume(points, repaired) == pytest.approx(VOLUME)
    assert "one orientation" in caplog.text


def test_parts_and_cavities():
    """A cavity stays inward; a separate inside-out part is turned; a repaired one too."""
    outer, faces = box((1.0, 1.0, 1.0))
    hole, beside = box((0.5, 0.5, 0.5))[0], box((0.5, 0.5, 0.5), (5.0, 0.0, 0.0))[0]
    hollow = np.concatenate((faces, 8 + faces[:, ::-1]))
    for candidate in (hollow, hollow[:, ::-1]):
        out = orient_outward(np.concatenate((outer, hole)), candidate)
        assert mesh_volume(np.concatenate((outer, hole)), out) == pytest.approx(7.0)
    vertices = np.concatenate((outer, beside))
    assert mesh_volume(vertices, orient_outward(vertices, hollow)) == pytest.approx(9.0)
    broken = hollow.copy()
    broken[0] = broken[0, ::-1]
    assert mesh_volume(vertices, orient_outward(vertices, broken)) == pytest.approx(9.0)


def test_mesh_shape_has_the_size_asked_for(tmp_path):
    path = save_mesh(tmp_path / "box.stl", *box(center=(3.0, 1.0, 2.0)))
    shape = mesh_shape(path, size=0.2, resolution=16)
    assert isinstance(shape, MeshShape) and shape.resolution == 16
    lower, upper = shape.bounds()
    assert upper == pytest.approx((0.06, 0.1, 0.04), rel=1e-5)
    assert np.array(lower) == pytest.approx(-np.array(upper))
    d, n = shape.signed_distance(torch.tensor([[0.0, 0.0, 0.05], [0.0, 0.0, 0.035]]))
    torch.testing.assert_close(d, torch.tensor([0.01, -0.005]), rtol=0, atol=1e-5)
    torch.testing.assert_close(n, torch.tensor([[0.0, 0, 1], [0.0, 0, 1]]), rtol=0, atol=1e-3)
    with pytest.raises(InputError, match="either size"):
        mesh_shape(path, size=0.2, scale=2.0)


def test_open_mesh_reports_its_edges(tmp_path):
    vertices, faces = box()
    path = save_mesh(tmp_path / "open.ply", vertices, faces[:-1])
    with pytest.raises(InputError, match=r"3 open edges in 11 triangles.*Close the holes"):
        load_mesh(path)
    points, kept = load_mesh(path, require_closed=False)
    assert len(kept) == 11 and len(points) == 8


def test_unreadable_files(tmp_path, capfd):
    with pytest.raises(FileNotFoundError, match="expected an existing file; got .*none.stl"):
        load_mesh(tmp_path / "none.stl")
    for name, text in (
        ("a.blend", "format that meshio knows; got .blend"),
        ("b.ply", "a .ply mesh"),
    ):
        (tmp_path / name).write_text("no mesh at all\n")
        with pytest.raises(InputError, match=text):
            load_mesh(tmp_path / name)
    with pytest.raises(InputError, match="format that meshio knows; got .blend"):
        save_mesh(tmp_path / "c.blend", *box())
    lines = meshio.Mesh(box()[0], [("line", [[0, 1], [1, 2]])])
    meshio.write(tmp_path / "lines.vtu", lines)
    with pytest.raises(InputError, match="triangles, polygons or volume cells; got line"):
        load_mesh(tmp_path / "lines.vtu")
    meshio.write(tmp_path / "thin.vtu", meshio.Mesh(box()[0], [("triangle", [[0, 0, 1]])]))
    with pytest.raises(InputError, match="degenerate"):
        load_mesh(tmp_path / "thin.vtu")
    with pytest.raises(InputError, match=r"faces \(F, 3\)"):
        save_mesh(tmp_path / "d.obj", box()[0], np.zeros((2, 4), int))
    assert capfd.readouterr() == ("", "")
