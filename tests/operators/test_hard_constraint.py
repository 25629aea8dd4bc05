"""The constraint layer: gradients against differences and unrolling, the solver against scipy, errors."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import scipy.optimize
import torch
from rheograd.operators.hard_moe import FitConfig, HardConstraint, Rows, fit
from rheograd.operators.hard_moe.least_squares import hessian
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.gradients import taylor_test


def cubic(z, params):
    """A residual that no weights make vanish."""
    u, v = z.unbind(1)
    return v + u**3 + (params if isinstance(params, torch.Tensor) else 0.5) * u * v


def system(generator, S=3, M=30, N=4, L=5, noise=1.0):
    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    linear = torch.cat([draw(S, L, N), 1e-2 * torch.eye(N, dtype=torch.float64).expand(S, N, N)], 1)
    return Rows(0.5 * draw(S, 2, M, N), noise * draw(S, 2, M), linear, draw(S, L + N))


def differences(value, x, count, generator, h=1e-5):
    """Directional central differences and the directions."""
    found = []
    for _ in range(count):
        d = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        found.append((d, float(value(x + h * d) - value(x - h * d)) / (2 * h)))
    return found


def loss_of(constraint, rows, target):
    def loss(T):
        w = constraint(Rows(T, rows.offset, rows.linear, rows.target))
        return (w * target).sum() + (T[:, 0] @ w[..., None]).square().mean()

    return loss


def deviation(grad, generator):
    """Largest relative error of directional derivatives in the terms."""
    rows, target = system(generator), torch.randn(3, 4, generator=generator, dtype=torch.float64)
    loss = loss_of(
        HardConstraint(cubic, FitConfig(tol=1e-13, max_iterations=200), grad), rows, target
    )
    T = rows.terms.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(T), T)[0]
    with torch.no_grad():
        pairs = differences(loss, rows.terms, 4, generator)
    return max(abs(float((gradient * d).sum()) - fd) / abs(fd) for d, fd in pairs)


def test_gradient_is_that_of_the_minimum(generator):
    """A1: the full Hessian is exact; Gauss–Newton is off where the residual does not vanish."""
    state = generator.get_state()
    assert deviation("full", generator) < 1e-6
    generator.set_state(state)
    assert deviation("gauss_newton", generator) > 1e-2


def test_gauss_newton_is_exact_where_the_residual_vanishes(generator):
    rows = system(generator)
    w = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    rows.linear, rows.target = rows.linear[:, :0], rows.target[:, :0]
    z = (rows.terms @ w[:, None, :, None])[..., 0]

    def shifted(q, params):
        return cubic(q, ()) - cubic(z, ()) + params

    grads = []
    for grad in ("full", "gauss_newton"):
        shift = torch.zeros(3, 30, dtype=torch.float64, requires_grad=True)
        rows_ = Rows(rows.terms, torch.zeros_like(z), rows.linear, rows.target, shift)
        found = HardConstraint(shifted, grad=grad)(rows_, w + 0.01)
        assert torch.allclose(found, w, atol=1e-10)
        grads.append(torch.autograd.grad(found.square().sum(), shift)[0])
    assert torch.allclose(*grads, rtol=1e-8, atol=1e-10)


def test_every_input_has_its_derivative(generator):
    rows = system(generator)
    constraint = HardConstraint(cubic, FitConfig(tol=1e-13, max_iterations=100))

    def loss(tree):
        return constraint(Rows(*tree[:4], params=tree[4])).square().sum()

    strength = torch.tensor(0.5, dtype=torch.float64)
    tree = (rows.terms, rows.offset, rows.linear, rows.target, strength)
    report = taylor_test(loss, tree)
    assert report.passed(1.9), report


def test_unrolling_agrees(generator):
    rows, target = system(generator), torch.randn(3, 4, generator=generator, dtype=torch.float64)
    found = {}
    for grad in ("full", "unroll"):
        T = rows.terms.clone().requires_grad_()
        layer = HardConstraint(cubic, FitConfig(tol=1e-12, max_iterations=100), grad)
        found[grad] = torch.autograd.grad(loss_of(layer, rows, target)(T), T)[0]
    error = (found["full"] - found["unroll"]).norm() / found["unroll"].norm()
    assert error < 1e-6


def saved(rows, grad, iterations, start):
    """Elements that wait for backward, and the iterations."""
    kept = weakref.WeakSet()

    class Kept:
        def __init__(self, t):
            self.t = t
            kept.add(self)

    rows = Rows(rows.terms.clone().requires_grad_(), rows.offset, rows.linear, rows.target)
    config = FitConfig(max_iterations=iterations, tol=1e-30, curvature="gauss_newton")
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda box: box.t):
        layer = HardConstraint(cubic, config, grad, throw=False)
        w = layer(rows, start)
    assert w.requires_grad
    return sum(box.t.numel() for box in kept), int(layer.last.iterations.max())


def test_memory_does_not_depend_on_iterations(generator):
    rows, start = system(generator), torch.full((3, 4), 3.0, dtype=torch.float64)
    (few, a), (many, b) = saved(rows, "full", 3, start), saved(rows, "full", 12, start)
    assert few == many and (a, b) == (3, 12)
    assert saved(rows, "unroll", 12, start)[0] > 2.5 * saved(rows, "unroll", 3, start)[0]


def test_second_derivative(generator):
    rows = system(generator, S=1)
    layer = HardConstraint(cubic, FitConfig(tol=1e-13))
    d = rows.target.clone().requires_grad_()
    w = layer(Rows(rows.terms, rows.offset, rows.linear, d))
    (first,) = torch.autograd.grad(w.square().sum(), d, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), d)[0]

    def slope(x):
        x = x.clone().requires_grad_()
        value = layer(Rows(rows.terms, rows.offset, rows.linear, x)).square().sum()
        return torch.autograd.grad(value, x)[0].square().sum()

    for direction, fd in differences(slope, rows.target, 2, generator):
        assert abs(float((second * direction).sum()) - fd) < 1e-5 * abs(fd)


@pytest.mark.parametrize("curvature", ["full", "gauss_newton"])
def test_fit_finds_what_scipy_finds(generator, curvature):
    """A3: 64 systems from the same start; the cost never rises."""
    rows = system(generator, S=64, noise=0.5)
    zero = torch.zeros(64, 4, dtype=torch.float64)
    result = fit(cubic, rows, zero, FitConfig(max_iterations=200, curvature=curvature))
    assert bool(result.converged.all()) and bool(torch.isfinite(result.w).all())
    costs = []
    for s in range(64):
        part = rows.select(torch.tensor([s]))
        T, a, C, d = (v[0].numpy() for v in (part.terms, part.offset, part.linear, part.target))

        def r(w, T=T, a=a, C=C, d=d):
            u, v = a + T @ w
            return np.concatenate([v + u**3 + 0.5 * u * v, C @ w - d])

        options = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12}
        costs.append(scipy.optimize.least_squares(r, np.zeros(4), method="lm", **options).cost)
    close = (result.cost - torch.tensor(costs)).abs() <= 1e-6 * result.cost
    assert close.double().mean() >= 0.95
    last = None
    for steps in (1, 2, 4, 8):
        found = fit(cubic, rows, zero, FitConfig(max_iterations=steps, curvature=curvature)).cost
        assert last is None or bool((found <= last * (1 + 1e-14)).all())
        last = found


def test_systems_do_not_see_one_another(generator):
    rows = system(generator, S=5)
    together = fit(cubic, rows, torch.zeros(5, 4, dtype=torch.float64), FitConfig())
    for s in range(5):
        alone = fit(
            cubic,
            rows.select(torch.tensor([s])),
            torch.zeros(1, 4, dtype=torch.float64),
            FitConfig(),
        )
        assert torch.allclose(alone.w[0], together.w[s], atol=1e-12)
        assert alone.iterations[0] == together.iterations[s]


def test_errors_name_the_remedy(generator):
    rows = system(generator)
    layer = HardConstraint(cubic)
    with pytest.raises(InputError, match=r"offset of shape \(3, 2, 30\)"):
        layer(Rows(rows.terms, rows.offset[:, :, 1:], rows.linear, rows.target))
    few = Rows(rows.terms[:, :, :2], rows.offset[:, :, :2], rows.linear[:, :0], rows.target[:, :0])
    with pytest.raises(InputError, match="at least 4 rows for 4 unknowns; got 2"):
        layer(few)
    with pytest.raises(InputError, match="residual that depends on z"):
        HardConstraint(lambda z, _: torch.ones_like(z[:, 0]))(rows)
    with pytest.raises(InputError, match=r"residual of shape \(3, 30\)"):
        HardConstraint(lambda z, _: z.sum())(rows)
    with pytest.raises(InputError, match="finite terms"):
        layer(Rows(rows.terms / 0, rows.offset, rows.linear, rows.target))
    with pytest.raises(ConvergenceError, match="2 iterations") as caught:
        HardConstraint(cubic, FitConfig(max_iterations=2))(rows)
    assert caught.value.iterations == 2 and caught.value.residual > caught.value.tol
    with pytest.raises(InputError, match="grad out of"):
        HardConstraint(cubic, grad="newton")
    twins = torch.cat([rows.terms[..., :1], rows.terms[..., :1]], -1).requires_grad_()
    same = Rows(twins, rows.offset, rows.linear[:, :0, :2], rows.target[:, :0])
    w = HardConstraint(cubic, throw=False)(same)
    with pytest.raises(InputError, match="H positive definite.*Add a ridge"):
        w.sum().backward()


def test_ill_posed_residuals_are_told(generator):
    rows, k = system(generator), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    refused = {
        "of each row's own numbers": lambda z, _: z[:, 0] - z[:, 0].mean(1, keepdim=True),
        "finite residual at the start; got": lambda z, _: z[:, 0].log(),
        "one that closes over": lambda z, _: k * z[:, 0] + cubic(z, ()),
        "in torch.float64; got": lambda z, _: z[:, 0].float(),
        "depends on z": lambda z, params: params * torch.ones_like(z[:, 0]),
    }
    for words, residual in refused.items():
        given = Rows(rows.terms, rows.offset, rows.linear, rows.target, k)
        with pytest.raises(InputError, match=words):
            HardConstraint(residual)(given)
    with pytest.raises(InputError, match="finite target"):
        HardConstraint(cubic)(Rows(rows.terms, rows.offset, rows.linear, rows.target / 0))
    with pytest.raises(InputError, match="finite residual at the start"):
        HardConstraint(cubic)(rows, torch.full((3, 4), torch.nan, dtype=torch.float64))
    with pytest.raises(InputError, match="frozen"):
        HardConstraint(cubic, FitConfig(sweeps=1))(rows)
    with pytest.raises(InputError, match="tol > 0"):
        FitConfig(tol=-1.0)


def test_nearly_equal_functions_are_told(generator):
    """Round-off may leave a singular matrix positive definite: its gradient would be noise."""
    told = 0
    for _ in range(8):
        T = torch.randn(1, 2, 9, 3, generator=generator, dtype=torch.float64)
        T = torch.cat([T, T[..., 1:2] - T[..., :1]], -1).requires_grad_()
        rows = Rows(
            T, torch.ones(1, 2, 9, dtype=torch.float64), T.new_zeros(1, 0, 4), T.new_zeros(1, 0)
        )
        w = HardConstraint(cubic, throw=False)(rows)
        with pytest.raises(InputError, match="H positive definite"):
            w.sum().backward()
        told += 1
    assert told == 8


def test_inference_mode(generator):
    rows, layer = system(generator), HardConstraint(cubic)
    with torch.no_grad():
        w = layer(rows)
    with torch.inference_mode():
        assert torch.equal(layer(rows.map(torch.clone)), w)


def test_a_saddle_is_told():
    """Where the gradient vanishes and H is indefinite: an error, or JᵀJ when failures are allowed."""
    one = torch.ones(1, 1, 3, 1, dtype=torch.float64)
    for throw in (True, False):
        target = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        rows = Rows(one, 0 * one[..., 0], 0.1 * one[:, 0, :1], target)
        w = HardConstraint(lambda z, _: z[:, 0] ** 2 - 1, throw=throw)(rows)
        assert float(w.detach()) == 0.0
        if throw:
            with pytest.raises(InputError, match="H positive definite"):
                w.sum().backward()
        else:
            w.sum().backward()
            assert torch.allclose(target.grad, torch.full_like(target, 10.0))  # C / G = 0.1 / 0.01


@pytest.mark.parametrize("curvature", ["full", "gauss_newton"])
def test_a_fit_ends_with_its_matrix(generator, curvature):
    """Systems that stop early and late: what backward factorizes is H at the end."""
    rows = system(generator, S=6)
    config = FitConfig(max_iterations=300, curvature=curvature)
    found = fit(cubic, rows, torch.zeros(6, 4, dtype=torch.float64), config)
    assert len(set(found.iterations.tolist())) > 1
    exact = hessian(cubic, rows, found.w, curvature == "full")
    assert torch.allclose(found.curvature, exact, rtol=1e-12)
