"""The CUDA side: kernels compile without a GPU, and give the CPU's numbers with one."""

from __future__ import annotations

import pytest
import torch
from body_scenes import crowded
from mpm_scenes import mixed, shaken
from rheograd.sim.core.backend import warp
from rheograd.sim.core.laws import Liquid, NeoHookean
from rheograd.sim.mpm import MPMConfig, SolverMPM
from rheograd.sim.mpm.body_kernels import body_kernels
from rheograd.sim.mpm.contact_kernels import contact_kernels
from rheograd.sim.mpm.grid_kernels import grid_kernels
from rheograd.sim.mpm.kernels import transfer_kernels
from rheograd.sim.mpm.law_kernels import law_kernels
from rheograd.sim.mpm.push_kernels import push_kernels


@pytest.mark.slow
def test_kernels_compile_for_cuda(tmp_path) -> None:
    wp = warp()
    transfers = transfer_kernels(wp.float32, 3, False)
    grid = grid_kernels(wp.float32, 3, False)
    kernels = [transfers.scatter, transfers.scatter_adjoint, transfers.gather]
    kernels += [transfers.gather_adjoint, grid.update, grid.update_adjoint, grid.collide]
    for make in (body_kernels, contact_kernels, push_kernels):
        kernels += vars(make(wp.float32, 3, False)).values()
    for law in (NeoHookean(), Liquid()):
        kernels += vars(law_kernels(law, wp.float32, 3)).values()
    for kernel in kernels:
        if isinstance(kernel, wp.Kernel):
            wp.compile_aot_module(kernel.module, arch=90, module_dir=str(tmp_path))
    assert list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.parametrize("scene", ["mixed", "crowded"])
def test_cuda_equals_cpu_forward_and_backward(scene: str) -> None:
    results = []
    model = mixed(3) if scene == "mixed" else crowded(3, push_out=True)
    for device in ("cpu", "cuda"):
        solver = SolverMPM(model, MPMConfig(dt=2e-4, substeps=10))
        state = shaken(solver.model, batch_size=2).to(device)
        v = state.v.clone().requires_grad_()
        end = solver.step(solver.step(state.replace(v=v)))
        (gradient,) = torch.autograd.grad((end.x**2).sum() + (end.F**2).sum(), v)
        results.append((end.x.detach().cpu(), gradient.cpu()))
    (x0, g0), (x1, g1) = results
    # Atomic additions come in any order: round-off, amplified by the steps.
    assert float((x1 - x0).abs().max()) < 1e-10
    assert float((g1 - g0).norm() / g0.norm()) < 1e-9
