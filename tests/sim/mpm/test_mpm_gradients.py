"""Gradients of the MPM solver against finite differences, the torch reference and themselves."""

from __future__ import annotations

import pytest
import torch
from helpers import cosine
from mpm_scenes import F64, block, mixed, shaken
from rheograd.sim.core.gradients import check_backward_twice, taylor_test
from rheograd.sim.core.laws import (
    DruckerPrager,
    FixedCorotated,
    Hencky,
    HerschelBulkley,
    Liquid,
    NeoHookean,
    TorchLaw,
    VonMises,
)
from rheograd.sim.mpm import MPMConfig, MPMControl, MPMModel, SolverMPM
from torch import Tensor

LAWS = {
    "neo_hookean": NeoHookean(E=2e4, nu=0.3),
    "fixed_corotated": FixedCorotated(E=2e4, nu=0.3),
    "hencky": Hencky(E=2e4, nu=0.3),
    "von_mises": VonMises(E=2e4, nu=0.3, yield_stress=400.0, H=2e3),
    # Without cohesion the rest state is the apex of the cone, where no derivative exists.
    "drucker_prager": DruckerPrager(E=2e4, nu=0.3, friction=25.0, cohesion=2000.0),
    "liquid": Liquid(bulk=2e4, eta=1.0),
    "herschel_bulkley": HerschelBulkley(bulk=2e4),
}


def weighted_sum(tensors: list[Tensor]) -> Tensor:
    """A fixed random functional of everything that comes out."""
    generator = torch.Generator().manual_seed(7)
    total = torch.zeros((), dtype=tensors[0].dtype)
    for tensor in tensors:
        w = torch.randn(tensor.shape, generator=generator, dtype=F64).to(tensor.dtype)
        total = total + (w * tensor).sum()
    return total


def mixed_problem(solver: SolverMPM, dtype: torch.dtype = F64):
    """Loss of two steps as a function of every differentiable input, and those inputs."""
    model, dim = solver.model, solver.model.dim
    state = shaken(model, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    inputs = {name: t for name, t in state.tensors().items() if t.numel()}
    inputs["tool_twist"] = torch.randn(1, 2, 6, generator=generator, dtype=F64).to(dtype)
    inputs["emitter_velocity"] = torch.tensor([[[0.2] * (dim - 1) + [-1.0]]], dtype=dtype)
    inputs["friction"] = torch.tensor([0.3, 0.1], dtype=dtype)
    inputs["softness"] = torch.tensor([20.0, 0.0], dtype=dtype)
    inputs["E"] = torch.tensor(2e4, dtype=dtype)
    inputs["nu"] = torch.tensor(0.3, dtype=dtype)
    inputs["rho"] = torch.tensor(1000.0, dtype=dtype)
    inputs["bulk"] = torch.tensor(2e4, dtype=dtype)
    inputs["eta"] = torch.tensor(2.0, dtype=dtype)

    def loss(values: dict[str, Tensor]) -> Tensor:
        start = state.replace(**{n: values[n] for n in state.tensors() if n in values})
        params = {
            "solid": {"E": values["E"], "nu": values["nu"]},
            "pool": {k: values[k] for k in ("bulk", "eta", "rho")},
            "colliders": {"friction": values["friction"], "softness": values["softness"]},
        }
        control = MPMControl(values["tool_twist"], values["emitter_velocity"])
        end = solver.step(solver.step(start, control, params), control, params)
        return weighted_sum([t for t in end.tensors().values() if t.numel()])

    return loss, inputs


def direction_for(name: str, value: Tensor) -> Tensor:
    """A direction as large as the quantity, or as a grid cell; hard contact must not switch."""
    generator = torch.Generator().manual_seed(11)
    direction = torch.randn(value.shape, generator=generator, dtype=F64)
    scale = {"x": 0.01, "tool_pose": 0.01, "F": 0.1, "J": 0.1, "C": 1.0, "v": 0.3, "nu": 0.1}
    size = scale.get(name, 0.3 * float(value.abs().max()))
    if name == "softness":
        direction[1] = 0.0  # zero means hard contact, a different law
    return size * direction


DT = {"warp": MPMConfig(dt=2e-4, substeps=10)}


@pytest.mark.parametrize("dim", [2, 3])
def test_every_input_passes_the_taylor_test(dim: int) -> None:
    loss, inputs = mixed_problem(SolverMPM(mixed(dim), DT["warp"]))
    for name, value in inputs.items():
        direction = {n: torch.zeros_like(v) for n, v in inputs.items()}
        direction[name] = direction_for(name, value)
        report = taylor_test(loss, inputs, direction)
        assert report.exact or report.rate >= 1.9, (name, report)


@pytest.mark.parametrize("dim", [2, 3])
def test_warp_equals_torch_forward_and_backward(dim: int) -> None:
    model = mixed(dim)
    results = []
    for engine in ("torch", "warp"):
        loss, inputs = mixed_problem(SolverMPM(model, MPMConfig(dt=2e-4, substeps=10, engine=engine)))
        leaves = {n: v.clone().requires_grad_() for n, v in inputs.items()}
        value = loss(leaves)
        results.append((value, torch.autograd.grad(value, list(leaves.values()))))
    (value0, grads0), (value1, grads1) = results
    torch.testing.assert_close(value1, value0, rtol=1e-12, atol=0)
    for name, g0, g1 in zip(inputs, grads0, grads1, strict=True):
        # Round-off grows with the stiffness of two steps; a wrong term would be of order one.
        assert float((g1 - g0).norm() / g0.norm()) < 1e-10, name


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("start", ["rest", "deformed"])
def test_every_law_passes_the_taylor_test(name: str, start: str) -> None:
    law = LAWS[name]
    solver = SolverMPM(block(law, n=3), MPMConfig(dt=2e-4, substeps=12))
    state = solver.model.initial_state(dtype=F64) if start == "rest" else shaken(solver.model)
    fields = {n: t for n, t in state.tensors().items() if t.numel() and n != "tool_pose"}
    params = {n: torch.as_tensor(v, dtype=F64) for n, v in law.parameters().items()}
    inputs = {**fields, **params}

    def loss(values: dict[str, Tensor]) -> Tensor:
        begin = state.replace(**{n: values[n] for n in fields})
        end = solver.step(begin, None, {"body": {n: values[n] for n in params}})
        return weighted_sum([t for t in end.tensors().values() if t.numel()])

    generator = torch.Generator().manual_seed(5)
    direction = {}
    for key, value in inputs.items():
        random = torch.randn(value.shape, generator=generator, dtype=F64)
        scale = {"x": 1e-3, "v": 0.1, "C": 0.3, "F": 3e-3, "J": 3e-3, "alpha": 3e-3}
        direction[key] = random * (scale[key] if key in scale else 0.05 * value.abs())
    report = taylor_test(loss, inputs, direction)
    assert report.exact or report.rate >= 1.9, report


def test_float32_gradient_points_the_same_way() -> None:
    model = mixed(3)
    grads = []
    for dtype in (torch.float32, F64):
        loss, inputs = mixed_problem(SolverMPM(model, DT["warp"]), dtype)
        leaves = {n: v.clone().requires_grad_() for n, v in inputs.items()}
        grads.append(torch.autograd.grad(loss(leaves), list(leaves.values())))
    for name, g32, g64 in zip(inputs, *grads, strict=True):
        assert cosine(g32.double(), g64) >= 0.999, name


def test_backward_runs_twice_with_the_same_result() -> None:
    loss, inputs = mixed_problem(SolverMPM(mixed(3), DT["warp"]))
    report = check_backward_twice(loss, inputs)
    assert report.same_graph == 0 and report.fresh_graph == 0 and report.inputs_kept


def test_changing_a_state_in_place_is_noticed() -> None:
    solver = SolverMPM(block(NeoHookean(E=2e4, nu=0.3)))
    state = shaken(solver.model).map(torch.clone)
    v = state.v.clone().requires_grad_()
    x = state.x.clone()
    end = solver.step(state.replace(x=x, v=v))
    x += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        end.x.sum().backward()


def test_torch_law_between_the_transfers_equals_the_fused_law() -> None:
    law = FixedCorotated(E=2e4, nu=0.3)
    coefficients = law.coefficients({"E": torch.tensor(2e4, dtype=F64)})

    def elastic(F: Tensor) -> Tensor:
        c = coefficients.to(F).reshape(-1, *[1] * (F.ndim - 2)).expand(-1, *F.shape[:-2])
        return law.stress(F, None, c)

    wrapped = TorchLaw(elastic=elastic, rho=1000.0, stiffness=3e4)
    ends = []
    for one in (law, wrapped):
        model: MPMModel = block(one)
        solver = SolverMPM(model, MPMConfig(dt=2e-4, substeps=10))
        state = shaken(model)
        F = state.F.clone().requires_grad_()
        end = solver.step(state.replace(F=F))
        ends.append((end.x, *torch.autograd.grad((end.x**2).sum(), F)))
    for a, b in zip(*ends, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-11


def test_batched_per_particle_and_per_scene_parameters() -> None:
    solver = SolverMPM(block(NeoHookean(E=2e4, nu=0.3)), MPMConfig(dt=2e-4, substeps=10))
    state = shaken(solver.model, batch_size=2)
    n = solver.model.particle_count
    per_scene = torch.tensor([1e4, 2e4], dtype=F64, requires_grad=True)
    end = solver.step(state, None, {"body": {"E": per_scene}})
    (gradient,) = torch.autograd.grad((end.v**2).sum(), per_scene)
    full = per_scene.detach()[:, None].repeat(1, n).requires_grad_()
    end_full = solver.step(state, None, {"body": {"E": full}})
    torch.testing.assert_close(end_full.v, end.v, rtol=0, atol=0)
    (gradient_full,) = torch.autograd.grad((end_full.v**2).sum(), full)
    torch.testing.assert_close(gradient_full.sum(1), gradient, rtol=1e-12, atol=0)
    assert (gradient != 0).all()
