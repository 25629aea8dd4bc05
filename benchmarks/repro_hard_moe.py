"""Physics as a hard constraint: exact gradients, the batched solver, and diffusion–sorption by experts.

One core, CPU time. Rows, in the order of the acceptance list of docs/hard-moe.md:

    gradient …     A1: relative error against central differences, by Hessian and by JᵀJ
    boxes          A2: partition and back; numbers of b·w against numbers of b, times w
    solver …       A3: 64 systems: cost against scipy's, iterations, gradient left, smallest curvature
    cost K=…       A4: milliseconds per iteration at equal points; memory that waits for backward
    fit in …       milliseconds of a fit at 256 × 101 against the number of boxes, windows also dense
    time SIZE …    CPU seconds of one update, and of solutions one by one and in batches of 8, at
                   64 × 26, 256 × 101 and 1024 × 101 (cells × frames)
    orthonormal SIZE …  fits with the weights that ship, and before training, in float64 and float32, in
                   the old weights and turned to orthonormal functions
    start …        the paper's rows: fits from zero, and from first frame and walls
    refinement …   more rows and iterations than in training, with the weights that ship
    sorption SIZE … A5 and A6: N = 12, trained without any solution for `--seconds` of CPU time; errors
                   on unseen samples by a reference of short steps with the same walls; coarse grids
                   first (`STAGES`), or with `--alone` the grid of SIZE from the start
    flow …         Navier–Stokes in a plane, 24 × 24 cells × 25 frames, trained in the same way

    python benchmarks/repro_hard_moe.py [--rows "sorption 256x101 scalar step"] [--seconds 20]
        [--sizes 64x26 256x101] [--kinds scalar rich] [--models "step soft"] [--seeds 3] [--alone]
        [--keep FOLDER] [--again] [--table]

Rows that the results file holds are not repeated, so a run that was broken off goes on. `--keep` writes
trained operators to files for `load_hard`; `ship_hard_moe.py` ships one of them.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import scipy.optimize
import torch
from hard_moe_fits import REFINEMENTS, refinement, solution_time, starts, turned
from hard_moe_training import (
    FLOWS,
    MODELS,
    SIZES,
    boxes_cost,
    flows,
    generator,
    held_out,
    kept,
    network,
    table,
    train,
    train_flow,
    update_time,
)
from results import Results, parser
from rheograd.operators.hard_moe import (
    BoxRouter,
    FitConfig,
    HardConstraint,
    HardOperator,
    PointProblem,
    Rows,
    StepProblem,
    first_frames,
    fit,
)
from rheograd.sim.grid.pdes import DiffusionSorption, Grid, sorption_sides


def cubic(z: torch.Tensor, params: object) -> torch.Tensor:
    u, v = z.unbind(1)
    return v + u**3 + 0.5 * u * v


def systems(S: int, noise: float, seed: int = 0) -> Rows:
    """Random cubic problems whose residual does not vanish, N = 4, 30 + 9 rows."""
    g = generator(seed)
    T, a, C, d = (
        torch.randn(shape, generator=g, dtype=torch.float64)
        for shape in ((S, 2, 30, 4), (S, 2, 30), (S, 5, 4), (S, 9))
    )
    ridge = 1e-2 * torch.eye(4, dtype=torch.float64).expand(S, 4, 4)
    return Rows(0.5 * T, noise * a, torch.cat([C, ridge], 1), d)


def gradients() -> list[dict]:
    """A1 for three sizes of the residual at the minimum."""
    rows = []
    for noise in (0.0, 0.1, 1.0):
        data, g = systems(3, noise), generator(1)
        if noise == 0.0:
            data.target = 0.02 * data.target
        row: dict = {"measure": f"gradient noise {noise}"}
        for grad in ("full", "gauss_newton"):
            layer = HardConstraint(
                cubic, FitConfig(tol=1e-13, max_iterations=300), grad, throw=False
            )

            def loss(T, layer=layer, data=data):
                return layer(Rows(T, data.offset, data.linear, data.target)).square().sum()

            T = data.terms.clone().requires_grad_()
            slope = torch.autograd.grad(loss(T), T)[0]
            worst = 0.0
            for _ in range(4):
                e = torch.randn(T.shape, generator=g, dtype=T.dtype)
                with torch.no_grad():
                    fd = float(loss(data.terms + 1e-5 * e) - loss(data.terms - 1e-5 * e)) / 2e-5
                worst = max(worst, abs(float((slope * e).sum()) - fd) / abs(fd))
            row[grad] = worst
        assert layer.last is not None
        row["residual at the minimum"] = float((2 * layer.last.cost).sqrt().mean())
        rows.append(row)
    return rows


def boxes() -> list[dict]:
    """A2."""
    g = generator()
    exact = True
    for counts in itertools.product((1, 2, 4), (1, 2, 8)):
        z = torch.randn(2, 3, 8, 16, generator=g)
        router = BoxRouter(counts)
        exact &= torch.equal(router.unpartition(router.partition(z)), z)
    pde = DiffusionSorption(Grid(64, sides=sorption_sides()), 20.0)
    row: dict = {"measure": "boxes", "bit for bit": exact}
    for problem in (StepProblem(pde, 25), PointProblem(pde, 25)):
        b = torch.randn(2, 12, 26, 64, generator=g, dtype=torch.float64)
        w = torch.randn(2, 12, generator=g, dtype=torch.float64)
        T = torch.einsum("bqnij,bn->bqij", problem.terms(b), w)
        off = T - problem.terms(torch.einsum("bnij,bn->bij", b, w))
        row[type(problem).__name__] = float(
            (off / T.abs().amax((0, 2, 3), keepdim=True)).abs().max()
        )
    return [row]


def solver() -> list[dict]:
    """A3."""
    rows, data = [], systems(64, 0.5)
    costs = []
    for s in range(64):
        T, a, C, d = (v[s].numpy() for v in (data.terms, data.offset, data.linear, data.target))

        def r(w, T=T, a=a, C=C, d=d):
            u, v = a + T @ w
            return np.concatenate([v + u**3 + 0.5 * u * v, C @ w - d])

        limits = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12}
        costs.append(scipy.optimize.least_squares(r, np.zeros(4), method="lm", **limits).cost)
    for curvature in ("full", "gauss_newton"):
        config = FitConfig(max_iterations=200, curvature=curvature)
        start = time.process_time()
        found = fit(cubic, data, torch.zeros(64, 4, dtype=torch.float64), config)
        rows.append(
            {
                "measure": f"solver {curvature}",
                "same cost as scipy": float(
                    ((found.cost - torch.tensor(costs)).abs() <= 1e-6 * found.cost).double().mean()
                ),
                "iterations": float(found.iterations.double().mean()),
                "most iterations": int(found.iterations.max()),
                "largest cosine": float(found.cosine.max()),
                "cpu milliseconds": 1e3 * (time.process_time() - start),
            }
        )
    return rows


def waiting(grad: str, iterations: int, data: Rows) -> float:
    """MiB that autograd keeps for backward."""
    import weakref

    kept: weakref.WeakSet = weakref.WeakSet()

    class Kept:
        def __init__(self, t: torch.Tensor) -> None:
            self.t = t
            kept.add(self)

    config = FitConfig(max_iterations=iterations, tol=1e-30, curvature="gauss_newton")
    layer = HardConstraint(cubic, config, grad, throw=False)
    start = torch.full((len(data.terms), 4), 3.0, dtype=torch.float64)
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda box: box.t):
        T = data.terms.clone().requires_grad_()
        w = layer(Rows(T, data.offset, data.linear, data.target), start)
        size = sum(box.t.numel() for box in kept) * 8 / 2**20
    assert w.requires_grad
    return size


def cost() -> list[dict]:
    """A4: 16 samples of 64 × 24 points, N = 12."""
    rows = []
    pde = DiffusionSorption(Grid(64, sides=sorption_sides()), 20.0)
    u0 = first_frames(16, 64, generator=generator())
    for K in (1, 2, 4, 8):
        model = HardOperator(
            network(12), StepProblem(pde, 25), "experts", (1, K), grad="none",
            config=FitConfig(max_iterations=10, tol=1e-30),
        )  # fmt: skip
        with torch.no_grad():
            b, g = model.basis(u0), model.problem.base(u0)
            data = model._rows(b, g, u0)
            zero = data.terms.new_zeros(len(data.terms), 12)
            each = []
            for _ in range(3):
                start = time.process_time()
                fit(model.problem, data, zero, model.constraint.config)
                each.append(1e3 * (time.process_time() - start) / 11)
        rows.append({"measure": f"cost K={K}", "ms per iteration": min(each)})
    data = systems(16, 0.5)
    row: dict = {"measure": "cost memory"}
    for grad, n in itertools.product(("full", "unroll"), (3, 12)):
        row[f"MiB {grad} {n} iterations"] = waiting(grad, n, data)
    return [*rows, row]


def main() -> None:
    arguments = parser(__doc__.splitlines()[0], again=True)
    arguments.add_argument("--rows", nargs="+", help="only rows whose names begin so")
    arguments.add_argument("--seconds", type=float, default=20.0, help="CPU time of a training")
    arguments.add_argument("--sizes", nargs="+", default=["64x26"], help="cells x frames")
    arguments.add_argument("--kinds", nargs="+", default=["scalar"], help="scalar, rich")
    arguments.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments.add_argument(
        "--alone", action="store_true", help="no coarse grids before the fine one"
    )
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--table", action="store_true", help="print the results, run nothing")
    arguments.add_argument("--data", type=Path, default=Path("runs/hard-moe-data"))
    arguments.add_argument("--keep", type=Path, help="folder for the operators of sorption rows")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    results = Results("hard_moe", given)
    if given.table:
        print(table(json.loads(results.file.read_text("utf-8"))["rows"]))
        return

    def wanted(name: str) -> bool:
        return results.lacks(name, given.rows)

    for name, part in (
        ("gradient", gradients),
        ("boxes", boxes),
        ("solver", solver),
        ("cost", cost),
    ):
        if wanted(name):
            for row in part():
                results.add(**row)
    for K in (2, 4, 8, 16):
        if not given.quick and wanted(f"fit in {K} boxes"):
            results.add(measure=f"fit in {K} boxes", **boxes_cost(K))
    seconds, sizes = (0.5, ["32x12"]) if given.quick else (given.seconds, given.sizes)
    for size in sizes:
        if size in SIZES and wanted(f"time {size} of a solution"):
            results.add(measure=f"time {size} of a solution", **solution_time(size))
        if size in SIZES and wanted(f"time {size} of a batch of 8"):
            row = solution_time(size, 1 if size == "1024x101" else 2, 8)
            results.add(measure=f"time {size} of a batch of 8", **row)
        for basis in ("trained", "untrained"):
            if size in SIZES and wanted(f"orthonormal {size} {basis}, float32, turned, tol 0.0001"):
                for row in turned(size, basis, given.data):
                    results.add(**row)
    for name in ("points one constraint", "points experts"):
        if not given.quick and wanted(f"start {name}, untrained, from zero"):
            for row in starts(name, given.data):
                results.add(**row)
    for at, points, sweeps, steps in REFINEMENTS:
        measure = f"refinement {at}, {points} rows, {sweeps} sweeps, {steps} iterations"
        if not given.quick and wanted(measure):
            results.add(measure=measure, **refinement(at, points, sweeps, steps, given.data))
    for size, name in itertools.product(sizes, given.models):
        measure = f"time {size} {name}"
        if size in SIZES and wanted(measure):
            results.add(measure=measure, **update_time(name, size))
    for seed, size, kind, name in itertools.product(
        range(given.seeds), sizes, given.kinds, given.models
    ):
        full = f"{name} alone" if given.alone else name
        measure = f"sorption {size} {kind} {full}, seed {seed}, {seconds:g} s"
        if wanted(measure):
            data = held_out(size, kind, given.data)
            file = given.keep and kept(given.keep, measure)
            row = train(name, size, kind, data, seconds, seed, given.alone, file)
            results.add(measure=measure, **row)
    for seed, name in itertools.product(range(given.seeds), FLOWS):
        measure = f"flow {name}, seed {seed}, {seconds:g} s"
        if wanted(measure):
            data = flows(16, 4) if given.quick else flows()
            results.add(measure=measure, **train_flow(name, data, seconds, seed))


if __name__ == "__main__":
    main()
