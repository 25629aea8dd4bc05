"""The pressure solve and the projection onto velocities without divergence.

    A ψ = −dx div(w u* + (1 − w) u_s),   A = Σ jumpᵀ w jump        u = u* − jump ψ where w > 0

ψ = dt p / (ρ dx) [m/s] has the scale of a velocity. div and jump are compact and adjoint, so the
divergence that is left is the residual of the solve: the projection is exact to the tolerance,
idempotent, and orthogonal with voxels. Its derivative is one more solve with the same A.

The solve runs in float64, because ψ of a smooth flow is so much larger than its second differences
that float32 would stop at 1e-5 of the divergence; velocities keep their own precision, and the
multigrid cycle inside CG runs in float32.

A region of gas that no opening reaches has a pressure up to a constant, chosen with mean zero, and
a solution only if no net volume enters it: else an error names the region.

Source: Chorin 1968; Bridson 2015, chapter 5; Batty et al. 2007 (fractions w).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError, check_finite, message
from ..core.implicit import SolveInfo
from .mac import Faces, MacGrid
from .poisson.spectral import DENSE, dense_transform
from .poisson.stencil import Stencil
from .poisson.system import SOLVERS, TOLERANCE, FaceSystem, Method
from .solids import Solids, faces_of, solids_of

__all__ = ["METHODS", "Method", "PressureSystem", "project"]

METHODS = ("auto", "spectral", *SOLVERS)
"""auto: spectral in a box without obstacles of at most 256 cells per axis, else multigrid; the others
as in `poisson.system.SOLVERS`."""

ROUND_OFF = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Net flow into an enclosed region that counts as round-off, as a share of what its sides push."""


class PressureSystem(FaceSystem):
    """Everything about one geometry that a pressure solve needs; serves any number of solves.

    Args:
        grid: the grid.
        solids: its walls and obstacles.
        method: one of METHODS, or a maker of preconditioners.
        tol: ‖residual‖ / ‖divergence‖ to reach [-]; default 1e-10, for float32 velocities 1e-6.
        max_iterations: of CG; default 10 n.

    Raises:
        InputError: unknown method, or "spectral" with obstacles.
    """

    def __init__(
        self,
        grid: MacGrid,
        solids: Solids,
        method: Method = "auto",
        tol: float | None = None,
        max_iterations: int | None = None,
    ) -> None:
        if isinstance(method, str) and method not in METHODS:
            raise InputError(message("project", f"method out of {METHODS}", method, "Choose one"))
        if method == "spectral" and not solids.empty:
            fix = 'Use method="multigrid"'
            raise InputError(message("project", "no obstacles", "method='spectral'", fix))
        self.grid, self.solids, self.fluid = grid, solids.detach(), solids.fluid
        if method == "auto":
            small = solids.empty and max(grid.cells) <= DENSE
            method = "spectral" if small else "multigrid"
        axes = None
        if method == "spectral":
            transforms = [dense_transform(axis_matrix(grid, a)) for a in range(grid.dim)]
            axes = (transforms, (1.0,) * grid.dim)
        stencil = Stencil(grid.cells, grid.periodic, tuple(w.double() for w in self.solids.open))
        tol = TOLERANCE[solids.open[0].dtype] if tol is None else tol
        super().__init__(stencil, solids.fluid, method, tol, max_iterations, axes)

    def solve(
        self,
        b: Tensor,
        open_: Faces | None = None,
        psi0: Tensor | None = None,
        info: SolveInfo | None = None,
    ) -> Tensor:
        """ψ with A(w) ψ = b, mean zero in enclosed regions; float64.

        Args:
            b: right-hand side [m/s], (B, *cells), compatible in enclosed regions.
            open_: w with its graph, to differentiate in; default the ones of the geometry.
            psi0: first guess [m/s], (B, *cells).
            info: filled with iterations and residual.

        Raises:
            ConvergenceError: forward, or in backward, when the tolerance was not reached.

        Differentiable in b and open_ by one adjoint solve.
        Source: `sim.core.linalg.linear_solve`.
        """
        guess = None if psi0 is None else psi0.flatten(1)
        psi = self.solve_rows(b.double().flatten(1), open_, guess, _Record(info))
        return psi.reshape(b.shape)

    def check(self, where: str, outflow: Tensor, round_off: Tensor) -> None:
        """Raise `InputError` if volume enters or leaves an enclosed region.

        `outflow` of cells [m/s] and what its round-off may be are (B, *cells).
        """
        if not self.closed_count:
            return
        with torch.no_grad():
            net = self.sums(outflow.flatten(1))
            bad = self.closed & (net.abs() > self.sums(round_off.flatten(1)))
        if not bool(bad.any()):
            return
        b, region = (int(i) for i in bad.nonzero()[0])
        geometry = b if len(self.labels) > 1 else 0
        inside = self.labels[geometry] == region
        centre = self.grid.points(None, outflow).reshape(-1, self.grid.dim)[inside].mean(0)
        rate = float(net[b, region]) * self.grid.dx ** (self.grid.dim - 1)
        at = ", ".join(f"{float(x):.3g}" for x in centre)
        got = f"a net outflow of {rate:.3g} m^{self.grid.dim}/s from {int(inside.sum())} cells "
        fix = "Open a side of it; an obstacle that sticks in a wall may only slide along it"
        text = message(
            where, "no net flow into enclosed regions", got + f"around ({at}) m in scene {b}", fix
        )
        raise InputError(text)


class _Record:
    def __init__(self, info: SolveInfo | None) -> None:
        self.info = info

    def __call__(self, result: Any) -> None:
        if self.info is not None:
            self.info.iterations = int(result.iterations.max())
            self.info.residual = float(result.residual.max())


def project(
    u: Faces,
    grid: MacGrid,
    solids: Solids | None = None,
    solid_velocity: Faces | None = None,
    *,
    psi0: Tensor | None = None,
    method: Method = "auto",
    tol: float | None = None,
    max_iterations: int | None = None,
    system: PressureSystem | None = None,
    info: SolveInfo | None = None,
) -> tuple[Faces, Tensor]:
    """The part of u without divergence: u − grad q, with u = u_s on closed faces.

    Args:
        u: velocities on faces [m/s], one (B, *faces) per axis.
        grid: the grid.
        solids: walls and obstacles from `solids_of`; default: the sides of the grid only.
        solid_velocity: u_s [m/s] on closed faces, from `solid_velocity`; default at rest.
        psi0: first guess for q / dx [m/s], (B, *cells), such as the last one.
        method, tol, max_iterations: of the solve, see `PressureSystem`.
        system: a `PressureSystem` of this very geometry; its method counts.
        info: filled with iterations and residual.

    Returns:
        Velocities like u, and q = dt p / ρ [m²/s], (B, *cells).

    Raises:
        InputError: shapes; net volume flow into a region without opening.
        StateError: velocities that are not finite.
        ConvergenceError: the tolerance was not reached.

    Differentiable in u, solid_velocity and the fractions of `solids`, by one adjoint solve.
    Source: Chorin 1968; Bridson 2015, chapter 5.
    """
    grid.check("project", u)
    if solids is None:
        solids = solids_of(grid, like=u[0])
    if system is None:
        system = PressureSystem(grid, solids, method, tol, max_iterations)
    dtype = u[0].dtype
    outflow: Any = 0.0
    round_off: Any = 0.0
    double = tuple(f.double() for f in u)
    for a, (f, w) in enumerate(zip(double, solids.open, strict=True)):
        flux = w * f
        if solid_velocity is not None:
            flux = flux + (1 - w) * solid_velocity[a]
        outflow = outflow + grid.outflow(flux, a)
        size = flux.detach().abs() * torch.where(w > 0, 1e-12, ROUND_OFF[dtype])
        lower, upper = faces_of(grid, size, a)
        round_off = round_off + lower + upper
    if not bool(outflow.detach().isfinite().all()):
        check_finite("project", **_named("u", u), **_named("solid_velocity", solid_velocity))
    system.check("project", outflow.detach(), round_off)
    psi = system.solve(-outflow * solids.fluid, solids.open, psi0, info)
    out = []
    for a, (f, w) in enumerate(zip(double, solids.open, strict=True)):
        closed = 0.0 if solid_velocity is None else solid_velocity[a].double()
        out.append(torch.where(w > 0, f - grid.jump(psi, a), closed).to(dtype))
    return tuple(out), (psi * grid.dx).to(dtype)


def _named(name: str, faces: Faces | None) -> dict[str, Tensor]:
    return {f"{name}[{a}]": f.detach() for a, f in enumerate(faces or ())}


def axis_matrix(grid: MacGrid, axis: int) -> np.ndarray:
    """Minus the second difference along one axis, (n, n), with its sides."""
    n = grid.cells[axis]
    T = np.zeros((n, n))
    for i in range(n - 1):
        T[i : i + 2, i : i + 2] += [[1.0, -1.0], [-1.0, 1.0]]
    if grid.periodic[axis] and n > 1:
        seam = [0, n - 1]
        T[np.ix_(seam, seam)] += [[1.0, -1.0], [-1.0, 1.0]]
    for end, side in zip((0, n - 1), grid.sides[axis], strict=True):
        T[end, end] += side == "open"
    return T
