"""`rheograd bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.markup import escape
from rich.table import Table

from ..runs.bench_config import BenchConfig
from ..runs.configs import UsageError, from_dict, merge, to_dict
from ..runs.folder import RunFolder
from .common import Dotted, console, given, layered, options_of, progress

app = App(
    name="bench",
    help="Compare what there is: tasks, the table task x optimizer x seed at equal simulator steps.",
    help_format="plaintext",
    result_action="return_value",
)
Options = options_of(BenchConfig, skip=("tasks",))
NONE = Options()


@app.command(name="tasks")
def tasks(
    *names: str,
    config: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    options: Annotated[Options, Parameter(name="*")] = NONE,
) -> None:
    """Search the actions of tasks with several methods at equal simulator steps.

    Args:
        names: Tasks of `rheograd list` [default: all fluid/…-nano].
        config: TOML file with these options; the command line wins.
        out: Folder of the run [default: runs/bench-DATE-TIME].
        resume: Continue the run in this folder, and try again what failed; --workers and --cluster
            may change.
    """
    from_line = merge(given(options), Dotted.nested())
    if resume is not None:
        if names or config or out or set(from_line) - {"workers", "cluster"}:
            raise UsageError(
                "bench tasks --resume: the folder, --workers and --cluster; got other options, which "
                "would make another table. Leave them out, or start a new run."
            )
        folder = RunFolder.open(resume, "bench tasks")
        settings = from_dict(BenchConfig, merge(folder.config, from_line), str(resume))
    else:
        if {"iterations", "simulator_steps"} <= set(from_line):
            raise UsageError(
                "bench tasks: --iterations of the first method, or --simulator-steps of all; got both. "
                "Leave one out."
            )
        if names:
            from_line["tasks"] = list(names)
        settings = layered(BenchConfig, "bench tasks", config, from_line)
        if out is not None:
            RunFolder.require_free(out, "bench tasks")
    with progress() as bars:
        total = bars.add_task("start torch and engines", total=None, note="")
        present = bars.add_task("", total=None, note="", visible=False)
        from ..runs.bench import bench, checked

        settings = checked(settings)
        if resume is None:
            folder = RunFolder.new(out, "bench", "bench tasks", to_dict(settings))

        def report(done: int, count: int, name: str, event: dict[str, Any]) -> None:
            bars.update(total, description="searches", completed=done, total=count)
            note = f"loss {event['loss']:.3g}" if "loss" in event else ""
            if not note:
                bars.reset(present, description=name, visible=True)
            bars.update(present, completed=event["progress"], total=event["total"], note=note)

        table = bench(settings, folder, report)
        bars.update(total, completed=len(table["rows"]), total=len(table["rows"]))
    _show(table["rows"])
    console.print(f"{folder.path / 'table.json'}\n{folder.path / 'curves.png'}")


def _show(rows: list[dict[str, Any]]) -> None:
    from ..runs.bench_pictures import HEADER, RIGHT, text_rows

    shown = Table(box=None, pad_edge=False, padding=(0, 1))
    several = any(row["seed"] for row in rows)
    hidden = {"ends at", "wall [s]"} | (set() if several else {"seed"})  # 80 columns are few
    chosen = [k for k, name in enumerate(HEADER) if name not in hidden]
    for k in chosen:
        name = HEADER[k].removeprefix("simulator ")
        shown.add_column(escape(name), justify="right" if k in RIGHT else "left", no_wrap=True)
    before = ""
    for text in text_rows(rows):
        style = "bold" if text[3] == "yes" else "red" if text[3] == "failed" else None
        parts = ("" if text[0] == before else text[0], *text[1:])
        shown.add_row(*(escape(parts[k]) for k in chosen), style=style)
        before = text[0]
    console.print(shown)
    for row in rows:
        if "error" in row:
            name = f"{row['task']}/{row['method']}-{row['seed']}"
            console.print(f"{name}: {row['error']}", style="red", markup=False)
