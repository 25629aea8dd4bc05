"""GraspPlastic: two pads grasp a cube of clay and lift it, without slip and without dents.

    terms: see `grasping`, and   state   w(t) ((1 − IoU)/0.1)²/4
    IoU = Σ min(o, o₀)/Σ max(o, o₀),   o = min(1, material in a cell/volume of the cell)

The clay is made of material points with von Mises plasticity, coupled to the pads (`sim/coupling`). o is
its occupancy on a grid that goes along with its mean, o₀ that at the start. The nominal command closes so
far that the clay yields.

Source: Si et al. 2024 (DiffTactile), grasping of plastic objects.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ...sim.core.laws import VonMises
from ...sim.core.sampling import sample_shape
from ...sim.core.shapes import Box
from ...sim.coupling import CoupledControl, CoupledSolver, ParticleContact
from ...sim.fem import FEMControl, FEMState
from ...sim.mpm import Grid, Group, MPMConfig, MPMModel, SolverMPM
from .grasping import GraspConfig, Grasping
from .scene import Scene
from .states import PlasticState

__all__ = ["GraspPlastic", "GraspPlasticConfig", "GraspPlasticNano"]


@dataclasses.dataclass(frozen=True)
class GraspPlasticConfig(GraspConfig):
    """Scene of the clay."""

    horizon: int = 60
    """Actions per episode; 0.3 s."""
    dx: float = 2e-3
    """Cells of the material's grid [m]; two points to a side."""
    substeps: int = 50
    """Steps of the material in one of the pads."""
    E: float = 5e4
    """Young's modulus of the clay [Pa]; soft."""
    yield_stress: float = 2e3
    """[Pa]."""
    rho: float = 1500.0
    """Density of the clay [kg/m³]; 4.1 g."""
    k_n: float = 3e7
    """Contact stiffness [Pa/m]."""
    closing: float = 0.06
    """Largest speed of closing, of each pad [m/s]."""
    squeeze: float = 1.5e-3
    """How far the nominal command closes each pad after touching [m]: too far."""
    iou: float = 0.9
    """Solved with at least this overlap of the shape with that at the start [-]."""


class GraspPlastic(Grasping):
    """Grasp clay and lift it by 5 mm. Actions are velocities x, z [m/s] and pitch [rad/s] of the gripper,
    and that of its opening. Solved at a lift error of 1 mm, a slip of 1 mm and an IoU of 0.9."""

    Config = GraspPlasticConfig
    config: GraspPlasticConfig
    touching = 0.0

    def build(self, scene: Scene) -> None:
        self.pads(scene, 2e-4)

    def make_solver(self) -> CoupledSolver:
        c = self.config
        half, spacing = 0.5 * c.size, 0.5 * c.dx
        x, volume = sample_shape(Box((half, half, half)), spacing, position=(0.0, 0.0, half))[:2]
        self._cell = 2 * float(volume) ** (1 / 3)
        law = VonMises(E=c.E, nu=0.3, rho=c.rho, yield_stress=c.yield_stress)
        wide, high = (c.dx * math.ceil(n * c.size / c.dx) for n in (1.5, 2.5))
        grid = Grid((-wide, -wide, 0.0), (wide, wide, high), c.dx)
        self.clay = MPMModel(grid, [Group("clay", law, x, volume)], walls="separate")
        mpm = SolverMPM(self.clay, MPMConfig(dt=c.dt / c.substeps, substeps=1))
        faces = torch.cat([self.scene.faces[n] for n in ("left", "right")])
        touch = ParticleContact(faces, k_n=c.k_n, k_t=0.5 * c.k_n, friction=c.mu_gel)
        return CoupledSolver(self.fem, mpm, touch)

    def first(self, state: FEMState, world: Tensor | None) -> PlasticState:
        coupled = self.solver.solver
        clay = self.clay.initial_state(state.batch_size, dtype=torch.float64)
        both = coupled.initial_state(state, clay)
        seen = state.x.new_zeros(state.batch_size, 2)
        return both.widened(PlasticState, seen=seen, home=state.pose.clone(), world=world)

    @property
    def substeps(self) -> int:
        return self.config.substeps

    def movable(self):
        return ()

    def bodies(self, state: Any) -> FEMState:
        return state.fem

    def with_handles(self, twist: Tensor) -> CoupledControl:
        return CoupledControl(fem=FEMControl(twist=twist))

    def height(self, state: Any) -> Tensor:
        return state.mpm.x[..., 2].mean(1)

    def occupancy(self, state: Any) -> Tensor:
        """Share of each cell that is filled, about the mean of the material, (B, n³). Differentiable."""
        x, h = state.mpm.x, self._cell
        n = math.ceil(2 * self.config.size / h)
        place = (x - x.mean(1, keepdim=True)) / h + 0.5 * (n - 1)
        base = place.detach().floor().clamp(0, n - 2)
        part = (place - base).clamp(0, 1)
        out = torch.zeros(len(x), n**3).to(x)
        for corner in range(8):
            bits = x.new_tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1])
            weight = torch.where(bits > 0, part, 1 - part).prod(-1)
            cell = (base + bits).long() @ torch.tensor([n * n, n, 1], device=x.device)
            out = out.scatter_add(1, cell, weight / 8)
        return out.clamp(max=1)

    def overlap(self, state: Any) -> Tensor:
        """IoU with the shape at the start [-], (B,). Differentiable."""
        here, start = self.occupancy(state), self.occupancy(self.origin(state))
        return torch.minimum(here, start).sum(1) / torch.maximum(here, start).sum(1)

    def state_terms(self, state: Any, t: int) -> dict[str, Tensor]:
        lost = (1 - self.overlap(state)) / 0.1
        return super().state_terms(state, t) | {"shape": 0.25 * self.weight(t) * lost.square()}

    def metrics(self, state: Any) -> dict[str, Tensor]:
        """Those of `Grasping`, and iou [-]."""
        return super().metrics(state) | {"iou": self.overlap(state.detach())}

    def reached(self, state: Any) -> Tensor:
        """Lift within 1 mm, slip within 1 mm, IoU of at least 0.9, (B,) bool."""
        return super().reached(state) & (self.overlap(state) >= self.config.iou)

    def hidden(self, state: Any) -> dict[str, Tensor]:
        """As of all tasks; of the clay, mean displacement [m] and velocity [m/s], (B, 1, 3)."""
        x, v = (z.mean(1, keepdim=True).double() for z in (state.mpm.x, state.mpm.v))
        start = self.origin(state).mpm.x.mean(1, keepdim=True).double()
        return {"displacements": x - start, "velocities": v, **super().hidden(state)}

    def picture(self, state: Any) -> Any:
        x = state.mpm.x[0].detach().cpu().numpy()
        clay = {"x": x, "spacing": 0.5 * self._cell, "groups": {"clay": (0, len(x))}}
        return dataclasses.replace(super().picture(state), **clay)


@dataclasses.dataclass(frozen=True)
class GraspPlasticNanoConfig(GraspPlasticConfig):
    """`GraspPlasticConfig` at a coarser resolution, with longer steps."""

    horizon: int = 12
    """Actions per episode; 0.1 s."""
    dt: float = 8e-3
    """Step [s]."""
    dx: float = 4e-3
    """Cells of the material's grid [m]."""
    substeps: int = 32
    """Steps of the material in one of the pads."""
    close: int = 4
    """Steps in which the nominal command closes."""
    cuts: int = 2
    """Cells of a pad along its sides."""
    layers: int = 1
    """Cells of a pad in depth."""
    order: int = 1
    """Of the pads' cells."""


class GraspPlasticNano(GraspPlastic):
    """`GraspPlastic` for tests."""

    Config = GraspPlasticNanoConfig
