"""Smoke with moving obstacles whose pressure a network solves, and networks that fail."""

from __future__ import annotations

import logging

import pytest
import torch
from rheograd.operators.dcdm import (
    DCDM,
    DCDMNet,
    LinearMultigrid,
    SymmetricMultigrid,
    load_net,
    net_names,
)
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import ConvergenceError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.sim.grid import GasConfig, GasControl, GasModel, GasSolver, Nozzle
from rheograd.sim.grid.poisson import PoissonProblem, solve_poisson

F64 = torch.float64
DT = 0.05


def scene(n: int, dim: int = 2) -> GasModel:
    """A closed box with a heater, a blade that turns and a ball that flies by."""
    y = 0.5 if dim == 3 else 0.0
    heater = Nozzle("heater", (0.4, y, 0.1), (0.0, 0.0, 1.0), 0.0, 0.1, 8.0, 343.15, 1.0)
    blade = Collider(Box((0.18, 0.3, 0.05)), position=(0.4, y, 0.4))
    ball = Collider(Sphere(0.12), position=(0.6, y, 0.75))
    return GasModel((n,) * dim, 1 / n, obstacles=[blade, ball], nozzles=[heater])


def motion(like: torch.Tensor) -> GasControl:
    twist = like.new_zeros(1, 2, 6)
    twist[0, 0, 4], twist[0, 1, 0] = 3.0, -0.8
    return GasControl(tool_twist=twist)


def run(method, n: int = 24, dim: int = 2, frames: int = 4, dtype=torch.float32):
    model = scene(n, dim)
    # In the norm of the largest cell the rest may be a little more than in that of the tolerance.
    tol = 3e-7 if dtype == torch.float32 else None
    solver = GasSolver(model, GasConfig(dt=DT, pressure=method, tol=tol))
    state, masks = model.initial_state(dtype=dtype), []
    for _ in range(frames):
        state = solver.step(state, motion(state.u_x))
        solids = solver.solids(state.tool_pose)
        masks.append(solids.fluid)
        assert solver.info.residual <= (1e-6 if dtype == torch.float32 else 1e-10)
        total = solver.grid.divergence(tuple(f.double() for f in state.u)) * solids.fluid
        speed = max(float(f.abs().max()) for f in state.u)
        assert float(total.abs().max()) * model.dx <= 1e-6 * speed
        for f, w in zip(state.u, solids.open, strict=True):
            assert bool(f.isfinite().all()) and float(w.min()) == 0.0
    assert not torch.equal(masks[0], masks[-1])  # the matrix did change
    assert float(state.smoke.max()) > 0.05 and speed > 0.5
    return state


@pytest.mark.parametrize("name", [n for n in net_names() if n.endswith("2d")])
def test_smoke_around_moving_obstacles_stays_free_of_divergence(name, caplog) -> None:
    """Every network that ships: as far as multigrid brings it, without help from CG."""
    history = 8 if name.startswith("dcdm") else 2
    frames = 2 if name.startswith("dcdm") else 4
    with caplog.at_level(logging.WARNING):
        ours = run(DCDM(load_net(name), history), frames=frames)
    assert "CG" not in caplog.text
    other = run("multigrid", frames=frames)
    torch.testing.assert_close(ours.smoke, other.smoke, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in net_names() if n.endswith("3d")])
def test_smoke_in_three_dimensions(name, caplog) -> None:
    """Every network that ships; the symmetric one down to what float64 allows."""
    dtype = F64 if name.startswith("symmetric") else torch.float32
    method = DCDM(load_net(name), 8 if name.startswith("dcdm") else 2)
    with caplog.at_level(logging.WARNING):
        run(method, n=12, dim=3, frames=2, dtype=dtype)
    assert "CG" not in caplog.text


def test_steps_driven_by_a_network_are_differentiable(generator) -> None:
    """Forward and adjoint solves by the same network; through two frames with different obstacles."""
    model = scene(10)
    method = DCDM(SymmetricMultigrid(smooth=True, generator=generator))
    solver = GasSolver(model, GasConfig(dt=DT, pressure=method, tol=1e-12))
    start = model.initial_state(dtype=F64)
    goal = torch.randn(10, 10, generator=generator, dtype=F64)

    def loss(push: torch.Tensor) -> torch.Tensor:
        state = start
        for _ in range(2):
            control = motion(state.u_x)
            zero = torch.zeros(1, *model.grid.face_shape(1), dtype=F64)
            control.acceleration = (push, zero)
            state = solver.step(state, control)
        return (state.pressure[0] * goal).sum() + state.u_x.square().sum()

    push = torch.randn(1, *model.grid.face_shape(0), generator=generator, dtype=F64)
    assert taylor_test(loss, push, eps0=1e-2, levels=4).passed()


def test_networks_that_fail_are_noticed(generator, caplog) -> None:
    """Weights that are not a number, and a symmetric network whose certificate is lost."""
    problem = PoissonProblem((20, 20), 1 / 20)
    b = torch.randn(20, 20, generator=generator, dtype=F64)
    exact = solve_poisson(problem, b, "direct").u
    for net in (SymmetricMultigrid(), LinearMultigrid(2), DCDMNet(2, channels=2)):
        with torch.no_grad():
            list(net.parameters())[-1].fill_(torch.nan)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = solve_poisson(problem, b, DCDM(net))
        assert "finite directions" in caplog.text
        torch.testing.assert_close(found.u, exact, rtol=1e-6, atol=1e-9)
        with pytest.raises(ConvergenceError, match="finite directions"):
            solve_poisson(problem, b, DCDM(net, fallback=False))
    net = SymmetricMultigrid()
    with torch.no_grad():
        net.omega.fill_(1.3)
    assert net.certified() > 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found = solve_poisson(problem, b, DCDM(net))
    assert "flexible loop" in caplog.text
    torch.testing.assert_close(found.u, exact, rtol=1e-6, atol=1e-9)


def test_a_symmetric_network_that_stalls_in_plain_cg_falls_back(generator, caplog) -> None:
    problem = PoissonProblem((48, 48), 1 / 48, "neumann")
    b = torch.randn(48, 48, generator=generator, dtype=F64).cumsum(0)
    net = SymmetricMultigrid()
    with torch.no_grad():
        net.scale.fill_(-20.0)  # positive definite still, but without coarse levels
    method = DCDM(net, patience=5, progress=0.05)
    assert method.plain
    with caplog.at_level(logging.WARNING):
        found = solve_poisson(problem, b, method, inconsistent="project")
    assert "Going on with CG" in caplog.text
    exact = solve_poisson(problem, b, "fft", inconsistent="project").u
    torch.testing.assert_close(found.u, exact, rtol=1e-6, atol=1e-6)
    with pytest.raises(ConvergenceError):
        stubborn = DCDM(net, patience=5, progress=0.05, fallback=False)
        solve_poisson(problem, b, stubborn, inconsistent="project")
