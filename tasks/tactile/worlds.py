"""Worlds that differ: stiffness, friction and weight drawn by seed, one draw per scene of a batch.

    p_k = p̄_k exp(u_k),   u_k ~ U(−v, v),   k in gel, object, weight, friction

A state carries the u of its scenes, (B, K), so that one batch holds B different worlds, and the step and
the forces of each scene are those of its own. Seed 0 is the nominal world, u = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError

__all__ = ["VARIED", "Worlds"]

VARIED = ("gel", "object", "weight", "friction")
"""What can differ: E of the gels; E, and yield stress, of soft objects; density of all objects; all
coefficients of friction, by one factor."""
SOFT = ("E", "yield_stress")


class Worlds:
    """Parameters of a scene that are drawn.

    Args:
        defaults: parameters of the solver by group and name.
        kinds: "gel", "solid", "rod" or "body" of each body; what is not listed is soft.
        names: what differs, out of `VARIED`; those that the scene does not have are left out.
        spread: v, largest |log| of a factor [-].

    Raises:
        InputError: an unknown name, a negative spread.
    """

    def __init__(
        self,
        defaults: Mapping[str, Mapping[str, Any]],
        kinds: Mapping[str, str],
        names: Sequence[str] = VARIED,
        spread: float = 0.0,
    ) -> None:
        unknown = sorted(set(names) - set(VARIED))
        if unknown or not spread >= 0:
            raise InputError(
                f"Worlds: names out of {VARIED} and vary ≥ 0; got {unknown or list(names)} and "
                f"{spread}. Correct them."
            )
        self.spread = spread
        self.places: dict[str, list[tuple[str, str, float]]] = {}
        """Group, name and nominal value of all that each factor scales."""
        for name in names if spread else ():
            if found := _places(name, defaults, kinds):
                self.places[name] = found

    def __len__(self) -> int:
        return len(self.places)

    def draw(self, seed: int) -> Tensor:
        """u of one scene, (1, K); zero for seed 0."""
        # Another stream than the one that shifts sensors.
        generator = torch.Generator().manual_seed(seed ^ 0x5EED)
        unit = 2 * torch.rand(1, len(self), generator=generator, dtype=torch.float64) - 1
        return self.spread * unit if seed else torch.zeros_like(unit)

    def params(self, world: Tensor, groups: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Parameters of the solver for u (B, K), of the named groups. Differentiable in u."""
        out: dict[str, dict[str, Tensor]] = {}
        for k, places in enumerate(self.places.values()):
            for group, name, value in places:
                if group in groups:
                    scaled = value * world[:, k].exp()
                    # Contacts have a value per scene, cells and points one per scene and member.
                    column = scaled if name.startswith("friction") else scaled[:, None]
                    out.setdefault(group, {})[name] = column
        return out


def _places(
    what: str, defaults: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, str]
) -> list[tuple[str, str, float]]:
    found = []
    for group, values in defaults.items():
        kind = kinds.get(group, "solid")
        for name, value in values.items():
            rho = name == "rho" and kind != "gel"
            named = {
                "gel": name == "E" and kind == "gel",
                "object": name in SOFT and kind in ("solid", "rod"),
                "weight": rho,
                "friction": name.startswith("friction"),
            }
            if named[what]:
                found.append((group, name, float(torch.as_tensor(value))))
    return found
