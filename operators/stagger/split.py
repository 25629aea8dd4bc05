"""Fields as several coarse fields, steps as several coarse steps.

Source: Huang et al. 2023 (NeuralStagger), abstract and figure 1; index rules are ours.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

from torch import Tensor

from ...sim.core.errors import InputError, message

__all__ = ["SpaceSplit", "TimeSplit"]

Offset = tuple[int, ...]
MODES = ("multi", "chain")


@dataclasses.dataclass(frozen=True)
class SpaceSplit:
    """G = Π s_d sub-fields by strided sampling, u^{o}[p] = u[s p + o] with 0 <= o_d < s_d.

    Neither averaged nor cut into blocks: every sub-field samples the whole domain, spacing s dx, shifted
    by o dx. Split and merge move values only, so they are inverse to the bit and differentiable.

    Raises:
        InputError: factors below 1, or not one per axis.
    """

    s: int | tuple[int, ...] = 1
    """Factor of all axes, or one per axis."""
    dims: int = 2
    """Number of axes D."""

    def __post_init__(self) -> None:
        given = tuple(self.s) if isinstance(self.s, Sequence) else (self.s,) * self.dims
        fine = 1 <= self.dims <= 3 and len(given) == self.dims
        if not fine or not all(isinstance(f, int) and f >= 1 for f in given):
            expected = "1 to 3 axes and one integer factor >= 1 for each"
            got = f"s = {self.s}, dims = {self.dims}"
            raise InputError(message("SpaceSplit", expected, got, "Give s=2 or s=(2, 4)"))
        object.__setattr__(self, "s", given)

    @property
    def count(self) -> int:
        """Number of sub-fields G."""
        return math.prod(self.s)

    @functools.cached_property
    def offsets(self) -> tuple[Offset, ...]:
        """o of each sub-field, the last axis fastest."""
        return tuple(itertools.product(*(range(f) for f in self.s)))

    def level(self, stride: int | Sequence[int]) -> tuple[Offset, ...]:
        """Offsets of the sub-fields that together are u[::r, ::r].

        Args:
            stride: r, a divisor of the factors; `s` itself is one sub-field, 1 is all.

        Raises:
            InputError: not a divisor.
        """
        r = self._stride(stride)
        return tuple(o for o in self.offsets if all(i % k == 0 for i, k in zip(o, r, strict=True)))

    def at_level(self, stride: int | Sequence[int]) -> SpaceSplit:
        """The split whose merge puts the sub-fields of `level(stride)` together."""
        r = self._stride(stride)
        return SpaceSplit(tuple(f // k for f, k in zip(self.s, r, strict=True)), self.dims)

    def coarse(self, cells: Sequence[int]) -> tuple[int, ...]:
        """Cells of a sub-field.

        Raises:
            InputError: cells that the factors do not divide.
        """
        cells = tuple(cells)
        if len(cells) != self.dims or any(n % f for n, f in zip(cells, self.s, strict=True)):
            lower = tuple(n // f * f for n, f in zip(cells, self.s, strict=False))
            expected = f"a grid of {self.dims} axes divisible by s = {self.s}"
            fix = f"Take a grid of {lower} cells, or other factors"
            raise InputError(message("SpaceSplit", expected, f"{cells}", fix))
        return tuple(n // f for n, f in zip(cells, self.s, strict=True))

    def split(self, u: Tensor) -> Tensor:
        """(..., *cells) → (G, ..., *cells/s), in the order of `offsets`. Differentiable in u.

        Raises:
            InputError: cells that the factors do not divide.
        """
        D, cells = self.dims, tuple(u.shape[-self.dims :])
        coarse, lead = self.coarse(cells), u.shape[:-D]
        pairs = [n for pair in zip(coarse, self.s, strict=True) for n in pair]
        u = u.reshape(*lead, *pairs)
        at = len(lead)
        order = [at + 2 * d + 1 for d in range(D)] + list(range(at))
        order += [at + 2 * d for d in range(D)]
        return u.permute(order).reshape(self.count, *lead, *coarse)

    def merge(self, parts: Tensor) -> Tensor:
        """(G, ..., *coarse) → (..., *coarse·s), inverse of `split`. Differentiable in parts.

        Raises:
            InputError: another number of sub-fields.
        """
        D = self.dims
        if parts.ndim < D + 1 or len(parts) != self.count:
            expected = f"({self.count}, ..., *cells), one row per sub-field"
            fix = "Merge part of the sub-fields with at_level(stride)"
            raise InputError(message("SpaceSplit.merge", expected, parts, fix))
        lead, coarse = parts.shape[1:-D], tuple(parts.shape[-D:])
        parts = parts.reshape(*self.s, *lead, *coarse)
        at = D + len(lead)
        order = list(range(D, at)) + [i for d in range(D) for i in (at + d, d)]
        fine = [n * f for n, f in zip(coarse, self.s, strict=True)]
        return parts.permute(order).reshape(*lead, *fine)

    def _stride(self, stride: int | Sequence[int]) -> tuple[int, ...]:
        r = (stride,) * self.dims if isinstance(stride, int) else tuple(stride)
        fine = len(r) == self.dims and all(isinstance(k, int) and k >= 1 for k in r)
        if not fine or any(f % k for f, k in zip(self.s, r, strict=True)):
            expected = f"a stride that divides s = {self.s}"
            got = f"{stride}"
            raise InputError(message("SpaceSplit.level", expected, got, "1 is the whole field"))
        return r


@dataclasses.dataclass(frozen=True)
class TimeSplit:
    """s_T fine steps dt in one call of the networks.

    "multi": from one frame to the s_T next ones, one head for each; nothing has to be warmed up.
    "chain": from s_T consecutive frames, each to the frame s_T later, by one and the same network.

    Raises:
        InputError: s_T below 1, unknown mode.
    """

    s_T: int = 1
    """Fine steps per call."""
    mode: str = "multi"
    """"multi" or "chain"."""

    def __post_init__(self) -> None:
        if not isinstance(self.s_T, int) or self.s_T < 1:
            raise InputError(message("TimeSplit", "an integer s_T >= 1", self.s_T, "Correct it"))
        if self.mode not in MODES:
            raise InputError(message("TimeSplit", f"mode out of {MODES}", self.mode, "Choose one"))

    @property
    def window(self) -> int:
        """Frames that a call starts from."""
        return self.s_T if self.mode == "chain" else 1

    @property
    def heads(self) -> int:
        """Frames that the network gives for each of them."""
        return 1 if self.mode == "chain" else self.s_T
