"""What does a simulated gel sensor feel, against theory and differences, and what does a step cost?

    python benchmarks/bench_gel.py [--quick] [--only PART ...] [--machine NAME]

depth       a ball on a block of gel, force over depth for three meshes, against Hertz with a layer
samplings   ball and flat punch on one mesh, contact by its points and by samples of three densities
across      the same punch, its edge within a cell
torque      a ball beside the axis of a pad: where force and moment say it is
slip        a plate dragged over a pad, there and back: side force over normal force; what `eps_v` costs
creep       a block on an incline below the angle of friction: how far it creeps in a second
gradients   20 steps of press and slide of a dome: derivatives of the last frame against differences
cost        steps of domes, forward and backward; one thread, processor time

Writes results/gel.<machine>.json; `--quick` runs small sizes and writes nothing.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from results import Results, parser
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.colliders_rigid import RigidBody
from rheograd.sim.core.shapes import Box, Plane, Sphere
from rheograd.sim.coupling import AffineBody, RigidContact, body_samples
from rheograd.sim.fem import FEMConfig, FEMModel, SolverFEM
from rheograd.sim.tactile import GelSensor, dome, fibonacci_markers, pad
from rheograd.sim.tactile.camera import dome_camera

DOWN = (0.0, 1.0, 0.0, 0.0)
E, NU = 1e5, 0.45
BLOCK = (48e-3, 48e-3, 24e-3)
RADIUS = 60e-3
G = 9.81


def vector(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def layered_hertz(radius: float, depth: float) -> float:
    """Force of a ball on a layer with a held back (Dimitriadis et al. 2002, Eq. 11) [N]."""
    a = -(1.2876 - 1.4678 * NU + 1.3442 * NU**2) / (1 - NU)
    b = (0.6387 - 1.0277 * NU + 1.5164 * NU**2) / (1 - NU)
    x, p = math.sqrt(radius * depth) / BLOCK[2], math.pi
    layer = 1 - 2 * a / p * x + 4 * a**2 / p**2 * x**2
    layer -= 8 / p**3 * (a**3 + 4 * p**2 / 15 * b) * x**3
    layer += 16 * a / p**4 * (a**3 + 3 * p**2 / 5 * b) * x**4
    return 4 / 3 * E / (1 - NU**2) * math.sqrt(radius) * depth**1.5 * layer


def readings(mesh, tool, motion, gap, **options):
    """Sensor, states and readings while a tool makes ways (T, 3) [m], in equilibrium every time."""
    config = FEMConfig(scheme="static", tol=1e-7)
    sensor = GelSensor(mesh, tools=[tool], d_hat=gap, gravity=(0.0, 0.0, 0.0), E=E, nu=NU,
                       config=config, **options)  # fmt: skip
    state = sensor.start()
    for way in motion:
        twist = torch.cat((vector(*way) / sensor.dt, torch.zeros(3))).view(1, 1, 6)
        before, state = state, sensor.step(state, tools=twist)
        yield sensor, state, sensor.read(before, state)


def depth(results: Results, quick: bool) -> None:
    """Force of a ball of 60 mm over the depth of the gel below its middle."""
    gap = 2e-5
    for cells in ((6, 6, 3),) if quick else ((6, 6, 3), (8, 8, 4), (10, 10, 3)):
        mesh = pad(BLOCK, cells, focus=8)
        tool = Collider(Sphere(RADIUS), (0, 0, BLOCK[2] + RADIUS + gap), name="ball")
        motion = [(0.0, 0.0, -2e-4)] * (2 if quick else 4)
        for sensor, state, felt in readings(mesh, tool, motion, gap, stiffness=1e4):
            middle = int((mesh.X - vector(0, 0, BLOCK[2])).norm(dim=1).argmin())
            down = float(mesh.X[middle, 2] - state.x[0, middle, 2])
            force = -float(felt.contact_force[0, 2])
            results.add(
                measure="depth", cells=list(cells), points=len(sensor.mesh.X), depth_m=down,
                touching=int((felt.node_force[0, :, 2] < 0).sum()), force_N=force,
                theory_N=layered_hertz(RADIUS, down), ratio=force / layered_hertz(RADIUS, down),
            )  # fmt: skip


def layered_punch(half: float, depth: float) -> float:
    """Force of a flat square punch of side 2 `half` on that layer (King 1987) [N]."""
    shift = -(1.2876 - 1.4678 * NU + 1.3442 * NU**2) / (1 - NU)
    a = 1.142 * half
    return 2 * a * E / (1 - NU**2) * depth / (1 + 2 * shift / math.pi * a / BLOCK[2])


def across(results: Results, quick: bool) -> None:
    """The punch with its edge in the last fifth of a cell, where samplings differ."""
    samplings(results, quick, inside=0.8)


def samplings(results: Results, quick: bool, inside: float = 1.0) -> None:
    """Force over depth by how contact is sampled; the edge of the punch is a line between cells."""
    gap, thick = 2e-5, 5e-3
    flat = pad(BLOCK, (8, 8, 3), focus=4)
    ball = [pad(BLOCK, cells, focus=8) for cells in ((6, 6, 3), (8, 8, 4), (10, 10, 3))]
    line = flat.X[flat.sets["surface"], 0].unique()[::2]
    place = int((line - 7.6e-3).abs().argmin())
    half = float(torch.lerp(line[place - 1], line[place], inside)) - 1e-6
    cases = [("punch", flat, n) for n in (None, 3, 6, 12)]
    cases += [("ball", ball[0], n) for n in (None, 3, 6, 12)]
    cases += [("ball", mesh, n) for mesh in ball[1:] for n in (None, 6)]
    cases = cases if inside == 1 else cases[:4]
    for name, mesh, n in cases[1:3] if quick else cases:
        high = thick if name == "punch" else RADIUS
        shape = Box((half, half, thick)) if name == "punch" else Sphere(RADIUS)
        tool = Collider(shape, (0, 0, BLOCK[2] + high + gap), name="tool")
        motion = [(0.0, 0.0, -2e-4)] * (1 if name == "punch" or quick else 4)
        start = time.process_time()
        for sensor, state, felt in readings(mesh, tool, motion, gap, stiffness=1e4, samples=n):
            contact: Any = sensor.model.contacts[0]
            places = state.x
            if n is not None:
                contact, places = contact.inner, contact.places(state.x)
            way = BLOCK[2] + high + gap - float(state.pose[0, 1, 2])
            # What is pressed in is what the tool went, less the gap that the barrier leaves below it.
            met = contact.meets[0]
            apart = contact.distances(places, state.pose)[0, met, 0]
            down = way - gap + float(apart[places[0, met, :2].norm(dim=1).argmin()])
            force = -float(felt.contact_force[0, 2])
            theory = layered_punch(half, down) if name == "punch" else layered_hertz(RADIUS, down)
            results.add(
                measure="samplings" if inside == 1 else "across", tool=name, points=len(mesh.X),
                samples=n, way_m=way, depth_m=down, touching=int((apart < gap).sum()),
                force_N=force, theory_N=theory, ratio=force / theory,
                cpu_s=time.process_time() - start,
            )  # fmt: skip


def torque(results: Results, quick: bool) -> None:
    """Where a ball of 6 mm presses a pad, by -τ_y/F_z and τ_x/F_z."""
    radius, gap, deep = 6e-3, 5e-5, 6e-4
    for x in (0.0, 3e-3) if quick else (0.0, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3):
        place = (x, -0.5 * x, 6e-3 + radius + gap)
        mesh = pad((20e-3, 20e-3, 6e-3), (6, 6, 1))
        tool = Collider(Sphere(radius), place, name="ball")
        (*_, (_, _, felt)) = readings(mesh, tool, [(0.0, 0.0, -deep / 2)] * 2, gap)
        force, moment = felt.force[0], felt.torque[0]
        exact = torch.linalg.cross(vector(x, -0.5 * x, place[2] - deep), force)
        results.add(
            measure="torque", x_m=x, y_m=-0.5 * x, force_N=-float(force[2]),
            found_x_m=-float(moment[1] / force[2]), found_y_m=float(moment[0] / force[2]),
            error=float((moment - exact).norm() / (0.01 * force.norm())),
        )  # fmt: skip


def slip(results: Results, quick: bool) -> None:
    """Side force over normal force along the way of a plate, there and back."""
    gap, step = 5e-5, 1e-4
    cases = [(0.4, 1e-3)] if quick else [(mu, v) for v in (1e-3, 1e-4) for mu in (0.2, 0.4, 0.8)]
    for mu, eps_v in cases:
        tool = Collider(Plane(), (0, 0, 6e-3 + gap), DOWN, friction=mu, name="plate")
        motion = [(0.0, 0.0, -3e-4 - gap)]
        motion += [(step, 0.0, 0.0)] * (4 if quick else 14) + [(-step, 0.0, 0.0)] * (
            4 if quick else 20
        )
        mesh = pad((20e-3, 20e-3, 6e-3), (3, 3, 1))
        felt, directions = [], 0
        for sensor, _, reading in readings(mesh, tool, motion, gap, eps_v=eps_v):
            felt.append(reading)
            directions += sensor.solver.newton.iterations
        felt = felt[1:]
        ways = torch.tensor([m[0] for m in motion[1:]]).cumsum(0).tolist()
        ratio = [float(r.force[0, 0] / -r.force[0, 2]) for r in felt]
        results.add(
            measure="slip" if eps_v == 1e-3 else "slip_fine", mu=mu, eps_v=eps_v,
            directions=directions / len(motion), way_m=[float(f"{w:.3g}") for w in ways],
            ratio=[float(f"{q:.4g}") for q in ratio], most=max(ratio), least=min(ratio),
        )  # fmt: skip


def creep(results: Results, quick: bool) -> None:
    """Way of a block in a second on an incline, by the sliding speed above which friction is full."""
    mu, dt = 0.4, 5e-3
    floor = Collider(Plane(), name="floor")
    for eps_v in (1e-3, 1e-4):
        for share in (0.5, 0.97):
            body = RigidBody(Box((0.01, 0.01, 0.004)), rho=1000.0, name="block",
                             position=(0, 0, 0.00495))  # fmt: skip
            block = AffineBody(body, 0)
            contact = RigidContact([body_samples(block, 4e-3)], [floor], d_hat=1e-3,
                                   stiffness=1e4, friction=mu, eps_v=eps_v)  # fmt: skip
            tilt = math.atan(mu) * share
            gravity = (G * math.sin(tilt), 0.0, -G * math.cos(tilt))
            model = FEMModel(block.X, [block.part], contacts=[contact], gravity=gravity)
            solver = SolverFEM(model, FEMConfig(dt=dt, tol=1e-8))
            state = block.start(model.initial_state())
            places, directions = [], 0
            for _ in range(40 if quick else 240):
                state = solver.step(state)
                directions += solver.newton.iterations
                places.append(float(block.pose(state.x)[0, 0]))
            settled = places[-1] - places[max(len(places) - 201, 0)]
            results.add(measure="creep", eps_v=eps_v, share=share, way_m=settled,
                        directions=directions / len(places))  # fmt: skip


def gradients(results: Results, quick: bool) -> None:
    """Press 1.2 mm in 5 steps, slide 2 mm in 15: dF/d·, dflow/d· of the last frame."""
    steps = 6 if quick else 20
    mesh = dome(cuts=2, layers=1)
    table = Collider(Plane(), name="table", friction=0.5)
    sensor = GelSensor(mesh, obstacles=[table], position=(0, 0, 15.2e-3), orientation=DOWN,
                       d_hat=2e-4, config=FEMConfig(dt=5e-3, tol=1e-11))  # fmt: skip
    camera, markers = dome_camera(), fibonacci_markers(mesh.X, mesh.triangles, 24)
    twists = torch.zeros(steps, 6, dtype=torch.float64)
    twists[:5, 2] = -1.2e-3 / (5 * sensor.dt)
    twists[5:, 0] = 2e-3 / ((steps - 5) * sensor.dt)
    values = {"E": 1.18e5, "nu": 0.47, "stiffness": 1.18e4, "friction": 0.5}

    def run(commands, v):
        gel = {k: v[k].reshape(-1, 1) for k in ("E", "nu")}
        contact = {"stiffness": v["stiffness"], "friction_gel_table": v["friction"]}
        params = {"gel": gel, "contact": contact}
        state = sensor.start(len(commands))
        for t in range(steps):
            before, state = state, sensor.step(state, twist=commands[:, t], params=params)
        flow = markers.flow(camera, state.x, mesh.X, pose=state.pose[:, 0]).mean(1)
        return sensor.read(before, state, params).force @ vector(1.0, 0.7, -0.5), flow @ vector(
            0.8, -0.6
        )

    leaf = twists.clone().requires_grad_()
    fixed = {k: vector(v) for k, v in values.items()}
    inputs = [leaf, *(p.requires_grad_() for p in fixed.values())]
    outputs = run(leaf[None], fixed)
    found = [torch.autograd.grad(o.sum(), inputs, retain_graph=True) for o in outputs]
    generator = torch.Generator().manual_seed(0)
    kept = [0, 1, steps // 2, steps - 1]
    ways = [("random", torch.randn(steps, 6, generator=generator).double()) for _ in range(4)]
    for k in kept:
        for axis in range(6):
            way = torch.zeros(steps, 6, dtype=torch.float64)
            way[k, axis] = 1.0
            ways.append((f"step {k} axis {axis}", way))
    plain = {k: p.detach() for k, p in fixed.items()}
    worst: dict[str, list[float]] = {}
    with torch.no_grad():
        for name, way in ways:
            # Angular speeds turn a face 15 mm away from the mount.
            scaled = way * vector(1, 1, 1, 60, 60, 60) / (5 if name == "random" else 1)
            step = 2e-4
            both = run(torch.stack((twists + step * scaled, twists - step * scaled)), plain)
            for what, values_of, gradient in zip(("force", "flow"), both, found, strict=True):
                expected = float(values_of[0] - values_of[1]) / (2 * step)
                exact = float((gradient[0] * scaled).sum())
                scale = float((gradient[0] * vector(1, 1, 1, 60, 60, 60)).abs().max())
                label = "random" if name == "random" else name.split(" axis")[0]
                off = abs(exact - expected)
                # Where a derivative vanishes by symmetry, relative to the largest of all commands.
                worst.setdefault(f"{label}: {what}", []).append(
                    off / max(abs(expected), 1e-3 * scale)
                )
        for name, error in worst.items():
            results.add(measure="gradients", of=name, directions=len(error), worst=max(error))
        for place, (name, value) in enumerate(values.items(), 1):
            step = 1e-4 * value
            moved = plain | {name: vector(value + step, value - step)}
            moved = {k: v.expand(2) for k, v in moved.items()}
            both = run(twists.expand(2, -1, -1), moved)
            for what, values_of, gradient in zip(("force", "flow"), both, found, strict=True):
                expected = float(values_of[0] - values_of[1]) / (2 * step)
                results.add(measure="gradients", of=f"{name}: {what}", directions=1,
                            worst=abs(float(gradient[place]) / expected - 1))  # fmt: skip


def cost(results: Results, quick: bool) -> None:
    """Steps of a press at 60 mm/s, and of the press of 200 substeps of 50 µs, 10 ms in all."""
    sizes = [(2, 1, 2, 5e-3), (3, 1, 2, 5e-3), (6, 2, 2, 5e-3), (6, 2, 2, 1e-2), (12, 4, 1, 5e-3)]
    for cuts, layers, order, dt in sizes[1:2] if quick else sizes:
        ten = round(0.01 / dt)
        mesh = dome(cuts=cuts, layers=layers, order=order)
        table = Collider(Plane(), name="table", friction=0.5)
        sensor = GelSensor(
            mesh, obstacles=[table], position=(0, 0, 15.15e-3), orientation=DOWN,
            config=FEMConfig(dt=dt),
        )  # fmt: skip
        twist = vector(0, 0, -0.06, 0, 0, 0)
        with torch.no_grad():
            state = sensor.start()
            for _ in range(ten):
                state = sensor.step(state, twist=twist)  # touches, and everything is loaded
            start, after = time.process_time(), state
            for _ in range(ten):
                after = sensor.step(after, twist=twist)
            forward = (time.process_time() - start) / ten
        rows = {}
        for name, steps in (("ten", ten),) if cuts > 3 else (("ten", ten), ("hundred", 10 * ten)):
            leaf = (twist * (0.2 if steps > ten else 1.0)).requires_grad_()
            start, after = time.process_time(), state
            for _ in range(steps):
                before, after = after, sensor.step(after, twist=leaf)
            sensor.read(before, after).force[0, 2].backward()
            rows[f"{name}_ms_both_s"] = time.process_time() - start
        results.add(
            measure="cost", cuts=cuts, layers=layers, order=order, points=len(mesh.X),
            cells=len(mesh.cells), dt=dt, step_ms=1e3 * forward, per_50us_ms=0.05 * forward / dt,
            **rows,
        )  # fmt: skip


PARTS = {
    "cost": cost,
    "torque": torque,
    "slip": slip,
    "creep": creep,
    "gradients": gradients,
    "depth": depth,
    "samplings": samplings,
    "across": across,
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", choices=list(PARTS), help="parts to run")
    given = arguments.parse_args()
    given.device = "cpu"
    torch.set_num_threads(1)
    results = Results("gel", given)
    for name in given.only or PARTS:
        PARTS[name](results, given.quick)


if __name__ == "__main__":
    main()
