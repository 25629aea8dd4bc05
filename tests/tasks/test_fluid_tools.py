"""Tools: sizes, walls, distances after sampling, files, and that a cup holds water."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import ROOT
from rheograd.assets.tools import TOOLS
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.laws import Liquid
from rheograd.sim.core.mesh_shape import count_open_edges
from rheograd.sim.core.sampling import sample_shape
from rheograd.sim.core.shapes import Cylinder
from rheograd.sim.mpm import Grid, Group, MPMConfig, MPMModel, SolverMPM
from rheograd.tasks.fluid.tools import solid, tool

F64 = torch.float64


def points_in(shape, count=50_000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low, high = (torch.tensor(b, dtype=F64) for b in shape.bounds())
    return low + (high - low) * torch.rand(count, 3, generator=generator, dtype=F64)


def test_the_tools_that_fluid_tasks_need_are_there():
    assert set(TOOLS) == {"cup", "bowl", "ladle", "plate", "tank", "cone", "stirrer", "glass"}
    for geometry in TOOLS.values():
        assert geometry.about and geometry.friction >= 0


@pytest.mark.parametrize("name", TOOLS)
def test_sampled_tool_agrees_with_its_solid(name):
    shape, exact = tool(name), solid(name)
    assert count_open_edges(shape.faces) == 0 and shape.exact == exact
    p = points_in(exact)
    d, n = exact.signed_distance(p)
    lipschitz = (d - d.roll(1, 0)).abs() - (p - p.roll(1, 0)).norm(dim=-1)
    assert float(lipschitz.max()) <= 1e-13
    # On the surface itself a trilinear d is off by dx²/8R, and no rod has R below two cells.
    foot = (p - d[:, None] * n)[d.abs() < 2 * shape.dx]
    rest, direction = exact.signed_distance(foot)
    foot, direction = foot[rest.abs() < 1e-12], direction[rest.abs() < 1e-12]
    assert len(foot) > 200
    value, normal = shape.signed_distance(foot)
    cosine = (normal * direction).sum(-1)
    assert float(value.abs().median()) < shape.dx / 16
    assert float(value.abs().quantile(0.99)) < 0.25 * shape.dx
    assert float(cosine.median()) > 0.995 and float(cosine.quantile(0.03)) > 0.9
    # The volume of the mesh is that of the solid: five standard errors, and 2 % for its edges.
    box = math.prod(b - a for a, b in zip(*exact.bounds(), strict=True))
    share = float((d < 0).double().mean())
    sigma = box * math.sqrt(share * (1 - share) / len(p))
    assert abs(shape.volume() - share * box) < 5 * sigma + 0.02 * shape.volume()


@pytest.mark.parametrize("name", ["cup", "glass", "bowl", "plate", "cone", "ladle"])
def test_walls_are_as_thick_as_asked(name):
    """On center lines d = −wall/2, and half a wall to the side is the surface."""
    for scale, wall in ((1.0, None), (2.0, 0.03)):
        geometry = TOOLS[name]
        thick = geometry.wall if wall is None else wall
        shape = solid(name, scale, wall)
        if geometry.arcs:
            rho, z, radius, start, stop = geometry.arcs[0]
            middle = 0.5 * (start + stop)
            place = (rho + radius * math.cos(middle), z + radius * math.sin(middle))
            across = (math.cos(middle), math.sin(middle))
        else:
            a, b = geometry.lines[-1][:2], geometry.lines[-1][2:]
            place = (0.5 * (a[0] + b[0]), 0.5 * (a[1] + b[1]))
            length = math.dist(a, b)
            across = ((b[1] - a[1]) / length, (a[0] - b[0]) / length)
        for offset, expected in ((0.0, -thick / 2), (thick / 2, 0.0), (-thick / 2, 0.0)):
            rho, z = (scale * p + offset * n for p, n in zip(place, across, strict=True))
            # To the side where no handle is.
            d = shape.signed_distance(torch.tensor([0.0, rho, z], dtype=F64))[0]
            assert abs(float(d) - expected) < 1e-12, (offset, float(d))


def test_capacity():
    """What the descriptions promise, in litres to 3 %."""
    for name, height, litres in (
        ("cup", 0.09, 0.44), ("glass", 0.13, 0.42), ("bowl", 0.09, 1.53),
        ("ladle", 0.045, 0.19), ("tank", 0.3, 45.0),
    ):  # fmt: skip
        shape = solid(name)
        (x0, y0, _), (x1, y1, _) = shape.bounds()
        side = min(x1, y1, -x0, -y0) if name != "tank" else None
        generator = torch.Generator().manual_seed(1)
        p = torch.rand(200_000, 3, generator=generator, dtype=F64)
        size = p.new_tensor((x1, y1, height) if side is None else (side, side, height))
        p = p * size  # a quarter of the vessel
        solid_wall = shape.signed_distance(p)[0] < 0
        if name == "tank":
            inner = (p[:, 0] < 0.25) & (p[:, 1] < 0.15)
        else:
            inner = p[:, :2].norm(dim=-1) < side - TOOLS[name].wall
        # Free, above the floor and inside the wall: nothing solid lies further in at that height.
        free = inner & ~solid_wall
        if name in ("bowl", "ladle"):
            _, z, radius, _, _ = TOOLS[name].arcs[0]
            free &= (p - p.new_tensor((0, 0, z))).norm(dim=-1) < radius - 0.5 * TOOLS[name].wall
        if name == "glass":
            free &= (
                p[:, 0].square() + p[:, 1].square()
                < (0.0295 - 0.0015 + 0.008 * p[:, 2] / 0.13) ** 2
            )
        if name == "cup":
            free &= ~((p[:, 2] < 0.008) & ((p[:, :2].norm(dim=-1) - 0.032).clamp(min=0).square()
                                           + (p[:, 2] - 0.008).square() > 0.008**2))  # fmt: skip
        volume = 4e3 * float(free.double().mean() * size.prod())
        assert abs(volume / litres - 1) < 0.03, (name, volume)


def test_scale_and_wall():
    small, large = solid("ladle"), solid("ladle", 3.0)
    p = points_in(small, 1000)
    torch.testing.assert_close(
        3 * small.signed_distance(p)[0], large.signed_distance(3 * p)[0], rtol=0, atol=1e-13
    )
    assert tool("cup") is tool("cup") and tool("cup", 2.0) != tool("cup")


def test_numbers_stay_small():
    files = [ROOT / "assets/tools.py", ROOT / "docs/images/tools.png"]
    assert all(file.stat().st_size < 200_000 for file in files)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tool("spoon"),
        lambda: solid("cup", scale=0.0),
        lambda: solid("cup", wall=0.0),
        lambda: solid("cup", wall=-0.01),
        lambda: tool("plate", wall=1e-4),
    ],
)
def test_errors_name_the_remedy(make):
    with pytest.raises(InputError, match=r"expected .*; got .*\. \w"):
        make()


def test_cup_holds_water():
    """A cup four times as large, walls of two cells: after 0.3 s all water is inside and at rest."""
    dx, wall, floor = 0.025, 0.05, 0.1
    shape = tool("cup", scale=4.0, wall=wall)
    law = Liquid(rho=1000.0, bulk=1e5, eta=1e-3)
    radius, depth = 4 * 0.042 - 0.5 * wall, 0.2
    inside = 4 * -0.002 + 0.5 * wall  # top of the floor in the frame of the cup
    fill = Cylinder(radius - 0.25 * dx, 0.5 * depth)
    x, volume = sample_shape(fill, 0.5 * dx, position=(0.3, 0.3, floor + inside + 0.5 * depth))
    # The round corner of the bottom is not water.
    away = shape.signed_distance(x - x.new_tensor((0.3, 0.3, floor)))[0] > 0.25 * dx
    x = x[away]
    cup = Collider(shape, (0.3, 0.3, floor), name="cup")
    model = MPMModel(
        Grid((0.0, 0.0, 0.0), (0.6, 0.6, 0.6), dx),
        [Group("water", law, x, volume)],
        colliders=[cup],
    )
    solver = SolverMPM(model, MPMConfig(dt=1e-3, substeps=20))
    state = model.initial_state()
    with torch.no_grad():
        for _ in range(15):
            state = solver.step(state, None, None)
    local = state.x[0] - state.x.new_tensor((0.3, 0.3, floor))
    d, _ = shape.signed_distance(local)
    outside = (local[:, :2].norm(dim=-1) > 4 * 0.042) | (local[:, 2] < 4 * -0.002)
    # Contact at grid nodes lets water into the surface by less than a cell, and never through.
    assert int(outside.sum()) == 0
    assert float(d.min()) > -dx
    assert float(state.v.norm(dim=-1).max()) < 0.5
