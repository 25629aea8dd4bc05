"""The four reference scenes, their trajectories and unseen throws.

A block of one material flies, turns and hits the walls of a box. Operators import no simulator, so
a scene is data; `scene.solver(mpm)` builds it with the module `rheograd.sim.mpm`, which the caller
hands in.

Source: Ma et al. 2023 (NCLaw), §4 and released configurations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.backend import one_thread
from ...sim.core.errors import InputError
from ...sim.core.laws import JELLY, PLASTICINE, SAND, WATER, Law
from ...sim.core.rollout import rollout

__all__ = [
    "THROW_SEEDS",
    "ReferenceScene",
    "Trajectory",
    "metric_mse_every5",
    "nclaw_scene",
    "one_thread",
    "predict",
    "random_throw",
    "rigid_velocities",
    "simulate_truth",
]

MATERIALS: dict[str, Law] = {
    "jelly": JELLY,
    "plasticine": PLASTICINE,
    "sand": SAND,
    "water": WATER,
}
THROW_SEEDS = (1, 7, 8)
"""Seeds of the unseen throws."""


@dataclasses.dataclass(frozen=True)
class ReferenceScene:
    """A block with an initial rigid motion in a box with separating walls."""

    law: Law
    """The true law."""
    x: Tensor
    """Rest positions [m], (N, 3)."""
    volume: float
    """Rest volume per particle [m³]."""
    velocity: tuple[float, float, float]
    """Linear velocity of the block [m/s]."""
    angular: tuple[float, float, float]
    """Angular velocity about its center [rad/s]."""
    lower: tuple[float, float, float] = (0.1, 0.1, 0.1)
    """Lower corner of the box [m]."""
    upper: tuple[float, float, float] = (0.9, 0.9, 0.9)
    """Upper corner of the box [m]."""
    dx: float = 0.05
    """Node spacing [m]; the reference's coarse grid of 20 cells per meter."""
    dt: float = 5e-4
    """Time step [s]."""
    gravity: tuple[float, float, float] = (0.0, 0.0, -9.8)
    """[m/s²]; the reference's value."""

    def velocities(self) -> Tensor:
        """Initial velocities v + ω × (x − x̄) [m/s], (N, 3)."""
        return rigid_velocities(self.x, self.velocity, self.angular)

    def solver(self, mpm: Any, law: Law | None = None, *, engine: str = "warp") -> Any:
        """The scene as a solver of one substep per step.

        Args:
            mpm: the module `rheograd.sim.mpm`.
            law: a law in place of the true one, for example from `neural_law`.
            engine: as in `MPMConfig`.
        """
        group = mpm.Group("block", law or self.law, self.x, self.volume, self.velocities())
        grid = mpm.Grid(self.lower, self.upper, self.dx, padding=2)
        model = mpm.MPMModel(grid, [group], gravity=self.gravity)
        return mpm.SolverMPM(model, mpm.MPMConfig(dt=self.dt, substeps=1, engine=engine))


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """All states of one body over time."""

    x: Tensor
    """Positions [m], (T + 1, N, 3)."""
    v: Tensor
    """Velocities [m/s], (T + 1, N, 3)."""
    C: Tensor
    """Affine velocities [1/s], (T + 1, N, 3, 3)."""
    F: Tensor
    """Elastic deformation gradients, (T + 1, N, 3, 3); liquids: J^⅓ I."""

    @property
    def steps(self) -> int:
        """Number of steps T, one less than the states."""
        return self.x.shape[0] - 1

    def head(self, steps: int) -> Trajectory:
        """The first `steps` steps."""
        if not 1 <= steps <= self.steps:
            raise InputError(
                f"Trajectory.head: 1 … {self.steps} steps; got {steps}. Simulate a longer one."
            )
        return Trajectory(*(getattr(self, name)[: steps + 1] for name in ("x", "v", "C", "F")))

    def to(self, *args: Any, **kwargs: Any) -> Trajectory:
        """Copy on another device or in another precision, as `Tensor.to`."""
        return Trajectory(*(getattr(self, n).to(*args, **kwargs) for n in ("x", "v", "C", "F")))

    def states(self, template: Any, frames: Sequence[int] | Tensor) -> Any:
        """States of some frames as scenes of one batch.

        Args:
            template: a state of the solver that will continue, B = 1; gives the fields that a
                trajectory does not have.
            frames: B frame numbers.

        Internal variables of hardening laws start at their initial value.

        Raises:
            InputError: if the solver has another number of particles.
        """
        index = torch.as_tensor(frames, device=self.x.device)
        B = index.shape[0]
        N = self.F.shape[1]
        if N not in (template.F.shape[1], template.J.shape[1]):
            raise InputError(
                f"Trajectory.states: a solver of {N} particles; got one with F of "
                f"{template.F.shape[1]} and J of {template.J.shape[1]}. Use the particles of the "
                "trajectory."
            )
        fields: dict[str, Tensor] = {"x": self.x[index], "v": self.v[index], "C": self.C[index]}
        if template.J.shape[1]:
            fields["J"] = torch.linalg.det(self.F[index])
        else:
            fields["F"] = self.F[index]
        return template.replace(
            **{
                name: fields.get(name, t.expand(B, *t.shape[1:]))
                for name, t in template.tensors().items()
            }
        )


def nclaw_scene(
    material: str,
    *,
    velocity: tuple[float, float, float] = (-2.0, 1.0, -1.5),
    angular: tuple[float, float, float] = (4.0, 4.0, 4.0),
    resolution: int = 10,
) -> ReferenceScene:
    """The training scene of a material: a cube at the center of the unit box.

    The reference cube has 10³ particles and edges of 0.5 m. Other resolutions make a smaller or larger
    cube with the same spacing: one particle per cell is the least at which particles touch.

    Args:
        material: "jelly", "plasticine", "sand" or "water".
        velocity: linear velocity [m/s], z up. The reference writes (1, −1.5, −2) with y up; its
            axes (z, x, y) are our (x, y, z), which keeps handedness.
        angular: angular velocity [rad/s].
        resolution: particles per edge [-], both faces included.

    Raises:
        InputError: unknown material.

    Source: Ma et al. 2023 (NCLaw), released configuration of the dataset.
    """
    if material not in MATERIALS:
        raise InputError(
            f"nclaw_scene: a material out of {sorted(MATERIALS)}; got {material!r}. Choose one, or "
            "build a ReferenceScene with your own law."
        )
    half = 0.25 * (resolution - 1) / 9
    axis = torch.linspace(0.5 - half, 0.5 + half, resolution)
    x = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return ReferenceScene(MATERIALS[material], x, 0.05**3, velocity, angular)


def rigid_velocities(x: Tensor, velocity: Sequence[float], angular: Sequence[float]) -> Tensor:
    """v + ω × (x − x̄) [m/s] of points [m], (N, 3)."""
    v, w = x.new_tensor(velocity), x.new_tensor(angular)
    arm = x - x.mean(0)
    return v + torch.linalg.cross(w.expand_as(arm), arm, dim=-1)


def random_throw(material: str, seed: int) -> ReferenceScene:
    """The block thrown downward in a random direction at up to 3 m/s, turning at up to 3 rad/s.

    Args:
        material: as in `nclaw_scene`.
        seed: seed of direction (uniform in a cube, then normalized, down), speed U(0, 3) m/s and
            angular velocity U(0, 3)³ rad/s.

    Source: Ma et al. 2023 (NCLaw), §4.3 (generalization over velocity).
    """
    generator = torch.Generator().manual_seed(seed)
    d = torch.rand(3, generator=generator, dtype=torch.float64) * 2 - 1
    d[2] = -d[2].abs()
    speed = 3 * torch.rand(1, generator=generator, dtype=torch.float64)
    w = 3 * torch.rand(3, generator=generator, dtype=torch.float64)
    return nclaw_scene(
        material, velocity=tuple((speed * d / d.norm()).tolist()), angular=tuple(w.tolist())
    )


@torch.no_grad()
def simulate_truth(solver: Any, steps: int, *, dtype: torch.dtype = torch.float32) -> Trajectory:
    """Trajectory of a solver with one group of particles from its initial state.

    Args:
        solver: for example `nclaw_scene("jelly").solver(mpm)`.
        steps: number of steps T.
        dtype: precision.
    """
    with one_thread():
        states = rollout(solver, solver.model.initial_state(dtype=dtype), steps).states
    F = torch.cat([s.F for s in states])
    if states[0].J.shape[1]:
        J = torch.cat([s.J for s in states])
        F = J.pow(1 / 3)[..., None, None] * torch.eye(3, dtype=dtype)
    x, v, C = (torch.cat([getattr(s, name) for s in states]) for name in ("x", "v", "C"))
    return Trajectory(x, v, C, F)


@torch.no_grad()
def predict(solver: Any, truth: Trajectory, params: Any = None) -> Tensor:
    """Positions [m] of a free rollout from the first state of `truth` over its length.

    Args:
        solver: a solver with the law to judge.
        truth: gives the first state and the number of steps T.
        params: as in `solver.prepare`.

    Returns:
        Shape (T + 1, N, 3).
    """
    template = solver.model.initial_state(dtype=truth.x.dtype, device=truth.x.device)
    with one_thread():
        states = rollout(solver, truth.states(template, [0]), truth.steps, params).states
    return torch.cat([s.x for s in states])


def metric_mse_every5(x: Tensor, truth: Tensor) -> float:
    """Mean square of the position errors [m²] over every fifth frame, particles and axes.

    Args:
        x: predicted positions [m], (T + 1, N, 3).
        truth: true positions [m], same shape.

    Source: Ma et al. 2023 (NCLaw), §4.1.
    """
    return float((x[::5] - truth[::5]).square().mean())
