"""Fluid manipulation: tools that move liquids and gas, and what floats in them."""

from __future__ import annotations

from ..registry import register_family

__all__: list[str] = []

register_family(
    __package__,
    {
        "gathering": ("gathering", "Gathering"),
        "gathering-3d": ("gathering", "Gathering3D"),
        "gathering-nano": ("gathering", "GatheringNano"),
        "gathering-easy": ("gathering_easy", "GatheringEasy"),
        "gathering-easy-nano": ("gathering_easy", "GatheringEasyNano"),
        "gathering-hard": ("gathering_hard", "GatheringHard"),
        "gathering-hard-nano": ("gathering_hard", "GatheringHardNano"),
        "icecream-dynamic": ("icecream_dynamic", "IceCreamDynamic"),
        "icecream-dynamic-nano": ("icecream_dynamic", "IceCreamDynamicNano"),
        "icecream-static": ("icecream_static", "IceCreamStatic"),
        "icecream-static-nano": ("icecream_static", "IceCreamStaticNano"),
        "latte-art": ("latte_art", "LatteArt"),
        "latte-art-nano": ("latte_art", "LatteArtNano"),
        "latte-art-stir": ("latte_art_stir", "LatteArtStir"),
        "latte-art-stir-nano": ("latte_art_stir", "LatteArtStirNano"),
        "circulation": ("circulation", "Circulation"),
        "circulation-nano": ("circulation", "CirculationNano"),
        "mixing": ("mixing", "Mixing"),
        "mixing-nano": ("mixing", "MixingNano"),
        "pouring": ("pouring", "Pouring"),
        "pouring-nano": ("pouring", "PouringNano"),
        "transporting": ("transporting", "Transporting"),
        "transporting-nano": ("transporting", "TransportingNano"),
    },
)
