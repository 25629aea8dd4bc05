"""Manipulation by touch: gel sensors that follow, pull, open, tip, grasp and insert."""

from __future__ import annotations

import importlib
from typing import Any

from ..registry import register_task

__all__: list[str] = []

BUILT_IN = {
    "cable-straightening": ("cable_straightening", "CableStraightening"),
    "cable-straightening-nano": ("cable_straightening", "CableStraighteningNano"),
    "case-opening": ("case_opening", "CaseOpening"),
    "case-opening-nano": ("case_opening", "CaseOpeningNano"),
    "grasp-elastic": ("grasp_elastic", "GraspElastic"),
    "grasp-elastic-nano": ("grasp_elastic", "GraspElasticNano"),
    "grasp-plastic": ("grasp_plastic", "GraspPlastic"),
    "grasp-plastic-nano": ("grasp_plastic", "GraspPlasticNano"),
    "object-reposing": ("object_reposing", "ObjectReposing"),
    "object-reposing-nano": ("object_reposing", "ObjectReposingNano"),
    "peg-insertion": ("peg_insertion", "PegInsertion"),
    "peg-insertion-nano": ("peg_insertion", "PegInsertionNano"),
    "surface-following": ("surface_following", "SurfaceFollowing"),
    "surface-following-nano": ("surface_following", "SurfaceFollowingNano"),
}
"""Name → module and class."""


def _loader(module: str, name: str) -> Any:
    return lambda: getattr(importlib.import_module(f".{module}", __package__), name)


for _name, (_module, _class) in BUILT_IN.items():
    register_task(f"tactile/{_name}", _loader(_module, _class))
