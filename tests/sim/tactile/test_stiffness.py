"""A gel block under a ball and under a flat punch: closed forms, whatever the mesh.

Half-space: F = 4/3 E* √R δ^{3/2} for a ball (Hertz), F = 2 a E* δ for a flat circle. The block has a
thickness h and a held back, which stiffens it: Dimitriadis et al. 2002, Eq. 11, for the ball; the same
first-order shift of the surface for the punch. A square of side 2b acts as a circle of a = 1.142 b
(King 1987). δ is the depth of the gel below the middle, which leaves out the gap of the barrier.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.shapes import Box, Sphere
from rheograd.sim.fem import FEMConfig
from rheograd.sim.tactile import GelSensor, pad

E, NU, GAP = 1e5, 0.45, 2e-5
SIZE = (48e-3, 48e-3, 24e-3)
PLANE = E / (1 - NU**2)
SHIFT = -(1.2876 - 1.4678 * NU + 1.3442 * NU**2) / (1 - NU)
CURVE = (0.6387 - 1.0277 * NU + 1.5164 * NU**2) / (1 - NU)


def ball_force(R, depth):
    a, b, x, p = SHIFT, CURVE, math.sqrt(R * depth) / SIZE[2], math.pi
    layer = 1 - 2 * a / p * x + 4 * a**2 / p**2 * x**2
    layer -= 8 / p**3 * (a**3 + 4 * p**2 / 15 * b) * x**3
    layer += 16 * a / p**4 * (a**3 + 3 * p**2 / 5 * b) * x**4
    return 4 / 3 * PLANE * math.sqrt(R) * depth**1.5 * layer


def punch_force(half, depth):
    a = 1.142 * half
    return 2 * a * PLANE * depth / (1 + 2 * SHIFT / math.pi * a / SIZE[2])


def press(mesh, shape, height, depth, steps=2):
    """Depth of the middle, force, its reaction, and points that touch."""
    tool = Collider(shape, position=(0, 0, SIZE[2] + height + GAP), name="tool")
    config = FEMConfig(scheme="static", tol=1e-7)
    sensor = GelSensor(mesh, tools=[tool], d_hat=GAP, stiffness=1e4, gravity=(0.0, 0.0, 0.0), E=E,
                       nu=NU, config=config)  # fmt: skip
    state = sensor.start()
    move = torch.zeros(1, 1, 6, dtype=torch.float64)
    move[..., 2] = -depth / steps / sensor.dt
    for _ in range(steps):
        before, state = state, sensor.step(state, tools=move)
    reading = sensor.read(before, state)
    middle = int((mesh.X - torch.tensor([0, 0, SIZE[2]])).norm(dim=1).argmin())
    depth = float(mesh.X[middle, 2] - state.x[0, middle, 2])
    touching = int((reading.node_force[0, :, 2] < 0).sum())
    return depth, -float(reading.contact_force[0, 2]), -float(reading.force[0, 2]), touching


@functools.lru_cache
def under_a_ball(cells):
    R = 60e-3
    depth, force, reaction, touching = press(pad(SIZE, cells, focus=8), Sphere(R), R, 4e-4)
    assert force == pytest.approx(reaction, rel=1e-4)
    assert touching >= 25
    return force / ball_force(R, depth)


def lined_up(rows, outer, half, layers):
    """A pad with the edge of a punch between two lines of points, `rows` + ½ lines from the middle."""
    fine = 2 * half / (rows + 0.5)  # cell size where the punch is, two lines each
    inside = fine * np.arange(rows // 2 + 2)
    ends = np.linspace(0, 1, outer + 1)[1:]
    grown = inside[-1] + (SIZE[0] / 2 - inside[-1]) * ends**1.7
    line = np.concatenate((inside, grown))
    line = np.concatenate((-line[:0:-1], line))
    count = len(line) - 1
    mesh = pad(SIZE, (count, count, layers))
    at = np.linspace(-SIZE[0] / 2, SIZE[0] / 2, count + 1)
    X = mesh.X.clone()
    X[:, :2] = torch.from_numpy(np.interp(X[:, :2].numpy(), at, line))
    depth = np.linspace(0, 1, layers + 1)
    heights = np.interp(X[:, 2].numpy(), SIZE[2] * depth, SIZE[2] * (1 - (1 - depth) ** 1.7))
    X[:, 2] = torch.from_numpy(heights)
    return dataclasses.replace(mesh, X=X)


@functools.lru_cache
def under_a_punch(rows, outer, layers):
    half, thick = 5e-3, 5e-3
    mesh = lined_up(rows, outer, half, layers)
    depth, force, reaction, touching = press(mesh, Box((half, half, thick)), thick, 1e-4)
    assert force == pytest.approx(reaction, rel=1e-4)
    assert (2 * rows - 1) ** 2 < touching <= (2 * rows + 1) ** 2
    return force / punch_force(half, depth)


BALLS = [(6, 6, 3), (8, 8, 4), (10, 10, 3)]
PUNCHES = [(3, 2, 3), (5, 2, 3), (7, 2, 3)]


def test_a_ball_on_the_coarsest_mesh():
    """25 points touch."""
    assert under_a_ball(BALLS[0]) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_a_ball_does_not_see_the_mesh():
    """25 to 77 points touch: within 10 % of theory and 5 % of each other."""
    found = [under_a_ball(cells) for cells in BALLS]
    assert max(abs(f - 1) for f in found) < 0.1
    assert max(found) / min(found) < 1.05


@pytest.mark.slow
def test_a_flat_punch_does_not_see_the_mesh():
    """49 to 225 points touch. Its edge stands between a line of mid nodes and one of corners."""
    found = [under_a_punch(*mesh) for mesh in PUNCHES]
    assert max(abs(f - 1) for f in found) < 0.1
    assert max(found) / min(found) < 1.05
