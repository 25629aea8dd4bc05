"""What every solver promises: batches, purity, determinism, precision, errors that say what to do."""

from __future__ import annotations

import math

import pytest
import torch
from fem_scenes import gel, rope, strip
from rheograd.sim.core.errors import ConvergenceError, InputError, StateError
from rheograd.sim.core.rollout import rollout
from rheograd.sim.fem import (
    FEMConfig,
    FEMControl,
    FEMModel,
    FEMState,
    Handle,
    Rod,
    Sheet,
    Solid,
    SolverFEM,
)
from rheograd.sim.fem.meshes import box, line, rectangle


def shaken(model, B, generator):
    state = model.initial_state(B)
    return state.replace(
        v=0.1 * torch.randn(state.v.shape, generator=generator, dtype=torch.float64)
    )


@pytest.mark.parametrize("linear", ["sparse", "dense"])
@pytest.mark.parametrize("make", [gel, strip, rope])
def test_batch_is_a_loop(make, linear, generator):
    """Scenes do not know of each other, whatever their parameters are."""
    model = make()
    solver = SolverFEM(model, FEMConfig(dt=5e-3, linear=linear, tol=1e-10))
    state, name = shaken(model, 3, generator), model.parts[0].name
    E = torch.tensor([[0.5], [1.0], [3.0]], dtype=torch.float64) * model.parts[0].E
    gravity = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    twist = 0.1 * torch.randn(3, 1, 6, generator=generator, dtype=torch.float64)
    params = {name: {"E": E}, "scene": {"gravity": gravity}}
    together = rollout(solver, state, [FEMControl(twist)] * 3, params).final
    for b in range(3):
        params = {name: {"E": E[b]}, "scene": {"gravity": gravity[b]}}
        alone = rollout(solver, state[b], [FEMControl(twist[b : b + 1])] * 3, params).final
        assert float((alone.x[0] - together.x[b]).abs().max()) < 1e-10
        assert float((alone.v[0] - together.v[b]).abs().max()) < 1e-8


@pytest.mark.parametrize("linear", ["dense", "cg"])
def test_linear_solvers_agree(linear, generator):
    model = strip()
    state = shaken(model, 2, generator)
    runs = []
    for kind in ("sparse", linear):
        solver = SolverFEM(model, FEMConfig(dt=5e-3, linear=kind, tol=1e-9))
        runs.append(rollout(solver, state, 4, save_every=4).final.x)
    assert float((runs[0] - runs[1]).abs().max()) < 1e-8


def test_two_runs_are_equal_to_the_bit(generator):
    model = strip((6, 4))
    start = shaken(model, 2, generator)
    ends = [
        rollout(SolverFEM(model, FEMConfig(dt=5e-3)), start, 4, save_every=4).final for _ in "ab"
    ]
    assert torch.equal(ends[0].x, ends[1].x) and torch.equal(ends[0].v, ends[1].v)


def test_step_is_pure(generator):
    model = gel()
    solver, state = SolverFEM(model), shaken(model, 2, generator)
    kept = state.clone()
    twist = torch.full((2, 1, 6), 0.1, dtype=torch.float64)
    force = torch.zeros_like(state.x)
    new = solver.step(state, FEMControl(twist, force))
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, getattr(kept, name))
    new.x.zero_()
    assert torch.equal(state.x, kept.x) and bool((twist == 0.1).all())


def test_residual_is_what_was_asked_for(generator):
    """Newton's method converges in few directions, and its residual counts in newtons."""
    model = strip((8, 4))
    for tol in (1e-4, 1e-8):
        solver = SolverFEM(model, FEMConfig(dt=5e-3, tol=tol))
        solver.step(shaken(model, 2, generator))
        assert solver.newton.residual <= tol + 1e-11
        assert solver.newton.iterations <= 15


def test_an_indefinite_hessian_is_projected(generator):
    """A strip between two clamps that come closer has to buckle."""
    X, triangles = rectangle((10, 2), (0.1, 0.02))
    part = Sheet(name="strip", cells=triangles, E=1e7, nu=0.3, h=1e-3, rho=1000.0)
    ends = [Handle("left", torch.arange(6)), Handle("right", torch.arange(27, 33))]
    model = FEMModel(X, [part], ends, gravity=(0.0, 0.0, 0.0))
    x = X + 1e-5 * torch.randn(X.shape, generator=generator, dtype=torch.float64)
    solver = SolverFEM(model, FEMConfig(scheme="static", dt=1.0))
    twist = torch.zeros(1, 2, 6, dtype=torch.float64)
    twist[0, 1, 0] = -0.005
    state = solver.step(model.initial_state(x=x), FEMControl(twist))
    assert solver.newton.projections > 0
    assert solver.newton.residual < 1e-6
    assert float(state.x[0, :, 2].abs().max()) > 0.005


def test_creases_change_the_rest_shape():
    """A strip with rest angles bends by itself; zero rest angles flatten a curved one."""
    model = strip((8, 2))
    flat = FEMModel(model.X, model.parts, model.handles, gravity=(0.0, 0.0, 0.0))
    solver = SolverFEM(flat, FEMConfig(scheme="static"))
    start = flat.initial_state(creases=True)
    points = flat.parts[0].hinges[0]
    across = model.X[points[:, 0], 0] == model.X[points[:, 1], 0]
    angles = torch.where(across, 0.1, 0.0).double().expand(1, -1)
    bent = solver.step(start.replace(theta_ref=angles))
    assert float(bent.x[0, :, 2].max()) > 0.005
    back = solver.step(bent.replace(theta_ref=torch.zeros_like(angles)))
    assert float(back.x[0, :, 2].abs().max()) < 1e-6


def test_parts_share_points():
    """A sheet glued on a block: masses add up, both act."""
    X, tets = box((2, 2, 1), (0.1, 0.1, 0.02))
    top = (X[:, 2] == 0.02).nonzero()[:, 0]
    _, triangles = rectangle((2, 2), (0.1, 0.1))
    parts = [
        Solid(name="gel", cells=tets, E=1e4, nu=0.3, rho=1000.0),
        Sheet(name="film", cells=top[triangles], E=1e8, nu=0.3, h=1e-4, rho=1000.0),
    ]
    model = FEMModel(X, parts, [Handle("grip", (X[:, 0] == 0).nonzero()[:, 0])])
    solver = SolverFEM(model)
    mass = solver.prepare(None, model.initial_state()).mass
    assert float(mass.sum()) == pytest.approx(1000 * (0.1 * 0.1 * 0.02) + 1000 * 1e-4 * 0.01)
    bare = FEMModel(X, parts[:1], model.handles)
    ends = [
        rollout(SolverFEM(m, FEMConfig(scheme="static")), m.initial_state(), 1).final
        for m in (model, bare)
    ]
    sags = [float((X - end.x[0])[:, 2].max()) for end in ends]
    assert sags[0] < 0.7 * sags[1]


def sheet(cells, **changes):
    values = dict(name="s", cells=torch.tensor(cells), E=1e6, nu=0.3, h=1e-3, rho=1e3) | changes
    return Sheet(**values)


FOUR = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)


def bad_models():
    solid = dict(name="s", E=1e6, nu=0.3, rho=1e3)
    good = Solid(cells=torch.tensor([[0, 1, 2, 3]]), **solid)
    yield (
        "positive rest measure",
        lambda: FEMModel(FOUR, [Solid(cells=torch.tensor([[0, 2, 1, 3]]), **solid)]),
    )
    yield "positive rest measure", lambda: FEMModel(FOUR * torch.tensor([1.0, 1, 0]), [good])
    yield (
        "points 0 … 3",
        lambda: FEMModel(FOUR, [Solid(cells=torch.tensor([[0, 1, 2, 4]]), **solid)]),
    )
    yield "every point in a cell", lambda: FEMModel(FOUR, [sheet([[0, 1, 2]])])
    yield "manifold", lambda: sheet([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    yield "oriented", lambda: sheet([[0, 1, 2], [0, 1, 3]])
    yield (
        "without forks",
        lambda: Rod(name="r", cells=torch.tensor([[0, 1], [0, 2], [0, 3]]), E=1e6, r=1e-3, rho=1e3),
    )
    yield "law out of", lambda: Solid(cells=torch.tensor([[0, 1, 2, 3]]), law="spring", **solid)
    yield "different names", lambda: FEMModel(FOUR, [good, good])
    yield "each in one handle", lambda: FEMModel(FOUR, [good], [Handle("a", [0]), Handle("b", [0])])
    yield "integers (S, 4)", lambda: Solid(cells=torch.zeros(1, 4), **solid)
    yield "scheme out of", lambda: SolverFEM(gel(), FEMConfig(scheme="rk4"))
    yield "dt > 0", lambda: SolverFEM(gel(), FEMConfig(dt=0.0))


@pytest.mark.parametrize("expected, make", list(bad_models()))
def test_models_that_make_no_sense(expected, make):
    with pytest.raises(InputError, match=expected.replace("(", r"\(").replace(")", r"\)")):
        make()


def test_a_fork_of_triangles_is_fine_without_bending():
    X = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.5, 1, 0], [0.5, -1, 0], [0.5, 0, 1]]).double()
    part = sheet([[0, 1, 2], [1, 0, 3], [0, 1, 4]], bending=False)
    model = FEMModel(X, [part], [Handle("pin", [0])])
    assert bool(torch.isfinite(SolverFEM(model).step(model.initial_state()).x).all())


@pytest.mark.parametrize(
    "params, expected",
    [
        ({"jelly": {"E": 1.0}}, "jelly"),
        ({"gel": {"G": 1.0}}, "gel.G"),
        ({"gel": {"E": -1.0}}, "E > 0"),
        ({"gel": {"nu": 0.5}}, "nu < 0.5"),
        ({"gel": {"rho": math.nan}}, "rho > 0"),
        ({"gel": {"E": torch.ones(5)}}, "shape"),
        ({"scene": {"gravity": torch.ones(2)}}, "gravity"),
        ({"scene": {"drag": -1.0}}, "drag"),
    ],
)
def test_parameters_that_make_no_sense(params, expected):
    model = gel()
    with pytest.raises(InputError, match=expected):
        SolverFEM(model).step(model.initial_state(2), params=params)


def test_states_and_controls_that_make_no_sense():
    model = gel()
    solver, state = SolverFEM(model), model.initial_state(2)
    with pytest.raises(InputError, match="float64"):
        solver.step(state.to(torch.float32))
    with pytest.raises(InputError, match="state.x"):
        solver.step(state.replace(x=state.x[:, :-1]))
    with pytest.raises(InputError, match="twist"):
        solver.step(state, FEMControl(torch.zeros(2, 3, 6).double()))
    with pytest.raises(StateError, match="twist"):
        solver.step(state, FEMControl(torch.full((2, 1, 6), math.nan).double()))
    with pytest.raises(StateError, match="finite x"):
        solver.step(state.replace(x=state.x / 0))
    with pytest.raises(InputError, match="x of shape"):
        model.initial_state(x=torch.zeros(3, 3))


def test_failure_says_how_far_it_got():
    model = strip()
    solver = SolverFEM(model, FEMConfig(dt=5e-3, max_iterations=2))
    twist = torch.zeros(1, 1, 6, dtype=torch.float64)
    twist[..., 4] = 200.0
    with pytest.raises(ConvergenceError, match="after 2 iterations") as caught:
        solver.step(model.initial_state(), FEMControl(twist))
    assert caught.value.residual > caught.value.tol
    loose = FEMModel(model.X, model.parts, gravity=(0.0, 0.0, -1.0))
    with pytest.raises(ConvergenceError, match="regular Hessian|lower energy|residual"):
        SolverFEM(loose, FEMConfig(scheme="static", max_iterations=20)).step(loose.initial_state())


def test_inverted_start_of_a_barrier_law():
    X, tets = box((1, 1, 1), (0.1, 0.1, 0.1))
    for law, ok in (("neo_hookean", False), ("stable_neo_hookean", True)):
        solid = Solid(name="gel", cells=tets, E=1e4, nu=0.3, rho=1e3, law=law)
        model = FEMModel(X, [solid])
        state = model.initial_state(x=X * torch.tensor([-1.0, 1.0, 1.0]))
        if ok:
            assert isinstance(SolverFEM(model).step(state), FEMState)
        else:
            with pytest.raises(StateError, match="finite energy"):
                SolverFEM(model).step(state)


def test_meshes():
    X, tets = box((2, 3, 1), (0.2, 0.3, 0.1))
    edges = X[tets[:, 1:]] - X[tets[:, :1]]
    assert float(torch.linalg.det(edges).min()) > 0
    assert float(torch.linalg.det(edges).sum() / 6) == pytest.approx(0.006)
    for crossed in (True, False):
        X, triangles = rectangle((3, 2), (0.3, 0.2), crossed)
        a, b, c = X[triangles].unbind(1)
        assert float(torch.linalg.cross(b - a, c - a)[:, 2].min()) > 0
    assert len(line(4, 1.0)[1]) == 4
