"""Which optimizer of actions gets furthest on fluid/gathering-nano with the same simulator steps?

    python benchmarks/bench_optimizers.py [--quick] [--steps 38400] [--seeds 3] [--machine NAME]

Every method starts from rest and stops before it would exceed the budget; adjoints are charged 2.5
forward steps. Methods that draw random numbers run once per seed. Writes
results/optimizers.<machine>.json; `--quick` spends a tenth with one seed and writes nothing.
"""

from __future__ import annotations

from results import parser
from rheograd.tasks.core import task_by_name
from rheograd.tasks.optim import Budget, CMAConfig
from searches import report, search_rows, summed_up

METHODS = {
    "lbfgs": ("lbfgs", {}, 1),
    "gradient, expanding": ("gradient", {}, 1),
    "gradient, full horizon": ("gradient", {"expand": False, "lr": 0.1}, 1),
    "continuation 30, 100, 300": ("continuation", {}, 1),
    "hybrid": ("hybrid", {"cma": CMAConfig(population=8)}, None),
    "handover": ("hybrid", {"schedule": "handover", "cma": CMAConfig(population=8)}, None),
    "cma": ("cma", {}, None),
    "cem": ("cem", {"population": 16, "elites": 4}, None),
    "mppi": ("mppi", {"population": 16}, None),
    "mppi-receding": ("mppi-receding", {"population": 16}, None),
    "random": ("random", {}, None),
}
"""Name → method, options, runs (None: as many as --seeds, since it draws random numbers)."""


def main() -> None:
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--steps", type=int, default=38_400)
    options.add_argument("--seeds", type=int, default=3)
    args = options.parse_args()
    steps, seeds = (args.steps // 10, 1) if args.quick else (args.steps, args.seeds)
    task, budget = task_by_name("fluid/gathering-nano"), Budget(simulator_steps=steps)
    rows = search_rows(task, METHODS, budget, seeds)
    report("optimizers", __doc__, args, task, budget, rows, summed_up(rows))


if __name__ == "__main__":
    main()
