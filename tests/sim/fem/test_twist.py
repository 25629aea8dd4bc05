"""Rods that twist: derivatives, closed forms, waves, buckling."""

from __future__ import annotations

import math

import pytest
import torch
from fem_scenes import differences
from helpers import random_rotations, relative_error
from rheograd.sim.core.errors import ConvergenceError, InputError, StateError
from rheograd.sim.fem import (
    FEMConfig,
    FEMControl,
    FEMModel,
    Handle,
    Rod,
    SolverFEM,
    sections,
    twist_angle,
)
from rheograd.sim.fem.meshes import line
from rheograd.sim.fem.rod_elements import Joints
from rheograd.sim.fem.terms import assemble
from rheograd.sim.fem.twist import (
    bend_curvature,
    bend_jacobian,
    bend_vector,
    components,
    twist_curvature,
    twist_slopes,
)

R, E, NU, RHO = 2e-3, 1e8, 0.3, 1000.0
J = math.pi * R**4 / 2
G, B = E / 2 / (1 + NU), E * J / 2
NONE = (0.0, 0.0, 0.0)


def shaft(X, segments, held=(0,), gravity=NONE, **changes) -> FEMModel:
    """A rod that twists, gripped at some of its segments."""
    X, cells = sections(X, segments, R)
    values = dict(name="rod", cells=cells, E=E, nu=NU, r=R, rho=RHO, twist=True) | changes
    handles = [Handle(f"grip {k}", cells[k]) for k in held]
    return FEMModel(X, [Rod(**values)], handles, gravity=gravity)


def straight(n, length=0.5, **changes) -> FEMModel:
    return shaft(*line(n, length), **changes)


def turned(model: FEMModel, angle) -> torch.Tensor:
    """Points of a straight rod along x with its sections turned by angle(place) [rad]."""
    x, cells = model.X.clone(), model.parts[0].cells
    a = angle(x[cells[:, :2]].mean(1)[:, 0])
    for k in (2, 3):
        y, z = model.X[cells[:, k], 1], model.X[cells[:, k], 2]
        x[cells[:, k], 1] = y * a.cos() - z * a.sin()
        x[cells[:, k], 2] = y * a.sin() + z * a.cos()
    return x


def elements(model, x_start=None, scenes=1, dt=0.01, **params):
    solver = SolverFEM(model)
    prepared = solver.prepare({"rod": params}, model.initial_state(scenes))
    return prepared.terms(model, scenes, dt, x_start, None)


def at_points(v):
    """A joint with vectors e, f, d, d′ = v (12,)."""
    e, f, c, d = v.reshape(4, 3)
    return torch.stack((-e, 0 * e, f, c, 0 * e, d, 0 * e))


@pytest.mark.parametrize("case", range(4))
def test_twist_and_bend_against_differences(case, generator):
    """Also where sections lean along the rod, and for a straight joint."""
    v = torch.randn(12, generator=generator, dtype=torch.float64)
    if case == 3:
        v[3:6] = 0.7 * v[:3]
    x = at_points(v)
    slope = differences(lambda v: twist_angle(at_points(v)), v, 2e-4)
    curve = differences(lambda v: twist_slopes(at_points(v)).reshape(-1), v, 2e-4)
    assert relative_error(twist_slopes(x).reshape(-1), slope) < 1e-7
    assert relative_error(twist_curvature(x), curve) < 1e-7
    natural = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    w = torch.randn(3, generator=generator, dtype=torch.float64)
    slope = differences(lambda v: bend_vector(at_points(v), natural), v, 2e-4)
    curve = differences(lambda v: w @ bend_jacobian(at_points(v), natural), v, 2e-4)
    assert relative_error(bend_jacobian(x, natural), slope) < 1e-7
    assert relative_error(bend_curvature(x, natural, w), curve) < 1e-7
    assert float(bend_vector(x, components(x)).abs().max()) < 1e-12


def writhe(points):
    """Signed crossings of a closed polygon (n, 3), averaged over all directions [turns]."""
    a, b = points, points.roll(-1, 0)
    i, j = torch.triu_indices(len(a), len(a), 2)
    sides = a[j] - a[i], b[j] - a[i], b[j] - b[i], a[j] - b[i]
    volume = (torch.linalg.cross(b[j] - a[j], b[i] - a[i]) * sides[0]).sum(1)
    size = (b[j] - a[j]).norm(dim=1) * (b[i] - a[i]).norm(dim=1) * sides[0].norm(dim=1)
    apart = volume.abs() > 1e-12 * size  # pairs in one plane do not count
    normals = [torch.linalg.cross(sides[k], sides[(k + 1) % 4])[apart] for k in range(4)]
    normals = [v / v.norm(dim=1, keepdim=True) for v in normals]
    angles = [(normals[k] * normals[(k + 1) % 4]).sum(1).clamp(-1, 1).asin() for k in range(4)]
    return float((volume[apart].sign() * sum(angles)).sum()) / (2 * math.pi)


def test_link_is_twist_and_writhe(generator):
    """Călugăreanu: without twist, sections turn by the writhe of any closed way, but for whole turns."""
    x = torch.eye(3, dtype=torch.float64)[0]
    for _ in range(3):
        X = torch.randn(16, 3, generator=generator, dtype=torch.float64).cumsum(0)
        X = torch.cat((X[:1] - x, X, X[-1:] + x))
        points, cells = sections(X, line(len(X) - 1, 1.0)[1], 0.1)
        first, last = (points[cells[k, 2]] - points[cells[k, 3]] for k in (0, -1))
        turn = torch.atan2(torch.linalg.cross(first, last)[0], first @ last) / (2 * math.pi)
        # Closed in a plane with both ends, far away.
        way = (X[-1] - X[0]) * (1 - x)
        far = (X[-1] + 1e3 * x, X[-1] + 1e3 * (x + way), X[0] - 1e3 * (x - way), X[0] - 1e3 * x)
        rest = writhe(torch.cat((X, torch.stack(far)))) - float(turn)
        assert abs(rest - round(rest)) < 1e-7


def test_twist_is_the_angle_between_sections(generator):
    """A right-handed screw is positive; motions of the whole do not matter, nor does the order."""
    for angle in (-3.0, -0.4, 0.0, 1.7, 3.1):
        t = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        first, second = (
            torch.tensor([0.0, math.cos(a), math.sin(a)], dtype=torch.float64) for a in (0, angle)
        )
        x = torch.stack((-t, 0 * t, 2 * t, first, -first, 2 * second, -2 * second))
        x = x @ random_rotations(generator=generator).mT + 0.3
        assert abs(float(twist_angle(x)) - angle) < 1e-12
        assert abs(float(twist_angle(x[[2, 1, 0, 5, 6, 3, 4]])) - angle) < 1e-12


@pytest.mark.parametrize("curved", [False, True])
def test_terms_are_consistent(curved, generator):
    """Energy, gradient and Hessian with viscosity and more twist at rest, in two scenes at once."""
    model = helix() if curved else straight(5)
    shape, size = (2, model.point_count, 3), 0.2 * R

    def noise():
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, x_start = (model.X + size * noise() for _ in range(2))
    d, x = noise().reshape(-1, 3), x.reshape(-1, 3)
    s = torch.zeros((), dtype=torch.float64)
    terms = elements(model, x_start, 2, eta=3e5, twist_ref=2.0, k_bend=0.6)
    assert len(terms) == 3
    for term in terms:

        def along(s, term=term):
            return term.energy(x + s * d)

        def force(s, term=term):
            return assemble([term.gradient(x + s * d)], x)

        by_scene = (force(s) * d).unflatten(0, shape[:2]).sum((1, 2))
        assert relative_error(by_scene, differences(along, s, 1e-2 * size)) < 1e-7
        stencil, blocks = term.hessian(x, project=False)
        product = assemble(
            [(stencil, (blocks @ d[stencil].flatten(1)[..., None]).view(-1, stencil.shape[1], 3))],
            x,
        )
        assert relative_error(product, differences(force, s, 1e-2 * size)) < 1e-6
        assert relative_error(term.product(x, d), product) < 1e-10
        values = torch.linalg.eigvalsh(term.hessian(x, project=True)[1])
        assert float(values.min()) > -1e-10 * float(values.max())


def helix(n=7):
    """Three quarters of a turn of a coil."""
    a = torch.linspace(0, 1.5 * math.pi, n + 1, dtype=torch.float64)
    X = torch.stack((0.03 * a.cos(), 0.03 * a.sin(), 0.01 * a), dim=1)
    return shaft(X, line(n, 1.0)[1])


def test_motions_of_everything(generator):
    """No force at rest; the same energy and turned forces anywhere; forces and moments that cancel."""
    model = helix()
    turn = random_rotations(generator=generator)
    noise = torch.randn(model.X.shape, generator=generator, dtype=torch.float64)
    bent = model.X + 0.2 * R * noise
    for term in elements(model):
        assert float(term.gradient(model.X @ turn.mT + 0.1)[1].abs().max()) < 1e-8
        here, there = bent, bent @ turn.mT + torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
        assert relative_error(term.energy(there), term.energy(here)) < 1e-10
        f, g = (assemble([term.gradient(x)], x) for x in (here, there))
        assert relative_error(g, f @ turn.mT) < 1e-9
        scale = float(f.abs().sum())
        assert float(f.sum(0).abs().max()) < 1e-12 * scale
        assert float(torch.linalg.cross(here, f).sum(0).abs().max()) < 1e-12 * scale


def test_moment_of_a_turned_end():
    """M = GJ φ/L between the middles of the held segments, the same twist everywhere."""
    n, length, spin = 8, 0.5, 0.4
    model = straight(n, length, held=(0, -1))
    solver = SolverFEM(model, FEMConfig(dt=1.0, scheme="static"))
    state, rod = model.initial_state(), model.parts[0]
    twist = torch.zeros(1, 2, 6, dtype=torch.float64)
    twist[0, 1, 3] = spin
    for k in (1, 2, 3):
        state = solver.step(state, FEMControl(twist))
        end, phi, L = rod.cells[-1], k * spin, length * (n - 1) / n
        f, x = solver.forces(state)[0, end], state.x[0, end]
        moment = -torch.linalg.cross(x, f).sum(0)
        assert abs(float(moment[0]) * L / (G * J * phi) - 1) < 1e-6
        assert float(moment[1:].abs().max()) < 1e-6 * float(moment[0])
        assert float((twist_angle(state.x[0, rod.joints]) - phi / (n - 1)).abs().max()) < 1e-7


def test_twist_at_rest_and_free_ends():
    """A rod with one free end takes its own twist, and weight turns nothing."""
    model = straight(6, 0.2, twist_ref=3.0, gravity=(0.0, 0.0, -9.81))
    solver = SolverFEM(model, FEMConfig(dt=1.0, scheme="static"))
    state = model.initial_state()
    for _ in range(2):
        state = solver.step(state)
    angles = twist_angle(state.x[0, model.parts[0].joints])
    assert float((angles - 3.0 * 0.2 / 6).abs().max()) < 1e-6
    assert float(state.x[0, 6, 2]) < -1e-3


def test_frequency_of_twist():
    """A quarter period of a clamped shaft is L √(ρ/G), within 1 % at ten segments."""
    n, length = 10, 0.5
    model = straight(n, length)
    L = length * (1 - 0.5 / n)
    quarter = L * math.sqrt(RHO / G)
    wave = turned(model, lambda s: 0.1 * torch.sin(0.5 * math.pi * (s - s[0]) / L))
    solver = SolverFEM(model, FEMConfig(dt=quarter / 16, scheme="midpoint", tol=1e-8))
    state, end = model.initial_state(x=wave), model.parts[0].cells[-1]

    def angle(state):
        d = (state.x[0, end[2]] - state.x[0, end[3]]) / (2 * R)
        rest = (model.X[end[2]] - model.X[end[3]]) / (2 * R)
        return float(torch.linalg.cross(rest, d)[0])

    angles = [angle(state)]
    before = sum(float(v) for v in solver.energy(state).values())
    while angles[-1] > 0:
        state = solver.step(state)
        angles.append(angle(state))
    steps = len(angles) - 1 + angles[-1] / (angles[-2] - angles[-1])
    assert abs(steps / 16 - 1) < 0.01
    after = sum(float(v) for v in solver.energy(state).values())
    assert abs(after / before - 1) < 1e-4


def test_a_free_rod_keeps_its_momenta(generator):
    model = shaft(*line(6, 0.3), held=())
    solver = SolverFEM(model, FEMConfig(dt=1e-4, scheme="midpoint", tol=1e-9))
    mass = solver.prepare(None, model.initial_state()).mass[0, :, None]
    assert abs(float(mass.sum()) / (RHO * math.pi * R**2 * 0.3) - 1) < 1e-12
    axis = torch.tensor([20.0, 3.0, -5.0], dtype=torch.float64)
    v = torch.linalg.cross(axis.expand_as(model.X), model.X)
    v = v + 0.02 * torch.randn(v.shape, generator=generator, dtype=torch.float64)
    state = model.initial_state(x=turned(model, lambda s: 3 * s), v=v)

    def momenta(state):
        p = mass * state.v[0]
        return p.sum(0), torch.linalg.cross(state.x[0], p).sum(0)

    before = momenta(state)
    for _ in range(10):
        state = solver.step(state)
    for old, new in zip(before, momenta(state), strict=True):
        assert float((new - old).norm()) < 1e-7 * float(old.norm())


def test_a_bow_loaded_out_of_its_plane():
    """δ = P R³ (π/4B + (3π/4 − 2)/GJ) of a quarter circle: bending and twist act together."""
    errors = []
    for n in (8, 16):
        radius, step = 0.2, 0.5 * math.pi / (n + 0.5)  # from the middle of the first segment
        a = (torch.arange(n + 2, dtype=torch.float64) - 0.5) * step
        X = radius * torch.stack((a.cos(), a.sin(), torch.zeros_like(a)), dim=1)
        model = shaft(X, line(n + 1, 1.0)[1])
        force = torch.zeros(1, model.point_count, 3, dtype=torch.float64)
        load = force[0, n + 1, 2] = 1e-3 * B / radius**2
        solver = SolverFEM(model, FEMConfig(dt=1.0, scheme="static", tol=1e-9))
        state = solver.step(model.initial_state(), FEMControl(force=force))
        exact = load * radius**3 * (math.pi / 4 / B + (0.75 * math.pi - 2) / (G * J))
        errors.append(abs(float(state.x[0, n + 1, 2] / exact) - 1))
    assert errors[0] < 0.01 and errors[1] < 0.3 * errors[0]


def test_a_twisted_rod_buckles():
    """Clamped ends: at M L/B = 8.987 (Greenhill), where tan x = x for x = M L/2B; second order."""
    errors = []
    for n in (20, 40):
        model = straight(n, held=(0, -1))
        L = 0.5 * (1 - 1 / n)
        free = (3 * model.free[:, None] + torch.arange(3)).reshape(-1)
        terms = elements(model, dt=math.inf)

        def lowest(phi, model=model, L=L, free=free, terms=terms):
            x = turned(model, lambda s: phi * (s - s[0]) / L)
            H = torch.zeros(x.numel(), x.numel(), dtype=torch.float64)
            for term in terms:
                stencil, blocks = term.hessian(x, project=False)
                rows = (3 * stencil[..., None] + torch.arange(3)).flatten(1)
                where = rows[:, :, None].expand_as(blocks), rows[:, None].expand_as(blocks)
                H.index_put_(where, blocks, accumulate=True)
            return float(torch.linalg.eigvalsh(H[free][:, free])[0])

        low, high = 8.0, 16.0
        assert lowest(low) > 0 > lowest(high)
        for _ in range(14):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if lowest(middle) > 0 else (low, middle)
        errors.append(abs(low * G * J / B / 8.98682 - 1))
    assert errors[1] < 0.006 and errors[1] < 0.3 * errors[0]


def test_sections_of_any_order(generator):
    """Segments in any order and direction make rods without twist; a ring has the rest of its turn."""
    X = torch.randn(12, 3, generator=generator, dtype=torch.float64).cumsum(0)
    chains = torch.cat((line(6, 1.0)[1], 7 + line(4, 1.0)[1]))
    order = torch.randperm(10, generator=generator)
    segments = chains[order]
    segments[::2] = segments[::2].flip(1)
    points, cells = sections(X, segments, 0.1)
    rod = Rod(name="rod", cells=cells, E=E, nu=NU, r=0.1, rho=RHO, twist=True)
    assert len(rod.joints) == 8
    assert float(twist_angle(points[rod.joints]).abs().max()) < 1e-12
    model = FEMModel(points, [rod])
    assert abs(float(SolverFEM(model).energy(model.initial_state())["elastic"])) < 1e-12

    a = torch.arange(8, dtype=torch.float64) * math.pi / 4
    ring = torch.stack((a.cos(), a.sin(), torch.zeros_like(a)), dim=1)
    cells = torch.stack((torch.arange(8), (torch.arange(8) + 1) % 8), dim=1)
    points, cells = sections(ring, cells, 0.1)
    rod = Rod(name="rod", cells=cells, E=E, nu=NU, r=0.1, rho=RHO, twist=True)
    assert len(rod.joints) == 8
    assert float(twist_angle(points[rod.joints]).abs().max()) < 1e-12


def test_rods_without_twist_are_what_they_were():
    X, segments = line(4, 0.2)
    rod = Rod(name="rod", cells=segments, E=E, r=R, rho=RHO)
    model = FEMModel(X, [rod])
    assert set(model.default_params()["rod"]) == {"E", "r", "rho", "k_bend", "eta"}
    assert not any(isinstance(term, Joints) for term in elements(model))


def test_bad_rods():
    X, segments = line(4, 0.2)
    points, cells = sections(X, segments, R)
    good = dict(name="rod", cells=cells, E=E, nu=NU, r=R, rho=RHO, twist=True)
    cases = [
        (lambda: Rod(**(good | {"nu": None})), "nu"),
        (lambda: Rod(**(good | {"twist": False, "cells": segments})), "nu"),
        (lambda: Rod(**(good | {"cells": segments})), "cells"),
        (lambda: sections(X, segments, 0.0), "r > 0"),
        (lambda: sections(X[[0, 0, 1, 2, 3]], segments, R), "length"),
    ]
    wrong = points.clone()
    wrong[cells[1, 2]] += 0.01
    for x, changes, text in (
        (wrong, {}, "segment 1"),
        (points, {"r": 2 * R}, "markers"),
        (points, {"nu": 1.0}, "nu < 1"),
        (points, {"twist_ref": math.nan}, "twist_ref"),
        (points, {"k_twist": -1.0}, "k_twist"),
    ):
        model = FEMModel(x, [Rod(**(good | changes))])
        cases.append((lambda model=model: SolverFEM(model).pattern, text))
    for make, text in cases:
        with pytest.raises(InputError, match=text):
            make()


def test_half_a_turn_between_neighbours_is_refused():
    """The angle is known up to a turn: a coarse rod says so, and does not lose a turn."""
    model = straight(3, held=(0, -1))
    solver = SolverFEM(model, FEMConfig(dt=1.0, scheme="static"))
    twist = torch.zeros(1, 2, 6, dtype=torch.float64)
    twist[0, 1, 3] = 1.0
    state = model.initial_state()
    with pytest.raises((StateError, ConvergenceError)):
        for k in range(8):
            state = solver.step(state, FEMControl(twist))
            angles = twist_angle(state.x[0, model.parts[0].joints])
            assert abs(float(angles.sum()) - (k + 1)) < 1e-6
    assert k == 6  # 7 rad over two joints is more than π
