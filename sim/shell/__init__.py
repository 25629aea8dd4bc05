"""Sheets of paper, card, cloth, film and foil in physical units, with creases; on `sim/fem/`."""

from .creases import PlasticSheet, return_map
from .meshes import SheetMesh, disc, hinges_along, join, load_sheet, rectangle
from .presets import sheet_of
from .shapes import bend

__all__ = [
    "PlasticSheet",
    "SheetMesh",
    "bend",
    "disc",
    "hinges_along",
    "join",
    "load_sheet",
    "rectangle",
    "return_map",
    "sheet_of",
]
