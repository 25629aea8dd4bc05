"""What does an implicit step cost, how stiff is a bent sheet, and how much do tetrahedra lock?

cost: a gripped body under gravity while its grip turns: CPU time per Newton direction, what part of
it goes into element Hessians and into assembly, factor and solve; directions per step; backward over
forward.
linear: the same step with the banded factor, dense Cholesky and conjugate gradients.
adjoint: backward by factors of its own and by those that the forward solve has kept: time, iterations,
and how far the gradients are apart; the two in turn, the lesser of two times each.
bending: tip of a clamped strip against the elastica, for the plates of `sim.fem` and for the same hinges
each taken alone (k = D |e|²/(A₁ + A₂), small deflections), the baseline.
locking: tip of a clamped square beam of linear tetrahedra against beam theory, by Poisson's ratio.

    python benchmarks/bench_fem.py [--quick] [--device cuda] [--only cost linear adjoint bending locking]
"""

from __future__ import annotations

import statistics
from contextlib import contextmanager

import numpy as np
import torch
from results import Results, now, parser
from rheograd.sim.core.rollout import rollout
from rheograd.sim.fem import FEMConfig, FEMControl, FEMModel, Handle, Sheet, Solid, SolverFEM
from rheograd.sim.fem import newton as newton_module
from rheograd.sim.fem.bending import hinge_angle_gradient
from rheograd.sim.fem.meshes import box, rectangle
from scipy.integrate import solve_bvp

NONE = (0.0, 0.0, 0.0)


def sheet(n: int, m: int) -> FEMModel:
    """Paper of 4 mm cells, gripped at two rows."""
    X, triangles = rectangle((n, m), (4e-3 * n, 4e-3 * m))
    part = Sheet(name="body", cells=triangles, E=2e9, nu=0.3, h=1e-4, rho=800.0)
    return FEMModel(X, [part], [Handle("grip", torch.arange(2 * (m + 1)))])


def block(n: int, m: int) -> FEMModel:
    """Gel of 2 mm cells, gripped at one side."""
    X, tets = box((n, m, m), (2e-3 * n, 2e-3 * m, 2e-3 * m))
    part = Solid(name="body", cells=tets, E=1e5, nu=0.45, rho=1000.0)
    return FEMModel(X, [part], [Handle("grip", (X[:, 0] == 0).nonzero()[:, 0])])


SCENES = {
    "sheet 15 x 3": lambda: sheet(15, 3),
    "sheet 15 x 15": lambda: sheet(15, 15),
    "sheet 31 x 31": lambda: sheet(31, 31),
    "block 8 x 4 x 4": lambda: block(8, 4),
    "block 8 x 8 x 8": lambda: block(8, 8),
}
LARGE = {
    "sheet 40 x 40": lambda: sheet(40, 40),
    "sheet 57 x 57": lambda: sheet(57, 57),
    "block 12 x 10 x 10": lambda: block(12, 10),
}
"""Scenes whose factors are worth keeping."""
MEASURES = ("cost", "linear", "adjoint", "bending", "locking")


@contextmanager
def stopwatch(device: str):
    """Seconds spent in element Hessians and in factors and solves, while it is open."""
    spent = {"elements": 0.0, "linear": 0.0}
    blocks, factorize = newton_module.Potential.blocks, newton_module.factorize

    def timed(function, key):
        def call(*args, **kwargs):
            start = now(device)
            result = function(*args, **kwargs)
            spent[key] += now(device) - start
            return result

        return call

    def factor(*args, **kwargs):
        result = timed(factorize, "linear")(*args, **kwargs)
        result.solve = timed(result.solve, "linear")
        return result

    newton_module.Potential.blocks = timed(blocks, "elements")
    newton_module.factorize = factor
    try:
        yield spent
    finally:
        newton_module.Potential.blocks, newton_module.factorize = blocks, factorize


def motion(model: FEMModel, B: int, linear: str, steps: int, device: str):
    """Solver, start and controls: the grip turns and rises; 5 ms steps."""
    solver = SolverFEM(model, FEMConfig(dt=5e-3, linear=linear))
    twist = torch.zeros(B, 1, 6, dtype=torch.float64, device=device)
    twist[..., 2], twist[..., 4] = 0.05, 3.0
    twist = twist * torch.linspace(0.5, 1, B, device=device)[:, None, None]
    return solver, model.initial_state(B, device=device), [FEMControl(twist)] * steps


def run(model: FEMModel, B: int, linear: str, steps: int, device: str) -> dict:
    """Costs of a rollout, after one step that compiles and caches."""
    solver, start, controls = motion(model, B, linear, steps, device)
    E = torch.tensor(
        float(model.parts[0].E), dtype=torch.float64, device=device, requires_grad=True
    )
    params = {"body": {"E": E}}
    solver.step(start, controls[0], params).x.sum().backward()
    directions = []
    with stopwatch(device) as spent:
        t0 = now(device)
        run = rollout(
            solver, start, controls, params, save_every=steps,
            on_step=lambda t, state: directions.append(solver.newton.iterations),
        )  # fmt: skip
        forward = now(device) - t0
    t0 = now(device)
    run.final.x.square().sum().backward()
    backward = now(device) - t0
    total = sum(directions)
    return {
        "unknowns": 3 * len(model.free), "scenes": B, "linear": linear,
        "ms_per_direction": 1e3 * forward / total,
        "share_elements": spent["elements"] / forward, "share_linear": spent["linear"] / forward,
        "directions_per_step": statistics.mean(directions),
        "ms_per_step_and_scene": 1e3 * forward / steps / B,
        "backward_over_forward": backward / forward,
        "largest_residual_N": solver.newton.residual,
    }  # fmt: skip


def adjoint(model: FEMModel, steps: int, repeats: int) -> dict:
    """Milliseconds of backward per step by factors of its own and by kept ones."""
    times: dict[str, list[float]] = {"own": [], "kept": [], "forward": []}
    found, solvers, iterations = {}, {}, []
    for kind, memory in (("own", 0.0), ("kept", 2000.0)):
        solvers[kind] = SolverFEM(model, FEMConfig(dt=5e-3, kept_factors=memory))
    record = solvers["kept"].adjoint.record

    def listen(result):
        iterations.append(int(result.iterations.max()))
        record(result)

    solvers["kept"].adjoint.record = listen
    _, start, controls = motion(model, 1, "sparse", steps, "cpu")
    for _ in range(repeats):
        for kind, solver in solvers.items():
            E = torch.tensor(float(model.parts[0].E), dtype=torch.float64, requires_grad=True)
            t0 = now("cpu")
            run = rollout(solver, start, controls, {"body": {"E": E}}, save_every=steps)
            t1 = now("cpu")
            run.final.x.square().sum().backward()
            times[kind].append(now("cpu") - t1)
            times["forward"].append(t1 - t0)
            found[kind] = float(E.grad)
    best = {kind: min(values) / steps for kind, values in times.items()}
    return {
        "unknowns": 3 * len(model.free),
        **{f"ms_{kind}": 1e3 * value for kind, value in best.items()},
        **{f"{kind}_over_forward": best[kind] / best["forward"] for kind in ("own", "kept")},
        "iterations": iterations[-steps:],
        "difference_of_gradients": abs(found["kept"] / found["own"] - 1),
    }  # fmt: skip


def elastica(load: float) -> float:
    """Deflection over length of a clamped elastica, P L²/B = load."""
    s = np.linspace(0, 1, 201)
    guess = np.stack((0.5 * load * s, 0.5 * load * (1 - s)))
    found = solve_bvp(
        lambda s, y: np.stack((y[1], -load * np.cos(y[0]))),
        lambda a, b: np.array([a[0], b[1]]), s, guess, tol=1e-8, max_nodes=10000,
    )  # fmt: skip
    return float(np.trapezoid(np.sin(found.sol(s)[0]), s))


def strip(rows: int, columns: int, nu: float) -> tuple[FEMModel, torch.Tensor]:
    """A strip of 100 × 20 mm whose clamp is the middle between two held rows; shares of an end load."""
    dx = 0.1 / (rows + 0.5)
    X, triangles = rectangle((rows + 1, columns), ((rows + 1) * dx, 0.02))
    part = Sheet(name="strip", cells=triangles, E=1e8, nu=nu, h=1e-3, rho=1000.0)
    model = FEMModel(X, [part], [Handle("clamp", torch.arange(2 * columns + 2))], gravity=NONE)
    share = torch.zeros(len(X), dtype=torch.float64)
    share[-columns - 1 :] = 1.0 / columns
    share[[-columns - 1, -1]] = 0.5 / columns
    return model, share


def plates(rows: int, columns: int, nu: float, load: float) -> float:
    """Relative error of the tip against an elastica of rigidity E h³/12, which a narrow strip has."""
    model, share = strip(rows, columns, nu)
    force = torch.zeros_like(model.X)
    force[:, 2] = share * load * 1e8 * 1e-9 / 12 * 0.02 / 0.1**2
    solver = SolverFEM(model, FEMConfig(scheme="static", tol=1e-9, max_iterations=300))
    x = solver.step(model.initial_state(), FEMControl(force=force[None])).x[0]
    return float((share * x[:, 2]).sum()) / 0.1 / elastica(load) - 1


def hinges(rows: int, columns: int) -> float:
    """The same for independent hinges and a small load."""
    model, share = strip(rows, columns, 0.0)
    points, faces = model.parts[0].hinges
    X, cells = model.X, model.parts[0].cells
    slope = hinge_angle_gradient(X[points])[..., 2]
    matrix = torch.zeros(len(points), len(X), dtype=torch.float64).scatter_add(1, points, slope)
    sides = X[cells[:, 1:]] - X[cells[:, :1]]
    area = 0.5 * torch.linalg.cross(sides[:, 0], sides[:, 1]).norm(dim=1)
    k = (X[points[:, 0]] - X[points[:, 1]]).square().sum(1) / area[faces].sum(1)
    K, free = matrix.mT @ (k[:, None] * matrix), model.free
    w = torch.linalg.solve(K[free][:, free], share[free])
    return float((share[free] * w).sum() / (0.1**3 / (3 * 0.02))) - 1


def locking(n: int, nu: float) -> float:
    """Relative error of the tip of a beam 8 : 1 with n cells across."""
    X, tets = box((8 * n, n, n), (0.8, 0.1, 0.1))
    part = Solid(name="beam", cells=tets, E=1e7, nu=nu, rho=1000.0)
    model = FEMModel(X, [part], [Handle("wall", (X[:, 0] == 0).nonzero()[:, 0])], gravity=NONE)
    tip = (X[:, 0] > 0.8 - 1e-9).nonzero()[:, 0]
    force = torch.zeros_like(X)
    force[tip, 2] = -0.2 / len(tip)
    solver = SolverFEM(model, FEMConfig(scheme="static", tol=1e-9))
    x = solver.step(model.initial_state(), FEMControl(force=force[None])).x[0]
    sag = float((X - x)[tip, 2].mean())
    return sag / (0.2 * 0.8**3 / (3 * 1e7 * 0.1**4 / 12)) - 1


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=MEASURES, default=MEASURES)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    results, quick, device = Results("fem", arguments), arguments.quick, arguments.device
    steps = 3 if quick else 20
    on_gpu = device.startswith("cuda")
    if "cost" in arguments.only:
        for name, make in SCENES.items():
            for B in (1, 16) if name == "sheet 15 x 15" else (1,):
                if not quick or name == "sheet 15 x 3":
                    linear = "dense" if on_gpu else "sparse"
                    results.add(measure="cost", scene=name, **run(make(), B, linear, steps, device))
    if "linear" in arguments.only and not quick:
        for name in ("sheet 15 x 3", "sheet 15 x 15", "block 8 x 4 x 4"):
            for linear in ("dense", "cg") if on_gpu else ("sparse", "dense", "cg"):
                row = run(SCENES[name](), 1, linear, 5, device)
                results.add(measure="linear", scene=name, **row)
    if "adjoint" in arguments.only:
        for name, make in LARGE.items():
            if not quick or name == "sheet 40 x 40":
                row = adjoint(make(), 2, 1 if quick else 2)
                results.add(measure="adjoint", scene=name, **row)
    if "bending" in arguments.only:
        for rows, columns in ((5, 2), (10, 2), (20, 4)):
            for load in (0.2,) if quick else (0.2, 1.0, 3.0):
                error = plates(rows, columns, 0.0, load)
                results.add(measure="bending", kind="plates", nu=0.0, load=load, rows=rows,
                            columns=columns, error=error)  # fmt: skip
            error = plates(rows, columns, 0.3, 0.2)
            results.add(measure="bending", kind="plates", nu=0.3, load=0.2, rows=rows,
                        columns=columns, error=error)  # fmt: skip
            results.add(measure="bending", kind="hinges", nu=0.0, load=None, rows=rows,
                        columns=columns, error=hinges(rows, columns))  # fmt: skip
    for nu in (0.0, 0.3, 0.45, 0.49) if "locking" in arguments.only else ():
        errors = {f"across_{n}": locking(n, nu) for n in ((1, 2) if quick else (1, 2, 4))}
        results.add(measure="locking", nu=nu, **errors)


if __name__ == "__main__":
    main()
