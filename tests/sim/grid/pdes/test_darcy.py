"""Darcy's equation: orders, jumps, walls, residuals, derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import relative_error, slope
from pde_cases import F64, field, generator
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.grid.pdes import (
    Darcy,
    GaussianField,
    Grid,
    dirichlet,
    neumann,
    robin,
    two_phases,
)

LIKE = torch.zeros((), dtype=F64)
ROOM = {"x-": dirichlet(), "x+": neumann(0.5), "z-": robin(1.0, 0.3, 0.2), "z+": dirichlet(1.0)}


def permeability(grid: Grid, n: int = 2, modes: int | None = None) -> torch.Tensor:
    basis = GaussianField(grid, 3.0, 5.0, basis="neumann", modes=modes)
    return (3 * basis.sample(n, generator(), dtype=F64)).exp()


def test_smooth_permeability_converges_with_second_order() -> None:
    """u = sin πx sin πz with a = 2 + cos 2πx sin z: f in closed form."""
    errors, levels = [], [8, 16, 32, 64]
    for n in levels:
        grid = Grid((n, n), sides="dirichlet")
        x, z = grid.points(LIKE).unbind(-1)
        p, s, c = math.pi, torch.sin, torch.cos
        u = s(p * x) * s(p * z)
        a = 2 + c(2 * p * x) * s(z)
        a_x, a_z = -2 * p * s(2 * p * x) * s(z), c(2 * p * x) * c(z)
        f = 2 * p**2 * a * u - a_x * p * c(p * x) * s(p * z) - a_z * p * s(p * x) * c(p * z)
        found = Darcy(grid, f[None, None]).solve(a[None, None])
        errors.append(relative_error(found[0, 0], u))
    assert slope(levels, errors) == pytest.approx(-2.0, abs=0.2)


def test_walls_of_all_kinds_converge_with_second_order() -> None:
    """u = e^x between a wall of Robin's kind and one that lets a flux in."""
    errors, levels = [], [8, 16, 32, 64]
    for n in levels:
        grid = Grid(n, sides={"x-": robin(1.0, 0.2, 0.8), "x+": neumann(2 * math.e)})
        x = grid.points(LIKE)[..., 0]
        # u = e^x: u − 0.2 a u' = 0.8 at 0, a u' = 2e at 1; a = 1 + x: f = −(a u')' = −(2 + x) e^x
        f = -(2 + x) * x.exp()
        found = Darcy(grid, f[None]).solve((1 + x)[None, None])
        errors.append(relative_error(found[0, 0], x.exp()))
    assert slope(levels, errors) == pytest.approx(-2.0, abs=0.2)


def test_jumps_between_cells_are_exact() -> None:
    sides = {"x-": dirichlet(), "x+": dirichlet(1.0), "z-": neumann(), "z+": neumann()}
    grid = Grid((8, 2), (1.0, 0.25), sides)
    x = grid.points(LIKE)[..., 0]
    a = torch.where(x < 0.5, 3.0, 12.0).double()[None, None]
    flux = 1 / (0.5 / 3 + 0.5 / 12)
    exact = torch.where(x < 0.5, flux * x / 3, 1 - flux * (1 - x) / 12)
    assert relative_error(Darcy(grid, 0.0).solve(a)[0, 0], exact) < 1e-12


@pytest.mark.parametrize("method", ["direct", "multigrid", "ic", "jacobi", "cg"])
def test_every_method_gives_the_zero_of_the_residual(method) -> None:
    grid = Grid((16, 12), sides=ROOM)
    a = two_phases(permeability(grid).log(), 3.0, 12.0)
    pde = Darcy(grid, 2.0, method)
    u = pde.solve(a)
    assert float(pde.residual(a, u).abs().max()) < 1e-9 * float(pde.residual(a, 0 * u).abs().max())
    assert relative_error(u, Darcy(grid, 2.0, "direct").solve(a)) < 1e-10
    one = torch.cat([pde.solve(part) for part in a.split(1)])
    assert relative_error(u, one) < 1e-10


@pytest.mark.parametrize("method", ["direct", "multigrid"])
def test_the_solution_is_differentiable_in_everything(method) -> None:
    grid = Grid((6, 5), sides=ROOM)
    pde = Darcy(grid, method=method)
    params = {"forcing": field(grid) + 1, "z-": torch.tensor([0.2, 0.4], dtype=F64)}
    params |= {"x+": torch.tensor(0.5, dtype=F64)}
    tree = {"a": permeability(grid), "params": params}
    weights = torch.randn(2, 1, 6, 5, generator=generator(), dtype=F64)
    for part in ("a", "params.forcing", "params.z-", "params.x+"):
        report = taylor_test(
            lambda t: (weights * pde.solve(t["a"], t["params"])).sum() + pde.solve(t["a"]).square().sum(),
            tree, wrt=[part], eps0=1e-2, levels=3,
        )  # fmt: skip
        assert report.exact or report.rate > 1.9, (part, report)


def test_the_residual_passes_gradcheck_and_leads_to_the_solution() -> None:
    grid = Grid((4, 3), sides=ROOM)
    pde, a = Darcy(grid), permeability(grid, 1)
    inputs = [t.clone().requires_grad_() for t in (a, field(grid, n=1))]
    assert torch.autograd.gradcheck(pde.residual, inputs)
    u = torch.zeros_like(a, requires_grad=True)
    optimizer = torch.optim.LBFGS([u], max_iter=80, tolerance_grad=1e-14, tolerance_change=1e-16)

    def loss():
        optimizer.zero_grad()
        value = pde.residual(a, u).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert relative_error(u.detach(), pde.solve(a)) < 1e-5


def test_single_precision_is_solved_in_double() -> None:
    grid = Grid((32, 32), sides="dirichlet")
    a = permeability(grid)
    low = Darcy(grid).solve(a.float())
    assert low.dtype == torch.float32 and relative_error(low.double(), Darcy(grid).solve(a)) < 1e-6


def test_three_dimensions_and_periodic_axes() -> None:
    sides = {"x-": "periodic", "x+": "periodic", "z-": neumann(), "z+": neumann()}
    sides |= {"y-": dirichlet(), "y+": dirichlet(1.0)}
    grid = Grid((4, 6, 4), (1.0, 2.0, 1.0), sides)
    pde, a = Darcy(grid, 0.0), torch.full((1, 1, 4, 6, 4), 7.0, dtype=F64)
    u = pde.solve(a)
    assert relative_error(u[0, 0], grid.points(LIKE)[..., 1] / 2) < 1e-10
    rough = permeability(grid)
    scale = pde.residual(rough, 0 * rough).abs().max()
    assert float(pde.residual(rough, pde.solve(rough)).abs().max() / scale) < 1e-9


def test_errors_name_the_remedy() -> None:
    grid = Grid((4, 4), sides="dirichlet")
    pde, a = Darcy(grid), torch.ones(1, 1, 4, 4)
    with pytest.raises(InputError, match="a wall that holds a value"):
        Darcy(Grid((4, 4), sides="neumann"))
    with pytest.raises(InputError, match="method out of"):
        Darcy(grid, method="lu")
    with pytest.raises(InputError, match="a > 0"):
        pde.solve(-a)
    with pytest.raises(StateError, match="finite a"):
        pde.solve(a / 0)
    with pytest.raises(InputError, match=r"a of shape \(B, 1, 4, 4\)"):
        pde.solve(a[0])
    with pytest.raises(InputError, match="u of shape"):
        pde.residual(a, a[..., :3])
    with pytest.raises(InputError, match="parameters out of"):
        pde.solve(a, {"f": 1.0})
