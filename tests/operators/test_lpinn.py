"""Lagrangian networks: references, residuals of known solutions, gradients, a fit."""

from __future__ import annotations

import pytest
import torch
from rheograd.operators.lpinn import (
    Burgers,
    Convection,
    EulerianPINN,
    LagrangianPINN,
    PINNConfig,
    fit,
    relative_error,
)
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.gradients import taylor_test

F64 = torch.float64


def make(kind, problem, **config):
    torch.manual_seed(0)
    return kind(problem, PINNConfig(hidden_channels=8, n_layers=2, **config)).double()


def test_burgers_reference_satisfies_the_equation_and_moves_with_c():
    problem, n, h = Burgers(c=0.0, nu=0.1), 128, 1e-3
    before, now, after = problem.reference(torch.tensor([0.5 - h, 0.5, 0.5 + h]), n)
    k = 1j * torch.fft.rfftfreq(n, 1 / n, dtype=F64)
    slopes = [torch.fft.irfft(k**m * torch.fft.rfft(now), n) for m in (1, 2)]
    rate = (after - before) / (2 * h)
    assert (rate + now * slopes[0] - 0.1 * slopes[1]).abs().max() < 1e-5
    # After one turn of the frame, t = 2π/c, the shape is that of c = 0.
    turn = torch.tensor([2 * torch.pi / 10], dtype=F64)
    moved = Burgers(c=10.0, nu=0.1).reference(turn, n) - 10
    torch.testing.assert_close(moved, problem.reference(turn, n), atol=1e-9, rtol=0)


class Exact(LagrangianPINN):
    """The solution of convection–diffusion along its characteristics."""

    def forward(self, X, t):
        return X + self.problem.c * t, torch.exp(-self.problem.nu * t) * torch.sin(X)


class ExactBurgers(LagrangianPINN):
    """Inviscid Burgers: values ride on straight lines, J = 1 + t cos X."""

    def forward(self, X, t):
        u = self.problem.start(X)
        return X + t * u, u


def points(count=40):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, count, generator=generator, dtype=F64) * 0.9).unbind(0)


def test_residuals_and_error_of_exact_solutions_vanish():
    model = make(Exact, Convection(c=30.0, nu=0.3))
    assert all(r.abs().max() < 1e-12 for r in model.residuals(*points()).values())
    assert relative_error(model, model.problem) < 1e-4  # linear interpolation
    assert (
        relative_error(make(ExactBurgers, Burgers(c=2.0, nu=1e-6)), Burgers(c=2.0, nu=3e-3)) < 0.1
    )
    model = make(ExactBurgers, Burgers(c=2.0, nu=0.0))
    assert all(r.abs().max() < 1e-12 for r in model.residuals(*points()).values())


def test_diffusion_acts_on_positions_not_on_labels():
    """u = sin(x) on labels that are stretched, X ↦ x = X + t sin X / 2: u_xx = −sin x."""

    class Stretched(LagrangianPINN):
        def forward(self, X, t):
            x = X + 0.5 * t * torch.sin(X)
            return x, torch.sin(x)

    X, t = points()
    x = X + 0.5 * t * torch.sin(X)
    u_t = torch.cos(x) * 0.5 * torch.sin(X)
    right = make(Stretched, Burgers(c=0.0, nu=1.0)).residuals(X, t)["value"]
    torch.testing.assert_close(right, u_t + torch.sin(x))
    labels = make(Stretched, Burgers(c=0.0, nu=1.0), physical_diffusion=False).residuals(X, t)[
        "value"
    ]
    assert (labels - right).abs().max() > 0.1


class Residuals(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, X, t):
        return self.model.residuals(X, t)


@pytest.mark.parametrize("kind", [LagrangianPINN, EulerianPINN])
def test_start_is_exact_and_gradients_are_right(kind):
    model = make(kind, Burgers(c=3.0, nu=0.05))
    x, u = model.trace(torch.zeros(1, dtype=F64), 16)
    torch.testing.assert_close(u, model.problem.start(x))
    X, t = points(12)
    weights = {k: v.detach() for k, v in model.named_parameters()}

    def f(w):
        weights = {f"model.{name}": value for name, value in w.items()}
        parts = torch.func.functional_call(Residuals(model), weights, (X, t))
        return sum(r.square().sum() for r in parts.values())

    assert taylor_test(f, weights).passed()


def test_fast_convection_where_the_eulerian_network_fails():
    problem, errors = Convection(c=30.0), {}
    for kind in (LagrangianPINN, EulerianPINN):
        model = make(kind, problem)
        report = fit(model, points=(12, 24), adam=60, iterations=60)
        assert report.loss[-1] < report.loss[0] and report.evaluations == len(report.loss)
        errors[kind] = relative_error(model, problem)
    assert errors[LagrangianPINN] < 0.02 < 0.5 < errors[EulerianPINN]


def test_errors():
    with pytest.raises(InputError, match="nu >= 0"):
        Convection(nu=-1.0)
    for wrong in ({"c": float("nan")}, {"nu": float("nan")}, {"duration": float("inf")}):
        with pytest.raises(InputError, match="finite c"):
            Convection(**wrong)
    with pytest.raises(InputError, match="hidden_channels"):
        PINNConfig(hidden_channels=0)
    with pytest.raises(InputError, match="seconds"):
        fit(make(EulerianPINN, Convection()), seconds=0.0)
    crossed = make(ExactBurgers, Burgers(c=0.0, duration=2.0))
    with pytest.raises(StateError, match="do not cross"):
        crossed.residuals(torch.tensor([3.1], dtype=F64), torch.tensor([1.5], dtype=F64))
