"""Steps on a MAC grid are roots of the residual; forces; derivatives; refusals."""

from __future__ import annotations

import math

import pytest
import torch
from rheograd.sim.core.errors import ConvergenceError, InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.rollout import rollout
from rheograd.sim.grid.pdes import MacFlow2D, MacFlowSolver, body_force
from rheograd.sim.grid.pdes.base import FieldControl

F64 = torch.float64


def scene(spin=1.0, cells=(20, 16), dtype=F64, **options):
    flow = MacFlow2D(cells, 0.1, 0.03, eta=0.02, **options)
    speed = torch.tensor([0.8, 1.2], dtype=dtype)
    turn = torch.tensor([0.0, spin], dtype=dtype)
    start, context = flow.channel(speed, (0.75, 0.8), 0.21, spin=turn)
    return flow, MacFlowSolver(flow), start, context


@pytest.mark.parametrize("dtype, bound", [(F64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize("scheme", ["explicit", "imex", "implicit"])
def test_steps_have_no_residual(scheme, dtype, bound):
    flow, solver, start, context = scene(dtype=dtype, scheme=scheme)
    run = rollout(solver, solver.initial_state(start), 4, {"forcing": context})
    before, after = run.states[-2].u, run.states[-1].u
    R, mask = flow.residual(before, after, context)
    rate = (flow.velocity(after) - flow.velocity(before)).abs().max() / flow.dt
    assert float((R * mask).abs().max()) < bound * (1 + float(rate))
    assert float(flow.divergence(flow.velocity(after))[:, :-1, :-1].abs().max()) < 1e-4
    assert abs(run.final.t - 4 * flow.dt) < 1e-9


def test_a_stream_without_bodies_stays():
    flow = MacFlow2D((16, 12), 0.1, 0.05)
    solver = MacFlowSolver(flow)
    start, context = flow.channel(torch.tensor([0.7], dtype=F64))
    after = solver.step(solver.initial_state(start), None, {"forcing": context})
    assert torch.allclose(after.u[:, 0], start[:, 0], atol=1e-12)
    assert float(after.u[:, 1].abs().max()) < 1e-10


def test_flow_between_plates_stays():
    """v_x = z (H − z), p = −2 η x: the scheme differentiates a parabola without error."""
    n, m, h = 16, 14, 0.1
    flow = MacFlow2D((n, m), h, 0.05, eta=0.05)
    solver = MacFlowSolver(flow)
    z = (torch.arange(m, dtype=F64) + 0.5) * h
    v = z * (m * h - z)
    a = torch.cat((torch.zeros(1, dtype=F64), v.cumsum(0)[:-1])) * h
    start = torch.stack((a.expand(n, m), torch.zeros(n, m, dtype=F64)))[None]
    _, context = flow.channel(torch.ones(1, dtype=F64))
    context[:, 1] = v * context[:, 0]
    state = solver.initial_state(start)
    for _ in range(3):
        state = solver.step(state, None, {"forcing": context})
    assert float((state.u[:, 0] - start[:, 0]).abs().max()) < 1e-9
    slope = state.u[0, 1, 3:-3, 3:-3].diff(dim=0) / h
    assert torch.allclose(slope, torch.full_like(slope, -2 * flow.eta), atol=1e-8)


def test_batches_are_loops():
    flow, solver, start, context = scene()
    both = solver.step(solver.initial_state(start), None, {"forcing": context}).u
    for b in (0, 1):
        one = slice(b, b + 1)
        alone = solver.step(solver.initial_state(start[one]), FieldControl(context[one])).u
        assert torch.allclose(both[one], alone, atol=1e-9)


def test_second_order_in_time():
    """Halving dt divides the error of the implicit midpoint by four, once a flow is smooth in time."""
    ends = []
    for k in (1, 2, 4, 8):
        flow = MacFlow2D((20, 16), 0.1, 0.02 / k, eta=0.05)
        solver = MacFlowSolver(flow)
        start, context = flow.channel(torch.ones(1, dtype=F64), (0.75, 0.8), 0.21)
        state = solver.initial_state(start)
        for _ in range(10):  # the cylinder appears at once: a first step of its own
            state = solver.step(state, None, {"forcing": context}) if k == 1 else state
        if k == 1:
            settled = state
        state = solver.initial_state(settled.u)
        for _ in range(4 * k):
            state = solver.step(state, None, {"forcing": context})
        ends.append(flow.velocity(state.u)[..., :-1, :-1])
    errors = [float((a - b).norm()) for a, b in zip(ends, ends[1:], strict=False)]
    assert math.log2(errors[-2] / errors[-1]) > 1.8


def test_derivatives_in_states_speeds_and_spins():
    flow, solver, start, _ = scene()
    weight = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=F64)

    def value(x):
        context = flow.channel(x["speed"], (0.75, 0.8), 0.21, spin=x["spin"])[1]
        state = solver.initial_state(x["u"])
        for _ in range(2):
            state = solver.step(state, FieldControl(context))
        return (state.u * weight).sum() + body_force(flow, x["u"], state.u, context).sum()

    given = {"u": start, "speed": torch.tensor([0.8, 1.2], dtype=F64),
             "spin": torch.tensor([0.5, -2.0], dtype=F64)}  # fmt: skip
    assert taylor_test(value, given).passed()


def test_forces_drag_along_the_stream_and_lift_by_spin():
    flow, solver, start, context = scene(spin=2.0)
    start, context = start[1:], context[1:]
    _, other = flow.channel(torch.tensor([1.2], dtype=F64), (0.75, 0.8), 0.21, spin=-2.0)
    forces = []
    for given in (context, other):
        state = solver.initial_state(start)
        for _ in range(12):
            before, state = state, solver.step(state, FieldControl(given))
        forces.append(body_force(flow, before.u, state.u, given)[0])
        body = torch.zeros_like(before.u)
        body[:, 1, 6:9, 7:9] = 5.0  # pressures inside have no say
        assert torch.allclose(body_force(flow, before.u, state.u + body, given)[0], forces[-1])
    (drag, lift), (same, opposite) = forces
    # Mirror images, as the cylinder is in the middle: v_x of a cylinder that turns by Ω > 0 falls
    # with z, the flow above it is slower and the pressure higher.
    assert float(drag) > 0.1 and abs(float(drag - same)) < 1e-6
    assert float(lift) < -0.1 and abs(float(lift + opposite)) < 1e-6


def test_refusals_name_what_to_do():
    flow, solver, start, context = scene()
    state = solver.initial_state(start)
    with pytest.raises(InputError, match="box with sides"):
        MacFlowSolver(MacFlow2D((12, 10), 0.1, 0.05, periodic=True))
    with pytest.raises(InputError, match=r"u \(B, 2, 20, 16\)"):
        solver.initial_state(start[:, :1])
    with pytest.raises(InputError, match="context"):
        solver.step(state)
    moved = flow.channel(torch.ones(1, dtype=F64), (0.95, 0.8), 0.21)[1]
    with pytest.raises(InputError, match="equal bodies"):
        solver.step(state, FieldControl(torch.cat((context[:1], moved))))
    blown = context.clone()
    blown[:, 1, :2] += 0.5
    with pytest.raises(InputError, match="balance"):
        solver.step(state, FieldControl(blown))
    fast, still = MacFlowSolver(MacFlow2D((20, 16), 0.1, 1.0, eta=0.0), 8), context * 1.0
    with pytest.raises(ConvergenceError, match="lower dt"):
        fast.step(state, FieldControl(still))
