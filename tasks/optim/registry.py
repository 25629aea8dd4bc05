"""Optimizers by name, and the one function that runs any of them.

result = optimize(task, "cem", budget=Budget(simulator_steps=100_000), resume="runs/cem")
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from torch import Tensor

from ...sim.core.errors import InputError
from ..core import Task
from .base import Optimizer
from .records import Budget, OptimResult

__all__ = ["OPTIMIZERS", "make_optimizer", "optimize", "settings_class"]

logger = logging.getLogger(__name__)

OPTIMIZERS = {
    "gradient": ("gradient", "GradientOptimizer", "GradientConfig"),
    "lbfgs": ("lbfgs", "LBFGSOptimizer", "LBFGSConfig"),
    "continuation": ("continuation", "ContinuationOptimizer", "ContinuationConfig"),
    "cma": ("cma", "CMAOptimizer", "CMAConfig"),
    "cem": ("cem", "CEMOptimizer", "CEMConfig"),
    "mppi": ("mppi", "MPPIOptimizer", "MPPIConfig"),
    "mppi-receding": ("receding", "RecedingOptimizer", "RecedingConfig"),
    "random": ("random_search", "RandomOptimizer", "RandomConfig"),
    "hybrid": ("hybrid", "HybridOptimizer", "HybridConfig"),
    "apg": ("apg", "APGOptimizer", "APGConfig"),
    "shac": ("shac", "SHACOptimizer", "SHACConfig"),
    "ppo": ("rl", "PPOOptimizer", "PPOConfig"),
    "sac": ("rl", "SACOptimizer", "SACConfig"),
}
"""Optimizers by name: module, class and configuration."""


def settings_class(method: str) -> type:
    """Configuration of a method.

    Raises:
        InputError: unknown method, naming what exists.
    """
    if method not in OPTIMIZERS:
        raise InputError(
            f"optimize: method out of {sorted(OPTIMIZERS)}; got {method!r}. Choose one."
        )
    module, _, config = OPTIMIZERS[method]
    return getattr(importlib.import_module(f".{module}", __package__), config)


def make_optimizer(
    task: Task,
    method: str = "gradient",
    *,
    config: Any = None,
    budget: Budget | None = None,
    seed: int = 0,
    initial: Tensor | None = None,
    executor: Executor | None = None,
    objective: Callable[[Task], Task] | None = None,
    **options: Any,
) -> Optimizer:
    """Optimizer by name.

    Args:
        task: What to optimize.
        method: One of `OPTIMIZERS`.
        config: Settings of the method; default its own, with the task's `search_defaults`.
        budget: When to stop; default 90 s.
        seed: Of everything random.
        initial: Where to start, (T, A); default `task.initial_actions()`.
        executor: Runs the chunks of populations, e.g. `Client(...).get_executor()` of Dask; default
            this process, or `jobs` processes where the settings say so.
        objective: Turns the task into the one that is searched, e.g.
            `lambda task: Attraction(task, ...)`; the result is judged by the task itself.
        options: Fields of the settings to change.

    Raises:
        InputError: unknown method or option.
        ImportError: the method needs an extra that is not installed.
    """
    settings = settings_class(method)
    if config is None:
        options = {**task.search_defaults.get(method, {}), **options}
        config = settings()
    known = {f.name for f in dataclasses.fields(settings)}
    if unknown := sorted(set(options) - known):
        raise InputError(
            f"optimize: options of {method!r} out of {sorted(known)}; got {unknown}. Correct them."
        )
    config = _replaced(config, options)
    module, name, _ = OPTIMIZERS[method]
    cls = getattr(importlib.import_module(f".{module}", __package__), name)
    budget = budget or Budget(wall_s=90.0)
    optimizer = cls(
        task, config, budget, seed, initial=initial, executor=executor, objective=objective
    )
    limit, least = budget.simulator_steps, optimizer.final_cost
    if limit is not None and limit < least:
        raise InputError(
            f"Budget: simulator_steps ≥ {least} for {method!r}, which is what its final evaluation "
            f"takes; got {limit}. Raise it."
        )
    return optimizer


def optimize(
    task: Task,
    method: str = "gradient",
    *,
    config: Any = None,
    budget: Budget | None = None,
    seed: int = 0,
    on_iteration: Callable[[dict[str, Any]], None] | None = None,
    state: dict[str, Any] | None = None,
    resume: str | os.PathLike[str] | None = None,
    **options: Any,
) -> OptimResult:
    """Search actions (T, A), or a policy, that minimize `task.total_loss`.

    Args:
        task, method, config, budget, seed: see `make_optimizer`.
        on_iteration: Called after each iteration with the fields of `Record` and "optimizer", whose
            `state_dict()` can be saved, and `best_actions` looked at.
        state: A saved `state_dict()` to continue from; its spending counts against the budget.
        resume: Folder that is written to after each iteration (checkpoint.safetensors and
            metrics.jsonl), and continued from if it holds a checkpoint.
        options: `initial`, `executor`, `objective` of `make_optimizer`, or fields of the settings.

    Returns:
        Best actions and history. An interrupt (Ctrl-C) ends the search and keeps the best so far.

    Raises:
        InputError, ImportError: see `make_optimizer`.
        StateError, StabilityError: the simulation breaks at the very start of the search.
    """
    optimizer = make_optimizer(task, method, config=config, budget=budget, seed=seed, **options)
    folder = None if resume is None else _Folder(Path(resume))
    if state is None and folder is not None:
        state = folder.load()
    if state is not None:
        optimizer.load_state_dict(state)
    try:
        while not (stopped := optimizer.exhausted()):
            record = optimizer.iterate()
            logger.debug("%s: %s", method, record)
            event = dataclasses.asdict(record)
            if folder is not None:
                folder.save(optimizer, event)
            if on_iteration is not None:
                on_iteration({**event, "optimizer": optimizer})
    except KeyboardInterrupt:
        stopped = "interrupted"
    finally:
        optimizer.close()
    return optimizer.result(stopped)


def _replaced(config: Any, options: Mapping[str, Any]) -> Any:
    """Settings with some fields changed; a mapping changes fields of the settings within."""
    values = {
        name: _replaced(getattr(config, name), value) if isinstance(value, Mapping) else value
        for name, value in options.items()
    }
    return dataclasses.replace(config, **values)


class _Folder:
    """Checkpoint and metrics of one search."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self.rows = path / "checkpoint.safetensors", path / "metrics.jsonl"
        self.metrics: Any = None

    def load(self) -> dict[str, Any] | None:
        from ...sim.io import load_checkpoint

        if not self.checkpoint.is_file():
            return None
        return load_checkpoint(self.checkpoint).optimizer_state

    def save(self, optimizer: Optimizer, event: dict[str, Any]) -> None:
        from ...sim.io import save_checkpoint
        from ..runs.folder import Metrics

        if self.metrics is None:
            self.metrics = Metrics(self.rows, keep=optimizer.iteration - 1)
        self.metrics.add(**event)
        tensors = {"actions": optimizer.best_actions.detach().contiguous()}
        save_checkpoint(self.checkpoint, tensors, optimizer=optimizer.state_dict())
