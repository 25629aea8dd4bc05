"""Does the gradient through time beat CMA-ES on fluid/gathering at equal simulator steps?

    python benchmarks/bench_gathering.py [--quick] [--steps 60000] [--seeds 3] [--machine NAME]

One simulator step is one substep of one scene; the adjoint of a substep counts `adjoint_cost` more,
which is checked here against its measured time. Every method starts from rest, sees the same objective
and stops before it would exceed the budget. Writes results/gathering.<machine>.json; `--quick` runs the
test-sized pool and writes nothing.
"""

from __future__ import annotations

import statistics
import time

import torch
from results import parser
from rheograd.tasks.core import task_by_name
from rheograd.tasks.optim import Budget
from searches import report, search_rows, summed_up

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
    ratio = adjoint_ratio(task)
    rows = search_rows(task, METHODS, budget, seeds)
    summary = summed_up(rows)
    first = next(iter(summary.values()))
    for row in summary.values():
        for key in ("distance", "loss"):
            unit = "_m" if key == "distance" else ""
            row[f"{key}_over_first"] = row[key + unit] / first[key + unit]
    report(
        "gathering", __doc__, args, task, budget, rows, summary, task=name,
        particles=task.model.particle_count, measured_adjoint_cost=round(ratio, 2),
    )  # fmt: skip


if __name__ == "__main__":
    main()
