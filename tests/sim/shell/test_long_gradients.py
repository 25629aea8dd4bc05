"""Twenty steps of a sheet of 5 × 5 points whose first row is driven: in the air, dragged over a plate."""

from __future__ import annotations

import pytest
import torch
from rheograd import rollout
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.shapes import Plane
from rheograd.sim.fem import FEMConfig, FEMControl, FEMModel, Handle, SolverFEM
from rheograd.sim.fem.contact import ObstacleContact, Surface
from rheograd.sim.shell import rectangle

STEPS = 20


def scene(height):
    """A cloth of 20 × 20 mm at a height [m] above a plate with friction."""
    mesh = rectangle((0.02, 0.02), 0.005).placed((0.0, 0.0, height))
    row = mesh.rows(0)
    plate = Collider(Plane(), name="plate", friction=0.3)
    contact = ObstacleContact(Surface(mesh.x, mesh.cells), [plate], 5e-4, 1e3, eps_v=2e-3)
    place = tuple(mesh.x[row].mean(0).tolist())
    model = FEMModel(
        mesh.X, [mesh.sheet("cloth", "cotton")], [Handle("row", row, position=place)],
        contacts=[contact],
    )  # fmt: skip
    solver = SolverFEM(model, FEMConfig(dt=5e-3, tol=1e-10))
    return solver, mesh.x, contact


@pytest.mark.parametrize("height, bound", [(0.1, 1e-4), (1.5e-3, 1e-3)], ids=["air", "plate"])
def test_twenty_steps_against_differences(height, bound, generator):
    """Every twist, the bending rigidity and the friction coefficient, along random directions."""
    solver, x, contact = scene(height)
    twists = torch.zeros(STEPS, 6, dtype=torch.float64)
    twists[:8, 2], twists[8:, 0], twists[8:, 4] = -0.02, -0.08, 1.0
    point = {
        "twists": twists[None],
        "k_bend": torch.ones(1, 1, dtype=torch.float64),
        "friction": torch.full((1, 1), 0.3, dtype=torch.float64),
    }
    weight = torch.randn(25, 3, dtype=torch.float64, generator=generator)

    def run(v, scenes=1):
        controls = [FEMControl(twist[:, None]) for twist in v["twists"].unbind(1)]
        params = {
            "cloth": {"k_bend": v["k_bend"]},
            "obstacles": {"friction_body_plate": v["friction"][:, 0]},
        }
        start = solver.model.initial_state(scenes, x=x)
        end = rollout(solver, start, controls, params, save_every=STEPS).final
        return (end.x * weight).sum((1, 2)), end

    leaves = {k: v.clone().requires_grad_() for k, v in point.items()}
    value, end = run(leaves)
    touches = float(contact.min_distance(end.x.detach(), end.pose)) < contact.d_hat
    assert touches == (height < 0.05)
    gradients = torch.autograd.grad(value.sum(), list(leaves.values()))
    noise = torch.randn(STEPS, 6, dtype=torch.float64, generator=generator)
    size = torch.tensor([0.01, 0.01, 0.01, 1.0, 1.0, 1.0], dtype=torch.float64)
    ways = {k: (noise * size)[None] if k == "twists" else v for k, v in point.items()}
    # All differences are one batch: two scenes for each input.
    many = {k: v.repeat(6, *[1] * (v.ndim - 1)) for k, v in point.items()}
    for k, (name, way) in enumerate(ways.items()):
        many[name][2 * k] += 1e-4 * way[0]
        many[name][2 * k + 1] -= 1e-4 * way[0]
    with torch.no_grad():
        found = run(many, 6)[0]
    for k, (name, gradient) in enumerate(zip(point, gradients, strict=True)):
        slope = float(found[2 * k] - found[2 * k + 1]) / 2e-4
        along = float((gradient * ways[name]).sum())
        if name == "friction" and not touches:
            assert along == slope == 0
        else:
            assert along == pytest.approx(slope, rel=bound), name
