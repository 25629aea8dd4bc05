"""Linear solvers: solutions, factors shared with the transpose, derivatives, and refusals."""

from __future__ import annotations

import builtins

import pytest
import scipy.sparse
import torch
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.linalg import (
    AMG,
    CG,
    FCG,
    GMRES,
    DenseDirect,
    DirectSparse,
    SparseMatrix,
    default_solver,
    jacobi,
    linear_solve,
)

F64 = torch.float64


def general(n=20):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, n, generator=g, dtype=F64) + 6 * torch.eye(n, dtype=F64)


def spd(n=20):
    A = general(n)
    return A @ A.mT


def rhs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=F64)


def laplacian(n):
    one = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n))
    eye = scipy.sparse.identity(n)
    return (scipy.sparse.kron(one, eye) + scipy.sparse.kron(eye, one)).tocsr()


CASES = [
    (CG(), spd()),
    (CG(preconditioner=jacobi(spd().diagonal())), spd()),
    (FCG(preconditioner=jacobi(spd().diagonal())), spd()),
    (FCG(history=None, preconditioner=lambda v: v + 0.3 * v.roll(1, -1)), spd()),
    (GMRES(), general()),
    (GMRES(restart=7), general()),
    (GMRES(preconditioner=jacobi(general().diagonal())), general()),
    (DenseDirect(), general()),
    (DenseDirect("spd"), spd()),
    (DirectSparse(), general()),
    (DirectSparse("spd"), spd()),
]


@pytest.mark.parametrize("solver, A", CASES)
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("kind", ["dense", "sparse", "scipy", "function"])
def test_solves_with_a_and_its_transpose(solver, A, batch, kind):
    b = rhs(*batch, 20)
    matrix = {
        "dense": A,
        "sparse": A.to_sparse(),
        "scipy": scipy.sparse.csr_matrix(A.numpy()),
        "function": lambda v: v @ A.mT,
    }[kind]
    if kind == "function" and isinstance(solver, DirectSparse):
        with pytest.raises(InputError, match="a function"):
            solver.solve(matrix, b)
        return
    factor = solver.factor(matrix, like=b)
    for transpose, M in ((False, A), (True, A.mT)):
        result = factor.solve(b, transpose=transpose)
        assert bool(result.converged.all()) and result.residual.shape == batch
        # the residual tolerance 1e-9 times the condition number, here below 1e3
        torch.testing.assert_close(result.x @ M.mT, b, atol=1e-6, rtol=0)


def test_batched_systems_stop_by_themselves_and_equal_single_ones():
    A = torch.stack([spd() + k * 50 * torch.eye(20, dtype=F64) for k in range(4)])
    b = rhs(4, 20)
    for solver in (CG(), GMRES(), DenseDirect("spd")):
        batch = solver.solve(A, b)
        single = [solver.solve(A[k], b[k]) for k in range(4)]
        torch.testing.assert_close(batch.x, torch.stack([s.x for s in single]), atol=1e-9, rtol=0)
    counts = CG().solve(A, b).iterations
    assert counts[3] < counts[0]


def test_factor_in_single_precision_preconditions_double():
    A = general()
    low = DenseDirect().factor(A.float())
    result = GMRES(tol=1e-13, preconditioner=low).solve(A, rhs(20))
    assert float(result.residual) < 1e-12 and int(result.iterations) <= 4


def test_nonlinear_preconditioner_is_allowed():
    A, diagonal = spd(), spd().diagonal()
    bent = lambda v: v / diagonal * (1 + 0.1 * torch.tanh(v))  # noqa: E731
    assert bool(CG(preconditioner=bent).solve(A, rhs(20)).converged)
    assert bool(GMRES(preconditioner=bent).solve(A, rhs(20)).converged)


@pytest.mark.parametrize("solver", [None, GMRES(tol=1e-14), DirectSparse()])
@pytest.mark.parametrize("batched", [False, True])
def test_first_and_second_derivatives_on_the_pattern(solver, batched):
    A = general(5)
    rows, cols = torch.nonzero(torch.rand(5, 5).lt(2), as_tuple=True)
    keep = (rows - cols).abs() <= 1
    rows, cols = rows[keep], cols[keep]
    values = A[rows, cols]
    values = torch.stack([values, values + 0.1]) if batched else values
    inputs = (values.clone().requires_grad_(), rhs(2, 5).requires_grad_())

    def solve(values, b):
        return linear_solve(SparseMatrix(values, rows, cols, 5), b, solver=solver)

    assert torch.autograd.gradcheck(solve, inputs)
    assert torch.autograd.gradgradcheck(solve, inputs, fast_mode=True)


def test_dense_and_function_derivatives_and_transpose():
    A, b = general(5).requires_grad_(), rhs(5).requires_grad_()

    def by_function(A, b):
        return linear_solve(lambda v, p: p["A"] @ v, b, params={"A": A}, transpose=True)

    def by_matrix(A, b):
        return linear_solve(A, b, transpose=True)

    torch.testing.assert_close(by_function(A, b), by_matrix(A, b))
    for solve in (by_function, by_matrix):
        assert torch.autograd.gradcheck(solve, (A, b))
        assert torch.autograd.gradgradcheck(solve, (A, b))


def test_backward_reuses_the_forward_factor(monkeypatch):
    calls = []
    original = DenseDirect.factor
    monkeypatch.setattr(
        DenseDirect, "factor", lambda self, A, **k: calls.append(1) or original(self, A, **k)
    )
    A = general().requires_grad_()
    linear_solve(A, rhs(20)).sum().backward()
    assert len(calls) == 1
    expected = -torch.linalg.solve(A.mT, torch.ones(20, dtype=F64))[:, None] @ (
        torch.linalg.solve(A, rhs(20))[None]
    )
    torch.testing.assert_close(A.grad, expected.detach())


def test_wrong_structure_is_refused():
    b = rhs(20)
    with pytest.raises(InputError, match="symmetric"):
        CG().solve(general(), b)
    with pytest.raises(InputError, match="positive definite"):
        CG().solve(-spd(), b)
    with pytest.raises(InputError, match="symmetric"):
        DenseDirect("spd").solve(general(), b)
    with pytest.raises(InputError, match="positive definite"):
        DenseDirect("spd").solve(-spd(), b)
    with pytest.raises(InputError, match="symmetric"):
        DirectSparse("spd").solve(general().to_sparse(), b)
    with pytest.raises(InputError, match="structure"):
        default_solver("diagonal", 3)
    with pytest.raises(InputError, match="b of shape"):
        linear_solve(general(), rhs(7))


def test_small_asymmetry_is_seen_and_round_off_is_not():
    A = spd()
    skew = general() - general().mT
    CG().solve(A * (1 + 1e-15 * general()), rhs(20))
    with pytest.raises(InputError, match="symmetric"):
        CG().solve(A + 1e-6 * A.norm() / skew.norm() * skew, rhs(20))
    stiff = torch.diag(torch.logspace(0, 10, 20, dtype=F64))
    assert bool(CG(preconditioner=jacobi(stiff.diagonal())).solve(stiff, rhs(20)).converged)


def test_no_convergence_raises_with_numbers_or_is_reported():
    with pytest.raises(ConvergenceError, match="2 iterations") as caught:
        CG(max_iterations=2).solve(spd(), rhs(20))
    assert caught.value.iterations == 2 and caught.value.residual > caught.value.tol
    result = CG(max_iterations=2).solve(spd(), rhs(20), throw=False)
    assert not bool(result.converged)
    for solver in (DenseDirect(), GMRES()):
        with pytest.raises(ConvergenceError):
            solver.solve(torch.diag(torch.tensor([1.0, 0.0], dtype=F64)), torch.ones(2, dtype=F64))
    with pytest.raises(ConvergenceError, match="regular"):
        DirectSparse().solve(torch.zeros(3, 3, dtype=F64).to_sparse(), rhs(3))


def test_backward_that_does_not_converge_raises():
    A = spd().requires_grad_()
    # b is an eigenvector: forward takes one iteration, the adjoint of a random loss does not
    b = torch.linalg.eigh(A.detach()).eigenvectors[:, 0]
    x = linear_solve(A, b, solver=CG(max_iterations=2))
    with pytest.raises(ConvergenceError):
        (x * rhs(20)).sum().backward()


def test_zero_right_hand_side():
    for solver, A in CASES:
        result = solver.solve(A, torch.zeros(20, dtype=F64))
        assert float(result.x.abs().max()) == 0.0 and bool(result.converged)


def test_null_space_is_projected_out():
    # periodic Laplacian: constants cost nothing, and only the mean-free part of b has a solution
    n, b = 24, rhs(2, 24).requires_grad_()
    ones = torch.ones(1, n, dtype=F64)

    def laplace(v, p):
        return p * (2 * v - torch.roll(v, 1, -1) - torch.roll(v, -1, -1))

    c = torch.tensor(1.7, dtype=F64, requires_grad=True)
    for solver in (CG(null_space=ones, tol=1e-13), GMRES(null_space=ones, tol=1e-13)):
        x = linear_solve(laplace, b, params=c, solver=solver)
        torch.testing.assert_close(x.sum(1), torch.zeros(2, dtype=F64), atol=1e-10, rtol=0)
        free = b - b.mean(1, keepdim=True)
        torch.testing.assert_close(laplace(x, c), free, atol=1e-10, rtol=0)
        # x ∝ 1/c, hence d(½|x|²)/dc = −|x|²/c
        (slope,) = torch.autograd.grad(0.5 * x.square().sum(), c)
        torch.testing.assert_close(slope, -x.square().sum() / c, rtol=1e-9, atol=0)
    with pytest.raises(ConvergenceError):
        linear_solve(laplace, b, params=c, solver=GMRES())


def test_amg_needs_few_iterations():
    pytest.importorskip("pyamg")
    counts = []
    for n in (16, 32, 64):
        b = rhs(2, n * n)
        for structure in ("spd", "general"):
            result = AMG(structure).factor(laplacian(n), like=b).solve(b, transpose=True)
            counts.append(int(result.iterations.max()))
    assert max(counts) <= 25


def test_amg_without_pyamg_names_the_extra(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pyamg":
            raise ImportError
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "rheograd\[amg\]"'):
        AMG().solve(laplacian(4), rhs(16))
