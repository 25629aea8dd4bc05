"""Deep conjugate directions: loop (A1, A2), loss (A3), sampler (A6), networks, and that they learn."""

from __future__ import annotations

import logging

import pytest
import torch
from rheograd.operators.dcdm import (
    DCDM,
    DCDMNet,
    DCDMTraining,
    LinearMultigrid,
    SpectralSampler,
    SymmetricMultigrid,
    energy_loss,
    load_net,
    make_geometry,
    net_names,
    one_step_loss,
    random_masks,
    save_net,
    train_direction,
)
from rheograd.operators.dcdm.losses import alignment_loss, unrolled_loss
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.krylov import cg, fcg
from rheograd.sim.core.shapes import Sphere
from rheograd.sim.grid import MacGrid, project, solids_of
from rheograd.sim.grid.pdes import Darcy, Grid
from rheograd.sim.grid.poisson import PoissonProblem, PoissonSystem, Stencil, solve_poisson

F64 = torch.float64


def disc(n: int, dim: int = 2) -> torch.Tensor:
    at = torch.meshgrid(*((torch.arange(n) + 0.5) / n for _ in range(dim)), indexing="ij")
    return (torch.stack(at, -1) - 0.45).norm(dim=-1) > 0.18


def spd(n: int, condition: float, generator: torch.Generator) -> torch.Tensor:
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=F64)).Q
    return Q @ torch.diag(torch.linspace(1, condition, n, dtype=F64)) @ Q.T


def nets(generator: torch.Generator):
    yield DCDMNet(2, channels=4, generator=generator)
    yield LinearMultigrid(2, noise=0.02, generator=generator)
    yield SymmetricMultigrid(smooth=True, generator=generator)


def shake(net: torch.nn.Module, generator: torch.Generator, size: float = 0.3):
    """Random weights instead of a working start."""
    with torch.no_grad():
        for p in net.parameters():
            p += size * torch.randn(p.shape, generator=generator)
    return net


def test_identity_as_network_is_conjugate_gradients(generator) -> None:
    """A1: ten systems, two directions kept, the same number of iterations up to one."""
    for trial in range(10):
        A = spd(50 + 15 * trial, 10.0 ** (1 + trial % 3), generator)
        b = torch.randn(1, len(A), generator=generator, dtype=F64)
        apply, zero = (lambda v, A=A: v @ A), torch.zeros_like(b)
        x, ours = fcg(apply, b, zero, 1e-8, 2000, lambda v: v, 2)
        _, theirs = cg(apply, b, zero, 1e-8, 2000, None)
        assert abs(int(ours) - int(theirs)) <= 1
        assert float((apply(x) - b).norm() / b.norm()) <= 1e-8


def test_the_exact_inverse_needs_one_iteration(generator) -> None:
    A = spd(100, 1e3, generator)
    inverse = torch.linalg.inv(A)
    b = torch.randn(3, 100, generator=generator, dtype=F64)
    _, count = fcg(lambda v: v @ A, b, torch.zeros_like(b), 1e-8, 10, lambda v: v @ inverse, None)
    assert count.tolist() == [1, 1, 1]


@pytest.mark.parametrize("history", [0, 2, None])
def test_any_network_lowers_the_energy_and_all_directions_converge(history, generator) -> None:
    """A2: weights are random, not even a working start; the energy after 1, 2, … iterations."""
    n = 12
    problem = PoissonProblem((n, n), 1.0, "neumann", mask=disc(n))
    b = torch.randn(n, n, generator=generator, dtype=F64)
    system = PoissonSystem(problem, "direct", like=b)
    b = system.centre(b.reshape(1, -1))
    exact, apply = system.factor.solve(b).x, system.operator.matvec
    for net in nets(generator):
        direction, energy = DCDM(shake(net, generator)).direction(system), torch.inf
        for k in range(1, 20):
            y, _ = fcg(apply, b, torch.zeros_like(b), 0.0, k, direction, history)
            now = float(((y - exact) * apply(y - exact)).sum())
            assert now <= energy * (1 + 1e-9)
            energy = now
        if history is None:
            y, count = fcg(apply, b, torch.zeros_like(b), 1e-10, n * n, direction, None)
            assert int(count) < n * n  # no more than unknowns
            assert float((b - apply(y)).norm() / b.norm()) <= 1e-10


def test_loss_is_the_residual_after_one_step_and_blind_to_scale(generator) -> None:
    """A3, and the unrolled loss against the solver itself."""
    problem = PoissonProblem((8, 8), 1.0, {"x-": "neumann"})
    geometry = make_geometry(problem)
    r = geometry.clean(torch.randn(1, 8, 8, generator=generator, dtype=F64))
    net = shake(DCDMNet(2, channels=3, generator=generator).double(), generator)
    q = net(r, torch.ones(1, 8, 8, dtype=F64)).detach()
    apply = geometry.system.operator.matvec
    x, _ = fcg(apply, r.flatten(1), torch.zeros(1, 64).double(), 0.0, 1, lambda v: q.flatten(1), 2)
    left = float((r.flatten(1) - apply(x)).square().sum())
    for scale in (1.0, -3.0, 1e-3):
        assert float(one_step_loss(r, scale * q, geometry.apply)) == pytest.approx(left, rel=1e-10)
        assert 0 <= float(alignment_loss(r, scale * q, geometry.apply)) <= left + 1e-12
    met = unrolled_loss(r, lambda v: net(v, torch.ones(1, 8, 8).double()), geometry.apply, 4)[1]
    norms: list[torch.Tensor] = []
    solver = PoissonSystem(problem, DCDM(net), like=r)
    rows = r.flatten(1)
    direction = solver.iteration.preconditioner
    fcg(apply, rows, torch.zeros_like(rows), 0.0, 4, direction, 2, norms.append)
    assert [float(m.detach().norm()) for m in met] == pytest.approx(
        [float(n) for n in norms[1:]], rel=1e-6
    )


def test_sampled_vectors_have_the_prescribed_spectrum(generator) -> None:
    """A6: the ratio of both bands of modes, no constant, unit norm; for every kind of side."""
    for sides in ("neumann", "dirichlet", "periodic", {"x-": "neumann"}):
        problem = PoissonProblem((12, 10), 1.0, sides)
        sampler = SpectralSampler(problem)
        r = sampler(1500, generator, F64)
        torch.testing.assert_close(r.flatten(1).norm(dim=1), torch.ones(1500, dtype=F64))
        power = (sampler.coefficients(r) ** 2).mean(0)
        low, null = sampler.weights == 9.0, sampler.weights == 0.0
        assert int(null.sum()) == (sides in ("neumann", "periodic"))
        regular = int((~null).sum())
        assert abs(int(low.sum()) / regular - 0.55) < 0.1  # whole groups of equal eigenvalues
        ratio = float(power[low].mean() / power[~low & ~null].mean())
        # 65 low and 54 high modes of 1500 draws: 1 % of noise; 81 up to the normalization of each.
        assert ratio == pytest.approx(81, rel=0.05)
        assert float(power[null].sum()) < 1e-25
        A = Stencil(problem.cells, problem.periodic, problem.faces(r))
        torch.testing.assert_close(
            sampler.coefficients(A(r)), sampler.eigenvalues * sampler.coefficients(r)
        )


def test_slope_gives_smooth_vectors_their_share(generator) -> None:
    """Power ∝ E[λ^−s / ‖·‖²]: each vector alone has the slope that it drew, here nearly the same."""
    problem = PoissonProblem((16, 16), 1.0, "dirichlet")
    steep, flat = SpectralSampler(problem, slope=2.0), SpectralSampler(problem)
    low = steep.eigenvalues < steep.eigenvalues.median()
    shares = []
    for sampler in (steep, flat):
        r = sampler(600, generator, F64)
        torch.testing.assert_close(r.flatten(1).norm(dim=1), torch.ones(600, dtype=F64))
        shares.append(sampler.coefficients(r).square() * (steep.eigenvalues < 0.1))
    assert float(shares[0].sum()) > 20 * float(shares[1].sum())
    # Within one vector: the log of the power falls with log λ by s in [0, 2], on average 1.
    power = steep.coefficients(steep(600, generator, F64)).square()[:, low].log()
    at = steep.eigenvalues[low].log()
    s = -((power - power.mean(1, keepdim=True)) * (at - at.mean())).sum(1)
    s = s / (at - at.mean()).square().sum()
    assert float(s.mean()) == pytest.approx(1.0, abs=0.1)
    assert float(s.std()) > 0.4


def test_energy_loss_is_lowest_at_the_solution(generator) -> None:
    A = spd(16, 50.0, generator)
    r = torch.randn(3, 4, 4, generator=generator, dtype=F64)

    def apply(v):
        return (v.flatten(1) @ A).reshape(v.shape)

    exact = torch.linalg.solve(A, r.flatten(1).T).T.reshape(r.shape)
    least = float(energy_loss(r, exact, apply))
    assert least == pytest.approx(-float((r * exact).sum((1, 2)).log().mean()), rel=1e-12)
    assert float(energy_loss(r, -7.0 * exact, apply)) == pytest.approx(least, rel=1e-12)
    for size in (1e-3, 1e-1, 10.0):
        q = exact + size * torch.randn(r.shape, generator=generator, dtype=F64)
        assert float(energy_loss(r, q, apply)) > least


def test_parameter_counts_are_the_published_ones() -> None:
    assert DCDMNet(3, 64).parameter_count() == 97_457
    assert DCDMNet(3, 128).parameter_count() == 152_881
    assert DCDMNet(2, 64).parameter_count() == 32_657
    out = DCDMNet(3, 64, channels=4)(torch.randn(2, 8, 8, 8), torch.ones(1, 8, 8, 8))
    assert out.shape == (2, 8, 8, 8)


@pytest.mark.parametrize("sides", ["neumann", "periodic", {"x-": "neumann", "z+": "neumann"}])
@pytest.mark.parametrize("cells", [(17, 12), (9, 8, 7)])
def test_symmetric_cycle_is_positive_for_any_weights(cells, sides, generator) -> None:
    """Beat-it 3: symmetric, positive, so plain CG and the flexible loop agree."""
    mask = torch.rand(cells, generator=generator) > 0.1
    k = torch.rand(1, *cells, generator=generator, dtype=F64) * 3 + 0.1
    problem = PoissonProblem(cells, 0.1, sides, k, mask)
    net = SymmetricMultigrid(3, smooth=True, generator=generator).double()
    shake(net, generator, 0.2)
    with torch.no_grad():
        net.omega.copy_(torch.tensor([0.5, 1.2, 0.8]))
        net.nu.fill_(0.7)
    assert net.certified() < 1
    system = PoissonSystem(problem, DCDM(net), like=k)
    M = system.iteration.preconditioner
    n = mask.numel()
    rows = system.centre(torch.randn(4, n, generator=generator, dtype=F64))
    gram = rows @ M(rows).T
    torch.testing.assert_close(gram, gram.T, rtol=1e-9, atol=1e-12)
    assert float(torch.linalg.eigvalsh(gram).min()) > 0
    b = rows[:1].reshape(cells)
    plain = solve_poisson(problem, b, DCDM(net), 1e-8, inconsistent="project")
    loop = solve_poisson(problem, b, DCDM(net, 2, plain=False), 1e-8, inconsistent="project")
    assert abs(int(plain.iterations) - int(loop.iterations)) <= 1
    torch.testing.assert_close(plain.u, loop.u, rtol=1e-5, atol=1e-7)


def test_linear_network_is_linear_and_begins_as_a_working_solver(generator) -> None:
    net = LinearMultigrid(2, noise=0.02, generator=generator).double()
    problem = PoissonProblem((20, 18), 0.1, {"x-": "periodic", "x+": "periodic"}, mask=None)
    system = PoissonSystem(problem, "cg", like=torch.zeros((), dtype=F64))
    geometry = net.prepare(system.stencil, system.active)
    a, b = torch.randn(2, 1, 20, 18, generator=generator, dtype=F64).unbind(0)
    both = net(a + 3 * b, geometry)
    torch.testing.assert_close(both, net(a, geometry) + 3 * net(b, geometry))
    start = LinearMultigrid(2, noise=0.0)
    for sides in ("neumann", "dirichlet", "periodic", {"z+": "neumann"}):
        counts = []
        for n in (16, 33, 64):
            f = torch.randn(n, n, generator=generator)
            empty = PoissonProblem((n, n), 1 / n, sides)
            found = solve_poisson(empty, f, DCDM(start), inconsistent="project")
            counts.append(int(found.iterations))
        assert max(counts) <= 12, (sides, counts)


def test_untrained_cycle_is_the_multigrid_of_the_solvers(generator) -> None:
    problem = PoissonProblem((24, 31), 1.0, "neumann", mask=disc(32)[:24, :31])
    b = torch.randn(24, 31, generator=generator, dtype=F64)
    net = DCDM(SymmetricMultigrid(generator=generator))
    ours = solve_poisson(problem, b, net, inconsistent="project")
    other = solve_poisson(problem, b, "multigrid", inconsistent="project")
    torch.testing.assert_close(ours.u, other.u, rtol=1e-6, atol=1e-7)
    assert int(ours.iterations) == int(other.iterations)


def test_a_stalling_network_falls_back_or_raises(generator, caplog) -> None:
    problem = PoissonProblem((32, 32), 1 / 32)
    b = torch.randn(32, 32, generator=generator, dtype=F64)
    net = DCDMNet(2, channels=2, generator=generator)
    with caplog.at_level(logging.WARNING):
        found = solve_poisson(problem, b, DCDM(net, history=0, progress=0.1, patience=5))
    assert "Going on with CG" in caplog.text
    torch.testing.assert_close(found.u, solve_poisson(problem, b).u, rtol=1e-6, atol=1e-8)
    with pytest.raises(ConvergenceError):
        stubborn = DCDM(net, history=0, progress=0.1, patience=5, fallback=False)
        solve_poisson(problem, b, stubborn)


def test_projection_of_the_gas_and_derivatives(generator) -> None:
    """A network where the gas takes a method, and the adjoint solve through it."""
    grid = MacGrid((16, 16), 0.1, walls={"z+": "open"})
    ball = Collider(Sphere(0.3), position=(0.8, 0.0, 0.7))
    solids = solids_of(grid, [ball]).detach()
    u = tuple(torch.randn(1, *grid.face_shape(a), generator=generator, dtype=F64) for a in range(2))
    expected, q = project(u, grid, solids, method="direct")
    for net in (LinearMultigrid(2, noise=0.0), SymmetricMultigrid(), DCDMNet(2, channels=4)):
        history = 8 if isinstance(net, DCDMNet) else 2
        v, p = project(u, grid, solids, method=DCDM(net, history), tol=1e-10)
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)

    def loss(b):
        problem = PoissonProblem((8, 8), 0.2, "neumann", mask=disc(8))
        method = DCDM(LinearMultigrid(2, noise=0.0))
        return solve_poisson(problem, b, method, 1e-12, inconsistent="project").u.square().sum()

    b = torch.randn(8, 8, generator=generator, dtype=F64)
    assert taylor_test(loss, b, eps0=1e-2, levels=4).passed()


def test_darcy_takes_a_network(generator) -> None:
    """Coefficients that jump, to the tolerance of the PDE; forward, and back by the same network."""
    phases = torch.rand(1, 1, 16, 16, generator=generator) > 0.5
    a = (1 + 11 * phases.double()).requires_grad_()
    grid, results = Grid((16, 16), sides="dirichlet"), []
    for method in ("direct", DCDM(load_net("symmetric-2d"))):
        u = Darcy(grid, method=method).solve(a)
        results.append((u, *torch.autograd.grad(u.square().sum(), a)))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-13)


def test_training_improves_and_weights_survive_a_file(tmp_path, generator) -> None:
    """Learn: a few seconds lower the loss, and iterations on a domain that was not trained on."""
    recipe = DCDMTraining(sizes=(16,), steps=40, batch=8, geometries=4, lr=2e-2, loss="one_step")
    net = DCDMNet(2, channels=8, generator=generator)
    problem = PoissonProblem((24, 24), 1.0, "neumann", mask=disc(24))
    b = torch.randn(24, 24, generator=generator).cumsum(0)

    def iterations(net) -> int:
        return int(solve_poisson(problem, b, DCDM(net, 8), 1e-4, inconsistent="project").iterations)

    before, record = iterations(net), train_direction(net, recipe)
    assert record["loss"] < 0.7 * sum(record["losses"][:5]) / 5
    after = iterations(net)
    assert after < 0.7 * before
    save_net(tmp_path / "net.safetensors", net)
    assert iterations(load_net(tmp_path / "net.safetensors")) == after
    again = DCDMNet(2, channels=8, generator=torch.Generator().manual_seed(20240229))
    assert train_direction(again, recipe)["losses"] == record["losses"]


def test_shipped_networks_load_and_keep_their_promise(generator) -> None:
    """Iterations on a domain that none of them was trained on, at two sizes."""
    for name in net_names():
        net = load_net(name)
        if "3d" in name:
            continue
        counts = []
        for n in (32, 64):
            problem = PoissonProblem((n, n), 1.0, "neumann", mask=disc(n))
            b = torch.randn(n, n, generator=generator).cumsum(0)
            found = solve_poisson(problem, b, DCDM(net), inconsistent="project")
            counts.append(int(found.iterations))
        assert max(counts) <= (60 if isinstance(net, DCDMNet) else 12), (name, counts)
        if isinstance(net, SymmetricMultigrid):
            assert net.certified() < 1


def test_shipped_networks_against_conjugate_gradients() -> None:
    """A4, A5 (their maze of walls is the benchmark's): 1e-4 on a plume; 64² is a size not trained on."""

    def iterations(method, n: int, mask) -> int:
        at = torch.meshgrid(*[(torch.arange(n) + 0.5) / n] * 2, indexing="ij")
        x = torch.stack(at, -1).double()
        low, high = (torch.tensor([0.5, z], dtype=F64) for z in (0.2, 0.8))
        b = torch.exp(-((x - low).norm(dim=-1) ** 2) / 0.01)
        b = b - 0.7 * torch.exp(-((x - high).norm(dim=-1) ** 2) / 0.02)
        noise = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=F64)
        b = b + 0.02 * b.std() * noise
        problem = PoissonProblem((n, n), 1.0, "neumann", mask=mask)
        found = solve_poisson(problem, b, method, 1e-4, inconsistent="project")
        return int(found.iterations)

    dcdm, linear = load_net("dcdm-2d"), load_net("linear-2d")
    for n in (32, 64):
        for mask in (None, disc(n)):
            classical = iterations("cg", n, mask)
            published = iterations(DCDM(dcdm), n, mask)
            assert 5 * published <= classical, (n, mask is None, published, classical)
            assert iterations(DCDM(linear), n, mask) <= 12
            if n == 32:  # orthogonal directions matter
                free = iterations(DCDM(dcdm, 0, patience=100), n, mask)
                assert free >= 1.5 * published, (free, published)


def test_masks_and_wrong_input(generator) -> None:
    masks = random_masks(20, (16, 16), generator)
    assert masks.shape == (20, 16, 16) and not bool(masks.all()) and bool(masks.any(1).any(1).all())
    k = torch.rand(1, 8, 8, generator=generator) + 0.5
    with pytest.raises(InputError, match="one k"):
        solve_poisson(PoissonProblem((8, 8), k=k), torch.ones(8, 8), DCDM(LinearMultigrid(2)))
    with pytest.raises(InputError, match="even cells"):
        solve_poisson(PoissonProblem((7, 8)), torch.ones(7, 8), DCDM(DCDMNet(2, channels=2)))
    with pytest.raises(InputError, match="dim 2 or 3"):
        DCDMNet(4)
    with pytest.raises(InputError, match="loss out of"):
        train_direction(DCDMNet(2, channels=2), DCDMTraining(loss="mse"))
    with pytest.raises(InputError, match="DirectionNet"):
        DCDM("linear-2d")
    with pytest.raises(InputError, match="history"):
        DCDM(LinearMultigrid(2), history=-1)
    with pytest.raises(InputError, match="2 axes"):
        solve_poisson(PoissonProblem((8, 8)), torch.ones(8, 8), DCDM(LinearMultigrid(3)))
    with pytest.raises(InputError, match="of its dimension"):
        train_direction(DCDMNet(3, channels=2), DCDMTraining(dim=2))
    with pytest.raises(FileNotFoundError):
        load_net("no-such-net")
