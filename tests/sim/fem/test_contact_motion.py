"""Continuous collision detection: never through, hardly early; bodies that fall, rest, stick and slip."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rheograd.sim.fem.contact import Surface, SurfaceContact, boundary_triangles
from rheograd.sim.fem.contact import distances as D
from rheograd.sim.fem.contact.ccd import KEEP, SLACK, safe_time
from rheograd.sim.fem.contact.intersections import check_start
from rheograd.sim.fem.contact.kernels import safe_times
from rheograd.sim.fem.terms import StepInput, assemble


def distance(x, edges):
    kind = torch.empty(len(x), dtype=torch.int64)
    kind[edges] = D.edge_edge_kind(x[edges])
    kind[~edges] = D.point_triangle_kind(x[~edges])
    return D.nearest(x, kind).squared.sqrt()


def sampled(x, p, edges, until, count):
    """Smallest distance at `count` times of [0, until], and the first of them below KEEP d(0)."""
    goal, first = KEEP * distance(x, edges), torch.full((len(x),), math.inf, dtype=x.dtype)
    least = torch.full_like(first, math.inf)
    for s in torch.linspace(0, 1, count, dtype=x.dtype):
        d = distance(x + (s * until)[:, None, None] * p, edges)
        least = torch.minimum(least, d)
        first = torch.where((d < goal) & first.isinf(), s * until, first)
    return least, first


def random_pairs(g):
    """Pairs that move freely, and many that aim at each other."""
    n = 1200
    x = torch.randn(n, 4, 3, dtype=torch.float64, generator=g)
    p = 2 * torch.randn(n, 4, 3, dtype=torch.float64, generator=g)
    edges = torch.arange(n) % 2 == 0
    near = D.nearest(x, torch.where(edges, D.edge_edge_kind(x), D.point_triangle_kind(x)))
    p[400:] *= 0.1
    first = torch.zeros(n, 4, 1, dtype=x.dtype)
    first[:, 0], first[edges, 1] = 1, 1
    p[400:] -= 1.3 * (first * near.r[:, None])[400:]
    return x, p, edges


def degenerate_pairs(g):
    """Edges near parallel, flat triangles, sliding at a tiny distance, motion in the plane."""
    n = 1200
    x, p, edges = (v[:n].clone() for v in random_pairs(g))
    x[:200, 3] = x[:200, 2] + (x[:200, 1] - x[:200, 0])
    x[200:400, 3] = x[200:400, 1] + 0.5 * (x[200:400, 2] - x[200:400, 1])
    x[400:600, :, 2] *= 1e-6
    p[400:600, :, 2] *= 1e-6
    x[600:800, 1:, 2] = 0
    x[600:800, 0, 2] = 1e-5
    p[600:800, :, 2] *= 1e-4
    p[800:1000] = p[800:1000].mean(1, keepdim=True)
    x[1000:, 3] = x[1000:, 2] + 1e-12
    return x, p, edges


@pytest.mark.parametrize("pairs", [random_pairs, degenerate_pairs])
def test_no_pair_gets_through_and_few_stop_early(pairs, generator):
    x, p, edges = pairs(generator)
    start = distance(x, edges)
    time = safe_time(x, p, edges)
    least, _ = sampled(x, p, edges, time, 41)
    assert (least >= KEEP * start * (1 - 1e-6) - 1e-14).all()
    assert (time > 0).all()
    # Where a pair stops it is as near as it may be.
    stopped = time < 1
    assert stopped.sum() > 80
    end = distance(x + time[:, None, None] * p, edges)[stopped]
    assert (end <= (1 + SLACK) * KEEP * start[stopped] + 1e-9).double().mean() > 0.99
    assert (time[~stopped] == 1).all()
    _, first = sampled(x, p, edges, torch.ones_like(time), 101)
    hit = first < math.inf
    assert (time[hit] <= first[hit]).all()
    early = first[hit] - time[hit]
    assert early.median() < 0.01


def test_head_on_motion_takes_few_evaluations():
    """Sliding at a thousandth of the way beside a triangle is not slowed down."""
    x = torch.tensor([(0.2, 0.2, 1e-3), (0, 0, 0), (1, 0, 0), (0, 1, 0)], dtype=torch.float64)
    rows, face = torch.arange(4)[None], torch.tensor([False])
    p = torch.zeros_like(x)
    p[0] = torch.tensor([0.9, 0.5, 0.0])
    time, calls = safe_times(x, p, rows, face, KEEP, SLACK, math.inf)
    assert time.item() == 1 and calls.item() == 1
    p[0] = torch.tensor([0.1, 0.0, -1.0])
    time, calls = safe_times(x, p, rows, face, KEEP, SLACK, math.inf)
    assert time.item() == pytest.approx(9e-4, rel=1e-6) and calls.item() <= 4
    p[0] = torch.tensor([0.1, 0.0, 1.0])
    assert safe_times(x + 1e3 * p, p, rows, face, KEEP, SLACK, 1e-3)[1].item() == 0


class Cubes:
    """Blocks of eight points, each six tetrahedra, that keep their shape by springs [N/m]."""

    def __init__(self, places, side=0.02, spring=2e3, mass=1e-3, driven=()):
        corner = np.array(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij")).reshape(3, -1).T
        tets = np.array(
            [[0, 4, 6, 7], [0, 6, 2, 7], [0, 2, 3, 7], [0, 3, 1, 7], [0, 1, 5, 7], [0, 5, 4, 7]]
        )
        x, cells, group = [], [], []
        for k, (place, turn) in enumerate(places):
            q, _ = np.linalg.qr(
                np.eye(3) + turn * np.array([[0, 1, 2], [-1, 0, 1.5], [-2, -1.5, 0]])
            )
            q = q * np.sign(np.linalg.det(q))
            x.append(side * (corner - 0.5) @ q.T + place)
            cells.append(tets + 8 * k)
            group += [k] * 8
        self.x = torch.tensor(np.concatenate(x))
        self.group, self.side, self.mass = np.array(group), side, mass
        pairs = [
            (8 * k + i, 8 * k + j) for k in range(len(places)) for i in range(8) for j in range(i)
        ]
        self.pairs = torch.tensor(pairs)
        self.length = (self.x[self.pairs[:, 0]] - self.x[self.pairs[:, 1]]).norm(dim=-1)
        self.spring = spring
        self.free = torch.tensor([v for v in range(len(self.x)) if group[v] not in driven])
        t = np.concatenate([boundary_triangles(c) for c in cells])
        flags = np.isin(self.group, list(driven))
        self.surface = Surface(
            self.x, t, group=self.group, driven=flags, groups=[f"c{k}" for k in range(len(places))]
        )

    def elastic(self, x):
        return (
            0.5
            * self.spring
            * (((x[self.pairs[:, 0]] - x[self.pairs[:, 1]]).norm(dim=-1) - self.length) ** 2).sum()
        )

    def stiffness(self, x):
        """Springs along their directions, dense; lengths hardly change, so the rest is left out."""
        d = torch.nn.functional.normalize(x[self.pairs[:, 0]] - x[self.pairs[:, 1]])
        J = x.new_zeros(len(d), len(x), 3)
        rows = torch.arange(len(d))
        J[rows, self.pairs[:, 0]], J[rows, self.pairs[:, 1]] = d, -d
        J = J.flatten(1)
        return self.spring * J.T @ J


def implicit_step(cubes, contact, x, v, dt, gravity):
    """One Euler step by Newton's method with dense blocks; returns x, v."""
    params = {k: torch.full((1,), v, dtype=x.dtype) for k, v in contact.default_params().items()}
    none = x.new_zeros(1, 0, 7)
    ahead = x + dt * v + dt * dt * gravity
    y, free = x.clone(), cubes.free
    term = contact.term(params, StepInput(x[None], x[None], none, none, dt))

    def energy(z):
        inertia = 0.5 * cubes.mass / dt**2 * ((z - ahead)[free] ** 2).sum()
        return float(inertia + cubes.elastic(z) + term.energy(z)[0])

    index = (3 * free[:, None] + torch.arange(3)).reshape(-1)
    for _ in range(60):
        z = y.clone().requires_grad_()
        (g,) = torch.autograd.grad(cubes.elastic(z), z)
        g = g + assemble([term.gradient(y)], y) + cubes.mass / dt**2 * (y - ahead)
        if g[free].norm() < 1e-7:
            return y, (y - x) / dt
        H = cubes.stiffness(y) + cubes.mass / dt**2 * torch.eye(y.numel(), dtype=x.dtype)
        stencil, blocks = term.hessian(y)
        rows = (3 * stencil[:, :, None] + torch.arange(3)).flatten(1)
        k = rows.shape[1]
        H.index_put_(
            (rows[:, :, None].expand(-1, k, k), rows[:, None].expand(-1, k, k)),
            blocks,
            accumulate=True,
        )
        p = torch.zeros_like(y)
        p[free] = -torch.linalg.solve(H[index][:, index], g.reshape(-1)[index]).view(-1, 3)
        term.update(y, y + p)
        t, old = float(term.max_step(y, p)[0]), energy(y)
        assert t > 0
        while energy(y + t * p) > old + 1e-14 * abs(old) and t > 1e-12:
            t *= 0.5
        y = y + t * p
    raise AssertionError(f"no convergence, ‖g‖ = {float(g[free].norm())}")


def test_cubes_fall_on_each_other_and_never_cut():
    """Askew onto a fixed cube, at 2 m/s: ten times the barrier's reach per step."""
    cubes = Cubes(
        [((0, 0, 0), 0.0), ((0.004, 0.003, 0.031), 0.35), ((-0.004, 0, 0.07), 0.8)], driven=(0,)
    )
    contact = SurfaceContact(cubes.surface, 1e-3, 5e4, 0.3)
    x, v = cubes.x, torch.zeros_like(cubes.x)
    v[8:, 2] = -2.0
    gravity = torch.tensor([0, 0, -9.81], dtype=x.dtype)
    low = math.inf
    for _ in range(7):
        x, v = implicit_step(cubes, contact, x, v, 5e-3, gravity)
        check_start(cubes.surface, x[None])
        low = min(low, float(contact.min_distance(x[None])))
        centers = x.view(-1, 8, 3).mean(1)
    assert 0 < low < 1e-3
    assert centers[1, 2] > 0.015 and centers[2, 2] > 0.03
    # It stopped: the fall alone would be 7 cm.
    assert v[8:].abs().max() < 2


@pytest.mark.parametrize("ratio", [0.97, 1.03])
def test_a_cube_slides_on_a_cube_as_coulomb_says(ratio):
    """Slower below the angle of friction, faster above; gravity is turned instead of the ground."""
    mu = 0.3
    cubes = Cubes([((0, 0, -0.05), 0.0), ((0, 0, 0.01 + 6.9e-4), 0.0)], driven=(0,))
    center = torch.tensor([0, 0, -0.05])
    x = cubes.x.clone()
    x[:8] = (x[:8] - center) * 5 + center
    names, driven = ("a", "b"), cubes.group == 0
    t = cubes.surface.triangles
    cubes.surface = Surface(x, t, group=cubes.group, driven=driven, groups=names)
    contact = SurfaceContact(cubes.surface, 1e-3, 100.0, {names: mu})
    angle = math.atan(ratio * mu)
    gravity = 9.81 * torch.tensor([math.sin(angle), 0, -math.cos(angle)], dtype=x.dtype)
    v, dt, speeds = torch.zeros_like(x), 0.01, []
    v[8:, 0] = 0.03
    for _ in range(12):
        x, v = implicit_step(cubes, contact, x, v, dt, gravity)
        speeds.append(float(v[8:, 0].mean()))
    want = 9.81 * (math.sin(angle) - mu * math.cos(angle))
    gained = (speeds[-1] - speeds[7]) / (4 * dt)
    # 0.02 m/s² is 0.7 % of the friction.
    assert gained == pytest.approx(want, abs=0.02)
