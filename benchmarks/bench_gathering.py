"""Does the gradient through time beat CMA-ES on fluid/gathering at equal simulator steps?

    python benchmarks/bench_gathering.py [--quick] [--steps 60000] [--seeds 3] [--machine NAME]

One simulator step is one substep of one scene; the adjoint of a substep counts `adjoint_cost` more,
which is checked here against its measured time. Every method starts from rest, sees the same objective
and stops before it would exceed the budget. Writes results/gathering.<machine>.json; `--quick` runs the
test-sized pool and writes nothing.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time

import torch
from results import FOLDER, machine, parser
from rheograd.tasks.core import task_by_name
from rheograd.tasks.optim import Budget, optimize

METHODS = {
    "gradient, expanding horizon": ("gradient", {}, 1),
    "gradient, full horizon": ("gradient", {"expand": False, "lr": 0.1}, 1),
    "gradient, full horizon, step 0.2": ("gradient", {"expand": False}, 1),
    "CMA-ES, 10 knots": ("cma", {"knots": 10}, None),
    "CMA-ES, all actions": ("cma", {"knots": None}, 1),
}
"""Name → method, options, runs (None: as many as --seeds). Both steps that suit the expanding and the
full horizon are tried for the latter, so that it does not lose by a setting made for the other."""


def adjoint_ratio(task, repeats: int = 3) -> float:
    """Median time of the adjoint of a rollout over that of the forward pass without gradients."""
    actions = 0.3 * torch.ones(1, 10, task.action_size)
    ratios = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with torch.no_grad():
            task.total_loss(actions)
        middle = time.perf_counter()
        leaf = actions.clone().requires_grad_()
        loss = task.total_loss(leaf).sum()
        taped = time.perf_counter()
        loss.backward()
        end = time.perf_counter()
        # What the tape adds to the forward pass is part of the adjoint's price.
        ratios.append((end - taped + (taped - middle) - (middle - start)) / (middle - start))
    return statistics.median(ratios[1:])


def main() -> None:
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--steps", type=int, default=60_000)
    options.add_argument("--seeds", type=int, default=3)
    args = options.parse_args()
    name = "fluid/gathering-nano" if args.quick else "fluid/gathering"
    steps, seeds = (5000, 1) if args.quick else (args.steps, args.seeds)
    task = task_by_name(name)
    budget = Budget(simulator_steps=steps)
    with torch.no_grad():
        loss, final = task.evaluate(task.initial_actions())
    ratio = adjoint_ratio(task)
    rows = []
    for label, (method, settings, runs) in METHODS.items():
        for seed in range(seeds if runs is None else runs):
            result = optimize(task, method, budget=budget, seed=seed, **settings)
            row = {
                "method": label,
                "seed": seed,
                "loss": result.loss,
                "distance_m": result.distance,
                "success": result.success,
                "iterations": len(result.history),
                "simulator_steps": result.steps_used,
                "wall_s": round(result.wall_s, 1),
                "history": [[r.steps, r.horizon, r.loss, r.distance] for r in result.history],
            }
            rows.append(row)
            print(json.dumps({k: v for k, v in row.items() if k != "history"}), flush=True)

    def mean(label: str, key: str) -> float:
        return statistics.mean(r[key] for r in rows if r["method"] == label)

    first = next(iter(METHODS))
    summary = {
        label: {
            "loss": mean(label, "loss"),
            "distance_m": mean(label, "distance_m"),
            "solved": sum(r["success"] for r in rows if r["method"] == label),
            "runs": sum(r["method"] == label for r in rows),
            "distance_over_first": mean(label, "distance_m") / mean(first, "distance_m"),
            "loss_over_first": mean(label, "loss") / mean(first, "loss"),
        }
        for label in METHODS
    }
    report = {
        "question": __doc__.split("\n")[0],
        "task": name,
        "particles": task.model.particle_count,
        "substeps_per_rollout": task.horizon * task.substeps,
        "budget": {"simulator_steps": steps, "adjoint_cost": budget.adjoint_cost},
        "measured_adjoint_cost": round(ratio, 2),
        "at_rest": {"loss": float(loss[0]), "distance_m": float(task.metrics(final)["distance"])},
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine()},
        "torch": torch.__version__,
        "summary": summary,
        "runs": rows,
    }
    print(json.dumps(summary, indent=1))
    if not args.quick:
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"gathering.{args.machine or machine()}.json"
        path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
