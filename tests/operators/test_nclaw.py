"""Neural laws: exact priors, derivatives, batching, training, resuming, identification."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import random_deformations, random_rotations, relative_error
from rheograd.operators.nclaw import (
    FitConfig,
    NeuralElastic,
    NeuralHyperelastic,
    NeuralPlastic,
    TrainConfig,
    Trajectory,
    fit_classical,
    horizon_at,
    invariants,
    metric_mse_every5,
    nclaw_scene,
    neural_law,
    predict,
    segment_loss,
    simulate_truth,
    train,
    train_labeled,
)
from rheograd.sim import mpm
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.laws import FixedCorotated
from rheograd.sim.core.laws.decompositions import polar_rotation
from rheograd.sim.core.rollout import rollout

F64 = torch.float64


def networks(seed: int = 0, **options):
    generator = torch.Generator().manual_seed(seed)
    return NeuralElastic(generator=generator, **options), NeuralPlastic(generator=generator)


@pytest.fixture(scope="module")
def small():
    """A coarse jelly block that soon touches the floor: scene and 60 true steps."""
    scene = dataclasses.replace(
        nclaw_scene("jelly", resolution=5, velocity=(-2.0, 1.0, -3.0)), lower=(0.1, 0.1, 0.35)
    )
    return scene, simulate_truth(scene.solver(mpm), 60)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_invariants_equal_reference_decompositions(generator, dtype):
    F = random_deformations(200, generator=generator).to(dtype)
    h, R = invariants(F)
    tol = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(h[:, :3] + 1, torch.linalg.svdvals(F), atol=tol, rtol=tol)
    torch.testing.assert_close(R, polar_rotation(F), atol=tol, rtol=tol)
    C = F.mT @ F - torch.eye(3, dtype=dtype)
    torch.testing.assert_close(h[:, 3:12], C.flatten(1), atol=tol, rtol=tol)
    torch.testing.assert_close(h[:, 12] + 1, torch.linalg.det(F), atol=tol, rtol=tol)


def test_an_inverted_particle_keeps_a_proper_rotation(generator):
    F = random_deformations(50, generator=generator) @ torch.diag(
        torch.tensor([1, 1, -0.3], dtype=F64)
    )
    h, R = invariants(F)
    assert (torch.linalg.det(R) - 1).abs().max() < 1e-12
    assert (h[:, 2] < -1).all()
    S = R.mT @ F
    assert (S - S.mT).abs().max() < 1e-12


@pytest.mark.parametrize("hidden", [(64, 64), (16,)])
def test_undeformed_state_is_in_equilibrium_exactly(hidden):
    elastic, plastic = NeuralElastic(hidden), NeuralPlastic(hidden)
    eye = torch.eye(3).expand(4, 3, 3)
    assert torch.equal(elastic(eye), torch.zeros(4, 3, 3))
    assert torch.equal(plastic(eye), eye)


@torch.no_grad()
def test_frame_indifference(generator):
    elastic, plastic = networks(scale=1e4)
    F = random_deformations(100, generator=generator).float()
    Q = random_rotations(100, generator=generator).float()
    assert relative_error(elastic(Q @ F), Q @ elastic(F) @ Q.mT) < 1e-4
    assert relative_error(plastic(Q @ F) - Q @ F, Q @ (plastic(F) - F)) < 2e-3
    assert relative_error(plastic(Q @ F), Q @ plastic(F)) < 1e-6
    assert relative_error(elastic(F @ Q), elastic(F)) > 0.1, "right rotations must matter"


def test_the_default_network_is_the_papers():
    elastic, plastic = networks()
    shapes = [(64, 13), (64, 64), (9, 64)]
    for network in (elastic, plastic):
        weights = list(network.parameters())
        assert [tuple(w.shape) for w in weights] == shapes
        assert sum(w.numel() for w in weights) == 5504
        for w in weights:  # Xavier-uniform: ±√(6/(in + out))
            bound = (6 / sum(w.shape)) ** 0.5
            assert 0.95 * bound < w.abs().max() <= bound
    F = torch.eye(3) + 0.1 * torch.randn(7, 3, 3, generator=torch.Generator().manual_seed(1))
    h, R = invariants(F)
    x = h
    for i, w in enumerate(elastic.parameters()):
        x = x @ w.T
        if i < 2:
            x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    Y = x.reshape(-1, 3, 3)
    expected = R @ (0.5 * (Y + Y.mT)) @ F.mT
    torch.testing.assert_close(elastic(F), expected, atol=1e-7, rtol=1e-5)


def leaves(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in module.named_parameters()}


def test_networks_differentiate_in_strain_and_weights(generator):
    F = random_deformations(4, generator=generator)
    elastic, plastic = networks(scale=1e2, skip=(1e3, 0.3))
    elastic, plastic = elastic.double(), plastic.double()
    mixing = torch.randn(2, 4, 3, 3, generator=generator, dtype=F64)

    def f(tree):
        tau = torch.func.functional_call(elastic, tree["elastic"], (tree["F"],))
        flow = torch.func.functional_call(plastic, tree["plastic"], (tree["F"],))
        return (mixing[0] * tau).sum() + 1e3 * (mixing[1] * flow).sum()

    tree = {"F": F, "elastic": leaves(elastic), "plastic": leaves(plastic)}
    assert taylor_test(f, tree, eps0=1e-3, generator=generator).passed()


@pytest.mark.parametrize("state", ["rest", "rotation", "equal stretches"])
def test_rotation_has_no_gap_in_its_derivative(generator, state):
    F = torch.eye(3, dtype=F64).repeat(4, 1, 1)
    if state != "rest":
        F = random_rotations(4, generator=generator) @ F
    if state == "equal stretches":
        F = F @ torch.diag(torch.tensor([1.2, 0.8, 0.8], dtype=F64))
    seed = torch.randn(4, 3, 3, generator=generator, dtype=F64)
    found = []
    for rotation in (lambda F: invariants(F)[1], polar_rotation):
        leaf = F.clone().requires_grad_()
        found += torch.autograd.grad((rotation(leaf) * seed).sum(), leaf)
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-12)


def test_energy_network_gives_the_stress_of_its_energy(generator):
    """τ = ∂ψ/∂F Fᵀ, τ(I) = 0, and both are blind to rotations as an isotropic solid is."""
    network = NeuralHyperelastic(generator=generator).double()
    F = random_deformations(20, generator=generator).requires_grad_()
    (P,) = torch.autograd.grad(network.energy(F).sum(), F)
    tau = network(F).detach()
    assert relative_error(P @ F.detach().mT, tau) < 1e-12
    Q = random_rotations(20, generator=generator)
    with torch.no_grad():
        assert relative_error(network(Q @ F), Q @ tau @ Q.mT) < 1e-12
        assert relative_error(network(F @ Q), tau) < 1e-12
        assert torch.equal(network.float()(torch.eye(3)), torch.zeros(3, 3))
    mixing = torch.randn(20, 3, 3, generator=generator, dtype=F64)
    weights = leaves(network.double())
    call = torch.func.functional_call

    def f(tree):
        return (mixing * call(network, tree["weights"], (tree["F"],))).sum()

    assert taylor_test(f, {"F": F.detach(), "weights": weights}, eps0=1e-3).passed()


def test_derivatives_through_a_rollout(small, generator):
    scene, truth = small
    # Off the floor: a node that starts to touch it during the test has no derivative.
    scene = dataclasses.replace(scene, lower=(0.1, 0.1, 0.1))
    elastic, plastic = (m.double() for m in networks(scale=1e4))
    template = scene.solver(mpm).model.initial_state(dtype=F64)
    start = truth.to(F64).states(template, [30])
    call = torch.func.functional_call

    def f(tree):
        law = neural_law(
            lambda F: call(elastic, tree["elastic"], (F,)),
            lambda F: call(plastic, tree["plastic"], (F,)),
        )
        state = start.replace(x=tree["x"], v=tree["v"], F=tree["F"])
        end = rollout(scene.solver(mpm, law), state, 20, save_every=20).final
        return end.x.square().sum() + 1e-2 * end.v.square().sum()

    tree = {"elastic": leaves(elastic), "plastic": leaves(plastic)}
    tree |= {"x": start.x, "v": start.v, "F": start.F}
    assert taylor_test(f, tree, eps0=1e-4, generator=generator).passed()


def test_batched_segments_equal_a_loop(small):
    scene, truth = small
    solver = scene.solver(mpm, neural_law(*networks(scale=1e4)))
    segments, weights = [(40, 6), (3, 6), (20, 4), (55, 1)], [1.0, 2.0, 3.0, 4.0]
    parameters = [
        w
        for n in ("elastic", "plastic")
        for w in getattr(solver.model.groups[0].law, n).parameters()
    ]
    together = segment_loss(solver, truth, segments, weights)
    batched = torch.autograd.grad(together, parameters)
    alone = [segment_loss(solver, truth, [s], [w]) for s, w in zip(segments, weights, strict=True)]
    looped = torch.autograd.grad(sum(alone), parameters)
    torch.testing.assert_close(together, sum(alone), rtol=1e-4, atol=0)
    for a, b in zip(batched, looped, strict=True):
        assert relative_error(a, b) < 1e-3  # float32 sums of 125 particles over 6 steps


FAST = TrainConfig(
    updates=40,
    horizon=(1, 4),
    growth="geometric",
    budget=8,
    weighting="acceleration",
    lr_elastic=0.03,
    lr_plastic=1e-3,
    plastic_from=2,
    clip=1e3,
)


def test_training_reduces_loss_and_rollout_error(small):
    scene, truth = small
    solver = scene.solver(mpm, neural_law(*networks(scale=1e4)))
    before = metric_mse_every5(predict(solver, truth), truth.x)
    history = train(solver, truth, FAST)
    after = metric_mse_every5(predict(solver, truth), truth.x)
    assert len(history.loss) == len(history.seconds) == 40
    assert sum(history.loss[-5:]) < 0.1 * sum(history.loss[:5])
    assert after < before / 5


def test_resumed_training_equals_uninterrupted(small):
    scene, truth = small
    config = dataclasses.replace(FAST, updates=8)
    saved, results = [], []
    for resume in (False, True):
        solver = scene.solver(mpm, neural_law(*networks(scale=1e4, seed=3 if resume else 0)))
        history = train(
            solver,
            truth,
            config,
            resume=saved[0] if resume else None,
            on_checkpoint=saved.append,
            checkpoint_every=4,
        )
        law = solver.model.groups[0].law
        results.append((history.loss, [w.detach() for w in law.weights()]))
    (loss, weights), (loss_resumed, weights_resumed) = results
    assert loss == loss_resumed
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_resumed, strict=True))


def test_frozen_plastic_network_stays_until_its_horizon(small):
    scene, truth = small
    elastic, plastic = networks(scale=1e4)
    before = leaves(plastic)
    config = dataclasses.replace(FAST, updates=3, horizon=(1, 1))
    train(scene.solver(mpm, neural_law(elastic, plastic)), truth, config)
    assert all(torch.equal(before[n], w) for n, w in plastic.named_parameters())
    assert all(w.requires_grad for w in plastic.parameters())


def test_paper_recipe_has_the_papers_numbers():
    config = TrainConfig.paper()
    assert (config.updates, config.lr_elastic, config.lr_plastic, config.clip) == (
        300,
        1.0,
        0.1,
        0.1,
    )
    assert [horizon_at(config, e, 1000) for e in (0, 150, 300)] == [25, 112, 200]
    assert config.budget is None and config.weighting == "position"


def test_paper_loss_weights_every_step_of_the_trajectory(small):
    """Σ_k 1e4 ⌈T/λ⌉/T MSE_k with λ = 25 over T = 60 steps: segments of 25, 25 and 10."""
    scene, truth = small
    solver = scene.solver(mpm, neural_law(*networks(scale=1e4)))
    config = dataclasses.replace(TrainConfig.paper(), updates=1)
    expected = 0.0
    with torch.no_grad():
        for b in (0, 25, 50):
            template = solver.model.initial_state()
            n = min(25, 60 - b)
            states = rollout(solver, truth.states(template, [b]), n).states[1:]
            for k, s in enumerate(states, 1):
                expected += 1e4 * 3 / 60 * float((s.x[0] - truth.x[b + k]).square().mean())
    history = train(solver, truth, config)
    assert history.loss[0] == pytest.approx(expected, rel=1e-3)


def test_chunks_bound_memory_and_change_nothing_else(small):
    scene, truth = small
    results = []
    for chunk in (1000, 30, 1):
        solver = scene.solver(mpm, neural_law(*networks(scale=1e4)))
        config = dataclasses.replace(TrainConfig.paper(), updates=1, lr_elastic=1e-3, chunk=chunk)
        history = train(solver, truth, config)
        results.append((history.loss[0], *solver.model.groups[0].law.weights()))
    for other in results[1:]:
        assert other[0] == pytest.approx(results[0][0], rel=1e-4)
        for a, b in zip(other[1:], results[0][1:], strict=True):
            # Adam's first step is ± lr per weight; rounding may flip it where the gradient is tiny.
            assert float(((a - b).abs() > 1e-5).float().mean()) < 0.02


def test_system_identification_finds_the_stiffness(small):
    scene, truth = small
    solver = scene.solver(mpm, FixedCorotated(E=3e4, nu=0.2))
    fit = fit_classical(solver, truth, {"E": 3e4, "nu": 0.3}, FitConfig(segments=3, horizon=10))
    assert fit.values["E"] == pytest.approx(1e5, rel=1e-2)
    assert fit.values["nu"] == pytest.approx(0.2, abs=0.01)
    with pytest.raises(InputError, match="stiffness"):
        fit_classical(solver, truth, {"stiffness": 1.0})


@pytest.mark.parametrize("material", ["jelly", "plasticine", "sand", "water"])
def test_labeled_regression_learns_every_material(material):
    scene = nclaw_scene(material, resolution=5, velocity=(0.0, 0.0, -4.0))
    scene = dataclasses.replace(scene, lower=(0.1, 0.1, 0.35))
    truth = simulate_truth(scene.solver(mpm), 80)
    elastic, plastic = networks(scale=1e5)
    history = train_labeled(
        elastic, plastic, truth, scene.law, dt=scene.dt, updates=150, batch=512, lr=5e-3
    )
    assert sum(history.stress[-5:]) < 0.1 * sum(history.stress[:5])
    assert sum(history.plastic[-5:]) < sum(history.plastic[:5])


def test_errors_name_what_to_do(small):
    scene, truth = small
    with pytest.raises(InputError, match="plasticine"):
        nclaw_scene("glass")
    with pytest.raises(InputError, match="neural_law"):
        train(scene.solver(mpm), truth)
    with pytest.raises(InputError, match="simulate a longer|Simulate a longer"):
        truth.head(61)
    other = Trajectory(*(getattr(truth, n)[:, :10] for n in ("x", "v", "C", "F")))
    with pytest.raises(InputError, match="10 particles"):
        other.states(scene.solver(mpm).model.initial_state(), [0])
