"""The adjoint by factors of the forward solve: as exact as by its own, bounded, and never silent."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fem_scenes import gel, rope, strip
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.rollout import rollout
from rheograd.sim.core.shapes import Plane
from rheograd.sim.fem import (
    FEMConfig,
    FEMControl,
    FEMModel,
    Handle,
    Solid,
    SolverFEM,
    adjoint,
    newton,
)
from rheograd.sim.fem.assembly import Solve
from rheograd.sim.fem.contact import ObstacleContact, Surface
from rheograd.sim.fem.kept import MOST, KeptFactors, solve_near
from rheograd.sim.fem.meshes import box
from rheograd.sim.fem.prepare import element_terms
from rheograd.sim.fem.quadratic import quadratic

F64 = torch.float64


@pytest.fixture(autouse=True)
def keep_small_ones(monkeypatch):
    monkeypatch.setattr(adjoint, "KEPT_WORK", 0.0)


def landing():
    """The strip above a plane, falling onto it."""
    model = strip(held=1)
    surface = Surface(model.X, model.parts[0].cells)
    floor = Collider(Plane(), position=(0.0, 0.0, -4e-4), name="floor", friction=0.3)
    contact = ObstacleContact(surface, [floor], 5e-4, 2e4)
    return FEMModel(model.X, model.parts, model.handles, [contact])


MAKERS = {"gel": gel, "sheet": strip, "rod": rope, "contact": landing}


def scalar(name, kept, scenes=2, steps=3, tol=1e-10, checkpoint="none"):
    """A function of twists and E of a rollout, where they are, and the iterations of its adjoint."""
    model = MAKERS[name]()
    solver = SolverFEM(model, FEMConfig(dt=3e-3, tol=tol, kept_factors=kept))
    body = model.parts[0].name
    twist = torch.zeros(scenes, 1, 6, dtype=F64)
    twist[:, 0, 2] = torch.linspace(-0.03, 0.01, scenes)
    twist[:, 0, 4] = 2.0
    point = {"twist": twist, "E": torch.tensor(model.parts[0].E, dtype=F64)}
    iterations, record = [], solver.adjoint.record

    def listen(result):
        iterations.append(int(result.iterations.max()))
        record(result)

    solver.adjoint.record = listen

    def f(p):
        controls = [FEMControl(p["twist"])] * steps
        start = model.initial_state(scenes)
        run = rollout(solver, start, controls, {body: {"E": p["E"]}}, checkpoint=checkpoint)
        return (1e3 * run.final.x).square().sum() + run.final.v.square().sum()

    return f, point, iterations


def size_of_factors(name, scenes=2):
    """Bytes of one step's."""
    pattern = SolverFEM(MAKERS[name]()).pattern
    return scenes * 8 * pattern.count * pattern.order.width


def gradient(f, point):
    leaves = {key: value.clone().requires_grad_() for key, value in point.items()}
    f(leaves).backward()
    return leaves["twist"].grad, leaves["E"].grad


@pytest.mark.parametrize("name", MAKERS)
def test_the_gradient_is_that_of_a_factor_of_its_own(name):
    own, kept = scalar(name, 0.0), scalar(name, 256.0)
    for ours, theirs in zip(gradient(*kept[:2]), gradient(*own[:2]), strict=True):
        assert float((ours - theirs).norm()) <= 1e-9 * float(theirs.norm())
    assert set(own[2]) == {0}
    assert len(kept[2]) == 3 and all(0 < n <= MOST for n in kept[2])


@pytest.mark.parametrize("name", ["gel", "contact"])
def test_directions_by_the_last_factor_end_at_the_same_state(name, monkeypatch):
    """With one factorization a step instead of one a direction, two scenes at once."""
    ends, made = [], []
    for work in (torch.inf, 0.0):
        monkeypatch.setattr(newton, "REUSE_WORK", work)
        model = MAKERS[name]()
        solver = SolverFEM(model, FEMConfig(dt=3e-3, tol=1e-10))
        twist = torch.zeros(2, 1, 6, dtype=F64)
        twist[:, 0, 2] = torch.tensor([-0.03, 0.01])
        state, count = model.initial_state(2), 0
        for _ in range(4):
            state = solver.step(state, FEMControl(twist))
            count += solver.newton.factorizations
        ends.append(state.x)
        made.append(count)
    assert float((ends[0] - ends[1]).abs().max()) < 1e-10
    assert made[1] < 0.7 * made[0]


@pytest.mark.parametrize("name", ["gel", "contact"])
@pytest.mark.parametrize("wrt", ["twist", "E"])
def test_taylor(name, wrt):
    f, point, iterations = scalar(name, 256.0, scenes=1, tol=1e-11)
    # Small against the way from one contact to the next, 0.1 mm.
    eps = 1e-5 if (name, wrt) == ("contact", "twist") else 1e-3
    report = taylor_test(f, point, wrt=[wrt], eps0=eps, levels=3)
    assert report.passed(), report
    assert any(iterations)


@pytest.mark.parametrize("policy", ["uniform", "revolve"])
def test_checkpoints_bring_the_factors_back(policy):
    """Memory for the factors of two steps is enough for segments of two."""
    f, point, iterations = scalar("gel", 256.0, steps=4)
    theirs = gradient(f, point)
    memory = 2.1e-6 * size_of_factors("gel")
    small, point, used = scalar("gel", memory, steps=4, checkpoint=policy)
    ours = gradient(small, point)
    for a, b in zip(ours, theirs, strict=True):  # which are summed in another order
        assert float((a - b).norm()) <= 1e-14 * float(b.norm())
    assert used == iterations and 0 not in used


def test_memory_is_bounded_and_holds_the_latest():
    kept = KeptFactors(250)
    near = {0: Solve(np.copy, 100)}
    roots = [torch.full((1, 2, 3), float(k)) for k in range(4)]
    for root in roots:
        kept.put(root, near)
    assert [kept.near(root) is near for root in roots] == [False, False, True, True]
    kept.put(torch.zeros(2, 2, 3), near)  # no factor of the second scene
    assert kept.near(torch.zeros(2, 2, 3)) is None
    assert copy.deepcopy(kept).near(roots[3]) is None
    with pytest.raises(InputError, match="kept_factors"):
        SolverFEM(gel(), FEMConfig(kept_factors=-1.0))


def test_without_memory_it_factorizes_and_gives_the_same():
    """One step's factor fits, the others are made anew."""
    whole, point, _ = scalar("gel", 256.0)
    some, point, used = scalar("gel", 1.1e-6 * size_of_factors("gel"))
    for ours, theirs in zip(gradient(some, point), gradient(whole, point), strict=True):
        assert float((ours - theirs).norm()) <= 1e-9 * float(theirs.norm())
    assert used[0] > 0 and used[1:] == [0, 0]


def matrices(generator, change):
    """H (2, n, n), and solves with matrices near it."""
    root = torch.randn(2, 30, 30, dtype=F64, generator=generator)
    H = root @ root.mT + 0.1 * torch.eye(30, dtype=F64)
    other = torch.randn(2, 30, 30, dtype=F64, generator=generator)
    M = torch.linalg.inv(H + change * (other @ other.mT)).numpy()
    near = {k: Solve(lambda b, k=k: M[k] @ b, 0) for k in range(2)}
    return H, near, torch.randn(2, 30, dtype=F64, generator=generator)


def test_solves_with_a_matrix_nearby(generator):
    H, near, b = matrices(generator, 1e-6)
    b[1] = 0.0
    x, iterations, rest = solve_near(lambda v: (H @ v[..., None])[..., 0], near, b)
    assert torch.allclose((H @ x[..., None])[..., 0], b, atol=1e-9)
    assert 0 < int(iterations[0]) <= MOST and int(iterations[1]) == 0 and float(rest.max()) < 1e-8


def test_gives_up_where_it_can_not_be_trusted(generator):
    def times(A):
        return lambda v: (A @ v[..., None])[..., 0]

    H, near, b = matrices(generator, 1.0)
    assert solve_near(times(H), near, b) is None  # too far
    H, near, b = matrices(generator, 1e-6)
    assert solve_near(times(-H), near, b) is None  # not positive definite
    assert solve_near(times(H * float("nan")), near, b) is None
    calls = []

    def drifting(v):
        calls.append(v)
        return times(H)(v) * (1.0 if len(calls) < 4 else 1.1)

    assert solve_near(drifting, near, b) is None  # the residual made anew is not small


@pytest.mark.parametrize("kind", ["gel", "order 2", "sheet", "rod"])
def test_products_equal_blocks(kind, generator):
    """Every element multiplies by its exact Hessian without blocks, viscosity included."""
    if kind == "order 2":
        X, cells = quadratic(*box((2, 1, 1), (0.2, 0.1, 0.1)))
        part = Solid(name="gel", cells=cells, E=1e5, nu=0.4, rho=1000.0, order=2, eta=20.0)
        model = FEMModel(X, [part], [Handle("grip", [0, 1, 2])])
    else:
        model = MAKERS[kind](eta=20.0)
    solver, state = SolverFEM(model), model.initial_state()
    size = 0.05 * float(model.X.max())

    def noise():
        return size * torch.randn(state.x.shape, dtype=F64, generator=generator)

    terms = element_terms(
        model, solver.prepare(None, state).parts, 1, 5e-3, state.x + 0.1 * noise(), None
    )
    x, vs = (state.x + 0.1 * noise()).reshape(-1, 3), [noise().reshape(-1, 3) for _ in range(2)]
    for term in terms:
        found = term.hessian(x, project=False)
        for v in vs:
            expected = torch.zeros_like(x)
            for stencil, block in found if isinstance(found, list) else [found]:
                local = (block @ v[stencil].flatten(1)[..., None]).reshape(-1, 3)
                expected.index_add_(0, stencil.reshape(-1), local)
            error = term.product(x, v) - expected
            assert float(error.norm()) < 1e-13 * float(expected.norm())
