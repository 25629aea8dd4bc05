"""Rows of `repro_secondary.py` on implicit layers and graphs."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import implicit_examples as examples
import torch
from results import peak_memory, reset_peak
from rheograd.operators import cgs
from rheograd.sim.core.implicit import SolveInfo
from rheograd.sim.core.implicit_layers import implicit_fixed_point

Row = Callable[[], dict[str, Any]]
F64 = torch.float64


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """A value and the CPU seconds it took, the second time."""
    call()
    start = time.process_time()
    return call(), time.process_time() - start


def ridge() -> dict[str, Any]:
    data, lam = examples.ridge_data(60, 20), examples.normal(20).requires_grad_()
    found, seconds = timed(
        lambda: torch.autograd.grad(examples.ridge_loss(lam, data, tol=1e-10), lam)[0]
    )
    exact = examples.ridge_closed_form(lam, data).detach()
    return {"error": float((found - exact).norm() / exact.norm()), "seconds": seconds}


def svm(iterations: int | None) -> dict[str, Any]:
    """Hyper-gradient of the dual, by the layer or on the tape; its error against differences."""
    data, theta = examples.svm_data(40, 80), torch.tensor(1e3, dtype=F64)
    options = {"tol": 1e-11}
    h = 0.1
    ends = [examples.svm_loss(theta + s * h, data, **options) for s in (1, -1)]
    exact = (ends[0] - ends[1]) / (2 * h)

    def gradient() -> torch.Tensor:
        t = theta.clone().requires_grad_()
        if iterations is None:
            loss = examples.svm_loss(t, data, **options)
        else:
            loss = examples.svm_unrolled(t, data, iterations)
        return torch.autograd.grad(loss, t)[0]

    found, seconds = timed(gradient)
    return {"error": float(((found - exact) / exact).abs()), "seconds": seconds}


def memory(iterations: int, tape: bool) -> dict[str, Any]:
    """`peak` in a process of its own, where nothing was allocated before."""
    code = f"import secondary_rows; print(secondary_rows.peak({iterations}, {tape}))"
    folder = Path(__file__).parent
    run = [sys.executable, "-c", code]
    return {"MiB": float(subprocess.run(run, cwd=folder, check=True, capture_output=True).stdout)}


def peak(iterations: int, tape: bool) -> float:
    """Peak memory [MiB] of the process beyond that of 3 steps, of z ← tanh(W z + x) and its gradient."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    W = 0.9 * torch.linalg.qr(torch.randn(128, 128)).Q
    W.requires_grad_()
    x = torch.randn(256, 128)

    def T(z: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z @ W.T + x)

    def run(count: int) -> torch.Tensor:
        def steps(T: Callable, z: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
            for _ in range(count):
                z = T(z, W)
            return z

        z = torch.zeros_like(x)
        options = {"solver": steps, "adjoint": "anderson", "throw": False}
        z = steps(T, z, W) if tape else implicit_fixed_point(T, z, W, **options)
        return torch.autograd.grad(z.square().sum(), W)[0]

    run(3)
    reset_peak()
    before = peak_memory()
    run(iterations)
    return peak_memory() - before


def equilibrium(iterations: int | None) -> dict[str, Any]:
    torch.manual_seed(0)
    model = examples.Equilibrium(32, iterations)
    start = time.process_time()
    found = examples.fit_spirals(model, updates=300)
    return {**found, "seconds": time.process_time() - start}


def implicit_rows() -> dict[str, Row]:
    rows: dict[str, Row] = {"implicit ridge": ridge}
    rows["implicit svm, layer"] = functools.partial(svm, None)
    for n in (10, 100, 1000):
        rows[f"implicit svm, {n} steps on the tape"] = functools.partial(svm, n)
    for n in (10, 100, 1000):
        rows[f"implicit memory {n} steps, layer"] = functools.partial(memory, n, False)
        rows[f"implicit memory {n} steps, on the tape"] = functools.partial(memory, n, True)
    rows["implicit distillation"] = lambda: examples.distill(60)
    rows["implicit equilibrium"] = functools.partial(equilibrium, None)
    rows["implicit equilibrium, 30 steps on the tape"] = functools.partial(equilibrium, 30)
    return rows


def config(kind: str, **options: Any) -> cgs.CGSConfig:
    if kind == "pores":
        return cgs.CGSConfig(5, 3, **options)
    return cgs.CGSConfig(1, 1, **{"heads": 32, "n_layers": 2, **options})


def graphs(kind: str, network: Callable, seconds: float, **options: Any) -> dict[str, Any]:
    """Train for so many CPU seconds on graphs drawn on the way; errors on 50 others, and larger ones."""
    torch.manual_seed(0)
    model = network(config(kind, **options))
    draw = cgs.pore_network if kind == "pores" else cgs.value_graph
    rate = {"pores": 1e-2, "values": 2e-3}[kind]
    losses = cgs.train(model, draw, updates=100000, seconds=seconds, batch=8, lr=rate)
    generator = torch.Generator().manual_seed(1000)
    others = [draw(generator) for _ in range(50)]
    free = kind == "pores"
    row = {
        "relative_l2": cgs.relative_error(model, others, free=free),
        "updates": len(losses),
        "weights": sum(p.numel() for p in model.parameters()),
    }
    sizes = (400, 400) if free else (100, 100)
    larger = [draw(generator, sizes) for _ in range(10)]
    row["relative_l2, larger graphs"] = cgs.relative_error(model, larger, free=free)
    if free:
        linear = cgs.relative_error(lambda g: 1 - g.nodes[:, :1], others, free=True)
        row["relative_l2 of 1 - x"] = linear
    else:
        hits = [cgs.policy_accuracy(model(g).detach(), g) for g in others]
        row["policy_accuracy"] = sum(hits) / len(hits)
        nothing = [cgs.policy_accuracy(torch.zeros_like(g.y), g) for g in others]
        row["policy_accuracy of rewards"] = sum(nothing) / len(nothing)
    if not isinstance(model, cgs.GraphNetwork):
        info = SolveInfo()
        whole = cgs.collate(others)
        first = model(whole, info).detach()
        row |= {"iterations": info.iterations}
        if isinstance(model, cgs.ConvergentGraphSolver):
            row["certificate"] = model.certificate(whole)
            # Twice the digits: what a network whose answer depends on its iterations could not take.
            object.__setattr__(model.config, "tol", model.config.tol**2)
            doubled = model.double()(whole.to(torch.float64)).detach()
            row["change with tol squared"] = float((doubled - first).norm() / first.norm())
    return row


def graph_rows() -> dict[str, Row]:
    """15 s each, and as "long …" 60 s."""
    rows: dict[str, Row] = {}
    solver, free = cgs.ConvergentGraphSolver, {"gamma": None, "weights": "signed"}
    sink = {"gamma": None, "weights": "sink", "gamma_start": 0.95, "anderson": 8, "tol": 1e-4}
    for kind in ("pores", "values"):
        for start, seconds in (("", 15.0), ("long ", 60.0)):
            row = functools.partial(functools.partial, graphs, kind)
            rows |= {
                f"{start}{kind} CGS": row(solver, seconds),
                f"{start}{kind} CGS, signed, γ learned": row(solver, seconds, **free),
                f"{start}{kind} CGS, means with a sink (ours)": row(solver, seconds, **sink),
                f"{start}{kind} implicit network": row(cgs.ImplicitGraphNetwork, seconds),
                f"{start}{kind} network of 5 layers": row(cgs.GraphNetwork, seconds, n_layers=5),
            }
    return rows
