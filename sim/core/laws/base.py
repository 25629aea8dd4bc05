"""What every constitutive law is: material parameters, a Kirchhoff stress and a plastic return.

    τ = stress(F, L, c)        F₊, α₊ = flow(F_trial, α, c, dt)        c = coefficients(p)

`p` are the parameters people know (E, ν, yield stress, …), `c` the numbers the formulas use (μ, λ,
…). The split keeps the formulas free of conversions, on the engine too, while users differentiate
in E and ν.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError, message

__all__ = [
    "LAWS",
    "Law",
    "law_by_name",
    "parameter",
    "register_law",
    "setting",
    "stack_coefficients",
]

LAWS: dict[str, type[Law]] = {}
"""Registered laws by name."""


def parameter(
    default: float,
    unit: str,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    at_least: float = -math.inf,
) -> Any:
    """Declare a material parameter: a dataclass field with its unit and its range.

    Args:
        default: value when none is given, in `unit`.
        unit: SI unit, `"-"` for none.
        above: exclusive lower bound.
        below: exclusive upper bound.
        at_least: inclusive lower bound.

    Returns:
        The field, to stand in the body of a frozen dataclass.
    """
    metadata = {"unit": unit, "above": above, "below": below, "at_least": at_least}
    return dataclasses.field(default=default, metadata=metadata)


def setting(default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that chooses a formula or holds a module and is no material parameter."""
    return dataclasses.field(default=default, metadata={"setting": True})


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Law:
    """Base of the constitutive laws: a frozen dataclass whose fields are material parameters.

    A subclass gives `coefficients` and either `stress` (and `flow`) in torch, or
    `engine_functions`, or both. Two laws are equal only if they are the same object, since
    parameters may be tensors.
    """

    storage: ClassVar[str] = "F"
    """`"F"`: the 3×3 elastic deformation gradient; `"J"`: liquids, the volume ratio alone."""
    hardening: ClassVar[bool] = False
    """True: `flow` carries one scalar internal variable α."""
    flows: ClassVar[bool] = False
    """True: `flow` is not the identity."""
    n_coefficients: ClassVar[int] = 0
    """Length of the first axis of `coefficients`."""

    rho: float | Tensor = parameter(1000.0, "kg/m³", above=0.0)
    """Density at rest [kg/m³]; water, and close to most soft solids."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass that changes one form of a law must not inherit the other form unchanged.
        own = cls.__dict__
        torch_form = "stress" in own or "flow" in own
        if torch_form and "engine_functions" not in own:
            cls.engine_functions = Law.engine_functions
        elif "engine_functions" in own and not torch_form:
            cls.stress, cls.flow = Law.stress, Law.flow

    def parameters(self) -> dict[str, float | Tensor]:
        """Material parameters by name, in SI units, as they were given."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if not f.metadata.get("setting")}

    def values(self, p: Mapping[str, float | Tensor] | None = None) -> dict[str, Tensor]:
        """Parameters as tensors of one dtype and device: `p`, completed by the fields of this law.

        Args:
            p: parameters by name, tensors of mutually broadcastable shapes or numbers.

        Returns:
            Every parameter by name; float32 on the CPU where only numbers were given.

        Raises:
            InputError: for a name this law does not have.
        """
        merged = self.parameters()
        unknown = sorted(set(p or {}) - set(merged))
        if unknown:
            raise InputError(
                message(
                    f"{type(self).__name__}.coefficients",
                    f"parameters among {', '.join(merged)}",
                    ", ".join(unknown),
                    "Remove or rename them",
                )
            )
        merged.update(p or {})
        tensors = [v for v in merged.values() if isinstance(v, Tensor)]
        floats = [t for t in tensors if t.is_floating_point()]
        dtype = torch.get_default_dtype()
        for i, t in enumerate(floats):
            dtype = t.dtype if i == 0 else torch.promote_types(dtype, t.dtype)
        device = next((t.device for t in tensors if t.ndim), tensors[0].device if tensors else None)
        return {k: torch.as_tensor(v, dtype=dtype, device=device) for k, v in merged.items()}

    def coefficients(self, p: Mapping[str, float | Tensor] | None = None) -> Tensor:
        """What `stress` and `flow` compute with.

        Args:
            p: parameters by name, of mutually broadcastable shapes; what is missing comes from the
                fields.

        Returns:
            c, shape (n_coefficients, …).

        Differentiable in every parameter.
        """
        raise NotImplementedError(
            message(f"{type(self).__name__}.coefficients", "an implementation", "none",
                    "Return the stack of the numbers that stress and flow use")
        )

    def stress(self, F: Tensor, L: Tensor | None, c: Tensor) -> Tensor:
        """Kirchhoff stress τ = J σ.

        Args:
            F: elastic deformation gradient [-], shape (…, 3, 3); for liquids J [-], shape (…).
            L: velocity gradient ∂v/∂x [1/s], shape (…, 3, 3); None where the law has no viscosity.
            c: coefficients, shape (n_coefficients, …).

        Returns:
            τ [Pa], shape (…, 3, 3).

        Raises:
            NotImplementedError: if the law exists on the engine only.
        """
        raise NotImplementedError(
            message(f"{type(self).__name__}.stress", "a torch form of the law",
                    "engine functions only",
                    "Run it on the Warp engine, or override stress(F, L, c)")
        )

    def flow(
        self, F: Tensor, alpha: Tensor | None, c: Tensor, dt: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Plastic return of the trial deformation gradient; the identity unless overridden.

        Args:
            F: trial elastic deformation gradient [-], shape (…, 3, 3).
            alpha: internal variable, shape (…), or None for laws without hardening.
            c: coefficients, shape (n_coefficients, …).
            dt: time step [s].

        Returns:
            (F₊, α₊) of the shapes that came.
        """
        return F, alpha

    def energy(self, F: Tensor, c: Tensor) -> Tensor:
        """Stored energy per rest volume ψ [J/m³], shape (…); τ = (∂ψ/∂F) Fᵀ, for liquids τ = J
        ψ'(J) I.

        Raises:
            NotImplementedError: if the law does not derive from an energy.
        """
        raise NotImplementedError(
            message(f"{type(self).__name__}.energy", "a law with a stored energy", "none",
                    "Use NeoHookean, FixedCorotated, Hencky or Liquid")
        )

    def wave_modulus(self, c: Tensor) -> Tensor:
        """P-wave modulus at rest M [Pa], shape (…); the speed of sound is √(M/ρ)."""
        raise NotImplementedError(
            message(f"{type(self).__name__}.wave_modulus", "an implementation", "none",
                    "Return λ + 2μ [Pa], which the step size bound needs")
        )

    def viscosity(self, c: Tensor) -> Tensor:
        """Largest dynamic viscosity [Pa s], shape (…), for the viscous bound of the step size."""
        return torch.zeros_like(self.wave_modulus(c))

    def weights(self) -> tuple[Tensor, ...]:
        """Learned tensors inside the law, besides its material parameters; none for analytic
        laws."""
        return ()

    def engine_functions(self, real: Any) -> tuple[Any, Any] | None:
        """Warp functions `(stress, flow)` for a precision, or None if the law has torch functions
        only.

        Args:
            real: `wp.float32` or `wp.float64`.

        Returns:
            `stress(F: mat33, L: mat33, c: vecK) -> mat33` (`J: real` first for liquids) and
            `flow(F: mat33, alpha: real, c: vecK, dt: real) -> (mat33, real)` or None.
        """
        return None

    def validate(self, p: Mapping[str, float | Tensor] | None = None) -> None:
        """Check that every parameter is finite and inside its range.

        Args:
            p: parameters by name; what is missing comes from the fields.

        Raises:
            InputError: naming all parameters out of range, with their unit.
        """
        units = {f.name: f.metadata for f in dataclasses.fields(self)}
        wrong, found = [], []
        for name, value in self.values(p).items():
            value = value.detach()
            rule = units[name]
            good = torch.isfinite(value) & (value < rule.get("below", math.inf))
            good &= value > rule.get("above", -math.inf)
            good &= value >= rule.get("at_least", -math.inf)
            if bool(good.all()):
                continue
            unit = rule.get("unit", "-")
            unit = "" if unit == "-" else f" {unit}"
            wrong.append(f"{name} {_interval(rule)}{unit}")
            found.append(f"{name} = {float(value[~good].flatten()[0]):.6g}{unit}")
        if wrong:
            raise InputError(
                message(type(self).__name__, ", ".join(wrong), ", ".join(found),
                        "Change it, or optimize a transform of it, such as its logarithm")
            )


def register_law(name: str) -> Callable[[type[Law]], type[Law]]:
    """Class decorator: make a law known under a name.

    Args:
        name: the name that `law_by_name` and scene files use.

    Raises:
        InputError: if the name belongs to another class.
    """

    def register(cls: type[Law]) -> type[Law]:
        known = LAWS.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise InputError(
                message("register_law", f"a name other than {', '.join(sorted(LAWS))}", name,
                        "Choose another name")
            )
        LAWS[name] = cls
        return cls

    return register


def law_by_name(name: str) -> type[Law]:
    """The class of a registered law.

    Raises:
        InputError: unknown material, listing the known names.
    """
    if name not in LAWS:
        raise InputError(
            message("law_by_name", f"one of {', '.join(sorted(LAWS))}",
                    f"unknown material {name!r}", "Register your own law with register_law")
        )
    return LAWS[name]


def stack_coefficients(*values: Tensor) -> Tensor:
    """Stack mutually broadcastable tensors to shape (n, …)."""
    return torch.stack(torch.broadcast_tensors(*values))


def _interval(rule: Mapping[str, Any]) -> str:
    """A range in words of mathematics, for messages."""
    low = rule.get("above", -math.inf)
    closed = rule.get("at_least", -math.inf)
    high = rule.get("below", math.inf)
    if math.isinf(low) and math.isinf(closed) and math.isinf(high):
        return "finite"
    left = f"≥ {closed:g}" if not math.isinf(closed) else f"> {low:g}"
    if math.isinf(high):
        return left
    if math.isinf(low) and math.isinf(closed):
        return f"< {high:g}"
    return f"{left} and < {high:g}"
