"""What a scene is that a neural law is judged on: bodies in the unit box, and how they begin."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ...operators.nclaw.data import MATERIALS, rigid_velocities
from ...sim import mpm
from ...sim.core.errors import InputError
from ...sim.core.laws import Law
from ...sim.core.sampling import sample_shape
from ...sim.core.shapes import Shape
from .switch import SwitchLaw

__all__ = ["Body", "Scene", "Size", "Vector"]

Size = Literal["nano", "medium", "full"]
Vector = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Body:
    """Particles of one material with a rigid initial motion."""

    material: str
    """Which of the laws moves it."""
    x: Tensor
    """Positions [m], (n, 3)."""
    volume: float
    """Rest volume per particle [m³]."""
    velocity: Vector = (0.0, 0.0, 0.0)
    """Linear velocity [m/s]."""
    angular: Vector = (0.0, 0.0, 0.0)
    """Angular velocity about its center [rad/s]."""
    rho: float = 1e3
    """Density at rest [kg/m³]."""
    melts_to: str = ""
    """Material of the particles below the rising height of `Scene.melting`; empty: none."""

    @classmethod
    def of(
        cls,
        material: str,
        shape: Shape,
        position: Vector,
        spacing: float,
        *,
        orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0),
        mode: str = "grid",
        **motion: Any,
    ) -> Body:
        """A body that fills a shape at a mean distance of particles `spacing` [m]."""
        x, volume = sample_shape(
            shape,
            spacing,
            position=position,
            orientation=orientation,
            mode=mode,
            generator=torch.Generator().manual_seed(0),
        )
        return cls(material, x, volume, **motion)

    def velocities(self) -> Tensor:
        """v + ω × (x − x̄) [m/s], (n, 3)."""
        return rigid_velocities(self.x, self.velocity, self.angular)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Bodies in the unit box; a law for each of their materials makes it a simulation."""

    name: str
    """Its entry in `SCENES`."""
    bodies: tuple[Body, ...]
    """What moves."""
    steps: int
    """Length [steps of `dt`]."""
    cells: int = 20
    """Grid cells per metre; walls stand two cells inside the unit box."""
    gravity: Vector = (0.0, 0.0, -9.8)
    """[m/s²]; the paper's."""
    dt: float = 5e-4
    """Time of one step [s]; the paper's."""
    melting: tuple[int, int] = (0, 0)
    """Steps between which the height of switching rises from the lowest to the highest particle,
    in initial heights, so that all laws switch the same particles at the same time."""
    every: int = 5
    """Steps between the compared frames."""

    @property
    def materials(self) -> tuple[str, ...]:
        """Names of the laws the scene needs, each once."""
        names = [n for b in self.bodies for n in (b.material, b.melts_to) if n]
        return tuple(dict.fromkeys(names))

    @property
    def particle_count(self) -> int:
        return sum(body.x.shape[0] for body in self.bodies)

    @property
    def substeps(self) -> int:
        """Substeps per step that keep every true law stable; the same for all laws."""
        speeds = [0.0]
        for body in self.bodies:
            for name in filter(None, (body.material, body.melts_to)):
                law = MATERIALS[name]
                speeds.append(math.sqrt(float(law.wave_modulus(law.coefficients())) / body.rho))
        # Half a percent below the bound, against rounding.
        return max(1, math.ceil(max(speeds) * self.dt * self.cells / (0.995 * 0.6)))

    def laws(self, given: Law | Mapping[str, Law] | None) -> dict[str, Law]:
        """The law of every material: given ones, or all true ones.

        Raises:
            InputError: one law for several materials, or a material without law.
        """
        if given is None:
            return {name: MATERIALS[name] for name in self.materials}
        if isinstance(given, Law):
            if len(self.materials) > 1:
                raise InputError(
                    f"Scene {self.name!r}: a law for each of {list(self.materials)}; got one. "
                    "Pass {material: law}."
                )
            return {self.materials[0]: given}
        missing = [name for name in self.materials if name not in given]
        if missing:
            raise InputError(
                f"Scene {self.name!r}: a law for each of {list(self.materials)}; got none for "
                f"{missing}. Add it, for example the true one."
            )
        return {name: given[name] for name in self.materials}

    def solver(
        self, laws: Law | Mapping[str, Law] | None = None, *, engine: str = "warp"
    ) -> mpm.SolverMPM:
        """The scene with these laws; default the true ones."""
        chosen = self.laws(laws)
        groups = []
        for i, body in enumerate(self.bodies):
            law = chosen[body.material]
            if body.melts_to:
                law = SwitchLaw(before=law, after=chosen[body.melts_to])
            groups.append(mpm.Group(f"body{i}", law, body.x, body.volume, body.velocities()))
        wall = 2 / self.cells
        grid = mpm.Grid((wall,) * 3, (1 - wall,) * 3, 1 / self.cells, padding=2)
        model = mpm.MPMModel(grid, groups, gravity=self.gravity)
        n = self.substeps
        return mpm.SolverMPM(model, mpm.MPMConfig(dt=self.dt / n, substeps=n, engine=engine))

    def params(self, step: int) -> dict[str, dict[str, Any]]:
        """Densities, and which particles have switched before a step."""
        params: dict[str, dict[str, Any]] = {}
        level, (first, last) = float("-inf"), self.melting
        if last > first:
            heights = torch.cat([body.x[:, -1] for body in self.bodies])
            share = (step - first) / (last - first)
            level = float(heights.min() + share * (heights.max() - heights.min()))
        for i, body in enumerate(self.bodies):
            params[f"body{i}"] = {"rho": body.rho}
            if body.melts_to:
                switched = body.x[:, -1] <= level
                params[f"body{i}"]["switched"] = switched.to(torch.float32)
        return params
