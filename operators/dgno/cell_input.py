"""Problems on the unit square with a positive field as input and given values around it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid
from .encoders import at_points
from .jets import function_jet, pairs
from .problem import Decode, FieldSpec, Problem
from .scattered import Scattered

__all__ = ["CellInput", "sine_mollifier"]


def sine_mollifier(x: Tensor, order: int) -> Tensor:
    """Jet (S, ...) of Π_d sin(π x_d) at points (..., D). Differentiable in x."""
    D = x.shape[-1]
    tables = [torch.sin(math.pi * x), math.pi * torch.cos(math.pi * x)]
    tables.append(-(math.pi**2) * tables[0])

    def row(times: list[int]) -> Tensor:
        factors = [tables[k][..., d] for d, k in enumerate(times)]
        return torch.stack(factors).prod(0)

    rows = [row([0] * D)]
    if order > 0:
        rows += [row([int(d == i) for d in range(D)]) for i in range(D)]
    if order > 1:
        rows += [row([int(d == i) + int(d == j) for d in range(D)]) for i, j in pairs(D)]
    return torch.stack(rows)


class CellInput(Problem):
    """A positive input a, smooth or of two phases, and a solution "u" with given values at walls.

    "a" is decoded as log(a/ā), or as the logit of the upper phase; u = g + sin πx sin πy · net.

    Args:
        cells: grid of a.
        phases: (low, high); None for smooth positive a.
        middle: ā of smooth fields; of two phases it is √(low·high).
        walls: g, a function of points (..., 2) → (...) of torch's functions, whose values at the walls
            are those of u; None: 0.

    Raises:
        InputError: phases that are not positive, a g that does not give one number per point.
    """

    dim = 2

    def __init__(
        self,
        cells: tuple[int, int],
        phases: tuple[float, float] | None,
        middle: float,
        walls: Callable[[Tensor], Tensor] | None,
    ) -> None:
        name = type(self).__name__
        if phases is not None and not 0 < phases[0] < phases[1]:
            raise InputError(message(name, "phases 0 < low < high", f"{phases}", "Correct"))
        self.grid, self.phases, self.walls = Grid(cells, sides="dirichlet"), phases, walls
        self.smooth, self.middle = phases is None, middle
        self.straight = False  # whether decoded phases are binary
        self.input_field = FieldSpec()
        if phases is not None:
            self.middle = math.sqrt(phases[0] * phases[1])
            self.input_field = FieldSpec(scale=3.0, trunk="silu_sin", branch="silu_id")
        if walls is not None:
            function_jet(walls, torch.full((3, 2), 0.5), 0)  # checks its shape

    def mollifier(self, name: str, x: Tensor, order: int) -> Tensor | None:
        return sine_mollifier(x, order) if name == "u" else None

    def lift(self, name: str, x: Tensor, order: int) -> Tensor | None:
        if name != "u" or self.walls is None:
            return None
        return function_jet(self.walls, x, order)

    def verify(self, a: Tensor) -> None:
        """Two phases are those of the problem, but for cells that were averaged."""
        if self.phases is None:
            return
        low, high = self.phases
        off = torch.minimum((a - low).abs(), (a - high).abs()) > 1e-2 * (high - low)
        if 2 * int(off.sum()) > off.numel():
            got = f"values from {float(a.min()):.3g} to {float(a.max()):.3g}, most of them neither"
            fix = "Make the problem with phases=None, or with those of the data"
            raise InputError(message(type(self).__name__, f"phases {self.phases}", got, fix))

    def scaled(self, a: Tensor) -> Tensor:
        return torch.log(a)

    def permeability(self, raw: Tensor) -> Tensor:
        """a from what its decoder gives."""
        if self.phases is None:
            return self.middle * torch.exp(raw)
        low, high = self.phases
        share = torch.sigmoid(raw)
        if self.straight:  # the value of the nearest phase, the slope of the chance
            share = (raw > 0).to(share) + (share - share.detach())
        return low + (high - low) * share

    def binary(self) -> CellInput:
        if self.phases is None:
            super().binary()  # raises
        other = copy.copy(self)
        other.straight = True
        return other

    def permeability_at(self, decode: Decode, x: Tensor, a: Tensor | None) -> Tensor:
        """a (B, n) of the data or, without, of the code."""
        if a is not None:
            return at_points(a, self.grid_of(a), x, self.smooth)
        return self.permeability(decode(x, 0, ("a",))["a"][0, :, 0])

    def misfit(self, decode: Decode, a: Tensor | Scattered) -> Tensor:
        known = self.known(a)
        raw, given = decode(known.x, 0, ("a",))["a"][0, :, 0], known.value
        if self.phases is None:
            return known.average((raw - torch.log(given / self.middle)).square())
        high = (given > self.middle).to(raw)
        return known.average(F.binary_cross_entropy_with_logits(raw, high, reduction="none"))

    def inputs(self, decode: Decode, x: Tensor) -> Tensor:
        return self.permeability(decode(x, 0, ("a",))["a"][0, :, 0])

    def points(self, like: Tensor) -> Tensor:
        return self.grid.points(like).reshape(-1, 2)
