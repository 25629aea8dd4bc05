"""SOAP: where it is Adam, how it turns with the weights, what it gains, and that runs continue."""

from __future__ import annotations

import pytest
import torch
from rheograd.operators.train import Soap, Trainer, TrainerConfig
from rheograd.sim.core.errors import InputError
from torch import nn
from trainer_runs import data, line, plain

F64 = torch.float64


def descend(W, loss, make, count):
    W = W.clone().requires_grad_()
    optimizer = make([W])
    for _ in range(count):
        optimizer.zero_grad()
        loss(W).backward()
        optimizer.step()
    return W.detach()


def turn(n, seed):
    Q = torch.randn(n, n, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(Q)[0]


def mixed(m, n, condition=1e4):
    """½ |A W B|² with curvatures over many orders, in bases of their own."""
    sizes = [
        torch.logspace(0, -0.25 * torch.tensor(condition).log10(), k, dtype=F64) for k in (m, n)
    ]
    A, B = (turn(k, k) * size @ turn(k, k + 1) for k, size in zip((m, n), sizes, strict=True))
    start = torch.randn(m, n, dtype=F64, generator=torch.Generator().manual_seed(0))
    return start, lambda W: 0.5 * (A @ W @ B).square().sum()


def test_vectors_get_adam():
    start = torch.linspace(-1, 2, 5, dtype=F64)
    curvature = torch.logspace(0, 3, 5, dtype=F64)

    def loss(w):
        return (curvature * w.square()).sum()

    results = [
        descend(start, loss, lambda p, make=make: make(p, lr=0.02, betas=(0.9, 0.99)), 30)
        for make in (Soap, torch.optim.Adam)
    ]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_steps_turn_with_the_weights():
    start, loss = mixed(5, 5)  # a gradient of full rank leaves no choice of a basis
    U, V = turn(5, 11), turn(5, 12)

    def make(p):
        return Soap(p, lr=0.02, every=3)

    plainly = descend(start, loss, make, 25)
    turned = descend(U @ start @ V.mT, lambda W: loss(U.mT @ W @ V), make, 25)
    torch.testing.assert_close(U.mT @ turned @ V, plainly, rtol=0, atol=1e-6)
    gone = descend(U @ start @ V.mT, lambda W: loss(U.mT @ W @ V), torch.optim.Adam, 25)
    other = descend(start, loss, torch.optim.Adam, 25)
    assert (U.mT @ gone @ V - other).abs().max() > 1e-3  # Adam's do not


def test_mixed_curvature_is_where_it_gains():
    start, loss = mixed(12, 8, 1e6)
    found = {}
    for name, make in (("soap", Soap), ("adam", torch.optim.Adam)):
        found[name] = min(
            float(loss(descend(start, loss, lambda p, make=make, lr=lr: make(p, lr=lr), 300)))
            for lr in (3e-3, 1e-2, 3e-2)
        )
    assert found["soap"] < 0.5 * found["adam"]


def test_other_shapes():
    g = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(s, generator=g, dtype=t).requires_grad_()
        for s, t in (((), F64), (3, F64), (3, F64), ((4, 3, 3, 3), F64), ((4, 600), torch.float32),
                     ((3, 2), torch.complex128), ((1, 5), F64))
    ]  # fmt: skip
    idle = torch.ones(3, dtype=F64, requires_grad=True)
    optimizer = Soap([*weights, idle], lr=1e-2, weight_decay=0.1)

    def total():
        return sum(w.abs().square().sum().double() for w in weights)

    first = float(total().detach())
    for _ in range(40):
        optimizer.zero_grad()
        total().backward()
        optimizer.step()
    assert float(total().detach()) < 0.8 * first
    assert all(torch.view_as_real(w).isfinite().all() if w.is_complex() else w.isfinite().all()
               for w in weights)  # fmt: skip
    torch.testing.assert_close(idle.detach(), torch.full((3,), 0.999**40, dtype=F64))


def test_a_run_that_goes_on(tmp_path):
    results = []
    for folder in (None, tmp_path):
        model = line(dtype=F64)
        for updates in (8, 17) if folder else (17,):
            config = TrainerConfig(updates=updates, optimizer="soap", lr=0.05)
            Trainer(model, plain, config, folder).fit(data(5, dtype=F64))
        results.append(model.state_dict())
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name])


@pytest.mark.parametrize("wrong", [{"every": 0}, {"betas": (1.0, 0.9)}, {"lr": -1.0}])
def test_refusals(wrong):
    with pytest.raises(InputError, match="Soap"):
        Soap(nn.Linear(2, 2).parameters(), **wrong)
