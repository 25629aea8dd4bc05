"""Candidates evaluated here, or by a worker of any `concurrent.futures.Executor`.

A task crosses to a worker as its class and configuration, never as its arrays: the worker builds it
once and keeps it while it works on few tasks. Wrapped tasks cross as their wrapper around such a task.
"""

from __future__ import annotations

import io
import logging
import math
import multiprocessing
import os
import pickle
import signal
import threading
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...sim.core.errors import ConvergenceError, InputError, StabilityError, StateError
from ..core import Task
from ..processes import end_with_parent
from .base import distances

__all__ = ["evaluate", "evaluate_remotely", "pack_task", "process_pool"]

logger = logging.getLogger(__name__)

Rows = tuple[list[float], list[float], int]
"""Losses, distances, simulator steps."""


@torch.no_grad()
def evaluate(
    task: Task, actions: Tensor, retry: bool = True, state: Any = None, start: int = 0
) -> Rows:
    """Candidates (B, T, A) as one batch.

    Args:
        task: Judges them.
        actions: In the task's unit.
        retry: Where a batch breaks, run its candidates once more, alone, to find the ones that do.
        state: Where all of them begin, one scene; default `reset`.
        start: Number of their first action.

    Returns:
        Loss of each, infinite where the simulation breaks; distance at the end [m]; steps spent.
    """
    before = task.simulated_steps
    try:
        scenes = None if state is None else state[[0] * len(actions)]
        loss, final = task.evaluate(actions, state=scenes, start=start)
        losses, ends = loss.tolist(), distances(task, final)
    except (ConvergenceError, StateError, StabilityError) as error:
        if len(actions) == 1 or not retry:
            logger.debug("candidates broke the simulation: %s", error)
            losses, ends = [math.inf] * len(actions), [math.nan] * len(actions)
        else:
            parts = [evaluate(task, one, False, state, start) for one in actions.split(1)]
            losses, ends = [p[0][0] for p in parts], [p[1][0] for p in parts]
    losses = [v if math.isfinite(v) else math.inf for v in losses]
    return losses, ends, task.simulated_steps - before


_tasks: dict[bytes, Task] = {}
_lock = threading.Lock()


def evaluate_remotely(packed: bytes, actions: np.ndarray, retry: bool = True) -> Rows:
    """`evaluate` in another process (or thread: one at a time, as a task keeps scratch)."""
    with _lock:
        if packed not in _tasks:
            while len(_tasks) >= 4:  # searches that share the worker; their scenes are its memory
                _tasks.pop(next(iter(_tasks)))
            _tasks[packed] = pickle.loads(packed)
        return evaluate(_tasks[packed], torch.from_numpy(np.array(actions)), retry)


def pack_task(task: Task) -> bytes:
    """A task as bytes that `pickle.loads` builds again, here or on another machine.

    Raises:
        InputError: a task whose class or configuration cannot be pickled.
    """
    stream = io.BytesIO()
    try:
        _pickler()(stream).dump(task)
    except Exception as error:
        raise InputError(
            f"{type(task).__name__}: a class at the top of a module, with a configuration that can be "
            f"pickled, for evaluation in other processes; got {type(error).__name__}: {error}. Move "
            "the class, or use jobs=1 without an executor."
        ) from error
    return stream.getvalue()


def _pickler() -> type:
    try:
        from cloudpickle import Pickler
    except ImportError:  # classes of `__main__` and functions inside functions then do not travel
        Pickler = pickle.Pickler

    class TaskPickler(Pickler):
        def reducer_override(self, value: Any) -> Any:
            own = type(value).__reduce__ is not object.__reduce__
            if isinstance(value, Task) and not own:
                return _build, (type(value), value.config, value.device)
            parent = getattr(super(), "reducer_override", None)
            return NotImplemented if parent is None else parent(value)

    return TaskPickler


def _build(cls: type[Task], config: Any, device: str | None) -> Task:
    task = cls(config)
    task.device = device
    return task


def process_pool(jobs: int) -> Executor:
    """Processes that share the cores, ignore Ctrl-C (their parent stops them) and end with it."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(threads,))


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    end_with_parent()
