"""The Poisson equation as a data set: a random source to its solution.

Source: Strang 1999 (transforms of the axes, which solve it exactly); Takamoto et al. 2022 for the form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import GaussianField, Grid
from ...sim.grid.poisson import PoissonProblem, PoissonSystem

__all__ = ["Poisson", "sample_source"]

SIDES = ("dirichlet", "neumann", "periodic")
FREE = 1e-5
"""Mean of a source, as a share of its root mean square, that counts as round-off where it has to be 0."""


class Poisson:
    """−k ∇²u = f; solved by `sim.grid.poisson` in float64 for any precision.

    With sides that hold no value u has the mean zero, and so must f, up to round-off, which is taken out.

    Args:
        cells: per axis.
        dim: 1, 2 or 3 axes of 1 m.
        sides: of all axes: "dirichlet" (u = 0), "neumann" (no flux) or "periodic".
        coefficient: k.

    Raises:
        InputError: dim, sides or k out of range.

    Differentiable in f. Source: `sim.grid.poisson.PoissonSystem`.
    """

    name, channels = "Poisson", ("u",)

    def __init__(
        self, cells: int, dim: float = 2, sides: str = "dirichlet", coefficient: float = 1.0
    ) -> None:
        if dim not in (1, 2, 3):
            raise InputError(message("Poisson", "dim 1, 2 or 3", dim, "Correct it"))
        if sides not in SIDES:
            raise InputError(message("Poisson", f"sides out of {SIDES}", sides, "Choose one"))
        if not 0 < coefficient < float("inf"):
            raise InputError(message("Poisson", "coefficient > 0", coefficient, "Correct it"))
        self.grid = Grid((cells,) * int(dim), sides=sides)
        self.coefficient, self.singular = float(coefficient), sides != "dirichlet"
        self.problem = PoissonProblem(self.grid.cells, self.grid.dx, sides, k=self.coefficient)
        self._system = PoissonSystem(self.problem, "auto")

    def default_params(self) -> dict[str, float]:
        """Numbers of the equation."""
        return {"coefficient": self.coefficient}

    def check(self, f: Tensor) -> None:
        """Raise `InputError` unless `solve` takes f."""
        self.grid.check("Poisson", f, 1, "f")
        self._balanced(f)

    def solve(self, f: Tensor) -> Tensor:
        """u of a source f, both (B, 1, *cells).

        Raises:
            InputError: wrong shape; a source with a mean where no side holds a value.
            ConvergenceError: the solve did not reach its tolerance.
        """
        self.check(f)
        return self._system.solve(self._balanced(f)[:, 0]).u.unsqueeze(1).to(f.dtype)

    def residual(self, f: Tensor, u: Tensor) -> Tensor:
        """k ∇²u + f, (B, 1, *cells): zero where `solve(f)` is u. Differentiable in both."""
        self.grid.check("Poisson.residual", u, 1)
        return self.problem.residual(self._balanced(f)[:, 0], u[:, 0]).unsqueeze(1)

    def _balanced(self, f: Tensor) -> Tensor:
        b = f.double()
        if not self.singular:
            return b
        mean = b.flatten(1).mean(1)
        size = b.detach().flatten(1).square().mean(1).sqrt()
        if bool((mean.detach().abs() > FREE * size).any()):
            got = f"{float(mean.detach().abs().max()):.3g}"
            fix = "Take the mean out, or sides that hold a value"
            raise InputError(message("Poisson.solve", "a source of mean zero", got, fix))
        return b - mean.reshape(-1, *(1,) * (b.ndim - 1))


def sample_source(grid: Grid, generator: torch.Generator) -> Tensor:
    """Random f (1, 1, *cells), float64, of root mean square about 1 and mean zero, smooth in the box."""
    basis = "neumann" if grid.walls else "periodic"
    alpha = 2.0 + 0.5 * (grid.dim - 2)  # as smooth in every dimension
    field = GaussianField(grid, alpha, 6.0, basis=basis)
    f = field.sample(1, generator, dtype=torch.float64)
    return f / field.variance().mean().sqrt()
