"""Finite volumes: fluxes through faces between cells, and what walls give.

    (∇·(k ∇u))_i = Σ_axes [k_{i+½} (u_{i+1} − u_i) − k_{i−½} (u_i − u_{i−1})] / dx²,
    k_{i+½} = 2 k_i k_{i+1} / (k_i + k_{i+1})

The harmonic mean keeps the flux continuous where k jumps between cells. A wall is half a cell away from
its cell's centre: with α u + β k ∂u/∂n = γ the flux through it is 2 k (γ − α u_i) / (α dx + 2 β k).
Second order; sums change through walls only.

Differentiable everywhere. Source: LeVeque 2002, Finite Volume Methods, chapters 4 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .grid import Grid

__all__ = ["diffusion", "diffusion_faces", "face_conductivity", "wall_flux", "wall_value"]


def wall_flux(grid: Grid, u: Tensor, k: Tensor, name: str, gamma: Tensor) -> Tensor:
    """Flux k ∂u/∂n into the box through a wall, from the layers of u and k beside it."""
    side, h = grid.walls[name], grid.dx[grid.axes.index(name[0])]
    if side.alpha == 0:
        return (gamma / side.beta).expand_as(u)
    if side.beta == 0:
        return k * (2 / h) * (gamma / side.alpha - u)
    return 2 * k * (gamma - side.alpha * u) / (side.alpha * h + 2 * side.beta * k)


def wall_value(grid: Grid, u: Tensor, k: Tensor, name: str, gamma: Tensor) -> Tensor:
    """Value at a wall, from the layers of u and k beside it."""
    side, h = grid.walls[name], grid.dx[grid.axes.index(name[0])]
    if side.beta == 0:
        return (gamma / side.alpha).expand_as(u)
    return u + h * (gamma - side.alpha * u) / (side.alpha * h + 2 * side.beta * k)


def face_conductivity(grid: Grid, k: Tensor, axis: int) -> Tensor:
    """Harmonic mean of cells on both sides, inner faces (n − 1) or all n lower faces if periodic."""
    dim = axis - grid.dim
    if k.shape[dim] == 1:
        return k
    n = k.shape[dim]
    high = k if grid.periodic[axis] else k.narrow(dim, 1, n - 1)
    low = k.roll(1, dim) if grid.periodic[axis] else k.narrow(dim, 0, n - 1)
    return 2 * low * high / (low + high)


def diffusion(grid: Grid, u: Tensor, k: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """∇·(k ∇u) for u (B, C, *cells).

    Args:
        grid: the box with its walls.
        u: field.
        k: conductivity, broadcastable to u.
        values: right-hand sides γ of walls by name, broadcastable to u with one cell per axis.
    """
    total = torch.zeros_like(u)
    for axis, h in enumerate(grid.dx):
        dim = axis - grid.dim
        n = grid.cells[axis]
        face = face_conductivity(grid, k, axis)
        if grid.periodic[axis]:
            flux = face * (u - u.roll(1, dim)) / h
            total = total + (flux.roll(-1, dim) - flux) / h
            continue
        flux = face * (u.narrow(dim, 1, n - 1) - u.narrow(dim, 0, n - 1)) / h
        ends = []
        for end, sign in (("-", -1.0), ("+", 1.0)):
            at = 0 if end == "-" else n - 1
            layer = u.narrow(dim, at, 1)
            inside = k if k.shape[dim] == 1 else k.narrow(dim, at, 1)
            name = grid.axes[axis] + end
            ends.append(sign * wall_flux(grid, layer, inside, name, values[name]))
        flux = torch.cat((ends[0], flux, ends[1]), dim)
        total = total + flux.diff(dim=dim) / h
    return total


def diffusion_faces(
    grid: Grid, k: Tensor, values: Mapping[str, Tensor]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """c and b with −∇·(k ∇u) = Σ_faces c (u_i − u_j) − b, where u_j = 0 behind walls.

    Args:
        grid: the box.
        k: conductivity (B, 1, *cells).
        values: as in `diffusion`.

    Returns:
        c, one (B, *faces) per axis, as `sim.grid.poisson.Stencil` takes it, and b (B, *cells).
        Differentiable in k; b also in values.
    """
    faces, b = [], torch.zeros_like(k)
    for axis, h in enumerate(grid.dx):
        dim, n = axis - grid.dim, grid.cells[axis]
        inner = face_conductivity(grid, k, axis) / h**2
        if not grid.periodic[axis]:
            ends = []
            for end, at in (("-", 0), ("+", n - 1)):
                name = grid.axes[axis] + end
                layer = k.narrow(dim, at, 1)
                zero = torch.zeros_like(layer)
                given = wall_flux(grid, zero, layer, name, values[name])  # flux = given − held u
                held = given - wall_flux(grid, zero + 1, layer, name, values[name])
                ends.append(held / h)
                pads = [0, 0] * (grid.dim - 1 - axis) + [at, n - 1 - at]
                b = b + torch.nn.functional.pad(given / h, pads)
            inner = torch.cat((ends[0], inner, ends[1]), dim)
        faces.append(inner[:, 0])
    return tuple(faces), b[:, 0]
