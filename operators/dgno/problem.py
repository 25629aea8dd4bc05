"""What a PDE tells the generative model: its fields, its input, and its virtual observables."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.grid.pdes import Grid
from .scattered import Scattered, resized

__all__ = [
    "Decode", "FieldSpec", "Problem", "check_batch", "check_codes", "check_like", "check_pair",
    "check_points",
]  # fmt: skip

Decode = Callable[[Tensor, int, tuple[str, ...]], Mapping[str, Tensor]]
"""(points, order, names of fields) ↦ jets (S, B, C, n) of those fields, for a batch of codes."""


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """A field that is decoded from the latent code."""

    outputs: int = 1
    """Components C."""
    scale: float = 1.0
    """Its size, in its unit: decoders give numbers of order one times this."""
    trunk: str = "tanh_sin"
    """Activation of the trunk."""
    branch: str = "tanh_sin"
    """Activation of the branch."""


class Problem:
    """A PDE for `DGNO`: subclasses set the attributes and write what raises here."""

    grid: Grid
    """Cells of the input field."""
    dim: int
    """D, coordinates of a point."""
    fields: Mapping[str, FieldSpec]
    """Decoded fields by name; the first one is the solution, unless `solution` says otherwise."""
    given: tuple[tuple[Any, ...], dict[str, Any]]
    """Arguments it was made with, for `settings`."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        problem = super().__new__(cls)
        problem.given = args, options
        return problem

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make this problem again, those given by name."""
        args, options = self.given
        bound = inspect.signature(type(self).__init__).bind(self, *args, **options)
        return dict(list(bound.arguments.items())[1:])

    def verify(self, a: Tensor) -> None:
        """Raise `InputError` for values of inputs that are of another problem."""

    def scaled(self, a: Tensor) -> Tensor:
        """Input field (B, 1, *cells) as the encoder reads it."""
        return a

    def mollifier(self, name: str, x: Tensor, order: int) -> Tensor | None:
        """Jet (S, *points) of a function that vanishes where the field does; None: no such walls."""
        return None

    def lift(self, name: str, x: Tensor, order: int) -> Tensor | None:
        """Jet (S, *points) of a function that is added, such as values at walls; None: zero."""
        return None

    def sample(self, generator: torch.Generator | None, like: Tensor) -> Any:
        """Random particles or points of one update."""
        raise NotImplementedError

    def residuals(self, decode: Decode, where: Any, a: Tensor | None) -> dict[str, Tensor]:
        """Dimensionless residuals (B, m) by name, square roots of weights included.

        Args:
            decode: fields of a batch of codes.
            where: what `sample` gave.
            a: input fields (B, 1, *cells), with any number of cells; None takes the decoded ones.
        """
        raise NotImplementedError

    def misfit(self, decode: Decode, a: Tensor | Scattered) -> Tensor:
        """−log p(a|β) per cell or point up to constants, (B,)."""
        raise NotImplementedError

    def known(self, a: Tensor | Scattered) -> Scattered:
        """Points and values of an input: its own, or the centres of its cells."""
        return a.filled() if isinstance(a, Scattered) else Scattered.of(a, self.grid)

    def grid_of(self, a: Tensor) -> Grid:
        """Grid of a field (B, 1, *cells) that fills this problem's box."""
        return resized(a, self.grid)

    def binary(self) -> Problem:
        """The same problem with a decoded input of its two phases alone, for `Posterior(binary=True)`.

        Raises:
            InputError: the input has no two phases.
        """
        name = type(self).__name__
        raise InputError(message(name, "an input of two phases", "another", "Take binary=False"))

    def inputs(self, decode: Decode, x: Tensor) -> Tensor:
        """Decoded input field at points of its own domain, (n, axes of the grid) → (B, n)."""
        raise NotImplementedError

    def points(self, like: Tensor) -> Tensor:
        """Where solutions are compared and labelled, (n, D)."""
        raise NotImplementedError

    def solution(self, decode: Decode, x: Tensor) -> Tensor:
        """What sensors and labels see of the solution at points, (B, C, n)."""
        name = next(iter(self.fields))
        return decode(x, 0, (name,))[name][0]

    @property
    def observables(self) -> tuple[str, ...]:
        """What labels and sensors may see: "u", the solution, and other fields by name."""
        return ("u", *(name for name in list(self.fields)[1:] if name not in ("u", "a")))

    def observe(self, name: str, decode: Decode, x: Tensor) -> Tensor:
        """An observable at points, (B, C, n).

        Raises:
            InputError: an unknown name.
        """
        if name == "u":
            return self.solution(decode, x)
        if name not in self.observables:
            expected = f"one of {self.observables}"
            raise InputError(
                message(f"{type(self).__name__}.observe", expected, name, "Choose one")
            )
        return decode(x, 0, (name,))[name][0]


def check_points(where: str, x: Tensor, dim: int, like: Tensor) -> None:
    """Raise `InputError` unless x is (n, D) or (B, n, D), in the precision of the weights."""
    check_like(where, "points", x, like)
    if x.ndim not in (2, 3) or x.shape[-1] != dim:
        fix = "Give one row of coordinates per point"
        raise InputError(message(where, f"points (n, {dim}) or (B, n, {dim})", x, fix))


def check_like(where: str, what: str, value: Tensor | Scattered, like: Tensor) -> None:
    """Raise `InputError` unless numbers have the precision and the device of the weights."""
    for v in (value.value, value.x) if isinstance(value, Scattered) else (value,):
        if v.dtype != like.dtype or v.device != like.device:
            expected = f"{what} of {like.dtype} on {like.device}, as the weights"
            got, fix = f"{v.dtype} on {v.device}", "Move them and labels by .to(…), or the model"
            raise InputError(message(where, expected, got, fix))


def check_pair(beta: Tensor, x: Tensor, latent: int, like: Tensor) -> None:
    """Raise `InputError` unless codes are (B, dβ), and B those of the points, if these are (B, n, D)."""
    check_like("DGNO", "codes", beta, like)
    if beta.ndim != 2 or beta.shape[1] != latent:
        raise InputError(message("DGNO", f"codes (B, {latent})", beta, "Encode the input first"))
    if x.ndim == 3 and len(x) != len(beta):
        expected = f"points of {len(beta)} samples"
        raise InputError(message("DGNO", expected, x, "Give (n, D), or as many as samples"))


def check_batch(where: str, batch: Mapping[str, Tensor], observables: tuple[str, ...]) -> None:
    """Raise `InputError` for names that a loss does not read, and shares that are not (B,)."""
    shares = ("virtual", "labelled", *(f"labelled {name}" for name in observables))
    known = ("a", "at", "mask", "x", *observables, *shares)
    strange = [name for name in batch if name not in known]
    if strange or "a" not in batch:
        got = f"{strange[0]!r}" if strange else "no inputs"
        raise InputError(message(where, f'"a", and parts out of {known[1:]}', got, "Rename it"))
    B = len(batch["a"])
    if B == 0:
        raise InputError(message(where, "a sample or more", "a batch of none", "Leave it out"))
    for name in shares:
        if name in batch and tuple(batch[name].shape) != (B,):
            fix = "Give a number for each sample"
            raise InputError(message(where, f'"{name}" of shape ({B},)', batch[name], fix))
    for name in observables:
        if name in batch and not batch[name].is_floating_point():
            raise InputError(message(where, f'"{name}" of floating point', batch[name], "Convert"))


def check_codes(where: str, beta: Tensor) -> Tensor:
    """The codes of inputs, (B, dβ). Raises `InputError` where one is not finite."""
    bad = ~torch.isfinite(beta.detach()).all(1)
    if bool(bad.any()):
        got = f"{int(bad.sum())} of {len(bad)} with codes that are not finite"
        fix = "Inputs must be finite and, where they are coefficients, positive; fit_scales comes first"
        raise InputError(message(where, "inputs of the problem", got, fix))
    return beta
