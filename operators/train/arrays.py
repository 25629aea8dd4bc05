"""From arrays, or files of fields, to a trained operator with its errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ..data.fields import RowBatches
from ..data.pairs import FieldPairs
from ..layers.grid import GridOperator
from ..layers.norms import lp_norm, relative_l2
from .config import TrainerConfig, TrainerHistory
from .trainer import Trainer

__all__ = ["TrainedOperator", "fit_operator", "measure_operator", "train_on_arrays"]

FieldLoss = Callable[[Tensor, Tensor], Tensor]
Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
OnUpdate = Callable[[int, TrainerHistory], None]


@dataclasses.dataclass(frozen=True)
class TrainedOperator:
    """What `train_on_arrays` gives."""

    model: GridOperator
    """The operator, in evaluation mode; it reads and gives fields in the units of the arrays."""
    metrics: dict[str, float]
    """Errors on samples that were not trained on, see `measure_operator`."""
    history: TrainerHistory
    """Course of the training."""


def train_on_arrays(
    model: GridOperator,
    x: Any,
    y: Any,
    config: TrainerConfig | None = None,
    *,
    validation: float | tuple[Any, Any] = 0.1,
    batch: int = 16,
    loss: FieldLoss | None = None,
    augment: Augment | None = None,
    scales: bool = True,
    folder: str | Path | None = None,
    on_update: OnUpdate | None = None,
) -> TrainedOperator:
    """Train an operator x ↦ y on your own fields and measure it in your own units.

    The loss is the relative L² error of each sample and channel in the units of y, in the mean;
    operators on coefficients get it from coefficients transformed once.

    Args:
        model: new or trained before; changed in place, on the device it is on.
        x: inputs (S, C, *cells), a numpy array or a tensor of any precision.
        y: targets (S, C_out, *cells).
        config: how to train; default 500 epochs of AdamW, learning rate 2e-3 with cosine decay.
        validation: share of the samples, the last ones, that are kept for validation; or such samples
            themselves, (x, y).
        batch: samples per update.
        loss: errors (B, C_out) of predicted and true fields, such as `relative_h1`; default: relative
            L² as the model measures it.
        augment: (x, y, generator) ↦ another sample of the same problem for each of a training batch, in
            your units, as `RandomShift` and `RandomTurn` of `operators.data` give; then coefficients
            cannot be transformed once, but are in every update.
        scales: whether to take the model's scales from the training samples.
        folder: for checkpoints, metrics and `model.safetensors`; a run found there goes on.
        on_update: called with (updates done, history).

    Returns:
        Model, errors and course of the training. Weights are those of the lowest validation error.

    Raises:
        InputError: arrays that do not fit one another or the model, are not finite, or are too few.
        StateError: training that diverges.
    """
    where = "train_on_arrays"
    config = config or TrainerConfig(epochs=500, optimizer="adamw", lr=2e-3, schedule="cosine")
    x, y = _fields(where, model, x, y)
    if isinstance(validation, tuple):
        unseen = _fields(where, model, *validation)
    else:
        count = round(validation * len(x))
        if not 1 <= count < len(x):
            raise InputError(
                message(where, f"a share that leaves samples to train and to validate, of {len(x)}",
                        validation, "Give more samples, or validation=(x, y)")
            )  # fmt: skip
        x, unseen, y = x[:-count], (x[-count:], y[-count:]), y[:-count]
    if scales:
        model.fit_scales(x, y)
    history = fit_operator(
        model, (x, y), unseen, config, batch=batch, loss=loss, augment=augment, folder=folder,
        on_update=on_update,
    )  # fmt: skip
    metrics = measure_operator(model.eval(), *unseen, batch=batch)
    metrics["relative_l2 of the mean"] = float(
        relative_l2(y.mean(0, keepdim=True).expand_as(unseen[1]), unseen[1]).mean()
    )
    return TrainedOperator(model, metrics, history)


def fit_operator(
    model: GridOperator,
    train: tuple[Tensor, Tensor] | FieldPairs,
    validation: tuple[Tensor, Tensor] | FieldPairs | None,
    config: TrainerConfig,
    *,
    batch: int = 16,
    loss: FieldLoss | None = None,
    augment: Augment | None = None,
    folder: str | Path | None = None,
    on_update: OnUpdate | None = None,
) -> TrainerHistory:
    """The training of `train_on_arrays` alone: its arguments, with scales as the model has them.

    Args:
        model: changed in place.
        train: (x, y) in the model's precision, or pairs, which are read while training runs.
        validation: samples that choose among weights; None: the last weights count.
        config: how to train.

    Raises:
        InputError, StateError: see `Trainer`.
    """
    raw = loss is not None or augment is not None or not isinstance(train, tuple)

    def source(data: tuple[Tensor, Tensor] | FieldPairs, seed: int | None) -> Any:
        if not isinstance(data, tuple):
            return data.batches(min(batch, len(data)), seed)
        x, y = data
        return RowBatches({"x": x, "y": y} if raw else _rows(model, x, y), min(batch, len(x)), seed)

    def objective(network: Any, part: Any, generator: torch.Generator) -> Tensor:
        rows = part.rows
        if raw:
            x, y = rows["x"], rows["y"]
            if augment is not None and network.training:
                x, y = augment(x, y, generator)
            if loss is not None:
                return loss(network(x), y).mean()
            rows = network.training_data(x, y)
        return network.relative_error(rows).mean()

    judge = None if validation is None else source(validation, None)
    trainer = Trainer(model, objective, config, folder, model_config=model.description())
    return trainer.fit(source(train, config.seed), judge, on_update)


@torch.no_grad()
def measure_operator(model: GridOperator, x: Any, y: Any, batch: int = 16) -> dict[str, float]:
    """Errors of an operator, in the units of the arrays.

    Args:
        model: the operator.
        x: inputs (S, C, *cells).
        y: targets (S, C_out, *cells).
        batch: samples at a time.

    Returns:
        "relative_l2": ‖ŷ − y‖₂/‖y‖₂, mean over samples and channels; "worst": its largest sample;
        "rmse 0", …: root of the mean square error of each channel, in its unit; "largest error 0", ….
    """
    x, y = _fields("measure_operator", model, x, y)
    device = model.input_mean.device
    parts = [model(part.to(device)).to(y.device) for part in x.split(batch)]
    value = torch.cat(parts)
    relative = relative_l2(value, y).mean(1)
    out = {"relative_l2": float(relative.mean()), "worst": float(relative.max())}
    rms = lp_norm(value - y).square().mean(0).sqrt()
    most = lp_norm(value - y, float("inf")).amax(0)
    for channel in range(y.shape[1]):
        out[f"rmse {channel}"] = float(rms[channel])
        out[f"largest error {channel}"] = float(most[channel])
    return out


def _fields(where: str, model: GridOperator, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Both arrays as tensors in the model's precision, checked."""
    dtype = model.input_mean.dtype
    x, y = (torch.as_tensor(v).detach().to(dtype) for v in (x, y))
    model.check(x)
    model.check(y, model.config.out_channels)
    if len(x) != len(y) or x.shape[2:] != y.shape[2:] or not len(x):
        raise InputError(
            message(where, f"targets for {len(x)} inputs on cells {tuple(x.shape[2:])}, at least one",
                    y, "Match the samples and put both on one grid")
        )  # fmt: skip
    return x, y


def _rows(model: GridOperator, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """What training reads, transformed once in blocks."""
    device = model.input_mean.device
    with torch.no_grad():
        parts = [
            model.training_data(a.to(device), b.to(device))
            for a, b in zip(x.split(64), y.split(64), strict=True)
        ]
    return {name: torch.cat([p[name].cpu() for p in parts]) for name in parts[0]}
