"""Implicit differentiation against closed forms, unrolled autograd and finite differences."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.gradients import check_backward_twice, fd_check, taylor_test
from rheograd.sim.core.implicit import (
    SolveInfo,
    check_implicit,
    implicit_least_squares,
    implicit_solve,
    stationary,
)
from rheograd.sim.core.implicit_layers import implicit_fixed_point
from rheograd.sim.core.linalg import CG, GMRES, DenseDirect

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


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux' own account")
def test_peak_memory_does_not_grow_with_iterations():
    # (b): peak of a process; the control is the same loop on the tape
    code = """
        import pathlib, torch
        from rheograd.sim.core.implicit import implicit_solve
        torch.set_num_threads(1)
        n = 100_000
        theta = torch.rand(n, requires_grad=True)
        # not ru_maxrss: a child inherits the peak of the process that started it
        status = pathlib.Path("/proc/self/status")
        peak = lambda: int(status.read_text().split("VmHWM:")[1].split()[0])
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


def test_check_implicit_measures_distance_and_asymmetry():
    residual, x0, p, _ = rod()
    x = implicit_solve(residual, None, x0, p, structure="spd", tol=TIGHT)
    right = check_implicit(residual, x, p)
    assert right.passed() and right.asymmetry < 1e-10
    off = check_implicit(residual, x * (1 + 1e-3), p)
    assert off.distance == pytest.approx(1e-3, rel=0.02) and not off.passed()
    skew, x0, p = batched_problem(1)
    assert check_implicit(skew, x0, p, batch_dims=1).asymmetry > 1e-3


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
