"""Manipulation by touch: gel sensors that follow, pull, open, tip, grasp and insert."""

from __future__ import annotations

import importlib
from typing import Any

from ..core import register_task

__all__: list[str] = []

BUILT_IN = {
    "case-opening": ("case_opening", "CaseOpening"),
    "case-opening-nano": ("case_opening", "CaseOpeningNano"),
    "surface-following": ("surface_following", "SurfaceFollowing"),
    "surface-following-nano": ("surface_following", "SurfaceFollowingNano"),
}
"""Name → module and class."""


def _loader(module: str, name: str) -> Any:
    return lambda: getattr(importlib.import_module(f".{module}", __package__), name)


for _name, (_module, _class) in BUILT_IN.items():
    register_task(f"tactile/{_name}", _loader(_module, _class))
