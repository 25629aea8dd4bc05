"""Start shapes: flat sheets bent without stretching.

    φ(s) = Σ_arcs angle · clip((s − s₀)/(s₁ − s₀), 0, 1),     (s, z) ↦ ∫ (cos φ, sin φ) ds

Rows of points across the bending direction keep their distances exactly, so a bent mesh whose points
stand in rows is as long as the flat one: what a smooth arc would take from its chords does not strain it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import InputError, message

__all__ = ["bend"]


def bend(X: Tensor, arcs: Sequence[tuple[float, float, float]], axis: int = 0) -> Tensor:
    """Positions of a flat sheet bent about lines across `axis`, towards its normals (+z).

    Args:
        X: flat points [m], (N, 3), of one z.
        arcs: (start, end, angle) along the axis: coordinates [m] between which the sheet turns by
            angle [rad], evenly; start = end is a sharp fold, on a row of points.
        axis: 0 or 1, the direction that bends.

    Returns:
        (N, 3). What comes before the first arc stays.

    Raises:
        InputError: a sheet that is not flat, an arc of negative length.

    Differentiable in nothing: a start, not a law.
    """
    flat = float((X[:, 2] - X[0, 2]).abs().max()) <= 1e-9 * float((X - X[0]).abs().max())
    if not flat or axis not in (0, 1):
        got = f"axis {axis}" if flat else "points of different z"
        fix = "Bend first, then place"
        raise InputError(message("bend", "points of one z, and axis 0 or 1", got, fix))
    s, place = X[:, axis].unique(return_inverse=True)
    middle = 0.5 * (s[1:] + s[:-1])
    angle = torch.zeros_like(middle)
    for start, end, turn in arcs:
        if end < start:
            got = f"{start} … {end}"
            raise InputError(message("bend", "arcs with start <= end", got, "Swap them"))
        if end == start:
            angle = angle + turn * (middle > start)
        else:
            angle = angle + turn * ((middle - start) / (end - start)).clamp(0, 1)
    step = s.diff()
    along = torch.cat((s[:1], s[0] + (step * angle.cos()).cumsum(0)))
    up = torch.cat((torch.zeros_like(s[:1]), (step * angle.sin()).cumsum(0)))
    x = X.clone()
    x[:, axis] = along[place]
    x[:, 2] = X[:, 2] + up[place]
    return x
