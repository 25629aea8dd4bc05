"""What gradients, CMA-ES and PPO make of the fluid tasks at equal simulator steps.

    rheograd bench tasks --out runs/bench-fluid
    python benchmarks/bench_fluid.py runs/bench-fluid [--machine NAME]

The command measures; this keeps its rows in results/fluid.<machine>.json, where they replace those of
the same task, method and seed. `--quick` writes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from results import FOLDER, machine, parser
from rheograd.tasks.runs.bench import write_table


def main() -> None:
    options = parser(__doc__.split("\n")[0])
    options.add_argument("folder", type=Path, help="a run of `rheograd bench tasks`")
    args = options.parse_args()
    table = json.loads((args.folder / "table.json").read_text("utf-8"))
    file = FOLDER / f"fluid.{args.machine or machine(args.device)}.json"
    before = json.loads(file.read_text("utf-8"))["rows"] if file.exists() else []
    rows = {(r["task"], r["method"], r["seed"]): r for r in [*before, *table["rows"]]}
    ordered = sorted(rows.values(), key=lambda r: r["task"])  # methods stay in their order
    for row in table["rows"]:
        print(json.dumps({k: v for k, v in row.items() if k != "history"}))
    if not args.quick:
        write_table(file, {**table, "benchmark": "fluid", "rows": ordered})


if __name__ == "__main__":
    main()
