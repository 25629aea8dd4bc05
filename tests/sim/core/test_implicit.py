"""Implicit differentiation against closed forms, unrolled autograd and finite differences."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import textwrap

import pytest
import torch
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.gradients import check_backward_twice, fd_check, taylor_test
from rheograd.sim.core.implicit import (
    Solution,
    SolveInfo,
    check_implicit,
    implicit_fixed_point,
    implicit_least_squares,
    implicit_solve,
    stationary,
)
from rheograd.sim.core.linalg import CG, GMRES, DenseDirect, DirectSparse

F64 = torch.float64
TIGHT = 1e-12


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def unrolled_newton(residual, x, params, steps=30):
    """The reference: Newton's method with every step on the tape."""
    for _ in range(steps):
        J = torch.func.jacrev(lambda v: residual(v, params))(x)
        x = x - torch.linalg.solve(J, residual(x, params))
    return x


def ridge_energy(w, p):
    return 0.5 * (p["X"] @ w - p["y"]).square().sum() + 0.5 * p["lam"].exp() * w.square().sum()


def ridge():
    p = {"X": random(12, 4), "y": random(12, seed=1), "lam": torch.tensor(0.3, dtype=F64)}
    return stationary(ridge_energy), torch.zeros(4, dtype=F64), p, "spd"


def logistic():
    def energy(w, p):
        margins = p["y"] * (p["X"] @ w)
        return torch.nn.functional.softplus(-margins).sum() + p["lam"] * w.square().sum()

    y = torch.sign(random(12, seed=1))
    p = {"X": random(12, 4), "y": y, "lam": torch.tensor(0.5, dtype=F64)}
    return stationary(energy), torch.zeros(4, dtype=F64), p, "spd"


def kepler():
    def residual(E, p):
        return E - p["e"] * E.sin() - p["M"]

    M = torch.tensor([0.4, 1.5, 2.8], dtype=F64)
    return residual, M, {"e": torch.tensor([0.2, 0.6, 0.85], dtype=F64), "M": M}, "symmetric"


def rod():
    """Planar elastica of 12 rigid links, clamped at one end, dead load at the tip.

    E(θ) = Σ ½ k (θᵢ₊₁ − θᵢ)² / h − h Σ (f_x cos θᵢ + f_z sin θᵢ); deflection far from linear.
    """

    def energy(theta, p):
        h = 1.0 / len(theta)
        bend = torch.diff(theta, prepend=theta.new_zeros(1)).square().sum() * p["k"] / (2 * h)
        return bend - h * (p["f"][0] * theta.cos() + p["f"][1] * theta.sin()).sum()

    p = {"k": torch.tensor(0.7, dtype=F64), "f": torch.tensor([-0.3, -2.0], dtype=F64)}
    return stationary(energy), torch.zeros(12, dtype=F64), p, "spd"


PROBLEMS = {"ridge": ridge, "logistic": logistic, "kepler": kepler, "rod": rod}


def loss(x):
    return (x.sin() * torch.arange(1, len(x) + 1, dtype=x.dtype)).sum()


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_against_differences_and_unrolling(name):
    residual, x0, p, structure = PROBLEMS[name]()

    def f(p):
        return loss(implicit_solve(residual, None, x0, p, structure=structure, tol=TIGHT))

    # (a): central differences at a relative step of 1e-4 are good to about 1e-8
    report = fd_check(f, p, 10, steps=(1e-3, 1e-4, 1e-5))
    assert max(report.relative_errors) <= 1e-6 and report.cosine > 1 - 1e-12
    assert taylor_test(f, p).passed()
    assert taylor_test(f, p, order=2).passed()
    assert check_backward_twice(f, p).passed(1e-14)

    q = {key: value.clone().requires_grad_() for key, value in p.items()}
    ours = torch.autograd.grad(f(q), list(q.values()))
    unrolled = loss(unrolled_newton(residual, x0, q, steps=12))
    theirs = torch.autograd.grad(unrolled, list(q.values()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()), rtol=0)


def test_ridge_matches_the_normal_equations():
    residual, x0, p, structure = ridge()
    q = {key: value.clone().requires_grad_() for key, value in p.items()}
    w = implicit_solve(residual, None, x0, q, structure=structure, tol=TIGHT)
    A = q["X"].mT @ q["X"] + q["lam"].exp() * torch.eye(4, dtype=F64)
    exact = torch.linalg.solve(A, q["X"].mT @ q["y"])
    torch.testing.assert_close(w, exact, atol=1e-12, rtol=0)
    ours = torch.autograd.grad(loss(w), list(q.values()))
    theirs = torch.autograd.grad(loss(exact), list(q.values()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


def test_second_derivative_of_a_quadratic_bilevel_problem():
    # (d): inner w*(λ) = argmin ridge, outer L = |w* − w0|²; d²L/dλ² from the normal equations
    residual, x0, p, _ = ridge()
    lam = p["lam"].clone().requires_grad_()
    A, b = p["X"].mT @ p["X"], p["X"].mT @ p["y"]

    def outer(solve):
        (first,) = torch.autograd.grad((solve(lam) - 1).square().sum(), lam, create_graph=True)
        return torch.autograd.grad(first, lam)[0]

    exact = outer(lambda t: torch.linalg.solve(A + t.exp() * torch.eye(4, dtype=F64), b))
    for adjoint in (None, CG(tol=1e-13), GMRES(tol=1e-13), DenseDirect("spd")):
        ours = outer(
            lambda t, s=adjoint: implicit_solve(
                residual, None, x0, {**p, "lam": t}, structure="spd", adjoint_solver=s, tol=TIGHT
            )
        )
        assert float((ours - exact).abs() / exact.abs()) <= 1e-6


def test_gradient_error_falls_linearly_with_the_solver_tolerance():
    # (c): stop a linearly converging solver at known residuals over four decades
    residual, x0, p, _ = logistic()

    def descent(tol):
        def solver(residual, x, params):
            for _ in range(10_000):
                F = residual(x, params)
                if F.norm() <= tol:
                    break
                x = x - 0.05 * F
            return x

        return solver

    def gradient(tol):
        lam = p["lam"].clone().requires_grad_()
        q = {**p, "lam": lam}
        info = SolveInfo()
        x = implicit_solve(residual, descent(tol), x0, q, structure="spd", tol=tol, info=info)
        return torch.autograd.grad(loss(x), lam)[0], info.residual

    exact, _ = gradient(1e-13)
    errors, residuals = [], []
    for tol in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        value, residual_norm = gradient(tol)
        errors.append(float((value - exact).abs()))
        residuals.append(residual_norm)
    # Δ log error / Δ log ‖F‖; 0.1 leaves room for the residual to turn towards the slowest mode
    for k in range(4):
        slope = math.log(errors[k] / errors[k + 1]) / math.log(residuals[k] / residuals[k + 1])
        assert slope == pytest.approx(1.0, abs=0.1)
    assert residuals[0] / residuals[-1] > 0.9e4


def test_solver_iterations_are_not_stored():
    # (b) within the process: tensors that autograd keeps
    def kept(steps):
        count = 0

        def pack(t):
            nonlocal count
            count += t.numel()
            return t

        def solver(residual, x, params):
            for _ in range(steps):
                x = x - 0.5 * residual(x, params)
            return x

        theta = random(50).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            x = implicit_solve(
                lambda x, t: x - t.sin(), solver, torch.zeros(50, dtype=F64), theta, tol=10.0
            )
            x.sum().backward()
        return count

    assert kept(10) == kept(1000) > 0


def test_peak_memory_does_not_grow_with_iterations():
    # (b): peak of a process; the control is the same loop on the tape
    code = """
        import resource, torch
        from rheograd.sim.core.implicit import implicit_solve
        torch.set_num_threads(1)
        n = 100_000
        theta = torch.rand(n, requires_grad=True)
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        F = lambda x, t: 0.02 * (x + 0.1 * x.sin() - t)

        def descend(F, x, t, steps):
            for _ in range(steps):
                x = x - F(x, t)
            return x

        def run(steps):
            x = implicit_solve(
                F, lambda F, x, t: descend(F, x, t, steps), torch.zeros(n), theta,
                structure="spd", tol=1e9,
            )
            x.sum().backward()
            return peak()

        print(run(10), run(1000))
        descend(F, torch.zeros(n), theta, 200).sum().backward()
        print(peak())
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    few, many, unrolled = (int(v) for v in out.stdout.split())
    assert many <= 1.05 * few
    assert unrolled > 1.2 * many


def batched_problem(count):
    def residual(x, p):
        return (p["A"] @ x.unsqueeze(-1)).squeeze(-1) + 0.1 * x**3 - p["b"]

    A = 0.3 * random(count, 8, 8) + 4 * torch.eye(8, dtype=F64)
    return residual, torch.zeros(count, 8, dtype=F64), {"A": A, "b": random(count, 8, seed=1)}


def test_batch_equals_single_systems_and_costs_as_many_evaluations():
    # (e): 256 systems call the residual as often as one does, and a call is one batched product
    residual, x0, p = batched_problem(256)
    calls = 0

    def counted(x, p):
        nonlocal calls
        calls += 1
        return residual(x, p)

    def solve(rows):
        nonlocal calls
        calls = 0
        q = {key: value[rows].clone().requires_grad_() for key, value in p.items()}
        x = implicit_solve(counted, None, x0[rows], q, batch_dims=1, tol=1e-11)
        grads = torch.autograd.grad(x.sin().sum(), list(q.values()))
        return x.detach(), grads, calls

    x, grads, many = solve(slice(None))
    for k in (0, 100, 255):
        single, grads_single, few = solve(slice(k, k + 1))
        assert many <= few + 2
        torch.testing.assert_close(x[k], single[0], atol=1e-11, rtol=0)
        for a, b in zip(grads, grads_single, strict=True):
            torch.testing.assert_close(a[k], b[0], atol=1e-10, rtol=0)


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


def test_check_implicit_measures_distance_and_asymmetry():
    residual, x0, p, _ = rod()
    x = implicit_solve(residual, None, x0, p, structure="spd", tol=TIGHT)
    right = check_implicit(residual, x, p)
    assert right.passed() and right.asymmetry < 1e-10
    off = check_implicit(residual, x * (1 + 1e-3), p)
    assert off.distance == pytest.approx(1e-3, rel=0.02) and not off.passed()
    skew, x0, p = batched_problem(1)
    assert check_implicit(skew, x0, p, batch_dims=1).asymmetry > 1e-3


def test_large_system_by_newton_krylov_and_a_returned_factor():
    # 900 unknowns: beyond the dense limit; −Δx + x³ = f on a square
    n = 30
    import scipy.sparse

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


def test_warm_start_saves_adjoint_iterations():
    residual, x0, p = batched_problem(4)
    info = SolveInfo(warm_start=True)
    counts = []
    for step in range(2):
        b = (p["b"] * (1 + 1e-6 * step)).requires_grad_()
        x = implicit_solve(
            residual, None, x0, {**p, "b": b}, adjoint_solver=GMRES(), batch_dims=1, info=info
        )
        x.sum().backward()
        counts.append(info.adjoint_iterations)
    assert counts[1] < counts[0]


def test_non_convergence_raises_or_warns(caplog):
    def residual(x, p):
        return x**2 + p

    p = torch.ones(3, dtype=F64, requires_grad=True)
    x0 = torch.ones(3, dtype=F64)
    with pytest.raises(ConvergenceError, match="implicit_solve") as caught:
        implicit_solve(residual, None, x0, p)
    # the minimum of ‖x² + 1‖ is √3 at x = 0
    assert caught.value.residual >= math.sqrt(3) and caught.value.iterations is not None
    with pytest.raises(ConvergenceError):
        implicit_solve(residual, lambda F, x, p: x * math.nan, x0, p, tol=1.0)
    with caplog.at_level(logging.WARNING):
        implicit_solve(residual, lambda F, x, p: x, x0, p, tol=1e-3, throw=False)
    assert "would be biased" in caplog.text


def test_wrong_structure_and_wrong_use_raise():
    residual, x0, p = batched_problem(2)
    q = {key: value.clone().requires_grad_() for key, value in p.items()}
    for adjoint in (CG(), DenseDirect("spd"), None):
        x = implicit_solve(
            residual, None, x0, q, structure="spd", adjoint_solver=adjoint, batch_dims=1
        )
        with pytest.raises(InputError, match="symmetric"):
            x.sum().backward()
    closed = q["b"]
    with pytest.raises(InputError, match="closes over"):
        implicit_solve(lambda x, p: x - closed, None, x0, {}, batch_dims=1)
    with pytest.raises(InputError, match="shapes of x"):
        implicit_solve(lambda x, p: x.sum(), None, x0, p)
    with pytest.raises(InputError, match="structure"):
        implicit_solve(residual, None, x0, p, structure="diagonal")
    with pytest.raises(InputError, match="adjoint"):
        implicit_fixed_point(residual, x0, p, adjoint="neumann")
    with pytest.raises(InputError, match="hessian"):
        implicit_least_squares(residual, x0, p, hessian="diag")


def test_float32():
    residual, x0, p, structure = rod()
    p = {key: value.float() for key, value in p.items()}

    def f(p):
        return loss(implicit_solve(residual, None, x0.float(), p, structure=structure))

    assert fd_check(f, p).cosine >= 0.999
