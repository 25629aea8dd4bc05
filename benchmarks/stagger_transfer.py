"""Do label-free steps trained on 64² hold on other grids, and what do parts of a solver cost?

Solvers of `repro_neuralstagger.py --keep FOLDER`, on grids they were not trained on: with the split they
were trained with, and (one set of weights that is not told its shift) with a split that leaves every
sub-solver the cells it knows, s = 2 n/64. Truth is an explicit solver of fourth order with small steps.
Then levels: one sub-solver, four of sixteen, all, with their errors and CPU time. "missing": the error of
a step by a solver that sees one sub-field, interpolated by its Fourier series, and nothing else.

    python benchmarks/stagger_transfer.py --keep runs/stagger
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from repro_neuralstagger import DT, ROWS, Problem, build, cpu_ms, relative
from results import Results, parser
from rheograd.operators.stagger import (
    SpaceSplit,
    StaggerSolver,
    corrected_rollout,
    load_solver,
    warm_start,
)
from rheograd.sim.core.errors import RheogradError
from rheograd.sim.grid.pdes import Grid

GRIDS = (32, 48, 64, 96, 128)
TIMES = (0.8, 2.0, 4.0)


@torch.no_grad()
def truth_of(problem: Problem, count: int, steps: int) -> torch.Tensor:
    """Frames 0 … steps (B, T, 1, n, n) from starts that every grid here resolves."""
    n = problem.grid.cells[0]
    fine = Problem(64)
    u = fine.field.sample(count, torch.Generator().manual_seed(4321))
    hat = torch.fft.fftshift(torch.fft.fft2(u), dim=(-2, -1))[..., 20:45, 20:45]
    out = torch.zeros(*u.shape[:2], n, n, dtype=hat.dtype)
    # Cell centres: a mode m is turned by half a cell of either grid.
    m = torch.arange(-12, 13)
    turn = torch.exp(1j * torch.pi * m * (1 / n - 1 / 64))
    at = m % n
    out[..., at[:, None], at[None]] = hat * turn[:, None] * turn * (n / 64) ** 2
    u = torch.fft.ifft2(out).real
    small = 2 if n <= 64 else 4
    pde = problem.solver(Grid((n, n)), DT / small, "etdrk4")
    state, frames = pde.initial_state(u), [u]
    params = pde.prepare({"forcing": problem.forcing}, state)
    for k in range(steps * small):
        state = pde.step(state, None, params)
        if (k + 1) % small == 0:
            frames.append(state.u)
    return torch.stack(frames, 1)


@torch.no_grad()
def measure_missing(results: Results, s: int, frames: torch.Tensor, problem: Problem) -> None:
    """‖error of a step‖ over the size of the field and of the step, from sub-fields alone."""
    n, pde, row = frames.shape[-1], problem.pde, {}
    m = torch.arange(1 - n // s // 2, n // s // 2)
    for k in (0, 10, 39):
        before, after = frames[:, k], frames[:, k + 1]
        made = torch.zeros_like(after)
        for i, j in SpaceSplit(s).offsets:
            hat = torch.fft.fft2(before[..., i::s, j::s]) * s**2
            full = torch.zeros(*before.shape, dtype=hat.dtype)
            at, here = m % n, m % (n // s)
            full[..., at[:, None], at[None]] = hat[..., here[:, None], here[None]]
            u = torch.fft.ifft2(full).real  # its first cell is (i, j)
            state = pde.initial_state(u - u.mean((-2, -1), keepdim=True))
            forcing = problem.forcing.roll((-i, -j), (-2, -1))
            change = pde.step(state, None, {"forcing": forcing}).u - state.u
            made[..., i::s, j::s] = before[..., i::s, j::s] + change[..., ::s, ::s]
        row[f"of field t={k * DT:g}"] = relative(made, after)
        off = (made - after).flatten(1).norm(dim=1) / (after - before).flatten(1).norm(dim=1)
        row[f"of step t={k * DT:g}"] = float(off.mean())
    results.add(measure=f"missing s={s}", s=s, **row)


@torch.no_grad()
def measure_disagreement(results: Results, name: str, solver: StaggerSolver, problem) -> None:
    """The loss of steps from true states, and what is left of it without modes above n/3, the seams."""
    u = problem.field.sample(8, torch.Generator().manual_seed(1234))
    before = problem.reference(u, 20, problem.forcing)[:, -1]
    after = solver(before, problem.forcing)[:, 0]
    solver.finish = "band"
    smooth = solver.finished(after[:, None])[:, 0]
    solver.finish = None
    truth = problem.reference(before, 1, problem.forcing)[:, -1]
    loss = {
        key: float(problem.residual.loss(torch.stack([before, x], 1), problem.forcing).mean())
        for key, x in (("loss", after), ("loss without seams", smooth))
    }
    error = {"error of a step": relative(after, truth), "without seams": relative(smooth, truth)}
    results.add(measure=f"{name} disagreement", **loss, **error)


class Still(torch.nn.Module):
    """A network that predicts no change: what sweeps do alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0 * x[:, :1]


def row_of(solver: StaggerSolver, problem: Problem, truth: torch.Tensor, level=None) -> dict:
    """Errors and CPU time of a rollout."""
    W, r = solver.tsplit.window, 1 if level is None else level
    start = truth[:, :W] if W > 1 else truth[:, 0]
    row = {}
    try:
        with torch.no_grad():
            frames = solver.rollout(start, truth.shape[1] - W, problem.forcing, level)
            for t in TIMES:
                k = round(t / DT)
                if k < truth.shape[1]:
                    row[f"error t={t:g}"] = relative(frames[:, k - W], truth[:, k, :, ::r, ::r])
            one = start[:1], 4 * solver.tsplit.s_T, problem.forcing, level
            steps = 4 * solver.tsplit.s_T
            row["ms per fine step"] = cpu_ms(solver.rollout, *one, repeats=3) / steps
    except RheogradError as error:
        row["failed"] = str(error).split(". ")[0]
    return row


@torch.no_grad()
def measure_corrected(results: Results, name: str, solver: StaggerSolver, problem, done) -> None:
    """Sweeps of the implicit scheme behind the network; truth is that scheme, from starts of training."""
    if solver.tsplit.mode != "multi" or f"{name} corrected 2" in done:
        return
    u = problem.field.sample(8, torch.Generator().manual_seed(1234))
    truth = problem.reference(u, 40, problem.forcing)
    for sweeps in (0, 1, 2) if name in ROWS else (1, 2, 3):
        found = corrected_rollout(solver, problem.pde, u, 40, problem.forcing, sweeps)
        row = {f"error t={t:g}": relative(found.frames[:, round(t / DT) - 1], truth[:, round(t / DT)])
               for t in TIMES}  # fmt: skip
        one = solver, problem.pde, u[:1], 4 * solver.tsplit.s_T, problem.forcing, sweeps
        row["ms per fine step"] = cpu_ms(corrected_rollout, *one, repeats=3) / one[3]
        row["change t=4"] = float(found.change[:, -1].mean())
        results.add(measure=f"{name} corrected {sweeps}", sweeps=sweeps, **row)


def measure(results: Results, name: str, solver: StaggerSolver, truths, done: set[str]) -> None:
    for n, (problem, truth) in truths.items():
        if f"{name} n={n}" not in done:
            results.add(
                measure=f"{name} n={n}", s=solver.split.s[0], **row_of(solver, problem, truth)
            )
        s = solver.split.s[0] * n // 64
        same = f"{name} n={n} s={s}"
        if solver.share and not solver.shifted and s != solver.split.s[0] and same not in done:
            if s >= 1 and n % s == 0 and n // s == 64 // solver.split.s[0]:
                other = warm_start(build_like(name, s), solver).eval()
                results.add(measure=same, s=s, **row_of(other, problem, truth))


def build_like(name: str, s: int) -> StaggerSolver:
    """The row's solver with another split."""
    return build(dataclasses.replace(ROWS[name], s=s), cells=64 // ROWS[name].s * s)


def main() -> None:
    arguments = parser(__doc__, again=True)
    arguments.add_argument("--keep", type=Path, default=Path("runs/stagger"))
    arguments.add_argument("--only", nargs="*", help="names of rows; default all that are kept")
    given: argparse.Namespace = arguments.parse_args()
    torch.set_num_threads(1)
    results = Results("stagger_transfer", given)
    done = results.done
    grids, steps, count = (GRIDS[:2], 8, 2) if given.quick else (GRIDS, 40, 8)
    truths = {}
    for n in grids:
        problem = Problem(n)
        truths[n] = problem, truth_of(problem, count, steps)
    wanted = not given.only or "missing" in given.only
    if wanted and not given.quick and "missing s=4" not in done:
        problem = Problem(64)
        u = problem.field.sample(8, torch.Generator().manual_seed(1234))
        frames = problem.reference(u, 40, problem.forcing)
        for s in (2, 4):
            measure_missing(results, s, frames, problem)
    if not given.quick and (not given.only or "still" in given.only):
        still = StaggerSolver(lambda a, b: Still(), SpaceSplit(1), dt=DT, context=1)
        measure_corrected(results, "still", still, Problem(64), done)
    for name in given.only or ROWS:
        file = given.keep / f"{name.replace(' ', '-')}.safetensors"
        if not file.is_file():
            continue
        solver = load_solver(file)
        measure(results, name, solver, truths, done)
        if 64 in truths:
            measure_corrected(results, name, solver, Problem(64), done)
        if solver.coupling != "none" or 64 not in truths:
            continue
        s = solver.split.s[0]
        if s > 1 and solver.finish is None and f"{name} disagreement" not in done:
            measure_disagreement(results, name, solver, Problem(64))
        for level in [r for r in (4, 2, 1) if s % r == 0 and s > 1]:
            if f"{name} level {level}" not in done:
                row = row_of(solver, *truths[64], level=level)
                results.add(measure=f"{name} level {level}", sub_solvers=(s // level) ** 2, **row)


if __name__ == "__main__":
    main()
