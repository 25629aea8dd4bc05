"""How fast is MPM, forward and with gradients, and what does a long gradient cost in memory?

Throughput in million particle-substeps per second of a falling elastic block (neo-Hookean, 8 particles
per cell, 64³ grid, 16 substeps, gradients with respect to the whole state), every engine in turn and
several times, so that a drifting machine hits all of them; ratios are against the vectorized torch
reference of the same turn and the same number of threads. "independent" is the sum of one-thread runs
that share nothing, one per core: what the machine lets any scheme gain from its cores at that moment.

Memory: peak resident memory of a fresh process above that of its forward pass, for one gradient through
the horizon, per checkpoint policy, with the number of substeps run per substep of the horizon.

    python benchmarks/bench_mpm.py [--quick] [--only throughput|memory] [--device cuda]
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from results import Results, parser, peak_memory, reset_peak
from rheograd.sim.core.laws import NeoHookean
from rheograd.sim.core.rollout import rollout
from rheograd.sim.mpm import Grid, Group, MPMConfig, MPMModel, SolverMPM

SUBSTEPS = 16
N_GRID = 64


def falling_block(count: int) -> MPMModel:
    """A cube of `count` particles, 8 per cell, far from all walls."""
    n = round(count ** (1 / 3))
    dx = 1 / N_GRID
    while n * dx / 2 > 0.8:  # large blocks get a finer grid instead of a larger box
        dx /= 2
    side = n * dx / 2
    generator = torch.Generator().manual_seed(0)
    axis = 0.5 - side / 2 + side * (torch.arange(n) + 0.5) / n
    x = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    x = x + 0.1 * side / n * (2 * torch.rand(x.shape, generator=generator) - 1)
    group = Group("block", NeoHookean(E=1e4, nu=0.3), x, (side / n) ** 3, velocity=(1.0, 0.0, -1.0))
    return MPMModel(Grid((0.0,) * 3, (1.0,) * 3, dx), [group])


class Runner:
    """One engine on one scene; `forward` and `gradient` return seconds."""

    def __init__(self, model: MPMModel, engine: str, threads: int, device: str) -> None:
        # The reference is so much slower that fewer substeps measure it as well.
        self.substeps = SUBSTEPS if engine != "torch" else 2
        dt = 2e-5 if model.grid.dx < 1 / N_GRID else 1e-4
        config = MPMConfig(dt=dt, substeps=self.substeps, engine=engine, threads=threads)
        self.threads, self.device = threads, device
        self.solver = SolverMPM(model, config)
        self.state = model.initial_state(device=device)
        self.params = self.solver.prepare(None, self.state)  # as a rollout does, once
        self.count = model.particle_count
        self.gradient()  # compile, load, allocate

    def _timed(self, function) -> float:
        """Rate of the fastest of three calls, after one that shakes off what ran before: other users
        of a shared machine only ever slow a call down."""
        torch.set_num_threads(self.threads)
        function()
        fastest = float("inf")
        for _ in range(3):
            if self.device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            if self.device != "cpu":
                torch.cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - start)
        return self.count * self.substeps / fastest / 1e6

    def forward(self) -> float:
        def run() -> None:
            with torch.no_grad():
                self.solver.step(self.state, None, self.params)

        return self._timed(run)

    def gradient(self) -> float:
        fields = {n: getattr(self.state, n).clone().requires_grad_() for n in ("x", "v", "C", "F")}

        def run() -> None:
            end = self.solver.step(self.state.replace(**fields), None, self.params)
            (end.x**2).sum().backward()

        return self._timed(run)


class Independent:
    """One-thread Warp runners side by side; rates add up."""

    def __init__(self, model: MPMModel, count: int) -> None:
        self.runners = [Runner(model, "warp", 1, "cpu") for _ in range(count)]
        self.pool = ThreadPoolExecutor(count)

    def forward(self) -> float:
        return sum(self.pool.map(Runner.forward, self.runners))

    def gradient(self) -> float:
        return sum(self.pool.map(Runner.gradient, self.runners))


def throughput(results: Results, quick: bool, device: str, taichi: bool) -> None:
    cores = os.cpu_count() or 1
    if device == "cpu":
        sizes = [8_000] if quick else [30_000, 100_000]
        threads = sorted({1, min(2, cores), cores})
    else:
        sizes = [8_000] if quick else [100_000, 1_000_000]
        threads = [1]
    engines = ["torch", "warp"]
    if taichi and importlib.util.find_spec("taichi") and device == "cpu":
        engines.append("taichi")
    for size in sizes:
        model = falling_block(size)
        runners: dict = {(e, t): Runner(model, e, t, device) for e in engines for t in threads}
        if device == "cpu":
            runners |= {("independent", t): Independent(model, t) for t in threads}
        rates: dict = {}
        for _ in range(1 if quick else 7):
            for key, runner in runners.items():
                rates.setdefault(key, []).append((runner.forward(), runner.gradient()))
        for (engine, t), values in rates.items():
            base = rates["torch", t]
            single = rates[engine, threads[0]]

            def ratio(i: int, other: list, values: list = values) -> float:
                return statistics.median(v[i] / o[i] for v, o in zip(values, other, strict=True))

            results.add(
                measure="throughput",
                engine=engine,
                threads=t,
                particles=model.particle_count,
                forward=statistics.median(v[0] for v in values),
                gradient=statistics.median(v[1] for v in values),
                best_forward=max(v[0] for v in values),
                best_gradient=max(v[1] for v in values),
                forward_over_torch=ratio(0, base),
                gradient_over_torch=ratio(1, base),
                forward_over_one_thread=ratio(0, single),
                gradient_over_one_thread=ratio(1, single),
                unit="million particle-substeps per second",
            )


def memory_of(horizon: int, policy: str, particles: int, device: str) -> dict:
    """One gradient in this process; run me in a fresh one."""
    model = falling_block(particles)
    substeps = 5
    solver = SolverMPM(model, MPMConfig(dt=1e-4, substeps=substeps, threads=1))
    state = model.initial_state(device=device)
    runs = 0
    step = solver.step

    def counted(*arguments):
        nonlocal runs
        runs += 1
        return step(*arguments)

    v = state.v.clone().requires_grad_()
    end = rollout(solver, state.replace(v=v), 4, checkpoint=policy, save_every=4)
    end.final.x.sum().backward()  # from here on all modules and buffers are loaded
    solver.step = counted
    reset_peak()
    before = peak_memory() if device == "cpu" else 0.0
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    start = time.perf_counter()
    steps = horizon // substeps
    end = rollout(solver, state.replace(v=v), steps, checkpoint=policy, save_every=steps)
    (end.final.x**2).sum().backward()
    seconds = time.perf_counter() - start
    peak = peak_memory() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    state_size = sum(t.numel() * t.element_size() for t in state.tensors().values()) / 2**20
    return {
        "measure": "memory",
        "policy": policy,
        "horizon": horizon,
        "particles": model.particle_count,
        "peak_above_start": peak - before,
        "states": (peak - before) / state_size,
        "substeps_run_per_substep": runs / steps,
        "seconds": seconds,
        "unit": "MiB, state sizes, ratio, s",
    }


def memory(results: Results, quick: bool, device: str) -> None:
    horizons = [50, 200] if quick else [125, 500, 2000]
    particles = 8_000 if quick else 20_000
    for policy in ("none", "uniform", "revolve"):
        for horizon in horizons:
            call = [sys.executable, __file__, "--memory-of", str(horizon), policy, str(particles)]
            out = subprocess.run([*call, "--device", device], capture_output=True, text=True)
            if out.returncode:
                raise RuntimeError(out.stderr)
            results.add(**json.loads(out.stdout.splitlines()[-1]))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", choices=("throughput", "memory"))
    arguments.add_argument("--no-taichi", action="store_true", help="keep its rows as they are")
    arguments.add_argument("--memory-of", nargs=3, help="internal: horizon, policy, particles")
    given = arguments.parse_args()
    if given.memory_of:
        horizon, policy, particles = given.memory_of
        print(json.dumps(memory_of(int(horizon), policy, int(particles), given.device)))
        return
    results = Results("mpm", given)
    if given.only != "memory":
        throughput(results, given.quick, given.device, not given.no_taichi)
    if given.only != "throughput":
        memory(results, given.quick, given.device)


if __name__ == "__main__":
    main()
