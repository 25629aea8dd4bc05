"""Fourier operators: spectral convolution against its definition, norms, sizes, refusals, learning."""

import math

import pytest
import torch
from rheograd.operators.fno import FNO, FNOConfig, SpectralConv
from rheograd.operators.layers import h1_norm, lp_norm, relative_h1, relative_l2, relative_lp
from rheograd.sim.core.errors import InputError

GRIDS = [((9,), (3,)), ((8,), (3,)), ((9, 8), (3, 2)), ((8, 11), (2, 5)), ((7, 6, 9), (2, 2, 3))]


def conv(n_modes, a=3, b=2, **options):
    return SpectralConv(
        a, b, n_modes, generator=torch.Generator().manual_seed(1), **options
    ).double()


def reference(layer, x):
    """irfftn(W · rfftn) mode by mode; rfftn's plane k_D = 0 made Hermitian."""
    n, K = x.shape[2:], layer.n_modes
    X = torch.fft.fftn(x, dim=list(range(2, x.ndim)), norm="forward")
    W = torch.view_as_complex(layer.weight.detach()).reshape(*layer.kept, *layer.weight.shape[1:3])
    Y = torch.zeros(x.shape[0], W.shape[-1], *n, dtype=X.dtype)
    for k in (
        torch.cartesian_prod(*[torch.arange(-a, a + 1) for a in K]).reshape(-1, len(K)).tolist()
    ):
        if k[-1] < 0:
            continue
        place = tuple(v % (2 * a + 1) for v, a in zip(k[:-1], K[:-1], strict=True)) + (k[-1],)
        here = tuple(v % m for v, m in zip(k, n, strict=True))
        there = tuple(-v % m for v, m in zip(k, n, strict=True))
        y = X[(..., *here)] @ W[place]
        Y[(..., *here)] += y / 2
        Y[(..., *there)] += y.conj() / 2
        if k[-1] > 0:
            Y[(..., *here)] += y / 2
            Y[(..., *there)] += y.conj() / 2
    y = torch.fft.ifftn(Y, dim=list(range(2, x.ndim)), norm="forward")
    return y.real, float(y.imag.abs().max())


@pytest.mark.parametrize(("cells", "n_modes"), GRIDS, ids=str)
def test_spectral_convolution_is_its_definition(cells, n_modes, generator):
    layer = conv(n_modes, bias=False)
    x = torch.randn(2, 3, *cells, generator=generator, dtype=torch.float64)
    expected, imaginary = reference(layer, x)
    assert imaginary < 1e-12 and expected.abs().max() > 0.1
    assert torch.allclose(layer(x), expected, atol=1e-12, rtol=0)
    single = layer.float()(x.float())
    assert torch.allclose(single, expected.float(), atol=1e-6 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize(("cells", "n_modes"), GRIDS, ids=str)
def test_twice_the_cells_interpolate_the_same_function(cells, n_modes, generator):
    layer = conv(n_modes)
    x = torch.randn(2, 3, *cells, generator=generator, dtype=torch.float64)
    fine = layer(x, [2 * n for n in cells])
    coarse = fine[(..., *[slice(None, None, 2)] * len(cells))]
    assert torch.allclose(coarse, layer(x), atol=1e-12, rtol=0)
    high = torch.fft.fftn(fine, dim=list(range(2, x.ndim)), norm="forward")
    for axis, K in enumerate(n_modes, 2):
        assert high.narrow(axis, K + 1, 2 * cells[axis - 2] - 2 * K - 1).abs().max() < 1e-12
    # and the layer on the fine samples of a band-limited input gives that same function
    smooth = conv(n_modes, 3, 3)(x)
    dense = conv(n_modes, 3, 3)(x, [2 * n for n in cells])
    assert torch.allclose(layer(dense), layer(smooth, [2 * n for n in cells]), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("cells", "n_modes"), [((6,), (2,)), ((6, 5), (2, 2)), ((4, 3, 5), (1, 1, 2))]
)
def test_spectral_convolution_has_exact_gradients(cells, n_modes, generator):
    """First and second derivatives, backward and forward, one by one and batched."""
    layer = conv(n_modes, 2, 2)
    x = torch.randn(1, 2, *cells, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = layer.weight.detach().clone().requires_grad_()

    def apply(x, w):
        return torch.func.functional_call(layer, {"weight": w}, (x,))

    assert torch.autograd.gradcheck(apply, (x, weight), check_forward_ad=True)
    if len(cells) < 3:
        assert torch.autograd.gradgradcheck(apply, (x, weight))
    rows = torch.func.jacrev(lambda x: apply(x, weight))(x.detach())
    columns = torch.func.jacfwd(lambda x: apply(x, weight))(x.detach())
    assert torch.allclose(rows, columns, atol=1e-13)
    several = torch.randn(3, *x.shape, generator=generator, dtype=torch.float64)
    batched = torch.func.vmap(lambda x: apply(x, weight))(several)
    assert torch.allclose(batched, torch.stack([apply(x, weight) for x in several]), atol=1e-13)


@pytest.mark.parametrize("K", [2, 6, 15])
def test_variance_preserving_weights_preserve_it(K, generator):
    for cells in ((256,), (32, 32)):
        modes = (K,) * len(cells)
        layer = SpectralConv(24, 24, modes, init="vp", cells=cells, generator=generator)
        x = torch.randn(64, 24, *cells, generator=generator)
        with torch.no_grad():
            assert 0.9 < float(layer(x).var() / x.var()) < 1.1


def test_norms_of_waves_are_the_known_ones():
    n = 128
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    wave = torch.sin(2 * math.pi * x)
    f = (wave[:, None] * torch.ones(n)).expand(2, 1, n, n)
    assert float(lp_norm(f)[0, 0]) == pytest.approx(math.sqrt(0.5), rel=1e-3)
    assert float(lp_norm(f, 1)[0, 0]) == pytest.approx(2 / math.pi, rel=1e-3)
    assert float(lp_norm(f, math.inf)[0, 0]) == pytest.approx(1, rel=1e-3)
    h1 = math.sqrt(0.5 * (1 + (2 * math.pi / 3) ** 2))
    for periodic in (True, [True, False]):
        assert float(h1_norm(f, (3.0, 1.0), periodic)[0, 0]) == pytest.approx(h1, rel=1e-3)
    open_wave = torch.sin(math.pi * x).expand(1, 1, n)
    h1 = math.sqrt(0.5 * (1 + math.pi**2))
    assert float(h1_norm(open_wave)[0, 0]) == pytest.approx(h1, rel=1e-2)  # half a cell at each end
    other = f + 0.25 * torch.cos(2 * math.pi * x)
    assert relative_l2(other, f).shape == (2, 1)
    assert float(relative_lp(other, f)[0, 0]) == pytest.approx(0.25, rel=1e-3)
    # the difference varies along the other axis
    ratio = 0.25 * math.sqrt((1 + (2 * math.pi) ** 2) / (1 + (2 * math.pi / 3) ** 2))
    assert float(relative_h1(other, f, (3.0, 1.0), True)[0, 0]) == pytest.approx(ratio, rel=1e-3)
    alternating = (1 - 2.0 * (torch.arange(n) % 2)).expand(1, 1, n)
    assert float(h1_norm(alternating, 1.0, True)[0, 0]) > n  # central differences see nothing here


def test_norms_refuse_what_has_no_meaning():
    f = torch.ones(2, 1, 4, 4)
    with pytest.raises(InputError, match="sample 1, channel 0"):
        relative_l2(f, torch.stack([f[0], 0 * f[0]]))
    with pytest.raises(InputError, match="shape of the reference"):
        relative_l2(f, f[:1])
    with pytest.raises(InputError, match="each of 2 axes"):
        h1_norm(f, (1.0, 1.0, 1.0))


def test_the_configuration_and_coarse_grids_are_checked(generator):
    for options, word in (
        ({"n_modes": (4, 0)}, "n_modes"), ({"n_modes": (4,), "hidden_channels": 0}, "hidden"),
        ({"n_modes": (4,), "padding": (0.1, 0.2)}, "padding"), ({"n_modes": (4,), "init": "x"}, "init"),
        ({"n_modes": (4,), "init": "vp"}, "cells"), ({"n_modes": (2,) * 4}, "three axes"),
        ({"n_modes": (4,), "sampling": "nodes"}, "sampling"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            FNOConfig(**options)
    model = FNO(FNOConfig((4, 4), hidden_channels=4), generator=generator)
    with pytest.raises(InputError, match=r"at least \(9, 9\) cells.*Lower n_modes"):
        model(torch.zeros(1, 1, 8, 12))


def test_padding_is_a_share_of_the_domain(generator):
    """An open problem's operator sees the same padded domain on every grid."""
    config = FNOConfig((3,), hidden_channels=6, n_layers=2, padding=(0.25,))
    model = FNO(config, generator=generator).double()

    def at(n):
        x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        return model(torch.exp(-x)[None, None])[0, 0]

    coarse, fine = at(256), at(512)
    error = float((fine.reshape(-1, 2).mean(1) - coarse).detach().norm() / coarse.detach().norm())
    bare = FNO(FNOConfig((3,), hidden_channels=6, n_layers=2), generator=generator).double()
    assert error < 1e-2 and bare(torch.ones(1, 1, 16, dtype=torch.float64)).shape == (1, 1, 16)
