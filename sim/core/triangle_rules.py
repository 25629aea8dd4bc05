"""Points and weights that integrate polynomials over a triangle exactly.

    ∫ f dA = A Σ_q w_q f(λ_q),   Σ w_q = 1,   all w_q > 0,   no λ on an edge

Source: Strang & Fix 1973 (3 points), Cowper 1973 and Dunavant 1985 (6 and 12 points).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from .errors import InputError, message

__all__ = ["DEGREES", "triangle_rule"]

DEGREES = {1: 1, 3: 2, 6: 4, 12: 6}
"""Degree of the polynomials that so many points integrate exactly."""

_ROOT = math.sqrt(38 - 44 * math.sqrt(0.4))
_SHARE = math.sqrt(213125 - 53320 * math.sqrt(10))
_ORBITS: dict[int, list[tuple[float, tuple[float, float, float]]]] = {
    1: [(1.0, (1 / 3, 1 / 3, 1 / 3))],
    3: [(1 / 3, (2 / 3, 1 / 6, 1 / 6))],
    6: [
        ((620 + sign * _SHARE) / 3720, (1 - 2 * a, a, a))
        for sign in (1, -1)
        for a in [(8 - math.sqrt(10) + sign * _ROOT) / 18]
    ],
    12: [
        (0.1167862757263793627, (1 - 2 * 0.2492867451709104233, *[0.2492867451709104233] * 2)),
        (0.0508449063702068163, (1 - 2 * 0.0630890144915022280, *[0.0630890144915022280] * 2)),
        (
            0.0828510756183735771,
            (0.0531450498448169487, 0.3103524510337844039, 0.6365024991213986474),
        ),
    ],
}
"""Weight of each point, and one of the points that turning and mirroring the triangle make of it."""


def triangle_rule(n: int) -> tuple[Tensor, Tensor]:
    """The rule of n points.

    Args:
        n: 1, 3, 6 or 12, exact to the degree 1, 2, 4 or 6.

    Returns:
        Barycentric coordinates (n, 3), rows sum to 1, and weights (n,), float64.

    Raises:
        InputError: another n.
    """
    if n not in DEGREES:
        expected = f"points per triangle out of {list(DEGREES)}"
        raise InputError(message("triangle_rule", expected, f"{n}", "Choose one"))
    points, weights = [], []
    for weight, one in _ORBITS[n]:
        for turned in sorted(set(itertools.permutations(one)), reverse=True):
            points.append(turned)
            weights.append(weight)
    table = torch.tensor(points, dtype=torch.float64)
    w = torch.tensor(weights, dtype=torch.float64)
    return table / table.sum(1, keepdim=True), w / w.sum()
