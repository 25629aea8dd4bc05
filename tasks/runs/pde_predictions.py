"""What a trained operator predicts of held-out solutions, as files of fields beside the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...operators.layers.grid import GridOperator
from ...sim.core.errors import InputError, message
from ...sim.io import write_fields
from ...sim.io.field_set import FieldSet
from .pde_pairs import FieldMap

__all__ = ["keep_predictions"]

MOST = 64
"""Trajectories that are kept."""


@torch.no_grad()
def keep_predictions(model: GridOperator, held: FieldSet, task: FieldMap, folder: Path) -> None:
    """Write truth.h5 and prediction.h5: the same solutions at the same times, for `rheograd render`.

    Where outputs can be inputs again a prediction starts from the first frame and goes on by itself;
    else it has the frames that follow from true ones.

    Args:
        model: the operator, in evaluation.
        held: solutions with the frame time of the map.
        task: the map.
        folder: where the files go; those there are replaced.

    Raises:
        InputError: a map to several frames at once; a prediction that is not finite.
    """
    if task.future > 1:
        expected, got = "an operator that gives one frame", f"one that gives {task.future}"
        raise InputError(message("evaluate --keep", expected, got, "Leave --keep out"))
    rows = range(min(held.n_trajectories, MOST))
    device = model.input_mean.device

    def apply(x: Tensor) -> Tensor:
        return torch.cat([model(part.to(device)).cpu() for part in x.split(16)])

    if task.repeats:
        frames = list(range(0, held.n_frames, task.lead))
        pairs = task.pairs(held, rows)
        x, _ = pairs[:: len(pairs) // len(rows)]  # from the first frame
        count = sum(len(held.channels(n)) for n in task.targets)
        new, still = x[:, :count], x[:, count:]
        found = [new]
        for _ in frames[1:]:
            found.append(apply(torch.cat((found[-1], still), 1)))
        made = torch.stack(found, 1)
    else:
        made = apply(task.pairs(held, rows)[:][0])
        made = made.reshape(len(rows), -1, *made.shape[1:])
        first = task.past - 1 + task.lead if task.lead else 0
        frames = list(range(first, first + made.shape[1]))
    truth = held.read(list(task.targets), rows, frames if held.n_frames else None)
    truth = truth if truth.ndim == made.ndim else truth[:, None]
    times = held.times
    about: dict[str, Any] = {
        "times": [float(times[k]) for k in frames] if times is not None else [0.0] * len(frames),
        "coordinates": held.coordinates,
        "constant": {n: held.read(n, rows) for n in held.names if not held.varies(n)},
        "scalars": {n: v[: len(rows)] for n, v in held.scalars.items()},
        "sides": {s: ("OPEN" if k == "open" else "WALL", k) for s, k in held.sides.items()},
        "units": {n: held.units(n) for n in task.targets if held.units(n)},
        "dataset_name": task.dataset,
    }
    for name, value in (("truth", truth), ("prediction", made)):
        parts = value.split([len(held.channels(n)) for n in task.targets], 2)
        write_fields(folder / f"{name}.h5", dict(zip(task.targets, parts, strict=True)), **about)
