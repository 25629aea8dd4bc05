"""Whether surfaces cut or touch each other: asked once, at the start."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError, StateError, message
from .broad import Boxes, box_pairs
from .candidates import find_candidates, relative
from .distances import dot
from .rows import closest_squared
from .surface import Surface

__all__ = ["check_start", "cuts"]

_TOUCH = 1e-12
"""Distance that counts as touching, in lengths of the scene."""
_FLAT = 1e-13
"""Volume that counts as none, in cubes of the features' size."""


@torch.no_grad()
def cuts(segment: Tensor, triangle: Tensor) -> Tensor:
    """Whether segments (P, 2, 3) cut triangles (P, 3, 3) in their interiors; bool (P,).

    Segments in the plane of a triangle, up to rounding, do not cut it. Source: Guigue & Devillers 2003
    (signs of tetrahedra); no derivative.
    """
    p, q = segment.unbind(1)
    a, b, c = triangle.unbind(1)
    size = torch.stack((q - p, b - a, c - a)).norm(dim=-1).amax(0)
    none = _FLAT * size**3

    def volume(u: Tensor, v: Tensor, w: Tensor, at: Tensor) -> Tensor:
        return dot(torch.linalg.cross(u - at, v - at), w - at)

    above, below = volume(a, b, c, p), volume(a, b, c, q)
    sides = (torch.maximum(above, below) > none) & (torch.minimum(above, below) < -none)
    turns = torch.stack((volume(a, b, q, p), volume(b, c, q, p), volume(c, a, q, p)))
    return sides & ((turns > none).all(0) | (turns < -none).all(0))


@torch.no_grad()
def check_start(surface: Surface, x: Tensor, touch: bool = True) -> None:
    """Raise unless the features of x (B, N, 3) that may collide are apart.

    Args:
        surface: what collides.
        x: positions [m], (B, N, 3).
        touch: whether features that touch are looked for, too.

    Raises:
        InputError: an edge cuts a triangle, or two features touch; the message names both.
        StateError: positions not finite.
    """
    n = surface.point_count
    if x.ndim != 3 or x.shape[1:] != (n, 3):
        raise InputError(message("contact.check", f"x of shape (B, {n}, 3) [m]", x))
    if not bool(torch.isfinite(x).all()):
        raise StateError(message("contact.check", "finite positions", x), field="x")
    flat = x.reshape(-1, 3)
    y = relative(flat, n)
    p = y.cpu().numpy().reshape(len(x), n, 3)
    t, e = surface.triangles, surface.edges

    def boxes(features):
        q = p[:, features]
        scene = torch.arange(len(x)).repeat_interleave(len(features)).numpy()
        return Boxes(q.min(2).reshape(-1, 3), q.max(2).reshape(-1, 3), scene)

    i, j = box_pairs(boxes(e), boxes(t))
    scene = i // max(len(e), 1)
    i, j = i - scene * len(e), j - scene * len(t)
    edge, triangle = e[i], t[j]
    g = surface.group
    keep = np.ones(len(i), bool)
    for u, v in itertools.product(range(2), range(3)):
        keep &= edge[:, u] != triangle[:, v]
    keep &= ~surface.ignored[g[edge[:, 0]], g[triangle[:, 0]]]
    keep &= ~(surface.driven[edge].all(1) & surface.driven[triangle].all(1))
    edge, triangle, scene = edge[keep], triangle[keep], scene[keep]
    q = torch.from_numpy(p)
    s = torch.from_numpy(scene)[:, None]
    cut = cuts(q[s, torch.from_numpy(edge)], q[s, torch.from_numpy(triangle)]).numpy()
    if cut.any():
        k = int(cut.argmax())
        got = (
            f"edge {tuple(edge[k].tolist())} through triangle {tuple(triangle[k].tolist())} "
            f"in scene {scene[k]} ({int(cut.sum())} such pairs)"
        )
        raise _error(surface, got, edge[k, 0], triangle[k, 0])
    if not touch:
        return
    small = _TOUCH * max(float(y.abs().max()), 1e-300)
    found = find_candidates(surface, flat, flat, 4 * small, 0.0)
    stencil, squared = closest_squared(found, y)
    close = squared <= small * small
    if bool(close.any()):
        row = stencil[int(close.nonzero()[0, 0])]
        got = f"points {(row % n).tolist()} touching in scene {int(row[0]) // n}"
        raise _error(surface, got, int(row[0]) % n, int(row[3]) % n)


def _error(surface: Surface, got: str, a: int, b: int) -> InputError:
    names = " and ".join(sorted({surface.groups[surface.group[v]] for v in (a, b)}))
    fix = f"Move {names} apart, or let them ignore each other"
    return InputError(message("contact.check", "surfaces that do not cut at the start", got, fix))
