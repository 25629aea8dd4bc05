"""What a model of Darcy flow in the form "energy" knows of its own error, without any reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from .darcy import Darcy2D
from .encoders import at_points
from .model import DGNO
from .problem import check_codes

__all__ = ["EnergyBounds", "energy_bounds"]


@dataclasses.dataclass(frozen=True)
class EnergyBounds:
    """Of each input, (B,); u* is its solution and s* = a ∇u* the flux of it."""

    gap: Tensor
    """∫ |s − a ∇u|²/a = ∫ a |∇(u − u*)|² + ∫ |s − s*|²/a."""
    error: Tensor
    """No less than the relative error of u in the norm (∫ a |∇u|²)^½."""
    low: Tensor
    """(∫ f u)²/∫ a |∇u|² ≤ ∫ f u* = ∫ a |∇u*|²."""
    high: Tensor
    """∫ |s|²/a ≥ ∫ f u*."""
    factor: Tensor
    """What takes ∫ f u to the middle of both: `factor[:, None, None] * model(a)` is nearer to u* in the
    mean. A decoder that is too smooth for jumps of ∇u gives u too low, by half of `gap` or so."""


@torch.no_grad()
def energy_bounds(model: DGNO, a: Tensor, points: int = 3) -> EnergyBounds:
    """Bounds that the two fields of one code set each other: u keeps the walls, s is balanced.

    Args:
        model: of a `Darcy2D` of the form "energy" with u = 0 at the walls.
        a: inputs (B, 1, *cells), of any number of cells where its encoder takes them.
        points: of a Gauss rule per axis and cell. Bounds hold up to its error.

    Raises:
        InputError: another problem, another form, or other walls.

    Source: Prager & Synge 1947 (the sum of both errors); the factor is ours.
    """
    problem = model.problem
    if (
        not isinstance(problem, Darcy2D)
        or (problem.form, problem.walls) != ("energy", None)
        or problem.forcing == 0
        or points < 1
    ):
        expected = 'Darcy2D of the form "energy" with u = 0 at walls, forcing, points >= 1'
        form = getattr(problem, "form", None)
        got = f"{type(problem).__name__} of the form {form!r}, {points} points"
        raise InputError(message("energy_bounds", expected, got, "Train such a model"))
    decode = model.decode(check_codes("energy_bounds", model.encode(a)))
    grid = problem.grid_of(a)
    y, w = (torch.as_tensor(v).to(a) for v in np.polynomial.legendre.leggauss(points))
    places = [
        (torch.arange(n).to(a)[:, None] + 0.5 * (1 + y)).flatten() * h
        for n, h in zip(grid.cells, grid.dx, strict=True)
    ]
    weights = [0.5 * w.repeat(n) * h for n, h in zip(grid.cells, grid.dx, strict=True)]
    x, weight = torch.cartesian_prod(*places), torch.outer(*weights).flatten()
    u, s = decode(x, 1, ("u",))["u"][:, :, 0], problem.observe("s", decode, x)
    k = at_points(a, grid, x, problem.smooth)

    def integral(f: Tensor) -> Tensor:
        return (f.double() @ weight.double()).to(f)

    slope = u[1:].movedim(0, 1)
    gap = integral((s - k[:, None] * slope).square().sum(1) / k)
    work, high = integral(problem.forcing * u[0]), integral(s.square().sum(1) / k)
    low = work.square() / integral(k[:, None] * slope.square()).sum(1)
    return EnergyBounds(gap, (gap / low).sqrt(), low, high, 0.5 * (low + high) / work)
