"""Convergent graph solvers: certificate, convergence, gradients, data with known answers, learning."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from rheograd.operators.cgs import (
    CGSConfig,
    ConvergentGraphSolver,
    GraphNetwork,
    Graphs,
    ImplicitGraphNetwork,
    collate,
    policy_accuracy,
    pore_network,
    relative_error,
    train,
    value_graph,
)
from rheograd.operators.layers.mlp import MLP
from rheograd.sim.core.errors import ConvergenceError, InputError, StateError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.implicit import SolveInfo

F64 = torch.float64
SMALL = CGSConfig(5, 3, heads=4, hidden_channels=8)
FORMS = [
    {},
    {"weights": "softmax"},
    {"weights": "signed", "gamma": None},
    {"anderson": 4},
    {"weights": "sink", "gamma": None, "gamma_start": 0.8},
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pores(count=2, size=(15, 20)):
    g = generator()
    return [pore_network(g, size) for _ in range(count)]


def make(kind=ConvergentGraphSolver, **options):
    torch.manual_seed(0)
    return kind(dataclasses.replace(SMALL, **options))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_certificate_iterations_and_the_exact_solution(form):
    model, g = make(**form).double(), collate(pores()).to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)  # far from the initial weights too
        info = SolveInfo()
        model.decoder = torch.nn.Identity()
        z = model(g, info)
        A, b = model.contraction(g)
        rate = float(torch.as_tensor(model.gamma).detach().max())
        bound = SMALL.tol / (1 - rate) * float(b.norm())  # ‖z − z*‖ <= ‖z − T z‖/(1 − γ)
        for head in range(4):
            dense = torch.zeros(len(b), len(b), dtype=F64)
            dense.index_put_((g.target, g.source), A[:, head], accumulate=True)
            exact = torch.linalg.solve(torch.eye(len(b), dtype=F64) - dense, b[:, head])
            torch.testing.assert_close(z[:, head], exact, atol=bound, rtol=0)
    assert model.certificate(g) <= rate + 1e-12 < 1
    assert info.iterations <= math.ceil(math.log(SMALL.tol) / math.log(rate)) + 1


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gradients(form):
    model, g = make(tol=1e-12, **form).double(), collate(pores(1)).to(F64)
    for part in model.modules():
        if isinstance(part, MLP):
            part.activation = torch.tanh  # without kinks
    weights = {k: v.detach() for k, v in model.named_parameters()}

    def f(w):
        return (torch.func.functional_call(model, w, (g,)) - g.y).square().sum()

    assert taylor_test(f, weights).passed()
    model.zero_grad()
    f(dict(model.named_parameters())).backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in model.parameters())


def test_pressures_are_a_fixed_point_of_means_with_a_sink():
    """Logits ln k, no sink inside, nothing but the sink where p is given: p, as γ goes to 1."""
    g = collate(pores()).to(F64)
    fixed, given, k = g.nodes[:, 3] > 0, g.nodes[:, 4], g.edges[:, 2]
    errors = []
    for gamma in (0.99, 0.999, 0.9999):
        model = make(weights="sink", gamma=gamma, heads=1, anderson=8, tol=1e-12).double()
        sink = torch.where(fixed, 1e3, -1e3).double()
        known = (torch.stack([given, sink], 1), torch.log(k)[:, None])
        model.encoder.forward = lambda g, known=known: known
        model.decoder = torch.nn.Identity()
        assert model.certificate(g) <= gamma + 1e-12
        errors.append(float((model(g) - g.y).norm() / g.y.norm()))
    assert errors[2] < 1e-3 and all(a / b > 8 for a, b in zip(errors, errors[1:], strict=False))


def test_graphs_of_a_batch_do_not_see_one_another_and_order_does_not_matter():
    model, parts = make(tol=1e-12).double(), [g.to(F64) for g in pores(3)]
    whole = model(collate(parts))
    alone = torch.cat([model(g) for g in parts])
    torch.testing.assert_close(whole, alone, atol=1e-9, rtol=0)
    g = parts[0]
    order = torch.randperm(len(g.nodes), generator=generator())
    back = torch.argsort(order)
    mixed = dataclasses.replace(
        g, nodes=g.nodes[order], y=g.y[order], source=back[g.source], target=back[g.target]
    )
    torch.testing.assert_close(model(mixed), model(g)[order], atol=1e-9, rtol=0)


def test_information_travels_further_than_layers():
    """A chain: what happens at its end reaches its start only through the fixed point."""
    n = 8
    i = torch.arange(n - 1)
    chain = Graphs(
        nodes=torch.zeros(n, 5, dtype=F64),
        edges=torch.ones(2 * n - 2, 3, dtype=F64),
        source=torch.cat([i, i + 1]),
        target=torch.cat([i + 1, i]),
        y=torch.zeros(n, 1, dtype=F64),
        graph=torch.zeros(n, dtype=torch.long),
    )

    def reach(model):
        model = model.double()
        nodes = chain.nodes.clone().requires_grad_()
        value = model(dataclasses.replace(chain, nodes=nodes))[0, 0]
        return torch.autograd.grad(value, nodes)[0][-1].norm()

    assert reach(make(GraphNetwork, n_layers=2)) == 0
    assert reach(make(tol=1e-12)) > 0 and reach(make(ImplicitGraphNetwork, tol=1e-12)) > 0


def test_pore_network_conserves_mass():
    g = pore_network(generator(), (60, 60)).to(F64)
    k = g.edges[:, 2]
    flow = k * (g.y[g.source, 0] - g.y[g.target, 0])
    net = torch.zeros(60, dtype=F64).index_add_(0, g.target, flow)
    free = g.nodes[:, 3] == 0
    assert free.sum() > 20 and net[free].abs().max() < 1e-4 * flow.abs().max()
    assert abs(float(net[~free].sum())) < 1e-4 * float(flow.abs().max())
    assert 0 <= g.y.min() and g.y.max() <= 1
    again = pore_network(generator(), (60, 60))
    torch.testing.assert_close(again.y.double(), g.y, atol=0, rtol=0)


def test_values_satisfy_bellman_and_their_policy_is_optimal():
    g = value_graph(generator())
    worth = g.edges[:, 0] + 0.9 * g.y[g.source, 0]
    best = torch.full((len(g.y),), -torch.inf).scatter_reduce(0, g.target, worth, "amax")
    torch.testing.assert_close(best, g.y[:, 0], atol=1e-5, rtol=1e-5)
    assert policy_accuracy(g.y, g) == 1 > policy_accuracy(torch.zeros_like(g.y), g)


@pytest.mark.parametrize("kind", [ConvergentGraphSolver, ImplicitGraphNetwork, GraphNetwork])
def test_learns_pressures(kind):
    model, some = make(kind, heads=8, hidden_channels=24), pores(4)
    before = relative_error(model, some)
    losses = train(model, lambda g: pore_network(g, (15, 25)), updates=50, batch=4, lr=1e-2)
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    assert relative_error(model, some) < 0.35 < before


def test_errors():
    g = pores(1)[0]
    with pytest.raises(InputError, match="gamma in"):
        make(gamma=1.0)
    with pytest.raises(InputError, match="gamma_start"):
        make(gamma=None, gamma_start=0.995)
    with pytest.raises(InputError, match="weights"):
        make(weights="plain")
    with pytest.raises(InputError, match="nodes"):
        dataclasses.replace(g, source=g.source[1:])
    with pytest.raises(InputError, match="edges between"):
        dataclasses.replace(g, source=g.source + 100)
    for wrong in ({"y": g.y[:, 0]}, {"source": g.source.float()}):
        with pytest.raises(InputError, match="Graphs"):
            dataclasses.replace(g, **wrong)
    with pytest.raises(InputError, match="one width"):
        collate([g, dataclasses.replace(g, nodes=g.nodes[:, :2])])
    with pytest.raises(InputError, match="5 features of nodes and 3"):
        make()(dataclasses.replace(g, nodes=g.nodes[:, :2]))
    with pytest.raises(InputError, match="graphs.to"):
        make()(g.to(torch.float32 if g.nodes.dtype == torch.float64 else torch.float64))
    two = dataclasses.replace(g, y=g.y.expand(-1, 2))
    with pytest.raises(InputError, match="out_channels"):
        train(make(), lambda _: two, updates=1, batch=1)
    with pytest.raises(StateError, match="targets that are not finite"):
        train(make(), lambda _: dataclasses.replace(g, y=g.y / 0), updates=1, batch=1)
    for name, value in (("tol", 0.0), ("max_iterations", 0), ("anderson", -1)):
        with pytest.raises(InputError, match="tol > 0"):
            make(**{name: value})
    with pytest.raises(InputError, match="at least one"):
        collate([])
    with pytest.raises(InputError, match="discount"):
        value_graph(generator(), discount=1.0)
    with pytest.raises(InputError, match="seconds"):
        train(make(), pore_network, seconds=0.0)
    with pytest.raises(ConvergenceError) as caught:
        make(max_iterations=2)(g)
    assert caught.value.iterations == 2 and caught.value.residual > caught.value.tol
