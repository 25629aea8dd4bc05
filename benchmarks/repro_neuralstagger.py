"""How good are label-free stepping networks on sub-fields? Forced vorticity on 64², trained on residuals.

Every row is one network, trained for --seconds of CPU time and compared with the implicit solver whose
residual it was trained on. Rows that the file has already are left out (--again: not). --train NAME makes
weights that ship.

    python benchmarks/repro_neuralstagger.py --quick
    python benchmarks/repro_neuralstagger.py --only "s=2 stack" baselines
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch
from results import Results, machine, parser
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.stagger import (
    EnvPool,
    PdeResidual,
    PhysicsTraining,
    SpaceSplit,
    StaggerSolver,
    TimeSplit,
    fit_forcing,
    fourier_waves,
    load_solver,
    save_solver,
    train_physics,
    warm_start,
)
from rheograd.sim.core.errors import RheogradError
from rheograd.sim.grid.pdes import GaussianField, Grid, NavierStokes2D

DT, SIGMA, STEPS = 0.1, 0.3, 80
TIMES = (0.8, 2.0, 4.0, 8.0)


@dataclasses.dataclass(frozen=True)
class Row:
    """One network."""

    s: int = 1
    s_T: int = 1
    coupling: str = "none"
    mode: str = "multi"
    drop: float = 0.0
    width: int = 16
    modes: int = 10
    finish: str | None = "band"
    equal: bool = False
    """One set of weights, which is not told its shift."""
    warm: float = 0.0
    """Share of the training time in which the weights are one."""


ROWS = {
    "s=1": Row(),
    "s=2 none": Row(2, finish=None),
    "s=4 none": Row(4, modes=7, finish=None),
    "s=2 none band": Row(2),
    "s=2 none warm": Row(2, finish=None, warm=0.5),
    "s=2 equal": Row(2, finish=None, equal=True),
    "s=2 equal band": Row(2, equal=True),
    "s=4 equal": Row(4, modes=7, finish=None, equal=True),
    "s=2 equal multi 4": Row(2, 4, finish=None, equal=True),
    "s=2 halo": Row(2, coupling="halo"),
    "s=2 stack": Row(2, coupling="stack", width=32),
    "s=2 stack drop": Row(2, coupling="stack", width=32, drop=0.3),
    "s=1 multi 4": Row(s_T=4),
    "s=1 chain 4": Row(s_T=4, mode="chain"),
    "s=2 stack multi 4": Row(2, 4, "stack", width=32),
}
PRESETS = {"vorticity-64": Row(2, 4, "stack", width=20, modes=8)}
"""Networks that ship; trained with forcings of eight random coefficients."""


class Problem:
    """Forced vorticity on a periodic square: ν = 1e-3, f = 0.1 [sin 2π(x + y) + cos 2π(x + y)]."""

    def __init__(self, cells: int, forced: bool = False) -> None:
        self.grid, self.forced = Grid((cells, cells)), forced
        self.pde = self.solver(self.grid, DT)
        self.field = GaussianField(
            self.grid, 2.5, 7.0, 2**0.5 * 7**1.5, modes=min(31, cells // 2 - 1)
        )
        self.residual = PdeResidual(self.pde, SIGMA)
        self.waves = fourier_waves(
            self.grid.points(torch.zeros(())), [(1, 1), (1, 0), (0, 1), (1, -1)]
        )
        self.forcing = 0.1 * (self.waves[:1] + self.waves[1:2])

    def solver(self, grid: Grid, dt: float, scheme: str = "crank_nicolson") -> NavierStokes2D:
        return NavierStokes2D(grid, dt, 1e-3, discretization="arakawa", scheme=scheme)

    def forcings(self, n: int, generator: torch.Generator) -> torch.Tensor:
        if not self.forced:
            return self.forcing.expand(n, -1, -1, -1)
        return 0.07 * torch.einsum(
            "nm,mcij->ncij", torch.randn(n, len(self.waves), generator=generator), self.waves
        )

    @torch.no_grad()
    def reference(self, u: torch.Tensor, steps: int, f: torch.Tensor) -> torch.Tensor:
        """Frames 0 … steps (B, T, 1, n, n)."""
        state, frames = self.pde.initial_state(u), [u]
        params = self.pde.prepare({"forcing": f}, state)
        for _ in range(steps):
            state = self.pde.step(state, None, params)
            frames.append(state.u)
        return torch.stack(frames, 1)

    def pool(self, window: int, size: int, seed: int = 0) -> EnvPool:
        def sample(n: int, generator: torch.Generator):
            u, f = self.field.sample(n, generator), self.forcings(n, generator)
            return self.reference(u, window - 1, f), f.clone()

        return EnvPool(sample, size, seed=seed, lifetime=100, limit=10.0, cold=0.02)


def build(row: Row, seed: int = 0, cells: int = 64) -> StaggerSolver:
    generator = torch.Generator().manual_seed(seed)

    def backbone(a: int, b: int) -> FNO:
        modes = min(row.modes, cells // row.s // 2 - 1)
        config = FNOConfig((modes,) * 2, a, b, hidden_channels=row.width, n_layers=3)
        return FNO(config, generator=generator)

    return StaggerSolver(
        backbone,
        SpaceSplit(row.s),
        TimeSplit(row.s_T, row.mode),
        row.coupling,
        dt=DT,
        context=1,
        sigma=SIGMA,
        scale=0.3,
        context_sigma=0.1,
        share=row.equal,
        shifted=not row.equal,
        drop=row.drop,
        finish=row.finish,
    )


def cpu_ms(call, *given, repeats: int = 7) -> float:
    """Least CPU time of a call [ms]."""
    best = float("inf")
    for _ in range(repeats):
        clock = time.process_time()
        call(*given)
        best = min(best, time.process_time() - clock)
    return 1e3 * best


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖a − b‖/‖b‖ per sample, in the mean."""
    return float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).mean())


def high_share(error: torch.Tensor) -> float:
    """Share of the error's energy in the upper half of wavenumbers."""
    n = error.shape[-1]
    power = torch.fft.fft2(error).abs().square()
    k = torch.fft.fftfreq(n, 1 / n).abs()
    high = (k[:, None] > n / 4) | (k[None] > n / 4)
    return float((power * high).sum() / power.sum())


def errors(frames: torch.Tensor, truth: torch.Tensor, first: int) -> dict[str, float]:
    """Errors of frames first, first + 1, … against the reference."""
    out = {}
    for t in TIMES:
        k = round(t / DT)
        if first <= k < truth.shape[1]:
            out[f"error t={t:g}"] = relative(frames[:, k - first], truth[:, k])
    k = min(round(4.0 / DT), truth.shape[1] - 1)
    if frames.shape[-1] == truth.shape[-1]:
        out["high share"] = high_share(frames[:, k - first] - truth[:, k])
    return out


@torch.no_grad()
def costs(solver: StaggerSolver, problem: Problem, truth: torch.Tensor) -> dict[str, float]:
    """CPU time of one sub-solver for one field, and of all of them for eight."""
    s_T, W, f = solver.tsplit.s_T, solver.tsplit.window, problem.forcing
    window, beside = truth[:1, :W], solver.split.split(f)
    parts = solver.split.split(window)
    rows = None if solver.coupling == "stack" else [0]
    one = parts if rows is None else parts[rows]
    near = beside if rows is None else beside[rows]
    if solver.coupling == "halo":  # the neighbours have to be there; all sub-solvers are run
        one, near, rows = parts, beside, None
    latency = cpu_ms(solver.advance, one, near, rows)
    many = truth[:8, :W] if W > 1 else truth[:8, 0]
    batch = cpu_ms(solver, many, f, repeats=3)
    return {
        "latency ms per call": latency,
        "latency ms per fine step": latency / s_T,
        "throughput ms per fine step": batch / s_T / len(many),
    }


def measure_row(results: Results, name: str, problem: Problem, truth, given) -> None:
    row = ROWS[name]
    solver = build(row, given.seed, truth.shape[-1])
    pool = problem.pool(solver.tsplit.window, 100)
    recipe = PhysicsTraining(100_000, given.seconds, seed=given.seed)
    if row.warm:
        first = build(dataclasses.replace(row, equal=True), given.seed, truth.shape[-1])
        recipe = dataclasses.replace(recipe, seconds=row.warm * given.seconds)
        train_physics(first, problem.residual, pool, recipe)
        warm_start(solver, first)
        recipe = dataclasses.replace(recipe, seconds=(1 - row.warm) * given.seconds)
    record = train_physics(solver, problem.residual, pool, recipe)
    W = solver.tsplit.window
    start = truth[:, :W] if W > 1 else truth[:, 0]
    found = {}
    with torch.no_grad():
        try:
            frames = solver.rollout(start, truth.shape[1] - W, problem.forcing)
            found = errors(frames, truth, W)
        except RheogradError as error:
            found = {"failed": str(error)}
        if row.s > 1 and (row.drop or row.coupling == "none"):
            part = solver.rollout(start, truth.shape[1] - W, problem.forcing, level=row.s)
            coarse = errors(part, truth[..., :: row.s, :: row.s], W)
            found |= {f"one sub-field {k}": v for k, v in coarse.items() if k != "high share"}
    results.add(
        measure=name,
        **dataclasses.asdict(row),
        parameters=sum(p.numel() for p in solver.parameters()),
        updates=record["updates"],
        cpu_seconds=record["cpu_seconds"],
        loss=record["loss"],
        **found,
        **costs(solver, problem, truth),
    )
    if given.keep:
        save_solver(given.keep / f"{name.replace(' ', '-')}.safetensors", solver)


@torch.no_grad()
def measure_baselines(results: Results, problem: Problem, truth: torch.Tensor) -> None:
    """Standing still, and numerical solvers on the same and on coarser grids."""
    still = errors(truth[:, :1].expand_as(truth)[:, 1:], truth, 1)
    results.add(measure="persistence", **still)
    n = truth.shape[-1]
    for s, s_T, scheme in (
        (1, 1, "crank_nicolson"), (1, 1, "etdrk4"), (1, 4, "crank_nicolson"), (1, 2, "etdrk4"),
        (2, 1, "etdrk4"), (2, 4, "crank_nicolson"), (2, 2, "etdrk4"), (4, 2, "etdrk4"),
    ):  # fmt: skip
        grid = Grid((n // s, n // s))
        pde = problem.solver(grid, DT * s_T, scheme)
        f, fine = problem.forcing[..., ::s, ::s], truth[..., ::s, ::s]
        row = {"s": s, "s_T": s_T, "scheme": scheme}
        state = pde.initial_state(fine[:, 0] - fine[:, 0].mean((-2, -1), keepdim=True))
        one = pde.initial_state(state.u[:1])
        params, single = pde.prepare({"forcing": f}, state), pde.prepare({"forcing": f}, one)
        try:
            for k in range(s_T, truth.shape[1], s_T):
                state = pde.step(state, None, params)
                for t in TIMES:
                    if round(t / DT) == k:
                        row[f"error t={t:g}"] = relative(state.u, fine[:, k])
            row["latency ms per fine step"] = cpu_ms(pde.step, one, None, single) / s_T
            many = pde.initial_state(state.u[:8])
            eight = pde.prepare({"forcing": f}, many)
            cost = cpu_ms(pde.step, many, None, eight, repeats=3)
            row["throughput ms per fine step"] = cost / s_T / len(many.u)
        except RheogradError as error:
            row["failed"] = str(error).split(". ")[0]
        results.add(measure=f"solver s={s} s_T={s_T} {scheme}", **row)


def measure_control(results: Results, name: str) -> None:
    """Eight coefficients of a forcing from ω(4), through the shipped solver and in truth."""
    solver, problem = load_solver(name), Problem(64, forced=True)
    generator = torch.Generator().manual_seed(99)
    u = problem.field.sample(4, generator)
    for unknowns in (1, 8):
        waves = problem.waves if unknowns == 8 else problem.forcing
        true = torch.ones(1) if unknowns == 1 else 0.07 * torch.randn(8, generator=generator)
        f = torch.einsum("m,mcij->cij", true, waves)[None]
        truth = problem.reference(u, 40, f)
        found = fit_forcing(
            solver, u, truth[:, -1], waves, 40, updates=50, lr=0.1 * float(true.abs().max())
        )
        again = problem.reference(u, 40, torch.einsum("m,mcij->cij", found.amplitudes, waves)[None])
        results.add(
            measure=f"control {unknowns}",
            updates=len(found.losses),
            amplitude_error=float((found.amplitudes - true).norm() / true.norm()),
            final_error=relative(again[:, -1], truth[:, -1]),
            unforced_error=relative(problem.reference(u, 40, 0 * f)[:, -1], truth[:, -1]),
        )


def train(name: str, out: Path, seconds: float, seed: int) -> None:
    """Train one of PRESETS; write weights and their story."""
    row, problem = PRESETS[name], Problem(64, forced=True)
    solver = build(row, seed)
    recipe = PhysicsTraining(100_000, seconds, seed=seed)
    record = train_physics(
        solver, problem.residual, problem.pool(solver.tsplit.window, 100, seed), recipe
    )
    record.pop("losses")
    save_solver(out / f"{name}.safetensors", solver, half=True)
    generator = torch.Generator().manual_seed(1234)
    u, f = problem.field.sample(24, generator), problem.forcings(24, generator)
    truth = problem.reference(u, STEPS, f)
    with torch.no_grad():
        found = errors(load_solver(out / f"{name}.safetensors").rollout(u, STEPS, f), truth, 1)
    found["persistence t=4"] = relative(truth[:, 0], truth[:, 40])
    story = {
        "name": name,
        "command": f"python benchmarks/repro_neuralstagger.py --train {name} --seconds {seconds:g}",
        "seed": seed,
        "machine": machine(),
        "problem": "vorticity, 64², ν = 1e-3, dt = 0.1 s, forcing of eight coefficients N(0, 0.07²)",
        "row": dataclasses.asdict(row),
        "parameters": sum(p.numel() for p in solver.parameters()),
        "training": {k: float(f"{v:.4g}") for k, v in record.items()},
        "metrics": {k: float(f"{v:.4g}") for k, v in found.items()},
    }
    (out / f"{name}.json").write_text(
        json.dumps(story, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    print(json.dumps(story["metrics"]), flush=True)


def arguments() -> argparse.Namespace:
    given = parser(__doc__, again=True)
    given.add_argument("--only", nargs="*", default=["baselines", *ROWS, "control"])
    given.add_argument("--seconds", type=float, default=90.0, help="CPU seconds of training a row")
    given.add_argument("--seed", type=int, default=0)
    given.add_argument("--keep", type=Path, help="folder for the rows' weights")
    given.add_argument("--train", choices=sorted(PRESETS))
    given.add_argument("--out", type=Path, default=Path("assets/stagger"))
    return given.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(1)
    if given.train:
        given.out.mkdir(parents=True, exist_ok=True)
        train(given.train, given.out, given.seconds, given.seed)
        return
    results = Results("repro_neuralstagger", given)
    done = results.done
    cells, steps, count = (32, 8, 4) if given.quick else (64, STEPS, 24)
    given.seconds = 2.0 if given.quick else given.seconds
    problem = Problem(cells)
    u = problem.field.sample(count, torch.Generator().manual_seed(1234))
    truth = problem.reference(u, steps, problem.forcing)
    if "baselines" in given.only and "persistence" not in done:
        measure_baselines(results, problem, truth)
    for name in ROWS:
        fits = not given.quick or ROWS[name].s < 4
        if name in given.only and name not in done and fits:
            measure_row(results, name, problem, truth, given)
    if "control" in given.only and "control 8" not in done and not given.quick:
        measure_control(results, "vorticity-64")


if __name__ == "__main__":
    main()
