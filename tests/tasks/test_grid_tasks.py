"""Tasks with flows on grids: contract, networks in place of the solver, what a search gains."""

from __future__ import annotations

import pytest
import torch
from helpers import some_actions
from rheograd.operators.stagger import SpaceSplit, StaggerSolver, TimeSplit, save_solver
from rheograd.operators.t1.unet import UNet
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import taylor_test
from rheograd.tasks import grid  # noqa: F401  registers the tasks
from rheograd.tasks.core import TASKS, task_by_name
from rheograd.tasks.grid.cylinder import Cylinder, CylinderConfig
from rheograd.tasks.optim import Budget, optimize

NANO = sorted(n for n in TASKS if n.startswith("grid/") and n.endswith("-nano"))
F64 = torch.float64


@pytest.fixture(params=NANO, scope="module")
def task(request):
    return task_by_name(request.param)


def test_a_full_size_exists_beside_each_nano_size():
    assert NANO and all(name.removesuffix("-nano") in TASKS for name in NANO)


def test_shapes_and_seeds(task):
    state = task.reset(batch_size=2)
    assert task.initial_actions().shape == (task.horizon, task.action_size)
    assert task.loss(state, 0).shape == task.success(state).shape == (2,)
    assert all(value.shape == (2,) for value in task.metrics(state).values())
    assert task.observation(state).shape == (2, 67)
    after, reward = task.step(state, some_actions(task, 2, dtype=torch.float32)[:, 0])
    assert reward.shape == (2,) and torch.equal(reward, -task.loss(after, 0))
    assert abs(after.t - task.solver.step_time) < 1e-9
    starts = [task.reset(seed=s).u for s in (3, 3, 0)]
    assert torch.equal(starts[0], starts[1])
    assert len({float(task.reset(seed=s).u.double().square().sum()) for s in range(9)}) > 1
    assert torch.equal(starts[0], task.reset(seed=3, dtype=F64).u.float())


def test_batch_equals_loop(task):
    actions = some_actions(task, 2)
    with torch.no_grad():
        together = task.rollout(actions).final
        alone = task.rollout(actions[1]).final
    assert torch.allclose(together.u[1], alone.u[0], atol=1e-9)
    assert torch.allclose(together.force[1], alone.force[0], atol=1e-8)


def test_gradient_in_the_actions(task):
    report = taylor_test(lambda a: task.total_loss(a).sum(), some_actions(task))
    assert report.passed(), report


def test_contexts_tell_their_spin():
    task = task_by_name("grid/cylinder-nano")
    spin = torch.tensor([-1.5, 0.0, 3.0])
    assert torch.allclose(task.spin_of(task.context(spin)), spin, atol=1e-5)


def test_a_search_gains():
    task = task_by_name("grid/cylinder-lift-nano", amplitude=0.1)
    with torch.no_grad():
        first = float(task.total_loss(task.initial_actions()))
    found = optimize(task, "gradient", budget=Budget(iterations=6))
    assert found.loss < 0.6 * first


def network(path, **options):
    generator = torch.Generator().manual_seed(0)
    options = {"dt": 0.04, "channels": 2, "context": 3, **options}
    solver = StaggerSolver(
        lambda a, b: UNet(2, a, b, 4, 1, generator), SpaceSplit(2), TimeSplit(2), "stack", **options
    )
    with torch.no_grad():  # heads start at zero
        for p in solver.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    backbone = {"operator": "t1.unet:UNet", "dim": 2, "channels": 4, "levels": 1}
    return solver, str(save_solver(path, solver, backbone=backbone))


def test_a_network_stands_in_for_the_solver(tmp_path):
    solver, file = network(tmp_path / "net.safetensors")
    task = task_by_name("grid/cylinder-nano", solver="network", weights=file)
    actions = some_actions(task, dtype=torch.float32)
    state = task.reset()
    by_hand = solver(state.u, task.context(actions[:, 0, 0]))[:, -1]
    after, _ = task.step(state, actions[:, 0])
    assert torch.allclose(after.u, by_hand, atol=1e-6)
    actions = actions.requires_grad_()
    task.total_loss(actions).sum().backward()
    assert float(actions.grad.abs().min()) > 0
    with pytest.raises(InputError, match="stagger_cylinder.py --train"):
        _, other = network(tmp_path / "other.safetensors", dt=0.1)
        task_by_name("grid/cylinder-nano", solver="network", weights=other)
    with pytest.raises(InputError, match="a name that ships; got 'none'. Train one"):
        task_by_name("grid/cylinder-nano", solver="network", weights="none")
    with pytest.raises(InputError, match="solver out of"):
        task_by_name("grid/cylinder-nano", solver="gas")


def test_a_surrogate_has_the_solver_s_states_and_the_network_s_derivatives(tmp_path):
    solver, file = network(tmp_path / "net.safetensors")
    task = task_by_name("grid/cylinder-nano", solver="surrogate", weights=file)
    mac = task_by_name("grid/cylinder-nano")
    actions = some_actions(task, dtype=torch.float32)
    last, truth = task.rollout(actions).final, mac.rollout(actions).final
    assert torch.allclose(last.force, truth.force, atol=1e-5)
    assert torch.allclose(last.wake, truth.wake, rtol=1e-4)
    given = task.reset().u.requires_grad_(), torch.tensor([0.7], requires_grad=True)
    cotangent = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(2))
    slopes = [
        torch.autograd.grad((step(u, task.context(w))[:, -1] * cotangent).sum(), given)
        for u, w in [given]
        for step in (task.solver.frames, solver)
    ]
    for a, b in zip(*slopes, strict=True):
        assert torch.equal(a, b) and float(a.abs().max()) > 0


def test_the_shipped_network_follows_the_solver():
    """A quarter of a second from the free flow, turned either way: velocities, and ∇·u = 0."""
    mac, net = Cylinder(), Cylinder(CylinderConfig(solver="network"))
    start = mac.free()[[3, 17]]
    context = mac.context(torch.tensor([1.5, -1.5]))
    with torch.no_grad():
        v, w = (
            mac.flow.velocity(task.solver.frames(start, context)[:, -1])[..., :-1, :-1]
            for task in (net, mac)
        )
        before = mac.flow.velocity(start)[..., :-1, :-1]
        divergence = mac.flow.divergence(
            mac.flow.velocity(net.solver.frames(start, context)[:, -1])
        )
    assert float((v - w).norm() / (w - before).norm()) < 0.2
    assert float(divergence[:, :-1, :-1].abs().max()) < 1e-5


@pytest.mark.slow
def test_the_free_cylinder_sheds():
    """Re = 100 with sides 5 diameters apart: Strouhal number 0.2 to 0.25, drag 1.4 to 1.8."""
    task = Cylinder()
    state = task.reset()
    force = []
    with torch.no_grad():
        for _ in range(24):
            state, _ = task.step(state, torch.zeros(1, 1))
            force.append(state.force[0])
    drag, lift = torch.stack(force).unbind(1)
    c = task.config
    assert 1.4 < float(drag.mean()) / (c.radius * c.speed**2) < 1.8
    assert 0.02 < float(lift.abs().max()) < 0.1
    crossings = int(((lift[1:] * lift[:-1]) < 0).sum())
    assert 4 <= crossings <= 7  # every 0.9 s
