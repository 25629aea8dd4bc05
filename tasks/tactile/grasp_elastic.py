"""GraspElastic: two pads grasp a soft cube and lift it, without slip.

    terms: see `grasping`

The cube is an elastic solid in the same implicit scene; contact is between the meshes.

Source: Si et al. 2024 (DiffTactile), grasping of elastic objects, its slip ratio as a force that lacks.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from ...sim.core.colliders import Collider
from ...sim.core.shapes import Plane
from ...sim.fem.meshes import box
from .grasping import GraspConfig, Grasping
from .scene import Scene, Touch

__all__ = ["GraspElastic", "GraspElasticConfig", "GraspElasticNano"]


@dataclasses.dataclass(frozen=True)
class GraspElasticConfig(GraspConfig):
    """Scene of the elastic cube."""

    cells: int = 4
    """Cells along a side of the cube."""
    E: float = 6e4
    """Its Young's modulus [Pa]; soft rubber."""
    rho: float = 4000.0
    """Its density [kg/m³]; rubber filled with metal, 11 g."""


class GraspElastic(Grasping):
    """Grasp a soft cube and lift it by 5 mm. Actions are velocities x, z [m/s] and pitch [rad/s] of the
    gripper, and that of its opening. Solved at a lift error of 1 mm and a slip of 1 mm."""

    Config = GraspElasticConfig
    config: GraspElasticConfig

    def build(self, scene: Scene) -> None:
        c = self.config
        self.pads(scene, 1.2 * c.d_hat)
        X, tets = box((c.cells,) * 3, (c.size,) * 3)
        X = X + X.new_tensor([-0.5 * c.size, -0.5 * c.size, 0.8 * c.d_hat])
        scene.solid("cube", X, tets, E=c.E, nu=0.4, rho=c.rho)
        scene.plate(Collider(Plane(), name="floor"))

    def touch(self) -> Touch:
        ignore = [("left", "floor"), ("right", "floor")]
        return dataclasses.replace(super().touch(), ignore=ignore)

    def height(self, state: Any) -> Tensor:
        return self.points(state, "cube")[..., 2].mean(1)


@dataclasses.dataclass(frozen=True)
class GraspElasticNanoConfig(GraspElasticConfig):
    """`GraspElasticConfig` at a coarser resolution, with longer steps."""

    horizon: int = 12
    """Actions per episode; 0.12 s."""
    dt: float = 1e-2
    """Step [s]."""
    close: int = 3
    """Steps in which the nominal command closes."""
    cuts: int = 2
    """Cells of a pad along its sides."""
    layers: int = 1
    """Cells of a pad in depth."""
    order: int = 1
    """Of the pads' cells."""
    cells: int = 2
    """Cells along a side of the cube."""


class GraspElasticNano(GraspElastic):
    """`GraspElastic` for tests."""

    Config = GraspElasticNanoConfig
