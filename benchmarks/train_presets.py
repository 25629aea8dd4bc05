"""Train the operators on fields that ship, `rheograd.operators.presets`, and write weights and cards.

    python benchmarks/train_presets.py t1/flow-64              into assets/t1
    python benchmarks/train_presets.py t1/flow-64 --measure    only the errors, of what is there

One core. Errors are those of the weights as they ship, in float16, on fields that nothing was chosen
on, and on the same functions on twice the cells, which no operator was trained on.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path

import torch
from field_data import kept
from results import machine
from rheograd.operators.layers import GridOperator, load_operator
from rheograd.operators.presets import PRESETS, PROBLEMS, sample_problem, train_preset
from rheograd.operators.train import measure_operator

UNSEEN, SEED = 60, 1234
"""Fields of the card."""


def fields(problem: str, count: int, cells: int, seed: int, folder: Path) -> tuple:
    """Samples of a problem, kept in a file."""

    def make() -> dict:
        x, y = sample_problem(problem, count, cells, seed)
        return {"x": x, "y": y}

    data = kept(folder / f"{problem}-{count}-{cells}-{seed}.pt", make)
    return data["x"], data["y"]


def errors(model: GridOperator, problem: str, folder: Path) -> dict[str, float]:
    """On 64² cells, on 128² cells."""
    found = {}
    for cells in (64, 128):
        values = measure_operator(model, *fields(problem, UNSEEN, cells, SEED, folder))
        found[f"relative L2 on {cells}²"] = values["relative_l2"]
        found[f"worst on {cells}²"] = values["worst"]
        found[f"rmse on {cells}²"] = values["rmse 0"]
    return found


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {k: float(f"{v:.4g}") for k, v in values.items()}


def train(name: str, out: Path, data: Path) -> None:
    """Train one of PRESETS; write weights and their card."""
    kind, _, problem = name.partition("/")
    samples = PROBLEMS[problem].samples
    seen = fields(problem, samples, 64, 0, data)
    start = time.process_time()
    fitted = train_preset(name, data=seen, unseen=fields(problem, 40, 64, 1, data))
    used = time.process_time() - start
    file = fitted.model.save(out / kind / f"{problem}.safetensors", half=True)
    last = fitted.history.loss[-(samples // PRESETS[name].batch) :]
    in_single = errors(fitted.model, problem, data)["relative L2 on 64²"]
    found = errors(load_operator(file), problem, data)
    card = {
        "name": name,
        "command": f"python benchmarks/train_presets.py {name}",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "problem": PROBLEMS[problem].about,
        "training fields": {"samples": samples, "cells": [64, 64], "seed": 0},
        "unseen fields": {"samples": UNSEEN, "cells": [[64, 64], [128, 128]], "seed": SEED},
        "operator": fitted.model.description(),
        "parameters": sum(p.numel() for p in fitted.model.parameters()),
        "training": {
            "seed": 0,
            "updates": PRESETS[name].updates,
            "batch": PRESETS[name].batch,
            "lr": PRESETS[name].lr,
            **rounded({"cpu seconds": used, "relative L2": sum(last) / len(last)}),
        },
        "metrics": rounded(
            found
            | {
                "relative L2 of the mean": fitted.metrics["relative_l2 of the mean"],
                "relative L2 on 64² before float16": in_single,
            }
        ),
    }
    text = json.dumps(card, indent=1, ensure_ascii=False)
    file.with_suffix(".json").write_text(text + "\n", "utf-8")
    print(json.dumps(card["training"]), json.dumps(card["metrics"], ensure_ascii=False))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("names", nargs="+", choices=sorted(PRESETS))
    arguments.add_argument("--measure", action="store_true", help="train nothing, write nothing")
    arguments.add_argument("--out", type=Path, default=Path("assets"))
    arguments.add_argument("--data", type=Path, default=Path("runs/t1-data"))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    for name in given.names:
        if given.measure:
            found = errors(load_operator(name), name.partition("/")[2], given.data)
            print(name, json.dumps(rounded(found), ensure_ascii=False))
        else:
            train(name, given.out, given.data)


if __name__ == "__main__":
    main()
