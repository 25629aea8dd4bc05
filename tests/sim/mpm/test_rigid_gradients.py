"""Gradients through rigid bodies and push-out: finite differences, torch reference, batches, shards."""

from __future__ import annotations

import pytest
import torch
from body_scenes import crowded
from mpm_scenes import F64, lattice, shaken
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.gradients import check_backward_twice, taylor_test
from rheograd.sim.core.laws import NeoHookean
from rheograd.sim.core.rollout import rollout
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.sim.mpm import Grid, Group, MPMConfig, MPMControl, MPMModel, RigidBody, SolverMPM
from torch import Tensor


def problem(solver: SolverMPM, batch_size: int = 1):
    """Loss of two steps as a function of every differentiable input, and those inputs."""
    state = shaken(solver.model, batch_size=batch_size)
    generator = torch.Generator().manual_seed(3)
    inputs = {name: t for name, t in state.tensors().items() if t.numel()}
    twist = torch.randn(1, 6, 6, generator=generator, dtype=F64)
    inputs["tool_twist"] = twist.repeat(batch_size, 1, 1)
    inputs["friction"] = torch.tensor([0.3, 0.3, 0.1, 0.2, 0.4, 0.4], dtype=F64)
    inputs["softness"] = torch.tensor([20.0, 15.0, 0.0, 0.0, 0.0, 0.0], dtype=F64)
    inputs["rho"] = torch.tensor([300.0, 600.0, 900.0], dtype=F64)
    inputs["water"] = torch.tensor(1000.0, dtype=F64)

    def loss(values: dict[str, Tensor]) -> Tensor:
        start = state.replace(**{n: values[n] for n in state.tensors() if n in values})
        colliders = {name: values[name] for name in ("friction", "softness", "rho")}
        params = {"pool": {"rho": values["water"]}, "colliders": colliders}
        control = MPMControl(tool_twist=values["tool_twist"])
        end = solver.step(solver.step(start, control, params), control, params)
        weights = torch.Generator().manual_seed(7)
        parts = [t for t in end.tensors().values() if t.numel()]
        return sum(
            (torch.randn(t.shape[1:], generator=weights, dtype=F64) * t).sum() for t in parts
        )  # type: ignore[return-value]

    return loss, inputs


def gradients(solver: SolverMPM, **options) -> tuple[Tensor, dict[str, Tensor]]:
    loss, inputs = problem(solver, **options)
    leaves = {n: t.clone().requires_grad_() for n, t in inputs.items()}
    value = loss(leaves)
    return value.detach(), dict(
        zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True)
    )


def config(**changes: object) -> MPMConfig:
    return MPMConfig(**{"dt": 5e-4, "substeps": 3, **changes})


@pytest.mark.parametrize("dim", [2, 3])
def test_every_input_passes_the_taylor_test(dim: int) -> None:
    loss, inputs = problem(SolverMPM(crowded(dim, push_out=True), config()))
    generator = torch.Generator().manual_seed(11)
    # As large as the quantity, but not so large that a hard contact opens or closes.
    scale = {
        "x": 1e-3,
        "tool_pose": 1e-4,
        "F": 0.1,
        "J": 0.1,
        "C": 1.0,
        "v": 0.1,
        "body_twist": 0.03,
    }
    for name, value in inputs.items():
        random = torch.randn(value.shape, generator=generator, dtype=F64)
        direction = {n: torch.zeros_like(v) for n, v in inputs.items()}
        direction[name] = random * scale.get(name, 0.1 * float(value.abs().max()))
        if name == "softness":
            direction[name][2:] = 0.0  # zero means hard contact, a different law
        if dim == 2 and name in ("tool_pose", "body_twist"):
            planar = [0, 2, 3, 5] if name == "tool_pose" else [0, 2, 4]
            kept = torch.zeros(value.shape[-1], dtype=F64)
            kept[planar] = 1.0
            direction[name] = direction[name] * kept
        report = taylor_test(loss, inputs, direction)
        assert report.exact or report.rate >= 1.9, (name, report)


@pytest.mark.parametrize("dim,push_out", [(2, False), (3, True)])
def test_warp_equals_torch_forward_and_backward(dim: int, push_out: bool) -> None:
    model = crowded(dim, push_out)
    (value0, grads0), (value1, grads1) = (
        gradients(SolverMPM(model, config(engine=engine))) for engine in ("torch", "warp")
    )
    torch.testing.assert_close(value1, value0, rtol=1e-12, atol=0)
    for name, g0 in grads0.items():
        assert float((grads1[name] - g0).norm() / g0.norm()) < 1e-10, name


def test_taichi_equals_warp() -> None:
    pytest.importorskip("taichi")
    model = crowded(2, push_out=True)
    (value0, grads0), (value1, grads1) = (
        gradients(SolverMPM(model, config(engine=engine))) for engine in ("warp", "taichi")
    )
    torch.testing.assert_close(value1, value0, rtol=1e-12, atol=0)
    for name, g0 in grads0.items():
        assert float((grads1[name] - g0).norm() / g0.norm()) < 1e-10, name


def test_a_law_in_torch_gives_the_same_gradients() -> None:
    fused, composed = (SolverMPM(crowded(3, push_out=True), config()) for _ in range(2))
    assert fused.fused
    composed.fused = False  # laws in torch between the engine's transfers
    (value0, grads0), (value1, grads1) = (gradients(s) for s in (fused, composed))
    torch.testing.assert_close(value1, value0, rtol=1e-12, atol=0)
    for name, g0 in grads0.items():
        assert float((grads1[name] - g0).norm() / g0.norm()) < 1e-10, name


@pytest.mark.parametrize("engine", ["warp", "torch"])
def test_batch_equals_loop(engine: str) -> None:
    solver = SolverMPM(crowded(2, push_out=True), config(engine=engine))
    state = shaken(solver.model, batch_size=3)
    together = solver.step(state)
    for b in range(3):
        for name, tensor in solver.step(state[b]).tensors().items():
            torch.testing.assert_close(together[b].tensors()[name], tensor, rtol=1e-12, atol=1e-12)
    assert float((together.body_twist[0] - together.body_twist[1]).norm()) > 0


def test_backward_twice_and_checkpoints_agree() -> None:
    solver = SolverMPM(crowded(2, push_out=True), config(substeps=2))
    loss, inputs = problem(solver)
    check_backward_twice(loss, inputs)
    state = shaken(solver.model)
    grads = []
    for checkpoint in ("none", "uniform", "revolve"):
        start = state.body_twist.clone().requires_grad_()
        result = rollout(
            solver, state.replace(body_twist=start), 12, checkpoint=checkpoint, save_every=12
        )
        grads.append(torch.autograd.grad((result.final.tool_pose**2).sum(), start)[0])
    for other in grads[1:]:
        torch.testing.assert_close(other, grads[0], rtol=1e-10, atol=0)


def crowd() -> MPMModel:
    """Enough particles for two shards."""
    x = lattice(0.1, 0.9, 95, 2)
    tools = [
        RigidBody(Box((0.1, 1.0, 0.05)), (0.4, 0.0, 0.5), softness=40.0, velocity=(0.5, 0.0, -1.0)),
        Collider(Sphere(0.1), (0.7, 0.0, 0.6), push_out=True),
        RigidBody(Sphere(0.08), (0.42, 0.0, 0.66), rho=300.0, velocity=(0, 0, -1.0), push_out=True),
    ]
    group = Group("body", NeoHookean(E=2e4, nu=0.3), x, (0.8 / 95) ** 2)
    return MPMModel(Grid((0.0, 0.0), (1.0, 1.0), 0.05), [group], colliders=tools)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_two_threads_are_bitwise_repeatable_and_equal_one(batch_size: int) -> None:
    model = crowd()
    state = shaken(model, batch_size=batch_size)
    ends, grads = [], []
    for threads in (2, 2, 1):
        solver = SolverMPM(model, config(substeps=2, threads=threads))
        leaves = [t.clone().requires_grad_() for t in (state.v, state.body_twist, state.tool_pose)]
        end = solver.step(state.replace(v=leaves[0], body_twist=leaves[1], tool_pose=leaves[2]))
        assert solver.engine(state).shards == threads
        ends.append(end.detach())
        loss = (end.x**2).sum() + (end.body_twist**2).sum() + (end.tool_pose**2).sum()
        grads.append(torch.autograd.grad(loss, leaves))
    for name, tensor in ends[0].tensors().items():
        assert torch.equal(ends[1].tensors()[name], tensor)
        torch.testing.assert_close(ends[2].tensors()[name], tensor, rtol=1e-12, atol=1e-11)
    for same, other, g in zip(grads[1], grads[2], grads[0], strict=True):
        assert torch.equal(same, g)
        assert float((other - g).norm() / g.norm()) < 1e-10
