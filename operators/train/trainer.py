"""The training loop: updates, validation, checkpoints that continue exactly, and when to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, StateError, message
from ...sim.io.checkpoint import load_checkpoint, save_checkpoint
from .config import TrainerConfig, TrainerHistory
from .parts import (
    DRAWS,
    VALIDATION,
    Batches,
    Interrupt,
    Log,
    Objective,
    Processes,
    check_same,
    copy,
    follow,
    on_device,
    seed_torch,
    seeds,
    shapes,
    size,
    stream,
)

__all__ = ["Trainer"]

Loss = Callable[[nn.Module, Any, torch.Generator], "Tensor | Mapping[str, Tensor]"]
Validate = Callable[[nn.Module], "float | Tensor | Mapping[str, Any]"]


class Trainer:
    """Trains a model by gradient descent on batches; with a folder, in steps that survive a break.

    The folder holds `checkpoint.safetensors`, from which `fit` goes on by itself,
    `model.safetensors`, the weights that `fit` ends with, and `metrics.jsonl`. Both files are
    replaced at every checkpoint; Ctrl-C finishes the update and writes one. A run that goes on has
    the same numbers as one without a break, on the CPU to the bit.

    Under torchrun every process takes its part of the batches, gradients are means over processes and
    the first process writes.

    Args:
        model: trained in place, on the device it is on.
        loss: `loss(model, batch, generator)` gives a scalar, or a dictionary with it as "loss" and
            further scalars to record. Random numbers are drawn from `generator`, on the model's
            device, or from torch's own; both are seeded for every batch.
        config: how to train.
        folder: made if it is missing; None keeps everything in memory.
        model_config: what is needed to build the model again, as JSON values, for
            `load_checkpoint("model.safetensors").config`.

    Raises:
        InputError: nothing to train, or `tensorboard` without a folder.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        config: TrainerConfig,
        folder: str | Path | None = None,
        *,
        model_config: Mapping[str, Any] | None = None,
    ) -> None:
        if config.tensorboard and folder is None:
            raise InputError(message("Trainer", "a folder for tensorboard", "None", "Give folder="))
        config.make_optimizer(model)
        self.model, self.loss, self.config = model, loss, config
        self.folder = None if folder is None else Path(folder)
        self.model_config = dict(model_config or {})

    def fit(
        self,
        batches: Batches,
        validate: Batches | Validate | None = None,
        on_update: Callable[[int, TrainerHistory], None] | None = None,
    ) -> TrainerHistory:
        """Train until the updates, the time or the patience are used up.

        The model ends with the best weights by validation, else the averaged, else the last ones.

        Args:
            batches: source of training batches, see `Batches`.
            validate: source of batches whose mean loss counts, without gradients; or
                `validate(model)`, a loss or a dictionary with "loss", for example of a rollout. It
                sees the averaged weights and a model in evaluation mode.
            on_update: called with (updates done, history) after every update.

        Returns:
            The history, from the first update of the first run in the folder.

        Raises:
            InputError: the folder holds a run with another configuration, model or number of batches;
                or batches or losses of a wrong kind.
            StateError: a gradient that is not finite, with the name of a parameter as `field`.
            KeyboardInterrupt: after the update that Ctrl-C fell into, and its checkpoint.
        """
        with contextlib.ExitStack() as stack:
            devices = sorted({p.device for p in self.model.parameters() if p.is_cuda}, key=str)
            stack.enter_context(torch.random.fork_rng(devices=devices))
            run = _Run(self, batches)
            stack.callback(run.close)
            stack.enter_context(run.interrupt)
            try:
                self._loop(run, validate, on_update)
            except KeyboardInterrupt:
                if run.whole:
                    run.save()
                raise
            run.save()
            if run.interrupt.heard:
                raise KeyboardInterrupt
            run.use(run.result())
        return run.history

    def _loop(self, run: _Run, validate: Any, on_update: Any) -> None:
        c, history = self.config, run.history
        while True:
            u = history.updates
            ended = run.total is not None and u >= run.total
            if c.time_limit is not None and u > 0:
                ended = ended or history.seconds[-1] >= c.time_limit
            seen = history.validation and history.validation[-1]["update"] == u
            if validate is not None and u > 0 and not seen and (ended or run.due(u)):
                run.validate(validate)
            if ended or (c.patience is not None and history.stale >= c.patience):
                return
            if u > 0 and c.checkpoint_every and u % c.checkpoint_every == 0:
                run.save()
            run.advance()
            if on_update is not None:
                on_update(history.updates, history)


class _Run:
    """State of a training run."""

    def __init__(self, trainer: Trainer, batches: Any) -> None:
        self.model, self.config, self.folder = trainer.model, trainer.config, trainer.folder
        self.model_config, c = trainer.model_config, trainer.config
        self.training = self.model.training
        self.processes = Processes(self.model)
        self.device, self.whole, self.saved = self.processes.device, True, (-1, 0)
        self.interrupt = Interrupt(always=self.processes.count > 1)
        self.optimizer = c.make_optimizer(self.model)
        self.parameters = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=c.precision == "fp16")
        self.generator = torch.Generator(self.device)
        self.history = TrainerHistory()
        self.average = copy(self.model.state_dict()) if c.ema is not None else None
        self.best: dict[str, Tensor] | None = None
        self.length = size(batches)
        self.stride = self.processes.count * c.accumulate
        self.total = c.updates
        if c.epochs is not None:
            self.total = math.ceil(c.epochs * self.length / self.stride)
        if self.folder is not None and (self.folder / "checkpoint.safetensors").is_file():
            self._load()
        folder = self.folder if self.processes.rank == 0 else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.log = Log(folder, self.history.updates, c.tensorboard)
        self.objective = Objective(self.model, trainer.loss)
        self.shared = self.processes.wrap(self.objective)
        start = self.history.updates * self.stride + self.processes.rank
        self.stream: Any = stream(
            batches, c.seed, c.shuffle, start, self.processes.count, c.prefetch
        )
        self.model.train()

    def close(self) -> None:
        self.stream.close()
        self.log.close()
        self.model.train(self.training)
        self.optimizer.zero_grad(set_to_none=True)

    def due(self, update: int) -> bool:
        """Whether a validation follows so many updates."""
        every = self.config.validate_every
        if every is not None:
            return update % every == 0
        ends = update * self.stride // self.length
        return ends > (update - 1) * self.stride // self.length

    # One update

    def advance(self) -> None:
        """One update with its log, not broken off by Ctrl-C."""
        with self.interrupt.held():
            self.whole = False
            stop = self._update()
            self.whole = True
            if self.history.updates % self.config.log_every == 0:
                self._log()
        if stop:
            raise KeyboardInterrupt

    def _update(self) -> bool:
        """One update; whether a process was told to stop."""
        c, history, began = self.config, self.history, time.perf_counter()
        u, before = history.updates, history.seconds[-1] if history.seconds else 0.0
        rate = c.learning_rate(u, self.total, before)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * rate
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for part in range(c.accumulate):
            place, batch = next(self.stream)
            self._seed(DRAWS, place)
            wait = part + 1 < c.accumulate and self.processes.count > 1
            with self.shared.no_sync() if wait else contextlib.nullcontext():
                with self._autocast():
                    terms = self.shared(on_device(batch, self.device), self.generator)
                self.scaler.scale(terms["loss"] / c.accumulate).backward()
            for name, value in terms.items():
                value = torch.as_tensor(value, device=self.device).detach().double() / c.accumulate
                sums[name] = sums[name] + value if name in sums else value
        values = torch.stack([*sums.values(), torch.zeros_like(sums["loss"])])
        values[-1] = float(self.interrupt.heard)
        *means, stop = (self.processes.sum(values) / self.processes.count).tolist()
        norm = self._step(u, means[0])
        if self.average is not None and math.isfinite(norm):
            follow(self.average, self.model.state_dict(), min(c.ema, (1 + u) / (10 + u)))
        for name, value in zip(sums, means, strict=True):
            row = history.loss if name == "loss" else history.terms.setdefault(name, [])
            row.append(value)
        history.gradient_norm.append(norm)
        history.lr.append(c.lr * rate)
        seconds = before + time.perf_counter() - began
        history.seconds.append(self.processes.from_first(seconds) if c.time_limit else seconds)
        return stop > 0

    def _step(self, update: int, loss: float) -> float:
        """Apply the gradient, bounded; its norm before."""
        c = self.config
        self.scaler.unscale_(self.optimizer)
        found = [(n, p.grad) for n, p in self.parameters if p.grad is not None]
        if not found:
            raise InputError(
                message("Trainer.fit", "a loss that depends on the parameters", "no gradient",
                        "Call the model in loss, without detach or no_grad")
            )  # fmt: skip
        norms = torch.stack(torch._foreach_norm([g for _, g in found]))
        norm = float(torch.linalg.vector_norm(norms))
        if math.isfinite(norm):
            if c.clip is not None and norm > c.clip:
                torch._foreach_mul_([g for _, g in found], c.clip / norm)
            self.scaler.step(self.optimizer)
        searching = c.precision == "fp16" and self.scaler.get_scale() >= 1.0
        if not math.isfinite(norm) and c.nonfinite == "error" and not searching:
            bad = torch.isfinite(norms).tolist()
            name = found[bad.index(False)][0] if False in bad else found[0][0]
            fix = 'Lower lr, set clip, check the batch, or leave updates out: nonfinite="skip"'
            expected, got = (
                f"finite gradients in update {update}",
                f"{norm} in {name}, loss {loss:.6g}",
            )
            raise StateError(message("Trainer.fit", expected, got, fix), step=update, field=name)
        self.scaler.update()
        return norm

    def _seed(self, purpose: int, place: int) -> None:
        """Random numbers of a batch depend on the seed and its place in the stream alone."""
        own, common = seeds(self.config.seed, purpose, place, count=2)
        self.generator.manual_seed(own)
        seed_torch(common, self.device)

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.precision == "fp16" else torch.bfloat16
        on = self.config.precision != "float32"
        return torch.autocast(self.device.type, dtype, enabled=on)

    def _log(self) -> None:
        h, last = self.history, slice(-self.config.log_every, None)
        rows = {"loss": h.loss, **h.terms, "gradient_norm": h.gradient_norm, "lr": h.lr}
        values = {f"train/{k}": sum(v[last]) / len(v[last]) for k, v in rows.items()}
        epoch = h.updates * self.stride / self.length
        self.log.add(h.updates, {**values, "epoch": epoch, "seconds": h.seconds[-1]})

    # Validation

    def validate(self, source: Any) -> None:
        """Judge the weights in the first process; keep them where they are the best so far."""
        row = None
        if self.processes.rank == 0:
            with self._averaged():
                self._seed(VALIDATION, 0)
                value = source(self.model) if callable(source) else self._mean_loss(source)
            value = value if isinstance(value, Mapping) else {"loss": value}
            if "loss" not in value:
                raise InputError(
                    message("Trainer.fit", 'validate to return "loss"', ", ".join(value),
                            "Give the value to be lowered that name")
                )  # fmt: skip
            row = {k: float(v) for k, v in value.items()}
        row = {"update": self.history.updates, **self.processes.from_first(row)}
        with self.interrupt.held():
            self.history.validation.append(row)
            if self.config.keep_best and self.history.stale == 0:
                self.best = copy(self.average or self.model.state_dict())
            values = {f"validation/{k}": v for k, v in row.items() if k != "update"}
            self.log.add(row["update"], values | {"seconds": self.history.seconds[-1]})

    @torch.no_grad()
    def _mean_loss(self, source: Any) -> dict[str, float]:
        n, sums = size(source), dict[str, float]()
        for batch in (source[i] for i in range(n)) if hasattr(source, "__getitem__") else source:
            with self._autocast():
                terms = self.objective(on_device(batch, self.device), self.generator)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value) / n
        return sums

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in the model, in evaluation mode."""
        last = copy(self.model.state_dict()) if self.average is not None else None
        self.use(self.average)
        self.model.eval()
        try:
            yield
        finally:
            self.use(last)
            self.model.train()

    # Weights and checkpoints

    def use(self, weights: Mapping[str, Tensor] | None) -> None:
        """Put weights into the model; None leaves them."""
        if weights is not None:
            self.model.load_state_dict(weights)

    def result(self) -> dict[str, Tensor] | None:
        """Weights the run ends with where they are not the last."""
        return self.average if self.best is None else self.best

    def _identity(self) -> dict[str, Any]:
        """What a run must have in common with the one it continues."""
        return {
            "model": type(self.model).__name__,
            "batches per epoch": self.length,
            "batches per update": self.stride,
            **json.loads(json.dumps(self.config.fixed())),
        }

    def save(self) -> None:
        """Write the checkpoint and the weights of the result, each whole or not at all."""
        done = (self.history.updates, len(self.history.validation))
        if self.folder is None or self.processes.rank > 0 or self.saved == done:
            return
        history = self.history.tensors()
        tensors = {f"history.{k}": row for k, row in history.items()}
        parts = {"model": self.model.state_dict(), "average": self.average, "best": self.best}
        for part, weights in parts.items():
            tensors |= {f"{part}.{name}": value for name, value in (weights or {}).items()}
        config = {
            "run": self._identity(),
            "config": dataclasses.asdict(self.config),
            "validation": self.history.validation,
        }
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        save_checkpoint(self.folder / "checkpoint.safetensors", tensors, config, state)
        weights = self.result() or self.model.state_dict()
        save_checkpoint(self.folder / "model.safetensors", weights, self.model_config)
        self.saved = done

    def _load(self) -> None:
        stored = load_checkpoint(self.folder / "checkpoint.safetensors")
        parts: dict[str, dict[str, Tensor]] = {"average": {}, "best": {}}
        for name, value in stored.tensors.items():
            part, _, name = name.partition(".")
            parts.setdefault(part, {})[name] = value
        mine = self.model.state_dict()
        check_same(
            f"Trainer.fit: {self.folder}",
            stored.config.get("run", {}) | shapes(parts.get("model", {})),
            self._identity() | shapes(mine),
        )
        self.use(parts["model"])
        for part in ("average", "best"):
            weights = {k: v.to(mine[k].device) for k, v in parts[part].items()}
            setattr(self, part, weights or None)
        self.optimizer.load_state_dict(stored.optimizer_state["optimizer"])
        self.scaler.load_state_dict(stored.optimizer_state["scaler"])
        self.history = TrainerHistory.load(parts["history"], stored.config["validation"])
        self.saved = (self.history.updates, len(self.history.validation))
