"""What does a step of a sheet in contact cost, how does it grow, and does it hold in a crumpled ball?

cost: paper of 4 mm cells, held at one edge, that a ball or a soft fingertip presses down, from 500 to
20,000 free unknowns: CPU time per Newton direction and per step, what part of it goes into Hessians of
elements, the linear solve, contact and the line search; backward over forward, and what part of backward
goes into terms, the adjoint solve (with its iterations by a kept factor, 0: by a factor of its own) and
derivatives in parameters; `exponent` is the slope over the sizes in log-log.
linear: the matrices of those scenes, factorized and solved by the solver's own choice, by SciPy's sparse
LU (both of its orders), and by conjugate gradients.
folding: the task shell/folding-l from its first actions: residual of every step, directions, time of the
rollout and of its gradient, and whether a second run is equal to the bit.
crumple: a cotton cloth in a box whose walls close for 1,000 steps: smallest distances, and edges
through triangles.

    python benchmarks/bench_shell.py [--quick] [--only cost linear folding crumple] [--largest 20000]
"""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
from results import Results, parser
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import ConvergenceError, StateError
from rheograd.sim.core.shapes import Box, Plane, Sphere
from rheograd.sim.fem import FEMConfig, FEMControl, FEMModel, Handle, SolverFEM
from rheograd.sim.fem import newton as newton_module
from rheograd.sim.fem.adjoint import StepResidual
from rheograd.sim.fem.assembly import factorize
from rheograd.sim.fem.bodies import fingertip
from rheograd.sim.fem.contact import ObstacleContact, Surface, SurfaceContact
from rheograd.sim.shell import rectangle
from rheograd.tasks.core import task_by_name
from rheograd.tasks.shell.scene import TIP_RADIUS, Scene, Touch

DX, D_HAT, STIFFNESS = 4e-3, 4e-4, 2e4
CELLS = (12, 15, 25, 40, 57, 80)
"""Cells along a side: 507, 768, 2028, 5043, 10092 and 19683 free unknowns."""
now = time.process_time


def ball(m: int) -> tuple[FEMModel, torch.Tensor, int]:
    """A sheet of (m + 1) × m cells, held at one edge, and a ball above its middle."""
    length, width = (m + 1) * DX, m * DX
    mesh = rectangle((length, width), DX)
    edge = mesh.rows(0)
    surface = Surface(mesh.X, mesh.cells, driven=torch.isin(torch.arange(len(mesh.X)), edge))
    radius = 0.2 * width
    place = (0.6 * length, 0.5 * width, radius + D_HAT)
    tool = Collider(Sphere(radius), position=place, name="ball", friction=0.3)
    contact = ObstacleContact(surface, [tool], D_HAT, STIFFNESS, handles=[1])
    handles = [Handle("edge", edge), Handle("tool", (), position=place)]
    model = FEMModel(mesh.X, [mesh.sheet("sheet", "paper", creases=False)], handles, [contact])
    return model, mesh.X, 1


def finger(m: int) -> tuple[FEMModel, torch.Tensor, int]:
    """The same sheet under a soft fingertip, with contact of surfaces."""
    length, width = (m + 1) * DX, m * DX
    mesh, scene = rectangle((length, width), DX), Scene()
    scene.sheet("sheet", mesh, "paper")
    scene.hold("edge", {"sheet": mesh.rows(0)})
    place = (0.6 * length, 0.5 * width, D_HAT + TIP_RADIUS)
    scene.tip("tool", fingertip(cuts=4, layers=1), place, down=True)
    return scene.model(Touch(D_HAT, STIFFNESS)), scene.x, 1


SCENES = {"ball": ball, "fingertip": finger}


class _Timed:
    """A term that takes down the time of its calls; calls inside of others count once."""

    def __init__(self, term: Any, clock: Clock, parts: dict[str, str]) -> None:
        self._term, self._clock, self._parts = term, clock, parts

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._term, name)
        return self._clock.timed(self._parts[name], value) if name in self._parts else value


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(("elements", "linear", "contact", "search"), 0.0)
        self._inside = False
        self.blocks: Any = None

    def timed(self, part: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, start = True, now()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.spent[part] += now() - start

        return call

    @contextmanager
    def running(self):
        """Take the time of terms and factors of all forward solves while it is open."""
        element = {"energy": "search", "gradient": "search", "hessian": "elements"}
        names = ("energy", "gradient", "hessian", "update", "max_step", "known")
        contact = dict.fromkeys(names, "contact")
        potential, factor = StepResidual.potential, newton_module.factorize

        def bound(residual: Any, *args: Any) -> Any:
            found = self.timed("contact", potential)(residual, *args)
            kinds = [contact if t.changing else element for t in found.terms]
            if not torch.is_grad_enabled():
                found.terms = [_Timed(*pair) for pair in
                               zip(found.terms, [self] * len(kinds), kinds, strict=True)]  # fmt: skip
            return found

        def linear(*args: Any, **kwargs: Any) -> Any:
            self.blocks = args[0]
            found = self.timed("linear", factor)(*args, **kwargs)
            found.solve = self.timed("linear", found.solve)
            return found

        StepResidual.potential, newton_module.factorize = bound, linear
        try:
            yield self
        finally:
            StepResidual.potential, newton_module.factorize = potential, factor

    @contextmanager
    def reversing(self):
        """Take the time of the parts of all adjoints while it is open."""
        parts = {"bind": "terms", "solve": "solve", "vjp_params": "params"}
        before = {name: getattr(StepResidual, name) for name in parts}
        self.spent |= dict.fromkeys(parts.values(), 0.0)
        for name, part in parts.items():
            setattr(StepResidual, name, self.timed(part, before[name]))
        try:
            yield self
        finally:
            for name, function in before.items():
                setattr(StepResidual, name, function)


def cost(name: str, m: int, steps: int) -> tuple[dict[str, Any], Any, SolverFEM]:
    """Costs of `steps` steps after two that touch down, the last blocks, and the solver.

    Medians over several runs of the same steps: on a shared machine single ones scatter by a fifth.
    """
    model, x, tool = SCENES[name](m)
    solver = SolverFEM(model, FEMConfig(dt=5e-3))
    state = model.initial_state(x=x)
    down = torch.zeros(1, len(model.handles), 6, dtype=torch.float64)
    down[0, tool, 2] = -0.05
    down = down.requires_grad_()
    prepared = solver.prepare(None, state)
    with torch.no_grad():
        for _ in range(2):
            state = solver.step(state, FEMControl(twist=down), prepared)
    solver.step(state, FEMControl(twist=down), prepared).x.sum().backward()  # warms up
    clock, back, iterations, record = Clock(), Clock(), [], solver.adjoint.record
    forward, backward = [], []

    def listen(result: Any) -> None:
        iterations.append(int(result.iterations.max()))
        record(result)

    solver.adjoint.record = listen
    for _ in range(9 if m < 40 else 3):
        directions, residuals, end = [], [], state
        iterations.clear()
        with clock.running():
            start = now()
            for _ in range(steps):
                end = solver.step(end, FEMControl(twist=down), prepared)
                directions.append(solver.newton.iterations)
                residuals.append(solver.newton.residual)
            forward.append(now() - start)
        with back.reversing():
            start = now()
            end.x.square().sum().backward()
            backward.append(now() - start)
    total, time_forward = sum(directions), statistics.median(forward)
    shares = {f"share_{k}": v / sum(forward) for k, v in clock.spent.items()}
    parts = {f"backward_{k}": back.spent[k] / sum(backward) for k in ("terms", "solve", "params")}
    row = {
        "unknowns": 3 * len(model.free), "ms_per_direction": 1e3 * time_forward / total,
        "ms_per_step": 1e3 * time_forward / steps, "directions_per_step": total / steps, **shares,
        "runs": len(forward), "backward_over_forward": statistics.median(backward) / time_forward,
        "least_over_least": min(backward) / min(forward), "largest_residual_N": max(residuals),
        **parts, "adjoint_iterations": iterations,
    }  # fmt: skip
    return row, clock.blocks, solver


def linear(blocks: Any, solver: SolverFEM, limit: int) -> list[dict[str, Any]]:
    """One matrix by several solvers: milliseconds to prepare and to solve, relative residual."""
    pattern, b = solver.pattern, torch.ones(1, solver.pattern.count, dtype=torch.float64)
    own = factorize(blocks, pattern, "sparse")
    extra = pattern.contact(blocks, [0]).get(0)
    A = pattern.matrix(pattern.lower(blocks)[0].numpy(), extra)

    def measured(name: str, prepare: Any) -> dict[str, Any]:
        start = now()
        factor = prepare()
        middle, rest = now(), None
        try:
            x = factor.solve(b if name in ("own", "cg") else b[0].numpy())
        except ConvergenceError as error:
            rest, factor.iterations = error.residual, error.iterations
        end = now()
        if rest is None:
            rest = (b - own.product(torch.as_tensor(x).reshape(1, -1))).norm() / b.norm()
        row = {
            "solver": name, "unknowns": pattern.count, "ms_prepare": 1e3 * (middle - start),
            "ms_solve": 1e3 * (end - middle), "ms": 1e3 * (end - start), "residual": float(rest),
        }  # fmt: skip
        return row | ({"iterations": factor.iterations} if name == "cg" else {})

    lu = scipy.sparse.linalg.splu
    symmetric = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    return [
        measured("own", lambda: factorize(blocks, pattern, "sparse")),
        measured("splu, minimum degree", lambda: lu(A, permc_spec="MMD_AT_PLUS_A", **symmetric)),
        measured("splu, default", lambda: lu(A)),
        measured("cg", lambda: factorize(blocks, pattern, "cg", 1e-8, max_iterations=limit)),
    ]  # fmt: skip


def exponent(rows: list[dict[str, Any]], key: str) -> float:
    """Slope of log(row[key]) over log(unknowns) by least squares."""
    n, t = (np.log([row[k] for row in rows]) for k in ("unknowns", key))
    return float(np.polyfit(n, t, 1)[0])


def folding(name: str, steps: int) -> dict[str, Any]:
    """The folding task from its first actions, twice, and its gradient."""
    task = task_by_name(name)
    state, actions = task.reset(), task.initial_actions()[:steps]
    norms: list[float] = []
    counts: list[int] = []
    ends, times, failed = [], [], 0
    for run in range(2):
        given, now_at = actions.double().requires_grad_(), state
        start = now()
        try:
            for t in range(len(given)):
                now_at = task.step(now_at, given[t][None], t=t)[0]
                if run == 0:
                    norms.append(task.fem.newton.residual)
                    counts.append(task.fem.newton.iterations)
        except ConvergenceError:
            failed += 1
        times.append(now() - start)
        ends.append(now_at.x.detach())
    start = now()
    task.loss(now_at, len(actions) - 1).sum().backward()
    backward = now() - start
    return {
        "scene": name, "unknowns": 3 * len(task.fem.model.free), "steps": len(norms),
        "failed": failed, "largest_residual_N": max(norms), "tol_N": task.config.tol,
        "median_directions": statistics.median(counts), "most_directions": max(counts),
        "equal_to_the_bit": bool(torch.equal(*ends)), "forward_s": min(times),
        "backward_over_forward": backward / min(times),
        "gradient_finite": bool(torch.isfinite(given.grad).all()),
    }  # fmt: skip


def crumple(steps: int, cells: int = 6, side: float = 0.048) -> dict[str, Any]:
    """Cloth between walls that close to 40 % of its size in both directions; self-contact on.

    Every step starts with a search for edges through triangles, which would raise.
    """
    mesh = rectangle((side, side), side / cells)
    # An arch that leans, so that no symmetry decides where it buckles.
    u, v = mesh.X[:, 0] / side, mesh.X[:, 1] / side
    x = mesh.X.clone()
    x[:, 2] = 2 * D_HAT + side * (0.3 * u * (1 - u) + 0.03 * u + 0.02 * v)
    surface = Surface(mesh.X, mesh.cells)
    half, gap, height = 0.5 * side, 2e-3, 0.25 * side
    walls, handles = [], []
    for axis in range(2):
        for sign in (-1, 1):
            size = [side, side, height]
            size[axis] = 5e-3
            place = [half, half, 0.5 * height]
            place[axis] += sign * (half + gap + 5e-3)
            name = "xy"[axis] + "-+"[sign > 0]
            walls.append(Collider(Box(tuple(size)), tuple(place), name=name, friction=0.3))
            handles.append(Handle(name, (), position=tuple(place)))
    lid = Collider(Plane(), (0, 0, height), (0.0, 1.0, 0.0, 0.0), name="lid", friction=0.3)
    floor = Collider(Plane(), name="floor", friction=0.3)
    own = SurfaceContact(surface, D_HAT, STIFFNESS, 0.3)
    box = ObstacleContact(surface, [floor, lid, *walls], D_HAT, 10 * STIFFNESS,
                          handles=[None, None, 0, 1, 2, 3])  # fmt: skip
    part = mesh.sheet("cloth", "cotton")
    model = FEMModel(mesh.X, [part], handles, [own, box], drag=5.0)
    solver = SolverFEM(model, FEMConfig(dt=5e-3, max_iterations=300))
    state = model.initial_state(x=x)
    closing = 0.3 * side / (0.8 * steps * solver.step_time)
    twist = torch.zeros(1, 4, 6, dtype=torch.float64)
    for k, (axis, sign) in enumerate(((0, 1), (0, -1), (1, 1), (1, -1))):
        twist[0, k, axis] = sign * closing
    prepared, counts = solver.prepare(None, state), []
    own_gap = box_gap = float("inf")
    start, touching, done, why = now(), 0, 0, ""
    try:
        with torch.no_grad():
            for t in range(steps):
                moved = twist if t < 0.8 * steps else 0 * twist
                state = solver.step(state, FEMControl(twist=moved), prepared)
                counts.append(solver.newton.iterations)
                gap = float(own.min_distance(state.x).min())
                own_gap, touching = min(own_gap, gap), touching + (gap < D_HAT)
                box_gap = min(box_gap, float(box.min_distance(state.x, state.pose).min()))
                done = t + 1
                if done % 50 == 0:
                    print(
                        f"# crumple: step {done}, gap {own_gap:.2e} m, {now() - start:.0f} s",
                        flush=True,
                    )
    except (ConvergenceError, StateError) as error:
        why = str(error)
    own.check(state.x)  # raises where an edge cuts a triangle
    spread = state.x[0].amax(0) - state.x[0].amin(0)
    return {
        "unknowns": 3 * len(model.free), "steps": done, "failure": why or None,
        "smallest_self_distance_m": own_gap, "smallest_wall_distance_m": box_gap,
        "steps_in_self_contact": touching, "intersections": 0,
        "size_mm": [round(1e3 * float(v), 1) for v in spread],
        "median_directions": statistics.median(counts), "most_directions": max(counts),
        "ms_per_step": 1e3 * (now() - start) / max(done, 1),
    }  # fmt: skip


def main() -> None:
    arguments = parser(__doc__)
    measures = ("cost", "linear", "folding", "crumple")
    arguments.add_argument("--only", nargs="+", choices=measures, default=measures)
    arguments.add_argument("--largest", type=float, default=20000.0, help="unknowns at most")
    given = arguments.parse_args()
    given.device = "cpu"
    torch.set_num_threads(1)
    results, quick = Results("bench_shell", given), given.quick
    cells = [m for m in CELLS if 3 * (m + 1) ** 2 <= (800 if quick else given.largest)]
    if {"cost", "linear"} & set(given.only):
        pairs = []
        for name in SCENES:
            rows = []
            for m in cells:
                print(f"# {name}: {m} cells", flush=True)
                row, blocks, solver = cost(name, m, 2 if quick else 5)
                rows.append(row)
                if "cost" in given.only:
                    results.add(measure="cost", scene=name, **row)
                if "linear" in given.only:
                    for found in linear(blocks, solver, 200 if quick else 1000):
                        pairs.append((name, found))
                        results.add(measure="linear", scene=name, **found)
            for key in ("ms_per_direction", "ms_per_step") if "cost" in given.only else ():
                results.add(measure="exponent", scene=name, of=key, slope=exponent(rows, key))
            for kind in dict.fromkeys(found["solver"] for _, found in pairs):
                same = [f for scene, f in pairs if scene == name and f["solver"] == kind]
                slope = exponent(same, "ms")
                results.add(measure="exponent of solvers", scene=name, of=kind, slope=slope)
    if "folding" in given.only:
        print("# folding", flush=True)
        row = folding("shell/folding-l-nano" if quick else "shell/folding-l", 3 if quick else 50)
        results.add(measure="folding", **row)
    if "crumple" in given.only:
        results.add(measure="crumple", **crumple(20 if quick else 1000))


if __name__ == "__main__":
    main()
