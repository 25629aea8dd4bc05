"""Control of flows on grids: a cylinder that turns in a stream."""

from __future__ import annotations

import importlib
from typing import Any

from ..registry import register_task

__all__: list[str] = []

BUILT_IN = {
    "cylinder": ("cylinder", "Cylinder"),
    "cylinder-lift": ("cylinder", "CylinderLift"),
    "cylinder-lift-nano": ("cylinder", "CylinderLiftNano"),
    "cylinder-nano": ("cylinder", "CylinderNano"),
}
"""Name → module and class."""


def _loader(module: str, name: str) -> Any:
    return lambda: getattr(importlib.import_module(f".{module}", __package__), name)


for _name, (_module, _class) in BUILT_IN.items():
    register_task(f"grid/{_name}", _loader(_module, _class))
