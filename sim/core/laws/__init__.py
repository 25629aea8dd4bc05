"""Constitutive laws: parameters, Kirchhoff stress, plastic return; in torch and on the engine."""

from __future__ import annotations

from .base import LAWS, Law, law_by_name, parameter, register_law, setting, stack_coefficients
from .elastic import FixedCorotated, Hencky, NeoHookean, lame, young
from .liquid import HerschelBulkley, Liquid
from .plastic import DruckerPrager, VonMises
from .presets import JELLY, PLASTICINE, SAND, WATER
from .torch_law import TorchLaw

__all__ = [
    "JELLY",
    "LAWS",
    "PLASTICINE",
    "SAND",
    "WATER",
    "DruckerPrager",
    "FixedCorotated",
    "Hencky",
    "HerschelBulkley",
    "Law",
    "Liquid",
    "NeoHookean",
    "TorchLaw",
    "VonMises",
    "lame",
    "law_by_name",
    "parameter",
    "register_law",
    "setting",
    "stack_coefficients",
    "young",
]
