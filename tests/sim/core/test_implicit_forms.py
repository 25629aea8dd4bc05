"""Fixed points, least squares, trees, engine adjoints and large systems."""

from __future__ import annotations

import pytest
import scipy.sparse
import torch
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.gradients import fd_check, taylor_test
from rheograd.sim.core.implicit import (
    Solution,
    SolveInfo,
    check_implicit,
    implicit_least_squares,
    implicit_solve,
    stationary,
)
from rheograd.sim.core.implicit_layers import implicit_fixed_point
from rheograd.sim.core.linalg import CG, DirectSparse

F64 = torch.float64
TIGHT = 1e-12


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def loss(x):
    return (x.sin() * torch.arange(1, len(x) + 1, dtype=x.dtype)).sum()


@pytest.mark.parametrize("adjoint", ["solve", "picard", "anderson"])
def test_fixed_point(adjoint):
    def T(x, p):
        return 0.5 * torch.tanh(p["W"] @ x) + p["b"]

    p = {"W": 0.5 * random(6, 6), "b": random(6, seed=1)}
    info = SolveInfo()

    def f(p):
        x = implicit_fixed_point(
            T, torch.zeros(6, dtype=F64), p, adjoint=adjoint, tol=TIGHT, info=info
        )
        return loss(x)

    assert max(fd_check(f, p, 5, steps=(1e-3, 1e-4)).relative_errors) <= 1e-6
    assert taylor_test(f, p).passed() and taylor_test(f, p, order=2).passed()
    assert info.iterations > 0 and info.adjoint_residual <= 1e-9
    assert (info.adjoint_iterations == 0) == (adjoint == "solve")


def test_picard_adjoint_refuses_an_expanding_map_and_the_solve_does_not():
    def T(x, p):
        return p * x + 1

    for adjoint in ("picard", "solve"):
        p = torch.tensor([-2.0], dtype=F64, requires_grad=True)
        x = implicit_fixed_point(
            T, torch.zeros(1, dtype=F64), p, adjoint=adjoint, solver=lambda T, x, p: 1 / (1 - p)
        )
        if adjoint == "picard":
            with pytest.raises(ConvergenceError, match="Picard"):
                x.backward()
        else:
            x.backward()
            torch.testing.assert_close(p.grad, torch.tensor([1 / 9], dtype=F64))


def test_least_squares_full_is_exact_and_gauss_newton_only_without_residual():
    def r(w, p):
        return torch.cat([p["a"] * w.exp() - p["y"], w - p["m"]])

    p = {"a": torch.tensor([1.0, 2.0], dtype=F64), "y": torch.tensor([2.0, 5.0], dtype=F64)}
    p["m"] = torch.tensor([2.0, -1.0], dtype=F64)

    def minimum(p):
        w = (p["y"] / p["a"]).log().detach()
        energy = stationary(lambda w, p: 0.5 * r(w, p).square().sum())
        return implicit_solve(energy, None, w, p, tol=TIGHT).detach()

    def f(p, hessian):
        return loss(implicit_least_squares(r, minimum(p), p, hessian=hessian))

    assert max(fd_check(lambda p: f(p, "full"), p).relative_errors) <= 1e-6
    assert max(fd_check(lambda p: f(p, "gauss_newton"), p).relative_errors) > 1e-2
    # data without noise: r = 0 at the minimum, where the neglected term vanishes
    p["m"] = (p["y"] / p["a"]).log()
    q = {key: value.clone().requires_grad_() for key, value in p.items()}
    full, short = (
        torch.autograd.grad(f(q, hessian), list(q.values())) for hessian in ("full", "gauss_newton")
    )
    for a, b in zip(full, short, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)
    with pytest.raises(ConvergenceError):
        implicit_least_squares(r, torch.zeros(2, dtype=F64), p)


def test_trees_modules_and_constants():
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 3).double()
    x0 = {"u": torch.zeros(2, 3, dtype=F64), "s": torch.zeros(2, dtype=F64)}

    def residual(x, p):
        pull = torch.func.functional_call(net, p["net"], x["u"])
        return {"u": 2 * x["u"] - torch.tanh(pull) * p["gain"], "s": x["s"] - x["u"].sum(1)}

    params = {"net": dict(net.named_parameters()), "gain": 0.5}

    def f(p):
        x = implicit_solve(residual, None, x0, p, batch_dims=1, tol=TIGHT)
        return x["s"].sin().sum() + x["u"].square().sum()

    f(params).backward()
    assert net.weight.grad.norm() > 0
    assert taylor_test(f, params).passed()


class Beam:
    """A residual with adjoints of its own, as an engine has: K(k) x + x³ = f in numpy style."""

    def __call__(self, x, p):
        return p["k"] * (2 * x - torch.roll(x, 1) - torch.roll(x, -1)) + x + x**3 - p["f"]

    def vjp_x(self, x, p, u):
        assert not (x.requires_grad or u.requires_grad)
        return p["k"] * (2 * u - torch.roll(u, 1) - torch.roll(u, -1)) + u + 3 * x**2 * u

    def vjp_params(self, x, p, u):
        return {"k": (u * (2 * x - torch.roll(x, 1) - torch.roll(x, -1))).sum(), "f": -u}


class WrongBeam(Beam):
    def vjp_params(self, x, p, u):
        return {"k": u.sum(), "f": -u}


@pytest.mark.parametrize("adjoint", [None, CG()])
def test_engine_adjoints_give_the_same_gradient_and_no_second(adjoint):
    p = {"k": torch.tensor(0.7, dtype=F64), "f": random(10)}
    x0 = torch.zeros(10, dtype=F64)

    def solve(residual, q):
        return implicit_solve(
            residual, None, x0, q, structure="spd", adjoint_solver=adjoint, tol=TIGHT
        )

    q = {key: value.clone().requires_grad_() for key, value in p.items()}
    ours = torch.autograd.grad(loss(solve(Beam(), q)), list(q.values()))
    theirs = torch.autograd.grad(loss(solve(Beam().__call__, q)), list(q.values()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    with pytest.raises(InputError, match="second"):
        torch.autograd.grad(loss(solve(Beam(), q)), list(q.values()), create_graph=True)
    x = solve(Beam(), p)
    assert check_implicit(Beam(), x, p).passed()
    wrong = check_implicit(WrongBeam(), x, p)
    assert not wrong.passed() and wrong.vjp_params_error > 0.1 and wrong.vjp_x_error < 1e-6


def test_large_system_by_newton_krylov_and_a_returned_factor():
    # 900 unknowns: beyond the dense limit; −Δx + x³ = f on a square
    n = 30
    one = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n))
    eye = scipy.sparse.identity(n)
    L = (scipy.sparse.kron(one, eye) + scipy.sparse.kron(eye, one)).tocsr()

    def residual(x, p):
        grid = x.reshape(1, 1, n, n)
        kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=F64)
        lap = torch.nn.functional.conv2d(grid, kernel[None, None], padding=1).reshape(-1)
        return p["c"] * lap + x**3 - p["f"]

    def newton(residual, x, p):
        for _ in range(20):
            A = float(p["c"]) * L + scipy.sparse.diags((3 * x**2).numpy())
            factor = DirectSparse("spd").factor(A, like=x)
            F = residual(x, p)
            if F.norm() < 1e-11:
                break
            x = x - factor.solve(F).x
        return Solution(x, factor=factor)

    p = {"c": torch.tensor(1.5, dtype=F64), "f": random(n * n)}
    x0, info = torch.zeros(n * n, dtype=F64), SolveInfo()
    grads = []
    for solver in (None, newton):
        q = {key: value.clone().requires_grad_() for key, value in p.items()}
        x = implicit_solve(residual, solver, x0, q, structure="spd", tol=1e-9, info=info)
        grads.append(torch.autograd.grad(x.square().sum(), list(q.values())))
        iterations = info.adjoint_iterations
        assert iterations <= 2 if solver is newton else iterations > 20
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-7)
