"""Optimizers of action sequences: gradient through time, CMA-ES.

    result = optimize(task, method="gradient", budget=Budget(wall_s=60))
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Budget": "base",
    "METHODS": "base",
    "OptimResult": "base",
    "Optimizer": "base",
    "Record": "base",
    "make_optimizer": "base",
    "optimize": "base",
    "CMAConfig": "cma",
    "CMAOptimizer": "cma",
    "GradientConfig": "gradient",
    "GradientOptimizer": "gradient",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
