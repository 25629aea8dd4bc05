"""Names of tasks. Light, so that listing them imports no simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core import Task

__all__ = ["TASKS", "register_task"]

TASKS: dict[str, Callable[[], type[Task]]] = {}
"""Registered tasks: name → function that imports and returns the class."""


def register_task(name: str, loader: Callable[[], type[Task]]) -> None:
    """Make a task known to the registry and the command line.

    Args:
        name: e.g. "fluid/gathering".
        loader: Returns the class; called when the task is asked for, so listing stays fast.
    """
    TASKS[name] = loader
