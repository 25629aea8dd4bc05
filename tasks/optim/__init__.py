"""Optimizers of action sequences and of policies; `docs/optimizers.md` says when to use which.

result = optimize(task, method="gradient", budget=Budget(wall_s=60))
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "APGConfig": "apg",
    "APGOptimizer": "apg",
    "Attraction": "objectives",
    "Budget": "records",
    "CEMConfig": "cem",
    "CEMOptimizer": "cem",
    "CMAConfig": "cma",
    "CMAOptimizer": "cma",
    "ContinuationConfig": "continuation",
    "ContinuationOptimizer": "continuation",
    "DescentConfig": "descent",
    "DescentOptimizer": "descent",
    "GradientConfig": "gradient",
    "GradientOptimizer": "gradient",
    "HybridConfig": "hybrid",
    "HybridOptimizer": "hybrid",
    "LBFGSConfig": "lbfgs",
    "LBFGSOptimizer": "lbfgs",
    "MLPPolicy": "policy",
    "MPPIConfig": "mppi",
    "MPPIOptimizer": "mppi",
    "OPTIMIZERS": "registry",
    "OptimResult": "records",
    "Optimizer": "base",
    "PPOConfig": "rl",
    "PPOOptimizer": "rl",
    "RandomConfig": "random_search",
    "RandomOptimizer": "random_search",
    "RecedingConfig": "receding",
    "RecedingOptimizer": "receding",
    "Record": "records",
    "SACConfig": "rl",
    "SACOptimizer": "rl",
    "SHACConfig": "shac",
    "SHACOptimizer": "shac",
    "TaskWrapper": "objectives",
    "closed_loop": "policy",
    "make_optimizer": "registry",
    "optimize": "registry",
    "settings_class": "registry",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
