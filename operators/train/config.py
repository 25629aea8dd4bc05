"""What a training run does, and what it leaves behind: configuration, learning rate, history."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from .soap import Soap

__all__ = ["TrainerConfig", "TrainerHistory"]

Optimizer = Literal["adam", "adamw", "adamax", "soap"]
Schedule = Literal["constant", "cosine", "exponential"]
Precision = Literal["float32", "bf16", "fp16"]

FREE = {
    "accumulate", "checkpoint_every", "log_every", "nonfinite", "prefetch", "tensorboard", "time_limit"
}  # fmt: skip
"""What a resumed run may change; accumulate only with the number of processes."""

OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "soap": Soap,
}


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """How long and how to train. One of `updates`, `epochs` and `time_limit` is needed.

    Update u = 0, 1, … of U uses the learning rate

        lr(u) = lr · min(1, (u + 1) / warmup) · shape(p),    p = u / U
        shape = 1 | final + (1 − final) · ½ (1 + cos πp) | final^p

    With `time_limit` alone, p is the share of the time that has passed; such a run depends on the
    speed of the machine, every other run is a function of its configuration.

    Raises:
        InputError: a value out of its range.
    """

    updates: int | None = None
    """Optimizer steps U."""
    epochs: int | None = None
    """Passes over the batches, instead of `updates`; the last update may begin the next pass."""
    time_limit: float | None = None
    """Stop after this much training time [s]; validation and checkpoints do not count."""

    optimizer: Optimizer = "adam"
    """adam, adamw (decoupled weight decay), adamax, or soap: see `Soap`, pays on residuals of PDEs."""
    lr: float = 1e-3
    """Learning rate."""
    lr_groups: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Other learning rates, by shell pattern of the parameter's name (`"encoder.*"`); the first
    match counts."""
    weight_decay: float = 0.0
    """As the optimizer defines it."""
    schedule: Schedule = "constant"
    """Shape of the learning rate over the run, see above."""
    warmup: int = 0
    """Updates of linear growth of the learning rate."""
    final: float = 0.0
    """Last learning rate over `lr`, for cosine (may be 0) and exponential (must be > 0)."""
    clip: float | None = None
    """Bound on the norm of the gradient of all parameters."""
    nonfinite: Literal["error", "skip"] = "error"
    """What a gradient that is not finite does: stop with the name of a parameter, or leave the update
    out. fp16 leaves updates out while it searches its scale."""
    accumulate: int = 1
    """Batches whose mean gradient makes an update, in each process."""
    precision: Precision = "float32"
    """float32: the model's own precision, be it float64; bf16, fp16: autocast inside the loss, fp16
    with a scaled loss. Parameters keep their precision."""
    ema: float | None = None
    """Decay d of an average of the weights, w ← d w + (1 − d) θ, with min(d, (1 + u)/(10 + u)) at
    first. Validation and the result use the average."""
    seed: int = 0
    """Source of the order of batches and of all random numbers of the loss."""
    shuffle: bool = True
    """New order of batches in every epoch."""
    prefetch: int = 0
    """Batches that threads prepare ahead."""

    validate_every: int | None = None
    """Updates between validations; None: every epoch. The last update is always validated."""
    keep_best: bool = True
    """End with the weights of the lowest validation loss."""
    patience: int | None = None
    """Stop after this many validations without a lower loss."""
    log_every: int = 10
    """Updates per line of metrics, which holds their mean."""
    checkpoint_every: int | None = 200
    """Updates between checkpoints; None: at the end and at Ctrl-C."""
    tensorboard: bool = False
    """Write metrics for TensorBoard too; needs the extra `tensorboard`."""

    def __post_init__(self) -> None:
        def check(fine: bool, expected: str, got: Any) -> None:
            if not fine:
                raise InputError(message("TrainerConfig", expected, got, "Correct it"))

        lengths = (self.updates, self.epochs, self.time_limit)
        check(
            any(v is not None for v in lengths) and None in lengths[:2],
            "updates, epochs or time_limit, not updates and epochs at once",
            f"updates={self.updates}, epochs={self.epochs}, time_limit={self.time_limit}",
        )
        for name in (
            "updates", "epochs", "accumulate", "validate_every", "patience", "log_every",
            "checkpoint_every",
        ):  # fmt: skip
            value = getattr(self, name)
            fine = value is None or (isinstance(value, int) and value >= 1)
            check(fine, f"an integer {name} >= 1", value)
        for name in ("warmup", "prefetch", "seed"):
            value = getattr(self, name)
            check(isinstance(value, int) and value >= 0, f"an integer {name} >= 0", value)
        rates = {f"lr_groups[{k!r}]": v for k, v in self.lr_groups.items()}
        for name in ("time_limit", "clip", "lr"):
            rates[name] = getattr(self, name)
        for name, value in rates.items():
            fine = value is None or (math.isfinite(value) and value > 0)
            check(fine, f"a finite {name} > 0", value)
        for name, kinds in (
            ("optimizer", get_args(Optimizer)),
            ("schedule", get_args(Schedule)),
            ("precision", get_args(Precision)),
            ("nonfinite", ("error", "skip")),
        ):
            value = getattr(self, name)
            check(value in kinds, f"{name} out of {', '.join(kinds)}", repr(value))
        check(self.weight_decay >= 0, "weight_decay >= 0", self.weight_decay)
        check(0 <= self.final <= 1, "final between 0 and 1", self.final)
        check(
            self.schedule != "exponential" or self.final > 0,
            "final > 0 for the exponential schedule", self.final,
        )  # fmt: skip
        check(self.ema is None or 0 < self.ema < 1, "ema between 0 and 1", self.ema)

    def learning_rate(self, update: int, total: int | None, seconds: float) -> float:
        """Learning rate of an update over `lr`.

        Args:
            update: u, from 0.
            total: U, or None where only time ends the run.
            seconds: training time so far [s], used without `total`.
        """
        grown = min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0
        p = update / total if total else seconds / (self.time_limit or math.inf)
        p = min(p, 1.0)
        if self.schedule == "cosine":
            return grown * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * p)))
        return grown * self.final**p if self.schedule == "exponential" else grown

    def fixed(self) -> dict[str, Any]:
        """What a resumed run may not change, which is everything that its numbers depend on."""
        free = FREE | ({"updates", "epochs"} if self.schedule == "constant" else set())
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in free}

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Optimizer of the model's trainable parameters, one group per learning rate.

        Raises:
            InputError: nothing to train, or a pattern without a parameter.
        """
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise InputError(
                message("Trainer", "a model with trainable parameters", type(model).__name__,
                        "Set requires_grad")
            )  # fmt: skip
        rates: dict[float, list[nn.Parameter]] = {self.lr: []}
        used = set()
        for name, parameter in named.items():
            pattern = next((k for k in self.lr_groups if fnmatch.fnmatchcase(name, k)), None)
            used.add(pattern)
            rate = self.lr if pattern is None else self.lr_groups[pattern]
            rates.setdefault(rate, []).append(parameter)
        if idle := [k for k in self.lr_groups if k not in used]:
            raise InputError(
                message("TrainerConfig", "patterns in lr_groups that name parameters",
                        f"{idle[0]!r} beside {', '.join(list(named)[:6])}", "Correct it")
            )  # fmt: skip
        groups = [{"params": p, "lr": lr, "base": lr} for lr, p in rates.items() if p]
        return OPTIMIZERS[self.optimizer](groups, lr=self.lr, weight_decay=self.weight_decay)


@dataclasses.dataclass
class TrainerHistory:
    """Course of a run, one number per update. Under torchrun values are means over processes."""

    loss: list[float] = dataclasses.field(default_factory=list)
    """Loss, in its own unit."""
    terms: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """Further values that the loss returned, by name."""
    gradient_norm: list[float] = dataclasses.field(default_factory=list)
    """Norm of the gradient before clipping; not finite where the update was left out."""
    lr: list[float] = dataclasses.field(default_factory=list)
    """Learning rate of parameters without a group of their own."""
    seconds: list[float] = dataclasses.field(default_factory=list)
    """Training time since the beginning of the run [s]."""
    validation: list[dict[str, float]] = dataclasses.field(default_factory=list)
    """Per validation: "update", the updates done before it, "loss" and what else it returned."""

    @property
    def updates(self) -> int:
        """Updates done."""
        return len(self.loss)

    @property
    def best(self) -> dict[str, float] | None:
        """The validation of lowest finite loss, the first of equals."""
        rows = [row for row in self.validation if math.isfinite(row["loss"])]
        return min(rows, key=lambda row: row["loss"], default=None)

    @property
    def stale(self) -> int:
        """Validations since the best."""
        best = self.best
        return len(self.validation) - (0 if best is None else self.validation.index(best) + 1)

    def tensors(self) -> dict[str, Tensor]:
        """Everything but validation, for a file."""
        rows = {k: v for k, v in vars(self).items() if k not in ("terms", "validation")}
        rows |= {f"terms.{name}": row for name, row in self.terms.items()}
        return {name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()}

    @classmethod
    def load(
        cls, tensors: Mapping[str, Tensor], validation: list[dict[str, float]]
    ) -> TrainerHistory:
        """From what `tensors` gave."""
        history = cls(validation=validation)
        for name, row in tensors.items():
            first, _, term = name.partition(".")
            if term:
                history.terms[term] = row.tolist()
            else:
                setattr(history, first, row.tolist())
        return history
