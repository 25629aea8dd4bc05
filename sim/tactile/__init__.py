"""Gel sensors: soft bodies on a moving mount that feel what they touch, and the camera inside."""

from __future__ import annotations

from .camera import Fisheye, Pinhole, dome_camera, pad_camera
from .gel import gel_of
from .markers import Markers, fibonacci_markers, grid_markers, ring_markers
from .meshes import GelMesh, dome, pad
from .optics import OpticalModel, load_optics
from .raster import rasterize
from .sensor import GelSensor, Reading

__all__ = [
    "Fisheye",
    "GelMesh",
    "GelSensor",
    "Markers",
    "OpticalModel",
    "Pinhole",
    "Reading",
    "dome",
    "dome_camera",
    "fibonacci_markers",
    "gel_of",
    "grid_markers",
    "load_optics",
    "pad",
    "pad_camera",
    "rasterize",
    "ring_markers",
]
