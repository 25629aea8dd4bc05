"""Trajectories of a data set: what goes in, and what each kind of problem gives for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.grid.pdes import Darcy, Grid
from .pde_flows import Advance, Flow, Solutions, quiet
from .pde_poisson import Poisson
from .pde_sets import PdeSet

__all__ = ["UNITS", "coordinates", "sides", "solve", "try_first"]

UNITS = {
    "velocity": "m/s", "vorticity": "1/s", "pressure": "Pa", "smoke": "kg/m³", "temperature": "K",
    "smoke_source": "kg/m³/s", "heat_source": "K/s",
}  # fmt: skip
"""Of fields that have the same unit in every set."""


def solve(
    pde: Any, own: PdeSet, seeds: Sequence[int], like: Tensor, advance: Advance = quiet
) -> Solutions:
    """Solutions of a set for some seeds.

    Args:
        pde, own: the problem, and its set with the sizes that were asked for.
        seeds: of the trajectories.
        like: dtype and device.
        advance: called with the number of new frames.

    Raises:
        StabilityError, ConvergenceError, StateError: of the solver.
    """
    inputs = _inputs(pde, own, seeds, like)
    if isinstance(pde, Flow):
        return pde.solve(inputs, own.frames, own.frame_steps, like, advance)
    if isinstance(pde, (Darcy, Poisson)):
        u = pde.solve(inputs).cpu()
        advance(len(seeds))
        return Solutions(_named(pde, u[:, None]), {own.input: inputs.cpu()})
    state, frames = pde.initial_state(inputs), []
    prepared = pde.prepare(None, state)
    for frame in range(own.frames):
        for _ in range(own.frame_steps if frame else 0):
            state = pde.step(state, None, prepared)
        frames.append(state.u.cpu())
        advance(len(seeds))
    return Solutions(_named(pde, torch.stack(frames, 1)), {})


def try_first(pde: Any, own: PdeSet, seed: int, like: Tensor) -> None:
    """Raise what the first step or the check of the first input raises."""
    inputs = _inputs(pde, own, [seed], like)
    if isinstance(pde, Flow):
        pde.first_step(inputs, like)
    elif isinstance(pde, Poisson):
        pde.check(inputs)
    elif isinstance(pde, Darcy):
        pde.spread(None, inputs)
    else:
        pde.step(pde.initial_state(inputs))


def coordinates(grid: Grid) -> dict[str, Tensor]:
    """Cell centres [m] per axis, float64."""
    points = grid.points(torch.zeros((), dtype=torch.float64)).movedim(-1, 0)
    pairs = zip(grid.axes, grid.cells, strict=True)
    return {axis: points[a].movedim(a, 0).reshape(n, -1)[:, 0] for a, (axis, n) in enumerate(pairs)}


def sides(pde: Any) -> dict[str, tuple[str, str]]:
    """The Well's type of each side that is not periodic, and what holds there."""
    if isinstance(pde, Flow):
        return pde.sides
    return {
        side: ("WALL", f"{wall.alpha:g} u + {wall.beta:g} k du/dn = {wall.gamma:g}")
        for side, wall in pde.grid.walls.items()
    }


def _inputs(pde: Any, own: PdeSet, seeds: Sequence[int], like: Tensor) -> Any:
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    if isinstance(pde, Flow):
        return [pde.scene(generator) for generator in draws]
    assert own.sample is not None
    return torch.cat([own.sample(pde.grid, generator) for generator in draws]).to(like)


def _named(pde: Any, u: Tensor) -> dict[str, Tensor]:
    """Fields (B, T, C, *cells) by name; the components of a velocity are one."""
    channels: tuple[str, ...] = pde.channels
    if len(channels) == pde.grid.dim > 1 and channels[0].endswith("_x"):
        return {channels[0][:-2]: u}
    return {name: u[:, :, c : c + 1] for c, name in enumerate(channels)}
