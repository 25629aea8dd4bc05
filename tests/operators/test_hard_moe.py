"""Boxes, rows of diffusion–sorption, and operators with hard constraints on them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from rheograd.operators.hard_moe import (
    BoxRouter,
    FitConfig,
    HardOperator,
    IntegralProblem,
    PointProblem,
    Problem,
    StepProblem,
    evaluate,
    first_frames,
    sample_points,
    sorption_data,
    windows,
)
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.grid.pdes import BurgersFV, DiffusionSorption, Grid, sorption_sides


class Network(torch.nn.Module):
    """A small basis: waves in space and time whose phases and rates depend on the first frame."""

    def __init__(self, n, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.rates = torch.nn.Parameter(4 * torch.rand(n, 4, generator=g))

    def forward(self, x):
        F, X = x.shape[2:]
        t = (torch.arange(F).to(x) / F)[:, None]
        s = ((torch.arange(X) + 0.5).to(x) / X)[None]
        a, b, c, d = self.rates.T[..., None, None]
        wave = torch.cos(a * s + b) * torch.exp(-c * t) + torch.exp(-(d**2) * s / (t + 0.1).sqrt())
        return wave * (1 + x.mean((2, 3), keepdim=True) * a)


def pde(cells=16, dt=20.0):
    return DiffusionSorption(Grid(cells, sides=sorption_sides()), dt)


def operator(mode="experts", boxes=(1, 2), n=5, frames=6, problem=StepProblem, seed=0, **options):
    config = FitConfig(max_iterations=60, sweeps=0 if problem is PointProblem else 2)
    network = Network(1 if mode == "soft" else n, seed).double()
    return HardOperator(
        network, problem(pde(), frames), mode, boxes, config=config, throw=True, **options
    )


@pytest.mark.parametrize("counts, cells", [((3,), (12,)), ((2, 4), (6, 8)), ((2, 1, 3), (4, 5, 6))])
def test_boxes_and_back(counts, cells, generator):
    """A2: bit for bit, and each box is a block of the grid."""
    z = torch.randn(3, 2, *cells, generator=generator)
    router = BoxRouter(counts)
    parts = router.partition(z)
    assert len(parts) == 3 * router.boxes
    assert torch.equal(router.unpartition(parts), z)
    first = z[1]
    for axis, (n, k) in enumerate(zip(cells, counts, strict=True), 1):
        first = first.narrow(axis, 0, n // k)
    assert torch.equal(parts[router.boxes], first)
    with pytest.raises(InputError, match="divide"):
        BoxRouter((5,)).partition(z)


def test_windows_add_up_to_one():
    for overlap in (0.0, 0.3, 0.5):
        phi = windows((2, 4), (10, 32), overlap)
        assert phi.shape == (8, 10, 32) and bool((phi >= -1e-15).all())
        assert torch.allclose(phi.sum(0), torch.ones(10, 32, dtype=torch.float64), atol=1e-15)
    assert torch.equal(windows((1, 2), (2, 8), 0.0)[0, 0], torch.arange(8).lt(4).double())


def test_sampled_points_differ(generator):
    index = sample_points(4, 50, 20, generator)
    assert index.shape == (4, 20) and all(len(set(row)) == 20 for row in index.tolist())
    assert not torch.equal(index[0], index[1])
    with pytest.raises(InputError, match=r"count in \[1, 50\]"):
        sample_points(4, 50, 51)


@pytest.mark.parametrize("problem", [StepProblem, IntegralProblem, PointProblem])
def test_terms_are_linear(problem, generator):
    """A2: numbers of b·w are those of b, times w."""
    rows = problem(pde(), 6)
    b = torch.randn(2, 5, 7, 16, generator=generator, dtype=torch.float64)
    w = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    u = torch.einsum("bnij,bn->bij", b, w)
    T = torch.einsum("bqnij,bn->bqij", rows.terms(b), w)
    scale = T.abs().amax((0, 2, 3), keepdim=True)
    assert bool(((T - rows.terms(u)) / scale).abs().max() < 1e-12)
    C = torch.einsum("bnl,bn->bl", rows.linear(b), w)
    assert torch.allclose(C, rows.linear(u), atol=1e-11)


def test_the_solver_satisfies_its_rows():
    """Its implicit steps have no residual; points give that of a field with straight profiles."""
    rows = StepProblem(pde(), 3)
    state = rows.pde.initial_state(first_frames(2, 16)[:, None])
    frames = [state.u[:, 0]]
    for _ in range(3):
        state = rows.pde.step(state)
        frames.append(state.u[:, 0])
    u = torch.stack(frames, 1)
    assert float(rows.defect(u).abs().max()) < 1e-11
    summed = IntegralProblem(rows.pde, 3)
    assert float(summed.defect(u).abs().max()) < 1e-11
    wrong = torch.cat([u[:, :1], 1.1 * u[:, 1:]], 1)
    assert torch.allclose(summed.defect(wrong), rows.defect(wrong).cumsum(1), atol=1e-12)
    x = torch.linspace(0.2, 0.8, 16, dtype=torch.float64)
    late = torch.stack([x + 0.01 * j for j in range(7)])[None]
    points = PointProblem(pde(), 6)
    R = points.pde.retardation(late[None], points.values(late))[0, :, 1:]
    assert R.min() > 1
    assert torch.allclose(points.defect(late), torch.full_like(R, 0.01 / 20), atol=1e-12)


@pytest.mark.parametrize("problem", [StepProblem, IntegralProblem])
def test_exact_basis_gives_the_solution(problem, generator):
    """With the solution's departure from u₀ in the span, every mode returns it, first frame exact."""
    rows = problem(pde(), 6)
    u0 = first_frames(1, 16, "rich", generator)
    state, frames = rows.pde.initial_state(u0[:, None]), [u0]
    for _ in range(6):
        state = rows.pde.step(state)
        frames.append(state.u[:, 0])
    truth = torch.stack(frames, 1)

    class Known(torch.nn.Module):
        def forward(self, x):
            other = torch.sin(torch.arange(7 * 16).to(x)).reshape(1, 1, 7, 16)
            return torch.cat([(truth - u0[:, None])[:, None] / 3, other], 1)

    for mode in ("experts", "windows"):
        model = HardOperator(
            Known(), rows, mode, (1, 2), config=FitConfig(sweeps=3), ridge=1e-6, throw=True
        )
        u = model(u0)
        assert torch.equal(u[:, 0], u0)
        assert float((u - truth).abs().max()) < 1e-7


@pytest.mark.parametrize(
    "mode, boxes, problem",
    [
        ("experts", (2, 2), StepProblem),
        ("windows", (1, 2), StepProblem),
        ("soft", (1, 1), StepProblem),
        ("experts", (2, 2), IntegralProblem),
        ("windows", (1, 2), IntegralProblem),
    ],
)
def test_gradient_through_the_operator(mode, boxes, problem, generator):
    model = operator(mode, boxes, problem=problem)
    u0 = first_frames(2, 16, generator=generator)

    def loss(rates):
        params = {"network.rates": rates}
        u = torch.func.functional_call(model, params, (u0,))
        return model.problem.loss(u, u0).mean()

    report = taylor_test(loss, model.network.rates.detach().clone(), eps0=5e-4)
    assert report.passed(1.9), report


class Heat(Problem):
    """u_t = k u_xx on a circle, with a k that is to be found."""

    def __init__(self, k):
        super().__init__(4, (8,))
        self.k = k

    def base(self, u0):
        return u0[:, None].expand(-1, 5, -1)

    def shape(self, b):
        return torch.cat([torch.zeros_like(b[..., :1, :]), b[..., 1:, :]], -2)

    def terms(self, f, known=False):
        new, old = f[..., 1:, :], f[..., :-1, :]
        return torch.stack([new, old, new.roll(1, -1) - 2 * new + new.roll(-1, -1)], 1)

    def params(self):
        return self.k

    def residual(self, z, params=()):
        return z[:, 0] - z[:, 1] - params * z[:, 2]

    def loss(self, u, u0):
        return self.defect(u).square().mean((1, 2))


class Hidden(Heat):
    def params(self):
        return ()

    def residual(self, z, params=()):
        return super().residual(z, self.k)


@pytest.mark.parametrize("mode, boxes", [("experts", (2, 2)), ("windows", (1, 2)), ("soft", None)])
def test_an_unknown_coefficient_of_ones_own_problem(mode, boxes, generator):
    """Fits and losses are differentiated in it; one that is not in `params` is refused."""
    network = Network(1 if mode == "soft" else 3).double()
    u0 = torch.randn(2, 8, generator=generator, dtype=torch.float64)

    def loss(k):
        model = HardOperator(network, Heat(k), mode, boxes, throw=True)
        return model(u0).square().mean() + model.loss(u0)

    report = taylor_test(loss, torch.tensor(0.3, dtype=torch.float64))
    assert report.passed(1.9), report
    if mode != "soft":
        k = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        with pytest.raises(InputError, match="closes over"):
            HardOperator(network, Hidden(k), mode, boxes)(u0)


def test_windows_are_smooth_and_experts_jump(generator):
    u0 = first_frames(2, 16, generator=generator)
    jumps = {}
    for mode in ("experts", "windows"):
        with torch.no_grad():
            u = operator(mode)(u0)
        bend = (u[..., 7] - 2 * u[..., 8] + u[..., 9]).abs().mean()
        jumps[mode] = float(bend / (u[..., 2:] - 2 * u[..., 1:-1] + u[..., :-2]).abs().mean())
    assert jumps["windows"] < 0.5 * jumps["experts"]


def test_experts_know_the_walls(generator):
    """Without the walls' rows u = u₀ is a perfect fit of the inner boxes; with them it is none."""
    u0, inner = first_frames(2, 16, generator=generator), slice(4, 12)
    for walls in (False, True):
        model = operator(boxes=(1, 4), walls=walls)
        with torch.no_grad():
            moved = float((model(u0) - u0[:, None])[..., inner].abs().max())
        assert (moved > 1e-2) is walls, moved
    for mode, boxes in (("windows", (1, 2)), ("experts", (1, 1))):
        model = operator(mode, boxes, points=48)
        model(u0, generator)
        taken = torch.zeros(2 * model.cut.boxes, 6 * 16 // model.cut.boxes, dtype=torch.bool)
        field = model.cut.unpartition(taken.scatter(1, model.chosen, True).reshape(
            len(taken), 6, -1))  # fmt: skip
        assert bool(field[..., [0, -1]].all()) and int(field.sum()) == 2 * 48


def test_paper_rows_hold_walls_and_first_frame(generator):
    """Weighted rows bring both walls and the first frame nearer than the soft operator's start."""
    model = operator(problem=PointProblem, boxes=(1, 1), n=8)
    u0 = first_frames(2, 16, generator=generator)
    with torch.no_grad():
        u = model(u0)
        target, weight = model.problem.targets(u0)
        e = (model.problem.linear(u) - target) * weight
        zero = (model.problem.linear(0 * u) - target) * weight
    assert float(e.norm()) < 0.5 * float(zero.norm())


def test_training_lowers_error_and_measures(generator):
    """A few updates without any solution bring the operator nearer to the solver's."""
    data = sorption_data(2, 16, 4, duration=80.0, substeps=2, generator=generator)
    model = operator("windows", n=4, frames=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    before = evaluate(model, data)
    for _ in range(8):
        optimizer.zero_grad()
        model.loss(data.u0).backward()
        optimizer.step()
    after = evaluate(model, data)
    assert after["residual"] < 0.9 * before["residual"]
    assert after["relative_l2"] < before["relative_l2"]
    assert 0 < data.floor() < 0.2
    distance = (data.long_steps - data.u).norm(dim=(1, 2)) / data.u.norm(dim=(1, 2))
    assert data.floor() == pytest.approx(float(distance.mean()))
    assert abs(after["from long steps"] - after["relative_l2"]) <= data.floor() * 1.2
    some = operator("experts", n=4, frames=4, points=24)
    measured = evaluate(some, data, generator)
    assert measured["residual unsampled"] < 10 * measured["residual sampled"]
    assert measured["iterations"] >= 1 and measured["jump"] > 0


def test_errors_name_the_remedy(generator):
    with pytest.raises(InputError, match="affine"):
        StepProblem(BurgersFV(Grid(16), 0.01), 4)
    with pytest.raises(InputError, match=r"divide \(6, 16\)"):
        operator(boxes=(1, 3))
    with pytest.raises(InputError, match="mode out of"):
        operator("hard")
    with pytest.raises(InputError, match=r"first frames \(B >= 1, 16\)"):
        operator()(torch.zeros(2, 15))
    model = operator()
    model.constraint.config = FitConfig(max_iterations=1)
    with pytest.raises(ConvergenceError, match="1 iterations"):
        model(first_frames(2, 16, generator=generator))


PAIR = """
import os, sys
import torch
import torch.distributed as dist
sys.path[:0] = sys.argv[5:]
from test_hard_moe import operator, first_frames
from rheograd.operators.hard_moe import FitConfig
from rheograd.sim.core.errors import RheogradError

torch.set_num_threads(1)
dist.init_process_group("gloo")
model = operator(sys.argv[2], boxes=(1, int(sys.argv[4])))
u0 = first_frames(int(sys.argv[3]), 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
u = model(u0)
model.problem.loss(u, u0).mean().backward()
solved = len(model.constraint.last.w) if model.constraint.last else 0
model.constraint.config = FitConfig(max_iterations=1 + 59 * dist.get_rank())
try:
    model(u0)
    raised = False
except RheogradError:
    raised = True
found = u.detach(), model.network.rates.grad, u0.grad, solved, raised
torch.save(found, f"{sys.argv[1]}/{dist.get_rank()}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo over localhost")
@pytest.mark.parametrize(
    "mode, boxes, count, shares",
    [
        ("experts", 2, 3, (3, 3)),
        ("windows", 2, 3, (2, 1)),
        ("windows", 2, 1, (1, 0)),  # more processes than systems
    ],
)
def test_two_processes_are_one(mode, boxes, count, shares, tmp_path):
    """Values and gradients of fits shared by two processes; a failure on one is one on both."""
    script = tmp_path / "pair.py"
    script.write_text(PAIR)
    here = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    given = [str(tmp_path), mode, str(count), str(boxes), here, os.path.dirname(here)]
    result = subprocess.run(
        [*command, str(script), *given],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    model = operator(mode, boxes=(1, boxes))
    u0 = first_frames(count, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    u = model(u0)
    model.problem.loss(u, u0).mean().backward()
    for rank in range(2):
        v, grad, grad_u0, solved, raised = torch.load(tmp_path / f"{rank}.pt")
        assert torch.allclose(u, v, atol=1e-12) and solved == shares[rank] and raised
        assert torch.allclose(model.network.rates.grad, grad, rtol=1e-9, atol=1e-13)
        assert torch.allclose(u0.grad, grad_u0, rtol=1e-9, atol=1e-13)
