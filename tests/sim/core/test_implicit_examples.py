"""The classic examples of implicit layers against closed forms, unrolling and differences."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers import ROOT
from rheograd.sim.core.gradients import taylor_test

F64 = torch.float64
func = torch.func


@pytest.fixture(scope="module")
def examples():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import implicit_examples

        yield implicit_examples
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_ridge_hyper_gradient(examples):
    data, lam = examples.ridge_data(), torch.linspace(-1, 1, 8, dtype=F64).requires_grad_()
    loss = examples.ridge_loss(lam, data, tol=1e-10)
    grad = torch.autograd.grad(loss, lam)[0]
    torch.testing.assert_close(
        grad, examples.ridge_closed_form(lam, data).detach(), atol=1e-9, rtol=1e-8
    )
    assert taylor_test(
        lambda p: examples.ridge_loss(p, data, tol=1e-11), lam.detach(), order=2
    ).passed()


def test_svm_hyper_gradient(examples):
    data, theta = examples.svm_data(12, 24), torch.tensor(1e3, dtype=F64)
    options = {"tol": 1e-11}
    ours = func.grad(lambda t: examples.svm_loss(t, data, **options))(theta)
    h = 0.1
    ends = [examples.svm_loss(theta + s * h, data, **options) for s in (1, -1)]
    torch.testing.assert_close(ours, (ends[0] - ends[1]) / (2 * h), atol=0, rtol=1e-6)
    theirs = func.grad(lambda t: examples.svm_unrolled(t, data, 400))(theta)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=1e-6)


def test_distillation_beats_real_samples(examples):
    found = examples.distill(updates=12)
    assert found["last loss"] < 0.8 * found["first loss"]
    assert found["accuracy"] > found["accuracy of as many real samples"]


def test_equilibrium_network_learns(examples):
    torch.manual_seed(0)
    first = examples.fit_spirals(examples.Equilibrium(16), updates=1)
    last = examples.fit_spirals(examples.Equilibrium(16), updates=40)
    assert last["loss"] < 0.9 * first["loss"]
