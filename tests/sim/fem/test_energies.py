"""Energies of elements: derivatives against differences, invariances, limits."""

from __future__ import annotations

import math

import pytest
import torch
from fem_scenes import differences, gel, hinge, rope, strip
from helpers import random_deformations, random_rotations, relative_error
from rheograd.sim.core.errors import InputError
from rheograd.sim.fem import hinge_angle
from rheograd.sim.fem.bending import (
    bend_derivatives,
    bend_energy,
    hinge_angle_gradient,
)
from rheograd.sim.fem.densities import DENSITIES, lame, project_psd
from rheograd.sim.fem.kernels import hinge_blocks
from rheograd.sim.fem.solver import FEMConfig, SolverFEM

CASES = [(name, d) for name, law in DENSITIES.items() for d in law.dims]
SHAPES = ("random", "rest", "turned", "flat")


def coefficients(nu=0.3):
    E = torch.tensor(2.0, dtype=torch.float64)
    return lame(E, torch.tensor(nu, dtype=torch.float64), 3) | {"EA": E}


def deformation(shape, d, generator):
    """F (3, d): any, at rest, turned, nearly flat (a singular value of 0.05)."""
    R = random_rotations(generator=generator)
    if shape == "random":
        return random_deformations(generator=generator)[:, :d]
    stretch = torch.ones(3, dtype=torch.float64)
    if shape == "flat":
        stretch[0] = 0.05
    turn = torch.eye(3, dtype=torch.float64) if shape == "rest" else R
    return (turn * stretch)[:, :d]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name, d", CASES)
def test_densities_against_differences(name, d, shape, generator):
    law, c = DENSITIES[name], coefficients()
    F = deformation(shape, d, generator)
    P, C = law.stress(F, c), law.tangent(F, c)
    slope = differences(lambda F: law.energy(F, c), F, 1e-3)
    curve = differences(lambda F: law.stress(F, c).reshape(-1), F, 1e-3).reshape(3 * d, 3 * d)
    scale = max(float(P.norm()), 1e-2)  # P vanishes at rest
    assert float((slope - P).norm()) < 1e-7 * scale
    assert relative_error(C, curve) < 1e-5
    assert torch.equal(C, C.mT) or float((C - C.mT).abs().max()) < 1e-12


@pytest.mark.parametrize("name, d", CASES)
def test_densities_at_rest(name, d, generator):
    """No energy and no stress after any rotation, and the stiffness of linear elasticity."""
    law, c = DENSITIES[name], coefficients()
    R = random_rotations(generator=generator)[:, :d]
    assert abs(float(law.energy(R, c))) < 1e-14
    assert float(law.stress(R, c).abs().max()) < 1e-14
    if d == 1:
        return
    H = torch.randn(d, d, generator=generator, dtype=torch.float64)
    strain, eye = 0.5 * (H + H.mT), torch.eye(d, dtype=torch.float64)
    F = torch.zeros(3, d, dtype=torch.float64)
    F[:d] = eye
    dF = torch.zeros_like(F)
    dF[:d] = H
    stress = (law.tangent(F, c) @ dF.reshape(-1)).reshape(3, d)[:d]
    hooke = 2 * c["mu"] * strain + c["lam"] * strain.trace() * eye
    assert relative_error(stress, hooke) < 1e-12


@pytest.mark.parametrize("nu", [0.0, 0.3, 0.49, 0.499])
def test_stable_neo_hookean_is_finite_when_inverted(nu):
    law, c = DENSITIES["stable_neo_hookean"], coefficients(nu)
    for stretch in (0.0, -0.5, -1.0):
        F = torch.diag(torch.tensor([stretch, 1.0, 1.0], dtype=torch.float64))
        assert bool(torch.isfinite(law.energy(F, c))) and float(law.energy(F, c)) > 0
        assert bool(torch.isfinite(law.tangent(F, c)).all())


def test_kernels_refuse_other_numbers():
    F = torch.eye(3, dtype=torch.float32)[None]
    c = {name: value.float() for name, value in coefficients().items()}
    for name in ("st_venant", "stable_neo_hookean", "corotated"):
        with pytest.raises(InputError, match="float64"):
            DENSITIES[name].tangent(F, c)
    with pytest.raises(InputError, match="float64"):
        hinge_blocks(torch.zeros(1, 4, 3), torch.ones(1))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, -0.7, 1.5, 3.1, -3.1])
def test_hinge_angle_and_its_derivatives(angle, generator):
    x = hinge(angle) @ random_rotations(generator=generator).mT + 0.3
    assert abs(float(hinge_angle(x)) - angle) < 1e-12
    slope = differences(hinge_angle, x, 1e-3 if abs(angle) < 3 else 2e-4)
    curve = differences(lambda x: hinge_angle_gradient(x).reshape(-1), x, 1e-3)
    assert relative_error(hinge_angle_gradient(x), slope) < 1e-7
    two = torch.tensor([1.0, -2.0], dtype=torch.float64)
    hessian, minus = hinge_blocks(x.expand(2, 4, 3), two)
    assert torch.equal(minus, -2 * hessian)
    assert relative_error(hessian, curve.reshape(12, 12)) < 1e-5
    assert relative_error(hessian.mT, hessian) < 1e-14


@pytest.mark.parametrize("reference", [0.0, 0.4])
@pytest.mark.parametrize("bend", [0.0, 1e-5, 0.5, 2.5])
def test_bends_of_rods(bend, reference, generator):
    if reference and bend < 1e-3:
        pytest.skip("kink of a curved rod that is straight")
    x = torch.tensor([[-1.0, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.float64)
    x[2, 0], x[2, 2] = 0.7 * math.cos(bend), 0.7 * math.sin(bend)
    x = x @ random_rotations(generator=generator).mT
    k, c = (torch.tensor(v, dtype=torch.float64) for v in (1.5, reference))
    expected = 0.75 * (2 * math.tan(bend / 2) - reference) ** 2
    assert abs(float(bend_energy(x, k, c)) - expected) < 1e-12
    gradient, hessian = bend_derivatives(x, k, c)
    slope = differences(lambda x: bend_energy(x, k, c), x, 1e-3)
    curve = differences(lambda x: bend_derivatives(x, k, c, False)[0].reshape(-1), x, 1e-3)
    assert float((gradient - slope).norm()) < 1e-7 * max(float(gradient.norm()), 1e-2)
    assert relative_error(hessian, curve.reshape(9, 9)) < 1e-5


def terms_of(model, x_start):
    """The elements of a model with all coefficients in use, two scenes."""
    solver = SolverFEM(model, FEMConfig(dt=0.01))
    state = model.initial_state(2)
    params = {part.name: {"eta": 30.0} for part in model.parts}
    prepared = solver.prepare(params, state)
    return prepared.terms(model, 2, 0.01, x_start, None)


@pytest.mark.parametrize("make", [gel, strip, rope])
def test_terms_are_consistent(make, generator):
    """Energy, gradient and Hessian of whole elements, with viscosity, in two scenes at once."""
    model = make()
    size = 0.05 * float((model.X.max(0).values - model.X.min(0).values).max())
    size /= model.point_count ** (1 / 3)
    shape = (2, model.point_count, 3)
    x = model.X + size * torch.randn(shape, generator=generator, dtype=torch.float64)
    x_start = model.X + size * torch.randn(shape, generator=generator, dtype=torch.float64)
    d = torch.randn(shape, generator=generator, dtype=torch.float64).reshape(-1, 3)
    for term in terms_of(model, x_start):

        def along(s, term=term):
            return term.energy(x.reshape(-1, 3) + s * d)

        def force(s, term=term):
            stencil, local = term.gradient(x.reshape(-1, 3) + s * d)
            return torch.zeros_like(d).index_add(0, stencil.reshape(-1), local.reshape(-1, 3))

        s = torch.zeros((), dtype=torch.float64)
        slope = differences(along, s, 1e-2 * size)
        by_scene = (force(s) * d).unflatten(0, shape[:2]).sum((1, 2))
        assert relative_error(by_scene, slope) < 1e-7
        product = torch.zeros_like(d)
        for stencil, blocks in pairs(term.hessian(x.reshape(-1, 3), project=False)):
            local = blocks @ d[stencil].flatten(1).unsqueeze(-1)
            product = product.index_add(0, stencil.reshape(-1), local.reshape(-1, 3))
        assert relative_error(product, differences(force, s, 1e-2 * size)) < 1e-5
        for _, blocks in pairs(term.hessian(x.reshape(-1, 3), project=True)):
            values = torch.linalg.eigvalsh(blocks)
            assert not len(values) or float(values.min()) > -1e-10 * float(values.max())


def pairs(found):
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("make", [gel, strip, rope])
def test_rigid_motion_gives_no_force(make, generator):
    model = make()
    R = random_rotations(2, generator=generator)
    x = model.X @ R.mT + torch.randn(2, 1, 3, generator=generator, dtype=torch.float64)
    rest = model.X.expand(2, -1, -1)
    for term in terms_of(model, rest):
        _, local = term.gradient(x.reshape(-1, 3))
        _, stretched = term.gradient(1.01 * x.reshape(-1, 3) + 0.01 * x.reshape(-1, 3).sin())
        assert float(local.abs().max()) < 1e-9 * max(1.0, float(stretched.abs().max()))
        # Forces of any shape add up to nothing, with no moment.
        y = x.reshape(-1, 3) + 1e-3 * x.reshape(-1, 3).flip(1).cos()
        stencil, local = term.gradient(y)
        total = local.sum((0, 1))
        moment = torch.linalg.cross(y[stencil], local).sum((0, 1))
        scale = float(local.abs().sum())
        assert float(total.abs().max()) < 1e-12 * scale
        assert float(moment.abs().max()) < 1e-12 * scale * float(y.abs().max())


def test_projection_keeps_what_is_positive(generator):
    A = torch.randn(5, 9, 9, generator=generator, dtype=torch.float64)
    spd = A @ A.mT
    assert relative_error(project_psd(spd), spd) < 1e-12
    assert float(torch.linalg.eigvalsh(project_psd(A + A.mT)).min()) > -1e-12
