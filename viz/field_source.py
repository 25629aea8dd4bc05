"""Fields on grids as what pictures show: one quantity at one moment, with its range and colors.

    speed |u| = √(u·u)        vorticity ω = ∂u_z/∂x − ∂u_x/∂z,  in 3-D |∇ × u|

Derivatives are central differences of cell centres, one-sided at sides that are not periodic.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..sim.core.errors import InputError, message

__all__ = ["Difference", "FieldFrame", "FieldScenes", "cell_edges"]

BODIES = ("obstacle", "obstacles", "solid", "mask")
"""Constant fields that are 1 where there is a body."""
INKS = ("smoke", "dye", "tracer", "particles", "concentration")
"""Of fields that are drawn dark on light, as what they are would look."""
SIGNED = "vorticity"
SAMPLES = 9
"""Frames of a trajectory that a color range is taken from."""


@dataclasses.dataclass
class FieldFrame:
    """One quantity of one trajectory at one moment."""

    name: str
    """Of the quantity."""
    label: str
    """With its unit."""
    values: np.ndarray
    """Per cell, (*cells), float64; what is not finite stays so."""
    edges: dict[str, np.ndarray]
    """Axis to the borders of its cells, (n + 1,); the last axis is up."""
    clim: tuple[float, float]
    """Range of the color map, one for the whole trajectory."""
    cmap: str
    """Color map."""
    vectors: np.ndarray | None = None
    """Components (D, *cells) where the quantity is a vector; `values` is then its length."""
    body: np.ndarray | None = None
    """Which cells are bodies, (*cells) bool."""
    time: float | None = None
    """[s]; None where the file has no times."""
    index: int = 0
    """Frame."""
    space_unit: str = "m"
    """Of the edges."""

    @property
    def dim(self) -> int:
        """Axes of space."""
        return self.values.ndim

    @property
    def moment(self) -> str:
        """Time, or number of the frame."""
        return f"frame {self.index}" if self.time is None else f"t = {self.time:.4g} s"

    @property
    def centres(self) -> list[np.ndarray]:
        """Middles of the cells per axis."""
        return [(e[1:] + e[:-1]) / 2 for e in self.edges.values()]


@dataclasses.dataclass(frozen=True)
class _Quantity:
    """Where a quantity comes from."""

    name: str
    label: str
    field: str
    """As stored."""
    channel: int = 0
    kind: str = "value"
    """"value" of a channel, "vector" and its length, "norm" of all channels, or "curl"."""


class FieldScenes:
    """Quantities of a file, a folder or a set of fields, frame by frame.

    Args:
        source: what `open_fields` takes, or what it gave.
        title: name of the source in pictures.

    Raises:
        StoreError: a file that has no fields.
    """

    def __init__(self, source: Any, title: str = "") -> None:
        if isinstance(source, (str, os.PathLike, list, tuple)):
            from ..sim.io import open_fields

            source = open_fields(source)
        self.data = source
        self.title = title or self.data.parts[0].path.stem
        self.dim = len(self.data.cells)
        self._ranges: dict[tuple[str, tuple[int, ...]], tuple[float, float]] = {}

    @property
    def n_frames(self) -> int:
        """Frames, one at least."""
        return max(1, int(self.data.n_frames))

    @property
    def body(self) -> str | None:
        """Name of the field that tells where bodies are."""
        names = (n for n in self.data.names if n in BODIES and not self.data.varies(n))
        return next((n for n in names if len(self.data.channels(n)) == 1), None)

    @property
    def names(self) -> list[str]:
        """Everything that can be drawn: fields, their components, and what follows from a velocity."""
        out = list(self.data.names)
        for name in self.data.names:
            channels = self.data.channels(name)
            out += channels if len(channels) > 1 else ()
        if self._moves():
            out += [n for n in ("speed", "vorticity") if n not in out]
        return out

    def default(self) -> list[str]:
        """What is drawn if nothing was asked for: what varies in time, or all of a stationary problem."""
        shown = [n for n in self.data.names if n != self.body]
        moving = [n for n in shown if self.data.varies(n) and self.data.n_frames > 1]
        if not moving:
            return sorted(shown, key=self.data.varies)[:4]
        best = [c for n in moving if n != "pressure" and not self._points(n)
                for c in self.data.channels(n)]  # fmt: skip
        return best[:1] or (["vorticity"] if self._moves() else moving[:1])

    def check(
        self, names: Sequence[str], trajectories: Sequence[int], frames: Sequence[int] = ()
    ) -> None:
        """Raise unless quantities, trajectories and frames exist.

        Raises:
            InputError: one that does not, with those that do.
        """
        for name in names:
            self._quantity(name)
        for k in trajectories:
            count = self.data.n_trajectories
            if not -count <= k < count:
                expected, fix = f"a trajectory in [0, {count})", "Correct --trajectory"
                raise InputError(message(self.title, expected, k, fix))
        for index in frames:
            if not -self.n_frames <= index < self.n_frames:
                expected = f"a frame in [0, {self.n_frames})"
                raise InputError(message(self.title, expected, index, "Correct --frame"))

    def times(self, trajectory: int = 0) -> np.ndarray | None:
        """Of the frames [s]."""
        times = self.data.times
        if times is None or not self.data.n_frames:
            return None
        return np.asarray(times[trajectory] if times.ndim > 1 else times, dtype=float)

    def nearest(self, time: float, trajectory: int = 0) -> int:
        """Frame that is nearest to a time [s].

        Raises:
            InputError: a file without times.
        """
        times = self.times(trajectory)
        if times is None:
            fix = "Choose by --frame"
            raise InputError(message(self.title, "times to choose from", "a file without any", fix))
        return int(np.abs(times - time).argmin())

    def frame(
        self,
        name: str,
        index: int = 0,
        trajectory: int = 0,
        *,
        clim: tuple[float, float] | None = None,
    ) -> FieldFrame:
        """A quantity at a moment.

        Args:
            name: one of `names`.
            index: frame; negative counts from the end.
            trajectory: which one.
            clim: color range; None takes that of the trajectory.

        Raises:
            InputError: no such quantity, trajectory or frame.
        """
        quantity = self._quantity(name)
        self.check((), [trajectory], [index])
        index %= self.n_frames
        low, high = clim or self.range(name, [trajectory])
        values, vectors = self._values(quantity, index, trajectory)
        times, body = self.times(trajectory), None
        if self.body not in (None, name):
            body = self._read(self.body, 0, trajectory)[0] > 0.5
        known = bool(self.data.coordinates)
        return FieldFrame(
            name, quantity.label, values, self._edges(trajectory), (low, high),
            _color_map(name, low, high), vectors, body,
            None if times is None else float(times[index]), index, "m" if known else "cells",
        )  # fmt: skip

    def range(self, name: str, trajectories: Sequence[int] = (0,)) -> tuple[float, float]:
        """Color range of a quantity over trajectories: symmetric if it is signed, from 0 if it is not.

        Bodies do not count, nor does what is not finite, nor the outermost 0.2 % where they lie
        far out.
        """
        key = (name, tuple(trajectories))
        if key not in self._ranges:
            quantity, found = self._quantity(name), []
            frames = np.unique(np.linspace(0, self.n_frames - 1, SAMPLES).round().astype(int))
            for k in list(trajectories)[:SAMPLES]:
                free: Any = slice(None)
                if self.body not in (None, name):
                    free = self._read(self.body, 0, k)[0] <= 0.5
                for index in frames if self.data.varies(quantity.field) else frames[:1]:
                    found.append(self._values(quantity, int(index), k)[0][free].ravel())
            self._ranges[key] = _span(np.concatenate(found), name == SIGNED and self.dim < 3)
        return self._ranges[key]

    def _moves(self) -> bool:
        return self.dim > 1 and "velocity" in self.data.names and self._points("velocity")

    def _points(self, name: str) -> bool:
        """Whether a field is a vector of space, with a component per axis."""
        axes = self.data.parts[0].axes
        return self.data.channels(name) == tuple(f"{name}_{a}" for a in axes)

    def _quantity(self, name: str) -> _Quantity:
        data = self.data
        if name in data.names:
            count, units = len(data.channels(name)), data.units(name)
            if count == 1:
                return _Quantity(name, _label(name, units), name)
            kind = "vector" if self._points(name) else "norm"
            text = "speed" if name == "velocity" else f"|{name}|"
            return _Quantity(name, _label(text, units), name, 0, kind)
        for field in data.names:
            if name in data.channels(field):
                channel = data.channels(field).index(name)
                return _Quantity(name, _label(name, data.units(field)), field, channel)
        if name in ("speed", "vorticity") and self._moves():
            units = data.units("velocity")
            if name == "speed":
                return _Quantity(name, _label(name, units), "velocity", 0, "norm")
            text = name if self.dim == 2 else f"|{name}|"
            return _Quantity(name, _label(text, "1/s" * (units == "m/s")), "velocity", 0, "curl")
        expected = f"a field out of {', '.join(self.names)}"
        raise InputError(message(self.title, expected, repr(name), "Correct --field"))

    def _values(
        self, quantity: _Quantity, index: int, trajectory: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Scalars per cell, and vectors if there are some."""
        value = self._read(quantity.field, index, trajectory)
        if quantity.kind == "value":
            return value[quantity.channel], None
        if quantity.kind == "curl":
            return self._curl(value, trajectory), None
        length = np.sqrt((value**2).sum(0))
        return length, value if quantity.kind == "vector" else None

    def _read(self, name: str, index: int, trajectory: int) -> np.ndarray:
        """(C, *cells) of one frame."""
        import torch

        frames = index if self.data.varies(name) else None
        value = self.data.read(name, trajectory, frames, dtype=torch.float64, check=False)[0]
        return (value[0] if self.data.varies(name) else value).numpy()

    def _curl(self, u: np.ndarray, trajectory: int) -> np.ndarray:
        def d(value: np.ndarray, axis: int) -> np.ndarray:
            name = list(edges)[axis]
            x = (edges[name][1:] + edges[name][:-1]) / 2
            if len(x) < 2:
                return np.zeros_like(value)
            if self.data.sides.get(f"{name}-") != "periodic":
                return np.gradient(value, x, axis=axis)
            # One more cell at both ends, the other side's.
            width = [(1, 1) if a == axis else (0, 0) for a in range(value.ndim)]
            step = np.array([x[1] - x[0], x[-1] - x[-2]])
            wide = np.concatenate([x[:1] - step[0], x, x[-1:] + step[1]])
            slope = np.gradient(np.pad(value, width, mode="wrap"), wide, axis=axis)
            return slope.take(range(1, len(x) + 1), axis=axis)

        edges = self._edges(trajectory)
        if len(u) == 2:
            return d(u[1], 0) - d(u[0], 1)
        parts = [d(u[2], 1) - d(u[1], 2), d(u[0], 2) - d(u[2], 0), d(u[1], 0) - d(u[0], 1)]
        return np.sqrt(sum(p**2 for p in parts))

    def _edges(self, trajectory: int) -> dict[str, np.ndarray]:
        found = self.data.coordinates
        out = {}
        for axis, n in zip(self.data.parts[0].axes, self.data.cells, strict=True):
            if axis not in found:
                out[axis] = np.arange(n + 1.0)
                continue
            x = np.asarray(found[axis], dtype=float)
            out[axis] = cell_edges(x[trajectory] if x.ndim > 1 else x)
        return out


class Difference:
    """A source less another one on the same cells, as a source of its own.

    Args:
        of, less: the two.

    Raises:
        InputError: other cells.
    """

    def __init__(self, of: FieldScenes, less: FieldScenes) -> None:
        if of.data.cells != less.data.cells:
            expected = f"the cells of {less.title}, {less.data.cells}"
            fix = "Compare results on one grid"
            raise InputError(message(of.title, expected, f"{of.data.cells}", fix))
        self.of, self.less, self.title = of, less, "difference"
        self.n_frames, self.dim = min(of.n_frames, less.n_frames), of.dim

    def frame(
        self,
        name: str,
        index: int = 0,
        trajectory: int = 0,
        *,
        clim: tuple[float, float] | None = None,
    ) -> FieldFrame:
        """The difference of a quantity; of vectors that of their lengths."""
        a, b = (s.frame(name, index, trajectory) for s in (self.of, self.less))
        low, high = clim or self.range(name, [trajectory])
        return dataclasses.replace(
            b, values=a.values - b.values, vectors=None, clim=(low, high), cmap=_DIVERGING
        )

    def range(self, name: str, trajectories: Sequence[int] = (0,)) -> tuple[float, float]:
        """Symmetric color range."""
        frames = np.unique(np.linspace(0, self.n_frames - 1, SAMPLES).round().astype(int))
        found = []
        for k in trajectories:
            for i in frames:
                frame = self.frame(name, int(i), k, clim=(-1.0, 1.0))
                free = slice(None) if frame.body is None else ~frame.body
                found.append(frame.values[free].ravel())
        return _span(np.concatenate(found), True)


_DIVERGING = "RdBu_r"


def cell_edges(x: np.ndarray) -> np.ndarray:
    """Borders (n + 1,) of cells by their middles (n,)."""
    if len(x) < 2:
        return np.array([x[0] - 0.5, x[0] + 0.5])
    middle = (x[1:] + x[:-1]) / 2
    return np.concatenate([[2 * x[0] - middle[0]], middle, [2 * x[-1] - middle[-1]]])


def _label(name: str, units: str) -> str:
    return f"{name} [{units}]" if units else name


def _span(values: np.ndarray, signed: bool) -> tuple[float, float]:
    """Color range of some values."""
    values = values[np.isfinite(values)]
    if not values.size:
        return (-1.0, 1.0) if signed else (0.0, 1.0)
    low, high = (float(v) for v in np.percentile(values, [0.2, 99.8]))
    ends, room = (float(values.min()), float(values.max())), 0.5 * (high - low)
    low = ends[0] if ends[0] > low - room else low
    high = ends[1] if ends[1] < high + room else high
    least, most = sorted((abs(low), abs(high)))
    if signed or (low < 0 < high and least > 0.1 * most):
        most = most or float(np.abs(values).max()) or 1.0
        return -most, most
    if high > 0 and low < 0.3 * high:
        return 0.0, high
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-30):
        half = 0.5 * abs(low) or 0.5
        return low - half, high + half
    return low, high


def _color_map(name: str, low: float, high: float) -> str:
    """Blue and red around zero for what has two signs; else one that grows evenly in lightness."""
    if low < 0 < high and abs(low + high) <= 1e-9 * high:
        return _DIVERGING
    return "magma_r" if any(word in name for word in INKS) else "viridis"
