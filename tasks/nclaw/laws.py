"""Laws that are compared: networks and how each is trained, opponents and oracles; saved and loaded.

| method | law | learns from |
|---|---|---|
| nclaw | the paper's two networks, output scale of 10 kPa | positions, through the simulator |
| isotropic | isotropic stress, return map | positions |
| energy | learned energy, return map: no work from nothing, no growth by flow | positions |
| spline, neural | elastic laws of earlier work, no flow | positions |
| labeled | as nclaw | true stress and flow on every fifth frame: an oracle |
| labeled-isotropic | as isotropic | the same |
| warm | as nclaw | labels on every tenth frame, then positions |
| identified | true class, parameters started far off | positions: an oracle |
| blind | von Mises solid, whatever the material is | positions |
| untrained | as nclaw, at its start | nothing |

Source: Ma et al. 2023 (NCLaw), §4.1 (baselines and oracles); isotropic, energy and warm are ours.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...assets import weights
from ...operators.nclaw import (
    NeuralElastic,
    NeuralHyperelastic,
    NeuralIsotropic,
    NeuralPlastic,
    NeuralReturn,
    SplineElastic,
    StretchElastic,
    neural_law,
)
from ...operators.nclaw.data import MATERIALS
from ...sim.core.errors import InputError
from ...sim.core.laws import PLASTICINE, Law, TorchLaw
from ...sim.io.checkpoint import load_checkpoint

__all__ = ["METHODS", "Method", "classical_law", "load_law", "make_law"]

Networks = tuple[nn.Module, nn.Module | None]
Source = Literal["motion", "labels", "labels then motion", "classical", "nothing"]


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to a law."""

    learns_from: Source
    """What the training sees."""
    networks: Callable[[torch.Generator], Networks] | None = None
    """Elastic and plastic network from a generator of weights; None: an analytic law."""


def _paper(generator: torch.Generator) -> Networks:
    elastic = NeuralElastic(scale=1e4, generator=generator)
    return elastic, NeuralPlastic(gain=0.01, generator=generator)


def _labeled(generator: torch.Generator) -> Networks:
    return NeuralElastic(scale=1e5, generator=generator), NeuralPlastic(generator=generator)


def _isotropic(generator: torch.Generator) -> Networks:
    return NeuralIsotropic(generator=generator), NeuralReturn(generator=generator)


def _energy(generator: torch.Generator) -> Networks:
    return NeuralHyperelastic(generator=generator), NeuralReturn(generator=generator)


METHODS: dict[str, Method] = {
    "nclaw": Method("motion", _paper),
    "isotropic": Method("motion", _isotropic),
    "energy": Method("motion", _energy),
    "spline": Method("motion", lambda generator: (SplineElastic(), None)),
    "neural": Method("motion", lambda generator: (StretchElastic(generator=generator), None)),
    "labeled": Method("labels", _labeled),
    "labeled-isotropic": Method("labels", _isotropic),
    "warm": Method("labels then motion", _labeled),
    "identified": Method("classical"),
    "blind": Method("classical"),
    "untrained": Method("nothing", _paper),
}
"""All methods by name."""


def make_law(method: str, seed: int = 0) -> TorchLaw:
    """The untrained law of a method with networks.

    Raises:
        InputError: a method without networks.
    """
    networks = method_of(method).networks
    if networks is None:
        raise InputError(
            f"make_law: a method with networks; got {method!r}. Use classical_law for it."
        )
    return neural_law(*networks(torch.Generator().manual_seed(seed)))


def classical_law(method: str, material: str, values: Mapping[str, float] | None = None) -> Law:
    """The analytic law of "identified" (true class) or "blind" (von Mises) with parameters.

    Raises:
        InputError: another method.
    """
    if method_of(method).learns_from != "classical":
        raise InputError(
            f"classical_law: identified or blind; got {method!r}. Use make_law for it."
        )
    law = MATERIALS[material] if method == "identified" else PLASTICINE
    return dataclasses.replace(law, **(values or {}))


def method_of(name: str) -> Method:
    """The method of a name."""
    if name not in METHODS:
        raise InputError(f"A method out of {sorted(METHODS)}; got {name!r}. Correct the name.")
    return METHODS[name]


def law_tensors(law: Law, values: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """What a checkpoint of a law holds: weights by part, or fitted parameters."""
    if values is not None:
        return {f"value.{k}": torch.tensor(v, dtype=torch.float64) for k, v in values.items()}
    parts = {n: getattr(law, n, None) for n in ("elastic", "plastic")}
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        if isinstance(module, nn.Module)
        for name, tensor in module.state_dict().items()
    }


def load_law(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Law:
    """A trained law from a checkpoint of `train_law` or of `rheograd train`.

    Args:
        path: safetensors file, the folder of a run of `rheograd train`, or the name of a law that
            ships (`rheograd.assets.weights_names("laws")`).
        device: device of its weights.

    Raises:
        InputError: a checkpoint of something else.
        FileNotFoundError: no such file.
    """
    path = _file(path)
    checkpoint = load_checkpoint(path)
    config: dict[str, Any] = checkpoint.config
    if "method" in config:
        if method_of(config["method"]).learns_from == "classical":
            names = [name for name in checkpoint.tensors if name.startswith("value.")]
            values = {n.removeprefix("value."): float(checkpoint.tensors[n]) for n in names}
            return classical_law(config["method"], config["material"], values)
        law = make_law(config["method"], config["seed"])
    elif config.get("system") == "nclaw":
        from ..runs.configs import from_dict
        from ..runs.learning import make_networks
        from ..runs.learning_config import NclawConfig

        law = make_networks(from_dict(NclawConfig, config, str(path)))
    else:
        raise InputError(
            f"load_law({path}): a checkpoint of a constitutive law; got a configuration with "
            f"{sorted(config)}. Train one with `rheograd train nclaw`."
        )
    load_weights(law, checkpoint.tensors)
    for module in (law.elastic, law.plastic):
        if isinstance(module, nn.Module):
            module.to(device)
    return law


def trained_on(path: str | os.PathLike[str]) -> str:
    """The material of a checkpoint that `load_law` reads.

    Raises:
        InputError: a checkpoint of something else.
        FileNotFoundError: no such file.
    """
    config = load_checkpoint(_file(path)).config
    if config.get("material") not in MATERIALS:
        raise InputError(
            f"trained_on({path}): a checkpoint of a constitutive law; got a configuration with "
            f"{sorted(config)}. Train one with `rheograd train nclaw`."
        )
    return str(config["material"])


def _file(path: str | os.PathLike[str]) -> Path:
    """The checkpoint of a run folder, the file itself, or what ships under the name."""
    path = weights("laws", path)
    return path / "checkpoint.safetensors" if path.is_dir() else path


def load_weights(law: TorchLaw, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `law_tensors` into the networks of a law."""
    for part in ("elastic", "plastic"):
        module = getattr(law, part)
        if isinstance(module, nn.Module):
            prefix = f"{part}."
            chosen = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            module.load_state_dict(chosen)
