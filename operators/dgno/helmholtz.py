"""Helmholtz's equation Δu + a u + f = 0 on the unit square as virtual observables; the input is a."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import splu
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid
from .cell_input import CellInput
from .csrbf import Particles, TestFunctions
from .encoders import at_points
from .problem import Decode, FieldSpec

__all__ = ["Helmholtz2D", "helmholtz_solutions"]


class Helmholtz2D(CellInput):
    """Δu + a u + f = 0, u = g at walls, with first derivatives alone:

        r = Σ g_q·∇u − Σ w (a u + f)        over 10 · `size`

    a may jump: u and ∇u do not, and a itself is never differentiated. Near a resonance, a an eigenvalue
    of −Δ, u is large and the problem ill-conditioned: of constant a below 2π² = 19.7 there is none.

    Args:
        cells: grid of a.
        phases: (low, high) for two-phase a; None for smooth positive a [1/m²].
        walls: g, see `CellInput`; default 1 all around.
        forcing: f.
        size: of u.
        count: particles per update.
        points, corrected, ends, test: see `TestFunctions`; test is its `kind`.
        radius: R [m], a number or an interval.
        middle: of smooth fields; of two phases it is √(low·high).

    Raises:
        InputError: phases or a size that are not positive.

    Source: GenPANIS (J. Comput. Phys. 2026), released code: f = 0, u = 1 at walls, two phases.
    """

    def __init__(
        self,
        cells: tuple[int, int] = (32, 32),
        phases: tuple[float, float] | None = None,
        walls: Callable[[Tensor], Tensor] | None = None,
        forcing: float = 0.0,
        size: float = 1.0,
        count: int = 200,
        points: int = 4,
        radius: float | tuple[float, float] = 1e-2,
        middle: float = 10.0,
        corrected: bool = True,
        ends: bool = False,
        test: str = "wendland",
    ) -> None:
        if not size > 0:
            raise InputError(message("Helmholtz2D", "size > 0", size, "Give that of u"))
        super().__init__(cells, phases, middle, _one if walls is None else walls)
        self.forcing, self.size, self.count, self.radius = forcing, size, count, radius
        self.tests = TestFunctions(2, points, corrected, ends, test)
        self.fields = {"u": FieldSpec(scale=size), "a": self.input_field}

    def sample(self, generator: torch.Generator | None, like: Tensor) -> Particles:
        options = {"dtype": like.dtype, "device": like.device}
        ends = ((0.0, 0.0), (1.0, 1.0))
        return self.tests.sample(self.count, *ends, self.radius, generator, **options)

    def residuals(self, decode: Decode, where: Particles, a: Tensor | None) -> dict[str, Tensor]:
        x = where.points
        u = decode(x, 1, ("u",))["u"][:, :, 0]
        source = self.permeability_at(decode, x, a) * u[0] + self.forcing
        r = where.against([u[1], u[2]]) - where.average(source)
        return {"residual": r / (10 * self.size)}


def _one(x: Tensor) -> Tensor:
    return torch.ones_like(x[..., 0])


@torch.no_grad()
def helmholtz_solutions(
    a: Tensor,
    walls: Callable[[Tensor], Tensor] | None = None,
    forcing: float = 0.0,
    fine: int = 3,
    smooth: bool = False,
) -> Tensor:
    """u at the cell centres of a, (S, 1, n, n), on `fine`² cells (odd) in each cell of a.

    Args:
        a: (S, 1, n, n) [1/m²].
        walls: values around the square, points (..., 2) → (...); default 1.
        forcing: f.
        fine: refinement.
        smooth: interpolate a cubically, else it is constant in each of its cells.

    Raises:
        InputError: an even refinement, fields of another shape.

    Source: five-point differences, walls half a cell away; second order; sparse LU.
    """
    if fine % 2 == 0:
        raise InputError(message("helmholtz_solutions", "an odd refinement", fine, "Take 3 or 5"))
    n = a.shape[-1]
    coarse = Grid((n, n), sides="dirichlet")
    coarse.check("helmholtz_solutions", a, 1, "a")
    m = n * fine
    grid, h = Grid((m, m), sides="dirichlet"), 1.0 / m
    x = grid.points(a.double()).reshape(-1, 2)
    main = np.full(m, -2.0)
    main[[0, -1]] = -3.0  # a mirror with its sign turned
    line = sp.diags([np.ones(m - 1), main, np.ones(m - 1)], [-1, 0, 1])
    eye = sp.identity(m)
    laplacian = (sp.kron(line, eye) + sp.kron(eye, line)) / h**2
    s, given = (torch.arange(m).double() + 0.5) * h, torch.zeros(m, m, dtype=torch.float64)
    g = _one if walls is None else walls
    for at in (0, -1):
        side = torch.full_like(s, float(-at))
        given[at] += 2 / h**2 * g(torch.stack([side, s], -1))
        given[:, at] += 2 / h**2 * g(torch.stack([s, side], -1))
    right = -(given.flatten().numpy() + forcing)
    k = at_points(a.double(), coarse, x, smooth).numpy()
    found = [splu(sp.csc_matrix(laplacian + sp.diags(row))).solve(right) for row in k]
    u = torch.from_numpy(np.stack(found)).reshape(-1, 1, m, m)
    return u[..., fine // 2 :: fine, fine // 2 :: fine].to(a.dtype)
