"""The short way to launch kernels on the CPU and Warp's own way give the same bits."""

from __future__ import annotations

import torch
import warp
from mpm_scenes import mixed, shaken
from rheograd.sim.core.backend import Command
from rheograd.sim.mpm import MPMConfig, SolverMPM


def run() -> list[torch.Tensor]:
    model = mixed()
    solver = SolverMPM(model, MPMConfig(dt=1e-4, substeps=3))
    state = shaken(model)
    state = state.replace(v=state.v.clone().requires_grad_(), x=state.x.clone().requires_grad_())
    out = solver.step(solver.step(state))
    gradients = torch.autograd.grad(out.x.square().sum() + out.v.square().sum(), [state.x, state.v])
    return [out.x.detach(), out.v.detach(), *gradients]


def test_launches_of_another_warp_version_give_the_same(monkeypatch):
    packed: list[bool] = []
    whole = Command.__init__

    def watched(self, *args, **options):
        whole(self, *args, **options)
        packed.append(bool(self._packed))

    monkeypatch.setattr(Command, "__init__", watched)
    short = run()
    assert packed and all(packed) == warp.__version__.startswith("1.19.")
    packed.clear()
    monkeypatch.setattr(warp, "__version__", "1.99.0")
    usual = run()
    assert packed and not any(packed)
    assert all(torch.equal(a, b) for a, b in zip(short, usual, strict=True))
