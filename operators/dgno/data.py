"""Inputs and reference solutions of the problems, from the solvers of `sim/grid/pdes`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import BurgersFV, Darcy, GaussianField, Grid, two_phases

__all__ = [
    "burgers_inputs",
    "burgers_solutions",
    "darcy_fluxes",
    "darcy_inputs",
    "darcy_solutions",
]

Walls = Callable[[Tensor], Tensor] | None


def darcy_inputs(
    count: int,
    cells: int = 32,
    phases: tuple[float, float] | None = None,
    length: float = 0.15,
    fraction: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Permeabilities (S, 1, cells, cells) float32.

    Smooth: e^{field}, field Gaussian with about the covariance e^{−|x − y|²/(2 l²)}, of variance ¼ and
    with zero slope at walls. Phases: the sign of such a field.

    Args:
        count: S.
        cells: per axis.
        phases: (low, high); None: smooth.
        length: l, correlation length [m].
        fraction: of the upper phase, exact in every sample; None: by the sign, a half in the mean.
        generator: source.

    Raises:
        InputError: a fraction out of (0, 1).
    """
    grid = Grid((cells, cells), sides="dirichlet")
    # (1 + k²/τ²)^{−α} ≈ e^{−α k²/τ²}, whose transform has the length l = √(2α)/τ.
    field = GaussianField(grid, 8.0, 4.0 / length, basis="neumann")
    g = field.sample(count, generator, dtype=torch.float64) / field.variance().mean().sqrt()
    if phases is None:
        return torch.exp(0.5 * g).float()
    threshold: Tensor | float = 0.0
    if fraction is not None:
        if not 0 < fraction < 1:
            raise InputError(message("darcy_inputs", "a fraction in (0, 1)", fraction, "Correct"))
        threshold = torch.quantile(g.flatten(1), 1 - fraction, dim=1)[:, None, None, None]
    return two_phases(g - threshold, *phases).float()


@torch.no_grad()
def darcy_solutions(
    a: Tensor,
    forcing: float = 10.0,
    fine: int = 3,
    smooth: bool = False,
    walls: Walls = None,
) -> Tensor:
    """u at the cell centres of a, (S, 1, n, n), on `fine`² cells (odd) in each cell of a.

    Args:
        a: permeabilities (S, 1, n, n).
        forcing: f.
        fine: refinement.
        smooth: interpolate a cubically, else it is constant in each of its cells.
        walls: values of u around the square, points (..., 2) → (...); default 0.

    Raises:
        InputError: an even refinement, which has no cell at the centres; permeabilities that are not
            positive, also between the cells where `smooth` interpolates.

    Source: finite volumes of `sim.grid.pdes.Darcy`, second order.
    """
    solved = _fine(a, forcing, fine, smooth, walls)
    return torch.cat([u[..., fine // 2 :: fine, fine // 2 :: fine] for _, u in solved])


@torch.no_grad()
def darcy_fluxes(
    a: Tensor,
    forcing: float = 10.0,
    fine: int = 3,
    smooth: bool = False,
    walls: Walls = None,
) -> Tensor:
    """s = a ∇u at the cell centres of a, (S, 2, n, n): means of the fluxes through the two faces of the
    fine cell there, each of a harmonic mean of a.

    Args:
        a: permeabilities (S, 1, n, n).
        forcing, fine, smooth, walls: as of `darcy_solutions`; at least three fine cells in each.

    Raises:
        InputError: as `darcy_solutions`; a refinement of one, whose faces are those of walls.

    Source: finite volumes of `sim.grid.pdes.Darcy`, second order.
    """
    if fine < 3:
        raise InputError(message("darcy_fluxes", "a refinement >= 3", fine, "Take 3 or 5"))
    h, mid, found = 1 / (a.shape[-1] * fine), fine // 2, []
    for k, u in _fine(a, forcing, fine, smooth, walls):
        parts = []
        for axis, other in ((-2, -1), (-1, -2)):
            n = u.shape[axis]
            k0, u0 = (v.narrow(axis, 0, n - 1) for v in (k, u))
            k1, u1 = (v.narrow(axis, 1, n - 1) for v in (k, u))
            flux = 2 * k0 * k1 / (k0 + k1) * (u1 - u0) / h  # face i is between cells i and i + 1
            both = 0.5 * (flux.narrow(axis, 0, n - 2) + flux.narrow(axis, 1, n - 2))
            along = torch.arange(mid - 1, n - 2, fine, device=u.device)
            across = torch.arange(mid, n, fine, device=u.device)
            parts.append(both.index_select(axis, along).index_select(other, across))
        found.append(torch.cat(parts, 1))
    return torch.cat(found)


def _fine(
    a: Tensor, forcing: float, fine: int, smooth: bool, walls: Walls
) -> Iterator[tuple[Tensor, Tensor]]:
    """Permeabilities and solutions on the fine cells, a few samples at a time."""
    from .encoders import at_points

    if fine % 2 == 0:
        raise InputError(message("darcy_solutions", "an odd refinement", fine, "Take 3 or 5"))
    n = a.shape[-1]
    if a.ndim != 4 or tuple(a.shape[1:]) != (1, n, n):
        fix = "Give every sample one channel and as many rows as columns"
        raise InputError(message("darcy_solutions", "permeabilities (S, 1, n, n)", a, fix))
    coarse, grid = (Grid((m, m), sides="dirichlet") for m in (n, n * fine))
    solver = Darcy(grid, forcing)
    x = grid.points(a).reshape(-1, 2)
    for part in a.split(16):
        k = at_points(part, coarse, x, smooth).reshape(-1, 1, *grid.cells)
        if not bool((k > 0).all()):  # cubics overshoot at jumps
            fix = "Take smooth=False, or raise the inputs"
            got = f"{float(k.min()):.3g}" + (" between the cells" if bool((part > 0).all()) else "")
            raise InputError(message("darcy_solutions", "permeabilities > 0", got, fix))
        given = None if walls is None else {"forcing": forcing + _from_walls(grid, walls, k)}
        yield k, solver.solve(k, given)


def _from_walls(grid: Grid, walls: Callable[[Tensor], Tensor], k: Tensor) -> Tensor:
    """What values at walls add to the forcing of the cells beside them, 2 k g/dx², (S, 1, *cells)."""
    centres, total = grid.points(k), torch.zeros_like(k)
    for axis, h in enumerate(grid.dx):
        for at, place in ((0, 0.0), (-1, 1.0)):
            x = centres.select(axis, at).clone()
            x[..., axis] = place
            layer = total.select(axis + 2, at)
            layer += 2 / h**2 * k.select(axis + 2, at) * walls(x)
    return total


def burgers_inputs(
    count: int, cells: int = 128, generator: torch.Generator | None = None
) -> Tensor:
    """First frames (S, 1, cells) on (−1, 1), zero at walls: sines with α = 2, τ = 2 and 24 modes."""
    grid = Grid(cells, 2.0, "dirichlet", -1.0)
    field = GaussianField(grid, 2.0, 2.0, basis="dirichlet", modes=24)
    return field.sample(count, generator)


@torch.no_grad()
def burgers_solutions(
    u0: Tensor,
    frames: int = 20,
    viscosity: float = 0.1 / torch.pi,
    substeps: int = 10,
    fine: int = 3,
) -> Tensor:
    """Burgers' equation between walls u = 0 up to t = 1: frames (S, frames + 1, cells).

    Args:
        u0: (S, 1, cells).
        frames: after the first.
        viscosity: ν.
        substeps: steps per frame.
        fine: cells of the solver per cell of u0, odd.

    Raises:
        InputError: an even refinement, which has no cell at the centres; no frames or steps.

    Source: finite volumes of `sim.grid.pdes.BurgersFV`, second order.
    """
    if fine % 2 == 0 or min(fine, frames, substeps) < 1:
        expected, got = (
            "an odd refinement, frames and substeps >= 1",
            f"{fine}, {frames}, {substeps}",
        )
        raise InputError(message("burgers_solutions", expected, got, "Take fine=3 or 5"))
    n = u0.shape[-1]
    grid = Grid(n * fine, 2.0, "dirichlet", -1.0)
    pde = BurgersFV(grid, 1.0 / (frames * substeps), viscosity)
    hat = _sine_modes(u0.double())
    state = pde.initial_state(_sine_values(hat, n * fine))
    kept = [u0[:, 0].double()]
    for _ in range(frames):
        for _ in range(substeps):
            state = pde.step(state)
        kept.append(state.u[:, 0, fine // 2 :: fine])
    return torch.stack(kept, 1).to(u0.dtype)


def _sines(n: int, modes: int) -> Tensor:
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.sin(torch.pi * x[:, None] * torch.arange(1, modes + 1, dtype=torch.float64))


def _sine_modes(u: Tensor) -> Tensor:
    """Coefficients of the sines that a row of cells resolves."""
    n = u.shape[-1]
    return 2 / n * u @ _sines(n, n - 1)


def _sine_values(hat: Tensor, n: int) -> Tensor:
    return hat @ _sines(n, hat.shape[-1]).T
