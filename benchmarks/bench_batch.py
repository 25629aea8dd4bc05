"""What does a batch of scenes gain over one scene at a time, and what does each cost in memory?

For two nano fluid tasks and an elastic block, B scenes in one launch: particle-substeps per second,
forward and with gradients, and the time of a substep split into what the scenes share and what each
adds, a + b B (least squares of relative errors over B), so that 1 + a/b bounds what any batch can gain.
Peak resident memory per scene, of fresh processes. And a population of candidates, evaluated as one batch
and one by one. On one thread times are CPU seconds, which other users of a machine hardly change; on
more they are wall seconds.

    python benchmarks/bench_batch.py [--quick] [--only throughput|memory|population] [--threads 1 2]
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bench_mpm import falling_block
from results import Results, parser, peak_memory, reset_peak
from rheograd.sim.core.rollout import rollout
from rheograd.sim.mpm import MPMConfig, SolverMPM
from rheograd.tasks.core import task_by_name

SCENES = ("latte-art-nano", "transporting-nano", "block")
STEPS = 4
"""Solver steps of one measurement."""


def clock_of(threads: int) -> Callable[[], float]:
    return time.process_time if threads == 1 else time.perf_counter


class Case:
    """A scene in the middle of its motion, B times; `forward` and `gradient` return seconds."""

    def __init__(self, name: str, threads: int) -> None:
        torch.set_num_threads(threads)
        if name == "block":
            model = falling_block(1000)
            self.solver = SolverMPM(model, MPMConfig(dt=1e-4, substeps=10, threads=threads))
            self.state, self.control = model.initial_state(), None
        else:
            self.task = task_by_name(f"fluid/{name}")
            config = dataclasses.replace(self.task.solver.config, threads=threads)
            self.solver = self.task.solver = SolverMPM(self.task.model, config)
            actions = self.task.initial_actions()
            half = self.task.horizon // 2
            with torch.no_grad():
                self.state = self.task.rollout(actions, horizon=half, save_every=half).final
            self.control = actions[half : half + STEPS]
        self.clock = clock_of(threads)
        self.particles = self.solver.model.particle_count
        self.substeps = STEPS * self.solver.config.substeps

    def batch(self, count: int) -> Any:
        return self.state.repeat(count)

    def run(self, state: Any, policy: str = "none", steps: int = STEPS) -> Any:
        def control(t: int, state: Any) -> Any:
            if self.control is None:
                return None
            action = self.control[t % STEPS].expand(state.batch_size, -1)
            return self.task.control(state, action)

        return rollout(self.solver, state, (control, steps), checkpoint=policy, save_every=10**9)

    def forward(self, state: Any) -> float:
        begin = self.clock()
        with torch.no_grad():
            self.run(state)
        return self.clock() - begin

    def gradient(self, state: Any) -> float:
        v = state.v.clone().requires_grad_()
        begin = self.clock()
        self.run(state.replace(v=v)).final.x.square().sum().backward()
        return self.clock() - begin


def fastest(call: Any, state: Any, turns: int) -> float:
    """Of some turns after one that warms up: other users of a machine only slow a turn down."""
    call(state)
    return min(call(state) for _ in range(turns))


def shared_and_own(counts: list[int], seconds: list[float]) -> tuple[float, float]:
    """a and b of seconds ≈ a + b B."""
    B, t = np.array(counts, float), np.array(seconds)
    a, b = np.linalg.lstsq(np.stack((1 / t, B / t), 1), np.ones_like(t), rcond=None)[0]
    return float(a), float(b)


def throughput(results: Results, counts: list[int], threads: int, turns: int) -> None:
    for name in SCENES:
        case = Case(name, threads)
        seconds: dict[str, list[float]] = {"forward": [], "gradient": []}
        for B in counts:
            state = case.batch(B)
            for kind, row in seconds.items():
                row.append(fastest(getattr(case, kind), state, turns if B < 16 else 2))
            work = B * case.particles * case.substeps / 1e6
            results.add(
                measure=f"throughput, {threads} threads",
                scene=name,
                threads=threads,
                scenes=B,
                particles_per_scene=case.particles,
                forward=work / seconds["forward"][-1],
                gradient=work / seconds["gradient"][-1],
                forward_over_one=B * seconds["forward"][0] / seconds["forward"][-1],
                gradient_over_one=B * seconds["gradient"][0] / seconds["gradient"][-1],
                unit="million particle-substeps per second",
            )
        for kind, row in seconds.items():
            a, b = shared_and_own(counts, row)
            results.add(
                measure=f"substep, {threads} threads",
                scene=name,
                kind=kind,
                shared_us=1e6 * a / case.substeps,
                per_scene_us=1e6 * b / case.substeps,
                most_gain=(a + b) / b,
                largest_misfit=max(
                    abs((a + b * B) / t - 1) for B, t in zip(counts, row, strict=True)
                ),
            )


def memory_of(name: str, B: int, kind: str, policy: str) -> dict[str, Any]:
    """One rollout of 8 steps in this process; run me in a fresh one."""
    case = Case(name, 1)
    first = case.batch(2)  # not the engine that will be measured, but its kernels and modules
    if kind == "gradient":
        v = first.v.clone().requires_grad_()
        case.run(first.replace(v=v), policy, 2).final.x.sum().backward()
    state = case.batch(B)
    reset_peak()
    before = peak_memory()
    if kind == "forward":
        with torch.no_grad():
            case.run(state, steps=8)
    else:
        v = state.v.clone().requires_grad_()
        case.run(state.replace(v=v), policy, 8).final.x.square().sum().backward()
    return {"peak_above_start": peak_memory() - before}


def memory(results: Results, counts: list[int]) -> None:
    for name in SCENES[:2]:
        for kind, policy in (("forward", "none"), ("gradient", "none")):
            for B in counts:
                call = [sys.executable, __file__, "--memory-of", name, str(B), kind, policy]
                out = subprocess.run(call, capture_output=True, text=True)
                if out.returncode:
                    raise RuntimeError(out.stderr)
                peak = json.loads(out.stdout.splitlines()[-1])["peak_above_start"]
                results.add(
                    measure="memory",
                    scene=name,
                    kind=kind,
                    policy=policy,
                    substeps=8 * {"latte-art-nano": 8, "transporting-nano": 15}.get(name, 10),
                    scenes=B,
                    peak_above_start=peak,
                    per_scene=peak / B,
                    unit="MiB",
                )


def population(results: Results, candidates: int, threads: int, turns: int, steps: int) -> None:
    """Losses of candidates from the middle of an episode on, as searches by sampling ask for them."""
    clock = clock_of(threads)
    for name in SCENES[:2]:
        case = Case(name, threads)
        task, half = case.task, case.task.horizon // 2
        generator = torch.Generator().manual_seed(0)
        count = min(steps, task.horizon - half)
        noise = torch.randn(candidates, count, task.action_size, generator=generator)
        limit = task.action_limit
        usual = task.initial_actions()[half : half + count]
        actions = (usual + 0.1 * limit * noise).clamp(-limit, limit)
        states = case.batch(candidates)
        task.target() if getattr(task, "goal", ()) else None

        def batched(task=task, actions=actions, state=states, half=half) -> torch.Tensor:
            return task.evaluate(actions, state=state, start=half)[0]

        def single(task=task, actions=actions, state=case.state, half=half) -> torch.Tensor:
            return torch.cat([task.evaluate(a, state=state, start=half)[0] for a in actions])

        times: dict[Any, list[float]] = {batched: [], single: []}
        losses = {}
        with torch.no_grad():
            for call in times:
                losses[call] = call()
            for _ in range(turns):  # in turns, so that a drifting machine hits both
                for call, row in times.items():
                    begin = clock()
                    call()
                    row.append(clock() - begin)
        ratios = [s / b for s, b in zip(times[single], times[batched], strict=True)]
        apart = (losses[single] / losses[batched] - 1).abs().max()
        results.add(
            measure=f"population, {threads} threads",
            scene=name,
            threads=threads,
            candidates=candidates,
            steps=count,
            batched=min(times[batched]),
            one_by_one=min(times[single]),
            speedup=statistics.median(ratios),
            speedups=[round(r, 3) for r in ratios],
            largest_difference_of_losses=float(apart),
            unit="s",
        )


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", choices=("throughput", "memory", "population"))
    arguments.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--memory-of", nargs=4, help="internal: scene, B, kind, policy")
    given = arguments.parse_args()
    if given.memory_of:
        name, B, kind, policy = given.memory_of
        print(json.dumps(memory_of(name, int(B), kind, policy)))
        return
    results = Results("batch", given)
    quick = given.quick
    for threads in given.threads:
        if given.only in (None, "throughput"):
            counts = [1, 4] if quick else [1, 2, 4, 8, 16, 32, 64]
            throughput(results, counts, threads, 1 if quick else 3)
        if given.only in (None, "population"):
            sizes = (4, 1, 4) if quick else (16, 5, 10)
            population(results, sizes[0], threads, sizes[1], sizes[2])
    if given.only in (None, "memory"):
        memory(results, [4] if quick else [1, 8, 64])


if __name__ == "__main__":
    main()
