"""Surfaces against surfaces: energy, forces, adjoint, momenta, candidates, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.fem.contact import Surface, SurfaceContact, boundary_triangles
from rheograd.sim.fem.contact.barrier import barrier, pressure
from rheograd.sim.fem.contact.candidates import find_candidates
from rheograd.sim.fem.terms import StepInput, assemble

DT = 5e-3


def grid(n, m, h, turn=0.0, z=0.0):
    """Sheet of n × m cells of side h about the origin [m]: points (P, 3), triangles."""
    a, b = np.meshgrid(np.arange(n + 1) * h, np.arange(m + 1) * h, indexing="ij")
    x = np.stack([a - a.mean(), b - b.mean(), np.zeros_like(a)], -1).reshape(-1, 3)
    c, s = np.cos(turn), np.sin(turn)
    x = x @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + [0, 0, z]
    i = (np.arange(n)[:, None] * (m + 1) + np.arange(m)).ravel()
    cells = np.stack([i, i + m + 1, i + m + 2, i + 1], 1)
    return x, np.concatenate([cells[:, [0, 1, 2]], cells[:, [0, 2, 3]]])


def sheets(turn=0.3, gap=3e-4, noise=3e-5, seed=0):
    """A coarse sheet over a fine one, and a copy of the fine one's fold: points, surface."""
    (xa, ta), (xb, tb) = grid(6, 5, 4e-3), grid(4, 4, 5e-3, turn, gap)
    x = np.concatenate([xa, xb]) + noise * np.random.default_rng(seed).normal(size=(67, 3))
    surface = Surface(
        x,
        np.concatenate([ta, tb + len(xa)]),
        groups=("fine", "coarse"),
        group=np.repeat([0, 1], [len(xa), len(xb)]),
    )
    return torch.tensor(x), surface


def folded(seed=0):
    """One sheet laid over itself, 0.4 mm apart, one row of cells upright between: points, surface."""
    flat, t = grid(13, 3, 4e-3)
    x = flat + [2e-3, 0, 0]
    over = x[:, 0] > 2e-3
    x[over, 0] = 4e-3 - x[over, 0]
    x[over, 2] = 4e-4
    x[over, 1] += 1e-3
    x += 2e-5 * np.random.default_rng(seed).normal(size=x.shape)
    return torch.tensor(x), Surface(flat, t)


def step_of(x_start, x_lag=None):
    none = x_start.new_zeros(len(x_start), 0, 7)
    return StepInput(x_start, x_start if x_lag is None else x_lag, none, none, DT)


def numbers(contact, scenes=1, **changes):
    values = contact.default_params() | changes
    return {k: torch.as_tensor(v, dtype=torch.float64).expand(scenes) for k, v in values.items()}


def total(term, x):
    return assemble([term.gradient(x)], x)


def error(got, want):
    return float((got - want).norm() / want.norm())


def scenes_of(name):
    if name == "folded":
        x, surface = folded()
        return x, SurfaceContact(surface, 6e-4, 2e4, 0.4)
    turn = {"tilted": 0.3, "parallel": 0.004, "aligned": 0.0}[name]
    x, surface = sheets(turn)
    return x, SurfaceContact(surface, 8e-4, 2e4, {("coarse", "fine"): 0.4})


@pytest.mark.parametrize("name", ["tilted", "parallel", "aligned", "folded"])
def test_gradient_and_hessian_are_derivatives_of_the_energy(name, generator):
    x, contact = scenes_of(name)
    noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    term = contact.term(numbers(contact), step_of((x - 3e-6 * noise)[None]))
    rows = term._rows(x)
    assert len(term.lag.force) > 40
    assert name in ("tilted", "folded") or len(rows.fade) > 20
    d = torch.nn.functional.normalize(torch.randn(x.shape, dtype=x.dtype, generator=generator))
    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(term.energy(y).sum(), y)
    g = total(term, x)
    assert error(g, slope) < 1e-12
    # Richardson's fourth order: pairs enter smoothly, friction turns within 5e-6 m.
    h = 1e-9
    one, two = (term.energy(x + k * h * d) - term.energy(x - k * h * d) for k in (1, 2))
    assert float((8 * one - two) / (12 * h)) == pytest.approx(float((g * d).sum()), rel=1e-5)
    stencil, blocks = term.hessian(x, project=False)
    local = torch.einsum("sij,sj->si", blocks, d[stencil].flatten(1)).reshape(-1, 3)
    product = torch.zeros_like(x).index_add(0, stencil.reshape(-1), local)
    one, two = (total(term, x + k * h * d) - total(term, x - k * h * d) for k in (1, 2))
    assert error((8 * one - two) / (12 * h), product) < 1e-5
    _, projected = term.hessian(x, project=True)
    low = torch.linalg.eigvalsh(projected).amin(1)
    assert (low > -1e-9 * projected.abs().amax((1, 2))).all()
    assert torch.linalg.eigvalsh(blocks).min() < 0


@pytest.mark.parametrize("name", ["tilted", "parallel", "folded"])
def test_adjoint_of_the_gradient(name, generator):
    """One reverse pass of u·∂E/∂x: positions at the start and at the lag, stiffness, friction."""
    x, contact = scenes_of(name)

    def normal():
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    inputs = {"x": x, "start": x - 4e-6 * normal(), "lag": x - 2e-6 * normal()}
    inputs |= numbers(contact)
    u = normal()

    def function(values):
        params = {k: v for k, v in values.items() if k not in ("x", "start", "lag")}
        term = contact.term(params, step_of(values["start"][None], values["lag"][None]))
        return (total(term, values["x"]) * u).sum()

    leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
    grads = torch.autograd.grad(function(leaves), list(leaves.values()))
    for (key, value), grad in zip(inputs.items(), grads, strict=True):
        d = torch.randn(value.shape, dtype=x.dtype, generator=generator)
        h = 1e-9 if value.ndim == 2 else 1e-4 * float(value.abs().max())
        one, two = (
            function(inputs | {key: value + k * h * d})
            - function(inputs | {key: value - k * h * d})
            for k in (1, 2)
        )
        slope = float((8 * one - two) / (12 * h))
        assert slope == pytest.approx(float((grad * d).sum()), rel=1e-5), key


def test_barrier_keeps_momenta_and_friction_turns_by_the_gap(generator):
    """No net force; the barrier makes no torque, friction Σ (p_a − p_b) × F as it acts across the gap."""
    x, contact = scenes_of("tilted")
    noise = 1e-5 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    smooth = SurfaceContact(contact.surface, contact.d_hat, 2e4)
    for c, step in ((smooth, step_of(x[None])), (contact, step_of((x + noise)[None], x[None]))):
        term = c.term(numbers(c), step)
        force = total(term, x)
        size = force.abs().sum()
        assert force.sum(0).abs().max() < 1e-13 * size
        torque = torch.linalg.cross(x, force).sum(0).abs().max()
        assert torque < (1e-13 if c is smooth else 2 * c.d_hat) * size
    extent = float(x.abs().max())
    assert contact.d_hat < 0.1 * extent


def test_batch_is_a_loop_and_repeats_to_the_bit():
    a, surface = sheets(seed=0)
    b = sheets(seed=1)[0]
    contact = SurfaceContact(surface, 8e-4, 2e4, 0.3)
    both = torch.stack((a, b))
    start = both + 1e-6
    kappa = torch.tensor([1e4, 3e4], dtype=torch.float64)
    term = contact.term(numbers(contact, 2, stiffness=kappa), step_of(start, both))
    flat = both.reshape(-1, 3)
    energy, force = term.energy(flat), total(term, flat).view_as(both)
    dx = torch.zeros_like(both)
    dx[:, 42:, 2] = -1e-3
    share = term.max_step(flat, dx.reshape(-1, 3))
    for k in range(2):
        one = contact.term(
            numbers(contact, stiffness=kappa[k]), step_of(start[k : k + 1], both[k : k + 1])
        )
        assert torch.allclose(one.energy(both[k]), energy[k : k + 1], rtol=1e-12)
        assert torch.allclose(total(one, both[k]), force[k], rtol=1e-9, atol=1e-12)
        assert torch.allclose(one.max_step(both[k], dx[k]), share[k : k + 1], rtol=1e-9)
    again = contact.term(numbers(contact, 2, stiffness=kappa), step_of(start, both))
    # A longer way finds more candidates, which must not change a bit.
    again.update(flat, flat + dx.reshape(-1, 3))
    assert torch.equal(total(again, flat).view_as(both), force)
    assert torch.equal(again.energy(flat), energy)


def test_candidates_are_complete_against_all_pairs(generator):
    """Every pair of boxes of the whole way that meets, sizes of three scales, two scenes."""
    big, t_big = grid(1, 1, 0.05, 0.4)
    mid, t_mid = grid(4, 4, 5e-3, 0.2, 6e-3)
    small, t_small = grid(3, 3, 3e-4, 0.9, 8e-3)
    x = np.concatenate([big, mid, small])
    t = np.concatenate([t_big, t_mid + 4, t_small + 29])
    driven = np.zeros(len(x), bool)
    driven[:4] = driven[29:] = True
    surface = Surface(x, t, driven=driven)
    start = torch.tensor(np.stack([x, x + 0.3]))
    start = start + 1e-4 * torch.randn(start.shape, dtype=start.dtype, generator=generator)
    end = start + 4e-3 * torch.randn(start.shape, dtype=start.dtype, generator=generator)
    reach = 5e-4
    found = find_candidates(surface, start.reshape(-1, 3), end.reshape(-1, 3), reach, 0.0)

    def boxes(scene, features):
        ways = torch.stack((start[scene] - start[scene].mean(0), end[scene] - end[scene].mean(0)))
        q = ways[:, torch.as_tensor(features)]
        return q.amin((0, 2)) - reach / 2, q.amax((0, 2)) + reach / 2

    def brute(first, second, same):
        rows = []
        for scene in range(2):
            (la, ha), (lb, hb) = boxes(scene, first), boxes(scene, second)
            meet = (la[:, None] <= hb[None]).all(-1) & (lb[None] <= ha[:, None]).all(-1)
            for i, j in meet.nonzero().tolist():
                row = [*first[i].tolist(), *second[j].tolist()]
                if len(set(row)) < 4 or (same and j <= i) or driven[row].all():
                    continue
                rows.append([scene * len(x) + v for v in row])
        return rows

    faces = brute(np.arange(len(x))[:, None], surface.triangles, False)
    edges = brute(surface.edges, surface.edges, True)
    assert len(faces) > 300 and len(edges) > 1000
    assert found.faces.tolist() == faces and found.edges.tolist() == edges


def test_pressure_between_flat_sheets_hardly_depends_on_the_meshes():
    """κ g(d/d̂) per area on average over directions, whichever mesh is finer; d̂ a fifth of the edges.

    Ends of edges are met by several pairs and the rim adds a strip of width d̂, so it is a little more.
    """
    d_hat, gap, kappa = 4e-4, 2e-4, 1e4
    want = float(pressure(torch.tensor(gap), d_hat)) * kappa
    means = []
    for h in (2e-3, 4e-3, 8e-3):
        pressures = []
        for k in range(4):
            (xa, ta), (xb, tb) = (
                grid(int(0.048 / h), int(0.048 / h), h),
                grid(6, 6, 5e-3, 0.2 + 0.4 * k),
            )
            xb = xb + [1e-3 * k, 7e-4 * k, gap]
            x = np.concatenate([xa, xb])
            group = np.repeat([0, 1], [len(xa), len(xb)])
            t = np.concatenate([ta, tb + len(xa)])
            alone = [("a", "a"), ("b", "b")]
            surface = Surface(x, t, groups=("a", "b"), group=group, ignore=alone)
            contact = SurfaceContact(surface, d_hat, kappa)
            flat = torch.tensor(x)
            term = contact.term(numbers(contact), step_of(flat[None]))
            force = -total(term, flat)[torch.from_numpy(group) == 1, 2].sum()
            pressures.append(float(force) / 0.03**2 / want)
        means.append(np.mean(pressures))
    assert means == pytest.approx([1.05] * 3, abs=0.1)


def test_a_point_sliding_over_a_flat_mesh_feels_one_triangle():
    """Inclusion–exclusion: the energy does not change over edges and vertices of a flat mesh."""
    x, t = grid(4, 4, 2e-3)
    d_hat, gap = 5e-4, 2e-4
    rest = np.concatenate([x, [[0.0, 0.0, gap]]])
    area = np.zeros(len(rest))
    area[-1] = 1e-6
    surface = Surface(rest, t, points=[len(x)], area=area)
    contact = SurfaceContact(surface, d_hat, 1e4)
    values, way = [], np.linspace(-2e-3, 2e-3, 25)
    for u in way:
        y = torch.tensor(rest)
        y[-1, 0], y[-1, 1] = u, 0.31 * u
        term = contact.term(numbers(contact), step_of(y[None]))
        values.append(float(term.energy(y)))
    # Three eighths by the point against the mesh; mesh points near it meet the lone point.
    one = 1e4 * 1e-6 * 0.375 * float(barrier(torch.tensor(gap**2).double(), d_hat)[0])
    inner = [v for v, u in zip(values, way, strict=True) if 4.5e-4 < abs(u) < 1.5e-3]
    assert inner == pytest.approx([one] * len(inner), rel=1e-9)


def test_rods_points_and_three_triangles_at_an_edge():
    """Codimensional features repel each other; a non-manifold fin is one surface."""
    x = (
        np.array([[-1, 0, 0], [0, 0, 0], [1, 0, 0], [0, -1, 0.2], [0, 1, 0.2], [0.5, 0.1, 0.25]])
        * 1e-2
    )
    area = np.full(6, 1e-6)
    surface = Surface(x, rods=[[0, 1], [1, 2], [3, 4]], points=[5], area=area)
    contact = SurfaceContact(surface, 3e-3, 1e4)
    flat = torch.tensor(x)
    term = contact.term(numbers(contact), step_of(flat[None]))
    force = -total(term, flat)
    assert force[3:5, 2].sum() > 0 > force[0:3, 2].sum() and force[5, 2] > 0
    assert force.sum(0).abs().max() < 1e-12
    fin = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 1.0]])
    surface = Surface(fin, [[0, 1, 2], [0, 1, 3], [0, 1, 4]])
    assert surface.edge_sign.min() == -2 and surface.vertex_sign.tolist()[:2] == [0, 0]


def test_steps_stop_before_contact_and_driven_pairs_are_left_out(generator):
    x, surface = sheets(noise=0.0)
    contact = SurfaceContact(surface, 8e-4, 1e4)
    term = contact.term(numbers(contact), step_of(x[None]))
    down = torch.zeros_like(x)
    down[42:, 2] = -1e-3
    share = float(term.max_step(x, down))
    assert share * 1e-3 == pytest.approx(0.9 * 3e-4, rel=0.02)
    assert float(contact.min_distance((x + share * down)[None])) >= 0.1 * 3e-4
    assert float(term.max_step(x, -down)) == 1
    assert float(contact.min_distance((x - 10 * down)[None])) == np.inf
    driven = Surface(x, surface.triangles, driven=np.ones(67, bool))
    alone = SurfaceContact(driven, 8e-4, 1e4)
    assert float(alone.term(numbers(alone), step_of(x[None])).max_step(x, down)) == 1
    for ignore in (
        [("fine", "coarse")],
        [("coarse", "fine"), ("fine", "fine"), ("coarse", "coarse")],
    ):
        apart = Surface(
            x, surface.triangles, groups=surface.groups, group=surface.group, ignore=ignore
        )
        c = SurfaceContact(apart, 8e-4, 1e4)
        assert float(c.term(numbers(c), step_of(x[None])).energy(x)) == 0


def test_bad_starts_and_settings_are_named():
    x, surface = sheets(noise=0.0)
    contact = SurfaceContact(surface, 8e-4, 1e4)
    through = x.clone()
    through[42:, 2] -= 1e-3 * torch.linspace(0, 1, 25, dtype=x.dtype)
    with pytest.raises(
        InputError, match=r"edge \(\d+, \d+\) through triangle .*Move coarse and fine"
    ):
        contact.check(through[None])
    with pytest.raises(InputError, match="through triangle"):
        contact.term(numbers(contact), step_of(through[None]))
    touching = x.clone()
    touching[50] = touching[10]
    with pytest.raises(InputError, match="touching|through"):
        contact.check(touching[None])
    with pytest.raises(StateError, match="finite"):
        contact.check((x / 0)[None])
    with pytest.raises(InputError, match="float64"):
        contact.term(numbers(contact), step_of(x[None].float()))
    with pytest.raises(InputError, match=r"\(B, 67, 3\)"):
        contact.term(numbers(contact), step_of(x[None, :5]))
    with pytest.raises(InputError, match="d_hat > 0"):
        SurfaceContact(surface, 0.0, 1e4)
    with pytest.raises(InputError, match="friction between"):
        SurfaceContact(surface, 1e-3, 1e4, {("fine", "table"): 0.1})
    flat = x.clone()
    flat[1] = flat[0]
    with pytest.raises(InputError, match=r"triangle \d+ = .* m²"):
        Surface(flat, surface.triangles)
    for bad in (
        dict(triangles=[[0, 1, 99]]),
        dict(triangles=[[0, 1]]),
        dict(triangles=[[0, 1, 2]], group=[0] * 66 + [3]),
        dict(triangles=[[0, 1, 42]], groups=("a", "b"), group=surface.group),
        dict(rods=[[0, 1]]),
        dict(triangles=surface.triangles, ignore=[("body", "x")]),
        dict(triangles=surface.triangles, driven=[0] * 67),
        dict(),
    ):
        with pytest.raises(InputError, match="Surface: expected"):
            Surface(x, **bad)


def test_boundary_of_tetrahedra():
    tets = [[0, 1, 2, 3], [1, 2, 3, 4]]
    faces = boundary_triangles(tets)
    assert len(faces) == 6 and {1, 2, 3} not in [set(f) for f in faces.tolist()]
    one = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    for a, b, c in boundary_triangles([[0, 1, 2, 3]]):
        outward = np.cross(one[b] - one[a], one[c] - one[a]) @ (one[a] - one.mean(0))
        assert outward > 0
    assert len(list(itertools.chain(*faces.tolist()))) == 18


@pytest.mark.gpu
def test_the_same_on_a_gpu():
    x, contact = scenes_of("parallel")
    start = x + 1e-6
    results = []
    for device in ("cpu", "cuda"):
        params = {k: v.to(device) for k, v in numbers(contact).items()}
        flat = x.to(device)
        term = contact.term(params, step_of(start[None].to(device), flat[None]))
        _, blocks = term.hessian(flat)
        share = term.max_step(flat, -20 * (flat - flat.mean(0)) * flat.new_tensor((0, 0, 1)))
        results.append([term.energy(flat), total(term, flat), blocks.sum(0), share])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b.cpu(), rtol=1e-9, atol=1e-9 * float(a.abs().max()))
