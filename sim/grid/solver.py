"""Incompressible gas with smoke and heat behind the solver contract.

    ∂u/∂t + u·∇u = −∇p/ρ + η/ρ ∇²u + g (γ s − β (T − T₀)) + nozzles,    ∇·u = 0
    ∂T/∂t + u·∇T = κ ∇²T + nozzles,   likewise for smoke s

One step, in this order: obstacles and nozzles move; u, T and s are carried by u; nozzles, buoyancy,
viscosity and diffusion act; u is projected. First order in time (the splitting), any Courant number
with schemes that go back along the flow.

Source: Stam 1999 (splitting); Fedkiw et al. 2001 (smoke); Xian et al. 2023 (FluidLab, section on air).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import InputError, StabilityError, check_finite, message
from ..core.implicit import SolveInfo
from ..core.poses import integrate_pose
from ..core.state import Params
from .advect import SCHEMES, advect_scalars, advect_velocity
from .forces import blow, buoyancy, diffuse, relax, viscosity
from .mac import Faces
from .model import GasControl, GasModel, GasState
from .pressure import Method, PressureSystem, project
from .solids import Solids, solid_velocity, solids_of

__all__ = ["GasConfig", "GasSolver", "PreparedGas"]


@dataclasses.dataclass(frozen=True)
class GasConfig:
    """Numerical settings of the solver."""

    dt: float = 0.02
    """Step [s]; controls are constant within it."""
    advection: Literal["semi_lagrangian", "maccormack"] = "semi_lagrangian"
    """Scheme of the velocity; MacCormack is second order and costs about twice."""
    scalars: Literal["semi_lagrangian", "maccormack", "conservative"] | None = None
    """Scheme of temperature and smoke; None: as `advection`. "conservative" keeps their sums."""
    pressure: Method = "auto"
    """Pressure solver, see `pressure.METHODS`; or a maker of preconditioners for CG."""
    tol: float | None = None
    """‖residual‖ / ‖divergence‖ of the pressure solve [-]; default 1e-10 in float64, 1e-6 in float32."""
    max_iterations: int | None = None
    """Of the pressure solve; default 10 n."""
    warm_start: bool = True
    """Start it from the state's pressure."""


@dataclasses.dataclass
class PreparedGas:
    """Parameters as the step reads them, each (B,)."""

    gas: dict[str, Tensor]
    nozzles: list[dict[str, Tensor]]


class GasSolver:
    """Steps a `GasModel`; one instance serves any batch size, precision and device.

    Differentiable in the state, the controls and every parameter of the gas and of nozzles; in obstacle
    poses with `shape="fractions"`, in obstacle twists always. The pressure solve is differentiated by
    one adjoint solve.

    Args:
        model: the scene.
        config: numerical settings.

    Raises:
        InputError: unknown scheme, non-positive dt.
    """

    def __init__(self, model: GasModel, config: GasConfig | None = None) -> None:
        self.model, self.grid = model, model.grid
        self.config = config = config or GasConfig()
        scalars = config.advection if config.scalars is None else config.scalars
        if config.advection not in SCHEMES[:2] or scalars not in SCHEMES:
            got = f"advection={config.advection!r}, scalars={scalars!r}"
            expected = f"advection out of {SCHEMES[:2]}, scalars out of {SCHEMES}"
            raise InputError(message("GasSolver", expected, got, "Correct the names"))
        if not 0 < config.dt < math.inf:
            raise InputError(message("GasSolver", "dt > 0 s", config.dt, "Correct the step"))
        self.scalars = scalars
        self.info = SolveInfo()
        """Iterations and residual of the last pressure solve."""
        self._solids: list[tuple[Tensor, Solids]] = []
        self._systems: list[PressureSystem] = []

    @property
    def step_time(self) -> float:
        """Duration of one step [s]."""
        return self.config.dt

    def default_params(self) -> dict[str, dict[str, Any]]:
        """The parameters of the model, in the form `step` takes."""
        return self.model.default_params()

    def prepare(self, params: Params | PreparedGas | None, state: GasState) -> PreparedGas:
        """Check parameters and spread them over the scenes; call once per rollout.

        Args:
            params: values that replace the model's, `{"gas": {...}, nozzle: {...}}`, numbers or
                tensors that broadcast to (B,).
            state: any state of the rollout.

        Raises:
            InputError: unknown name, wrong shape.
            StabilityError: dt above the bound of explicit diffusion.
        """
        if isinstance(params, PreparedGas):
            return params
        self.check_state(state)
        B, like = state.batch_size, state.pressure
        merged = self.default_params()
        for group, values in (params or {}).items():
            known = merged.get(group)
            wrong = [group] if known is None else [f"{group}.{k}" for k in values if k not in known]
            if wrong:
                names = {g: list(v) for g, v in merged.items()}
                fix = "Correct the name; a nozzle holds what the model gave it"
                raise InputError(message("GasSolver.prepare", f"parameters {names}", wrong[0], fix))
            known.update(values)
        spread = {
            group: {k: _spread(f"{group}.{k}", v, B, like) for k, v in values.items()}
            for group, values in merged.items()
        }
        gas = spread.pop("gas")
        rates = {
            "eta / rho": gas["eta"] / gas["rho"],
            "diffusivity": gas["diffusivity"],
            "smoke_diffusivity": gas["smoke_diffusivity"],
        }
        for name, value in rates.items():
            bound = self.model.diffusion_bound(float(value.detach().max()))
            if self.config.dt > bound:
                expected = (
                    f"dt <= {bound:.3g} s for {name} = {float(value.detach().max()):.3g} m²/s"
                )
                got = f"dt = {self.config.dt:.3g} s"
                fix = "Lower dt, or take larger cells"
                raise StabilityError(message("GasSolver.prepare", expected, got, fix))
        return PreparedGas(gas, list(spread.values()))

    def step(
        self,
        state: GasState,
        control: GasControl | None = None,
        params: Params | PreparedGas | None = None,
    ) -> GasState:
        """Advance by dt.

        Args:
            state: current state.
            control: inputs held constant during the step; None: nothing moves.
            params: as in `prepare`, or its result.

        Raises:
            StateError: non-finite values; names the field.
            StabilityError: dt too large for diffusion or the conservative scheme.
            ConvergenceError: the pressure solve, or its adjoint in backward.
            InputError: shapes, dtypes, devices; obstacles that press on an enclosed region.
        """
        prepared = self.prepare(params, state)
        control = control or GasControl()
        self.check_control(control, state)
        grid, dt, gas = self.grid, self.config.dt, prepared.gas
        B, like = state.batch_size, state.pressure
        twist = control.tool_twist
        tools, nozzles = state.tool_pose, state.nozzle_pose
        if twist is not None and self.model.obstacles:
            tools = integrate_pose(tools, twist, dt, 1)[1]
        if control.nozzle_twist is not None:
            nozzles = integrate_pose(nozzles, control.nozzle_twist, dt, 1)[1]
        before, after = self.solids(state.tool_pose), self.solids(tools)
        sides, moving = self.model.moving_sides(like)

        u = advect_velocity(grid, state.u, dt, before, self.config.advection)
        # The excess over the ambient temperature: interpolating 293 K would cost float32 digits.
        ambient = gas["ambient"].reshape(-1, *(1,) * grid.dim)
        scalars = torch.stack((state.temperature - ambient, state.smoke), 1)
        outside = like.new_zeros(B, 2)
        scalars = advect_scalars(grid, scalars, state.u, dt, before, outside, self.scalars)
        temperature, smoke = scalars[:, 0] + ambient, scalars[:, 1]

        push = self._accelerations(control, prepared, nozzles, temperature, smoke)
        for i, (nozzle, values) in enumerate(
            zip(self.model.nozzles, prepared.nozzles, strict=True)
        ):
            reach = (nozzles[:, i], values["rate"], values["radius"])
            if nozzle.temperature is not None:
                temperature = relax(grid, temperature, *reach, values["temperature"], dt)
            if nozzle.smoke is not None:
                smoke = relax(grid, smoke, *reach, values["smoke"], dt)
        if twist is None:
            twist = like.new_zeros(B, len(self.model.obstacles), 6)
        closed = solid_velocity(grid, after, tools, twist, sides)
        if _any(gas["eta"]):
            # Gas sticks to solids: their faces must hold their velocity before viscosity looks.
            pairs = zip(u, closed, after.open, strict=True)
            u = tuple(torch.where(w > 0, f, s) for f, s, w in pairs)
            u = viscosity(grid, u, gas["eta"] / gas["rho"] * dt, moving)
        if _any(gas["diffusivity"]):
            temperature = diffuse(grid, temperature, gas["diffusivity"] * dt, after)
        if _any(gas["smoke_diffusivity"]):
            smoke = diffuse(grid, smoke, gas["smoke_diffusivity"] * dt, after)
        u = tuple(f + dt * a for f, a in zip(u, push, strict=True))

        check_finite("GasSolver.step", temperature=temperature, smoke=smoke)
        check_finite("GasSolver.step", u=torch.cat([f.flatten() for f in u]))
        scale = (gas["rho"] * grid.dx / dt).reshape(-1, *(1,) * grid.dim)
        guess = (state.pressure / scale).detach() if self.config.warm_start else None
        system = self.system(after)
        u, q = project(u, grid, after, closed, psi0=guess, system=system, info=self.info)
        pressure = q / grid.dx * scale
        check_finite("GasSolver.step", pressure=pressure)
        return dataclasses.replace(
            state.with_u(u),
            temperature=temperature,
            smoke=smoke,
            pressure=pressure,
            tool_pose=tools,
            nozzle_pose=nozzles,
            t=state.t + dt,
        )

    def solids(self, pose: Tensor) -> Solids:
        """Walls and obstacles at these poses (B, K, 7), from the last two computed if they agree."""
        pose = pose if self.model.obstacles else pose.new_zeros(1, 0, 7)
        track = pose.requires_grad and self.model.shape == "fractions"
        pose = pose if track else pose.detach()
        if len(pose) > 1 and not track and bool((pose == pose[:1]).all()):
            pose = pose[:1]
        for known, solids in self._solids:
            same = known.shape == pose.shape and known.dtype == pose.dtype
            same = same and known.device == pose.device
            if same and not track and torch.equal(known, pose.detach()):
                return solids
        shape = self.model.shape
        solids = solids_of(self.grid, self.model.obstacles, pose, shape=shape, like=pose)
        if not track:
            self._solids = [(pose.clone(), solids), *self._solids[:1]]
        return solids

    def system(self, solids: Solids) -> PressureSystem:
        """The pressure system of a geometry, the last one if its open faces are the same."""
        for system in self._systems:
            mine = system.solids.open
            pairs = list(zip(mine, solids.open, strict=True))
            same = all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
            if same and mine[0].device == solids.open[0].device:
                if all(torch.equal(a, b.detach()) for a, b in pairs):
                    return system
        config = self.config
        options = (config.pressure, config.tol, config.max_iterations)
        system = PressureSystem(self.grid, solids, *options)
        self._systems = [system]
        return system

    def _accelerations(
        self,
        control: GasControl,
        prepared: PreparedGas,
        poses: Tensor,
        temperature: Tensor,
        smoke: Tensor,
    ) -> Faces:
        """Sum of buoyancy, nozzles and the control's own [m/s²] on faces."""
        grid, gas = self.grid, prepared.gas
        shape = (-1, *(1,) * grid.dim)
        warmth = gas["beta"].reshape(shape) * (temperature - gas["ambient"].reshape(shape))
        push = buoyancy(grid, warmth - gas["weight"].reshape(shape) * smoke, self.model.gravity)
        for i, (nozzle, values) in enumerate(
            zip(self.model.nozzles, prepared.nozzles, strict=True)
        ):
            strength = values["strength"]
            if control.nozzle_strength is not None:
                strength = control.nozzle_strength[:, i]
            jet = blow(grid, nozzle, poses[:, i], strength, values["radius"])
            push = tuple(a + b for a, b in zip(push, jet, strict=True))
        if control.acceleration is not None:
            push = tuple(a + b for a, b in zip(push, control.acceleration, strict=True))
        return push

    def check_state(self, state: GasState) -> None:
        """Raise `InputError` unless all fields fit the model and each other."""
        B, model = state.batch_size, self.model
        self.grid.check("GasSolver: state.u", state.u if len(state.u) == model.dim else ())
        like = state.u_x
        if like.dtype not in (torch.float32, torch.float64):
            fix = "Convert with state.to()"
            raise InputError(message("GasSolver", "float32 or float64", str(like.dtype), fix))
        expected = {name: (B, *model.cells) for name in ("temperature", "smoke", "pressure")}
        expected |= {"tool_pose": (B, len(model.obstacles), 7)}
        expected |= {"nozzle_pose": (B, len(model.nozzles), 7)}
        for name, shape in expected.items():
            fix = "Start from model.initial_state(batch_size)"
            _check_tensor(f"GasSolver: state.{name}", getattr(state, name), shape, like, fix)

    def check_control(self, control: GasControl, state: GasState) -> None:
        """Raise `InputError` unless the control fits the model."""
        B, K, M = state.batch_size, len(self.model.obstacles), len(self.model.nozzles)
        expected = {"tool_twist": (B, K, 6), "nozzle_twist": (B, M, 6), "nozzle_strength": (B, M)}
        for name, shape in expected.items():
            tensor = getattr(control, name)
            if tensor is not None:
                where, fix = f"GasSolver.step: control.{name}", "Give one row per scene"
                _check_tensor(where, tensor, shape, state.u_x, fix)
        if control.acceleration is not None:
            self.grid.check("GasSolver.step: control.acceleration", control.acceleration)


def _check_tensor(where: str, got: Tensor, shape: tuple[int, ...], like: Tensor, fix: str) -> None:
    fits = tuple(got.shape) == shape and got.dtype == like.dtype and got.device == like.device
    if not fits:
        expected = f"shape {shape} {like.dtype} on {like.device}"
        raise InputError(message(where, expected, got, fix))


def _spread(name: str, value: Any, B: int, like: Tensor) -> Tensor:
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if tensor.ndim > 1 or tensor.numel() not in (1, B):
        fix = "Give a number or one value per scene"
        raise InputError(message(f"GasSolver.prepare: {name}", f"shape () or ({B},)", tensor, fix))
    return tensor.reshape(-1).expand(B)


def _any(value: Tensor) -> bool:
    """Whether a process takes place: not zero, or differentiated at zero."""
    return value.requires_grad or bool((value != 0).any())
