"""How exact is the projection, what does a step of gas cost, and how sharp is the transport?

projection: largest divergence after over before, on FluidLab's thin room at 48 × 48 × 7 cells, for
each pressure solver, and for the collocated 50-sweep Jacobi scheme as the baseline.
step: median seconds per step on one thread, forward alone, and forward plus backward of a rollout.
transport: error, order and loss of a turning blob.

Times are CPU times, so that a busy machine counts less; with --device cuda the clock's.

    python benchmarks/bench_gas.py [--quick] [--device cuda] [--picture docs/images/gas.png]
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import torch
from collocated import divergence, jacobi_projection
from results import Results, now, parser
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.gradients import fd_check
from rheograd.sim.core.implicit import SolveInfo
from rheograd.sim.core.rollout import rollout
from rheograd.sim.core.shapes import Box, Cylinder
from rheograd.sim.grid import (
    GasConfig,
    GasControl,
    GasModel,
    GasSolver,
    MacGrid,
    Nozzle,
    PressureSystem,
    advect_scalars,
    project,
    solids_of,
)
from rheograd.sim.grid.forces import blow

SIZE = 3.0
"""Side of the room [m]."""
PILLAR = Collider(Box((0.2, 0.2, 2.0)), position=(1.7, 1.6, 0.0), name="pillar")
FAN = Nozzle("fan", (0.7, 1.5, 0.2), (1.0, 0.4, 0.0), 20.0, 0.2, 5.0, 283.15)


def push(grid: MacGrid, like: torch.Tensor):
    """Velocities after a nozzle blew for 30 ms: far from free of divergence."""
    one = like.new_ones(1)
    return tuple(0.03 * f for f in blow(grid, FAN, FAN.pose(like)[None], 20 * one, 0.2 * one))


def measure_projection(results: Results, device: str) -> None:
    grid = MacGrid((48, 48, 7), SIZE / 48)
    for dtype in (torch.float32, torch.float64):
        like = torch.zeros((), dtype=dtype, device=device)
        u = push(grid, like)
        v = grid.at_cells(u)[0]
        free = torch.ones(grid.cells, dtype=torch.bool, device=device)
        before = divergence(v, free).abs().max()
        for sweeps in (50, 500):
            start = now(device)
            after = divergence(jacobi_projection(v, free, sweeps)[0], free).abs().max()
            row = {"cpu_seconds": now(device) - start, "left": float(after / before)}
            results.add(
                measure="projection", method=f"collocated Jacobi-{sweeps}", dtype=str(dtype), **row
            )
        for obstacles in ((), (PILLAR,)):
            solids = solids_of(grid, obstacles, like=like)
            start = tuple(f * (w > 0) for f, w in zip(u, solids.open, strict=True))
            before = (grid.divergence(start) * solids.fluid).abs().max()
            for method in ("spectral", "multigrid", "jacobi", "cg", "direct"):
                if obstacles and method == "spectral":
                    continue
                clock = now(device)
                system = PressureSystem(grid, solids, method)
                setup, info = now(device) - clock, SolveInfo()
                project(u, grid, solids, system=system)  # the first call warms up
                clock = now(device)
                w, _ = project(u, grid, solids, system=system, info=info)
                seconds = now(device) - clock
                left = (grid.divergence(w) * solids.fluid).abs().max() / before
                results.add(
                    measure="projection",
                    method=method,
                    obstacles=len(obstacles),
                    dtype=str(dtype),
                    left=float(left),
                    iterations=info.iterations,
                    cpu_seconds=seconds,
                    setup_cpu_seconds=setup,
                )
    u = push(grid, torch.zeros((), dtype=torch.float64, device=device))
    goal = [torch.randn(f.shape, generator=torch.Generator().manual_seed(0)).to(f) for f in u]

    def loss(v):
        w, q = project(v, grid, method="multigrid")
        return sum((a * b).sum() for a, b in zip(w, goal, strict=True)) + (q**3).sum()

    report = fd_check(loss, u, 5, steps=(1.0, 1e-1, 1e-2))
    results.add(measure="adjoint", worst_error=max(report.relative_errors), cosine=report.cosine)


def measure_steps(results: Results, device: str, quick: bool) -> None:
    sizes = [(48, 48, 7)] if quick else [(48, 48, 7), (128, 128, 7), (64, 64, 64)]
    cases = [
        ("empty room", (), {}),
        ("pillar", (PILLAR,), {}),
        ("pillar, MacCormack", (PILLAR,), {"advection": "maccormack"}),
        ("moving pillar", (PILLAR,), {}),
    ]
    for cells in sizes:
        steps = 2 if cells == (64, 64, 64) else 5
        for name, obstacles, options in cases:
            model = GasModel(cells, SIZE / cells[0], obstacles=obstacles, nozzles=[FAN])
            solver = GasSolver(model, GasConfig(dt=0.02, **options))
            twist = torch.zeros(1, len(obstacles), 6, device=device)
            if name.startswith("moving"):
                twist[..., 0] = 0.3
            yaw = torch.zeros(1, 1, 6, device=device, requires_grad=True)
            control = GasControl(nozzle_twist=yaw, tool_twist=twist)
            state = model.initial_state(device=device)
            with torch.no_grad():
                for _ in range(3):
                    state = solver.step(state, control)
            forward, both = [], []
            for _ in range(3):
                with torch.no_grad():
                    start = now(device)
                    rollout(solver, state, [control] * steps, save_every=steps)
                    forward.append((now(device) - start) / steps)
                start = now(device)
                run = rollout(solver, state, [control] * steps, save_every=steps)
                torch.autograd.grad(run.final.temperature.sum(), yaw)
                both.append((now(device) - start) / steps)
            results.add(
                measure="step",
                cells=list(cells),
                case=name,
                cpu_seconds=statistics.median(forward),
                cpu_seconds_with_gradient=statistics.median(both),
                iterations=solver.info.iterations,
            )


def blob(grid: MacGrid, angle: float) -> torch.Tensor:
    at = torch.tensor([0.5 + 0.2 * math.cos(angle), 0.5 - 0.2 * math.sin(angle)]).double()
    r = (grid.points(None, at) - at).norm(dim=-1)
    return torch.exp(-((r / 0.12) ** 2))[None, None]


def measure_transport(results: Results, quick: bool) -> None:
    """A blob that turns by 90° in a rigid rotation; quarter turns in n steps of Courant number ≤ 1."""
    for scheme in ("semi_lagrangian", "maccormack", "conservative"):
        errors, sizes = [], [32, 64] if quick else [32, 64, 128]
        for n in sizes:
            grid = MacGrid((n, n), 1 / n)
            like = torch.zeros((), dtype=torch.float64)
            solids = solids_of(grid, like=like)
            x = [grid.points(a, like) - 0.5 for a in range(2)]
            u = (x[0][None, ..., 1], -x[1][None, ..., 0])
            u = tuple(f * w for f, w in zip(u, solids.open, strict=True))
            q, steps = blob(grid, 0.0), 2 * n
            for _ in range(steps):
                dt = 0.5 * math.pi / steps
                q = advect_scalars(grid, q, u, dt, solids, torch.zeros(1, 1).double(), scheme)
            errors.append(float((q - blob(grid, 0.5 * math.pi)).norm() / q.norm()))
        change = float(q.sum() / blob(grid, 0.0).sum()) - 1
        order = math.log2(errors[-2] / errors[-1])
        results.add(
            measure="transport",
            scheme=scheme,
            cells=sizes[-1],
            error=errors[-1],
            order=order,
            change_of_sum=change,
            peak=float(q.max()),
        )


def draw(path: Path) -> None:
    """Cool air around a pillar seen from above, and warm smoke around a cylinder seen from the side."""
    from PIL import Image
    from rheograd.viz.plots import figure, save_figure
    from rheograd.viz.theme import LIGHT

    room = GasModel((96, 96, 7), SIZE / 96, obstacles=[PILLAR], nozzles=[FAN])
    heater = Nozzle("heater", (1.0, 0.0, 0.15), (0.0, 0.0, 1.0), 0.0, 0.08, 6.0, 333.15, 1.0)
    rod = Collider(Cylinder(0.22, 2.0), (1.12, 0.0, 1.2), (0.5**0.5, 0.5**0.5, 0.0, 0.0))
    hall = GasModel((120, 120), 2.0 / 120, {"z+": "open"}, [rod], [heater])
    fig, first = figure(size=(7.4, 3.4))
    first.remove()
    panels = [
        (room, 2.4, "temperature", "Air cooled by a fan, from above [K]", "Blues_r"),
        (hall, 3.4, "smoke", "Warm smoke around a rod [kg/m³]", "magma_r"),
    ]
    for i, (model, until, name, title, colors) in enumerate(panels):
        solver = GasSolver(model, GasConfig(dt=0.02, advection="maccormack"))
        state = model.initial_state()
        while state.t < until - 1e-9:
            state = solver.step(state)
        field = getattr(state, name)[0]
        u = model.grid.at_cells(state.u)[0]
        gas = solver.solids(state.tool_pose).fluid[0]
        if model.dim == 3:
            field, u, gas = field[:, :, 3], u[:, :, 3, :2], gas[:, :, 3]
        shown = torch.where(gas, field, torch.nan)
        extent = [0, model.cells[0] * model.dx, 0, model.cells[1] * model.dx]
        axes = fig.add_subplot(1, 2, i + 1, facecolor=LIGHT.tool)
        image = axes.imshow(shown.T, origin="lower", extent=extent, cmap=colors)
        k = model.cells[0] // 16
        x = model.grid.points(None, torch.zeros(()))
        x = (x[:, :, 3] if model.dim == 3 else x)[k // 2 :: k, k // 2 :: k]
        v = torch.where(gas[..., None], u, 0.0)[k // 2 :: k, k // 2 :: k]
        axes.quiver(
            x[..., 0], x[..., 1], v[..., 0], v[..., 1], color=LIGHT.text, alpha=0.7, width=3e-3
        )
        axes.set_title(title, loc="left", fontsize=10, color=LIGHT.text)
        axes.set_xlabel("x [m]")
        axes.set_ylabel("y [m]" if model.dim == 3 else "z [m]")
        fig.colorbar(image, ax=axes, shrink=0.85)
    save_figure(fig, path)
    Image.open(path).quantize(256).save(path, optimize=True)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--picture", type=Path, help="draw this picture instead of measuring")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    if given.picture:
        draw(given.picture)
        return
    results = Results("gas", given)
    measure_projection(results, given.device)
    measure_transport(results, given.quick)
    measure_steps(results, given.device, given.quick)


if __name__ == "__main__":
    main()
