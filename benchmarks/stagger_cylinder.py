"""Can a wake be controlled through a network that was trained on a residual alone?

`grid/cylinder` and `grid/cylinder-lift`: a turning cylinder, Re = 100, 64 × 32 cells. The network is
compared with the solver of the same residual: rollouts under random actions, free shedding, CPU time, and
plans: found through the network, through the solver, and with states of the solver but derivatives of
the network ("surrogate"), all verified in the solver.

    python benchmarks/stagger_cylinder.py --train cylinder-64x32 --seconds 120
    python benchmarks/stagger_cylinder.py                     # rows that the file has are left out
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch
from results import Results, machine, parser
from rheograd.operators.stagger import (
    EnvPool,
    MacStreamPressure,
    PhysicsTraining,
    SpaceSplit,
    StaggerSolver,
    TimeSplit,
    load_solver,
    save_solver,
    train_physics,
    warm_start,
)
from rheograd.operators.t1.unet import UNet
from rheograd.sim.core.errors import RheogradError
from rheograd.tasks.grid.cylinder import Cylinder, CylinderConfig, CylinderLift, LiftConfig

BACKBONE = {"operator": "t1.unet:UNet", "dim": 2, "channels": 16, "levels": 3}
TIMES = (0.2, 1.0, 2.0, 4.0)


def network(seed: int) -> StaggerSolver:
    generator = torch.Generator().manual_seed(seed)
    return StaggerSolver(
        lambda a, b: UNet(2, a, b, BACKBONE["channels"], BACKBONE["levels"], generator),
        SpaceSplit(2),
        TimeSplit(2),
        "stack",
        dt=CylinderConfig.dt,
        channels=2,
        context=3,
        sigma=(0.5, 0.2),
        scale=(0.15, 0.4),
        periodic=False,
        finish="mean",
    )


@torch.no_grad()
def trajectories(task: Cylinder, count: int, actions: int, seed: int) -> tuple[torch.Tensor, ...]:
    """States of the solver (B, T, 2, *cells) under random actions (B, A, 1), from the free flow."""
    generator = torch.Generator().manual_seed(seed)
    limit = float(task.action_limit)
    new = limit * (2 * torch.rand(count, actions, 1, generator=generator) - 1)
    keep = torch.rand(count, actions, 1, generator=generator) < 0.5
    for k in range(1, actions):  # half of the actions go on
        new[:, k] = torch.where(keep[:, k], new[:, k - 1], new[:, k])
    free = task.free()
    u = free[torch.randint(len(free), (count,), generator=generator)]
    frames = [u[:, None]]
    for k in range(actions):
        frames.append(task.solver.frames(frames[-1][:, -1], task.context(new[:, k, 0])))
    frames = torch.cat(frames, 1)
    return frames - frames.mean((-2, -1), keepdim=True), new


def pool(task: Cylinder, starts: torch.Tensor, size: int, seed: int) -> EnvPool:
    """Environments that begin in states of the solver; no successor of a state is ever shown."""
    limit = float(task.action_limit)

    def spins(n: int, g: torch.Generator) -> torch.Tensor:
        return limit * (2 * torch.rand(n, generator=g) - 1)

    def sample(n: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(len(starts), (n,), generator=g)
        free = torch.rand(n, generator=g) < 0.2
        return starts[chosen][:, None], task.context(torch.where(free, 0.0, spins(n, g)))

    def evolve(context: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        other = torch.rand(len(context), generator=g) < 0.4
        old = task.spin_of(context)
        return task.context(torch.where(other & (old != 0), spins(len(context), g), old))

    return EnvPool(sample, size, seed=seed, lifetime=24, limit=20.0, evolve=evolve)


def train(name: str, out: Path, seconds: float, seed: int, start: str | None = None) -> None:
    """Train the network of the task, from the start or from weights; write weights and their story."""
    task = Cylinder()
    clock = time.process_time()
    frames, _ = trajectories(task, 4, 30, seed)
    made = time.process_time() - clock
    solver, before = network(seed), {}
    if start is not None:
        warm_start(solver, load_solver(start))
        before = json.loads(Path(start).with_suffix(".json").read_text("utf-8"))["training"]
        before = {"cpu_seconds_before": before["cpu_seconds"] + before.get("cpu_seconds_before", 0)}
    recipe = PhysicsTraining(10**6, seconds, lr=2e-3, log=True, seed=seed)
    environments = pool(task, frames[:, ::2].flatten(0, 1), 48, seed)
    record = train_physics(solver, MacStreamPressure(task.flow), environments, recipe)
    first = record.pop("losses")[0]
    save_solver(out / f"{name}.safetensors", solver, half=True, backbone=BACKBONE)
    story = {
        "name": name,
        "command": f"python benchmarks/stagger_cylinder.py --train {name} --seconds {seconds:g}",
        "seed": seed,
        "machine": machine(),
        "problem": "stream past a turning cylinder, Re = 100, 64 × 32 cells, dt = 0.05 s, |Ω| ≤ 4 rad/s",
        "backbone": BACKBONE,
        "parameters": sum(p.numel() for p in solver.parameters()),
        "training": {k: float(f"{v:.4g}") for k, v in record.items()}
        | {"first_loss": float(f"{first:.4g}"), "cpu_seconds_of_starts": float(f"{made:.3g}")}
        | before,
    }
    (out / f"{name}.json").write_text(
        json.dumps(story, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    print(json.dumps(story["training"]), flush=True)


@torch.no_grad()
def measure_rollouts(results: Results, mac: Cylinder, net: Cylinder, actions: int) -> None:
    """Velocities against the solver's, under random actions and without."""
    truth, turns = trajectories(mac, 4, actions, 77)
    for name, given in (("random actions", turns), ("free", torch.zeros_like(turns))):
        frames, true = [truth[:, :1]], [truth[:, :1]]
        clock = time.process_time()
        for k in range(actions):
            frames.append(net.solver.frames(frames[-1][:, -1], net.context(given[:, k, 0])))
        spent = time.process_time() - clock
        clock = time.process_time()
        for k in range(actions):
            true.append(mac.solver.frames(true[-1][:, -1], mac.context(given[:, k, 0])))
        row = {"network ms per fine step": 1e3 * spent, "mac ms per fine step": 0.0}
        row["mac ms per fine step"] = 1e3 * (time.process_time() - clock)
        fine = actions * mac.config.substeps * len(truth)
        row = {k: v / fine for k, v in row.items()}
        a, b = (torch.cat(x, 1) for x in (frames, true))
        v, w = (mac.flow.velocity(x.flatten(0, 1))[..., :-1, :-1] for x in (a, b))
        v, w = v.unflatten(0, a.shape[:2]), w.unflatten(0, b.shape[:2])
        swing = w[:, 0] - w.mean((0, 1))  # what there is to be predicted
        for t in TIMES:
            k = round(t / mac.config.dt)
            if k < a.shape[1]:
                change = (w[:, k] - w.mean((0, 1))).norm()
                row[f"error t={t:g}"] = float((v[:, k] - w[:, k]).norm() / change)
                row[f"still t={t:g}"] = float((w[:, 0] - w[:, k]).norm() / change)
        row["wake share"] = float(net.wake(a[:, -24:]).mean() / mac.wake(b[:, -24:]).mean())
        off = mac.flow.divergence(mac.flow.velocity(a[:, -1]))[:, :-1, :-1].abs().max()
        results.add(measure=f"rollout {name}", swing=float(swing.square().mean().sqrt()), **row,
                    divergence=float(off))  # fmt: skip


def plan(planner: Cylinder, updates: int, lr: float) -> tuple[torch.Tensor, list[float], float]:
    """Adam on actions (T, 1) from zero: the best, the losses, CPU seconds."""
    limit, best, kept, losses = float(planner.action_limit), float("inf"), None, []
    planner.free()
    z = torch.zeros(planner.horizon, 1, requires_grad=True)
    optimizer = torch.optim.Adam([z], lr=lr)
    clock = time.process_time()
    for _ in range(updates):
        actions = limit * torch.tanh(z)
        loss = planner.total_loss(actions).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if losses[-1] < best:
            best, kept = losses[-1], actions.detach().clone()
    return kept, losses, time.process_time() - clock


def measure_plans(results: Results, cls, config, name: str, given: argparse.Namespace) -> None:
    """Plans of one kind; `verified` is the loss in the solver."""
    mac, cost = cls(config), {}
    with torch.no_grad():
        loss, last = mac.evaluate(torch.zeros(mac.horizon, 1))
    row = {k: float(v) for k, v in mac.metrics(last).items()}
    results.add(
        measure=f"{name} at rest", verified=float(loss), success=bool(mac.success(last)), **row
    )
    for solver in given.through:
        planner = cls(dataclasses.replace(config, solver=solver, weights=given.weights))
        updates = given.updates[solver]
        try:
            actions, losses, cost[solver] = plan(planner, updates, 0.15)
        except RheogradError as error:
            results.add(measure=f"{name} through {solver}", failed=str(error))
            continue
        with torch.no_grad():
            verified, last = mac.evaluate(actions)
        results.add(
            measure=f"{name} through {solver}",
            updates=updates,
            cpu_seconds=cost[solver],
            planned=min(losses),
            verified=float(verified),
            success=bool(mac.success(last)),
            actions=[float(f"{a:.3g}") for a in actions.flatten().tolist()],
            **{k: float(v) for k, v in mac.metrics(last).items()},
        )


def main() -> None:
    arguments = parser(__doc__, again=True)
    arguments.add_argument("--train", help="name of the weights to make")
    arguments.add_argument("--out", type=Path, default=Path("assets/stagger"))
    arguments.add_argument("--start", help="file of weights from which training goes on")
    arguments.add_argument("--weights", default=CylinderConfig.weights, help="name or file")
    arguments.add_argument("--seconds", type=float, default=120.0, help="CPU seconds of training")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", nargs="*", default=["rollout", "wake", "lift"])
    arguments.add_argument("--through", nargs="*", default=["network", "surrogate", "mac"])
    arguments.add_argument("--network-updates", type=int, default=60)
    arguments.add_argument("--surrogate-updates", type=int, default=25)
    arguments.add_argument("--mac-updates", type=int, default=15)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    given.updates = {"network": given.network_updates, "mac": given.mac_updates}
    given.updates["surrogate"] = given.surrogate_updates
    if given.train:
        train(given.train, given.out, given.seconds, given.seed, given.start)
        return
    results = Results("stagger_cylinder", given)
    done = results.done
    horizon = 3 if given.quick else CylinderConfig.horizon
    if given.quick:
        given.updates = {"network": 2, "surrogate": 1, "mac": 1}
    if "rollout" in given.only and "rollout free" not in done:
        net = Cylinder(CylinderConfig(solver="network", weights=given.weights))
        measure_rollouts(results, Cylinder(), net, horizon)
    for kind, cls, config in (
        ("wake", Cylinder, CylinderConfig),
        ("lift", CylinderLift, LiftConfig),
    ):
        wanted = [s for s in given.through if f"{kind} through {s}" not in done]
        if kind in given.only and wanted:
            given.through, all_ = wanted, given.through
            measure_plans(results, cls, config(horizon=horizon), kind, given)
            given.through = all_


if __name__ == "__main__":
    main()
