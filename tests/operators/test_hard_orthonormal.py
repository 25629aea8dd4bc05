"""Fits in weights of orthonormal functions: the same minimum and gradient, in single precision too."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.hard_moe import (
    FitConfig,
    HardConstraint,
    HardOperator,
    IntegralProblem,
    PointProblem,
    Rows,
    StepProblem,
    first_frames,
    load_hard,
    save_hard,
)
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.grid.pdes import DiffusionSorption, Grid, sorption_sides

TURNED = FitConfig(tol=1e-13, max_iterations=200, orthonormal=True)


def cubic(z, params):
    u, v = z.unbind(1)
    return v + u**3 + (params if isinstance(params, torch.Tensor) else 0.5) * u * v


def system(generator, S=3, M=30, N=4, L=5, alike=0.0):
    """Rows whose last function is the first one, but for `alike` of it."""

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    T = 0.5 * draw(S, 2, M, N)
    if alike:
        T[..., -1] = T[..., 0] + alike * T[..., -1]
    ridge = 1e-2 * torch.eye(N, dtype=torch.float64).expand(S, N, N)
    linear = torch.cat([draw(S, L, N), ridge], 1)
    return Rows(T, draw(S, 2, M), linear, draw(S, L + N))


def sorption(cells=16, frames=8, kind=StepProblem):
    return kind(DiffusionSorption(Grid(cells, sides=sorption_sides()), 500.0 / frames), frames)


def network(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return FNO(FNOConfig((2, 4), 1, n, 6, 1, padding=(0.25, 0.25)), generator=g)


def test_minimum_and_gradients_are_the_same(generator):
    rows = system(generator)
    found, slopes = [], []
    for config in (dataclasses.replace(TURNED, orthonormal=False), TURNED):
        T = rows.terms.clone().requires_grad_()
        w = HardConstraint(cubic, config)(Rows(T, rows.offset, rows.linear, rows.target))
        (first,) = torch.autograd.grad(w.square().sum(), T, create_graph=True)
        slopes.append((first.detach(), torch.autograd.grad(first.square().sum(), T)[0]))
        found.append(w.detach())
    assert torch.allclose(*found, rtol=1e-10, atol=1e-12)
    for a, b in zip(*slopes, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10 * float(a.abs().max()))


@pytest.mark.parametrize("grad", ["full", "unroll"])
def test_every_input_has_its_derivative(generator, grad):
    rows = system(generator)
    layer = HardConstraint(cubic, TURNED, grad)

    def loss(tree):
        return layer(Rows(*tree[:4], params=tree[4])).square().sum()

    strength = torch.tensor(0.5, dtype=torch.float64)
    report = taylor_test(loss, (rows.terms, rows.offset, rows.linear, rows.target, strength))
    assert report.passed(1.9), report


def test_starts_are_those_of_the_old_weights(generator):
    rows = system(generator)
    w = HardConstraint(cubic, TURNED)(rows)
    layer = HardConstraint(cubic, TURNED)
    again = layer(rows, w)
    assert int(layer.last.iterations.max()) <= 1 and torch.allclose(again, w, atol=1e-10)
    assert torch.equal(layer.last.w, again)


def test_functions_nearly_alike(generator):
    """A ten-millionth apart: linear rows against a solution by singular values."""
    rows = system(generator, M=40, alike=1e-7)
    T, a = rows.terms[:, :1], rows.offset[:, :1]
    none = Rows(T, a, rows.linear[:, :0], rows.target[:, :0])
    exact = torch.linalg.lstsq(T[:, 0], -a[:, 0, :, None], driver="gelsd").solution[..., 0]
    off = {}
    for turned in (False, True):
        layer = HardConstraint(
            lambda z, _: z[:, 0], FitConfig(tol=1e-10, orthonormal=turned), throw=False
        )
        w = layer(none)
        off[turned] = float(((w - exact).norm(dim=1) / exact.norm(dim=1)).max())
    assert off[True] < 1e-7 and off[False] > 1e3 * off[True]


def test_functions_alike_are_told_all_the_same(generator):
    rows = system(generator)
    twins = torch.cat([rows.terms[..., :1], rows.terms[..., :1]], -1).requires_grad_()
    same = Rows(twins, rows.offset, rows.linear[:, :0, :2], rows.target[:, :0])
    w = HardConstraint(cubic, FitConfig(orthonormal=True), throw=False)(same)
    with pytest.raises(InputError, match="H positive definite.*Add a ridge"):
        w.sum().backward()


@pytest.mark.parametrize(
    ("mode", "boxes", "local"),
    [("experts", (1, 2), True), ("windows", (1, 4), True), ("windows", (1, 4), False)],
)
def test_operators_give_the_same_fields(mode, boxes, local, generator):
    u0, fields, slopes = first_frames(2, 16, generator=generator), [], []
    for turned in (False, True):
        config = FitConfig(40, 1e-12, sweeps=2, orthonormal=turned)
        model = HardOperator(network(4), sorption(), mode, boxes, local=local, config=config)
        u = model(u0)
        u.square().mean().backward()
        fields.append(u.detach())
        slopes.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*fields, atol=1e-9)
    assert float((slopes[1] - slopes[0]).norm()) < 1e-4 * float(slopes[0].norm())  # of float32


def test_single_precision_needs_it():
    """The operator that ships, network, rows and fits in float32; without turning its fits fail."""
    u0, fields = first_frames(1, 256, generator=torch.Generator().manual_seed(7)), {}
    model = load_hard("sorption-256x101").requires_grad_(False)
    for dtype, turned in ((torch.float64, True), (torch.float32, False), (torch.float32, True)):
        model.dtype = dtype
        model.constraint.config = FitConfig(15, 1e-4, sweeps=2, orthonormal=turned)
        u = model(u0, torch.Generator().manual_seed(1))
        assert u.dtype == dtype
        fields[dtype, turned] = u.double()
    exact = fields.pop((torch.float64, True))
    off = {turned: float((u - exact).norm() / exact.norm()) for (_, turned), u in fields.items()}
    assert off[True] < 1e-3 and off[False] > 0.05


def test_gradient_in_single_precision():
    """Against float64, of the same network: windows of summed rows."""
    slopes = {}
    for dtype in (torch.float64, torch.float32):
        model = HardOperator(
            network(6), sorption(16, 8, IntegralProblem), "windows", (1, 2), dtype=dtype,
            config=FitConfig(15, 1e-4, sweeps=2, orthonormal=True),
        )  # fmt: skip
        model.loss(first_frames(2, 16, generator=torch.Generator().manual_seed(3))).backward()
        slopes[dtype] = torch.cat([p.grad.flatten() for p in model.parameters()])
    a, b = slopes.values()
    assert float((a - b).norm()) < 2e-2 * float(a.norm())


def test_dtype_is_saved_and_checked(tmp_path):
    model = HardOperator(
        network(3), sorption(), dtype=torch.float32, config=FitConfig(5, orthonormal=True)
    )
    again = load_hard(save_hard(tmp_path / "m.safetensors", model))
    assert again.dtype == torch.float32 and again.constraint.config.orthonormal
    with pytest.raises(InputError, match="dtype float64 or float32"):
        HardOperator(network(3), sorption(), dtype=torch.float16)
    with pytest.raises(InputError, match="orthonormal=True"):
        HardOperator(network(3), sorption(), dtype=torch.float32, config=FitConfig(5))
    assert HardOperator(network(3), sorption(), dtype=torch.float32).constraint.config.orthonormal


def test_start_by_linear_rows():
    """First frame and walls alone, before the residual: the paper's rows, in fewer iterations."""
    pde = DiffusionSorption(Grid(32, sides=sorption_sides()), 50.0)
    u0, found = first_frames(2, 32, generator=torch.Generator().manual_seed(3)), {}
    for start in ("zero", "linear"):
        model = HardOperator(
            network(6, 2), PointProblem(pde, 10), config=FitConfig(60, 1e-6, start=start)
        )
        with torch.no_grad():
            model(u0)
        found[start] = model.constraint.last
        assert bool(found[start].converged.all())
    assert int(found["linear"].iterations.max()) < int(found["zero"].iterations.min())
    assert torch.allclose(found["linear"].cost, found["zero"].cost, rtol=1e-3)
    with pytest.raises(InputError, match="start zero or linear"):
        FitConfig(start="first")


def test_linear_start_fits_the_linear_rows(generator):
    rows = system(generator)
    w = rows.projected()
    slope = rows.linear.mT @ rows.excess(w)[..., None]
    assert float(slope.abs().max()) < 1e-12
    assert torch.equal(dataclasses.replace(rows, target=0 * rows.target).projected(), 0 * w)
