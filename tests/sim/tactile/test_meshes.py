"""Meshes of gels: shape, sets, no slivers; materials."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.assets.gels import GELS
from rheograd.sim.core.errors import InputError
from rheograd.sim.fem import FEMModel, SolverFEM
from rheograd.sim.tactile import dome, gel_of, pad


def normals(mesh):
    a, b, c = mesh.X[mesh.triangles].unbind(1)
    return 0.5 * torch.linalg.cross(b - a, c - a), (a + b + c) / 3


def mass(mesh, **values):
    model = FEMModel(mesh.X, [gel_of(mesh, "ecoflex_00_30", **values)])
    return SolverFEM(model).prepare(None, model.initial_state()).mass[0]


@pytest.mark.parametrize("order", [1, 2])
def test_a_dome(order):
    mesh = dome(cuts=4, layers=2, order=order)
    r, z = mesh.X.norm(dim=1), mesh.X[:, 2]
    mount, surface = mesh.sets["mount"], mesh.sets["surface"]
    assert torch.equal(mount, ((r - 7.5e-3).abs() < 1e-9).nonzero()[:, 0])
    assert torch.equal(surface, ((r - 15e-3).abs() < 1e-9).nonzero()[:, 0])
    assert float(z.min()) > -1e-12 and len(torch.unique(mesh.cells)) == len(mesh.X)
    area, centre = normals(mesh)
    assert bool(((area * centre).sum(1) > 0).all())
    # Chords of a sixteenth of a turn; with mid nodes, of half of that.
    miss = 0.06 if order == 1 else 0.015
    assert float(area.norm(dim=1).sum()) == pytest.approx(2 * math.pi * 0.015**2, rel=miss)
    volume = 2 / 3 * math.pi * (0.015**3 - 0.0075**3)
    m = mass(mesh)
    assert float(m.sum()) / 1070 == pytest.approx(volume, rel=0.1 if order == 1 else 2e-3)
    assert float(m.min()) > 0 and mesh.order == order


@pytest.mark.parametrize("cuts, layers", [(2, 1), (4, 2), (6, 3)])
def test_no_slivers(cuts, layers):
    """The worst cell is at least 0.4 of a regular one, while the layers are about as thick as wide."""
    assert float(dome(cuts=cuts, layers=layers).quality().min()) > 0.4
    assert float(pad().quality().min()) > 0.4
    regular = torch.tensor(
        [[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64
    )
    mesh = pad(cells=(1, 1, 1), order=1)
    one = type(mesh)(regular, torch.tensor([[0, 1, 2, 3]]), mesh.triangles[:0], {})
    assert float(one.quality()[0]) == pytest.approx(1, abs=1e-12)


def test_rims_can_be_held():
    loose, held = (
        dome(cuts=2, layers=1).sets["mount"],
        dome(cuts=2, layers=1, rim=True).sets["mount"],
    )
    assert set(loose.tolist()) < set(held.tolist())


@pytest.mark.parametrize("focus", [1.0, 6.0])
@pytest.mark.parametrize("order", [1, 2])
def test_a_pad(order, focus):
    mesh = pad((0.02, 0.03, 0.004), (4, 6, 2), order=order, focus=focus)
    X = mesh.X
    assert torch.equal(mesh.sets["mount"], (X[:, 2] < 1e-12).nonzero()[:, 0])
    assert torch.equal(mesh.sets["surface"], (X[:, 2] > 0.004 - 1e-12).nonzero()[:, 0])
    area, _ = normals(mesh)
    assert float(area[:, 2].sum()) == pytest.approx(6e-4, rel=1e-12)
    assert float(area[:, 2].min()) > 0
    assert float(mass(mesh).sum()) == pytest.approx(1070 * 2.4e-6, rel=1e-12)
    assert float(X[:, :2].sum().abs()) < 1e-12
    sides = X[:, 0].mul(1e9).round().unique()
    ratio = (sides[-1] - sides[-2]) / (sides[len(sides) // 2 + 1] - sides[len(sides) // 2])
    assert (ratio > 1.5) == (focus > 1)


def test_materials_name_their_sources():
    for name, gel in GELS.items():
        assert {"E", "nu", "rho"} <= set(gel.sources), name
        assert 1e4 < gel.E < 1e7 and 900 < gel.rho < 1200 and gel.nu < 0.5
    part = gel_of(pad(cells=(1, 1, 1)), "solaris", E=1e5)
    assert part.E == 1e5 and part.rho == 990.0 and part.order == 2


def test_refusals():
    with pytest.raises(InputError, match="cavity"):
        dome(inner=0.02, outer=0.015)
    with pytest.raises(InputError, match="order 1 or 2"):
        dome(order=3)
    with pytest.raises(InputError, match="focus"):
        pad(focus=0.5)
    with pytest.raises(InputError, match="ecoflex"):
        gel_of(pad(cells=(1, 1, 1)), "butter")
