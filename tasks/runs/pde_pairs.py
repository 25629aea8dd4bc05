"""What operators on grids learn from a data set of `rheograd generate pde/…`: fields, times, split."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...operators.data import FieldPairs
from ...sim.core.errors import InputError, message
from ...sim.io import open_fields
from ...sim.io.field_set import FieldSet
from .operator_config import OperatorConfig
from .pde_config import PdeName

__all__ = ["FieldMap", "PdeFolder", "choose_map"]


@dataclasses.dataclass(frozen=True)
class FieldMap:
    """Which fields an operator maps to which, and how far ahead."""

    dataset: str
    """Name of the data set, such as pde/heat."""
    inputs: tuple[str, ...]
    """Fields that go in."""
    targets: tuple[str, ...]
    """Fields that come out."""
    past: int = 1
    """Frames of the inputs."""
    future: int = 1
    """Frames of the targets."""
    lead: int = 0
    """Frames from the last input to the first target; 0 of a stationary problem."""
    everywhere: bool = False
    """Whether samples start at every frame, or at the first one."""
    frame_time: float = 0.0
    """From frame to frame [s]; 0 of a stationary problem."""
    cells: tuple[int, ...] = ()
    """Cells per axis of the training data."""
    physics: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Numbers of the PDE, SI units."""
    seeds: tuple[int, ...] = ()
    """First and last seed of the training solutions."""
    still: tuple[str, ...] = ()
    """Inputs that do not change in time, such as an obstacle."""

    @property
    def repeats(self) -> bool:
        """Whether what comes out can go in again, with what is still behind it."""
        again = self.inputs == self.targets + self.still
        return self.lead > 0 and again and self.past == self.future == 1

    def pairs(
        self, fields: FieldSet, trajectories: Iterable[int] | None = None, steps: int = 1
    ) -> FieldPairs:
        """Rows (x, y) of (C, *cells), read when asked for.

        Args:
            fields: with the frame time of the map.
            trajectories: which ones; None is all.
            steps: how many times as far ahead, from the first frame; 1: as the map says.

        Raises:
            InputError: fewer frames than that takes.
        """
        every = self.everywhere and steps == 1
        return FieldPairs(
            fields, self.inputs, self.targets, past=self.past, future=self.future,
            lead=max(self.lead, 1) * steps, starts=None if every or not self.lead else [0],
            trajectories=trajectories,
        )  # fmt: skip


class PdeFolder:
    """A finished data set of `rheograd generate pde/…`.

    Args:
        path: its folder.

    Raises:
        InputError: no finished data set, or one of particles.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        file, where = self.path / "metadata.json", f"data set {path}"
        try:
            self.metadata: dict[str, Any] = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            raise InputError(
                message(where, "the folder of a finished data set, with metadata.json", "none there",
                        "Make one with `rheograd generate pde/darcy --out darcy`, or finish one with "
                        "`rheograd generate --resume`")
            ) from None  # fmt: skip
        self.dataset = str(self.metadata.get("dataset"))
        if self.dataset not in typing.get_args(PdeName):
            raise InputError(
                message(where, "solutions of a PDE, of `rheograd generate pde/…`", self.dataset,
                        "Particles are for `rheograd train giorom`")
            )  # fmt: skip

    def fields(self, split: str) -> FieldSet:
        """Solutions of one split, "train" or "validation"; none is read yet.

        Raises:
            InputError, StoreError: a split without files; files that are missing or damaged.
        """
        files = self.metadata.get(split)
        if not files:
            raise InputError(
                message(f"data set {self.path}", f"solutions of the split {split}", "none",
                        "Generate it again with --validation 200")
            )  # fmt: skip
        return open_fields([self.path / name for name in files])

    @property
    def physics(self) -> dict[str, Any]:
        """Numbers of the PDE, without those of the discretization."""
        own = {k: v for k, v in self.metadata.items() if isinstance(v, (int, float))}
        return {k: v for k, v in own.items() if k not in ("dt", "frame_steps", "sequence_length")}

    def like(self, wanted: FieldMap, split: str) -> FieldSet:
        """Solutions with the frame time of a map: those of another resolution are thinned to it.

        Raises:
            InputError: another equation, or frames at other times.
        """
        where, fields = f"data set {self.path}", self.fields(split)
        if self.dataset != wanted.dataset:
            raise InputError(
                message(where, f"solutions of {wanted.dataset}, as in training", self.dataset,
                        "Give a set of that name; grid and parameters may differ")
            )  # fmt: skip
        if not wanted.lead:
            return fields
        own = _frame_time(fields)
        stride = round(wanted.frame_time / own)
        if stride < 1 or not math.isclose(stride * own, wanted.frame_time, rel_tol=1e-6):
            raise InputError(
                message(where, f"frames every {wanted.frame_time:g} s, or whole fractions of that",
                        f"every {own:g} s", "Generate it with other --frame-steps or --dt")
            )  # fmt: skip
        fields = fields.thin(frames=stride)
        span = (wanted.past + wanted.lead + wanted.future - 2) * wanted.frame_time
        if (fields.n_frames - 1) * wanted.frame_time < span * (1 - 1e-6):
            raise InputError(
                message(where, f"solutions over at least {span:g} s",
                        f"{(fields.n_frames - 1) * wanted.frame_time:g} s", "Generate more --frames")
            )  # fmt: skip
        return fields


def choose_map(config: OperatorConfig, source: PdeFolder) -> FieldMap:
    """The map that a configuration asks for, checked against the data.

    Raises:
        InputError: fields that are not there, or more frames than there are.
    """
    fields = source.fields("train")
    where, names, frames = f"data set {source.path}", fields.names, fields.n_frames
    for option, given in (("inputs", config.inputs), ("targets", config.targets)):
        if unknown := [n for n in given if n not in names]:
            raise InputError(
                message(where, f"--{option} out of {', '.join(names)}", ", ".join(unknown),
                        "Correct them")
            )  # fmt: skip
    moving = tuple(n for n in names if fields.varies(n))
    still = tuple(n for n in names if n not in moving)
    seeds = [int(k) for k in fields.scalars.get("seed", ())]
    about = {
        "dataset": source.dataset, "cells": fields.cells, "physics": source.physics,
        "seeds": (min(seeds), max(seeds)) if seeds else (),
    }  # fmt: skip
    if frames == 1 and not still:
        raise InputError(
            message(
                where, "at least two frames", "the initial one", "Generate it with more --frames"
            )
        )
    if frames == 1:  # stationary
        inputs, targets = config.inputs or still, config.targets or moving
        steps = config.lead is not None or max(config.past, config.future) > 1
        if steps or set(inputs) - set(still) or set(targets) - set(moving):
            expected = f"{', '.join(still)} to {', '.join(moving)} of a stationary problem"
            got = f"{', '.join(inputs)} to {', '.join(targets)}{', several frames' * steps}"
            fix = "Leave out --inputs, --targets, --lead, --past and --future"
            raise InputError(message(where, expected, got, fix))
        return FieldMap(inputs=inputs, targets=targets, **about)
    inputs, targets = config.inputs or moving + still, config.targets or moving
    if not set(inputs) & set(moving) or set(targets) & set(still):
        got = f"{', '.join(inputs)} to {', '.join(targets)}"
        expected = f"inputs and targets that vary in time, out of {', '.join(moving)}"
        raise InputError(message(where, expected, got, "Correct --inputs and --targets"))
    lead = config.lead
    if lead is None:
        lead = frames - config.past - config.future + 1
    spread = config.past + lead + config.future - 1
    if min(config.past, lead, config.future) < 1 or spread > frames:
        raise InputError(
            message(where, f"past, lead, future >= 1 with past + lead + future <= {frames + 1}",
                    f"{config.past}, {lead}, {config.future}",
                    "Lower them, or generate more --frames")
        )  # fmt: skip
    return FieldMap(
        inputs=inputs, targets=targets, past=config.past, future=config.future, lead=lead,
        everywhere=config.lead is not None, frame_time=_frame_time(fields),
        still=tuple(n for n in inputs if n in still), **about,
    )  # fmt: skip


def _frame_time(fields: FieldSet) -> float:
    times = fields.times
    if times is None or len(times) < 2:
        raise InputError(
            message("data set", "at least two frames with times", f"{fields.n_frames}",
                    "Generate it with more --frames")
        )  # fmt: skip
    return float(times[1] - times[0])
