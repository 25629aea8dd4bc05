"""Emitters: where and how fast particles enter, alone and carried by a tool."""

from __future__ import annotations

import math

import pytest
import torch
from mpm_scenes import F64
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.gradients import taylor_test
from rheograd.sim.core.laws import Liquid
from rheograd.sim.core.shapes import Sphere
from rheograd.sim.mpm import Emitter, Grid, Group, MPMConfig, MPMControl, MPMModel, SolverMPM

WATER = Liquid(bulk=1e4)


def jet(dim: int, tool: str = "") -> MPMModel:
    middle = (0.5,) * (dim - 1)
    emitter = Emitter(
        position=(0.1,) + (0.0,) * (dim - 1) if tool else (*middle, 0.6),
        velocity=(1.0,) + (0.0,) * (dim - 1),
        radius=0.02,
        rate=1000.0,
        tool=tool,
    )
    group = Group("jet", WATER, torch.zeros(20, dim, dtype=F64), 1e-6, emitter=emitter)
    # Too small to meet a node: only the emitter is tested here.
    robot = Collider(Sphere(1e-3), (0.53, 0.54 if dim == 3 else 0.0, 0.62), name="robot")
    grid = Grid((0.0,) * dim, (1.0,) * dim, 0.1)
    return MPMModel(
        grid, [group], colliders=[robot] if tool else [], gravity=(0.0,) * (dim - 1) + (-1e-30,)
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_particles_leave_the_opening_without_gaps(dim: int) -> None:
    """After t, particle i of rate r has travelled v (t − i/r) from the opening."""
    solver = SolverMPM(jet(dim), MPMConfig(dt=4e-4, substeps=25))
    end = solver.step(solver.model.initial_state(dtype=F64))
    times = torch.arange(10, dtype=F64) / 1000.0
    x = end.x[0, :10]
    torch.testing.assert_close(x[:, 0], 0.5 + 1.0 * (0.01 - times), rtol=0, atol=1e-3)
    assert float((x[:, -1] - 0.6).abs().max()) <= 0.02 + 1e-9
    assert bool((end.v[0, 10:] == 0).all())


def test_a_carried_emitter_moves_and_turns_with_its_tool() -> None:
    """Turned by 90° about y, x becomes −z; the exit velocity adds to that of the opening."""
    solver = SolverMPM(jet(3, "robot"), MPMConfig(dt=1e-4, substeps=1))
    state = solver.model.initial_state(dtype=F64)
    half = math.pi / 4
    pose = torch.tensor([0.53, 0.54, 0.62, math.cos(half), 0.0, math.sin(half), 0.0], dtype=F64)
    twist = torch.tensor([0.2, 0.0, 0.0, 0.0, 3.0, 0.0], dtype=F64)
    end = solver.step(
        state.replace(tool_pose=pose.reshape(1, 1, 7)),
        MPMControl(tool_twist=twist.reshape(1, 1, 6)),
    )
    # ω × arm = (0, 3, 0) × (0, 0, −0.1) = (−0.3, 0, 0); the random place in the opening adds ω · 2 cm
    expected = torch.tensor([0.2 - 0.3, 0.0, -1.0], dtype=F64)
    torch.testing.assert_close(end.v[0, 0], expected, rtol=0, atol=3.0 * 0.02)
    assert abs(float(end.x[0, 0, 2]) - 0.52) < 0.021


def test_gradients_reach_the_tool_that_carries_the_emitter() -> None:
    solver = SolverMPM(jet(3, "robot"), MPMConfig(dt=4e-4, substeps=25))
    state = solver.model.initial_state(dtype=F64)
    inputs = {
        "pose": state.tool_pose + 0.01,
        "twist": torch.tensor([[[0.2, 0.1, 0.3, 1.0, 2.0, 3.0]]], dtype=F64),
        "velocity": torch.tensor([[[1.0, 0.1, -0.2]]], dtype=F64),
    }

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        control = MPMControl(values["twist"], values["velocity"])
        end = solver.step(state.replace(tool_pose=values["pose"]), control)
        return (end.x**2).sum() + (end.v**3).sum()

    report = taylor_test(loss, inputs, generator=torch.Generator().manual_seed(0), eps0=1e-3)
    assert report.rate >= 1.9, report
