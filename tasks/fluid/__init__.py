"""Fluid manipulation: tools that move liquids, and what floats in them."""

from __future__ import annotations

from typing import Any

from ..core import register_task

__all__: list[str] = []


def _gathering(name: str) -> Any:
    def load() -> Any:
        from . import gathering

        return getattr(gathering, name)

    return load


register_task("fluid/gathering", _gathering("Gathering"))
register_task("fluid/gathering-3d", _gathering("Gathering3D"))
register_task("fluid/gathering-nano", _gathering("GatheringNano"))
