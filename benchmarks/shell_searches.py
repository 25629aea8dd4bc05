"""Which search gets furthest on the nano shell tasks with the simulator steps of 14 gradient iterations?

    python benchmarks/shell_searches.py [METHOD …] [--tasks NAME …] [--seeds 1] [--again] [--machine NAME]

Searches that are in results/shell_tasks.<machine>.json already are left alone (`--again` repeats them),
and one that was stopped goes on from runs/shell-searches. Budgets are what `gradient` has spent on
a task; it runs first where it is missing. The table in docs/shell-tasks.md is printed at the end.
"""

from __future__ import annotations

import datetime
import json
import shutil
import time
from pathlib import Path
from typing import Any

from results import FOLDER, machine, parser
from rheograd.tasks.core import task_by_name
from rheograd.tasks.optim import Budget, optimize
from rheograd.tasks.runs.bench import reference, write_table

NAMES = (
    "lifting", "separating", "following", "folding-u", "folding-l", "pick-folding",
    "forming", "balancing", "throwing", "bouncing", "sliding", "card",
)  # fmt: skip
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient": ("gradient", {}),
    "lbfgs": ("lbfgs", {}),
    "cma": ("cma", {}),
    "handover": ("hybrid", {"schedule": "handover"}),
    "hybrid": ("hybrid", {}),
}
"""Row → optimizer and settings beyond the task's own."""
ITERATIONS = 14
RUNS = Path("runs/shell-searches")


def search(
    task_name: str, label: str, seed: int, budget: Budget, start: dict[str, Any] | None
) -> dict[str, Any]:
    """One row of the table; `start` where another row knows it."""
    method, settings = METHODS[label]
    task = task_by_name(f"shell/{task_name}-nano")
    options = {**task.search_defaults.get(method, {}), **settings}
    start = start or reference(task, task.initial_actions())
    folder, cpu = RUNS / f"{task_name}-{label}-{seed}", time.process_time()
    result = optimize(task, method, budget=budget, seed=seed, resume=folder, **settings)
    row = {
        "task": f"shell/{task_name}-nano", "method": label, "seed": seed, "options": options,
        "start": start, **reference(task, result.actions),
        "reduction": 1 - result.loss / start["loss"], "iterations": len(result.history),
        "simulator_steps": result.steps_used, "forward_steps": result.forward_steps,
        "stopped": result.stopped, "history": [[r.steps, r.horizon, r.loss] for r in result.history],
        "wall_s": round(result.wall_s, 2), "cpu_s": round(time.process_time() - cpu, 2),
    }  # fmt: skip
    shutil.rmtree(folder)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Losses (means over seeds; * solved by all seeds, ← the lowest) as Markdown."""
    labels = [m for m in METHODS if any(r["method"] == m for r in rows)]
    lines = ["| task | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
    for name in NAMES:
        own = {m: [r for r in rows if (r["task"], r["method"]) == (f"shell/{name}-nano", m)]
               for m in labels}  # fmt: skip
        means = {m: sum(r["loss"] for r in v) / len(v) for m, v in own.items() if v}
        cells = []
        for m in labels:
            if m not in means:
                cells.append("–")
                continue
            solved = "*" if all(r["success"] for r in own[m]) else ""
            best = " ←" if means[m] == min(means.values()) else ""
            cells.append(f"{means[m]:.2g}{solved}{best}")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__.split("\n")[0], again=True)
    options.add_argument("methods", nargs="*", default=list(METHODS), metavar="METHOD")
    options.add_argument("--tasks", nargs="+", default=list(NAMES))
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--out", type=Path, help="another file of results")
    args = options.parse_args()
    path = args.out or FOLDER / f"shell_tasks.{args.machine or machine()}.json"
    content = json.loads(path.read_text("utf-8")) if path.exists() else {"rows": []}
    content = {"benchmark": "tasks", **content, "date": datetime.date.today().isoformat()}
    for name in args.tasks:
        for label in ("gradient", *(m for m in args.methods if m != "gradient")):
            drawn = METHODS[label][0] in ("cma", "hybrid")
            for seed in range(args.seeds if drawn else 1):
                rows = content["rows"]
                key = (f"shell/{name}-nano", label, seed)
                kept = [r for r in rows if (r["task"], r["method"], r["seed"]) != key]
                repeat = args.again and label in args.methods
                if len(kept) < len(rows) and not repeat:
                    continue
                spent = [r for r in rows if (r["task"], r["method"]) == (key[0], "gradient")]
                budget = Budget(iterations=1 if args.quick else ITERATIONS)
                if label != "gradient":
                    steps = spent[0]["simulator_steps"]
                    budget = Budget(simulator_steps=steps // 4 if args.quick else steps)
                row = search(name, label, seed, budget, spent[0]["start"] if spent else None)
                content["rows"] = [*kept, row]
                short = {k: row[k] for k in ("loss", "success", "simulator_steps", "cpu_s")}
                losses = " ".join(f"{h[2]:.3g}" for h in row["history"])
                print(name, label, seed, json.dumps(short), "|", losses, flush=True)
                if not args.quick:
                    write_table(path, content)
    print(table(content["rows"]))


if __name__ == "__main__":
    main()
