"""Checkpoints of trained parts: safetensors with their configuration, replaced whole or not at all.

`name.safetensors` holds the tensors and, as metadata, the version of rheograd, the configuration
and the name of the optimizer's file, `name.<token>.optimizer.pt`. That file is written first; the
checkpoint counts when the safetensors file has moved to its place. Ctrl-C, a kill or a full disk at
any moment leaves the checkpoint before, with its own optimizer state.
"""

from __future__ import annotations

import json
import os
import pickle
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ... import __version__
from ..core.errors import InputError, RheogradError

__all__ = ["Checkpoint", "CheckpointError", "load_checkpoint", "save_checkpoint"]


class CheckpointError(RheogradError, OSError):
    """A checkpoint that cannot be written, or cannot be read as it is."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    tensors: dict[str, Tensor]
    """Tensors by name, on the CPU unless another device was asked for."""
    config: dict[str, Any]
    """Configuration given when it was saved."""
    version: str
    """Version of rheograd that saved it."""
    optimizer_state: dict[str, Any] | None
    """State of the optimizer, None if it was saved without."""


def save_checkpoint(
    path: str | os.PathLike[str],
    module_or_tensors: nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    optimizer: torch.optim.Optimizer | Mapping[str, Any] | None = None,
) -> Path:
    """Save a module or named tensors with their configuration.

    Args:
        path: File to write, usually `*.safetensors`; replaced if it exists.
        module_or_tensors: Module, of which the `state_dict` is saved, or name to tensor.
        config: What is needed to build the module again, as JSON values.
        optimizer: Optimizer, or its `state_dict`, to go on training.

    Returns:
        `path`.

    Raises:
        TypeError: something other than tensors to save.
        InputError: a configuration that is not JSON.
        CheckpointError: the disk refused the file; an earlier checkpoint at `path` is untouched.
    """
    path = Path(path)
    try:
        text = json.dumps(dict(config or {}))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"save_checkpoint: expected config of JSON values; got {error}. Convert tensors and "
            "paths to numbers, lists and strings."
        ) from error
    tensors = _flat(module_or_tensors)
    metadata = {"rheograd": __version__, "config": text}
    state = optimizer.state_dict() if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    token = secrets.token_hex(4)
    companion = path.with_name(f"{path.stem}.{token}.optimizer.pt")
    if state is not None:
        metadata["optimizer"] = companion.name
    part = path.with_name(f".{path.name}.{token}.part")
    done = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if state is not None:
            with open(companion, "xb") as stream:
                torch.save(dict(state), stream)
                _to_disk(stream)
        with open(part, "xb") as stream:
            stream.write(to_bytes(tensors, metadata))
            _to_disk(stream)
        os.replace(part, path)
        done = True
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"save_checkpoint: {path}: expected a writable disk with room; got {error}. Free "
            "space or choose another folder; an earlier checkpoint of this name is untouched."
        ) from error
    finally:
        if not done:
            part.unlink(missing_ok=True)
            companion.unlink(missing_ok=True)
    for stale in path.parent.glob(f"{_escaped(path.stem)}.{'[0-9a-f]' * 8}.optimizer.pt"):
        if stale != companion:
            stale.unlink(missing_ok=True)
    return path


def load_checkpoint(
    path: str | os.PathLike[str],
    module: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """Load a checkpoint, and put it into a module and an optimizer if they are given.

    Args:
        path: File written by `save_checkpoint`.
        module: Receives the tensors, cast to its own precision and device.
        optimizer: Receives the optimizer's state.
        device: Where the returned tensors live.

    Returns:
        Tensors, configuration, version and optimizer state.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is no checkpoint, was cut, or has no optimizer state to give.
        InputError: names or shapes differ from those of `module`; nothing has been loaded then.
    """
    path = Path(path)
    where = f"load_checkpoint: {path}"
    if not path.is_file():
        raise FileNotFoundError(f"{where}: expected an existing file; got none. Check the path.")
    try:
        with safe_open(path, framework="pt", device=str(device)) as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{where}: expected a whole safetensors file; got {path.stat().st_size} bytes, "
            f"{error}. Copy it again from its source, or use an earlier checkpoint."
        ) from error
    if "rheograd" not in metadata or "config" not in metadata:
        raise CheckpointError(
            f"{where}: expected a checkpoint of save_checkpoint; got a safetensors file of other "
            "origin. Read it with safetensors.torch.load_file."
        )
    state = _optimizer_state(path, metadata.get("optimizer"), device)
    if module is not None:
        _check_match(where, tensors, module)
    if optimizer is not None and state is None:
        raise CheckpointError(
            f"{where}: expected an optimizer state; got a checkpoint saved without one. Load it "
            "without optimizer=, or save with it."
        )
    if module is not None:
        module.load_state_dict(tensors)
    if optimizer is not None:
        optimizer.load_state_dict(state)
    return Checkpoint(
        tensors=tensors,
        config=json.loads(metadata["config"]),
        version=metadata["rheograd"],
        optimizer_state=state,
    )


def _flat(source: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Independent contiguous copies by name: safetensors refuses tensors that share memory."""
    named = source.state_dict() if isinstance(source, nn.Module) else source
    seen: set[int] = set()
    out = {}
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"save_checkpoint: expected tensors; got {type(value).__name__} for {name!r}. Put "
                "plain values into config."
            )
        value = value.detach().contiguous()
        storage = value.untyped_storage().data_ptr()
        out[name] = value.clone() if storage in seen else value
        seen.add(storage)
    return out


def _optimizer_state(
    path: Path, name: str | None, device: str | torch.device
) -> dict[str, Any] | None:
    if name is None:
        return None
    companion = path.with_name(name)
    where = f"load_checkpoint: {companion}"
    if not companion.is_file():
        raise CheckpointError(
            f"{where}: expected the optimizer state next to the checkpoint; got no file. Copy "
            "both files."
        )
    try:
        return torch.load(companion, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise CheckpointError(
            f"{where}: expected a whole optimizer state; got {companion.stat().st_size} bytes, "
            f"{error}. Copy it again from its source, or use an earlier checkpoint."
        ) from error


def _check_match(where: str, tensors: Mapping[str, Tensor], module: nn.Module) -> None:
    wanted = module.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in tensors]
    faults += [f"{name} is not in the module" for name in tensors if name not in wanted]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if faults:
        raise InputError(
            f"{where}: expected the tensors of {type(module).__name__}; got {'; '.join(faults[:8])}"
            f"{' and more' if len(faults) > 8 else ''}. Build the module from the checkpoint's "
            "config: load_checkpoint(path).config."
        )


def _to_disk(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _escaped(stem: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in stem)
