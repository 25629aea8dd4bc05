"""What operators on particles learn from: a batch of scenes of unequal size, and its scales.

Samples of a batch are concatenated, not padded: particle m belongs to sample `scene[m]`. Time is
counted in frames, so a velocity is the difference of two positions [m/frame].

Source: Sanchez-Gonzalez et al. 2020 (GNS), §4; Viswanath et al. 2024 (GIOROM), §3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, check_finite, message

__all__ = ["KINDS", "ParticleBatch", "Statistics", "collate"]

KINDS: dict[str, int] = {
    "rigid": 0,
    "jelly": 1,
    "plasticine": 2,
    "boundary": 3,
    "rubber": 4,
    "water": 5,
    "sand": 6,
    "goop": 7,
    "mud": 8,
}
"""Material ids. 0, 3, 5, 6, 7 are those of the GNS data sets; particles of kind 3 are moved by the
data and not by a model."""


@dataclasses.dataclass(frozen=True)
class ParticleBatch:
    """Windows of particle positions of S samples, M particles in all."""

    positions: Tensor
    """Last W positions, oldest first, the last one is now [m], (M, W, D)."""
    kind: Tensor
    """Material id, see `KINDS`, (M,) int64."""
    scene: Tensor
    """Index of the sample, ascending, (M,) int64."""
    bounds: Tensor
    """Lower and upper wall of each axis and sample [m], (S, D, 2)."""
    target: Tensor | None = None
    """The T positions that follow [m], (M, T, D); None where there is nothing to learn."""
    reference: Tensor | None = None
    """Positions in the undeformed state [m], (M, D); None where no model asks for them."""

    def __post_init__(self) -> None:
        where = "ParticleBatch"
        if self.positions.ndim != 3:
            raise InputError(
                message(where, "positions of shape (M, W, D)", self.positions, "Add the axis")
            )
        M, _, D = self.positions.shape
        if self.target is not None and (
            self.target.ndim != 3 or (self.target.shape[0], self.target.shape[2]) != (M, D)
        ):
            raise InputError(
                message(where, f"target of shape ({M}, T, {D})", self.target, "Match positions")
            )
        if self.reference is not None and self.reference.shape != (M, D):
            raise InputError(
                message(where, f"reference of shape ({M}, {D})", self.reference, "Match positions")
            )
        for name in ("kind", "scene"):
            value = getattr(self, name)
            if value.shape != (M,) or value.dtype != torch.long:
                raise InputError(
                    message(where, f"{name} of shape ({M},) int64", value, "One per particle")
                )
        if self.bounds.ndim != 3 or self.bounds.shape[1:] != (D, 2):
            raise InputError(
                message(where, f"bounds of shape (S, {D}, 2)", self.bounds, "One box per sample")
            )

    @property
    def count(self) -> int:
        """Number of samples S."""
        return self.bounds.shape[0]

    @property
    def n(self) -> int:
        """Number of particles M of all samples."""
        return self.positions.shape[0]

    @property
    def dim(self) -> int:
        """Dimension D."""
        return self.positions.shape[2]

    def to(self, *args: Any, **kwargs: Any) -> ParticleBatch:
        """Copy on another device or in another precision, as `Tensor.to`; indices stay int64."""
        device = torch.empty(0, device=self.positions.device).to(*args, **kwargs).device
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return ParticleBatch(
            **{
                name: value
                if value is None
                else value.to(*args, **kwargs)
                if value.is_floating_point()
                else value.to(device)
                for name, value in values.items()
            }
        )

    def replace(self, **changes: Any) -> ParticleBatch:
        """Copy with some fields replaced."""
        return dataclasses.replace(self, **changes)


def collate(samples: Sequence[ParticleBatch]) -> ParticleBatch:
    """Join batches of any numbers of particles into one, for example as `DataLoader(collate_fn=)`.

    Args:
        samples: Batches of equal D, W and T; those with and without target or reference do not mix.

    Raises:
        InputError: nothing to join, or batches that do not fit together.
    """
    where = "collate"
    if not samples:
        raise InputError(message(where, "at least one sample", "none", "Ask for a batch >= 1"))
    first = samples[0]
    shapes = {
        (s.positions.shape[1:], None if s.target is None else s.target.shape[1:]) for s in samples
    }
    if len(shapes) > 1:
        raise InputError(
            message(
                where,
                "samples of one window (W, D) and target (T, D)",
                ", ".join(sorted(str((tuple(a), b if b is None else tuple(b))) for a, b in shapes)),
                "Join samples of one data set",
            )
        )
    if len({s.reference is None for s in samples}) > 1:
        raise InputError(
            message(where, "all samples with a reference, or none", "some", "Join one data set")
        )
    offset, scenes = 0, []
    for sample in samples:
        scenes.append(sample.scene + offset)
        offset += sample.count
    return ParticleBatch(
        positions=torch.cat([s.positions for s in samples]),
        kind=torch.cat([s.kind for s in samples]),
        scene=torch.cat(scenes),
        bounds=torch.cat([s.bounds for s in samples]),
        target=None if first.target is None else torch.cat([s.target for s in samples]),
        reference=None if first.reference is None else torch.cat([s.reference for s in samples]),
    )


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of velocities and accelerations per axis, each (D,).

    Pooled over all particles, frames and training trajectories.
    """

    velocity_mean: Tensor
    """[m/frame]"""
    velocity_std: Tensor
    """[m/frame]"""
    acceleration_mean: Tensor
    """[m/frame²]"""
    acceleration_std: Tensor
    """[m/frame²]"""

    def __post_init__(self) -> None:
        check_finite("Statistics", **self.tensors())
        shapes = {tuple(t.shape) for t in self.tensors().values()}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1:
            raise InputError(
                message("Statistics", "four tensors of shape (D,)", str(sorted(shapes)), "")
            )
        for name in ("velocity_std", "acceleration_std"):
            if not bool((getattr(self, name) > 0).all()):
                raise InputError(
                    message(
                        "Statistics",
                        f"{name} > 0 on every axis",
                        str(getattr(self, name).tolist()),
                        "Use trajectories in which something moves along each axis",
                    )
                )

    def tensors(self) -> dict[str, Tensor]:
        """The four tensors by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def with_noise(self, sigma: float) -> Statistics:
        """Scales of inputs with noise of standard deviation σ [m/frame]: std = √(std² + σ²)."""
        return dataclasses.replace(
            self,
            velocity_std=(self.velocity_std.square() + sigma**2).sqrt(),
            acceleration_std=(self.acceleration_std.square() + sigma**2).sqrt(),
        )

    def to(self, *args: Any, **kwargs: Any) -> Statistics:
        """Copy on another device or in another precision, as `Tensor.to`."""
        return Statistics(**{k: v.to(*args, **kwargs) for k, v in self.tensors().items()})

    def to_dict(self) -> dict[str, list[float]]:
        """Plain lists, for JSON."""
        return {name: value.tolist() for name, value in self.tensors().items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Sequence[float]]) -> Statistics:
        """From what `to_dict` gave; float64."""
        names = [f.name for f in dataclasses.fields(cls)]
        return cls(**{n: torch.tensor(data[n], dtype=torch.float64) for n in names})
