"""Constraints under `torch.func`, and inputs that do not go together."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.hard_moe import (
    FitConfig,
    HardConstraint,
    HardOperator,
    Rows,
    StepProblem,
    first_frames,
)
from rheograd.sim.core.errors import InputError
from rheograd.sim.grid.pdes import DiffusionSorption, Grid, sorption_sides
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

EXACT = FitConfig(tol=1e-13, max_iterations=200)


def cubic(z, strength):
    u, v = z.unbind(1)
    return v + u**3 + strength * u * v


@pytest.fixture
def rows(generator):
    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    ridge = 1e-2 * torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    linear = torch.cat([draw(3, 5, 4), ridge], 1)
    return Rows(
        0.5 * draw(3, 2, 30, 4), draw(3, 2, 30), linear, draw(3, 9), torch.tensor(0.5).double()
    )


def weights(rows, config, T, strength):
    layer = HardConstraint(cubic, config)
    return layer(dataclasses.replace(rows, terms=T, params=strength))


def near(a, b):
    return float((a - b).norm()) < 1e-9 * float(b.norm())


@pytest.mark.parametrize("orthonormal", [False, True])
def test_every_derivative_is_that_of_autograd(rows, orthonormal):
    f = functools.partial(weights, rows, dataclasses.replace(EXACT, orthonormal=orthonormal))

    def energy(T, strength):
        return f(T, strength).square().sum()

    T, k = rows.terms.clone().requires_grad_(), rows.params.clone().requires_grad_()
    w = f(T, k)
    by_T, first = torch.autograd.grad(w.square().sum(), (T, k), create_graph=True)
    second = torch.autograd.grad(first, k, create_graph=True)[0]
    third = torch.autograd.grad(second, k, retain_graph=True)[0]
    slope = torch.stack([torch.autograd.grad(v, k, retain_graph=True)[0] for v in w.flatten()])
    T, k, one = rows.terms, rows.params, torch.ones_like(rows.params)
    found = grad(energy, (0, 1))(T, k)
    assert near(found[0], by_T.detach()) and near(found[1], first.detach())
    assert near(hessian(energy, 1)(T, k), second.detach())
    assert near(grad(grad(grad(energy, 1), 1), 1)(T, k), third)
    for value in (jacrev(f, 1)(T, k), jacfwd(f, 1)(T, k), jvp(lambda q: f(T, q), (k,), (one,))[1]):
        assert near(value.flatten(), slope)
    with forward_ad.dual_level():
        dual = f(T, forward_ad.make_dual(k, one))
        assert near(forward_ad.unpack_dual(dual).tangent.flatten(), slope)


def test_mapped_calls_are_one_fit(rows):
    f = functools.partial(weights, rows, EXACT)
    several, k = torch.stack([rows.terms, 1.1 * rows.terms, 0.9 * rows.terms], 2), rows.params
    one_by_one = [several[:, :, i] for i in range(3)]
    assert near(vmap(f, (2, None))(several, k), torch.stack([f(T, k) for T in one_by_one]))
    ks = torch.tensor([0.4, 0.5], dtype=torch.float64)
    assert near(vmap(f, (None, 0))(rows.terms, ks), torch.stack([f(rows.terms, q) for q in ks]))

    def energy(T, strength):
        return f(T, strength).square().sum()

    slopes = torch.stack([grad(energy)(T, k) for T in one_by_one])
    assert near(vmap(grad(energy), (2, None))(several, k), slopes)
    each = dataclasses.replace(
        rows, params=torch.tensor([[0.4], [0.5], [0.6]], dtype=torch.float64)
    )
    mapped = vmap(functools.partial(weights, each, EXACT), (2, None))(several, each.params)
    assert near(mapped, torch.stack([weights(each, EXACT, T, each.params) for T in one_by_one]))


def test_operator(generator):
    """Weights of the network, first frames, and windows whose rows are local."""
    pde = DiffusionSorption(Grid(16, sides=sorption_sides()), 60.0)
    net = FNO(FNOConfig((2, 4), 1, 3, 4, 1, padding=(0.25, 0.25)), generator=generator).double()
    config = FitConfig(40, 1e-11, sweeps=2, orthonormal=True)
    model = HardOperator(net, StepProblem(pde, 8), "windows", (1, 2), config=config)
    u0 = first_frames(2, 16, generator=generator)
    model.loss(u0).backward()
    state = {name: p.detach() for name, p in model.named_parameters()}

    def loss(state, u0):
        return model.problem.loss(functional_call(model, state, (u0,)), u0).mean()

    for name, value in grad(loss)(state, u0).items():
        plain = model.get_parameter(name).grad
        assert float((value - plain).abs().max()) <= 1e-8 * float(plain.abs().max())
    model.requires_grad_(False)
    moved = jvp(model, (u0,), (torch.ones_like(u0),))[1]
    apart = (model(u0 + 1e-6) - model(u0 - 1e-6)) / 2e-6
    assert float((moved - apart).norm()) < 1e-6 * float(apart.norm())
    with pytest.raises(InputError, match="Give samples as a batch"):
        vmap(lambda u: model(u[None]))(u0)


def test_unrolling_is_refused(rows):
    layer = HardConstraint(cubic, EXACT, "unroll")
    with pytest.raises(InputError, match="grad full under torch.func"):
        grad(lambda T: layer(dataclasses.replace(rows, terms=T)).sum())(rows.terms)


def test_what_does_not_go_together_is_told(rows):
    layer = HardConstraint(cubic)
    for name in ("offset", "linear", "target"):
        for other in (torch.float32, "meta"):
            with pytest.raises(InputError, match=f"{name} of shape .* on cpu"):
                layer(dataclasses.replace(rows, **{name: getattr(rows, name).to(other)}))
    with pytest.raises(InputError, match="start of shape .* on cpu"):
        layer(rows, torch.zeros(3, 4, device="meta"))
    with pytest.raises(InputError, match="params on cpu"):
        layer(dataclasses.replace(rows, params=torch.zeros(3, 1, device="meta")))
    for kind in (torch.half, torch.long):
        with pytest.raises(InputError, match="float64 or float32"):
            layer(rows.map(lambda t, kind=kind: t.to(kind)))
    with pytest.raises(InputError, match="none of them 0"):
        layer(rows.map(lambda t: t[:0] if t.ndim else t))


def test_first_frames_are_checked(generator):
    pde = DiffusionSorption(Grid(16, sides=sorption_sides()), 60.0)
    net = FNO(FNOConfig((2, 4), 1, 3, 4, 1), generator=generator)
    model = HardOperator(net, StepProblem(pde, 8))
    for wrong in (
        torch.zeros(0, 16),
        torch.tensor(1.0),
        torch.zeros(2, 15),
        torch.full((1, 16), torch.nan),
    ):
        with pytest.raises(InputError, match=r"finite first frames \(B >= 1, 16\)"):
            model(wrong)
    with pytest.raises(InputError, match="cannot be read"):
        model(torch.zeros(2, 16, device="meta"))
