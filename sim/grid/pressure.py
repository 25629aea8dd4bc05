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

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ..core.errors import InputError, message
from ..core.factors import Factor, IterativeFactor, Preconditioner, SparseFactor
from ..core.implicit import SolveInfo
from ..core.linalg import AMG, apply_solve, jacobi
from ..core.linear_map import LinearMap, Operator, SparseMatrix, as_operator
from .mac import Faces, MacGrid
from .multigrid import SpectralFactor, Stencil, VCycle
from .solids import Solids, faces_of, solids_of

__all__ = ["METHODS", "Method", "PressureSystem", "project"]

METHODS = ("auto", "spectral", "multigrid", "jacobi", "cg", "direct", "amg")
"""auto: spectral in a box without obstacles of at most 256 cells per axis, else multigrid.
multigrid, jacobi, cg: conjugate gradients with that or no preconditioner; amg: with pyamg's (CPU);
direct: sparse LU (CPU), for small static geometries."""

Method = str | Callable[["PressureSystem"], Preconditioner]
"""One of METHODS, or a function that makes a preconditioner of CG on rows (B, n), such as a network;
it need not be linear."""

SPECTRAL_LIMIT = 256
ROUND_OFF = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Net flow into an enclosed region that counts as round-off, as a share of what its sides push."""
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
"""Of the pressure solve, by the precision of the velocity."""


@dataclasses.dataclass
class PressureMap(LinearMap):
    """A(w) as the differentiable form: leaves are the open fractions."""

    grid: MacGrid

    def matvec(self, v, leaves):
        q = v.reshape(-1, *self.grid.cells)
        total = 0.0
        for a, w in enumerate(leaves):
            total = total - self.grid.outflow(w * self.grid.jump(q, a), a)
        return total.reshape(v.shape)

    rmatvec = matvec

    def operator(self, like, leaves):
        stencil = Stencil(self.grid.cells, self.grid.periodic, tuple(w.detach() for w in leaves))
        apply = lambda v: stencil(v.reshape(-1, *self.grid.cells)).reshape(v.shape)  # noqa: E731
        return Operator(apply, apply, like)


class PressureSystem:
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
        self.tol = TOLERANCE[solids.open[0].dtype] if tol is None else tol
        open_ = tuple(w.double() for w in self.solids.open)
        self.open = open_
        if method == "auto":
            small = solids.empty and max(grid.cells) <= SPECTRAL_LIMIT
            method = "spectral" if small else "multigrid"
        self.method, self.max_iterations = method, max_iterations
        self.map = PressureMap(grid)
        self._label(self._matrix())
        self.stencil = Stencil(grid.cells, grid.periodic, open_)
        with torch.no_grad():
            self.factor = self._factor(open_[0].new_empty(1, grid.cell_count))

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
        rows = b.double().flatten(1)
        guess = None
        if psi0 is not None and self.method not in ("spectral", "direct"):
            guess = self._better(rows.detach(), psi0.detach().double().reshape(rows.shape))
        record = _Record(info)
        leaves = self.open
        if open_ is not None and any(w.requires_grad for w in open_):
            leaves = tuple(w.double() for w in open_)
        psi = apply_solve(self.map, self.factor, False, rows, leaves, guess, record)
        return psi.reshape(b.shape)

    def check(self, where: str, outflow: Tensor, round_off: Tensor) -> None:
        """Raise `InputError` if volume enters or leaves an enclosed region.

        `outflow` of cells [m/s] and what its round-off may be are (B, *cells).
        """
        if not self.closed_count:
            return
        with torch.no_grad():
            net = self._sums(outflow.flatten(1))
            bad = self.closed & (net.abs() > self._sums(round_off.flatten(1)))
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

    def _better(self, rows: Tensor, guess: Tensor) -> Tensor:
        """The guess where it beats zero: else CG would chase digits that round-off ate."""
        with torch.no_grad():
            guess = self._centre(guess)
            left = (rows - self.factor.operator.matvec(guess)).norm(dim=1)
            return torch.where((left < rows.norm(dim=1))[:, None], guess, 0.0)

    def _matrix(self) -> SparseMatrix:
        """A as entries, (K,) or (b, K)."""
        grid, rows, cols, values = self.grid, [], [], []
        index = torch.arange(grid.cell_count).reshape(grid.cells)
        for a, w in enumerate(self.open):
            dim, n = a - grid.dim, grid.cells[a]
            if grid.periodic[a]:
                low, high, c = index.roll(1, dim), index, w
            else:
                low, high = index.narrow(dim, 0, n - 1), index.narrow(dim, 1, n - 1)
                c = w.narrow(dim, 1, n - 1)
                for end in (0, n):
                    at = index.narrow(dim, min(end, n - 1), 1).reshape(-1)
                    rows.append(at)
                    cols.append(at)
                    values.append(w.narrow(dim, end, 1).flatten(1))
            i, j, c = low.reshape(-1), high.reshape(-1), c.flatten(1)
            rows += [i, j, i, j]
            cols += [i, j, j, i]
            values += [c, c, -c, -c]
        entries = torch.cat(values, 1)
        entries = entries[0] if len(entries) == 1 else entries
        place = entries.device
        return SparseMatrix(
            entries, torch.cat(rows).to(place), torch.cat(cols).to(place), grid.cell_count
        )

    def _label(self, matrix: SparseMatrix) -> None:
        """Number the connected regions of each geometry and find those that no opening reaches."""
        geometries = self.fluid.flatten(1).cpu().numpy()
        A = matrix.scipy().tocoo()
        bonds = (A.data < 0).nonzero()[0]
        graph = scipy.sparse.csr_matrix((-A.data[bonds], (A.row[bonds], A.col[bonds])), A.shape)
        reached = np.zeros(geometries.size)
        np.add.at(reached, A.row, A.data)  # what is left of a region's row sums is its openings
        labels = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
        labels = labels.reshape(geometries.shape)
        labels = labels - labels.min(1, keepdims=True)
        self.regions = int(labels.max()) + 1
        opening = np.zeros((len(labels), self.regions))
        cells = np.zeros_like(opening)
        for b, row in enumerate(labels):
            np.add.at(opening[b], row, reached.reshape(labels.shape)[b])
            np.add.at(cells[b], row, geometries[b])
        place = self.fluid.device
        self.labels = torch.as_tensor(labels, dtype=torch.long, device=place)
        closed = (cells > 0) & (opening < 1e-6)
        self.closed_count = int(closed.sum())
        self.closed = torch.as_tensor(closed, device=place)
        self.counts = torch.as_tensor(np.maximum(cells, 1), device=place)

    def _sums(self, rows: Tensor) -> Tensor:
        """Sum over the gas cells of each region, (B, regions)."""
        out = rows.new_zeros(len(rows), self.regions)
        return out.scatter_add(1, self.labels.expand(len(rows), -1), rows * self.fluid.flatten(1))

    def _centre(self, rows: Tensor) -> Tensor:
        """Gas cells only, and mean zero in every enclosed region."""
        rows = rows * self.fluid.flatten(1)
        if not self.closed_count:
            return rows
        means = torch.where(self.closed, self._sums(rows) / self.counts, 0.0)
        return rows - means.gather(1, self.labels.expand(len(rows), -1)) * self.fluid.flatten(1)

    def _factor(self, like: Tensor) -> Factor:
        operator = self.map.operator(like, self.open)
        if self.method == "spectral":
            factor: Factor = SpectralFactor(operator, self.grid, self.tol)
        elif self.method in ("direct", "amg"):
            pinned = as_operator(self._pinned(), None)
            if self.method == "direct":
                factor = SparseFactor(pinned, "spd", self.tol)
            else:
                factor = AMG(tol=self.tol, max_iterations=self.max_iterations).factor(pinned)
            factor.operator = operator
        else:
            M = self._preconditioner()
            centred = None if M is None else lambda v: self._centre(M(v))  # noqa: E731
            factor = IterativeFactor(
                "CG", operator, self.tol, self.max_iterations, centred, check=False
            )
        factor.project = self._centre
        return _Centred(factor, self._centre)

    def _preconditioner(self) -> Preconditioner | None:
        if callable(self.method):
            return self.method(self)
        if self.method == "multigrid":
            return VCycle(self.stencil.to(torch.float32))
        diagonal = self.stencil.diagonal.flatten(1)
        return jacobi(torch.where(diagonal > 0, diagonal, 1.0)) if self.method == "jacobi" else None

    def _pinned(self) -> Any:
        """A with one diagonal entry per enclosed region raised: regular, same solution up to the mean."""
        matrix = self._matrix()
        values = matrix.values.reshape(len(self.labels), -1)
        flat = self.fluid.flatten(1)
        raised = (~flat).to(values)
        for b, region in self.closed.nonzero().tolist():
            raised[b, int(((self.labels[b] == region) & flat[b]).nonzero()[0])] = 1.0
        values = torch.cat((values, raised), 1)
        at = torch.arange(matrix.n, device=values.device)
        rows, cols = torch.cat((matrix.rows, at)), torch.cat((matrix.cols, at))
        values = values[0] if len(values) == 1 else values
        return SparseMatrix(values, rows, cols, matrix.n)


class _Centred(Factor):
    """A factor whose solutions have mean zero in enclosed regions, as the pseudo-inverse's have."""

    def __init__(self, inner: Factor, centre: Callable[[Tensor], Tensor]) -> None:
        self.inner, self.centre, self.project = inner, centre, centre
        self.operator, self.tol, self.name = inner.operator, inner.tol, inner.name

    def _solve(self, b, x0, transpose, tol):
        x, iterations = self.inner._solve(b, x0, transpose, tol)
        return self.centre(x), iterations


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
    system.check("project", outflow.detach(), round_off)
    psi = system.solve(-outflow * solids.fluid, solids.open, psi0, info)
    out = []
    for a, (f, w) in enumerate(zip(double, solids.open, strict=True)):
        closed = 0.0 if solid_velocity is None else solid_velocity[a].double()
        out.append(torch.where(w > 0, f - grid.jump(psi, a), closed).to(dtype))
    return tuple(out), (psi * grid.dx).to(dtype)
