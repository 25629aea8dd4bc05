"""Materials of gels by name, as parts of a scene."""

from __future__ import annotations

from typing import Any

from ...assets.gels import GELS
from ..core.errors import InputError, message
from ..fem import Solid
from .meshes import GelMesh

__all__ = ["gel_of"]


def gel_of(mesh: GelMesh, material: str, name: str = "gel", **changes: Any) -> Solid:
    """The part that a mesh of a material of `rheograd.assets.gels.GELS` makes.

    Args:
        mesh: the gel.
        material: a name in `GELS`.
        name: key of the part in `params`.
        changes: fields of `Solid` that replace those of the table: E, nu, rho, eta, law.

    Raises:
        InputError: unknown material.
    """
    if material not in GELS:
        expected = f"material out of {list(GELS)}"
        raise InputError(message("gel_of", expected, material, "Choose one, and change E, nu, rho"))
    known = GELS[material]
    values: dict[str, Any] = dict(E=known.E, nu=known.nu, rho=known.rho, eta=known.eta)
    return mesh.solid(name, **(values | changes))
