"""Ship an operator that `repro_hard_moe` kept: weights in float16 where that does no harm, and a card.

    python benchmarks/repro_hard_moe.py --rows "sorption 256x101" --sizes 256x101 \\
        --models "integral windows" --seconds 300 --keep runs/hard-moe                   trains
    python benchmarks/ship_hard_moe.py --seconds 300                                      ships

Errors of the card are those of the weights as they ship, on samples and references of `repro_hard_moe`.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import torch
from hard_moe_fits import diffusing
from hard_moe_training import POINTS, RATE, SIZES, STAGES, generator, held_out, kept, shape
from results import FOLDER, machine
from rheograd.assets import shipped
from rheograd.operators.hard_moe import (
    HardOperator,
    IntegralProblem,
    StepProblem,
    evaluate,
    load_hard,
    save_hard,
)
from rheograd.operators.layers import relative_l2
from rheograd.sim.grid.pdes import DiffusionSorption, Grid, sorption_sides
from rheograd.sim.io.checkpoint import load_checkpoint

NAME, MODEL, SIZE = "sorption-256x101", "integral windows", "256x101"
DIFFUSIVITIES = (2.5e-4, 1e-3)
"""Which no training saw; of the training it is 5e-4 m²/s."""

HARM = 0.02
"""Largest relative increase of an error by float16."""


def measured(file: Path, folder: Path, others: bool = True) -> dict[str, float]:
    """On unseen samples of the training's grid and first frames, and of others."""
    model = load_hard(file)
    data = held_out(SIZE, "scalar", folder)
    every = load_hard(file)
    every.points = None
    out = {}
    for name, operator in (("", model), (", all rows in the fits", every)):
        found = evaluate(operator, data, generator(5))
        out[f"relative L2{name}"] = found["relative_l2"]
        out[f"worst{name}"] = found["worst"]
    out |= {"from the rows' solution": found["from long steps"], "jump at borders": found["jump"]}
    out["relative L2 of steps as long as frames"] = data.floor()
    places = ((SIZE, "rich"), ("64x26", "scalar"), ("1024x101", "scalar")) if others else ()
    for size, kind in places:
        cells, frames = shape(size)
        pde = DiffusionSorption(Grid(cells, sides=sorption_sides()), 500.0 / frames)
        other = load_hard(file, problem=IntegralProblem(pde, frames))
        error = evaluate(other, held_out(size, kind, folder), generator(5))["relative_l2"]
        out[f"relative L2, {kind} first frames, {size}"] = error
    for D in DIFFUSIVITIES if others else ():
        other = diffusing(D, data, SIZES[SIZE][2])
        operator = load_hard(file, problem=IntegralProblem(other.pde, shape(SIZE)[1]))
        out[f"relative L2, D = {D:g} m²/s"] = evaluate(operator, other, generator(5))["relative_l2"]
        out[f"distance of those solutions from D = 0.0005 m²/s, D = {D:g} m²/s"] = float(
            relative_l2(data.u[:, None], other.u[:, None]).mean()
        )
    return out


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=300.0, help="of the training")
    arguments.add_argument("--keep", type=Path, default=Path("runs/hard-moe"))
    arguments.add_argument("--data", type=Path, default=Path("runs/hard-moe-data"))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    measure = f"sorption {SIZE} scalar {MODEL}, seed 0, {given.seconds:g} s"
    state = kept(given.keep, measure)
    rows = json.loads((FOLDER / f"hard_moe.{machine()}.json").read_text("utf-8"))["rows"]
    row = next(row for row in rows if row["measure"] == measure)
    model: HardOperator = load_hard(state)
    whole, file = measured(state, given.data, False), shipped("hard_moe", NAME)
    for half in (True, False):
        save_hard(file, model, half)
        metrics = measured(file, given.data)
        wrong = [k for k in whole if "relative" in k and metrics[k] > (1 + HARM) * whole[k]]
        if not wrong:
            break
    told = load_checkpoint(file).config
    assert isinstance(model.problem, StepProblem)
    card = {
        "name": NAME,
        "commands": [
            f'python benchmarks/repro_hard_moe.py --rows "sorption {SIZE}" --sizes {SIZE} '
            f'--models "{MODEL}" --seconds {given.seconds:g} --keep runs/hard-moe',
            f"python benchmarks/ship_hard_moe.py --seconds {given.seconds:g}",
        ],
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "about": {
            "equation": "R(u) ∂u/∂t = D ∂²u/∂x², u = 1 at x = 0, u + D ∂u/∂x = 0 at x = 1, 500 s "
            "(diffusion–sorption of PDEBench)",
            "first frames": "constant in x, uniform in (0, 0.2)",
            "rows": f"those of the implicit step, summed over time; {POINTS} drawn a sample and fit",
        },
        **{name: told[name] for name in ("problem", "network", "options", "fit")},
        "precision": "float16" if half else "float32",
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {
            "solutions": 0,
            "grids": STAGES[SIZE],
            "batch": {size: SIZES[size][0] for size in STAGES[SIZE]},
            "lr": RATE,
            "seed": 0,
            "updates": row["updates by grid"],
            "cpu seconds": given.seconds,
        },
        "unseen samples": SIZES[SIZE][1],
        "metrics": {
            key: float(f"{value:.4g}")
            for key, value in (
                metrics
                | {"relative L2 in float32": whole["relative L2"], "before training": row["before"]}
            ).items()
        },
    }
    text = json.dumps(card, indent=1, ensure_ascii=False)
    file.with_suffix(".json").write_text(text + "\n", "utf-8")
    print(f"{file.stat().st_size / 1e6:.2f} MB, {json.dumps(card['metrics'], ensure_ascii=False)}")


if __name__ == "__main__":
    main()
