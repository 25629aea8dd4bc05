"""Stream function and pressure on a MAC grid: exact solutions, order, a root, derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.grid.pdes.mac_flow import MacFlow2D

F64 = torch.float64


def test_velocity_has_no_divergence(generator):
    flow = MacFlow2D((12, 10), 0.1, 0.05, periodic=True)
    u = torch.randn(3, 2, 12, 10, generator=generator, dtype=F64)
    assert float(flow.divergence(flow.velocity(u)).abs().max()) < 1e-11


@pytest.mark.parametrize("scheme", ["explicit", "imex", "implicit"])
def test_flow_between_plates_is_exact(scheme):
    """v_x = G z (H − z) / 2η, p = −G x: the stencils differentiate a parabola without error."""
    n, m, h, eta, G = 12, 14, 0.1, 0.3, 2.0
    flow = MacFlow2D((n, m), h, 0.05, eta=eta, scheme=scheme)
    z = (torch.arange(m, dtype=F64) + 0.5) * h
    v = G / (2 * eta) * z * (m * h - z)
    a = torch.cat((torch.zeros(1, dtype=F64), v.cumsum(0)[:-1])) * h
    x = (torch.arange(n, dtype=F64) + 0.5) * h
    u = torch.stack((a.expand(n, m), (-G * x)[:, None].expand(n, m)))[None]
    _, context = flow.channel(torch.ones(1, dtype=F64))
    context[:, 1] = v * context[:, 0]
    R, mask = flow.residual(u, u, context)
    assert mask.sum() > 4 * n and float((R * mask).abs().max()) < 1e-11


def taylor_green(n: int, dt: float, scheme: str = "imex") -> float:
    """Largest momentum defect of the decaying vortices a = A sin kx sin kz e^{−2νk²t}."""
    L, eta, A, k = 1.0, 0.05, 0.1, 2 * math.pi
    h = L / n
    flow = MacFlow2D((n, n), h, dt, eta=eta, scheme=scheme, periodic=True)
    corner = torch.arange(n, dtype=F64) * h
    centre = corner + 0.5 * h
    states = []
    for t in (0.0, dt):
        fade = math.exp(-2 * eta * k**2 * t)
        a = A * fade * torch.sin(k * corner)[:, None] * torch.sin(k * corner)
        when = math.exp(-4 * eta * k**2 * 0.5 * dt)  # ∇p' stands for the middle of the step
        p = (
            (A * k) ** 2
            / 4
            * when
            * (torch.cos(2 * k * centre)[:, None] + torch.cos(2 * k * centre))
        )
        states.append(torch.stack((a, p))[None])
    R, mask = flow.residual(*states, torch.zeros(1, 3, n, n, dtype=F64))
    assert mask[:, :2].min() == 1 and mask[:, 2:].max() == 0
    return float(R[:, :2].abs().max())


def test_second_order_in_space_and_time():
    defects = [taylor_green(n, 0.4 / n) for n in (16, 32, 64, 128)]
    rates = [math.log2(a / b) for a, b in zip(defects, defects[1:], strict=False)]
    assert min(rates[1:]) > 1.8, rates


def scene(generator):
    flow = MacFlow2D((14, 12), 0.1, 0.05, eta=0.02)
    speed = torch.tensor([0.8, 1.2], dtype=F64)
    start, context = flow.channel(speed, (0.6, 0.6), 0.21, spin=torch.tensor([0.0, 2.0], dtype=F64))
    return flow, start, context


def test_a_step_with_zero_defect_exists_past_a_cylinder(generator):
    """Gauss–Newton on stream function and pressure: as many conditions as the flow can meet."""
    flow, start, context = scene(generator)
    start, context = start[1:], context[1:]
    shape = start.shape

    def defect(x):
        R, mask = flow.residual(start, x.view(shape), context)
        return (R * mask).flatten()

    x = start.flatten().clone()
    sizes = [float(defect(x).norm())]
    for _ in range(6):
        J = torch.func.jacrev(defect)(x)
        x = (
            x
            - torch.linalg.lstsq(J, defect(x)[:, None], driver="gelsd", rcond=1e-12).solution[:, 0]
        )
        sizes.append(float(defect(x).norm()))
    assert sizes[0] > 1.0 and sizes[-1] < 1e-9 * sizes[0]
    v = flow.velocity(x.view(shape))
    body = (context[:, 0] > 0.5)[..., 4:8, 4:8]
    off = (v - flow.faces(context)[2])[..., 4:8, 4:8]
    assert float((off * body).abs().max()) < 1e-9  # the cylinder turns as prescribed


def test_bodies_hold_faces_and_fluid_the_rest(generator):
    flow, start, context = scene(generator)
    fluid, wall, v_d = flow.faces(context)
    assert float((fluid * wall).max()) == 0
    assert torch.allclose((fluid * v_d), torch.zeros_like(v_d))
    inner = (fluid + wall)[..., 1:-1, 1:-1]
    assert float(inner.min()) == 1
    v = flow.velocity(start)
    assert torch.allclose(v[:, 0, :, :-1], torch.tensor([0.8, 1.2], dtype=F64).view(2, 1, 1))


def test_the_defect_has_derivatives(generator):
    flow, start, context = scene(generator)
    w = torch.randn(2, 4, 14, 12, generator=generator, dtype=F64)

    def value(x):
        _, context = flow.channel(x["speed"], (0.6, 0.6), 0.21, x["spin"])
        R, mask = flow.residual(x["u0"], x["u1"], context)
        return (R * mask * w).square().sum()

    noise = [torch.randn(start.shape, generator=generator, dtype=F64) for _ in range(2)]
    point = {"u0": start + 0.1 * noise[0], "u1": start + 0.1 * noise[1]}
    point |= {"speed": torch.tensor([0.8, 1.2], dtype=F64), "spin": torch.ones(2, dtype=F64)}
    assert taylor_test(value, point).passed()


def test_refusals():
    flow = MacFlow2D((12, 10), 0.1, 0.05)
    u, context = torch.zeros(1, 2, 12, 10), torch.zeros(1, 3, 12, 10)
    cases = [
        (lambda: MacFlow2D((4, 10), 0.1, 0.05), "at least 6 cells"),
        (lambda: MacFlow2D((12, 10), 0.0, 0.05), "dx > 0"),
        (lambda: MacFlow2D((12, 10), 0.1, 0.05, scheme="leapfrog"), "scheme out of"),
        (lambda: flow.residual(u, u, context), "2 prescribed cells at every side"),
        (lambda: flow.residual(u, u, context[:, :2]), r"context \(B, 3, 12, 10\)"),
        (lambda: flow.residual(u, u[:, :1], context), r"u1 \(B, 2, 12, 10\)"),
    ]
    for call, text in cases:
        with pytest.raises(InputError, match=text):
            call()
