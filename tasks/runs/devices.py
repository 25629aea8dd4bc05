"""The device of a run, checked before anything is written."""

from __future__ import annotations

import torch

from .configs import UsageError

__all__ = ["require_device"]


def require_device(command: str, device: str) -> None:
    """Raise `UsageError` unless the device is cpu or a CUDA device that torch can use."""
    if device == "cpu" or (device.split(":")[0] == "cuda" and torch.cuda.is_available()):
        return
    why = "no CUDA device" if torch.version.cuda else "a torch without CUDA"
    raise UsageError(
        f"{command}: --device cpu, or cuda where there is one; got {device!r} and {why}. "
        "Use --device cpu."
    )
