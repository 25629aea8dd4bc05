"""The reference scenes: anchors, derivatives, and the long trainings."""

from __future__ import annotations

import pytest
import torch
from helpers import random_deformations
from rheograd.operators.nclaw import (
    FitConfig,
    NeuralElastic,
    NeuralPlastic,
    TrainConfig,
    Trajectory,
    fit_classical,
    metric_mse_every5,
    nclaw_scene,
    neural_law,
    predict,
    random_throw,
    simulate_truth,
    train,
)
from rheograd.sim import mpm
from rheograd.sim.core.laws import FixedCorotated
from rheograd.sim.core.rollout import rollout

F64 = torch.float64


def test_reference_scene_in_free_flight_conserves_momentum():
    """Before the walls, m (v(T) − v(0)) = m g T; float32 rounding of 1000 particles."""
    scene = nclaw_scene("jelly")
    truth = simulate_truth(scene.solver(mpm), 30)
    drift = truth.v[-1].double().mean(0) - truth.v[0].double().mean(0)
    expected = torch.tensor(scene.gravity, dtype=F64) * 30 * scene.dt
    speed = float(truth.v[0].double().mean(0).norm())
    assert float((drift - expected).norm()) < 1e-5 * speed


ANCHORS = {
    "jelly": (0.102, 0.458),
    "plasticine": (0.157, 0.318),
    "sand": (0.170, 0.246),
    "water": (0.217, 0.320),
}
"""Root mean square displacement and final mean height [m] of an independent implementation."""


@pytest.mark.parametrize("material", ANCHORS)
def test_reference_scenes_match_an_independent_implementation(material):
    truth = simulate_truth(nclaw_scene(material).solver(mpm), 1000)
    displacement = float((truth.x - truth.x[0]).square().mean().sqrt())
    height = float(truth.x[-1, :, 2].mean())
    assert displacement == pytest.approx(ANCHORS[material][0], rel=0.01)
    assert height == pytest.approx(ANCHORS[material][1], rel=0.01)


def test_scene_differentiates_in_velocity_strain_and_stiffness(generator):
    """Positions after 20 steps against central differences, float64, to 1e-5 relative; and float32
    against float64 to 1e-2 (its own differences drown in the rounding of the positions)."""
    scene = nclaw_scene("jelly")  # coarser blocks are dust: particles would not touch
    solver = scene.solver(mpm)
    start = solver.model.initial_state(dtype=F64)
    F = random_deformations(1, 1000, generator=generator, stretch=0.05)
    # Unequal weights: in free flight the plain sum would not see F or E.
    mixing = torch.randn(1, 1000, 3, generator=generator, dtype=F64)
    leaves_ = [start.v, F, torch.tensor(1e5, dtype=F64)]

    def f(v, F, E):
        state = start.to(v.dtype).replace(v=v, F=F)
        end = rollout(solver, state, 20, {"block": {"E": E}}, save_every=20).final
        return (end.x * mixing).sum()

    inputs = [t.clone().requires_grad_() for t in leaves_]
    grads = torch.autograd.grad(f(*inputs), inputs)
    for i, size in enumerate((1.0, 1e-2, 1e3)):
        d = size * torch.randn(leaves_[i].shape, generator=generator, dtype=F64)
        up, down = (
            [t + s * 1e-3 * d if j == i else t for j, t in enumerate(leaves_)] for s in (1, -1)
        )
        fd = float(f(*up) - f(*down)) / 2e-3
        ad = float((grads[i] * d).sum())
        assert ad == pytest.approx(fd, rel=1e-5) and abs(ad) > 1e-6

    single = [t.float().requires_grad_() for t in leaves_]
    for g32, g64 in zip(torch.autograd.grad(f(*single), single), grads, strict=True):
        assert float((g32 - g64).norm() / g64.norm()) < 1e-2


def test_throws_are_reproducible_and_go_down():
    for seed in (1, 7, 8):
        a, b = random_throw("jelly", seed), random_throw("jelly", seed)
        assert a.velocity == b.velocity and a.velocity[2] <= 0
        assert sum(v * v for v in a.velocity) <= 9 and min(a.angular) >= 0


@pytest.mark.slow
def test_fast_recipe_learns_jelly_from_positions():
    """200 steps to the first impacts: 1e-5 m², 30 times below the untrained law; throws within 10
    times the reconstruction."""
    scene = nclaw_scene("jelly")
    truth = simulate_truth(scene.solver(mpm), 200)
    generator = torch.Generator().manual_seed(0)
    untrained = neural_law(NeuralElastic(generator=generator), NeuralPlastic(generator=generator))
    before = metric_mse_every5(predict(scene.solver(mpm, untrained), truth), truth.x)
    generator = torch.Generator().manual_seed(0)
    elastic = NeuralElastic(scale=1e4, generator=generator)
    law = neural_law(elastic, NeuralPlastic(gain=0.01, generator=generator))
    train(scene.solver(mpm, law), truth, TrainConfig.fast())
    after = metric_mse_every5(predict(scene.solver(mpm, law), truth), truth.x)
    assert after < 1e-5 and after < before / 30
    for seed in (1, 7, 8):
        throw = random_throw("jelly", seed)
        motion = simulate_truth(throw.solver(mpm), 200)
        assert metric_mse_every5(predict(throw.solver(mpm, law), motion), motion.x) < 10 * after


@pytest.mark.slow
def test_stiffness_from_long_segments_of_the_reference_scene():
    scene = nclaw_scene("jelly")
    truth = simulate_truth(scene.solver(mpm), 600)
    late = Trajectory(*(getattr(truth, n)[300:] for n in ("x", "v", "C", "F")))
    solver = scene.solver(mpm, FixedCorotated(E=3e4, nu=0.2))
    fit = fit_classical(solver, late, {"E": 3e4}, FitConfig(horizon=100, segments=3))
    assert fit.values["E"] == pytest.approx(1e5, rel=1e-2)
