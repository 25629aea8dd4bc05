"""Push-out: thin and fast colliders do not leak, and nothing else changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from mpm_scenes import F64, block, mixed, shaken
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.laws import Liquid, NeoHookean
from rheograd.sim.core.sampling import sample_shape
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.sim.mpm import Grid, Group, MPMConfig, MPMControl, MPMModel, RigidBody, SolverMPM


def sweep(
    thickness: float, speed: float, push_out: bool, engine: str = "warp"
) -> tuple[int, int, int]:
    """Particles that crossed a plate drawn 0.25 m through a pool, those inside it, and all of them.

    Args:
        thickness: Of the plate, in cells.
        speed: Of the plate [m/s].
        push_out: Of the collider.
        engine: Of the solver.
    """
    dx, dt, place = 0.04, 4e-4, 0.513
    half = 0.5 * thickness * dx
    x, volume = sample_shape(
        Box((0.5, 1.0, 0.15)), dx / 2, position=(0.5, 0.0, 0.15), dim=2, dtype=F64
    )
    x = x[(x[:, 0] - place).abs() > half]
    plate = Collider(Box((half, 1.0, 0.6)), (place, 0.0, 0.4), push_out=push_out)
    water = Group("water", Liquid(bulk=5e4, eta=1.0), x, volume)
    model = MPMModel(Grid((0.0, 0.0), (1.0, 1.0), dx), [water], colliders=[plate])
    solver = SolverMPM(model, MPMConfig(dt=dt, substeps=10, engine=engine))
    state = model.initial_state(dtype=F64)
    twist = torch.tensor([[[-speed, 0.0, 0.0, 0.0, 0.0, 0.0]]], dtype=F64)
    with torch.no_grad():
        for _ in range(int(0.25 / (speed * solver.step_time))):
            state = solver.step(state, MPMControl(tool_twist=twist))
    offset = state.x[0, :, 0] - state.tool_pose[0, 0, 0]
    crossed = (offset < 0) != (x[:, 0] < place)
    return int(crossed.sum()), int((offset.abs() < half - 1e-9).sum()), len(x)


@pytest.mark.parametrize("thickness,speed", [(0.25, 0.5), (0.25, 3.0), (1.0, 1.0)])
def test_a_thin_plate_leaks_only_without_push_out(thickness: float, speed: float) -> None:
    leaked, _, total = sweep(thickness, speed, push_out=False)
    assert leaked > 0.05 * total
    assert sweep(thickness, speed, push_out=True)[:2] == (0, 0)


def test_a_plate_that_passes_a_particle_within_a_substep_takes_it_along() -> None:
    """The plate is 2 mm thick and moves 20 mm per substep; the particles stand still."""
    model = block(NeoHookean(E=1e3, nu=0.3), n=3, gravity=(0.0, 0.0, -1e-30))
    plate = Collider(Box((0.001, 0.4, 0.4)), (0.385, 0.5, 0.5), push_out=True)
    model = dataclasses.replace(model, colliders=[plate])
    twist = torch.zeros(1, 1, 6, dtype=F64)
    twist[..., 0] = 20.0
    for engine in ("warp", "torch"):
        solver = SolverMPM(model, MPMConfig(dt=1e-3, substeps=5, engine=engine))
        state = model.initial_state(dtype=F64)
        state = state.replace(v=torch.zeros_like(state.v))
        end = solver.step(state, MPMControl(tool_twist=twist))
        front = float(end.tool_pose[0, 0, 0]) + 0.001
        assert front > 0.48 and float(state.x[..., 0].min()) < 0.45
        assert float(end.x[..., 0].min()) > front - 1e-12, engine


def test_particles_outside_are_left_alone() -> None:
    model = mixed(3)
    far = [Collider(Sphere(0.05), (0.9, 0.9, 0.9), push_out=on) for on in (False, True)]
    ends = []
    for collider in far:
        scene = dataclasses.replace(model, colliders=[*model.colliders, collider])
        ends.append(SolverMPM(scene, MPMConfig(dt=2e-4, substeps=5)).step(shaken(scene)))
    for name, tensor in ends[0].tensors().items():
        assert torch.equal(ends[1].tensors()[name], tensor), name


def test_a_body_moves_particles_but_not_their_momentum() -> None:
    model = block(NeoHookean(E=1e4, nu=0.3), n=5, gravity=(0.0, 0.0, -1e-30))
    body = RigidBody(Sphere(0.08), (0.5, 0.5, 0.52), rho=500.0, velocity=(0, 0, 2.0), push_out=True)
    model = dataclasses.replace(model, colliders=[body])
    solver = SolverMPM(model, MPMConfig(dt=5e-4, substeps=40))
    state = model.initial_state(dtype=F64)
    mass = solver.prepare(None, state).mass[..., None]
    weight = body.rho * body.shape.volume()

    def momentum(s) -> torch.Tensor:
        return (mass * s.v).sum(1) + weight * s.body_twist[:, 0, :3]

    inside = (state.x - torch.tensor(body.position, dtype=F64)).norm(dim=-1) < 0.08
    end = solver.step(state)
    assert bool(inside.any())
    assert float((end.x - end.tool_pose[:, :1, :3]).norm(dim=-1).min()) > 0.08 - 1e-9
    assert float((momentum(end) - momentum(state)).norm() / momentum(state).norm()) < 1e-12
