"""Which recipe learns a neural law from a motion in two minutes, and what does it predict?

Prints one JSON line per measurement and writes them to `benchmarks/results/nclaw.<machine>.json`.
Positions are compared as mean square errors [m²] over every fifth frame, particles and axes. CPU
time counts more than wall time, since machines are shared.

    python benchmarks/bench_nclaw.py [anchors] [classical] [recipes] [--machine NAME]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import torch
from rheograd.operators.nclaw import (
    THROW_SEEDS,
    FitConfig,
    NeuralElastic,
    NeuralHyperelastic,
    NeuralPlastic,
    TrainConfig,
    Trajectory,
    fit_classical,
    metric_mse_every5,
    nclaw_scene,
    neural_law,
    predict,
    random_throw,
    simulate_truth,
    train,
)
from rheograd.sim import mpm
from rheograd.sim.core.errors import RheogradError
from rheograd.sim.core.laws import FixedCorotated, Hencky, NeoHookean

STEPS = 200
FAST = TrainConfig.fast()
RECIPES = {
    # name: (config, options of the elastic network, options of the plastic network)
    # None in place of options: an energy network, and no plastic one
    "untrained": (None, {}, {}),
    "fast": (FAST, {"scale": 1e4}, {"gain": 0.01}),
    "fast, short segments only, plastic from the start": (
        dataclasses.replace(FAST, horizon=(1, 8), plastic_from=1, lr_plastic=1e-2),
        {"scale": 1e4},
        {},
    ),
    "fast, no output scale (learning rate 0.3)": (
        dataclasses.replace(FAST, lr_elastic=0.3),
        {},
        {"gain": 0.01},
    ),
    "fast, linear elastic skip": (FAST, {"scale": 1e4, "skip": (2e4, 0.3)}, {"gain": 0.01}),
    "segments of 25 steps only": (
        dataclasses.replace(FAST, horizon=(25, 25), updates=160, budget=25),
        {"scale": 1e4},
        {"gain": 0.01},
    ),
    "fast, energy network without plastic flow": (FAST, None, None),
    "paper, 30 of 300 updates": (dataclasses.replace(TrainConfig.paper(), updates=30), {}, {}),
}


def strong_throw():
    """A throw unlike the training one in speed, direction and spin, onto the floor."""
    return nclaw_scene("jelly", velocity=(1.5, -1.0, -2.5), angular=(-2.0, 3.0, 1.0))


class Jelly:
    """Truths to compare with, simulated once."""

    def __init__(self) -> None:
        self.scene = nclaw_scene("jelly")
        self.long = simulate_truth(self.scene.solver(mpm), 1000)
        self.truth = self.long.head(STEPS)
        scenes = {f"throw {s}": random_throw("jelly", s) for s in THROW_SEEDS}
        scenes["strong throw"] = strong_throw()
        self.throws = {n: (s, simulate_truth(s.solver(mpm), STEPS)) for n, s in scenes.items()}

    def errors(self, law) -> dict[str, float | None]:
        tests = {"reconstruction": (self.scene, self.truth), **self.throws}
        tests["1000 steps"] = (self.scene, self.long)
        return {name: error(scene, truth, law) for name, (scene, truth) in tests.items()}


def error(scene, truth: Trajectory, law) -> float | None:
    """Error of a free rollout [m²], or None when it left the grid or broke down."""
    try:
        return metric_mse_every5(predict(scene.solver(mpm, law), truth), truth.x)
    except RheogradError:
        return None


def timed(function):
    """(result, seconds of wall time, seconds of CPU time)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, round(time.perf_counter() - wall, 1), round(time.process_time() - cpu, 1)


def anchors():
    for material in ("jelly", "plasticine", "sand", "water"):
        solver = nclaw_scene(material).solver(mpm)
        truth, wall, cpu = timed(lambda solver=solver: simulate_truth(solver, 1000))
        displacement = float((truth.x - truth.x[0]).square().mean().sqrt())
        yield {
            "what": "anchor",
            "material": material,
            "wall_s": wall,
            "cpu_s": cpu,
            "rms_displacement_m": round(displacement, 4),
            "final_height_m": round(float(truth.x[-1, :, 2].mean()), 4),
        }


def classical(jelly: Jelly):
    late = Trajectory(*(getattr(jelly.long, n)[300:601] for n in ("x", "v", "C", "F")))
    solver = jelly.scene.solver(mpm, FixedCorotated(E=3e4, nu=0.2))
    config = FitConfig(horizon=100, segments=3)
    fit, wall, cpu = timed(lambda: fit_classical(solver, late, {"E": 3e4}, config))
    yield {
        "what": "identify E",
        **fit.values,
        "evaluations": len(fit.history),
        "wall_s": wall,
        "cpu_s": cpu,
    }
    for law in (FixedCorotated, NeoHookean, Hencky):
        for horizon, segments in ((20, 8), (STEPS, 1)):
            solver = jelly.scene.solver(mpm, law(E=3e4, nu=0.3))
            config = FitConfig(horizon=horizon, segments=segments)
            start = {"E": 3e4, "nu": 0.3}
            fit, wall, cpu = timed(
                lambda s=solver, c=config, p=start: fit_classical(s, jelly.truth, p, c)
            )
            yield {
                "what": "classical",
                "law": law.__name__,
                "horizon": horizon,
                **fit.values,
                "wall_s": wall,
                "cpu_s": cpu,
                **jelly.errors(law(**fit.values)),
            }


def recipes(jelly: Jelly, names):
    F = jelly.truth.F[::10].reshape(-1, 3, 3)
    law = jelly.scene.law
    tau = law.stress(F, None, law.coefficients())
    for name in names:
        config, elastic_options, plastic_options = RECIPES[name]
        generator = torch.Generator().manual_seed(0)
        if elastic_options is None:
            elastic, plastic = NeuralHyperelastic(generator=generator), None
        else:
            elastic = NeuralElastic(generator=generator, **elastic_options)
            plastic = NeuralPlastic(generator=generator, **plastic_options)
        solver = jelly.scene.solver(mpm, neural_law(elastic, plastic))
        row = {"what": "recipe", "name": name}
        if config is not None:
            try:
                history, row["wall_s"], row["cpu_s"] = timed(
                    lambda s=solver, c=config: train(s, jelly.truth, c)
                )
                row["simulated_steps"] = history.simulated[-1]
            except RheogradError as failure:
                yield {**row, "failure": str(failure)}
                continue
        with torch.no_grad():
            wrong = ((elastic(F) - tau).square().sum() / tau.square().sum()).sqrt()
        yield {
            **row,
            "stress_error": round(float(wrong), 4),
            **jelly.errors(neural_law(elastic, plastic)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["anchors", "classical", "recipes"])
    parser.add_argument("--recipe", action="append", help="only these recipes")
    parser.add_argument("--machine", default=f"{platform.machine()}-{os.cpu_count()}core")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = Path(__file__).parent / "results" / f"nclaw.{arguments.machine}.json"
    rows = json.loads(file.read_text("utf-8")) if file.exists() else []
    jelly = Jelly() if {"classical", "recipes"} & set(arguments.parts) else None
    parts = {
        "anchors": anchors,
        "classical": lambda: classical(jelly),
        "recipes": lambda: recipes(jelly, arguments.recipe or RECIPES),
    }
    keys = ("what", "material", "law", "horizon", "name")
    for part in arguments.parts:
        for row in parts[part]():
            print(json.dumps(row), flush=True)
            same = [row.get(k) for k in keys]
            rows = [r for r in rows if [r.get(k) for k in keys] != same] + [row]
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
