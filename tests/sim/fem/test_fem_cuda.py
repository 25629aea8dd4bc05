"""The same numbers on a GPU, forward and backward."""

from __future__ import annotations

import pytest
import torch
from fem_scenes import gel, strip
from rheograd.sim.core.rollout import rollout
from rheograd.sim.fem import FEMConfig, FEMControl, SolverFEM


@pytest.mark.gpu
@pytest.mark.parametrize("linear", ["dense", "cg", "sparse"])
@pytest.mark.parametrize("make", [gel, strip])
def test_cuda_agrees_with_cpu(make, linear):
    model = make()
    name = model.parts[0].name
    results = []
    for device, kind in (("cpu", "sparse"), ("cuda", linear)):
        solver = SolverFEM(model, FEMConfig(dt=5e-3, linear=kind, tol=1e-9))
        E = torch.full(
            (2, 1), model.parts[0].E, dtype=torch.float64, device=device
        ).requires_grad_()
        twist = torch.full((2, 1, 6), 0.2, dtype=torch.float64, device=device).requires_grad_()
        start = model.initial_state(2, device=device)
        end = rollout(solver, start, [FEMControl(twist)] * 3, {name: {"E": E}}).final
        (1e3 * end.x).square().sum().backward()
        results.append([t.detach().cpu() for t in (end.x, E.grad, twist.grad)])
    for cpu, cuda in zip(*results, strict=True):
        assert float((cpu - cuda).norm()) < 1e-6 * float(cpu.norm())
