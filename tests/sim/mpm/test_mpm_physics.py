"""MPM against closed forms and conservation laws.

Only statements with a known right answer; tolerances follow from the order of the method.
"""

from __future__ import annotations

import math

import pytest
import torch
from mpm_scenes import F64, block, lattice, shaken
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.laws import FixedCorotated, Law, Liquid, NeoHookean
from rheograd.sim.core.rollout import rollout
from rheograd.sim.core.shapes import Plane
from rheograd.sim.mpm import Grid, Group, MPMConfig, MPMModel, MPMState, SolverMPM
from rheograd.sim.mpm.engine_torch import TorchTransfers
from torch import Tensor

GRAVITY_OFF = (0.0, 0.0, -1e-30)


def masses(solver: SolverMPM, state: MPMState) -> Tensor:
    return solver.prepare(None, state).mass


def angular_momentum(state: MPMState, mass: Tensor, dx: float) -> Tensor:
    """Σ m (x × v) + m (dx²/4) ε : C, the second term being the spin of the affine field (APIC)."""
    spin = torch.stack(
        [
            state.C[..., 2, 1] - state.C[..., 1, 2],
            state.C[..., 0, 2] - state.C[..., 2, 0],
            state.C[..., 1, 0] - state.C[..., 0, 1],
        ],
        dim=-1,
    )
    orbit = torch.linalg.cross(state.x, state.v)
    return (mass[..., None] * (orbit + 0.25 * dx**2 * spin)).sum(1)


def test_free_flight_conserves_mass_and_momenta() -> None:
    model = block(NeoHookean(E=1e4, nu=0.3), n=5, gravity=GRAVITY_OFF)
    solver = SolverMPM(model, MPMConfig(dt=2e-4, substeps=100))
    state = shaken(model)
    mass = masses(solver, state)
    end = solver.step(state)
    p0, p1 = ((mass[..., None] * s.v).sum(1) for s in (state, end))
    assert float((p1 - p0).norm() / (mass[..., None] * state.v).norm()) < 1e-12
    L0, L1 = (angular_momentum(s, mass, model.grid.dx) for s in (state, end))
    assert float((L1 - L0).norm() / L0.norm()) < 1e-10


def test_transfers_reproduce_mass_momentum_and_linear_fields() -> None:
    model = block(NeoHookean(), n=6, dim=3)
    generator = torch.Generator().manual_seed(0)
    state = shaken(model)
    transfers = TorchTransfers(
        model, batch_size=1, dtype=F64, device=torch.device("cpu"), dt=1e-4, births=torch.zeros(1)
    )
    mass = torch.rand(1, model.particle_count, generator=generator, dtype=F64) + 0.5
    gradient = torch.randn(3, 3, generator=generator, dtype=F64)
    v = state.x @ gradient.T
    C = gradient.expand(1, model.particle_count, 3, 3)
    nodes = transfers.scatter(state.x, v, mass[..., None, None] * C, mass)
    assert abs(float(nodes[..., 3].sum() - mass.sum())) < 1e-12 * float(mass.sum())
    momentum = (mass[..., None] * v).sum(1)
    torch.testing.assert_close(nodes[..., :3].sum(1), momentum, rtol=1e-12, atol=1e-12)
    u = torch.where(nodes[..., 3:] > 0, nodes[..., :3] / nodes[..., 3:], nodes[..., :3])
    back, C_back = transfers.gather(state.x, u)
    torch.testing.assert_close(back, v, rtol=0, atol=1e-12)
    torch.testing.assert_close(C_back, C, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dim", [2, 3])
def test_free_fall_is_exact_symplectic_euler(dim: int) -> None:
    """v_n = v_0 − n g dt,  x_n = x_0 + n v_0 dt − g dt² n(n + 1)/2 for a body that does not deform."""
    model = block(NeoHookean(E=1e4, nu=0.3), dim=dim)
    solver = SolverMPM(model, MPMConfig(dt=5e-4, substeps=80))
    state = model.initial_state(dtype=F64)
    end = solver.step(state)
    n, dt = 80, 5e-4
    g = torch.tensor([0.0] * (dim - 1) + [9.81], dtype=F64)
    torch.testing.assert_close(end.v, state.v - n * dt * g, rtol=0, atol=1e-12)
    expected = state.x + n * dt * state.v - g * dt**2 * n * (n + 1) / 2
    torch.testing.assert_close(end.x, expected, rtol=0, atol=1e-13)


def standing_wave(law: Law, cells: int, periods: float = 0.5) -> tuple[float, float]:
    """Measured and exact period of the first standing wave in a closed box, v_x = V sin(πx/L).

    All walls slip, so the motion is uniaxial strain, u_tt = (M/ρ) u_xx, and T = 2 L √(ρ/M).
    """
    L, width = 1.0, 4.0 / cells
    dx = L / cells
    grid = Grid((0.0, 0.0), (L, width), dx)
    step = dx / 2
    axes = [step * (torch.arange(round(n / step), dtype=F64) + 0.5) for n in (L, width)]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    mode = torch.sin(math.pi * x[:, 0] / L)
    v = torch.stack([1e-4 * mode, torch.zeros_like(mode)], -1)
    group = Group("bar", law, x, step**2, velocity=v)
    model = MPMModel(grid, [group], gravity=(0.0, -1e-30), walls="slip")
    c = math.sqrt(float(law.wave_modulus(law.coefficients())) / float(law.rho))
    exact = 2 * L / c
    dt = 0.1 * dx / c
    solver = SolverMPM(model, MPMConfig(dt=dt, substeps=5))
    steps = math.ceil(0.6 * exact / (5 * dt))
    amplitude = [1.0]
    with torch.no_grad():
        rollout(
            solver,
            model.initial_state(dtype=F64),
            steps,
            save_every=10**9,
            on_step=lambda t, s: amplitude.append(
                float((s.v[0, :, 0] * mode).sum() / (v[:, 0] * mode).sum())
            ),
        )
    # cos(2πt/T) falls through zero at T/4.
    i = next(i for i, a in enumerate(amplitude) if a < 0)
    quarter = 5 * dt * (i - 1 + amplitude[i - 1] / (amplitude[i - 1] - amplitude[i]))
    return 4 * quarter, exact


@pytest.mark.parametrize(
    "law",
    [
        NeoHookean(E=1e5, nu=0.3),
        FixedCorotated(E=1e5, nu=0.2),
        Liquid(bulk=2e5),
        Liquid(bulk=2e5, eos="linear"),
    ],
    ids=lambda law: type(law).__name__ + getattr(law, "eos", ""),
)
def test_standing_wave_has_the_right_period(law: Law) -> None:
    measured, exact = standing_wave(law, 32)
    # Symplectic Euler and splines disperse by (k dx)²/24 + (ω dt)²/24 ~ 1e-3; the walls by ~dx/(2L).
    assert abs(measured / exact - 1) < 0.02


def test_wave_period_converges() -> None:
    law = NeoHookean(E=1e5, nu=0.3)
    errors = []
    for cells in (8, 16, 32, 64):
        measured, exact = standing_wave(law, cells)
        errors.append(abs(measured / exact - 1))
    assert errors[-1] < 0.01 and errors[0] > 3 * errors[-1], errors


def test_energy_of_an_elastic_body_does_not_grow() -> None:
    law = NeoHookean(E=1e5, nu=0.3)
    model = block(law, n=6, gravity=GRAVITY_OFF)
    solver = SolverMPM(model, MPMConfig(dt=1e-4, substeps=20))
    state = model.initial_state(dtype=F64)
    stretch = torch.diag(torch.tensor([1.1, 0.95, 1.0], dtype=F64))
    center = state.x.mean(1, keepdim=True)
    state = state.replace(
        x=center + (state.x - center) @ stretch, F=stretch.expand_as(state.F).clone()
    )
    mass = masses(solver, state)
    volume = model.volumes(F64, "cpu")
    c = law.coefficients()

    def energy(s: MPMState) -> float:
        kinetic = 0.5 * (mass * (s.v**2).sum(-1)).sum()
        spin = 0.5 * (mass * 0.25 * model.grid.dx**2 * (s.C**2).sum((-1, -2))).sum()
        coefficients = c.double()[:, None, None].expand(-1, 1, model.particle_count)
        return float(kinetic + spin + (volume * law.energy(s.F, coefficients)).sum())

    history = [energy(state)]
    for _ in range(25):
        state = solver.step(state)
        history.append(energy(state))
    assert max(history) <= history[0] * 1.01
    assert history[-1] > 0.3 * history[0]


@pytest.mark.parametrize("contact", ["wall", "plane"])
def test_a_resting_liquid_carries_its_weight(contact: str) -> None:
    """Hydrostatics: p(z) = ρ g (H − z), so the mean of −τ_zz/J over depth is ρ g H / 2."""
    H, dx = 0.4, 0.05
    n = 16
    axis = H / n * (torch.arange(n, dtype=F64) + 0.5)
    base = 0.1 if contact == "plane" else 0.0
    x = torch.stack(torch.meshgrid(axis, axis + base, indexing="ij"), -1).reshape(-1, 2)
    law = Liquid(bulk=1e5, eta=20.0)
    colliders = [] if contact == "wall" else [Collider(Plane(), (0.0, 0.0, base))]
    model = MPMModel(
        Grid((0.0, 0.0), (H, 1.0), dx), [Group("water", law, x, (H / n) ** 2)], colliders=colliders
    )
    # Released at rest uncompressed, the column bounces with period 4H/c = 0.16 s around equilibrium.
    solver = SolverMPM(model, MPMConfig(dt=5e-4, substeps=10))
    state = model.initial_state(dtype=F64)
    c = law.coefficients()[:, None, None].double()
    history = []
    for _ in range(32 * 4):
        with torch.no_grad():
            state = solver.step(state)
        history.append(-law.stress(state.J, None, c)[0, :, 0, 0] / state.J[0])
    pressure = torch.stack(history).mean(0)
    depth = base + H - x[:, 1]
    assert abs(float(pressure.mean()) / (1000 * 9.81 * H / 2) - 1) < 0.1
    gradient = float(((depth - depth.mean()) * pressure).sum() / ((depth - depth.mean()) ** 2).sum())
    assert abs(gradient / (1000 * 9.81) - 1) < 0.15


def test_a_block_slides_down_the_plane_as_coulomb_says() -> None:
    """On a slope of angle θ a block accelerates with g (sin θ − μ cos θ); gravity is tilted instead."""
    mu, theta = 0.2, math.radians(30)
    g = 9.81
    x = lattice(0.0, 0.2, 8, 2, jitter=0.0)
    x = x + torch.tensor([0.1, 0.1], dtype=F64)
    model = MPMModel(
        Grid((0.0, 0.0), (2.0, 0.6), 0.05),
        [Group("block", FixedCorotated(E=1e6, nu=0.3), x, 0.025**2)],
        gravity=(g * math.sin(theta), -g * math.cos(theta)),
        colliders=[Collider(Plane(), (0.0, 0.0, 0.1), friction=mu)],
    )
    solver = SolverMPM(model, MPMConfig(dt=2e-4, substeps=100))
    state = model.initial_state(dtype=F64)
    times, speeds = [], []
    with torch.no_grad():
        for i in range(16):
            state = solver.step(state)
            times.append(0.02 * (i + 1))
            speeds.append(float(state.v[0, :, 0].mean()))
    t, v = torch.tensor(times[4:]), torch.tensor(speeds[4:])
    acceleration = float(((t - t.mean()) * (v - v.mean())).sum() / ((t - t.mean()) ** 2).sum())
    assert abs(acceleration / (g * (math.sin(theta) - mu * math.cos(theta))) - 1) < 0.05
