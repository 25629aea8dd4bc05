"""Sweeps of the implicit scheme behind a network: roots, correction, indicator, derivatives, refusals."""

from __future__ import annotations

import pytest
import torch
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.stagger import SpaceSplit, StaggerSolver, TimeSplit, corrected_rollout
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.rollout import rollout
from rheograd.sim.grid.pdes import GaussianField, Grid, NavierStokes2D

F64 = torch.float64
GRID = Grid((24, 24))


def scene(scheme="crank_nicolson"):
    pde = NavierStokes2D(GRID, 0.1, 1e-3, discretization="arakawa", scheme=scheme)
    field = GaussianField(GRID, 2.5, 7.0, 2**0.5 * 7**1.5, modes=6)
    generator = torch.Generator().manual_seed(0)
    u = field.sample(2, generator, dtype=F64)
    f = 0.1 * field.sample(1, generator, dtype=F64)
    return pde, u, f


def stagger(s_T=3, mode="multi", **options):
    generator = torch.Generator().manual_seed(0)

    def make(a, b):
        return FNO(FNOConfig((3, 3), a, b, hidden_channels=4, n_layers=1), generator=generator)

    options = {"dt": 0.1, "context": 1, "finish": "mean", **options}
    return StaggerSolver(make, SpaceSplit(2), TimeSplit(s_T, mode), "stack", **options).double()


def test_sweeps_reach_the_steps_of_the_solver():
    pde, u, f = scene()
    truth = rollout(pde, pde.initial_state(u), 4, {"forcing": f}).stack("u")[:, 1:]
    model = stagger()
    errors = []
    with torch.no_grad():
        for sweeps in (0, 1, 2, 4, 40):
            found = corrected_rollout(model, pde, u, 4, f, sweeps)
            assert found.frames.shape == truth.shape and found.change.shape == (2, 4)
            errors.append(float((found.frames - truth).norm() / truth.norm()))
    assert torch.equal(corrected_rollout(model, pde, u, 4, f, 0).frames, model.rollout(u, 4, f))
    assert errors[1] < 0.3 * errors[0] and errors[2] < 0.5 * errors[1]
    assert errors[3] < errors[2] and errors[4] < 1e-9


def test_the_change_tells_the_error_of_a_step():
    pde, u, f = scene()
    truth = pde.step(pde.initial_state(u), None, {"forcing": f}).u
    noise = torch.randn(u.shape, generator=torch.Generator().manual_seed(1), dtype=F64)

    class Off(torch.nn.Module):
        def forward(self, x):
            return x[:, :4] * 0

    for size in (1e-3, 1e-2):
        model = StaggerSolver(lambda a, b: Off(), SpaceSplit(2), coupling="stack", dt=0.1, context=1,
                              finish=lambda v, size=size: truth + size * noise).double()  # fmt: skip
        change = corrected_rollout(model, pde, u, 1, f).change[:, 0]
        error = size * noise.flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
        assert bool((change > 0.3 * error).all() and (change < 1.5 * error).all())


def test_derivatives():
    pde, u, f = scene()
    w = torch.randn(u.shape, generator=torch.Generator().manual_seed(2), dtype=F64)
    model = stagger(2)

    def value(x):
        return (corrected_rollout(model, pde, x["u"], 3, x["f"]).frames[:, -1] * w).sum()

    assert taylor_test(value, {"u": u, "f": f}).passed()


def test_refusals():
    pde, u, f = scene()
    with pytest.raises(InputError, match="Crank–Nicolson"):
        corrected_rollout(stagger(), scene("etdrk4")[0], u, 2, f)
    with pytest.raises(InputError, match="mode multi"):
        corrected_rollout(stagger(2, "chain"), pde, u, 2, f)
    with pytest.raises(InputError, match="dt = 0.1 s"):
        corrected_rollout(stagger(dt=0.2), pde, u, 2, f)
    with pytest.raises(InputError, match="sweeps >= 0"):
        corrected_rollout(stagger(), pde, u, 2, f, -1)
