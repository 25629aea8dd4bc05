"""Which weights of hinges make a plate of any mesh: small deflections of a square plate, pinned, ν = 0.3.

    triangles    what `Sheet` does: A_T D/2 |Λ_T|² of the curvature of a triangle from its three hinges
    points       A_v D/2 |Λ_v|² of the mean curvature around every point
    pairs        the same around every hinge
    mixed        0.9 points + 0.1 triangles
    hinges       each hinge alone, k = c D |e|²/(A₁ + A₂), c = 1 (exact on a cylinder), 3 (Grinspun 2003)

error: of the deflection under uniform load against Navier's series, by mesh.
floppy: the least energy, over all shapes, in units of what "triangles" takes: small numbers are wrinkles
that cost nothing.

    python benchmarks/bench_plates.py [--quick]
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch
from results import Results, parser
from rheograd.sim.fem import Sheet
from rheograd.sim.fem.bending import hinge_angle_gradient
from rheograd.sim.shell import rectangle

NU, EXACT = 0.3, 0.0040624
FORM = np.array([[1, NU, 0], [NU, 1, 0], [0, 0, 1 - NU]])
"""(1 − ν) tr Λ² + ν (tr Λ)² of (Λ_xx, Λ_yy, √2 Λ_xy)."""


def corners_and_centres(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares with a point in the middle, four triangles each."""
    line = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    middle = torch.cartesian_prod(line[:-1] + 0.5 / n, line[:-1] + 0.5 / n)
    X = torch.nn.functional.pad(torch.cat((grid, middle)), (0, 1))
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    a = (i * (n + 1) + j).reshape(-1)
    ring = (a, a + n + 1, a + n + 2, a + 1)
    centre = torch.arange(n * n) + (n + 1) ** 2
    parts = [torch.stack((ring[k], ring[(k + 1) % 4], centre), 1) for k in range(4)]
    return X, torch.cat(parts)


@dataclasses.dataclass
class Plate:
    """A mesh with all maps from deflections w (N,) that the energies need."""

    X: torch.Tensor
    cells: torch.Tensor

    @cached_property
    def sheet(self) -> Sheet:
        return Sheet(name="plate", cells=self.cells, E=1.0, nu=NU, h=1.0, rho=1.0)

    @cached_property
    def area(self) -> np.ndarray:
        sides = (self.X[self.cells[:, 1:]] - self.X[self.cells[:, :1]]).numpy()
        return 0.5 * np.cross(sides[:, 0], sides[:, 1])[:, 2]

    @cached_property
    def angles(self) -> sp.csr_matrix:
        """θ = angles w, (H, N)."""
        points = self.sheet.hinges[0]
        slope = hinge_angle_gradient(self.X[points])[..., 2].numpy()
        rows = np.repeat(np.arange(len(points)), 4)
        shape = (len(points), len(self.X))
        return sp.csr_matrix((slope.ravel(), (rows, points.numpy().ravel())), shape)

    @cached_property
    def curvatures(self) -> sp.csr_matrix:
        """(Λ_xx, Λ_yy, √2 Λ_xy) of all triangles from w, (3 S, N); no moment across the border."""
        x, c, count = self.X.numpy()[:, :2], self.cells.numpy(), self.sheet.hinge_count
        side = np.roll(x[c], -2, 1) - np.roll(x[c], -1, 1)
        length = np.linalg.norm(side, axis=2)
        n = np.stack((side[..., 1], -side[..., 0]), -1) / length[..., None]
        shape = np.stack((n[..., 0] ** 2, n[..., 1] ** 2, np.sqrt(2) * n[..., 0] * n[..., 1]), 1)
        L = shape * (length / (2 * self.area[:, None]))[:, None]
        hinge = self.sheet.layout.sides.numpy()
        for i in range(3):
            border = hinge[:, i] >= count
            K = np.einsum("sai,ab,sbj->sij", L, FORM, L)[border]
            own = K[:, i, i].copy()
            share = np.divide(K[:, i], own[:, None], where=own[:, None] > 0, out=0 * K[:, i])
            share[:, i] = 1.0
            L[border] -= L[border][:, :, i : i + 1] * share[:, None]
        hinge = np.where(hinge < count, hinge, 0)  # their columns of L vanish
        row = np.repeat(np.arange(3 * len(c)), 3)
        col = np.repeat(hinge[:, None], 3, 1).ravel()
        return sp.csr_matrix((L.ravel(), (row, col)), (3 * len(c), count)) @ self.angles

    def _energy(self, owner: np.ndarray, count: int) -> sp.csr_matrix:
        """K of curvatures averaged over the `count` owners of triangles, (S, m); −1: none."""
        col = np.repeat(np.arange(len(owner)), owner.shape[1])
        keep = owner.ravel() >= 0
        row, col = owner.ravel()[keep], col[keep]
        W = sp.csr_matrix((self.area[col] / 3, (row, col)), (count, len(owner)))
        size = np.asarray(W.sum(1)).ravel()
        mean = sp.kron(sp.diags(1 / size) @ W, np.eye(3)) @ self.curvatures
        return mean.T @ sp.kron(sp.diags(size), FORM) @ mean

    def stiffness(self, kind: str) -> sp.csr_matrix:
        """K with ½ w·K w the energy over D."""
        cells, count = self.cells.numpy(), self.sheet.hinge_count
        if kind == "triangles":
            form = sp.kron(sp.diags(self.area), FORM)
            return self.curvatures.T @ form @ self.curvatures
        if kind == "points":
            return self._energy(cells, len(self.X))
        if kind == "pairs":
            sides = self.sheet.layout.sides.numpy()
            return self._energy(np.where(sides < count, sides, -1), count)
        if kind == "mixed":
            return 0.9 * self.stiffness("points") + 0.1 * self.stiffness("triangles")
        points, faces = (t.numpy() for t in self.sheet.hinges)
        square = ((self.X.numpy()[points[:, 0]] - self.X.numpy()[points[:, 1]]) ** 2).sum(1)
        k = float(kind.split()[1]) * square / self.area[faces].sum(1)
        return self.angles.T @ sp.diags(k) @ self.angles

    @cached_property
    def free(self) -> np.ndarray:
        x = self.X.numpy()[:, :2]
        return ((x > 1e-9) & (x < 1 - 1e-9)).all(1)

    def error(self, K: sp.csr_matrix) -> float:
        load = np.bincount(self.cells.numpy().ravel(), np.repeat(self.area / 3, 3), len(self.X))
        w = np.zeros(len(self.X))
        w[self.free] = sla.spsolve(K.tocsc()[self.free][:, self.free], load[self.free])
        return float(w.max() / EXACT - 1)

    def floppy(self, K: sp.csr_matrix) -> float:
        A, B = (k.toarray()[np.ix_(self.free, self.free)] for k in (K, self.stiffness("triangles")))
        return float(scipy.linalg.eigh(A, B, eigvals_only=True)[0])


def main() -> None:
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    results = Results("plates", arguments)
    kinds = ("triangles", "points", "pairs", "mixed", "hinges 1", "hinges 3")
    for pattern in ("parallel", "equilateral", "crossed", "random", "centres"):
        for n in (4, 8) if arguments.quick else (4, 8, 16, 32):
            if pattern == "centres":
                plate = Plate(*corners_and_centres(n))
            else:
                mesh = rectangle((1.0, 1.0), 1 / n, pattern)
                plate = Plate(mesh.X, mesh.cells)
            row = {kind: plate.error(plate.stiffness(kind)) for kind in kinds}
            results.add(measure="error", pattern=pattern, cells=n, **row)
            if n == 8:
                row = {kind: plate.floppy(plate.stiffness(kind)) for kind in kinds[1:4]}
                results.add(measure="floppy", pattern=pattern, cells=n, **row)


if __name__ == "__main__":
    main()
