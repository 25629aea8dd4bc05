"""The projection: exact, idempotent, orthogonal, differentiable; and what it refuses."""

from __future__ import annotations

import pytest
import torch
from helpers import ROOT, cosine
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import ConvergenceError, InputError, StateError
from rheograd.sim.core.gradients import fd_check, taylor_test
from rheograd.sim.core.implicit import SolveInfo
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.sim.grid.forces import Nozzle, blow
from rheograd.sim.grid.mac import MacGrid
from rheograd.sim.grid.poisson.cycle import VCycle
from rheograd.sim.grid.poisson.stencil import Stencil
from rheograd.sim.grid.pressure import PressureSystem, project
from rheograd.sim.grid.solids import solid_velocity, solids_of

F64 = torch.float64
SLAB = (48, 48, 7)
PILLAR = Collider(Box((0.2, 0.2, 1.0)), position=(1.4, 1.6, 0.0))


def slab(dtype: torch.dtype = F64):
    """FluidLab's air, smaller: a thin room and the push of a nozzle."""
    grid = MacGrid(SLAB, 3.0 / 48)
    nozzle = Nozzle("fan", (0.7, 1.5, 0.2), (1.0, 0.4, 0.0), 20.0, 0.2)
    pose = nozzle.pose(torch.zeros((), dtype=dtype))[None]
    one = torch.ones(1, dtype=dtype)
    u = tuple(0.03 * f for f in blow(grid, nozzle, pose, 20 * one, 0.2 * one))
    return grid, u


def field(grid: MacGrid, generator: torch.Generator, batch: int = 1):
    return tuple(
        torch.randn(batch, *grid.face_shape(a), generator=generator, dtype=F64)
        for a in range(grid.dim)
    )


def worst(grid: MacGrid, u, solids) -> float:
    return float((grid.divergence(u) * solids.fluid).abs().max())


def inner(u, v) -> float:
    return float(sum((a * b).sum() for a, b in zip(u, v, strict=True)))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "method,obstacles", [("multigrid", ()), ("multigrid", (PILLAR,)), ("auto", ())]
)
def test_slab_is_projected_to_the_tolerance(dtype, method, obstacles) -> None:
    grid, u = slab(dtype)
    solids = solids_of(grid, obstacles, like=u[0])
    closed = tuple(f * (w > 0) for f, w in zip(u, solids.open, strict=True))
    info = SolveInfo()
    v, _ = project(u, grid, solids, method=method, info=info)
    assert worst(grid, v, solids) < 1e-5 * worst(grid, closed, solids)
    assert info.iterations <= 20 and v[0].dtype == dtype


def test_the_collocated_projection_leaves_divergence(monkeypatch) -> None:
    """Jacobi-50 of the usual scheme, and even a converged one, on the same slab."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from collocated import divergence, jacobi_projection

    grid, u = slab()
    v = grid.at_cells(u)[0]
    free = torch.ones(SLAB, dtype=torch.bool)
    before = divergence(v, free).abs().max()
    for sweeps in (50, 1000):
        after = divergence(jacobi_projection(v, free, sweeps)[0], free).abs().max()
        assert float(after / before) > 1e-2


@pytest.mark.parametrize(
    "walls", ["wall", "periodic", {"x-": "open"}, {"z-": "open", "z+": "open"}]
)
@pytest.mark.parametrize("cells", [(7, 6), (5, 4, 3)])
def test_methods_agree_with_the_dense_pseudo_inverse(walls, cells, generator) -> None:
    grid = MacGrid(cells, 0.3, walls=walls)
    solids = solids_of(grid, like=torch.zeros((), dtype=F64))
    b = torch.randn(2, *cells, generator=generator, dtype=F64)
    A = Stencil(cells, grid.periodic, solids.open).dense()[0]
    assert torch.equal(A, A.T)
    if "open" not in str(walls):
        b = b - b.mean(dim=tuple(range(1, b.dim())), keepdim=True)
    expected = (torch.linalg.pinv(A, hermitian=True) @ b.flatten(1).T).T
    for method in ("spectral", "multigrid", "jacobi", "cg", "direct"):
        psi = PressureSystem(grid, solids, method).solve(b)
        torch.testing.assert_close(psi.flatten(1), expected, rtol=1e-8, atol=1e-8)


def test_amg_and_a_preconditioner_of_ones_own(generator) -> None:
    grid = MacGrid((24, 20), 0.1)
    solids = solids_of(grid, [Collider(Sphere(0.4), position=(1.0, 0.0, 1.0))]).detach()
    u = field(grid, generator)
    expected = project(u, grid, solids, method="direct")[1]

    def scaled(system: PressureSystem):
        cycle = VCycle(system.stencil)
        return lambda v: cycle(v) * (1 + 0.1 * torch.tanh(v.norm(dim=1, keepdim=True)))

    methods = [scaled]
    try:
        import pyamg  # noqa: F401

        methods.append("amg")
    except ImportError:
        pass
    for method in methods:
        q = project(u, grid, solids, method=method, tol=1e-10)[1]
        torch.testing.assert_close(q, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("cells", [(13, 9), (64, 64), (9, 8, 7)])
def test_the_cycle_is_symmetric_and_positive(cells, generator) -> None:
    grid = MacGrid(cells, 1.0, walls={"x-": "open"})
    obstacle = Collider(Sphere(2.5), position=(4.0, 4.0 * (len(cells) == 3), 4.0))
    solids = solids_of(grid, [obstacle], like=torch.zeros((), dtype=F64))
    cycle = VCycle(Stencil(cells, grid.periodic, tuple(w.double() for w in solids.open)))
    mask = solids.fluid.flatten(1)
    v, w = (torch.randn(2, 1, mask.shape[1], generator=generator, dtype=F64) * mask).unbind(0)
    torch.testing.assert_close((v * cycle(w)).sum(), (w * cycle(v)).sum(), rtol=1e-9, atol=1e-9)
    assert float((v * cycle(v)).sum()) > 0


@pytest.mark.parametrize("dim", [2, 3])
def test_idempotent_and_orthogonal(dim, generator) -> None:
    cells = (12, 10, 9)[:dim]
    grid = MacGrid(cells, 0.1, walls={"x+": "open", "z-": "periodic", "z+": "periodic"})
    obstacle = Collider(Sphere(0.2), position=(0.5, 0.5 * (dim == 3), 0.4))
    solids = solids_of(grid, [obstacle], pose=obstacle.pose(F64)[None, None])
    u = field(grid, generator, 2)
    u = tuple(f * w for f, w in zip(u, solids.open, strict=True))
    v, _ = project(u, grid, solids)
    again, _ = project(v, grid, solids)
    for a, b in zip(v, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    removed = tuple(a - b for a, b in zip(u, v, strict=True))
    assert abs(inner(removed, v)) < 1e-8 * inner(u, u)
    for f, w in zip(v, solids.open, strict=True):
        assert float((f * (w == 0)).abs().max()) == 0.0  # nothing flows through closed faces


def test_divergence_is_minus_the_adjoint_of_the_gradient(generator) -> None:
    for walls in ("periodic", "open"):
        grid = MacGrid((5, 6, 7), 0.2, walls=walls)
        u, p = field(grid, generator), torch.randn(1, 5, 6, 7, generator=generator, dtype=F64)
        left, right = float((p * grid.divergence(u)).sum()), -inner(grid.gradient(p), u)
        assert left == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("method", ["spectral", "multigrid"])
def test_adjoint_of_the_projection(method, generator) -> None:
    grid, u = slab()
    goal = field(grid, generator)
    solids = solids_of(grid, like=u[0])
    system = PressureSystem(grid, solids, method)

    def loss(u):
        v, q = project(u, grid, solids, system=system)
        return sum(((a - b) ** 2).sum() for a, b in zip(v, goal, strict=True)) + 3.0 * (q**3).sum()

    report = fd_check(loss, u, 3, steps=(1.0, 1e-1, 1e-2))
    assert report.failure == "ok" and max(report.relative_errors) < 1e-4
    assert taylor_test(loss, u, eps0=0.5, levels=3).passed()


def test_derivatives_in_fractions_and_motion_of_an_obstacle(generator) -> None:
    """The pose enters through open fractions of faces, the twist through their velocity."""
    grid = MacGrid((14, 12), 0.1, walls={"z+": "open"})
    obstacle = Collider(Sphere(0.31), position=(0.67, 0.0, 0.55))
    u = field(grid, generator)
    pose = obstacle.pose(F64)[None, None]
    twist = torch.tensor([[[0.3, 0.0, -0.2, 0.0, 1.0, 0.0]]], dtype=F64)
    values = {"u": u, "pose": pose, "twist": twist}

    def loss(v):
        solids = solids_of(grid, [obstacle], v["pose"], shape="fractions")
        closed = solid_velocity(grid, solids, v["pose"], v["twist"])
        w, q = project(v["u"], grid, solids, closed)
        return (q**2).sum() + sum((f**2 * o).sum() for f, o in zip(w, solids.open, strict=True))

    direction = {
        "u": tuple(torch.zeros_like(f) for f in u),
        "pose": torch.tensor([[[0.7, 0.0, 0.3, 0, 0, 0, 0]]], dtype=F64),
        "twist": torch.ones_like(twist),
    }
    assert taylor_test(loss, values, direction, eps0=1e-4, levels=3).passed()


def test_gradient_does_not_depend_on_the_guess(generator) -> None:
    grid = MacGrid((16, 16), 0.1)
    solids = solids_of(grid, [Collider(Sphere(0.3), position=(0.8, 0.0, 0.8))])
    grads, counts = [], []
    u = field(grid, generator)
    guess = project(u, grid, solids)[1] / grid.dx
    for psi0 in (None, guess):
        x = u[0].clone().requires_grad_()
        info = SolveInfo()
        v, _ = project((x, u[1]), grid, solids, psi0=psi0, info=info)
        grads.append(torch.autograd.grad((v[1] ** 3).sum(), x)[0])
        counts.append(info.iterations)
    assert cosine(*grads) > 1 - 1e-12 and counts[1] < counts[0]


def test_batch_with_different_obstacles_equals_the_loop(generator) -> None:
    grid = MacGrid((12, 12), 0.1)
    ball = Collider(Sphere(0.2))
    pose = ball.pose(F64).repeat(3, 1, 1)
    pose[:, 0, 0], pose[:, 0, 2] = torch.tensor([0.3, 0.6, 0.9]), torch.tensor([0.5, 0.6, 0.9])
    u = field(grid, generator, 3)
    for method in ("multigrid", "direct"):
        together, q = project(u, grid, solids_of(grid, [ball], pose), method=method)
        for b in range(3):
            one = solids_of(grid, [ball], pose[b : b + 1])
            alone, r = project(tuple(f[b : b + 1] for f in u), grid, one, method=method)
            torch.testing.assert_close(q[b], r[0], rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(together[0][b], alone[0][0], rtol=1e-8, atol=1e-8)


def cavity():
    """A box whose middle is walled off, and another without opening around it."""
    grid = MacGrid((12, 12), 0.1, walls={"x-": "open"})
    shell = [
        Collider(Box((0.31, 1.0, 0.06)), position=(0.6, 0.0, 0.35)),
        Collider(Box((0.31, 1.0, 0.06)), position=(0.6, 0.0, 0.85)),
        Collider(Box((0.06, 1.0, 0.31)), position=(0.35, 0.0, 0.6)),
        Collider(Box((0.06, 1.0, 0.31)), position=(0.85, 0.0, 0.6)),
    ]
    pose = torch.stack([c.pose(F64) for c in shell])[None]
    return grid, shell, pose, solids_of(grid, shell, pose)


def test_an_enclosed_cavity_has_its_own_mean(generator) -> None:
    grid, shell, pose, solids = cavity()
    system = PressureSystem(grid, solids, "multigrid")
    assert system.closed_count == 1
    u = field(grid, generator)
    for method in ("multigrid", "direct", "jacobi"):
        v, q = project(u, grid, solids, method=method)
        assert worst(grid, v, solids) < 1e-8 * worst(grid, u, solids)
        assert abs(float(q[0, 5:7, 5:7].mean())) < 0.1
    inside = system.labels == system.closed[0].nonzero()[0]
    assert abs(float(q.flatten(1)[inside].mean())) < 1e-10


def test_pressing_on_an_enclosed_cavity_is_an_error() -> None:
    grid, shell, pose, solids = cavity()
    twist = torch.zeros(1, 4, 6, dtype=F64)
    twist[0, 2, 0] = 0.5
    closed = solid_velocity(grid, solids, pose, twist)
    rest = grid.zeros(1, pose)
    with pytest.raises(
        InputError, match=r"no net flow into enclosed.*-0.*m\^2/s from 16 cells.*0\.6"
    ):
        project(rest, grid, solids, closed)
    twist[0, :, 0] = 0.5  # the whole shell together changes no volume
    v, _ = project(rest, grid, solids, solid_velocity(grid, solids, pose, twist))
    assert worst(grid, v, solids) < 1e-9
    assert float((v[0][0, 5:8, 5:7] - 0.5).abs().max()) < 1e-8  # and carries its content along


def test_no_convergence_is_an_error(generator) -> None:
    grid, u = slab()
    with pytest.raises(ConvergenceError, match="after 2 iterations"):
        project(u, grid, method="cg", max_iterations=2)


def test_wrong_input(generator) -> None:
    grid = MacGrid((6, 5), 0.1)
    u = field(grid, generator)
    with pytest.raises(InputError, match="one tensor per axis"):
        project((u[1], u[0]), grid)
    with pytest.raises(InputError, match="method out of"):
        project(u, grid, method="sor")
    with pytest.raises(InputError, match="no obstacles"):
        solids = solids_of(grid, [Collider(Sphere(0.1), position=(0.3, 0.0, 0.3))])
        project(u, grid, solids, method="spectral")
    with pytest.raises(InputError, match="cells with gas"):
        solids_of(grid, [Collider(Sphere(10.0))])
    broken = u[0].clone()
    broken[0, 2, 3] = torch.nan
    with pytest.raises(StateError, match=r"finite u\[0\].*first at \(0, 2, 3\)"):
        project((broken, u[1]), grid)
    with pytest.raises(StateError, match=r"finite solid_velocity\[1\]"):
        project(u, grid, solid_velocity=(u[0], u[1] * torch.nan))
    with pytest.raises(InputError, match="both sides periodic"):
        MacGrid((4, 4), 0.1, walls={"x-": "periodic"})
    with pytest.raises(InputError, match="walls out of"):
        MacGrid((4, 4), 0.1, walls={"y-": "open"})
    with pytest.raises(InputError, match="dx > 0"):
        MacGrid((4, 4), 0.0)
