"""Mixing: a rod stirs a lump of milk into coffee.

    ℓ(x, t) = 1 − L + stops

L is Lacey's index over cells of 10 mm: 0 when milk and coffee are separate, 1 when every cell holds the
share that a random order would give it. The rod moves freely for five eighths of each cycle and returns
to the middle in the rest, where the milk is.

The bowl and the rod are those of `latte_art_stir`; the milk is a cube of 22.5 mm that sits on the coffee
and sinks into it. Both liquids have 0.1 Pa s, as cream: in the 1.6 Pa s of `latte_art_stir` little mixes.

Source: Xian et al. 2023 (FluidLab), task Mixing, at 0.15 m per unit length. Its objective, the mean
distance between milk particles, is the metric `spread` here; it also grows when milk only drifts apart
in two lumps. Lacey 1954 for the index.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ...sim.core.laws import Liquid
from ...sim.core.shapes import Box
from ...sim.mpm import Group, MPMState
from .latte_art_stir import MIDDLE, StirConfig, Stirring
from .measures import Cells, lacey_index, pair_distance

__all__ = ["Mixing", "MixingConfig", "MixingNano"]


@dataclasses.dataclass(frozen=True)
class MixingConfig(StirConfig):
    """Scene, numbers and criterion of `Mixing`."""

    eta: float = 0.1
    """Viscosity of both liquids [Pa s]: cream."""
    horizon: int = 2000
    """Actions per episode; 2.3 s."""
    substeps: int = 4
    """Substeps per action."""
    cycle: tuple[int, int] = (50, 30)
    """Actions during which the rod is free, and during which it returns."""
    cube: float = 0.0225
    """Side of the cube of milk [m]."""
    milk_spacing: float = 1.5e-3
    """Mean distance of particles of milk [m]; 3 400 particles."""
    cells: float = 0.01
    """Scale at which mixing is judged [m]."""
    mixed: float = 0.75
    """Solved when Lacey's index ends above this [-]."""


class Mixing(Stirring):
    """Stir until the milk is everywhere."""

    Config = MixingConfig
    config: MixingConfig
    offset = 0.03

    def milk(self, law: Liquid) -> Group:
        c = self.config
        half = 0.5 * c.cube
        place = (MIDDLE, MIDDLE, c.depth + half)
        return self.still("milk", law, Box((half,) * 3), place, spacing=c.milk_spacing)

    def velocity(self, state: MPMState, action: Tensor) -> Tensor:
        free, back = self.config.cycle
        phase = (state.substep // self.substeps) % (free + back)
        if phase < free:
            return action
        left = (free + back - phase) * self.solver.step_time
        here = self.places(state)
        return (here.new_tensor(self.home()) - here) / left

    def script(self) -> Tensor:
        """Circles about the middle, a person's way of stirring."""
        t = torch.arange(self.horizon + 1, dtype=torch.float64) * self.solver.step_time
        angle = 2 * torch.pi * 4 * t
        return self.figure(0.02 * torch.cos(angle), 0.02 * torch.sin(angle))

    def _lacey(self, state: MPMState) -> Tensor:
        grid = self.model.grid
        kind = torch.zeros(state.x.shape[1]).to(state.x)
        kind[self.slices["milk"]] = 1.0
        cells = Cells.over(grid.lower, grid.upper, self.config.cells)
        return lacey_index(state.x, kind, cells, self.model.volumes(kind.dtype, kind.device))

    def terms(self, state: MPMState, t: int) -> dict[str, Tensor]:
        return {"unmixed": 1 - self._lacey(state)}

    def metrics(self, state: MPMState) -> dict[str, Tensor]:
        """lacey [-]: Lacey's index; spread [m]: mean distance of 200 particles of milk; (B,)."""
        state = state.detach()
        milk = state.x[:, self.slices["milk"]]
        some = milk[:, :: max(1, milk.shape[1] // 200)]
        return {"lacey": self._lacey(state), "spread": pair_distance(some)}

    def success(self, state: MPMState) -> Tensor:
        """Whether Lacey's index is above `mixed`, (B,) bool."""
        return self.metrics(state)["lacey"] >= self.config.mixed


@dataclasses.dataclass(frozen=True)
class MixingNanoConfig(MixingConfig):
    """`MixingConfig` at a third of the resolution and of the time: a rollout takes a second."""

    horizon: int = 80
    """Actions per episode; 0.75 s."""
    dx: float = 7.5e-3
    """Grid spacing [m]."""
    spacing: float = 5e-3
    """Mean distance of particles of coffee [m]; 1 900 particles."""
    milk_spacing: float = 3e-3
    """Mean distance of particles of milk [m]; 420 particles."""
    dt: float = 9.375e-4
    """Substep [s]."""
    substeps: int = 10
    """Substeps per action."""
    cycle: tuple[int, int] = (25, 15)
    """Actions during which the rod is free, and during which it returns."""


class MixingNano(Mixing):
    """`Mixing` for tests."""

    Config = MixingNanoConfig
    search_defaults = {"gradient": {"expand": False, "lr": 0.15}}
