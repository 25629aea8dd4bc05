"""Sections of rods: how they stand to one another, as functions of two points beside every segment.

    d = p − q                               across the section of a segment, from marker q to marker p
    τ = angle from P d to d′ about t′       twist between neighbours; P carries t into t′ the shortest way
    κ = 2 t × t′/(1 + t·t′)                 curvature binormal, of length 2 tan φ/2
    c = κ − (n + n′)/2                      bend against n, n′ that turn with the sections; 0 at rest

A section turns about its tangent by (t × d)·δd/|d⊥|² and with it; that and half of κ for the tangents are
the first derivatives. All are functions of positions alone: no reference frame is carried along.

All functions take joints x (..., 7, 3), three points in a row and the markers p, q, p′, q′ of the two
segments, and give derivatives in the vectors (e, f, d, d′): segments and sections.
Differentiable in x.
Source: Bergou et al. 2008 and 2010 (Discrete Elastic Rods) for κ and ∂τ/∂x; the rest derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import InputError, message
from .topology import bends_of

__all__ = [
    "bend_curvature", "bend_jacobian", "bend_vector", "components", "directions", "sections",
    "twist_angle", "twist_curvature", "twist_slopes",
]  # fmt: skip


def sections(X: Tensor, segments: Tensor, r: float) -> tuple[Tensor, Tensor]:
    """Points and cells of rods that twist: two markers at ±r beside every segment.

    Directions are carried along each rod from its first segment, so that τ_X = 0; around a ring the last
    joint has what is left.

    Args:
        X: points [m], (N, 3).
        segments: (S, 2).
        r: distance of the markers from the axis [m]: the radius of the rod.

    Returns:
        Points (N + 2 S, 3), the first ones unchanged, and cells (S, 4) for `Rod(twist=True)`: the ends
        a, b and the markers p, q of each segment.

    Raises:
        InputError: r not positive, a segment without length, forks.

    Differentiable in X.
    """
    if not 0 < r < math.inf:
        raise InputError(message("sections", "r > 0 m and finite", r, "Give the radius"))
    points, pairs = bends_of("sections", segments)
    e = X[segments[:, 1]] - X[segments[:, 0]]
    length = e.square().sum(-1, keepdim=True).sqrt()
    if not bool((length > 0).all()):
        first = int((length[:, 0] <= 0).nonzero()[0])
        expected, got = "segments with a length", f"segment {first} without"
        raise InputError(message("sections", expected, got, "Merge its points"))
    near: dict[int, list[tuple[int, int]]] = {}
    for number, (i, j) in enumerate(pairs.tolist()):
        near.setdefault(i, []).append((j, number))
        near.setdefault(j, []).append((i, number))
    units = (e / length).unbind(0)
    across: dict[int, Tensor] = {}
    # Ends first, so that a chain is walked from one of its ends.
    for start in sorted(range(len(segments)), key=lambda s: len(near.get(s, []))):
        if start in across:
            continue
        t = units[start]
        side = torch.eye(3).to(X)[int(t.detach().abs().argmin())]
        side = side - (side * t).sum() * t
        across[start] = side / side.square().sum().sqrt()
        open_ends = [start]
        while open_ends:
            i = open_ends.pop()
            for j, number in near.get(i, []):
                if j in across:
                    continue
                a, m, b = X[points[number]]
                edges = torch.stack((m - a, b - m))
                t, s = edges / edges.square().sum(-1, keepdim=True).sqrt()
                if pairs[number, 0] != i:
                    t, s = s, t
                across[j] = _carried(across[i], t, s)
                open_ends.append(j)
    offset = r * torch.stack([across[i] for i in range(len(segments))])
    middle = X[segments].mean(1)
    markers = torch.stack((middle + offset, middle - offset), dim=1).reshape(-1, 3)
    number = len(X) + torch.arange(2 * len(segments)).view(-1, 2)
    return torch.cat((X, markers)), torch.cat((segments, number), dim=1)


def twist_angle(x: Tensor) -> Tensor:
    """τ [rad] in (−π, π], shape (...); positive where the rod is a right-handed screw."""
    e, f, c, d = _vectors(x)
    t, s = e / _length(e), f / _length(f)
    there = _carried(c - _dot(c, t) * t, t, s)
    sine = _dot(s, torch.linalg.cross(there, d))
    return torch.atan2(sine, _dot(there, d)).squeeze(-1)


def twist_slopes(x: Tensor) -> Tensor:
    """∂τ [rad/m], (..., 4, 3)."""
    e, f, c, d = _vectors(x)
    first, second = _section(e, c), _section(f, d)
    half = _Half.of(e, f).h
    by_e, by_f = half / first.length - first.by_e, half / second.length + second.by_e
    return torch.stack((by_e, by_f, -first.by_d, second.by_d), dim=-2)


def twist_curvature(x: Tensor) -> Tensor:
    """∂²τ [rad/m²], (..., 12, 12), symmetric to round-off."""
    e, f, c, d = _vectors(x)
    first, second, half = _section(e, c), _section(f, d), _Half.of(e, f)
    h_e, h_f = half.slopes(e, f)
    C_cc, C_ce, C_ee = _section_curvature(first, c)
    D_dd, D_df, D_ff = _section_curvature(second, d)
    a, b = first.length.unsqueeze(-1), second.length.unsqueeze(-1)
    ee = (h_e - _outer(half.h, first.t) / a) / a - C_ee
    ff = (h_f - _outer(half.h, second.t) / b) / b + D_ff
    return _symmetric(ee, h_f / a, ff, (-C_ce, -C_cc), (D_df, D_dd))


def components(x: Tensor) -> Tensor:
    """κ in the sections of both segments: along d and along t × d, (..., 2, 2)."""
    e, f, c, d = _vectors(x)
    binormal = 2 * _Half.of(e, f).h
    rows = []
    for v, w in ((e, c), (f, d)):
        t = v / _length(v)
        across = w - _dot(w, t) * t
        across = across / _length(across)
        rows.append(torch.cat((_dot(binormal, across), _dot(binormal, _cross(t, across))), dim=-1))
    return torch.stack(rows, dim=-2)


def bend_vector(x: Tensor, natural: Tensor) -> Tensor:
    """c [-], (..., 3), against natural `components` (..., 2, 2)."""
    e, f, c, d = _vectors(x)
    n, m = (_turned(_section(*v), v[1], natural[..., i, :]) for i, v in enumerate(((e, c), (f, d))))
    return 2 * _Half.of(e, f).h - 0.5 * (n + m)


def bend_jacobian(x: Tensor, natural: Tensor) -> Tensor:
    """∂c [1/m], (..., 3, 12)."""
    e, f, c, d = _vectors(x)
    h_e, h_f = _Half.of(e, f).slopes(e, f)
    columns = []
    for i, (v, w) in enumerate(((e, c), (f, d))):
        section = _section(v, w)
        n = _turned(section, w, natural[..., i, :])
        turned = _cross(section.t, n)
        by_e = _outer(turned, section.by_e) - _outer(section.t, n / section.length)
        columns.append((by_e, _outer(turned, section.by_d)))
    (n_e, n_c), (m_f, m_d) = columns
    blocks = (2 * h_e - 0.5 * n_e, 2 * h_f - 0.5 * m_f, -0.5 * n_c, -0.5 * m_d)
    return torch.cat(blocks, dim=-1)


def bend_curvature(x: Tensor, natural: Tensor, w: Tensor) -> Tensor:
    """∂²(w·c) [1/m²], (..., 12, 12), for w (..., 3), symmetric to round-off."""
    e, f, c, d = _vectors(x)
    ee, ef, ff = _Half.of(e, f).curvature(e, f, 2 * w)
    C_ee, C_ce, C_cc = _turned_curvature(e, c, natural[..., 0, :], -0.5 * w)
    D_ff, D_df, D_dd = _turned_curvature(f, d, natural[..., 1, :], -0.5 * w)
    return _symmetric(ee + C_ee, ef, ff + D_ff, (C_ce, C_cc), (D_df, D_dd))


def directions(x: Tensor) -> Tensor:
    """Tangents and sections across them as unit vectors, (..., 4, 3)."""
    e, f, c, d = _vectors(x)
    t, s = e / _length(e), f / _length(f)
    across = (c - _dot(c, t) * t, d - _dot(d, s) * s)
    return torch.stack((t, s, *(v / _length(v) for v in across)), dim=-2)


def _vectors(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Segments e, f and their sections."""
    a, m, b, p, q, p2, q2 = x.unbind(-2)
    return m - a, b - m, p - q, p2 - q2


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _length(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.cross(a, b)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)


def _eye(v: Tensor) -> Tensor:
    """(..., 3, 3) for v (..., 3)."""
    return torch.eye(3, dtype=v.dtype, device=v.device).expand(*v.shape, 3)


def _spin(v: Tensor) -> Tensor:
    """Matrix of v ×, (..., 3, 3)."""
    return _cross(v.unsqueeze(-2), _eye(v)).mT


def _carried(c: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """c ⟂ t turned as t turns into s, the shortest way."""
    return c - _dot(c, s) / (1 + _dot(t, s)) * (t + s)


def _symmetric(
    ee: Tensor, ef: Tensor, ff: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> Tensor:
    """Second derivatives (..., 12, 12) from blocks; `first` holds (d, e) and (d, d) of a section."""
    zero = torch.zeros_like(ee)
    rows = (
        (ee, ef, first[0].mT, zero),
        (ef.mT, ff, zero, second[0].mT),
        (first[0], zero, first[1], zero),
        (zero, second[0], zero, second[1]),
    )
    found = torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)
    return 0.5 * (found + found.mT)


class _Half(NamedTuple):
    """h = e × f/n, n = |e| |f| + e·f: half the curvature binormal."""

    h: Tensor
    n: Tensor
    n_e: Tensor
    n_f: Tensor

    @classmethod
    def of(cls, e: Tensor, f: Tensor) -> _Half:
        a, b = _length(e), _length(f)
        n = a * b + _dot(e, f)
        return cls(_cross(e, f) / n, n, b / a * e + f, a / b * f + e)

    def slopes(self, e: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        """∂h/∂e and ∂h/∂f, (..., 3, 3)."""
        n = self.n.unsqueeze(-1)
        return -(_spin(f) + _outer(self.h, self.n_e)) / n, (_spin(e) - _outer(self.h, self.n_f)) / n

    def curvature(self, e: Tensor, f: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """∂²(w·h) in (e, e), (e, f) and (f, f), (..., 3, 3)."""
        n, y, n_e, n_f = self.n, _dot(w, self.h), self.n_e, self.n_f
        y_e, y_f = (_cross(f, w) - y * n_e) / n, (_cross(w, e) - y * n_f) / n
        a, b = _length(e), _length(f)
        t, s, eye, y, n = e / a, f / b, _eye(e), y.unsqueeze(-1), n.unsqueeze(-1)
        ratio = (b / a).unsqueeze(-1)
        ee = _outer(y_e, n_e) + _outer(n_e, y_e) + y * ratio * (eye - _outer(t, t))
        ff = _outer(y_f, n_f) + _outer(n_f, y_f) + y / ratio * (eye - _outer(s, s))
        ef = _spin(w) + _outer(y_e, n_f) + _outer(n_e, y_f) + y * (eye + _outer(t, s))
        return -ee / n, -ef / n, -ff / n


class _Section(NamedTuple):
    """The angle φ by which a section d turns about its tangent t."""

    t: Tensor
    length: Tensor
    by_d: Tensor
    """∂φ/∂d."""
    by_e: Tensor
    """∂φ/∂e: what leans along t seems to turn where t does."""


def _section(e: Tensor, d: Tensor) -> _Section:
    length = _length(e)
    t = e / length
    along = _dot(d, t)
    by_d = _cross(t, d) / (_dot(d, d) - along**2)
    return _Section(t, length, by_d, -along / length * by_d)


def _section_curvature(section: _Section, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """∂²φ in (d, d), (d, e) and (e, e), (..., 3, 3)."""
    t, length, A, _ = section
    along, wide = _dot(d, t), length.unsqueeze(-1)
    far, square = along.unsqueeze(-1), (_dot(d, d) - along**2).unsqueeze(-1)
    flat = d - along * t
    by_d = (_spin(t) - 2 * _outer(A, flat)) / square
    by_t = (2 * far * _outer(A, d) - _spin(d)) / square
    by_e = (by_t - _outer((by_t @ t.unsqueeze(-1)).squeeze(-1), t)) / wide
    by_ee = (far * _outer(A, t) - _outer(A, flat)) / wide**2 - far * by_e / wide
    return by_d, by_e, by_ee


def _turned(section: _Section, d: Tensor, natural: Tensor) -> Tensor:
    """n (..., 3) with components `natural` along d and t × d."""
    t = section.t
    across = d - _dot(d, t) * t
    across = across / _length(across)
    return natural[..., :1] * across + natural[..., 1:] * _cross(t, across)


def _turned_curvature(
    e: Tensor, d: Tensor, natural: Tensor, w: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """∂²(w·n) in (e, e), (d, e) and (d, d), from δn = δφ t × n − t (n·δt)."""
    section = _section(e, d)
    t, length, by_d, by_e = section
    n = _turned(section, d, natural)
    turned = _cross(t, n)
    dd, de, ee = _section_curvature(section, d)
    wn, wm, wt = _dot(w, n), _dot(w, turned), _dot(w, t)
    slope = -wt / length * turned - wn * by_e  # ∂(w·(t × n))/∂e
    wide_wm, wide_wn = wm.unsqueeze(-1), wn.unsqueeze(-1)
    n_e = _outer(turned, by_e) - _outer(t, n / length)
    ee = wide_wm * ee + _outer(by_e, slope) - (wt / length).unsqueeze(-1) * n_e
    ee = ee + _outer(n / length**2, 2 * wt * t - w)
    de = wide_wm * de + _outer(by_d, slope)
    return ee, de, wide_wm * dd - wide_wn * _outer(by_d, by_d)
