"""Errors that physics raises, and the one sentence form all of them use.

A message says where, what was expected, what came instead and what to do:
`SolverMPM.step: expected dt <= 8.1e-4 s; got 2.0e-3 s. Lower dt or set substeps=3.`
"""

from __future__ import annotations

from typing import Any

import torch


class RheogradError(RuntimeError):
    """Base of the errors that a computation raises, so that one `except` can catch them."""


class ConvergenceError(RheogradError):
    """An iteration stopped before it reached its tolerance.

    Args:
        message: the formatted message, see `message`.
        iterations: iterations done, or None where the solver does not count.
        residual: residual norm reached, in the unit of the equation.
        tol: residual norm that was asked for, same unit.
    """

    def __init__(
        self,
        message: str,
        *,
        iterations: int | None = None,
        residual: float | None = None,
        tol: float | None = None,
    ):
        super().__init__(message)
        self.iterations = iterations
        self.residual = residual
        self.tol = tol


class StabilityError(RheogradError):
    """A step breaks a stability bound, such as the CFL condition."""


class StateError(RheogradError):
    """A state holds values no physics can continue from: not finite, or outside the domain.

    Args:
        message: the formatted message, see `message`.
        step: index of the step after which it was seen, or None outside a rollout.
        field: name of the field of the state.
    """

    def __init__(self, message: str, *, step: int | None = None, field: str | None = None):
        super().__init__(message)
        self.step = step
        self.field = field


class InputError(RheogradError, ValueError):
    """An argument has the wrong shape, type, unit or range."""


def message(where: str, expected: str, got: Any, fix: str = "") -> str:
    """Format `<where>: expected <expected>; got <got>. <fix>.`

    Args:
        where: class and method or function, e.g. `"SolverMPM.step"`.
        expected: what holds for a right call, e.g. `"x of shape (B, N, D)"`.
        got: what came; tensors are described by `describe`.
        fix: what the caller should do, one sentence.

    Returns:
        The message as one line.
    """
    text = f"{where}: expected {expected}; got {describe(got)}."
    return f"{text} {fix.rstrip('.')}." if fix else text


def describe(value: Any) -> str:
    """Describe a value in few words: a tensor by shape, dtype and device, text as it stands."""
    if isinstance(value, torch.Tensor):
        if value.numel() == 1:
            return f"{value.item():.6g}"
        dtype = str(value.dtype).removeprefix("torch.")
        return f"tensor {tuple(value.shape)} {dtype} {value.device}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value
    return f"{type(value).__name__} {value!r}" if not isinstance(value, int) else str(value)


def check_finite(where: str, *, step: int | None = None, **fields: torch.Tensor) -> None:
    """Raise `StateError` for the first of the named tensors that holds NaN or infinity.

    Args:
        where: class and method that checks.
        step: index of the step, for the message.
        fields: tensors by name, any shape; integer and boolean tensors always pass.

    Raises:
        StateError: with `step` and `field`, naming how many values are not finite and the first.
    """
    for name, value in fields.items():
        if not (value.is_floating_point() or value.is_complex()):
            continue
        bad = ~torch.isfinite(value)
        if not bool(bad.any()):
            continue
        first = tuple(bad.nonzero()[0].tolist())
        at = "" if step is None else f" at step {step}"
        raise StateError(
            message(
                where,
                f"finite {name}{at}",
                f"{int(bad.sum())} of {value.numel()} values not finite, first at {first}",
                "Lower dt, or check the initial state and the parameters",
            ),
            step=step,
            field=name,
        )
