"""NeuralStagger on residuals: references satisfy them, pools, label-free training, files, control."""

from __future__ import annotations

import pytest
import torch
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.stagger import (
    EnvPool,
    MacStreamPressure,
    PdeResidual,
    PhysicsResidual,
    PhysicsTraining,
    SpaceSplit,
    StaggerSolver,
    TimeSplit,
    fit_forcing,
    fourier_waves,
    load_solver,
    save_solver,
    shedding_frequency,
    train_physics,
)
from rheograd.operators.t1.unet import UNet
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.rollout import rollout
from rheograd.sim.grid.pdes import GaussianField, Grid, Heat, NavierStokes2D, NavierStokes3D
from rheograd.sim.grid.pdes.mac_flow import MacFlow2D

F64 = torch.float64
GRID = Grid((24, 24))
FORCING = 0.1 * fourier_waves(GRID.points(torch.zeros(())), [(1, 1)]).sum(0, keepdim=True)


def vorticity(dt=0.1):
    return NavierStokes2D(GRID, dt, 1e-3, discretization="arakawa", scheme="crank_nicolson")


def starts(n, generator, dtype=torch.float32):
    return GaussianField(GRID, 2.5, 7.0, 2**0.5 * 7**1.5, modes=6).sample(n, generator, dtype=dtype)


def factory(width=8, modes=4, dim=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def make(a, b):
        config = FNOConfig((modes,) * dim, a, b, hidden_channels=width, n_layers=2)
        return FNO(config, generator=generator)

    return make


def stagger(s=2, s_T=1, coupling="stack", mode="multi", context=1, **options):
    options = {"dt": 0.1, "sigma": 0.3, "scale": 0.3, "context_sigma": 0.1, **options}
    if not context:
        options.pop("context_sigma")
    split = SpaceSplit(s)
    return StaggerSolver(
        factory(), split, TimeSplit(s_T, mode), coupling, context=context, **options
    )


def pool_of(window=1, size=16, **options):
    pde = vorticity()

    def sample(n, generator):
        frames = rollout(
            pde, pde.initial_state(starts(n, generator)), window - 1, {"forcing": FORCING}
        )
        return frames.stack("u")[:, :window], FORCING.expand(n, -1, -1, -1).clone()

    return EnvPool(sample, size, **options)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (F64, 1e-9)])
def test_the_solver_s_own_steps_have_no_residual(dtype, bound, generator):
    pde, f = vorticity(), FORCING.to(dtype)
    residual = PdeResidual(pde, 0.3)
    run = rollout(pde, pde.initial_state(starts(2, generator, dtype)), 3, {"forcing": f})
    frames = run.stack("u")
    R, mask = residual.residual(frames[:, 0], frames[:, 1], f)
    rate = (frames[:, 1] - frames[:, 0]).abs().max() / pde.dt
    assert mask is None and float(R.abs().max() / rate) < bound
    assert float(residual.loss(frames, f).max()) ** 0.5 * 0.3 < bound * float(rate)
    assert isinstance(residual, PhysicsResidual)


def test_losses_of_windows_are_means_over_pairs(generator):
    frames = torch.randn(2, 4, 1, 24, 24, generator=generator, dtype=F64)
    f = torch.randn(2, 1, 24, 24, generator=generator, dtype=F64)
    residual = PdeResidual(vorticity(), 0.3)
    whole = residual.loss(frames, f)
    pairs = [residual.residual(frames[:, k], frames[:, k + 1], f)[0] for k in range(3)]
    by_hand = (torch.stack(pairs, 1) / 0.3).square().flatten(1).mean(1)
    assert torch.allclose(whole, by_hand, rtol=1e-10)
    other = PdeResidual(Heat(GRID, 0.1, 1e-3), 0.3)  # pair by pair
    pairs = [other.residual(frames[:, k], frames[:, k + 1], f)[0] for k in range(3)]
    by_hand = (torch.stack(pairs, 1) / 0.3).square().flatten(1).mean(1)
    assert torch.allclose(other.loss(frames, f), by_hand, rtol=1e-10)


def test_losses_have_derivatives(generator):
    flow = MacFlow2D((12, 10), 0.1, 0.05)
    start, context = flow.channel(torch.ones(1, dtype=F64), (0.5, 0.5), 0.2)
    for residual, shape, given in (
        (PdeResidual(vorticity(), 0.3), (1, 3, 1, 24, 24), FORCING.double()),
        (MacStreamPressure(flow), (1, 3, 2, 12, 10), context),
    ):
        frames = torch.randn(shape, generator=generator, dtype=F64)
        case = lambda u, r=residual, g=given: r.loss(u, g).sum()  # noqa: E731
        assert taylor_test(case, frames).passed()


def test_pools_step_age_and_start_anew(generator):
    pool = pool_of(2, 12, lifetime=1e9, max_age=4, limit=5.0, cold=0.5, seed=3)
    assert pool.frames.shape == (12, 2, 1, 24, 24)
    cold = pool.frames.flatten(1).abs().amax(1) == 0
    assert 0 < int(cold.sum()) < 12
    drawn = pool.draw(4)
    assert len(set(drawn.index.tolist())) == 4 and torch.equal(
        drawn.window, pool.frames[drawn.index]
    )
    new = torch.full((4, 1, 1, 24, 24), 0.5)
    new[1] = 9.0
    new[2] = float("nan")
    assert pool.put(drawn.index, new) == 2 == pool.resets  # too large, not finite
    i = drawn.index
    assert pool.age[i].tolist() == [1, 0, 0, 1]
    assert torch.equal(pool.frames[i[0], 1], new[0, 0])
    assert torch.equal(pool.frames[i[0], 0], drawn.window[0, 1])
    assert bool(torch.isfinite(pool.frames).all())
    assert pool.put(i[[0]], new[[0]].repeat(1, 3, 1, 1, 1)) == 1 and pool.age[i[0]] == 0
    short = pool_of(1, 8, lifetime=1.0)
    assert short.put(short.draw(8).index, new[:1].expand(8, -1, -1, -1, -1)) == 8
    with pytest.raises(InputError, match="lifetime >= 1"):
        pool_of(1, 4, lifetime=0)
    with pytest.raises(InputError, match="4 finite starts"):
        EnvPool(lambda n, g: (torch.full((n, 1, 1, 4, 4), float("inf")), None), 4)


def test_contexts_evolve():
    def drift(context, generator):
        return context + 1

    pool = EnvPool(
        lambda n, g: (torch.zeros(n, 1, 1, 4, 4), torch.zeros(n, 1, 4, 4)),
        3,
        evolve=drift,
        lifetime=1e9,
    )
    pool.put(torch.tensor([1]), torch.zeros(1, 1, 1, 4, 4))
    assert pool.context[:, 0, 0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "coupling, s_T, mode",
    [("stack", 1, "multi"), ("none", 2, "multi"), ("halo", 1, "multi"), ("none", 2, "chain")],
)
def test_training_without_labels_lowers_the_error(coupling, s_T, mode):
    pde, f = vorticity(), FORCING
    model = stagger(2, s_T, coupling, mode)
    W = model.tsplit.window
    start = pde.initial_state(starts(4, torch.Generator().manual_seed(9)))
    truth = rollout(pde, start, 7 + W, {"forcing": f}).stack("u")

    @torch.no_grad()
    def error():
        u = truth[:, :W] if W > 1 else truth[:, 0]
        return float(
            (model.rollout(u, 8, f) - truth[:, W : W + 8]).norm() / truth[:, W : W + 8].norm()
        )

    before = error()
    record = train_physics(model, PdeResidual(pde, 0.3), pool_of(W), PhysicsTraining(50, lr=1e-2))
    assert record["updates"] == 50 and record["loss"] < record["losses"][0]
    assert error() < 0.65 * before


@pytest.mark.parametrize("coupling", ["none", "stack"])
def test_trained_on_32_used_on_64(coupling):
    """Sub-solvers of Fourier layers: the same functions, each grid against its own solver."""
    options = {"share": True, "shifted": False} if coupling == "none" else {}
    model = stagger(coupling=coupling, finish="band", **options)

    def draw(n, count, g):
        grid = Grid((n, n))
        u = GaussianField(grid, 2.5, 7.0, 2**0.5 * 7**1.5, modes=6).sample(count, g)
        wave = fourier_waves(grid.points(torch.zeros(())), [(1, 1)]).sum(0, keepdim=True)
        return grid, u, 0.1 * wave.expand(count, -1, -1, -1)

    def sample(count, g):
        _, u, f = draw(32, count, g)
        return u[:, None], f.clone()

    @torch.no_grad()
    def error(n):
        grid, u, f = draw(n, 4, torch.Generator().manual_seed(9))
        pde = NavierStokes2D(grid, 0.1, 1e-3)
        truth = rollout(pde, pde.initial_state(u), 8, {"forcing": f}).final.u
        return float((model.rollout(u, 8, f)[:, -1] - truth).norm() / truth.norm())

    before = error(32)
    pde = NavierStokes2D(
        Grid((32, 32)), 0.1, 1e-3, discretization="arakawa", scheme="crank_nicolson"
    )
    pool = EnvPool(sample, 16)
    train_physics(model, PdeResidual(pde, 0.3), pool, PhysicsTraining(40, batch=4, lr=1e-2))
    coarse, fine = error(32), error(64)
    print(f"{coupling}: untrained {before:.4f}, on 32² {coarse:.4f}, on 64² {fine:.4f}")
    assert coarse < 0.7 * before and fine < 1.05 * coarse


def test_training_repeats_and_asks_for_what_fits():
    def run():
        model = stagger(drop=0.4)
        return train_physics(model, PdeResidual(vorticity(), 0.3), pool_of(), PhysicsTraining(3))[
            "losses"
        ]

    assert run() == run()
    residual, pool = PdeResidual(vorticity(), 0.3), pool_of()
    for model, text in (
        (stagger(dt=0.2), "dt = 0.2 s"),
        (stagger(s_T=2, mode="chain"), r"windows \(2, 1\)"),
        (stagger(channels=2), "residual of 2 channels"),
    ):
        with pytest.raises(InputError, match=text):
            train_physics(model, residual, pool)
    with pytest.raises(InputError, match="numbers > 0"):
        PhysicsTraining(0)
    wild = stagger(s_T=2)
    with torch.no_grad():
        for p in wild.parameters():
            p.mul_(1e15)
    with pytest.raises(StateError, match="finite loss"):
        train_physics(wild, residual, pool, PhysicsTraining(2))


def test_velocity_in_three_dimensions_trains_and_stays_without_divergence(generator):
    grid = Grid((8, 8, 8))
    pde = NavierStokes3D(grid, 0.1, 2e-2, scheme="crank_nicolson")

    def sample(n, g):
        u = GaussianField(grid, 3.0, 5.0, 40.0, modes=1).sample(n, g, channels=3)
        return pde.project(u)[:, None], None

    split = SpaceSplit((1, 2, 2), 3)
    make = factory(8, 1, 3)
    model = StaggerSolver(
        make,
        split,
        TimeSplit(2),
        "stack",
        dt=0.1,
        channels=3,
        sigma=0.2,
        scale=0.2,
        finish=pde.project,
    )
    pool = EnvPool(sample, 16, lifetime=4)
    record = train_physics(
        model, PdeResidual(pde, 0.2), pool, PhysicsTraining(60, batch=4, lr=5e-3)
    )
    assert record["loss"] < 0.7 * record["losses"][0]
    last = model.rollout(pool.frames[:2, 0], 4)[:, -1]
    assert float(pde.divergence(last.detach()).abs().max()) < 1e-4


def test_flow_past_a_cylinder_trains_with_exact_continuity():
    flow = MacFlow2D((24, 20), 0.1, 0.1, eta=0.01)
    residual = MacStreamPressure(flow)

    def sample(n, g):
        start, context = flow.channel(0.5 + torch.rand(n, generator=g), (0.8, 0.8), 0.3)
        return start[:, None], context

    model = stagger(
        2, context=3, channels=2, context_sigma=(1.0, 1.0, 1.0), sigma=(0.5, 1.0), scale=(1.0, 5.0)
    )
    pool = EnvPool(sample, 16, lifetime=3)
    with torch.no_grad():
        before = residual.parts(torch.stack([pool.frames[:, 0]] * 2, 1), pool.context).mean(0)
    record = train_physics(model, residual, pool, PhysicsTraining(100, batch=4, lr=5e-3, log=True))
    assert record["loss"] < 0.7 * record["losses"][0]
    start, context = sample(2, torch.Generator().manual_seed(1))
    frames = torch.cat([start, model.rollout(start[:, 0], 2, context).detach()], 1)
    assert float(residual.parts(frames, context)[:, 1].mean()) < 0.5 * float(before[1])
    v = flow.velocity(frames.flatten(0, 1))
    inner = flow.divergence(v)[:, :-1, :-1]
    assert float(inner.abs().max()) < 1e-4 * float(v.abs().max()) / flow.dx
    with pytest.raises(InputError, match="context"):
        residual.residual(start[:, 0], start[:, 0], None)


def test_solvers_come_back_from_files(tmp_path):
    model = stagger(2, 3, drop=0.2, finish="mean").eval()
    u = starts(1, torch.Generator().manual_seed(0))
    again = load_solver(save_solver(tmp_path / "a.safetensors", model))
    assert torch.equal(again(u, FORCING), model(u, FORCING))
    half = load_solver(save_solver(tmp_path / "b.safetensors", model, half=True))
    assert torch.allclose(half(u, FORCING), model(u, FORCING), atol=1e-3)
    unet = StaggerSolver(
        lambda a, b: UNet(2, a, b, 4, 1), SpaceSplit(2), coupling="stack", dt=0.1, context=1
    )
    backbone = {"operator": "t1.unet:UNet", "dim": 2, "channels": 4, "levels": 1}
    with torch.no_grad():
        unet.nets.body.net.last.weight.normal_()
    other = load_solver(save_solver(tmp_path / "u.safetensors", unet, backbone=backbone))
    assert torch.equal(other(u, FORCING), unet(u, FORCING))
    with pytest.raises(InputError, match="backbone="):
        save_solver(tmp_path / "c.safetensors", unet)
    model.finish = lambda v: v
    with pytest.raises(InputError, match="GridOperator as backbone"):
        save_solver(tmp_path / "c.safetensors", model)
    with pytest.raises(FileNotFoundError, match="none of them"):
        load_solver("vorticity-65")
    save = tmp_path / "d.safetensors"
    model.nets.body.net.save(save)
    with pytest.raises(InputError, match="a file of save_solver"):
        load_solver(save)


def test_a_solver_of_the_contract_steps_under_rollout():
    model = stagger(2, 2)
    pde = vorticity()
    start = pde.initial_state(starts(2, torch.Generator().manual_seed(0)))
    run = rollout(model, start, 3, {"forcing": FORCING[0]})
    frames = model.rollout(start.u, 6, FORCING)
    assert torch.allclose(run.final.u, frames[:, -1], atol=1e-6) and abs(run.final.t - 0.6) < 1e-9


def test_amplitudes_are_found_through_a_solver():
    """The target comes from the solver itself, so only the optimization is at stake."""
    model = stagger(2, 2, "none").eval()
    waves = fourier_waves(GRID.points(torch.zeros(())), [(1, 0)])
    with torch.no_grad():  # larger weights: the forcing has to matter
        for name, p in model.named_parameters():
            if "project.second.weight" in name:
                p.mul_(100)
    u, true = starts(2, torch.Generator().manual_seed(0)), torch.tensor([0.1, -0.05])
    forcing = torch.tensordot(true, waves, 1)[None]
    target = model.rollout(u, 4, forcing)[:, -1].detach()
    found = fit_forcing(model, u, target, waves, 4, updates=50, lr=0.02)
    assert float((found.amplitudes - true).norm()) < 0.1 * float(true.norm())
    coarse = fit_forcing(model, u, target[..., ::2, ::2], waves, 4, updates=50, lr=0.02, level=2)
    assert coarse.losses[-1] < 0.05 * coarse.losses[0]
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(InputError, match=r"waves \(M, 1, \*cells\)"):
        fit_forcing(model, u, target, waves[:, 0], 4)
    with pytest.raises(InputError, match="a target"):
        fit_forcing(model, u, target, waves, 4, level=2)


def test_shedding_frequency_of_a_wave():
    t = torch.arange(200, dtype=F64) / 200
    for f in (3.0, 5.5, 8.0):
        assert abs(float(shedding_frequency(torch.sin(2 * torch.pi * f * t + 0.3))) - f) < 0.1
    signal = torch.sin(2 * torch.pi * 4 * t)[None]
    assert taylor_test(lambda x: shedding_frequency(x).sum(), signal).passed()


def test_the_shipped_solver_finds_the_strength_of_a_forcing():
    """Acceptance 6: from ω(1.2) of the implicit solver, through the network, in 40 updates."""
    solver, grid = load_solver("vorticity-64"), Grid((64, 64))
    pde = NavierStokes2D(grid, 0.1, 1e-3, discretization="arakawa", scheme="crank_nicolson")
    field = GaussianField(grid, 2.5, 7.0, 2**0.5 * 7**1.5, modes=31)
    start = pde.initial_state(field.sample(2, torch.Generator().manual_seed(5)))
    wave = fourier_waves(grid.points(torch.zeros(())), [(1, 1)]).sum(0, keepdim=True)
    target = rollout(pde, start, 12, {"forcing": 0.1 * wave}).final.u
    found = fit_forcing(solver, start.u, target, wave, 12, updates=40, lr=0.02)
    assert abs(float(found.amplitudes) - 0.1) < 0.005
