"""Navier–Stokes rows: against the solver, an exact flow, differences; operators in two dimensions."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.operators.hard_moe import (
    FitConfig,
    FlowProblem,
    HardOperator,
    evaluate,
    flow_data,
    flow_frames,
)
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.grid.pdes import DiffusionSorption, Grid, NavierStokes2D, sorption_sides


class Network(torch.nn.Module):
    """The first frame carried along by a few shifts, a small basis of smooth fields."""

    def __init__(self, n):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.rates = torch.nn.Parameter(torch.randn(n, 3, generator=g, dtype=torch.float64))

    def forward(self, x):
        F, X = x.shape[2:4]
        s = 2 * math.pi * (torch.arange(X).to(x) + 0.5) / X
        t = (torch.arange(F).to(x) / F)[:, None, None]
        a, b, c = self.rates.T[..., None, None, None]
        return x * torch.cos(s[:, None] + a * t + b) + torch.sin(s + b) * torch.exp(c * t)


def problem(cells=16, frames=4, dt=0.05, **options):
    return FlowProblem(NavierStokes2D(Grid((cells, cells)), dt, 1e-2, **options), frames)


def test_solutions_have_no_residual():
    """ρ / Δt of fourth-order solutions falls as Δt², the order of the midpoint rule."""
    g, sizes = torch.Generator(), []
    for frames in (4, 8, 16):
        data = flow_data(
            1, 32, frames, duration=0.4, viscosity=1e-2, substeps=32 // frames,
            generator=g.manual_seed(3),
        )  # fmt: skip
        rows = FlowProblem(data.pde, frames)
        sizes.append(float(rows.defect(data.u).square().mean().sqrt()) / data.pde.dt)
    rates = [math.log2(a / b) for a, b in zip(sizes, sizes[1:], strict=False)]
    assert all(abs(r - 2) < 0.2 for r in rates[-1:]), rates


def test_the_right_hand_side_is_the_solvers(generator):
    """Of a field at rest with modes whose products do not alias, ρ = −Δt rhs to round-off."""
    rows = problem(24, 2, 0.02, drag=0.1)
    pde = NavierStokes2D(Grid((24, 24)), 0.02, 1e-2, drag=0.1)
    u0 = flow_frames(1, 24, generator)[:, None]
    # Modes up to 3 of 24: the 2/3 rule keeps all their products, so both ways to form them agree.
    hat = torch.fft.rfftn(u0, dim=(-2, -1))
    keep = (torch.fft.fftfreq(24) * 24).abs()[:, None].le(3) & torch.arange(13).le(3)
    u0 = torch.fft.irfftn(hat * keep, s=(24, 24), dim=(-2, -1))
    p = pde.prepare(None, pde.initial_state(u0))
    z = rows.terms(torch.cat([u0[:, 0, None].expand(-1, 2, -1, -1), u0], 1))
    want = -pde.dt * pde.rhs(u0, p)[:, 0]
    assert torch.allclose(rows.residual(z.flatten(2)).reshape(2, 24, 24)[0], want[0], atol=1e-12)


def test_decaying_vortices(generator):
    """cos x cos z turns without change of shape: only the error of the midpoint rule is left."""
    rows = problem(16, 4, 0.05)
    x = 2 * math.pi * (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    shape, rate = torch.cos(x)[:, None] * torch.cos(x), 1e-2 * 2 * (2 * math.pi) ** 2
    t = 0.05 * torch.arange(5, dtype=torch.float64)[:, None, None]
    u = (shape * torch.exp(-rate * t))[None]
    factor = 1 - math.exp(-rate * 0.05) - 0.05 * rate * 0.5 * (1 + math.exp(-rate * 0.05))
    assert torch.allclose(rows.defect(u), -factor * u[:, :-1], atol=1e-13)


def test_terms_are_linear_and_forces_count_once(generator):
    force = torch.randn(1, 16, 16, generator=generator, dtype=torch.float64)
    rows = problem(forcing=force)
    b = torch.randn(2, 3, 5, 16, 16, generator=generator, dtype=torch.float64)
    w = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    T = torch.einsum("bqn...,bn->bq...", rows.terms(b), w)
    assert torch.allclose(T, rows.terms(torch.einsum("bn...,bn->b...", b, w)), atol=1e-11)
    u = torch.zeros(1, 5, 16, 16, dtype=torch.float64)
    assert torch.allclose(rows.defect(u), -0.05 * force.expand(4, -1, -1)[None], atol=1e-14)


@pytest.mark.parametrize(
    "mode, boxes", [("experts", (1, 2, 2)), ("windows", (2, 1, 2)), ("soft", (1, 1, 1))]
)
def test_operators_in_two_dimensions(mode, boxes, generator):
    """First frame and mean exact, gradients by the Taylor test, in every mode."""
    config = FitConfig(max_iterations=60, sweeps=2)
    network = Network(1 if mode == "soft" else 2)
    model = HardOperator(network, problem(8), mode, boxes, config=config, throw=True)
    u0 = flow_frames(1, 8, generator)
    u = model(u0).detach()
    assert torch.allclose(u[:, 0], u0, atol=1e-15)
    assert float(u.mean((-2, -1)).abs().max()) < 1e-13

    def loss(rates):
        v = torch.func.functional_call(model, {"network.rates": rates}, (u0,))
        return model.problem.loss(v, u0).mean()

    report = taylor_test(loss, network.rates.detach().clone())
    assert report.passed(1.9), report


def test_the_solution_is_found(generator):
    """With the departure from ω₀ in the span, a fit returns it, and windows do too."""
    data = flow_data(1, 16, 8, duration=0.2, viscosity=1e-2, generator=generator)
    rows = FlowProblem(data.pde, 8)

    class Known(torch.nn.Module):
        def forward(self, x):
            t = (torch.arange(9).to(x).clamp_min(1) / 8)[:, None, None]
            return torch.cat([(data.u - x[:, 0]) / t, x[:, 0] * t], 0)[None]

    for mode, boxes in (("experts", (1, 1, 1)), ("windows", (1, 2, 2))):
        model = HardOperator(Known(), rows, mode, boxes, config=FitConfig(sweeps=2), ridge=1e-9)
        measured = evaluate(model, data)
        assert measured["relative_l2"] < 2 * data.floor() < 1e-3
    assert measured["jump"] < 0.05


def test_errors_name_the_remedy():
    with pytest.raises(InputError, match="NavierStokes2D"):
        FlowProblem(DiffusionSorption(Grid(16, sides=sorption_sides()), 1.0), 4)
    with pytest.raises(InputError, match=r"first frames \(B >= 1, 16, 16\)"):
        HardOperator(Network(2), problem())(torch.zeros(2, 16))
    with pytest.raises(InputError, match="divide"):
        HardOperator(Network(2), problem(), boxes=(1, 3, 1))
