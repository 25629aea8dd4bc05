"""Searches of one task by several methods within one budget, and the report of them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from results import FOLDER, machine
from rheograd.tasks.core import Task
from rheograd.tasks.optim import Budget, optimize

Methods = Mapping[str, tuple[str, dict[str, Any], int | None]]
"""Name → method, options, runs (None: as many as seeds)."""


def search_rows(task: Task, methods: Methods, budget: Budget, seeds: int) -> list[dict[str, Any]]:
    """One row per method and seed, printed without its history."""
    rows = []
    for label, (method, settings, runs) in methods.items():
        for seed in range(seeds if runs is None else runs):
            found = optimize(task, method, budget=budget, seed=seed, **settings)
            row = {
                "method": label,
                "seed": seed,
                "loss": found.loss,
                "distance_m": found.distance,
                "success": found.success,
                "stopped": found.stopped,
                "iterations": len(found.history),
                "simulator_steps": found.steps_used,
                "forward_steps": found.forward_steps,
                "adjoint_steps": found.adjoint_steps,
                "wall_s": round(found.wall_s, 1),
                "history": [[r.steps, r.horizon, r.loss, r.distance] for r in found.history],
            }
            rows.append(row)
            print(json.dumps({k: v for k, v in row.items() if k != "history"}), flush=True)
    return rows


def summed_up(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means of each method, and how many of its runs solved the task."""
    summary: dict[str, dict[str, Any]] = {}
    for label in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == label]
        mean = {k: statistics.mean(r[k] for r in own) for k in ("loss", "distance_m", "wall_s")}
        summary[label] = {**mean, "solved": sum(r["success"] for r in own), "runs": len(own)}
    return summary


def report(
    name: str, doc: str, args: argparse.Namespace, task: Task, budget: Budget,
    rows: list[dict[str, Any]], summary: dict[str, Any], /, **more: Any,
) -> None:  # fmt: skip
    """Print the summary and write results/NAME.<machine>.json; with --quick nothing is written."""
    with torch.no_grad():
        loss, final = task.evaluate(task.initial_actions())
    content = {
        "question": doc.split("\n")[0],
        **more,
        "budget": {"simulator_steps": budget.simulator_steps, "adjoint_cost": budget.adjoint_cost},
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
        path = FOLDER / f"{name}.{args.machine or machine()}.json"
        path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
