"""Parts of the training loop: the stream of batches, processes, interrupts, the log.

Batches of all epochs form one endless stream; update u takes the next P·A of it, P processes times A
accumulated batches. Order and random numbers are functions of the seed and the place in that stream,
so a run that goes on from a checkpoint, or on another number of processes, sees the same ones.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...sim.core.errors import InputError, message
from ...sim.io import Metrics

__all__ = ["Batches"]


class Batches(Protocol):
    """A source of batches: a list, a data set, or an iterable with a length such as a DataLoader.

    A batch is anything with `.to(device)`; what it holds is between the source and the loss. A source
    with `set_epoch(epoch)` is told when an epoch begins, to compose its batches anew. What it returns
    must depend on index and epoch alone, or a resumed run differs. An iterable is read from its
    beginning in every epoch, and resuming reads and drops what was used.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def seeds(*path: int, count: int = 1) -> list[int]:
    """Independent seeds for a place in the run."""
    return [int(s) for s in np.random.SeedSequence(path).generate_state(count)]


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's own generators; `torch.manual_seed` takes 0.2 ms where CUDA is not in use."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


ORDER, DRAWS, VALIDATION = range(3)
"""Purposes of random numbers, the second entry of a path."""


def stream(
    batches: Any, seed: int, shuffle: bool, start: int, stride: int, prefetch: int = 0
) -> Iterator[tuple[int, Any]]:
    """Places start, start + stride, … of the endless stream with their batches."""
    n = size(batches)
    if not hasattr(batches, "__getitem__"):
        yield from _read(batches, n, seed, start, stride)
    pending: deque[tuple[int, Any]] = deque()
    places = _places(batches, n, seed, shuffle, start, stride, pending)
    if not prefetch:
        for place, index in places:
            yield place, batches[index]
    pool = ThreadPoolExecutor(prefetch)
    try:
        for place, index in places:
            pending.append((place, pool.submit(batches.__getitem__, index)))
            if len(pending) > prefetch:
                place, result = pending.popleft()
                yield place, result.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(batches: Any, n: int, seed: int, start: int, stride: int) -> Iterator[tuple[int, Any]]:
    """The stream of an iterable."""
    place, wanted = start - start % n, start
    while True:
        _begin(batches, place // n)
        # a DataLoader draws its order from torch's own generator
        torch.default_generator.manual_seed(seeds(seed, ORDER, place // n)[0])
        end = place + n
        for batch in batches:
            if place == wanted:
                yield place, batch
                wanted += stride
            place += 1
            if place == end:
                break
        if place < end:
            raise InputError(
                message("Trainer.fit", f"{n} batches, as len() says", n - (end - place),
                        "Give batches that can be read again in every epoch")
            )  # fmt: skip


def _places(
    batches: Any, n: int, seed: int, shuffle: bool, start: int, stride: int, pending: Any
) -> Iterator[tuple[int, int]]:
    """Places in the stream with the indices of their batches."""
    place, epoch, order = start, -1, list(range(n))
    while True:
        if place // n != epoch:
            epoch = place // n
            wait([result for _, result in pending])  # they belong to the epoch before
            _begin(batches, epoch)
            if shuffle:
                generator = torch.Generator().manual_seed(seeds(seed, ORDER, epoch)[0])
                order = torch.randperm(n, generator=generator).tolist()
        yield place, order[place % n]
        place += stride


def _begin(batches: Any, epoch: int) -> None:
    if hasattr(batches, "set_epoch"):
        batches.set_epoch(epoch)


def size(batches: Any) -> int:
    """Number of batches per epoch.

    Raises:
        InputError: no length, or none.
    """
    if not hasattr(batches, "__len__") or not len(batches):
        got = "none" if hasattr(batches, "__len__") else f"{type(batches).__name__} without len()"
        raise InputError(message("Trainer.fit", "at least one batch", got, "See train.Batches"))
    return len(batches)


def on_device(batch: Any, device: torch.device) -> Any:
    """The batch on a device.

    Raises:
        InputError: it has no `.to`.
    """
    if not hasattr(batch, "to"):
        raise InputError(
            message("Trainer.fit", "batches with .to(device)", type(batch).__name__,
                    "Wrap tensors in a dataclass with that method")
        )  # fmt: skip
    return batch.to(device)


def copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that stay as they are now."""
    return {name: value.detach().clone() for name, value in weights.items()}


def follow(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """average ← d average + (1 − d) weights, in place; whole numbers are taken over."""
    for name, value in weights.items():
        if value.is_floating_point() or value.is_complex():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def shapes(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Shape and precision of named weights, in words."""
    return {f"tensor {name}": f"{tuple(v.shape)} {v.dtype}" for name, v in weights.items()}


def check_same(where: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise `InputError` at the first difference between a stored run and this one."""
    for name in [*ours, *theirs]:
        if theirs.get(name) != ours.get(name):
            raise InputError(
                f"{where}: expected the run that the folder holds, with {name} = "
                f"{theirs.get(name, 'nothing')}; got {ours.get(name, 'nothing')}. Go on with the "
                "same, or choose another folder."
            )


class Objective(nn.Module):
    """Named scalars of a batch, as a module: DistributedDataParallel wraps the whole loss, so the loss
    sees the model itself and may call any of its methods."""

    def __init__(self, model: nn.Module, loss: Any) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        value = self.loss(self.model, batch, generator)
        terms = dict(value) if isinstance(value, Mapping) else {"loss": value}
        loss = terms.get("loss")
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = loss if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(
                message("Trainer.fit", 'a scalar tensor, or a dictionary with one as "loss"',
                        got if "loss" in terms else f"keys {', '.join(terms)}",
                        "Correct what loss returns")
            )  # fmt: skip
        return {"loss": loss.reshape(())} | {k: v for k, v in terms.items() if k != "loss"}


class Processes:
    """Processes that train together, as torchrun starts them; otherwise one, and nothing happens.

    Args:
        model: moves to the device of this process where it is on CUDA.
    """

    def __init__(self, model: nn.Module) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
        self.rank = int(os.environ["RANK"]) if self.count > 1 else 0
        self.device = next(model.parameters()).device
        if self.count == 1:
            return
        import torch.distributed as dist

        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
            model.to(self.device)
        if not dist.is_initialized():
            import atexit

            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, whose gradients become means over processes."""
        if self.count == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(module)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.count > 1:
            import torch.distributed as dist

            dist.all_reduce(values)
        return values

    def from_first(self, value: Any) -> Any:
        """What the first process has."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


class Interrupt:
    """Ctrl-C that waits for the end of an update; a second one, a second later, does not wait.

    Only signals that would raise KeyboardInterrupt are held back.

    Args:
        always: hold back until the loop asks, since processes must stop after the same update; then
            SIGTERM counts as well, which is what torchrun sends.
    """

    def __init__(self, always: bool) -> None:
        self.always, self.busy, self.since = always, False, math.inf
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                ends = before is signal.default_int_handler
                if ends or (self.always and number == signal.SIGTERM):
                    self.before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self.before.items():
            signal.signal(number, before)

    @property
    def heard(self) -> bool:
        """Whether somebody wants to stop."""
        return self.since < math.inf

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A block that is not broken off; KeyboardInterrupt comes after it."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False
        if self.heard and not self.always:
            raise KeyboardInterrupt

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again = time.monotonic() - self.since > 1.0
        self.since = min(self.since, time.monotonic())
        if again or not (self.busy or self.always):
            raise KeyboardInterrupt


class Log:
    """`metrics.jsonl`, one JSON object per line, and the same numbers for TensorBoard.

    Args:
        folder: folder of the run, None to write nothing.
        update: rows after this update are cut, those of a run that was broken off.
        tensorboard: write events to `tensorboard/` too.
    """

    def __init__(self, folder: Path | None, update: int, tensorboard: bool) -> None:
        self.stream: Metrics | None = None
        self.writer: Any = None
        if folder is None:
            return
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "Trainer: expected the package tensorboard; got none. "
                    'pip install "rheograd[tensorboard]".'
                ) from error
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1)
        self.stream = Metrics(folder / "metrics.jsonl", keep=lambda row: row["update"] <= update)

    def add(self, update: int, values: Mapping[str, float]) -> None:
        """One row; numbers that are not finite become null."""
        if self.stream is not None:
            self.stream.add(update=update, **values)
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, update)

    def close(self) -> None:
        for part in (self.stream, self.writer):
            if part is not None:
                part.close()
