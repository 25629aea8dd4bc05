"""Rollouts, meshes, checkpoints and metrics on disk.

Names are imported at first use, so that a program that only reads meshes does not load HDF5.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Checkpoint": "checkpoint",
    "CheckpointError": "checkpoint",
    "Metrics": "metrics",
    "import_gns": "gns",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "FieldFile": "fields",
    "FieldSet": "field_set",
    "load_fields": "fields",
    "open_fields": "field_set",
    "write_fields": "fields",
    "Field": "store",
    "FieldStats": "store",
    "RolloutReader": "store",
    "RolloutWindows": "store",
    "RolloutWriter": "store",
    "StoreError": "store",
    "field_stats": "store",
    "repair": "store",
    "ToolTrajectory": "trajectory",
    "read_trajectory": "trajectory",
    "resample": "trajectory",
    "write_trajectory": "trajectory",
    "vrmse": "store",
    "vtkhdf_view": "store",
    "write_whole": "metrics",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
