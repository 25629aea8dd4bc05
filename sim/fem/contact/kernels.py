"""Closest features and safe motion of pairs as Warp kernels: integers and times, without derivative.

Kinds are numbered as in `distances`, whose formulas give their distances and derivatives.

Source: Ericson 2005, Sec. 5.1 (closest features); `ccd` for the bounds on motion.
"""

# No postponed annotations here: Warp evaluates them, and cannot see types of a closure in text.

import functools
from types import SimpleNamespace

import torch
from torch import Tensor

from ...core.backend import as_array, warp
from ..kernels import launch

__all__ = ["EDGES", "FACE", "ROD", "kinds", "safe_times"]

FACE, EDGES, ROD = 0, 1, 2
"""Features of a stencil: point and triangle, two edges, point and edge (three points)."""
PARALLEL = 1e-16
"""sin² below which two edges count as parallel: the closest points are then taken at an end."""
STEPS = 500
"""Advancements of a pair at most; what has been found by then is safe, too."""


@functools.cache
def _kernels() -> SimpleNamespace:
    wp = warp()
    f64, i64, vec3 = wp.float64, wp.int64, wp.vec3d
    zero, one = f64(0.0), f64(1.0)
    parallel, huge, tiny = f64(PARALLEL), f64(1e300), f64(1e-300)
    most = wp.constant(STEPS)
    options = {"module": "unique", "enable_backward": False}

    @wp.func
    def at_edge(p: vec3, a: vec3, b: vec3):
        """Parameter of the closest point of edge ab to p in [0, 1], and the vector from it to p."""
        u = b - a
        w = p - a
        length = wp.dot(u, u)
        t = wp.clamp(wp.dot(w, u) / wp.where(length == zero, one, length), zero, one)
        return t, w - t * u

    @wp.func
    def choose(t: f64, low: int, high: int, inner: int):
        return wp.where(t <= zero, low, wp.where(t >= one, high, inner))

    @wp.func
    def face(p: vec3, a: vec3, b: vec3, c: vec3):
        """Kind of point and triangle, and the vector between the closest points."""
        e0 = b - a
        e1 = c - a
        w = p - a
        n = wp.cross(e0, e1)
        nn = wp.dot(n, n)
        # Signed areas against n: all positive when p projects into the triangle.
        b1 = wp.dot(wp.cross(w, e1), n)
        b2 = wp.dot(wp.cross(e0, w), n)
        if nn > zero and b1 > zero and b2 > zero and b1 + b2 < nn:
            return 6, (wp.dot(w, n) / nn) * n
        t, r = at_edge(p, a, b)
        kind = choose(t, 0, 1, 3)
        best = wp.dot(r, r)
        t1, r1 = at_edge(p, b, c)
        if wp.dot(r1, r1) < best:
            kind = choose(t1, 1, 2, 4)
            best = wp.dot(r1, r1)
            r = r1
        t2, r2 = at_edge(p, c, a)
        if wp.dot(r2, r2) < best:
            kind = choose(t2, 2, 0, 5)
            r = r2
        return kind, r

    @wp.func
    def edges(a0: vec3, a1: vec3, b0: vec3, b1: vec3):
        """Kind of two edges, and the vector between the closest points."""
        u = a1 - a0
        v = b1 - b0
        w = a0 - b0
        n = wp.cross(u, v)
        nn = wp.dot(n, n)
        if nn > parallel * wp.dot(u, u) * wp.dot(v, v):
            # Parameters of the closest points of two lines, times |n|².
            s = wp.dot(wp.cross(v, w), n)
            t = wp.dot(wp.cross(u, w), n)
            if s > zero and s < nn and t > zero and t < nn:
                return 7, w + (s / nn) * u - (t / nn) * v
        t0, r = at_edge(a0, b0, b1)
        kind = choose(t0, 12, 13, 8)
        best = wp.dot(r, r)
        t1, r1 = at_edge(a1, b0, b1)
        if wp.dot(r1, r1) < best:
            kind = choose(t1, 14, 15, 9)
            best = wp.dot(r1, r1)
            r = r1
        t2, r2 = at_edge(b0, a0, a1)
        if wp.dot(r2, r2) < best:
            kind = choose(t2, 12, 14, 10)
            best = wp.dot(r2, r2)
            r = -r2
        t3, r3 = at_edge(b1, a0, a1)
        if wp.dot(r3, r3) < best:
            kind = choose(t3, 13, 15, 11)
            r = -r3
        return kind, r

    @wp.func
    def apart(low: vec3, high: vec3, under: vec3, over: vec3, reach: f64):
        """Whether two boxes are farther apart than `reach` along an axis."""
        x = low[0] > over[0] + reach or under[0] > high[0] + reach
        y = low[1] > over[1] + reach or under[1] > high[1] + reach
        return x or y or low[2] > over[2] + reach or under[2] > high[2] + reach

    @wp.kernel(**options)
    def kinds(
        x: wp.array(dtype=vec3),
        stencil: wp.array2d(dtype=i64),
        feature: int,
        reach: f64,
        out: wp.array(dtype=i64),
    ):
        i = wp.tid()
        a = x[int(stencil[i, 0])]
        b = x[int(stencil[i, 1])]
        c = x[int(stencil[i, 2])]
        if feature == 2:
            t, gap = at_edge(a, b, c)
            out[i] = wp.where(wp.dot(gap, gap) < reach * reach, i64(choose(t, 0, 1, 3)), i64(-1))
            return
        d = x[int(stencil[i, 3])]
        under = a
        over = a
        low = wp.min(c, d)
        high = wp.max(c, d)
        if feature == 0:
            low = wp.min(b, low)
            high = wp.max(b, high)
        else:
            under = wp.min(a, b)
            over = wp.max(a, b)
        out[i] = i64(-1)
        if apart(under, over, low, high, reach):
            return
        if feature == 0:
            number, r = face(a, b, c, d)
            if wp.dot(r, r) < reach * reach:
                out[i] = i64(number)
        else:
            kind, r = edges(a, b, c, d)
            if wp.dot(r, r) < reach * reach:
                out[i] = i64(kind)

    @wp.func
    def bounded(bound: f64, gap: f64, closing: f64):
        """Bound on time by one more pair of corners; negative once a corner is inside the slab."""
        if bound < zero or gap < zero:
            return -one
        return wp.where(closing > zero, wp.min(bound, gap / wp.max(closing, tiny)), bound)

    @wp.kernel(**options)
    def safe(
        x: wp.array(dtype=vec3),
        way: wp.array(dtype=vec3),
        stencil: wp.array2d(dtype=i64),
        edge: wp.array(dtype=wp.bool),
        keep: f64,
        slack: f64,
        reach: f64,
        out: wp.array(dtype=f64),
        calls: wp.array(dtype=wp.int32),
    ):
        i = wp.tid()
        two = edge[i]
        i0, i1 = int(stencil[i, 0]), int(stencil[i, 1])
        i2, i3 = int(stencil[i, 2]), int(stencil[i, 3])
        a = x[i0]
        b = x[i1]
        c = x[i2]
        d = x[i3]
        p = way[i0]
        q = way[i1]
        r = way[i2]
        s = way[i3]
        calls[i] = 0
        out[i] = one
        low = wp.min(wp.min(c, c + r), wp.min(d, d + s))
        high = wp.max(wp.max(c, c + r), wp.max(d, d + s))
        under = wp.min(b, b + q)
        over = wp.max(b, b + q)
        first = wp.min(a, a + p)
        last = wp.max(a, a + p)
        if two:
            first = wp.min(first, under)
            last = wp.max(last, over)
        else:
            low = wp.min(low, under)
            high = wp.max(high, over)
        if apart(first, last, low, high, reach):
            return
        mean = f64(0.25) * (p + q + r + s)
        p = p - mean
        q = q - mean
        r = r - mean
        s = s - mean
        speed = wp.length(p) + wp.max(wp.max(wp.length(q), wp.length(r)), wp.length(s))
        if two:
            speed = wp.max(wp.length(p), wp.length(q)) + wp.max(wp.length(r), wp.length(s))
        time = f64(0.0)
        goal = f64(0.0)
        for step in range(most):
            gap = vec3()
            if two:
                kind, gap = edges(a, b, c, d)
            else:
                kind, gap = face(a, b, c, d)
            calls[i] = step + 1
            distance = wp.length(gap)
            if step == 0:
                goal = keep * distance
                if distance <= zero:
                    break
            elif distance <= (one + slack) * goal:
                break
            ahead = (distance - goal) / wp.max(speed, tiny)
            left = one - time
            if ahead < left:
                n = gap / distance
                # Heights over the first corner, and their rates.
                h1 = wp.dot(b - a, n)
                h2 = wp.dot(c - a, n)
                h3 = wp.dot(d - a, n)
                v0 = wp.dot(p, n)
                v1 = wp.dot(q, n)
                v2 = wp.dot(r, n)
                v3 = wp.dot(s, n)
                bound = f64(huge)
                bound = bounded(bound, -h2 - goal, v2 - v0)
                bound = bounded(bound, -h3 - goal, v3 - v0)
                if two:
                    bound = bounded(bound, h1 - h2 - goal, v2 - v1)
                    bound = bounded(bound, h1 - h3 - goal, v3 - v1)
                else:
                    bound = bounded(bound, -h1 - goal, v1 - v0)
                ahead = wp.max(wp.max(ahead, bound), zero)
            if ahead >= left:
                time = one
                break
            if ahead <= zero:
                break
            time = time + ahead
            a = a + ahead * p
            b = b + ahead * q
            c = c + ahead * r
            d = d + ahead * s
        out[i] = time

    return SimpleNamespace(kinds=kinds, safe=safe)


def kinds(x: Tensor, stencil: Tensor, feature: int, reach: float = 1e150) -> Tensor:
    """Closest features of pairs, int64 (P,); −1 where they are `reach` or more apart.

    Args:
        x: positions [m], float64 (M, 3).
        stencil: rows of x, int64 (P, 4), or (P, 3) for `ROD`.
        feature: `FACE`, `EDGES` or `ROD`.
        reach: distance [m].

    No derivative. Source: module docstring.
    """
    out = torch.empty(len(stencil), dtype=torch.int64, device=x.device)
    if len(stencil):
        wp = warp()
        x, stencil = x.detach().contiguous(), stencil.contiguous()
        arrays = as_array(x, wp.vec3d), as_array(stencil, wp.int64, ndim=2)
        last = as_array(out, wp.int64)
        launch(_kernels().kinds, len(stencil), x.device, *arrays, feature, reach, last)
    return out


def safe_times(
    x: Tensor, way: Tensor, stencil: Tensor, edge: Tensor, keep: float, slack: float, reach: float
) -> tuple[Tensor, Tensor]:
    """Times up to which pairs keep a share of their distance, (P,), and evaluations of it, (P,).

    Args:
        x, way: positions and displacements over unit time [m], float64 (M, 3).
        stencil: rows of them, int64 (P, 4).
        edge: whether a row is a pair of edges, bool (P,).
        keep, slack: see `ccd.safe_time`.
        reach: pairs whose boxes stay farther apart are safe [m].

    No derivative. Source: see `ccd`.
    """
    out = x.new_empty(len(stencil))
    calls = torch.empty(len(stencil), dtype=torch.int32, device=x.device)
    if len(stencil):
        wp = warp()
        vectors = [as_array(v.detach().contiguous(), wp.vec3d) for v in (x, way)]
        rows = as_array(stencil.contiguous(), wp.int64, ndim=2)
        numbers = as_array(edge.contiguous(), wp.bool), keep, slack, reach
        found = as_array(out, wp.float64), as_array(calls, wp.int32)
        launch(_kernels().safe, len(stencil), x.device, *vectors, rows, *numbers, *found)
    return out, calls
