"""Implicit deformable bodies behind the solver contract.

    m (v' − v)/dt = −∂E/∂x(x') + m g − m c v' + f,    x' = x + dt v'            "euler"

Every scheme is one minimization over positions y (`schemes.py`), solved by Newton's method to a residual
in newtons, and differentiated by one solve with the exact Hessian at the solution:

    H λ = ∂L/∂y,      ∂L/∂θ = −(∂r/∂θ)ᵀ λ      for everything θ that the residual r depends on

Source: Martin et al. 2011 (incremental potential); Li et al. 2020 (IPC); Blondel et al. 2022 (adjoint).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import InputError, check_finite, message
from ..core.implicit import Solution, SolveInfo, implicit_solve
from ..core.poses import carry, integrate_pose
from ..core.state import Params
from .adjoint import HessianSolver, StepResidual
from .assembly import LINEAR
from .elements import Element
from .kept import KeptFactors
from .model import FEMControl, FEMModel, FEMState
from .newton import NewtonInfo, NewtonSettings, newton
from .pattern import Pattern
from .prepare import PreparedFEM, element_terms, prepare
from .schemes import SCHEMES, finish, start_of
from .terms import assemble

__all__ = ["FEMConfig", "SolverFEM"]


@dataclasses.dataclass(frozen=True)
class FEMConfig:
    """Numerical settings of the solver."""

    dt: float = 5e-3
    """Step [s]; controls are constant within it."""
    scheme: Literal["euler", "bdf2", "midpoint", "static"] = "euler"
    """euler: first order, damps; bdf2: second order, damps little; midpoint: second order, keeps energy,
    no contact; static: equilibrium in every step, no inertia."""
    tol: float = 1e-6
    """‖residual‖₂ on the free points of every scene [N], plus what rounding of positions makes of it."""
    max_iterations: int = 100
    """Newton directions per solve."""
    linear: Literal["sparse", "dense", "cg"] = "sparse"
    """sparse: banded Cholesky on the CPU, sparse LU where bands are too wide; dense: Cholesky, batched,
    good on GPUs and below 300 unknowns; cg: conjugate gradients in Warp, 3×3 blocks, CPU and GPU."""
    lags: int = 1
    """Solves per step; each takes the friction's normal forces from the one before."""
    kept_factors: float = 512.0
    """Memory for sparse factors of the last steps, with which the adjoint makes none of its own [MB]; 0:
    it makes them. Gradients are the same to rounding."""


class SolverFEM:
    """Steps a `FEMModel`; one instance serves any batch size and device, in float64.

    Differentiable in the state (positions, velocities, poses, rest angles), the controls (twists,
    forces) and every parameter, rest positions included; once.

    Args:
        model: the scene.
        config: numerical settings.

    Raises:
        InputError: settings out of range, contact with a scheme that does not know it.
    """

    def __init__(self, model: FEMModel, config: FEMConfig | None = None) -> None:
        self.model = model
        self.config = config = config or FEMConfig()
        if not 0 < config.dt < math.inf or not config.tol > 0 or config.lags < 1:
            got = f"dt={config.dt}, tol={config.tol}, lags={config.lags}"
            raise InputError(
                message("SolverFEM", "dt > 0 s, tol > 0 N, lags >= 1", got, "Correct it")
            )
        if not config.kept_factors >= 0:
            got = f"kept_factors={config.kept_factors}"
            raise InputError(message("SolverFEM", "kept_factors >= 0 MB", got, "Correct it"))
        if config.scheme not in SCHEMES or config.linear not in LINEAR:
            got = f"scheme={config.scheme!r}, linear={config.linear!r}"
            expected = f"scheme out of {SCHEMES}, linear out of {LINEAR}"
            raise InputError(message("SolverFEM", expected, got, "Correct the names"))
        if config.scheme == "midpoint" and model.contacts:
            fix = "Use euler or bdf2: the end of a midpoint step is extrapolated and may penetrate"
            raise InputError(message("SolverFEM", "no contact with midpoint", "contacts", fix))
        self._kept = KeptFactors(1e6 * config.kept_factors)
        self.newton = NewtonInfo()
        """What the last step's Newton iteration did."""
        self.adjoint = SolveInfo()
        """What the last adjoint solve did."""

    @property
    def step_time(self) -> float:
        """Duration of one step [s]."""
        return self.config.dt

    @functools.cached_property
    def pattern(self) -> Pattern:
        """Sparsity of the elements."""
        X, dummy = self.model.X[None], self.prepare(None, self.model.initial_state())
        terms = dummy.terms(self.model, 1, self.config.dt, X, None)
        rows = [stencil for term in terms for stencil in term.patterns()]
        return Pattern(rows, self.model.free, self.model.point_count, self.model.X)

    def default_params(self) -> dict[str, dict[str, Any]]:
        """The parameters of the model, in the form `step` takes."""
        return self.model.default_params()

    def prepare(self, params: Params | PreparedFEM | None, state: FEMState) -> PreparedFEM:
        """Check parameters and turn them into what elements read; call once per rollout.

        Args:
            params: values that replace the model's, `{part: {name: number or tensor (B, S)}}`,
                `{contact: {name: number or (B,)}}`, `{"scene": {"X": (N, 3) or (B, N, 3),
                "gravity": (3,) or (B, 3), "drag": number or (B,)}}`.
            state: any state of the rollout.

        Raises:
            InputError: unknown name, wrong shape, value without meaning, inverted rest cell.
        """
        if isinstance(params, PreparedFEM):
            return params
        self.check_state(state)
        return prepare(self.model, params or {}, state.batch_size, state.x)

    def step(
        self,
        state: FEMState,
        control: FEMControl | None = None,
        params: Params | PreparedFEM | None = None,
    ) -> FEMState:
        """Advance by dt.

        Args:
            state: B scenes.
            control: twists of the handles and forces on points.
            params: as in `prepare`, or its result.

        Raises:
            ConvergenceError: Newton's method missed `tol`.
            StateError, InputError: values not finite, inverted elements at the start.

        Differentiable in state, control and params.
        """
        model, config = self.model, self.config
        control = control or FEMControl()
        prepared = self.prepare(params, state)
        self.check_state(state)
        self.check_control(control, state)
        B, h = state.batch_size, config.dt
        scheme = start_of(config.scheme, state, prepared, h, control)
        twist = torch.zeros_like(state.pose[..., :6]) if control.twist is None else control.twist
        pose = integrate_pose(state.pose, twist, h, 1)[1]
        half = integrate_pose(state.pose, twist, scheme.span, 1)[1]
        points, owner = (t.to(state.x.device) for t in model.driven)
        follow = functools.partial(carry, state.x[:, points], state.pose[:, owner])
        needs_start = bool(model.contacts) or prepared.viscous
        theta: dict[str, Any] = {
            "weight": scheme.weight.expand(B, model.point_count),
            "load": scheme.load,
            "driven": follow(half[:, owner]),
            "x_start": state.x if needs_start else None,
            "pose_start": state.pose if model.contacts else None,
            "pose_end": pose if model.contacts else None,
            "bent": state.theta_ref,
            "parts": prepared.parts,
            "contacts": prepared.contacts,
        }
        y = state.x
        self.newton = NewtonInfo()
        for _ in range(config.lags if model.contacts else 1):
            y = self._solve(theta | {"x_lag": y if model.contacts else None}, state, y, scheme.span)
        end = finish(config.scheme, state, y, scheme, pose, points, follow(pose[:, owner]), h)
        return self._flow(end, prepared)

    def _flow(self, state: FEMState, c: PreparedFEM) -> FEMState:
        """The state after its plastic parts have taken new rest angles."""
        model = self.model
        if not any(part.plastic for part in model.parts):
            return state
        bent, alpha = state.theta_ref.clone(), state.alpha.clone()
        slices = model.hinge_slices()
        for part, values in zip(model.parts, c.parts, strict=True):
            if part.plastic:
                ours = slices[part.name]
                old = state.theta_ref[:, ours], state.alpha[:, ours]
                bent[:, ours], alpha[:, ours] = part.flow(values, state.x, *old)
        return state.replace(theta_ref=bent, alpha=alpha)

    def _solve(self, theta: dict[str, Any], state: FEMState, guess: Tensor, span: float) -> Tensor:
        """Positions (B, N, 3) with r = 0 on the free points."""
        model, config = self.model, self.config
        points, free = model.driven[0].to(guess.device), model.free.to(guess.device)
        settings = NewtonSettings(config.tol, config.max_iterations, config.linear)
        residual = StepResidual(model, self.pattern, theta, span, config.linear, self._kept)

        def solve(_, x0, frozen):
            potential = residual.potential(frozen)
            start = guess.detach()
            goal, near = frozen["driven"], {}
            y = newton(
                "SolverFEM.step",
                potential,
                self.pattern,
                start,
                points,
                goal,
                settings,
                self.newton,
                near,
            )
            return Solution(residual.solved(potential, y, near), iterations=self.newton.iterations)

        if not len(free):
            return residual.join(guess[:, free], theta["driven"])
        found = implicit_solve(
            residual,
            solve,
            guess.detach()[:, free],
            theta,
            structure="symmetric",
            adjoint_solver=HessianSolver(residual),
            tol=math.inf,  # `newton` has judged the residual
            batch_dims=1,
            info=self.adjoint,
        )
        return residual.join(found, theta["driven"])

    def energy(
        self, state: FEMState, params: Params | PreparedFEM | None = None
    ) -> dict[str, Tensor]:
        """Energies of a state [J], each (B,): "kinetic", "elastic" and "gravity" (zero at the origin).

        Differentiable in state and params.
        """
        c = self.prepare(params, state)
        flat = state.x.reshape(-1, 3)
        terms = self._terms(c, state)
        elastic = [term.energy(flat) for term in terms]
        weight = c.mass.unsqueeze(-1) * c.gravity.unsqueeze(1)
        return {
            "kinetic": 0.5 * (c.mass.unsqueeze(-1) * state.v.square()).sum((1, 2)),
            "elastic": torch.stack(elastic).sum(0),
            "gravity": -(weight * state.x).sum((1, 2)),
        }

    def forces(self, state: FEMState, params: Params | PreparedFEM | None = None) -> Tensor:
        """Elastic forces −∂E/∂x on all points [N], (B, N, 3), without contact and viscosity.

        In equilibrium their sum over the points of a handle is what the handle carries.
        Differentiable in state and params.
        """
        flat = state.x.reshape(-1, 3)
        terms = self._terms(self.prepare(params, state), state)
        return -assemble([term.gradient(flat) for term in terms], flat).view_as(state.x)

    def _terms(self, c: PreparedFEM, state: FEMState) -> list[Element]:
        elastic = [{k: v for k, v in part.items() if k != "eta"} for part in c.parts]
        elastic = [{k: v for k, v in part.items() if k != "eta_plate"} for part in elastic]
        bent = state.theta_ref
        return element_terms(self.model, elastic, state.batch_size, math.inf, None, bent)

    def check_state(self, state: FEMState) -> None:
        """Raise unless the state fits the model and is finite."""
        model, B = self.model, state.batch_size
        x = state.x
        if x.dtype != torch.float64:
            fix = "Convert the state by state.to(torch.float64)"
            raise InputError(message("SolverFEM", "float64", str(x.dtype), fix))
        shape = (B, model.point_count, 3)
        expected: dict[str, tuple[int, ...]] = {n: shape for n in ("x", "v", "x_prev", "v_prev")}
        expected["pose"] = (B, len(model.handles), 7)
        plastic = any(part.plastic for part in model.parts)
        hinges = ("theta_ref", "alpha")
        expected |= {
            n: (B, model.hinge_count) for n in hinges if plastic or getattr(state, n) is not None
        }
        for name, want in expected.items():
            fix = "Start from model.initial_state(batch_size)"
            _check_tensor(f"SolverFEM: state.{name}", getattr(state, name), want, x, fix)
        check_finite("SolverFEM", **state.tensors())

    def check_control(self, control: FEMControl, state: FEMState) -> None:
        """Raise unless the control fits the model and is finite."""
        B, shapes = state.batch_size, {}
        shapes["twist"] = (B, len(self.model.handles), 6)
        shapes["force"] = shapes["anchor"] = (B, self.model.point_count, 3)
        shapes["spring"] = (B, self.model.point_count)
        if (control.spring is None) != (control.anchor is None):
            given = "only one of them"
            fix = "Give both, or neither"
            raise InputError(message("SolverFEM.step", "control.spring with its anchor", given, fix))
        for name, shape in shapes.items():
            value = getattr(control, name)
            if value is not None:
                where = f"SolverFEM.step: control.{name}"
                _check_tensor(where, value, shape, state.x, "Give one row per scene")
                check_finite(where, **{name: value})


def _check_tensor(
    where: str, got: Tensor | None, shape: tuple[int, ...], like: Tensor, fix: str
) -> None:
    kind = like.dtype, like.device
    if got is None or tuple(got.shape) != shape or (got.dtype, got.device) != kind:
        expected = f"shape {shape} {like.dtype} on {like.device}"
        raise InputError(message(where, expected, got, fix))
