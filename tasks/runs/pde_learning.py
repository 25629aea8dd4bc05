"""Training runs of operators on grids (T1, FNO) on data sets of `rheograd generate pde/…`."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...operators.data import FieldPairs, RandomShift, RandomTurn
from ...operators.fno import FNO, FNOConfig
from ...operators.layers import load_operator, relative_l2
from ...operators.layers.grid import GridOperator
from ...operators.t1 import T1, T1Config
from ...operators.train import TrainerConfig, TrainerHistory, fit_operator, measure_operator
from ...sim.core.errors import InputError, message
from ...sim.io import write_whole
from ...sim.io.field_set import FieldSet
from .configs import UsageError, from_dict, to_dict
from .devices import require_device
from .folder import RunFolder
from .operator_config import OperatorConfig
from .pde_pairs import FieldMap, PdeFolder, choose_map
from .pde_predictions import keep_predictions

__all__ = ["SYMMETRIES", "Preparation", "evaluate_operator", "prepare", "train_operator"]

KINDS: dict[str, tuple[Any, type]] = {"t1": (T1, T1Config), "fno": (FNO, FNOConfig)}
"""Operator and its configuration."""
MODES = {"t1": (48, 14, 8), "fno": (16, 8, 4)}
"""Modes per axis in 1-D, 2-D, 3-D, where the grid has them; sizes like those of the presets."""
WIDTHS = {"t1": (32, 24, 16), "fno": (32, 20, 12)}
"""Channels in 1-D, 2-D, 3-D."""
RATES = {"t1": 3e-3, "fno": 7e-3}
"""Learning rates of the presets."""
SYMMETRIES: dict[str, Any] = {
    "pde/burgers": RandomShift(),
    "pde/darcy": RandomTurn(),
    "pde/darcy-smooth": RandomTurn(),
    "pde/heat": RandomTurn(),
    "pde/navier-stokes-2d": RandomShift([(1, -1)]),  # along which the forcing is constant
    "pde/navier-stokes-3d": RandomShift(),
    "pde/poisson": RandomTurn(),
    "pde/reaction-diffusion": RandomTurn(),
}
"""Other samples of the same problem, where there are any: walls that differ have none."""

FROM_DATA = ("in_channels", "out_channels", "cells")
OWN_OPTIONS = {"updates": "--updates", "time_limit": "--seconds", "lr": "--lr", "seed": "--seed"}
IN_MEMORY = 2**30
"""Larger sets are read while training runs [B]."""
SAMPLES = 1000
"""Rows at most that scales and errors are taken from, spread evenly."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What a run trains, on what and how; nothing of the fields is read yet."""

    config: OperatorConfig
    """The run, with typed values of --model and --train."""
    map: FieldMap
    """What goes in and what comes out."""
    source: PdeFolder
    """The data set."""
    train: FieldPairs
    """Training samples."""
    choose: FieldPairs | None
    """Samples that choose among weights; None: the last weights count."""
    model: GridOperator
    """The operator, untrained."""
    recipe: TrainerConfig
    """How it is trained."""
    updates: int | None
    """Updates in all; None: only time ends the run."""


def prepare(config: OperatorConfig) -> Preparation:
    """Check a run against its data and build the operator.

    Weights are the last ones. With `--train.keep_best true` or `--train.patience N` those of the
    lowest error on the last tenth of the training solutions count, which then are not trained on. The
    held-out solutions decide nothing.

    Raises:
        UsageError: options that are missing, unknown or of a wrong type.
        InputError, StoreError: data or sizes that do not fit.
    """
    if not config.data:
        raise UsageError(
            f"train {config.system}: a data set; got none. Make one with `rheograd generate pde/darcy "
            "--out darcy` and pass its folder."
        )
    require_device("train", config.device)
    recipe = _recipe(config)
    source = PdeFolder(config.data)
    task = choose_map(config, source)
    if config.augment and source.dataset not in SYMMETRIES:
        raise InputError(
            message("train --augment", f"a set out of {', '.join(SYMMETRIES)}", source.dataset,
                    "Leave --augment out")
        )  # fmt: skip
    source.fields("validation")  # refused now rather than after the training
    fields = source.fields("train")
    count, chosen = fields.n_trajectories, None
    if recipe.keep_best or recipe.patience is not None:
        kept = max(1, round(count / 10))
        if kept == count:
            raise InputError(
                message("train --train.keep_best", "at least two training solutions", count,
                        "Generate more --trajectories")
            )  # fmt: skip
        chosen = task.pairs(fields, range(count - kept, count))
        count -= kept
    pairs = task.pairs(fields, range(count))
    operator, _ = KINDS[config.system]
    sizes = _sizes(config, task, fields, pairs)
    model = operator(sizes, generator=torch.Generator().manual_seed(config.seed))
    values: dict[str, dict[str, Any]] = {
        "model": {k: v for k, v in to_dict(sizes).items() if k in config.model},
        "train": {k: v for k, v in to_dict(recipe).items() if k in config.train},
    }
    config = dataclasses.replace(config, **values)
    batch = max(1, min(config.batch, len(pairs)))
    updates = recipe.updates
    if recipe.epochs is not None:
        updates = math.ceil(recipe.epochs * (len(pairs) // batch) / recipe.accumulate)
    return Preparation(config, task, source, pairs, chosen, model, recipe, updates)


def _recipe(config: OperatorConfig) -> TrainerConfig:
    for name, option in OWN_OPTIONS.items():
        if name in config.train:
            raise UsageError(f"--train.{name}: {option}; got --train.{name}. Use {option}.")
    if config.updates is None and config.seconds is None and "epochs" not in config.train:
        raise UsageError(f"train {config.system}: --updates or --seconds; got neither. Give one.")
    if config.batch < 1:
        raise UsageError(f"train: batch ≥ 1; got {config.batch}. Correct it.")
    values = {
        "updates": config.updates, "time_limit": config.seconds, "seed": config.seed,
        "lr": RATES[config.system] if config.lr is None else config.lr, "optimizer": "adamw",
        "weight_decay": 1e-2, "schedule": "cosine", "keep_best": False, **config.train,
    }  # fmt: skip
    return from_dict(TrainerConfig, values, "--train")


def _sizes(config: OperatorConfig, task: FieldMap, fields: FieldSet, pairs: FieldPairs) -> Any:
    """Configuration of the operator: channels, grid and boundaries are those of the data."""
    cells, axes = fields.cells, list(fields.coordinates)
    dim, (_, kind) = len(cells), KINDS[config.system]
    for name in FROM_DATA:
        if name in config.model:
            raise UsageError(f"--model.{name}: as the data have it; got a value. Leave it out.")
    values: dict[str, Any] = {
        "in_channels": pairs.in_channels,
        "out_channels": pairs.out_channels,
        "hidden_channels": WIDTHS[config.system][dim - 1],
    }
    most = MODES[config.system][dim - 1]
    if config.system == "t1":
        ends = [[fields.sides.get(axis + end, "") for end in "-+"] for axis in axes]
        walls = [_boundary(pair) for pair in ends]
        # What is constant in time, such as a permeability, does not vanish where the solution does.
        free = [wall if wall == "periodic" else "neumann" for wall in walls]
        known = all(fields.varies(name) for name in task.inputs)
        modes = [min(most, n) for n in cells]
        odd = [m - (m % 2 == 0) * (w == "periodic") for m, w in zip(modes, walls, strict=True)]
        values |= {"cells": cells, "boundary": walls, "input_boundary": walls if known else free}
        values["n_modes"] = odd
    else:
        values["n_modes"] = [max(1, min(most, (n - 1) // 2)) for n in cells]
    hints = typing.get_type_hints(kind)
    for name, value in config.model.items():
        many = isinstance(value, (list, tuple))
        if "tuple" in str(hints.get(name, "")) and (not many or len(value) == 1):
            value = [value[0] if many else value] * dim  # one for all axes
        values[name] = value
    return from_dict(kind, values, "--model")


def _boundary(ends: list[str]) -> str:
    if ends == ["periodic", "periodic"]:
        return "periodic"
    zero = all(end == "1 u + 0 k du/dn = 0" for end in ends)
    return "dirichlet" if zero else "neumann"


def train_operator(
    run: Preparation,
    folder: RunFolder,
    on_update: Callable[[int, TrainerHistory], None] | None = None,
) -> dict[str, Any]:
    """Train on the training solutions, measure on the held-out ones.

    The loss is the relative L² error of each sample and channel. A folder with a checkpoint is continued
    from it.

    Args:
        run: what `prepare` gave.
        folder: gets checkpoint, model.safetensors for `load_operator`, metrics.jsonl and data.json,
            what was learnt from.
        on_update: called with (updates done, history).

    Returns:
        Summary: updates, parameters, and errors as of `evaluate_operator`.

    Raises:
        InputError, StateError, StoreError: data that do not fit, see `FieldPairs` and `Trainer`.
        KeyboardInterrupt: after the checkpoint of the update that was running.
    """
    config, model = run.config, run.model.to(run.config.device)
    write_whole(folder.path / "data.json", json.dumps(dataclasses.asdict(run.map), indent=1) + "\n")
    pairs = run.train
    read = pairs.nbytes > IN_MEMORY
    model.fit_scales(*pairs[:: _stride(pairs)])
    history = fit_operator(
        model, pairs if read else pairs[:],
        run.choose if read or run.choose is None else run.choose[:], run.recipe,
        batch=config.batch, augment=SYMMETRIES[run.source.dataset] if config.augment else None,
        folder=folder.path, on_update=on_update,
    )  # fmt: skip
    return {
        "updates": history.updates,
        "parameters": sum(p.numel() for p in model.parameters()),
        **_measure(model.eval(), run.source, run.map, own=True),
    }


def _stride(pairs: FieldPairs) -> int:
    return -(-len(pairs) // SAMPLES)


def evaluate_operator(
    path: str | Path,
    data: str | Path | None = None,
    device: str = "cpu",
    keep: str | Path | None = None,
) -> dict[str, Any]:
    """Errors of a trained operator on the held-out solutions of a data set.

    Args:
        path: folder of a run; or a file of weights or a shipped name, such as "t1/flow-64", whose map
            is then the default one of the data.
        data: another set of the same equation, on any grid that the operator takes; default that of
            the run.
        device: cpu or cuda.
        keep: folder for truth.h5 and prediction.h5, see `keep_predictions`.

    Returns:
        What was measured on what; relative L² error, mean and worst; on the run's own set the same of
        predicting the mean of the training targets; where outputs can be inputs, the same of no
        change, and of as many steps as the solutions are long; per channel root mean square and largest
        errors, in its unit; and how many of the inputs were trained on.

    Raises:
        UsageError: a folder without a trained operator, or no data.
        InputError: data that do not fit the operator.
    """
    require_device("evaluate", device)
    place = Path(path)
    if place.name == "model.safetensors" and (place.parent / "data.json").is_file():
        place = place.parent
    task, own = None, False
    if place.is_dir():
        found = RunFolder.open(place, "train").config
        if found.get("system") not in KINDS or not (place / "model.safetensors").is_file():
            raise UsageError(
                f"evaluate: a run of `rheograd train {'|'.join(KINDS)}` with weights; got {place}. "
                f"Train one, or go on with `rheograd train --resume {place}`."
            )
        config = from_dict(OperatorConfig, found, str(place))
        own = data is None or Path(data).absolute() == Path(config.data).absolute()
        data = config.data if own else data
        task = _read_map(place / "data.json")
        place = place / "model.safetensors"
    if data is None:
        raise UsageError("evaluate: --data FOLDER for weights without a run; got none. Name one.")
    source = PdeFolder(data)
    model = load_operator(place if place.is_file() else path, device)
    task = task or choose_map(OperatorConfig(data=str(data)), source)
    rows = _measure(model, source, task, own)
    if keep is not None:
        keep_predictions(model, source.like(task, "validation"), task, Path(keep))
    return rows


def _read_map(file: Path) -> FieldMap:
    values = json.loads(file.read_text("utf-8"))
    return FieldMap(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@torch.no_grad()
def _measure(model: GridOperator, source: PdeFolder, task: FieldMap, own: bool) -> dict[str, Any]:
    """Rows of `evaluate_operator`; own: whether the set is the one that the operator learnt from."""
    device = model.input_mean.device
    held = source.like(task, "validation")
    pairs = task.pairs(held)
    x, y = pairs[:: _stride(pairs)]
    errors = measure_operator(model, x, y)
    rows: dict[str, Any] = {
        "data": f"{source.path}, held-out solutions of {source.dataset}",
        "map": _words(task),
        "cells": " × ".join(map(str, held.cells)) + _trained_on(held.cells, task.cells),
        "samples": len(x),
        **_differences(source.physics, task.physics),
        **_seen(held, task),
        "relative L²": errors["relative_l2"],
        "relative L² of the worst": errors["worst"],
    }
    if own:
        seen = task.pairs(source.fields("train"))
        mean = seen[:: _stride(seen)][1].mean(0, keepdim=True)
        rows["relative L² of the mean"] = float(relative_l2(mean.expand_as(y), y).mean())
    if task.repeats:
        rows["relative L² if nothing changed"] = float(relative_l2(x[:, : y.shape[1]], y).mean())
    steps = (held.n_frames - 1) // task.lead if task.repeats else 1
    if steps > 1:
        x, y = task.pairs(held, range(min(held.n_trajectories, SAMPLES)), steps)[:]
        still, new = x[:, y.shape[1] :], x[:, : y.shape[1]]
        for _ in range(steps):
            parts = torch.cat((new, still), 1).split(16)
            new = torch.cat([_next(model, part.to(device)) for part in parts]).cpu()
        time = steps * task.lead * task.frame_time
        error = float(relative_l2(new, y).mean())
        rows[f"relative L² after {steps} steps, {time:g} s"] = (
            error if math.isfinite(error) else "not finite"
        )
    if task.future == 1:
        for k, name in enumerate(c for n in task.targets for c in held.channels(n)):
            rows[f"root mean square error of {name}"] = errors[f"rmse {k}"]
            rows[f"largest error of {name}"] = errors[f"largest error {k}"]
    return rows


def _next(model: GridOperator, x: Tensor) -> Tensor:
    """One step; what is not finite stays so."""
    good = torch.isfinite(x).flatten(1).all(1)
    if bool(good.all()):
        return model(x)
    safe = torch.where(good.view(-1, *[1] * (x.ndim - 1)), x, 0.0)
    return model(safe).masked_fill(~good.view(-1, *[1] * (x.ndim - 1)), float("nan"))


def _words(task: FieldMap) -> str:
    """Such as `u → u, 1 s later, from the first frame`."""
    ins, outs = ", ".join(task.inputs), ", ".join(task.targets)
    if not task.lead:
        return f"{ins} → {outs}"
    lead = f"{task.lead * task.frame_time:g} s"
    past = f"{task.past} frames of {ins}" if task.past > 1 else ins
    future = f"{task.future} frames of {outs}" if task.future > 1 else outs
    start = "every frame" if task.everywhere else "the first frame"
    return f"{past} → {future}, {lead} later, from {start}"


def _seen(held: FieldSet, task: FieldMap) -> dict[str, int]:
    """How many solutions begin as training ones did: the same seeds on the same grid."""
    if not task.seeds or held.cells != task.cells or "seed" not in held.scalars:
        return {}
    first, last = task.seeds
    seeds = held.scalars["seed"]
    count = int(((seeds >= first) & (seeds <= last)).sum())
    return {"of these begin as training ones": count} if count else {}


def _trained_on(cells: tuple[int, ...], trained: tuple[int, ...]) -> str:
    return "" if cells == trained else f", trained on {' × '.join(map(str, trained))}"


def _differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, str]:
    """Numbers of the PDE that are not those of the training data."""
    other = [k for k in sorted({*now, *then}) if now.get(k) != then.get(k)]
    text = ", ".join(f"{k} {now.get(k)} instead of {then.get(k)}" for k in other)
    return {"other than in training": text} if text else {}
