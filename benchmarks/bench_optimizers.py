"""Which optimizer of actions gets furthest on fluid/gathering-nano with the same simulator steps?

    python benchmarks/bench_optimizers.py [--quick] [--steps 38400] [--seeds 3] [--machine NAME]

Every method starts from rest and stops before it would exceed the budget; adjoints are charged 2.5
forward steps. Methods that draw random numbers run once per seed. Writes
results/optimizers.<machine>.json; `--quick` spends a tenth with one seed and writes nothing.
"""

from __future__ import annotations

import json
import os
import platform
import statistics

import torch
from results import FOLDER, machine, parser
from rheograd.tasks.core import task_by_name
from rheograd.tasks.optim import Budget, CMAConfig, optimize

METHODS = {
    "lbfgs": ("lbfgs", {}, False),
    "gradient, expanding": ("gradient", {}, False),
    "gradient, full horizon": ("gradient", {"expand": False, "lr": 0.1}, False),
    "continuation 30, 100, 300": ("continuation", {}, False),
    "hybrid": ("hybrid", {"cma": CMAConfig(population=8)}, True),
    "handover": ("hybrid", {"schedule": "handover", "cma": CMAConfig(population=8)}, True),
    "cma": ("cma", {}, True),
    "cem": ("cem", {"population": 16, "elites": 4}, True),
    "mppi": ("mppi", {"population": 16}, True),
    "mppi-receding": ("mppi-receding", {"population": 16}, True),
    "random": ("random", {}, True),
}
"""Name → method, options, whether it draws random numbers."""


def main() -> None:
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--steps", type=int, default=38_400)
    options.add_argument("--seeds", type=int, default=3)
    args = options.parse_args()
    steps, seeds = (args.steps // 10, 1) if args.quick else (args.steps, args.seeds)
    task, budget = task_by_name("fluid/gathering-nano"), Budget(simulator_steps=steps)
    with torch.no_grad():
        loss, final = task.evaluate(task.initial_actions())
    rows = []
    for label, (method, settings, random) in METHODS.items():
        for seed in range(seeds if random else 1):
            result = optimize(task, method, budget=budget, seed=seed, **settings)
            row = {
                "method": label,
                "seed": seed,
                "loss": result.loss,
                "distance_m": result.distance,
                "success": result.success,
                "stopped": result.stopped,
                "iterations": len(result.history),
                "simulator_steps": result.steps_used,
                "forward_steps": result.forward_steps,
                "adjoint_steps": result.adjoint_steps,
                "wall_s": round(result.wall_s, 1),
                "history": [[r.steps, r.horizon, r.loss] for r in result.history],
            }
            rows.append(row)
            print(json.dumps({k: v for k, v in row.items() if k != "history"}), flush=True)
    summary = {}
    for label in METHODS:
        own = [r for r in rows if r["method"] == label]
        mean = {k: statistics.mean(r[k] for r in own) for k in ("loss", "distance_m", "wall_s")}
        summary[label] = {**mean, "solved": sum(r["success"] for r in own), "runs": len(own)}
    report = {
        "question": __doc__.split("\n")[0],
        "budget": {"simulator_steps": steps, "adjoint_cost": budget.adjoint_cost},
        "substeps_per_rollout": task.horizon * task.substeps,
        "at_rest": {"loss": float(loss[0]), "distance_m": float(task.metrics(final)["distance"])},
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine()},
        "torch": torch.__version__,
        "summary": summary,
        "runs": rows,
    }
    print(json.dumps(summary, indent=1))
    if not args.quick:
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"optimizers.{args.machine or machine()}.json"
        path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
