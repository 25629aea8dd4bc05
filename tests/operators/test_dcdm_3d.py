"""Networks in 3-D: what ships, on domains and sizes that were not trained on."""

from __future__ import annotations

import logging

import torch
from rheograd.operators.dcdm import DCDM, DCDMNet, LinearMultigrid, load_net
from rheograd.sim.grid.poisson import PoissonProblem, PoissonSystem, solve_poisson

F64 = torch.float64


def test_the_quick_convolutions_of_solves_are_those_of_training(generator) -> None:
    """One grid without gradients takes another path than a batch, or one with gradients."""
    r = torch.randn(1, 12, 10, 8, generator=generator)
    blind, linear = DCDMNet(3, generator=generator), LinearMultigrid(3, generator=generator)
    for sides in ("neumann", "periodic", {"x-": "neumann"}):
        system = PoissonSystem(PoissonProblem((12, 10, 8), 1.0, sides), "cg", like=r)
        for net in (blind, linear):
            slow = net(r, net.prepare(system.stencil, system.active)).detach()
            with torch.no_grad():
                quick = net(r, net.prepare(system.stencil, system.active))
            torch.testing.assert_close(quick, slow, rtol=1e-4, atol=1e-5)


def rooms(n: int) -> torch.Tensor:
    """A thin wall with a gap above, and a ball behind it: nothing like it was trained on."""
    x = torch.stack(torch.meshgrid(*[(torch.arange(n) + 0.5) / n] * 3, indexing="ij"), -1)
    wall = ((x[..., 0] - 0.4).abs() < 0.6 / n) & (x[..., 2] < 0.75)
    return ~wall & ((x - torch.tensor([0.7, 0.45, 0.5])).norm(dim=-1) > 0.17)


def test_shipped_networks_need_few_iterations_on_an_unseen_domain(generator, caplog) -> None:
    """1e-6 at 16³ and 28³, without help, and a quarter of CG's at most."""
    most = {"dcdm-3d": 40, "linear-3d": 25, "symmetric-3d": 14}
    for n in (16, 28):
        problem = PoissonProblem((n, n, n), 1.0, "neumann", mask=rooms(n))
        b = torch.randn(n, n, n, generator=generator, dtype=F64).cumsum(0)
        classical = solve_poisson(problem, b, "cg", 1e-6, inconsistent="project")
        for name, limit in most.items():
            method = DCDM(load_net(name))
            with caplog.at_level(logging.WARNING):
                found = solve_poisson(problem, b, method, 1e-6, inconsistent="project")
            assert "CG" not in caplog.text
            assert int(found.iterations) <= limit, (name, n, int(found.iterations))
            assert 4 * int(found.iterations) <= int(classical.iterations), (name, n)
            # b is smooth, so that ‖u‖ is near ‖b‖ / λ_min: the error is the residual's, up to a few.
            assert float((found.u - classical.u).norm()) < 2e-5 * float(classical.u.norm())
