"""Circulation: an air conditioner that can only turn cools two thirds of a room and spares the rest.

    ℓ(x, t) = (1/P) Σ_i |θ_i − θ*_i|,      θ = (T − T_cold)/(T_hot − T_cold)

θ_i are fifteen thermometers; five in the corner behind the wall shall stay warm (θ* = 1), five in the
corner before it and five across the room shall get cool (θ* = 0). Actions are yaw rates of the fan.

The room measures 6.4 m by 6.4 m, of which a horizontal layer of 0.35 m is simulated, without lift: all
air is 30 °C at first, the fan blows with 15 °C. The air has no viscosity of its own, since the grid
adds more than air has.

Source: Xian et al. 2023 (FluidLab), task Circulation: thermometers, fan and their places at 0.05 m per
cell. Its room is a mesh we do not have; one wall between the two corners is ours.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.shapes import Box
from ...sim.grid import GasConfig, GasControl, GasModel, GasSolver, GasState, Nozzle
from ..axes import Axis, AxisTask
from .measures import probe

__all__ = ["Circulation", "CirculationConfig", "CirculationNano"]

WARM = ((25, 85), (35, 85), (15, 85), (25, 75), (25, 95))
COOL = (
    *((25, 42), (35, 42), (15, 42), (25, 32), (25, 52)),
    *((107, 65), (115, 65), (99, 65), (107, 45), (107, 85)),
)
"""Places of the thermometers [0.05 m], from the source."""


@dataclasses.dataclass(frozen=True)
class CirculationConfig:
    """Scene, numbers and criterion of `Circulation`."""

    horizon: int = 1000
    """Actions per episode; 30 s."""
    dt: float = 0.03
    """Step of the gas and length of an action [s]."""
    cells: int = 128
    """Cells along the sides of the room; 5 cm each."""
    layers: int = 7
    """Cells across the simulated layer."""
    strength: float = 40.0
    """Acceleration of the air at the fan [m/s²]."""
    radius: float = 0.1
    """Length over which the fan's effect decays [m]; two cells."""
    hot: float = 303.15
    """Temperature of the room at first [K]."""
    cold: float = 288.15
    """Temperature of the fan's air [K]."""
    speed: float = 3.0
    """Largest yaw rate [rad/s]."""
    keep: float = 302.15
    """Solved when the warm thermometers show this on average [K], at least, …"""
    reach: float = 290.15
    """… and the cool ones this at most [K]."""
    jitter: float = 0.0
    """Random change of the fan's place [m]: seeds other than 0 move it by up to this along x and y."""


class Circulation(AxisTask[GasState]):
    """Cool by turning a fan. Actions are its yaw rate [rad/s]."""

    Config = CirculationConfig
    config: CirculationConfig

    def __init__(self, config: CirculationConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        dx = 6.4 / c.cells
        wall = Collider(Box((1.1, 0.2, 10.0)), (1.1, 3.2, 0.0), name="wall")
        fan = Nozzle(
            "fan",
            (3.52, 2.24, 0.5 * c.layers * dx),
            (-0.3, 1.0, 0.0),
            strength=c.strength,
            radius=c.radius,
            rate=20.0,
            temperature=c.cold,
        )
        self.model = GasModel(
            (c.cells, c.cells, c.layers),
            dx,
            walls="slip",
            obstacles=[wall],
            nozzles=[fan],
            gravity=(0.0, 0.0, 0.0),
            ambient=c.hot,
        )
        self.solver = GasSolver(self.model, GasConfig(dt=c.dt))
        self._drive((Axis("fan", "yaw", c.speed),), ["fan"])
        places = 0.05 * torch.tensor(WARM + COOL, dtype=torch.float64)
        self.thermometers = torch.cat(
            (places, torch.full_like(places[:, :1], 0.5 * c.layers * dx)), 1
        )
        """Places of the thermometers [m], warm ones first, (15, 3)."""

    def reset(
        self,
        *,
        batch_size: int = 1,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> GasState:
        """Hot air at rest, B times; with `jitter` and a seed other than 0, the fan stands elsewhere."""
        state = self.model.initial_state(batch_size, dtype=dtype, device=device)
        if self.config.jitter and seed:
            generator = torch.Generator().manual_seed(seed)
            unit = 2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1
            pose = state.nozzle_pose.clone()
            pose[:, 0, :2] += (self.config.jitter * unit).to(pose)
            state = state.replace(nozzle_pose=pose)
        return state

    def poses(self, state: GasState) -> Tensor:
        return state.nozzle_pose

    def with_twist(self, twist: Tensor) -> GasControl:
        return GasControl(nozzle_twist=twist)

    def script(self) -> Tensor:
        """A person's guess: first to the corner on the left, then across to the right."""
        c = self.config
        actions = torch.zeros(c.horizon, 1)
        turn = round(1.5 / (0.5 * c.speed * c.dt))
        actions[:turn] = 0.5 * c.speed
        middle = c.horizon // 2
        actions[middle : middle + 2 * turn] = -0.5 * c.speed
        return actions

    def readings(self, state: GasState) -> Tensor:
        """Temperatures at the thermometers [K], (B, 15). Differentiable in the state."""
        layer = state.temperature.mean(-1)
        half = 0.5 * self.model.dx
        return probe(layer, self.thermometers[:, :2].to(layer), (half, half), self.model.dx)

    def terms(self, state: GasState, t: int) -> dict[str, Tensor]:
        c, n = self.config, len(WARM)
        theta = (self.readings(state) - c.cold) / (c.hot - c.cold)
        share = 1 / theta.shape[1]
        return {
            "warm": share * (theta[:, :n] - 1).abs().sum(-1),
            "cool": share * theta[:, n:].abs().sum(-1),
        }

    def metrics(self, state: GasState) -> dict[str, Tensor]:
        """warm, cool: mean readings of the two kinds [K], (B,)."""
        readings, n = self.readings(state.detach()), len(WARM)
        return {"warm": readings[:, :n].mean(-1), "cool": readings[:, n:].mean(-1)}

    def success(self, state: GasState) -> Tensor:
        """Whether the warm corner is above `keep` and the rest below `reach`, (B,) bool."""
        found = self.metrics(state)
        return (found["warm"] >= self.config.keep) & (found["cool"] <= self.config.reach)

    def observation(self, state: GasState) -> Tensor:
        """What a policy sees, (B, O): time; place and direction of the fan; thermometers; and the mean
        temperature and velocity of 8 × 8 parts of the room. Differentiable in the state."""
        c = self.config
        pose = state.nozzle_pose[:, 0]
        yaw = self.places(state)
        fields = [(state.temperature - c.cold) / (c.hot - c.cold)]
        fields += self.model.grid.at_cells(state.u).unbind(-1)[:2]
        coarse = torch.nn.functional.adaptive_avg_pool2d(
            torch.stack([f.mean(-1) for f in fields], 1), 8
        )
        time = torch.full_like(yaw, state.t / (c.horizon * c.dt))
        theta = (self.readings(state) - c.cold) / (c.hot - c.cold)
        return torch.cat((time, pose[:, :2], yaw.sin(), yaw.cos(), theta, coarse.flatten(1)), -1)

    def picture(self, state: GasState, **options: Any) -> Any:
        """The middle layer, colored by temperature, with the thermometers and the fan."""
        from ...viz import Marker, Scene

        model, layer = self.model, self.config.layers // 2
        state = state.detach()
        x = model.grid.points(None, state.temperature)[:, :, layer]
        inside = Box((1.1, 0.2, 10.0)).signed_distance(
            x.reshape(-1, 3) - x.new_tensor((1.1, 3.2, 0))
        )
        air = (inside[0] > 0).reshape(x.shape[:-1])
        warm = len(WARM)
        marks = [
            Marker((*p, model.dx * self.config.layers), 0.12, "#ffd400" if i < warm else "#12a150")
            for i, p in enumerate(self.thermometers[:, :2].tolist())
        ]
        items = {
            "x": x[air],
            "values": state.temperature[0, :, :, layer][air] - 273.15,
            "label": "temperature [°C]",
            "clim": (self.config.cold - 273.15, self.config.hot - 273.15),
            "cmap": "coolwarm",
            "spacing": model.dx,
            "markers": marks,
        }
        return Scene(**{**items, **options})


@dataclasses.dataclass(frozen=True)
class CirculationNanoConfig(CirculationConfig):
    """`CirculationConfig` on a coarse grid: a rollout within a second."""

    horizon: int = 60
    """Actions per episode; 12 s."""
    dt: float = 0.2
    """Step of the gas and length of an action [s]."""
    cells: int = 32
    """Cells along the sides of the room; 20 cm each."""
    layers: int = 1
    """Cells across the simulated layer."""
    strength: float = 15.0
    """Acceleration of the air at the fan [m/s²]."""
    radius: float = 0.3
    """Length over which the fan's effect decays [m]."""


class CirculationNano(Circulation):
    """`Circulation` for tests."""

    Config = CirculationNanoConfig
    search_defaults = {"gradient": {"expand": False, "lr": 0.1}}
