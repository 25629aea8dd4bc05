"""What all PDEs share: parameters and checks; state, control and steps of those that depend on time.

    state = pde.initial_state(u)                    u (B, C, *cells)
    state = pde.step(state, control, params)        one step dt; differentiable in all three
    R = pde.residual(u0, u1, params)                zero exactly where step(u0) = u1: a physics loss

`rollout(pde, state, n, params)` runs many steps. Parameters are `{"viscosity": 1e-3, ...}`: numbers, (B,)
tensors, or fields for those that may vary in space.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, StabilityError, check_finite, message
from ...core.state import State
from .grid import Grid

__all__ = ["Evolution", "FieldControl", "FieldState", "Parameter", "Pde", "Prepared"]


@dataclasses.dataclass
class FieldState(State):
    """Fields of B scenes."""

    u: Tensor
    """(B, C, *cells); the PDE's `channels` name the C fields."""
    t: float = 0.0
    """Time [s]."""


@dataclasses.dataclass
class FieldControl:
    """Input of one step."""

    forcing: Tensor
    """Added to the parameter `forcing` in this step [unit of u / s], (B, C, *cells) or (C, *cells)."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """Declaration of one parameter of a PDE."""

    default: Any
    """Number or tensor."""
    least: float = -math.inf
    """Smallest allowed value."""
    strict: bool = False
    """Whether `least` itself is not allowed."""
    field: bool = False
    """Whether it may vary in space."""


@dataclasses.dataclass
class Prepared:
    """Parameters as the step reads them."""

    values: dict[str, Tensor]
    """Each broadcastable to (B, C, *cells)."""
    derived: dict[str, Tensor]
    """What a scheme makes of them once per rollout."""


class Pde:
    """A PDE on a grid and its parameters.

    Args:
        grid: the box.
        parameters: declarations by name; `forcing` and the right-hand sides of walls are added.
    """

    channels: tuple[str, ...] = ("u",)
    """Names of the C fields."""

    def __init__(self, grid: Grid, parameters: Mapping[str, Parameter]) -> None:
        self.name, self.grid = type(self).__name__, grid
        self.parameters = {"forcing": Parameter(0.0, field=True), **parameters}
        self.parameters |= {k: Parameter(side.gamma) for k, side in grid.walls.items()}

    def default_params(self) -> dict[str, Any]:
        """Parameters in the form that solves and steps take."""
        return {name: p.default for name, p in self.parameters.items()}

    def spread(self, params: Mapping[str, Any] | None, like: Tensor) -> dict[str, Tensor]:
        """All parameters, those of `params` replacing defaults, with the axes of `like`.

        Raises:
            InputError: unknown name, wrong shape, a value out of range.

        Differentiable in params.
        """
        given = dict(params or {})
        unknown = [name for name in given if name not in self.parameters]
        if unknown:
            expected = f"parameters out of {list(self.parameters)}"
            raise InputError(message(f"{self.name}: params", expected, unknown[0], "Correct it"))
        return {
            name: self._spread(name, given.get(name, p.default), p, like)
            for name, p in self.parameters.items()
        }

    def _spread(self, name: str, value: Any, p: Parameter, like: Tensor) -> Tensor:
        """A parameter with the axes of u: (1 or B, 1 or C, ...)."""
        where, D, B = f"{self.name}: {name}", self.grid.dim, like.shape[0]
        tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        full = (B, len(self.channels), *self.grid.cells)
        if tensor.ndim <= 1 and tensor.numel() in (1, B):
            tensor = tensor.reshape(-1, *(1,) * (D + 1))
        else:
            spatial = tensor[None] if tensor.ndim == D + 1 else tensor
            pairs = zip(spatial.shape, full, strict=False)
            fits = spatial.ndim == D + 2 and all(a in (1, b) for a, b in pairs)
            if not (p.field and fits):
                expected = f"a number or ({B},)" + (f" or a field {full} or {full[1:]}" * p.field)
                raise InputError(message(where, expected, tensor, "Correct the shape"))
            tensor = spatial
        low = float(tensor.detach().min())
        if not (low > p.least if p.strict else low >= p.least):  # NaN fails too
            if p.least > -math.inf or not math.isfinite(low):
                expected = f"values {'>' if p.strict else '>='} {p.least:g}, finite"
                raise InputError(message(where, expected, low, "Correct the value"))
        check_finite(where, **{name.replace(".", "_"): tensor.detach()})
        return tensor


class Evolution(Pde, abc.ABC):
    """A PDE ∂u/∂t = … on a grid, stepped by dt: a `Solver` for `rollout`.

    Args:
        grid: the box.
        dt: step [s].
        parameters: declarations by name; see `Pde`.

    Raises:
        InputError: dt not positive.
    """

    def __init__(self, grid: Grid, dt: float, parameters: Mapping[str, Parameter]) -> None:
        super().__init__(grid, parameters)
        if not 0 < dt < math.inf:
            raise InputError(message(self.name, "dt > 0 s", dt, "Correct the step"))
        self.dt = float(dt)

    @property
    def step_time(self) -> float:
        """Duration of one step [s]."""
        return self.dt

    def initial_state(self, u: Tensor, t: float = 0.0) -> FieldState:
        """State from fields (B, C, *cells)."""
        self.grid.check(f"{self.name}.initial_state", u, len(self.channels))
        check_finite(f"{self.name}.initial_state", u=u)
        return FieldState(u, t)

    def prepare(self, params: Mapping[str, Any] | Prepared | None, state: FieldState) -> Prepared:
        """Check parameters and give them the axes of u; `rollout` calls it once.

        Args:
            params: values that replace the defaults, by name.
            state: any state of the rollout.

        Raises:
            InputError: unknown name, wrong shape, a value out of range.
        """
        if isinstance(params, Prepared):
            return params
        self.grid.check(f"{self.name}: state.u", state.u, len(self.channels))
        values = self.spread(params, state.u)
        return Prepared(values, self.derive(values, state.u))

    def step(
        self,
        state: FieldState,
        control: FieldControl | None = None,
        params: Mapping[str, Any] | Prepared | None = None,
    ) -> FieldState:
        """Advance by dt.

        Raises:
            StabilityError: dt above the scheme's bound, which the message gives.
            ConvergenceError: an implicit step did not converge.
            StateError: the result is not finite.

        Differentiable in state, control and params.
        """
        prepared = self._controlled(self.prepare(params, state), control, state.u)
        u = self.advance(state.u, prepared)
        check_finite(f"{self.name}.step", u=u)
        return state.replace(u=u, t=state.t + self.dt)

    def residual(
        self,
        u0: Tensor,
        u1: Tensor,
        params: Mapping[str, Any] | Prepared | None = None,
        control: FieldControl | None = None,
    ) -> Tensor:
        """Defect of u1 as the successor of u0 [unit of u / s], (B, C, *cells); zero after a step.

        Raises:
            InputError: wrong shapes.

        Differentiable in u0, u1, control and params. Source: the scheme of `step`.
        """
        self.grid.check(f"{self.name}.residual", u0, len(self.channels), "u0")
        self.grid.check(f"{self.name}.residual", u1, len(self.channels), "u1")
        prepared = self.prepare(params, FieldState(u0))
        return self.defect(u0, u1, self._controlled(prepared, control, u0)) / self.dt

    @abc.abstractmethod
    def advance(self, u: Tensor, p: Prepared) -> Tensor:
        """u after one step."""

    @abc.abstractmethod
    def defect(self, u0: Tensor, u1: Tensor, p: Prepared) -> Tensor:
        """dt times the residual."""

    def derive(self, values: dict[str, Tensor], like: Tensor) -> dict[str, Tensor]:
        """What the scheme needs once per rollout."""
        return {}

    def require_stable(self, rate: Tensor | float, limit: float, what: str) -> None:
        """Raise `StabilityError` when dt · rate > limit; rate [1/s]."""
        rate = float(rate)
        if not rate * self.dt <= limit and math.isfinite(rate):
            expected = f"dt <= {limit / rate:.3g} s for {what}"
            fix = "Lower dt, or choose an implicit scheme where there is one"
            raise StabilityError(message(f"{self.name}.step", expected, self.dt, fix))

    def _controlled(self, p: Prepared, control: FieldControl | None, like: Tensor) -> Prepared:
        if control is None:
            return p
        if not isinstance(control, FieldControl):
            got, fix = type(control).__name__, "Wrap the field: FieldControl(forcing)"
            raise InputError(message(f"{self.name}.step", "a FieldControl or None", got, fix))
        more = self._spread("control.forcing", control.forcing, self.parameters["forcing"], like)
        return dataclasses.replace(p, values={**p.values, "forcing": p.values["forcing"] + more})
