"""Reference for Stokes flow past a disc: staggered grid, distances to the disc, one sparse factor."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import splu
from torch import Tensor

from ...sim.core.errors import InputError, message
from .stokes import StokesCylinder

__all__ = ["StokesReference"]


class StokesReference:
    """μ ∇²v = ∇p, ∇·v = 0 on [0, 2] × [0, 1] without the disc of a problem; linear in the inflow.

    Velocities on faces, pressure in cells. Second differences reach to the disc or wall where one lies
    between two points (Shortley–Weller); the volume balance counts the open part of each face. At the
    outlet v₂ = 0, p = 0 and ∂v₁/∂x = 0, which is s11 = 0. Exact for Poiseuille flow; about second
    order past the disc (velocity 0.8 % at 16 cells per metre, 0.17 % at 32).

    Args:
        problem: disc and viscosity; a radius of zero is not needed, see `disc`.
        cells: per metre.
        disc: whether it is there.

    Raises:
        InputError: too coarse a grid.

    Source: Harlow & Welch 1965 (staggered grid); Shortley & Weller 1938; Ng, Min & Gibou 2009.
    """

    def __init__(self, problem: StokesCylinder, cells: int = 48, disc: bool = True) -> None:
        if cells < 8:
            raise InputError(message("StokesReference", "cells >= 8 per metre", cells, "Refine"))
        self.problem, self.n, self.h, self.disc = problem, cells, 1.0 / cells, disc
        nx, ny = 2 * cells, cells
        self.shapes = {"u": (nx + 1, ny), "v": (nx, ny + 1), "p": (nx, ny)}
        self.starts = {"u": (0.0, 0.5), "v": (0.5, 0.0), "p": (0.5, 0.5)}
        open_u = self._distance("u") > 0
        open_v = self._distance("v") > 0
        free_u, free_v = open_u.copy(), open_v.copy()
        free_u[0] = False  # inlet
        free_v[:, [0, -1]] = False  # walls
        wet = open_u[1:] | open_u[:-1] | open_v[:, 1:] | open_v[:, :-1]
        self.free = {"u": free_u, "v": free_v, "p": wet}
        self.index, count = {}, 0
        for name, mask in self.free.items():
            index = np.full(mask.shape, -1)
            index[mask] = count + np.arange(mask.sum())
            self.index[name], count = index, count + int(mask.sum())
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.values: list[float] = []
        self.given: list[tuple[int, int, float]] = []  # (row, j of the inlet, factor)
        self._momentum("u", 0)
        self._momentum("v", 1)
        self._balance(open_u, open_v)
        A = sp.csc_matrix((self.values, (self.rows, self.columns)), shape=(count, count))
        self.factor, self.count = splu(A), count
        r, j, c = (np.array(v) for v in zip(*self.given, strict=True))
        self.inlet = sp.csr_matrix((c, (r.astype(int), j.astype(int))), shape=(count, ny))

    def solve(self, inflow: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity (S, 2, *cells) and pressure (S, *cells) at cell centres, float64.

        Args:
            inflow: speeds (S, 1, m) along the inlet at cell centres, interpolated linearly.
        """
        m, ny = inflow.shape[-1], self.n
        y = (np.arange(ny) + 0.5) / ny
        ends = np.concatenate([[0.0], (np.arange(m) + 0.5) / m, [1.0]])
        a = np.stack([np.interp(y, ends, np.pad(row, 1)) for row in inflow[:, 0].double().numpy()])
        x = self.factor.solve(-(self.inlet @ a.T)).T
        fields = {}
        for name, mask in self.free.items():
            full = np.zeros((len(a), *mask.shape))
            full[:, mask] = x[:, self.index[name][mask]]
            fields[name] = full
        fields["u"][:, 0] = a
        u = 0.5 * (fields["u"][:, 1:] + fields["u"][:, :-1])
        v = 0.5 * (fields["v"][:, :, 1:] + fields["v"][:, :, :-1])
        return torch.from_numpy(np.stack([u, v], 1)), torch.from_numpy(fields["p"])

    def stresses(self, v: Tensor, p: Tensor) -> Tensor:
        """(s11, s22, s12) of what `solve` gave, (S, 3, *cells) [Pa], by central differences.

        At channel walls a parabola through the wall and two cells is differentiated, at inlet and outlet
        differences are one-sided. Within a cell and a half of the disc differences reach into it: take
        `clear` cells.

        Args:
            v, p: (S, 2, *cells), (S, *cells).

        Source: σ = −p I + μ (∇v + ∇vᵀ), second order.
        """
        dx = torch.gradient(v, spacing=self.h, dim=2, edge_order=2)[0]
        below = v[..., 1:2] / 3 - 2 * v[..., :1]
        above = v[..., -2:-1] / 3 - 2 * v[..., -1:]
        tall = torch.cat([below, v, above], -1)
        dy = (tall[..., 2:] - tall[..., :-2]) / (2 * self.h)
        mu = self.problem.viscosity
        rows = [2 * mu * dx[:, 0] - p, 2 * mu * dy[:, 1] - p, mu * (dy[:, 0] + dx[:, 1])]
        return torch.stack(rows, 1)

    def clear(self, cells: float = 1.5) -> tuple[Tensor, Tensor]:
        """Points (n, 2) at least so many cells away from the disc, float64, and which cells they are of,
        (*cells) bool: fields[..., which] has their values."""
        i, j = np.meshgrid(*(np.arange(n) for n in self.shapes["p"]), indexing="ij")
        which = torch.from_numpy(self._distance("p") >= cells * self.h)
        x = torch.from_numpy(np.stack(self._place("p", i, j), -1))
        return x[which], which

    def _place(self, name: str, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = self.starts[name]
        return (i + a) * self.h, (j + b) * self.h

    def _distance(self, name: str) -> np.ndarray:
        """Signed distance from the disc of all points of a kind [m]."""
        i, j = np.meshgrid(*(np.arange(n) for n in self.shapes[name]), indexing="ij")
        x, y = self._place(name, i, j)
        if not self.disc:
            return np.ones(self.shapes[name])
        (cx, cy), r = self.problem.centre, self.problem.radius
        return np.hypot(x - cx, y - cy) - r

    def _to_disc(self, name: str, i: int, j: int, di: int, dj: int) -> float:
        """Distance from a fluid point along an axis to the disc [m]."""
        x, y = self._place(name, np.array(i), np.array(j))
        (cx, cy), r = self.problem.centre, self.problem.radius
        along = (cx - x) * di + (cy - y) * dj
        across = (cx - x) * dj - (cy - y) * di
        return float(max(along - np.sqrt(max(r * r - across * across, 0.0)), 1e-3 * self.h))

    def _add(self, row: int, column: int, value: float) -> None:
        self.rows.append(row)
        self.columns.append(column)
        self.values.append(value)

    def _momentum(self, name: str, axis: int) -> None:
        """μ ∇² − ∂p at free velocities; equations are scaled by h² / μ."""
        h, mu, free, index = self.h, self.problem.viscosity, self.free[name], self.index[name]
        wall, shape = self._distance(name) <= 0, self.shapes[name]
        for i, j in zip(*np.nonzero(free), strict=True):
            row = index[i, j]
            for d in (0, 1):
                reach, target = [], []
                for sign in (-1, 1):
                    k, m = i + sign * (d == 0), j + sign * (d == 1)
                    if 0 <= k < shape[0] and 0 <= m < shape[1]:
                        if wall[k, m]:
                            step = self._to_disc(name, i, j, sign * (d == 0), sign * (d == 1))
                            reach.append(step)
                            target.append(None)
                        else:
                            reach.append(h)
                            target.append((k, m))
                    elif name == "u" and d == 0:  # beyond the outlet: a mirror
                        reach.append(h)
                        target.append((i - 1, j))
                    else:  # a wall half a cell away
                        reach.append(0.5 * h)
                        target.append(None)
                both = reach[0] + reach[1]
                self._add(row, row, -2 * h * h / (reach[0] * reach[1]))
                for step, place in zip(reach, target, strict=True):
                    if place is None:
                        continue
                    value = 2 * h * h / (step * both)
                    if index[place] >= 0:
                        self._add(row, index[place], value)
                    elif name == "u" and place[0] == 0:
                        self.given.append((row, place[1], value))
            scale = h / mu
            if name == "u" and i == shape[0] - 1:
                self._add(row, self.index["p"][i - 1, j], 2 * scale)
                continue
            low = (i - 1, j) if axis == 0 else (i, j - 1)
            self._add(row, self.index["p"][i, j], -scale)
            self._add(row, self.index["p"][low], scale)

    def _balance(self, open_u: np.ndarray, open_v: np.ndarray) -> None:
        """Volume through the open parts of a cell's faces."""
        for i, j in zip(*np.nonzero(self.free["p"]), strict=True):
            row = self.index["p"][i, j]
            for k, sign in ((i, -1.0), (i + 1, 1.0)):
                part = sign * self._open("u", k, j)
                if self.index["u"][k, j] >= 0:
                    self._add(row, self.index["u"][k, j], part)
                elif k == 0:
                    self.given.append((row, j, part))
            for m, sign in ((j, -1.0), (j + 1, 1.0)):
                if self.index["v"][i, m] >= 0:
                    self._add(row, self.index["v"][i, m], sign * self._open("v", i, m))

    def _open(self, name: str, i: int, j: int) -> float:
        """Open part of a face, between 0 and 1."""
        if not self.disc:
            return 1.0
        x, y = self._place(name, np.array(i), np.array(j))
        (cx, cy), r, h = self.problem.centre, self.problem.radius, self.h
        across, along = (x - cx, y - cy) if name == "u" else (y - cy, x - cx)
        half = np.sqrt(max(r * r - across * across, 0.0))
        covered = min(along + h / 2, half) - max(along - h / 2, -half)
        return float(1.0 - max(covered, 0.0) / h)
