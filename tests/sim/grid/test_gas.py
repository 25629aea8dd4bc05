"""The gas solver: physics with closed forms, the solver contract, derivatives, errors."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import cosine, slope
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import InputError, StabilityError, StateError
from rheograd.sim.core.gradients import check_backward_twice, taylor_test
from rheograd.sim.core.rollout import rollout
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.sim.grid import GasConfig, GasControl, GasModel, GasSolver, Nozzle

F64 = torch.float64
LIKE = torch.zeros((), dtype=F64)


def room(dim: int = 3, **changes) -> GasModel:
    """A small room with a pillar, a window and a fan that cools."""
    if dim == 2:
        fan = Nozzle("fan", (0.5, 0.0, 0.6), (1.0, 0.0, 0.2), 8.0, 0.2, 4.0, 283.15, 0.5)
        pillar = Collider(Box((0.2, 1.0, 0.2)), position=(1.3, 0.0, 0.6))
        cells: tuple[int, ...] = (20, 12)
    else:
        fan = Nozzle("fan", (0.5, 0.6, 0.3), (1.0, 0.2, 0.0), 8.0, 0.2, 4.0, 283.15, 0.5)
        pillar = Collider(Box((0.2, 0.2, 1.0)), position=(1.3, 0.6, 0.2))
        cells = (16, 10, 3)
    options = {"walls": {"x+": "open"}, "obstacles": [pillar], "nozzles": [fan], "weight": 0.8}
    return GasModel(cells, 0.1, **(options | changes))


def stirred(model: GasModel, solver: GasSolver, steps: int = 3, batch: int = 1):
    """A state with motion."""
    state = model.initial_state(batch, dtype=F64)
    for _ in range(steps):
        state = solver.step(state)
    return state.detach()


def test_warm_air_rises_with_g_beta_dT() -> None:
    """A periodic curtain, where no pressure hinders it, at once and exactly."""
    model = GasModel((16, 8), 0.1, walls="periodic")
    x = model.grid.points(None, LIKE)[..., 0]
    warm = torch.sin(2 * math.pi * x / 1.6)
    state = model.initial_state(temperature=model.ambient + 5.0 * warm, dtype=F64)
    dt = 1e-3
    end = GasSolver(model, GasConfig(dt=dt)).step(state)
    torch.testing.assert_close(end.u_z[0] / dt, 9.81 * 5.0 / 293.15 * warm, rtol=1e-9, atol=1e-9)
    assert float(end.u_x.abs().max()) < 1e-12


@pytest.mark.parametrize("dim,share", [(2, 1 / 2), (3, 2 / 3)])
def test_hot_bubble_starts_with_the_added_mass_of_its_surroundings(dim, share) -> None:
    """A light cylinder begins with ½ g β ΔT, a sphere with ⅔: the rest moves the air around."""
    n, radius = (96, 0.1) if dim == 2 else (40, 0.125)
    model = GasModel((n,) * dim, 1 / n)
    r = (model.grid.points(None, LIKE) - 0.5).norm(dim=-1)
    inside = (0.5 - (r - radius) * n).clamp(0, 1)  # cells cut by the surface count in part
    state = model.initial_state(temperature=model.ambient + 10.0 * inside, dtype=F64)
    dt = 1e-4
    end = GasSolver(model, GasConfig(dt=dt)).step(state)
    a = float(model.grid.at_cells(end.u)[0][r < 0.5 * radius].mean(0)[-1]) / dt
    confined = 1 - math.pi * radius**2 if dim == 2 else 1.0  # walls at finite distance
    assert a / (9.81 * 10.0 / 293.15) == pytest.approx(share * confined, rel=0.03)


def test_still_air_stays_still() -> None:
    model = room(2, nozzles=())
    end = rollout(GasSolver(model), model.initial_state(), 3, save_every=3).final
    assert float(end.u_x.abs().max()) == 0.0 and float(end.u_z.abs().max()) == 0.0
    assert bool((end.temperature == end.temperature[0, 0, 0]).all())


def taylor_green(n: int, advection: str) -> float:
    model = GasModel((n, n), 1 / n, walls="periodic", rho=1.0, eta=0.005, gravity=(0.0, 0.0))
    k = 2 * math.pi
    x, z = (model.grid.points(a, LIKE) for a in range(2))
    u = torch.sin(k * x[..., 0]) * torch.cos(k * x[..., 1])
    w = -torch.cos(k * z[..., 0]) * torch.sin(k * z[..., 1])
    state = model.initial_state(dtype=F64).with_u((u[None], w[None]))
    steps = n
    solver = GasSolver(model, GasConfig(dt=0.2 / steps, advection=advection))
    for _ in range(steps):
        state = solver.step(state)
    exact = math.exp(-2 * 0.005 * k**2 * 0.2) * u
    return float((state.u_x[0] - exact).norm() / exact.norm())


@pytest.mark.parametrize("advection,order", [("semi_lagrangian", 1.0), ("maccormack", 1.0)])
def test_taylor_green_vortices_decay(advection, order) -> None:
    sizes = [12, 24, 48]
    errors = [taylor_green(n, advection) for n in sizes]
    assert slope([1 / n for n in sizes], errors) == pytest.approx(order, abs=0.25)


def test_couette_flow_between_a_lid_and_the_floor() -> None:
    """Linear profile: the wall's no-slip ghost values are exact for it."""
    model = GasModel(
        (4, 8),
        0.1,
        walls={"x-": "periodic", "x+": "periodic"},
        wall_velocity={"z+": (0.3, 0.0)},
        rho=1.0,
        eta=0.1,
    )
    z = model.grid.points(0, LIKE)[..., 1]
    profile = (0.3 * z / 0.8)[None]
    state = model.initial_state(dtype=F64)
    state = state.with_u((profile, state.u_z))
    end = GasSolver(model, GasConfig(dt=0.02)).step(state)
    torch.testing.assert_close(end.u_x, profile, rtol=1e-12, atol=1e-12)


def test_gas_sticks_to_an_obstacle_that_carries_it_along() -> None:
    """Couette flow over a moving slab; its no-slip stands half a cell deep, on the solid's faces."""
    slab = Collider(Box((5.0, 1.0, 0.3)), position=(0.2, 0.0, 0.0))
    model = GasModel(
        (4, 8),
        0.1,
        walls={"x-": "periodic", "x+": "periodic"},
        wall_velocity={"z+": (0.3, 0.0)},
        obstacles=[slab],
        rho=1.0,
        eta=0.1,
    )
    z = model.grid.points(0, LIKE)[..., 1]
    profile = torch.where(z < 0.3, -0.2, -0.2 + 0.5 * (z - 0.25) / 0.55)[None]
    state = model.initial_state(dtype=F64)
    state = state.with_u((profile, state.u_z))
    twist = torch.zeros(1, 1, 6, dtype=F64)
    twist[0, 0, 0] = -0.2
    end = GasSolver(model, GasConfig(dt=0.02)).step(state, GasControl(tool_twist=twist))
    torch.testing.assert_close(end.u_x, profile, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3])
def test_nothing_flows_through_obstacles_and_divergence_vanishes(dim) -> None:
    model = room(dim)
    solver = GasSolver(model, GasConfig(dt=0.05))
    state = stirred(model, solver, 5)
    solids = solver.solids(state.tool_pose)
    assert not bool(solids.fluid.all())
    speed = max(float(f.abs().max()) for f in state.u)
    assert float((model.grid.divergence(state.u) * solids.fluid).abs().max()) < 1e-8 * speed / 0.1
    for f, w in zip(state.u, solids.open, strict=True):
        assert float(f[(w == 0).expand_as(f)].abs().max()) == 0.0
    gas = solids.fluid.expand_as(state.temperature)
    assert (
        283.0 < float(state.temperature[gas].min()) < 293.0 < float(state.temperature.max()) + 0.2
    )


def test_an_inflow_leaves_through_the_opening() -> None:
    model = GasModel((12, 6), 0.1, walls={"x+": "open"}, wall_velocity={"x-": (0.4, 0.0)})
    end = GasSolver(model, GasConfig(dt=0.05)).step(model.initial_state(dtype=F64))
    assert float(end.u_x[..., -1, :].sum() * 0.1) == pytest.approx(0.4 * 0.6, rel=1e-9)
    closed = dataclasses.replace(model, walls="wall")
    with pytest.raises(InputError, match="no net flow into enclosed regions.*Open a side"):
        GasSolver(closed, GasConfig(dt=0.05)).step(closed.initial_state())


@pytest.mark.parametrize(
    "shape,height", [("voxels", 0.35), ("voxels", 1.0), ("fractions", 0.4), ("fractions", 1.0)]
)
def test_a_piston_pushes_its_volume_through_the_opening(shape, height) -> None:
    """v·h leaves per second, step after step, whether or not the piston fills the channel."""
    piston = Collider(Box((1.0, 1.0, height)), position=(-0.7, 0.0, 0.0), name="piston")
    model = GasModel((14, 8), 0.1, walls={"x+": "open"}, obstacles=[piston], shape=shape)
    solver = GasSolver(model, GasConfig(dt=0.1))
    state = model.initial_state(dtype=F64)
    twist = torch.zeros(1, 1, 6, dtype=F64)
    twist[0, 0, 0] = 0.25
    area = min(height, 0.8)
    if shape == "voxels":
        area = 0.1 * math.ceil(area / 0.1 - 0.5)
    for _ in range(8):
        state = solver.step(state, GasControl(tool_twist=twist))
        flux = float((state.u_x[..., -1, :]).sum() * 0.1)
        assert flux == pytest.approx(0.25 * area, rel=1e-8)
    # The end of it passed −0.7 + 1.0 + 8 · 0.1 · 0.25 m.
    assert not bool(solver.solids(state.tool_pose).fluid[0, :4, 0].any())


def test_smoke_sum_is_kept_by_the_conservative_scheme() -> None:
    model = room(3, nozzles=(), walls="wall", diffusivity=1e-4, smoke_diffusivity=1e-4)
    losses = {}
    for scheme in ("conservative", "semi_lagrangian", "maccormack"):
        solver = GasSolver(model, GasConfig(dt=0.02, scalars=scheme))
        x = model.grid.points(None, LIKE)
        smoke = torch.exp(-(((x - torch.tensor([0.5, 0.6, 0.2])) / 0.2) ** 2).sum(-1))
        state = model.initial_state(smoke=smoke, temperature=293.15 + 20 * smoke, dtype=F64)
        gas = solver.solids(state.tool_pose).fluid
        before = float(state.smoke[gas].sum())
        for _ in range(10):
            state = solver.step(state)
        losses[scheme] = abs(float(state.smoke[gas].sum()) / before - 1)
    assert losses["conservative"] < 1e-9
    assert 1e-6 < losses["semi_lagrangian"] < 0.05 and losses["maccormack"] < 0.05


@pytest.mark.parametrize("advection", ["semi_lagrangian", "maccormack"])
def test_probe_with_respect_to_the_yaw_of_the_nozzle(advection) -> None:
    model = room(3, eta=1e-3, diffusivity=1e-4)
    # The pressure solve's tolerance is the noise of f, which a Taylor test has to stay above.
    solver = GasSolver(model, GasConfig(dt=0.05, advection=advection, tol=1e-13))
    state = stirred(model, solver)
    yaw = torch.tensor([0.5, -0.3, 0.8, 0.2], dtype=F64)
    cell = (7, 6, 1)

    def probe(v):
        controls = []
        for rate in v["yaw"].unbind():
            twist = torch.nn.functional.pad(rate.reshape(1, 1, 1), (5, 0))
            controls.append(GasControl(nozzle_twist=twist))
        params = {"gas": v["gas"], "fan": v["fan"]}
        return rollout(solver, state, controls, params, save_every=4).final.temperature[(0, *cell)]

    gas = {"beta": 0.0034, "eta": 1e-3, "diffusivity": 1e-4, "weight": 0.8, "ambient": 293.15}
    fan = {"strength": 8.0, "radius": 0.2, "rate": 4.0, "temperature": 283.15, "smoke": 0.5}
    values = {
        "yaw": yaw,
        "gas": {k: torch.tensor(v, dtype=F64) for k, v in gas.items()},
        "fan": {k: torch.tensor(v, dtype=F64) for k, v in fan.items()},
    }
    for path in ("yaw", "gas", "fan"):
        names = ["yaw"] if path == "yaw" else [f"{path}.{k}" for k in values[path]]
        eps0 = 1e-2 if path == "yaw" else 1e-3
        report = taylor_test(probe, values, eps0=eps0, levels=3, wrt=names)
        assert report.passed(), (path, report)
    assert check_backward_twice(lambda y: probe({**values, "yaw": y}), yaw).passed()


@pytest.mark.parametrize("dim", [2, 3])
def test_derivatives_in_the_state(dim, generator) -> None:
    model = room(dim)
    solver = GasSolver(model, GasConfig(dt=0.05))
    state = stirred(model, solver)
    opened = solver.solids(state.tool_pose).open
    tensors = {k: v for k, v in state.tensors().items() if k not in ("tool_pose", "pressure")}

    def loss(v):
        # Closed faces stay as they are: a departure point at rest on the lattice has a kink.
        start = state.replace(**v)
        u = [torch.where(w > 0, f, g) for f, g, w in zip(start.u, state.u, opened, strict=True)]
        end = rollout(solver, start.with_u(tuple(u)), 2, save_every=2).final
        return sum((f**2).sum() for f in end.u) + (1e-2 * end.temperature).square().sum()

    assert taylor_test(loss, tensors, eps0=1e-6, levels=3).passed()


def test_derivatives_in_the_motion_of_an_obstacle() -> None:
    """In the twist through the moving faces; with fractions in where it ends up as well."""
    fan = Collider(Box((0.05, 1.0, 0.25)), position=(0.63, 0.0, 0.57))
    model = GasModel((14, 12), 0.1, obstacles=[fan], walls={"x+": "open"}, shape="fractions")
    solver = GasSolver(model, GasConfig(dt=0.05))
    hot = 293.15 + model.grid.points(None, LIKE)[..., 0]
    state = model.initial_state(temperature=hot, dtype=F64)
    twist = torch.tensor([[[0.2, 0.0, 0.1, 0.0, 1.5, 0.0]]], dtype=F64)

    def loss(t):
        end = rollout(solver, state, [GasControl(tool_twist=t)] * 3, save_every=3).final
        return sum((f**2).sum() for f in end.u) + (end.temperature - 293.15).square().sum()

    assert taylor_test(loss, twist, eps0=1e-5, levels=3).passed()


def test_checkpointed_rollouts_equal_the_stored_one() -> None:
    model = room(3)
    solver = GasSolver(model, GasConfig(dt=0.05))
    grads, ends = [], []
    for checkpoint in ("none", "uniform", "revolve"):
        twist = torch.full((1, 1, 6), 0.1, requires_grad=True)
        control = [GasControl(nozzle_twist=twist)] * 6
        run = rollout(solver, model.initial_state(), control, checkpoint=checkpoint, save_every=6)
        loss = run.final.temperature[0, 8, 7, 1] + run.final.u_x.square().sum()
        grads.append(torch.autograd.grad(loss, twist)[0])
        ends.append(run.final)
    for grad, end in zip(grads[1:], ends[1:], strict=True):
        assert torch.equal(end.u_x, ends[0].u_x) and end.t == pytest.approx(0.3)
        assert float((grad - grads[0]).norm() / grads[0].norm()) < 1e-6


def test_batch_equals_loop_and_the_step_is_functional() -> None:
    model = room(2)
    solver = GasSolver(model, GasConfig(dt=0.05, advection="maccormack"))
    state = stirred(model, solver, 2, batch=3)
    state.tool_pose[:, 0, 0] += torch.tensor([0.0, 0.2, -0.3], dtype=F64)
    control = GasControl(
        nozzle_twist=torch.linspace(-1, 1, 18, dtype=F64).reshape(3, 1, 6),
        nozzle_strength=torch.tensor([[5.0], [8.0], [11.0]], dtype=F64),
        tool_twist=torch.linspace(-0.1, 0.1, 18, dtype=F64).reshape(3, 1, 6),
    )
    params = {"gas": {"beta": torch.tensor([0.0, 0.003, 0.01], dtype=F64)}}
    before = state.clone()
    together = solver.step(state, control, params)
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, before.tensors()[name])
    for b in range(3):
        one = GasControl(**{k: v[b : b + 1] for k, v in vars(control).items() if v is not None})
        alone = solver.step(state[b], one, {"gas": {"beta": params["gas"]["beta"][b : b + 1]}})
        for name, tensor in alone.tensors().items():
            torch.testing.assert_close(together[b].tensors()[name], tensor, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dim", [2, 3])
def test_single_and_double_precision_agree(dim) -> None:
    model = room(dim)
    ends, grads = [], []
    for dtype in (torch.float32, F64):
        solver = GasSolver(model, GasConfig(dt=0.05))
        yaw = torch.full((1, 1, 6), 0.3, dtype=dtype, requires_grad=True)
        start = model.initial_state(dtype=dtype)
        end = rollout(solver, start, [GasControl(nozzle_twist=yaw)] * 6, save_every=6).final
        grads.append(torch.autograd.grad((end.temperature - 290).square().sum(), yaw)[0].double())
        ends.append(end)
    assert float((ends[0].u_x - ends[1].u_x).detach().abs().max()) < 1e-4 * float(
        ends[1].u_x.detach().abs().max()
    )
    assert cosine(*grads) > 0.9999


def test_warm_start_saves_iterations_and_changes_nothing() -> None:
    model = room(3)
    counts, ends = [], []
    for warm in (True, False):
        solver = GasSolver(model, GasConfig(dt=0.02, warm_start=warm))
        ends.append(stirred(model, solver, 12))
        counts.append(solver.info.iterations)
    assert counts[0] < counts[1]
    torch.testing.assert_close(ends[0].u_x, ends[1].u_x, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "change,match",
    [
        ({"cells": (4,)}, "cells of 2 or 3"),
        ({"gravity": (0.0, 0.0, 0.0)}, "gravity of 2"),
        ({"walls": "glass"}, "walls out of"),
        ({"shape": "cut"}, "shape out of"),
        ({"obstacles": [Sphere(0.1)]}, "obstacles of Collider"),
        ({"nozzles": [Nozzle("gas", (0, 0, 0), (1, 0, 0), 1, 1)]}, "different names"),
        ({"rho": 0.0}, "rho > 0"),
        ({"wall_velocity": {"x+": (1.0, 0.0)}}, "a side out of.*that is a wall"),
        ({"wall_velocity": {"x-": (1.0,)}}, "2 numbers"),
    ],
)
def test_wrong_models(change, match) -> None:
    options = {"cells": (6, 5), "dx": 0.1, "walls": {"x+": "open"}} | change
    with pytest.raises(InputError, match=match):
        GasModel(**options)


def test_wrong_calls() -> None:
    model = room(2)
    solver = GasSolver(model)
    state = model.initial_state(2)
    nan = state.replace(temperature=state.temperature * math.nan)
    cases = [
        (lambda: solver.step(state.replace(smoke=state.smoke[:, 1:])), "state.smoke"),
        (lambda: solver.step(state.replace(u_x=state.u_z)), "one tensor per axis"),
        (lambda: solver.step(state.to(torch.float16)), "float32 or float64"),
        (lambda: solver.step(state, GasControl(nozzle_twist=torch.zeros(1, 1, 6))), "nozzle_twist"),
        (lambda: solver.step(state, None, {"gas": {"nu": 1.0}}), "gas.nu.*Correct the name"),
        (lambda: solver.step(state, None, {"air": {}}), "got air"),
        (lambda: solver.step(state, None, {"gas": {"eta": torch.ones(3)}}), r"\(\) or \(2,\)"),
        (lambda: GasSolver(model, GasConfig(dt=0.0)), "dt > 0"),
        (lambda: GasSolver(model, GasConfig(advection="conservative")), "advection out of"),
        (lambda: Nozzle("a", (0, 0, 0), (0, 0, 0), 1.0, 1.0), "position and direction"),
        (lambda: Nozzle("a", (0, 0, 0), (1, 0, 0), 1.0, 0.0), "radius > 0"),
        (lambda: model.initial_state(temperature=torch.zeros(3)), "temperature that fits"),
    ]
    for call, match in cases:
        with pytest.raises(InputError, match=match):
            call()
    with pytest.raises(StateError, match="temperature|finite u"):
        solver.step(nan)
    with pytest.raises(StabilityError, match=r"eta / rho.*Lower dt"):
        solver.step(state, None, {"gas": {"eta": 1.0}})


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [2, 3])
def test_cuda_equals_the_cpu(dim) -> None:
    model = room(dim, eta=1e-3)
    ends, grads = [], []
    for device in ("cpu", "cuda"):
        solver = GasSolver(model, GasConfig(dt=0.05, advection="maccormack"))
        yaw = torch.full((1, 1, 6), 0.3, dtype=F64, device=device, requires_grad=True)
        twist = torch.full((1, 1, 6), 0.05, dtype=F64, device=device)
        control = GasControl(nozzle_twist=yaw, tool_twist=twist)
        run = rollout(solver, model.initial_state(dtype=F64, device=device), [control] * 4)
        grads.append(torch.autograd.grad(run.final.temperature.square().sum(), yaw)[0].cpu())
        ends.append(run.final.temperature.detach().cpu())
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)
