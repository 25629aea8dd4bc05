"""What gradients and CMA-ES make of the fluid tasks at equal simulator steps.

    python benchmarks/bench_fluid.py [--tasks latte-art-nano …] [--methods gradient cma] [--seeds 1]
                                     [--iterations 60] [--quick] [--machine NAME]

For each task: the loss of doing nothing and of the usual start, then a gradient search of so many
iterations, then every other method with the simulator steps the gradient has used (a substep of one
scene is 1, its adjoint 2.5 more). Rows of results/fluid.<machine>.json are kept per task, method and
seed, so tasks can be measured one by one; `--quick` runs two iterations and writes nothing.
"""

from __future__ import annotations

import json
import time

import torch
from results import FOLDER, machine, parser
from rheograd.tasks import fluid  # noqa: F401  registers the built-in tasks
from rheograd.tasks.core import TASKS, task_by_name
from rheograd.tasks.optim import Budget, optimize

SETTINGS = {
    "gradient": {"expand": False, "lr": 0.05},
    "cma": {"knots": 10},
}
"""Options per method, the same for all tasks; see OWN for exceptions."""
OWN: dict[tuple[str, str], dict] = {
    ("circulation-nano", "gradient"): {"expand": False, "lr": 0.1},
    ("latte-art-stir-nano", "gradient"): {"expand": False, "lr": 0.1},
    ("mixing-nano", "gradient"): {"expand": False, "lr": 0.15},
}
"""Options per task and method that replace those."""


def start_losses(task) -> dict:
    """Loss and metrics of doing nothing and of the usual start."""
    row = {}
    idle = torch.zeros(task.horizon, task.action_size)
    with torch.no_grad():
        for label, actions in (("do_nothing", idle), ("start", task.initial_actions())):
            loss, final = task.evaluate(actions)
            metrics = {k: float(v[0]) for k, v in task.metrics(final).items()}
            success = bool(task.success(final)[0])
            row[label] = {"loss": float(loss[0]), "metrics": metrics, "success": success}
    return row


def measure(name: str, method: str, seed: int, budget: Budget) -> tuple[dict, int]:
    """One search as a row, and the simulator steps it used."""
    task = task_by_name(f"fluid/{name}")
    row = start_losses(task)
    begin = time.process_time()
    options = OWN.get((name, method), SETTINGS.get(method, {}))
    result = optimize(task, method, budget=budget, seed=seed, **options)
    with torch.no_grad():
        _, final = task.evaluate(result.actions)
    row |= {
        "task": name,
        "method": method,
        "options": options,
        "seed": seed,
        "loss": result.loss,
        "metrics": {k: float(v[0]) for k, v in task.metrics(final).items()},
        "success": result.success,
        "reduction": 1 - result.loss / row["start"]["loss"],
        "iterations": len(result.history),
        "simulator_steps": result.steps_used,
        "cpu_s": round(time.process_time() - begin, 1),
        "history": [[r.steps, r.horizon, r.loss] for r in result.history],
    }
    return row, result.steps_used


def main() -> None:
    options = parser(__doc__.split("\n")[0])
    nano = sorted(n[6:] for n in TASKS if n.startswith("fluid/") and n.endswith("-nano"))
    options.add_argument("--tasks", nargs="+", default=nano)
    options.add_argument("--methods", nargs="+", default=["gradient", "cma"])
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--iterations", type=int, default=60)
    options.add_argument("--steps", type=int, help="simulator steps for all, not --iterations")
    args = options.parse_args()
    file = FOLDER / f"fluid.{args.machine or machine(args.device)}.json"
    count = 2 if args.quick else args.iterations
    for name in args.tasks:
        steps = args.steps
        for method in args.methods:
            for seed in range(1 if method == "gradient" else args.seeds):
                first = steps is None
                budget = Budget(iterations=count) if first else Budget(simulator_steps=steps)
                row, used = measure(name, method, seed, budget)
                steps = used if first else steps
                print(json.dumps({k: v for k, v in row.items() if k != "history"}), flush=True)
                if not args.quick:
                    rows = json.loads(file.read_text())["rows"] if file.exists() else []
                    key = (name, method, seed)
                    rows = [r for r in rows if (r["task"], r["method"], r["seed"]) != key]
                    text = json.dumps({"benchmark": "fluid", "rows": [*rows, row]}, indent=1)
                    file.write_text(text + "\n")


if __name__ == "__main__":
    main()
