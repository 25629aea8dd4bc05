"""Creases: the return map, what a fold keeps, dissipation, and gradients through all of it."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import relative_error
from rheograd import rollout
from rheograd.sim.core.errors import InputError
from rheograd.sim.fem import FEMConfig, FEMControl, FEMModel, Handle, SolverFEM, hinge_angle
from rheograd.sim.shell import PlasticSheet, hinges_along, rectangle, return_map

NONE = (0.0, 0.0, 0.0)


def values(shape=(3, 5), **changes):
    like = dict(width=0.002, kappa_y=80.0, hardening=0.4, kinematic=0.0, theta_0=0.1) | changes
    return {name: torch.full(shape, v, dtype=torch.float64) for name, v in like.items()}


def test_return_map_ends_on_the_yield_surface(generator):
    theta = 3 * torch.rand(3, 5, generator=generator, dtype=torch.float64) - 1.5
    start, zero = torch.full_like(theta, 0.1), torch.zeros_like(theta)
    for changes in (
        {},
        {"kinematic": 0.3},
        {"hardening": 0.0},
        {"hardening": 0.0, "kinematic": 0.2},
    ):
        v = values(**changes)
        bent, alpha = return_map(theta, start, zero, **v)
        drive = (theta - bent - v["kinematic"] * (bent - 0.1)) / 0.002
        limit = 80 + v["hardening"] * alpha
        yielding = (theta - 0.1).abs() / 0.002 > 80
        assert yielding.any() and not yielding.all()
        assert float((drive.abs() - limit)[yielding].abs().max()) < 1e-10
        assert torch.equal(bent[~yielding], start[~yielding])
        again = return_map(theta, bent, alpha, **v)
        assert float((again[0] - bent).abs().max()) < 1e-13  # it has flowed
        # Rate-independent: many small steps of a monotonous path end at the same place.
        small = start, zero
        for k in range(1, 21):
            small = return_map(0.1 + (theta - 0.1) * k / 20, *small, **v)
        assert float((small[0] - bent).abs().max()) < 1e-12


def test_hardening_keeps_a_crease_that_is_opened_flat():
    """A sharp fold (κ_y → 0) keeps 2H/(1 + H) of its angle; a limit on the angle alone keeps 0.5 rad."""
    zero = torch.zeros(1, 1, dtype=torch.float64)
    for H in (1 / 3, 0.5, 0.8):
        v = values((1, 1), kappa_y=1e-3, hardening=H, theta_0=0.0)
        folded = return_map(zero + 3.0, zero, zero, **v)
        opened = return_map(zero, *folded, **v)
        assert float(opened[0] / folded[0]) == pytest.approx(2 * H / (1 + H), rel=1e-4)
        assert float(opened[0] / folded[0]) >= 0.5 - 1e-4


@pytest.mark.parametrize("pattern", ["parallel", "crossed", "equilateral"])
def test_yield_is_a_matter_of_curvature(pattern):
    """Rolled to κ, all meshes keep (κ − κ_y)/(1 + H), with κ_y = 2 σ_y/E h."""
    for spacing in (0.01, 0.005):
        mesh = rectangle((0.1, 0.04), spacing, pattern).rolled(20.0)
        sheet = mesh.sheet("s", "paper", hardening=0.5)
        kappa_y = 2 * sheet.yield_stress / (sheet.E * sheet.h)
        model = FEMModel(mesh.X, [sheet])
        state = model.initial_state(x=mesh.x)
        c = SolverFEM(model).prepare(None, state).parts[0]
        bent, alpha = sheet.flow(c, state.x, state.theta_ref, state.alpha)
        assert kappa_y == pytest.approx(82.4, rel=1e-3)
        kept = (bent / c["width"])[0]
        across = mesh.X[sheet.hinges[0][:, :2], 0].diff(dim=1).abs()[:, 0] < 1e-9
        inner = across & ((mesh.X[sheet.hinges[0][:, 0], 0] - 0.05).abs() < 0.035)
        assert float((kept[inner] / ((200 - kappa_y) / 1.5) - 1).abs().max()) < 1e-6
        assert float(bent[0, ~across].abs().max()) < 1e-9


def test_flow_dissipates(generator):
    """Elastic energy falls whenever rest angles flow, for any deformation tried."""
    mesh = rectangle((0.04, 0.04), 0.01)
    sheet = mesh.sheet("s", "aluminium_foil", hardening=0.0)
    model = FEMModel(mesh.X, [sheet], gravity=NONE)
    solver = SolverFEM(model)
    for size in (1e-3, 3e-3, 6e-3):
        x = mesh.X + size * torch.randn(8, *mesh.X.shape, generator=generator, dtype=torch.float64)
        state = model.initial_state(8, x=x)
        c = solver.prepare(None, state)
        bent, alpha = sheet.flow(c.parts[0], state.x, state.theta_ref, state.alpha)
        new = solver.energy(state.replace(theta_ref=bent, alpha=alpha))["elastic"]
        fall = solver.energy(state)["elastic"] - new
        flows = (alpha > 0).any(1)
        assert bool(flows.any()) and bool((fall[flows] > 0).all())


def fold(hardening=0.4, angle=170.0, spacing=5e-3, cells=6):
    """A paper strip folded about one row by its halves, and the scene that releases one of them."""
    mesh = rectangle((cells * spacing, spacing), spacing)
    sheet = mesh.sheet("strip", "paper", hardening=hardening)
    middle = cells // 2
    line = mesh.rows(middle)
    place = tuple(mesh.X[line].mean(0).tolist())
    flap = Handle("flap", mesh.rows(*range(middle + 1, cells + 1)), position=place)
    base = Handle("base", mesh.rows(*range(middle)))
    folding = FEMModel(mesh.X, [sheet], [base, flap], gravity=NONE)
    free = FEMModel(mesh.X, [sheet], [base], gravity=NONE, drag=20.0)
    solver = SolverFEM(folding, FEMConfig(scheme="static", tol=1e-8))
    twist = torch.zeros(1, 2, 6, dtype=torch.float64)
    twist[0, 1, 4] = -math.radians(angle) / 8 / solver.step_time
    shut = rollout(solver, folding.initial_state(), [FEMControl(twist=twist)] * 8).final
    opened = rollout(solver, shut, [FEMControl(twist=-twist)] * 8).final
    crease = hinges_along(sheet, line)

    def released(state):
        state = state.replace(pose=state.pose[:, :1])
        config = FEMConfig(dt=0.02, tol=1e-7, max_iterations=300)
        state = rollout(SolverFEM(free, config), state, 12, save_every=100).final
        theta = hinge_angle(state.x[:, sheet.hinges[0][crease]])
        return float(theta.mean()), state

    return shut, opened, released, crease


def test_a_fold_pressed_flat_keeps_half_of_its_angle():
    shut, opened, released, crease = fold()
    folded = math.radians(170)
    peak = float(shut.theta_ref[0, crease].mean())
    assert 0.5 * folded < peak < 0.75 * folded
    angle, state = released(shut)
    assert angle == pytest.approx(peak, rel=1e-3)  # nothing holds it, so it rests at its rest angle
    assert float(state.theta_ref[0, crease].mean()) == pytest.approx(peak, rel=1e-6)
    kept = released(opened)[0]  # forced flat, and let go
    assert kept > 0.5 * peak
    none = fold(hardening=0.0)[1]
    assert float(none.theta_ref[0, crease].mean()) < 0.5 * kept


def scene(leak=0.0):
    """A small strip that a handle bends beyond yield."""
    mesh = rectangle((0.02, 0.005), 0.005)
    sheet = mesh.sheet("s", "card", hardening=0.3, kinematic=0.1, eta=1e3, leak=leak)
    handles = [Handle("base", mesh.rows(0, 1)), Handle("tip", mesh.rows(-1), position=(0.02, 0, 0))]
    model = FEMModel(mesh.X, [sheet], handles)
    solver = SolverFEM(model, FEMConfig(dt=2e-3, tol=1e-10))
    twist = torch.zeros(1, 2, 6, dtype=torch.float64)
    twist[:, 1, 0], twist[:, 1, 2] = -0.3, 0.9
    return model, solver, twist


def measure(solver, state, twist, params=None, checkpoint="none"):
    """A loss per scene that creases, positions and hardening enter."""
    controls = [FEMControl(twist=k * twist) for k in (1.0, 1.0, -0.5)]
    end = rollout(solver, state, controls, params, checkpoint=checkpoint, save_every=5).final
    weight = torch.arange(end.theta_ref.shape[1], dtype=torch.float64).cos()
    loss = end.theta_ref @ weight + 1e-4 * end.alpha.sum(1) + 10 * end.x[..., 2].sum(1)
    return loss, end


NAMES = ("E", "nu", "h", "rho", "k_bend", "yield_stress", "hardening", "kinematic")


def test_gradients_of_parameters_shapes_and_motion():
    """One backward pass against central differences, all of them in one batch of scenes."""
    model, solver, twist = scene()
    sheet, state = model.parts[0], model.initial_state()
    base = {n: torch.tensor(float(getattr(sheet, n)), dtype=torch.float64) for n in NAMES}
    inputs = base | {"X": model.X, "x": state.x, "twist": twist}
    steps = {n: 1e-3 * float(v) for n, v in base.items()} | {"X": 1e-9, "x": 1e-9, "twist": 1e-5}
    generator = torch.Generator().manual_seed(5)
    ways = {n: torch.randn(v.shape, generator=generator).to(v) for n, v in inputs.items()}

    def loss(v, scenes):
        params = {"s": {n: v[n] for n in NAMES}, "scene": {"X": v["X"]}}
        start = model.initial_state(scenes).replace(x=v["x"])
        return measure(solver, start, v["twist"], params)

    leaves = {n: v.clone().requires_grad_() for n, v in inputs.items()}
    total, end = loss(leaves, 1)
    yields = end.alpha > 0
    assert bool(yields.any()) and not bool(yields.all())
    gradients = torch.autograd.grad(total.sum(), list(leaves.values()))

    scenes = 2 * len(inputs)
    many = {n: v.expand(scenes, *v.shape[v.ndim == 3 :]).clone() for n, v in inputs.items()}
    for k, name in enumerate(inputs):
        change = steps[name] * ways[name]
        many[name][2 * k] += change.reshape(many[name].shape[1:])
        many[name][2 * k + 1] -= change.reshape(many[name].shape[1:])
    many |= {n: many[n][:, None] for n in NAMES}
    with torch.no_grad():
        found = loss(many, scenes)[0]
    for k, (name, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        slope = float(found[2 * k] - found[2 * k + 1]) / (2 * steps[name])
        scale = 1.0 if name not in base else float(base[name])
        along = float((gradient * ways[name]).sum())
        assert along * scale == pytest.approx(slope * scale, rel=1e-5, abs=1e-10), name


def test_checkpoints_and_batches_agree():
    model, solver, twist = scene()
    results = []
    for checkpoint in ("none", "uniform", "revolve"):
        motion = twist.clone().requires_grad_()
        stress = torch.tensor(12e6, dtype=torch.float64, requires_grad=True)
        params = {"s": {"yield_stress": stress}}
        loss = measure(solver, model.initial_state(), motion, params, checkpoint)[0].sum()
        results.append(torch.autograd.grad(loss, (motion, stress)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert relative_error(a, b) < 1e-9
    both = torch.cat((twist, 0.7 * twist))
    together = measure(solver, model.initial_state(2), both)[1]
    for b, motion in enumerate((twist, 0.7 * twist)):
        alone = measure(solver, model.initial_state(), motion)[1]
        for name in ("x", "theta_ref", "alpha"):
            gap = (getattr(together, name)[b] - getattr(alone, name)[0]).abs().max()
            assert float(gap) <= 1e-8 * max(1.0, float(getattr(alone, name).abs().max())), name


def test_gradient_factors_are_exact_and_the_leak_is_optional():
    theta = torch.tensor([[0.05, 1.0]], dtype=torch.float64, requires_grad=True)  # rests, yields
    rest = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    v = values((1, 2), hardening=0.0, theta_0=0.0)
    found = {}
    for leak in (0.0, 0.1):
        bent, _ = return_map(theta, rest, torch.zeros_like(rest), leak=leak, **v)
        found[leak] = bent, *torch.autograd.grad(bent.sum(), (theta, rest))
    assert found[0.0][1].tolist() == [[0.0, 1.0]]
    assert found[0.0][2].tolist() == [[1.0, 0.0]]  # a yielding hinge forgets its rest angle
    assert torch.equal(found[0.0][0], found[0.1][0])
    assert found[0.1][1].tolist() == [[0.1, 1.0]]
    model, solver, twist = scene(leak=0.5)
    assert torch.equal(measure(solver, model.initial_state(), twist)[1].theta_ref,
                       measure(scene()[1], model.initial_state(), twist)[1].theta_ref)  # fmt: skip


def test_errors_name_the_remedy():
    mesh = rectangle((0.02, 0.01), 0.01)
    with pytest.raises(InputError, match="yield_stress"):
        mesh.sheet("s", "cotton", creases=True)
    with pytest.raises(InputError, match="leak"):
        mesh.sheet("s", "paper", leak=-1.0)
    with pytest.raises(InputError, match="hinges"):
        mesh.sheet("s", "paper", bending=False)
    sheet = mesh.sheet("s", "paper")
    assert isinstance(sheet, PlasticSheet)
    model = FEMModel(mesh.X, [sheet])
    state = model.initial_state()
    with pytest.raises(InputError, match="yield_stress > 0"):
        SolverFEM(model).step(state, None, {"s": {"yield_stress": 0.0}})
    with pytest.raises(InputError, match="theta_ref"):
        SolverFEM(model).step(state.replace(theta_ref=None, alpha=None))
