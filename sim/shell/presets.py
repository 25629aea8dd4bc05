"""Parts from the table of thin materials, `rheograd.assets.sheets.SHEETS`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...assets.sheets import SHEETS
from ..core.errors import InputError, message
from ..fem.parts import Sheet
from .creases import PlasticSheet

__all__ = ["sheet_of"]


def sheet_of(
    name: str, cells: Tensor, material: str, *, creases: bool | None = None, **changes: Any
) -> Sheet:
    """A sheet of a material of the table.

    Args:
        name: key of the part in `params`.
        cells: triangles (S, 3).
        material: a name in `SHEETS`.
        creases: whether it yields; None: if the material does.
        changes: fields of `Sheet` or `PlasticSheet` that replace those of the table.

    Returns:
        A `PlasticSheet` with creases, else a `Sheet`.

    Raises:
        InputError: unknown material; creases of a material without yield stress.
    """
    if material not in SHEETS:
        where = f"sheet {name!r}"
        raise InputError(message(where, f"material out of {list(SHEETS)}", material, "Choose one"))
    known = SHEETS[material]
    values: dict[str, Any] = dict(
        E=known.E, nu=known.nu, h=known.h, rho=known.rho, k_bend=known.k_bend
    )
    plastic = changes.get("yield_stress", known.yield_stress) is not None
    creases = plastic if creases is None else creases
    if creases and not plastic:
        got = f"{material}, which has none"
        raise InputError(
            message(f"sheet {name!r}", "a yield_stress", got, "Give yield_stress=… [Pa]")
        )
    if creases:
        values |= {"yield_stress": known.yield_stress, "hardening": known.hardening}
    return (PlasticSheet if creases else Sheet)(name=name, cells=cells, **(values | changes))
