"""Interpolation, departure points and transport: orders, sums, bounds, and what solids do."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import slope
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import InputError, StabilityError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.sim.grid.advect import advect_scalars, advect_velocity, departure, sample
from rheograd.sim.grid.forces import diffuse
from rheograd.sim.grid.mac import MacGrid
from rheograd.sim.grid.pressure import project
from rheograd.sim.grid.solids import solids_of

F64 = torch.float64
LIKE = torch.zeros((), dtype=F64)


def turning(grid: MacGrid, rate: float, batch: int = 1):
    """Rigid rotation about the middle of a 2-D box, on faces."""
    middle = torch.tensor([0.5 * n * grid.dx for n in grid.cells], dtype=F64)
    u = []
    for a in range(2):
        x = grid.points(a, LIKE) - middle
        u.append((rate * (x[..., 1] if a == 0 else -x[..., 0])).repeat(batch, 1, 1))
    return tuple(u)


def random_flow(grid: MacGrid, generator, scale: float = 1.0, solids=None):
    u = tuple(
        scale * torch.randn(1, *grid.face_shape(a), generator=generator, dtype=F64)
        for a in range(grid.dim)
    )
    return project(u, grid, solids)[0]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_linear_fields_are_interpolated_exactly(dim, dtype, generator) -> None:
    grid = MacGrid((6, 5, 4)[:dim], 0.25, origin=(1.0, -2.0, 0.5)[:dim])
    g = torch.randn(dim, generator=generator, dtype=F64).to(dtype)
    inside = torch.rand(2, 50, dim, generator=generator, dtype=F64).to(dtype)
    low = torch.tensor(grid.origin, dtype=dtype) + 0.125
    x = low + inside * (torch.tensor(grid.cells, dtype=dtype) - 1) * 0.25
    for axis in (None, *range(dim)):
        q = (grid.points(axis, g) @ g)[None, None].expand(2, 1, *[-1] * dim)
        tol = 1e-12 if dtype == F64 else 1e-5
        torch.testing.assert_close(sample(grid, q, x, axis)[:, 0], x @ g, rtol=tol, atol=tol)


def test_periodic_sides_wrap_and_open_sides_show_what_is_outside() -> None:
    grid = MacGrid((8, 4), 0.125, walls={"x-": "periodic", "x+": "periodic", "z+": "open"})
    q = torch.sin(2 * math.pi * grid.points(None, LIKE)[..., 0])[None, None]
    x = torch.tensor([[[0.3, 0.2], [1.3, 0.2], [-2.7, 0.2]]], dtype=F64)
    value = sample(grid, q, x)[0, 0]
    torch.testing.assert_close(value, value[:1].expand(3), rtol=1e-12, atol=1e-12)
    above = torch.tensor([[[0.3, 5.0], [0.3, -5.0]]], dtype=F64)
    value = sample(grid, q, above, outside=torch.full((1, 1), 7.0, dtype=F64))[0, 0]
    assert float(value[0]) == 7.0 and abs(float(value[1])) <= 1.0


def test_departure_is_third_order() -> None:
    """In a rigid rotation, where interpolation is exact; Δx = R(ω dt) x."""
    grid = MacGrid((16, 16), 1 / 16)
    u = turning(grid, 1.0)
    x = torch.tensor([[0.7, 0.55], [0.4, 0.3]], dtype=F64)
    errors, steps = [], [0.4, 0.2, 0.1, 0.05]
    for dt in steps:
        c, s = math.cos(dt), math.sin(dt)
        turn = torch.tensor([[c, -s], [s, c]], dtype=F64)
        errors.append(float((departure(grid, u, x, dt)[0] - ((x - 0.5) @ turn.T + 0.5)).norm()))
    assert slope(steps, errors) == pytest.approx(4.0, abs=0.2)  # per step, so 3 over a time


def blob(grid: MacGrid, angle: float = 0.0):
    at = torch.tensor([0.5 + 0.2 * math.cos(angle), 0.5 - 0.2 * math.sin(angle)], dtype=F64)
    r = (grid.points(None, LIKE) - at).norm(dim=-1)
    return torch.exp(-((r / 0.12) ** 2))[None, None]


def error_after_a_quarter(scheme: str, n: int) -> tuple[float, float]:
    """L2 error of a blob after a quarter turn, and the relative change of its sum."""
    grid = MacGrid((n, n), 1 / n)
    solids = solids_of(grid, like=LIKE)
    u, q = turning(grid, 1.0), blob(grid)
    if scheme == "conservative":
        u = tuple(f * w for f, w in zip(u, solids.open, strict=True))
    steps = 2 * n if scheme == "conservative" else n
    for _ in range(steps):
        dt = 0.5 * math.pi / steps
        q = advect_scalars(grid, q, u, dt, solids, torch.zeros(1, 1, dtype=F64), scheme)
    exact = blob(grid, 0.5 * math.pi)
    change = float(q.sum() / blob(grid).sum()) - 1.0
    return float((q - exact).square().mean().sqrt()), change


@pytest.mark.parametrize(
    "scheme,order,sizes",
    [("semi_lagrangian", 1.0, (48, 96, 192)), ("maccormack", 2.0, (32, 64, 128))],
)
def test_order_on_a_turning_blob(scheme, order, sizes) -> None:
    errors = [error_after_a_quarter(scheme, n)[0] for n in sizes]
    # The linear scheme first has to resolve the blob: its slope climbs to 1 from below.
    assert slope([1 / n for n in sizes], errors) == pytest.approx(order, abs=0.25)


def test_the_sum_of_a_scalar() -> None:
    """Kept by fluxes to round-off; the others lose a little, which this pins down."""
    assert abs(error_after_a_quarter("conservative", 64)[1]) < 1e-12
    assert abs(error_after_a_quarter("semi_lagrangian", 64)[1]) < 1e-3
    assert abs(error_after_a_quarter("maccormack", 64)[1]) < 1e-2
    coarse = [error_after_a_quarter("conservative", n)[0] for n in (64, 128)]
    assert coarse[0] / coarse[1] > 2.5  # sharper than first order


@pytest.mark.parametrize("scheme", ["semi_lagrangian", "maccormack", "conservative"])
@pytest.mark.parametrize("dim", [2, 3])
def test_constants_and_bounds_in_a_random_flow_around_a_ball(scheme, dim, generator) -> None:
    grid = MacGrid((10, 9, 8)[:dim], 0.1, walls={"x-": "open", "z-": "periodic", "z+": "periodic"})
    ball = Collider(Sphere(0.2), position=(0.5, 0.5 * (dim == 3), 0.4))
    solids = solids_of(grid, [ball], ball.pose(F64)[None, None])
    u = random_flow(grid, generator, solids=solids)
    dt = 0.01 if scheme == "conservative" else 0.15
    q = torch.rand(1, 2, *grid.cells, generator=generator, dtype=F64)
    q[:, 1] = 3.0
    inside = solids.fluid[:, None]
    q = torch.where(inside, q, 1e6)  # nothing of a solid may show
    out = advect_scalars(grid, q, u, dt, solids, torch.tensor([[0.5, 3.0]], dtype=F64), scheme)
    torch.testing.assert_close(out[:, 1:][inside], q[:, 1:][inside], rtol=1e-9, atol=1e-9)
    if scheme != "conservative":
        assert float(out[:, :1][inside].min()) >= 0 and float(out[:, :1][inside].max()) <= 1


def test_conservative_and_diffusion_keep_sums_around_obstacles(generator) -> None:
    grid = MacGrid((10, 9, 8), 0.1)
    ball = Collider(Box((0.15, 0.2, 0.1)), position=(0.5, 0.5, 0.4))
    solids = solids_of(grid, [ball], ball.pose(F64)[None, None])
    u = random_flow(grid, generator, solids=solids)
    q = torch.rand(1, 1, *grid.cells, generator=generator, dtype=F64)
    gas = solids.fluid[:, None]
    out = advect_scalars(grid, q, u, 0.01, solids, torch.zeros(1, 1, dtype=F64), "conservative")
    assert float(out[gas].sum()) == pytest.approx(float(q[gas].sum()), rel=1e-9)
    mixed = diffuse(grid, q[:, 0], torch.tensor([1e-3], dtype=F64), solids)[:, None]
    assert float(mixed[gas].sum()) == pytest.approx(float(q[gas].sum()), rel=1e-13)
    assert torch.equal(mixed[~gas], q[~gas])


def test_diffusion_of_a_cosine() -> None:
    """cos(π x) between walls decays with κ (2 − 2 cos π dx) / dx² exactly."""
    grid = MacGrid((16, 4), 1 / 16)
    q = torch.cos(math.pi * grid.points(None, LIKE)[..., 0])[None]
    out = diffuse(grid, q, torch.tensor([5e-4], dtype=F64), solids_of(grid, like=LIKE))
    factor = 1 - 5e-4 * (2 - 2 * math.cos(math.pi / 16)) * 16**2
    torch.testing.assert_close(out, factor * q, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scheme", ["semi_lagrangian", "maccormack", "conservative"])
def test_derivatives_of_transport(scheme, generator) -> None:
    grid = MacGrid((9, 8), 0.1, walls={"x-": "open"})
    ball = Collider(Sphere(0.15), position=(0.55, 0.0, 0.4))
    solids = solids_of(grid, [ball], ball.pose(F64)[None, None])
    u = random_flow(grid, generator, 0.3, solids)
    q = torch.rand(1, 1, 9, 8, generator=generator, dtype=F64)

    def loss(v):
        # Faces that are closed keep their velocity: a departure point that rests on a point of the
        # lattice has one-sided derivatives only.
        v = {**v, "u": tuple(f * (w > 0) for f, w in zip(v["u"], solids.open, strict=True))}
        out = advect_scalars(grid, v["q"], v["u"], 0.05, solids, v["outside"], scheme)
        carried = ()
        if scheme != "conservative":
            carried = advect_velocity(grid, v["u"], 0.05, solids, scheme)
        gas = (out * solids.fluid[:, None]).square().sum()
        return gas + sum((f**3 * w).sum() for f, w in zip(carried, solids.open, strict=False))

    values = {"q": q, "u": u, "outside": torch.full((1, 1), 0.5, dtype=F64)}
    assert taylor_test(loss, values, eps0=1e-5, levels=3).passed()


def test_velocity_transport_carries_a_uniform_wind_unchanged() -> None:
    grid = MacGrid((8, 8, 8), 0.1, walls="periodic")
    u = tuple(torch.full((1, 8, 8, 8), s, dtype=F64) for s in (1.0, -2.0, 0.5))
    for scheme in ("semi_lagrangian", "maccormack"):
        out = advect_velocity(grid, u, 0.3, solids_of(grid, like=LIKE), scheme)
        for a, b in zip(out, u, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_wrong_input(generator) -> None:
    grid = MacGrid((6, 5), 0.1)
    solids = solids_of(grid, like=LIKE)
    u, q = random_flow(grid, generator), torch.zeros(1, 1, 6, 5, dtype=F64)
    none = torch.zeros(1, 1, dtype=F64)
    with pytest.raises(StabilityError, match=r"Σ \|u\| dt / dx <= 1.*Lower dt below"):
        advect_scalars(grid, q, u, 1.0, solids, none, "conservative")
    with pytest.raises(InputError, match="scheme out of"):
        advect_scalars(grid, q, u, 0.1, solids, none, "weno")
    with pytest.raises(InputError, match="scheme out of"):
        advect_velocity(grid, u, 0.1, solids, "conservative")


@pytest.mark.parametrize("walls", ["wall", "periodic", {"x-": "open"}])
def test_transport_of_lattices_equals_the_formula_point_by_point(walls, generator) -> None:
    grid = MacGrid((7, 6, 5), 0.1, walls=walls)
    ball = Collider(Sphere(0.15), position=(0.3, 0.3, 0.2))
    solids = solids_of(grid, [ball], ball.pose(F64)[None, None])
    u = random_flow(grid, generator, solids=solids)
    out = advect_velocity(grid, u, 0.08, solids)
    for a, f in enumerate(u):
        points = grid.points(a, f).reshape(-1, 3)
        back = departure(grid, u, points, 0.08, solids.valid)
        own = f.flatten(1)[:, None]
        expected = sample(grid, f[:, None], back, a, valid=solids.valid[a], own=own)
        torch.testing.assert_close(out[a].flatten(1), expected[:, 0], rtol=1e-12, atol=1e-12)
