"""Navier–Stokes on periodic boxes: exact flows, orders, invariants, spectra."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import relative_error, slope
from pde_cases import F64, field, generator
from rheograd.sim.core.errors import ConvergenceError
from rheograd.sim.core.rollout import rollout
from rheograd.sim.grid.pdes import (
    GaussianField,
    Grid,
    NavierStokes2D,
    NavierStokes3D,
    arakawa_jacobian,
    energy_spectrum,
)

LIKE = torch.zeros((), dtype=F64)
TWO_PI = 2 * math.pi


def waves(grid: Grid) -> torch.Tensor:
    """A smooth vorticity of a few modes, which carry one another."""
    x, z = (TWO_PI * grid.points(LIKE)).unbind(-1)
    w = torch.sin(x + z + 0.3) + 0.7 * torch.sin(2 * x - z + 1) + 0.5 * torch.sin(3 * x + z + 2)
    return w[None, None]


def taylor_green(grid: Grid) -> torch.Tensor:
    x, z = (TWO_PI * grid.points(LIKE)).unbind(-1)
    return (0.02 * torch.cos(x) * torch.cos(z))[None, None]


@pytest.mark.parametrize("scheme", ["etdrk4", "crank_nicolson"])
def test_taylor_green_decays_at_the_order_of_the_scheme(scheme) -> None:
    """N vanishes, so ETDRK4 is exact; Crank–Nicolson has the error of its rational e^z."""
    grid, nu, T = Grid((16, 16)), 0.05, 0.2
    start, decay = taylor_green(grid), 2 * nu * TWO_PI**2
    exact, errors, steps = start * math.exp(-decay * T), [], [1, 2, 4, 8]
    for n in steps:
        pde = NavierStokes2D(grid, T / n, nu, scheme=scheme)
        errors.append(relative_error(rollout(pde, pde.initial_state(start), n).final.u, exact))
    if scheme == "etdrk4":
        assert max(errors) < 1e-12
    else:
        # ln of the rational differs from z by z³/12: the leading error is n z³/12
        predicted = [n * (decay * T / n) ** 3 / 12 for n in steps]
        assert errors == pytest.approx(predicted, rel=0.1)


def test_taylor_green_of_differences_converges_with_second_order() -> None:
    nu, T, errors, sizes = 0.05, 0.1, [], [8, 16, 32, 64]
    for n in sizes:
        grid = Grid((n, n))
        pde = NavierStokes2D(grid, T / 2, nu, discretization="arakawa")
        u = rollout(pde, pde.initial_state(taylor_green(grid)), 2).final.u
        errors.append(relative_error(u, taylor_green(grid) * math.exp(-2 * nu * TWO_PI**2 * T)))
    assert slope(sizes, errors) == pytest.approx(-2.0, abs=0.2)


@pytest.mark.parametrize(
    ("kind", "scheme", "order"),
    [("spectral", "etdrk4", 4), ("arakawa", "etdrk4", 4), ("arakawa", "crank_nicolson", 2)],
)
def test_orders_in_time_with_forcing(kind, scheme, order) -> None:
    grid, T = Grid((16, 16)), 0.16
    x = TWO_PI * grid.points(LIKE)[..., 0]
    make = lambda n, s: NavierStokes2D(  # noqa: E731
        grid, T / n, 0.01, 0.1, 0.3 * torch.sin(x)[None], discretization=kind, scheme=s
    )
    fine = make(64, "etdrk4")
    reference = rollout(fine, fine.initial_state(waves(grid)), 64).final.u
    errors, steps = [], [1, 2, 4, 8]
    for n in steps:
        pde = make(n, scheme)
        errors.append(
            relative_error(rollout(pde, pde.initial_state(waves(grid)), n).final.u, reference)
        )
    assert slope(steps, errors) == pytest.approx(-order, abs=0.2)


@pytest.mark.parametrize("kind", ["spectral", "arakawa"])
def test_a_manufactured_steady_flow_stays_at_the_order_in_space(kind) -> None:
    """f = u·∇ω − ν ∇²ω + μ ω in closed form for ψ = sin x cos 2z + ½ sin 2x; its rhs must vanish."""
    nu, mu, errors, sizes = 0.02, 0.3, [], [12, 24, 48, 96]
    for n in sizes:
        grid = Grid((n, n))
        x, z = (TWO_PI * grid.points(LIKE)).unbind(-1)
        s, c = torch.sin, torch.cos
        psi_x = TWO_PI * (c(x) * c(2 * z) + c(2 * x))
        psi_z = -2 * TWO_PI * s(x) * s(2 * z)
        w = TWO_PI**2 * (5 * s(x) * c(2 * z) + 2 * s(2 * x))
        w_x = TWO_PI**3 * (5 * c(x) * c(2 * z) + 4 * c(2 * x))
        w_z = -(TWO_PI**3) * 10 * s(x) * s(2 * z)
        diffusion = -(TWO_PI**4) * (25 * s(x) * c(2 * z) + 8 * s(2 * x))
        f = psi_z * w_x - psi_x * w_z - nu * diffusion + mu * w
        pde = NavierStokes2D(grid, 1e-3, nu, mu, f[None], discretization=kind)
        state = pde.initial_state(w[None, None])
        errors.append(relative_error(f + pde.rhs(state.u, pde.prepare(None, state))[0, 0], f))
        assert float((pde.velocity(state.u)[0, 0] - psi_z).abs().max()) < 40 / n**2 * TWO_PI
    if kind == "spectral":
        assert max(errors) < 1e-11
    else:
        assert slope(sizes, errors) == pytest.approx(-2.0, abs=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_arakawa_keeps_vorticity_energy_and_enstrophy(dtype) -> None:
    psi, w = torch.randn(2, 4, 16, 12, generator=generator(), dtype=F64).to(dtype)
    J = arakawa_jacobian(psi, w, (0.1, 0.2))
    tol = 1e-6 if dtype == torch.float32 else 1e-14
    for weight in (torch.ones_like(psi), psi, w):
        terms = weight * J
        assert float(terms.sum().abs()) < tol * float(terms.abs().sum())
    torch.testing.assert_close(J, -arakawa_jacobian(w, psi, (0.1, 0.2)))


@pytest.mark.parametrize("kind", ["spectral", "arakawa"])
def test_without_viscosity_energy_and_enstrophy_are_kept(kind) -> None:
    grid = Grid((24, 24))
    pde = NavierStokes2D(grid, 0.02, 0.0, discretization=kind)
    # no mode beyond n / 3: there the spectral product sees nothing
    w = GaussianField(grid, 2.5, 7.0, modes=7).sample(2, generator(), dtype=F64) * 10
    state = pde.initial_state(w)
    sums = []
    for _ in range(2):
        psi = pde.stream_function(state.u)
        sums.append(torch.stack((state.u.square().sum((1, 2, 3)), (psi * state.u).sum((1, 2, 3)))))
        state = rollout(pde, state, 10).final
    assert relative_error(state.u, w) > 0.1  # it has moved
    assert relative_error(sums[1], sums[0]) < 1e-6  # fourth order in dt


def test_the_implicit_step_of_neuralstagger_in_single_precision() -> None:
    pde = NavierStokes2D(Grid((32, 32)), 0.1, discretization="arakawa", scheme="crank_nicolson")
    w0 = field(pde.grid, size=0.26).float()
    R = pde.residual(w0, pde.step(pde.initial_state(w0)).u)
    assert float(R.norm() * 0.1 / w0.norm()) < 1e-4


def test_the_implicit_step_of_neuralstagger_has_its_residual() -> None:
    """Section 3.1: R = (ω₁ − ω₀)/Δt − ½ [rhs(ω₀) + rhs(ω₁)], written out with rolls."""
    n, nu, dt = 32, 1e-3, 0.1
    grid = Grid((n, n))
    x, z = (TWO_PI * grid.points(LIKE)).unbind(-1)
    f = 0.1 * (torch.sin(x + z) + torch.cos(x + z))[None]
    pde = NavierStokes2D(grid, dt, nu, 0.0, f, discretization="arakawa", scheme="crank_nicolson")
    w0 = field(grid, size=0.26)
    w1 = pde.step(pde.initial_state(w0)).u

    def laplacian(q):
        return sum(q.roll(s, a) for s in (1, -1) for a in (-1, -2)) * n**2 - 4 * n**2 * q

    def rhs(w):
        psi = pde.stream_function(w)
        assert relative_error(-laplacian(psi), w) < 1e-11
        return arakawa_jacobian(psi, w, grid.dx) + nu * laplacian(w) + f

    R = (w1 - w0) / dt - 0.5 * (rhs(w0) + rhs(w1))
    assert float(R.norm() * dt / w0.norm()) < 1e-9
    # what a network of some other kind would be charged with is the same number
    guess = w0 + 0.01 * field(grid, seed=3)
    expected = (guess - w0) / dt - 0.5 * (rhs(w0) + rhs(guess))
    torch.testing.assert_close(pde.residual(w0, guess), expected, rtol=1e-10, atol=1e-10)


def test_an_implicit_step_that_is_too_long_says_so() -> None:
    grid = Grid((16, 16))
    pde = NavierStokes2D(grid, 5.0, 1e-4, scheme="crank_nicolson", max_iterations=20)
    with pytest.raises(ConvergenceError, match="lower dt"):
        pde.step(pde.initial_state(field(grid, size=5.0)))


def test_spectra_add_up_and_decay() -> None:
    grid = Grid((32, 32))
    pde = NavierStokes2D(grid, 0.02, 1e-3)
    state = pde.initial_state(GaussianField(grid, 2.5, 7.0).sample(2, generator(), dtype=F64))
    u = pde.velocity(rollout(pde, state, 20).final.u)
    shells, E = energy_spectrum(u, grid)
    assert len(shells) == E.shape[1]
    torch.testing.assert_close(E.sum(1), 0.5 * u.square().sum(1).mean((1, 2)))
    assert bool((E[:, 0] < 1e-25).all())
    assert bool((E[:, 12:].sum(1) < 0.01 * E[:, 1:5].sum(1)).all())
    x = TWO_PI * grid.points(LIKE)[..., 0]
    one = energy_spectrum(3 * torch.cos(5 * x)[None, None], grid)[1][0]
    assert float(one[5]) == pytest.approx(9 / 4) and float(one.sum()) == pytest.approx(9 / 4)


def test_beltrami_flow_in_3d_decays_exactly() -> None:
    """ABC flow has ω = k u, hence u × ω = 0: u(t) = e^{−ν k² t} u(0)."""
    grid, nu = Grid((12, 12, 12)), 0.05
    x, y, z = (TWO_PI * grid.points(LIKE)).unbind(-1)
    s, c = torch.sin, torch.cos
    u = torch.stack((s(z) + 0.7 * c(y), 0.4 * s(x) + c(z), 0.7 * s(y) + 0.4 * c(x)))[None]
    pde = NavierStokes3D(grid, 0.02, nu)
    state = pde.initial_state(u)
    torch.testing.assert_close(state.u, u)
    torch.testing.assert_close(pde.vorticity(u), TWO_PI * u)
    final = rollout(pde, state, 5).final.u
    assert relative_error(final, u * math.exp(-nu * TWO_PI**2 * 0.1)) < 1e-12


def test_flow_in_3d_is_without_divergence_and_loses_what_viscosity_takes() -> None:
    """dE/dt = −2 ν Z, with Z = ½ mean ω²; Taylor–Green vortex, which makes small scales."""
    grid, nu, dt = Grid((16, 16, 16), (TWO_PI,) * 3), 0.02, 0.01
    x, y, z = grid.points(LIKE).unbind(-1)
    s, c = torch.sin, torch.cos
    u = torch.stack((s(x) * c(y) * c(z), -c(x) * s(y) * c(z), torch.zeros_like(x)))[None]
    pde = NavierStokes3D(grid, dt, nu)
    state = rollout(pde, pde.initial_state(u), 50, save_every=50).final
    energies, enstrophy = [], 0.0
    for weight in (1, 4, 1):  # Simpson's rule over two steps
        energies.append(0.5 * float(state.u.square().sum(1).mean()))
        enstrophy += weight / 3 * dt * 0.5 * float(pde.vorticity(state.u).square().sum(1).mean())
        state = pde.step(state)
    lost = energies[0] - energies[2]
    assert lost == pytest.approx(2 * nu * enstrophy, rel=1e-5)
    assert float(pde.divergence(state.u).abs().max()) < 1e-12


@pytest.mark.parametrize(("scheme", "order"), [("etdrk4", 4), ("crank_nicolson", 2)])
def test_orders_in_time_in_3d(scheme, order) -> None:
    grid, T = Grid((8, 8, 8)), 0.05
    u, push = field(grid, 3, n=1, size=0.7), field(grid, 3, n=1, seed=1)[0]
    make = lambda n, s: NavierStokes3D(grid, T / n, 0.02, 0.1, push, scheme=s)  # noqa: E731
    fine = make(32, "etdrk4")
    reference = rollout(fine, fine.initial_state(u), 32).final.u
    errors, steps = [], [1, 2, 4, 8]
    for n in steps:
        pde = make(n, scheme)
        final = rollout(pde, pde.initial_state(u), n).final.u
        errors.append(relative_error(final, reference))
    assert slope(steps, errors) == pytest.approx(-order, abs=0.2)


def test_flow_in_3d_without_a_third_direction_is_the_flow_in_2d() -> None:
    plane, dt = Grid((16, 16)), 0.02
    flat = NavierStokes2D(plane, dt, 0.01)
    w = waves(plane)
    box = Grid((16, 16, 4))
    solid = NavierStokes3D(box, dt, 0.01)
    pair = flat.velocity(w)
    # plane (x, z) of 2-D is (x, y) here; third velocity zero
    u = torch.cat((pair, torch.zeros_like(w)), 1)[..., None].expand(-1, -1, 16, 16, 4)
    two = rollout(flat, flat.initial_state(w), 5).final.u
    three = rollout(solid, solid.initial_state(u), 5).final.u
    torch.testing.assert_close(solid.vorticity(three)[:, 2:, ..., 0], two, rtol=1e-9, atol=1e-10)
