"""The table of a benchmark as text and as pictures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...viz.bench import Search, plot_searches, plot_table

__all__ = ["HEADER", "RIGHT", "draw", "text_rows"]

HEADER = (
    "task", "method", "seed", "solved", "loss", "of start", "ends at", "simulator steps",
    "wall [s]", "CPU [s]",
)  # fmt: skip
"""Columns of `text_rows`."""
RIGHT = (2, 4, 5, 7, 8, 9)
"""Columns of numbers."""


def text_rows(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table as texts: of each task doing nothing and the usual start, then the searches."""
    out: list[tuple[str, ...]] = []
    known: set[str] = set()
    for row in rows:
        task, start = row["task"], row.get("start", {})
        if task not in known and start:
            known.add(task)
            for label, name in (("do_nothing", "do nothing"), ("start", "usual start")):
                out.append((task, name, "", *_reached(row[label], start), "", "", ""))
        steps = f"{row['simulator_steps']:,}" if "simulator_steps" in row else ""
        costs = (steps, _time(row, "wall_s"), _time(row, "cpu_s"))
        seed = str(row["seed"])
        if "error" in row:
            error = row["error"] if len(row["error"]) <= 50 else f"{row['error'][:49]}…"
            out.append((task, row["method"], seed, "failed", "", "", error, *costs))
        else:
            out.append((task, row["method"], seed, *_reached(row, start), *costs))
    return out


def draw(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write curves and table as .png and .svg into the folder; nothing without rows.

    Curves are the best loss so far of records over the full horizon; of policies, the mean of the
    episodes that each iteration has explored. They end at the loss of the result.
    """
    panels: dict[str, list[Search]] = {}
    lines: dict[str, dict[str, float]] = {}
    for row in rows:
        searches = panels.setdefault(row["task"], [])
        for label, name in (("start", "usual start"), ("do_nothing", "do nothing")):
            if loss := row.get(label, {}).get("loss"):
                lines.setdefault(row["task"], {})[name] = loss
        if "error" not in row and row["loss"]:
            cost, loss = _curve(row)
            end = (row["simulator_steps"], row["loss"])
            searches.append(Search(row["method"], cost, loss, end, row["success"]))
    texts = text_rows(rows)
    solved = [text[3] == "yes" for text in texts]
    made = []
    for ending in ("png", "svg"):
        if any(panels.values()):
            made.append(plot_searches(
                panels, folder / f"curves.{ending}", references=lines, xlabel="simulator steps",
                title="Loss at equal simulator steps", ylabel="loss",
            ))  # fmt: skip
        if texts:
            made.append(plot_table(
                HEADER, texts, folder / f"table.{ending}", title="Searches at equal simulator steps",
                marked=solved, right=RIGHT,
            ))  # fmt: skip
    return made


def _curve(row: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Cost and loss on the way."""
    history = [r for r in row["history"] if r[2] is not None]
    longest = max((r[1] for r in history), default=0)
    cost = [steps for steps, horizon, _ in history if horizon == longest]
    losses = [loss for _, horizon, loss in history if horizon == longest]
    return cost, losses if "unseen" in row else list(itertools.accumulate(losses, min))


def _reached(found: dict[str, Any], start: dict[str, Any]) -> tuple[str, str, str, str]:
    """Solved, loss, loss over that of the start, metrics."""
    loss, first = found["loss"], start.get("loss")
    percent = 100 * loss / first if loss is not None and first else math.nan
    share = (
        "" if math.isnan(percent) else f"{percent:.3g} %" if percent < 999 else f"{percent:,.0f} %"
    )
    metrics = ", ".join(f"{k} {v:.4g}" for k, v in found["metrics"].items())
    solved = "yes" if found["success"] else "no"
    return solved, "broken" if loss is None else f"{loss:.4g}", share, metrics


def _time(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.1f}" if name in row else ""
