"""Stationary flow through a porous medium.

Source: LeVeque 2002, Finite Volume Methods, chapter 4; Li et al. 2021 (FNO, section 5.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, check_finite, message
from ..poisson.stencil import Stencil
from ..poisson.system import SOLVERS, FaceSystem, Method
from .base import Parameter, Pde
from .grid import Grid
from .volumes import diffusion, diffusion_faces

__all__ = ["Darcy"]

DIRECT_LIMIT = 6_000
"""Cells of all scenes together up to which "auto" takes sparse LU on the CPU, in 1-D and 2-D: where
multigrid begins to be faster."""


class Darcy(Pde):
    """−∇·(a ∇u) = f for any sides of which one holds a value; finite volumes, harmonic means of a.

    The flux is continuous where a jumps between cells. Second order for smooth a and for jumps along
    cell borders, first order for jumps that run through cells. Solved in float64 for any precision.

    Args:
        grid: the box; `Grid((64, 64), sides="dirichlet")` is u = 0 around the unit square.
        forcing: f, number, (B,), or field (B, 1, *cells).
        method: "auto": sparse LU for small problems on the CPU, else multigrid; or one of
            `sim.grid.poisson.system.SOLVERS`, or a function that makes a preconditioner.
        tol: ‖residual‖ / ‖right-hand side‖ to reach [-].

    Raises:
        InputError: unknown method; no wall with a value, since u would be free up to a constant.

    Source: Li et al. 2021 (FNO); Zang & Koutsourelakis 2025 (DGenNO, piecewise constant a).
    """

    def __init__(
        self,
        grid: Grid,
        forcing: Any = 1.0,
        method: Method = "auto",
        tol: float = 1e-12,
    ) -> None:
        super().__init__(grid, {"forcing": Parameter(forcing, field=True)})
        if not callable(method) and method not in ("auto", *SOLVERS):
            expected = f"method out of {('auto', *SOLVERS)} or a function"
            raise InputError(message(self.name, expected, str(method), "Choose one"))
        if not any(side.alpha > 0 for side in grid.walls.values()):
            got, fix = f"sides {grid.sides}", "Make one side dirichlet() or robin()"
            raise InputError(message(self.name, "a wall that holds a value", got, fix))
        self.method, self.tol = method, tol

    def solve(self, a: Tensor, params: Mapping[str, Any] | None = None) -> Tensor:
        """Pressure u of permeability a, both (B, 1, *cells).

        Raises:
            InputError: wrong shape, a not positive.
            ConvergenceError: "multigrid" did not reach `tol`.

        Differentiable in a, forcing and right-hand sides of walls, by one adjoint solve.
        Source: `sim.grid.poisson.system.FaceSystem`.
        """
        values = self._values("solve", a, params)
        k = a.double()
        values = {name: v.double() for name, v in values.items()}
        faces, walls = diffusion_faces(self.grid, k, values)
        b = walls + values["forcing"].expand_as(k)[:, 0]
        method = self.method
        if method == "auto":
            small = self.grid.dim < 3 and k.numel() <= DIRECT_LIMIT
            method = "direct" if small and a.device.type == "cpu" else "multigrid"
        with torch.no_grad():
            stencil = Stencil(self.grid.cells, self.grid.periodic, tuple(c.detach() for c in faces))
            system = FaceSystem(stencil, torch.ones_like(b, dtype=torch.bool), method, self.tol)
        u = system.solve_rows(b.flatten(1), faces)
        u = u.reshape(a.shape).to(a.dtype)
        check_finite("Darcy.solve", u=u)
        return u

    def residual(self, a: Tensor, u: Tensor, params: Mapping[str, Any] | None = None) -> Tensor:
        """∇·(a ∇u) + f, (B, 1, *cells): zero where `solve(a)` is u. Differentiable in all."""
        self.grid.check("Darcy.residual", u, 1)
        values = self._values("residual", a, params)
        return diffusion(self.grid, u, a, values) + values["forcing"]

    def _values(self, where: str, a: Tensor, params: Mapping[str, Any] | None) -> dict[str, Tensor]:
        where = f"{self.name}.{where}"
        self.grid.check(where, a, 1, "a")
        check_finite(where, a=a.detach())
        least = float(a.detach().min())
        if least <= 0:
            fix = "Permeability is positive; sample it as exp(field) or as two phases"
            raise InputError(message(where, "a > 0", least, fix))
        return self.spread(params, a)
