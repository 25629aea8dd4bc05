"""Incomplete Cholesky factors of a stencil, as preconditioner of CG.

    M = (E + L) E⁻¹ (E + L)ᵀ,   L the lower triangle of A
    e_i = a_ii − Σ_{j < i} a_ij (a_ij + τ s_ij) / e_j

With τ = 0 this is IC(0): a stencil without triangles leaves nothing else to compute than E. With
τ > 0 the dropped fill-in s_ij, the sum of the other couplings of j to later cells, is given back to
the diagonal (modified factors). E is found front by front (cells of equal i + j + k), in numpy.

SciPy has incomplete LU only, which is not symmetric, and PyAMG has no incomplete Cholesky, so it is
written here; the triangular solves are SuperLU's.

Source: Meijerink & van der Vorst 1977; Gustafsson 1978 (modified); Bridson 2015, section 5.4 (τ).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from .stencil import Stencil

__all__ = ["IncompleteCholesky"]

SAFETY = 0.25
"""Pivots below this share of the diagonal are replaced by it (Bridson 2015)."""


class IncompleteCholesky:
    """v ↦ M⁻¹ v on rows (B, n), for one geometry or one per row; on the CPU.

    Args:
        stencil: A.
        modified: τ, between 0 and 1; 0.97 is Bridson's choice for fluids.
    """

    def __init__(self, stencil: Stencil, modified: float = 0.0) -> None:
        self.solves = []
        A = stencil.sparse().scipy().tocsr()
        n = stencil.diagonal[0].numel()
        front = np.indices(stencil.cells).sum(0).reshape(-1)
        order = np.argsort(front, kind="stable")
        fronts = np.split(order, np.cumsum(np.bincount(front))[:-1])
        for g in range(len(stencil.diagonal)):
            block = A[g * n : (g + 1) * n, g * n : (g + 1) * n].tocsr()
            block.sum_duplicates()
            self.solves.append(_triangles(block, fronts, modified))

    def __call__(self, rows: Tensor) -> Tensor:
        values = rows.detach().cpu().double().numpy()
        many = len(self.solves) > 1
        out = [self._solve(self.solves[b if many else 0], v) for b, v in enumerate(values)]
        return torch.as_tensor(np.stack(out)).to(rows)

    @staticmethod
    def _solve(parts, v: np.ndarray) -> np.ndarray:
        lu, pivots = parts
        return lu.solve(pivots * lu.solve(v), "T")


def _triangles(A: scipy.sparse.csr_matrix, fronts: list[np.ndarray], tau: float):
    """Factor of E + L, and E. Cells without couplings get a pivot of one."""
    lower = scipy.sparse.tril(A, -1, format="csr")
    diagonal = A.diagonal()
    total = np.asarray(scipy.sparse.triu(A, 1).sum(1)).reshape(-1)
    pivots = np.where(diagonal > 0, diagonal, 1.0)
    for cells in fronts[1:]:
        counts = lower.indptr[cells + 1] - lower.indptr[cells]
        owner = np.repeat(np.arange(len(cells)), counts)
        first = np.repeat(lower.indptr[cells] - np.cumsum(counts) + counts, counts)
        at = first + np.arange(len(owner))
        j, a = lower.indices[at], lower.data[at]
        lost = a * (a + tau * (total[j] - a)) / pivots[j]
        found = pivots[cells] - np.bincount(owner, lost, len(cells))
        pivots[cells] = np.where(found < SAFETY * diagonal[cells], pivots[cells], found)
    matrix = (lower + scipy.sparse.diags(pivots)).tocsc()
    options = {"SymmetricMode": False, "Equil": False}
    lu = scipy.sparse.linalg.splu(
        matrix, permc_spec="NATURAL", diag_pivot_thresh=0.0, options=options
    )
    return lu, pivots
