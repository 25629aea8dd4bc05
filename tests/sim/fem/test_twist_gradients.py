"""Gradients of rods that twist: Taylor tests in motion, central differences in equilibrium."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers import relative_error
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.rollout import rollout
from rheograd.sim.fem import FEMConfig, FEMControl, FEMModel, Handle, Rod, SolverFEM, sections
from rheograd.sim.fem.meshes import line

MATERIAL = {
    "E": 1e7, "nu": 0.3, "rho": 1000.0, "eta": 3e3, "r": 3e-3,
    "k_bend": 0.7, "k_twist": 1.2, "twist_ref": 4.0,
}  # fmt: skip
INPUTS = ("x", "twist", "X", *(f"material.{key}" for key in ("nu", "eta", "r", "k_bend")))


@functools.lru_cache
def problem(scheme="euler"):
    """A scalar of two steps of a bent, twisted rod whose grips turn, and a point."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def number(value):
        return torch.tensor(value, dtype=torch.float64)

    a = torch.linspace(0, 1.5, 5, dtype=torch.float64)
    X, cells = sections(0.2 * torch.stack((a.sin(), a.cos(), 0.1 * a), 1), line(4, 1.0)[1], 3e-3)
    rod = Rod(name="rod", cells=cells, twist=True, **MATERIAL)
    model = FEMModel(X, [rod], [Handle("a", cells[0]), Handle("b", cells[-1])])
    solver = SolverFEM(model, FEMConfig(dt=4e-3, scheme=scheme, tol=1e-11))
    start = model.initial_state()
    size = 1e-4
    point = {
        "material": {key: number(value) for key, value in MATERIAL.items()},
        "x": start.x + size * noise(*start.x.shape),
        "v": 0.05 * noise(*start.x.shape),
        "twist": 0.05 * noise(2, 1, 2, 6) + number([0, 0, 0, 30.0, 0, 0]),
        "X": X + size * noise(*X.shape),
        "pose": start.pose.clone(),
    }
    weight = noise(*start.x.shape)

    def f(p):
        state = start.replace(x=p["x"], v=p["v"], pose=p["pose"])
        params = {"rod": p["material"], "scene": {"X": p["X"]}}
        final = rollout(solver, state, [FEMControl(t) for t in p["twist"]], params).final
        return (weight * final.x).sum() / size + (weight * final.v).square().sum()

    return f, point


@pytest.mark.parametrize("wrt", INPUTS)
def test_gradients(wrt):
    eps = {"x": 1e-5, "X": 1e-5, "twist": 2e-3}.get(wrt, 1e-3)
    f, point = problem()
    report = taylor_test(f, point, wrt=[wrt], eps0=eps, levels=3)
    assert report.passed(), (wrt, report)


@pytest.mark.parametrize("wrt", ["twist", "material.k_twist", "material.E", "material.twist_ref"])
def test_gradients_in_equilibrium(wrt):
    """End angle, GJ and twist at rest, against central differences."""
    f, point = problem("static")
    group, _, key = wrt.partition(".")
    value = point[group][key] if key else point[group]
    d = torch.linspace(0.3, 1.0, value.numel(), dtype=torch.float64).view_as(value)
    d = d * max(1.0, float(value.abs().max()))

    def along(s):
        moved = value + s * d
        return f(point | {group: point[group] | {key: moved} if key else moved})

    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(along(s), s)
    with torch.no_grad():
        central = (along(s + 3e-4) - along(s - 3e-4)) / 6e-4
    assert relative_error(slope, central) < 1e-6
