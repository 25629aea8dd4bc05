"""Material points against deformable bodies: an explicit and an implicit solver hand in hand.

One step of length dt = S h, from the states at its start:

    the surface goes on, y(t) = x + t v;  S substeps of the material with contact at y(t) (`particles`)
    F = mean reaction,  K = mean stiffness of contact at each point of the surface
    the body takes its implicit step with the force F − K (y − y(dt))

The last term, the reaction's answer to where the body really goes, is what keeps soft, light gels stable
against heavy, stiff objects (a Robin condition). It vanishes with dt², and is the only momentum that the
two sides do not exchange exactly; `CoupledState.missing` holds it.

Source: Badia, Nobile & Vergara 2008 (Robin partitioned procedures); Si et al. 2024 (DiffTactile) for the
setting.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError, message
from ..core.poses import carry, integrate_pose
from ..core.state import State
from ..fem.contact.settings import not_negative, positive
from ..fem.model import FEMControl, FEMState
from ..fem.solver import SolverFEM
from ..mpm.model import MPMControl, MPMState
from ..mpm.solver import SolverMPM
from .particles import nearest_triangles, touch

__all__ = ["CoupledControl", "CoupledSolver", "CoupledState", "ParticleContact"]


@dataclasses.dataclass(frozen=True, eq=False)
class ParticleContact:
    """How particles touch surfaces of the bodies."""

    triangles: Tensor
    """Outward triangles of the bodies' points that touch, (F, 3)."""
    k_n: float = 1e8
    """Normal stiffness [Pa/m]: 10 kPa press particles 0.1 mm deep."""
    k_t: float = 5e7
    """Tangential stiffness [Pa/m]."""
    friction: float = 0.5
    """μ [-]."""
    name: str = "particles"
    """Key in `params`."""

    def __post_init__(self) -> None:
        where = f"ParticleContact {self.name!r}"
        cells = torch.as_tensor(self.triangles)
        object.__setattr__(self, "triangles", cells.long())
        if cells.ndim != 2 or cells.shape[1] != 3 or not len(cells) or cells.is_floating_point():
            fix = "Give the skin of the body, e.g. boundary_triangles(tets)"
            raise InputError(message(where, "triangles: integers (F, 3)", cells, fix))
        positive(where, "k_n", self.k_n, "Pa/m")
        positive(where, "k_t", self.k_t, "Pa/m")
        not_negative(where, "friction", self.friction, "-")

    def default_params(self) -> dict[str, float]:
        """Stiffnesses [Pa/m] and friction [-] by name."""
        return {"k_n": self.k_n, "k_t": self.k_t, "friction": self.friction}


@dataclasses.dataclass
class CoupledState(State):
    """States of both, and what contact remembers."""

    fem: FEMState
    """Bodies."""
    mpm: MPMState
    """Material points."""
    slip: Tensor
    """Elastic slip of every particle [m], (B, N, 3)."""
    force: Tensor
    """Mean force of the particles on every point of the bodies in the last step [N], (B, M, 3)."""
    missing: Tensor
    """K (y − y(dt)) of the last step [N], (B, 3): what the bodies felt less than the particles."""

    @property
    def t(self) -> float:
        """Time [s]."""
        return self.fem.t


@dataclasses.dataclass
class CoupledControl:
    """Inputs of one step."""

    fem: FEMControl | None = None
    """Handles of the bodies, forces on their points."""
    mpm: MPMControl | None = None
    """Tools and emitters of the material."""


@dataclasses.dataclass
class PreparedCoupled:
    """Parameters of both solvers as they read them, and of the contact, (B,)."""

    fem: Any
    mpm: Any
    contact: dict[str, Tensor]


class CoupledSolver:
    """One solver for bodies and material points that touch.

    Args:
        fem: of the bodies; its `dt` is the step.
        mpm: of the material, in 3-D with one substep per step (`MPMConfig(substeps=1)`), of which the
            `dt` of the bodies holds a whole number.
        contact: between them.

    Raises:
        InputError: solvers whose steps do not fit.

    Differentiable in states, controls and params.
    """

    def __init__(self, fem: SolverFEM, mpm: SolverMPM, contact: ParticleContact) -> None:
        self.fem, self.mpm, self.contact = fem, mpm, contact
        ratio = fem.config.dt / mpm.config.dt
        self.substeps = round(ratio)
        """S, substeps of the material per step."""
        if mpm.config.substeps != 1 or abs(ratio - self.substeps) > 1e-6 * ratio:
            got = f"{mpm.config.substeps} substeps, {ratio:.4g} steps of the material in one"
            fix = "Set MPMConfig(dt=fem_dt / S, substeps=1)"
            raise InputError(message("CoupledSolver", "steps that fit", got, fix))
        if mpm.model.dim != 3 or int(contact.triangles.max()) >= fem.model.point_count:
            got = f"dimension {mpm.model.dim}, triangles up to {int(contact.triangles.max())}"
            expected = f"a material in 3-D, triangles of points below {fem.model.point_count}"
            raise InputError(message("CoupledSolver", expected, got, "Correct the scene"))
        stable = math.sqrt(self._lightest() / contact.k_n)
        if mpm.config.dt > stable:
            fix = f"Lower dt, or k_n to {contact.k_n * (stable / mpm.config.dt) ** 2:.2g} Pa/m"
            expected = f"substeps below sqrt(rho V^(1/3) / k_n) = {stable:.2g} s"
            raise InputError(message("CoupledSolver", expected, f"{mpm.config.dt:.2g} s", fix))

    def _lightest(self) -> float:
        """Least mass per area of a particle, ρ V^⅓ [kg/m²]."""
        volumes = self.mpm.model.volumes(torch.float64, "cpu")
        parts = self.mpm.model.slices().items()
        laws = {g.name: g.law for g in self.mpm.model.groups}
        return min(
            float(torch.as_tensor(laws[name].rho).min() * volumes[part].min() ** (1 / 3))
            for name, part in parts
        )

    @property
    def states_per_step(self) -> int:
        """States a step keeps for its backward pass."""
        return self.substeps

    def weights(self) -> tuple[Tensor, ...]:
        """Learned tensors inside the laws of the material."""
        return self.mpm.weights()

    def default_params(self) -> dict[str, dict[str, Any]]:
        """Those of both solvers and of the contact."""
        params = {**self.fem.model.default_params(), **self.mpm.default_params()}
        return params | {self.contact.name: self.contact.default_params()}

    def initial_state(self, fem: FEMState, mpm: MPMState) -> CoupledState:
        """Both states with nothing touching yet."""
        slip = torch.zeros_like(mpm.x, dtype=torch.float64)
        return CoupledState(fem, mpm, slip, torch.zeros_like(fem.x), torch.zeros_like(fem.x[:, 0]))

    def prepare(
        self, params: Mapping[str, Mapping[str, Any]] | PreparedCoupled | None, state: CoupledState
    ) -> PreparedCoupled:
        """Parameters `{part or group or contact: {name: value}}` in the form `step` reads; once.

        Raises:
            InputError: unknown names, wrong shapes.
        """
        if isinstance(params, PreparedCoupled):
            return params
        given = {name: dict(values) for name, values in (params or {}).items()}
        values: dict[str, Any] = {**self.contact.default_params()}
        own = given.pop(self.contact.name, {})
        unknown = set(own) - set(values)
        solids, material = self.fem.model.default_params(), self.mpm.default_params()
        strange = [n for n in given if n not in solids and n not in material]
        if unknown or strange:
            known = f"{[*solids, *material, self.contact.name]} and {list(values)}"
            got = f"{sorted(unknown) or strange}"
            raise InputError(message("CoupledSolver.prepare", f"names out of {known}", got))
        B = state.fem.batch_size
        like = state.fem.x
        contact = {k: torch.as_tensor(v).to(like).expand(B) for k, v in (values | own).items()}
        fem = {k: v for k, v in given.items() if k in solids}
        mpm = {k: v for k, v in given.items() if k in material}
        return PreparedCoupled(
            self.fem.prepare(fem, state.fem), self.mpm.prepare(mpm, state.mpm), contact
        )

    def step(
        self, state: CoupledState, control: CoupledControl | None = None, params: Any = None
    ) -> CoupledState:
        """Advance both by the step of the bodies.

        Raises:
            StateError, StabilityError, ConvergenceError, InputError: of either solver.

        Differentiable in state, control and params.
        """
        control = control or CoupledControl()
        prepared = self.prepare(params, state)
        fem, mpm, slip = state.fem, state.mpm, state.slip
        dt, S = self.fem.config.dt, self.substeps
        h = dt / S
        triangles = self.contact.triangles.to(fem.x.device)
        velocity = self._velocity(fem, control.fem, dt)
        volume = self.mpm.model.volumes(torch.float64, fem.x.device)
        reaction, stiffness = torch.zeros_like(fem.x), torch.zeros_like(fem.x[..., 0])
        nearest = nearest_triangles(mpm.x.double(), fem.x + 0.5 * dt * velocity, triangles)
        for s in range(S):
            found = touch(
                mpm.x.double(), mpm.v.double(), slip, volume,
                fem.x + s * h * velocity, velocity, triangles, h,
                **prepared.contact, nearest=nearest,
            )  # fmt: skip
            slip = found.slip
            kick = h * found.force.to(mpm.v) / prepared.mpm.mass.unsqueeze(-1)
            mpm = self.mpm.step(mpm.replace(v=mpm.v + kick), control.mpm, prepared.mpm)
            reaction = reaction + found.reaction / S
            stiffness = stiffness + found.stiffness / S
        anchor = fem.x + dt * velocity
        own = control.fem or FEMControl()
        force = reaction if own.force is None else own.force + reaction
        after = self.fem.step(
            fem,
            dataclasses.replace(own, force=force, spring=stiffness, anchor=anchor),
            prepared.fem,
        )
        missing = (stiffness.unsqueeze(-1) * (after.x - anchor)).sum(1)
        return CoupledState(after, mpm, slip, reaction, missing)

    def _velocity(self, fem: FEMState, control: FEMControl | None, dt: float) -> Tensor:
        """Velocity of all points during the step: driven ones as they are told, others as before."""
        points, owner = (t.to(fem.x.device) for t in self.fem.model.driven)
        if not len(points):
            return fem.v
        twist = None if control is None else control.twist
        twist = torch.zeros_like(fem.pose[..., :6]) if twist is None else twist
        start, end = fem.pose[:, owner], integrate_pose(fem.pose, twist, dt, 1)[1][:, owner]
        moved = carry(fem.x[:, points], start, end)
        return fem.v.index_copy(1, points, (moved - fem.x[:, points]) / dt)
