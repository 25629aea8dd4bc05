"""Rollouts on disk: one HDF5 file is training data in The Well's layout and a VTKHDF animation.

`RolloutWriter` appends frames, `RolloutReader` and `RolloutWindows` read them, `vtkhdf_view` shows
other trajectories than the first in ParaView, `repair` finishes the file of a killed run. The file
is described in docs/data-format.md.
"""

from __future__ import annotations

from .store_data import FieldStats, RolloutWindows, field_stats, vrmse
from .store_format import Field, FieldLayout, Layout, StoreError
from .store_read import FieldView, RolloutReader
from .store_repair import repair
from .store_write import RolloutWriter
from .vtkhdf import vtkhdf_view

__all__ = [
    "Field",
    "FieldLayout",
    "FieldStats",
    "FieldView",
    "Layout",
    "RolloutReader",
    "RolloutWindows",
    "RolloutWriter",
    "StoreError",
    "field_stats",
    "repair",
    "vrmse",
    "vtkhdf_view",
]
