"""Gradients of several steps: Taylor tests for every differentiable input."""

from __future__ import annotations

import functools

import pytest
import torch
from fem_scenes import gel, rope, strip
from rheograd.sim.core.gradients import check_backward_twice, taylor_test
from rheograd.sim.core.rollout import rollout
from rheograd.sim.fem import FEMConfig, FEMControl, SolverFEM

MAKERS = {"gel": gel, "sheet": strip, "rod": rope}
MATERIAL = {
    "gel": {"E": 1e5, "nu": 0.4, "rho": 1000.0, "eta": 20.0},
    "sheet": {"E": 1e7, "nu": 0.3, "rho": 800.0, "eta": 300.0, "h": 5e-4, "k_bend": 1.3},
    "rod": {"E": 1e7, "rho": 1000.0, "eta": 300.0, "r": 3e-3, "k_bend": 0.7},
}
FORCE = {"gel": 1.0, "sheet": 1e-3, "rod": 0.1}
INPUTS = ("x", "v", "twist", "force", "X", "gravity", "drag", "theta_ref", "pose")


def number(value):
    return torch.tensor(value, dtype=torch.float64)


@functools.lru_cache
def problem(name, scheme="euler", linear="sparse", steps=2, creases=False):
    """A scalar of a rollout as a function of everything it depends on, and a point."""
    model = MAKERS[name]()
    generator = torch.Generator().manual_seed(1)
    N, size = model.point_count, float(model.X.max()) / 100
    # The residual has to be small against the second-order remainders of the Taylor test.
    config = FEMConfig(dt=4e-3, scheme=scheme, linear=linear, tol=1e-11 if linear != "cg" else 1e-9)
    solver = SolverFEM(model, config)

    def noise(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    start = model.initial_state(creases=creases)
    bend = 0.2 * torch.sin(20 * model.X[:, :1]) * model.X.max() * torch.tensor([0.0, 0, 0.2])
    point = {
        "material": {key: number(value) for key, value in MATERIAL[name].items()},
        "x": start.x + 0.1 * size * noise(1, N, 3) + bend,
        "v": 0.1 * noise(1, N, 3),
        "twist": 0.1 * noise(steps, 1, 1, 6) + number([0, 0, 0.05, 0, 1.0, 0]),
        "force": FORCE[name] * noise(1, N, 3),
        "X": model.X + 0.05 * size * noise(N, 3),
        "gravity": number([0.5, 0.0, -9.81]),
        "drag": number(0.7),
        "pose": start.pose.clone(),
    }
    if creases:
        point["theta_ref"] = start.theta_ref + 0.1 * noise(*start.theta_ref.shape)
    weight = noise(1, N, 3)

    def f(p):
        state = start.replace(x=p["x"], v=p["v"], theta_ref=p.get("theta_ref"), pose=p["pose"])
        scene = {"X": p["X"], "gravity": p["gravity"], "drag": p["drag"]}
        controls = [FEMControl(twist, p["force"]) for twist in p["twist"]]
        params = {name: p["material"], "scene": scene}
        final = rollout(solver, state, controls, params).final
        return (weight * final.x).sum() / size + (weight * final.v).square().sum()

    return f, point, solver


def assert_taylor(f, point, wrt, eps0=1e-2):
    report = taylor_test(f, point, wrt=[wrt], eps0=eps0, levels=3)
    assert report.passed(), (wrt, report)


CASES = [("sheet", wrt) for wrt in INPUTS]
CASES += [(name, wrt) for name in ("gel", "rod") for wrt in ("x", "twist", "X")]


@pytest.mark.parametrize("name, wrt", CASES)
def test_scene_inputs(name, wrt):
    f, point, _ = problem(name, creases=name == "sheet")
    # Positions vary by less than a cell, which is small against the scene.
    eps = {"X": 5e-5, "x": 1e-3, "pose": 1e-3, "theta_ref": 1e-3}.get(wrt, 1e-2)
    assert_taylor(f, point, wrt, eps)


@pytest.mark.parametrize("name, key", [(n, k) for n in MAKERS for k in MATERIAL[n]])
def test_material(name, key):
    f, point, _ = problem(name)
    assert_taylor(f, point, f"material.{key}", 2e-3)


@pytest.mark.parametrize("scheme", ["bdf2", "midpoint", "static"])
@pytest.mark.parametrize("wrt", ["x", "twist", "material.E"])
def test_schemes(scheme, wrt):
    f, point, _ = problem("gel", scheme, steps=3)
    assert_taylor(f, point, wrt, 1e-3 if wrt == "x" else 1e-2)


@pytest.mark.parametrize("linear", ["dense", "cg"])
def test_linear_solvers_give_the_same_gradient(linear):
    value, grads = value_and_grad(*problem("gel")[:2])
    other, theirs = value_and_grad(*problem("gel", linear=linear)[:2])
    assert abs(other / value - 1) < 1e-8
    for key, grad in grads.items():
        assert float((theirs[key] - grad).norm()) < 1e-6 * float(grad.norm()), key


def value_and_grad(f, point):
    leaves = {k: v.clone().requires_grad_() for k, v in point.items() if k != "material"}
    value = f(leaves | {"material": point["material"]})
    value.backward()
    return float(value.detach()), {k: v.grad for k, v in leaves.items()}


def test_backward_twice_and_bits():
    f, point, _ = problem("sheet", creases=True)
    assert check_backward_twice(f, point).passed()


def test_checkpoints_give_the_same_gradient():
    model = strip()
    solver = SolverFEM(model, FEMConfig(dt=4e-3, scheme="bdf2"))
    results = []
    for policy in ("none", "uniform", "revolve"):
        E = torch.tensor(1e7, dtype=torch.float64, requires_grad=True)
        twist = torch.zeros(3, 1, 1, 6, dtype=torch.float64, requires_grad=True)
        controls = [FEMControl(t) for t in twist.unbind(0)]
        start = model.initial_state(creases=True)
        run = rollout(solver, start, controls, {"sheet": {"E": E}}, checkpoint=policy, save_every=3)
        run.final.x[..., 2].square().sum().backward()
        results.append((E.grad, twist.grad))
    for E, twist in results[1:]:
        assert torch.equal(E, results[0][0]) and torch.equal(twist, results[0][1])


def test_gradients_through_a_crease_update():
    """A return map after the step is torch code: rest angles carry the gradient on."""
    f, point, solver = problem("sheet", creases=True)
    from rheograd.sim.fem import hinge_angle

    points = solver.model.parts[0].hinges[0]
    weight = torch.linspace(0, 1, len(points), dtype=torch.float64)

    def g(E):
        state = solver.model.initial_state(x=point["x"][0], v=point["v"][0], creases=True)
        for twist in point["twist"]:
            state = solver.step(state, FEMControl(twist), {"sheet": {"E": E}})
            change = hinge_angle(state.x[:, points]) - state.theta_ref
            excess = torch.relu(change.abs() - 0.01) * change.sign()
            state = state.replace(theta_ref=state.theta_ref + excess)
        return (weight * state.theta_ref).sum()

    assert taylor_test(g, point["material"]["E"]).passed()
