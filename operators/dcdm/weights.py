"""Trained networks: files of half precision with the settings that make the network again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ...assets import weights, weights_names
from ...sim.core.errors import InputError, message
from ...sim.io.checkpoint import load_checkpoint, save_checkpoint
from .linear import LinearMultigrid
from .networks import DCDMNet, DirectionNet
from .symmetric import SymmetricMultigrid

__all__ = ["KINDS", "load_net", "net_names", "save_net"]

KINDS: dict[str, type[DirectionNet]] = {
    "dcdm": DCDMNet,
    "linear": LinearMultigrid,
    "symmetric": SymmetricMultigrid,
}


def net_names() -> list[str]:
    """Names of the networks that ship."""
    return weights_names("dcdm")


def save_net(path: str | os.PathLike[str], net: DirectionNet) -> Path:
    """Save a network; one of more than 10 000 weights in float16, to keep files small."""
    kind = next((name for name, cls in KINDS.items() if type(net) is cls), None)
    if kind is None:
        expected = f"a network out of {sorted(cls.__name__ for cls in KINDS.values())}"
        fix = "Save its state_dict yourself"
        raise InputError(message("save_net", expected, type(net).__name__, fix))
    half = net.parameter_count() > 10_000
    tensors = {n: t.half() if half else t for n, t in net.state_dict().items()}
    tensors = {n: t.contiguous() for n, t in tensors.items()}
    config: dict[str, Any] = {"system": "dcdm", "kind": kind, "settings": net.settings}
    return save_checkpoint(path, tensors, config)


def load_net(name: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> DirectionNet:
    """A network from a file of `save_net`, or one of `net_names`.

    Raises:
        FileNotFoundError: neither.
        InputError: a checkpoint of something else.
    """
    saved = load_checkpoint(weights("dcdm", name))
    config = saved.config
    if config.get("system") != "dcdm":
        got = f"a configuration with {sorted(config)}"
        raise InputError(message(f"load_net({name})", "a checkpoint of save_net", got))
    net = KINDS[config["kind"]](**config["settings"])
    net.load_state_dict({n: t.float() for n, t in saved.tensors.items()})
    return net.to(dtype).eval()
