"""Contact as a term of the solver: a tool presses and drags a sheet; gradients through all steps."""

from __future__ import annotations

import pytest
import torch
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.shapes import Capsule, Plane
from rheograd.sim.fem.contact import ObstacleContact, Surface, SurfaceContact, boundary_triangles
from rheograd.sim.fem.meshes import box, rectangle
from rheograd.sim.fem.model import FEMControl, FEMModel, Handle
from rheograd.sim.fem.parts import Sheet, Solid
from rheograd.sim.fem.solver import FEMConfig, SolverFEM


def points(mesh, place):
    """Vertices about a place [m], float64, and cells."""
    x, cells = mesh
    x = torch.nn.functional.pad(x.double(), (0, 3 - x.shape[1]))
    return x - x.mean(0) + torch.tensor(place, dtype=torch.float64), cells


def gel_on_sheet(lags=1):
    """A gel block, held at its top, above a sheet that lies over a floor."""
    sheet, cells = points(rectangle((3, 3), (0.018, 0.018)), (0, 0, 4e-4))
    gel, tets = points(box((1, 1, 1), (8e-3, 8e-3, 4e-3)), (1.3e-3, 7e-4, 2.8e-3))
    n = len(sheet)
    x = torch.cat((sheet, gel))
    top = (gel[:, 2] > gel[:, 2].max() - 1e-9).nonzero()[:, 0] + n
    driven = torch.zeros(len(x), dtype=torch.bool)
    driven[top] = True
    surface = Surface(
        x,
        torch.cat((cells, torch.as_tensor(boundary_triangles(tets)) + n)),
        groups=("sheet", "gel"),
        group=(torch.arange(len(x)) >= n).long(),
        driven=driven,
    )
    between = SurfaceContact(surface, 5e-4, 1e4, {("sheet", "gel"): 0.6}, eps_v=5e-3)
    floor = Collider(Plane(), name="floor", friction=0.2)
    below = ObstacleContact(surface, [floor], 5e-4, 1e4, eps_v=5e-3)
    model = FEMModel(
        x,
        [
            Sheet(name="sheet", cells=cells, E=1e6, nu=0.3, rho=800.0, h=2e-4),
            Solid(name="gel", cells=tets + n, E=1e5, nu=0.3, rho=1000.0),
        ],
        handles=[Handle("grip", top, position=tuple(x[top].mean(0).tolist()))],
        contacts=[between, below],
    )
    return SolverFEM(model, FEMConfig(tol=1e-9, lags=lags)), between, below, n


def test_gradients_through_pressing_and_dragging(generator):
    """Stick and slip against central differences; the second solve of a step lags at the first."""
    solver, between, below, n = gel_on_sheet(lags=2)
    weight = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    values = {
        "twist": torch.tensor([[0, 0, -0.04, 0, 0, 0], [0.04, 0.01, -0.01, 0, 0, 1.0]]).double(),
        "contact.stiffness": torch.tensor(1e4).double(),
        "contact.friction_sheet_gel": torch.tensor(0.6).double(),
        "obstacles.stiffness": torch.tensor(1e4).double(),
        "obstacles.friction_sheet_floor": torch.tensor(0.2).double(),
    }

    def run(v, steps=4):
        state = solver.model.initial_state()
        params: dict = {"contact": {}, "obstacles": {}}
        for key, value in v.items():
            if "." in key:
                group, name = key.split(".")
                params[group][name] = value
        for i in range(steps):
            control = FEMControl(twist=v["twist"][min(i // 2, 1)][None, None])
            state = solver.step(state, control, params)
            assert float(between.min_distance(state.x)) > 0
            assert float(below.min_distance(state.x, state.pose)) > 0
        return (state.x[0, :n] * weight).sum()

    leaves = {k: v.clone().requires_grad_() for k, v in values.items()}
    grads = torch.autograd.grad(run(leaves), list(leaves.values()))
    # One direction over all inputs, of the size of each.
    way = {k: v.abs() + 1e-2 for k, v in values.items()}
    product = sum((g * way[k]).sum() for k, g in zip(values, grads, strict=True))
    assert all(float(g.abs().max()) > 0 for g in grads)
    h = 1e-4
    ends = (run({k: v + t * way[k] for k, v in values.items()}) for t in (h, -h))
    high, low = (float(e) for e in ends)
    assert (high - low) / (2 * h) == pytest.approx(float(product), rel=1e-4)


def test_a_rolling_tool_of_a_handle_pushes_a_sheet():
    """A rigid capsule that comes down and turns drags the sheet by friction; nothing is entered."""
    sheet, cells = points(rectangle((8, 3), (0.02, 0.015)), (0, 0, 4e-4))
    surface = Surface(sheet, cells)
    tool = Collider(Capsule(4e-3, 0.02), name="tool", friction=1.0)
    floor = Collider(Plane(), name="floor")
    contact = ObstacleContact(surface, [tool, floor], 5e-4, 1e4, handles=[0, None], eps_v=5e-3)
    # The capsule lies along y.
    handle = Handle("tool", position=(0, 0, 5e-3), orientation=(0.5**0.5, 0.5**0.5, 0, 0))
    part = Sheet(name="sheet", cells=cells, E=1e6, nu=0.3, rho=800.0, h=2e-4)
    model = FEMModel(sheet, [part], handles=[handle], contacts=[contact])
    solver = SolverFEM(model, FEMConfig(tol=1e-8, lags=2))
    state = model.initial_state()
    for i in range(7):
        down, turn = (-0.02, 0.0) if i < 4 else (0.0, -20.0)
        twist = torch.tensor([[[0, 0, down, 0, turn, 0]]], dtype=torch.float64)
        state = solver.step(state, FEMControl(twist=twist))
        assert float(contact.min_distance(state.x, state.pose)) > 0
    # The surface of the tool moves with 20 rad/s × 4 mm, a little more at the other side of the gap.
    assert float(state.v[0, :, 0].mean()) == pytest.approx(0.085, abs=0.01)


def test_the_solver_refuses_a_start_that_cuts():
    solver, _, _, n = gel_on_sheet()
    state = solver.model.initial_state()
    state.x[0, n:, 2] -= 1e-3
    with pytest.raises(InputError, match="through triangle"):
        solver.step(state)
