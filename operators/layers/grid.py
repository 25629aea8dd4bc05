"""What operators on regular grids share: units, checks at the border, files, and how they are trained."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...assets import shipped, weights_names
from ...sim.core.errors import InputError, message
from ...sim.io.checkpoint import load_checkpoint, save_checkpoint
from .norms import relative_l2

__all__ = ["GridOperator", "cell_positions", "load_operator", "operator_names"]

SHIPPED = ("fno", "t1")
"""Kinds of operators whose weights ship."""

OFFSETS = {"cells": 0.5, "points": 0.0}
"""Where samples sit in their cells: x_j = (j + offset)/n on a domain of length 1."""


def cell_positions(n: int, sampling: str = "cells", **options: Any) -> Tensor:
    """Positions x_j of n samples of the unit interval, (n,).

    Args:
        n: number of samples.
        sampling: "cells": centres (j + ½)/n; "points": j/n, as pseudo-spectral solvers have them.
        options: dtype and device.
    """
    return (torch.arange(n, **options) + OFFSETS[sampling]) / n


class GridOperator(nn.Module):
    """Operator on fields, (B, C, *cells) → (B, C_out, *cells), in the units of the data:

        y = μ_y + σ_y · field((x − μ_x)/σ_x),    one μ and σ per channel

    A subclass gives `field`, which sees and returns normalized fields. Scales are 0 and 1 until
    `fit_scales`. State dicts hold tensors only; `save` writes the configuration beside them.

    Args:
        config: frozen dataclass of JSON values with `in_channels` and `out_channels`.
        dim: number of grid axes D; default one for each of `config.n_modes`.
    """

    center_input = center_output = True
    """Whether means are subtracted; not where functions vanish at a wall."""
    config_type: type
    """Class of the configuration, set by subclasses."""

    def __init__(self, config: Any, dim: int | None = None) -> None:
        super().__init__()
        dim = len(config.n_modes) if dim is None else dim
        self.config, self.dim = config, dim
        for side, channels in (("input", config.in_channels), ("output", config.out_channels)):
            shape = (channels, *[1] * dim)
            self.register_buffer(f"{side}_mean", torch.zeros(shape))
            self.register_buffer(f"{side}_std", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Fields (B, C, *cells) → (B, C_out, *cells). Differentiable in x and the weights.

        Raises:
            InputError: fields of another shape or precision, not finite, or on too coarse a grid.
        """
        self.check(x)
        y = self.field((x - self.input_mean) / self.input_std)
        return y * self.output_std + self.output_mean

    def field(self, x: Tensor) -> Tensor:
        """Normalized input fields → normalized output fields."""
        raise NotImplementedError

    def check(self, x: Tensor, channels: int | None = None) -> None:
        """Raise what `forward` documents."""
        name, c = type(self).__name__, self.config.in_channels if channels is None else channels
        cells = "×".join(["n"] * self.dim)
        if x.ndim != self.dim + 2 or x.shape[1] != c:
            raise InputError(
                f"{name}: expected fields (B, {c}, {cells}); got {tuple(x.shape)}. Give {c} "
                f"channel{'s' if c > 1 else ''} on {self.dim} axes, or build the model for these data."
            )
        if x.dtype != self.input_mean.dtype:
            raise InputError(
                f"{name}: expected fields in {self.input_mean.dtype}, as the weights; got {x.dtype}. "
                "Convert with x.to(dtype) or model.to(dtype)."
            )
        if not bool(torch.isfinite(x.detach().sum())) and not bool(torch.isfinite(x).all()):
            bad = ~torch.isfinite(x)
            first = tuple(bad.nonzero()[0].tolist())
            raise InputError(
                f"{name}: expected finite fields; got {int(bad.sum())} values that are not, the first "
                f"at {first}. Remove sample {first[0]} or repair channel {first[1]}."
            )

    def fit_scales(self, x: Tensor, y: Tensor) -> None:
        """Take mean and standard deviation of each channel from training data.

        Args:
            x: inputs (S, C, *cells).
            y: targets (S, C_out, *cells).
        """
        for side, data, center in (
            ("input", x, self.center_input), ("output", y, self.center_output),
        ):  # fmt: skip
            axes = [0, *range(2, self.dim + 2)]
            mean = data.mean(axes, keepdim=True)[0]
            if not center:
                mean = torch.zeros_like(mean)
            std = (data - mean).square().mean(axes, keepdim=True)[0].sqrt()
            std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)  # a channel that does not vary
            getattr(self, f"{side}_mean").copy_(mean)
            getattr(self, f"{side}_std").copy_(std)

    def training_data(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What training reads in place of fields, sample by sample; here the fields themselves."""
        return {"x": x, "y": y}

    def relative_error(self, batch: Mapping[str, Tensor]) -> Tensor:
        """‖ŷ − y‖₂/‖y‖₂ of each sample and channel in the units of the data, (B, C_out).

        Args:
            batch: rows of what `training_data` gave.
        """
        return relative_l2(self(batch["x"]), batch["y"])

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> GridOperator:
        """A new operator from the fields of its configuration."""
        return cls(cls.config_type(**values))

    def description(self) -> dict[str, Any]:
        """Class and configuration, as JSON values."""
        cls = type(self)
        place = f"{cls.__module__.partition('.operators.')[2]}:{cls.__name__}"
        return {"operator": place, **dataclasses.asdict(self.config)}

    def save(self, path: str | os.PathLike[str], half: bool = False) -> Path:
        """Write weights, scales and configuration to one file for `load_operator`.

        Args:
            path: the file.
            half: whether weights are kept in float16, for half the size; scales never are.
        """
        small = {name for name, _ in self.named_parameters()} if half else set()
        tensors = {n: t.half() if n in small else t for n, t in self.state_dict().items()}
        return save_checkpoint(path, tensors, self.description())


def named_class(place: str, base: type) -> Any:
    """Class that a file names as "package.module:Name" below `operators`; None where there is no such
    subclass of `base`."""
    found: Any = None
    if re.fullmatch(r"[a-z]\w*(\.[a-z]\w*)*:[A-Z]\w*", place):
        module, _, name = place.partition(":")
        try:
            found = getattr(importlib.import_module(f"..{module}", __package__), name, None)
        except ModuleNotFoundError:
            pass
    return found if isinstance(found, type) and issubclass(found, base) else None


def operator_names() -> list[str]:
    """Names of the operators that ship."""
    return [f"{kind}/{name}" for kind in SHIPPED for name in weights_names(kind)]


def load_operator(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> GridOperator:
    """Operator from a file of `GridOperator.save`, from a training run, or one that ships.

    Args:
        path: the file, nothing in it is executed; the folder of a run, for its `model.safetensors`; or a
            name of `operator_names`, such as "t1/flow-64".
        device: where the operator lives.

    Raises:
        FileNotFoundError: neither; names what ships.
        InputError: the file holds something else.
    """
    kind, _, name = str(path).partition("/")
    if (Path(path) / "model.safetensors").is_file():
        path = Path(path) / "model.safetensors"
    if not Path(path).is_file():
        if name not in (weights_names(kind) if kind in SHIPPED else ()):
            raise FileNotFoundError(
                f"load_operator: expected a file, or a shipped name out of "
                f"{', '.join(operator_names())}; got {path}, which is neither. Check the path."
            )
        path = shipped(kind, name)
    stored = load_checkpoint(path, device=device)
    config = dict(stored.config)
    place = str(config.pop("operator", ""))
    cls = named_class(place, GridOperator)
    if cls is None:
        raise InputError(
            message(f"load_operator: {path}", "an operator on grids", place or "no operator",
                    "Load it with what wrote it")
        )  # fmt: skip
    model = cls.from_config(config)
    first = stored.tensors["input_mean"]
    model.to(device=device, dtype=first.dtype)
    load_checkpoint(path, model, device=device)
    return model.eval()
