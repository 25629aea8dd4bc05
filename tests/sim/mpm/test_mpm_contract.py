"""The solver contract, and clear errors for bad input."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from mpm_scenes import F64, block, lattice, mixed, shaken
from rheograd.sim.core.errors import InputError, StabilityError, StateError
from rheograd.sim.core.laws import FixedCorotated, Liquid, NeoHookean
from rheograd.sim.core.rollout import rollout
from rheograd.sim.mpm import Grid, Group, MPMConfig, MPMControl, MPMModel, SolverMPM

CONFIG = MPMConfig(dt=2e-4, substeps=10)
LAW = NeoHookean(E=2e4, nu=0.3)


@pytest.mark.parametrize("engine", ["warp", "torch"])
def test_batch_equals_loop(engine: str) -> None:
    solver = SolverMPM(mixed(2), dataclasses.replace(CONFIG, engine=engine))
    state = shaken(solver.model, batch_size=3)
    together = solver.step(state)
    for b in range(3):
        alone = solver.step(state[b])
        for name, tensor in alone.tensors().items():
            torch.testing.assert_close(together[b].tensors()[name], tensor, rtol=1e-12, atol=1e-12)


def test_step_is_functional_and_buffers_do_not_escape() -> None:
    solver = SolverMPM(mixed(2), CONFIG)
    state = shaken(solver.model)
    before = state.clone()
    first = solver.step(state)
    kept = first.clone()
    solver.step(shaken(solver.model, seed=5))
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, before.tensors()[name])
        assert torch.equal(first.tensors()[name], kept.tensors()[name])


def big() -> MPMModel:
    x = lattice(0.3, 0.7, 23, 3)
    return MPMModel(Grid((0.0,) * 3, (1.0,) * 3, 0.05), [Group("body", LAW, x, (0.4 / 23) ** 3)])


def test_two_threads_are_bitwise_repeatable_and_equal_one() -> None:
    model = big()
    state = shaken(model)
    grads, ends = [], []
    for threads in (2, 2, 2, 1):
        solver = SolverMPM(model, MPMConfig(dt=2e-4, substeps=3, threads=threads))
        v = state.v.clone().requires_grad_()
        end = solver.step(state.replace(v=v))
        ends.append(end.x.detach())
        grads.append(torch.autograd.grad((end.x**2).sum() + (end.F**2).sum(), v)[0])
    assert solver.engine(state).shards == 1
    for i in (1, 2):
        assert torch.equal(ends[0], ends[i]) and torch.equal(grads[0], grads[i])
    torch.testing.assert_close(ends[3], ends[0], rtol=1e-13, atol=1e-13)
    assert float((grads[3] - grads[0]).norm() / grads[0].norm()) < 1e-12


def test_whole_scenes_per_thread_share_one_grid() -> None:
    model = block(LAW, n=16)
    solver = SolverMPM(model, MPMConfig(dt=2e-4, substeps=3, threads=2))
    state = shaken(model, batch_size=4)
    end = solver.step(state)
    assert solver.engine(state).copies == 1 and solver.engine(state).shards == 2
    one = SolverMPM(model, MPMConfig(dt=2e-4, substeps=3, threads=1)).step(state)
    torch.testing.assert_close(end.x, one.x, rtol=1e-13, atol=1e-13)


def test_checkpointed_mpm_rollout_equals_the_stored_one() -> None:
    grads = []
    solver = SolverMPM(mixed(2), MPMConfig(dt=2e-4, substeps=2))
    state = shaken(solver.model).to(torch.float32)
    for checkpoint in ("none", "uniform", "revolve"):
        v = state.v.clone().requires_grad_()
        E = torch.tensor(2e4, requires_grad=True)
        result = rollout(
            *(solver, state.replace(v=v), 20, {"solid": {"E": E}}),
            checkpoint=checkpoint,
            save_every=20,
        )
        grads.append(torch.autograd.grad((result.final.x**2).sum(), (v, E)))
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            assert float((a - b).norm() / a.norm()) < 1e-6


def test_emitted_particles_enter_one_by_one() -> None:
    solver = SolverMPM(mixed(2), CONFIG)
    part = solver.model.slices()["drops"]
    state = solver.model.initial_state(dtype=F64)
    moving = []
    for _ in range(4):
        state = solver.step(state)
        moving.append(int((state.v[0, part].norm(dim=-1) > 0).sum()))
    # 2000 per second from 1.2 ms on; after steps of 2 ms: 0.8 ms → 2, 2.8 ms → 6 particles.
    assert moving == [2, 6, 6, 6]


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda s: s.replace(x=s.x.index_fill(1, torch.tensor([3]), float("nan"))), "finite positions"),
        (lambda s: s.replace(x=s.x + 2.0), "particles inside"),
        (lambda s: s.replace(v=s.v[:, :-1]), "v of shape"),
        (lambda s: s.replace(v=s.v.float()), "convert|Convert"),
        (lambda s: s.replace(v=s.v * float("nan")), "non-finite"),
        (lambda s: s.to(torch.float16), "float32 or float64"),
    ],
)
def test_bad_states(change, message: str) -> None:
    solver = SolverMPM(block(LAW), CONFIG)
    state = solver.model.initial_state(dtype=F64)
    with pytest.raises((InputError, StateError), match=message):
        solver.step(change(state))
    solver.step(state)  # and the solver is still usable


def test_non_finite_state_names_step_and_field() -> None:
    solver = SolverMPM(block(LAW), CONFIG)
    state = solver.model.initial_state(dtype=F64)
    F = state.F.clone()
    F[0, 5] = -F[0, 5]
    with pytest.raises(StateError) as caught:
        solver.step(state.replace(F=F))
    # The law gives NaN for det F < 0; the first field that shows it is the velocity or its gradient.
    assert caught.value.step == 0 and caught.value.field in ("v", "C", "x")


def test_dt_over_the_bounds_names_the_remedy() -> None:
    with pytest.raises(StabilityError, match=r"CFL bound.*Set dt=.* and substeps=") as caught:
        solver = SolverMPM(block(FixedCorotated(E=1e7, nu=0.3)), MPMConfig(dt=1e-3, substeps=5))
        solver.step(solver.model.initial_state())
    text = str(caught.value)
    dt = float(text.split("dt=")[1].split(" ")[0])
    n = int(text.split("substeps=")[1].rstrip("."))
    fixed = SolverMPM(block(FixedCorotated(E=1e7, nu=0.3)), MPMConfig(dt=dt, substeps=n))
    fixed.step(fixed.model.initial_state())  # the remedy works
    with pytest.raises(StabilityError, match="viscous bound"):
        solver = SolverMPM(block(Liquid(bulk=1e4, eta=1e4)), MPMConfig(dt=1e-3))
        solver.step(solver.model.initial_state())


def test_too_fast_particles_are_an_error() -> None:
    solver = SolverMPM(block(LAW), MPMConfig(dt=1e-3, substeps=1))
    state = solver.model.initial_state(dtype=F64)
    with pytest.raises(StabilityError, match="speed below dx/dt"):
        solver.step(state.replace(v=state.v * 0 + 150.0))


def test_bad_controls_and_parameters() -> None:
    solver = SolverMPM(mixed(2), CONFIG)
    state = solver.model.initial_state()
    with pytest.raises(InputError, match="tool_twist of shape"):
        solver.step(state, MPMControl(tool_twist=torch.zeros(1, 1, 6)))
    with pytest.raises(InputError, match="tool_twist in torch.float32"):
        solver.step(state, MPMControl(tool_twist=torch.zeros(1, 2, 6, dtype=F64)))
    with pytest.raises(InputError, match="got 'jelly'"):
        solver.step(state, None, {"jelly": {"E": 1.0}})
    with pytest.raises(InputError, match="stiffness"):
        solver.step(state, None, {"solid": {"stiffness": 1.0}})
    with pytest.raises(InputError, match="broadcastable"):
        solver.step(state, None, {"solid": {"E": torch.ones(1, 2)}})
    with pytest.raises(InputError, match="nu"):
        solver.step(state, None, {"solid": {"nu": 0.6}})


def test_bad_models() -> None:
    grid = Grid((0.0, 0.0), (1.0, 1.0), 0.1)
    x = lattice(0.4, 0.6, 3, 2)
    with pytest.raises(InputError, match="whole cells"):
        Grid((0.0, 0.0), (1.0, 1.05), 0.1)
    with pytest.raises(InputError, match="particles outside"):
        MPMModel(grid, [Group("a", LAW, x + 1.0, 1e-3)])
    with pytest.raises(InputError, match="NaN"):
        MPMModel(grid, [Group("a", LAW, x * float("nan"), 1e-3)])
    with pytest.raises(InputError, match="different group names"):
        MPMModel(grid, [Group("a", LAW, x, 1e-3)] * 2)
    with pytest.raises(InputError, match=r"shape \(n ≥ 1, 2\)"):
        MPMModel(grid, [Group("a", LAW, lattice(0.4, 0.6, 3, 3), 1e-3)])
    with pytest.raises(InputError, match="positive rest volumes"):
        MPMModel(grid, [Group("a", LAW, x, 0.0)])
    with pytest.raises(InputError, match="walls"):
        MPMModel(grid, [Group("a", LAW, x, 1e-3)], walls="bouncy")
    with pytest.raises(InputError, match="engine"):
        SolverMPM(MPMModel(grid, [Group("a", LAW, x, 1e-3)]), MPMConfig(engine="jax"))


def test_an_interrupted_step_leaves_the_solver_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    solver = SolverMPM(block(LAW), CONFIG)
    state = shaken(solver.model)
    expected = solver.step(state)
    engine = solver.engine(state)
    with monkeypatch.context() as patch:

        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        patch.setattr(engine, "_update_grid", interrupt)
        with pytest.raises(KeyboardInterrupt):
            solver.step(state)
    assert torch.equal(solver.step(state).x, expected.x)
