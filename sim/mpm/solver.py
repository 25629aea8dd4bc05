"""Explicit MLS-MPM behind the solver contract.

    τ   = stress(F, L)                                   per group
    A   = −dt V₀ (4/dx²) τ + m C
    m_i v_i = Σ_p w_ip (m_p v_p + A_p d_ip);  v_i += dt g;  colliders, walls
    v_p = Σ_i w_ip v_i;  C_p = (4/dx²) Σ_i w_ip v_i d_ipᵀ;  x_p += dt v_p
    F_p = flow((I + dt C_p) F_p);  liquids J_p = (1 + dt tr C_p) J_p

Second order in space on smooth fields, first order in time; stable for dt < cfl · dx / c with the speed
of sound c = √((λ + 2μ)/ρ), which is checked.

Source: Hu et al. 2018 (MLS-MPM), Alg. 1 and Eq. 16–17; Jiang et al. 2015 (APIC); stage order of
Ma et al. 2023 (NCLaw): stress first, plastic flow last.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.backend import CPU_THREADS
from ..core.colliders_rigid import RigidBody
from ..core.errors import InputError, StabilityError, StateError
from ..core.poses import integrate_pose
from ..core.state import Params
from .composed import compose_substeps
from .emission import emit
from .model import MPMControl, MPMModel, MPMState
from .ops import FIELDS, Call, run_substeps

__all__ = ["MPMConfig", "Prepared", "SolverMPM"]

ENGINES = ("warp", "taichi", "torch")


@dataclasses.dataclass(frozen=True)
class MPMConfig:
    """Numerical settings of the solver."""

    dt: float = 1e-4
    """Substep [s]."""
    substeps: int = 10
    """Substeps per step; controls are constant within a step."""
    engine: Literal["warp", "taichi", "torch"] = "warp"
    """warp: fast on CPU and CUDA; taichi: other GPUs (extra); torch: plain reference."""
    cfl: float = 0.6
    """Largest dt · c / dx that is accepted; explicit MLS-MPM is stable up to about 1."""
    threads: int | None = None
    """CPU shards; None: all cores. Results of different numbers differ by rounding only, so fix it
    where runs must agree bit by bit between machines."""


@dataclasses.dataclass
class Prepared:
    """Parameters in the form the engine reads, broadcast to every particle."""

    mass: Tensor
    """Particle mass ρ V₀ [kg], (B, N)."""
    coefficients: list[Tensor]
    """Per group what its law reads, (n_coefficients, B, n)."""
    friction: Tensor
    """Coulomb friction per collider [-], (K,)."""
    softness: Tensor
    """Softness per collider [1/m], (K,)."""
    rho: Tensor
    """Density per rigid body [kg/m³], (R,)."""


class SolverMPM:
    """Steps an `MPMModel`; one instance serves any batch size, precision and device.

    Differentiable in the state, the controls, every material parameter, collider friction and softness.

    Args:
        model: The scene.
        config: Numerical settings.

    Raises:
        InputError: unknown engine, non-positive dt or substeps.
    """

    def __init__(self, model: MPMModel, config: MPMConfig | None = None) -> None:
        self.model = model
        self.config = config = config or MPMConfig()
        if config.engine not in ENGINES:
            raise InputError(
                f"SolverMPM: engine out of {ENGINES}; got {config.engine!r}. Choose one of them."
            )
        if config.dt <= 0 or config.substeps < 1:
            raise InputError(
                f"SolverMPM: dt > 0 and substeps ≥ 1; got dt = {config.dt} s and substeps = "
                f"{config.substeps}. Correct the configuration."
            )
        self.births = model.births(config.dt)
        self._engines: dict[Any, Any] = {}
        # A law without engine functions needs torch between the transfers.
        self.fused = config.engine == "warp" and all(
            g.law.engine_functions(_probe_real()) is not None for g in model.groups
        )

    @property
    def step_time(self) -> float:
        """Duration of one step [s]."""
        return self.config.dt * self.config.substeps

    @property
    def states_per_step(self) -> int:
        """States a step keeps for its backward pass: one per substep."""
        return self.config.substeps

    def weights(self) -> tuple[Tensor, ...]:
        """Learned tensors inside the laws."""
        return tuple(w for group in self.model.groups for w in group.law.weights())

    def default_params(self) -> dict[str, dict[str, Any]]:
        """The parameters of the model, in the form `step` takes: `{group: {name: value}}`."""
        params = {g.name: dict(g.law.parameters()) for g in self.model.groups}
        if self.model.colliders:
            params["colliders"] = {
                "friction": torch.tensor([float(c.friction) for c in self.model.colliders]),
                "softness": torch.tensor([float(c.softness) for c in self.model.colliders]),
            }
            rho = [c.rho for c in self.model.colliders if isinstance(c, RigidBody)]
            if rho:
                params["colliders"]["rho"] = torch.tensor(rho)
        return params

    def prepare(self, params: Params | None, state: MPMState) -> Prepared:
        """Check parameters and spread them over the particles; call once per rollout.

        Args:
            params: Values that replace the model's; `{group: {parameter: number or tensor}}` with
                tensors broadcastable to (B, n), and optionally
                `{"colliders": {"friction": (K,), "softness": (K,), "rho": (R,)}}`.
            state: Any state of the rollout (for batch size, precision and device).

        Raises:
            InputError: unknown group or parameter, wrong shape.
            StabilityError: dt above the bound of sound speed or viscosity.
        """
        if isinstance(params, Prepared):
            return params
        self.check_state(state)
        B, (dtype, device) = state.batch_size, (state.x.dtype, state.x.device)
        given = {name: dict(values) for name, values in (params or {}).items()}
        merged = self.default_params()
        for name, values in given.items():
            if name not in merged:
                raise InputError(
                    f"SolverMPM.prepare: params of {list(merged)}; got {name!r}. Correct the name."
                )
            unknown = [key for key in values if key not in merged[name]]
            if unknown:
                raise InputError(
                    f"SolverMPM.prepare: parameters of {name!r} out of {list(merged[name])}; got "
                    f"{unknown}. Correct the name."
                )
            merged[name].update(values)
        volumes = self.model.volumes(dtype, device)
        masses, coefficients = [], []
        for group, part in zip(self.model.groups, self.model.slices().values(), strict=True):
            values = {
                key: _broadcast(group.name, key, value, B, group.count, dtype, device)
                for key, value in merged[group.name].items()
            }
            group.law.validate(values)
            c = group.law.coefficients(values)
            c = c.expand(c.shape[0], B, group.count).contiguous()
            rho = values["rho"].expand(B, group.count)
            self._check_bounds(group.name, group.law, c, rho)
            coefficients.append(c)
            masses.append(rho * volumes[part])
        contact = merged.get("colliders", {})
        K = len(self.model.colliders)

        def per_collider(name: str, count: int = K) -> Tensor:
            value = torch.as_tensor(contact.get(name, torch.zeros(0)), dtype=dtype, device=device)
            if value.ndim > 1 or value.numel() not in (1, count):
                raise InputError(
                    f"SolverMPM.prepare: colliders.{name} of shape ({count},); got "
                    f"{tuple(value.shape)}. Give one number per "
                    f"{'rigid body' if name == 'rho' else 'collider'}."
                )
            return value.expand(count).contiguous()

        rho = per_collider("rho", len(self.model.bodies.index))
        if bool((rho <= 0).any()):
            raise InputError(
                f"SolverMPM.prepare: colliders.rho > 0 kg/m³; got {rho.tolist()}. "
                "Use a Collider for a body that must not move."
            )

        return Prepared(
            mass=torch.cat(masses, dim=1),
            coefficients=coefficients,
            friction=per_collider("friction"),
            softness=per_collider("softness"),
            rho=rho,
        )

    def step(
        self,
        state: MPMState,
        control: MPMControl | None = None,
        params: Params | Prepared | None = None,
    ) -> MPMState:
        """Advance by `substeps` substeps.

        Args:
            state: Current state.
            control: Inputs held constant during the step; None: tools stand still, emitters run at
                their default velocity.
            params: As in `prepare`, or its result.

        Raises:
            StateError: non-finite values or particles that left the grid; names substep and field.
            StabilityError: dt too large.
            InputError: shapes, dtypes or devices that do not match.
        """
        prepared = self.prepare(params, state)
        control = control or MPMControl()
        self.check_control(control, state)
        S, dt, B = self.config.substeps, self.config.dt, state.batch_size
        twist = control.tool_twist
        if twist is None:
            twist = state.x.new_zeros(B, len(self.model.colliders), 6)
        index = self.model.bodies.index
        if index:
            moving = twist.new_ones(twist.shape[1], 1)
            moving[index] = 0
            twist = torch.where(moving > 0, twist, torch.zeros_like(twist))
        poses = integrate_pose(state.tool_pose, twist, dt, S)
        twists = twist.expand(S, *twist.shape)
        state = emit(self.model, state, self.births, poses, twist, control.emitter_velocity, dt, S)
        fields = [getattr(state, name) for name in FIELDS]
        shared = [prepared.mass, poses, twists, prepared.friction, prepared.softness]
        if index:
            fields += [state.tool_pose[:, index], state.body_twist]
            shared.append(prepared.rho)
        if self.fused:
            keep = torch.is_grad_enabled() and any(
                t.requires_grad for t in (*fields, *shared, *prepared.coefficients)
            )
            call = Call(self.engine(state), state.substep, S, keep)
            fields = run_substeps(call, fields, shared, prepared.coefficients)
        else:
            fields = compose_substeps(self, state, fields, shared, prepared.coefficients)
        pose, body_twist = poses[-1], None
        if index:
            *fields, body_pose, body_twist = fields
            if not bool(torch.isfinite(body_twist.detach()).all()):
                raise StateError(
                    "SolverMPM.step: a finite state; got a non-finite body_twist after substep "
                    f"{state.substep + S - 1}. Lower dt, or check the densities and initial twists.",
                    step=state.substep + S - 1,
                    field="body_twist",
                )
            pose = pose.index_copy(1, torch.tensor(index, device=pose.device), body_pose)
        return MPMState(
            **dict(zip(FIELDS, fields, strict=True)),
            tool_pose=pose,
            body_twist=body_twist,
            substep=state.substep + S,
        )

    def engine(self, state: MPMState) -> Any:
        """Scratch and kernels for the batch size, precision and device of a state."""
        key = (state.batch_size, state.x.dtype, str(state.x.device))
        if key not in self._engines:
            self._engines[key] = self._new_engine(state)
        return self._engines[key]

    def _new_engine(self, state: MPMState) -> Any:
        options = {"batch_size": state.batch_size, "dtype": state.x.dtype, "dt": self.config.dt}
        options.update(device=state.x.device, births=self.births)
        if self.config.engine == "warp":
            from .engine_warp import WarpEngine

            threads = self.config.threads or CPU_THREADS
            return WarpEngine(self.model, threads=threads, fused=self.fused, **options)
        if self.config.engine == "taichi":
            from .engine_taichi import TaichiTransfers

            return TaichiTransfers(self.model, threads=self.config.threads, **options)
        from .engine_torch import TorchTransfers

        return TorchTransfers(self.model, **options)

    def check_state(self, state: MPMState) -> None:
        """Raise `InputError` unless all fields fit the model and each other."""
        D, N, B = self.model.dim, self.model.particle_count, state.batch_size
        sizes = {
            field: sum(s.stop - s.start for s in groups.values())
            for field, groups in self.model.storage_slices().items()
        }
        expected = {
            "x": (B, N, D),
            "v": (B, N, D),
            "C": (B, N, D, D),
            "F": (B, sizes["F"], 3, 3),
            "J": (B, sizes["J"]),
            "alpha": (B, sizes["alpha"]),
            "tool_pose": (B, len(self.model.colliders), 7),
        }
        if self.model.bodies.index:
            expected["body_twist"] = (B, len(self.model.bodies.index), 6)
        for name, shape in expected.items():
            tensor = getattr(state, name)
            if tensor is None or tuple(tensor.shape) != shape:
                got = None if tensor is None else tuple(tensor.shape)
                raise InputError(
                    f"SolverMPM: {name} of shape {shape}; got {got}. "
                    "Start from model.initial_state(batch_size)."
                )
            if tensor.dtype != state.x.dtype or tensor.device != state.x.device:
                raise InputError(
                    f"SolverMPM: {name} in {state.x.dtype} on {state.x.device} like x; got "
                    f"{tensor.dtype} on {tensor.device}. Convert the whole state with state.to()."
                )
        if state.x.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"SolverMPM: float32 or float64; got {state.x.dtype}. Convert with state.to()."
            )

    def check_control(self, control: MPMControl, state: MPMState) -> None:
        """Raise `InputError` unless the control fits the model."""
        B, D = state.batch_size, self.model.dim
        expected = {
            "tool_twist": (B, len(self.model.colliders), 6),
            "emitter_velocity": (B, len(self.model.emitters()), D),
        }
        for name, shape in expected.items():
            tensor = getattr(control, name)
            if tensor is None:
                continue
            if tuple(tensor.shape) != shape:
                raise InputError(
                    f"SolverMPM.step: control.{name} of shape {shape}; got "
                    f"{tuple(tensor.shape)}. Give one row per scene."
                )
            if tensor.dtype != state.x.dtype or tensor.device != state.x.device:
                raise InputError(
                    f"SolverMPM.step: control.{name} in {state.x.dtype} on {state.x.device}; got "
                    f"{tensor.dtype} on {tensor.device}. Convert it with tensor.to(state.x)."
                )

    def _check_bounds(self, name: str, law: Any, c: Tensor, rho: Tensor) -> None:
        dx, dt, D = self.model.grid.dx, self.config.dt, self.model.dim
        with torch.no_grad():
            speed = float((law.wave_modulus(c) / rho).max().sqrt())
            diffusivity = float((law.viscosity(c) / rho).max())
        bound = self.config.cfl * dx / speed if speed > 0 else math.inf
        if dt > bound:
            n = math.ceil(self.config.substeps * dt / bound)
            raise StabilityError(
                f"SolverMPM.prepare: dt = {dt:.2g} s exceeds the CFL bound {bound:.2g} s of group "
                f"{name!r} (dx = {dx:.3g} m, c = {speed:.3g} m/s). "
                f"Set dt={self.step_time / n:.2g} and substeps={n}."
            )
        bound = 0.5 * dx**2 / (D * diffusivity) if diffusivity > 0 else math.inf
        if dt > bound:
            n = math.ceil(self.config.substeps * dt / bound)
            raise StabilityError(
                f"SolverMPM.prepare: dt = {dt:.2g} s exceeds the viscous bound {bound:.2g} s of group "
                f"{name!r} (dx = {dx:.3g} m, eta/rho = {diffusivity:.3g} m²/s). "
                f"Set dt={self.step_time / n:.2g} and substeps={n}, or lower the viscosity."
            )


def _probe_real() -> Any:
    from ..core.backend import warp

    return warp().float32


def _broadcast(
    group: str, name: str, value: Any, B: int, n: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    tensor = torch.as_tensor(value, dtype=dtype, device=device)
    if tensor.ndim == 1 and tensor.shape[0] == B and B != n:
        tensor = tensor.unsqueeze(1)  # one value per scene
    try:
        return tensor.expand(B, n)
    except RuntimeError:
        raise InputError(
            f"SolverMPM.prepare: {group}.{name} broadcastable to (B, n) = ({B}, {n}); got "
            f"{tuple(tensor.shape)}. Give a number, one value per scene or one per particle."
        ) from None
