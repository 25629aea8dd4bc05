"""Meshes, start shapes and the table of materials."""

from __future__ import annotations

import dataclasses
import math

import meshio
import pytest
import torch
from rheograd.assets.sheets import SHEETS, SheetMaterial
from rheograd.sim.core.errors import InputError
from rheograd.sim.fem import FEMModel, Handle, Sheet, SolverFEM, hinge_angle
from rheograd.sim.shell import (
    PlasticSheet,
    SheetMesh,
    bend,
    disc,
    hinges_along,
    join,
    load_sheet,
    rectangle,
)

PATTERNS = ["parallel", "equilateral", "crossed", "random"]


def normals(mesh):
    a, b, c = mesh.X[mesh.cells].unbind(1)
    return torch.linalg.cross(b - a, c - a)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rectangles(pattern):
    mesh = rectangle((0.06, 0.04), 0.01, pattern)
    twice = normals(mesh)[:, 2]
    assert float(twice.min()) > 0 and float(twice.sum() / 2) == pytest.approx(0.0024)
    assert len(mesh.points) == len(mesh.X)
    x, y = mesh.X[:, 0], mesh.X[:, 1]
    expected = {"left": x == 0, "right": x == x.max(), "front": y == 0, "back": y == y.max()}
    for name, mark in expected.items():
        assert torch.equal(mesh.sets[name], mark.nonzero()[:, 0]), name
    assert torch.equal(mesh.sets["border"], sum(expected.values()).nonzero()[:, 0])
    corners = mesh.X[mesh.sets["corners"], :2]
    assert sorted(corners.tolist()) == [[0, 0], [0, 0.04], [0.06, 0], [0.06, 0.04]]
    if pattern != "random":
        assert torch.equal(mesh.rows(0), mesh.sets["left"])
        assert torch.equal(mesh.rows(-1), mesh.sets["right"])
        assert len(mesh.rows(0, 1)) > len(mesh.rows(0))
    again = rectangle((0.06, 0.04), 0.01, pattern)
    assert torch.equal(again.X, mesh.X) and torch.equal(again.cells, mesh.cells)


def test_disc():
    mesh = disc(0.05, 0.01)
    assert float(normals(mesh)[:, 2].min()) > 0
    area = float(normals(mesh)[:, 2].sum() / 2)
    assert area == pytest.approx(0.5 * 30 * 0.05**2 * math.sin(2 * math.pi / 30))
    assert torch.allclose(mesh.X[mesh.sets["border"]].norm(dim=1), torch.tensor(0.05).double())
    assert mesh.X[mesh.sets["center"]].abs().max() == 0 and len(mesh.X) == 1 + 6 * 15


def test_files_keep_triangles_and_sets(tmp_path):
    mesh = rectangle((0.02, 0.01), 0.01)
    points = torch.cat((mesh.X[:1] + 9, mesh.X)).numpy() * 1000  # one loose point, in mm
    sets = {"left": (mesh.sets["left"] + 1).numpy()}
    file = tmp_path / "sheet.vtk"
    cells = [("triangle", (mesh.cells + 1).numpy())]
    meshio.Mesh(points, cells).write(file)
    found = load_sheet(file, scale=1e-3)
    assert torch.allclose(found.X, mesh.X) and torch.equal(found.cells, mesh.cells)
    meshio.Mesh(points, cells, point_sets=sets).write(tmp_path / "sheet.inp")
    named = load_sheet(tmp_path / "sheet.inp", scale=1e-3)
    assert torch.equal(named.sets["left"], mesh.sets["left"])
    with pytest.raises(InputError, match="readable mesh"):
        load_sheet(tmp_path / "none.vtk")
    meshio.Mesh(points, [("line", [[0, 1]])]).write(file)
    with pytest.raises(InputError, match="Triangulate"):
        load_sheet(file)


def test_bending_keeps_lengths():
    mesh = rectangle((0.1, 0.02), 0.005)
    for bent in (mesh.u_bent(0.01), mesh.rolled(3.0), mesh.bent([(0.05, 0.05, 2.0)])):
        edges = torch.cat((mesh.cells[:, [0, 1]], mesh.cells[:, [1, 2]], mesh.cells[:, [2, 0]]))
        flat, curved = ((p[edges[:, 0]] - p[edges[:, 1]]).norm(dim=1) for p in (mesh.X, bent.x))
        assert float((curved / flat - 1).abs().max()) < 1e-12
    u = mesh.u_bent(0.01)
    ends = u.x[u.sets["right"], 2] - u.x[u.sets["left"], 2]
    assert float(ends.mean()) == pytest.approx(0.02, rel=0.02)  # two radii apart
    sharp = mesh.bent([(0.05, 0.05, 2.0)])
    sheet = sharp.sheet("s")
    crease = hinges_along(sheet, sharp.rows(10))
    theta = hinge_angle(sharp.x[sheet.hinges[0]])
    assert len(crease) == 4 and torch.allclose(theta[crease], torch.tensor(2.0).double())
    theta[crease] = 0
    assert float(theta.abs().max()) < 1e-9
    with pytest.raises(InputError, match="Bend first"):
        mesh.placed(orientation=(1.0, 1.0, 0.0, 0.0)).rolled()
    with pytest.raises(InputError, match="smaller radius"):
        mesh.u_bent(0.05)
    with pytest.raises(InputError, match="Swap"):
        bend(mesh.X, [(0.05, 0.01, 1.0)])


def test_join_and_place():
    low, high = rectangle((0.02, 0.01), 0.01), disc(0.01, 0.005)
    high = high.placed((0.0, 0.0, 0.05), (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0))
    assert torch.allclose(high.X[:, 0], torch.zeros(()).double(), atol=1e-12)
    a, b = join(low, high)
    parts = [a.sheet("a", "paper"), b.sheet("b", "cotton")]
    model = FEMModel(a.X, parts, [Handle("pin", b.sets["center"])])
    assert model.hinge_slices()["b"].start == parts[0].hinge_count
    assert torch.equal(b.points, torch.arange(len(low.X), len(low.X) + len(high.X)))
    state = SolverFEM(model).step(model.initial_state(x=a.x))
    assert state.alpha.shape == (1, model.hinge_count)


def test_input_errors_name_the_remedy():
    for wrong in ({"size": (0.0, 1.0)}, {"spacing": -1.0}, {"pattern": "hex"}):
        with pytest.raises(InputError):
            rectangle(**({"size": (1.0, 1.0), "spacing": 0.5} | wrong))
    with pytest.raises(InputError, match="radius"):
        disc(0.1, 0.2)
    with pytest.raises(InputError, match="rows below"):
        rectangle((1.0, 1.0), 0.5).rows(3)
    with pytest.raises(InputError, match="triangles"):
        SheetMesh(torch.zeros(3, 2), torch.zeros(1, 3))
    with pytest.raises(InputError, match="aluminium_foil"):
        rectangle((1.0, 1.0), 0.5).sheet("s", "brick")


@pytest.mark.parametrize("name", SHEETS)
def test_materials_have_units_and_sources(name):
    material = SHEETS[name]
    numbers = {f.name for f in dataclasses.fields(SheetMaterial)} - {"about", "sources"}
    given = {n for n in numbers if getattr(material, n)}
    assert given == set(material.sources)
    mesh = rectangle((0.2, 0.1), 0.05)
    sheet = mesh.sheet("s", name)
    assert type(sheet) is (PlasticSheet if material.yield_stress else Sheet)
    model = FEMModel(mesh.X, [sheet])
    mass = float(SolverFEM(model).prepare(None, model.initial_state()).mass.sum())
    per_area = {"paper": 80, "card": 300, "cotton": 120, "pet": 69.5, "aluminium_foil": 43.4}
    assert mass / 0.02 * 1000 == pytest.approx(per_area[name], rel=0.01)
    D = sheet.k_bend * sheet.E * sheet.h**3 / 12 / (1 - sheet.nu**2)
    rigidity = {
        "paper": 2.5e-4,
        "card": 1.76e-2,
        "cotton": 5e-6,
        "pet": 5.97e-5,
        "aluminium_foil": 2.64e-5,
    }
    assert D == pytest.approx(rigidity[name], rel=0.01)
