"""Benchmark runs: the table task x optimizer x seed, with what each search was given made equal.

    FOLDER/table.json               one row per search, replaced whole whenever one has ended
    FOLDER/TASK/METHOD-SEED/        the search itself: a run of `rheograd optimize` without its motion
    FOLDER/curves.png, table.png    the same to look at, and as .svg
    FOLDER/metrics.jsonl            one line per sitting: what a search spent before it ended or stopped

Searches run one after the other, because they are timed. The first of a task runs `iterations`; all
others may spend the simulator steps that it has used. A search that raises becomes a row with its
error, and the next one begins. Whoever removes the folder of a search has it done again on resuming.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...sim.core.errors import RheogradError, StabilityError, StateError
from ...sim.io import Metrics, write_whole
from ..core import TASKS, Task
from ..optim import OPTIMIZERS
from ..optim.workers import process_pool
from .bench_config import BenchConfig
from .bench_pictures import draw
from .configs import UsageError, nearest, to_dict
from .devices import require_device
from .folder import Interrupted, RunFolder
from .learning_config import PlanConfig
from .planning import make_task, plan

__all__ = ["bench", "checked", "reference", "write_table"]

logger = logging.getLogger(__name__)

Report = Callable[[int, int, str, "dict[str, Any]"], None]
Key = tuple[str, str, int]
SAME_FOR_ALL_SEEDS = ("gradient", "lbfgs", "continuation")
"""Methods that draw nothing at random, unless their settings ask for it."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One search of the table."""

    task: str
    method: str
    seed: int
    first: bool
    """Whether its simulator steps are those of the task's other searches."""

    @property
    def key(self) -> Key:
        return self.task, self.method, self.seed

    @property
    def name(self) -> str:
        return f"{self.task}/{self.method}-{self.seed}"


def checked(config: BenchConfig) -> BenchConfig:
    """The configuration with its tasks written out.

    Raises:
        UsageError: unknown task, method or device; a count below 1.
    """
    from .. import fluid, shell, tactile  # noqa: F401  registers the built-in tasks

    where = "bench tasks"
    nano = sorted(n for n in TASKS if n.startswith("fluid/") and n.endswith("-nano"))
    config = dataclasses.replace(config, tasks=config.tasks or tuple(nano))
    for name in config.tasks:
        if name not in TASKS:
            raise UsageError(f"{where}: known tasks; got {name!r}. {nearest(name, TASKS)}")
    for name in config.methods:
        if name not in OPTIMIZERS:
            raise UsageError(f"{where}: known methods; got {name!r}. {nearest(name, OPTIMIZERS)}")
    for name in ("tasks", "methods"):
        values = getattr(config, name)
        if not values or len(set(values)) < len(values):
            raise UsageError(f"{where}: {name}, each once; got {values}. Correct them.")
    steps = 1 if config.simulator_steps is None else config.simulator_steps
    if min(config.seeds, config.iterations, config.workers, steps) < 1:
        raise UsageError(
            f"{where}: seeds, iterations, workers and simulator steps ≥ 1; got {config.seeds}, "
            f"{config.iterations}, {config.workers}, {config.simulator_steps}. Raise them."
        )
    require_device(where, config.device)
    return config


def bench(config: BenchConfig, folder: RunFolder, report: Report | None = None) -> dict[str, Any]:
    """Run what the folder lacks, failed searches included; returns the table.

    Args:
        config: As `checked` returns it.
        folder: Of a new or an earlier run.
        report: Called with the searches done, their number, the name of the present one, and a
            dictionary: "progress" and "total", and after each iteration what `optimize` reports.

    Raises:
        Interrupted: on Ctrl-C; the search under way has saved its last iteration.
        UsageError: the cluster does not answer.
    """
    todo = list(_cells(config))
    there = {cell.key for cell in todo if (folder.path / cell.name).is_dir()}
    table = _Table(folder.path / "table.json", [cell.key for cell in todo], there)
    sittings = Metrics(folder.path / "metrics.jsonl", keep=lambda row: _key(row) in there)
    with sittings, _cluster(config.cluster) as cluster:
        spent = _Spent(Metrics.read(folder.path / "metrics.jsonl"), sittings)
        done = len([cell for cell in todo if table.has(cell.key)])
        for k, cell in enumerate(todo):
            if table.has(cell.key):
                continue

            def step(event: dict[str, Any], done: int = done, name: str = cell.name) -> None:
                if report:
                    report(done, len(todo), name, event)

            try:
                with contextlib.ExitStack() as stack:
                    executor = cluster
                    if executor is None and config.workers > 1:
                        executor = stack.enter_context(process_pool(config.workers))
                    row = _measure(cell, config, table, folder, executor, step, spent)
            except (Interrupted, KeyboardInterrupt):
                raise Interrupted(
                    f"bench tasks: stopped in {cell.name}, after {done} of {len(todo)} searches. "
                    f"Continue with `rheograd bench tasks --resume {folder.path}`."
                ) from None
            table.add(cell.key, {**row, **spent.total(cell.key)})
            done += 1
            if k + 1 < len(todo) and todo[k + 1].task != cell.task:
                draw(table.rows, folder.path)
    draw(table.rows, folder.path)
    return table.content()


def reference(task: Task, actions: torch.Tensor) -> dict[str, Any]:
    """Loss, metrics and success of given actions (T, A); a loss of None where they break the scene."""
    try:
        with torch.no_grad():
            loss, final = task.evaluate(actions)
            metrics = {k: float(v[0]) for k, v in task.metrics(final).items()}
            success = bool(task.success(final)[0])
    except (StateError, StabilityError) as error:
        return {"loss": None, "metrics": {}, "success": False, "error": str(error)}
    return {"loss": float(loss[0]), "metrics": metrics, "success": success}


def write_table(path: Path, content: dict[str, Any]) -> None:
    """Write {…, "rows": […]} as JSON with a line per row."""
    head = json.dumps({k: v for k, v in content.items() if k != "rows"}, indent=1)
    rows = ",\n".join(json.dumps(r) for r in content["rows"])
    write_whole(path, f'{head[:-2]},\n "rows": [\n{rows}\n]}}\n')


def _cells(config: BenchConfig) -> Iterator[Cell]:
    for task in config.tasks:
        defaults = TASKS[task]().search_defaults
        for k, method in enumerate(config.methods):
            random = method not in SAME_FOR_ALL_SEEDS or defaults.get(method, {}).get("noise")
            for seed in range(config.seeds if random else 1):
                yield Cell(task, method, seed, first=k == 0 and seed == 0)


def _measure(
    cell: Cell,
    config: BenchConfig,
    table: _Table,
    folder: RunFolder,
    executor: Executor | None,
    step: Callable[[dict[str, Any]], None],
    spent: _Spent,
) -> dict[str, Any]:
    """One search as a row, or its error as one."""
    row: dict[str, Any] = {"task": cell.task, "method": cell.method, "seed": cell.seed}
    try:
        task = make_task(cell.task)
        task.device = config.device
        place = folder.path / cell.name
        begun = RunFolder.open(place, "optimize") if (place / "config.toml").is_file() else None
        # What has begun goes on with the settings it began with.
        row["options"] = dict(
            begun.config.get("optimizer", {})
            if begun
            else task.search_defaults.get(cell.method, {})
        )
        idle = torch.zeros(task.horizon, task.action_size)
        row["do_nothing"] = reference(task, idle)
        row["start"] = start = reference(task, task.initial_actions())
        limits = _budget(cell, config, table)
        ((limit, total),) = limits.items()
        counter = "iteration" if limit == "iterations" else "steps"
        step({"progress": 0, "total": total})
        settings = PlanConfig(
            task=cell.task,
            method=cell.method,
            seconds=math.inf,
            seed=cell.seed,
            device=config.device,
            optimizer=row["options"],
            **limits,
        )
        run = begun or RunFolder(place, "optimize", to_dict(settings))
        run.update(to_dict(settings))  # the limit may be another one than before a failure
        with spent.sitting(cell.key):
            result = plan(
                settings,
                run,
                resume=True,
                task=task,
                on_iteration=lambda e: step({**e, "progress": e[counter], "total": total}),
                executor=executor,
                motion=False,
            )
        row |= reference(task, result.actions)
        row["reduction"] = 1 - result.loss / start["loss"] if start["loss"] else None
        if result.unseen:
            row["unseen"] = result.unseen
        return row | {
            "iterations": len(result.history),
            "simulator_steps": result.steps_used,
            "forward_steps": result.forward_steps,
            "stopped": result.stopped,
            "history": [[r.steps, r.horizon, r.loss] for r in result.history],
        }
    except Interrupted:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        logger.warning("%s failed: %s", cell.name, text)
        logger.debug("%s", text, exc_info=True)
        return row | {"error": text}


def _budget(cell: Cell, config: BenchConfig, table: _Table) -> dict[str, Any]:
    """The limit of a search, as a field of `PlanConfig`."""
    if config.simulator_steps is not None:
        return {"simulator_steps": config.simulator_steps}
    if cell.first:
        return {"iterations": config.iterations}
    first = (cell.task, config.methods[0], 0)
    if not table.has(first):
        raise RheogradError(
            f"bench tasks: simulator steps that {config.methods[0]} has used; got none, as it "
            "failed. Cure that and resume, or pass --simulator-steps."
        )
    return {"simulator_steps": table.by_key[first]["simulator_steps"]}


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Executor | None]:
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            'bench tasks --cluster: needs Dask. Run pip install "rheograd[cluster]".'
        ) from error
    try:
        client = Client(address, timeout="20s")
    except OSError as error:
        raise UsageError(
            f"bench tasks --cluster: the address of a running Dask scheduler; got {address!r}: {error}. "
            "Start one with `dask scheduler`, and resume with its address."
        ) from error
    with client:
        yield client.get_executor(pure=False)


class _Spent:
    """Wall and CPU time of searches, over all sittings."""

    def __init__(self, before: list[dict[str, Any]], metrics: Metrics) -> None:
        self.rows, self.metrics = before, metrics

    @contextlib.contextmanager
    def sitting(self, key: Key) -> Iterator[None]:
        wall, cpu, ended = time.perf_counter(), _cpu_time(), "stopped"
        try:
            yield
            ended = "done"
        finally:
            row = dict(zip(("task", "method", "seed"), key, strict=True), ended=ended)
            row |= {"wall_s": time.perf_counter() - wall, "cpu_s": _cpu_time() - cpu}
            self.rows.append(row)
            self.metrics.add(**row)

    def total(self, key: Key) -> dict[str, float]:
        rows = [r for r in self.rows if _key(r) == key]
        return {k: round(sum(r[k] for r in rows), 2) for k in ("wall_s", "cpu_s")}


def _cpu_time() -> float:
    """Of this process and of the worker processes that have ended [s]."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class _Table:
    """Rows by task, method and seed, in the order of the table, kept in a file; it reads `known` ones."""

    def __init__(self, path: Path, order: list[Key], known: set[Key]) -> None:
        self.path, self.order = path, order
        rows = json.loads(path.read_text("utf-8"))["rows"] if path.is_file() else []
        self.by_key = {_key(r): r for r in rows if _key(r) in known}

    def has(self, key: Key) -> bool:
        return key in self.by_key and "error" not in self.by_key[key]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self.by_key[key] for key in self.order if key in self.by_key]

    def add(self, key: Key, row: dict[str, Any]) -> None:
        self.by_key[key] = _finite(row)
        write_table(self.path, self.content())

    def content(self) -> dict[str, Any]:
        import warp

        return {
            "benchmark": "tasks",
            "date": datetime.date.today().isoformat(),
            "rheograd": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "warp": warp.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "rows": self.rows,
        }


def _key(row: dict[str, Any]) -> Key:
    return row["task"], row["method"], row["seed"]


def _finite(value: Any) -> Any:
    """The value with numbers that JSON does not know as None."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
