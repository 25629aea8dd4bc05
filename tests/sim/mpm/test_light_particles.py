"""Squares of small node masses underflow in float32; the adjoint must not need them."""

from __future__ import annotations

import pytest
import torch
from rheograd.sim.core.laws import FixedCorotated
from rheograd.sim.mpm import Grid, Group, MPMConfig, MPMModel, SolverMPM

DX = 6e-3


def derivative(dtype):
    """Of one substep of a grain of 28 mg which barely reaches some nodes, in its velocity and place."""
    place = torch.tensor([[10.5, 10.5, 10.2]], dtype=torch.float64)
    place[0, :2] += 3e-4  # weights of 4e-8 along x and y: a node with 3e-20 kg
    grain = Group("grain", FixedCorotated(rho=600.0, E=2e4, nu=0.3), DX * place, 4.67e-8)
    model = MPMModel(Grid((0.0,) * 3, (20 * DX,) * 3, dx=DX), [grain])
    solver = SolverMPM(model, MPMConfig(dt=2e-4, substeps=1))
    state = model.initial_state(dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    F = 0.1 * torch.randn(1, 1, 3, 3, generator=generator, dtype=torch.float64)
    state = state.replace(
        x=state.x.clone().requires_grad_(),
        v=torch.tensor([[[0.3, -0.2, 0.5]]], dtype=dtype, requires_grad=True),
        F=state.F + F.to(dtype),
    )
    out = solver.step(state, None, None)
    loss = out.v.sum() + DX * (out.C**2).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [state.x, state.v])])


@pytest.mark.parametrize("flush", [False, True])
def test_nodes_of_very_small_mass(flush):
    expected = derivative(torch.float64)
    try:
        torch.set_flush_denormal(flush)  # other libraries do so for the whole process
        found = derivative(torch.float32).double()
    finally:
        torch.set_flush_denormal(False)
    assert torch.isfinite(found).all()
    assert float(torch.cosine_similarity(found, expected, dim=0)) > 0.999
