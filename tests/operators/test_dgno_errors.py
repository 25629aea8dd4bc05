"""What a latent model and its posterior refuse, and how they say it."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from rheograd.operators.dgno import (
    DGNO,
    Bounded,
    Burgers1D,
    Darcy2D,
    DGNOConfig,
    Discrepancy,
    NormalPrior,
    Observation,
    Posterior,
    RealNVP,
    Scattered,
    burgers_solutions,
    coverage,
    darcy_inputs,
    darcy_solutions,
    fit_prior,
    generate,
    hamiltonian,
    nuts,
    pixel_accuracy,
    predict,
    relative_error,
    sensors,
)
from rheograd.sim.core.errors import InputError

NAN = float("nan")


@pytest.fixture(scope="module")
def known():
    g = torch.Generator().manual_seed(0)
    a = darcy_inputs(8, 8, phases=(5.0, 10.0), length=0.3, generator=g)
    problem = Darcy2D((8, 8), "mixed", phases=(5.0, 10.0), count=5, points=3)
    config = DGNOConfig(latent=4, width=8, depth=3, channels=2)
    model = DGNO(problem, config, generator=g).requires_grad_(False)
    model.fit_scales(a)
    return model, a, darcy_solutions(a).flatten(2)


def test_batches_that_are_refused(known):
    model, a, u = known
    one = torch.ones(8)
    refused = {
        "'U'. Rename": {"a": a, "U": u},
        "no inputs": {"u": u},
        '"labelled" of shape': {"a": a, "u": u, "labelled": one[:, None]},
        '"virtual" of shape': {"a": a, "virtual": one[:3]},
        'labels "s"': {"a": a, "s": torch.ones(8, 64, 2)},  # components last
        "of floating point": {"a": a, "u": u.long()},
        "a batch of none": {"a": a[:0]},
        "encode: expected inputs of torch.float32": {"a": a.double()},
        "points of torch.float32": {"a": a, "u": u.double()},
        'labels "u"': {"a": a, "u": u[..., :9]},
    }
    for words, batch in refused.items():
        with pytest.raises(InputError, match=words):
            model.loss(batch)


def test_inputs_and_points_that_are_refused(known):
    model, a, u = known
    bad = a.clone()
    bad[0, 0, 0, 0] = NAN
    for wrong in (bad, -a):
        with pytest.raises(InputError, match="codes that are not finite"):
            model(wrong)
        with pytest.raises(InputError, match="codes that are not finite"):
            predict(model, wrong, draws=2)
        with pytest.raises(InputError, match="inputs with a spread|phases"):
            copy.deepcopy(model).fit_scales(wrong)
    with pytest.raises(InputError, match="inputs with a spread"):
        copy.deepcopy(model).fit_scales(torch.full_like(a, 5.0))
    for wrong in (3 * a, 1 + torch.rand(8, 1, 8, 8)):
        with pytest.raises(InputError, match="phases"):
            copy.deepcopy(model).fit_scales(wrong)
    for x in (torch.rand(5, 3), torch.rand(2)):
        with pytest.raises(InputError, match=r"points \(n, 2\)"):
            model(a, x)
    x = model.problem.points(a)
    points = DGNO(model.problem, dataclasses.replace(model.config, encoder="points"))
    double = Scattered(x, a.flatten(1)).to(torch.float64)
    for words, call in {
        "inputs of torch.float32 on cpu": lambda: model(a.double()),
        "inputs of torch.float32": lambda: points(double),
        "got torch.float64": lambda: points(dataclasses.replace(double, value=a.flatten(1))),
        "points of torch.float32": lambda: model(a, x.double()),
        "codes of torch.float32": lambda: model.misfit(torch.zeros(8, 4).double(), a),
        r"codes \(B, 4\)": lambda: model.misfit(torch.zeros(8, 5), a),
        "points of 8 samples": lambda: model(a, x.expand(3, -1, -1)),
        "a discrepancy of": lambda: predict(model, a, delta=Discrepancy(x, u), of="s"),
    }.items():
        with pytest.raises(InputError, match=words):
            call()
    for wrong in (a[:, 0], a[..., :4]):
        with pytest.raises(InputError, match=r"permeabilities \(S, 1, n, n\)"):
            darcy_solutions(wrong)
    with pytest.raises(InputError, match="count >= 1"):
        problem = Darcy2D((8, 8), count=0)
        problem.sample(None, a)


def test_settings_that_are_refused(known):
    model, a, _ = known
    for words, call in {
        "odd refinement": lambda: burgers_solutions(torch.ones(1, 1, 8), 2, fine=2),
        "viscosity": lambda: Burgers1D(8, viscosity=-1.0),
        "a prior of 4": lambda: DGNO(
            model.problem, DGNOConfig(latent=4, bayes=True), RealNVP(5, 2)
        ),
        "RealNVP": lambda: DGNO(model.problem, DGNOConfig(latent=4, bayes=True)),
        "draws >= 1": lambda: predict(model, a, draws=0),
        '"labels"': lambda: predict(model, a, delta="label"),
    }.items():
        with pytest.raises(InputError, match=words):
            call()


def test_measures_compare_like_with_like(known):
    model, a, u = known
    drawn = predict(model, a, draws=20, delta=0.1)
    level = coverage(drawn, u)
    assert coverage(drawn, u[:, 0]) == level == coverage(drawn, u.reshape(8, 1, 8, 8))
    with pytest.raises(InputError, match="truths"):
        coverage(drawn, u[:1, 0])
    with pytest.raises(InputError, match="Draw some"):
        coverage(drawn[:0], u)
    with pytest.raises(InputError, match="Give 0.9, not 90"):
        coverage(drawn, u, 90)
    assert torch.equal(pixel_accuracy(a.flatten(1), a, 7.0), torch.ones(8, dtype=torch.float64))
    for measure in (relative_error, lambda x, y: pixel_accuracy(x, y, 7.0)):
        with pytest.raises(InputError, match="the same points"):
            measure(u, u[:3])


def test_posteriors_that_are_refused(known):
    model, a, u = known
    prior, x = NormalPrior(4), model.problem.points(a)
    seen = sensors(x, u[0], 20, 25.0)
    assert seen.value.shape == (20,)
    with pytest.raises(InputError, match="64 values"):
        sensors(x, u, 20, 25.0)
    for name, words in (("value", "finite value"), ("x", "finite x")):
        wrong = dataclasses.replace(seen, **{name: getattr(seen, name) * NAN})
        with pytest.raises(InputError, match=words):
            Posterior(model, prior, [wrong])
    with pytest.raises(InputError, match="one sigma"):
        Posterior(model, prior, [dataclasses.replace(seen, sigma=torch.ones(3))])
    with pytest.raises(InputError, match="sigma > 0"):
        Posterior(model, prior, dataclasses.replace(seen, sigma=torch.zeros(20)))
    with pytest.raises(InputError, match="got 'speed'. Correct number 2 of 2"):
        Posterior(model, prior, [seen, dataclasses.replace(seen, of="speed")])
    pair = Observation(x[:20], torch.zeros(20), 0.1)
    assert sensors(x, torch.zeros(2, 64) + 1.0, 20, 25.0).value.shape == (40,)
    with pytest.raises(InputError, match="values"):  # of two components, for a field of one
        Posterior(model, prior, dataclasses.replace(pair, value=torch.zeros(40)))
    with pytest.raises(InputError, match=r"points \(n, 2\)"):
        Posterior(model, prior, Observation(torch.rand(20, 3), seen.value, 0.1))
    posterior = Posterior(model, prior, seen)
    for start in (torch.zeros(4), torch.zeros(1, 5)):
        with pytest.raises(InputError, match=r"starts \(B, 4\)"):
            posterior.maximize(start)
    for sampler in (hamiltonian, nuts):
        with pytest.raises(InputError, match=r"a root \(4, 4\)"):
            sampler(posterior.slope, torch.zeros(1, 4), draws=4, warmup=1, root=torch.eye(3))
        with pytest.raises(InputError, match="C >= 1"):
            sampler(posterior.slope, torch.zeros(0, 4))
    wrong = [(torch.zeros(1, 4), "S >= 2"), (torch.zeros(9, 5), ", 4")]
    for codes, words in [*wrong, (torch.full((9, 4), NAN), "finite")]:
        with pytest.raises(InputError, match=words):
            fit_prior(prior, codes)


def test_sensors_of_their_own_noise_and_precision(known):
    """One σ for each value is the same as observations apart; float64 sensors suit a float32 model."""
    model, a, u = known
    prior, x = NormalPrior(4), model.problem.points(a)
    sigma = torch.tensor([0.01] * 10 + [0.1] * 10)
    seen = Observation(x[:20].double(), u[0, 0, :20].double(), sigma.double())
    parts = [Observation(x[:10], u[0, 0, :10], 0.01), Observation(x[10:20], u[0, 0, 10:20], 0.1)]
    z = torch.linspace(-1, 1, 4)[None]
    both = [Posterior(model, prior, some).energy(z) for some in (seen, parts)]
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("prior", [NormalPrior(4), Bounded(RealNVP(4, 2, 8))])
def test_priors_in_double_precision(prior, known):
    model = copy.deepcopy(known[0]).double()
    a, u = generate(
        model, copy.deepcopy(prior).double(), 3, generator=torch.Generator().manual_seed(0)
    )
    assert a.dtype == u.dtype == torch.float64
