"""T1: bases and transforms, variance at the start, the loss on coefficients, grids, refusals."""

import copy
import math

import pytest
import torch
from rheograd.operators.layers import relative_l2
from rheograd.operators.t1 import T1, Basis1D, SeparableTransform, T1Config, T1Layer
from rheograd.operators.t1.layers import ball, mode_std, pack, unpack
from rheograd.operators.t1.model import CoefficientOperator
from rheograd.sim.core.errors import InputError

KINDS = [("dct", "cells"), ("dst", "cells"), ("rfourier", "cells"), ("rfourier", "points")]
BASES = pytest.mark.parametrize(("kind", "sampling"), KINDS, ids=["-".join(k) for k in KINDS])
F64 = {"dtype": torch.float64}


def filled(model, generator):
    """The model with a head of ordinary size, or its output would be zero at the start."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in ("head", "out", "unet.last.weight"):
                value.normal_(0, value.shape[1] ** -0.5, generator=generator)
    return model


@BASES
@pytest.mark.parametrize("n", [12, 13])
def test_transforms_are_orthonormal(kind, sampling, n, generator):
    for shape in ((n,), (n, n + 1), (n, 5, 6)):
        transform = SeparableTransform([Basis1D(kind, k, sampling) for k in shape])
        f = torch.randn(2, 3, *shape, generator=generator, **F64)
        c = transform.analyze(f)
        assert torch.allclose(transform.synthesize(c, shape), f, atol=1e-12, rtol=0)
        mean_square = f.flatten(2).square().mean(-1)
        assert torch.allclose(c.flatten(2).square().sum(-1), mean_square, rtol=1e-12, atol=0)
        single = transform.synthesize(transform.analyze(f.float()), shape)
        assert torch.allclose(single, f.float(), atol=1e-5, rtol=0)


@BASES
@pytest.mark.parametrize("n", [6, 7])
def test_transforms_are_differentiable(kind, sampling, n, generator):
    transform = SeparableTransform([Basis1D(kind, 4, sampling), Basis1D(kind, n, sampling)])
    f = torch.randn(1, 1, n, n, generator=generator, **F64, requires_grad=True)
    assert torch.autograd.gradcheck(transform.analyze, f)
    c = transform.analyze(f.detach()).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: transform.synthesize(c, (n, n + 2)), c)


@BASES
def test_the_same_function_has_the_same_coefficients_on_every_grid(kind, sampling):
    m, basis = 7, Basis1D(kind, 7, sampling)
    truth = torch.arange(1.0, m + 1, **F64)[None, None]
    transform = SeparableTransform([basis])
    for n in (
        m + (kind == "dst"),
        15,
        64,
    ):  # the last sine of n samples is scaled, to be orthonormal
        assert torch.allclose(
            transform.analyze(transform.synthesize(truth, [n])), truth, atol=1e-12, rtol=0
        )
    x = torch.linspace(0, 1, 5, **F64)
    values = basis.evaluate(x)
    k = 3
    known = {
        "dct": math.sqrt(2) * torch.cos(math.pi * k * x),
        "dst": math.sqrt(2) * torch.sin(math.pi * (k + 1) * x),
        "rfourier": math.sqrt(2) * torch.cos(4 * math.pi * x),
    }[kind]
    assert torch.allclose(values[:, k], known, atol=1e-14, rtol=0)


def test_bases_fit_their_boundaries():
    """How much of a smooth function of each kind the first 12 of 64 modes miss."""
    x = (torch.arange(64, **F64) + 0.5) / 64
    shapes = {
        "periodic": torch.exp(torch.sin(2 * math.pi * x + 1)),
        "neumann": torch.exp(torch.cos(math.pi * x)),
        "dirichlet": x * (1 - x) * torch.exp(x),
    }
    missed = {}
    for name, f in shapes.items():
        for kind in ("rfourier", "dct", "dst"):
            transform = SeparableTransform([Basis1D(kind, 12)])
            back = transform.synthesize(transform.analyze(f[None, None]), [64])
            missed[name, kind] = float(relative_l2(back, f[None, None]))
    assert missed["periodic", "rfourier"] < 1e-2 * missed["periodic", "dct"]
    assert missed["neumann", "dct"] < 1e-2 * missed["neumann", "rfourier"]
    assert missed["dirichlet", "dst"] < 0.2 * missed["dirichlet", "dct"]


@pytest.mark.parametrize("m", [8, 16, 24, 32, 64])
def test_variance_preserving_weights_preserve_it(m, generator):
    """Output over input variance of a white field on 64² cells, for three ways to mix."""
    w, n = 48, 64
    transform = SeparableTransform([Basis1D("dct", m)] * 2)
    x = torch.randn(2, w, n, n, generator=generator)
    z = transform.analyze(x) * n

    def ratio(y):
        return float(transform.synthesize(y / n, (n, n)).var() / x.var())

    def draw(*shape, inputs, modes):
        std = mode_std(modes, inputs, w, (n, n), "vp")
        return torch.empty(*shape).normal_(0, std, generator=generator)

    channels = draw(m * m, w, w, inputs=w, modes=m * m)
    rows = z.flatten(2).permute(2, 0, 1)
    assert 0.9 < ratio((rows @ channels).permute(1, 2, 0).view_as(z)) < 1.1
    diagonal = draw(m, m, inputs=1, modes=m * m)
    several = torch.stack(
        [ratio(z * draw(m, m, inputs=1, modes=m * m)) * torch.ones(()) for _ in range(16)]
    )
    assert diagonal.shape == (m, m) and 0.9 < float(several.mean()) < 1.1
    # dense along one axis, (N₁/m²)^½ on each: m inputs for every output; two matrices of m² numbers have
    # a spread of 1/m of their own
    std = mode_std(m, m, m, (n,), "vp")
    dense = []
    for _ in range(16):
        a, b = torch.empty(2, m, m).normal_(0, std, generator=generator)
        dense.append(ratio(a @ z @ b))
    assert 0.9 < sum(dense) / 16 < 1.1


def test_other_starts_lose_variance():
    """The table that made variance-preserving weights: what kaiming and fno leave at m = 8 of 64."""
    for init, expected in (("kaiming", 64 / 4096), ("fno", 64 / 4096 / 48**3)):
        got = mode_std(64, 48, 48, (64, 64), init) ** 2 / mode_std(64, 48, 48, (64, 64), "vp") ** 2
        assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("m", [(5,), (5, 4), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("mode_set", ["box", "ball"])
def test_a_layer_is_its_definition(m, mode_set, generator):
    bases = [Basis1D("rfourier", k) for k in m]
    layer = T1Layer(3, bases, [8] * len(m), mode_set=mode_set, generator=generator).double()
    kept = ball(bases) if mode_set == "ball" else torch.ones(m, dtype=torch.bool)
    z = torch.randn(2, 3, *m, generator=generator, **F64) * kept
    y = torch.zeros_like(z)
    for row, place in enumerate(kept.nonzero().tolist()):
        at = (..., *place)
        y[at] = torch.nn.functional.gelu(z[at] @ layer.weight[row])
    for axis, P in enumerate(layer.mixing.weights):
        y = torch.einsum("bc...i,cio->bc...o", y.movedim(axis + 2, -1), P).movedim(-1, axis + 2)
    assert torch.allclose(unpack(layer(pack(z))), z + y * kept, atol=1e-12, rtol=0)
    assert mode_set == "box" or len(m) == 1 or 0 < int((~kept).sum())


def test_lift_and_transform_commute(generator):
    """Lifting coefficients gives the coefficients of lifted fields, positions and bias included."""
    for boundary in ("periodic", "neumann", "dirichlet", ("periodic", "dirichlet")):
        config = T1Config((7, 6), (12, 10), boundary, in_channels=2, hidden_channels=5)
        model = T1(config, generator=generator).double()
        x = torch.randn(3, 2, 12, 10, generator=generator, **F64)
        p = [(torch.arange(n, **F64) + 0.5) / n for n in (12, 10)]
        grid = torch.stack(torch.meshgrid(*p, indexing="ij")).expand(3, -1, -1, -1)
        lifted = torch.einsum("wc,bcij->bwij", model.lift.weight, torch.cat([x, grid], 1))
        lifted = lifted + model.lift.bias[:, None, None]
        scale = math.sqrt(42)
        expected = model.analysis.analyze(lifted) * scale
        got = model.lift(model.analysis.analyze(x) * scale)
        assert torch.allclose(got, expected, atol=2e-6, rtol=0)  # `known` is made in float32


def test_the_error_of_coefficients_is_that_of_fields(generator):
    for boundary in ("periodic", "neumann", "dirichlet"):
        config = T1Config((9, 7), (16, 15), boundary, out_channels=2, hidden_channels=6, n_layers=2)
        model = filled(T1(config, generator=generator), generator).double()
        x = 3 + torch.randn(5, 1, 16, 15, generator=generator, **F64)
        y = torch.tensor([1e3, 1.0])[:, None, None] * (1 + torch.randn(5, 2, 16, 15, **F64))
        model.fit_scales(x, y)
        rows = model.training_data(x, y)
        assert (rows["tail"] > 0.1).all()  # white targets: much is beyond the modes
        assert torch.allclose(model.relative_error(rows), relative_l2(model(x), y), rtol=1e-10)
        single = model.float().relative_error({k: v.float() for k, v in rows.items()})
        assert torch.allclose(single.double(), relative_l2(model.double()(x), y), rtol=1e-5)


def test_resolution_transfer_keeps_the_function(generator):
    """The same weights on 32² and 64² cells: the result is one function, sampled twice."""
    for boundary, sampling in (("periodic", "points"), ("periodic", "cells"), ("neumann", "cells")):
        config = T1Config((11, 11), (32, 32), boundary, hidden_channels=6, sampling=sampling)
        model = filled(T1(config, generator=generator), generator).double()
        c = torch.randn(2, 1, 11, 11, generator=generator, **F64)
        coarse, fine = (model.analysis.synthesize(c, (n, n)) for n in (32, 64))
        there = model(coarse, (64, 64))
        assert torch.allclose(
            model(fine), there, atol=1e-10 * float(there.detach().abs().max()), rtol=0
        )
        if sampling == "points":
            assert torch.allclose(model(fine)[..., ::2, ::2], model(coarse), rtol=1e-8, atol=1e-8)


def test_the_configuration_and_coarse_grids_are_checked(generator):
    good = {"n_modes": (8, 8), "cells": (16, 16)}
    for options, word in (
        ({"boundary": "open"}, "periodic, neumann, dirichlet.*open"),
        ({"boundary": ("periodic",)}, "each of 2 axes"), ({"input_boundary": "wall"}, "input_boundary"),
        ({"n_modes": (8, 17)}, "n_modes between 1 and the cells"), ({"cells": (16,)}, "cells of 2"),
        ({"init": "x"}, "init vp"), ({"mode_set": "disc"}, "box or ball"),
        ({"hidden_channels": 0}, "hidden_channels"),
        ({"sampling": "nodes"}, "sampling"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            T1Config(**{**good, **options})
    with pytest.raises(InputError, match="sampling cells for dct"):
        T1(T1Config(**good, boundary="neumann", sampling="points"))
    with pytest.raises(InputError, match="at least 8 samples for 8 modes; got 7.*refine the grid"):
        T1(T1Config(**good), generator=generator)(torch.zeros(1, 1, 16, 7))
    model = T1(T1Config(**good), generator=generator)
    with pytest.raises(InputError, match="targets other than zero.*sample 1"):
        model.training_data(
            torch.ones(2, 1, 16, 16),
            torch.ones(2, 1, 16, 16) * torch.eye(2)[:1].mT[:, :, None, None],
        )
    assert isinstance(copy.deepcopy(model), CoefficientOperator)
