"""Manipulation of thin shells: fingers that lift, pull, fold and form sheets."""

from __future__ import annotations

import importlib
from typing import Any

from ..core import register_task

__all__: list[str] = []

BUILT_IN = {
    "bouncing": ("bouncing", "Bouncing"),
    "bouncing-nano": ("bouncing", "BouncingNano"),
    "folding-l": ("folding", "FoldingL"),
    "folding-l-nano": ("folding", "FoldingLNano"),
    "folding-u": ("folding", "FoldingU"),
    "folding-u-nano": ("folding", "FoldingUNano"),
    "lifting": ("lifting", "Lifting"),
    "lifting-nano": ("lifting", "LiftingNano"),
}
"""Name → module and class."""


def _loader(module: str, name: str) -> Any:
    return lambda: getattr(importlib.import_module(f".{module}", __package__), name)


for _name, (_module, _class) in BUILT_IN.items():
    register_task(f"shell/{_name}", _loader(_module, _class))
