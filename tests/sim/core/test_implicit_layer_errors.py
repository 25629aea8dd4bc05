"""What implicit layers refuse, and how they say it."""

from __future__ import annotations

import pytest
import torch
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.implicit_layers import implicit_argmin, implicit_fixed_point, implicit_root
from rheograd.sim.core.projections import Box, Simplex
from rheograd.sim.core.root_solvers import LBFGS, ProximalGradient
from torch import nn

F64 = torch.float64
T = torch.tensor(2.0, dtype=F64, requires_grad=True)
ONE = torch.ones(3, dtype=F64)


def root(f, x0=ONE, *params, **options):
    return lambda: implicit_root(f, x0, *(params or (T,)), **options)


def fixed(g, *params, **options):
    return lambda: implicit_fixed_point(g, ONE, *(params or (T,)), **options)


def least(f, x0=ONE, **options):
    return lambda: implicit_argmin(f, x0, T, **options)


WELL = lambda x, t: (x - t).square().sum()  # noqa: E731

REFUSED = {
    "shape": (root(lambda x, t: (x * t).sum()), r"shapes of x, \[\(3,\)\]; got \[\(\)\]"),
    "structure": (root(lambda x, t: {"a": x, "b": x}), "shapes of x"),
    "precision": (root(lambda x, t: (x * t).float()), "torch.float32"),
    "integers": (root(lambda x, t: x - t, torch.ones(3, dtype=torch.long)), "floating-point"),
    "nan at x0": (root(lambda x, t: (x * t).log(), -ONE), r"finite F\(x0, params\)"),
    "no x": (root(lambda x, t: x.detach() * t), "depends on x"),
    "closure": (lambda: implicit_root(lambda x: x**3 - T, ONE), "closes over"),
    "dropout": (fixed(nn.Sequential(nn.Dropout())), "Dropout in training"),
    "name": (root(lambda x, t: x - t, solver="magic"), "'anderson', 'broyden'"),
    "no function": (root(3.0), r"a function \(x, \*params\)"),
    "T onto a scalar": (fixed(lambda x, t: t), "onto the shapes of x"),
    "adjoint": (fixed(lambda x, t: 0.5 * x, adjoint="neumann"), "adjoint"),
    "objective": (least(lambda x, t: (x - t) ** 2), r"an objective of shape \(\)"),
    "two kinds": (least(WELL, projection=Box(0, 1), equality=lambda x, t: x.sum()), "at most one"),
    "box": (least(WELL, projection=Box(1, 0)), "lower <= upper"),
    "simplex": (lambda: Simplex(0.0), "total > 0"),
    "numbers": (root(lambda x, t: x - t, [1.0, 2.0]), "x0 of tensors; got list"),
    "no systems": (root(lambda x, t: x - t, ONE[:0], batch_dims=1), "none of length 0"),
    "no axis": (root(lambda x, t: x - t, ONE[0], batch_dims=1), "1 common batch axes"),
    "tol": (root(lambda x, t: x - t, tol=-1.0), "tol >= 0"),
    "constant": (least(lambda x, t: t.square()), "energy that depends on x"),
    "batch": (least(WELL, batch_dims=1), r"an objective of shape \(3,\)"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_inputs_that_are_refused(case):
    call, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        call()


@pytest.mark.parametrize("kind", ["grad", "jvp", "vmap", "dual"])
def test_transforms_of_tensors_in_the_closure_are_refused(kind):
    def f(t):
        return implicit_root(lambda x: x**3 - t, ONE).sum()

    t = T.detach()
    with pytest.raises(InputError, match="closes over"):
        if kind == "grad":
            torch.func.grad(f)(t)
        elif kind == "jvp":
            torch.func.jvp(f, (t,), (t,))
        elif kind == "vmap":
            torch.func.vmap(f)(t.expand(2))
        else:
            with torch.autograd.forward_ad.dual_level():
                f(torch.autograd.forward_ad.make_dual(t, t))


def test_no_root_raises_with_iterations_and_residual():
    with pytest.raises(ConvergenceError, match="after 20 iterations") as caught:
        implicit_fixed_point(lambda x, t: 2 * x + t, ONE, T, max_iterations=20, solver="picard")
    assert caught.value.iterations == 20 and caught.value.residual > 1e5 > caught.value.tol
    for solver in ("newton", "krylov", "broyden"):
        with pytest.raises(ConvergenceError) as caught:
            implicit_root(lambda x, t: x.square() + t, ONE, T, solver=solver)
        assert caught.value.residual >= 3.4 and caught.value.iterations is not None
    slope, cubic = (lambda x, t: (t * x).sum()), (lambda x, t: (x**3 / 3 + t * x).sum())
    for solver, energy in ((LBFGS(5), slope), (ProximalGradient(5), slope), ("newton", cubic)):
        with pytest.raises(ConvergenceError) as caught:
            implicit_argmin(energy, ONE, T, solver=solver)
        assert caught.value.residual >= 3.4


def test_coupled_batches_hint_at_it():
    t = torch.arange(8.0, dtype=F64).reshape(4, 2)
    with pytest.raises(ConvergenceError, match="must not read one another"):
        implicit_root(lambda x, t: x - 0.3 * x.mean(0) - t, 0 * t, t, batch_dims=1)


def test_singular_jacobians():
    double = implicit_root(lambda x, t: (x * t) ** 2, 0 * ONE, T)
    with pytest.raises(ConvergenceError, match="regular ∂F/∂x at x\\*; got a singular one"):
        double.sum().backward()
    with pytest.raises(ConvergenceError, match="regular"):
        torch.func.jvp(
            lambda t: implicit_root(lambda x, t: (x * t) ** 2, 0 * ONE, t),
            (T.detach(),),
            (T.detach(),),
        )
    # Pressure without a fixed value: the constant is free.
    L = torch.tensor([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]], dtype=F64)
    f = torch.tensor([1.0, 0, -1], dtype=F64, requires_grad=True)
    known = lambda residual, x0, f: torch.linalg.pinv(L) @ f  # noqa: E731
    x = implicit_root(lambda x, f: L @ x - f, ONE, f, solver=known)
    with pytest.raises(ConvergenceError, match="null space"):
        x[0].backward()
    # Badly scaled is not singular.
    scale = torch.tensor([1e-12, 1.0, 1e12], dtype=F64)
    x = implicit_root(lambda x, t: scale * x - scale * t, 0 * ONE, T, tol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(x.sum(), T)[0], 3 + 0 * T.detach())
    with pytest.raises(InputError, match="saddle"):
        implicit_argmin(lambda x, t: (x**4 / 4 - t * x**2 / 2).sum(), 0 * ONE, T).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_both_precisions(dtype):
    t = torch.tensor(2.0, dtype=dtype, requires_grad=True)
    x0 = torch.ones(3, dtype=dtype)
    for x in (
        implicit_root(lambda x, t: x**2 - t, x0, t),
        implicit_fixed_point(lambda x, t: 0.5 * (x + t / x), x0, t),
        implicit_argmin(lambda x, t: (x**3 / 3 - t * x).sum(), x0, t),
    ):
        assert x.dtype == dtype
        slope = torch.autograd.grad(x.sum(), t)[0]
        assert abs(float(slope) - 3 / (2 * 2**0.5)) < (1e-6 if dtype == F64 else 1e-3)


def test_inference_mode():
    """Where autograd is off altogether layers still solve, and modules see their weights."""
    cell, x = nn.Linear(3, 3, dtype=F64), torch.linspace(0, 1, 6, dtype=F64).reshape(2, 3)

    def layer(x):
        def step(z, x):
            return 0.2 * torch.tanh(cell(z)) + x

        y = implicit_fixed_point(step, torch.zeros_like(x), x, batch_dims=1)
        z = implicit_root(lambda z, x: z**3 + z - x, torch.zeros_like(x), x)
        return y, z, implicit_argmin(lambda z, x: (z - x).square().sum(), 0 * x, x)

    found = layer(x)
    with torch.inference_mode():
        for a, b in zip(layer(x.clone()), found, strict=True):
            assert torch.equal(a, b) and not a.requires_grad
