"""Control of flows on grids: a cylinder that turns in a stream."""

from __future__ import annotations

from ..registry import register_family

__all__: list[str] = []

register_family(
    __package__,
    {
        "cylinder": ("cylinder", "Cylinder"),
        "cylinder-lift": ("cylinder", "CylinderLift"),
        "cylinder-lift-nano": ("cylinder", "CylinderLiftNano"),
        "cylinder-nano": ("cylinder", "CylinderNano"),
    },
)
