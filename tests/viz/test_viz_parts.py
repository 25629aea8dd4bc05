"""Shapes, fields and surfaces agree with their definitions."""

from __future__ import annotations

import types

import numpy as np
import pytest
from rheograd.viz import estimate_spacing, particle_field, scene_from_state, surface_mesh
from rheograd.viz.fields import von_mises
from rheograd.viz.shapes import pose_matrix, shape_mesh

VOLUMES = {
    "Sphere": ({"radius": 0.3}, 4 / 3 * np.pi * 0.3**3, [0.3, 0.3, 0.3]),
    "Box": ({"half_extents": (0.1, 0.2, 0.3)}, 8 * 0.1 * 0.2 * 0.3, [0.1, 0.2, 0.3]),
    "Capsule": (
        {"radius": 0.2, "half_length": 0.3},
        np.pi * 0.04 * 0.6 + 4 / 3 * np.pi * 0.008,
        [0.2, 0.2, 0.5],
    ),
    "Cylinder": ({"radius": 0.2, "half_height": 0.3}, np.pi * 0.04 * 0.6, [0.2, 0.2, 0.3]),
    "Torus": ({"major": 0.4, "minor": 0.1}, 2 * np.pi**2 * 0.4 * 0.01, [0.5, 0.5, 0.1]),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_shapes_have_their_volume_and_stand_along_z(name):
    arguments, volume, half = VOLUMES[name]
    as_object = type(name, (), arguments)()
    for shape in (as_object, {"type": name, **arguments}):
        mesh = shape_mesh(shape).triangulate().clean()
        # a polyhedron inscribed with n ≥ 40 sides per turn loses up to 2 (π/n)² = 1.2 %
        assert mesh.volume == pytest.approx(volume, rel=0.013)
        assert np.allclose(mesh.bounds[1::2], half, atol=2e-3)


def test_shapes_match_the_solvers_distance_functions():
    shapes = pytest.importorskip("rheograd.sim.core.shapes")
    import torch

    for name, (arguments, _, _) in VOLUMES.items():
        shape = getattr(shapes, name)(**arguments)
        points = torch.as_tensor(np.asarray(shape_mesh(shape).points, dtype=float))
        # vertices lie on the surface up to VTK's single precision
        assert shape.signed_distance(points)[0].abs().max() < 1e-6, name


def test_pose_turns_by_the_quaternion():
    turn = [np.cos(np.pi / 4), 0, 0, np.sin(np.pi / 4)]  # 90° about z
    matrix = pose_matrix([1, 2, 3, *turn])
    assert np.allclose(matrix @ [1, 0, 0, 1], [1, 3, 3, 1])
    with pytest.raises(ValueError, match="unit quaternion"):
        pose_matrix(np.zeros(7))
    with pytest.raises(ValueError, match="Sphere, Box"):
        shape_mesh(types.SimpleNamespace(radius=1.0))


def test_spacing_is_the_lattice_constant():
    for dim in (2, 3):
        lattice = np.stack(np.meshgrid(*[np.arange(14) * 0.03] * dim), -1).reshape(-1, dim)
        # the ninth neighbour shell of a lattice is coarse; 15 % is enough to size spheres
        assert estimate_spacing(lattice) == pytest.approx(0.03, rel=0.15)


def test_surface_encloses_the_volume_of_the_particles():
    spacing = 0.03
    lattice = np.stack(np.meshgrid(*[np.arange(-14, 15) * spacing] * 3), -1).reshape(-1, 3)
    ball = lattice[np.linalg.norm(lattice, axis=1) < 0.35]
    mesh = surface_mesh(ball, spacing, values=ball[:, 0])
    # level 0.4 lies 0.25 σ outside the half-density face: volume grows by about 3·0.25·0.03/0.35
    expected = len(ball) * spacing**3 * (1 + 3 * 0.25 * spacing / 0.35)
    assert mesh.volume == pytest.approx(expected, rel=0.03)
    assert mesh.is_manifold
    error = np.abs(np.asarray(mesh["values"]) - np.asarray(mesh.points)[:, 0])
    assert error.max() < 2 * spacing
    plane = lattice[lattice[:, 1] == 0.0][:, [0, 2]]
    region = surface_mesh(plane, spacing)
    assert np.allclose(np.asarray(region.points)[:, 1], 0)
    # the square keeps its area but for rounded corners
    assert region.area == pytest.approx((29 * spacing) ** 2, rel=0.05)


def test_lone_particles_keep_a_surface_and_none_give_none():
    assert surface_mesh(np.array([[0.1, 0.2, 0.3]]), 0.02).n_points > 0
    assert surface_mesh(np.full((3, 3), np.nan), 0.02).n_points == 0


def test_fields_of_a_frame():
    rng = np.random.default_rng(1)
    F = np.eye(3) + 0.1 * rng.normal(size=(2, 3, 3))
    frame = {"x": rng.random((5, 2)), "v": np.array([[3.0, 4.0]] * 5), "J": np.ones(3), "F": F}
    groups = {"water": (0, 3), "jelly": (3, 5)}
    assert np.allclose(particle_field("speed", frame)[0], 5.0)
    J, label = particle_field("J", frame, groups=groups)
    assert np.allclose(J, [1, 1, 1, *np.linalg.det(F)]) and "J" in label
    tau = np.diag([7.0, 2.0, 2.0])
    assert von_mises(tau) == pytest.approx(5.0)
    assert von_mises(tau + 3 * np.eye(3)) == pytest.approx(5.0)
    stress, _ = particle_field("stress", {**frame, "tau": np.array([tau, tau])}, groups=groups)
    assert np.isnan(stress[:3]).all() and np.allclose(stress[3:], 5.0)
    with pytest.raises(ValueError, match="whole groups"):
        particle_field("J", {"x": frame["x"], "J": np.ones(4)}, groups=groups)


def test_scene_from_a_live_state():
    torch = pytest.importorskip("torch")

    def group(name, count, storage):
        law = types.SimpleNamespace(storage=storage)
        return types.SimpleNamespace(name=name, count=count, law=law)

    class Sphere:
        radius = 0.1

    model = types.SimpleNamespace(
        grid=types.SimpleNamespace(lower=(0.0, 0.0), upper=(1.0, 1.0)),
        groups=[group("a", 4, "J"), group("b", 3, "F")],
        colliders=[types.SimpleNamespace(shape=Sphere(), name="stick")],
    )
    state = types.SimpleNamespace(
        x=torch.rand(2, 7, 2, requires_grad=True),
        v=torch.ones(2, 7, 2),
        F=torch.eye(3).expand(2, 3, 3, 3),
        J=torch.full((2, 4), 0.9),
        tool_pose=torch.tensor([[[0.5, 0.0, 0.5, 1, 0, 0, 0]]] * 2),
    )
    scene = scene_from_state(model, state, batch=1, field="J", title="live")
    assert scene.planar and scene.title == "live"
    assert np.array_equal(scene.x, state.x[1].detach().numpy())
    assert scene.look_of("a") == "liquid" and scene.look_of("b") == "solid"
    assert np.allclose(scene.values, [0.9] * 4 + [1.0] * 3)
    assert np.allclose(scene.tools[0].pose[:3], [0.5, 0, 0.5])


def test_splashsurf_is_optional_and_agrees_in_volume():
    spacing = 0.05
    ball = np.stack(np.meshgrid(*[np.arange(-8, 9) * spacing] * 3), -1).reshape(-1, 3)
    ball = ball[np.linalg.norm(ball, axis=1) < 0.38]
    try:
        import pysplashsurf  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r'pip install "rheograd\[viz\]"'):
            surface_mesh(ball, spacing, method="splashsurf")
        return
    mesh = surface_mesh(ball, spacing, method="splashsurf", values=ball[:, 2])
    # both surfaces lie within half a spacing of the outermost particles' centers
    assert 0.85 < mesh.volume / surface_mesh(ball, spacing).volume < 1.15
    assert np.abs(np.asarray(mesh["values"]) - np.asarray(mesh.points)[:, 2]).max() < 2 * spacing
