"""Names of tasks. Light, so that listing them imports no simulator."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["TASKS", "register_family", "register_task"]

TASKS: dict[str, Callable[[], type[Any]]] = {}
"""Registered tasks: name → function that imports and returns the class."""


def register_task(name: str, loader: Callable[[], type[Any]]) -> None:
    """Make a task known to the registry and the command line.

    Args:
        name: e.g. "fluid/gathering".
        loader: Returns the class; called when the task is asked for, so listing stays fast.
    """
    TASKS[name] = loader


def register_family(package: str, tasks: Mapping[str, tuple[str, str]]) -> None:
    """Register the tasks of a folder under its name.

    Args:
        package: the folder's `__package__`; its last part begins the names.
        tasks: name → module in the folder and class in it.
    """
    family = package.rpartition(".")[2]
    for name, (module, cls) in tasks.items():
        register_task(f"{family}/{name}", _loader(f"{package}.{module}", cls))


def _loader(module: str, name: str) -> Callable[[], type[Any]]:
    return lambda: getattr(importlib.import_module(module), name)
