"""Small deformable scenes that several tests of the FEM need."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from rheograd.sim.fem import FEMModel, Handle, Rod, Sheet, Solid
from rheograd.sim.fem.meshes import box, line, rectangle
from torch import Tensor


def differences(f: Callable[[Tensor], Tensor], x: Tensor, step: float) -> Tensor:
    """Jacobian of f by differences of sixth order, shape (*f, *x)."""
    columns = []
    for i in range(x.numel()):
        d = torch.zeros_like(x).reshape(-1)
        d[i] = step
        d = d.view_as(x)
        terms = [w * (f(x + k * d) - f(x - k * d)) for k, w in ((1, 45), (2, -9), (3, 1))]
        columns.append(sum(terms) / (60 * step))
    return torch.stack(columns, -1).reshape(*columns[0].shape, *x.shape)


def gel(**changes) -> FEMModel:
    """A soft block, gripped at x = 0."""
    X, tets = box((3, 2, 2), (0.3, 0.2, 0.2))
    values = dict(name="gel", cells=tets, E=1e5, nu=0.4, rho=1000.0) | changes
    return FEMModel(X, [Solid(**values)], handles=[Handle("grip", at(X, 0, 0.0))])


def strip(cells=(4, 2), size=(0.04, 0.02), held=2, **changes) -> FEMModel:
    """A thin strip along x whose first `held` rows are gripped."""
    X, triangles = rectangle(cells, size)
    values = dict(name="sheet", cells=triangles, E=1e7, nu=0.3, h=5e-4, rho=800.0) | changes
    points = torch.arange(held * (cells[1] + 1))
    return FEMModel(X, [Sheet(**values)], handles=[Handle("grip", points)])


def rope(cells=6, **changes) -> FEMModel:
    """A rod along x, its first two points gripped."""
    X, segments = line(cells, 0.3)
    values = dict(name="rod", cells=segments, E=1e7, r=3e-3, rho=1000.0) | changes
    return FEMModel(X, [Rod(**values)], handles=[Handle("grip", [0, 1])])


def at(X: Tensor, axis: int, value: float) -> Tensor:
    """Points of a plane."""
    return (X[:, axis] == value).nonzero()[:, 0]


def hinge(angle: float, *, skew: float = 0.2) -> Tensor:
    """Four points whose hinge angle is `angle`, with unequal triangles."""
    low, high = math.cos(angle), math.sin(angle)
    points = [[0, 0, 0], [0, 1, 0], [-0.9, 0.4, 0], [0.7 * low, 0.5 + skew, 0.7 * high]]
    return torch.tensor(points, dtype=torch.float64)
