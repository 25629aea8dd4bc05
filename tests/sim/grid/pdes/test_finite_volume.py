"""Finite-volume PDEs with walls, Burgers on a circle, reactions: exact solutions, orders, sums."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import relative_error, slope
from pde_cases import F64, field
from rheograd.sim.core.rollout import rollout
from rheograd.sim.grid.pdes import (
    Burgers,
    BurgersFV,
    DiffusionSorption,
    FitzHughNagumo,
    Grid,
    Heat,
    dirichlet,
    neumann,
    robin,
    sorption_sides,
)

LIKE = torch.zeros((), dtype=F64)
LEVELS = [16, 32, 64, 128]


def run(pde, u, n):
    return rollout(pde, pde.initial_state(u), n, save_every=n).final.u


def x_of(grid: Grid) -> torch.Tensor:
    return grid.points(LIKE)[..., 0]


@pytest.mark.parametrize("right", [dirichlet(1.0), neumann(6.0), robin(2.0, 0.5, 5.0)])
def test_a_manufactured_profile_is_steady_at_second_order(right) -> None:
    """u = x³ between u(0) = 0 and three kinds of wall at x = 1, k = 1 + x."""
    errors = []
    for n in LEVELS:
        grid = Grid(n, sides={"x-": dirichlet(), "x+": right})
        x = x_of(grid)
        f = -(6 * x + 9 * x**2)  # −(k u')' of k u' = 3x² + 3x³
        pde = Heat(grid, 1e6, (1 + x)[None, None], f[None], scheme="implicit_euler")
        u = run(pde, torch.zeros_like(x)[None, None], 2)[0, 0]
        errors.append(relative_error(u, x**3))
    assert slope(LEVELS, errors) == pytest.approx(-2.0, abs=0.2)


def test_a_manufactured_field_in_2d_is_steady_at_second_order() -> None:
    errors, levels = [], [8, 16, 32, 64]
    sides = {"x-": "periodic", "x+": "periodic", "z-": dirichlet(), "z+": robin(3.0, 1.0)}
    for n in levels:
        grid = Grid((n, n // 2 * 3), (1.0, 1.0), sides)
        x, z = grid.points(LIKE).unbind(-1)
        p, s, c = math.pi, torch.sin, torch.cos
        k, k_x = 2 + c(2 * p * x) * z, -2 * p * s(2 * p * x) * z
        k_z = c(2 * p * x)
        # u = g(z) sin 2πx; 3 u + k ∂u/∂z = 0 at z = 1 for every k asks for g(1) = g'(1) = 0
        g, g1, g2 = z * (1 - z) ** 2, (1 - z) * (1 - 3 * z), 6 * z - 4
        u, wave = g * s(2 * p * x), s(2 * p * x)
        f = 4 * p**2 * k * u - k_x * 2 * p * c(2 * p * x) * g - k_z * g1 * wave - k * g2 * wave
        pde = Heat(grid, 1e5, k[None, None], f[None, None], scheme="implicit_euler")
        errors.append(relative_error(run(pde, 0 * u[None, None], 2)[0, 0], u))
    assert slope(levels, errors) == pytest.approx(-2.0, abs=0.2)


@pytest.mark.parametrize(
    ("scheme", "order"), [("implicit_euler", 1), ("crank_nicolson", 2), ("rk4", 4)]
)
def test_orders_of_time_steps(scheme, order) -> None:
    """Burgers between walls against many short Runge–Kutta steps on the same grid."""
    grid, T = Grid(10, 2.0, "dirichlet", -1.0), 0.24
    u0 = -torch.sin(math.pi * x_of(grid))[None, None]
    make = lambda n, s: BurgersFV(grid, T / n, 0.1, scheme=s)  # noqa: E731
    reference = run(make(96, "rk4"), u0, 96)
    steps = [4, 8, 16, 32]
    errors = [relative_error(run(make(n, scheme), u0, n), reference) for n in steps]
    assert slope(steps, errors) == pytest.approx(-order, abs=0.2)


def test_heat_decays_as_its_modes_do() -> None:
    """cos πx between insulated walls is an eigenvector; Crank–Nicolson takes (1 + z/2) / (1 − z/2)."""
    grid, dt = Grid(20, sides="neumann"), 0.01
    u = torch.cos(math.pi * x_of(grid))[None, None]
    z = -dt * (2 * math.sin(math.pi / 40) * 20) ** 2
    exact = u * ((1 + z / 2) / (1 - z / 2)) ** 3
    assert relative_error(run(Heat(grid, dt), u, 3), exact) < 1e-12


def test_sums_change_by_what_walls_and_sources_give() -> None:
    sides = {"x-": neumann(0.7), "x+": neumann(), "z-": "periodic", "z+": "periodic"}
    grid = Grid((6, 5), (1.0, 2.0), sides)
    u, k = field(Grid((6, 5))), 0.5 + field(Grid((6, 5)), seed=4).square()
    pde = Heat(grid, 0.05, k, 0.3)
    gained = (run(pde, u, 4) - u).sum((1, 2, 3)) * grid.volume
    # flux through a wall of length 2, source over an area of 2
    torch.testing.assert_close(gained, torch.full_like(gained, 0.2 * (0.7 * 2.0 + 0.3 * 2.0)))


def test_conduction_across_a_jump_has_the_exact_flux() -> None:
    """Two slabs in series, k = 1 and 10: u is linear in each, to round-off, on any grid."""
    grid = Grid(10, sides={"x-": dirichlet(), "x+": dirichlet(1.0)})
    x = x_of(grid)
    k = torch.where(x < 0.5, 1.0, 10.0)
    flux = 1 / (0.5 / 1 + 0.5 / 10)
    exact = torch.where(x < 0.5, flux * x, 1 - flux * (1 - x) / 10)
    pde = Heat(grid, 1e8, k[None, None], scheme="implicit_euler")
    assert relative_error(run(pde, 0 * x[None, None], 2)[0, 0], exact) < 1e-7  # 1 / (dt rate)


def cole_hopf(x, t, nu):
    """Burgers on [0, 1) from θ = 1 + ½ e^{−ν k² t} cos kx: u = −2 ν θ_x / θ."""
    k = 2 * math.pi
    a = 0.5 * math.exp(-nu * k**2 * t)
    return 2 * nu * a * k * torch.sin(k * x) / (1 + a * torch.cos(k * x))


def test_burgers_on_a_circle_converges_spectrally_to_cole_hopf() -> None:
    errors = []
    for n in (12, 24, 48):
        grid = Grid(n)
        x, T = x_of(grid), 0.4
        pde = Burgers(grid, T / 64, 0.05)
        u = run(pde, cole_hopf(x, 0.0, 0.05)[None, None], 64)[0, 0]
        errors.append(relative_error(u, cole_hopf(x, T, 0.05)))
    assert errors[1] < 0.02 * errors[0] and errors[2] < 1e-7


@pytest.mark.parametrize(("flux", "order"), [("central", 2), ("godunov", 1)])
@pytest.mark.parametrize("sides", ["periodic", "dirichlet"])
def test_burgers_by_volumes_converges_to_cole_hopf(flux, order, sides) -> None:
    """u = 0 at x = 0 and 1 by symmetry, so walls and periodic sides have one solution."""
    errors, T = [], 0.2
    for n in LEVELS:
        grid = Grid(n, sides=sides)
        x, steps = x_of(grid), max(30, n * n // 50)
        pde = BurgersFV(grid, T / steps, 0.05, flux=flux, scheme="rk4")
        u = run(pde, cole_hopf(x, 0.0, 0.05)[None, None], steps)[0, 0]
        errors.append(relative_error(u, cole_hopf(x, T, 0.05)))
    assert slope(LEVELS, errors) == pytest.approx(-order, abs=0.2)


def test_fluxes_of_burgers_keep_momentum_and_the_central_one_energy() -> None:
    grid = Grid(16)
    u = field(grid)
    for flux in ("central", "godunov"):
        pde = BurgersFV(grid, 1e-3, 0.0, flux=flux)
        rhs = pde.rhs(u, pde.spread(None, u))
        assert float(rhs.sum(-1).abs().max()) < 1e-12
        power = float((u * rhs).sum())
        assert abs(power) < 1e-11 if flux == "central" else power < -1e-3


def test_a_front_stays_within_bounds_with_godunov() -> None:
    grid = Grid(32, sides={"x-": dirichlet(1.0), "x+": dirichlet(-0.5)})
    x = x_of(grid)
    u = torch.where(x < 0.3, 1.0, -0.5).double()[None, None]
    out = run(BurgersFV(grid, 0.02, 1e-4, flux="godunov", scheme="implicit_euler"), u, 20)
    assert -0.5 - 1e-9 < float(out.min()) and float(out.max()) < 1 + 1e-9
    # Rankine–Hugoniot: the front moves with (1 − 0.5) / 2, so ∫ u grows by 0.375 per second
    assert float((out - u).sum()) / 32 == pytest.approx(0.375 * 0.4, rel=1e-3)


def test_sorption_keeps_the_solute_and_the_maximum() -> None:
    grid = Grid(64, sides=sorption_sides())
    pde = DiffusionSorption(grid, 5.0)
    u0 = torch.tensor([0.0, 0.1, 0.2], dtype=F64).reshape(3, 1, 1).expand(3, 1, 64)
    state = pde.initial_state(u0)
    p = pde.prepare(None, state)
    for _ in range(15):
        new = pde.step(state, None, p)
        gained = (pde.storage(new.u, p.values) - pde.storage(state.u, p.values)).sum(-1) / 64
        first, last = new.u[..., 0], new.u[..., -1]
        through = 5e-4 * 2 * 64 * (1 - first)  # half a cell from the wall
        through = through - last / (1 + 0.5 / 64 / 5e-4)  # −D u' = u at the wall
        torch.testing.assert_close(gained, 5.0 * through, rtol=1e-8, atol=1e-12)
        state = new
        assert 0 <= float(state.u.min()) and float(state.u.max()) < 1
    assert bool((state.u[0].diff(dim=-1) < 0).all())  # a front that fades inwards


def test_sorption_converges_and_without_it_is_heat_conduction() -> None:
    sides = {"x-": dirichlet(1.0), "x+": neumann()}
    profile = lambda x: (1 - torch.sin(0.5 * math.pi * x))[None, None]  # noqa: E731
    grid = Grid(12, sides=sides)
    x = x_of(grid)
    dry = DiffusionSorption(grid, 10.0, freundlich=0.0)
    heat = Heat(grid, 10.0, 5e-4, scheme="implicit_euler")
    assert relative_error(run(dry, profile(x), 3), run(heat, profile(x), 3)) < 1e-11
    fine, errors, steps = DiffusionSorption(grid, 10.0, scheme="crank_nicolson"), [], [1, 2, 4, 8]
    reference = run(fine, profile(x), 32)
    for n in steps:
        pde = DiffusionSorption(grid, 320.0 / n)
        errors.append(relative_error(run(pde, profile(x), n), reference))
    assert slope(steps, errors) == pytest.approx(-1.0, abs=0.2)
    # a source holds u = 1 + x (1 − x) (2 − x); in a steady state sorption plays no part
    errors = []
    for n in (8, 16, 32, 64):
        grid = Grid(n, sides={"x-": dirichlet(1.0), "x+": robin(1.0, 1.0, 0.5)})
        x = x_of(grid)
        pde = DiffusionSorption(grid, 1e9, 0.5, forcing=(-0.5 * (6 * x - 6))[None, None])
        exact = 1 + x * (1 - x) * (2 - x)
        errors.append(relative_error(run(pde, 0 * x[None, None] + 1, 2)[0, 0], exact))
    assert slope([8, 16, 32, 64], errors) == pytest.approx(-2.0, abs=0.2)


def test_retardation_is_the_derivative_of_the_storage() -> None:
    pde = DiffusionSorption(Grid(50, sides=sorption_sides()), 1.0)
    u = torch.linspace(-0.01, 1.0, 50, dtype=F64).reshape(1, 1, 50).requires_grad_()
    values = pde.spread(None, u)
    slope_of_m = torch.autograd.grad(pde.storage(u, values).sum(), u)[0]
    torch.testing.assert_close(slope_of_m, pde.retardation(u, values))
    # PDEBench's R at u = 0.1 with its constants
    c = (1 - 0.29) / 0.29 * 2880 * 3.5e-4 * 0.874
    at = pde.retardation(torch.full((1, 1, 50), 0.1, dtype=F64), values)[0, 0, 0]
    assert float(at) == pytest.approx(1 + c * (0.1 + 1e-6) ** (0.874 - 1), rel=1e-12)


def test_reaction_alone_is_an_ordinary_equation() -> None:
    """Uniform fields stay so and follow u' = u − u³ − k − v, v' = u − v."""
    pde = FitzHughNagumo(Grid((4, 4), sides="neumann"), 0.01)
    u = torch.tensor([0.5, -0.2], dtype=F64).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    out = run(pde, u, 100)
    y, h = torch.tensor([0.5, -0.2], dtype=F64), 0.001
    f = lambda y: torch.stack((y[0] - y[0] ** 3 - 5e-3 - y[1], y[0] - y[1]))  # noqa: E731
    for _ in range(1000):
        a = f(y)
        b = f(y + h / 2 * a)
        c = f(y + h / 2 * b)
        y = y + h / 6 * (a + 2 * b + 2 * c + f(y + h * c))
    assert float((out - y.reshape(1, 2, 1, 1)).abs().max()) < 1e-9


def test_reaction_and_diffusion_converge_in_space_and_time() -> None:
    errors, levels, T = [], [8, 16, 32, 64], 0.5
    start = lambda x: torch.stack((torch.cos(math.pi * x), 0.5 * torch.cos(2 * math.pi * x)))[None]  # noqa: E731
    reference = None
    for n in (256, *levels):
        grid = Grid(n, sides="neumann")
        u = run(FitzHughNagumo(grid, T / 10, 0.02, 0.05), start(x_of(grid)), 10)
        if reference is None:
            reference = u
            continue
        # values of the finer grid at centres of the coarser one: cubic through four
        r = 256 // n
        at = torch.arange(n) * r + r // 2
        near = [reference[..., at + o] for o in (-2, -1, 0, 1)]
        middle = (-near[0] + 9 * near[1] + 9 * near[2] - near[3]) / 16
        errors.append(relative_error(u, middle))
    assert slope(levels, errors) == pytest.approx(-2.0, abs=0.2)
    grid = Grid(12, sides="neumann")
    make = lambda n: FitzHughNagumo(grid, T / n, 0.02, 0.05)  # noqa: E731
    fine = run(make(64), start(x_of(grid)), 64)
    errors = [relative_error(run(make(n), start(x_of(grid)), n), fine) for n in (2, 4, 8, 16)]
    assert slope([2, 4, 8, 16], errors) == pytest.approx(-4.0, abs=0.2)
