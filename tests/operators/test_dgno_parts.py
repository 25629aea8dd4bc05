"""Parts of the latent generative operator: test functions, jets, MultiONet, interpolation, priors."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.operators.dgno import (
    TEST_FUNCTIONS,
    Bounded,
    CubePrior,
    MultiONet,
    NormalPrior,
    RealNVP,
    TestFunctions,
    ZukoPrior,
    at_points,
    fit_prior,
    sine_mollifier,
    wendland,
)
from rheograd.operators.dgno.jets import ACTIVATIONS, activate, jet_product, jet_rows, pairs
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.grid.pdes import Grid


def double(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def jet_by_autograd(f, x, order):
    """Jet (S, n) of a scalar function at points (n, D)."""
    x = x.clone().requires_grad_()
    rows = [f(x)]
    slope = torch.autograd.grad(rows[0].sum(), x, create_graph=True)[0]
    D = x.shape[1]
    if order > 0:
        rows += [slope[:, i] for i in range(D)]
    if order > 1:
        second = [torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0] for i in range(D)]
        rows += [second[i][:, j] for i, j in pairs(D)]
    return torch.stack(rows).detach()


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_wendland_has_its_gradient_and_a_flat_rim(dim, generator):
    """A1."""
    y = double(200, dim, generator=generator) * 0.4
    y = y[y.norm(dim=1) < 1].requires_grad_()
    phi, slope = wendland(y)
    assert torch.allclose(torch.autograd.grad(phi.sum(), y)[0], slope, rtol=0, atol=1e-12)
    assert float(wendland(torch.zeros(1, dim, dtype=torch.float64))[0]) == 1.0
    r = torch.tensor([[1.0 - 1e-4] + [0.0] * (dim - 1)], dtype=torch.float64, requires_grad=True)
    phi, slope = wendland(r)
    second = torch.autograd.grad(slope[0, 0], r)[0][0, 0]
    rim = [abs(float(v.detach())) for v in (phi, slope[0, 0], second)]
    assert rim[0] < 1e-14 and rim[1] < 1e-10 and rim[2] < 1e-6
    outside = wendland(torch.full((1, dim), 1.1, dtype=torch.float64))
    assert float(outside[0]) == 0 and not bool(outside[1].any())


@pytest.mark.parametrize("kind", list(TEST_FUNCTIONS))
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_functions_have_their_gradients(kind, dim, generator):
    """Against autograd to 1e-12, also at the centre; nothing beyond the rim."""
    f = TEST_FUNCTIONS[kind]
    y = double(300, dim, generator=generator) * 0.5
    y[0] = 0
    y.requires_grad_()
    phi, slope = f(y)
    assert torch.allclose(torch.autograd.grad(phi.sum(), y)[0], slope, rtol=0, atol=1e-12)
    assert float(phi[0].detach()) == 1.0 and not bool(slope[0].any())
    out = y.detach().norm(dim=1) >= 1
    assert bool(out.any()) and not bool(phi[out].any()) and not bool(slope[out].any())
    weight = double(300, dim, generator=generator)

    def g(z):
        return (f(z)[1] * weight).sum()

    inner = y.detach()[(y.detach().norm(dim=1) < 0.9)][1:]
    weight = weight[: len(inner)]
    assert taylor_test(g, inner, eps0=1e-4, generator=generator).passed()


@pytest.mark.parametrize("kind", list(TEST_FUNCTIONS))
def test_every_corrected_function_has_a_residual_of_an_exact_solution_near_zero(kind, generator):
    """A2 for all functions, m = 4 and 7; without the correction the bias is a thousand times that."""

    def residual(tests):
        P = tests.sample(300, (0, 0), (1, 1), 1e-2, generator)
        x, y = (math.pi * P.points).T
        s = [math.pi * x.cos() * (2 * y).sin(), 2 * math.pi * x.sin() * (2 * y).cos()]
        f = 5 * math.pi**2 * x.sin() * (2 * y).sin()
        return float((P.against(s) - P.average(f)).abs().max()) / (5 * math.pi**2)

    for points in (4, 7):
        assert residual(TestFunctions(2, points, kind=kind)) < 1.3e-4
    assert residual(TestFunctions(2, 4, corrected=False, kind=kind)) > 0.05
    with pytest.raises(InputError, match="kind"):
        TestFunctions(2, kind="hat")


@pytest.mark.parametrize("kind", list(TEST_FUNCTIONS))
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("ends", [False, True])
def test_rule_differentiates_affine_fluxes(axes, ends, kind):
    """A2: Σ g ⊗ y = −1/R, and nothing of constants; the bias of the published rule is 1.2 %."""
    tests = TestFunctions(axes, 7, ends=ends, kind=kind)
    moment = tests.gradient.T @ tests.y
    assert torch.allclose(moment, -torch.eye(axes, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(tests.gradient.sum(0).abs().max()) < 1e-12
    assert abs(float(tests.weight.sum()) - 1) < 1e-12
    raw = TestFunctions(axes, 7, corrected=False, ends=ends)
    bias = abs(float((raw.gradient[:, 0] * raw.y[:, 0]).sum()) + 1)
    if axes == 2 and ends and kind == "wendland":
        assert len(raw.y) == 25 and 0.011 < bias < 0.014


def test_residual_of_the_exact_solution_vanishes(generator):
    """A2 in single precision, and second order in the radius in double."""

    def flux(x):  # −∇·s of s = ∇u, u = sin πx sin 2πy
        s = [
            math.pi * torch.cos(math.pi * x[:, 0]) * torch.sin(2 * math.pi * x[:, 1]),
            2 * math.pi * torch.sin(math.pi * x[:, 0]) * torch.cos(2 * math.pi * x[:, 1]),
        ]
        f = 5 * math.pi**2 * torch.sin(math.pi * x[:, 0]) * torch.sin(2 * math.pi * x[:, 1])
        return s, f

    tests, size = TestFunctions(2, 7), 5 * math.pi**2
    P = tests.sample(300, (0, 0), (1, 1), 1e-2, generator)
    s, f = flux(P.points)
    assert float((P.against(s) - P.average(f)).abs().max()) < 1e-4 * size
    biased = TestFunctions(2, 7, corrected=False, ends=True)
    P = biased.sample(300, (0, 0), (1, 1), 1e-2, generator)
    s, f = flux(P.points)
    assert float((P.against(s) - P.average(f)).abs().max()) > 5e-3 * size
    off = []
    for R in (0.04, 0.02, 0.01):
        g = torch.Generator().manual_seed(0)
        P = tests.sample(100, (0, 0), (1, 1), R, g, dtype=torch.float64)
        s, f = flux(P.points)
        off.append(float((P.against(s) - P.average(f)).square().mean().sqrt()))
    # The rule's own error of the second moment, times R², is what is left.
    assert 1.8 < math.log2(off[0] / off[1]) and 1.8 < math.log2(off[1] / off[2])


def test_particles_stay_in_the_box_and_out_of_holes(generator):
    tests = TestFunctions(2, 5)

    def distance(x):
        return (x - 0.5).norm(dim=1) - 0.2

    P = tests.sample(200, (0, 0), (1, 1), (1e-3, 0.1), generator, distance)
    x = P.points
    assert P.x.shape == (200, 21, 2) and float(x.min()) >= 0 and float(x.max()) <= 1
    assert float(distance(x).min()) > 0
    in_time = TestFunctions(1, 4).sample(50, (-1, 0), (1, 1), 0.1, generator)
    assert float(in_time.x[..., 1].std(1).abs().max()) < 1e-7
    assert in_time.gradient.shape == (50, 4, 1)
    with pytest.raises(InputError, match="radii"):
        tests.sample(5, (0, 0), (1, 1), 0.6)
    with pytest.raises(InputError, match="room"):
        tests.sample(5, (0, 0), (1, 1), 0.1, generator, lambda x: -torch.ones(len(x)))


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_and_their_derivatives(name, generator):
    x = double(40, 2, generator=generator)
    W = double(2, generator=generator)

    def f(x):
        return ACTIVATIONS[name]((x @ W).sin(), 0)[0]

    inner = jet_by_autograd(lambda x: (x @ W).sin(), x, 2)
    assert torch.allclose(activate(name, inner, 2, 2), jet_by_autograd(f, x, 2), atol=1e-10)
    product = jet_product(inner, inner, 2, 2)
    assert torch.allclose(product, jet_by_autograd(lambda x: (x @ W).sin() ** 2, x, 2), atol=1e-10)


def test_sine_mollifier(generator):
    x = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    expected = jet_by_autograd(lambda x: torch.sin(math.pi * x).prod(-1), x, 2)
    assert torch.allclose(sine_mollifier(x, 2), expected, atol=1e-10)
    assert float(sine_mollifier(torch.tensor([[1.0, 0.3]]), 0).abs().max()) < 1e-6


def net(kind="multi", dim=2, outputs=1, generator=None, **options):
    made = MultiONet(dim, 5, 8, 4, outputs=outputs, kind=kind, generator=generator, **options)
    if kind == "multi":
        with torch.no_grad():
            made.weights.copy_(torch.randn(made.weights.shape, generator=generator))
            made.constant.fill_(0.3)
    return made.double()


@pytest.mark.parametrize("kind", ["multi", "deep", "entries"])
def test_jets_are_derivatives_and_layouts_agree(kind, generator):
    """A3: shared points give what points per sample give."""
    m = net(kind, outputs=2, generator=generator, scale=1.7)
    beta, x = double(3, 5, generator=generator), double(11, 2, generator=generator)
    jets = m.jets(beta, x, 2)
    assert jets.shape == (jet_rows(2, 2), 3, 2, 11)
    for b in range(3):
        for c in range(2):
            expected = jet_by_autograd(lambda x, b=b, c=c: m(beta[b : b + 1], x)[0, c], x, 2)
            assert torch.allclose(jets[:, b, c], expected, atol=1e-9)
    own = m.jets(beta, x.expand(3, -1, -1), 2)
    assert torch.allclose(own, jets, atol=1e-12)
    assert torch.allclose(m.jets(beta, x, 1), jets[:3]) and torch.allclose(m(beta, x), jets[0])


def test_the_published_sum():
    """(1/ℓ) Σ w_k ⟨b_k, t_k⟩ + c, written out."""
    g = torch.Generator().manual_seed(3)
    m = net(generator=g, sum_layers=2)
    beta, x = double(2, 5, generator=g), double(4, 2, generator=g)
    b, t, total = beta, x, m.constant
    for k, (branch, trunk) in enumerate(zip(m.branches[0], m.trunk, strict=True)):
        b, t = branch(b), trunk(t)
        b, t = (torch.tanh(torch.sin(math.pi * (z + 1))) + z for z in (b, t))
        if k >= 2:
            total = total + m.weights[0, k - 2] / 2 * (b @ t.T)
    assert torch.allclose(m(beta, x)[:, 0], total, atol=1e-12)
    fresh = MultiONet(2, 5, 8, 4, generator=g)
    assert not bool(fresh(beta.float(), x.float()).any())
    count = sum(p.numel() for p in fresh.parameters())
    deep = sum(p.numel() for p in MultiONet(2, 5, 8, 4, kind="deep").parameters())
    assert count == deep + 3


def test_the_published_sum_over_entries():
    """Entries one by one through the branch, (B, n, dβ) products, a linear layer: in that order."""
    g = torch.Generator().manual_seed(4)
    m = net("entries", outputs=3, generator=g, sum_layers=2, scale=1.5)
    beta, x = double(2, 5, generator=g), double(4, 2, generator=g)
    b, t, total = beta[..., None], x, 0
    assert len(m.branches) == 1
    for k, (branch, trunk) in enumerate(zip(m.branches[0], m.trunk, strict=True)):
        b, t = branch(b), trunk(t)
        b, t = (torch.tanh(torch.sin(math.pi * (z + 1))) + z for z in (b, t))
        if k >= 2:
            total = total + torch.einsum("beh,nh->bne", b, t) / 2
    expected = 1.5 * torch.nn.functional.linear(total, m.mix, m.constant)
    assert torch.allclose(m(beta, x), expected.mT, atol=1e-12)
    # The same set of entries in another order gives another field only by M.
    order = torch.tensor([4, 2, 0, 1, 3])
    with torch.no_grad():
        m.mix.copy_(m.mix.mean(1, keepdim=True).expand(-1, 5))
    assert torch.allclose(m(beta, x), m(beta[:, order], x), atol=1e-12)


@pytest.mark.parametrize("kind", ["multi", "entries"])
def test_gradients_of_jets(kind, generator):
    m = net(kind, generator=generator)
    weight = double(jet_rows(2, 2), 2, 1, 5, generator=generator)

    def f(tree):
        return (m.jets(tree["beta"], tree["x"], 2) * weight).sum()

    tree = {"beta": double(2, 5, generator=generator), "x": double(5, 2, generator=generator)}
    assert taylor_test(f, tree, eps0=1e-3, generator=generator).passed()


def test_wrong_inputs_are_named():
    m = MultiONet(2, 5, 8, 4)
    with pytest.raises(InputError, match="codes"):
        m(torch.zeros(2, 4), torch.zeros(3, 2))
    with pytest.raises(InputError, match="points"):
        m(torch.zeros(2, 5), torch.zeros(3, 1))
    with pytest.raises(InputError, match="sum_layers"):
        MultiONet(2, 5, 8, 4, sum_layers=4)
    with pytest.raises(InputError, match="kind"):
        MultiONet(2, 5, kind="other")


def test_values_at_points(generator):
    """Cells as they are; cubics of cosines to third order, also at walls."""
    off = []
    for n in (16, 32):
        grid = Grid((n, n), sides="neumann")
        x = grid.points(torch.zeros((), dtype=torch.float64))
        a = (torch.cos(math.pi * x[..., 0]) * torch.cos(2 * math.pi * x[..., 1]))[None, None]
        at = torch.rand(300, 2, generator=generator, dtype=torch.float64)
        exact = torch.cos(math.pi * at[:, 0]) * torch.cos(2 * math.pi * at[:, 1])
        off.append(float((at_points(a, grid, at, True)[0] - exact).abs().max()))
        centres = x.reshape(-1, 2) + 0.4 / n
        assert torch.equal(at_points(a, grid, centres, False)[0], a.flatten())
    assert math.log2(off[0] / off[1]) > 2.5 and off[1] < 2e-3


@pytest.mark.parametrize("kind", ["cube", "normal", "nvp", "bounded", "zuko"])
def test_priors_are_maps_with_densities(kind, generator):
    """There and back, and the determinant is that of the Jacobian."""
    d = 4
    if kind == "zuko":
        pytest.importorskip("zuko")
        torch.manual_seed(0)
        prior = ZukoPrior(d, transforms=2, hidden_features=(16,)).double()
    elif kind == "cube":
        prior = CubePrior(d)
    elif kind == "normal":
        prior = NormalPrior(d).double().fit(double(50, d, generator=generator))
    else:
        flow = RealNVP(d, 4, 16, generator).double()
        with torch.no_grad():
            for p in flow.parameters():
                p.add_(0.1 * double(*p.shape, generator=generator))
        prior = Bounded(flow) if kind == "bounded" else flow
    z = 0.5 * double(6, d, generator=generator)
    beta = prior.code(z)
    back, log_det = prior.noise(beta)
    assert torch.allclose(back, z, atol=1e-5 if kind == "zuko" else 1e-9)
    for i in range(6):
        J = torch.autograd.functional.jacobian(lambda z: prior.code(z[None])[0], z[i])
        assert abs(float((torch.linalg.slogdet(J)[1] + log_det[i]).detach())) < 1e-6
    normal = -0.5 * z.square().sum(1) - 0.5 * d * math.log(2 * math.pi)
    assert torch.allclose(prior.log_prob(beta), normal + log_det, atol=1e-5)


def test_the_cube_ends_at_its_edges(generator):
    """−dβ log 2 inside, edges included, −∞ outside; the slope of what goes through it is finite."""
    prior = CubePrior(3)
    beta = torch.tensor([[0.3, -0.9, 0.0], [1.0, -1.0, 0.5], [1.01, 0.0, 0.0], [0.0, 0.0, -9.0]])
    beta.requires_grad_()
    inside = -3 * math.log(2)
    expected = torch.tensor([inside, inside, -math.inf, -math.inf])
    assert torch.equal(prior.log_prob(beta), expected)
    z = torch.randn(50, 3, generator=generator)
    assert torch.equal(prior.log_prob(prior.code(3 * z)), torch.full((50,), inside))


def test_a_flow_learns_a_density(generator):
    """A ring, which no normal distribution is."""
    angle = 2 * math.pi * torch.rand(800, generator=generator)
    beta = torch.stack([angle.cos(), angle.sin()], 1) * (
        1 + 0.1 * torch.randn(800, 1, generator=generator)
    )
    flow = RealNVP(2, 6, 32, generator)
    seen = fit_prior(flow, beta, 250, 200, 3e-3, generator)
    normal = NormalPrior(2).fit(beta)
    gain = float((flow.log_prob(beta) - normal.log_prob(beta)).mean().detach())
    assert seen[-1] < seen[0] - 0.3 and gain > 0.3
    drawn = flow.sample(500, generator)
    assert abs(float(drawn.norm(dim=1).mean()) - 1) < 0.15
