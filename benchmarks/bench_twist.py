"""Do rods that twist keep to the closed forms, and what does twist cost?

shaft   straight, one end turned: moment against GJ φ/L; lowest frequency; where it buckles (Greenhill)
bow     a quarter circle loaded out of its plane; coil: a spring against G r⁴/4R³n; by segments
cost    a step of a sagging rod of 80 segments in CPU time, with and without twist
loop    a rod turned seven times while its ends come together, with self-contact: twist and writhe against
        the turns of the end; draws docs/images/rod-twist.png

    python benchmarks/bench_twist.py [--quick] [--only MEASURE]
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from results import Results, parser
from rheograd.sim.fem import (
    FEMConfig,
    FEMControl,
    FEMModel,
    Handle,
    Rod,
    SolverFEM,
    sections,
    twist_angle,
)
from rheograd.sim.fem.contact import Surface, SurfaceContact
from rheograd.sim.fem.meshes import line

R, E, NU, RHO, LENGTH = 2e-3, 1e8, 0.3, 1000.0, 0.5
J = math.pi * R**4 / 2
G, B = E / 2 / (1 + NU), E * J / 2
DOCS = Path(__file__).parent.parent / "docs/images"
STATIC = FEMConfig(dt=1.0, scheme="static", tol=1e-9)


def rod_of(X: torch.Tensor, held: tuple[int, ...] = (0,)) -> FEMModel:
    """A rod along points X, gripped at some segments."""
    X, cells = sections(X, line(len(X) - 1, 1.0)[1], R)
    rod = Rod(name="rod", cells=cells, E=E, nu=NU, r=R, rho=RHO, twist=True)
    return FEMModel(X, [rod], [Handle(f"{k}", cells[k]) for k in held], gravity=(0, 0, 0))


def turned(model: FEMModel, angle) -> torch.Tensor:
    """Points of a straight rod with sections turned by angle(way from the first)."""
    x, cells = model.X.clone(), model.parts[0].cells
    s = x[cells[:, :2]].mean(1)[:, 0]
    a = angle(s - s[0])
    for k in (2, 3):
        y, z = model.X[cells[:, k], 1], model.X[cells[:, k], 2]
        x[cells[:, k], 1], x[cells[:, k], 2] = y * a.cos() - z * a.sin(), y * a.sin() + z * a.cos()
    return x


def moment(n: int) -> float:
    model = rod_of(line(n, LENGTH)[0], (0, -1))
    solver, twist = SolverFEM(model, STATIC), torch.zeros(1, 2, 6, dtype=torch.float64)
    twist[0, 1, 3] = 0.5
    state, end = model.initial_state(), model.parts[0].cells[-1]
    for _ in range(2):
        state = solver.step(state, FEMControl(twist))
    found = -torch.linalg.cross(state.x[0, end], solver.forces(state)[0, end]).sum(0)[0]
    return float(found) * LENGTH * (1 - 1 / n) / (G * J) - 1


def greenhill(n: int) -> float:
    model = rod_of(line(n, LENGTH)[0], (0, -1))
    L, solver = LENGTH * (1 - 1 / n), SolverFEM(model)
    terms = solver.prepare(None, model.initial_state()).terms(model, 1, math.inf, None, None)
    free = (3 * model.free[:, None] + torch.arange(3)).reshape(-1)
    low, high = 4.0, 24.0
    while high - low > 1e-4:
        phi = 0.5 * (low + high)
        x = turned(model, lambda s, phi=phi: phi * s / L)
        H = torch.zeros(x.numel(), x.numel(), dtype=torch.float64)
        for term in terms:
            stencil, blocks = term.hessian(x, project=False)
            rows = (3 * stencil[..., None] + torch.arange(3)).flatten(1)
            where = rows[:, :, None].expand_as(blocks), rows[:, None].expand_as(blocks)
            H.index_put_(where, blocks, accumulate=True)
        stable = float(torch.linalg.eigvalsh(H[free][:, free])[0]) > 0
        low, high = (phi, high) if stable else (low, phi)
    return low * G * J / B / 8.98682 - 1


def frequency(n: int) -> float:
    """From a quarter period of 20 steps; the same steps of the exact motion are 0.05 % slow."""
    model = rod_of(line(n, LENGTH)[0])
    L = LENGTH * (1 - 0.5 / n)
    quarter, end = L * math.sqrt(RHO / G), model.parts[0].cells[-1]
    solver = SolverFEM(model, FEMConfig(dt=quarter / 20, scheme="midpoint", tol=1e-9))
    x = turned(model, lambda s: 0.1 * torch.sin(0.5 * math.pi * s / L))
    rest, state, angles = model.X[end[2]] - model.X[end[3]], model.initial_state(x=x), [1.0]
    while angles[-1] > 0:
        state = solver.step(state)
        d = state.x[0, end[2]] - state.x[0, end[3]]
        angles.append(float(torch.linalg.cross(rest, d)[0]))
    return 20 / (len(angles) - 1 + angles[-1] / (angles[-2] - angles[-1])) - 1


def bow(n: int) -> float:
    radius, step = 0.2, 0.5 * math.pi / (n + 0.5)
    a = (torch.arange(n + 2, dtype=torch.float64) - 0.5) * step
    model = rod_of(radius * torch.stack((a.cos(), a.sin(), torch.zeros_like(a)), 1))
    force = torch.zeros(1, model.point_count, 3, dtype=torch.float64)
    load = force[0, n + 1, 2] = 1e-3 * B / radius**2
    state = SolverFEM(model, STATIC).step(model.initial_state(), FEMControl(force=force))
    exact = load * radius**3 * (math.pi / 4 / B + (0.75 * math.pi - 2) / (G * J))
    return float(state.x[0, n + 1, 2] / exact) - 1


def coil(n: int, turns: int = 10, radius: float = 0.02, pitch: float = 8e-3) -> float:
    a = torch.linspace(0, 2 * math.pi * turns, n * turns + 1, dtype=torch.float64)
    X = torch.stack((radius * a.cos(), radius * a.sin(), pitch * a / 2 / math.pi), 1)
    model = rod_of(X, (0, -1))
    solver, twist = SolverFEM(model, STATIC), torch.zeros(1, 2, 6, dtype=torch.float64)
    twist[0, 1, 2] = 1e-3
    state = solver.step(model.initial_state(), FEMControl(twist))
    force = -solver.forces(state)[0, model.parts[0].cells[-1], 2].sum()
    return float(force) / 1e-3 / (G * R**4 / (4 * radius**3 * turns)) - 1


def cost(twist: bool) -> dict:
    X, cells = line(80, LENGTH)
    more = {"nu": NU, "twist": True} if twist else {}
    X, cells = sections(X, cells, R) if twist else (X, cells)
    rod = Rod(name="rod", cells=cells, E=1e7, r=R, rho=RHO, **more)
    model = FEMModel(X, [rod], [Handle("grip", cells[0])])
    solver, state = SolverFEM(model, FEMConfig(dt=5e-3)), model.initial_state()
    solver.step(state)
    begun, directions = time.process_time(), 0
    for _ in range(40):
        state = solver.step(state)
        directions += solver.newton.iterations
    seconds = time.process_time() - begun
    return {"twist": twist, "unknowns": 3 * len(model.free), "directions": directions,
            "direction_ms": 1e3 * seconds / directions}  # fmt: skip


def writhe(points: torch.Tensor) -> float:
    """Of a closed polygon (n, 3) [turns]: signed crossings, averaged over directions."""
    a, b = points, points.roll(-1, 0)
    i, j = torch.triu_indices(len(a), len(a), 2)
    sides = a[j] - a[i], b[j] - a[i], b[j] - b[i], a[j] - b[i]
    volume = (torch.linalg.cross(b[j] - a[j], b[i] - a[i]) * sides[0]).sum(1)
    size = (b[j] - a[j]).norm(dim=1) * (b[i] - a[i]).norm(dim=1) * sides[0].norm(dim=1)
    apart = volume.abs() > 1e-12 * size
    normals = [torch.linalg.cross(sides[k], sides[(k + 1) % 4])[apart] for k in range(4)]
    normals = [v / v.norm(dim=1, keepdim=True) for v in normals]
    angles = [(normals[k] * normals[(k + 1) % 4]).sum(1).clamp(-1, 1).asin() for k in range(4)]
    return float((volume[apart].sign() * sum(angles)).sum()) / (2 * math.pi)


def loop(quick: bool) -> dict:
    """Seven turns and 18 cm in six seconds."""
    n, steps, dt = 80, 1200, 5e-3
    X, cells = sections(*line(n, LENGTH), R)
    rod = Rod(name="rod", cells=cells, E=1e7, nu=0.45, r=R, rho=1100.0, eta=2e3, twist=True)
    driven, area = torch.zeros(len(X), dtype=torch.bool), torch.zeros(len(X), dtype=torch.float64)
    driven[cells[0]] = driven[cells[-1]] = True
    area[: n + 1] = 2 * R * LENGTH / n
    skin = Surface(X, rods=cells[:, :2], driven=driven, area=area)
    contact = SurfaceContact(skin, 4e-3, 3e4, friction=0.1)
    grips = [Handle("left", cells[0]), Handle("right", cells[-1], position=(LENGTH, 0, 0))]
    model = FEMModel(X, [rod], grips, contacts=[contact], gravity=(0, 0, -0.5), drag=4.0)
    solver, state = SolverFEM(model, FEMConfig(dt=dt, tol=1e-5)), model.initial_state()
    turn = torch.zeros(1, 2, 6, dtype=torch.float64)
    turn[0, 1, 3], turn[0, 1, 0] = 14 * math.pi / (steps * dt), -0.18 / (steps * dt)
    begun, directions, seen = time.process_time(), 0, []
    for k in range(1, (50 if quick else steps) + 1):
        state = solver.step(state, FEMControl(turn))
        directions += solver.newton.iterations
        if k in (600, 880, 1200):
            seen.append(state.x[0])
    x = state.x[0]
    way = torch.tensor([50.0, 0.0, 0.0], dtype=torch.float64)
    aside = torch.tensor([0.0, 50.0, 0.0], dtype=torch.float64)
    far = torch.stack((x[n] + way, x[n] + way + aside, x[0] - way + aside, x[0] - way))
    twist = float(twist_angle(x[rod.joints]).sum()) / (2 * math.pi)
    writhed = writhe(torch.cat((x[: n + 1], far)))
    if seen:
        draw(seen, cells)
    return {"turns": 7 * k / steps, "twist": twist, "writhe": writhed, "directions": directions / k,
            "missing": twist + writhed - 7 * k / steps, "seconds": time.process_time() - begun,
            "gap_mm": 1e3 * float(contact.min_distance(state.x))}  # fmt: skip


def draw(shapes: list[torch.Tensor], cells: torch.Tensor) -> None:
    """Rods below one another, half of each painted, drawn thinner than they are."""
    import pyvista as pv
    from PIL import Image, ImageChops
    from scipy.interpolate import CubicSpline

    plotter = pv.Plotter(off_screen=True, window_size=(1500, 1300))
    around = np.linspace(0, 2 * np.pi, 25)
    for row, x in enumerate(shapes):
        middle, d = x[cells[:, :2]].mean(1).numpy(), (x[cells[:, 2]] - x[cells[:, 3]]).numpy()
        u, fine = np.arange(len(cells)), np.linspace(0, len(cells) - 1, 6 * len(cells))
        way = CubicSpline(u, middle)
        t, d = way(fine, 1), CubicSpline(u, d)(fine)
        t /= np.linalg.norm(t, axis=1, keepdims=True)
        d -= (d * t).sum(1, keepdims=True) * t
        d /= np.linalg.norm(d, axis=1, keepdims=True)
        ring = (
            np.cos(around)[:, None] * d[:, None] + np.sin(around)[:, None] * np.cross(t, d)[:, None]
        )
        skin = way(fine)[:, None] + 1.3e-3 * ring - [0, 0, 0.08 * row]
        mesh = pv.StructuredGrid(
            *(np.ascontiguousarray(skin[..., i])[:, :, None] for i in range(3))
        )
        mesh["half"] = np.tile(np.cos(around) > 0, (len(fine), 1)).astype(float).ravel(order="F")
        colors = ["#2b5d8a", "#f2a33a"]
        plotter.add_mesh(mesh, scalars="half", cmap=colors, show_scalar_bar=False, specular=0.3)
    plotter.set_background("white")
    plotter.enable_parallel_projection()
    plotter.view_xz()
    plotter.camera.zoom(1.2)
    image = Image.fromarray(plotter.screenshot(return_img=True))
    left, top, right, low = ImageChops.difference(
        image, Image.new("RGB", image.size, "white")
    ).getbbox()
    image = image.crop((left - 15, top - 15, right + 15, low + 15))
    image.save(DOCS / "rod-twist.png", optimize=True)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", help="shaft, bow, coil, cost or loop")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    results, quick = Results("twist", arguments), arguments.quick

    def wanted(measure: str) -> bool:
        return arguments.only in (None, measure)

    for n in (10,) if quick else (10, 20, 40):
        if wanted("shaft"):
            results.add(measure="shaft", segments=n, moment=moment(n), frequency=frequency(n),
                        greenhill=greenhill(n))  # fmt: skip
        if wanted("bow"):
            results.add(measure="bow", segments=n, tip=bow(n))
        if wanted("coil"):
            results.add(measure="coil", segments_per_turn=n, stiffness=coil(n))
    for twist in (False, True) if wanted("cost") else ():
        results.add(measure="cost", **cost(twist))
    if wanted("loop"):
        results.add(measure="loop", **loop(quick))


if __name__ == "__main__":
    main()
