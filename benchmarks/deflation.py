"""Deflated conjugate gradients: the third opponent of the DCDM paper.

    x₀ = W E⁻¹ Wᵀ b,   E = Wᵀ A W,   direction z − W E⁻¹ (A W)ᵀ z,   z = r / diag A

W holds 16 approximate eigenvectors of the smallest eigenvalues, as in the paper; here they come from a
few steps of LOBPCG with a V-cycle instead of a long Lanczos iteration, and count as set-up.

Source: Saad, Yeung, Erhel & Guyomarc'h 2000.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from rheograd.sim.core.factors import IterativeFactor
from rheograd.sim.core.krylov import cg
from rheograd.sim.grid.poisson import FaceSystem, VCycle
from scipy.sparse.linalg import LinearOperator, lobpcg


class Deflated(IterativeFactor):
    """A `method` of the Poisson solvers: `lambda system: Deflated(system)`; one geometry."""

    def __init__(self, system: FaceSystem, count: int = 16, steps: int = 12) -> None:
        options = (system.operator, system.tol, system.max_iterations)
        super().__init__("deflated CG", *options, None, check=False)
        diagonal = system.stencil.diagonal.flatten(1)
        self.inverse = torch.where(diagonal > 0, 1 / diagonal.clamp_min(1e-300), 0.0)
        apply, n = system.operator.matvec, diagonal.shape[1]
        cycle, top = VCycle(system.stencil.to(torch.float32)), 2 * float(diagonal.max())

        def shifted(columns: np.ndarray) -> np.ndarray:
            """A with its null space lifted to the top of the spectrum."""
            rows = torch.as_tensor(columns.T.reshape(-1, n).copy())
            return (
                (apply(rows) + top * (rows - system.centre(rows))).numpy().T.reshape(columns.shape)
            )

        def near(columns: np.ndarray) -> np.ndarray:
            rows = system.centre(torch.as_tensor(columns.T.reshape(-1, n).copy()))
            return system.centre(cycle(rows)).numpy().T.reshape(columns.shape)

        def operator(f):
            return LinearOperator((n, n), f, matmat=f, dtype=np.float64)

        start = torch.randn(count, n, generator=torch.Generator().manual_seed(0)).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # approximate vectors are enough
            found = lobpcg(
                operator(shifted),
                system.centre(start).numpy().T.copy(),
                M=operator(near),
                largest=False,
                maxiter=steps,
                tol=1e-3,
            )
        self.W = system.centre(torch.as_tensor(found[1].T.copy()))
        self.AW = apply(self.W)
        self.E = torch.linalg.cholesky(self.W @ self.AW.T)

    def _coarse(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cholesky_solve(rows.T, self.E).T @ self.W

    def _solve(self, b, x0, transpose, tol):
        x = torch.zeros_like(b) if x0 is None else x0
        apply = self.operator.matvec
        x = x + self._coarse((b - apply(x)) @ self.W.T)

        def direction(r: torch.Tensor) -> torch.Tensor:
            z = self.inverse * r
            return z - self._coarse(z @ self.AW.T)

        limit = 10 * b.shape[1] if self.max_iterations is None else self.max_iterations
        return cg(apply, b, x, tol, limit, direction, self.monitor)
