"""Label-free steps of velocity in space: decaying flows on 24³, s = 2, s_T = 4, stacked.

Networks are trained for --seconds of CPU time on the residual of the spectral Crank–Nicolson scheme, with
the projection as `finish`, and compared with that scheme on unseen random flows and on Taylor–Green
vortices, for 5 s; beside them standing still, and explicit solvers on the same and on half the grid.

    python benchmarks/stagger_space.py --quick
    python benchmarks/stagger_space.py --seconds 60           # rows that the file has are left out
"""

from __future__ import annotations

import argparse
import math

import torch
from repro_neuralstagger import cpu_ms, relative
from results import Results, parser
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.stagger import (
    EnvPool,
    PdeResidual,
    PhysicsTraining,
    SpaceSplit,
    StaggerSolver,
    TimeSplit,
    train_physics,
)
from rheograd.sim.core.errors import RheogradError
from rheograd.sim.grid.pdes import GaussianField, Grid, NavierStokes3D

DT, NU, SPEED = 0.1, 2e-3, 0.15
TIMES = (0.8, 2.0, 4.8)
ROWS = {"stack s=2 s_T=4": (2, 4, "stack", 24), "s=1 s_T=4": (1, 4, "none", 12)}
"""s, s_T, coupling, width."""


def equation(n: int, dt: float = DT, scheme: str = "crank_nicolson") -> NavierStokes3D:
    return NavierStokes3D(Grid((n,) * 3), dt, NU, scheme=scheme)


def flows(pde: NavierStokes3D, n: int, generator: torch.Generator) -> torch.Tensor:
    """Random velocities without divergence, wavenumbers up to 3, root mean square SPEED."""
    u = GaussianField(pde.grid, 3.0, 5.0, 1.0, modes=3).sample(n, generator, channels=3)
    u = pde.project(u)
    return u * (SPEED / u.square().mean((1, 2, 3, 4), keepdim=True).sqrt() / 3**0.5)


def taylor_green(n: int) -> torch.Tensor:
    """A (sin X cos Y cos Z, −cos X sin Y cos Z, 0) with root mean square SPEED, (1, 3, n, n, n)."""
    x = 2 * math.pi * (torch.arange(n) + 0.5) / n
    X, Y, Z = torch.meshgrid(x, x, x, indexing="ij")
    u = torch.stack((X.sin() * Y.cos() * Z.cos(), -X.cos() * Y.sin() * Z.cos(), 0 * X))[None]
    return u * (SPEED / 3**0.5 / u.square().mean().sqrt())


@torch.no_grad()
def run(pde: NavierStokes3D, u: torch.Tensor, steps: int) -> torch.Tensor:
    """Frames 0 … steps."""
    state, frames = pde.initial_state(u), [u]
    params = pde.prepare(None, state)
    for _ in range(steps):
        state = pde.step(state, None, params)
        frames.append(state.u)
    return torch.stack(frames, 1)


def errors(frames: torch.Tensor, truth: torch.Tensor, name: str) -> dict[str, float]:
    """Errors of frames 0, 1, … and the share of the true energy at the end."""
    out = {}
    for t in TIMES:
        k = round(t / DT)
        if k < truth.shape[1]:
            out[f"{name} t={t:g}"] = relative(frames[:, k], truth[:, k])
    out[f"{name} energy"] = float(frames[:, -1].square().mean() / truth[:, -1].square().mean())
    return out


def measure(results: Results, name: str, pde: NavierStokes3D, truths, given) -> None:
    s, s_T, coupling, width = ROWS[name]
    n = pde.grid.cells[0]
    generator = torch.Generator().manual_seed(given.seed)
    modes = (min(4, n // s // 2 - 1),) * 3
    solver = StaggerSolver(
        lambda a, b: FNO(FNOConfig(modes, a, b, hidden_channels=width, n_layers=3), generator=generator),
        SpaceSplit(s, 3),
        TimeSplit(s_T),
        coupling,
        dt=DT,
        channels=3,
        sigma=SPEED / 3**0.5,
        scale=0.1,
        finish=pde.project,
    )  # fmt: skip
    pool = EnvPool(lambda k, g: (flows(pde, k, g)[:, None], None), 24, lifetime=8, limit=1.0)
    recipe = PhysicsTraining(10**6, given.seconds, batch=4, lr=2e-3, seed=given.seed)
    record = train_physics(solver, PdeResidual(pde, SPEED / 3**0.5), pool, recipe)
    row = {k: record[k] for k in ("updates", "cpu_seconds", "loss")}
    row |= {"s": s, "s_T": s_T, "coupling": coupling}
    row["parameters"] = sum(p.numel() for p in solver.parameters())
    with torch.no_grad():
        for kind, truth in truths.items():
            try:
                made = solver.rollout(truth[:, 0], truth.shape[1] - 1)
                row |= errors(torch.cat([truth[:, :1], made], 1), truth, kind)
                row["divergence"] = float(pde.divergence(made[:, -1]).abs().max())
            except RheogradError as error:
                row[f"{kind} failed"] = str(error)
        u = truths["random"][:1, 0]
        row["latency ms per fine step"] = cpu_ms(solver, u, repeats=5) / s_T
    results.add(measure=name, **row)


@torch.no_grad()
def measure_solvers(results: Results, n: int, truths) -> None:
    still = {}
    for kind, truth in truths.items():
        still |= errors(truth[:, :1].expand_as(truth), truth, kind)
    results.add(measure="persistence", **still)
    for s, k, scheme in ((1, 1, "crank_nicolson"), (1, 2, "etdrk4"), (2, 4, "etdrk4")):
        pde, row = equation(n // s, DT * k, scheme), {"s": s, "s_T": k, "scheme": scheme}
        try:
            for kind, truth in truths.items():
                fine = truth[..., ::s, ::s, ::s]
                start = pde.project(fine[:, 0])
                row |= errors(run(pde, start, (truth.shape[1] - 1) // k).repeat_interleave(k, 1),
                              fine, kind)  # fmt: skip
            state = pde.initial_state(start[:1])
            params = pde.prepare(None, state)
            row["latency ms per fine step"] = cpu_ms(pde.step, state, None, params, repeats=5) / k
        except RheogradError as error:
            row["failed"] = str(error).split(". ")[0]
        results.add(measure=f"solver s={s} s_T={k} {scheme}", **row)


def arguments() -> argparse.Namespace:
    given = parser(__doc__, again=True)
    given.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of training a row")
    given.add_argument("--seed", type=int, default=0)
    given.add_argument("--only", nargs="*", default=["solvers", *ROWS])
    return given.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(1)
    results = Results("stagger_space", given)
    done = results.done
    n, steps, count = (12, 8, 2) if given.quick else (24, 48, 4)
    given.seconds = 2.0 if given.quick else given.seconds
    pde = equation(n)
    u = flows(pde, count, torch.Generator().manual_seed(1234))
    truths = {"random": run(pde, u, steps), "Taylor-Green": run(pde, taylor_green(n), steps)}
    if "solvers" in given.only and "persistence" not in done:
        measure_solvers(results, n, truths)
    for name in ROWS:
        if name in given.only and name not in done:
            measure(results, name, pde, truths, given)


if __name__ == "__main__":
    main()
