"""Which tetrahedra for soft gels: tip of a clamped beam 8 : 1 against Timoshenko, by Poisson's ratio.

candidates: small strains, assembled here, all with the same sparse LU:
    linear          four nodes
    nodal           four nodes, λ/2 (tr ε)² of the mean tr ε around each node (Bonet & Burton 1998)
    nodal bulk      the same with the bulk modulus and the deviatoric rest
    quadratic       ten nodes, four quadrature points
    quadratic, V    ten nodes, λ/2 (tr ε)² of one mean tr ε per cell
step: one static step of `Solid` at nu = 0.49 in CPU time, both orders.

    python benchmarks/bench_locking.py [--quick]
"""

from __future__ import annotations

import time

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch
from results import Results, parser
from rheograd.sim.fem import (
    FEMConfig,
    FEMControl,
    FEMModel,
    Handle,
    Solid,
    SolverFEM,
    quadratic,
)
from rheograd.sim.fem.meshes import box
from rheograd.sim.fem.quadratic import quadratic_gradients

KINDS = ("linear", "nodal", "nodal bulk", "quadratic", "quadratic, V")
LENGTH, SIDE, E, LOAD = 0.8, 0.1, 1e7, 0.2
TRACE = np.array([1.0, 1, 1, 0, 0, 0])


def strains(G: np.ndarray) -> np.ndarray:
    """B (..., 6, 3 k) with ε = B u, shears times √2, so that |ε|² is that of the tensor."""
    B = np.zeros((*G.shape[:-2], 6, G.shape[-2], 3))
    for i in range(3):
        B[..., i, :, i] = G[..., i]
    for row, (i, j) in enumerate(((0, 1), (1, 2), (0, 2)), 3):
        B[..., row, :, i] = G[..., j] / np.sqrt(2)
        B[..., row, :, j] = G[..., i] / np.sqrt(2)
    return B.reshape(*G.shape[:-2], 6, -1)


def assembled(cells: np.ndarray, blocks: np.ndarray, points: int) -> sp.csc_matrix:
    index = (3 * cells[:, :, None] + np.arange(3)).reshape(len(cells), -1)
    row = np.repeat(index[:, :, None], index.shape[1], 2)
    shape = (3 * points, 3 * points)
    return sp.csc_matrix((blocks.ravel(), (row.ravel(), row.transpose(0, 2, 1).ravel())), shape)


def stiffness(kind: str, X: torch.Tensor, cells: torch.Tensor, nu: float) -> sp.csc_matrix:
    """K of small strains."""
    mu, lam = E / 2 / (1 + nu), E * nu / (1 + nu) / (1 - 2 * nu)
    c = cells.numpy()
    if kind.startswith("quadratic"):
        G, w = (t.numpy() for t in quadratic_gradients(X[cells]))
        whole = kind.endswith("V")
    else:
        D = (X[cells[:, 1:]] - X[cells[:, :1]]).mT
        inner = torch.linalg.inv(D)
        G = torch.cat((-inner.sum(1, keepdim=True), inner), 1)[:, None].numpy()
        w, whole = (torch.linalg.det(D) / 6)[:, None].numpy(), kind != "linear"
    averaged = lam + 2 * mu / 3 if kind == "nodal bulk" else lam
    spread = 2 * mu / 3 if kind == "nodal bulk" else 0.0
    local = 2 * mu * np.eye(6) + ((0.0 if whole else lam) - spread) * np.outer(TRACE, TRACE)
    B = strains(G)
    K = assembled(c, (w[..., None, None] * B.swapaxes(-1, -2) @ local @ B).sum(1), len(X))
    if not whole:
        return K
    change = (w[..., None] * (TRACE @ B)).sum(1)  # of volume, (S, 3 k)
    owner, volume = np.arange(len(c))[:, None], w.sum(1)
    if kind.startswith("nodal"):
        owner, change = c, change / 4
        volume = np.bincount(c.ravel(), np.repeat(w.sum(1) / 4, 4), len(X))
    index = (3 * c[:, :, None] + np.arange(3)).reshape(len(c), 1, -1)
    row, col = np.broadcast_arrays(owner[:, :, None], index)
    data = np.broadcast_to(change[:, None], row.shape)
    M = sp.csr_matrix((data.ravel(), (row.ravel(), col.ravel())), (len(volume), 3 * len(X)))
    return (K + averaged * M.T @ sp.diags(1 / volume) @ M).tocsc()


def beam(n: int, order: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points, cells, loads and the points of the tip."""
    X, cells = box((8 * n, n, n), (LENGTH, SIDE, SIDE))
    X, cells = quadratic(X, cells) if order == 2 else (X, cells)
    tip = (X[:, 0] > LENGTH - 1e-9).nonzero()[:, 0]
    force = torch.zeros_like(X)
    force[tip, 2] = -LOAD / len(tip)
    return X, cells, force, tip


def timoshenko(nu: float) -> float:
    shear = 10 * (1 + nu) / (12 + 11 * nu) * E / (2 * (1 + nu)) * SIDE**2
    return LOAD * LENGTH**3 / (3 * E * SIDE**4 / 12) + LOAD * LENGTH / shear


def candidate(kind: str, n: int, nu: float) -> dict:
    X, cells, force, tip = beam(n, 2 if kind.startswith("quadratic") else 1)
    K = stiffness(kind, X, cells, nu)
    free = np.repeat(X[:, 0].numpy() > 1e-9, 3)
    A, f, u = K[free][:, free].tocsc(), force.numpy().ravel(), np.zeros(3 * len(X))
    begun = time.process_time()
    options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0}
    u[free] = sla.splu(A, options={"SymmetricMode": True}, **options).solve(f[free])
    seconds = time.process_time() - begun
    sag = -u.reshape(-1, 3)[tip.numpy(), 2].mean()
    return {"error": sag / timoshenko(nu) - 1, "unknowns": len(A.indptr) - 1, "entries": A.nnz,
            "solve_ms": 1e3 * seconds}  # fmt: skip


def step(order: int, n: int) -> dict:
    X, cells, force, tip = beam(n, order)
    solid = Solid(name="beam", cells=cells, E=E, nu=0.49, rho=1000.0, order=order)
    handle = Handle("wall", (X[:, 0] == 0).nonzero()[:, 0])
    model = FEMModel(X, [solid], [handle], gravity=(0.0, 0.0, 0.0))
    solver = SolverFEM(model, FEMConfig(scheme="static", tol=2e-6))
    state, control = model.initial_state(), FEMControl(force=force[None])
    solver.step(state, control)
    begun = time.process_time()
    x = solver.step(state, control).x[0]
    seconds = time.process_time() - begun
    error = float((X - x)[tip, 2].mean()) / timoshenko(0.49) - 1
    return {"error": error, "unknowns": 3 * len(model.free), "step_ms": 1e3 * seconds,
            "directions": solver.newton.iterations}  # fmt: skip


def main() -> None:
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    results = Results("locking", arguments)
    for nu in (0.3, 0.49) if arguments.quick else (0.0, 0.3, 0.45, 0.49, 0.499):
        for kind in KINDS:
            for n in (1,) if arguments.quick else (1, 2, 3) if "quad" in kind else (1, 2, 4, 6):
                row = candidate(kind, n, nu)
                results.add(measure="candidates", kind=kind, nu=nu, across=n, **row)
    for order, sizes in ((1, (2, 4, 6)), (2, (1, 2))):
        for n in sizes[:1] if arguments.quick else sizes:
            results.add(measure="step", order=order, across=n, **step(order, n))


if __name__ == "__main__":
    main()
