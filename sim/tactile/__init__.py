"""Gel sensors: soft bodies on a moving mount that feel what they touch."""

from __future__ import annotations

from .gel import gel_of
from .meshes import GelMesh, dome, pad
from .sensor import GelSensor, Reading

__all__ = ["GelMesh", "GelSensor", "Reading", "dome", "gel_of", "pad"]
